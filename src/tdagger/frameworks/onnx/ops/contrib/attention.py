"""Attention and rotary embeddings of com.microsoft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.ops.contrib.common import contrib, refuse, takes
from tdagger.frameworks.onnx.ops.contrib.quantized import scaled_product
from tdagger.frameworks.onnx.ops.layers.attention import (
    at_positions,
    attend,
    before,
    both,
    heads,
    linear_attention,
    merged,
    near,
    rotary,
)
from tdagger.frameworks.onnx.ops.layers.networks import causal_conv
from tdagger.frameworks.onnx.ops.layers.windows import short
from tdagger.frameworks.onnx.ops.table import Ints, unsupported
from tdagger.op import Value
from tdagger.ops.elementwise import (
    cast,
    not_equal,
    where,
)
from tdagger.ops.indexing import Scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import (
    broadcast_to,
    concat,
    pad,
    permute,
    select,
    slice_axis,
    split,
    ungroup,
    unsqueeze,
)

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


@contrib("MRotaryEmbedding")
def _m_rotary_embedding(
    input: Value, position_ids: Value, cos_cache: Value, sin_cache: Value, *, interleaved: int = 0,
    is_packed_batching: int = 0, mrope_layout: int = 0, mrope_section: Ints, num_heads: int = 0,
    rotary_embedding_dim: int = 0, scale: float = 1.0,
) -> Value:  # fmt: skip
    """By three positions of each token ``[3 b s]``; each entry of an angle goes by one of them."""
    refuse(is_packed_batching=is_packed_batching, scale=scale != 1)
    half = cos_cache.shape[1]
    which = np.repeat(np.arange(3), mrope_section)
    if mrope_layout:
        which = np.zeros(half, np.int64)
        for axis in (1, 2):
            which[axis : 3 * mrope_section[axis] : 3] = axis
    if len(which) != half:
        raise unsupported(f"its sections {mrope_section} aren't {half} entries")

    def angles(table: Value) -> Value:
        parts = [at_positions(table, select(position_ids, 0, i)) for i in range(3)]
        later = where(const(which == 1), parts[1], parts[2])
        return where(const(which == 0), parts[0], later)

    cos, sin = angles(cos_cache), angles(sin_cache)
    if input.rank == 3 and not num_heads:
        num_heads = input.shape[2] // (2 * half)
    return rotary(input, cos, sin, num_heads, bool(interleaved), rotary_embedding_dim or None)


def filtered(kept: Value, filter_: float) -> Value:
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
        kept = filtered(_key_mask(mask, q.shape[0], q.shape[2], k.shape[2]), filter_)
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
    product = scaled_product(input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias)
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


@contrib("DecoderMaskedMultiHeadAttention")
def _decoder_attention(
    query: Value, key: Value | None = None, value: Value | None = None, mask_index: Value | None = None,
    attention_bias: Value | None = None, past_key: Value | None = None, past_value: Value | None = None,
    past_sequence_length: Value | None = None, beam_width: Value | None = None,
    cache_indirection: Value | None = None, bias: Value | None = None, *, mask_filter_value: float = -10000.0,
    num_heads: int, output_qk: int = 0, past_present_share_buffer: int = 0, scale: float = 0.0,
    wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """One token more: keys and values of the past stand before its own; those of another text come by heads.

    With ``past_present_share_buffer`` the past is as long as it may become, and of it ``past_sequence_length`` count.
    """
    refuse(beam_width=beam_width, cache_indirection=cache_indirection, output_qk=output_qk)
    if key is None or value is None:
        query, key, value = split(query, [query.shape[2] // 3] * 3, 2)
    more = {"mask_filter_value": mask_filter_value, "num_heads": num_heads, "scale": scale, "wanted": wanted}
    if not past_present_share_buffer or past_key is None or past_value is None:
        refuse(past_sequence_length=past_sequence_length)
        return _multi_head_attention(
            query, key, value, bias, mask_index, attention_bias, past_key, past_value, **more
        )  # fmt: skip
    refuse(mask_index=mask_index, attention_bias=attention_bias)
    if past_sequence_length is None:
        raise unsupported("its past_sequence_length is missing")
    q, k, v = _queries(query, key, value, num_heads)
    if bias is not None:
        parts = split(bias, [num_heads * x.shape[3] for x in (q, k, v)], 0)
        q, k, v = (_biased(x, b, True) for x, b in zip((q, k, v), parts, strict=True))
    at = lib.reshape(cast(past_sequence_length, "i64"), shape=(1,))
    k, v = (Scatter(2, 0, "set")(past, at, x) for past, x in ((past_key, k), (past_value, v)))
    allowed = unsqueeze(iota(k.shape[2]) <= at, (0, 1, 2))
    out = merged(attend(q, k, v, allowed=allowed, bias=None, causal=False, scale=scale or None).y)
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
    if key.rank == 4 and value.rank == 4:  # those of another text, by heads
        return q, key, value
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


@contrib("LinearAttention")
@takes(linear_attention)
def _linear_attention(*inputs: Value | None, state_window: int = 0, **options: Any) -> tuple[Value, Value]:
    refuse(state_window=state_window)
    return linear_attention(*inputs, **options)


@contrib("CausalConvWithState")
def _causal_conv(
    input: Value, weight: Value, bias: Value | None = None, past_state: Value | None = None, *,
    activation: str = "none", ndim: int = 1, dilation: int = 1, channels_last: int = 0, state_channels_last: int = -1,
    state_length: int = 0, state_window: int = 0, state_update_capacity: int = 0, input_channel_offset: int = 0,
    input_channels: int = 0,
) -> tuple[Value, Value]:  # fmt: skip
    refuse(
        ndim=ndim != 1, dilation=dilation != 1, channels_last=channels_last, state_window=state_window,
        state_channels_last=state_channels_last > 0, state_length=state_length, input_channels=input_channels,
        state_update_capacity=state_update_capacity, input_channel_offset=input_channel_offset,
    )  # fmt: skip
    return causal_conv(input, weight, bias, past_state, activation=activation)
