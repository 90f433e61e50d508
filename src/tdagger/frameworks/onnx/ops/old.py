"""Operators as they were before version 7 of the operator set, where they are other ones than since: version 6.

Broadcasting was asked for by an attribute, and said at which axis the second tensor's axes lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.table import Ints, Statistic, find, rule, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops import structure as s


def _since_7(name: str) -> Any:
    found = find("", name, 7)
    assert found is not None
    return found.function


def _binary(name: str) -> Any:
    function = _since_7(name)

    def apply(A: Value, B: Value, *, broadcast: int = 0, axis: int | None = None) -> Value:
        if broadcast and axis is not None and B.rank:
            behind = A.rank - normal_axis(axis, A.rank) - B.rank
            if behind < 0:
                raise unsupported(f"{B.type} can't be broadcast to {A.type} from axis {axis}")
            B = s.unsqueeze(B, range(B.rank, B.rank + behind))  # pyright: ignore[reportConstantRedefinition]
        return function(A, B)

    return apply


for _name in ("Add", "Sub", "Mul", "Div", "Pow", "Greater", "Less", "Equal", "And", "Or", "Xor"):
    rule(_name, since=6)(_binary(_name))


@rule("PRelu", since=6)
def _prelu(X: Value, slope: Value) -> Value:
    """One slope for all, or one for each entry of axis 1."""
    return lib.prelu(X, lib.reshape(slope, shape=(-1,)), axis=1)


@rule("Gemm", since=6)
def _gemm(
    A: Value, B: Value, C: Value, *, alpha: float = 1.0, beta: float = 1.0, broadcast: int = 0, transA: int = 0,
    transB: int = 0,
) -> Value:  # fmt: skip
    del broadcast
    return _since_7("Gemm")(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)


@rule("BatchNormalization", since=6)
def _batch_normalization(
    X: Value, scale: Value, B: Value, mean: Statistic, var: Statistic, *, epsilon: float = 1e-5, momentum: float = 0.9,
    is_test: int = 0, spatial: int = 1, wanted: Sequence[bool],
) -> Value:  # fmt: skip
    del momentum
    if not is_test or not spatial or any(wanted[1:]):
        raise unsupported("of version 6 it is imported in inference (is_test=1), of channels (spatial=1)")
    return _since_7("BatchNormalization")(X, scale, B, mean, var, epsilon=epsilon, wanted=[True])


@rule("AveragePool", since=6)
def _average_pool(
    X: Value, *, kernel_shape: Ints, auto_pad: str = "NOTSET", pads: Ints | None = None, strides: Ints | None = None
) -> Value:
    return _since_7("AveragePool")(X, kernel_shape=kernel_shape, auto_pad=auto_pad, pads=pads, strides=strides)
