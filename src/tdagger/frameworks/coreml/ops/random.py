"""MIL's random numbers: the same function of the network's seed, whatever seed the file has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Float, Int, Ints, rule
from tdagger.op import Value
from tdagger.ops import elementwise as e


@rule("random_normal")
def _normal(
    shape: Ints, mean: Float = 0.0, stddev: Float = 1.0, seed: Int = -1, *, draw: Callable[[], Value], types: Any
) -> Value:  # fmt: skip
    return e.cast(lib.normal(draw(), shape=shape, mean=mean, std=stddev), types[0].dtype)


@rule("random_uniform")
def _uniform(
    shape: Ints, low: Float = 0.0, high: Float = 1.0, seed: Int = -1, *, draw: Callable[[], Value], types: Any
) -> Value:  # fmt: skip
    return e.cast(lib.uniform(draw(), shape=shape, low=low, high=high), types[0].dtype)


@rule("random_bernoulli")
def _bernoulli(shape: Ints, prob: Float = 0.5, seed: Int = -1, *, draw: Callable[[], Value], types: Any) -> Value:
    return e.cast(lib.bernoulli(draw(), shape=shape, rate=prob), types[0].dtype)
