"""Values that don't depend on the network's inputs and weights: sizes and settings written as tensors."""

from __future__ import annotations

from typing import Any, cast

from tdagger.graph import result_types
from tdagger.interpret import computed
from tdagger.op import Array, Value
from tdagger.ops.external import External
from tdagger.ops.source import Leaf

#: What is computed while importing has at most so many elements in all.
_ELEMENTS = 1 << 16


def number_of(value: Value) -> bool | int | float | complex | None:
    """The number that a value of one element is; None if it depends on inputs or weights, or takes much to know."""
    found = array_of_constant(value) if value.type.size == 1 else None
    if found is None:
        return None
    dtype = value.dtype
    kind = complex if dtype.is_complex else float if dtype.is_float else int if dtype.is_int else bool
    return kind(cast(Any, found.reshape(())))


def array_of_constant(value: Value, most: int = _ELEMENTS) -> Array | None:
    """What a value holds; None if it depends on inputs or weights, or takes more than ``most`` elements to know."""
    seen: set[Value] = set()
    stack, elements = [value], 0
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        elements += sum(t.size for t in result_types(at))
        if isinstance(at.op, Leaf | External) or elements > most:
            return None
        seen.add(at)
        stack.extend(at.args)
    return computed(value)
