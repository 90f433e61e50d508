"""Pooling of the last axes, as many as ``kernel`` (or ``size``) has entries: x ``[.. spatial..]``.

Written as one int, ``kernel`` or ``size`` is for all axes but the first two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from typing import cast as cast_

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.adjoint import body_adjoint
from tdagger.library.arithmetic import trunc_divide
from tdagger.library.conv import Ints, per_axis
from tdagger.library.linear import wide
from tdagger.op import AxisRules, Plan, Terms, Value
from tdagger.ops.elementwise import cast, equal, isnan, where
from tdagger.ops.indexing import gather, put_along
from tdagger.ops.source import const, iota, scalar
from tdagger.ops.structure import (
    Group,
    Ungroup,
    broadcast_to,
    group,
    pad,
    reduce,
    squeeze,
    unfold,
    ungroup,
    unsqueeze,
)
from tdagger.types import TensorType, ValueType, i64

# --- windows -----------------------------------------------------------------------------------------------


def _lowest(x: Value) -> Any:
    """What no entry of the element type of x is below."""
    if x.dtype.is_int:
        return int(np.iinfo(x.dtype.numpy).min)
    return False if x.dtype.name == "bool" else -math.inf


def _type(x: Value | TensorType) -> TensorType:
    return x if isinstance(x, TensorType) else x.type


def _sizes(x: Value | TensorType, kernel: Sequence[Any]) -> tuple[int, ...]:
    """Sizes of the axes that ``kernel`` is for, the last ones."""
    if len(kernel) > x.rank:
        raise TypeMismatchError(f"pooling: {kernel} is for {len(kernel)} axes, got {_type(x)}")
    return x.shape[x.rank - len(kernel) :]


def _window_counts(
    x: Value | TensorType, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool
) -> Ints:
    """How many windows there are along each spatial axis; a last one must start in x or before it."""
    counts: list[int] = []
    for n, k, s, p, d in zip(_sizes(x, kernel), kernel, stride, padding, dilation, strict=True):
        free = n + 2 * p - (k - 1) * d - 1
        if free < 0 and not (ceil and free > -s):
            raise TypeMismatchError(f"pooling: windows of {kernel} don't fit in {_type(x)} padded by {padding}")
        count = (free + s - 1 if ceil else free) // s + 1
        counts.append(count - 1 if ceil and (count - 1) * s >= n + p else count)
    return tuple(counts)


def _windows(x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool, fill: Any) -> Value:
    """The entries of x as ``[.. w k w k ..]``, padded with ``fill``."""
    counts = _window_counts(x, kernel, stride, padding, dilation, ceil)
    lead = x.rank - len(kernel)
    widths: list[tuple[int, int] | None] = [None] * lead
    for n, w, k, s, p, d in zip(x.shape[lead:], counts, kernel, stride, padding, dilation, strict=True):
        # what windows don't reach stays: what is padded doesn't depend on n, unless the count is rounded up
        widths.append((p, max((w - 1) * s + (k - 1) * d + 1 - n - p, p)))
    y = pad(x, widths, fill)
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), lead):
        y = unfold(y, i, k, s, d)
    pairs = tuple(zip(counts, kernel, strict=True))
    return Ungroup((*((n,) for n in x.shape[:lead]), *pairs))(y)


def reached(sizes: Ints, kernel: Ints, padding: Ints, dilation: Ints) -> Ints:
    """The kernel without what is beyond an input and its padding: one window may be, where counts are rounded up.

    >>> reached((2, 9), (2560, 3), (0, 1), (1, 1))
    (2, 3)
    """
    given = zip(sizes, kernel, padding, dilation, strict=True)
    return tuple([min(k, n + 2 * p) if d == 1 else k for n, k, p, d in given])


def _fitting(x: Value, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool) -> Ints:
    """The kernel as it is :func:`reached`; TypeMismatchError if not one window of it fits."""
    _window_counts(x, kernel, stride, padding, dilation, ceil)
    return reached(_sizes(x, kernel), kernel, padding, dilation)


def _inside(y: Value, kernel: Ints) -> tuple[int, ...]:
    """The kernel axes of ``[.. w k w k ..]``."""
    return tuple(range(y.rank - 2 * len(kernel) + 1, y.rank, 2))


def _drop_inside(y: Value, kernel: Ints) -> Value:
    return Group((*(1,) * (y.rank - 2 * len(kernel)), *(2,) * len(kernel)))(y)


def _spatial(name: str, x: Value, given: Any) -> int:
    """How many axes ``given`` (a kernel or size) is for: one int stands for all but the first two."""
    count = x.rank - 2 if isinstance(given, int) or given is None else len(given)
    if not 1 <= count <= x.rank:
        raise TypeMismatchError(
            f"{name}: x must be [b c spatial..], or have an axis for each entry of {given}, got {x.type}"
        )
    return count


def _prepare_windows(name: str, optional: dict[str, Any]) -> Any:
    """Attributes as one int per spatial axis; the stride is the kernel unless given."""

    def prepare(x: Value, *, kernel: Any, stride: Any = None, **rest: Any) -> tuple[tuple[Value], dict[str, Any]]:
        count = _spatial(name, x, kernel)
        given: dict[str, Any] = {"kernel": kernel, "stride": stride, **optional, **rest}
        if stride is None or stride == () or stride == []:
            given["stride"] = kernel
        for key in ("kernel", "stride", "padding", "dilation"):
            if key in given:
                given[key] = per_axis(given[key], count, key, name)
        for k, p, d in zip(given["kernel"], given["padding"], given.get("dilation", (1,) * count), strict=True):
            if not 0 <= p <= ((k - 1) * d + 1) // 2:
                raise AttributeValueError(f"{name}: padding {p} should be from 0 to half of the window {k}")
        return (x,), given

    return prepare


# --- max ---------------------------------------------------------------------------------------------------


@composite(prepare=_prepare_windows("max_pool", {"padding": 0, "dilation": 1}))
def max_pool(x: Value, *, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool = False) -> Value:
    """Largest entry of each window, NaN if one is; what is padded never wins.

    ``ceil`` rounds the number of windows up, but a last window must start in x or in the padding before it.
    """
    kernel = _fitting(x, kernel, stride, padding, dilation, ceil)
    y = _windows(x, kernel, stride, padding, dilation, ceil, _lowest(x))
    return _drop_inside(reduce(y, "max", _inside(y, kernel)), kernel)


@composite(prepare=_prepare_windows("max_pool_with_indices", {"padding": 0, "dilation": 1}))
def max_pool_with_indices(
    x: Value, *, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool = False
) -> tuple[Value, Value]:
    """:func:`max_pool`, and where it came from: the index (i64) into the spatial axes as one.

    Of equal entries the first counts, of several NaN the last.
    """
    kernel = _fitting(x, kernel, stride, padding, dilation, ceil)
    sizes, how = _sizes(x, kernel), (kernel, stride, padding, dilation, ceil)
    y = _windows(x, *how, _lowest(x))
    inside = _inside(y, kernel)
    best = reduce(y, "max", inside)
    beyond = math.prod(sizes)
    places = _windows(ungroup(iota(beyond), 0, sizes), *how, beyond)
    places = broadcast_to(places, y.shape)
    first = reduce(where(equal(y, best), places, beyond), "min", inside)
    if x.dtype.is_float:
        last = reduce(where(isnan(y), places, -1), "max", inside)
        first = where(isnan(best), last, first)
    return _drop_inside(best, kernel), _drop_inside(first, kernel)


@max_pool.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of floats and windows that fit; the rest is the body's to take or refuse."""
    kernel, stride, padding, dilation = op.kernel, op.stride, op.padding, op.dilation
    if len(types) != 1 or op.given != (True,) or not types[0].dtype.is_float or type(op.ceil) is not bool:
        return None
    x, count = types[0], len(_each(kernel))
    if not 0 < count <= x.rank or 0 in x.shape or not _are_counts(padding, count, 0):
        return None
    if not all(_are_counts(numbers, count, 1) for numbers in (kernel, stride, dilation)):
        return None
    lead = x.rank - count
    if any(n + 2 * p < (k - 1) * d + 1 for n, k, p, d in zip(x.shape[lead:], kernel, padding, dilation, strict=True)):
        return None
    return x.with_shape((*x.shape[:lead], *_window_counts(x, kernel, stride, padding, dilation, op.ceil)))


def _are_counts(numbers: Any, count: int, least: int) -> bool:
    """Whether it is a tuple of so many whole numbers, none below ``least``."""
    each = _each(numbers)
    return len(each) == count and all(type(n) is int and n >= least for n in each)


def _each(numbers: Any) -> tuple[Any, ...]:
    """A tuple's entries; of what a file has in the place of one none."""
    return cast_(tuple[Any, ...], numbers) if isinstance(numbers, tuple) else ()


# --- average -----------------------------------------------------------------------------------------------


def _counts(x: Value, kernel: Ints, stride: Ints, padding: Ints, ceil: bool, padded: bool) -> list[np.ndarray]:
    """For each axis, how many entries each window has, those of the padding among them if ``padded``."""
    windows = _window_counts(x, kernel, stride, padding, (1,) * len(kernel), ceil)
    counts: list[np.ndarray] = []
    for n, w, k, s, p in zip(_sizes(x, kernel), windows, kernel, stride, padding, strict=True):
        start = np.arange(w) * s - p
        stop = np.minimum(start + k, n + p)
        counts.append(stop - start if padded else np.minimum(stop, n) - np.maximum(start, 0))
    return counts


def _divided(total: Value, counts: list[np.ndarray]) -> Value:
    """Sums over windows divided by the product of the windows' sizes along each axis."""
    if all((c == c[0]).all() for c in counts if c.size):
        return _over(total, math.prod(int(c[0]) for c in counts if c.size))
    area = np.ones(())
    for c in counts:
        area = np.multiply.outer(area, c)
    return _over(total, area)


def _over(total: Value, count: Any) -> Value:
    """Divided by how many there are; what is left of integers is cut off, as torch has it."""
    by = const(np.asarray(count).astype(total.dtype.numpy))
    return trunc_divide(total, by) if total.dtype.is_int else total / by


@composite(prepare=_prepare_windows("avg_pool", {"padding": 0}))
def avg_pool(
    x: Value, *, kernel: Ints, stride: Ints, padding: Ints, ceil: bool = False,
    count_include_pad: bool = True, divisor: int | None = None,
) -> Value:  # fmt: skip
    """Mean of each window; the padding's zeros count as entries unless ``count_include_pad`` is off.

    ``divisor`` divides the sums instead. ``ceil`` is as in :func:`max_pool`; what it reaches beyond the
    padding is never counted.
    """
    kernel = _fitting(x, kernel, stride, padding, (1,) * len(kernel), ceil)
    y = _windows(wide(x), kernel, stride, padding, (1,) * len(kernel), ceil, 0)
    total = _drop_inside(reduce(y, "sum", _inside(y, kernel)), kernel)
    if divisor is not None:
        return cast(_over(total, divisor), x.dtype)
    return cast(_divided(total, _counts(x, kernel, stride, padding, ceil, count_include_pad)), x.dtype)


avg_pool.adjoint(body_adjoint)


# --- adaptive ----------------------------------------------------------------------------------------------


def _prepare_adaptive(x: Value, *, size: Any) -> tuple[tuple[Value], dict[str, Any]]:
    count = _spatial("adaptive pooling", x, size)
    size = (size,) * count if isinstance(size, int) or size is None else tuple(size)
    if any(n is not None and n < 0 for n in size):
        raise AttributeValueError(f"adaptive pooling: a size can't be negative, got {size}")
    return (x,), {"size": size}


def _adaptive(x: Value, size: tuple[int | None, ...], kind: str, fill: Any) -> tuple[Value, list[np.ndarray]]:
    """Reduce bins of each axis in turn; also how many entries each bin has.

    Bin i of o is ``floor(i * n / o)`` to ``ceil((i + 1) * n / o)``: equal bins are an ungroup, others are
    gathered, the shorter ones filled up.
    """
    counts: list[np.ndarray] = []
    for axis, (n, wanted) in enumerate(zip(_sizes(x, size), size, strict=True), x.rank - len(size)):
        out = n if wanted is None else wanted
        bins = np.arange(out)
        start, stop = bins * n // max(out, 1), -((bins + 1) * n // -max(out, 1))
        counts.append(stop - start)
        if out == n:
            continue
        even = out and n % out == 0
        x = ungroup(x, axis, (out, n // out)) if even else _uneven(x, axis, start, stop, fill)
        x = reduce(x, kind, (axis + 1,), keep=False)
    return x, counts


def _uneven(x: Value, axis: int, start: np.ndarray, stop: np.ndarray, fill: Any) -> Value:
    """Entries ``start[i]`` to ``stop[i]`` of an axis as axes ``i k``, ``fill`` after the shorter ones."""
    width = int((stop - start).max(initial=0))
    places = start[:, None] + np.arange(width)
    inside = places < stop[:, None]
    x = gather(x, const(np.where(inside, places, start[:, None]), i64), axis)
    if inside.all():
        return x
    return where(unsqueeze(const(inside), range(2, x.rank - axis)), x, fill)


@composite(prepare=_prepare_adaptive)
def adaptive_avg_pool(x: Value, *, size: tuple[int | None, ...]) -> Value:
    """Mean over ``size`` bins of each spatial axis, uneven if they must be; None leaves an axis as it is."""
    total, counts = _adaptive(wide(x), size, "sum", 0)
    return cast(_divided(total, counts), x.dtype)


adaptive_avg_pool.adjoint(body_adjoint)


@adaptive_avg_pool.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of floats that have entries, into bins; the rest is the body's to take or refuse."""
    if len(types) != 1 or op.given != (True,) or not types[0].dtype.is_float:
        return None
    size = _each(op.size)
    x, bins = types[0], tuple([1 if n is None else n for n in size])
    if not 0 < len(bins) <= x.rank or 0 in x.shape or not _are_counts(bins, len(bins), 1):
        return None
    lead = x.rank - len(bins)
    return x.with_shape((*x.shape[:lead], *[b if n is None else n for n, b in zip(size, x.shape[lead:], strict=True)]))


@composite(prepare=_prepare_adaptive)
def adaptive_max_pool(x: Value, *, size: tuple[int | None, ...]) -> Value:
    """Largest entry over ``size`` bins of each spatial axis; None leaves an axis as it is."""
    return _adaptive(x, size, "max", _lowest(x))[0]


@composite(prepare=_prepare_adaptive)
def adaptive_max_pool_with_indices(x: Value, *, size: tuple[int | None, ...]) -> tuple[Value, Value]:
    """:func:`adaptive_max_pool`, and where it came from: the index (i64) into the spatial axes as one.

    Of equal entries the first counts, of several NaN the last.
    """
    lead = x.rank - len(size)
    sizes = _sizes(x, size)
    beyond = math.prod(sizes)
    places = ungroup(iota(beyond), 0, sizes)
    inside: list[int] = []
    for axis, wanted in enumerate(size, lead):
        at = axis + len(inside)  # axes before it have become two: bins, and what is in them
        n = x.shape[at]
        out = n if wanted is None else wanted
        bins = np.arange(out)
        start, stop = bins * n // max(out, 1), -((bins + 1) * n // -max(out, 1))
        x = _uneven(x, at, start, stop, _lowest(x))
        places = _uneven(places, at - lead, start, stop, beyond)
        inside.append(at + 1)
    places = broadcast_to(places, x.shape)
    best = reduce(x, "max", inside)
    hit = equal(x, broadcast_to(best, x.shape))
    index = reduce(where(hit, places, beyond), "min", inside)
    if x.dtype.is_float:
        last = reduce(where(isnan(x), places, -1), "max", inside)
        index = where(isnan(best), last, index)
    return squeeze(best, inside), squeeze(index, inside)


@composite
def max_unpool(x: Value, index: Value, *, size: tuple[int, ...]) -> Value:
    """The entries of x ``[.. spatial..]`` in zeros of ``[.. size..]``, each where ``index`` says, as one spatial axis.

    The index is that of :func:`max_pool_with_indices`.
    """
    k = len(size)
    if k > x.rank or index.shape != x.shape:
        raise TypeMismatchError(f"max_unpool: the index {index.type} is not one for each entry of {x.type}, or {size}")
    lead = x.rank - k
    flat, places = (group(v, [*(1,) * lead, k]) for v in (x, cast(index, "i64")))
    zeros = broadcast_to(const(scalar(0, x.dtype), x.dtype), (*x.shape[:lead], math.prod(size)))
    return ungroup(put_along(zeros, places, flat, lead), lead, size)


@max_unpool.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms, index: Terms) -> Terms:
    """Sizes are numbers in torch, as many times those of x as there are now if nothing else tells."""
    terms = list(rules.join(x, index))
    rules.expect(0, tuple(terms))
    rules.expect(1, tuple(terms))
    for axis, wanted in enumerate(op.attributes["size"], len(x) - len(op.attributes["size"])):
        rules.mark(x[axis], "puts back")
        n = math.prod([a.size for a in x[axis]])
        times = wanted // n if n and wanted % n == 0 else 0
        terms[axis] = rules.line([x[axis]] * times, firm=False) if times and x[axis] else rules.fresh(wanted, "bins")
        rules.guess(x[axis], f"is unpooled to {wanted} entries", terms[axis])
    return tuple(terms)


@max_unpool.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value:
    x, index = args
    lead = max(args, key=lambda a: a.rank).shape  # one of them may have a batch that the other hasn't
    x, index = (broadcast_to(a, (*lead[: len(lead) - a.rank], *a.shape)) for a in (x, index))
    return max_unpool(x, index, size=tuple([p.size for p in plan[len(plan) - len(op.attributes["size"]) :]]))


def _bins(op: Composite, rules: AxisRules, out: ValueType, x: Terms) -> Any:
    """As many bins as there are, whatever the size of x: what the result goes into may tell of another number."""
    sizes = op.attributes["size"]
    lead = len(x) - len(sizes)
    terms = list(x)
    for axis, wanted in enumerate(sizes, lead):
        if wanted is not None:
            rules.mark(x[axis], "takes bins of")
            if wanted != 1 or math.prod([a.size for a in x[axis]]) <= 3:  # None, a half or a factor in the source
                rules.guess(x[axis], f"is pooled to {wanted} entries")
            terms[axis] = rules.fresh(wanted, "bins") if wanted != 1 else rules.one()
    return tuple(terms) if isinstance(out, TensorType) else [tuple(terms)] * len(out)


def _binned(op: Composite, args: Sequence[Value], *plans: Plan) -> Value:
    size = op.attributes["size"]
    last = plans[0][len(plans[0]) - len(size) :]
    return op.definition(args[0], size=tuple([None if n is None else p.size for n, p in zip(size, last, strict=True)]))


for definition in (adaptive_avg_pool, adaptive_max_pool, adaptive_max_pool_with_indices):
    definition.axes(_bins)
    definition.adapt(_binned)
