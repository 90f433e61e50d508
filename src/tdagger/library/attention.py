"""Attention."""

from __future__ import annotations

import math

from tdagger.composite import composite
from tdagger.errors import TypeMismatchError
from tdagger.library.activation import softmax
from tdagger.library.linear import matmul, wide
from tdagger.library.random import dropout_train
from tdagger.op import Value
from tdagger.ops.elementwise import cast, equal, greater_equal, where
from tdagger.ops.source import iota
from tdagger.ops.structure import group, reduce, repeat, transpose, unsqueeze
from tdagger.types import bool_


def _for_queries(x: Value, times: int) -> Value:
    """Each head of ``[.. h s d]`` ``times`` over, one after the other: the heads of grouped queries."""
    if times == 1:
        return x
    spread = unsqueeze(x, (-3,))
    spread = repeat(spread, [times if i == x.rank - 2 else None for i in range(spread.rank)])
    return group(spread, [*(1,) * (x.rank - 3), 2, 1, 1])


def _weights(q: Value, k: Value, mask: Value | None, causal: bool, scale: float | None) -> Value:
    """``softmax(q @ k.T * scale + mask)``: how much each query takes of each key."""
    scores = matmul(wide(q), transpose(wide(k), -1, -2))
    scale = (1 / math.sqrt(q.shape[-1]) if q.shape[-1] else math.inf) if scale is None else scale
    scores = scores if scale == 1.0 else scores * scale
    if causal:
        row, column = (iota(n) for n in scores.shape[-2:])
        scores = where(greater_equal(unsqueeze(row, (1,)), column), scores, -math.inf)
    if mask is not None:
        scores = where(mask, scores, -math.inf) if mask.dtype is bool_ else scores + cast(mask, scores.dtype)
    weights = softmax(scores, axis=-1)
    if mask is not None:
        weights = where(equal(reduce(scores, "max", (-1,)), -math.inf), 0.0, weights)
    return weights


def _heads(q: Value, k: Value, v: Value, grouped: bool) -> tuple[Value, Value]:
    """k and v with a head for each head of q."""
    if not grouped:
        return k, v
    if q.rank < 3 or any(q.shape[-3] % max(t.shape[-3], 1) for t in (k, v)):
        raise TypeMismatchError(f"attention: heads of {k.type} or {v.type} don't divide {q.type}")
    return _for_queries(k, q.shape[-3] // k.shape[-3]), _for_queries(v, q.shape[-3] // v.shape[-3])


@composite
def scaled_dot_product_attention(
    q: Value, k: Value, v: Value, mask: Value | None = None, *, causal: bool = False,
    scale: float | None = None, grouped: bool = False,
) -> Value:  # fmt: skip
    """``softmax(q @ k.T * scale + mask) @ v`` of q ``[.. l d]``, k ``[.. s d]``, v ``[.. s e]``.

    A bool mask, broadcastable to ``[.. l s]``, says which pairs take part; a float mask is added. ``causal``
    lets query i see keys up to i, counted from the first key. ``scale`` is ``1 / sqrt(d)`` if None. With
    ``grouped`` each head (axis -3) of k and v serves several neighbouring heads of q. A query whose mask
    excludes every key gives 0. Computed in f32 for narrower floats.
    """
    k, v = _heads(q, k, v, grouped)
    return cast(matmul(_weights(q, k, mask, causal, scale), wide(v)), q.dtype)


@composite
def attention_train(
    q: Value, k: Value, v: Value, seed: Value, mask: Value | None = None, *, p: float, causal: bool = False,
    scale: float | None = None, grouped: bool = False,
) -> Value:  # fmt: skip
    """:func:`scaled_dot_product_attention` in training: dropout with probability ``p`` on the weights."""
    k, v = _heads(q, k, v, grouped)
    weights = dropout_train(_weights(q, k, mask, causal, scale), seed, p=p)
    return cast(matmul(weights, wide(v)), q.dtype)
