"""ONNX's operators that move entries."""

from __future__ import annotations

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.table import Ints, rule
from tdagger.op import Value
from tdagger.ops.source import const
from tdagger.ops.structure import concat as joined


@rule("Shape", since=15)
def _shape(data: Value, *, start: int = 0, end: int | None = None) -> Value:
    return const(list(data.shape[start:end]), "i64")


@rule("Concat", since=4)
def _concat(*inputs: Value, axis: int) -> Value:
    return joined(inputs, axis % inputs[0].rank)


@rule("Reshape", since=5)
def _reshape(data: Value, shape: Ints, *, allowzero: int = 0) -> Value:
    sizes = [data.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape)]
    return lib.reshape(data, shape=tuple(sizes))
