"""ONNX's operators that resample: Resize and Upsample, GridSample, AffineGrid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce as folded
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.layers.windows import check_entries
from tdagger.frameworks.onnx.ops.table import Floats, Ints, rule, unsupported
from tdagger.library.linear import wide
from tdagger.op import Array, Value
from tdagger.ops.elementwise import cast, floor, maximum, minimum, round_, where
from tdagger.ops.indexing import Gather, gather
from tdagger.ops.source import const
from tdagger.ops.structure import group, permute, reduce, split, squeeze, unsqueeze

# Places are computed in float32, as onnxruntime and torch do: what falls on a half or a whole there does so here.
_F = np.float32

# --- where each entry comes from, along one axis -----------------------------------------------------------


class _Axis(NamedTuple):
    """How one axis is resized: its entries before and after, the scale, and the part of it that is taken."""

    axis: int
    n: int
    out: int
    scale: float
    #: Whether the scale is told; else it is out / n.
    given: bool
    roi: tuple[float, float]


def _places(a: _Axis, mode: str) -> Array:
    """The place in the argument of each entry of the result.

    With align_corners a given scale counts as it is (onnxruntime takes the whole number of entries instead).
    """
    y, scale = np.arange(a.out, dtype=_F), _F(a.scale)
    width = scale * _F(a.n) if a.given else _F(a.out)
    if mode == "align_corners":
        return y * _F(0) if a.out == 1 or width == 1 else y * (_F(a.n - 1) / (width - _F(1)))
    if mode == "asymmetric":
        return y / scale
    if mode == "pytorch_half_pixel" and a.out == 1:
        return y * _F(0)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (y + _F(0.5)) / scale - _F(0.5)
    if mode == "half_pixel_symmetric":
        return _F(a.n / 2) * (_F(1) - _F(a.out) / width) + (y + _F(0.5)) / scale - _F(0.5)
    if mode == "tf_half_pixel_for_nn":
        return (y + _F(0.5)) / scale
    if mode == "tf_crop_and_resize":
        start, end = map(_F, a.roi)
        if a.out == 1:
            return y + _F(0.5) * (start + end) * _F(a.n - 1)
        return start * _F(a.n - 1) + y * ((end - start) * _F(a.n - 1) / (width - _F(1)))
    raise unsupported(f"its coordinate_transformation_mode {mode} isn't known")


#: How a place becomes that of an entry.
_ROUNDED: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - _F(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + _F(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(t: Array, a: float) -> Array:
    """Keys' cubic kernel at distance t."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t <= 1, near, np.where(t < 2, ((t - 5) * t + 8) * t * a - 4 * a, 0))


def _taps(a: _Axis, places: Array, cubic: float | None, antialias: bool, exclude: bool) -> tuple[Array, Array]:
    """Entries ``[out taps]`` and their weights; ``cubic`` is the kernel's coefficient, None for linear.

    With ``antialias`` the kernel is as wide as a step where the axis shrinks. What lies outside is the entry at the
    edge, or with ``exclude`` nothing at all.
    """
    step = min(a.scale, 1.0) if antialias else 1.0
    first = math.floor(-(1 if cubic is None else 2) / step) + 1
    offsets = np.arange(first, 2 - first)
    x = places.astype(np.float64)
    base = np.ceil(x) - 1  # the entry before a place: of one on an entry the one before that
    distance = (offsets + (base - x)[:, None]) * step
    weights = np.clip(1 - np.abs(distance), 0, None) if cubic is None else _cubic(distance, cubic)
    index = base.astype(np.int64)[:, None] + offsets
    if exclude:
        weights = np.where((index >= 0) & (index < a.n), weights, 0)
    if antialias or exclude:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    return np.clip(index, 0, a.n - 1), weights


def _mixed(x: Value, axis: int, index: Array, weights: Array) -> Value:
    """Sums of entries ``index[i]`` of an axis times ``weights[i]``; taps of no weight anywhere are left out."""
    used = (weights != 0).any(0)
    index, weights = index[:, used], weights[:, used]
    taps = gather(x, const(index, "i64"), axis)
    factors = unsqueeze(const(weights.astype(x.dtype.numpy)), range(2, x.rank - axis + 1))
    return reduce(taps * factors, "sum", (axis + 1,), keep=False)


# --- Resize ------------------------------------------------------------------------------------------------


def _axes(
    X: Value, sizes: Ints | None, scales: Floats | None, roi: Floats | None, axes: Ints | None, policy: str
) -> list[_Axis]:
    over = tuple([a % X.rank for a in axes]) if axes is not None else tuple(range(X.rank))
    k = len(over)
    if sizes and scales:
        raise unsupported("it has both sizes and scales")
    given = list(scales) if scales else None
    if (given is None and not sizes) or len(given or sizes or ()) != k:
        raise unsupported(f"its scales or sizes {given or sizes} should be one for each of {k} axes")
    if given is not None:
        found = [(int(np.floor(_F(X.shape[a]) * _F(s))), float(_F(s))) for a, s in zip(over, given, strict=True)]
    else:
        assert sizes is not None
        found = _to_sizes([X.shape[a] for a in over], sizes, policy)
    check_entries(max([out for out, _ in found], default=0))
    roi = roi if roi else (*(0.0,) * k, *(1.0,) * k)
    return [
        _Axis(a, X.shape[a], out, scale, given is not None or policy != "stretch", (roi[i], roi[k + i]))
        for i, (a, (out, scale)) in enumerate(zip(over, found, strict=True))
    ]


def _to_sizes(have: Sequence[int], wanted: Ints, policy: str) -> list[tuple[int, float]]:
    """Sizes and scales; all axes by the scale of one if the proportions are to stay."""
    if policy == "stretch":
        return [(w, w / n if n else 1.0) for w, n in zip(wanted, have, strict=True)]
    if policy not in ("not_larger", "not_smaller"):
        raise unsupported(f"its keep_aspect_ratio_policy {policy} isn't known")
    each = [w / n for w, n in zip(wanted, have, strict=True) if n]
    one = min(each) if policy == "not_larger" else max(each)
    return [(math.floor(n * one + 0.5), one) for n in have]


@rule("Resize", since=11)
def _resize(
    X: Value, roi: Floats | None = None, scales: Floats | None = None, sizes: Ints | None = None, *,
    antialias: int = 0, axes: Ints | None = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Value:  # fmt: skip
    each = _axes(X, sizes, scales, roi, axes, keep_aspect_ratio_policy)
    where_ = coordinate_transformation_mode
    moved = [a for a in each if a.n != a.out or a.scale != 1 or where_ == "tf_crop_and_resize"]
    if mode == "nearest":
        return _nearest(X, moved, where_, nearest_mode, extrapolation_value)
    if mode not in ("linear", "cubic"):
        raise unsupported(f"its mode {mode} isn't known")
    if not X.dtype.is_float:
        raise unsupported(f"mode {mode} of {X.type}: how integers are rounded isn't specified")
    a = None if mode == "linear" else float(_F(cubic_coeff_a))
    if not antialias and not exclude_outside and (a is None or a == -0.75):
        as_torch = _as_torch(X, moved, mode, where_)
        if as_torch is not None:
            return as_torch
    out = wide(X)
    for axis in moved:
        places = _places(axis, where_)
        out = _mixed(out, axis.axis, *_taps(axis, places, a, bool(antialias), bool(exclude_outside)))
        out = _extrapolated(out, axis, places, where_, extrapolation_value)
    return cast(out, X.dtype)


def _extrapolated(x: Value, a: _Axis, places: Array, mode: str, value: float) -> Value:
    """Cropping leaves a number where it goes beyond the axis."""
    outside = (places < 0) | (places > a.n - 1)
    if mode != "tf_crop_and_resize" or not outside.any():
        return x
    return where(unsqueeze(const(outside), range(1, x.rank - a.axis)), value, x)


def _spatial(X: Value, moved: Sequence[_Axis]) -> list[_Axis] | None:
    """The last axes, as many as :func:`tdagger.library.interpolate` takes, if only they are resized."""
    found = {a.axis: a for a in moved}
    if not 3 <= X.rank <= 5 or not found or min(found) < 2:
        return None
    return [found.get(i, _Axis(i, n, n, 1.0, True, (0.0, 1.0))) for i, n in enumerate(X.shape) if i >= 2]


def _composite(X: Value, all_: Sequence[_Axis], mode: str, **more: Any) -> Value:
    scale = tuple([a.scale for a in all_]) if all(a.given for a in all_) else None
    return lib.interpolate(X, size=tuple([a.out for a in all_]), mode=mode, scale=scale, **more)


def _as_torch(X: Value, moved: Sequence[_Axis], mode: str, coordinates: str) -> Value | None:
    """What torch has as interpolate; None for the rest."""
    all_ = _spatial(X, moved)
    if all_ is None or (mode == "cubic" and len(all_) != 2):
        return None
    if coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and all(a.out > 1 for a in all_)):
        return _composite(X, all_, mode)
    if coordinates == "align_corners" and all(not a.given or a.scale * a.n == a.out for a in all_):
        return lib.interpolate(X, size=tuple([a.out for a in all_]), mode=mode, align_corners=True)
    return None


def _nearest(X: Value, moved: Sequence[_Axis], coordinates: str, rounding: str, outside: float) -> Value:
    if rounding not in _ROUNDED:
        raise unsupported(f"its nearest_mode {rounding} isn't known")
    places = [_places(a, coordinates) for a in moved]
    index = [np.clip(_ROUNDED[rounding](p), 0, a.n - 1).astype(np.int64) for a, p in zip(moved, places, strict=True)]
    return _copied(X, moved, places, index, coordinates, outside)


def _copied(
    X: Value, moved: Sequence[_Axis], places: Sequence[Array], index: Sequence[Array], coordinates: str,
    outside: float,
) -> Value:  # fmt: skip
    all_ = _spatial(X, moved)
    if all_ is not None and coordinates != "tf_crop_and_resize":
        for name, offset in (("nearest", 0.0), ("nearest-exact", 0.5)):
            has_short_cut = offset == 0 and len(all_) == 2
            if all((i == _torch_nearest(a, offset, has_short_cut)).all() for a, i in zip(moved, index, strict=True)):
                return _composite(X, all_, name)
    out = X
    for a, p, i in zip(moved, places, index, strict=True):
        out = _extrapolated(gather(out, const(i, "i64"), a.axis), a, p, coordinates, outside)
    return out


def _torch_nearest(a: _Axis, offset: float, has_short_cut: bool) -> Array:
    """The entries that torch copies (:mod:`tdagger.library.resize`); of images those of twice the size as such."""
    step = _F(1 / a.scale) if a.given else _F(a.n) / _F(a.out)
    if has_short_cut and a.out in (a.n, 2 * a.n):
        step = _F(a.n) / _F(a.out)
    return np.minimum(np.floor((np.arange(a.out, dtype=_F) + _F(offset)) * step).astype(np.int64), a.n - 1)


@rule("Resize", since=10)
def _resize_10(X: Value, scales: Floats, *, mode: str = "nearest") -> Value:
    """As Upsample; in shrinking the nearest entry is the next one, as in onnxruntime: the text doesn't say."""
    return _upsampled(X, scales, mode)


@rule("Upsample", since=7)
def _upsample(X: Value, scales: Floats, *, mode: str = "nearest") -> Value:
    return _upsampled(X, scales, mode)


def _upsampled(X: Value, scales: Floats, mode: str) -> Value:
    """From the first entry on: ``x / scale``."""
    if mode not in ("nearest", "linear", "bilinear"):
        raise unsupported(f"its mode {mode} isn't known")
    if mode != "nearest":
        return _resize(X, scales=scales, mode="linear", coordinate_transformation_mode="asymmetric")
    moved = [a for a in _axes(X, None, scales, None, None, "stretch") if a.scale != 1]
    places = [_places(a, "asymmetric") for a in moved]
    rounded = [np.ceil(p) if a.scale < 1 else np.floor(p) for a, p in zip(moved, places, strict=True)]
    index = [np.clip(r, 0, a.n - 1).astype(np.int64) for r, a in zip(rounded, moved, strict=True)]
    return _copied(X, moved, places, index, "asymmetric", 0.0)


# --- GridSample --------------------------------------------------------------------------------------------

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_TORCH_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}


@rule("GridSample", since=16)
def grid_sample(
    X: Value, grid: Value, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Value:
    """Entries at places in -1..1. The composite, torch's, but for what torch hasn't, and where the two differ.

    The nearest entry is rounded first, then reflected (torch: the other way round). Beyond a border each of the four
    entries of a cubic interpolation is that of the border, as in torch and onnxruntime; the reference of onnx takes the
    whole place to the border.
    """
    mode = _MODES.get(mode, mode)
    if mode not in _TORCH_MODES or padding_mode not in ("zeros", "border", "reflection"):
        raise unsupported(f"its mode {mode} or padding_mode {padding_mode} isn't known")
    dims = X.rank - 2
    if grid.rank != X.rank or grid.shape[-1] != dims:
        raise unsupported(f"its grid {grid.type} doesn't fit {X.type}")
    differs = (mode, padding_mode) == ("nearest", "reflection")
    if dims in (2, 3) and not differs and not (mode == "cubic" and dims == 3):
        return lib.grid_sample(
            X, grid, mode=_TORCH_MODES[mode], padding=padding_mode, align_corners=bool(align_corners)
        )
    sizes = X.shape[2:]
    each: list[list[tuple[Value, Value | None]]] = []
    for g, n in zip(reversed(split(wide(grid), [1] * dims, -1)), sizes, strict=True):
        g = squeeze(g, (-1,))
        at = (g + 1.0) * ((n - 1) / 2) if align_corners else ((g + 1.0) * float(n) - 1.0) * 0.5
        at = round_(at) if mode == "nearest" else at
        low, high = (0.0, n - 1.0) if align_corners else (-0.5, n - 0.5)
        taps = [(at, None)] if mode == "nearest" else _weighted(at, mode)
        each.append([(_bounded(v, padding_mode, low, high, n), w) for v, w in taps])
    return cast(_sampled(group(wide(X), [1, 1, dims]), each, sizes), X.dtype)


def between(x: Value, places: Sequence[Value], sizes: Sequence[int]) -> Value:
    """Entries of ``[b c (s..)]`` at places ``[b o..]`` per axis, linearly between them; 0 outside: ``[b c o..]``."""
    return cast(_sampled(wide(x), [_weighted(wide(at), "linear") for at in places], sizes), x.dtype)


def _sampled(flat: Value, each: Sequence[Sequence[tuple[Value, Value | None]]], sizes: Sequence[int]) -> Value:
    """The sum over all combinations of taps, which are whole places and weights for each axis."""
    out: Value | None = None
    for taps in product(*each):
        part = _read(flat, [v for v, _ in taps], sizes)
        weights = [w for _, w in taps if w is not None]
        part = part * unsqueeze(folded(lambda a, b: a * b, weights), (1,)) if weights else part
        out = part if out is None else out + part
    assert out is not None
    return out


def _bounded(v: Value, padding: str, low: float, high: float, n: int) -> Value:
    """A place brought into the axis."""
    if padding == "zeros":
        return v
    if padding == "reflection":
        span = high - low
        if span == 0:
            return v * 0.0
        away = maximum(low - v, v - low)  # its distance from the lower border
        turns = floor(away / span)
        rest = away - turns * span
        v = where(turns - floor(turns * 0.5) * 2.0 < 0.5, rest + low, high - rest)
    return minimum(maximum(v, 0.0), n - 1.0)


def _weighted(at: Value, mode: str) -> list[tuple[Value, Value | None]]:
    base = floor(at)
    t = at - base
    if mode == "linear":
        return [(base, 1.0 - t), (base + 1.0, t)]

    def near(d: Value) -> Value:
        return (1.25 * d - 2.25) * d * d + 1.0

    def far(d: Value) -> Value:
        return ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0

    weights = (far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t))
    return [(base + (i - 1.0), w) for i, w in enumerate(weights)]


def _read(flat: Value, places: Sequence[Value], sizes: Sequence[int]) -> Value:
    """Entries of ``[b c (s..)]`` at whole places ``[b o..]`` per axis; 0 outside."""
    inside: Value | None = None
    index: Value | None = None
    for at, n in zip(places, sizes, strict=True):
        here = (at >= 0.0) & (at <= n - 1.0)
        entry = cast(where(here, at, 0.0), "i64")
        inside = here if inside is None else inside & here
        index = entry if index is None else index * n + entry
    assert inside is not None
    assert index is not None
    return where(unsqueeze(inside, (1,)), Gather(2, 1)(flat, index), 0.0)


@rule("AffineGrid", since=20)
def _affine_grid(theta: Value, size: Ints, *, align_corners: int = 0) -> Value:
    """The places ``theta @ (x, y, 1)`` of a grid over -1..1."""
    spatial = size[2:]
    check_entries(math.prod(spatial) * (len(spatial) + 1))
    dtype = theta.dtype.numpy
    lines: list[Array] = []
    for n in spatial:
        steps = np.arange(n, dtype=np.float64)
        lines.append(steps * 2 / max(n - 1, 1) - 1 if align_corners else (steps * 2 + 1) / n - 1)
    grid = np.stack([*reversed(np.meshgrid(*lines, indexing="ij")), np.ones(spatial)], -1)
    flat = const(grid.reshape(-1, len(spatial) + 1).astype(dtype))
    out = lib.matmul(flat, permute(theta, (0, 2, 1)))
    return lib.reshape(out, shape=(theta.shape[0], *spatial, len(spatial)))
