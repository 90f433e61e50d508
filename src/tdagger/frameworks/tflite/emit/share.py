"""Operators that rows write beside their own (a pad before each of three convolutions of one image): one of each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tdagger.frameworks.tflite.emit.writer import Part, Tensor

#: They move entries, and have no options.
_MOVES = frozenset({"PAD", "PADV2", "SLICE", "TRANSPOSE"})


def share(part: Part, outputs: Collection[int]) -> None:
    """Take from the first of them what operators move from one tensor to the same places; ``outputs`` stay."""
    ends = set(outputs)
    first: dict[Any, int] = {}
    instead: dict[int, int] = {}
    for o in part.operators:
        o.inputs = [instead.get(i, i) for i in o.inputs]
        if o.name in _MOVES and o.outputs[0] not in ends:
            (number,) = o.outputs
            found = first.setdefault((o.name, *o.inputs, *_kind(part.tensors[number])), number)
            if found != number:
                instead[number] = found


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    """What a tensor's entries are."""
    q = tensor.steps
    steps = () if q is None else (q.scale.tobytes(), q.zero_point.tobytes(), q.axis, q.block)
    return tensor.type, tensor.kind, *steps
