"""ONNX's operators that combine or order the entries along axes."""

from __future__ import annotations

import math
from collections.abc import Callable

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.table import Int, Ints, rule, unsupported
from tdagger.library.linear import wide
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, iota_like, scan
from tdagger.types import sized

#: What a reduction does over axes, which may be none.
Reduction = Callable[[Value, tuple[int, ...], bool], Value]


def _kind(kind: str) -> Reduction:
    def over(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        of_bools = {"max": "any", "min": "all"}.get(kind, kind) if x.dtype.name == "bool" else kind
        return s.reduce(x, of_bools, axes, keep)

    return over


def _mean(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """Of integers the quotient rounded towards 0."""
    if x.dtype.is_float:
        return lib.mean(x, axes=axes, keep=keep) if axes else x
    total = s.reduce(e.cast(x, "i64"), "sum", axes, keep)
    return e.cast(lib.trunc_divide(total, math.prod(x.shape[a] for a in axes)), x.dtype)


def _sum_square(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return e.cast(s.reduce(lib.square(wide(x)), "sum", axes, keep), x.dtype)


def _l1(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    if x.dtype.is_float and axes:
        return lib.vector_norm(x, ord=1.0, axes=axes, keep=keep)
    return s.reduce(e.abs_(x), "sum", axes, keep)


def _floats(function: Reduction) -> Reduction:
    """A reduction of floats; integers are taken as f64, and the result cut."""

    def over(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
        return function(x, axes, keep) if x.dtype.is_float else e.cast(function(e.cast(x, "f64"), axes, keep), x.dtype)

    return over


def _l2(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return lib.vector_norm(x, ord=2.0, axes=axes, keep=keep) if axes else e.abs_(x)


def _log_sum(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return e.cast(e.log(s.reduce(wide(x), "sum", axes, keep)), x.dtype)


def _log_sum_exp(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return lib.logsumexp(x, axes=axes, keep=keep) if axes else x


def _reduce(over: Reduction) -> Callable[..., Value]:
    def apply(data: Value, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        if not axes:  # of no axes what is done to each element remains
            named = () if noop_with_empty_axes else tuple(range(data.rank))
        else:
            named = tuple(sorted({normal_axis(a, data.rank) for a in axes}))
        return over(data, named, bool(keepdims))

    return apply


for _name, _over in {
    "ReduceSum": _kind("sum"), "ReduceProd": _kind("prod"), "ReduceMax": _kind("max"), "ReduceMin": _kind("min"),
    "ReduceMean": _mean, "ReduceSumSquare": _sum_square, "ReduceL1": _l1, "ReduceL2": _floats(_l2),
    "ReduceLogSum": _floats(_log_sum), "ReduceLogSumExp": _floats(_log_sum_exp),
}.items():  # fmt: skip
    rule(_name)(_reduce(_over))


# --- order -------------------------------------------------------------------------------------------------


def _arg(function: Callable[..., Value]) -> Callable[..., Value]:
    def apply(data: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
        axis = normal_axis(axis, data.rank)
        if not select_last_index:
            return function(data, axis=axis, keep=bool(keepdims))
        backwards = function(s.flip(data, (axis,)), axis=axis, keep=True)
        last = s.slice_axis(iota_like(data, axis), axis, -1, None)
        found = s.slice_axis(last, axis, 0, 1) - backwards
        return found if keepdims else s.squeeze(found, (axis,))

    return apply


rule("ArgMax")(_arg(lib.argmax))
rule("ArgMin")(_arg(lib.argmin))


@rule("TopK")
def _topk_attribute(X: Value, *, k: int, axis: int = -1) -> tuple[Value, Value]:
    return _topk(X, k, axis=axis)


@rule("TopK", since=10)
def _topk(X: Value, K: Int, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Value, Value]:
    """Of equal entries the first come first."""
    del sorted
    axis = normal_axis(axis, X.rank)
    if not 0 <= K <= X.shape[axis]:
        raise unsupported(f"its K is {K}, and its axis {axis} has {X.shape[axis]} entries")
    return lib.topk(X, k=K, axis=axis, largest=bool(largest), stable=True)


def _cumulative(kind: str, start: int) -> Callable[..., Value]:
    def apply(x: Value, axis: Int, *, exclusive: int = 0, reverse: int = 0) -> Value:
        axis = normal_axis(axis, x.rank)
        out = scan(x, kind, axis, bool(reverse))
        if not exclusive or not x.shape[axis]:
            return out
        n = x.shape[axis]
        kept = s.slice_axis(out, axis, 1, None) if reverse else s.slice_axis(out, axis, 0, sized(n, plus=-1))
        return s.pad(kept, [((0, 1) if reverse else (1, 0)) if i == axis else None for i in range(x.rank)], start)

    return apply


rule("CumSum")(_cumulative("sum", 0))
rule("CumProd")(_cumulative("prod", 1))


# --- determinants ------------------------------------------------------------------------------------------

#: Matrices of more rows are refused: each is a step of its own.
_ROWS = 64


@rule("Det")
def _det(X: Value) -> Value:
    """By elimination, each column by the row of its largest entry."""
    n = X.shape[-1]
    if X.shape[-2] != n or n > _ROWS:
        raise unsupported(f"determinants are of square matrices of at most {_ROWS} rows, not of {X.type}")
    a = wide(X)
    det = e.full_like(s.reduce(a, "sum", (-1, -2), keep=False), 1.0)
    while a.shape[-1]:
        column = s.select(a, -1, 0)
        best = lib.argmax(e.abs_(column), axis=-1, keep=True)
        is_best = e.equal(iota_like(column, -1), s.broadcast_to(best, column.shape))
        pivot = s.reduce(e.where(is_best, column, 0.0), "sum", (-1,), keep=False)
        det = det * e.where(s.reduce(s.slice_axis(is_best, -1, 0, 1), "any", (-1,), keep=False), pivot, e.neg(pivot))
        a = _eliminated(a, column, s.squeeze(best, (-1,)), pivot)
    return e.cast(det, X.dtype)


def _eliminated(a: Value, column: Value, best: Value, pivot: Value) -> Value:
    """What is left of matrices without their first column and the row ``best``, where the first row takes its place."""
    batch = a.rank - 2
    chosen = gather(a, best, batch, batch)  # [.. columns]
    rows = s.slice_axis(a, -2, 1, None)
    is_best = e.equal(iota_like(s.slice_axis(column, -1, 1, None), -1) + 1, s.unsqueeze(best, (-1,)))
    rows = e.where(s.unsqueeze(is_best, (-1,)), s.slice_axis(a, -2, 0, 1), rows)
    share = s.slice_axis(rows, -1, 0, 1) / s.unsqueeze(e.where(e.equal(pivot, 0.0), 1.0, pivot), (-1, -2))
    rest = s.slice_axis(rows, -1, 1, None)
    return rest - share * s.unsqueeze(s.slice_axis(chosen, -1, 1, None), (-2,))
