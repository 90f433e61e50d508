"""ATen rules of layers: products, convolutions, norms, attention, pools, recurrent nets, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tdagger import library as lib
from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten.table import (
    DRAWS,
    DTYPES,
    RULES,
    Changed,
    number,
    promote,
    rule,
    tuple_of,
    unsupported,
)
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.source import const
from tdagger.ops.structure import broadcast_to, concat, flip, permute, reduce, slice_axis, squeeze, unsqueeze

# --- products ----------------------------------------------------------------------------------------------


@rule("linear")
def _linear(input: Value, weight: Value, bias: Value | None = None) -> Value:
    return lib.linear(input, weight, bias)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner_product", "linalg_matmul", "__matmul__")
def _matmul(self: Value, other: Value) -> Value:
    return lib.matmul(*promote(self, other))


@rule("addmm")
def _addmm(self: Value, mat1: Value, mat2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    if not self.dtype.is_float:
        return _sum_of_products(self, mat1, mat2, beta, alpha)
    return lib.addmm(self, mat1, mat2, beta=float(beta), alpha=float(alpha))


@rule("baddbmm")
def _baddbmm(self: Value, batch1: Value, batch2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    if not self.dtype.is_float:
        return _sum_of_products(self, batch1, batch2, beta, alpha)
    return lib.baddbmm(self, batch1, batch2, beta=float(beta), alpha=float(alpha))


@rule("addmv", "addbmm")
def _addmv(self: Value, mat: Value, vec: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return _sum_of_products(self, mat, vec, beta, alpha, added=mat.rank == 3)


def _sum_of_products(x: Value, y: Value, z: Value, beta: float, alpha: float, added: bool = False) -> Value:
    """``beta * x + alpha * (y @ z)``, with ``added`` summed over the batch; half precision is rounded once."""
    dtype = x.dtype
    if dtype.is_float and dtype.bytes < 4:
        x, y, z = (e.cast(v, "f32") for v in (x, y, z))
    product = lib.matmul(y, z)
    if added:
        product = reduce(product, "sum", (0,), keep=False)
    product = product if alpha == 1 else product * number(alpha, x.dtype)
    if beta == 0:  # torch doesn't look at x then
        return e.cast(product, dtype)
    return e.cast(RULES["add"](x if beta == 1 else x * number(beta, x.dtype), product), dtype)


@rule("outer", "ger")
def _outer(self: Value, vec2: Value) -> Value:
    x, y = promote(self, vec2)
    return RULES["mul"](unsqueeze(x, (1,)), y)


@rule("einsum")
def _einsum(equation: str, operands: Sequence[Value], *, path: Any = None) -> Value:
    return lib.einsum(*promote(*operands), equation=equation)


@rule("inner")
def _inner(self: Value, other: Value) -> Value:
    if not self.rank or not other.rank:
        return RULES["mul"](self, other)
    return _tensordot(self, other, (-1,), (-1,))


@rule("tensordot")
def _tensordot(self: Value, other: Value, dims_self: Sequence[int], dims_other: Sequence[int]) -> Value:
    """What torch makes of it depends on which of the sizes are 1, and sums over those first."""
    pairs = [(a % self.rank, b % other.rank) for a, b in zip(dims_self, dims_other, strict=True)]
    if any(self.shape[a] != other.shape[b] for a, b in pairs):
        raise UnsupportedError("tensordot of a dimension of 1 entry with one of more")
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    left = [next(letters) for _ in self.shape]
    right = [next((left[a] for a, b in pairs if b == i), "") or next(letters) for i in range(other.rank)]
    summed = {left[a] for a, _ in pairs}
    kept = [x for x in (*left, *right) if x not in summed]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    return lib.einsum(*promote(self, other), equation=equation)


@rule("_int_mm")
def _int_mm(self: Value, mat2: Value) -> Value:
    return lib.matmul(e.cast(self, "i32"), e.cast(mat2, "i32"))


@rule("_weight_int8pack_mm")
def _weight_int8pack_mm(self: Value, mat2: Value, scales: Value) -> Value:
    """Rows times the rows of int8 ``mat2``, each of which has a scale; summed, and scaled, in float32."""
    product = lib.linear(e.cast(self, "f32"), e.cast(mat2, "f32"))
    return e.cast(RULES["mul"](product, e.cast(scales, "f32")), self.dtype)


@rule("_scaled_mm")
def _scaled_mm(
    self: Value,
    mat2: Value,
    scale_a: Value,
    scale_b: Value,
    bias: Value | None = None,
    scale_result: Value | None = None,
    out_dtype: Any = None,
    use_fast_accum: bool = False,
) -> Value:
    """A product of scaled 8 bit floats; a scale is a number, or one for each row or column of the result."""
    for scale, wanted in ((scale_a, (self.shape[0], 1)), (scale_b, (1, mat2.shape[1]))):
        if scale.type.size != 1 and scale.shape != wanted:
            raise unsupported(f"scales are imported for the whole matrix or for {wanted}, not {scale.type}")
    if scale_result is not None:
        raise unsupported("a scale of the result isn't imported")
    out = lib.matmul(e.cast(self, "f32"), e.cast(mat2, "f32"))
    for scale in (scale_a, scale_b):
        out = RULES["mul"](out, lib.reshape(scale, shape=()) if scale.type.size == 1 else scale)
    out = out if bias is None else RULES["add"](out, e.cast(bias, "f32"))
    return e.cast(out, self.dtype if out_dtype is None else DTYPES[out_dtype])


@rule("_grouped_mm", "transformers.grouped_mm_fallback")
def _grouped_mm(
    input: Value, weight: Value, offs: Value | None = None, bias: Value | None = None, out_dtype: Any = None
) -> Value:
    if input.rank == weight.rank == 3 and offs is None:
        out = lib.matmul(input, weight)
        return out if out_dtype is None else e.cast(out, DTYPES[out_dtype])
    if input.rank != 2 or weight.rank != 3 or offs is None:
        raise unsupported(
            f"only groups of the rows of a matrix are imported, not {input.type} and {weight.type}"
            + (" without offsets" if offs is None else "")
        )
    out = lib.grouped_matmul(input, weight, offs)
    out = out if bias is None else RULES["add"](out, bias)
    return out if out_dtype is None else e.cast(out, DTYPES[out_dtype])


@rule("bilinear")
def _bilinear(input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    return lib.bilinear(input1, input2, weight, bias)


@rule("scaled_dot_product_attention", draws=True)
def _attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    draw: Any,
) -> Value:
    if dropout_p:
        options: dict[str, Any] = {"causal": is_causal, "scale": scale, "grouped": enable_gqa}
        return lib.attention_train(query, key, value, draw(), attn_mask, p=float(dropout_p), **options)
    return lib.scaled_dot_product_attention(
        query, key, value, attn_mask, causal=is_causal, scale=scale, grouped=enable_gqa
    )


@rule("_scaled_dot_product_flash_attention_for_cpu")
def _flash_attention(
    query: Value,
    key: Value,
    value: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, None]:
    """What attention is on a CPU; the other result is a note for its gradient."""
    if dropout_p:
        raise unsupported("its dropout draws random numbers of its own: capture the network without decomposing it")
    return lib.scaled_dot_product_attention(query, key, value, attn_mask, causal=is_causal, scale=scale), None


# --- convolutions ------------------------------------------------------------------------------------------


def _batched(function: Any, x: Value, spatial: int) -> Any:
    """Apply a layer that wants ``[b c spatial..]`` to x, which may lack b."""
    if x.rank == spatial + 2:
        return function(x)
    out = function(unsqueeze(x, (0,)))
    return tuple(squeeze(o, (0,)) for o in out) if isinstance(out, tuple) else squeeze(out, (0,))


def _conv(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    n = weight.rank - 2
    pads = padding if isinstance(padding, str) else tuple((p, p) for p in tuple_of(padding, n))
    options: dict[str, Any] = {
        "stride": tuple_of(stride, n),
        "padding": pads,
        "dilation": tuple_of(dilation, n),
        "groups": groups,
    }
    return _batched(lambda x: lib.convolution(x, weight, bias, **options), input, n)


for _n in (1, 2, 3):
    RULES[f"conv{_n}d"] = RULES[f"conv{_n}d.padding"] = _conv


@rule("conv_tbc")
def _conv_tbc(self: Value, weight: Value, bias: Value, pad: int = 0) -> Value:
    """A convolution of ``[t b c]`` with ``[k c out]``."""
    out = _conv(permute(self, (1, 2, 0)), permute(weight, (2, 1, 0)), bias, 1, pad)
    return permute(out, (2, 0, 1))


def _conv_transpose(
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    n = weight.rank - 2
    options: dict[str, Any] = {
        "stride": tuple_of(stride, n),
        "padding": tuple_of(padding, n),
        "output_padding": tuple_of(output_padding, n),
        "dilation": tuple_of(dilation, n),
        "groups": groups,
    }
    return _batched(lambda x: lib.convolution_transpose(x, weight, bias, **options), input, n)


for _name in (
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "conv_transpose2d",
    "conv_transpose3d",
):
    RULES[_name] = _conv_transpose


@rule("convolution", "_convolution", "convolution_overrideable")
def _convolution(
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_: Any,
) -> Value:
    if transposed:
        return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(input, weight, bias, stride, padding, dilation, groups)


@rule("im2col")
def _im2col(self: Value, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    options = {"kernel": kernel_size, "dilation": dilation, "padding": padding, "stride": stride}
    full = {k: tuple_of(v, 2) for k, v in options.items()}
    return _batched(lambda x: lib.im2col(x, **full), self, 2)


@rule("col2im")
def _col2im(self: Value, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    options = {
        "output": output_size,
        "kernel": kernel_size,
        "dilation": dilation,
        "padding": padding,
        "stride": stride,
    }
    full = {k: tuple_of(v, 2) for k, v in options.items()}
    return _batched(lambda x: lib.col2im(x, **full), self, 1)


@rule("pixel_shuffle")
def _pixel_shuffle(self: Value, upscale_factor: int) -> Value:
    return lib.pixel_shuffle(self, factor=upscale_factor)


@rule("pixel_unshuffle")
def _pixel_unshuffle(self: Value, downscale_factor: int) -> Value:
    return lib.pixel_unshuffle(self, factor=downscale_factor)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(self: Value, groups: int) -> Value:
    return lib.channel_shuffle(self, groups=groups)


# --- norms -------------------------------------------------------------------------------------------------


@rule("batch_norm")
def _batch_norm(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Any:
    if input.rank < 2:  # it has no channels
        if input.type.size:
            raise UnsupportedError(f"batch_norm of {input.type}: torch normalises tensors of 2 dimensions and more")
        return input
    return _normalised(input, weight, bias, (running_mean, running_var), training, momentum, eps, ())


def _normalised(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running: tuple[Value | None, Value | None],
    training: bool,
    momentum: float,
    eps: float,
    saved: tuple[Value | None, ...] | None,
) -> Any:
    """Batch norm and, in training, the new running statistics; ``saved`` are more results, None for the batch's.

    A momentum of NaN in inference is the importer's mark of a module whose momentum is None.
    """
    mean, variance = running
    options: dict[str, Any] = {"eps": float(eps), "momentum": float(momentum)}
    if not training:
        options["momentum"] = None if math.isnan(momentum) else options["momentum"]
        assert mean is not None
        assert variance is not None
        out = lib.batch_norm(input, mean, variance, weight, bias, **options)
        return (out, *saved) if saved else out
    out, *moved = lib.batch_norm_train(input, mean, variance, weight, bias, **options)
    if saved is None:
        axes = (0, *range(2, input.rank))
        wide = e.cast(input, "f32") if input.dtype.bytes < 4 else input
        spread = lib.variance(wide, axes=axes, correction=0.0, keep=False)
        notes = (lib.mean(wide, axes=axes, keep=False), lib.rsqrt(spread + float(eps)))
        saved = tuple(e.cast(v, input.dtype if weight is None else weight.dtype) for v in notes)
    result = (out, *saved) if saved else out
    if mean is None or variance is None:
        return result
    return Changed(result, {"running_mean": moved[0], "running_var": moved[1]})


@rule("native_batch_norm", "_native_batch_norm_legit")
def _native_batch_norm(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    none = broadcast_to(const(0.0, input.dtype if weight is None else weight.dtype), (0,))
    saved = None if training else (none, none)
    result = _normalised(input, weight, bias, (running_mean, running_var), training, momentum, eps, saved)
    return result if isinstance(result, Changed) else Changed(result, {})


@rule("_batch_norm_with_update")
def _batch_norm_with_update(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> Any:
    changed = _native_batch_norm(input, weight, bias, running_mean, running_var, True, momentum, eps)
    return Changed((*changed.result, broadcast_to(const(0, "u8"), (0,))), changed.written)


@rule("_native_batch_norm_legit.no_stats")
def _batch_norm_without_statistics(
    input: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> Any:
    return _native_batch_norm(input, weight, bias, None, None, training, momentum, eps)


@rule("_native_batch_norm_legit_no_training")
def _native_batch_norm_legit(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> Any:
    return _native_batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)


@rule("instance_norm")
def _instance_norm(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Any:
    if not use_input_stats:
        return _batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    if running_mean is None or running_var is None:
        return lib.instance_norm(input, weight, bias, eps=eps)
    out, mean, variance = lib.instance_norm_train(
        input, running_mean, running_var, weight, bias, eps=float(eps), momentum=float(momentum)
    )
    return Changed(out, {"running_mean": mean, "running_var": variance})


@rule("layer_norm")
def _layer_norm(
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    return lib.layer_norm(input, weight, bias, rank=len(normalized_shape), eps=eps)


@rule("native_layer_norm")
def _native_layer_norm(input: Value, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(input.rank - len(normalized_shape), input.rank))
    mean = lib.mean(input, axes=axes, keep=True)
    wide = e.cast(input, "f32") if input.dtype.bytes < 4 else input
    rstd = e.cast(lib.rsqrt(lib.variance(wide, axes=axes, correction=0.0, keep=True) + eps), input.dtype)
    return _layer_norm(input, normalized_shape, weight, bias, eps), mean, rstd


@rule("rms_norm", "_fused_rms_norm")
def _rms_norm(
    input: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    if eps is None:
        eps = float(torch.finfo(torch.float32 if input.dtype.bytes < 8 else torch.float64).eps)
    return lib.rms_norm(input, weight, rank=len(normalized_shape), eps=eps)


@rule("group_norm")
def _group_norm(
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    return lib.group_norm(input, weight, bias, groups=num_groups, eps=eps)


# --- pools -------------------------------------------------------------------------------------------------


def _pool_options(kernel_size: Any, stride: Any, padding: Any, n: int) -> dict[str, Any]:
    kernel = tuple_of(kernel_size, n)
    step = kernel if stride is None or (not isinstance(stride, int) and not stride) else tuple_of(stride, n)
    return {"kernel": kernel, "stride": step, "padding": tuple_of(padding, n)}


def _max_pools(n: int) -> None:
    def options(kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> dict[str, Any]:
        full = _pool_options(kernel_size, stride, padding, n)
        return {**full, "dilation": tuple_of(dilation, n), "ceil": ceil_mode}

    def pool(
        self: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:
        o = options(kernel_size, stride, padding, dilation, ceil_mode)
        return _batched(lambda x: lib.max_pool(x, **o), self, n)

    def both(
        self: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:
        o = options(kernel_size, stride, padding, dilation, ceil_mode)
        return _batched(lambda x: lib.max_pool_with_indices(x, **o), self, n)

    RULES[f"max_pool{n}d"] = pool
    RULES[f"max_pool{n}d_with_indices"] = both


def _avg_pools(n: int) -> None:
    def pool(
        self: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        o = _pool_options(kernel_size, stride, padding, n)
        o |= {"ceil": ceil_mode, "count_include_pad": count_include_pad, "divisor": divisor_override}
        return _batched(lambda x: lib.avg_pool(x, **o), self, n)

    def adaptive(self: Value, output_size: Any) -> Any:
        return _batched(lambda x: lib.adaptive_avg_pool(x, size=tuple_of(output_size, n)), self, n)

    def adaptive_max(self: Value, output_size: Any) -> Any:
        size = tuple_of(output_size, n)
        return _batched(lambda x: lib.adaptive_max_pool_with_indices(x, size=size), self, n)

    RULES[f"avg_pool{n}d"] = pool
    RULES[f"adaptive_avg_pool{n}d"] = RULES[f"_adaptive_avg_pool{n}d"] = adaptive
    RULES[f"adaptive_max_pool{n}d"] = adaptive_max


for _n in (1, 2, 3):
    _max_pools(_n)
    _avg_pools(_n)


# --- recurrent ---------------------------------------------------------------------------------------------


def _recurrent(function: Any, **more: Any) -> Any:
    """The rule of a recurrent net; in training with dropout a net for each layer, and dropout between them."""

    def apply(
        input: Value,
        hx: Any,
        params: Any,
        has_biases: Any,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
        *,
        draw: Any,
    ) -> Any:
        if not isinstance(has_biases, bool):
            raise unsupported("packed sequences have lengths that depend on the data; pad them instead")
        state = [hx] if isinstance(hx, Value) else list(hx)
        options: dict[str, Any] = {"bidirectional": bidirectional, "batch_first": batch_first, "biases": has_biases}
        options |= more
        if not (train and dropout and num_layers > 1):
            return function(input, *state, *params, layers=num_layers, dropout=float(dropout), **options)
        each, ways = len(params) // num_layers, 2 if bidirectional else 1
        x, last = input, []
        for layer in range(num_layers):
            x = lib.dropout_train(x, draw(), p=float(dropout)) if layer else x
            own = [slice_axis(s, 0, layer * ways, (layer + 1) * ways) for s in state]
            x, *states = function(x, *own, *params[layer * each : (layer + 1) * each], layers=1, **options)
            last.append(states)
        return x, *(concat(list(states), 0) for states in zip(*last, strict=True))

    DRAWS.add(apply)
    return apply


RULES["lstm"] = RULES["lstm.input"] = _recurrent(lib.lstm)
RULES["gru"] = RULES["gru.input"] = _recurrent(lib.gru)
RULES["rnn_tanh"] = RULES["rnn_tanh.input"] = _recurrent(lib.rnn, nonlinearity="tanh")
RULES["rnn_relu"] = RULES["rnn_relu.input"] = _recurrent(lib.rnn, nonlinearity="relu")


@rule("mkldnn_rnn_layer")
def _recurrent_layer(
    input: Value,
    weight0: Value,
    weight1: Value,
    weight2: Value,
    weight3: Value,
    hx_: Value,
    cx_: Value,
    reverse: bool,
    batch_sizes: Any,
    mode: int,
    hidden_size: int,
    num_layers: int,
    has_biases: bool,
    *_: Any,
) -> Any:
    """One layer in one direction of ``[t b i]``; torch has it for LSTMs only, which are mode 2."""
    if mode != 2 or batch_sizes or num_layers != 1:
        raise unsupported(f"a recurrent layer of oneDNN of mode {mode} with {num_layers} layers")
    weights = (weight0, weight1, weight2, weight3) if has_biases else (weight0, weight1)
    x = flip(input, (0,)) if reverse else input
    states = (unsqueeze(hx_, (0,)), unsqueeze(cx_, (0,)))
    out, h, c = lib.lstm(x, *states, *weights, layers=1, biases=has_biases)
    return flip(out, (0,)) if reverse else out, squeeze(h, (0,)), squeeze(c, (0,)), None


# --- resizing ----------------------------------------------------------------------------------------------


def _size(x: Value, size: Any, factors: Any) -> tuple[int, ...]:
    if size is not None:
        return tuple(size)
    return tuple(int(n * f) for n, f in zip(x.shape[2:], factors, strict=True))


def _scales(args: tuple[Any, ...], size: Any) -> tuple[float, ...] | None:
    """The scale factors torch computes coordinates with, None where it derives them from the sizes."""
    flat = [f for a in args if a is not None for f in (a if isinstance(a, list | tuple) else (a,))]
    return tuple(map(float, flat)) if flat and all(f is not None for f in flat) else None


def _upsample(mode: str, aligned: bool, antialias: bool = False) -> Any:
    def plain(self: Value, output_size: Any, *scales: Any) -> Value:
        return lib.interpolate(
            self,
            size=_size(self, output_size, scales[0] if scales else None),
            mode=mode,
            scale=_scales(scales, output_size),
        )

    def corners(self: Value, output_size: Any, align_corners: bool, *scales: Any) -> Value:
        return lib.interpolate(
            self,
            size=_size(self, output_size, scales[0] if scales else None),
            mode=mode,
            align_corners=align_corners,
            antialias=antialias,
            scale=_scales(scales, output_size),
        )

    return corners if aligned else plain


for _n in (1, 2, 3):
    RULES[f"upsample_nearest{_n}d"] = _upsample("nearest", False)
    RULES[f"_upsample_nearest_exact{_n}d"] = _upsample("nearest-exact", False)
for _name in ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"):
    RULES[_name] = _upsample("linear", True)
RULES["upsample_bicubic2d"] = _upsample("cubic", True)
RULES["_upsample_bilinear2d_aa"] = _upsample("linear", True, antialias=True)
RULES["_upsample_bicubic2d_aa"] = _upsample("cubic", True, antialias=True)


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _grid_sampler(input: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Value:
    return lib.grid_sample(
        input,
        grid,
        mode=("bilinear", "nearest", "bicubic")[interpolation_mode],
        padding=("zeros", "border", "reflection")[padding_mode],
        align_corners=bool(align_corners),
    )


@rule("normalize")
def _normalize(self: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Value:
    return lib.normalize(self, ord=float(p), axes=(dim,), eps=float(eps))


@rule("cosine_similarity")
def _cosine_similarity(x1: Value, x2: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    x, y = e.align(*promote(x1, x2))
    axes = (dim % x.rank,) if x.rank else ()
    clipped = [v / lib.clamp(lib.vector_norm(v, axes=axes, keep=True), low=eps) for v in (x, y)]
    return reduce(clipped[0] * clipped[1], "sum", axes, keep=False)


@rule("max_unpool2d", "max_unpool3d")
def _max_unpool(self: Value, indices: Value, output_size: Sequence[int], *_: Any) -> Value:
    return lib.max_unpool(self, indices, size=tuple(output_size))
