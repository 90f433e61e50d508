"""Attention as ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.frameworks.onnx.emit.composites.linear import transposed
from tdagger.frameworks.onnx.emit.composites.rule import F32, Rule, tensor
from tdagger.frameworks.onnx.emit.writer import Writer, has_sizes
from tdagger.frameworks.writing import Fields, unbroadcast
from tdagger.op import Value
from tdagger.ops.source import Parameter
from tdagger.types import DType, TensorType, bool_, i64

#: What is added to the scores of keys that aren't seen, where that may be all keys of a query: its weights are numbers.
_UNSEEN = -1e38


def _attention(w: Writer, v: Value, f: Fields) -> Any:
    """MatMul, Softmax, MatMul; a query that sees no key gives 0, which is seen to only where it may be.

    Masks are added, which takes runtimes a fifth of the time of a Where on the scores; what it takes to make one of
    bools is written once for all layers that share it.
    """
    from tdagger.library.attention import _heads  # pyright: ignore[reportPrivateUsage]

    q, k, value, mask = f["q"], f["k"], f["v"], tensor(v, f, "mask")
    k, value = _heads(q, k, value, f["grouped"])
    dtype = v.dtype
    to = F32 if dtype.bytes < 4 else dtype
    scale = 1 / math.sqrt(q.shape[-1]) if f["scale"] is None else f["scale"]
    queries = w.cast(w.ref(q), dtype, to)
    keys = transposed(w, k, dtype, to)
    if scale != 1.0:  # on the queries, which have fewer entries than the scores
        queries = w.node("Mul", [queries, w.scalar(scale, to)])
    scores = w.node("MatMul", [queries, keys])
    added, some = _mask(w, mask, (q.shape[-2], k.shape[-2]) if f["causal"] else None, to)
    if added is not None:
        scores = w.node("Add", [scores, added])
    out = w.node("MatMul", [w.node("Softmax", [scores], axis=-1), w.cast(w.ref(value), value.dtype, to)])
    if some is not None and mask is not None and mask.dtype is bool_:
        out = w.node("Mul", [out, w.cast(some, bool_, to)])
    elif some is not None:  # the weights of a query that sees no key may be NaN, in its own row
        out = w.node("Where", [some, out, w.scalar(0, to)])
    return w.cast(out, to, dtype)


def _mask(w: Writer, mask: Value | None, causal: tuple[int, int] | None, to: DType) -> tuple[str | None, str | None]:
    """What is added to scores, and which queries see a key, where one may not: a column."""
    lowest = w.scalar(-math.inf, to)
    if mask is None:
        return None if causal is None else _below(w, *causal, to), None
    given = w.ref(unbroadcast(mask))
    certain = _sees(w, mask, causal is not None)
    if mask.dtype is bool_:
        if causal is not None:
            given = w.node("And", [given, _causal(w, *causal)])
        added = w.node("Where", [given, w.scalar(0, to), lowest if certain else w.scalar(_UNSEEN, to)])
        if certain:
            return added, None
        if not unbroadcast(mask).rank:
            return added, given
        kind = bool_ if w.opset >= 20 else DType.of("i32")  # which has ReduceMax of bools
        some = w.node("ReduceMax", [w.cast(given, bool_, kind), w.ints([-1])], keepdims=1)
        return added, w.cast(some, kind, bool_)
    given = w.cast(given, mask.dtype, to)
    if causal is not None:
        given = w.node("Where", [_causal(w, *causal), given, lowest])
    if certain:
        return given, None
    top = given if unbroadcast(mask).rank == 0 else w.node("ReduceMax", [given, w.ints([-1])], keepdims=1)
    return given, w.node("Greater", [top, lowest])


def _below(w: Writer, rows: int, columns: int, to: DType) -> str:
    """What is added to the scores of a causal attention."""
    if not has_sizes((rows, columns)) and rows * columns <= 1 << 16:
        return w.const(np.where(np.tri(int(rows), int(columns), dtype=np.bool_), 0, -np.inf).astype(to.numpy))
    return w.node("Where", [_causal(w, rows, columns), w.scalar(0, to), w.scalar(-math.inf, to)])


def _causal(w: Writer, rows: int, columns: int) -> str:
    """Where a query sees a key: at its own place and before."""
    if not has_sizes((rows, columns)) and rows * columns <= 1 << 16:
        return w.const(np.tri(int(rows), int(columns), dtype=np.bool_))
    row, column = (w.node("Range", [w.scalar(0, i64), w.size(n), w.scalar(1, i64)]) for n in (rows, columns))
    return w.node("GreaterOrEqual", [w.node("Unsqueeze", [row, w.ints([1])]), column])


def _sees(w: Writer, mask: Value, causal: bool) -> bool:
    """Whether it is certain that no query is masked from every key."""
    if causal:
        return False
    mask = unbroadcast(mask)
    data = w.array(mask)
    if data is not None:
        whole = data if data.dtype == np.bool_ else data != -math.inf
        return bool(whole.any(-1).all()) if whole.ndim else bool(whole)
    return mask.dtype is not bool_ and _is_finite(w, mask, 0)


def _is_finite(w: Writer, x: Value, depth: int) -> bool:
    """Whether no entry is -inf, as far as that is plain: weights, and choices, casts and moves of such numbers."""
    if depth > 16:
        return False
    x = unbroadcast(x)
    data = w.array(x)
    if data is not None:
        return bool((data != -math.inf).all())
    if isinstance(x.op, Parameter):
        return True  # a learned number
    if x.op.name == "where":
        return all(_is_finite(w, a, depth + 1) for a in x.args[1:])
    if x.op.name == "cast" and (not x.args[0].dtype.is_float or x.dtype.bytes >= x.args[0].dtype.bytes):
        return not x.args[0].dtype.is_float or _is_finite(w, x.args[0], depth + 1)
    if x.op.name in ("group", "ungroup", "reshape", "permute", "slice", "concat", "gather", "embedding"):
        tables = x.args[:1] if x.op.name in ("gather", "embedding") else x.args
        return all(_is_finite(w, a, depth + 1) for a in tables)
    return False


def _attends(f: Fields, types: Sequence[TensorType]) -> bool:
    q, k, v = types[:3]
    fits = len({q.dtype, k.dtype, v.dtype}) == 1 and q.dtype.is_float
    return fits and q.shape[-1] != 0 and 0 not in (*q.shape, *k.shape, *v.shape) and not has_sizes(q.shape[-1])


#: Of each composite its row.
ATTENTION: dict[str, Rule] = {
    "scaled_dot_product_attention": Rule(_attention, _attends),
}
