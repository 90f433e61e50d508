"""ONNX's casts, with the element types of which there are none here: what is held in another is rounded to theirs.

An int4 is an i8 of -8 to 7, a float8e8m0 an f32 that is a power of two:
:data:`tdagger.frameworks.onnx.file.tensors.HELD`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from onnx import TensorProto as T

from tdagger import library as lib
from tdagger.frameworks.onnx.file.tensors import DTYPES, HELD
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.types import DType


class Format(NamedTuple):
    """A floating-point format: digits after the point, the exponent of its smallest normal number, its largest number.

    ``beyond`` is what a number becomes that is too large where that isn't the largest: inf or NaN.
    """

    digits: int
    lowest: int
    largest: float
    beyond: float


#: The narrow formats: the first two are element types here, the others are held in f32.
FORMATS: dict[int, Format] = {
    T.FLOAT8E4M3FN: Format(3, -6, 448.0, math.nan),
    T.FLOAT8E5M2: Format(2, -14, 57344.0, math.inf),
    T.FLOAT8E4M3FNUZ: Format(3, -7, 240.0, math.nan),
    T.FLOAT8E5M2FNUZ: Format(2, -15, 57344.0, math.nan),
    T.FLOAT4E2M1: Format(1, 0, 6.0, 6.0),
}
#: Bits of the whole numbers that are held in wider ones.
_BITS: dict[int, int] = {T.INT2: 2, T.UINT2: 2, T.INT4: 4, T.UINT4: 4}


@rule("Cast", since=6)
def _cast(input: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    return cast_to(input, to, bool(saturate), round_mode)


@rule("CastLike")
def _cast_like(
    input: Value, target_type: Value, *, saturate: int = 1, round_mode: str = "up", types: Sequence[int]
) -> Value:
    if types[1]:
        return cast_to(input, types[1], bool(saturate), round_mode)
    return _to(input, target_type.dtype, bool(saturate))


def cast_to(x: Value, to: int, saturate: bool = True, round_mode: str = "up") -> Value:
    """``x`` cast to an element type by its number in ONNX; what is too large for a float8 is its largest number.

    Or inf or NaN without ``saturate``. ``round_mode`` (up, down, nearest) is for float8e8m0.
    """
    if to in _BITS:
        return _low_bits(x, to)
    if to == T.FLOAT8E8M0:
        return _power_of_two(e.cast(x, "f32"), saturate, round_mode)
    if to in HELD:
        return _rounded(e.cast(x, "f32"), FORMATS[to], saturate)
    return _to(x, DTYPES[to], saturate)


def _to(x: Value, dtype: DType, saturate: bool) -> Value:
    if dtype.is_float and dtype.bytes == 1 and x.dtype is not dtype:
        kind = FORMATS[T.FLOAT8E4M3FN if dtype.name == "f8e4m3" else T.FLOAT8E5M2]
        return e.cast(_limited(e.cast(x, "f32"), kind, saturate), dtype)
    return e.cast(x, dtype)


def _limited(x: Value, kind: Format, saturate: bool) -> Value:
    """f32 with what is too large once rounded to a format as that has it. NaN stays NaN."""
    if saturate or kind.beyond == kind.largest:
        return lib.clamp(x, low=-kind.largest, high=kind.largest)
    # half a step beyond the largest number is a tie, which goes to the even one
    step = 2.0 ** (math.floor(math.log2(kind.largest)) - kind.digits)
    edge = kind.largest + step / 2
    is_even = kind.largest / step % 2 == 0
    too_large = e.greater(e.abs_(x), edge) if is_even else e.greater_equal(e.abs_(x), edge)
    beyond = e.full_like(x, kind.beyond)
    return e.where(too_large, lib.copysign(beyond, x) if math.isinf(kind.beyond) else beyond, x)


def _rounded(x: Value, kind: Format, saturate: bool) -> Value:
    """f32 rounded to the numbers of a format, ties to even."""
    # the power of two at or below each number, from its exponent bits
    power = e.bitcast(e.bitwise_and(e.bitcast(x, "i32"), 0x7F800000), "f32")
    step = e.maximum(e.minimum(power, 2.0**127), 2.0**kind.lowest) * 2.0**-kind.digits
    finite = e.where(e.isinf(x), x, e.round_(x / step) * step)
    out = _limited(finite, kind, saturate)
    if kind.beyond == kind.largest:  # float4 has no NaN: the suite of onnx has 0 for it
        out = e.where(e.isnan(out), 0.0, out)
    return out + 0.0 if math.isnan(kind.beyond) else out  # those have no -0


def _low_bits(x: Value, to: int) -> Value:
    """Whole numbers of a few bits: the low ones of what is given, as ONNX says. Floats are cut.

    onnxruntime rounds floats half away from 0.
    """
    bits, signed = _BITS[to], to in (T.INT2, T.INT4)
    low = e.bitwise_and(e.cast(x, "i64"), 2**bits - 1)
    if signed:
        low = e.where(e.greater_equal(low, 2 ** (bits - 1)), low - 2**bits, low)
    return e.cast(low, HELD[to])


def _power_of_two(x: Value, saturate: bool, round_mode: str) -> Value:
    """f32 as powers of two from 2^-127 to 2^127: the exponent's bits, one more where the digits say so; no sign."""
    bits = e.bitcast(x, "i32")
    exponent = e.bitwise_and(e.shift_right(bits, 23), 0xFF)
    digits = e.bitwise_and(bits, 0x7FFFFF)
    if round_mode == "up":
        more = digits > 0
    elif round_mode == "nearest":  # of half a step up, but for numbers below the smallest normal one
        half = 0x400000
        more = e.where(e.equal(exponent, 0), digits > half, e.greater_equal(digits, half))
    elif round_mode == "down":
        more = e.full_like(digits > 0, False)
    else:
        raise unsupported(f"its round_mode is {round_mode!r}, which isn't up, down or nearest")
    grown = exponent + e.cast(more, "i32")
    nothing = e.isnan(x)
    if saturate:
        grown = e.minimum(grown, 254)
    else:  # what is too small is no number either
        nothing = nothing | e.greater(grown, 254) | e.less(e.abs_(x), 2.0**-127)
    # the exponent 0 is 2^-127, which f32 has as half of its smallest normal number
    found = e.where(e.equal(grown, 0), 0x400000, e.shift_left(grown, 23))
    return e.where(nothing, math.nan, e.bitcast(found, "f32"))


@rule("BitCast")
def _bit_cast(input: Value, *, to: int, types: Sequence[int]) -> Value:
    """Between the types that are held in others, where both are whole numbers."""
    if not types[0] and to not in HELD:
        return e.bitcast(input, DTYPES[to])
    if _BITS.get(types[0], 0) == _BITS.get(to, 1):
        return _low_bits(input, to)
    raise unsupported("its types are held in others here, whose bits are not theirs")
