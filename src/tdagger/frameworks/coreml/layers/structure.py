"""Rules of layers that move entries, resize images, and take entries by indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.coreml.layers.table import (
    and_back,
    as_float,
    edges,
    floats,
    images,
    layer,
    mil,
    unsupported,
    whole,
)
from tdagger.frameworks.coreml.ops.structure import bounds
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const

# --- structure ---------------------------------------------------------------------------------------------

layer("transpose")(lambda w, p, x: s.permute(x, [a % x.rank for a in p.axes]))
layer("concatND")(lambda w, p, *xs: mil("concat", floats(*xs), axis=p.axis, interleave=p.interleave))
layer("stack")(lambda w, p, *xs: mil("stack", floats(*xs), axis=p.axis))
layer("squeeze")(lambda w, p, x: mil("squeeze", x, axes=None if p.squeezeAll else tuple(p.axes)))
layer("expandDims")(lambda w, p, x: mil("expand_dims", x, axes=tuple(p.axes)))
layer("flattenTo2D")(lambda w, p, x: mil("flatten2d", x, axis=p.axis))
layer("reshapeStatic")(lambda w, p, x: mil("reshape", x, shape=tuple(p.targetShape), opset=15))
layer("reshapeDynamic")(lambda w, p, x, shape: mil("reshape", x, shape=w.ints(shape), opset=15))
layer("reshapeLike")(lambda w, p, x, y: lib.reshape(x, shape=y.shape))
layer("slidingWindows")(lambda w, p, x: mil("sliding_windows", x, axis=p.axis, size=p.windowSize, stride=p.step))
layer("getShape")(lambda w, p, x: const([float(n) for n in x.shape], "f32"))
layer("matrixBandPart")(lambda w, p, x: mil("band_part", as_float(x), lower=p.numLower, upper=p.numUpper))
layer("lowerTriangular")(lambda w, p, x: lib.tril(as_float(x), diagonal=p.k))
layer("upperTriangular")(lambda w, p, x: lib.triu(as_float(x), diagonal=p.k))
layer("broadcastToLike")(lambda w, p, x, y: s.broadcast_to(x, y.shape))
layer("broadcastToStatic")(lambda w, p, x: s.broadcast_to(x, tuple(p.targetShape)))
layer("broadcastToDynamic")(lambda w, p, x, shape: s.broadcast_to(x, w.ints(shape)))
layer("fillStatic")(lambda w, p: s.broadcast_to(const(p.value, "f32"), tuple(p.targetShape)))
layer("fillDynamic")(lambda w, p, shape: s.broadcast_to(const(p.value, "f32"), w.ints(shape)))
layer("fillLike")(lambda w, p, x: s.broadcast_to(const(p.value, "f32"), x.shape))
layer("loadConstantND", "loadConstant")(lambda w, p: w.weight("data", p.data, tuple(p.shape)))


@layer("rankPreservingReshape")
def _rank_preserving(w: Any, p: Any, x: Value) -> Value:
    """A 0 keeps a size, -1 is what is left."""
    return mil("reshape", x, shape=tuple(p.targetShape), opset=15)


@layer("splitND")
def _split(w: Any, p: Any, x: Value) -> tuple[Value, ...]:
    return mil("split", x, axis=p.axis, num_splits=p.numSplits, split_sizes=tuple(p.splitSizes) or None)


@layer("tile")
def _tile(w: Any, p: Any, x: Value, reps: Value | None = None) -> Value:
    return lib.tile(x, repeats=tuple(p.reps) if reps is None else w.ints(reps))


@layer("reverse")
def _reverse(w: Any, p: Any, x: Value) -> Value:
    return s.flip(x, [i for i, turned in enumerate(p.reverseDim) if turned])


@layer("sliceStatic")
def _slice_static(w: Any, p: Any, x: Value) -> Value:
    return _sliced(x, p, list(p.beginIds), list(p.endIds), list(p.strides))


@layer("sliceDynamic")
def _slice_dynamic(w: Any, p: Any, x: Value, begin: Value, *rest: Value) -> Value:
    end = list(w.ints(rest[0])) if rest else list(p.endIds)
    strides = list(w.ints(rest[1])) if len(rest) > 1 else list(p.strides)
    return _sliced(x, p, list(w.ints(begin)), end, strides)


def _sliced(x: Value, p: Any, begin: list[int], end: list[int], strides: list[int]) -> Value:
    before, after, lost = (list(m) or [False] * x.rank for m in (p.beginMasks, p.endMasks, p.squeezeMasks))
    out = x
    for axis, n in enumerate(x.shape):
        if lost[axis]:
            at = begin[axis] % n
            out = s.slice_axis(out, axis, at, at + 1)
            continue
        step = strides[axis] if strides else 1
        start, stop = bounds(n, begin[axis], end[axis], step, before[axis], after[axis])
        out = s.slice_axis(out, axis, start, None if stop < 0 else stop, step)
    gone = [i for i, g in enumerate(lost) if g]
    return s.squeeze(out, gone) if gone else out


@layer("sliceBySize")
def _slice_by_size(w: Any, p: Any, x: Value, begin: Value) -> Value:
    at = w.ints(begin)[0]
    axis = normal_axis(p.axis, x.rank)
    return s.slice_axis(x, axis, at, at + p.size)


@layer("constantPad")
def _constant_pad(w: Any, p: Any, x: Value, amounts: Value | None = None) -> Value:
    sides = list(p.padAmounts) if amounts is None else list(w.ints(amounts))
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    if p.padToGivenOutputSizeMode:
        if any(a and b for a, b in pairs):
            raise unsupported(f"its padAmounts {sides} say a size on both sides")
        pairs = [(max(a - n, 0) if a else 0, max(b - n, 0) if b else 0)
                 for (a, b), n in zip(pairs, x.shape[x.rank - len(pairs) :], strict=True)]  # fmt: skip
    return s.pad(as_float(x), [(0, 0)] * (x.rank - len(pairs)) + pairs, p.value)


@layer("padding")
def _padding_layer(w: Any, p: Any, x: Value) -> Value:
    kind = p.WhichOneof("PaddingType")
    sides = edges(p.paddingAmounts)
    widths = [(0, 0)] * (x.rank - 2) + [(sides[0], sides[1]), (sides[2], sides[3])]
    if kind == "constant":
        return s.pad(as_float(x), widths, p.constant.value)
    return (lib.reflect_pad if kind == "reflection" else lib.replicate_pad)(as_float(x), widths=tuple(widths))


@layer("crop")
def _crop(w: Any, p: Any, x: Value, like: Value | None = None) -> Value:
    if like is not None:
        (top, left), (h, wide) = p.offset, like.shape[-2:]
        out = s.slice_axis(x, x.rank - 2, top, top + h)
        return s.slice_axis(out, x.rank - 1, left, left + wide)
    sides = edges(p.cropAmounts)
    return mil("crop", x, crop_height=sides[:2], crop_width=sides[2:])


@layer("permute")
def _permute(w: Any, p: Any, x: Value) -> Value:
    """Of sequence, channels, height and width: the last four axes."""
    lead = x.rank - len(p.axis)
    if lead < 0:
        raise unsupported(f"its axes {list(p.axis)} are more than those of {x.type}")
    return s.permute(x, [*range(lead), *[lead + a for a in p.axis]])


@layer("flatten")
def _flatten(w: Any, p: Any, x: Value) -> Value:
    """``[.. c h w] -> [.. (c h w) 1 1]``, or with the channels last."""
    y = s.permute(x, [*range(x.rank - 3), x.rank - 2, x.rank - 1, x.rank - 3]) if p.mode == 1 else x
    return lib.reshape(y, shape=(*x.shape[:-3], math.prod(x.shape[-3:]), 1, 1))


@layer("reshape")
def _reshape(w: Any, p: Any, x: Value) -> Value:
    """To channels, height, width; by mode 1 entries are taken with the channels last, and put so."""
    shape = tuple(p.targetShape)[-3:]
    if p.mode == 1:
        last = s.permute(x, [*range(x.rank - 3), x.rank - 2, x.rank - 1, x.rank - 3])
        y = lib.reshape(last, shape=(*x.shape[:-3], *shape[1:], shape[0]))
        return s.permute(y, [*range(y.rank - 3), y.rank - 1, y.rank - 3, y.rank - 2])
    return lib.reshape(x, shape=(*x.shape[:-3], *shape))


@layer("concat")
def _concat(w: Any, p: Any, *xs: Value) -> Value:
    back = 5 if p.sequenceConcat else 3
    return s.concat(floats(*xs), xs[0].rank - back)


@layer("split")
def _split_channels(w: Any, p: Any, x: Value) -> tuple[Value, ...]:
    return mil("split", x, axis=x.rank - 3, num_splits=p.nOutputs)


@layer("slice")
def _slice(w: Any, p: Any, x: Value) -> Value:
    """Of the channels, the height or the width; an end below 0 counts from behind."""
    axis = x.rank - 3 + p.axis
    n = x.shape[axis]
    stop = p.endIndex if p.endIndex > 0 else n + p.endIndex + 1 if p.endIndex < 0 else n
    return s.slice_axis(x, axis, p.startIndex, stop, p.stride or 1)


@layer("scale")
def _scale(w: Any, p: Any, x: Value) -> Value:
    (y,) = floats(x)
    out = y * w.weight("scale", p.scale, tuple(p.shapeScale))
    return out + w.weight("bias", p.bias, tuple(p.shapeBias)) if p.hasBias else out


layer("bias")(lambda w, p, x: x + w.weight("bias", p.bias, tuple(p.shape)))


@layer("reorganizeData")
def _reorganize(w: Any, p: Any, x: Value) -> Value:
    y, lead = images(x)
    if p.mode == 2:
        return and_back(mil("pixel_shuffle", y, upscale_factor=p.blockSize), lead)
    op = "space_to_depth" if p.mode == 0 else "depth_to_space"
    return and_back(mil(op, y, block_size=p.blockSize), lead)


# --- resizing ----------------------------------------------------------------------------------------------

_SAMPLING = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "UNALIGN_CORNERS", "OFFSET_CORNERS")


@layer("upsample")
def _upsample(w: Any, p: Any, x: Value) -> Value:
    factors = tuple(p.fractionalScalingFactor) or tuple([float(n) for n in p.scalingFactor]) or (1.0, 1.0)
    how = {"scale_factor_height": factors[0], "scale_factor_width": factors[1]}
    if p.mode == 0:
        return mil("upsample_nearest_neighbor", as_float(x), **how)
    corners = p.linearUpsampleMode in (0, 1)
    if p.linearUpsampleMode == 0:
        size = [int(f * n) for f, n in zip(factors, x.shape[-2:], strict=True)]
        return mil("resize_bilinear", as_float(x), *size, sampling_mode="DEFAULT")
    return mil("upsample_bilinear", as_float(x), **how, align_corners=corners)


@layer("resizeBilinear")
def _resize_bilinear(w: Any, p: Any, x: Value) -> Value:
    height, width = tuple(p.targetSize) or (1, 1)
    return mil("resize_bilinear", as_float(x), height, width, sampling_mode=_SAMPLING[p.mode.samplingMethod])


_BOXES = ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST")


@layer("cropResize")
def _crop_resize(w: Any, p: Any, x: Value, roi: Value) -> Value:
    """Of images ``[1 b c h w]`` or ``[b c h w]`` and regions ``[n 1 4|5 1 1]``."""
    y, lead = images(as_float(x))
    height, width = tuple(p.targetSize) or (1, 1)
    out = mil(
        "crop_resize", y, as_float(roi), target_height=height, target_width=width,
        normalized_coordinates=p.normalizedCoordinates, spatial_scale=p.spatialScale or 1.0,
        box_coordinate_mode=_BOXES[p.boxIndicesMode.boxMode], sampling_mode=_SAMPLING[p.mode.samplingMethod],
    )  # fmt: skip
    return out if len(lead) <= 2 else lib.reshape(out, shape=(*out.shape[:1], *lead[1:], *out.shape[2:]))


_REDUCTIONS = ("sum", "mean", "prod", "log_sum", "sum_square", "l1_norm", "l2_norm", "max", "min")
_AXES = ((-3, -2, -1), (-2, -1), (-3,), (-2,), (-1,))


@layer("reduce")
def _reduce_images(w: Any, p: Any, x: Value) -> Value:
    """Over channels, height, width, or some of them; the epsilon is for logarithms."""
    axes = tuple([x.rank + a for a in _AXES[p.axis]])
    if p.mode == 9:
        return e.cast(mil("reduce_argmax", as_float(x), axis=axes[0], keep_dims=True), "f32")
    y = as_float(x) + p.epsilon if _REDUCTIONS[p.mode] == "log_sum" and p.epsilon else as_float(x)
    return mil(f"reduce_{_REDUCTIONS[p.mode]}", y, axes=axes, keep_dims=True)


@layer("sequenceRepeat")
def _sequence_repeat(w: Any, p: Any, x: Value) -> Value:
    return lib.tile(x, repeats=(p.nRepetitions or 1, *[1] * (x.rank - 1)))


# --- indices -----------------------------------------------------------------------------------------------

_MODES = ("update", "add", "sub", "mul", "div", "max", "min")

layer("gather")(lambda w, p, x, i: mil("gather", x, whole(i), axis=p.axis))
layer("gatherAlongAxis")(lambda w, p, x, i: mil("gather_along_axis", x, whole(i), axis=p.axis))
layer("gatherND")(lambda w, p, x, i: mil("gather_nd", x, whole(i)))
layer("scatter")(
    lambda w, p, x, i, u: mil("scatter", as_float(x), whole(i), as_float(u), axis=p.axis, mode=_MODES[p.mode])
)


@layer("scatterAlongAxis")
def _scatter_along(w: Any, p: Any, x: Value, i: Value, u: Value) -> Value:
    return mil("scatter_along_axis", as_float(x), whole(i), as_float(u), axis=p.axis, mode=_MODES[p.mode])


layer("scatterND")(lambda w, p, x, i, u: mil("scatter_nd", as_float(x), whole(i), as_float(u), mode=_MODES[p.mode]))


@layer("reverseSeq")
def _reverse_sequence(w: Any, p: Any, x: Value, lengths: Value) -> Value:
    return mil("reverse_sequence", x, whole(lengths), seq_axis=p.sequenceAxis, batch_axis=p.batchAxis)


@layer("oneHot")
def _one_hot(w: Any, p: Any, x: Value, size: Value | None = None) -> Value:
    count = p.oneHotVectorSize if size is None else w.ints(size)[0]
    on, off = np.float32(p.onValue), np.float32(p.offValue)
    return mil("one_hot", whole(x), count, axis=p.axis, on_value=np.asarray(on), off_value=np.asarray(off))


@layer("cumSum")
def _cumsum(w: Any, p: Any, x: Value, axis: Value | None = None) -> Value:
    along = w.ints(axis)[0] if axis is not None else p.axis
    return mil("cumsum", as_float(x), axis=along, exclusive=p.excludeFinalSum, reverse=p.reverse)


@layer("rangeStatic", "rangeDynamic")
def _range(w: Any, p: Any, *given: Value) -> Value:
    numbers = [w.numbers(v) for v in given]
    end = numbers[0] if numbers else p.endValue
    start = numbers[1] if len(numbers) > 1 else p.startValue
    step = numbers[2] if len(numbers) > 2 else p.stepSizeValue
    return mil("range_1d", *[np.asarray(n, np.float32) for n in (end, start, step)])


layer("whereNonZero")(lambda w, p, x: const(np.argwhere(w.numbers(x)).astype(np.float32), "f32"))
