"""ONNX's attention and rotary embeddings, and what onnxruntime's operators share with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.layers.windows import check_steps
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.library.linear import wide
from tdagger.op import Value
from tdagger.ops.elementwise import cast, equal, exp, tanh, where
from tdagger.ops.indexing import Gather
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
    transpose,
    ungroup,
    unsqueeze,
)
from tdagger.types import bool_

# --- what all share ----------------------------------------------------------------------------------------


def heads(x: Value, count: int | None) -> Value:
    """``[b s (h d)]`` as ``[b h s d]``; what has four axes is that already."""
    if x.rank == 4:
        return x
    if x.rank != 3 or not count or x.shape[2] % count:
        raise unsupported(f"{x.type} doesn't divide into {count} heads")
    return permute(ungroup(x, 2, (count, x.shape[2] // count)), (0, 2, 1, 3))


def merged(x: Value) -> Value:
    """``[b h s d]`` as ``[b s (h d)]``."""
    return group(permute(x, (0, 2, 1, 3)), (1, 1, 2))


class Result(NamedTuple):
    """What attention gives, and on the way: products, then after the cap, with the mask, and the weights."""

    y: Value
    scores: tuple[Value, ...]


def attend(
    q: Value, k: Value, v: Value, *, allowed: Value | None = None, bias: Value | None = None, causal: bool = False,
    scale: float | None = None, softcap: float = 0.0, sink: Value | None = None, scores: bool = False,
) -> Result:  # fmt: skip
    """Attention of ``[b h s d]``: the composite, or with a cap, a sink or scores that are asked for written out.

    ``allowed`` says which pairs take part, ``bias`` is added to them. A query without any gives 0. Softmax is computed
    in f32 at least, whatever precision is asked for.
    """
    grouped = q.shape[1] != k.shape[1]
    if not softcap and sink is None and not scores:
        if causal and (allowed is not None or bias is not None):  # torch takes only one of the two
            allowed, causal = both(allowed, before(iota(q.shape[2]), k.shape[2])), False
        mask = allowed if bias is None else bias if allowed is None else where(allowed, bias, -math.inf)
        y = lib.scaled_dot_product_attention(q, k, v, mask, causal=causal, scale=scale, grouped=grouped)
        return Result(y, ())
    if grouped:
        k, v = (lib.repeat_interleave(x, repeats=q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    raw = lib.matmul(wide(q), transpose(wide(k), 2, 3)) * (1 / math.sqrt(q.shape[3]) if scale is None else scale)
    capped = tanh(raw / softcap) * softcap if softcap else raw
    if causal:
        allowed = both(allowed, before(iota(q.shape[2]), k.shape[2]))
    masked = capped if bias is None else capped + cast(bias, capped.dtype)
    masked = masked if allowed is None else where(allowed, masked, -math.inf)
    weights = _softmax(masked, sink)
    y = cast(lib.matmul(weights, wide(v)), q.dtype)
    return Result(y, tuple([cast(s, q.dtype) for s in (raw, capped, masked, weights)]))


def _softmax(x: Value, sink: Value | None) -> Value:
    """Along the last axis, 0 where there is nothing; a sink ``[h]`` is one more entry that nothing is taken of."""
    if sink is None:
        none = equal(reduce(x, "max", (-1,)), -math.inf)
        return where(none, 0.0, lib.softmax(x, axis=-1))
    more = unsqueeze(cast(sink, x.dtype), (0, 2, 3))
    all_ = concat([x, broadcast_to(more, (*x.shape[:3], 1))], 3)
    return slice_axis(lib.softmax(all_, axis=-1), 3, 0, x.shape[3])


def both(a: Value | None, b: Value | None) -> Value | None:
    """Two conditions, each of which may not be there."""
    return b if a is None else a if b is None else a & b


def before(place: Value, keys: int) -> Value:
    """Whether each key stands at or before a place ``[.. q]``: ``[.. q k]``."""
    return iota(keys) <= unsqueeze(place, (place.rank,))


def near(place: Value, keys: int, left: int, right: int) -> Value | None:
    """Whether each key is within a window around a place ``[.. q]``; -1 leaves a side open."""
    found = None
    at = unsqueeze(place, (place.rank,))
    if left >= 0:
        found = iota(keys) >= at - left
    if right >= 0:
        found = both(found, iota(keys) <= at + right)
    return found


# --- Attention ---------------------------------------------------------------------------------------------


@rule("Attention", since=23)
def _attention(
    Q: Value, K: Value, V: Value, attn_mask: Value | None = None, past_key: Value | None = None,
    past_value: Value | None = None, nonpad_kv_seqlen: Value | None = None, *, is_causal: int = 0,
    kv_num_heads: int | None = None, left_window_size: int = -1, q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0, right_window_size: int = -1, scale: float | None = None,
    softcap: float = 0.0, softmax_precision: int | None = None, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Causal is counted from the end of the past: query 0 sees all of it and itself."""
    del softmax_precision
    q, k, v = heads(Q, q_num_heads), heads(K, kv_num_heads), heads(V, kv_num_heads)
    past = past_key.shape[2] if past_key is not None else 0
    k = k if past_key is None else concat([past_key, k], 2)
    v = v if past_value is None else concat([past_value, v], 2)
    keys, queries = k.shape[2], q.shape[2]
    place = iota(queries) + past if past else iota(queries)  # of each query among the keys
    allowed = None
    if nonpad_kv_seqlen is not None:
        lengths = cast(nonpad_kv_seqlen, "i64")
        place = unsqueeze(place, (0,)) + unsqueeze(lengths - queries, (1,)) if past_key is None else place
        allowed = unsqueeze(iota(keys) < unsqueeze(lengths, (1,)), (1, 2))
    if place.rank == 2:
        place = unsqueeze(place, (1,))  # one for each head
    plain_causal = bool(is_causal) and not past and place.rank == 1
    if is_causal and not plain_causal:
        allowed = both(allowed, before(place, keys))
    allowed = both(allowed, near(place, keys, left_window_size, right_window_size))
    bias = None
    if attn_mask is not None:
        short = keys - attn_mask.shape[-1]
        is_bool = attn_mask.dtype is bool_
        widths = [*(None,) * (attn_mask.rank - 1), (0, short)]
        mask = pad(attn_mask, widths, False if is_bool else -math.inf) if short else attn_mask
        allowed, bias = (both(allowed, mask), None) if is_bool else (allowed, mask)
    result = attend(
        q, k, v, allowed=allowed, bias=bias, causal=plain_causal, scale=scale, softcap=softcap,
        scores=len(wanted) > 3 and wanted[3],
    )  # fmt: skip
    if not 0 <= qk_matmul_output_mode <= 3:
        raise unsupported(f"its qk_matmul_output_mode {qk_matmul_output_mode} isn't known")
    y = merged(result.y) if Q.rank == 3 else result.y
    if not any(wanted[1:]):
        return y
    return y, k, v, result.scores[qk_matmul_output_mode] if result.scores else None


@rule("FlexAttention", domain="ai.onnx.preview")
def _flex_attention(
    Q: Value, K: Value, V: Value, *, scale: float | None = None, softmax_precision: int | None = None
) -> Value:
    """Without changes of scores or weights, which are graphs."""
    del softmax_precision
    return attend(Q, K, V, scale=scale).y


# --- RotaryEmbedding ---------------------------------------------------------------------------------------


def rotated(x: Value, cos: Value, sin: Value, interleaved: bool, width: int | None = None) -> Value:
    """The last axis turned pair by pair: the first ``width`` entries; ``cos`` and ``sin`` have half as many."""
    width = width or x.shape[-1]
    last = x.rank - 1
    if cos.shape[-1] * 2 != width or sin.shape != cos.shape or width > x.shape[-1]:
        raise unsupported(f"tables {cos.type} and {sin.type} don't turn {width} entries of {x.type}")
    turned, rest = slice_axis(x, last, 0, width), slice_axis(x, last, width, x.shape[last])
    if interleaved:
        pairs = ungroup(turned, last, (width // 2, 2))
        a, b = (select(pairs, last + 1, i) for i in range(2))
    else:
        a, b = split(turned, [width // 2] * 2, last)
    real, imag = a * cos - b * sin, a * sin + b * cos
    if interleaved:
        out = group(concat([unsqueeze(v, (last + 1,)) for v in (real, imag)], last + 1), (*(1,) * last, 2))
    else:
        out = concat([real, imag], last)
    return out if width == x.shape[last] else concat([out, rest], last)


def at_positions(table: Value, positions: Value) -> Value:
    """Rows of a table ``[n d]`` at positions ``[b s]``: ``[b s d]``."""
    return Gather(0, 0)(table, positions)


def rotary(x: Value, cos: Value, sin: Value, count: int | None, interleaved: bool, width: int | None) -> Value:
    """``[b h s d]`` or ``[b s (h d)]`` turned by tables ``[b s d/2]``."""
    if x.rank == 4:
        return rotated(x, unsqueeze(cos, (1,)), unsqueeze(sin, (1,)), interleaved, width)
    if x.rank != 3 or not count or x.shape[2] % count:
        raise unsupported(f"{x.type} doesn't divide into {count} heads")
    y = ungroup(x, 2, (count, x.shape[2] // count))
    return group(rotated(y, unsqueeze(cos, (2,)), unsqueeze(sin, (2,)), interleaved, width), (1, 1, 2))


@rule("RotaryEmbedding", since=23)
def _rotary_embedding(
    X: Value, cos_cache: Value, sin_cache: Value, position_ids: Value | None = None, *, interleaved: int = 0,
    num_heads: int = 0, rotary_embedding_dim: int = 0,
) -> Value:  # fmt: skip
    if position_ids is not None:
        cos_cache, sin_cache = (at_positions(t, position_ids) for t in (cos_cache, sin_cache))
    return rotary(X, cos_cache, sin_cache, num_heads, bool(interleaved), rotary_embedding_dim)


# --- LinearAttention ---------------------------------------------------------------------------------------


@rule("LinearAttention", since=27)
def linear_attention(
    query: Value, key: Value, value: Value, past_state: Value | None = None, decay: Value | None = None,
    beta: Value | None = None, *, chunk_size: int = 64, kv_num_heads: int, q_num_heads: int, scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Value, Value]:  # fmt: skip
    """A state ``[b h k v]`` that each token changes and is read from; computed in f32."""
    del chunk_size
    gated, corrected = update_rule in ("gated", "gated_delta"), update_rule in ("delta", "gated_delta")
    if update_rule not in ("linear", "gated", "delta", "gated_delta"):
        raise unsupported(f"its update_rule {update_rule} isn't known")
    if gated != (decay is not None) or corrected != (beta is not None):
        raise unsupported(f"update_rule {update_rule} doesn't go with the inputs decay and beta it has")
    q, k, v = (cast(heads(x, n), "f32") for x, n in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads)))
    d_k, d_v = k.shape[3], v.shape[3]
    factor = scale if scale else 1 / math.sqrt(d_k)
    shape = (q.shape[0], kv_num_heads, d_k, d_v)
    state = broadcast_to(const(0.0), shape) if past_state is None else cast(past_state, "f32")
    fade = None if decay is None else exp(cast(heads(decay, kv_num_heads), "f32"))  # [b h t k] or [b h t 1]
    rate = None if beta is None else cast(heads(beta, beta.shape[2]), "f32")  # [b h t 1]
    outputs: list[Value] = []
    check_steps(q.shape[2])
    for t in range(q.shape[2]):
        k_t, v_t = select(k, 2, t), select(v, 2, t)
        state = state if fade is None else state * unsqueeze(select(fade, 2, t), (3,))
        if rate is not None:
            known = reduce(state * unsqueeze(k_t, (3,)), "sum", (2,), keep=False)
            v_t = select(rate, 2, t) * (v_t - known)
        state = state + unsqueeze(k_t, (3,)) * unsqueeze(v_t, (2,))
        read = lib.repeat_interleave(state, repeats=q_num_heads // kv_num_heads, axis=1)
        outputs.append(lib.matmul(slice_axis(q, 2, t, t + 1), read) * factor)
    kept = query.dtype if past_state is None else past_state.dtype
    return cast(merged(concat(outputs, 2)), query.dtype), cast(state, kept)
