"""Operators that tensors may go into whose element type is held in another one (:data:`tensors.HELD`).

The numbers are the same; what an operator computes of them isn't, where it rounds, wraps round or saturates. A rule
that takes ``types`` knows of them by itself.
"""

from __future__ import annotations

#: Operators that move entries, or make some of the type of an input: their first result has the type of which input.
CARRIES = {
    **dict.fromkeys(
        ("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Slice",
         "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"), 0,
    ),
    "CastLike": 1,
    "QuantizeLinear": 2,
}  # fmt: skip
#: Operators that read entries as numbers, or no entries: their results have types of their own.
READS = frozenset({"Cast", "DequantizeLinear", "GatherBlockQuantized", "Shape", "Size", "ConstantOfShape"})
