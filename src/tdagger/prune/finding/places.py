"""What no data decides: the places that a gather takes entries at, or a scatter puts them, and tables of constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.graph import is_one
from tdagger.interpret import computed
from tdagger.op import Array, Value
from tdagger.ops.external import External
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import Const, Iota, Leaf, const, scalar
from tdagger.ops.structure import Repeat, broadcast_to


def places_of(value: Value) -> Array | None:
    """Where on its axis a gather or scatter takes or puts entries, the same for all of a batch: i64 ``[n]``.

    None if an input, a parameter or a buffer decides it, if places are out of range, and if they are more than a row.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 6))
    >>> places_of(td.gather(x, td.const([0, 5]), 1)).tolist(), places_of(td.gather(x, td.input("i", (2,), "i64"), 1))
    ([0, 5], None)
    """
    op = cast("Gather | Scatter", value.op)
    index = value.args[1]
    given = None if index.rank - op.batch > 1 else without_data(index)
    if given is None:
        return None
    rows = np.asarray(computed(given), np.int64)
    if not rows.size:
        return None
    rows = rows.reshape(-1, rows.shape[-1] if index.rank > op.batch else 1)
    if rows.min() < 0 or rows.max() >= value.args[0].shape[op.axis] or (rows != rows[0]).any():
        return None
    return rows[0]


def without_data(value: Value) -> Value | None:
    """The value made of constants alone, zeros for what only a shape is read of; None if it isn't."""
    new: dict[Value, Value] = {}
    stack = [value]
    while stack:
        v = stack[-1]
        shapes = shapes_alone(v)
        todo = [a for i, a in enumerate(v.args) if i not in shapes and a not in new] if v not in new else []
        if isinstance(v.op, Leaf | External) or (not v.args and not isinstance(v.op, Const | Iota)):
            return None
        if todo:
            stack += todo
            continue
        stack.pop()
        if v not in new:
            new[v] = cast(Any, v.op)(*[_zeros(a) if i in shapes else new[a] for i, a in enumerate(v.args)])
    return new[value]


def shapes_alone(value: Value) -> tuple[int, ...]:
    """The arguments of which a composite's body reads nothing but the shape."""
    op = value.op
    if not isinstance(op, Composite) or not all(map(is_one, (value, *value.args))):
        return ()
    key = (shapes_alone, tuple([a.type for a in value.args]))
    if key not in op.found:
        body = op.body(*[a.type for a in value.args])
        read = {*body.outputs.values(), *(a for v in body.values for a in v.args)}
        op.found[key] = tuple([i for i, x in enumerate(body.inputs.values()) if x not in read])
    return op.found[key]


def moved(places: Array, into: Array | None, taken: Array | None) -> Array:
    """The places of what is still taken or put, among the entries of the axis that stay.

    ``into`` marks those entries, ``taken`` which places stay; None if all do.

    >>> moved(np.array([0, 3, 1]), np.array([True, False, True, True]), np.array([True, True, False])).tolist()
    [0, 2]
    """
    left = places if taken is None else places[taken]
    return left if into is None else (np.cumsum(into) - 1)[left]


def is_written_out(value: Value, cut: Sequence[bool]) -> bool:
    """Whether what is left of something made of constants alone is a constant, where these dimensions lose entries.

    What is only repeated is repeated less; floats and complex numbers are picked, so that they stay as precise as they
    are computed.
    """
    while isinstance(value.op, Repeat):
        cut = [c and n is None for c, n in zip(cut, value.op.sizes, strict=True)]
        value = value.args[0]
    exact = not (value.dtype.is_float or value.dtype.is_complex)
    return any(cut) and (isinstance(value.op, Const) or exact)


def _zeros(value: Value) -> Value:
    return broadcast_to(const(scalar(0, value.dtype), value.dtype), value.shape)
