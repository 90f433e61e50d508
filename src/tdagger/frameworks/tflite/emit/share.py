"""Operators that are written twice: one of each.

Rows write some beside their own (a pad before each of three convolutions of one image), and integers that are moved as
such and read moved are moved twice.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from tdagger.frameworks.tflite.emit.writer import Operator, Part, Tensor

#: They move entries, or read or round them.
_MOVES = frozenset({"CONCATENATION", "DEQUANTIZE", "PAD", "PADV2", "QUANTIZE", "RESHAPE", "SLICE", "TRANSPOSE"})


def share(part: Part, outputs: Collection[int]) -> None:
    """Take from the first of them what operators make of the same tensors in the same way; ``outputs`` stay."""
    ends, first, instead = set(outputs), dict[Any, int](), dict[int, int]()
    for o in part.operators:
        o.inputs = [instead.get(i, i) for i in o.inputs]
        if o.name in _MOVES and o.outputs[0] not in ends:
            (number,) = o.outputs
            found = first.setdefault((_way(o), _kind(part.tensors[number])), number)
            if found != number:
                instead[number] = found


def _way(o: Operator) -> tuple[Any, ...]:
    """What an operator does, and with what."""
    options = () if o.options is None else sorted(vars(o.options).items())
    plain = [(n, v.tobytes() if isinstance(v, np.ndarray) else v) for n, v in options]
    return o.name, *o.inputs, *plain


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    """What a tensor's entries are."""
    q = tensor.steps
    steps = () if q is None else (q.scale.tobytes(), q.zero_point.tobytes(), q.axis, q.block)
    return tensor.type, tensor.kind, *steps
