"""Scales and zero points of ranges, and weights rounded to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tdagger.library.quantized import LEAST_SCALE, quantize, spread_array
from tdagger.op import Array
from tdagger.quantization.profile import Numbers

#: The smallest scale.
LEAST = np.float32(LEAST_SCALE)
#: So many numbers of a weight are worked out at once.
_TOGETHER = 1 << 18


class Affine(NamedTuple):
    """Numbers as ``(q - zero_point) * scale``: scales of f32; zero points of the numbers' type, None for 0."""

    scale: Array
    zero_point: Array | None


def affine(low: Array | float, high: Array | float, numbers: Numbers) -> Affine:
    """The scale and zero point with which numbers from ``low`` to ``high``, and 0 exactly, are on the grid.

    A range of nothing but 0 has the scale 1.

    >>> affine(0.0, 255.0, Numbers("u8"))
    Affine(scale=array(1., dtype=float32), zero_point=array(0, dtype=uint8))
    >>> affine(-2.0, 1.0, Numbers("i8", symmetric=True, narrow=True)).scale
    array(0.01574803, dtype=float32)
    """
    low, high = np.minimum(np.asarray(low, np.float64), 0), np.maximum(np.asarray(high, np.float64), 0)
    first, last = numbers.bounds
    grid = numbers.grid
    if grid.is_float:
        return Affine(_scale(np.maximum(-low, high) / last), None)
    if numbers.symmetric:
        middle = (first + last + 1) // 2 if grid.low == 0 else 0
        reach = np.maximum(-low / (middle - first), high / (last - middle))
        zero = np.full(reach.shape, middle, grid.dtype.numpy)
        return Affine(_scale(reach), zero if middle else None)
    scale = _scale((high - low) / (last - first))
    zero = np.clip(np.round(first - low / scale.astype(np.float64)), first, last).astype(grid.dtype.numpy)
    return Affine(scale, np.asarray(zero))


def _scale(reach: Array) -> Array:
    with np.errstate(over="ignore"):
        scale = np.asarray(reach, np.float64)
        scale = np.where(scale == 0, 1.0, np.clip(scale, LEAST, np.finfo(np.float32).max))
    return np.asarray(scale.astype(np.float32))


def ends(scale: Array, zero_point: Array | None, numbers: Numbers) -> tuple[float, float]:
    """The smallest and largest number on the grid of one scale."""
    zero = 0.0 if zero_point is None else float(zero_point)
    first, last = numbers.bounds
    return (first - zero) * float(scale), (last - zero) * float(scale)


class Weights(NamedTuple):
    """How a weight is quantized: its numbers, the axis with a scale for each entry, the one that blocks lie along."""

    numbers: Numbers
    channel: int
    summed: int

    @property
    def axis(self) -> int | None:
        """The axis that :func:`tdagger.library.quantize` is told."""
        return {"tensor": None, "channel": self.channel, "block": self.summed}[self.numbers.per]

    @property
    def block(self) -> int:
        return self.numbers.block

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of a weight."""
        if self.numbers.per == "tensor":
            return ()
        if self.numbers.per == "channel":
            return (shape[self.channel],)
        return tuple([-(-n // self.block) if i == self.summed else n for i, n in enumerate(shape)])

    def apart(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Numbers so that each part with a scale of its own is along some dimensions, and which these are.

        What blocks lack at the end is 0, which is on every grid.
        """
        if self.numbers.per != "block":
            return x, tuple([i for i in range(x.ndim) if self.axis is None or i != self.axis % x.ndim])
        axis, block = self.summed % x.ndim, self.block
        lacking = -x.shape[axis] % block
        x = np.pad(x, [(0, lacking if i == axis else 0) for i in range(x.ndim)]) if lacking else x
        return x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :]), (axis + 1,)

    def scales(self, weight: Array, counts: Array | float = 1.0) -> Affine:
        """The scales and zero points of a weight; with the observer "mse", those of the least mean square error.

        ``counts``: how much the square of each number's error counts.
        """
        if self.numbers.per == "tensor":
            return self._scales(weight, counts)
        counts = np.broadcast_to(np.asarray(counts, np.float32), weight.shape)
        parts = [self._scales(weight[at], counts[at]) for at in self.parts(weight)]
        axis = 0 if self.numbers.per == "channel" else self.channel
        zeros = [p.zero_point for p in parts if p.zero_point is not None]
        return Affine(np.concatenate([p.scale for p in parts], axis), np.concatenate(zeros, axis) if zeros else None)

    def parts(self, weight: Array) -> Iterator[tuple[slice, ...]]:
        """Some of the channels at once, so many that what is worked out of them stays near the processor."""
        axis = self.channel % weight.ndim
        count = max(1, _TOGETHER * weight.shape[axis] // max(1, weight.size))
        for start in range(0, weight.shape[axis], count):
            yield (*(slice(None),) * axis, slice(start, start + count))

    def _scales(self, weight: Array, counts: Array | float) -> Affine:
        weight = np.asarray(weight, np.float32)
        x, axes = self.apart(weight)
        low, high = x.min(axes), x.max(axes)
        found = affine(low, high, self.numbers)
        if self.numbers.observer != "mse" or self.numbers.grid.is_float:
            return found
        many = self.apart(np.broadcast_to(np.asarray(counts, np.float32), weight.shape))[0]
        least = self._error(x, found, many, axes)
        for part in np.linspace(0.98, 0.5, 25):
            tried = affine(low * part, high * part, self.numbers)
            error = self._error(x, tried, many, axes)
            better = error < least
            least = np.where(better, error, least)
            zero = None if tried.zero_point is None else np.where(better, tried.zero_point, _given(found.zero_point))
            found = Affine(np.where(better, tried.scale, found.scale), zero)
        return found

    def _error(self, x: Array, how: Affine, counts: Array, axes: tuple[int, ...]) -> Array:
        """The sum of squares of what rounding to the nearest changes, for each part with a scale of its own."""
        low, high = self.numbers.bounds
        scale = np.expand_dims(how.scale, axes)
        y = np.asarray(x / scale)
        np.rint(y, out=y)
        if how.zero_point is None:
            np.clip(y, np.float32(low), np.float32(high), out=y)
        else:
            zero = np.expand_dims(how.zero_point, axes).astype(np.float32)
            np.clip(y, np.float32(low) - zero, np.float32(high) - zero, out=y)
        y *= scale
        y -= x
        np.square(y, out=y)
        y *= counts
        return y.sum(axes)

    def rounded(self, weight: Array, how: Affine) -> Array:
        """A weight rounded to the nearest numbers: what GPTQ and AdaRound would do otherwise, given more."""
        weight = np.asarray(weight, np.float32)
        codes = np.empty(weight.shape, self.numbers.grid.dtype.numpy)
        for at in self.parts(weight):
            codes[at] = self._rounded(weight[at], how if self.numbers.per == "tensor" else self._of(how, at))
        return codes

    def _of(self, how: Affine, at: tuple[slice, ...]) -> Affine:
        """The scales of some channels."""
        at = at if self.numbers.per == "block" else at[-1:]
        return Affine(how.scale[at], None if how.zero_point is None else how.zero_point[at])

    def _rounded(self, weight: Array, how: Affine) -> Array:
        low, high = self.numbers.bounds
        whole = self.numbers.grid.is_float
        rule: Any = quantize.numpy_rule
        return rule(
            weight, how.scale, how.zero_point, to=self.numbers.dtype, axis=self.axis,
            block=self.block, low=None if whole else int(low), high=None if whole else int(high), like="onnx",
            precision="",
        )  # fmt: skip

    def read(self, codes: Array, how: Affine) -> Array:
        """What the numbers stand for: f32."""
        out = codes.astype(np.float32)
        if how.zero_point is not None:
            out -= spread_array(how.zero_point, codes.shape, self.axis, self.block).astype(np.float32)
        return out * spread_array(how.scale, codes.shape, self.axis, self.block)


def _given(zero_point: Array | None) -> Array:
    return np.zeros((), np.int8) if zero_point is None else zero_point
