"""How core ops that take an index, sort or run along an axis are written as ONNX."""

from __future__ import annotations

import math
from typing import Any

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.emit.elementwise import isnan, real
from tdagger.frameworks.onnx.emit.kernels import computed_in, takes
from tdagger.frameworks.onnx.emit.moves import moved, with_shape
from tdagger.frameworks.onnx.emit.writer import Row, Writer, has_sizes
from tdagger.frameworks.writing import reshaped, unbroadcast
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, Where, cast
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Const
from tdagger.ops.structure import Group, Slice, permute, select
from tdagger.transform.legal import identities as special
from tdagger.types import DType, Size, bool_, i64

F32, U8 = map(DType.of, ("f32", "u8"))


def places_of(w: Writer, index: Value, n: int) -> str:
    """An index of an axis of ``n`` as ONNX takes it: i32 or i64, and negative ones as they are."""
    index = _signed(index, n)
    if index.dtype.name in ("i32", "i64"):
        return w.ref(index)
    return w.cast(w.ref(index), index.dtype, i64)


def _signed(index: Value, n: int) -> Value:
    """What an index was before negative ones were turned around, which ONNX does by itself."""
    if (
        index.op.name == "linear_index"
        and len(index.args) == 2
        and index.args[0].shape[index.op.attributes["axis"]] == n
    ):
        return index.args[1]
    if not isinstance(index.op, Where):
        return index
    condition, turned, own = list(index.args)
    less_than, zero = condition.op, condition.args[1] if len(condition.args) == 2 else None
    if not (isinstance(less_than, Binary) and less_than.kind == "less" and condition.args[0] is own):
        return index
    if not (isinstance(turned.op, Binary) and turned.op.kind == "add" and turned.args[0] is own):
        return index
    return own if zero is not None and _is_number(zero, 0) and _is_number(turned.args[1], n) else index


def _is_number(value: Value, number: int) -> bool:
    op = unbroadcast(value).op
    return isinstance(op, Const) and op.data.size == 1 and number.__class__ is not Size and op.data.item() == number


def _of_each_axis(w: Writer, v: Value) -> str | None:
    """The index of several axes that were laid end to end for a gather, as GatherND takes it: tuples, which it checks.

    None where it isn't that, or known: then it was checked.
    """
    x, index = v.args
    axis: int = v.op.attributes["axis"]
    if index.op.name != "linear_index" or w.array(index) is not None or not isinstance(x.op, Group):
        return None
    of, *each = index.args
    at: int = index.op.attributes["axis"]
    own = x.args[0].shape[axis : axis + len(each)]
    counts = tuple([len(each) if i == axis else 1 for i in range(x.rank)])
    if len(each) < 2 or x.op.counts != counts or own != of.shape[at : at + len(each)]:
        return None
    base = reshaped(each[0])
    whole = base.args[0] if isinstance(base.op, Slice) else None
    tuples = whole is not None and whole.shape[-1:] == (len(each),)
    if whole is not None and tuples and all(select(whole, -1, i) is one for i, one in enumerate(each)):
        return w.cast(w.ref(whole), whole.dtype, i64)  # as GatherND itself had them
    last = w.ints([index.rank])
    parts = [w.node("Unsqueeze", [w.cast(w.ref(i), i.dtype, i64), last]) for i in each]
    return w.node("Concat", parts, axis=-1)


def _gather(w: Writer, v: Value) -> Any:
    real(v)
    op: Any = v.op
    x, index = v.args
    axis, batch = op.axis, op.batch
    each = _of_each_axis(w, v) if axis == batch else None
    if each is not None:
        return moved(w, "GatherND", v.dtype, [w.ref(x.args[0])], [each], batch_dims=batch or None)
    if batch == 0:
        return moved(w, "Gather", v.dtype, [w.ref(x)], [places_of(w, index, x.shape[axis])], axis=axis)
    if axis == batch == x.rank - 1 and index.rank == x.rank:
        return moved(w, "GatherElements", v.dtype, [w.ref(x)], [places_of(w, index, x.shape[axis])], axis=axis)
    if axis != batch:  # the indexed axis right after those of the batch, and back
        order = [*range(batch), axis, *range(batch, axis), *range(axis + 1, x.rank)]
        inner, between = index.rank - batch, axis - batch
        out = Gather(batch, batch)(permute(x, order), index)
        back = [*range(batch), *range(batch + inner, batch + inner + between), *range(batch, batch + inner)]
        return permute(out, [*back, *range(len(back), out.rank)])
    index = _signed(index, x.shape[axis])
    places = w.node("Unsqueeze", [w.cast(w.ref(index), index.dtype, i64), w.ints([index.rank])])
    return moved(w, "GatherND", v.dtype, [w.ref(x)], [places], batch_dims=batch)


_SCATTERS = {"set": "none", "add": "add", "multiply": "mul", "max": "max", "min": "min"}


def _scatter(w: Writer, v: Value) -> Any:
    """ScatterElements, whose index has an entry for each update: of equal places the last one wins."""
    real(v)
    op: Any = v.op
    x, index, updates = v.args
    axis, batch, inner = op.axis, op.batch, index.rank - op.batch
    places = index.shape[batch:]
    if 0 in updates.shape:
        return x
    if 0 in x.shape:
        raise UnsupportedError("nothing can be put into a tensor of no entries")
    flat = (*updates.shape[:axis], math.prod(places), *updates.shape[axis + inner :])
    shape = (*index.shape[:batch], *[1] * (axis - batch), math.prod(places), *[1] * (x.rank - axis - 1))
    spread = with_shape(w, places_of(w, index, x.shape[axis]), index.type, shape)
    if shape != flat:
        spread = w.node("Expand", [spread, w.ints(flat)])
    data, new = w.ref(x), with_shape(w, w.ref(updates), updates.type, flat)
    dtype, to = v.dtype, _scattered_in(op.kind, v.dtype)
    out = w.node(
        "ScatterElements", [w.cast(data, dtype, to), spread, w.cast(new, dtype, to)], axis=axis,
        reduction=_SCATTERS[op.kind] if op.kind != "set" else None,
    )  # fmt: skip
    return w.cast(out, to, dtype)


def _scattered_in(kind: str, dtype: DType) -> DType:
    if kind == "set":
        return computed_in("ScatterElements", dtype, moves=True)
    if dtype.is_float and dtype.bytes < 4:
        return F32
    if dtype is bool_:
        return U8
    return dtype


def ordered(w: Writer, x: str, dtype: DType) -> tuple[str, DType]:
    """Numbers in the order of ``x``, NaN the largest, in a type that TopK takes: it may put NaN anywhere."""
    if not dtype.is_float:
        return (x, dtype) if takes("TopK", dtype) else (w.cast(x, dtype, to := computed_in("TopK", dtype)), to)
    if dtype.name == "f64":
        raise UnsupportedError("onnxruntime may put NaN of f64 anywhere in an order")
    f64 = DType.of("f64")
    finite = w.node("Min", [w.cast(x, dtype, f64), w.scalar(1e300, f64)])  # +inf is below NaN
    return w.node("Where", [isnan(w, x, dtype), w.scalar(math.inf, f64), finite]), f64


def _argsort(w: Writer, v: Value) -> Any:
    op: Any = v.op
    x = v.args[0]
    if 0 in v.shape:
        return w.node("Expand", [w.scalar(0, i64), w.ints(v.shape)])
    if x.dtype.name == "f64":
        return _argsort_by_nan(v)
    keys, _ = ordered(w, w.ref(x), x.dtype)
    count = w.ints([v.shape[op.axis]])
    return w.node("TopK", [keys, count], 2, axis=op.axis, largest=int(op.descending), sorted=1)[1]


def _argsort_by_nan(v: Value) -> Any:
    """By value with NaN as infinity, then by whether it is NaN: sorting is stable."""
    from tdagger.ops.elementwise import isnan, where
    from tdagger.ops.indexing import argsort, take_along

    op: Any = v.op
    x = v.args[0]
    nan = isnan(x)
    first = _plain_argsort(where(nan, math.inf, x), op.axis, op.descending)
    second = argsort(cast(take_along(nan, first, op.axis), "i32"), op.axis, op.descending)
    return take_along(first, second, op.axis)


def _plain_argsort(x: Value, axis: int, descending: bool) -> Value:
    from tdagger.library import topk

    return topk(x, k=x.shape[axis], axis=axis, largest=descending)[1]


def _scan(w: Writer, v: Value) -> Any:
    real(v)
    op: Any = v.op
    x = v.args[0]
    if 0 in v.shape:
        return x
    if op.kind == "sum":
        to = computed_in("CumSum", v.dtype, moves=True)
        name = w.cast(w.ref(x), v.dtype, to)
        return w.cast(w.node("CumSum", [name, w.scalar(op.axis, i64)], reverse=int(op.reverse)), to, v.dtype)
    if x.dtype.is_float and x.dtype.bytes < 4:
        return cast(type(op)(op.kind, op.axis, op.reverse)(cast(x, "f32")), v.dtype)
    if has_sizes(x.shape[op.axis]):
        raise UnsupportedError(f"the running {op.kind} along an axis without a number isn't written")
    return special.scan_of(x, op.kind, op.axis, op.reverse)


#: The rows of this module.
INDEXING: dict[str, Row] = {
    "gather": _gather,
    "scatter": _scatter,
    "argsort": _argsort,
    "scan": _scan,
}
