"""unfold and fold: the windows along an axis laid end to end, and their overlap-add."""

from __future__ import annotations

import math

import numpy as np

from tdagger.errors import AttributeValueError
from tdagger.op import (
    Array,
    AxisRules,
    Op,
    Plan,
    Terms,
    Value,
    ValueFunction,
    core_ops,
    normal_axis,
    patterned,
    still,
)
from tdagger.ops.source import const, scalar
from tdagger.ops.structure.extent import Pad, accumulator, broadcast_to
from tdagger.types import TensorType, ValueType, least, most


class Unfold(Op, core=True):
    """Windows along an axis, laid end to end: ``h -> (windows kernel)``.

    Entry ``w * kernel + k`` is entry ``w * stride + k * dilation`` of the argument; only whole windows count.
    """

    name = "unfold"
    axis: int
    kernel: int
    stride: int
    dilation: int

    def check(self) -> None:
        if self.kernel < 1 or self.stride < 1 or self.dilation < 1 or self.axis < 0:
            raise AttributeValueError(f"{self.name}: kernel, stride and dilation are at least 1, got {self}")

    @property
    def span(self) -> int:
        """Entries from the first to the last of one window."""
        return (self.kernel - 1) * self.dilation + 1

    def windows(self, n: int) -> int:
        """How many whole windows fit in ``n`` entries."""
        return max((n - self.span) // self.stride + 1, 0)

    def places(self, n: int) -> Array:
        """Which of ``n`` entries each entry of the windows is."""
        starts = np.arange(self.windows(n)) * self.stride
        return (starts[:, None] + np.arange(self.kernel) * self.dilation).reshape(-1)

    def infer(self, x: TensorType) -> ValueType:
        if self.axis >= x.rank:
            raise self.mismatch(f"there is no axis {self.axis}", x)
        shape = list(x.shape)
        shape[self.axis] = self.windows(shape[self.axis]) * self.kernel
        return x.with_shape(tuple(shape))

    def run(self, x: Array) -> Array:
        return np.take(x, self.places(x.shape[self.axis]), self.axis)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        term = args[0][self.axis]
        rules.mark(term, "takes windows of")
        windows = rules.line([term], self.stride - self.span, self.stride)
        return (*args[0][: self.axis], windows + rules.fresh(self.kernel, "kernel"), *args[0][self.axis + 1 :])

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return type(self)(still(out, self.axis), self.kernel, self.stride, self.dilation)

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return (least(out.size, types[0].size),)

    def _back(self, x: TensorType) -> ValueFunction:
        n = x.shape[self.axis]
        windows = self.windows(n)
        covered = (windows - 1) * self.stride + self.span if windows else 0
        widths = tuple((0, n - covered, 0) if i == self.axis else None for i in range(x.rank))
        zero = scalar(0, x.dtype)
        add, put = Fold(self.axis, self.kernel, self.stride, self.dilation), Pad(widths, zero)

        def back(y: Value) -> Value:
            return put(add(y))

        return back

    def adjoint(self, *types: TensorType) -> ValueFunction:
        return self._back(self.one(types, "adjoint"))

    def inverse(self, *types: TensorType) -> ValueFunction:
        """Every entry from the last window it is in; entries in none become 0."""
        x = self.one(types, "inverse")
        index = const(self.places(x.shape[self.axis]))
        put = core_ops["scatter"](self.axis, 0, "set")

        def undo(y: Value) -> Value:
            return put(broadcast_to(const(scalar(0, x.dtype), x.dtype), x.shape), index, y)

        return undo


class Fold(Op, core=True):
    """Overlap-add, the adjoint of unfold: ``(windows kernel) -> h`` with ``h`` as small as it can be."""

    name = "fold"
    axis: int
    kernel: int
    stride: int
    dilation: int

    check = Unfold.check
    span = Unfold.span
    adapt = Unfold.adapt

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        term = args[0][self.axis]
        rules.mark(term, "adds up windows of")
        count = out.shape[self.axis] and (out.shape[self.axis] - self.span) // self.stride + 1
        windows = rules.split(term, (count, self.kernel))[0]
        line = rules.line([windows] * self.stride, self.span - self.stride)
        return (*args[0][: self.axis], line, *args[0][self.axis + 1 :])

    def infer(self, x: TensorType) -> ValueType:
        if self.axis >= x.rank or x.shape[self.axis] % self.kernel:
            raise self.mismatch(f"axis {self.axis} is not made of windows of {self.kernel}", x)
        if x.dtype.name == "bool":
            raise self.mismatch("bools can't be added; cast first", x)
        shape = list(x.shape)
        windows = shape[self.axis] // self.kernel
        shape[self.axis] = (windows - 1) * self.stride + self.span if windows else 0
        return x.with_shape(tuple(shape))

    def run(self, x: Array) -> Array:
        t = self.infer(TensorType(x.shape, x.dtype.name))
        assert isinstance(t, TensorType)
        moved = np.moveaxis(x, self.axis, 0)
        windows = moved.shape[0] // self.kernel
        out = np.zeros((t.shape[self.axis], *moved.shape[1:]), accumulator(x.dtype))
        for k in range(self.kernel if windows else 0):
            start = k * self.dilation
            out[start : start + (windows - 1) * self.stride + 1 : self.stride] += moved[k :: self.kernel]
        return np.moveaxis(out, 0, self.axis).astype(x.dtype, copy=False)

    def _unfold(self) -> Unfold:
        return Unfold(self.axis, self.kernel, self.stride, self.dilation)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        """Every entry of a window but the first to come to its place.

        Entry k of window w comes to the place of entry k + stride / g of window w - dilation / g, g their common
        divisor, if there are such.
        """
        common = math.gcd(self.stride, self.dilation)
        windows = types[0].shape[self.axis] // self.kernel
        again = most(windows - self.dilation // common, 0) * max(self.kernel - self.stride // common, 0)
        return again * math.prod([n for i, n in enumerate(out.shape) if i != self.axis])

    def adjoint(self, *types: TensorType) -> ValueFunction:
        return self._unfold()

    def inverse(self, *types: TensorType) -> ValueFunction:
        """All of an entry in the first window that it is in, 0 in the others."""
        out = self.infer(self.one(types, "inverse"))
        assert isinstance(out, TensorType)
        unfold_ = self._unfold()
        places = unfold_.places(out.shape[self.axis])
        first = np.zeros(len(places), np.bool_)
        first[np.unique(places, return_index=True)[1]] = True
        line = first.reshape([-1 if i == self.axis else 1 for i in range(out.rank)])

        def undo(y: Value) -> Value:
            windows = unfold_(y)
            zeros = broadcast_to(const(scalar(0, y.dtype), y.dtype), windows.shape)
            return core_ops["where"]()(broadcast_to(const(line), windows.shape), windows, zeros)

        return undo


@patterned
def unfold(x: Value, axis: int, kernel: int, stride: int = 1, dilation: int = 1) -> Value:
    """Windows along an axis, laid end to end: ``h -> (windows kernel)``."""
    return Unfold(normal_axis(axis, x.rank), kernel, stride, dilation)(x)


@patterned
def fold(x: Value, axis: int, kernel: int, stride: int = 1, dilation: int = 1) -> Value:
    """Overlap-add ``(windows kernel) -> h``, the adjoint of :func:`unfold`."""
    return Fold(normal_axis(axis, x.rank), kernel, stride, dilation)(x)
