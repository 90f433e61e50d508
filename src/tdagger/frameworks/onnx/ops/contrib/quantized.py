"""Operators of com.microsoft on bytes, and by weights of a few bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.contrib.common import as_nchw, as_nhwc, contrib, refuse, takes
from tdagger.frameworks.onnx.ops.contrib.fused import embed_layer_norm
from tdagger.frameworks.onnx.ops.layers.networks import convolution_options, integer_matmul, rows
from tdagger.frameworks.onnx.ops.layers.norm import simplified_layer_norm
from tdagger.frameworks.onnx.ops.layers.pool import average_pool, global_average_pool
from tdagger.frameworks.onnx.ops.layers.quantized import (
    along,
    dequantized,
    quantized,
    quantized_convolution,
)
from tdagger.frameworks.onnx.ops.layers.recurrent import lstm
from tdagger.frameworks.onnx.ops.layers.windows import short
from tdagger.frameworks.onnx.ops.table import Ints, unsupported
from tdagger.library.shape import linear_index
from tdagger.op import Value
from tdagger.ops.elementwise import (
    bitwise_and,
    cast,
    shift_right,
    where,
)
from tdagger.ops.indexing import Gather
from tdagger.ops.source import const
from tdagger.ops.structure import (
    broadcast_to,
    concat,
    group,
    permute,
    select,
    slice_axis,
    transpose,
    unsqueeze,
)

# --- on integers -------------------------------------------------------------------------------------------


@contrib("QuantizeLinear")
def _quantize(x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1) -> Value:
    to = "u8" if y_zero_point is None else y_zero_point.dtype.name
    return lib.quantize(x, y_scale, y_zero_point, to=to, axis=axis, precision=x.dtype.name)


@contrib("DequantizeLinear")
def _dequantize(x: Value, x_scale: Value, x_zero_point: Value | None = None, *, axis: int = 1) -> Value:
    return lib.dequantize(x, x_scale, x_zero_point, axis=axis)


def _number(v: Value | None) -> Value | None:
    """A scale or a zero point that is one number."""
    return None if v is None else along(v, v.shape)


def _dequantized(x: Value, scale: Value, zero_point: Value | None) -> Value:
    return dequantized(x, along(scale, scale.shape), _number(zero_point))


def _requantized(y: Value, scale: Value, zero_point: Value | None, like: Value) -> Value:
    """Floats as the integers of the zero point, or of those that came in."""
    to = (like if zero_point is None else zero_point).dtype.name
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
    x = _dequantized(as_nchw(X) if channels_last else X, x_scale, x_zero_point)
    y = _requantized(average_pool(x, **options), y_scale, y_zero_point, X)
    return as_nhwc(y) if channels_last else y


@contrib("QLinearGlobalAveragePool")
def _qlinear_global_average_pool(
    X: Value, x_scale: Value, x_zero_point: Value, y_scale: Value, y_zero_point: Value, *, channels_last: int = 0
) -> Value:
    x = _dequantized(as_nchw(X) if channels_last else X, x_scale, x_zero_point)
    y = _requantized(global_average_pool(x), y_scale, y_zero_point, X)
    return as_nhwc(y) if channels_last else y


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
    x = as_nchw(x) if channels_last else x
    options = convolution_options(x, w, auto_pad, dilations, group, kernel_shape, pads, strides)
    y = quantized_convolution(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B, options)
    return as_nhwc(y) if channels_last else y


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


@contrib("MatMulInteger16")
def _matmul_integer16(A: Value, B: Value) -> Value:
    """The product of integers of 16 bits, as i32."""
    return cast(lib.matmul(cast(A, "i64"), cast(B, "i64")), "i32")


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
    return scaled_product(A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)


def scaled_product(
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
    a, scale, zero = lib.quantize_dynamic(A)
    return scaled_product(a, B, scale, b_scale, zero, b_zero_point, bias)


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
            a, a_scale, a_zero = lib.quantize_dynamic(x)
            own_zero = None if zero is None else select(zero, 0, i)
            return scaled_product(a, select(weight, 0, i), a_scale, select(scale, 0, i), a_zero, own_zero, None)

        return product

    by = (products(W, W_scale, W_zero_point), products(R, R_scale, R_zero_point))
    weights = [permute(w, (0, 2, 1)) for w in (W, R)]
    attributes = {
        "activation_alpha": activation_alpha, "activation_beta": activation_beta, "activations": activations,
        "clip": clip, "direction": direction, "hidden_size": hidden_size, "layout": 0,
    }  # fmt: skip
    return lstm((X, *weights, B, sequence_lens, initial_h, initial_c, P), attributes, input_forget, by)


# --- weights of few bits -----------------------------------------------------------------------------------


def unpacked(x: Value, bits: int) -> Value:
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
    weight = lib.reshape(unpacked(B, bits), shape=(N, blocks, block_size))
    if zero_points is None:
        zero: Any = float(2 ** (bits - 1))
    elif zero_points.dtype.is_float:
        zero = unsqueeze(lib.reshape(cast(zero_points, "f32"), shape=(N, blocks)), (2,))
    else:
        packed = lib.reshape(zero_points, shape=(N, -1))
        zero = unsqueeze(cast(slice_axis(unpacked(packed, bits), 1, 0, blocks), "f32"), (2,))
    scale = unsqueeze(lib.reshape(cast(scales, "f32"), shape=(N, blocks)), (2,))
    floats = (cast(weight, "f32") - zero) * scale
    floats = slice_axis(lib.reshape(floats, shape=(N, blocks * block_size)), 1, 0, K)
    return lib.linear(A, cast(floats, A.dtype), bias)


@contrib("MatMulNBitsQkv")
def _matmul_nbits_qkv(
    A: Value, skip: Value | None, norm_scale: Value, q_B: Value, q_scales: Value, q_bias: Value | None, k_B: Value,
    k_scales: Value, k_bias: Value | None, v_B: Value, v_scales: Value, v_bias: Value | None = None, *, K: int,
    Nq: int, Nkv: int, accuracy_level: int = 0, bits: int = 4, block_size: int, epsilon: float = 1e-6,
) -> Any:  # fmt: skip
    """Queries, keys and values of what is normalized once; the sum with ``skip`` is the last result."""
    del accuracy_level
    x, total = _normalized(A, skip, norm_scale, epsilon)
    sizes: dict[str, Any] = {"K": K, "bits": bits, "block_size": block_size}
    q = _matmul_nbits(x, q_B, q_scales, bias=q_bias, N=Nq, **sizes)
    k = _matmul_nbits(x, k_B, k_scales, bias=k_bias, N=Nkv, **sizes)
    return q, k, _matmul_nbits(x, v_B, v_scales, bias=v_bias, N=Nkv, **sizes), total


@contrib("MatMulNBitsMlp")
def _matmul_nbits_mlp(
    A: Value, skip: Value | None, norm_scale: Value | None, gate_B: Value, gate_scales: Value,
    gate_bias: Value | None, up_B: Value, up_scales: Value, up_bias: Value | None = None, *, K: int, N: int,
    accuracy_level: int = 0, activation: str, bits: int = 4, block_size: int, epsilon: float = 1e-5,
) -> Any:  # fmt: skip
    """A gate times what it lets through, of what may be normalized before."""
    del accuracy_level
    x, total = _normalized(A, skip, norm_scale, epsilon)
    sizes: dict[str, Any] = {"K": K, "N": N, "bits": bits, "block_size": block_size}
    gate = _matmul_nbits(x, gate_B, gate_scales, bias=gate_bias, **sizes)
    kinds = {"silu": lib.silu, "gelu": lib.gelu, "relu": lib.relu}
    if activation.lower() not in kinds:
        raise unsupported(f"its activation {activation} is none of {', '.join(kinds)}")
    return kinds[activation.lower()](gate) * _matmul_nbits(x, up_B, up_scales, bias=up_bias, **sizes), total


def _normalized(x: Value, skip: Value | None, scale: Value | None, epsilon: float) -> tuple[Value, Value | None]:
    """What products are of, and the sum before it was normalized, if there is one."""
    total = x if skip is None else x + skip
    y = total if scale is None else simplified_layer_norm(total, scale, epsilon=epsilon, wanted=(True,))
    return y, None if skip is None else total


@contrib("QEmbedLayerNormalization")
def _q_embed_layer_norm(
    input_ids: Value, segment_ids: Value | None, words: Value, positions: Value, segments: Value | None,
    gamma: Value, beta: Value, mask: Value | None, words_scale: Value, positions_scale: Value,
    segments_scale: Value | None, gamma_scale: Value, beta_scale: Value, words_zero: Value, positions_zero: Value,
    segments_zero: Value | None, gamma_zero: Value, beta_zero: Value, *, epsilon: float = 1e-12,
    wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Tables and weights in bytes, each with a scale."""
    tables = [
        None if x is None or s is None else _dequantized(x, s, z)
        for x, s, z in (
            (words, words_scale, words_zero), (positions, positions_scale, positions_zero),
            (segments, segments_scale, segments_zero), (gamma, gamma_scale, gamma_zero),
            (beta, beta_scale, beta_zero),
        )
    ]  # fmt: skip
    return embed_layer_norm(input_ids, segment_ids, *tables, mask, epsilon=epsilon, wanted=wanted)


@contrib("GatherBlockQuantized")
def _gather_block_quantized(
    data: Value, indices: Value, scales: Value, zero_points: Value | None = None, *, bits: int = 4,
    block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1, types: Sequence[int],
) -> Value:  # fmt: skip
    """Rows of a table in bytes with a scale for each block; of bytes the last axis holds several numbers in each.

    An index beyond the table is an error here, in onnxruntime it gives 0.
    """
    if not data.dtype.is_int:
        raise unsupported(f"its table is of {data.dtype}")
    gathered, blocked = gather_axis % data.rank, quantize_axis % data.rank
    packed = data.dtype.name == "u8" and not types[0]
    index = linear_index(data, indices, axis=gathered, signed=(True,))
    rows_, scale = (Gather(gathered, 0)(v, index) for v in (data, scales))
    zero: Value | None = None if zero_points is None else Gather(gathered, 0)(zero_points, index)
    if packed:
        rows_ = unpacked(rows_, bits)
        zero = const(2 ** (bits - 1), "u8") if zero is None else unpacked(zero, bits)
    at = blocked + indices.rank - 1 if blocked > gathered else blocked
    if packed and zero is not None and zero.rank:
        zero = slice_axis(zero, zero.rank - 1, 0, scale.shape[-1])
    return lib.dequantize(rows_, scale, zero, axis=at, block=block_size)


#: The numbers that 4 bits stand for (bitsandbytes): as floats of 4 bits, and as quantiles of the normal distribution.
_CODES = (
    (0.0, 0.00520833333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25,
     -0.0, -0.00520833333, -0.66666667, -1.0, -0.33333333, -0.5, -0.16666667, -0.25),
    (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
     0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)  # fmt: skip


@contrib("MatMulBnb4")
def _matmul_bnb4(
    A: Value, B: Value, absmax: Value, *, K: int, N: int, block_size: int, quant_type: int, training_mode: int = 0,
    transB: int = 1,
) -> Value:  # fmt: skip
    """A linear layer by weights of codes, two in a byte, the higher bits first, with a scale for each block of all."""
    del training_mode
    if quant_type not in (0, 1):
        raise unsupported(f"its quant_type {quant_type} is neither 0 (FP4) nor 1 (NF4)")
    code = concat([unsqueeze(v, (1,)) for v in (shift_right(B, 4), bitwise_and(B, 15))], 1)
    code = slice_axis(lib.reshape(code, shape=(-1,)), 0, 0, N * K)
    floats = Gather(0, 0)(const(np.array(_CODES[quant_type], np.float32)), cast(code, "i64"))
    each = slice_axis(lib.repeat_interleave(cast(absmax, "f32"), repeats=block_size, axis=0), 0, 0, N * K)
    weight = cast(lib.reshape(floats * each, shape=(N, K)), A.dtype)
    return lib.linear(A, weight) if transB else lib.matmul(A, weight)
