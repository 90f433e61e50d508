"""Attention written out: scaled before or after, with a mask that is added or chooses, heads repeated for queries.

A query that may see no key gives 0 afterwards; written out it gives NaN.
"""

from __future__ import annotations

import math
import re
from typing import Any

from tdagger.library.activation import dropout, softmax
from tdagger.library.attention import scaled_dot_product_attention
from tdagger.library.linear import matmul
from tdagger.op import Value
from tdagger.ops.elementwise import not_, where
from tdagger.ops.structure import transpose
from tdagger.transform.rewrite import either, no, number, only, op, rule, spread


def _attention(scores: Any, v: Any, p: Any) -> Any:
    weights = only(softmax(scores, axis=-1))
    return matmul(either(weights, dropout(weights, p=p)), v)


def _scaled(q: Any, k: Any, times: Any, over: Any, left: Any, right: Any) -> Any:
    """Products of queries and keys, whose scale is multiplied with or divided by; a scale of q stays with q.

    Files of ONNX have the root of the scale with both of them.
    """
    scores = only(matmul(q, transpose(k, -1, -2)))
    both = only(matmul(only(q * number(left)), only(transpose(k, -1, -2) * number(right))))
    return either(scores * number(times), scores / number(over), both, scores)


@rule
def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    chosen: Any,
    excluded: Any,
    times: Any,
    over: Any,
    low: Any,
    p: Any,
    left: Any,
    right: Any,
) -> Any:
    """``softmax(q @ k.T * scale + mask) @ v``."""
    scores = _scaled(q, k, times, over, left, right)
    masked = either(
        only(scores) + spread(mask),
        where(spread(chosen), only(scores), number(low)),
        where(spread(excluded), number(low), only(scores)),
        scores,
    )
    return _attention(masked, v, p)


@attention.when
def _same_batch(q: Value, k: Value, v: Value) -> Any:
    if q.rank < 2 or q.shape[:-2] != k.shape[:-2] or k.shape[:-2] != v.shape[:-2] or q.dtype is not v.dtype:
        return no(f"{q.type}, {k.type} and {v.type} have other heads")
    return q.dtype.is_float and q.dtype.bytes >= 4


@attention.when
def _excludes(low: Any) -> Any:
    return low is None or low == -math.inf or no(f"where it is masked the score is {low}, not -inf")


@attention.to
def _(
    q: Any, k: Any, v: Any, mask: Any, chosen: Any, excluded: Any, times: Any, over: Any, left: Any, right: Any
) -> Any:
    scale = float(times) if times is not None else 1.0 if over is None else 1.0 / float(over)
    scale = scale if left is None else float(left) * float(right)
    mask = chosen if mask is None else mask
    mask = not_(excluded) if excluded is not None else mask
    return scaled_dot_product_attention(q, k, v, mask, scale=scale)


def _view(x: Any) -> Any:
    return either(op("group", x), op("ungroup", x), op("reshape", x))


def _repeated(x: Any, sizes: Any) -> Any:
    """Every head several times over: ``[b h s d]`` as ``[b h 1 s d]``, repeated, as ``[b (h n) s d]``."""
    return _view(op("repeat", _view(x), sizes=sizes))


@rule
def grouped_heads(q: Any, k: Any, v: Any, sizes: Any, others: Any, kept: Any, mask: Any = None) -> Any:
    """Attention to keys and values whose heads were repeated for groups of queries."""
    return scaled_dot_product_attention(q, _repeated(k, sizes), _repeated(v, others), mask, **kept)


@grouped_heads.when
def _every_head(q: Value, k: Value, v: Value, sizes: Any, others: Any, kept: Any) -> Any:
    if kept["grouped"] or q.rank < 3 or k.rank != q.rank or v.rank != q.rank or q.shape[-3] % k.shape[-3]:
        return no("heads don't divide")
    times = q.shape[-3] // k.shape[-3]
    wanted = (*(None,) * (q.rank - 2), times, None, None)
    return (sizes == wanted and others == wanted) or no(f"repeats {sizes} and {others} aren't {wanted}")


@grouped_heads.when
def _beside_heads(root: Value) -> Any:
    """The repeated axis must be next to that of the heads, inside it."""
    for arg in root.args[1:3]:
        spread_ = arg.args[0]
        if spread_.shape[: arg.rank - 3] != arg.shape[: arg.rank - 3] or spread_.shape[-2:] != arg.shape[-2:]:
            return no("the repeated axis isn't that of the heads")
        inner = spread_.args[0]
        if inner.shape != (*inner.args[0].shape[:-2], 1, *inner.args[0].shape[-2:]):
            return no("the repeated axis isn't that of the heads")
    return True


@grouped_heads.to
def _(q: Any, k: Any, v: Any, mask: Any, kept: Any) -> Any:
    return scaled_dot_product_attention(q, k, v, mask, **{**kept, "grouped": True})


@rule
def einsum_of_matrices(x: Any, y: Any, equation: Any) -> Any:
    """``bhqd,bhkd->bhqk`` and ``bhqk,bhkd->bhqd``: products of matrices."""
    return op("einsum", x, y, equation=equation)


@einsum_of_matrices.when
def _(x: Value, y: Value, equation: str) -> Any:
    return _transposed(equation, x, y) is not None or no(f"{equation} isn't a product of matrices as they lie")


@einsum_of_matrices.to
def _(x: Any, y: Any, equation: str) -> Any:
    return matmul(x, transpose(y, -1, -2) if _transposed(equation, x, y) else y)


def _transposed(equation: str, x: Value, y: Value) -> bool | None:
    """Whether the second matrix goes in transposed; None if the equation says something else."""
    parts = re.fullmatch(r"(\w+),(\w+)->(\w+)", equation)
    if parts is None or x.rank < 2 or x.shape[:-2] != y.shape[:-2] or x.dtype is not y.dtype:
        return None
    a, b, c = parts.groups()
    if any(len(set(t)) != len(t) for t in (a, b, c)) or not (a[:-2] == b[:-2] == c[:-2]) or a[-2] != c[-2]:
        return None
    if len({a[-2], a[-1], c[-1]}) != 3 or {b[-2], b[-1]} != {a[-1], c[-1]}:
        return None
    return b[-1] == a[-1]


ATTENTION = (einsum_of_matrices, attention, grouped_heads)
