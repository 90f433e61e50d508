"""Attention of onnxruntime's own over texts that lie one after the other without padding, and padding put back.

``token_offset`` ``[b s]`` has the places ``b s`` of the tokens there are, in order, then those of the padding; how many
there are is the first size of what is packed.
"""

from __future__ import annotations

from typing import Any

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.contrib.attention import filtered
from tdagger.frameworks.onnx.ops.contrib.common import contrib
from tdagger.frameworks.onnx.ops.layers.attention import attend, heads, merged
from tdagger.frameworks.onnx.ops.table import Ints
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import broadcast_to, reduce, select, slice_axis, split, unsqueeze


@contrib("RestorePadding")
def _restore(input: Value, token_offset: Value) -> Value:
    """``[t d]`` as ``[b s d]``, 0 where nothing is."""
    return _unpacked(input, token_offset)


def _places(packed: Value, offset: Value) -> Value:
    return cast(slice_axis(lib.reshape(offset, shape=(-1,)), 0, 0, packed.shape[0]), "i64")


def _unpacked(packed: Value, offset: Value) -> Value:
    batch, length = offset.shape
    empty = broadcast_to(const(0, packed.dtype), (batch * length, packed.shape[1]))
    filled = Scatter(0, 0, "set")(empty, _places(packed, offset), packed)
    return lib.reshape(filled, shape=(batch, length, packed.shape[1]))


def _packed(out: Value, packed: Value, offset: Value) -> Value:
    """The tokens there are of ``[b s d]``, ``[t d]``."""
    return Gather(0, 0)(lib.reshape(out, shape=(-1, out.shape[2])), _places(packed, offset))


def _attention(
    parts: list[Value], packed: Value, offset: Value, ends: Value, bias: Value | None, count: int, scale: float,
    filter_: float,
) -> Value:  # fmt: skip
    """Attention within each text, of queries, keys and values ``[t d]``."""
    q, k, v = (heads(_unpacked(x, offset), count) for x in parts)
    starts, stops = slice_axis(ends, 0, 0, -1), slice_axis(ends, 0, 1, None)
    kept = iota(offset.shape[1]) < unsqueeze(cast(stops - starts, "i64"), (1,))
    mask = cast(filtered(unsqueeze(kept, (1, 2)), filter_), q.dtype)
    total = mask if bias is None else bias + cast(mask, bias.dtype)
    out = merged(attend(q, k, v, allowed=None, bias=total, causal=False, scale=scale or None).y)
    return _packed(out, packed, offset)


@contrib("PackedAttention")
def _packed_attention(
    input: Value, weights: Value, bias: Value, token_offset: Value, cumulative_sequence_length: Value,
    attention_bias: Value | None = None, *, num_heads: int, qkv_hidden_sizes: Ints | None = None, scale: float = 0.0,
) -> Value:  # fmt: skip
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [weights.shape[1] // 3] * 3
    parts = split(lib.matmul(input, weights) + bias, sizes, 1)
    return _attention(
        list(parts), input, token_offset, cumulative_sequence_length, attention_bias, num_heads, scale, -10000.0
    )


@contrib("PackedMultiHeadAttention")
def _packed_multi_head_attention(
    query: Value, key: Value | None, value: Value | None, bias: Value | None, token_offset: Value,
    cumulative_sequence_length: Value, attention_bias: Value | None = None, *, mask_filter_value: float = -10000.0,
    num_heads: int, scale: float = 0.0,
) -> Value:  # fmt: skip
    """Queries, keys and values ``[t d]``, or all three in one, ``[t h 3 d]``."""
    parts: list[Any] = [query, key, value]
    if key is None or value is None:
        parts = [lib.reshape(select(query, 2, i), shape=(query.shape[0], -1)) for i in range(3)]
    if bias is not None:
        own = split(bias, [x.shape[1] for x in parts], 0)
        parts = [x + b for x, b in zip(parts, own, strict=True)]
    return _attention(
        parts, parts[0], token_offset, cumulative_sequence_length, attention_bias, num_heads, scale, mask_filter_value
    )


@contrib("GatedRelativePositionBias")
def _gated_bias(
    query_layer: Value, query_bias: Value, rel_pos: Value, weight: Value, bias: Value, eco_a: Value,
    token_offset: Value | None = None, *, num_heads: int,
) -> Value:  # fmt: skip
    """A bias of positions ``[1 h s s]``, times a gate of each query."""
    layer = query_layer + query_bias
    q = heads(layer if token_offset is None else _unpacked(layer, token_offset), num_heads)
    gates = lib.sigmoid(reduce(_halves(lib.matmul(q, weight) + bias), "sum", (4,), keep=False))  # [b h s 2]
    u, r = (slice_axis(gates, 3, i, i + 1) for i in range(2))
    return (u * (r * eco_a - 1.0) + 2.0) * rel_pos


def _halves(x: Value) -> Value:
    return lib.reshape(x, shape=(*x.shape[:-1], 2, x.shape[-1] // 2))
