"""Quantized tensors of a file: real numbers of their integers, and integers of real numbers.

The one place where the importer says how: by the composites ``quantize`` and ``dequantize``. What a file computes in
integers is computed here on the real numbers they stand for, and rounded to the integers of the result: sums of
products are those of integers up to the rounding of f32, so a result is that of the runtime's kernels, which round in
ways of their own, within one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.tflite.schema import NARROW, Quantization, Tensor
from tdagger.op import Value
from tdagger.ops.elementwise import abs_, cast, equal, round_, where
from tdagger.ops.source import const
from tdagger.ops.structure import reduce
from tdagger.types import DType


def _numbers(q: Quantization, dtype: DType) -> tuple[Value, Value | None, int | None]:
    """The scale, the zero point if it isn't 0, and the axis they are along (None: one number for all)."""
    shape = () if q.scale.size == 1 else (-1,)
    zero = const(q.zero_point.reshape(shape), dtype) if q.zero_point.any() else None
    return const(q.scale.reshape(shape), "f32"), zero, None if q.scale.size == 1 else q.axis


def _named(kind: int, dtype: DType) -> str:
    """What the composites call an element type of the schema."""
    if kind not in NARROW:
        return dtype.name
    bits, signed = NARROW[kind]
    return f"{'i' if signed else 'u'}{bits}"


def dequantized(x: Value, q: Quantization, kind: int = -1) -> Value:
    """``(x - zero_point) * scale`` in f32: the difference of integers exactly; ``kind`` is x's type in the schema."""
    scale, zero, axis = _numbers(q, x.dtype)
    return lib.dequantize(x, scale, zero, axis=axis, of=_named(kind, x.dtype) if kind in NARROW else "")


def blockwise(x: Value, scale: Value, zero_point: Value | None, block: int, kind: int = -1) -> Value:
    """The real numbers of a tensor with a scale for every ``block`` entries of its last axis."""
    of = _named(kind, x.dtype) if kind in NARROW else ""
    return lib.dequantize(x, scale, zero_point, axis=x.rank - 1, block=block, of=of, to="f32")


def quantized(x: Value, q: Quantization, tensor: Tensor, dtype: DType) -> Value:
    """``round(x / scale) + zero_point`` within the range of the integers; halves to even, NaN to the smallest."""
    scale, zero, axis = _numbers(q, dtype)
    return lib.quantize(cast(x, "f32"), scale, zero, to=_named(tensor.kind, dtype), axis=axis)


def on_the_fly(x: Value, axes: Sequence[int], asymmetric: bool) -> Value:
    """x rounded to 8 bits by a scale of its own over ``axes``: what kernels do to floats beside quantized weights."""
    how: dict[str, Any] = {"to": "i8"}
    if asymmetric:
        low = lib.at_most(reduce(x, "min", axes), const(0.0, "f32"))
        high = lib.at_least(reduce(x, "max", axes), const(0.0, "f32"))
        scale = (high - low) / 255.0
        scale = where(equal(scale, 0.0), 1.0, scale)
        zero = cast(lib.clamp(round_(-128.0 - low / scale), low=-128.0, high=127.0), "i8")
        return lib.dequantize(lib.quantize(x, scale, zero, **how), scale, zero)
    scale = reduce(abs_(x), "max", axes) / 127.0
    scale = where(equal(scale, 0.0), 1.0, scale)
    return lib.dequantize(lib.quantize(x, scale, **how), scale)
