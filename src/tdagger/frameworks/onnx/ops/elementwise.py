"""ONNX's elementwise operators."""

from __future__ import annotations

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.table import rule
from tdagger.op import Value


@rule("Relu")
def _relu(X: Value) -> Value:
    return lib.relu(X)


@rule("Add", since=7)
def _add(A: Value, B: Value) -> Value:
    return A + B
