"""ONNX's pools: over windows, over everything, over regions of interest, and what undoes a max pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.layers.windows import Pairs, check_entries, counts, padding, per_axis, spans, windows
from tdagger.frameworks.onnx.ops.table import Ints, rule, unsupported
from tdagger.library.shape import linear_index
from tdagger.op import Value
from tdagger.ops.elementwise import cast, ceil, equal, floor, full_like, isnan, maximum, minimum, where
from tdagger.ops.indexing import Gather, iota_like, scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import Group, broadcast_to, group, pad, reduce, slice_axis, squeeze, ungroup, unsqueeze

# --- over windows ------------------------------------------------------------------------------------------


class _Windows(NamedTuple):
    """The windows of a pool: what the attributes say, and how many there are along each axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pairs
    ceil: bool
    number: tuple[int, ...]

    def options(self, dilated: bool) -> dict[str, Any] | None:
        """As the composites have them; None where they can't say it: uneven padding, or more than half a window."""
        span = spans(self.kernel, self.dilations)
        if any(a != b or a > w // 2 for (a, b), w in zip(self.pads, span, strict=True)):
            return None
        if not dilated and any(d != 1 for d in self.dilations):
            return None
        found: dict[str, Any] = {"kernel": self.kernel, "stride": self.strides, "ceil": self.ceil}
        found["padding"] = tuple([a for a, _ in self.pads])
        return {**found, "dilation": self.dilations} if dilated else found

    def of(self, x: Value, fill: Any) -> tuple[Value, tuple[int, ...]]:
        """The entries of each window, as :func:`windows` has them."""
        return windows(x, self.kernel, self.strides, self.dilations, self.pads, self.number, fill)


def _windows(
    X: Value, kernel_shape: Sequence[int], auto_pad: str, ceil_mode: int, dilations: Sequence[int] | None,
    pads: Sequence[int] | None, strides: Sequence[int] | None,
) -> _Windows:  # fmt: skip
    n = len(kernel_shape)
    if X.rank != n + 2:
        raise unsupported(f"its kernel_shape {list(kernel_shape)} doesn't fit its input {X.type}")
    kernel, step, dilation = tuple(kernel_shape), per_axis(strides, n, "strides"), per_axis(dilations, n, "dilations")
    span = spans(kernel, dilation)
    pairs = padding(auto_pad, pads, X.shape[2:], span, step)
    # with SAME_* there are as many windows as the padding was made for: there is nothing to round up
    up = bool(ceil_mode) and auto_pad not in ("SAME_UPPER", "SAME_LOWER")
    return _Windows(kernel, step, dilation, pairs, up, counts(X.shape[2:], span, step, pairs, up))


def _together(y: Value, spatial: int) -> Value:
    """``[.. w 1 w 1 ..]`` as ``[.. w w ..]``."""
    return Group((*(1,) * (y.rank - 2 * spatial), *(2,) * spatial))(y)


def lowest(x: Value) -> Any:
    """What no entry of the element type of x is below."""
    return -math.inf if x.dtype.is_float else int(np.iinfo(x.dtype.numpy).min)


@rule("MaxPool")
def max_pool(
    X: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    pads: Ints | None = None, storage_order: int = 0, strides: Ints | None = None, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """The largest of each window; NaN stays, which the specification leaves open (onnxruntime drops it).

    The places count over all axes of X, the batch's too.
    """
    found = _windows(X, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    options = found.options(True)
    if not any(wanted[1:]):
        if options is not None:
            return lib.max_pool(X, **options)
        y, inside = found.of(X, lowest(X))
        return _together(reduce(y, "max", inside), len(kernel_shape))
    best, place = lib.max_pool_with_indices(X, **options) if options is not None else _with_places(X, found)
    return best, _in_all(X, place, storage_order)


def _with_places(x: Value, found: _Windows) -> tuple[Value, Value]:
    """The largest of each window and its place in the spatial axes as one; of equal ones the first."""
    sizes, n = x.shape[2:], len(found.kernel)
    beyond = math.prod(sizes)
    y, inside = found.of(x, lowest(x))
    best = reduce(y, "max", inside)
    counted = lib.reshape(iota(beyond), shape=(1, 1, *sizes))
    places = broadcast_to(found.of(counted, beyond)[0], y.shape)
    first = reduce(where(equal(y, broadcast_to(best, y.shape)), places, beyond), "min", inside)
    if x.dtype.is_float:
        first = where(isnan(best), reduce(where(isnan(y), places, -1), "max", inside), first)
    return _together(best, n), _together(first, n)


def _in_all(x: Value, place: Value, order: int) -> Value:
    """Places in a plane as places in all of x; order 1 counts the plane's first axis fastest."""
    sizes = x.shape[2:]
    if order:
        rest, turned, step = place, full_like(place, 0), math.prod(sizes)
        for n in reversed(sizes):
            step //= n
            turned = turned + rest % n * step
            rest = rest // n
        place = turned
    planes = group(x, (1, 1, len(sizes)))  # tells the sizes, which follow those of x
    return linear_index(planes, iota_like(place, 0), iota_like(place, 1), place, axis=0, signed=(False,) * 3)


@rule("AveragePool", since=7)
def average_pool(
    X: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """The mean of each window; what a window has beyond the padding never counts."""
    found = _windows(X, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    options = found.options(False)
    if options is not None:
        return lib.avg_pool(X, count_include_pad=bool(count_include_pad), **options)
    x = cast(X, "f32") if X.dtype.bytes < 4 else X
    y, inside = found.of(x, 0)
    total = _together(reduce(y, "sum", inside), len(kernel_shape))
    return cast(total / const(entries(X, found, bool(count_include_pad)).astype(x.dtype.numpy)), X.dtype)


def entries(X: Value, found: _Windows, padded: bool) -> Any:
    """How many entries each window has, those of the padding among them if ``padded``."""
    check_entries(max([n * k for n, k in zip(found.number, found.kernel, strict=True)]))
    check_entries(math.prod(found.number))
    area = np.ones(())
    for n, (low, high), k, s, d, number in zip(
        X.shape[2:], found.pads, found.kernel, found.strides, found.dilations, found.number, strict=True
    ):
        places = np.arange(number)[:, None] * s - low + np.arange(k) * d
        inside = (places >= -low) & (places < n + high) if padded else (places >= 0) & (places < n)
        area = np.multiply.outer(area, inside.sum(1))
    return area


@rule("LpPool", since=2)
def _lp_pool(
    X: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints | None = None,
    p: int = 2, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    found = _windows(X, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    y, inside = found.of(X, 0)
    return _together(lib.vector_norm(y, ord=float(p), axes=inside, keep=True), len(kernel_shape))


# --- over everything ---------------------------------------------------------------------------------------


@rule("GlobalAveragePool")
def global_average_pool(X: Value) -> Value:
    """The mean of each channel, as torch's adaptive pool to one entry."""
    return lib.adaptive_avg_pool(X, size=(1,) * (X.rank - 2))


@rule("GlobalMaxPool")
def _global_max_pool(X: Value) -> Value:
    return lib.adaptive_max_pool(X, size=(1,) * (X.rank - 2))


@rule("GlobalLpPool", since=2)
def _global_lp_pool(X: Value, *, p: int = 2) -> Value:
    return lib.vector_norm(X, ord=float(p), axes=tuple(range(2, X.rank)), keep=True)


# --- what undoes a max pool --------------------------------------------------------------------------------


@rule("MaxUnpool", since=9)
def _max_unpool(
    X: Value, I: Value, output_shape: Ints | None = None, *, kernel_shape: Ints, pads: Ints | None = None,  # noqa: E741
    strides: Ints | None = None,
) -> Value:  # fmt: skip
    """Entries in zeros, at places of a tensor of the size that the pool's attributes tell of.

    With an ``output_shape`` that tensor stands at the start of a larger one (onnxruntime takes the places as those of
    the larger one).
    """
    n = len(kernel_shape)
    each = per_axis(pads, 2 * n, "pads", 0)
    step = per_axis(strides, n, "strides")
    sizes = [
        (m - 1) * s - low - high + k
        for m, s, k, low, high in zip(X.shape[2:], step, kernel_shape, each[:n], each[n:], strict=True)
    ]
    planes = I.args[0] if I.op.name == "linear_index" and len(I.args) == 4 else None
    if planes is not None and planes.shape == (
        *X.shape[:2],
        math.prod(sizes),
    ):  # places of a max pool
        out = lib.max_unpool(X, I.args[3], size=tuple(sizes))
    else:
        total = X.shape[0] * X.shape[1] * math.prod(sizes)
        zeros = broadcast_to(full_like(slice_axis(lib.reshape(X, shape=(-1,)), 0, 0, 1), 0), (total,))
        out = scatter(zeros, lib.reshape(cast(I, "i64"), shape=(-1,)), lib.reshape(X, shape=(-1,)), 0)
        out = lib.reshape(out, shape=(*X.shape[:2], *sizes))
    if output_shape is None:
        return out
    more = [(0, w - m) for w, m in zip(output_shape, out.shape, strict=True)]
    if any(b < 0 for _, b in more):
        raise unsupported(f"its output_shape {list(output_shape)} is smaller than {list(out.shape)}")
    return pad(out, more)


# --- over regions of interest ------------------------------------------------------------------------------


@rule("NonMaxSuppression", since=10)
def _non_max_suppression(*inputs: Value, center_point_box: int = 0) -> Value:
    raise unsupported(
        "how many boxes it selects depends on data, which a TDAG doesn't have: td.Program.from_onnx imports it"
    )


@rule("RoiAlign", since=10)
def _roi_align_10(
    X: Value, rois: Value, batch_indices: Value, *, mode: str = "avg", output_height: int = 1, output_width: int = 1,
    sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Value:  # fmt: skip
    return _roi_align(
        X, rois, batch_indices, coordinate_transformation_mode="output_half_pixel", mode=mode,
        output_height=output_height, output_width=output_width, sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )  # fmt: skip


@rule("RoiAlign", since=16)
def _roi_align(
    X: Value, rois: Value, batch_indices: Value, *, coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg", output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Value:  # fmt: skip
    """Samples between the entries of each region, averaged over each of its bins.

    The largest (mode max) is of the weighted neighbours of each sample, as onnx and onnxruntime compute it.
    """
    if mode not in ("avg", "max") or coordinate_transformation_mode not in ("half_pixel", "output_half_pixel"):
        raise unsupported(f"its mode {mode} or {coordinate_transformation_mode} isn't known")
    if sampling_ratio <= 0:
        raise unsupported("with sampling_ratio 0 the number of samples depends on the regions, which are data")
    half = coordinate_transformation_mode == "half_pixel"
    of_region = Gather(0, 0)(X, cast(batch_indices, "i64"))  # [r c h w]
    edges = rois * spatial_scale
    edges = edges - 0.5 if half else edges
    axes: list[list[tuple[Value, Value]]] = []
    for axis, (bins, n) in enumerate(((output_height, X.shape[2]), (output_width, X.shape[3]))):
        start, stop = (slice_axis(edges, 1, at, at + 1) for at in (1 - axis, 3 - axis))
        length = stop - start if half else maximum(stop - start, 1.0)
        part = (np.arange(bins)[:, None] + (np.arange(sampling_ratio) + 0.5) / sampling_ratio).reshape(-1)
        at = start + length * unsqueeze(const((part / bins).astype(X.dtype.numpy)), (0,))  # [r (bins samples)]
        axes.append(_neighbours(at, n))
    parts: list[Value] = []
    for row, row_weight in axes[0]:
        band = Gather(2, 1)(of_region, row)
        for column, column_weight in axes[1]:
            weight = unsqueeze(row_weight, (2,)) * unsqueeze(column_weight, (1,))
            parts.append(Gather(3, 1)(band, column) * unsqueeze(weight, (1,)))
    total = parts[0]
    for part in parts[1:]:
        total = total + part if mode == "avg" else maximum(total, part)
    total = ungroup(ungroup(total, 3, (output_width, sampling_ratio)), 2, (output_height, sampling_ratio))
    return lib.mean(total, axes=(3, 5)) if mode == "avg" else reduce(total, "max", (3, 5), keep=False)


def _neighbours(at: Value, n: int) -> list[tuple[Value, Value]]:
    """The two entries around places of an axis of ``n``, and their weights; 0 where the place is far outside."""
    inside = (at >= -1.0) & (at <= float(n))
    near = minimum(maximum(at, 0.0), float(n - 1))
    low = floor(near)
    part = near - low
    high = minimum(low + 1.0, float(n - 1))
    return [
        (cast(low, "i64"), where(inside, 1.0 - part, 0.0)),
        (cast(high, "i64"), where(inside, part, 0.0)),
    ]


@rule("MaxRoiPool")
def _max_roi_pool(X: Value, rois: Value, *, pooled_shape: Ints, spatial_scale: float = 1.0) -> Value:
    """The largest of each bin of each region ``(image, x1, y1, x2, y2)``; bins overlap, an empty one gives 0."""
    of_region = Gather(0, 0)(X, squeeze(cast(slice_axis(rois, 1, 0, 1), "i64"), (1,)))
    found, empty = of_region, None
    for axis, bins in enumerate(pooled_shape, 2):
        n = X.shape[axis]
        edges = [_half_away(slice_axis(rois, 1, at, at + 1) * spatial_scale) for at in (4 - axis, 6 - axis)]
        size = maximum(edges[1] - edges[0] + 1.0, 1.0) / float(bins)
        bin_ = unsqueeze(cast(iota(bins), rois.dtype), (0,))
        start, stop = _limited(floor(bin_ * size) + edges[0], n), _limited(ceil((bin_ + 1.0) * size) + edges[0], n)
        entry = unsqueeze(cast(iota(n), rois.dtype), (0, 1))
        inside = (entry >= unsqueeze(start, (2,))) & (entry < unsqueeze(stop, (2,)))  # [r bins n]
        inside = unsqueeze(inside, (1, 2) if axis == 3 else (1,))
        inside = unsqueeze(inside, (4,)) if axis == 2 else inside
        found = reduce(where(inside, unsqueeze(found, (axis,)), lowest(X)), "max", (axis + 1,), keep=False)
        none = unsqueeze(stop <= start, (1, 3) if axis == 2 else (1, 2))
        empty = none if empty is None else empty | none
    assert empty is not None
    return where(empty, 0.0, found)


def _half_away(x: Value) -> Value:
    """Rounded, halves away from zero."""
    return where(x < 0.0, ceil(x - 0.5), floor(x + 0.5))


def _limited(x: Value, n: int) -> Value:
    return minimum(maximum(x, 0.0), float(n))
