"""A package outside of tdagger with ops of its own: two core ops and a composite, in numpy alone.

``own_ops.torch`` says what they are in PyTorch; it is imported by whoever goes there.
"""

from __future__ import annotations

import numpy as np

import tdagger as td
from tdagger.composite import composite
from tdagger.errors import AttributeValueError
from tdagger.op import Array, AxisRules, Op, Plan, Terms, Value, normal_axis, still
from tdagger.types import TensorType, ValueType


class Sorted(Op, core=True):
    """The entries in rising order along an axis."""

    name = "own_sorted"
    axis: int

    def infer(self, x: TensorType) -> ValueType:
        if not 0 <= self.axis < x.rank:
            raise self.mismatch("there is no such axis", x)
        return x

    def run(self, x: Array) -> Array:
        return np.sort(x, self.axis)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return out.size

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        rules.mark(args[0][self.axis], "sorts")
        return args[0]

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Sorted(still(out, self.axis))


def own_sorted(x: Value, axis: int = -1) -> Value:
    """The entries of ``x`` in rising order along ``axis``."""
    return Sorted(normal_axis(axis, x.rank))(x)


class Clip(Op, core=True):
    """Every element limited to ``low .. high``: elementwise, so it owes no axis rule."""

    name = "own_clip"
    low: float
    high: float

    def check(self) -> None:
        if self.low > self.high:
            raise AttributeValueError(f"own_clip: low {self.low} is above high {self.high}")

    def infer(self, x: TensorType) -> ValueType:
        return x

    def run(self, x: Array) -> Array:
        return np.clip(x, self.low, self.high)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return 2 * out.size


@composite
def own_spread(x: Value, weight: Value | None = None, *, axis: int = -1) -> Value:
    """The distance of every entry from the smallest along ``axis``, times ``weight``."""
    out = x - td.slice_axis(own_sorted(x, axis), axis, 0, 1)
    return out if weight is None else out * weight
