"""ONNX's operators that draw random numbers. A seed of the file isn't used: ONNX doesn't say which numbers follow."""

from __future__ import annotations

from collections.abc import Callable

from tdagger import library as lib
from tdagger.frameworks.onnx.file.tensors import DTYPES
from tdagger.frameworks.onnx.ops.table import Ints, rule
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import scan

#: Makes the seed (u64, rank 0) of a stream that nothing else draws from.
Draw = Callable[[], Value]


@rule("RandomNormal")
def _normal(
    *, shape: Ints, dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, draw: Draw
) -> Value:
    del seed
    return lib.normal(draw(), shape=shape, dtype=DTYPES[dtype], mean=mean, std=scale)


@rule("RandomNormalLike")
def _normal_like(
    input: Value, *, dtype: int = 0, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, draw: Draw
) -> Value:
    del seed
    to = DTYPES[dtype] if dtype else input.dtype
    return lib.normal(draw(), shape=input.shape, dtype=to, mean=mean, std=scale)


@rule("RandomUniform")
def _uniform(
    *, shape: Ints, dtype: int = 1, low: float = 0.0, high: float = 1.0, seed: float | None = None, draw: Draw
) -> Value:
    del seed
    return lib.uniform(draw(), shape=shape, dtype=DTYPES[dtype], low=low, high=high)


@rule("RandomUniformLike")
def _uniform_like(
    input: Value, *, dtype: int = 0, low: float = 0.0, high: float = 1.0, seed: float | None = None, draw: Draw
) -> Value:
    del seed
    to = DTYPES[dtype] if dtype else input.dtype
    return lib.uniform(draw(), shape=input.shape, dtype=to, low=low, high=high)


@rule("Bernoulli")
def _bernoulli(input: Value, *, dtype: int = 0, seed: float | None = None, draw: Draw) -> Value:
    del seed
    return e.cast(lib.bernoulli(draw(), input), DTYPES[dtype] if dtype else input.dtype)


@rule("Multinomial")
def _multinomial(
    input: Value, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None, draw: Draw
) -> Value:  # fmt: skip
    """With replacement; the input ``[b c]`` are logarithms of what is in proportion to probabilities."""
    del seed
    sums = scan(lib.softmax(e.cast(input, "f64"), axis=1), "sum", 1)
    at = lib.uniform(draw(), shape=(input.shape[0], sample_size), dtype="f64") * s.slice_axis(sums, 1, -1, None)
    passed = e.greater_equal(s.unsqueeze(at, (2,)), s.unsqueeze(sums, (1,)))
    return e.cast(s.reduce(e.cast(passed, "i64"), "sum", (2,), keep=False), DTYPES[dtype])
