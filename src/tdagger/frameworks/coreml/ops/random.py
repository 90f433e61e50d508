"""MIL's random numbers: the same function of the network's seed, whatever seed the file has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Float, Int, Ints, Str, rule
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.indexing import scan
from tdagger.ops.structure import reduce, squeeze, unsqueeze


@rule("random_normal")
def _normal(
    shape: Ints, mean: Float = 0.0, stddev: Float = 1.0, seed: Int = -1, *, draw: Callable[[], Value], dtypes: Any
) -> Value:  # fmt: skip
    return e.cast(lib.normal(draw(), shape=shape, mean=mean, std=stddev), dtypes[0])


@rule("random_uniform")
def _uniform(
    shape: Ints, low: Float = 0.0, high: Float = 1.0, seed: Int = -1, *, draw: Callable[[], Value], dtypes: Any
) -> Value:  # fmt: skip
    return e.cast(lib.uniform(draw(), shape=shape, low=low, high=high), dtypes[0])


@rule("random_bernoulli")
def _bernoulli(shape: Ints, prob: Float = 0.5, seed: Int = -1, *, draw: Callable[[], Value], dtypes: Any) -> Value:
    return e.cast(lib.bernoulli(draw(), shape=shape, rate=prob), dtypes[0])


@rule("random_categorical")
def _categorical(
    x: Value, mode: Str = "logits", size: Int = 1, seed: Int = -1, *, draw: Callable[[], Value],
    dtypes: Any,
) -> Value:  # fmt: skip
    """So many categories for each row of ``[.. categories]``, of logits or of probabilities."""
    shares = lib.softmax(x, axis=-1) if mode == "logits" else x / reduce(x, "sum", (x.rank - 1,))
    edges = scan(shares, "sum", x.rank - 1)
    u = e.cast(lib.uniform(draw(), shape=(*x.shape[:-1], size)), x.dtype)
    below = e.greater_equal(unsqueeze(u, (x.rank,)), unsqueeze(edges, (x.rank - 1,)))
    found = squeeze(reduce(e.cast(below, "i32"), "sum", (x.rank,)), (x.rank,))
    return e.cast(e.minimum(found, x.shape[-1] - 1), dtypes[0])
