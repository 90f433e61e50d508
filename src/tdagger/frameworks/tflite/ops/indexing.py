"""TFLite's operators that pick entries by indices, and put them. Indices aren't counted from the end.

Runtimes refuse those out of range when they run; what is computed for them here isn't said.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.tflite.ops.table import Call, Int, Ints, Numbers, rule, unsupported
from tdagger.frameworks.tflite.quantized import dequantized
from tdagger.frameworks.tflite.schema import is_quantized
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, scan, scatter
from tdagger.ops.source import Const, Parameter, const, iota, scalar
from tdagger.types import DType


def _checked(index: Value, n: int) -> Value:
    """Indices that are known are within the axis."""
    if isinstance(index.op, Const) and index.op.data.size:
        low, high = int(index.op.data.min()), int(index.op.data.max())
        if low < 0 or high >= n:
            raise unsupported(f"its indices are from {low} to {high}, where an axis has {n} entries")
    return index


@rule("GATHER", raw=True)
def _gather(x: Value, indices: Value, *, axis: int = 0, batch_dims: int = 0) -> Value:
    axis, batch = normal_axis(axis, x.rank), batch_dims + (indices.rank if batch_dims < 0 else 0)
    index = _checked(indices, x.shape[axis])
    if not index.rank:
        known = number_of(index)
        if isinstance(known, int):
            return s.select(x, axis, known)
    if axis == 0 and x.rank == 2 and isinstance(x.op, Parameter):
        return lib.embedding(x, index)
    if not batch:
        return gather(x, index, axis)
    # batch axes first, then the indexed one: those between are moved behind it and back
    order = [*range(batch), axis, *[i for i in range(batch, x.rank) if i != axis]]
    found = gather(s.permute(x, order), index, batch, batch)
    k = index.rank - batch
    between = axis - batch
    back = [*range(batch), *range(batch + k, batch + k + between), *range(batch, batch + k)]
    return s.permute(found, [*back, *range(batch + k + between, found.rank)])


@rule("EMBEDDING_LOOKUP", raw=True)
def _embedding_lookup(ids: Value, table: Value, *, node: Call) -> Value:
    """Of a table of integers the rows, or the real numbers of these: by one scale, or one for each row."""
    if table.rank == 2 and isinstance(table.op, Parameter):
        return lib.embedding(table, _checked(ids, table.shape[0]))
    tensor = node.inputs[1]
    if tensor is None or not node.dtypes[0].is_float or not is_quantized(tensor) or tensor.quantization is None:
        return gather(table, _checked(ids, table.shape[0]), 0)
    steps = tensor.quantization
    if steps.zero_point.any() or (steps.scale.size > 1 and steps.axis):
        raise unsupported("its table of integers has zero points, which its kernel leaves out, or scales of columns")
    ids = _checked(ids, table.shape[0])
    return (
        dequantized(gather(table, ids, 0), steps)
        if steps.scale.size == 1
        else gather(dequantized(table, steps), ids, 0)
    )


def _flat(x: Value, indices: Value) -> tuple[Value, Value]:
    """x with the indexed axes grouped into one, and the index into it, of what holds tuples."""
    count = indices.shape[-1]
    if not 0 < count <= x.rank:
        raise unsupported(f"its indices are of {count} axes, where {x.type} has {x.rank}")
    places = [s.select(indices, indices.rank - 1, i) for i in range(count)]
    if count == 1:
        return x, places[0]
    index = lib.linear_index(x, *places, axis=0, signed=(False,) * count)
    return s.group(x, [count, *(1,) * (x.rank - count)]), index


@rule("GATHER_ND", raw=True)
def _gather_nd(x: Value, indices: Value) -> Value:
    flat, index = _flat(x, indices)
    return gather(flat, index, 0, 0)


@rule("SCATTER_ND", raw=True)
def _scatter_nd(indices: Value, updates: Value, shape: Ints) -> Value:
    """Added to zeros, so duplicates add up."""
    zeros = s.broadcast_to(const(0, updates.dtype), shape)
    flat, index = _flat(zeros, indices)
    kind = "max" if updates.dtype.name == "bool" else "add"
    return lib.reshape(scatter(flat, index, updates, 0, 0, kind), shape=shape)


@rule("SPARSE_TO_DENSE")
def _sparse_to_dense(
    indices: Value, shape: Ints, values: Value, default: Value, *, validate_indices: bool = False
) -> Value:
    del validate_indices
    index = indices if indices.rank == 2 else lib.reshape(indices, shape=(-1, 1))
    count = index.shape[0]
    flat, at = _flat(s.broadcast_to(lib.reshape(default, shape=()), shape), index)
    each = s.broadcast_to(values if values.rank else s.unsqueeze(values, (0,)), (count,))
    return lib.reshape(scatter(flat, at, each, 0, 0, "set"), shape=shape)


@rule("ONE_HOT")
def _one_hot(indices: Value, depth: Int, on: Value, off: Value, *, axis: int = 0) -> Value:
    axis = normal_axis(axis, indices.rank + 1)
    line = s.unsqueeze(e.cast(iota(depth), indices.dtype), [i for i in range(indices.rank + 1) if i != axis])
    hit = e.equal(s.unsqueeze(indices, (axis,)), line)
    if (number_of(off), number_of(on)) == (0, 1):
        return e.cast(hit, on.dtype)
    return e.where(hit, on, off)


# --- order -------------------------------------------------------------------------------------------------


@rule("ARG_MAX", raw=True)
def _arg_max(x: Value, axis: Int, *, output_type: int = 0, node: Call) -> Value:
    del output_type
    return e.cast(lib.argmax(x, axis=normal_axis(axis, x.rank)), node.dtypes[0])


@rule("ARG_MIN", raw=True)
def _arg_min(x: Value, axis: Int, *, output_type: int = 0, node: Call) -> Value:
    del output_type
    return e.cast(lib.argmin(x, axis=normal_axis(axis, x.rank)), node.dtypes[0])


@rule("TOPK_V2", raw=True)
def _topk(x: Value, k: Int, *, node: Call) -> tuple[Value, Value]:
    values, places = lib.topk(x, k=k, axis=x.rank - 1, stable=True)
    return values, e.cast(places, node.dtypes[1])


@rule("CUMSUM")
def _cumsum(x: Value, axis: Int, *, exclusive: bool = False, reverse: bool = False) -> Value:
    axis = normal_axis(axis, x.rank)
    total = scan(x, "sum", axis, reverse)
    if not exclusive:
        return total
    low, high = (0, 1) if reverse else (1, 0)  # each but its own: moved by one, and a 0
    return s.pad(total, [(low - high, high - low) if i == axis else None for i in range(x.rank)], scalar(0, x.dtype))


@rule("BUCKETIZE")
def _bucketize(x: Value, *, boundaries: tuple[float, ...] = ()) -> Value:
    """How many boundaries aren't above x."""
    if not boundaries:
        return e.cast(e.zeros_like(x), "i32")
    edges = const(np.asarray(boundaries, np.float32), "f32")
    over = e.greater_equal(s.unsqueeze(e.cast(x, "f32"), (x.rank,)), edges)
    return s.reduce(e.cast(over, "i32"), "sum", (x.rank,), keep=False)


# --- segments ----------------------------------------------------------------------------------------------


@rule("SEGMENT_SUM")
def _segment_sum(x: Value, ids: Numbers) -> Value:
    """Of segments that are known: how many there are is the last of them."""
    count = int(ids.max(initial=-1)) + 1
    zeros = s.broadcast_to(const(0, x.dtype), (count, *x.shape[1:]))
    return scatter(zeros, const(ids, "i64"), x, 0, 0, "add")


def _least(dtype: DType) -> float | int:
    return float(np.finfo(dtype.numpy).min) if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def _most(dtype: DType) -> float | int:
    return float(np.finfo(dtype.numpy).max) if dtype.is_float else int(np.iinfo(dtype.numpy).max)


def _segments(kind: str, start: Callable[[DType], float | int]) -> Callable[[Value, Value, Int], Value]:
    def apply(x: Value, ids: Value, count: Int) -> Value:
        """What has an id below 0 is left out; a segment of nothing is what the operation begins with."""
        flat = lib.reshape(x, shape=(-1, *x.shape[ids.rank :]))
        index = lib.reshape(e.cast(ids, "i64"), shape=(-1,))
        index = e.where(index < 0, count, index)
        zeros = s.broadcast_to(const(start(x.dtype), x.dtype), (count + 1, *flat.shape[1:]))
        return s.slice_axis(scatter(zeros, index, flat, 0, 0, kind), 0, 0, count)

    return apply


rule("UNSORTED_SEGMENT_SUM")(_segments("add", lambda _: 0))
rule("UNSORTED_SEGMENT_PROD")(_segments("multiply", lambda _: 1))
rule("UNSORTED_SEGMENT_MAX")(_segments("max", _least))
rule("UNSORTED_SEGMENT_MIN")(_segments("min", _most))


# --- as many entries as there are ---------------------------------------------------------------------------


@rule("WHERE", raw=True)
def _where(condition: Numbers) -> Value:
    """The places of what isn't 0, ``[n r]``. As many as there are: where that depends on data it is refused."""
    return const(np.argwhere(condition), "i64")


@rule("UNIQUE", raw=True)
def _unique(x: Numbers, *, node: Call, idx_out_type: int = 0) -> tuple[Value, Value]:
    """Each entry once, in the order in which they come, and which of these each entry is; refused as WHERE is."""
    _, first, places = np.unique(x, return_index=True, return_inverse=True)
    order = np.argsort(first)
    ranks = np.argsort(order)
    values, index = node.dtypes
    return const(x.reshape(-1)[first[order]], values), const(ranks[places.reshape(-1)], index)
