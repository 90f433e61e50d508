"""TFLite's resizing of images ``[b h w c]``, each of its conventions."""

from __future__ import annotations

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.tflite.ops.networks import first, last
from tdagger.frameworks.tflite.ops.structure import check_entries
from tdagger.frameworks.tflite.ops.table import Ints, rule, unsupported
from tdagger.op import Array, Value
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather
from tdagger.ops.source import const


def _step(n: int, out: int, align: bool) -> np.float32:
    """How far the places of two results are apart."""
    return np.float32(n - 1) / np.float32(out - 1) if align and out > 1 else np.float32(n) / np.float32(out)


@rule("RESIZE_BILINEAR")
def _resize_bilinear(x: Value, size: Ints, *, align_corners: bool = False, half_pixel_centers: bool = False) -> Value:
    """Both conventions at once are refused: runtimes don't agree on what they mean."""
    if align_corners and half_pixel_centers:
        raise unsupported("it has align_corners and half_pixel_centers, of which only one can be")
    _check(x, size)
    if half_pixel_centers or align_corners:
        return last(lib.interpolate(first(x), size=tuple(size), mode="linear", align_corners=align_corners))
    for axis, out in enumerate(size, 1):
        x = _between(x, axis, out)
    return x


def _check(x: Value, size: tuple[int, ...]) -> None:
    if x.rank != 4 or len(size) != 2 or min(*size, *x.shape[1:3]) < 1:
        raise unsupported(f"{x.type} as {list(size)}: images [b h w c] are resized to 1 or more")
    check_entries(max(size))


def _between(x: Value, axis: int, out: int) -> Value:
    """Along an axis, with the first entries at one place."""
    n = x.shape[axis]
    if n == out:
        return x
    at = np.arange(out, dtype=np.float32) * _step(n, out, False)
    low = np.minimum(np.floor(at).astype(np.int64), n - 1)
    share = (at - low).astype(np.float32)
    if not share.any():
        return _picked(x, axis, low)
    high = np.minimum(low + 1, n - 1)
    along = const(share.reshape(-1, *(1,) * (x.rank - axis - 1)), "f32")
    a, b = (gather(x, const(places, "i64"), axis) for places in (low, high))
    return a + (b - a) * along


def _picked(x: Value, axis: int, places: Array) -> Value:
    """Entries of an axis; as steps or copies where they are that."""
    n, out = x.shape[axis], len(places)
    if out % n == 0 and (places == np.arange(out) // (out // n)).all():
        return lib.repeat_interleave(x, repeats=out // n, axis=axis) if out != n else x
    if n % out == 0 and (places == np.arange(out) * (n // out) + places[0]).all():
        return s.slice_axis(x, axis, int(places[0]) or None, None, n // out)
    return gather(x, const(places, "i64"), axis)


@rule("RESIZE_NEAREST_NEIGHBOR", raw=True)
def _resize_nearest(x: Value, size: Ints, *, align_corners: bool = False, half_pixel_centers: bool = False) -> Value:
    _check(x, size)
    for axis, out in enumerate(size, 1):
        n = x.shape[axis]
        at = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half_pixel_centers else 0)) * _step(
            n, out, align_corners
        )
        places = np.floor(at + np.float32(0.5)) if align_corners else np.floor(at)
        x = _picked(x, axis, np.clip(places.astype(np.int64), 0, n - 1))
    return x
