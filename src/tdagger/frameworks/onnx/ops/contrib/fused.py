"""Activations, norms, products and convolutions of onnxruntime's own that stand for several operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.ops.contrib.common import as_nchw, as_nhwc, contrib, takes
from tdagger.frameworks.onnx.ops.layers.networks import convolution_options, gemm
from tdagger.frameworks.onnx.ops.layers.norm import layer_norm, simplified_layer_norm
from tdagger.frameworks.onnx.ops.layers.pool import max_pool
from tdagger.frameworks.onnx.ops.layers.resize import grid_sample
from tdagger.frameworks.onnx.ops.layers.windows import short
from tdagger.frameworks.onnx.ops.table import Int, Ints, unsupported
from tdagger.library.linear import wide
from tdagger.op import Value
from tdagger.ops.elementwise import (
    cast,
    equal,
    maximum,
    minimum,
    sqrt,
    tanh,
    where,
)
from tdagger.ops.source import const, iota
from tdagger.ops.structure import (
    broadcast_to,
    concat,
    group,
    permute,
    reduce,
    slice_axis,
    split,
    squeeze,
    transpose,
    ungroup,
    unsqueeze,
)

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


@contrib("SwiGLU")
def _swiglu(
    gate: Value, up: Value | None = None, *, activation_alpha: float = 1.0, activation_beta: float = 0.0,
    limit: float = 0.0, round_activation: int = 0,
) -> Value:  # fmt: skip
    """A gate times what it lets through; without ``up`` the gate is the first half of both."""
    del round_activation
    if up is None:
        gate, up = split(gate, [gate.shape[-1] // 2] * 2, -1)
    g, x = wide(gate), wide(up)
    if limit > 0:
        g, x = lib.clamp(g, high=limit), lib.clamp(x, low=-limit, high=limit)
    g = lib.silu(g) if activation_alpha == 1 else g * lib.sigmoid(g * short(activation_alpha))
    return cast(g * (x + activation_beta if activation_beta else x), gate.dtype)


@contrib("GatedRMSNorm")
def _gated_rms_norm(X: Value, scale: Value, gate: Value, *, activation: str = "silu", epsilon: float = 1e-5) -> Value:
    """Over groups of the last axis, each as long as the scale."""
    if activation not in ("silu", "swish", "sigmoid"):
        raise unsupported(f"its activation {activation} is none of silu, swish, sigmoid")
    x = ungroup(wide(X), X.rank - 1, (X.shape[-1] // scale.shape[0], scale.shape[0]))
    y = group(lib.rms_norm(x, wide(scale), eps=short(epsilon)), (*(1,) * (X.rank - 1), 2))
    return cast(y * (lib.sigmoid(wide(gate)) if activation == "sigmoid" else lib.silu(wide(gate))), X.dtype)


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


@contrib("SkipGroupNorm")
def _skip_group_norm(
    X: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, *, activation: int,
    channels_last: int = 1, epsilon: float = 1e-5, groups: int, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """The norm of a sum; ``skip`` may be one number for each channel, ``[b c]``."""
    ones = tuple(range(1, X.rank - 1))
    more = skip if bias is None else skip + bias
    total = X + (unsqueeze(more, ones if channels_last else tuple(a + 1 for a in ones)) if skip.rank == 2 else more)
    options = {"activation": activation, "channels_last": channels_last, "epsilon": epsilon, "groups": groups}
    out = _group_norm(total, gamma, beta, **options)
    return (out, total) if any(wanted[1:]) else out


@contrib("BranchwiseRMSNorm")
def _branchwise_rms_norm(
    X: Value, scale: Value | None = None, *, epsilon: float = 1e-5, num_branches: int = 0
) -> Value:
    """Over the last axis of each branch, ``[.. c h]`` or ``[.. (c h)]``."""
    x = ungroup(wide(X), X.rank - 1, (num_branches, X.shape[-1] // num_branches)) if num_branches else wide(X)
    y = lib.rms_norm(x, eps=short(epsilon))
    if scale is not None:
        s = wide(scale)
        y = y * (lib.reshape(s, shape=x.shape[-2:]) if s.type.size > x.shape[-1] else s)
    return cast(lib.reshape(y, shape=X.shape), X.dtype)


@contrib("ScaledSiLU")
def _scaled_silu(X: Value, scale: Value | None = None, *, alpha: float = 1.0) -> Value:
    z = X * (short(alpha) if scale is None else lib.reshape(scale, shape=()))
    return lib.silu(z)


@contrib("GatedAdd")
def _gated_add(X: Value, Y: Value, gate: Value, gate_weight: Value | None = None) -> Value:
    if gate_weight is not None:
        raise unsupported("its gate as a product isn't imported")
    return X + Y * gate


@contrib("LinearAttentionGate")
def _linear_attention_gate(
    a: Value, dt_bias: Value, decay_scale: Value, b: Value | None = None, *, wanted: Sequence[bool]
) -> Any:
    decay = cast(lib.softplus(wide(a) + dt_bias) * decay_scale, a.dtype)
    return decay if b is None or not any(wanted[1:]) else (decay, cast(lib.sigmoid(wide(b)), b.dtype))


@contrib("EmbedLayerNormalization")
def embed_layer_norm(
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


def activated(x: Value, name: str, a: float | None, b: float | None) -> Value:
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


@contrib("GemmFastGelu")
def _gemm_fast_gelu(X: Value, W: Value, bias: Value | None = None) -> Value:
    out = lib.matmul(X, W)
    return lib.gelu(out if bias is None else out + bias, approximate="tanh")


@contrib("FusedMatMulActivation")
@takes(_fused_matmul)
def _fused_matmul_activation(
    A: Value, B: Value, *, activation: str, activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, activation_axis: int | None = None,
    **more: Any,
) -> Value:  # fmt: skip
    del activation_gamma, activation_axis
    return activated(_fused_matmul(A, B, **more), activation, activation_alpha, activation_beta)


@contrib("FusedGemm")
def _fused_gemm(
    A: Value, B: Value, C: Value | None = None, *, activation: str = "", activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, alpha: float = 1.0,
    beta: float = 1.0, transA: int = 0, transB: int = 0,
) -> Value:  # fmt: skip
    del activation_gamma
    out = gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return activated(out, activation, activation_alpha, activation_beta)


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
    return activated(out, activation, a, b)


@contrib("NhwcFusedConv", "NhwcConv")
@takes(_fused_conv)
def _nhwc_conv(X: Value, W: Value, B: Value | None = None, Z: Value | None = None, **options: Any) -> Value:
    z = None if Z is None else as_nchw(Z)
    return as_nhwc(_fused_conv(as_nchw(X), W, B, z, **options))


@contrib("NhwcMaxPool")
@takes(max_pool)
def _nhwc_max_pool(x: Value, *, wanted: Sequence[bool], **options: Any) -> Value:
    return as_nhwc(max_pool(as_nchw(x), wanted=wanted, **options))


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
