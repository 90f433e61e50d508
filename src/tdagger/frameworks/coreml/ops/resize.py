"""MIL's ops that resize and resample the last axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Bool, Float, Int, Ints, Str, rule, unsupported
from tdagger.op import Array, Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather
from tdagger.ops.source import const, iota

#: Axes aren't made longer than this.
_LONGEST = 1 << 22


def _bounded(size: int) -> int:
    if not 0 < size <= _LONGEST:
        raise unsupported(f"a size of {size} isn't within 1 .. {_LONGEST}")
    return size


def places(n: int, size: int, mode: str) -> Array:
    """Where each of ``size`` new entries lies among ``n``, by the sampling modes of MIL."""
    i = np.arange(size, dtype=np.float64)
    last = n - 1
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        at = np.full(1, last / 2 if mode == "ALIGN_CORNERS" else 0.0) if size == 1 else i * (last / (size - 1))
    elif mode == "DEFAULT":
        at = i * (n / size)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, last) / size
        at = 0.5 * delta + i * delta
    elif mode == "UNALIGN_CORNERS":
        at = (i + 0.5) * (n / size) - 0.5
    else:
        raise unsupported(f"there is no sampling mode {mode}")
    return np.clip(at, 0, last)


def by_places(x: Value, axis: int, at: Array) -> Value:
    """Entries of an axis at places between them, by the two around each."""
    n = x.shape[axis]
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, n - 1)
    shape = [1] * x.rank
    shape[axis] = len(at)
    part = const((at - low).reshape(shape).astype(x.dtype.numpy), x.dtype)
    a, b = (gather(x, const(k, "i64"), axis) for k in (low, high))
    return a + (b - a) * part


def _bilinear(x: Value, size: Sequence[int], mode: str) -> Value:
    """The last axes resized, by torch's own where it has the mode."""
    old = x.shape[-len(size) :]
    if mode == "UNALIGN_CORNERS" and len(size) == 2 and x.rank >= 3:
        return lib.interpolate(x, size=tuple(size), mode="linear")
    corners = mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and 1 not in size)
    if corners and len(size) == 2 and x.rank >= 3:
        return lib.interpolate(x, size=tuple(size), mode="linear", align_corners=True)
    out = x
    for k, (n, m) in enumerate(zip(old, size, strict=True)):
        if n != m or mode == "OFFSET_CORNERS":
            out = by_places(out, x.rank - len(size) + k, places(n, m, mode))
    return out


def _scaled(n: int, factor: float) -> int:
    return _bounded(math.floor(n * factor))


@rule("upsample_bilinear")
def _upsample_bilinear(
    x: Value, scale_factor_height: Float = 1.0, scale_factor_width: Float = 1.0, align_corners: Bool = True,
    half_pixel_centers: Bool | None = None,
) -> Value:  # fmt: skip
    """Sizes are scaled and rounded down; what the places are goes by the sizes, not by the factors."""
    size = (_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width))
    if align_corners:
        return _bilinear(x, size, "STRICT_ALIGN_CORNERS")
    return _bilinear(x, size, "UNALIGN_CORNERS" if half_pixel_centers is not False else "DEFAULT")


@rule("resize_bilinear")
def _resize_bilinear(
    x: Value, target_size_height: Int = 1, target_size_width: Int = 1, sampling_mode: Str = "DEFAULT"
) -> Value:
    return _bilinear(x, (_bounded(target_size_height), _bounded(target_size_width)), sampling_mode)


@rule("upsample_nearest_neighbor")
def _upsample_nearest(x: Value, scale_factor_height: Float = 1.0, scale_factor_width: Float = 1.0) -> Value:
    size = (_scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width))
    return lib.interpolate(x, size=size, mode="nearest")


@rule("resize_nearest_neighbor")
def _resize_nearest(x: Value, target_size_height: Int, target_size_width: Int) -> Value:
    return lib.interpolate(x, size=(_bounded(target_size_height), _bounded(target_size_width)), mode="nearest")


@rule("resize")
def _resize(
    x: Value, shape: Ints, resized_dims: Int, interpolation_mode: Str = "LINEAR", sampling_mode: Str = "DEFAULT"
) -> Value:
    """The last axes in the sizes that ``shape`` ends with; 0 keeps a size."""
    count = resized_dims
    if not 0 < count <= min(len(shape), x.rank):
        raise unsupported(f"{count} resized dimensions of {x.type} by a shape {list(shape)}")
    old = x.shape[-count:]
    size = tuple([_bounded(n if m == 0 else m) for n, m in zip(old, shape[-count:], strict=True)])
    if interpolation_mode == "LINEAR":
        return _bilinear(x, size, sampling_mode)
    if interpolation_mode != "NEAREST_NEIGHBOR":
        raise unsupported(f"there is no interpolation mode {interpolation_mode}")
    if sampling_mode == "DEFAULT":  # of nearest entries the middle of each new one, as TensorFlow's half pixels
        sampling_mode = "UNALIGN_CORNERS"
    if sampling_mode == "UNALIGN_CORNERS" and count == 2 and x.rank >= 3:
        return lib.interpolate(x, size=size, mode="nearest-exact")
    out = x
    for k, (n, m) in enumerate(zip(old, size, strict=True)):
        at = places(n, m, sampling_mode)
        near = np.floor(at + 0.5).astype(np.int64)
        out = gather(out, const(np.minimum(near, n - 1), "i64"), x.rank - count + k)
    return out


# --- at coordinates ----------------------------------------------------------------------------------------

#: Paddings to torch's, and whether borders are at the middle of entries (align_corners) where that decides.
_PADDINGS = {"constant": ("zeros", None), "border": ("border", None), "reflection": ("reflection", True),
             "symmetric": ("reflection", False)}  # fmt: skip


@rule("resample")
def _resample(
    x: Value, coordinates: Value, sampling_mode: Str, padding_mode: Str, padding_value: Float, coordinates_mode: Str,
    align_corners: Bool,
) -> Value:  # fmt: skip
    """Entries at coordinates ``[b h w 2]`` (x, then y)."""
    found = _PADDINGS.get(padding_mode)
    if found is None or sampling_mode not in ("bilinear", "nearest"):
        raise unsupported(f"there is no resample by {sampling_mode} with padding {padding_mode}")
    padding, corners = found
    sizes = (x.shape[3], x.shape[2])
    grid = e.cast(coordinates, x.dtype)
    if coordinates_mode == "normalized_minus_one_to_one":
        if corners not in (None, align_corners):
            raise unsupported(f"padding {padding_mode} with align_corners={align_corners} isn't imported")
        aligned = align_corners
    elif coordinates_mode == "normalized_zero_to_one":
        if corners not in (None, align_corners):
            raise unsupported(f"padding {padding_mode} with align_corners={align_corners} isn't imported")
        aligned, grid = align_corners, grid * 2.0 - 1.0
    elif coordinates_mode == "unnormalized":
        aligned = corners is True
        widths = np.asarray([max(n - 1, 1) if aligned else n for n in sizes], np.float64)
        grid = grid * const((2 / widths).astype(x.dtype.numpy), x.dtype)
        grid = grid + const((np.zeros(2) if aligned else 1 / widths).astype(x.dtype.numpy) - 1, x.dtype)
    else:
        raise unsupported(f"there is no coordinates_mode {coordinates_mode}")
    shifted = padding == "zeros" and padding_value != 0
    y = lib.grid_sample(
        x - padding_value if shifted else x, grid, mode=sampling_mode, padding=padding, align_corners=aligned
    )
    return y + padding_value if shifted else y


@rule("affine")
def _affine(
    x: Value, transform_matrix: Value, output_height: Int, output_width: Int, sampling_mode: Str, padding_mode: Str,
    padding_value: Float, coordinates_mode: Str, align_corners: Bool,
) -> Value:  # fmt: skip
    """Entries where an affine map of the coordinates of the result leads."""
    if not align_corners or coordinates_mode != "normalized_minus_one_to_one":
        raise unsupported("an affine map is imported of normalized_minus_one_to_one coordinates with align_corners")
    h, w = _bounded(output_height), _bounded(output_width)
    ys, xs = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in (h, w))
    plane = np.stack([*np.meshgrid(xs, ys), np.ones((h, w))], -1).reshape(1, h * w, 3)
    maps = lib.reshape(transform_matrix, shape=(-1, 2, 3))
    grid = lib.matmul(const(plane.astype(x.dtype.numpy), x.dtype), s.transpose(maps, 1, 2))
    grid = lib.reshape(grid, shape=(-1, h, w, 2))
    if grid.shape[0] != x.shape[0]:
        grid = s.broadcast_to(grid, (x.shape[0], h, w, 2))
    return _resample(x, grid, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


# --- boxes -------------------------------------------------------------------------------------------------


@rule("crop_resize")
def _crop_resize(
    x: Value, roi: Value | None = None, boxes: Value | None = None, box_indices: Value | None = None,
    target_height: Int = 1, target_width: Int = 1, normalized_coordinates: Bool = False, spatial_scale: Float = 1.0,
    box_coordinate_mode: Str = "CORNERS_HEIGHT_FIRST", sampling_mode: Str = "DEFAULT", pad_value: Float = 0.0,
) -> Value:  # fmt: skip
    """Boxes ``[n 4]`` (or regions ``[n 1 4|5 1 1]``, whose results have an axis more) cut out and resized."""
    if roi is not None:
        flat = lib.reshape(roi, shape=(roi.shape[0], roi.shape[2]))
        if flat.shape[1] == 4:  # of every image
            out = [
                _boxes(x, flat, const(np.full(flat.shape[0], b), "i64"), (target_height, target_width),
                       normalized_coordinates, spatial_scale, box_coordinate_mode, sampling_mode, pad_value)
                for b in range(x.shape[0])
            ]  # fmt: skip
            return lib.stack(*out, axis=1)
        index = e.cast(s.select(flat, 1, 0), "i64")
        coords = s.slice_axis(flat, 1, 1, 5)
    else:
        if boxes is None:
            raise unsupported("it has neither roi nor boxes")
        coords = boxes
        index = iota(boxes.shape[0]) if box_indices is None else e.cast(box_indices, "i64")
    made = _boxes(x, coords, index, (target_height, target_width), normalized_coordinates, spatial_scale,
                  box_coordinate_mode, sampling_mode, pad_value)  # fmt: skip
    return s.unsqueeze(made, (1,)) if roi is not None else made


def _boxes(
    x: Value, boxes: Value, index: Value, size: tuple[int, int], normalized: bool, scale: float, layout: str,
    mode: str, fill: float,
) -> Value:  # fmt: skip
    coords = [e.cast(s.select(boxes, 1, k), "f32") for k in range(4)]
    if layout.endswith("WIDTH_FIRST"):
        coords = [coords[1], coords[0], coords[3], coords[2]]
    if layout.startswith("CENTER_SIZE"):
        coords = [coords[0] - coords[2] * 0.5, coords[1] - coords[3] * 0.5,
                  coords[0] + coords[2] * 0.5, coords[1] + coords[3] * 0.5]  # fmt: skip
    taken = gather(x, index, 0)
    inside: list[Value] = []
    out = taken
    for k, n in enumerate(x.shape[2:]):
        start, end = coords[k], coords[k + 2]
        if normalized:
            start, end = start * float(n - 1), end * float(n - 1)
        elif scale != 1:
            start, end = start * scale, end * scale
        at = _in_box(start, end, _bounded(size[k]), mode)
        inside.append(e.bitwise_and(at >= 0, at <= float(n - 1)))
        at = lib.clamp(at, low=0.0, high=float(n - 1))
        low = e.floor(at)
        part = e.cast(at - low, x.dtype)
        first = e.cast(low, "i64")
        second = e.minimum(first + 1, n - 1)
        axis = 2 + k
        a, b = (gather(out, i, axis, 1) for i in (first, second))
        # the gathered axis comes at its place, after the batch's
        shape = [1] * a.rank
        shape[0], shape[axis] = part.shape
        out = a + (b - a) * lib.reshape(part, shape=shape)
    here = e.bitwise_and(*_crossed(inside))
    return e.where(s.unsqueeze(here, (1,)), out, fill)


def _crossed(inside: list[Value]) -> tuple[Value, Value]:
    rows, columns = s.unsqueeze(inside[0], (2,)), s.unsqueeze(inside[1], (1,))
    shape = (rows.shape[0], rows.shape[1], columns.shape[2])
    return s.broadcast_to(rows, shape), s.broadcast_to(columns, shape)


def _in_box(start: Value, end: Value, size: int, mode: str) -> Value:
    """Where the entries of a box resized to ``size`` lie, ``[n size]``."""
    i = const(np.arange(size, dtype=np.float32)[None])
    a, b = s.unsqueeze(start, (1,)), s.unsqueeze(end, (1,))
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if size == 1:
            return a if mode == "STRICT_ALIGN_CORNERS" else (a + b) * 0.5
        return a + (b - a) * (1 / (size - 1)) * i
    if mode == "UNALIGN_CORNERS":
        return a + (b - a) * (1 / size) * (i + 0.5)
    if mode == "DEFAULT":
        return a + (b - a) * (1 / size) * i
    if mode == "OFFSET_CORNERS":
        return a + (b - a) * (1 / size) * (i + 0.5)
    raise unsupported(f"there is no sampling mode {mode}")
