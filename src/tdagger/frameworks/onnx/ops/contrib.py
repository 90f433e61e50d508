"""Operators of onnxruntime's own domain com.microsoft: what its optimizer and exporters write into files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.ops.attention import (
    at_positions,
    attend,
    before,
    both,
    heads,
    merged,
    near,
    rotary,
)
from tdagger.frameworks.onnx.ops.networks import convolution_options, gemm, integer_matmul, rows
from tdagger.frameworks.onnx.ops.norm import layer_norm, simplified_layer_norm
from tdagger.frameworks.onnx.ops.pool import average_pool, global_average_pool, max_pool
from tdagger.frameworks.onnx.ops.quantized import (
    along,
    dequantized,
    dynamically,
    of_dtype,
    quantized,
    quantized_convolution,
    spread,
)
from tdagger.frameworks.onnx.ops.recurrent import lstm
from tdagger.frameworks.onnx.ops.resize import grid_sample
from tdagger.frameworks.onnx.ops.table import MICROSOFT, Int, Ints, rule, unsupported
from tdagger.frameworks.onnx.ops.windows import short
from tdagger.op import Value
from tdagger.ops.elementwise import (
    bitwise_and,
    cast,
    equal,
    maximum,
    minimum,
    not_equal,
    shift_right,
    sqrt,
    tanh,
    where,
)
from tdagger.ops.indexing import Scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import (
    broadcast_to,
    concat,
    group,
    pad,
    permute,
    reduce,
    select,
    slice_axis,
    split,
    squeeze,
    transpose,
    ungroup,
    unsqueeze,
)


def contrib(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule of the domain."""
    return rule(*names, domain=MICROSOFT)


def takes(other: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What a rule has as ``**options`` are the attributes of another one."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in own}
        theirs = inspect.signature(other).parameters.values()
        added = [p for p in theirs if p.kind is p.KEYWORD_ONLY and p.name not in names]
        function.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        return function

    return mark


def refuse(**options: Any) -> None:
    """UnsupportedError names the options that are given and not imported."""
    given = [name for name, value in options.items() if value is not None and value is not False and value != 0]
    if given:
        raise unsupported(f"it isn't imported with {', '.join(given)}")


# --- activations and norms ---------------------------------------------------------------------------------


@contrib("Gelu")
def _gelu(X: Value) -> Value:
    return lib.gelu(X)


@contrib("BiasGelu")
def _bias_gelu(A: Value, B: Value) -> Value:
    return lib.gelu(A + B)


@contrib("FastGelu", "GeluApproximation")
def _fast_gelu(X: Value, bias: Value | None = None) -> Value:
    return lib.gelu(X if bias is None else X + bias, approximate="tanh")


@contrib("QuickGelu")
def _quick_gelu(X: Value, *, alpha: float = 1.702) -> Value:
    return lib.silu(X) if alpha == 1 else X * lib.sigmoid(X * short(alpha))


@contrib("BiasSplitGelu")
def _bias_split_gelu(X: Value, bias: Value) -> Value:
    left, right = split(X + bias, [X.shape[-1] // 2] * 2, -1)
    return left * lib.gelu(right)


@contrib("BiasAdd")
def _bias_add(X: Value, bias: Value, skip: Value) -> Value:
    return X + bias + skip


@contrib("SkipLayerNormalization")
def _skip_layer_norm(
    input: Value, skip: Value, gamma: Value, beta: Value | None = None, bias: Value | None = None, *,
    epsilon: float = 1e-12, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    total = input + skip if bias is None else input + skip + bias
    out = layer_norm(total, gamma, beta, -1, epsilon, wanted[:3])
    return _with_sum(out, total, wanted)


@contrib("SkipSimplifiedLayerNormalization")
def _skip_rms_norm(
    input: Value, skip: Value, gamma: Value, bias: Value | None = None, *, epsilon: float = 1e-12,
    wanted: Sequence[bool],
) -> Any:  # fmt: skip
    total = input + skip if bias is None else input + skip + bias
    if any(wanted[1:3]):
        raise unsupported("its statistics as outputs aren't imported")
    out = simplified_layer_norm(total, gamma, epsilon=epsilon, wanted=(True,))
    return _with_sum(out, total, wanted)


def _with_sum(out: Any, total: Value, wanted: Sequence[bool]) -> Any:
    results = list(out) if isinstance(out, tuple) else [out]
    return (*results, *[None] * (3 - len(results)), total) if any(wanted[1:]) else out


@contrib("GroupNorm")
def _group_norm(
    X: Value, gamma: Value, beta: Value, *, activation: int, channels_last: int = 1, epsilon: float = 1e-5,
    groups: int,
) -> Value:  # fmt: skip
    if activation not in (0, 1):
        raise unsupported(f"its activation {activation} is neither 0 (none) nor 1 (SiLU)")
    last = X.rank - 1
    x = permute(X, (0, last, *range(1, last))) if channels_last else X
    weights = [cast(w, x.dtype) for w in (gamma, beta)]
    out = lib.group_norm(x, *weights, groups=groups, eps=short(epsilon))
    out = lib.silu(out) if activation else out
    return permute(out, (0, *range(2, X.rank), 1)) if channels_last else out


@contrib("EmbedLayerNormalization")
def _embed_layer_norm(
    input_ids: Value, segment_ids: Value | None, word_embedding: Value, position_embedding: Value,
    segment_embedding: Value | None, gamma: Value, beta: Value, mask: Value | None = None,
    position_ids: Value | None = None, *, epsilon: float = 1e-12, mask_index_type: int | None = None,
    wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Words, places and segments looked up, added and normalised; the mask's index is how many words count."""
    del mask_index_type
    length = input_ids.shape[1]
    if position_ids is None:
        places = unsqueeze(slice_axis(position_embedding, 0, 0, length), (0,))
    else:
        places = lib.embedding(position_embedding, position_ids)
    total = lib.embedding(word_embedding, input_ids) + places
    if segment_ids is not None and segment_embedding is not None:
        total = total + lib.embedding(segment_embedding, segment_ids)
    out = layer_norm(total, gamma, beta, -1, epsilon, (True,))
    if not any(wanted[1:]):
        return out
    index = broadcast_to(const(0, "i32"), (input_ids.shape[0],))
    return out, index if mask is None else reduce(cast(mask, "i32"), "sum", (1,), keep=False), total


# --- products ----------------------------------------------------------------------------------------------


@contrib("FusedMatMul", "TransposeMatMul")
def _fused_matmul(
    A: Value, B: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0,
    transBatchB: int = 0,
) -> Value:  # fmt: skip
    a, b = (_turned(x, t, batch) for x, t, batch in ((A, transA, transBatchA), (B, transB, transBatchB)))
    out = lib.matmul(a, b)
    return out if alpha == 1 else out * alpha


def _turned(x: Value, swapped: int, batch: int) -> Value:
    """The last two axes exchanged; with ``batch`` the first axis stands before the last first."""
    x = permute(x, (*range(1, x.rank - 1), 0, x.rank - 1)) if batch else x
    return transpose(x, -1, -2) if swapped and x.rank > 1 else x


def _activated(x: Value, name: str, a: float | None, b: float | None) -> Value:
    """An activation that was fused."""

    def given(number: float | None, default: float) -> float:
        return default if number is None else short(number)

    table: dict[str, Callable[[], Value]] = {
        "": lambda: x,
        "Relu": lambda: lib.relu(x),
        "Tanh": lambda: tanh(x),
        "Sigmoid": lambda: lib.sigmoid(x),
        "LeakyRelu": lambda: lib.leaky_relu(x, slope=given(a, 0.01)),
        "Clip": lambda: lib.clamp(x, low=a, high=b),
        "HardSigmoid": lambda: minimum(maximum(x * given(a, 0.2) + given(b, 0.5), 0.0), 1.0),
        "HardSwish": lambda: lib.hard_swish(x),
        "Gelu": lambda: lib.gelu(x),
        "QuickGelu": lambda: x * lib.sigmoid(x * given(a, 1.702)),
        "Softplus": lambda: lib.softplus(x),
        "Softsign": lambda: lib.softsign(x),
        "Elu": lambda: lib.elu(x, alpha=given(a, 1.0)),
    }
    if name not in table:
        raise unsupported(f"its activation {name} isn't imported")
    return table[name]()


@contrib("FusedMatMulActivation")
@takes(_fused_matmul)
def _fused_matmul_activation(
    A: Value, B: Value, *, activation: str, activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, activation_axis: int | None = None,
    **more: Any,
) -> Value:  # fmt: skip
    del activation_gamma, activation_axis
    return _activated(_fused_matmul(A, B, **more), activation, activation_alpha, activation_beta)


@contrib("FusedGemm")
def _fused_gemm(
    A: Value, B: Value, C: Value | None = None, *, activation: str = "", activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, alpha: float = 1.0,
    beta: float = 1.0, transA: int = 0, transB: int = 0,
) -> Value:  # fmt: skip
    del activation_gamma
    out = gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(out, activation, activation_alpha, activation_beta)


@contrib("FusedConv")
def _fused_conv(
    X: Value, W: Value, B: Value | None = None, Z: Value | None = None, *, activation: str = "",
    activation_params: Sequence[float] = (), auto_pad: str = "NOTSET", dilations: Ints | None = None, group: int = 1,
    kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """A convolution, Z added if there is one, then an activation."""
    options = convolution_options(X, W, auto_pad, dilations, group, kernel_shape, pads, strides)
    out = lib.convolution(X, W, B, **options)
    out = out if Z is None else out + Z
    a, b = (*activation_params, None, None)[:2]
    return _activated(out, activation, a, b)


def _channels_first(x: Value) -> Value:
    return permute(x, (0, x.rank - 1, *range(1, x.rank - 1)))


def _channels_last(x: Value) -> Value:
    return permute(x, (0, *range(2, x.rank), 1))


@contrib("NhwcFusedConv", "NhwcConv")
@takes(_fused_conv)
def _nhwc_conv(X: Value, W: Value, B: Value | None = None, Z: Value | None = None, **options: Any) -> Value:
    z = None if Z is None else _channels_first(Z)
    return _channels_last(_fused_conv(_channels_first(X), W, B, z, **options))


@contrib("NhwcMaxPool")
@takes(max_pool)
def _nhwc_max_pool(x: Value, *, wanted: Sequence[bool], **options: Any) -> Value:
    return _channels_last(max_pool(_channels_first(x), wanted=wanted, **options))


@contrib("ConvTransposeWithDynamicPads")
def _conv_transpose_dynamic(
    *inputs: Value, auto_pad: str = "NOTSET", dilations: Ints | None = None, group: int = 1,
    kernel_shape: Ints | None = None, output_padding: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    raise unsupported("its padding is data")


@contrib("Inverse")
def _inverse(X: Value) -> Value:
    """By Gauss and Jordan with the largest pivot of each column, written out row by row."""
    n = X.shape[-1]
    if X.rank < 2 or X.shape[-2] != n or n > 8:
        raise unsupported(f"the inverse of {X.type}: matrices of up to 8 rows are written out")
    lead = X.rank - 2
    eye = broadcast_to(const(np.eye(n, dtype=X.dtype.numpy)), X.shape)
    a = concat([X, eye], -1)
    for i in range(n):
        column = squeeze(slice_axis(a, lead + 1, i, i + 1), (lead + 1,))
        size = where(iota(n) >= i, maximum(column, -column), -1.0)
        first = cast(lib.argmax(size, axis=lead, keep=True), "i64")
        here = equal(iota(n), first)  # [.. n], True in the pivot's row
        pivot = reduce(where(unsqueeze(here, (lead + 1,)), a, 0.0), "sum", (lead,))
        own = slice_axis(a, lead, i, i + 1)
        a = where(unsqueeze(here, (lead + 1,)), own, a)  # the row there was goes where the pivot was
        pivot = pivot / slice_axis(pivot, lead + 1, i, i + 1)
        factors = slice_axis(a, lead + 1, i, i + 1)
        at_i = unsqueeze(equal(iota(n), i), (1,))
        a = where(at_i, pivot, a - factors * pivot)
    return slice_axis(a, lead + 1, n, 2 * n)


@contrib("Trilu")
def _trilu(X: Value, k: Int = 0, *, upper: int = 1) -> Value:
    return lib.triu(X, diagonal=k) if upper else lib.tril(X, diagonal=k)


@contrib("BiasSoftmax")
def _bias_softmax(data: Value, bias: Value, *, axis: int = 1, is_inner_broadcast: int = 1) -> Value:
    """Softmax over all axes from ``axis`` on; the bias is broadcast as numpy does, or over blocks of the batch."""
    axis %= data.rank
    if not is_inner_broadcast and bias.rank == data.rank and bias.shape != data.shape:
        raise unsupported(f"a bias {bias.type} repeated over blocks of {data.type}")
    total = data + bias
    flat = group(total, (*(1,) * axis, data.rank - axis))
    return lib.reshape(lib.softmax(flat, axis=axis), shape=data.shape)


@contrib("BiasDropout")
def _bias_dropout(
    data: Value, bias: Value, residual: Value | None = None, ratio: Value | None = None,
    training_mode: Value | None = None, *, seed: int | None = None, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    del seed
    rate: Any = 0.5 if ratio is None else number_of(ratio)
    trains = False if training_mode is None else number_of(training_mode)
    if trains is not False or rate is None or any(wanted[1:]):
        raise unsupported("it isn't imported in training or with its mask")
    out = lib.dropout(data + bias, p=short(rate))
    return out if residual is None else out + residual


@contrib("CDist")
def _cdist(A: Value, B: Value, *, metric: str = "sqeuclidean") -> Value:
    if metric not in ("euclidean", "sqeuclidean"):
        raise unsupported(f"its metric {metric} is neither euclidean nor sqeuclidean")
    away = unsqueeze(A, (1,)) - unsqueeze(B, (0,))
    total = reduce(away * away, "sum", (2,), keep=False)
    return sqrt(total) if metric == "euclidean" else total


@contrib("GridSample")
@takes(grid_sample)
def _grid_sample(X: Value, Grid: Value, **options: Any) -> Value:
    return grid_sample(X, Grid, **options)


# --- on integers -------------------------------------------------------------------------------------------


@contrib("QuantizeLinear")
def _quantize(x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1) -> Value:
    zero = None if y_zero_point is None else spread(y_zero_point, x, axis)
    scale = cast(spread(y_scale, x, axis), x.dtype)
    return quantized(x / scale, zero, of_dtype(y_zero_point.dtype) if y_zero_point is not None else _u8())


def _u8() -> Any:
    return of_dtype(const(0, "u8").dtype)


@contrib("DequantizeLinear")
def _dequantize(x: Value, x_scale: Value, x_zero_point: Value | None = None, *, axis: int = 1) -> Value:
    zero = None if x_zero_point is None else spread(x_zero_point, x, axis)
    return dequantized(x, spread(x_scale, x, axis), zero)


def _number(v: Value | None) -> Value | None:
    """A scale or a zero point that is one number."""
    return None if v is None else along(v, v.shape)


def _dequantized(x: Value, scale: Value, zero_point: Value | None) -> Value:
    return dequantized(x, along(scale, scale.shape), _number(zero_point))


def _requantized(y: Value, scale: Value, zero_point: Value | None, like: Value) -> Value:
    """Floats as the integers of the zero point, or of those that came in."""
    to = of_dtype(like.dtype if zero_point is None else zero_point.dtype)
    return quantized(y / along(scale, scale.shape), _number(zero_point), to)


def _qlinear_binary(function: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    def apply(
        A: Value, A_scale: Value, A_zero_point: Value | None, B: Value, B_scale: Value, B_zero_point: Value | None,
        C_scale: Value, C_zero_point: Value | None = None,
    ) -> Value:  # fmt: skip
        y = function(_dequantized(A, A_scale, A_zero_point), _dequantized(B, B_scale, B_zero_point))
        return _requantized(y, C_scale, C_zero_point, A)

    return apply


contrib("QLinearAdd")(_qlinear_binary(lambda a, b: a + b))
contrib("QLinearMul")(_qlinear_binary(lambda a, b: a * b))


@contrib("QLinearSigmoid")
def _qlinear_sigmoid(
    X: Value, X_scale: Value, X_zero_point: Value | None, Y_scale: Value, Y_zero_point: Value | None = None
) -> Value:
    return _requantized(lib.sigmoid(_dequantized(X, X_scale, X_zero_point)), Y_scale, Y_zero_point, X)


@contrib("QLinearLeakyRelu")
def _qlinear_leaky_relu(
    X: Value, X_scale: Value, X_zero_point: Value | None, Y_scale: Value, Y_zero_point: Value | None = None, *,
    alpha: float = 0.01,
) -> Value:  # fmt: skip
    x = _dequantized(X, X_scale, X_zero_point)
    return _requantized(lib.leaky_relu(x, slope=alpha), Y_scale, Y_zero_point, X)


@contrib("QLinearAveragePool")
@takes(average_pool)
def _qlinear_average_pool(
    X: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value, y_zero_point: Value | None = None, *,
    channels_last: int = 0, **options: Any,
) -> Value:  # fmt: skip
    x = _dequantized(_channels_first(X) if channels_last else X, x_scale, x_zero_point)
    y = _requantized(average_pool(x, **options), y_scale, y_zero_point, X)
    return _channels_last(y) if channels_last else y


@contrib("QLinearGlobalAveragePool")
def _qlinear_global_average_pool(
    X: Value, x_scale: Value, x_zero_point: Value, y_scale: Value, y_zero_point: Value, *, channels_last: int = 0
) -> Value:
    x = _dequantized(_channels_first(X) if channels_last else X, x_scale, x_zero_point)
    y = _requantized(global_average_pool(x), y_scale, y_zero_point, X)
    return _channels_last(y) if channels_last else y


@contrib("QLinearReduceMean")
def _qlinear_reduce_mean(
    data: Value, data_scale: Value, data_zero_point: Value | None, reduced_scale: Value,
    reduced_zero_point: Value | None = None, *, axes: Ints = (), keepdims: int = 1,
) -> Value:  # fmt: skip
    over = tuple(sorted(a % data.rank for a in axes)) or tuple(range(data.rank))
    y = lib.mean(_dequantized(data, data_scale, data_zero_point), axes=over, keep=bool(keepdims))
    return _requantized(y, reduced_scale, reduced_zero_point, data)


@contrib("QLinearConcat")
def _qlinear_concat(Y_scale: Value, Y_zero_point: Value, *inputs: Value, axis: int) -> Value:
    parts = [_dequantized(*inputs[i : i + 3]) for i in range(0, len(inputs), 3)]
    return _requantized(concat(parts, axis), Y_scale, Y_zero_point, Y_zero_point)


@contrib("QLinearWhere")
def _qlinear_where(
    condition: Value, X: Value, x_scale: Value, x_zero_point: Value, Y: Value, y_scale: Value, y_zero_point: Value,
    z_scale: Value, z_zero_point: Value,
) -> Value:  # fmt: skip
    z = where(condition, _dequantized(X, x_scale, x_zero_point), _dequantized(Y, y_scale, y_zero_point))
    return _requantized(z, z_scale, z_zero_point, X)


@contrib("QLinearSoftmax")
def _qlinear_softmax(
    X: Value, X_scale: Value, x_zero_point: Value | None, y_scale: Value, y_zero_point: Value, *, axis: int = -1,
    opset: int,
) -> Value:  # fmt: skip
    """Of opset 12 and before over all axes from ``axis`` on."""
    x, axis = _dequantized(X, X_scale, x_zero_point), axis % X.rank
    if opset < 13:
        y = lib.softmax(group(x, (*(1,) * axis, X.rank - axis)), axis=axis)
        y = lib.reshape(y, shape=X.shape)
    else:
        y = lib.softmax(x, axis=axis)
    return _requantized(y, y_scale, y_zero_point, X)


@contrib("QLinearConv")
def _qlinear_conv(
    x: Value, x_scale: Value, x_zero_point: Value, w: Value, w_scale: Value, w_zero_point: Value, y_scale: Value,
    y_zero_point: Value, B: Value | None = None, *, auto_pad: str = "NOTSET", channels_last: int = 0,
    dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:  # fmt: skip
    x = _channels_first(x) if channels_last else x
    options = convolution_options(x, w, auto_pad, dilations, group, kernel_shape, pads, strides)
    y = quantized_convolution(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B, options)
    return _channels_last(y) if channels_last else y


@contrib("QGemm")
def _qgemm(
    A: Value, a_scale: Value, a_zero_point: Value, B: Value, b_scale: Value, b_zero_point: Value,
    C: Value | None = None, y_scale: Value | None = None, y_zero_point: Value | None = None, *, alpha: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Value:  # fmt: skip
    """The product of integers with a bias of i32; floats if there is no scale of the result."""
    a, b = (transpose(x, 0, 1) if t else x for x, t in ((A, transA), (B, transB)))
    total = integer_matmul(a, b, a_zero_point, b_zero_point)
    total = total if C is None else total + C
    scale = along(a_scale, ()) * along(b_scale, b_scale.shape) * short(alpha)
    y = cast(total, "f32") * scale
    return y if y_scale is None else _requantized(y, y_scale, y_zero_point, A)


@contrib("MulInteger")
def _mul_integer(A: Value, A_zero_point: Value | None, B: Value, B_zero_point: Value | None = None) -> Value:
    def less(x: Value, zero: Value | None) -> Value:
        found = _number(zero)
        return cast(x, "i32") if found is None else cast(x, "i32") - cast(found, "i32")

    return less(A, A_zero_point) * less(B, B_zero_point)


@contrib("MatMulIntegerToFloat")
def _matmul_integer_to_float(
    A: Value, B: Value, a_scale: Value, b_scale: Value, a_zero_point: Value | None = None,
    b_zero_point: Value | None = None, bias: Value | None = None,
) -> Value:  # fmt: skip
    return _scaled_product(A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)


def _scaled_product(
    A: Value, B: Value, a_scale: Value, b_scale: Value, a_zero: Value | None, b_zero: Value | None,
    bias: Value | None,
) -> Value:  # fmt: skip
    """Products of integers exactly, then the scales, which may be those of the columns of B, and a bias."""
    total = cast(integer_matmul(A, B, a_zero, b_zero), "f32")
    scale = along(a_scale, rows(a_scale) or a_scale.shape) * along(b_scale, b_scale.shape)
    out = total * cast(scale, "f32")
    return out if bias is None else out + bias


@contrib("DynamicQuantizeMatMul")
def _dynamic_quantize_matmul(
    A: Value, B: Value, b_scale: Value, b_zero_point: Value | None = None, bias: Value | None = None
) -> Value:
    a, scale, zero = dynamically(A)
    return _scaled_product(a, B, scale, b_scale, zero, b_zero_point, bias)


@contrib("DynamicQuantizeLSTM")
def _dynamic_quantize_lstm(
    X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None, initial_c: Value | None = None, P: Value | None = None,
    W_scale: Value | None = None, W_zero_point: Value | None = None, R_scale: Value | None = None,
    R_zero_point: Value | None = None, *, activation_alpha: Any = None, activation_beta: Any = None,
    activations: Any = None, clip: float | None = None, direction: str = "forward", hidden_size: int | None = None,
    input_forget: int = 0,
) -> Any:  # fmt: skip
    """An LSTM by weights of bytes ``[direction i gates]``; all inputs are quantized at once, states step by step."""
    if W_scale is None or R_scale is None:
        raise unsupported("it has no scales of its weights")

    def products(weight: Value, scale: Value, zero: Value | None) -> Callable[[Value, int], Value]:
        def product(x: Value, i: int) -> Value:
            a, a_scale, a_zero = dynamically(x)
            own_zero = None if zero is None else select(zero, 0, i)
            return _scaled_product(a, select(weight, 0, i), a_scale, select(scale, 0, i), a_zero, own_zero, None)

        return product

    by = (products(W, W_scale, W_zero_point), products(R, R_scale, R_zero_point))
    weights = [permute(w, (0, 2, 1)) for w in (W, R)]
    attributes = {
        "activation_alpha": activation_alpha, "activation_beta": activation_beta, "activations": activations,
        "clip": clip, "direction": direction, "hidden_size": hidden_size, "layout": 0,
    }  # fmt: skip
    return lstm((X, *weights, B, sequence_lens, initial_h, initial_c, P), attributes, input_forget, by)


# --- weights of few bits -----------------------------------------------------------------------------------


def _unpacked(x: Value, bits: int) -> Value:
    """The numbers of ``bits`` in the bytes of the last axis, the lowest first."""
    if bits == 8:
        return x
    if 8 % bits:
        raise unsupported(f"numbers of {bits} bits in bytes aren't imported")
    each = 8 // bits
    shifts = const(np.arange(each, dtype=np.uint8) * bits)
    parts = bitwise_and(shift_right(broadcast_to(unsqueeze(x, (x.rank,)), (*x.shape, each)), shifts), 2**bits - 1)
    return group(parts, (*(1,) * (x.rank - 1), 2))


@contrib("MatMulNBits")
def _matmul_nbits(
    A: Value, B: Value, scales: Value, zero_points: Value | None = None, g_idx: Value | None = None,
    bias: Value | None = None, *, K: int, N: int, accuracy_level: int = 0, bits: int = 4, block_size: int,
    weight_prepacked: int = 0,
) -> Value:  # fmt: skip
    """A linear layer by weights of a few bits, with a scale and a zero point for each block of a row."""
    del accuracy_level
    refuse(g_idx=g_idx, weight_prepacked=weight_prepacked)
    blocks = -(-K // block_size)
    if 0 in B.shape:
        raise unsupported(f"its weight {B.type} is left out")
    weight = lib.reshape(_unpacked(B, bits), shape=(N, blocks, block_size))
    if zero_points is None:
        zero: Any = float(2 ** (bits - 1))
    elif zero_points.dtype.is_float:
        zero = unsqueeze(lib.reshape(cast(zero_points, "f32"), shape=(N, blocks)), (2,))
    else:
        packed = lib.reshape(zero_points, shape=(N, -1))
        zero = unsqueeze(cast(slice_axis(_unpacked(packed, bits), 1, 0, blocks), "f32"), (2,))
    scale = unsqueeze(lib.reshape(cast(scales, "f32"), shape=(N, blocks)), (2,))
    floats = (cast(weight, "f32") - zero) * scale
    floats = slice_axis(lib.reshape(floats, shape=(N, blocks * block_size)), 1, 0, K)
    return lib.linear(A, cast(floats, A.dtype), bias)


# --- attention ---------------------------------------------------------------------------------------------


@contrib("RotaryEmbedding")
def _rotary_embedding(
    input: Value, position_ids: Value, cos_cache: Value, sin_cache: Value, *, interleaved: int = 0,
    is_packed_batching: int = 0, num_heads: int = 0, rotary_embedding_dim: int = 0, scale: float = 1.0,
) -> Value:  # fmt: skip
    """A position of one number is that of the first token."""
    refuse(is_packed_batching=is_packed_batching, scale=scale != 1)
    length = input.shape[2 if input.rank == 4 else 1]
    if position_ids.rank == 1:
        position_ids = unsqueeze(position_ids, (1,)) + iota(length)
    cos, sin = (at_positions(t, position_ids) for t in (cos_cache, sin_cache))
    width = rotary_embedding_dim or None
    if input.rank == 3 and not num_heads:
        num_heads = input.shape[2] // (2 * cos.shape[-1])
    return rotary(input, cos, sin, num_heads, bool(interleaved), width)


def _filtered(kept: Value, filter_: float) -> Value:
    """What a mask adds: 0 where it lets through, else a large negative number, which isn't minus infinity."""
    return where(kept, 0.0, filter_)


def _key_mask(mask: Value, batch: int, queries: int, keys: int) -> Value:
    """Whether each key takes part, as ``[b 1 1 k]`` or ``[b 1 q k]``, of the ways there are to say it."""
    if mask.rank == 1 and mask.shape[0] in (batch, 2 * batch):
        ends = slice_axis(mask, 0, 0, batch)
        kept = iota(keys) < unsqueeze(cast(ends, "i64"), (1,))
        if mask.shape[0] == 2 * batch and batch:
            starts = slice_axis(mask, 0, batch, 2 * batch)
            kept = kept & (iota(keys) >= unsqueeze(cast(starts, "i64"), (1,)))
        return unsqueeze(kept, (1, 2))
    kept = not_equal(mask, 0)
    if mask.rank == 2 and mask.shape == (batch, keys):
        return unsqueeze(kept, (1, 2))
    if mask.rank == 3 and mask.shape == (batch, queries, keys):
        return unsqueeze(kept, (1,))
    raise unsupported(f"a mask {mask.type} for {queries} queries and {keys} keys isn't imported")


def _attend(
    q: Value, k: Value, v: Value, mask: Value | None, bias: Value | None, causal: int, scale: float | None,
    filter_: float,
) -> Value:  # fmt: skip
    """What the operators with a mask and a bias share: ``[b h s d]`` to ``[b s (h d)]``."""
    if mask is not None:
        kept = _filtered(_key_mask(mask, q.shape[0], q.shape[2], k.shape[2]), filter_)
        bias = cast(kept, q.dtype) if bias is None else bias + cast(kept, bias.dtype)
    past = k.shape[2] - q.shape[2]
    allowed = before(iota(q.shape[2]) + past, k.shape[2]) if causal and past else None
    plain = bool(causal) and not past
    return merged(attend(q, k, v, allowed=allowed, bias=bias, causal=plain, scale=scale or None).y)


@contrib("Attention")
def _attention(
    input: Value, weights: Value, bias: Value | None = None, mask_index: Value | None = None,
    past: Value | None = None, attention_bias: Value | None = None, past_sequence_length: Value | None = None, *,
    do_rotary: int = 0, mask_filter_value: float = -10000.0, num_heads: int, past_present_share_buffer: int = 0,
    qkv_hidden_sizes: Ints | None = None, rotary_embedding_dim: int = 0, scale: float = 0.0, unidirectional: int = 0,
    wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Queries, keys and values by one product, then attention; the past stands before the keys."""
    refuse(
        do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer,
        past_sequence_length=past_sequence_length, rotary_embedding_dim=rotary_embedding_dim,
    )  # fmt: skip
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [weights.shape[1] // 3] * 3
    product = lib.matmul(input, weights)
    q, k, v = (heads(x, num_heads) for x in split(product if bias is None else product + bias, sizes, 2))
    return _self_attention(
        q, k, v, mask_index, past, attention_bias, unidirectional, scale, mask_filter_value, any(wanted[1:])
    )


def _self_attention(
    q: Value, k: Value, v: Value, mask: Value | None, past: Value | None, bias: Value | None, causal: int,
    scale: float, filter_: float, present: bool,
) -> Any:  # fmt: skip
    if past is not None:
        k, v = (concat([select(past, 0, i), x], 2) for i, x in enumerate((k, v)))
    out = _attend(q, k, v, mask, bias, causal, scale, filter_)
    return (out, concat([unsqueeze(x, (0,)) for x in (k, v)], 0)) if present else out


@contrib("QAttention")
def _qattention(
    input: Value, weight: Value, bias: Value, input_scale: Value, weight_scale: Value,
    mask_index: Value | None = None, input_zero_point: Value | None = None, weight_zero_point: Value | None = None,
    past: Value | None = None, *, do_rotary: int = 0, mask_filter_value: float = -10000.0, num_heads: int,
    past_present_share_buffer: int = 0, scale: float = 0.0, unidirectional: int = 0, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """:func:`_attention` by a product of integers."""
    refuse(do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer)
    product = _scaled_product(input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias)
    q, k, v = (heads(x, num_heads) for x in split(product, [weight.shape[1] // 3] * 3, 2))
    return _self_attention(q, k, v, mask_index, past, None, unidirectional, scale, mask_filter_value, any(wanted[1:]))


@contrib("MultiHeadAttention")
def _multi_head_attention(
    query: Value, key: Value | None = None, value: Value | None = None, bias: Value | None = None,
    key_padding_mask: Value | None = None, attention_bias: Value | None = None, past_key: Value | None = None,
    past_value: Value | None = None, past_sequence_length: Value | None = None,
    cache_indirection: Value | None = None, *, mask_filter_value: float = -10000.0, num_heads: int,
    scale: float = 0.0, unidirectional: int = 0, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    refuse(
        past_sequence_length=past_sequence_length, cache_indirection=cache_indirection,
        **{"the output qk": len(wanted) > 3 and wanted[3]},
    )  # fmt: skip
    q, k, v = _queries(query, key, value, num_heads)
    if bias is not None:
        parts = split(bias, [num_heads * x.shape[3] for x in (q, k, v)], 0)
        own = (True, key is None or key.rank != 4, value is None or value.rank != 4)
        q, k, v = (_biased(x, b, is_) for x, b, is_ in zip((q, k, v), parts, own, strict=True))
    k = k if past_key is None else concat([past_key, k], 2)
    v = v if past_value is None else concat([past_value, v], 2)
    out = _attend(q, k, v, key_padding_mask, attention_bias, unidirectional, scale, mask_filter_value)
    return (out, k, v) if any(wanted[1:]) else out


def _biased(x: Value, bias: Value, projected: bool) -> Value:
    """A bias of what was projected; keys and values that come by heads have theirs already."""
    return x + unsqueeze(ungroup(bias, 0, (x.shape[1], x.shape[3])), (0, 2)) if projected else x


def _queries(query: Value, key: Value | None, value: Value | None, count: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values ``[b h s d]`` of the forms they come in."""
    if query.rank == 5:  # [b s h 3 d]
        q, k, v = (permute(select(query, 3, i), (0, 2, 1, 3)) for i in range(3))
        return q, k, v
    q = heads(query, count)
    if key is not None and key.rank == 5:  # [b s h 2 d]
        k, v = (permute(select(key, 3, i), (0, 2, 1, 3)) for i in range(2))
        return q, k, v
    if key is None or value is None:
        raise unsupported("it has neither keys and values nor all three in one")
    return q, heads(key, count), heads(value, count)


@contrib("GroupQueryAttention")
def _group_query_attention(
    query: Value, key: Value | None = None, value: Value | None = None, past_key: Value | None = None,
    past_value: Value | None = None, seqlens_k: Value | None = None, total_sequence_length: Value | None = None,
    cos_cache: Value | None = None, sin_cache: Value | None = None, position_ids: Value | None = None,
    attention_bias: Value | None = None, head_sink: Value | None = None, k_scale: Value | None = None,
    v_scale: Value | None = None, q_norm_weight: Value | None = None, k_norm_weight: Value | None = None,
    query_seqlens: Value | None = None, *, causal: int = 1, do_rotary: int = 0, k_norm_epsilon: float | None = None,
    k_quant_type: str = "NONE", kv_cache_bit_width: int = 0, kv_num_heads: int, local_window_size: int = -1,
    num_heads: int, q_norm_epsilon: float | None = None, qk_norm_epsilon: float = 1e-6, qk_output: int = 0,
    rotary_interleaved: int = 0, scale: float = 0.0, sliding_window_cache: int = 0, smooth_softmax: int = -1,
    softcap: float = 0.0, v_quant_type: str = "NONE", wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Attention with a cache: the new keys stand where the tokens so far end, which each row says of itself.

    ``seqlens_k`` are the tokens up to now less one. What the cache has beyond them is never looked at.
    """
    refuse(
        k_scale=k_scale, v_scale=v_scale, query_seqlens=query_seqlens, kv_cache_bit_width=kv_cache_bit_width,
        qk_output=qk_output, sliding_window_cache=sliding_window_cache, k_quant_type=k_quant_type != "NONE",
        v_quant_type=v_quant_type != "NONE",
    )  # fmt: skip
    q, k, v = _packed(query, key, value, num_heads, kv_num_heads)
    if q_norm_weight is not None and k_norm_weight is not None:
        q = lib.rms_norm(q, q_norm_weight, eps=short(q_norm_epsilon or qk_norm_epsilon))
        k = lib.rms_norm(k, k_norm_weight, eps=short(k_norm_epsilon or qk_norm_epsilon))
    new = q.shape[2]
    assert seqlens_k is not None
    total: Any = None if total_sequence_length is None else number_of(total_sequence_length)
    had = past_key.shape[2] if past_key is not None else 0
    if total is None and had:
        raise unsupported("its total_sequence_length depends on data")
    is_prompt = not had or total == new
    start = None if is_prompt else cast(lib.reshape(seqlens_k, shape=(-1,)), "i64") - (new - 1)
    place = iota(new) if start is None else unsqueeze(start, (1,)) + iota(new)  # of each query: [q] or [b q]
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            raise unsupported("do_rotary needs cos_cache and sin_cache")
        at = place if position_ids is None else position_ids
        at = unsqueeze(at, (0,)) if at.rank == 1 else at
        cos, sin = (at_positions(t, at) for t in (cos_cache, sin_cache))
        width = 2 * cos_cache.shape[-1]
        q, k = (rotary(x, cos, sin, None, bool(rotary_interleaved), width) for x in (q, k))
    k, v = (_cached(x, past, start, total or new) for x, past in ((k, past_key), (v, past_value)))
    keys, at = k.shape[2], place if place.rank == 1 else unsqueeze(place, (1,))
    plain = bool(causal) and is_prompt and local_window_size < 0 and keys == new
    allowed = before(at, keys) if causal and not plain else None
    if not causal:
        allowed = unsqueeze(iota(keys) <= unsqueeze(cast(seqlens_k, "i64"), (1,)), (1, 2))
    if local_window_size >= 0:
        allowed = both(allowed, near(at, keys, local_window_size - 1, -1))
    bias = attention_bias
    if bias is not None and bias.shape[-1] < keys:
        bias = pad(bias, (*(None,) * (bias.rank - 1), (0, keys - bias.shape[-1])))
    sink = head_sink
    if sink is None and smooth_softmax > 0:
        sink = broadcast_to(const(0.0), (num_heads,))
    out = merged(
        attend(q, k, v, allowed=allowed, bias=bias, causal=plain, scale=scale or None, softcap=softcap, sink=sink).y
    )
    return (out, k, v) if any(wanted[1:]) else out


def _packed(
    query: Value, key: Value | None, value: Value | None, num_heads: int, kv_num_heads: int
) -> tuple[Value, Value, Value]:
    if key is None or value is None:
        size = query.shape[2] // (num_heads + 2 * kv_num_heads)
        query, key, value = split(query, [num_heads * size, kv_num_heads * size, kv_num_heads * size], 2)
    return heads(query, num_heads), heads(key, kv_num_heads), heads(value, kv_num_heads)


def _cached(x: Value, past: Value | None, start: Value | None, total: int) -> Value:
    """The cache with new keys or values ``[b h s d]`` from ``start`` on, of as many entries as it had or now needs."""
    if past is None or not past.shape[2]:
        return x
    had = past.shape[2]
    base = pad(past, (None, None, (0, total - had), None)) if total > had else past
    if start is None:
        rest = slice_axis(base, 2, x.shape[2], base.shape[2])
        return concat([x, rest], 2)
    index = unsqueeze(start, (1,)) + iota(x.shape[2])
    return Scatter(2, 1, "set")(base, index, x)
