"""ONNX's operators of layers: products, convolutions, norms, pools."""

from __future__ import annotations

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.table import Statistic, rule
from tdagger.op import Value


@rule("MatMul")
def _matmul(A: Value, B: Value) -> Value:
    return lib.matmul(A, B)


@rule("BatchNormalization", since=9)
def _batch_normalization(
    X: Value, scale: Value, B: Value, input_mean: Statistic, input_var: Statistic, *, epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> Value:  # fmt: skip
    del momentum
    return lib.batch_norm(X, input_mean, input_var, scale, B, eps=epsilon)
