"""Quantized tensors of a file: real numbers of their integers, and integers of real numbers.

The one place where the importer says how that is computed. What a file computes in integers is computed here on the
real numbers they stand for, and rounded to the integers of the result: sums of products are those of integers up to the
rounding of f32, so a result is that of the runtime's kernels, which round in ways of their own, within one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.tflite.schema import NARROW, Quantization, Tensor
from tdagger.op import Value
from tdagger.ops.elementwise import abs_ as absolute
from tdagger.ops.elementwise import cast, equal, round_, where
from tdagger.ops.source import const
from tdagger.ops.structure import reduce, ungroup, unsqueeze
from tdagger.types import DType


def dequantized(x: Value, q: Quantization) -> Value:
    """``(x - zero_point) * scale`` in f32: the difference of integers exactly."""
    wide = "i64" if x.dtype.bytes > 4 else "i32"
    less = cast(x, wide)
    if q.zero_point.any():
        less = less - _along(q.zero_point, q.axis, x.rank, wide)
    return cast(less, "f32") * _along(q.scale, q.axis, x.rank, "f32")


def _along(numbers: np.ndarray, axis: int, rank: int, dtype: str) -> Value:
    """Numbers for an axis as they are for a tensor of a rank; one number alone."""
    if numbers.size == 1:
        return const(numbers.reshape(()), dtype)
    return const(numbers.reshape(-1, *(1,) * (rank - axis - 1)), dtype)


def blockwise(x: Value, scale: Value, zero_point: Value | None, block: int) -> Value:
    """The real numbers of a tensor with a scale for every ``block`` entries of its last axis."""
    parts = ungroup(cast(x, "i32"), x.rank - 1, (-1, block))
    if zero_point is not None:
        parts = parts - unsqueeze(cast(zero_point, "i32"), (zero_point.rank,))
    out = cast(parts, "f32") * unsqueeze(cast(scale, "f32"), (scale.rank,))
    return lib.reshape(out, shape=x.shape)


def limits(tensor: Tensor, dtype: DType) -> tuple[int, int]:
    """The smallest and the largest integer of a quantized tensor."""
    if tensor.kind in NARROW:
        bits, signed = NARROW[tensor.kind]
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def quantized(x: Value, q: Quantization, tensor: Tensor, dtype: DType) -> Value:
    """``round(x / scale) + zero_point`` within the range of the integers; halves to even.

    Runtimes differ in where halves go, and in NaN, of which nothing here says what it becomes.
    """
    low, high = limits(tensor, dtype)
    y = round_(cast(x, "f32") / _along(q.scale, q.axis, x.rank, "f32"))
    if q.zero_point.any():
        y = y + _along(q.zero_point, q.axis, x.rank, "f32")
    return cast(lib.clamp(y, low=float(low), high=float(high)), dtype)


def on_the_fly(x: Value, axes: Sequence[int], asymmetric: bool) -> Value:
    """x rounded to 8 bits by a scale of its own over ``axes``: what kernels do to floats beside quantized weights."""
    if asymmetric:
        low = lib.at_most(reduce(x, "min", axes), const(0.0, "f32"))
        high = lib.at_least(reduce(x, "max", axes), const(0.0, "f32"))
        scale = (high - low) / 255.0
        scale = where(equal(scale, 0.0), 1.0, scale)
        zero = lib.clamp(round_(-128.0 - low / scale), low=-128.0, high=127.0)
        return (lib.clamp(round_(x / scale) + zero, low=-128.0, high=127.0) - zero) * scale
    scale = reduce(absolute(x), "max", axes) / 127.0
    scale = where(equal(scale, 0.0), 1.0, scale)
    return lib.clamp(round_(x / scale), low=-127.0, high=127.0) * scale
