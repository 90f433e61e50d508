"""ONNX's operators that pick entries by indices, and put them. Indices below 0 count from the end."""

from __future__ import annotations

import math

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.indices import may_be_negative, non_negative, put_slice
from tdagger.frameworks.known import array_of_constant, number_of
from tdagger.frameworks.onnx.ops.table import Numbers, rule, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, put_along, scatter, take_along
from tdagger.ops.source import Const, Leaf, Parameter, const, iota
from tdagger.types import Shape

# --- reading -----------------------------------------------------------------------------------------------


@rule("Gather")
def _gather(data: Value, indices: Value, *, axis: int = 0) -> Value:
    axis = normal_axis(axis, data.rank)
    if not indices.rank:
        known = number_of(indices)
        if isinstance(known, int):
            return s.select(data, axis, known)
    if _takes_all(data, indices, axis):
        return _laid_out(data, axis, indices.shape)
    index = non_negative(indices, data, axis)
    if axis == 0 and data.rank == 2 and isinstance(data.op, Parameter):
        return lib.embedding(data, index)
    return gather(data, index, axis)


def _takes_all(data: Value, indices: Value, axis: int) -> bool:
    """Whether constants number all entries of an axis in their order, as files have what was counted. Not of tables."""
    n = data.shape[axis]
    if indices.type.size != n or n < 2 or isinstance(data.op, Leaf | Const):
        return False
    known = array_of_constant(indices)
    return known is not None and [i + n if i < 0 else i for i in known.reshape(-1).tolist()] == [*range(n)]


def _laid_out(data: Value, axis: int, shape: Shape) -> Value:
    """One axis as several; of those of size 1 ahead, the first is the one that may have been a batch."""
    ahead = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    if ahead < 2:
        return s.ungroup(data, axis, shape)
    apart = s.ungroup(data, axis, (1, *shape[ahead:]))
    return s.unsqueeze(apart, range(axis + 1, axis + ahead))


@rule("GatherElements")
def _gather_elements(data: Value, indices: Value, *, axis: int = 0) -> Value:
    axis = normal_axis(axis, data.rank)
    for i, n in enumerate(indices.shape):  # of the other axes only as much is read as the indices have
        if i != axis and n != data.shape[i]:
            data = s.slice_axis(data, i, 0, n)
    return take_along(data, non_negative(indices, data, axis), axis)


def _tuples(data: Value, indices: Value, batch: int) -> tuple[Value, Value]:
    """Data with the indexed axes grouped into one after the batch, and the index into it, of what holds tuples."""
    count = indices.shape[-1]
    if count > data.rank - batch:
        raise unsupported(f"its indices are of {count} axes, where {data.type} has {data.rank - batch}")
    if not count:  # tuples of nothing index all there is
        flat = s.unsqueeze(data, (batch,))
        return flat, e.cast(s.broadcast_to(const(0, "i64"), indices.shape[:-1]), indices.dtype)
    known, sizes = array_of_constant(indices), np.array(data.shape[batch : batch + count])
    if known is not None and ((known < -sizes) | (known >= sizes)).any():
        raise unsupported(f"it has an index that is out of range for the sizes {sizes.tolist()}")
    places = [s.select(indices, -1, i) for i in range(count)]
    if count == 1:
        return data, non_negative(places[0], data, batch)
    signed = tuple(may_be_negative(indices) for _ in places)
    index = lib.linear_index(data, *places, axis=batch, signed=signed)
    return s.group(data, [*(1,) * batch, count, *(1,) * (data.rank - batch - count)]), index


@rule("GatherND")
def gather_nd(data: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    """What is at the places that the index's last axis names."""
    flat, index = _tuples(data, indices, batch_dims)
    return gather(flat, index, batch_dims, batch_dims)


@rule("Compress")
def _compress(input: Value, condition: Numbers, *, axis: int | None = None) -> Value:
    """By a condition that is known; any other has a result whose shape depends on the data."""
    places = const(np.flatnonzero(condition), "i64")
    if axis is None:
        return gather(lib.reshape(input, shape=(-1,)), places, 0)
    return gather(input, places, normal_axis(axis, input.rank))


@rule("NonZero")
def _non_zero(X: Numbers) -> Value:
    """Of a tensor of rank 0 the result is (0, n), as ONNX says; onnxruntime's is (1, n)."""
    if not X.ndim:
        return const(np.zeros((0, int(X != 0))), "i64")
    return const(np.stack(np.nonzero(X)), "i64")


@rule("Unique")
def unique(X: Numbers, *, axis: int | None = None, sorted: int = 1) -> tuple[Value, ...]:
    """Of what is known; of data the shape of the result depends on it."""
    lines = X.reshape(-1) if axis is None else X
    found, first, inverse, counts = np.unique(
        lines, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        found = np.take(found, order, 0 if axis is None else axis)
        first, counts = first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return (const(found), *(const(a, "i64") for a in (first, inverse, counts)))


# --- putting -----------------------------------------------------------------------------------------------

#: How an update meets what is there, as ONNX and as ``scatter`` name it.
_KINDS = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _kind(reduction: str, x: Value) -> str:
    if reduction not in _KINDS:
        raise unsupported(f"its reduction is {reduction!r}, which is none of {', '.join(_KINDS)}")
    kind = _KINDS[reduction]
    return {"add": "max", "multiply": "min"}.get(kind, kind) if x.dtype.name == "bool" else kind


@rule("Scatter", "ScatterElements")
def _scatter_elements(data: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none") -> Value:
    axis = normal_axis(axis, data.rank)
    index = non_negative(indices, data, axis)
    return _put_part(data, index, updates, axis, _kind(reduction, data), 0)


def _put_part(data: Value, index: Value, updates: Value, axis: int, kind: str, at: int) -> Value:
    """Updates put along an axis, where the index has only the first entries of other axes: those from ``at`` on."""
    for i in range(at, data.rank):
        n = index.shape[i]
        if i != axis and n < data.shape[i]:
            part, rest = s.slice_axis(data, i, 0, n), s.slice_axis(data, i, n, None)
            return s.concat((_put_part(part, index, updates, axis, kind, i + 1), rest), i)
    return put_along(data, index, updates, axis, kind)


@rule("ScatterND")
def _scatter_nd(data: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    box = _box(data, indices) if reduction == "none" else None
    if box is not None:
        part = s.Slice(box).infer(data.type)
        return put_slice(s.Slice(box), data, lib.reshape(updates, shape=part.shape))
    flat, index = _tuples(data, indices, 0)
    return lib.reshape(scatter(flat, index, updates, 0, 0, _kind(reduction, data)), shape=data.shape)


#: What numbers a slice takes so many elements to know for each entry of the tensor, at most so many in all.
_AT_ONCE, _MOST = 32, 1 << 24


def _box(data: Value, indices: Value) -> tuple[tuple[int, int, int] | None, ...] | None:
    """The slice of every dimension (None: all of it) that tuples which are known number in order; None if they don't.

    Exporters write an assignment to a slice, ``x[..., :2] = y``, as the numbers of all its entries.
    """
    if not 0 < indices.shape[-1] <= data.rank or not 0 < indices.type.size <= data.rank * data.type.size:
        return None
    known = array_of_constant(indices, most=min(_AT_ONCE * data.type.size, _MOST))
    if known is None:
        return None
    tuples = known.reshape(-1, known.shape[-1]).astype(np.int64)
    sizes = data.shape[: tuples.shape[1]]
    tuples = np.where(tuples < 0, tuples + np.array(sizes), tuples)
    lines: list[range] = []
    for column, n in zip(tuples.T, sizes, strict=True):
        first, last = int(column.min()), int(column.max())
        inside = column[column > first]
        step = int(inside.min()) - first if inside.size else 1
        lines.append(range(first, last + 1, step))
        if not 0 <= first <= last < n or (last - first) % step:
            return None
    if math.prod([len(line) for line in lines]) != len(tuples):
        return None
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(tuples.shape)
    if not np.array_equal(grid, tuples):
        return None
    bounds = [
        None if line == range(n) else (line.start, line.stop, line.step) for line, n in zip(lines, sizes, strict=True)
    ]
    return (*bounds, *[None] * (data.rank - len(sizes)))


@rule("TensorScatter")
def _tensor_scatter(
    past_cache: Value, update: Value, write_indices: Value | None = None, *, axis: int = -2, mode: str = "linear"
) -> Value:
    axis = normal_axis(axis, past_cache.rank)
    places = s.unsqueeze(iota(update.shape[axis]), (0,))
    if write_indices is not None:
        places = places + s.unsqueeze(e.cast(write_indices, "i64"), (1,))
    if mode == "circular":
        places = e.mod(places, past_cache.shape[axis])
    elif mode != "linear":
        raise unsupported(f"its mode is {mode!r}, which isn't linear or circular")
    places = s.broadcast_to(places, (update.shape[0], update.shape[axis]))
    return scatter(past_cache, places, update, axis, 1)


@rule("OneHot")
def _one_hot(indices: Value, depth: Numbers, values: Value, *, axis: int = -1) -> Value:
    classes = int(depth.reshape(-1)[0])
    axis = normal_axis(axis, indices.rank + 1)
    place = e.cast(indices, "i64")
    if may_be_negative(place):
        place = e.where(place < 0, place + classes, place)
    line = s.unsqueeze(iota(classes), [i for i in range(indices.rank + 1) if i != axis])
    hit = e.equal(s.unsqueeze(place, (axis,)), line)  # not one_hot: torch's refuses what is out of range
    off, on = (s.select(values, 0, i) for i in range(2))
    if (number_of(off), number_of(on)) == (0, 1):
        return e.cast(hit, values.dtype)
    return e.where(hit, on, off)
