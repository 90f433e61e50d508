"""Rules of layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.coreml.layers.table import LAYERS, as_float, floats, layer, mil, truth, unsupported, whole
from tdagger.frameworks.coreml.ops.structure import bounds
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import argsort
from tdagger.ops.source import const

__all__ = ["LAYERS"]

# --- elementwise -------------------------------------------------------------------------------------------


def _of_one(op: str) -> Callable[..., Any]:
    return lambda w, p, x: mil(op, as_float(x))


for _name in ("ceil", "floor", "sign", "round", "exp2", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
              "tanh", "atanh", "erf"):  # fmt: skip
    layer(_name)(_of_one(_name))
layer("asinh")(lambda w, p, x: e.asinh(as_float(x)))
layer("acosh")(lambda w, p, x: e.acosh(as_float(x)))
layer("copy")(lambda w, p, x: x)

_UNARY: dict[int, Callable[..., Value]] = {
    0: lambda x, p: e.sqrt(x),
    1: lambda x, p: mil("rsqrt", x, epsilon=p.epsilon),
    2: lambda x, p: mil("inverse", x, epsilon=p.epsilon),
    3: lambda x, p: e.pow_(x, p.alpha),
    4: lambda x, p: e.exp(x),
    5: lambda x, p: mil("log", x, epsilon=p.epsilon),
    6: lambda x, p: e.abs_(x),
    7: lambda x, p: e.maximum(x, p.alpha),
}


@layer("unary")
def _unary(w: Any, p: Any, x: Value) -> Value:
    """A function of ``scale * x + shift``."""
    (y,) = floats(x)
    scale = p.scale if p.scale != 0 else 1.0  # the default of 1 is written as nothing
    y = y if scale == 1 else y * scale
    y = y if p.shift == 0 else y + p.shift
    if p.type not in _UNARY:
        raise unsupported(f"there is no unary function {p.type}")
    return _UNARY[p.type](y, p)


def _two(op: str) -> Callable[..., Any]:
    return lambda w, p, x, y: mil(op, *floats(x, y))


for _name, _op in {
    "addBroadcastable": "add", "subtractBroadcastable": "sub", "multiplyBroadcastable": "mul",
    "powBroadcastable": "pow",
    "divideBroadcastable": "real_div", "floorDivBroadcastable": "floor_div", "modBroadcastable": "mod",
    "minBroadcastable": "minimum", "maxBroadcastable": "maximum",
}.items():  # fmt: skip
    layer(_name)(_two(_op))


def _several(op: str, one: str) -> Callable[..., Any]:
    """A layer of two and more inputs, or of one and a number."""

    def rule(w: Any, p: Any, *xs: Value) -> Value:
        ys = floats(*xs)
        if len(ys) == 1 and one:
            return mil(op, ys[0], const(getattr(p, one), "f32"))
        out = ys[0]
        for y in ys[1:]:
            out = mil(op, out, y)
        return out

    return rule


layer("add")(_several("add", "alpha"))
layer("multiply")(_several("mul", "alpha"))
layer("max")(_several("maximum", ""))
layer("min")(_several("minimum", ""))


@layer("average")
def _average(w: Any, p: Any, *xs: Value) -> Value:
    return _several("add", "")(w, p, *xs) * (1 / len(xs))


def _compare(op: str) -> Callable[..., Any]:
    def rule(w: Any, p: Any, *xs: Value) -> Value:
        ys = floats(*xs)
        return e.cast(mil(op, ys[0], ys[1] if len(ys) > 1 else const(p.alpha, "f32")), "f32")

    return rule


for _name, _op in {
    "equal": "equal", "notEqual": "not_equal", "lessThan": "less", "lessEqual": "less_equal", "greaterThan": "greater",
    "greaterEqual": "greater_equal",
}.items():  # fmt: skip
    layer(_name)(_compare(_op))
layer("logicalAnd")(lambda w, p, x, y: e.cast(e.bitwise_and(*e.align(truth(x), truth(y))), "f32"))
layer("logicalOr")(lambda w, p, x, y: e.cast(e.bitwise_or(*e.align(truth(x), truth(y))), "f32"))
layer("logicalXor")(lambda w, p, x, y: e.cast(e.bitwise_xor(*e.align(truth(x), truth(y))), "f32"))
layer("logicalNot")(lambda w, p, x: e.cast(e.not_(truth(x)), "f32"))
layer("whereBroadcastable")(lambda w, p, c, x, y: e.where(truth(c), *floats(x, y)))
layer("clip")(lambda w, p, x: lib.clamp(as_float(x), low=p.minVal, high=p.maxVal))
layer("clampedReLU")(lambda w, p, x: mil("clamped_relu", as_float(x), alpha=p.alpha, beta=p.beta))


@layer("gelu")
def _gelu(w: Any, p: Any, x: Value) -> Value:
    return mil("gelu", as_float(x), mode=("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")[p.mode])


_ACTIVATIONS: dict[str, Callable[..., Value]] = {
    "linear": lambda x, a: mil("linear_activation", x, alpha=a.alpha, beta=a.beta),
    "ReLU": lambda x, a: lib.relu(x),
    "leakyReLU": lambda x, a: lib.leaky_relu(x, slope=a.alpha),
    "thresholdedReLU": lambda x, a: mil("thresholded_relu", x, alpha=a.alpha),
    "tanh": lambda x, a: e.tanh(x),
    "scaledTanh": lambda x, a: mil("scaled_tanh", x, alpha=a.alpha, beta=a.beta),
    "sigmoid": lambda x, a: lib.sigmoid(x),
    "sigmoidHard": lambda x, a: mil("sigmoid_hard", x, alpha=a.alpha, beta=a.beta),
    "ELU": lambda x, a: lib.elu(x, alpha=a.alpha),
    "softsign": lambda x, a: lib.softsign(x),
    "softplus": lambda x, a: lib.softplus(x),
}


@layer("activation")
def _activation(w: Any, p: Any, x: Value) -> Value:
    (y,) = floats(x)
    kind = p.WhichOneof("NonlinearityType")
    inner = getattr(p, kind)
    if kind in _ACTIVATIONS:
        return _ACTIVATIONS[kind](y, inner)
    axis = max(y.rank - 3, 0)  # of the channels
    vectors = [w.weight(n, getattr(inner, n), None) for n in ("alpha", "beta") if hasattr(inner, n)]
    spread = [s.unsqueeze(v, range(1, y.rank - axis)) if v.type.size > 1 else v for v in vectors]
    if kind == "PReLU":
        return e.where(e.greater(y, 0.0), y, y * spread[0])
    return lib.softplus(y * spread[1]) * spread[0]  # parametricSoftplus


# --- products and convolutions -----------------------------------------------------------------------------


def _bias(w: Any, p: Any, size: int) -> Value | None:
    return w.weight("bias", p.bias, (size,)) if p.hasBias else None


@layer("innerProduct")
def _inner_product(w: Any, p: Any, x: Value) -> Value:
    """Of the last axis, or of the channels of ``[.. c 1 1]``."""
    (y,) = floats(x)
    images = y.rank >= 3 and y.shape[-1] != p.inputChannels and math.prod(y.shape[-3:]) == p.inputChannels
    flat = lib.reshape(y, shape=(*y.shape[:-3], p.inputChannels)) if images else y
    out = lib.linear(flat, w.weight("weights", p.weights, (p.outputChannels, p.inputChannels)),
                     _bias(w, p, p.outputChannels))  # fmt: skip
    return lib.reshape(out, shape=(*out.shape, 1, 1)) if images else out


@layer("batchedMatmul")
def _matmul(w: Any, p: Any, x: Value, y: Value | None = None) -> Value:
    (a,) = floats(x)
    if y is None:
        b = w.weight("weights", p.weights, (p.weightMatrixFirstDimension, p.weightMatrixSecondDimension))
        out = mil("matmul", a, b, transpose_x=p.transposeA, transpose_y=p.transposeB)
        return out + w.weight("bias", p.bias, (p.weightMatrixSecondDimension,)) if p.hasBias else out
    return mil("matmul", a, as_float(y), transpose_x=p.transposeA, transpose_y=p.transposeB)


@layer("embedding", "embeddingND")
def _embedding(w: Any, p: Any, x: Value) -> Value:
    """Columns of the weight; the last axis of the index has size 1 (or the last three have)."""
    older = hasattr(p, "inputDim")
    rows, size = (p.inputDim, p.outputChannels) if older else (p.vocabSize, p.embeddingSize)
    table = s.transpose(w.weight("weights", p.weights, (size, rows)), 0, 1)
    lost = 3 if older and x.rank >= 3 else 1
    if x.shape[-lost:] != (1,) * lost:
        raise unsupported(f"its index {x.type} should end with {lost} axes of size 1")
    out = lib.embedding(table, lib.reshape(whole(x), shape=x.shape[: x.rank - lost]))
    out = out + w.weight("bias", p.bias, (size,)) if p.hasBias else out
    return lib.reshape(out, shape=(*out.shape, 1, 1)) if lost == 3 else out


def _images(x: Value, rank: int = 4) -> tuple[Value, tuple[int, ...]]:
    """``[.. c h w]`` with one axis before the channels, and what was there."""
    lead = x.shape[: x.rank - rank + 1]
    return lib.reshape(x, shape=(math.prod(lead), *x.shape[x.rank - rank + 1 :])), lead


def _and_back(x: Value, lead: tuple[int, ...]) -> Value:
    return lib.reshape(x, shape=(*lead, *x.shape[1:]))


def _edges(amounts: Any) -> list[int]:
    sides = [(int(a.startEdgeSize), int(a.endEdgeSize)) for a in amounts.borderAmounts]
    return [n for side in (sides or [(0, 0), (0, 0)]) for n in side]


def _padding(p: Any) -> dict[str, Any]:
    if p.WhichOneof("ConvolutionPaddingType" if hasattr(p, "isDeconvolution") else "PoolingPaddingType") == "same":
        return {"pad_type": "same_lower" if p.same.asymmetryMode else "same"}
    edges = _edges(p.valid.paddingAmounts)
    return {"pad_type": "custom", "pad": edges} if any(edges) else {"pad_type": "valid"}


@layer("convolution")
def _convolution(w: Any, p: Any, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
    y, lead = _images(as_float(x))
    kernel = tuple(p.kernelSize) or (3, 3)
    groups = p.nGroups or 1
    if p.isDeconvolution:
        shape = (p.kernelChannels, p.outputChannels // groups, *kernel)
    else:
        shape = (p.outputChannels, p.kernelChannels, *kernel)
    held = w.weight("weights", p.weights, shape) if weight is None else weight
    given = bias if bias is not None else _bias(w, p, p.outputChannels)
    how = {"strides": tuple(p.stride) or (1, 1), "dilations": tuple(p.dilationFactor) or (1, 1), "groups": groups}
    op = "conv_transpose" if p.isDeconvolution else "conv"
    if p.isDeconvolution and p.outputShape:
        how["output_shape"] = tuple(p.outputShape)
    return _and_back(mil(op, y, held, given, **how, **_padding(p)), lead)


def _three(p: Any, *names: str) -> tuple[int, ...]:
    return tuple([getattr(p, n) for n in names])


def _padding3(p: Any) -> dict[str, Any]:
    if p.paddingType == 0:
        return {"pad_type": "custom", "pad": _three(
            p, "customPaddingFront", "customPaddingBack", "customPaddingTop", "customPaddingBottom",
            "customPaddingLeft", "customPaddingRight")}  # fmt: skip
    return {"pad_type": "valid" if p.paddingType == 1 else "same"}


@layer("convolution3d")
def _convolution3d(w: Any, p: Any, x: Value) -> Value:
    y, lead = _images(as_float(x), rank=5)
    kernel = _three(p, "kernelDepth", "kernelHeight", "kernelWidth")
    groups = p.nGroups or 1
    back = p.isDeconvolution
    shape = (p.inputChannels, p.outputChannels // groups) if back else (p.outputChannels, p.inputChannels // groups)
    how: dict[str, Any] = {
        "strides": tuple([n or 1 for n in _three(p, "strideDepth", "strideHeight", "strideWidth")]),
        "dilations": tuple([n or 1 for n in _three(p, "dilationDepth", "dilationHeight", "dilationWidth")]),
        "groups": groups,
    }
    if back and p.outputShape:
        how["output_shape"] = tuple(p.outputShape)
    held = w.weight("weights", p.weights, (*shape, *kernel))
    out = mil("conv_transpose" if back else "conv", y, held, _bias(w, p, p.outputChannels), **how, **_padding3(p))
    return _and_back(out, lead)


# --- pools -------------------------------------------------------------------------------------------------

_POOLS = ("max_pool", "avg_pool", "l2_pool")


@layer("pooling")
def _pooling(w: Any, p: Any, x: Value) -> Value:
    (y,) = floats(x)
    if p.globalPooling:
        axes = (y.rank - 2, y.rank - 1)
        return mil(("reduce_max", "reduce_mean", "reduce_l2_norm")[p.type], y, axes=axes, keep_dims=True)
    z, lead = _images(y)
    kernel, stride = tuple(p.kernelSize) or (3, 3), tuple(p.stride) or (1, 1)
    how: dict[str, Any] = {"kernel_sizes": kernel, "strides": stride}
    if p.type == 1:
        how["exclude_padding_from_average"] = p.avgPoolExcludePadding
    if p.WhichOneof("PoolingPaddingType") == "includeLastPixel":
        amounts = tuple(p.includeLastPixel.paddingAmounts) or (0, 0)
        how |= {"pad_type": "custom", "pad": [n for a in amounts for n in (a, a)], "ceil_mode": True}
    else:
        how |= _padding(p)
    return _and_back(mil(_POOLS[p.type], z, **how), lead)


@layer("pooling3d")
def _pooling3d(w: Any, p: Any, x: Value) -> Value:
    y, lead = _images(as_float(x), rank=5)
    how: dict[str, Any] = {
        "kernel_sizes": _three(p, "kernelDepth", "kernelHeight", "kernelWidth"),
        "strides": tuple([n or 1 for n in _three(p, "strideDepth", "strideHeight", "strideWidth")]),
        **_padding3(p),
    }
    if p.paddingType == 2:
        how["pad_type"] = "valid"
    elif p.paddingType == 1:
        how["pad_type"] = "same"
    if p.type == 1:
        how["exclude_padding_from_average"] = p.countExcludePadding
    return _and_back(mil(_POOLS[p.type], y, **how), lead)


@layer("globalPooling3d")
def _global3d(w: Any, p: Any, x: Value) -> Value:
    (y,) = floats(x)
    return mil(("reduce_max", "reduce_mean")[p.type], y, axes=tuple(range(y.rank - 3, y.rank)), keep_dims=True)


# --- norms -------------------------------------------------------------------------------------------------


@layer("batchnorm")
def _batchnorm(w: Any, p: Any, x: Value) -> Value:
    (y,) = floats(x)
    axis = max(y.rank - 3, 0) if y.rank != 5 or not w.exact else 1
    gamma, beta = (w.weight(n, getattr(p, n), (p.channels,)) for n in ("gamma", "beta"))
    if p.instanceNormalization:
        z, lead = _images(y)
        return _and_back(mil("instance_norm", z, gamma, beta, epsilon=p.epsilon), lead)
    if p.computeMeanVar:
        raise unsupported("it computes the statistics of a batch")
    mean, variance = (w.weight(n, getattr(p, n), (p.channels,), statistic=True) for n in ("mean", "variance"))
    return lib.batch_norm(y, mean, variance, gamma, beta, eps=p.epsilon, axis=axis)


@layer("layerNormalization")
def _layer_norm(w: Any, p: Any, x: Value) -> Value:
    shape = tuple(p.normalizedShape)
    gamma, beta = (w.weight(n, getattr(p, n), shape) for n in ("gamma", "beta"))
    return lib.layer_norm(as_float(x), gamma, beta, rank=len(shape), eps=p.eps)


@layer("mvn")
def _mvn(w: Any, p: Any, x: Value) -> Value:
    """The mean taken off, and divided by the deviation, of each image or each channel of one."""
    (y,) = floats(x)
    axes = tuple(range(y.rank - (3 if p.acrossChannels else 2), y.rank))
    left = y - lib.mean(y, axes=axes, keep=True)
    if not p.normalizeVariance:
        return left
    return lib.divide(left, e.sqrt(lib.mean(lib.square(left), axes=axes, keep=True)) + p.epsilon)


@layer("l2normalize")
def _l2_normalize(w: Any, p: Any, x: Value) -> Value:
    return mil("l2_norm", as_float(x), epsilon=p.epsilon)


@layer("lrn")
def _lrn(w: Any, p: Any, x: Value) -> Value:
    y, lead = _images(as_float(x))
    return _and_back(mil("local_response_norm", y, size=p.localSize, alpha=p.alpha, beta=p.beta, k=p.k), lead)


layer("softmaxND")(lambda w, p, x: lib.softmax(as_float(x), axis=p.axis))
layer("softmax")(lambda w, p, x: lib.softmax(as_float(x), axis=-3 if x.rank >= 3 else -1))

# --- reductions --------------------------------------------------------------------------------------------


def _reduce(op: str) -> Callable[..., Any]:
    def rule(w: Any, p: Any, x: Value) -> Value:
        axes = None if p.reduceAll else tuple(p.axes)
        return mil(op, as_float(x), axes=axes, keep_dims=p.keepDims)

    return rule


for _name, _op in {
    "L1": "l1_norm", "L2": "l2_norm", "Max": "max", "Min": "min", "Sum": "sum", "Prod": "prod", "Mean": "mean",
    "LogSum": "log_sum", "SumSquare": "sum_square", "LogSumExp": "log_sum_exp",
}.items():  # fmt: skip
    layer(f"reduce{_name}")(_reduce(f"reduce_{_op}"))


def _arg(op: str) -> Callable[..., Any]:
    return lambda w, p, x: e.cast(mil(op, as_float(x), axis=p.axis, keep_dims=not p.removeDim), "f32")


layer("argMax")(_arg("reduce_argmax"))
layer("argMin")(_arg("reduce_argmin"))


@layer("topK")
def _top_k(w: Any, p: Any, x: Value, k: Value | None = None) -> Any:
    count = w.ints(k)[0] if k is not None else p.K
    values, places = mil("topk", as_float(x), k=count, axis=p.axis, ascending=p.useBottomK)
    return values, e.cast(places, "f32")


@layer("argSort")
def _arg_sort(w: Any, p: Any, x: Value) -> Value:
    return e.cast(argsort(x, normal_axis(p.axis, x.rank), p.descending), "f32")


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
    before, after = list(p.beginMasks), list(p.endMasks)
    lost = list(p.squeezeMasks) or [False] * x.rank
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
    edges = _edges(p.paddingAmounts)
    widths = [(0, 0)] * (x.rank - 2) + [(edges[0], edges[1]), (edges[2], edges[3])]
    if kind == "constant":
        return s.pad(as_float(x), widths, p.constant.value)
    return (lib.reflect_pad if kind == "reflection" else lib.replicate_pad)(as_float(x), widths=tuple(widths))


@layer("crop")
def _crop(w: Any, p: Any, x: Value, like: Value | None = None) -> Value:
    if like is not None:
        (top, left), (h, wide) = p.offset, like.shape[-2:]
        out = s.slice_axis(x, x.rank - 2, top, top + h)
        return s.slice_axis(out, x.rank - 1, left, left + wide)
    edges = _edges(p.cropAmounts)
    return mil("crop", x, crop_height=edges[:2], crop_width=edges[2:])


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
    y, lead = _images(x)
    if p.mode == 2:
        return _and_back(mil("pixel_shuffle", y, upscale_factor=p.blockSize), lead)
    op = "space_to_depth" if p.mode == 0 else "depth_to_space"
    return _and_back(mil(op, y, block_size=p.blockSize), lead)


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
    y, lead = _images(as_float(x))
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
