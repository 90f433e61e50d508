"""Whether a composite has a body that was made by removing entries, up to numbers that were made of sizes."""

from __future__ import annotations

from typing import Any, cast

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.source import Const
from tdagger.ops.structure import Group, Repeat, Ungroup
from tdagger.types import DType, TensorType


def unlike(one: Graph, other: Graph) -> list[tuple[float, float]] | None:
    """The numbers that differ in two graphs that are the same otherwise; None if more differs.

    Dimensions of size 1 may come and go by other ops: which of them is which says nothing of the entries.
    """
    if list(one.outputs) != list(other.outputs):
        return None
    pair: dict[Value, Value] = {}
    found: list[tuple[float, float]] = []
    stack = list(zip(one.outputs.values(), other.outputs.values(), strict=True))
    while stack:
        x, y = stack.pop()
        if x.type != y.type:
            return None
        x, y = _under_ones(x), _under_ones(y)
        if x in pair:
            if pair[x] is not y:
                return None
            continue
        pair[x] = y
        if x.type != y.type or len(x.args) != len(y.args):
            return None
        if x.op is not y.op and not _same_repeat(x, y):
            if not (isinstance(x.op, Const) and isinstance(y.op, Const)) or x.type.size != 1:
                return None
            found.append((x.op.data.item(), y.op.data.item()))
        stack += zip(x.args, y.args, strict=True)
    return found


def _under_ones(value: Value) -> Value:
    """What a value is with dimensions of size 1 elsewhere."""
    while isinstance(value.op, Group | Ungroup | Repeat):
        inner = value.args[0]
        if [n for n in inner.shape if n != 1] != [n for n in value.shape if n != 1]:
            return value
        value = inner
    return value


def _same_repeat(x: Value, y: Value) -> bool:
    if not (isinstance(x.op, Repeat) and isinstance(y.op, Repeat)):
        return False
    return [n or 1 for n in x.op.sizes] == [n or 1 for n in y.op.sizes]


def scalars(graph: Graph) -> list[float]:
    """The single numbers in a graph."""
    return [v.op.data.item() for v in graph.values if isinstance(v.op, Const) and v.type.size == 1 and v.dtype.is_float]


def exactly(op: Composite, value: Value, numbers: list[float]) -> list[float]:
    """Numbers of a composite's body as they are in double precision, so that it can be computed in that too."""
    types = [a.type for a in value.args]
    floats, f64 = {t.dtype.numpy for t in types if t.dtype.is_float}, DType.of("f64")
    try:
        body = op.body(*[t.with_dtype(f64) if t.dtype.is_float else t for t in types])
    except (AttributeValueError, TypeMismatchError):  # it takes no such types
        return numbers
    wide = [
        v.op.data for v in body.values if isinstance(v.op, Const) and v.type.size == 1 and v.dtype is DType.of("f64")
    ]
    return [next((w.item() for w in wide if any(w.astype(f).item() == n for f in floats)), n) for n in numbers]


def with_numbers(op: Composite, numbers: list[float], body: Graph, types: tuple[TensorType, ...]) -> Composite | None:
    """The composite with one of the numbers for an attribute that has none, if that is what has the body."""
    attributes = op.attributes
    for name in [n for n, v in attributes.items() if v is None]:
        for number in numbers:
            try:
                found = cast(Any, type(op))(*{**attributes, name: float(number)}.values(), op.given)
                if unlike(body, found.body(*types)) == []:
                    return found
            except (AttributeValueError, TypeError, ValueError):
                continue
    return None
