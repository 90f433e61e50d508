"""What a target may have no operator for, or none of the element type, as functions of other core ops.

Formulas are the numpy reference's (:mod:`tdagger.ops.elementwise`), and exact where those are. :data:`IDENTITIES` has
all by the labels of targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tdagger.library import copysign, mean, rsqrt, square
from tdagger.op import Value
from tdagger.ops.elementwise import _ERF_SMALL as ERF_SMALL  # pyright: ignore[reportPrivateUsage]
from tdagger.ops.elementwise import _ERFC_LARGE as ERFC_LARGE  # pyright: ignore[reportPrivateUsage]
from tdagger.ops.elementwise import _ERFC_MIDDLE as ERFC_MIDDLE  # pyright: ignore[reportPrivateUsage]
from tdagger.ops.elementwise import _LGAMMA_AT_2 as LGAMMA_AT_2  # pyright: ignore[reportPrivateUsage]
from tdagger.ops.elementwise import _STIRLING as STIRLING  # pyright: ignore[reportPrivateUsage]
from tdagger.ops.elementwise import (
    abs_,
    add,
    bitwise_xor,
    cast,
    cos,
    equal,
    erf,
    erfc,
    exp,
    expm1,
    floor,
    floor_divide,
    full_like,
    isinf,
    isnan,
    less,
    log,
    log1p,
    maximum,
    minimum,
    mod,
    multiply,
    neg,
    not_equal,
    reciprocal,
    rem,
    round_,
    sign,
    signbit,
    sin,
    sqrt,
    where,
)
from tdagger.ops.indexing import Gather
from tdagger.ops.source import iota

Function = Callable[[Value], Value]


def rms_norm_in_f32(x: Value, weight: Value | None, *, rank: int, eps: float | None) -> Value | None:
    """A root mean square norm by a mean and a root, in five ops; None where it isn't of numbers in f32."""
    if x.dtype.name != "f32" or not x.type.size:
        return None
    squares = mean(square(x), axes=tuple(range(x.rank - rank, x.rank)), keep=True)
    y = x * rsqrt(squares + (2.0**-23 if eps is None else eps))
    return y if weight is None else y * weight


def wide(function: Function) -> Function:
    """The same, computed in f64 and rounded once: where the formula loses digits."""

    def computed(x: Value) -> Value:
        return cast(function(cast(x, "f64")), x.dtype)

    return computed


def polynomial(coefficients: tuple[float, ...], x: Value) -> Value:
    """By Horner's rule, the highest power first."""
    out = full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out = out * x + c
    return out


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Value) -> Value:
    return polynomial(coefficients[0], x) / polynomial(coefficients[1], x)


def _large(x: Value) -> float:
    """A number of the element type whose square is one still."""
    return 1e150 if x.dtype.bytes == 8 else 1e18


# --- exponentials -------------------------------------------------------------------------------------------------


def expm1_of(x: Value) -> Value:
    """Kahan's: the error of exp(x) - 1 is that of log(exp(x)) against x."""
    e = exp(x)
    less_one = e - 1.0
    near = less_one * (x / log(e))
    plain = isinf(e) | equal(less_one, -1.0) | isnan(x)
    return where(equal(e, 1.0), x, where(plain, less_one, near))


def log1p_of(x: Value) -> Value:
    """Kahan's: the error of 1 + x is that of (1 + x) - 1 against x."""
    one_more = x + 1.0
    rest = one_more - 1.0
    near = log(one_more) * (x / rest)
    return where(equal(rest, 0.0), x, where(isinf(one_more), log(one_more), near))


def sinh_of(x: Value) -> Value:
    """By expm1, in two halves where exp alone would overflow."""
    size = abs_(x)
    e = expm1(size)
    small = (e + e / (e + 1.0)) * 0.5
    half = exp(size * 0.5)
    return copysign(where(size > 80.0, half * 0.5 * half, small), x)


def cosh_of(x: Value) -> Value:
    """Of two halves, so that exp doesn't overflow before it does."""
    half = exp(abs_(x) * 0.5)
    return half * 0.5 * half + reciprocal(half) * 0.5 * reciprocal(half)


def asinh_of(x: Value) -> Value:
    """``log1p(x + x^2 / (1 + sqrt(1 + x^2)))`` of the size."""
    size, large = abs_(x), _large(x)
    low = minimum(size, large)
    small = log1p(low + low * low / (sqrt(low * low + 1.0) + 1.0))
    return copysign(where(size > large, log(size) + math.log(2), small), x)


def acosh_of(x: Value) -> Value:
    """``log1p(t + sqrt(2 t + t^2))`` with ``t = x - 1``."""
    large = _large(x)
    t = minimum(x, large) - 1.0
    return where(x > large, log(x) + math.log(2), log1p(t + sqrt(t * 2.0 + t * t)))


def atanh_of(x: Value) -> Value:
    """``log1p(2 x / (1 - x)) / 2`` of the size."""
    size = abs_(x)
    return copysign(log1p(size * 2.0 / (1.0 - size)) * 0.5, x)


# --- angles -------------------------------------------------------------------------------------------------------


def tan_of(x: Value) -> Value:
    """``sin / cos``."""
    return sin(x) / cos(x)


def atan_of(x: Value) -> Value:
    """The f32 kernel's result, corrected once: what is left is far below f64's digits."""
    from tdagger.ops.elementwise import atan

    size = abs_(x)
    inverse = size > 1.0
    t = where(inverse, reciprocal(where(inverse, size, 1.0)), size)
    first = cast(atan(cast(t, "f32")), "f64")
    off = (t * cos(first) - sin(first)) / (cos(first) + t * sin(first))
    near = first + off
    return copysign(where(inverse, math.pi / 2 - near, near), x)


def asin_of(x: Value) -> Value:
    """``atan(x / sqrt(1 - x^2))``."""
    return where(equal(abs_(x), 1.0), x * (math.pi / 2), atan_of(x / sqrt((1.0 - x) * (1.0 + x))))


def acos_of(x: Value) -> Value:
    """``2 atan(sqrt((1 - x) / (1 + x)))``."""
    return where(equal(x, -1.0), math.pi, atan_of(sqrt((1.0 - x) / (1.0 + x))) * 2.0)


def atan2_of(y: Value, x: Value) -> Value:
    """The arc tangent of the smaller over the larger, turned into its eighth of the circle."""
    from tdagger.ops.elementwise import atan

    a, b = abs_(y), abs_(x)
    long, short = maximum(a, b), minimum(a, b)
    both = isinf(short)
    ratio = where(both, 1.0, short / where(equal(long, 0.0), 1.0, long))
    angle = atan(where(isinf(long) & ~both, 0.0, ratio))
    angle = where(a > b, math.pi / 2 - angle, angle)
    angle = where(signbit(x), math.pi - angle, angle)
    return where(isnan(x) | isnan(y), math.nan, copysign(angle, y))


# --- the error function and its relatives ---------------------------------------------------------------------------


def _erfc_positive(x: Value) -> Value:
    """erfc for x >= 0.46875 (smaller x are clipped to it)."""
    x = maximum(x, 0.46875)
    middle = _ratio(ERFC_MIDDLE, minimum(x, 4.0))
    far = maximum(x, 4.0)
    inverse_square = reciprocal(far * far)
    large = (1 / math.sqrt(math.pi) - inverse_square * _ratio(ERFC_LARGE, inverse_square)) / far
    coarse = floor(minimum(x, 30.0) * 16.0) / 16.0  # its square is exact, so that exp keeps its digits
    low = minimum(x, 1e4)
    tail = exp(neg(coarse * coarse)) * exp(neg((low - coarse) * (low + coarse)))
    return tail * where(x <= 4.0, middle, large)


def _erf_small(x: Value, size: Value) -> Value:
    low = minimum(size, 0.5)
    return x * _ratio(ERF_SMALL, low * low)


def erf_of(x: Value) -> Value:
    """Cody's approximations (1969), in f64."""
    size = abs_(x)
    far = sign(x) * (1.0 - _erfc_positive(size))
    return where(isnan(x), x, where(size <= 0.46875, _erf_small(x, size), far))


def erfc_of(x: Value) -> Value:
    """Cody's approximations (1969), in f64."""
    size = abs_(x)
    tail = _erfc_positive(size)
    small = 1.0 - _erf_small(x, size)
    return where(isnan(x), math.nan, where(size <= 0.46875, small, where(less(x, 0.0), 2.0 - tail, tail)))


def erfinv_of(x: Value) -> Value:
    """Winitzki's estimate, then three Halley steps on erf (on erfc near 1, where erf loses digits), in f64."""
    size = abs_(x)
    inside = where(size < 1.0, size, 0.0)
    logarithm = log1p(neg(inside * inside))
    a = logarithm / 2.0 + 2 / (math.pi * 0.147)
    y = sqrt(maximum(sqrt(a * a - logarithm / 0.147) - a, 0.0))
    for _ in range(3):
        error = where(inside < 0.5, erf(y) - inside, (1.0 - inside) - erfc(y))
        step = error * (math.sqrt(math.pi) / 2) * exp(y * y)
        y = y - step / (y * step + 1.0)
    y = where(equal(size, 1.0), math.inf, where(size < 1.0, y, math.nan))
    return copysign(y, x)


def lgamma_of(x: Value) -> Value:
    """As the reference: series within 1.5..2.5, steps to get there, Stirling; by reflection below 0; in f64."""
    size = abs_(x)
    positive = _lgamma_positive(size)
    sine = abs_(sin((size - round_(size)) * math.pi))
    negative = math.log(math.pi) - log(sine) - log(size) - positive
    negative = where(size < _large(x) ** -2, positive, negative)
    whole = isinf(size) | ((x <= 0.0) & equal(size, floor(size)))
    return where(whole, math.inf, where(less(x, 0.0), negative, positive))


def _lgamma_positive(x: Value) -> Value:
    low = minimum(x, 10.0)
    steps = maximum(floor(low - 1.5), 0.0)
    product = full_like(x, 1.0)
    for k in range(1, 9):
        product = where(full_like(x, float(k)) <= steps, product * (low - float(k)), product)
    tiny, small = low < 0.5, low < 1.5
    shifted = where(tiny, low, where(small, low - 1.0, low - 2.0 - steps))
    found = shifted * polynomial(LGAMMA_AT_2[::-1], shifted) + log(product)
    found = found - where(small, log1p(shifted), 0.0) - where(tiny, log(low), 0.0)
    high = maximum(x, 10.0)
    large = _large(x)
    finite, low_enough = minimum(high, large * large), minimum(high, large)
    tail = polynomial(STIRLING[::-1], reciprocal(low_enough * low_enough)) / high
    far = (high - 0.5) * log(finite) - high + (0.5 * math.log(2 * math.pi)) + tail
    return where(isinf(x), math.inf, where(x < 10.0, found, far))


# --- division and powers of whole numbers -----------------------------------------------------------------------


def trunc_of(x: Value) -> Value:
    """Towards 0."""
    from tdagger.ops.elementwise import ceil

    return where(less(x, 0.0), ceil(x), floor(x))


def mod_of(x: Value, y: Value) -> Value:
    """Of floats, the remainder with the sign of y; one of 0 keeps the sign of x."""
    rest = rem(x, y)
    return where(not_equal(rest, 0.0) & not_equal(less(rest, 0.0), less(y, 0.0)), rest + y, rest)


def floor_divide_of(x: Value, y: Value) -> Value:
    """Of floats, as numpy: the quotient of what the remainder leaves is nearly whole."""
    rest = rem(x, y)
    quotient = (x - rest) / y
    off = not_equal(rest, 0.0) & not_equal(less(rest, 0.0), less(y, 0.0))
    quotient = where(off, quotient - 1.0, quotient)
    whole = floor(quotient)
    whole = where(quotient - whole > 0.5, whole + 1.0, whole)
    whole = where(equal(quotient, 0.0), copysign(full_like(x, 0.0), x / y), whole)
    return where(equal(y, 0.0), x / y, whole)


def pow_of_integers(x: Value, y: Value) -> Value:
    """By squaring, as the width wraps around; to a negative power the whole part of the fraction."""
    bits = 8 * x.dtype.bytes
    out, base, left = full_like(x, 1), x, maximum(y, 0)
    for i in range(bits - int(x.dtype.is_signed)):
        odd = equal(mod(left, 2), 1)
        out = where(odd, out * base, out)
        if i + 1 < bits - int(x.dtype.is_signed):
            base, left = base * base, floor_divide(left, 2)
    if not x.dtype.is_signed:
        return out
    even = equal(mod(y, 2), 0)
    unit = where(equal(x, 1), 1, where(equal(x, -1), where(even, full_like(x, 1), -1), 0))
    return where(less(y, 0), unit, out)


# --- indices ----------------------------------------------------------------------------------------------------


def checked_index(v: Value, turns: bool = False) -> Value | None:
    """A ``linear_index`` of several axes that reads each index from a table of its axis; None of one axis.

    Laid end to end, an index beyond its axis is another entry; a table hasn't it, so that a runtime whose gather looks
    refuses it. ``turns``: its gather counts negative indices from the end.
    """
    x, *indices = v.args
    if len(indices) < 2:
        return None
    total: Value | None = None
    signed = v.op.attributes["signed"]
    for n, index, negative in zip(x.shape[v.op.attributes["axis"] :], indices, signed, strict=False):
        own = where(less(index, 0), index + n, index) if negative and not turns else index
        place = Gather(0, 0)(cast(iota(n), v.dtype), own)
        total = place if total is None else total * n + place
    return total


# --- random bits ------------------------------------------------------------------------------------------------

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_MASK = 0xFFFFFFFF


def threefry(seed: Value, counter: Value) -> Value:
    """Threefry-2x32 with 20 rounds, as :class:`tdagger.ops.source.Random`, in u64: 64 bits for each counter."""
    from tdagger.ops.elementwise import bitwise_and, bitwise_or, shift_left, shift_right

    def low(v: Value) -> Value:
        return bitwise_and(v, _MASK)

    keys = [shift_right(seed, 32), low(seed)]
    keys.append(bitwise_xor(bitwise_xor(keys[0], keys[1]), 0x1BD11BDA))
    a = low(add(shift_right(counter, 32), keys[0]))
    b = low(add(low(counter), keys[1]))
    for round_number in range(5):
        for r in _ROTATIONS[round_number % 2]:
            a = low(add(a, b))
            turned = low(bitwise_or(shift_left(b, r), shift_right(b, 32 - r)))
            b = bitwise_xor(turned, a)
        a = low(add(a, keys[(round_number + 1) % 3]))
        b = low(add(add(b, keys[(round_number + 2) % 3]), round_number + 1))
    return bitwise_or(shift_left(a, 32), b)


def scan_of(x: Value, kind: str, axis: int, reverse: bool) -> Value:
    """A running product, maximum or minimum: entries 1, 2, 4 ... places before are taken in."""
    from tdagger.ops.structure import concat, slice_axis

    function = {"prod": multiply, "max": maximum, "min": minimum, "sum": add}[kind]
    step, n = 1, x.shape[axis]
    while step < n:
        if reverse:
            rest, done = slice_axis(x, axis, 0, n - step), slice_axis(x, axis, n - step, n)
            x = concat([function(rest, slice_axis(x, axis, step, n)), done], axis)
        else:
            done, rest = slice_axis(x, axis, 0, step), slice_axis(x, axis, step, n)
            x = concat([done, function(rest, slice_axis(x, axis, 0, n - step))], axis)
        step *= 2
    return x


#: Unary functions that rounding leaves their digits in any element type, or are computed in f64.
UNARY: dict[str, Function] = {
    "trunc": trunc_of,
    "expm1": expm1_of,
    "log1p": log1p_of,
    "erfc": wide(erfc_of),
    "erfinv": wide(erfinv_of),
    "lgamma": wide(lgamma_of),
}
#: Those that a target may have of f32 only, for f64.
UNARY_F64: dict[str, Function] = {
    "tan": tan_of, "asin": asin_of, "acos": acos_of, "atan": atan_of, "sinh": sinh_of, "cosh": cosh_of,
    "asinh": asinh_of, "acosh": acosh_of, "atanh": atanh_of, "erf": erf_of,
}  # fmt: skip
