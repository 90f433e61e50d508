"""ATen rules of layers: products, convolutions, norms, attention, pools, recurrent nets, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import RULES, promote, rule, tuple_of, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.structure import reduce, squeeze, unsqueeze

# --- products ----------------------------------------------------------------------------------------------


@rule("linear")
def _linear(input: Value, weight: Value, bias: Value | None = None) -> Value:
    return lib.linear(input, weight, bias)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner_product", "linalg_matmul", "__matmul__")
def _matmul(self: Value, other: Value) -> Value:
    return lib.matmul(*promote(self, other))


@rule("addmm")
def _addmm(self: Value, mat1: Value, mat2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return lib.addmm(self, mat1, mat2, beta=float(beta), alpha=float(alpha))


@rule("baddbmm")
def _baddbmm(self: Value, batch1: Value, batch2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return lib.baddbmm(self, batch1, batch2, beta=float(beta), alpha=float(alpha))


@rule("addmv", "addbmm")
def _addmv(self: Value, mat: Value, vec: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    product = lib.matmul(mat, vec)
    product = reduce(product, "sum", (0,), keep=False) if product.rank == 3 else product
    return RULES["add"](self if beta == 1 else self * beta, product if alpha == 1 else product * alpha)


@rule("outer", "ger")
def _outer(self: Value, vec2: Value) -> Value:
    x, y = promote(self, vec2)
    return unsqueeze(x, (1,)) * y


@rule("einsum")
def _einsum(equation: str, operands: Sequence[Value], *, path: Any = None) -> Value:
    return lib.einsum(*promote(*operands), equation=equation)


@rule("bilinear")
def _bilinear(input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    return lib.bilinear(input1, input2, weight, bias)


@rule("scaled_dot_product_attention")
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
) -> Value:
    if dropout_p:
        raise unsupported("attention with dropout draws random numbers; call model.eval() before importing")
    return lib.scaled_dot_product_attention(
        query, key, value, attn_mask, causal=is_causal, scale=scale, grouped=enable_gqa
    )


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


@rule("batch_norm", "_batch_norm_impl_index", "cudnn_batch_norm")
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
) -> Value:
    if training:
        if running_mean is not None:
            raise unsupported("batch norm in training mode changes its statistics; call model.eval() before importing")
        return lib.batch_norm_train(input, None, None, weight, bias, eps=eps, momentum=momentum)[0]
    assert running_mean is not None
    assert running_var is not None
    return lib.batch_norm(input, running_mean, running_var, weight, bias, eps=eps, momentum=momentum)


@rule("_native_batch_norm_legit_no_training")
def _native_batch_norm(
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> Any:
    out = lib.batch_norm(input, running_mean, running_var, weight, bias, eps=eps, momentum=momentum)
    return out, None, None


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
) -> Value:
    if not use_input_stats:
        return _batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    return lib.instance_norm(input, weight, bias, eps=eps)


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
    rstd = lib.rsqrt(lib.variance(input, axes=axes, correction=0.0, keep=True) + eps)
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
        return _batched(lambda x: lib.adaptive_max_pool(x, size=tuple_of(output_size, n)), self, n), None

    RULES[f"avg_pool{n}d"] = pool
    RULES[f"adaptive_avg_pool{n}d"] = RULES[f"_adaptive_avg_pool{n}d"] = adaptive
    RULES[f"adaptive_max_pool{n}d"] = adaptive_max


for _n in (1, 2, 3):
    _max_pools(_n)
    _avg_pools(_n)


# --- recurrent ---------------------------------------------------------------------------------------------


def _recurrent(function: Any, **more: Any) -> Any:
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
    ) -> Any:
        if not isinstance(has_biases, bool):
            raise unsupported("packed sequences have lengths that depend on the data; pad them instead")
        if train and dropout:
            raise unsupported("recurrent dropout draws random numbers; call model.eval() before importing")
        state = [hx] if isinstance(hx, Value) else list(hx)
        return function(
            input,
            *state,
            *params,
            layers=num_layers,
            bidirectional=bidirectional,
            batch_first=batch_first,
            biases=has_biases,
            dropout=float(dropout),
            **more,
        )

    return apply


RULES["lstm"] = RULES["lstm.input"] = _recurrent(lib.lstm)
RULES["gru"] = RULES["gru.input"] = _recurrent(lib.gru)
RULES["rnn_tanh"] = RULES["rnn_tanh.input"] = _recurrent(lib.rnn, nonlinearity="tanh")
RULES["rnn_relu"] = RULES["rnn_relu.input"] = _recurrent(lib.rnn, nonlinearity="relu")


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
    axes = (dim % x.rank,)
    clipped = [v / lib.clamp(lib.vector_norm(v, axes=axes, keep=True), low=eps) for v in (x, y)]
    return reduce(clipped[0] * clipped[1], "sum", axes, keep=False)
