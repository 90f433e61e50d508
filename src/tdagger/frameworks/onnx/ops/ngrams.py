"""ONNX's counting of n-grams, of whole numbers: strings aren't imported."""

from __future__ import annotations

import functools

import numpy as np

from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import scatter
from tdagger.ops.source import const

_MODES = ("TF", "IDF", "TFIDF")


@rule("TfIdfVectorizer")
def _tf_idf(
    X: Value, *, mode: str, max_gram_length: int, max_skip_count: int, min_gram_length: int,
    ngram_counts: tuple[int, ...], ngram_indexes: tuple[int, ...], pool_int64s: tuple[int, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Value:  # fmt: skip
    """How often each n-gram of the pool is in each row ``[.. c]``, with up to ``max_skip_count`` entries between two.

    The weights are those of the n-grams in their order, as the specification says; the reference takes them by place.
    """
    if pool_int64s is None or mode not in _MODES:
        raise unsupported(f"it needs pool_int64s and a mode of {', '.join(_MODES)}, got {mode!r}")
    ends = [*ngram_counts[1:], len(pool_int64s)]
    totals: list[Value] = []
    for n, (start, end) in enumerate(zip(ngram_counts, ends, strict=True), 1):
        grams = np.reshape(pool_int64s[start:end], (-1, n)).astype(X.dtype.numpy)
        wanted = min_gram_length <= n <= max_gram_length
        skips = range(max_skip_count + 1 if n > 1 else 1) if wanted else range(0)
        totals.append(_counts(X, grams, [k + 1 for k in skips]))
    found = s.concat(totals, X.rank - 1)
    if mode == "IDF":
        found = e.cast(e.greater(found, 0.0), "f32")
    if mode != "TF" and weights:
        found = found * const(np.asarray(weights, np.float32))
    zeros = s.broadcast_to(const(0.0, "f32"), (*X.shape[:-1], max(ngram_indexes) + 1))
    return scatter(zeros, const(ngram_indexes, "i64"), found, X.rank - 1, 0, "add")


def _counts(x: Value, grams: np.ndarray, distances: list[int]) -> Value:
    """How often each of ``grams`` ``[g n]`` is in x ``[.. c]``, its entries at one of the distances: f32 ``[.. g]``."""
    count, n = grams.shape
    none = s.broadcast_to(const(0.0, "f32"), (*x.shape[:-1], count))
    totals = [none]
    for d in distances:
        windows = x.shape[-1] - (n - 1) * d
        if windows < 1:
            continue
        hits = [
            e.equal(s.unsqueeze(s.slice_axis(x, -1, k * d, k * d + windows), (-1,)), const(grams[:, k]))
            for k in range(n)
        ]
        whole = functools.reduce(e.bitwise_and, hits)
        totals.append(s.reduce(e.cast(whole, "f32"), "sum", (-2,), keep=False))
    return functools.reduce(lambda a, b: a + b, totals) if len(totals) > 1 else none
