"""Reductions that aren't core (means, norms, logsumexp), and what depends on order (argmax, sort, topk)."""

from __future__ import annotations

import math

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, NoInverseError, TypeMismatchError
from tdagger.library.arithmetic import always, floats_only, logaddexp, of_result, square, wide
from tdagger.op import Value, ValueFunction
from tdagger.ops.elementwise import (
    abs_,
    cast,
    equal,
    exp,
    full_like,
    isinf,
    isnan,
    log,
    maximum,
    not_equal,
    pow_,
    sqrt,
    where,
)
from tdagger.ops.indexing import argsort, iota_like, take_along
from tdagger.ops.structure import broadcast_to, concat, reduce, slice_axis, unsqueeze
from tdagger.types import TensorType

# --- sums --------------------------------------------------------------------------------------------------


def _count(x: Value, axes: tuple[int, ...]) -> float:
    return float(math.prod(x.shape[a] for a in axes))


@composite
def mean(x: Value, *, axes: tuple[int, ...], keep: bool = False) -> Value:
    """Mean over ``axes``; ``keep`` leaves them with size 1. NaN of no entries."""
    floats_only("mean", x)
    return cast(reduce(wide(x), "sum", axes, keep) / _count(x, axes), x.dtype)


@mean.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    x = op.one(types, "adjoint")
    axes: tuple[int, ...] = op.attributes["axes"]
    keep: bool = op.attributes["keep"]
    count = float(math.prod(x.shape[a] for a in axes))
    return of_result(lambda y: broadcast_to(_kept(y, axes, keep) / count, x.shape))


@mean.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """The mean at every entry."""
    x = op.one(types, "inverse")
    axes: tuple[int, ...] = op.attributes["axes"]
    keep: bool = op.attributes["keep"]
    if any(x.shape[a] == 0 for a in axes):
        raise NoInverseError(f"{op} of no entries keeps nothing of its argument")
    return of_result(lambda y: broadcast_to(_kept(y, axes, keep), x.shape))


def _kept(y: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """``y`` with the axes that a reduction without ``keep`` dropped."""
    return y if keep else unsqueeze(y, axes)


@composite
def variance(x: Value, *, axes: tuple[int, ...], correction: float = 1.0, keep: bool = False) -> Value:
    """Mean square distance from the mean over ``axes``; the count is lowered by ``correction``.

    Not below 0: where nothing is left to divide by, the variance is NaN (or infinite).
    """
    floats_only("variance", x)
    w = wide(x)
    away = w - mean(w, axes=axes, keep=True)
    return cast(reduce(square(away), "sum", axes, keep) / max(_count(x, axes) - correction, 0.0), x.dtype)


@composite(own_gradient=True)
def std(x: Value, *, axes: tuple[int, ...], correction: float = 1.0, keep: bool = False) -> Value:
    """The root of the :func:`variance`."""
    return cast(sqrt(variance(wide(x), axes=axes, correction=correction, keep=keep)), x.dtype)


@composite
def logsumexp(x: Value, *, axes: tuple[int, ...], keep: bool = False) -> Value:
    """``log(sum(exp(x)))`` over ``axes`` without overflow; -inf of no entries."""
    floats_only("logsumexp", x)
    w = wide(x)
    top = reduce(w, "max", axes)
    top = where(isinf(top), 0.0, top)
    total = reduce(exp(w - top), "sum", axes)
    return cast(reduce(log(total) + top, "sum", axes, keep), x.dtype)


def _check_norm(x: Value, ord: float, axes: tuple[int, ...]) -> None:
    floats_only("vector_norm", x)
    if (ord < 0 or math.isinf(ord)) and any(x.shape[a] == 0 for a in axes):
        raise TypeMismatchError(f"vector_norm: the norm of order {ord} of no entries isn't defined: {x.type}")


@composite(own_gradient=True)
def vector_norm(x: Value, *, ord: float = 2.0, axes: tuple[int, ...], keep: bool = False) -> Value:
    """``sum(|x| ** ord) ** (1 / ord)``; the largest of |x| for inf, the smallest for -inf, for 0 how many aren't 0."""
    _check_norm(x, ord, axes)
    w = wide(x)
    if ord == 2:
        out = sqrt(reduce(square(w), "sum", axes, keep))
    elif ord == 0:
        out = reduce(cast(not_equal(w, 0.0), w.dtype), "sum", axes, keep)
    elif ord == 1:
        out = reduce(abs_(w), "sum", axes, keep)
    elif math.isinf(ord):
        out = reduce(abs_(w), "max" if ord > 0 else "min", axes, keep)
    else:
        out = pow_(reduce(pow_(abs_(w), ord), "sum", axes, keep), 1 / ord)
    return cast(out, x.dtype)


@composite
def normalize(x: Value, *, ord: float = 2.0, axes: tuple[int, ...], eps: float = 1e-12) -> Value:
    """``x`` divided by its :func:`vector_norm` over ``axes``, or by ``eps`` if that is larger."""
    w = wide(x)
    return cast(w / maximum(vector_norm(w, ord=ord, axes=axes, keep=True), eps), x.dtype)


# What was normalized stays so.
normalize.inverse(always(lambda y: y))


# --- order -------------------------------------------------------------------------------------------------


def _arg(kind: str, x: Value, axis: int, keep: bool) -> Value:
    if not x.rank or not x.shape[axis]:
        raise TypeMismatchError(f"arg{kind}: axis {axis} of {x.type} has no entries")
    best = reduce(x, kind, (axis,))
    hit = equal(x, broadcast_to(best, x.shape))
    if x.dtype.is_float:
        hit = hit | (isnan(x) & isnan(broadcast_to(best, x.shape)))
    index = where(hit, iota_like(x, axis), x.shape[axis])
    return reduce(index, "min", (axis,), keep)


@composite
def argmax(x: Value, *, axis: int, keep: bool = False) -> Value:
    """Index (i64) of the largest entry along ``axis``, the first of equals; NaN counts as largest."""
    return _arg("max", x, axis, keep)


@composite
def argmin(x: Value, *, axis: int, keep: bool = False) -> Value:
    """Index (i64) of the smallest entry along ``axis``, the first of equals; NaN counts as smallest."""
    return _arg("min", x, axis, keep)


@composite(own_gradient=True)
def logcumsumexp(x: Value, *, axis: int) -> Value:
    """``log(cumsum(exp(x)))`` along ``axis`` without overflow.

    The body takes in entries 1, 2, 4 ... places before: n log n operations.
    """
    floats_only("logcumsumexp", x)
    w, step = wide(x), 1
    while step < w.shape[axis]:
        edge = full_like(slice_axis(w, axis, 0, step), -math.inf)
        w = logaddexp(w, concat((edge, slice_axis(w, axis, 0, -step)), axis))
        step *= 2
    return cast(w, x.dtype)


@composite
def sort(x: Value, *, axis: int, descending: bool = False) -> tuple[Value, Value]:
    """Entries along ``axis`` in order, and where they were (i64); equals keep their order, NaN is largest."""
    index = argsort(x, axis, descending)
    return take_along(x, index, axis), index


@composite
def topk(x: Value, *, k: int, axis: int, largest: bool = True, stable: bool = False) -> tuple[Value, Value]:
    """The ``k`` largest (or smallest) entries along ``axis`` in order, and where they were (i64).

    Of equal entries the first come first; a framework may take others, unless it has to be ``stable``.
    """
    del stable
    if not 0 <= k <= x.shape[axis]:
        raise AttributeValueError(f"topk: k={k} is not within axis {axis} of {x.type}")
    index = slice_axis(argsort(x, axis, largest), axis, 0, k)
    return take_along(x, index, axis), index
