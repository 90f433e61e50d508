"""ONNX's quantization: to integers and narrow floats and back, and operators on integers with scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto as T

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.casts import cast_to
from tdagger.frameworks.onnx.ops.networks import (
    convolution_options,
    integer_convolution,
    integer_matmul,
    rows,
)
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.frameworks.onnx.ops.windows import Ints
from tdagger.frameworks.onnx.tensors import DTYPES, ONNX_DTYPES
from tdagger.op import Value
from tdagger.ops.elementwise import cast, equal, maximum, minimum, round_, where
from tdagger.ops.structure import broadcast_to, reduce, slice_axis
from tdagger.types import DType

# --- to integers and back ----------------------------------------------------------------------------------

#: The integers of fewer than 8 bits, by their number in ONNX; those of more have their own element type here.
_NARROW: dict[int, tuple[int, int]] = {T.INT4: (-8, 7), T.UINT4: (0, 15), T.INT2: (-2, 1), T.UINT2: (0, 3)}


class Target(NamedTuple):
    """What is quantized to: the element type here, and the smallest and largest integer (None: a narrow float)."""

    dtype: DType
    low: int | None
    high: int | None


def target(kind: int) -> Target:
    """The type of quantized numbers by its number in ONNX."""
    dtype = DTYPES[kind]
    if kind in _NARROW:
        return Target(dtype, *_NARROW[kind])
    if not dtype.is_int:
        return Target(dtype, None, None)
    info = np.iinfo(dtype.numpy)
    return Target(dtype, int(info.min), int(info.max))


def of_dtype(dtype: DType) -> Target:
    """The target that is an element type here."""
    return target(ONNX_DTYPES[dtype])


def spread(v: Value, x: Value, axis: int, block: int = 0) -> Value:
    """A scale or a zero point as it is for x: one number, one for each entry of an axis, or for each block of it."""
    if v.type.size == 1:
        return lib.reshape(v, shape=())
    if not block:
        if v.rank != 1 or not -x.rank <= axis < x.rank or v.shape[0] != x.shape[axis]:
            raise unsupported(f"scales {v.type} don't fit axis {axis} of {x.type}")
        return lib.reshape(v, shape=(-1, *(1,) * (x.rank - axis % x.rank - 1)))
    axis %= x.rank
    if v.rank != x.rank or v.shape[axis] != -(-x.shape[axis] // block):
        raise unsupported(f"scales {v.type} don't fit blocks of {block} along axis {axis} of {x.type}")
    each = lib.repeat_interleave(v, repeats=block, axis=axis) if block > 1 else v
    return slice_axis(each, axis, 0, x.shape[axis])  # a last block may be short


def quantized(quotient: Value, zero_point: Value | None, to: Target) -> Value:
    """``quotient`` rounded to even, then the zero point added, within the range of the target."""
    assert to.low is not None
    assert to.high is not None
    y = round_(cast(quotient, "f32") if quotient.dtype.bytes < 4 else quotient)
    y = y if zero_point is None else y + cast(zero_point, y.dtype)
    return cast(lib.clamp(y, low=float(to.low), high=float(to.high)), to.dtype)


@rule("QuantizeLinear", since=10)
def _quantize_linear(
    x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0, precision: int = 0, saturate: int = 1, types: Sequence[int],
) -> Value:  # fmt: skip
    """``round(x / scale) + zero point``; the quotient is of the scale's type unless a precision is given."""
    stated = (types[2] or ONNX_DTYPES[y_zero_point.dtype]) if y_zero_point is not None else output_dtype or T.UINT8
    to = target(stated)
    dtype = DTYPES[precision] if precision else y_scale.dtype if y_scale.dtype.is_float else DType.of("f32")
    quotient = cast(x, dtype) / cast(spread(y_scale, x, axis, block_size), dtype)
    zero = None if y_zero_point is None else spread(y_zero_point, x, axis, block_size)
    if to.low is not None:
        return quantized(quotient, zero, to)
    if zero is not None and stated == T.FLOAT4E2M1:  # of float8 the zero point is 0
        quotient = quotient + cast(zero, dtype)
    return cast_to(quotient, stated, bool(saturate))


@rule("DequantizeLinear", since=10)
def _dequantize_linear(
    x: Value, x_scale: Value, x_zero_point: Value | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0,
) -> Value:  # fmt: skip
    zero = None if x_zero_point is None else spread(x_zero_point, x, axis, block_size)
    dtype = DTYPES[output_dtype] if output_dtype else x_scale.dtype
    return dequantized(x, spread(x_scale, x, axis, block_size), zero, dtype)


def dequantized(x: Value, scale: Value, zero_point: Value | None, dtype: DType | None = None) -> Value:
    """``(x - zero_point) * scale``: the difference of integers exactly, the product in f32 at least."""
    dtype = scale.dtype if dtype is None else dtype
    work = "f32" if dtype.bytes < 4 else dtype
    if x.dtype.is_int:
        less = x if zero_point is None else cast(x, "i32") - cast(zero_point, "i32")
    else:
        less = x if zero_point is None else cast(x, work) - cast(zero_point, work)
    return cast(cast(less, work) * cast(scale, work), dtype)


@rule("DynamicQuantizeLinear", since=11)
def _dynamic_quantize(x: Value) -> tuple[Value, Value, Value]:
    return dynamically(x)


def dynamically(x: Value) -> tuple[Value, Value, Value]:
    """x as u8 by a scale of its own: (y, scale, zero point). Of zeros the scale is 1, as in onnxruntime."""
    low, high = (minimum(reduce(x, "min", keep=False), 0.0), maximum(reduce(x, "max", keep=False), 0.0))
    scale = (high - low) / 255.0
    scale = where(equal(scale, 0.0), 1.0, scale)
    zero = cast(lib.clamp(round_(-low / scale), low=0.0, high=255.0), "u8")
    return quantized(x / scale, zero, of_dtype(zero.dtype)), scale, zero


# --- operators on integers ---------------------------------------------------------------------------------


def rescaled(total: Value, scale: Value, zero_point: Value, to: Target | None = None) -> Value:
    """Sums of products (i32) times a scale, as the integers of a target.

    As onnxruntime they are rounded before the zero point is added; the reference of onnx does it the other way round,
    which differs where a number is a half.
    """
    to = of_dtype(zero_point.dtype) if to is None else to
    return quantized(cast(total, "f32") * scale, zero_point, to)


def along(v: Value, shape: Sequence[int]) -> Value:
    """A scale or zero point as one number, or in a shape."""
    return lib.reshape(v, shape=() if v.type.size == 1 else tuple(shape))


def as_f32(*xs: Value) -> tuple[Value, ...]:
    """Scales, which may be of half precision, in f32."""
    return tuple([cast(x, "f32") for x in xs])


def quantized_convolution(
    x: Value, x_scale: Value, x_zero: Value, w: Value, w_scale: Value, w_zero: Value, y_scale: Value, y_zero: Value,
    bias: Value | None, options: dict[str, Any],
) -> Value:  # fmt: skip
    """The convolution of integers, with a bias of i32, brought to the scale of the result."""
    total = integer_convolution(x, w, x_zero, w_zero, **options)
    channels = (w.shape[0], *(1,) * (w.rank - 2))
    total = total if bias is None else total + lib.reshape(bias, shape=channels)
    scale = along(x_scale, ()) * along(w_scale, channels) / along(y_scale, ())
    return rescaled(total, scale, along(y_zero, ()))


@rule("QLinearConv", since=10)
def _qlinear_conv(
    x: Value, x_scale: Value, x_zero_point: Value, w: Value, w_scale: Value, w_zero_point: Value, y_scale: Value,
    y_zero_point: Value, B: Value | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    options = convolution_options(x, w, auto_pad, dilations, group, kernel_shape, pads, strides)
    return quantized_convolution(
        x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B, options
    )  # fmt: skip


@rule("QLinearMatMul", since=10)
def _qlinear_matmul(
    a: Value, a_scale: Value, a_zero_point: Value, b: Value, b_scale: Value, b_zero_point: Value, y_scale: Value,
    y_zero_point: Value,
) -> Value:  # fmt: skip
    """Scales of a and y may be those of rows, scales of b those of columns."""
    if not (a.dtype.is_int and b.dtype.is_int):
        raise unsupported(f"products of {a.dtype} and {b.dtype} with scales aren't imported")
    total = integer_matmul(a, b, a_zero_point, b_zero_point)
    a_scale, b_scale, y_scale = as_f32(a_scale, b_scale, y_scale)
    scale = _of_rows(a_scale) * along(b_scale, b_scale.shape) / _of_rows(y_scale)
    return rescaled(total, broadcast_to(scale, total.shape), broadcast_to(_of_rows(y_zero_point), total.shape))


def _of_rows(v: Value) -> Value:
    return along(v, rows(v) or v.shape)
