"""Interpolation and sampling at a grid: x ``[.. spatial..]`` and ``[.. c spatial..]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.adjoint import body_adjoint
from tdagger.library.linear import wide
from tdagger.library.pool import adaptive_avg_pool
from tdagger.op import Array, AxisRules, Plan, Terms, Value
from tdagger.ops.elementwise import (
    abs_,
    cast,
    floor,
    greater_equal,
    less_equal,
    maximum,
    minimum,
    round_,
    where,
)
from tdagger.ops.indexing import Gather, gather
from tdagger.ops.source import const
from tdagger.ops.structure import group, reduce, repeat, slice_axis, split, squeeze, unsqueeze
from tdagger.types import TensorType, i64

# --- where each entry of a result comes from, along one axis ------------------------------------------------
# Positions are computed in the type torch computes them in, so that a rounding at .5 falls the same way.


def _step(n: int, out: int, align_corners: bool, scale: float | None, real: Any) -> Any:
    """How far apart in x two neighbours of the result are."""
    if align_corners:
        return real(n - 1) / real(out - 1) if out > 1 else real(0)
    return real(1 / scale) if scale else real(n) / real(out)


def _nearest(n: int, out: int, exact: bool, scale: float | None) -> Array:
    """The entry each entry of the result is a copy of."""
    real = np.float32
    step = _step(n, out, False, scale, real)
    offset = real(0.5 if exact else 0)
    places = np.floor((np.arange(out, dtype=real) + offset) * step).astype(np.int64)
    return np.minimum(places, n - 1)


def _cubic(t: Array, a: float) -> Array:
    """Keys' cubic convolution kernel at distance t."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0)).astype(t.dtype)


def _triangle(t: Array) -> Array:
    return np.maximum(1 - np.abs(t), 0)


def _taps(n: int, out: int, cubic: bool, align_corners: bool, scale: float | None, real: Any) -> tuple[Array, Array]:
    """Entries (``[out taps]``, i64) and their weights for linear (2) or cubic (4) interpolation."""
    step = _step(n, out, align_corners, scale, real)
    places = np.arange(out, dtype=real)
    at = places * step if align_corners else step * (places + real(0.5)) - real(0.5)
    if not cubic:
        at = np.maximum(at, real(0))
    base = np.floor(at)
    base = base if cubic else np.minimum(base, real(n - 1))
    offsets = np.arange(-1, 3) if cubic else np.arange(2)
    distance = np.clip(at - base, 0, 1)[:, None] - offsets.astype(real)
    weights = _cubic(distance, -0.75) if cubic else _triangle(distance)
    index = np.clip(base.astype(np.int64)[:, None] + offsets, 0, n - 1)
    return index, weights.astype(real)


def _smooth_taps(
    n: int, out: int, cubic: bool, align_corners: bool, scale: float | None, real: Any
) -> tuple[Array, Array]:
    """The same with antialiasing: where entries are skipped the kernel is as wide as a step."""
    step = _step(n, out, align_corners, scale, real)
    wider = np.maximum(step, real(1))
    support = real(2 if cubic else 1) * wider
    center = step * (np.arange(out, dtype=real) + real(0.5))
    first = np.maximum((center - support + real(0.5)).astype(np.int64), 0)
    stop = np.minimum((center + support + real(0.5)).astype(np.int64), n)
    offsets = np.arange(max(int((stop - first).max(initial=1)), 1))
    index = first[:, None] + offsets
    distance = (index - center[:, None] + real(0.5)) / wider
    weights = _cubic(distance, -0.5) if cubic else _triangle(distance)
    weights = np.where(index < stop[:, None], weights, 0)
    total = weights.sum(1, keepdims=True)
    weights = np.where(total != 0, weights / np.where(total == 0, 1, total), weights)
    return np.minimum(index, np.maximum(stop - 1, first)[:, None]), weights.astype(real)


# --- interpolate -------------------------------------------------------------------------------------------


def _copied(x: Value, axis: int, places: Array) -> Value:
    """Entries ``places`` of an axis, as a repeat or a slice where they are one."""
    n, out = x.shape[axis], len(places)
    if n and out % n == 0 and (places == np.arange(out) // (out // n)).all():
        times = out // n
        if times == 1:
            return x
        x = unsqueeze(x, (axis + 1,))
        x = repeat(x, [times if i == axis + 1 else None for i in range(x.rank)])
        return group(x, [2 if i == axis else 1 for i in range(x.rank - 1)])
    steps = np.diff(places)
    if out > 1 and steps[0] > 0 and (steps == steps[0]).all():
        return slice_axis(x, axis, int(places[0]), int(places[-1]) + 1, int(steps[0]))
    return gather(x, const(places, i64), axis)


def _mixed(x: Value, axis: int, index: Array, weights: Array) -> Value:
    """Sums of entries ``index[i]`` of an axis times ``weights[i]``."""
    taps = gather(x, const(index, i64), axis)
    factors = unsqueeze(const(weights.astype(x.dtype.numpy)), range(2, x.rank - axis + 1))
    return reduce(taps * factors, "sum", (axis + 1,), keep=False)


#: A factor is taken as a fraction of which neither part is larger than this.
_PARTS = 64

_MODES = ("nearest", "nearest-exact", "linear", "cubic", "area")


def _prepare(
    x: Value, *, size: Any, mode: str, align_corners: bool = False, antialias: bool = False, scale: Any = None
) -> tuple[tuple[Value], dict[str, Any]]:
    count = x.rank - 2 if isinstance(size, int) else len(size)
    if not 1 <= count <= x.rank:
        raise TypeMismatchError(f"interpolate: x must be [b c spatial..], or have an axis for each size, got {x.type}")
    if mode not in _MODES:
        raise AttributeValueError(f"interpolate: mode {mode!r} is none of {', '.join(_MODES)}")
    size = (size,) * count if isinstance(size, int) else tuple(size)
    scale = (float(scale),) * count if isinstance(scale, int | float) else scale and tuple(scale)
    if scale and len(scale) != count:
        raise AttributeValueError(f"interpolate: {scale} should have {count} entries, one per spatial axis")
    if (mode == "cubic" or antialias) and count != 2:
        raise TypeMismatchError(f"interpolate: cubic and antialiased modes take x [.. h w], got {x.type} and {size}")
    if align_corners and mode not in ("linear", "cubic"):
        raise AttributeValueError(f"interpolate: align_corners is for linear and cubic, not {mode}")
    if antialias and mode not in ("linear", "cubic"):
        raise AttributeValueError(f"interpolate: antialias is for linear and cubic, not {mode}")
    if not x.dtype.is_float and not mode.startswith("nearest"):
        raise TypeMismatchError(f"interpolate: mode {mode} takes floats, got {x.type}")
    given = {
        "size": size,
        "mode": mode,
        "align_corners": align_corners,
        "antialias": antialias,
        "scale": scale,
    }
    return (x,), given


@composite(prepare=_prepare)
def interpolate(
    x: Value, *, size: tuple[int, ...], mode: str, align_corners: bool = False, antialias: bool = False,
    scale: tuple[float | None, ...] | None = None,
) -> Value:  # fmt: skip
    """Resize the last axes of x ``[.. s..]`` to ``size``: as many as it has entries, all but two if it is one int.

    ``mode`` is nearest, nearest-exact, linear (bilinear, trilinear), cubic (2d) or area. ``scale``,
    where torch was given one, replaces size / s in computing positions. ``antialias`` widens the kernel when
    shrinking.
    """
    scales, lead = scale or (None,) * len(size), x.rank - len(size)
    if lead < 0:
        raise TypeMismatchError(f"interpolate: {size} is for {len(size)} axes, got {x.type}")
    if mode == "area":
        return adaptive_avg_pool(x, size=size)
    if mode.startswith("nearest"):
        for axis, (out, factor) in enumerate(zip(size, scales, strict=True), lead):
            n = x.shape[axis]
            if mode == "nearest" and len(size) == 2 and out in (n, 2 * n):
                factor = None  # as torch, which has a short cut for these in 2d
            x = _copied(x, axis, _nearest(n, out, mode == "nearest-exact", factor))
        return x
    y = wide(x)
    taps = _smooth_taps if antialias else _taps
    for axis, (out, factor) in reversed(list(enumerate(zip(size, scales, strict=True), lead))):
        n = y.shape[axis]
        if out != n or (mode == "cubic" and not antialias):  # else torch copies, whatever the scale
            y = _mixed(y, axis, *taps(n, out, mode == "cubic", align_corners, factor, y.dtype.numpy.type))
    return cast(y, x.dtype)


@interpolate.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of floats that have entries, to as many sizes as scales; the rest is the body's to take or refuse."""
    if len(types) != 1 or op.given != (True,) or not types[0].dtype.is_float or op.mode not in _MODES:
        return None
    x, size, scale = types[0], op.size, op.scale or (None,) * len(op.size)
    lead = x.rank - len(size)
    if lead < 0 or len(scale) != len(size) or not all(isinstance(n, int) and n > 0 for n in (*x.shape, *size)):
        return None
    return (
        x.with_shape((*x.shape[:lead], *size))
        if all(s is None or (type(s) is float and s > 0) for s in scale)
        else None
    )


@interpolate.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms) -> Terms:
    """Sizes follow the factors that were given. Else what the result goes into tells.

    Where nothing does, it is taken to have the size of another dimension that comes of the same axis of an input
    (``size=skip.shape[-2:]``), or a factor of its own.
    """
    sizes, scales = op.attributes["size"], op.attributes["scale"] or (None,) * len(op.attributes["size"])
    lead = len(x) - len(sizes)
    terms = list(x)
    for axis, (wanted, factor) in enumerate(zip(sizes, scales, strict=True), lead):
        n = math.prod([a.size for a in x[axis]])
        rules.mark(x[axis], "interpolates")
        exact = Fraction(factor).limit_denominator(_PARTS) if factor else Fraction(wanted, max(n, 1))
        fits = exact * n // 1 == wanted  # ONNX rounds sizes by one factor of several axes, up too
        told = factor is not None and float(exact) == factor and fits
        like = None if told or wanted in (1, n) else rules.like(x[axis], wanted)
        if like is not None:
            terms[axis] = like
        elif x[axis] and (told or (fits and wanted != 1 and 1 in (exact.numerator, exact.denominator))):
            terms[axis] = rules.line([x[axis]] * exact.numerator, 0, exact.denominator, firm=told)
        else:
            terms[axis] = rules.fresh(wanted, "interpolated") if wanted != 1 else rules.one()
        if not told:
            rules.guess(x[axis], f"is interpolated to {wanted} entries", terms[axis])
    return tuple(terms)


@interpolate.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value:
    size = tuple([p.size for p in plan[len(plan) - len(op.attributes["size"]) :]])
    return interpolate(args[0], **{**op.attributes, "size": size})


interpolate.adjoint(body_adjoint)


# --- grid_sample -------------------------------------------------------------------------------------------


def _clip(v: Value, low: float, high: float) -> Value:
    return minimum(maximum(v, low), high)


def _reflect(v: Value, low: float, high: float) -> Value:
    """Positions folded back into ``low`` .. ``high``, as often as needed."""
    span = high - low
    if span == 0:
        return v * 0.0
    away = abs_(v - low)
    turns = floor(away / span)
    extra = away - turns * span
    even = (turns - floor(turns * 0.5) * 2.0) < 0.5
    return where(even, extra + low, high - extra)


def _padder(padding: str, n: int, align_corners: bool) -> Callable[[Value], Value]:
    """What the padding mode does to a position along an axis of ``n`` entries."""
    if padding == "zeros":
        return lambda v: v
    if padding == "border":
        return lambda v: _clip(v, 0.0, n - 1.0)
    low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
    return lambda v: _clip(_reflect(v, low, high), 0.0, n - 1.0)


def _cubic_weights(t: Value) -> list[Value]:
    """Weights of the entries at -1, 0, 1, 2 for a position t past entry 0."""

    def near(d: Value) -> Value:
        return (1.25 * d - 2.25) * d * d + 1.0

    def far(d: Value) -> Value:
        return ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0

    return [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]


Tap = tuple[Value, Value | None]


def _axis_taps(at: Value, mode: str, pad: Callable[[Value], Value]) -> list[Tap]:
    """Whole positions to read along an axis, and their weights (None: 1)."""
    if mode == "nearest":
        return [(round_(pad(at)), None)]
    if mode == "bilinear":
        at = pad(at)
        base = floor(at)
        part = at - base
        return [(base, 1.0 - part), (base + 1.0, part)]
    base = floor(at)
    weights = _cubic_weights(at - base)
    return [(pad(base + (i - 1.0)), w) for i, w in enumerate(weights)]


def _read(flat: Value, places: Sequence[Value], sizes: Sequence[int]) -> Value:
    """Entries of ``[.. c (s..)]`` at whole float positions ``[.. o..]`` per axis; 0 outside of x."""
    inside: Value | None = None
    index: Value | None = None
    for at, n in zip(places, sizes, strict=True):
        here = greater_equal(at, 0.0) & less_equal(at, n - 1.0)
        whole = cast(where(here, at, 0.0), i64)
        inside = here if inside is None else inside & here
        index = whole if index is None else index * n + whole
    assert inside is not None
    assert index is not None
    return where(unsqueeze(inside, (flat.rank - 2,)), Gather(flat.rank - 1, flat.rank - 2)(flat, index), 0.0)


_SAMPLE_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


@composite
def grid_sample(
    x: Value, grid: Value, *, mode: str = "bilinear", padding: str = "zeros", align_corners: bool = False
) -> Value:
    """Entries of x ``[.. c h w]`` at the positions of grid ``[.. o p 2]`` (x, y in -1..1) -> ``[.. c o p]``.

    In 3d x is ``[.. c d h w]`` and the grid ``[.. o p q 3]``. ``mode`` is bilinear (trilinear), nearest or
    bicubic (2d); ``padding`` what lies outside: zeros, border or reflection. -1 and 1 are the outer edges of
    the outer entries, or their centres with ``align_corners``.
    """
    dims = grid.shape[-1] if grid.rank else 0
    lead = x.rank - dims - 1
    if mode not in _SAMPLE_MODES or padding not in _PADDINGS:
        raise AttributeValueError(
            f"grid_sample: mode {mode!r} should be one of {_SAMPLE_MODES}, padding {padding!r} of {_PADDINGS}"
        )
    fits = lead >= 0 and grid.rank == x.rank and x.shape[:lead] == grid.shape[:lead]
    if dims not in (2, 3) or not fits or (mode == "bicubic" and dims != 2):
        raise TypeMismatchError(f"grid_sample: grid {grid.type} doesn't fit x {x.type} in mode {mode}")
    sizes = x.shape[lead + 1 :]
    flat = group(wide(x), [*(1,) * (lead + 1), dims])
    each: list[list[Tap]] = []
    # the grid's last axis runs from the innermost axis of x to the outermost
    for g, n in zip(reversed(split(wide(grid), [1] * dims, -1)), sizes, strict=True):
        g = squeeze(g, (-1,))
        at = (g + 1.0) * ((n - 1) / 2) if align_corners else ((g + 1.0) * float(n) - 1.0) * 0.5
        each.append(_axis_taps(at, mode, _padder(padding, n, align_corners)))
    out: Value | None = None
    for taps in product(*each):
        part = _read(flat, [at for at, _ in taps], sizes)
        weights = [w for _, w in taps if w is not None]
        if weights:
            part = part * unsqueeze(_product(weights), (lead,))
        out = part if out is None else out + part
    assert out is not None
    return cast(out, x.dtype)


def _product(values: Sequence[Value]) -> Value:
    out = values[0]
    for v in values[1:]:
        out = out * v
    return out
