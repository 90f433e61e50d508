"""Composites that hold what their arguments' sizes say: traced anew at other sizes, they follow.

A number that a rule works out of a shape and writes into a graph would stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.arithmetic import floats_only
from tdagger.library.reduction import argmax, sort, vector_norm
from tdagger.op import Array, AxisRules, Plan, Terms, Value
from tdagger.ops.elementwise import align, cast, equal, floor_divide, full_like, isnan, less, maximum, not_, where
from tdagger.ops.indexing import gather, iota_like, take_along
from tdagger.ops.source import const, scalar
from tdagger.ops.structure import broadcast_to, reduce, slice_axis, unsqueeze
from tdagger.types import DType, TensorType, sized


@composite
def over_count(x: Value, *, axes: tuple[int, ...], root: bool = False) -> Value:
    """``x`` divided by the number of entries along ``axes``, or by its root."""
    count = math.prod(x.shape[a] for a in axes)
    return x / (math.sqrt(count) if root else float(count))


@composite
def filled(x: Value, *, value: bool | int | float | complex, dtype: DType) -> Value:
    """A tensor of the shape of ``x`` with every entry ``value``; nothing of ``x`` is read."""
    return broadcast_to(const(scalar(value, dtype), dtype), x.shape)


@filled.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms) -> Terms:
    del op, rules, out
    return x


@filled.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value:
    del plan
    return filled(args[0], **op.attributes)


@composite
def linspace(*, start: float, end: float, steps: int, dtype: DType) -> Value:
    """``steps`` numbers at equal distances, the first ``start`` and the last ``end``; f32, f64.

    Counted from both ends to the middle, as torch has it.
    """
    return const(_line(start, end, steps, dtype.numpy.type), dtype)


def _line(start: float, end: float, steps: int, real: Any) -> Array:
    step: Any = (real(end) - real(start)) / real(max(steps - 1, 1))
    at = np.arange(steps)
    low: Array
    high: Array
    low, high = real(start) + step * at.astype(real), real(end) - step * (steps - 1 - at).astype(real)
    return np.where(at < max(steps // 2, int(steps == 1)), low, high)


@linspace.axes
def _(op: Composite, rules: AxisRules, out: TensorType) -> Terms:
    term = rules.fresh(op.attributes["steps"], "iota")
    rules.mark(term, "numbers")
    return (term,)


@linspace.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value:
    del args
    if len(plan) != 1:
        raise AttributeValueError(f"{op} has one dimension, not {len(plan)}")
    attributes: dict[str, Any] = {**op.attributes, "steps": plan[0].size}
    return linspace(**attributes)


@composite
def median(x: Value, *, axis: int, skip_nan: bool = False) -> tuple[Value, Value]:
    """The lower median along ``axis``, which it keeps with size 1, and its index (i64).

    NaN is the median where there is one, or with ``skip_nan`` only where there is nothing else.
    """
    ordered, places = sort(x, axis=axis)
    n = x.shape[axis]
    if not x.dtype.is_float:
        middle = sized(n, (-1,), 2)
        ends = (middle, sized(n, (-1,), 2, 1))
        return slice_axis(ordered, axis, *ends), slice_axis(places, axis, *ends)
    # NaN is sorted last
    count = reduce(cast(not_(isnan(x)), "i64"), "sum", (axis,))
    if skip_nan:
        at = maximum(floor_divide(count - 1, 2), 0)
    else:
        at = where(less(count, n), count, full_like(count, (n - 1) // 2))
    return take_along(ordered, at, axis), take_along(places, at, axis)


@composite
def kthvalue(x: Value, *, axis: int, k: int) -> tuple[Value, Value]:
    """The ``k``-th smallest entry (from 1) along ``axis``, which it keeps with size 1, and its index (i64).

    NaN counts as largest. Of equal entries a framework may take another one than here, which is the ``k``-th of them in
    a stable order.
    """
    if not 1 <= k <= x.shape[axis]:
        raise AttributeValueError(f"kthvalue: k is from 1 to {x.shape[axis]}, the size of axis {axis}, got {k}")
    ordered, places = sort(x, axis=axis)
    return slice_axis(ordered, axis, k - 1, k), slice_axis(places, axis, k - 1, k)


@composite
def mode(x: Value, *, axis: int) -> tuple[Value, Value]:
    """The most frequent entry along ``axis``, which it keeps with size 1, the smallest of several; and its last index.

    Every pair of entries is compared. Of equal entries a framework may take another one than the last.
    """
    mine, others = unsqueeze(x, (axis + 1,)), unsqueeze(x, (axis,))
    count = reduce(cast(equal(*align(mine, others)), "i64"), "sum", (axis + 1,), keep=False)
    most = equal(count, broadcast_to(reduce(count, "max", (axis,)), count.shape))
    ordered, places = sort(x, axis=axis)
    first = argmax(cast(take_along(most, places, axis), "u8"), axis=axis, keep=True)
    value = take_along(ordered, first, axis)
    same = equal(x, broadcast_to(value, x.shape))
    return value, reduce(where(same, iota_like(x, axis), -1), "max", (axis,))


#: How a quantile between two entries is taken.
INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


@composite
def quantile(x: Value, *, q: float, axis: int, interpolation: str = "linear") -> Value:
    """The entry that a part ``q`` lies below, along ``axis``, which it keeps with size 1; NaN where there is one."""
    floats_only("quantile", x)
    if interpolation not in INTERPOLATIONS or not 0 <= q <= 1:
        raise AttributeValueError(f"quantile: q is from 0 to 1, got {q}; interpolation {interpolation!r} is one of "
                                  f"{', '.join(INTERPOLATIONS)}")  # fmt: skip
    ordered, _ = sort(x, axis=axis)
    last = x.shape[axis] - 1
    real = x.dtype.numpy.type
    rank: Any = real(q) * real(last)
    low, high = int(np.floor(rank)), int(np.ceil(rank))
    if interpolation in ("lower", "higher", "nearest"):
        low = high = {"lower": low, "higher": high, "nearest": round(float(rank))}[interpolation]
    share = float(real(0.5) if interpolation == "midpoint" and high > low else real(rank - np.floor(rank)))
    none = reduce(isnan(x), "any", (axis,))
    below, above = (take_along(ordered, where(none, last, k), axis) for k in (low, high))
    if low == high:
        return below
    away = above - below
    return below + away * share if share < 0.5 else above - away * (1 - share)


@composite
def pdist(x: Value, *, ord: float = 2.0) -> Value:
    """The distance of every two rows of x ``[n d]``, in the norm ``ord``: those of the first row first."""
    if x.rank != 2:
        raise TypeMismatchError(f"pdist takes [n d], got {x.type}")
    n = x.shape[0]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    if not pairs or not x.shape[1]:
        return broadcast_to(const(scalar(0, x.dtype), x.dtype), (len(pairs),))
    first, second = const([i for i, _ in pairs], "i64"), const([j for _, j in pairs], "i64")
    away = gather(x, first, 0) - gather(x, second, 0)
    return vector_norm(away, ord=ord, axes=(1,))


@pdist.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms) -> Terms:
    """As many as there are pairs, which is no line of the number of rows: other numbers of rows are refused."""
    del op
    rules.mark(x[0], "compares the entries of")
    rules.mark(x[1], "takes the norm over")
    return (rules.fresh(out.shape[0], "pairs"),)
