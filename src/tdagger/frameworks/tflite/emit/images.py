"""How what takes an image with its channels last is written: convolutions, pools, resizing.

These are the blocks that :func:`tdagger.transform.passes.channels_last` makes; weights are laid out anew in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.emit.core import options, reduced
from tdagger.frameworks.tflite.emit.writer import Reduced, Row, Writer
from tdagger.frameworks.writing import fields
from tdagger.library.pool import reached
from tdagger.library.resize import _nearest as nearest_places  # pyright: ignore[reportPrivateUsage]
from tdagger.op import Array, Value
from tdagger.transform.legal import Accepts, types
from tdagger.types import TensorType

Pairs = list[tuple[int, int]]
SAME, VALID = s.Padding.SAME, s.Padding.VALID


class Image(NamedTuple):
    """A block on an image: its tensors and attributes by name, the image itself with channels last."""

    f: dict[str, Any]
    x: Value
    spatial: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the spatial axes."""
        return self.x.shape[self.x.rank - self.spatial - 1 : -1]

    @property
    def lead(self) -> int:
        """How many images there are."""
        return math.prod(self.x.shape[: self.x.rank - self.spatial - 1])


def image(v: Value, spatial: int | None = None) -> Image:
    """What a block on an image is made of."""
    inner: Value = cast(Any, v.op).attributes["graph"].outputs["y0"].args[0]
    f = fields(inner)
    rest = iter(v.args[1:])
    names = [n for n, a in f.items() if isinstance(a, Value)]
    f |= {n: v.args[0] if i == 0 else next(rest) for i, n in enumerate(names)}
    return Image(f, v.args[0], f["weight"].rank - 2 if spatial is None else spatial)


def _two(n: Sequence[Any], fill: Any) -> tuple[Any, Any]:
    """Something for each spatial axis, for height and width: a sequence is an image of height 1."""
    return (fill, n[0]) if len(n) == 1 else (n[0], n[1])


def as_images(w: Writer, i: Image) -> tuple[int, TensorType]:
    """The image as ``[n h w c]``."""
    h, wide = _two(i.sizes, 1)
    type_ = i.x.type.with_shape((i.lead, h, wide, i.x.shape[-1]))
    return w.reshape(w.ref(i.x), i.x.shape, type_), type_


def padded(w: Writer, number: int, type_: TensorType, pads: Pairs, fill: float) -> tuple[int, TensorType]:
    """``[n h w c]`` with entries around, or without some where a width is negative."""
    cut = [(max(-a, 0), max(-b, 0)) for a, b in pads]
    if any(map(any, cut)):
        n, h, wide, c = type_.shape
        shape = (n, *[size - a - b for size, (a, b) in zip((h, wide), cut, strict=True)], c)
        type_ = type_.with_shape(shape)
        number = w.op("SLICE", [number, w.ints((0, cut[0][0], cut[1][0], 0)), w.ints(shape)], type_)
    more = [(max(a, 0), max(b, 0)) for a, b in pads]
    if any(map(any, more)):
        n, h, wide, c = type_.shape
        type_ = type_.with_shape((n, h + sum(more[0]), wide + sum(more[1]), c))
        places = w.constant(np.array([(0, 0), *more, (0, 0)], np.int32))
        if fill == 0:
            number = w.op("PAD", [number, places], type_)
        else:
            number = w.op("PADV2", [number, places, w.constant(np.float32(fill))], type_)
    return number, type_


def same_pads(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pairs:
    """What SAME pads: as many windows as strides begin, the odd entry after.

    >>> same_pads((5, 224), (4, 3), (3, 2), (1, 1))
    [(1, 1), (0, 1)]
    """
    found: Pairs = []
    for n, k, step, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-n // step) - 1) * step + (k - 1) * d + 1 - n, 0)
        found.append((total // 2, total - total // 2))
    return found


class Windows(NamedTuple):
    """Windows of an image of height and width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def options(self, padding: int, **more: Any) -> dict[str, Any]:
        """As the schema's options have them."""
        return {"padding": padding, "strideH": self.stride[0], "strideW": self.stride[1], **more}


def is_same(w: Writer, pads: Pairs, sizes: Sequence[int], windows: Any, out: Sequence[int]) -> bool:
    """Whether SAME pads so; where a size is open and windows are steps apart, not at every other size."""
    if any(n in w.varies and step > 1 for n, step in zip(sizes, windows[1], strict=True)):
        return False
    counts = tuple([-(-n // step) for n, step in zip(sizes, windows[1], strict=True)])
    return pads == same_pads(sizes, *windows) and counts == tuple(out)


def placed(
    w: Writer, i: Image, windows: Windows, pads: Pairs, out: Sequence[int], fill: float = 0.0, counted: bool = False
) -> tuple[int, TensorType, int]:
    """The image so that windows lie as they should, and how the operator is to pad it."""
    number, type_ = as_images(w, i)
    sizes = type_.shape[1:3]
    if is_same(w, pads, sizes, windows, out) and not (counted and any(map(any, pads))):
        return number, type_, SAME
    number, type_ = padded(w, number, type_, pads, fill)
    return number, type_, VALID


# --- convolution -------------------------------------------------------------------------------------------


def _laid(
    w: Writer, weight: Value, shape: Sequence[int], order: Sequence[int], name: str, by: Value | None = None
) -> int:
    """A weight with its axes in another order and shape: in the file if it is constant. It is multiplied ``by``."""
    moved = tuple([weight.shape[i] for i in order])
    type_ = weight.type.with_shape(tuple(shape))
    if by is not None:

        def scaled(a: Array, number: Array) -> Array:
            return np.ascontiguousarray(a.transpose(order)).reshape(shape) * number.reshape(())

        return w.static_of([weight, by], type_, name, scaled)
    if w.is_static(weight):
        return w.static_of([weight], type_, name, lambda a: np.ascontiguousarray(a.transpose(order)).reshape(shape))
    number = w.op("TRANSPOSE", [w.ref(weight), w.ints(order)], weight.type.with_shape(moved))
    return w.reshape(number, moved, type_)


def _bias(w: Writer, f: dict[str, Any], channels: int) -> int:
    return w.constant(np.zeros(channels, np.float32)) if f["bias"] is None else w.ref(f["bias"])


def _convolution_3d(w: Writer, i: Image, v: Value) -> int:
    """Of ``[n d h w c]``, with a filter ``[d h w i o]``."""
    f, weight = i.f, i.f["weight"]
    out, taken, *kernel = weight.shape
    type_ = i.x.type.with_shape((i.lead, *i.sizes, taken))
    after = type_.with_shape((i.lead, *v.shape[v.rank - 4 : -1], out))
    number, pads, padding = w.reshape(w.ref(i.x), i.x.shape, type_), [*f["padding"]], VALID
    if is_same(w, pads, i.sizes, (kernel, f["stride"], f["dilation"]), after.shape[1:-1]):
        padding = SAME
    elif any(map(any, pads)):
        sizes = [n + a + b for n, (a, b) in zip(i.sizes, pads, strict=True)]
        places = w.constant(np.array([(0, 0), *pads, (0, 0)], np.int32))
        number = w.op("PAD", [number, places], type_.with_shape((i.lead, *sizes, taken)), version=3)
    filters = _laid(w, weight, (*kernel, taken, out), [2, 3, 4, 1, 0], "last")
    steps = {f"stride{a}": n for a, n in zip("DHW", f["stride"], strict=True)}
    steps |= {f"dilation{a}Factor": n for a, n in zip("DHW", f["dilation"], strict=True)}
    made = options("Conv3D", padding=padding, **steps)
    number = w.op("CONV_3D", [number, filters, _bias(w, f, out)], after, made)
    return w.reshape(number, after.shape, v.type)


def _convolution(w: Writer, v: Value) -> int:
    i = image(v)
    f, weight = i.f, i.f["weight"]
    if i.spatial == 3:
        return _convolution_3d(w, i, v)
    by = None
    if w.is_static(weight) and weight.op.name != "dequantize" and len(w.users.get(weight, ())) == 1:
        x, by = w.unscaled(i.x)
        i = i._replace(x=x)
    out, per_group, *kernel = weight.shape
    windows = Windows(_two(kernel, 1), _two(f["stride"], 1), _two(f["dilation"], 1))
    pads = list(_two(f["padding"], (0, 0)))
    after = v.type.with_shape((i.lead, *_two(v.shape[v.rank - i.spatial - 1 : -1], 1), out))
    number, _, padding = placed(w, i, windows, pads, after.shape[1:3])
    depthwise = f["groups"] == i.x.shape[-1] and per_group == 1 and f["groups"] > 1
    h, wide = windows.kernel
    given = windows.options(padding, dilationHFactor=windows.dilation[0], dilationWFactor=windows.dilation[1])
    dilated = windows.dilation != (1, 1)
    spatial = list(range(2, weight.rank))
    if depthwise:
        filters = _laid(w, weight, (1, h, wide, out), [1, *spatial, 0], "depthwise", by)
        made = options("DepthwiseConv2D", depthMultiplier=out // i.x.shape[-1], **given)
        inputs = [number, filters, _bias(w, f, out)]
        number = w.op("DEPTHWISE_CONV_2D", inputs, after, made, version=2 if dilated else 1)
    else:
        filters = _laid(w, weight, (out, h, wide, per_group), [0, *spatial, 1], "last", by)
        version = 6 if f["groups"] > 1 else 2 if dilated else 1
        inputs = [number, filters, _bias(w, f, out)]
        number = w.op("CONV_2D", inputs, after, options("Conv2D", **given), version=version)
    return w.reshape(number, after.shape, v.type)


def _convolves(v: Value) -> str | None:
    i = image(v)
    if i.spatial > 3:
        return "TFLite convolves images"
    if i.spatial == 3 and (i.f["groups"] != 1 or any(min(p) < 0 for p in i.f["padding"])):
        return "TFLite convolves volumes without groups, padded by nothing below 0"
    return None if v.type.size and i.f["weight"].type.size else "TFLite takes no image without entries"


def _transposed(w: Writer, v: Value) -> int:
    """All that windows reach, of which the padding is cut off."""
    i = image(v)
    f, weight = i.f, i.f["weight"]
    kernel, stride = _two(weight.shape[2:], 1), _two(f["stride"], 1)
    number, type_ = as_images(w, i)
    out = weight.shape[1]
    full = [(n - 1) * step + k for n, step, k in zip(type_.shape[1:3], stride, kernel, strict=True)]
    after = v.type.with_shape((i.lead, *_two(v.shape[v.rank - i.spatial - 1 : -1], 1), out))
    low = _two(f["padding"], 0)
    filters = _laid(w, weight, (out, *kernel, weight.shape[0]), [1, *range(2, weight.rank), 0], "transposed")
    made = {"strideH": stride[0], "strideW": stride[1]}
    if all(a == (n - m) // 2 and (n - m) % 2 == 0 and m == size * step for a, n, m, size, step in
           zip(low, full, after.shape[1:3], type_.shape[1:3], stride, strict=True)):  # fmt: skip
        return w.reshape(_upward(w, number, filters, f, after, SAME, made), after.shape, v.type)
    whole = after.with_shape((i.lead, *full, out))
    high = [m - (n - a) for a, n, m in zip(low, full, after.shape[1:3], strict=True)]
    beyond = any(h > 0 for h in high)
    number = _upward(w, number, filters, {"bias": None} if beyond else f, whole, VALID, made)
    number, _ = padded(w, number, whole, [(-a, h) for a, h in zip(low, high, strict=True)], 0.0)
    if beyond and f["bias"] is not None:
        number = w.op("ADD", [number, w.ref(f["bias"])], after, options("Add"))
    return w.reshape(number, after.shape, v.type)


def _upward(w: Writer, x: int, filters: int, f: dict[str, Any], out: TensorType, padding: int, strides: Any) -> int:
    inputs = [w.ints(out.shape), filters, x, *([] if f["bias"] is None else [w.ref(f["bias"])])]
    made = options("TransposeConv", padding=padding, **strides)
    return w.op("TRANSPOSE_CONV", inputs, out, made, version=3 if len(inputs) > 3 else 1)


def _convolves_back(v: Value) -> str | None:
    i = image(v)
    plain = i.f["groups"] == 1 and all(d == 1 for d in i.f["dilation"]) and i.spatial <= 2
    return None if plain and v.type.size and i.f["weight"].type.size else "TFLite has no such transposed convolution"


# --- pools -------------------------------------------------------------------------------------------------


def _pool(
    w: Writer, v: Value, op: str, kernel: Any, stride: Any, low: Any, fill: float, counted: bool = False
) -> tuple[int, TensorType]:
    """Windows of an image padded by ``low`` before, and as far as windows reach after; ``counted``: as entries.

    Where a size is open it is padded after as before, which is as far as they reach at any size.
    """
    i = image(v, len(kernel))
    windows = Windows(_two(kernel, 1), _two(stride, 1), (1, 1))
    sizes, counts = _two(i.sizes, 1), _two(v.shape[v.rank - i.spatial - 1 : -1], 1)
    pads: Pairs = []
    for n, count, k, step, a in zip(sizes, counts, windows.kernel, windows.stride, _two(low, 0), strict=True):
        even = n in w.varies and count == (n + 2 * a - k) // step + 1
        pads.append((a, a if even else max((count - 1) * step + k - n - a, 0)))
    after = v.type.with_shape((i.lead, *counts, v.shape[-1]))
    number, _, padding = placed(w, i, windows, pads, counts, fill, counted)
    made = options("Pool2D", **windows.options(padding), filterHeight=windows.kernel[0],
                   filterWidth=windows.kernel[1])  # fmt: skip
    return w.op(op, [number], after, made), after


def _max_pool(w: Writer, v: Value) -> int:
    f = _pooled(v)
    number, after = _pool(w, v, "MAX_POOL_2D", f["kernel"], f["stride"], f["padding"], -math.inf)
    return w.reshape(number, after.shape, v.type)


def _pooled(v: Value) -> dict[str, Any]:
    """The attributes of a pool, with a kernel that is no larger than what it is of."""
    f = image(v, 0).f
    kernel, padding = f["kernel"], f["padding"]
    sizes = image(v, len(kernel)).sizes
    return {**f, "kernel": reached(sizes, kernel, padding, f.get("dilation", (1,) * len(kernel)))}


def _pools(v: Value) -> str | None:
    f = _pooled(v)
    fits = len(f["kernel"]) <= 2 and all(d == 1 for d in f.get("dilation", ())) and v.type.size
    return None if fits else "TFLite pools images, windows without gaps"


def _avg_pool(w: Writer, v: Value) -> int:
    """Means of windows, whose padding TFLite doesn't count; else of what is padded with zeros.

    They are then multiplied by the windows' size over what should be divided by.
    """
    f = _pooled(v)
    area = _area(v, f) if f["divisor"] is None else np.full((1, 1), f["divisor"], np.float64)
    own = _area(v, {**f, "count_include_pad": False})
    same = f["divisor"] is None and np.array_equal(area, own)
    number, after = _pool(w, v, "AVERAGE_POOL_2D", f["kernel"], f["stride"], f["padding"], 0.0, counted=not same)
    padding = w.part.operators[-1].options.padding
    factor = (own if padding == SAME else np.full((1, 1), math.prod(f["kernel"]))) / area
    if (factor != 1).any():
        by = factor[None, :, :, None].astype(np.float32)
        number = w.op("MUL", [number, w.constant(by if by.size > 1 else by.reshape(()))], after, options("Mul"))
    return w.reshape(number, after.shape, v.type)


def _area(v: Value, f: dict[str, Any]) -> Array:
    """How many entries each window counts: ``[h w]``."""
    i = image(v, len(f["kernel"]))
    each: list[Array] = []
    for n, count, k, step, p in zip(i.sizes, v.shape[v.rank - i.spatial - 1 : -1], f["kernel"], f["stride"],
                                    f["padding"], strict=True):  # fmt: skip
        start = np.arange(count) * step - p
        stop = np.minimum(start + k, n + p)
        each.append(stop - start if f["count_include_pad"] else np.minimum(stop, n) - np.maximum(start, 0))
    h, wide = _two(each, np.ones(1, np.int64))
    return np.multiply.outer(h, wide).astype(np.float64)


def _evenly(v: Value) -> str | None:
    f = image(v, 0).f
    i = image(v, len(f["size"]))
    fits = v.type.size and all(n is None or size % n == 0 for n, size in zip(f["size"], i.sizes, strict=True))
    whole = all(n == 1 for n in f["size"])
    return None if fits and (whole or i.spatial <= 2) else "TFLite has windows of one size"


def _over_all(op: str) -> Callable[[Value], Reduced | None]:
    """The reduction of all spatial axes to one entry each."""

    def reduces(v: Value) -> Reduced | None:
        f = image(v, 0).f
        x, spatial = v.args[0], len(f["size"])
        axes = tuple(range(x.rank - spatial - 1, x.rank - 1))
        return Reduced(op, x, axes) if all(n == 1 for n in f["size"]) else None

    return reduces


def _adaptive(op: str, over_all: str) -> Callable[[Writer, Value], int]:
    def write(w: Writer, v: Value) -> int:
        f = image(v, 0).f
        i = image(v, len(f["size"]))
        found = _over_all(over_all)(v)
        if found is not None:
            return reduced(w, *found, v.type, keep=True)
        kernel = [size if n is None else size // n for n, size in zip(f["size"], i.sizes, strict=True)]
        kernel = [1 if n is None else k for n, k in zip(f["size"], kernel, strict=True)]
        number, after = _pool(w, v, op, kernel, kernel, [0] * i.spatial, 0.0)
        return w.reshape(number, after.shape, v.type)

    return write


# --- resizing ----------------------------------------------------------------------------------------------


def _how(v: Value) -> dict[str, Any] | None:
    """The operator and options that resize an image as a block does; None if there are none."""
    f = image(v, 0).f
    size, mode, scales = f["size"], f["mode"], f["scale"] or (None,) * len(f["size"])
    i = image(v, len(size))
    if len(size) > 2 or f["antialias"] or not v.type.size:
        return None
    if mode.startswith("nearest"):
        exact = mode == "nearest-exact"
        for n, out, scale in zip(i.sizes, size, scales, strict=True):
            factor = None if mode == "nearest" and len(size) == 2 and out in (n, 2 * n) else scale
            step = np.float32(n) / np.float32(out)
            places = np.floor((np.arange(out, dtype=np.float32) + np.float32(0.5 if exact else 0)) * step)
            if not np.array_equal(np.minimum(places, n - 1), nearest_places(n, out, exact, factor)):
                return None
        return {"op": "RESIZE_NEAREST_NEIGHBOR", "alignCorners": False, "halfPixelCenters": exact}
    if mode != "linear":
        return None
    aligned = f["align_corners"]
    for n, out, scale in zip(i.sizes, size, scales, strict=True):
        if scale and not aligned and out != n and not math.isclose(1 / scale, n / out, rel_tol=1e-6):
            return None
    return {"op": "RESIZE_BILINEAR", "alignCorners": aligned, "halfPixelCenters": not aligned}


def _resizes(v: Value) -> str | None:
    return None if _how(v) else "TFLite resizes images, to the nearest entry or linearly"


def _resize(w: Writer, v: Value) -> int:
    how = _how(v)
    assert how is not None
    op = how.pop("op")
    i = image(v, len(image(v, 0).f["size"]))
    number, type_ = as_images(w, i)
    sizes = _two(v.shape[v.rank - i.spatial - 1 : -1], 1)
    after = type_.with_shape((type_.shape[0], *sizes, type_.shape[3]))
    kind = "ResizeBilinear" if op == "RESIZE_BILINEAR" else "ResizeNearestNeighbor"
    number = w.op(op, [number, w.ints(sizes)], after, options(kind, **how), version=3 if how["halfPixelCenters"] else 1)
    return w.reshape(number, after.shape, v.type)


def _row(write: Any, when: Any, reduces: Any = None) -> Row:
    return Row(Accepts(types("f32"), None, when), write, reduces)


IMAGES: dict[str, Row] = {
    "convolution_last": _row(_convolution, _convolves),
    "convolution_transpose_last": _row(_transposed, _convolves_back),
    "max_pool_last": _row(_max_pool, _pools),
    "avg_pool_last": _row(_avg_pool, _pools),
    "adaptive_avg_pool_last": _row(_adaptive("AVERAGE_POOL_2D", "MEAN"), _evenly, _over_all("MEAN")),
    "adaptive_max_pool_last": _row(_adaptive("MAX_POOL_2D", "REDUCE_MAX"), _evenly, _over_all("REDUCE_MAX")),
    "interpolate_last": _row(_resize, _resizes),
}
