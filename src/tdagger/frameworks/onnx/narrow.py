"""Operators that integers of 4 and 2 bits may go into, which are tensors of 8 bits here.

The entries are the same; what an operator computes of them isn't, where it wraps round or saturates.
"""

from __future__ import annotations

#: Operators that move entries: their first result has as few bits as their first input.
KEEPS = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
#: Operators that read the entries as numbers, and the inputs that do: their results have types of their own.
TAKES: dict[str, tuple[int, ...]] = {
    "Cast": (0,),
    "DequantizeLinear": (0, 2),
    "GatherBlockQuantized": (0, 3),
    "Shape": (0,),
    "Size": (0,),
}
