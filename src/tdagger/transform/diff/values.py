"""What is asked of single values of two networks, and of what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.graph import Graph, flops, result_types
from tdagger.op import Array, Value
from tdagger.ops.source import Input, Leaf
from tdagger.ops.structure import Group, Permute, Ungroup
from tdagger.transform.diff.align import is_leaf
from tdagger.transform.diff.errors import distance
from tdagger.transform.diff.exact import wide

#: What a factor may leave of a difference that it stands for, relatively.
_MOST_LEFT = 0.1


def is_stored(value: Value) -> bool:
    """Whether a value is a parameter or buffer, however it is moved."""
    while isinstance(value.op, Group | Ungroup | Permute) or value.op.name == "reshape":
        value = value.args[0]
    return isinstance(value.op, Leaf) and not isinstance(value.op, Input)


def is_held_by_one(x: Value, y: Value) -> bool:
    """Whether one of two values is a weight, however it is moved, and the other is computed."""
    computed = y if is_stored(x) else x
    return is_stored(x) != is_stored(y) and flops(computed) > 0


def is_scaled(a: Any, b: Any) -> bool:
    """Whether all that two arrays differ by is a factor for each index of one of their axes."""
    if a.shape != b.shape:
        return False
    for axis in range(a.ndim):
        x, y = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (a, b))
        factor: Any = (x * y).sum(1) / np.maximum((x * x).sum(1), np.finfo(np.float64).tiny)
        if distance(x * factor[:, None], y) <= _MOST_LEFT * distance(x, y):
            return True
    return False


def is_whole(data: Array) -> bool:
    """Whether a constant holds whole numbers alone, which no float type rounds that they are written in."""
    exact: Any = wide(data)
    return exact.dtype.kind == "f" and bool((exact == np.rint(exact)).all())


def without_leaves(graph: Graph, kind: type[Leaf]) -> set[Value]:
    """The values that no leaf of a kind is behind."""
    found: set[Value] = set()
    for value in graph.values:
        if not isinstance(value.op, kind) and all(x in found for x in value.args):
            found.add(value)
    return found


def same_shapes(a: Value, b: Value) -> bool:
    """Whether the results of two values have the same shapes."""
    return [t.shape for t in result_types(a)] == [t.shape for t in result_types(b)]


def held_as(b: Value, array: Any) -> Any:
    """What a value of A holds as its partner in B holds it: integers, and what is true, as B's type of them."""
    if isinstance(b.type, tuple):
        return array
    whole = array.dtype.kind in "biu" and b.dtype.numpy.kind in "biu"
    return array.astype(b.dtype.numpy, copy=False) if whole else array


def without(values: Sequence[Value], partners: Mapping[Value, Value]) -> list[Value]:
    """What values are made of that has no partner, and they themselves, arguments first; no leaves."""
    found: dict[Value, None] = {}
    stack: list[tuple[Value, bool]] = [(v, False) for v in values]
    while stack:
        value, done = stack.pop()
        if done:
            found[value] = None
        elif value not in partners and value not in found and not is_leaf(value):
            stack.append((value, True))
            stack += [(x, False) for x in value.args]
    return list(found)
