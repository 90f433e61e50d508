"""ONNX's quantization: to integers and narrow floats and back, and operators on integers with scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import TensorProto as T

from tdagger import library as lib
from tdagger.frameworks.onnx.file.tensors import DTYPES, HELD, ONNX_DTYPES
from tdagger.frameworks.onnx.ops.casts import cast_to
from tdagger.frameworks.onnx.ops.layers.networks import (
    convolution_options,
    integer_convolution,
    integer_matmul,
    rows,
)
from tdagger.frameworks.onnx.ops.layers.windows import Ints
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.library.quantized import spread
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.source import const
from tdagger.ops.structure import broadcast_to
from tdagger.types import DType

# --- to integers and back ----------------------------------------------------------------------------------

#: The element types that are quantized to and those that are held in others, by their number in ONNX.
_NARROW: dict[int, str] = {T.INT4: "i4", T.UINT4: "u4", T.INT2: "i2", T.UINT2: "u2"}


def name_of(kind: int) -> str:
    """What is quantized to, as :func:`tdagger.library.quantize` calls it, by its number in ONNX."""
    return _NARROW.get(kind) or DTYPES[kind].name


def quantized(quotient: Value, zero_point: Value | None, to: str) -> Value:
    """``quotient`` rounded to even, then the zero point added, within the range of the target."""
    return lib.quantize(quotient, const(1.0, quotient.dtype), zero_point, to=to)


@rule("QuantizeLinear", since=10)
def _quantize_linear(
    x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0, precision: int = 0, saturate: int = 1, types: Sequence[int],
) -> Value:  # fmt: skip
    """``round(x / scale) + zero point``; the quotient is of the scale's type unless a precision is given."""
    stated = (types[2] or ONNX_DTYPES[y_zero_point.dtype]) if y_zero_point is not None else output_dtype or T.UINT8
    along: dict[str, Any] = {"axis": None if y_scale.type.size == 1 else axis, "block": block_size}
    wide = DTYPES[precision].name if precision else ""
    plain = stated not in HELD or stated in _NARROW
    if plain and (saturate or not DTYPES[stated].is_float):
        zero = None if y_zero_point is None or y_zero_point.dtype.is_float else y_zero_point  # of float8 it is 0
        return lib.quantize(x, y_scale, zero, to=name_of(stated), precision=wide, **along)
    dtype = DTYPES[precision] if precision else y_scale.dtype if y_scale.dtype.is_float else DType.of("f32")
    quotient = cast(x, dtype) / cast(spread(y_scale, x, axis, block_size), dtype)
    if y_zero_point is not None and stated == T.FLOAT4E2M1:
        quotient = quotient + cast(spread(y_zero_point, x, axis, block_size), dtype)
    return cast_to(quotient, stated, bool(saturate))


@rule("DequantizeLinear", since=10)
def _dequantize_linear(
    x: Value, x_scale: Value, x_zero_point: Value | None = None, *, axis: int = 1, block_size: int = 0,
    output_dtype: int = 0, types: Sequence[int],
) -> Value:  # fmt: skip
    along = None if x_scale.type.size == 1 else axis
    to = DTYPES[output_dtype].name if output_dtype else ""
    of = _NARROW.get(types[0], "")
    return lib.dequantize(x, x_scale, x_zero_point, axis=along, block=block_size, of=of, to=to)


def dequantized(x: Value, scale: Value, zero_point: Value | None) -> Value:
    """``(x - zero_point) * scale`` of what broadcasts with x."""
    return lib.dequantize(x, scale, zero_point)


@rule("DynamicQuantizeLinear", since=11)
def _dynamic_quantize(x: Value) -> tuple[Value, Value, Value]:
    return lib.quantize_dynamic(x)


# --- operators on integers ---------------------------------------------------------------------------------


def rescaled(total: Value, scale: Value, zero_point: Value) -> Value:
    """Sums of products (i32) times a scale, as the integers of a target.

    As onnxruntime they are rounded before the zero point is added; the reference of onnx does it the other way round,
    which differs where a number is a half.
    """
    return quantized(cast(total, "f32") * scale, zero_point, zero_point.dtype.name)


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
    zero = _of_rows(y_zero_point)
    return rescaled(total, scale, broadcast_to(zero, total.shape) if zero.rank else zero)


def _of_rows(v: Value) -> Value:
    return along(v, rows(v) or v.shape)
