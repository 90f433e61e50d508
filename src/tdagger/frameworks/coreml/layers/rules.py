"""Rules of layers that compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.coreml.layers.table import (
    LAYERS,
    and_back,
    as_float,
    edges,
    floats,
    images,
    layer,
    mil,
    truth,
    unsupported,
    whole,
)
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
    """Of two tensors; or of one by a matrix ``[i o]``, held as ``[o i]``, for which nothing is transposed."""
    (a,) = floats(x)
    if y is not None:
        return mil("matmul", a, as_float(y), transpose_x=p.transposeA, transpose_y=p.transposeB)
    out = p.weightMatrixSecondDimension
    return lib.linear(a, w.weight("weights", p.weights, (out, p.weightMatrixFirstDimension)), _bias(w, p, out))


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


def _padding(p: Any) -> dict[str, Any]:
    if p.WhichOneof("ConvolutionPaddingType" if hasattr(p, "isDeconvolution") else "PoolingPaddingType") == "same":
        return {"pad_type": "same_lower" if p.same.asymmetryMode else "same"}
    sides = edges(p.valid.paddingAmounts)
    return {"pad_type": "custom", "pad": sides} if any(sides) else {"pad_type": "valid"}


@layer("convolution")
def _convolution(w: Any, p: Any, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
    y, lead = images(as_float(x))
    kernel = tuple(p.kernelSize) or (3, 3)
    groups = p.nGroups or 1
    if p.isDeconvolution:
        shape = (p.kernelChannels, p.outputChannels // groups, *kernel)
    else:
        shape = (p.outputChannels, p.kernelChannels, *kernel)
    held = w.weight("weights", p.weights, shape, axis=int(p.isDeconvolution)) if weight is None else weight
    given = bias if bias is not None else _bias(w, p, p.outputChannels)
    how = {"strides": tuple(p.stride) or (1, 1), "dilations": tuple(p.dilationFactor) or (1, 1), "groups": groups}
    op = "conv_transpose" if p.isDeconvolution else "conv"
    if p.isDeconvolution and p.outputShape:
        how["output_shape"] = tuple(p.outputShape)
    return and_back(mil(op, y, held, given, **how, **_padding(p)), lead)


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
    y, lead = images(as_float(x), rank=5)
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
    held = w.weight("weights", p.weights, (*shape, *kernel), axis=int(back))
    out = mil("conv_transpose" if back else "conv", y, held, _bias(w, p, p.outputChannels), **how, **_padding3(p))
    return and_back(out, lead)


# --- pools -------------------------------------------------------------------------------------------------

_POOLS = ("max_pool", "avg_pool", "l2_pool")


@layer("pooling")
def _pooling(w: Any, p: Any, x: Value) -> Value:
    (y,) = floats(x)
    if p.globalPooling:
        axes = (y.rank - 2, y.rank - 1)
        return mil(("reduce_max", "reduce_mean", "reduce_l2_norm")[p.type], y, axes=axes, keep_dims=True)
    z, lead = images(y)
    kernel, stride = tuple(p.kernelSize) or (3, 3), tuple(p.stride) or (1, 1)
    how: dict[str, Any] = {"kernel_sizes": kernel, "strides": stride}
    if p.type == 1:
        how["exclude_padding_from_average"] = p.avgPoolExcludePadding
    if p.WhichOneof("PoolingPaddingType") == "includeLastPixel":
        amounts = tuple(p.includeLastPixel.paddingAmounts) or (0, 0)
        how |= {"pad_type": "custom", "pad": [n for a in amounts for n in (a, a)], "ceil_mode": True}
    else:
        how |= _padding(p)
    return and_back(mil(_POOLS[p.type], z, **how), lead)


@layer("pooling3d")
def _pooling3d(w: Any, p: Any, x: Value) -> Value:
    y, lead = images(as_float(x), rank=5)
    how: dict[str, Any] = {
        "kernel_sizes": _three(p, "kernelDepth", "kernelHeight", "kernelWidth"),
        "strides": tuple([n or 1 for n in _three(p, "strideDepth", "strideHeight", "strideWidth")]),
        **_padding3(p),
    }
    if p.type == 1:
        how["exclude_padding_from_average"] = p.countExcludePadding
    return and_back(mil(_POOLS[p.type], y, **how), lead)


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
        z, lead = images(y)
        return and_back(mil("instance_norm", z, gamma, beta, epsilon=p.epsilon), lead)
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
    y, lead = images(as_float(x))
    return and_back(mil("local_response_norm", y, size=p.localSize, alpha=p.alpha, beta=p.beta, k=p.k), lead)


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


# --- random numbers ----------------------------------------------------------------------------------------

#: What each distribution makes of a stream, a layer's parameters and a shape.
_DRAWN: dict[str, Callable[..., Value]] = {
    "Normal": lambda u, p, shape: lib.normal(u, shape=shape, mean=p.mean, std=p.stdDev),
    "Uniform": lambda u, p, shape: lib.uniform(u, shape=shape, low=p.minVal, high=p.maxVal),
    "Bernoulli": lambda u, p, shape: e.cast(lib.bernoulli(u, shape=shape, rate=p.prob), "f32"),
}


def _random(draw: Callable[..., Value]) -> tuple[Callable[..., Value], ...]:
    """Rules of the layers whose shape is that of their input, a setting, or the numbers in their input."""
    return (
        lambda w, p, x: draw(w.draw(), p, x.shape),
        lambda w, p: draw(w.draw(), p, tuple(p.outputShape)),
        lambda w, p, x: draw(w.draw(), p, w.ints(x)),
    )


for _name, _draw in _DRAWN.items():
    for _way, _rule in zip(("Like", "Static", "Dynamic"), _random(_draw), strict=True):
        layer(f"random{_name}{_way}")(_rule)
