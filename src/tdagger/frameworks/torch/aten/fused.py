"""Rules of what torch.nn runs in one piece: layers when no gradient is wanted, and losses of large vocabularies."""

from __future__ import annotations

import math
from typing import Any

import torch

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import DTYPES, expand, rule
from tdagger.op import Value
from tdagger.ops.elementwise import cast, full_like, neg, not_, not_equal, where
from tdagger.ops.indexing import gather, take_along
from tdagger.ops.structure import permute, reduce, slice_axis, squeeze, unsqueeze
from tdagger.types import DType

_BOOL = DType.of("bool")
#: What a mask of :func:`_multi_head_attention` tells apart: its ``mask_type`` for ``[b s]``, which keys are padding.
_PADDING = 1


@rule("_native_multi_head_attention")
def _multi_head_attention(
    query: Value,
    key: Value,
    value: Value,
    embed_dim: int,
    num_head: int,
    qkv_weight: Value,
    qkv_bias: Value,
    proj_weight: Value,
    proj_bias: Value,
    mask: Value | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Value, Value | None]:
    """Attention of ``[b l f]`` on ``[b s f]``; a mask, whatever its type, says which pairs take no part."""
    heads: list[Value] = []
    for i, x in enumerate((query, key, value)):
        weight, bias = (slice_axis(w, 0, i * embed_dim, (i + 1) * embed_dim) for w in (qkv_weight, qkv_bias))
        split = lib.reshape(lib.linear(x, weight, bias), shape=(*x.shape[:2], num_head, -1))
        heads.append(permute(split, (0, 2, 1, 3)))
    q, k, v = heads
    takes_part = None
    if mask is not None:
        takes_part = not_(cast(mask, _BOOL))
        takes_part = unsqueeze(takes_part, (1, 2)) if mask_type == _PADDING else takes_part
    if need_weights:
        scores = lib.matmul(q * (1 / math.sqrt(q.shape[-1])), permute(k, (0, 1, 3, 2)))
        if takes_part is not None:
            scores = where(expand(takes_part, scores.shape), scores, full_like(scores, -math.inf))
        weights = lib.softmax(scores, axis=-1)
        mixed = lib.matmul(weights, v)
        weights = lib.mean(weights, axes=(1,)) if average_attn_weights else weights
    else:
        mixed, weights = lib.scaled_dot_product_attention(q, k, v, takes_part), None
    joined = lib.reshape(permute(mixed, (0, 2, 1, 3)), shape=(*query.shape[:2], -1))
    return lib.linear(joined, proj_weight, proj_bias), weights


@rule("_transformer_encoder_layer_fwd")
def _transformer_encoder_layer(
    src: Value,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Value,
    qkv_bias: Value,
    proj_weight: Value,
    proj_bias: Value,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Value,
    norm_bias_1: Value,
    norm_weight_2: Value,
    norm_bias_2: Value,
    ffn_weight_1: Value,
    ffn_bias_1: Value,
    ffn_weight_2: Value,
    ffn_bias_2: Value,
    mask: Value | None = None,
    mask_type: int | None = None,
) -> Value:
    """nn.TransformerEncoderLayer on ``[b l f]``."""

    def attend(x: Value) -> Value:
        projections = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        return _multi_head_attention(
            x, x, x, embed_dim, num_heads, *projections, mask, need_weights=False, mask_type=mask_type
        )[0]

    def feed_forward(x: Value) -> Value:
        hidden = lib.linear(x, ffn_weight_1, ffn_bias_1)
        return lib.linear(lib.gelu(hidden) if use_gelu else lib.relu(hidden), ffn_weight_2, ffn_bias_2)

    x = src
    for step, weight, bias in ((attend, norm_weight_1, norm_bias_1), (feed_forward, norm_weight_2, norm_bias_2)):
        if norm_first:
            x = x + step(lib.layer_norm(x, weight, bias, eps=eps))
        else:
            x = lib.layer_norm(x + step(x), weight, bias, eps=eps)
    return x


def _losses(
    input: Value, linear_weight: Value, target: Value, linear_bias: Value | None, weight: Value | None,
    ignore_index: int, acc_dtype: torch.dtype,
) -> tuple[Value, Value]:  # fmt: skip
    """The cross-entropy of a linear layer's ``[b c]`` for each of ``[b]``, times its weight; and that weight."""
    wide = DTYPES[acc_dtype]
    bias = None if linear_bias is None else cast(linear_bias, wide)
    logits = lib.linear(cast(input, wide), cast(linear_weight, wide), bias)
    counts = not_equal(target, ignore_index)
    place = where(counts, target, 0)
    each = neg(squeeze(take_along(lib.log_softmax(logits, axis=1), unsqueeze(place, (1,)), 1), (1,)))
    share = full_like(each, 1.0) if weight is None else cast(gather(weight, place), wide)
    share = where(counts, share, 0.0)
    return each * share, share


@rule("torch_nn._linear_cross_entropy_batch_chunked")
def _linear_cross_entropy(
    input: Value, linear_weight: Value, target: Value, linear_bias: Value | None, weight: Value | None, reduction: str,
    ignore_index: int, label_smoothing: float, batch_chunk_size: int, acc_policy: str, acc_dtype: torch.dtype, *_: Any,
) -> tuple[Value | None, ...]:  # fmt: skip
    """The loss; what torch works out ahead for the backward pass is left to whoever differentiates it."""
    each, share = _losses(input, linear_weight, target, linear_bias, weight, ignore_index, acc_dtype)
    total = reduce(each, "sum", (0,), keep=False)
    if reduction == "mean":
        total = total / reduce(share, "sum", (0,), keep=False)
    return cast(total, input.dtype), None, None, None


@rule("torch_nn._linear_cross_entropy_batch_chunked_no_reduction")
def _linear_cross_entropy_of_each(
    input: Value, linear_weight: Value, target: Value, linear_bias: Value | None, weight: Value | None,
    ignore_index: int, batch_chunk_size: int, acc_policy: str, acc_dtype: torch.dtype,
) -> Value:  # fmt: skip
    return cast(_losses(input, linear_weight, target, linear_bias, weight, ignore_index, acc_dtype)[0], input.dtype)


@rule("_weight_norm_interface")
def _weight_norm_interface(v: Value, g: Value, dim: int = 0) -> tuple[Value, Value]:
    """``v`` with the norms ``g`` along ``dim``, and the norms it had: of a weight of one axis, each entry's size."""
    wide = cast(v, "f32") if v.dtype.bytes < 4 else v
    norms = lib.vector_norm(wide, ord=2.0, axes=tuple(i for i in range(v.rank) if i != dim % v.rank), keep=True)
    return cast(wide * (cast(g, wide.dtype) / norms), v.dtype), norms


@rule("_weight_norm")
def _weight_norm(v: Value, g: Value, dim: int = 0) -> Value:
    """The same; a ``dim`` of -1 is one norm of all."""
    if dim == -1:
        return v * (g / lib.vector_norm(v, ord=2.0, axes=tuple(range(v.rank)), keep=True))
    return _weight_norm_interface(v, g, dim)[0]
