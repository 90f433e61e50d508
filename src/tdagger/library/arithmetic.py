"""Arithmetic that isn't core, element by element: subtract, divide, roots, limits and their relatives.

float16 and bfloat16 are computed in float32 and rounded once, as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from typing import cast as cast_type

import ml_dtypes
import numpy as np

from tdagger.composite import composite
from tdagger.errors import TypeMismatchError
from tdagger.op import Array, Value, ValueFunction
from tdagger.ops.elementwise import (
    abs_,
    align,
    cast,
    equal,
    exp,
    floor_divide,
    full_like,
    isinf,
    isnan,
    less,
    log,
    log1p,
    maximum,
    minimum,
    neg,
    not_equal,
    pow_,
    reciprocal,
    rem,
    sqrt,
    trunc,
    where,
    zeros_like,
)


def wide(x: Value) -> Value:
    """``x`` in the element type it is computed in: f32 for the narrower floats, else its own."""
    return cast(x, "f32") if x.dtype.is_float and x.dtype.bytes < 4 else x


def _wide_array(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype.kind in "fV" and x.dtype.itemsize < 4 else x


def of_result(function: Callable[[Value], Any]) -> ValueFunction:
    """``function`` itself: what an inverse or adjoint is, a function of the result."""
    return function


def always(function: Callable[[Value], Any]) -> Callable[..., ValueFunction]:
    """The rule of an inverse or adjoint that is ``function`` of the result, whatever the attributes and types."""
    return lambda *_: function


def always_with(function: Callable[[Value, Value], Any]) -> Callable[..., ValueFunction]:
    """The same for a function of the result and the other argument."""
    return lambda *_: function


def aligned(*xs: Any, **attributes: Any) -> tuple[tuple[Value, ...], dict[str, Any]]:
    """What prepares the arguments of elementwise composites: numbers become constants, shapes broadcast."""
    return align(*xs), attributes


def floats_only(name: str, *xs: Value) -> None:
    """TypeMismatchError if one of ``xs`` is neither floats nor complex numbers."""
    for x in xs:
        if not (x.dtype.is_float or x.dtype.is_complex):
            raise TypeMismatchError(f"{name} takes floats, got {', '.join(str(v.type) for v in xs)}; cast first")


# --- the four operations -----------------------------------------------------------------------------------


@composite(prepare=aligned, flops_each=1)
def subtract(x: Value, y: Value) -> Value:
    """``x - y``; numbers become constants, shapes broadcast. Executes and exports as itself."""
    return x + neg(y)


@subtract.numpy
def _(x: Array, y: Array) -> Array:
    return np.asarray(_wide_array(x) - _wide_array(y)).astype(x.dtype, copy=False)


# The function of (result, y) that gives x back.
subtract.inverse(always_with(lambda z, y: z + y))


# The function that gives both arguments what comes back to them.
subtract.adjoint(always(lambda z: (z, neg(z))))


@composite(prepare=aligned, flops_each=1)
def divide(x: Value, y: Value) -> Value:
    """``x / y`` of floats; numbers become constants, shapes broadcast. Executes and exports as itself."""
    floats_only("divide", x, y)
    return cast(wide(x) * reciprocal(wide(y)), x.dtype)


@divide.numpy
def _(x: Array, y: Array) -> Array:
    return np.asarray(_wide_array(x) / _wide_array(y)).astype(x.dtype, copy=False)


# The function of (result, y) that gives x back.
divide.inverse(always_with(lambda z, y: z * y))


# With respect to x: the function of (result, y).
divide.adjoint(always_with(lambda z, y: z / y))


@composite(prepare=aligned, own_gradient=True)
def trunc_divide(x: Value, y: Value) -> Value:
    """``x / y`` rounded towards 0. An integer divided by 0 has no defined result."""
    if x.dtype.is_float:
        return cast(trunc(wide(x) / wide(y)), x.dtype)
    return floor_divide(x - rem(x, y), y)


# --- functions of one number -------------------------------------------------------------------------------


@composite
def square(x: Value) -> Value:
    """``x * x``."""
    return x * x


square.inverse(always(sqrt))


@composite
def rsqrt(x: Value) -> Value:
    """``1 / sqrt(x)``."""
    floats_only("rsqrt", x)
    return cast(reciprocal(sqrt(wide(x))), x.dtype)


rsqrt.inverse(always(lambda y: reciprocal(square(y))))


def _of_one(function: Callable[..., Any]) -> Callable[[Array], Array]:
    return lambda x: np.asarray(function(_wide_array(x))).astype(x.dtype, copy=False)


@composite
def exp2(x: Value) -> Value:
    """``2 ** x``."""
    floats_only("exp2", x)
    return pow_(full_like(x, 2), x)


@composite
def log2(x: Value) -> Value:
    """Logarithm to base 2."""
    floats_only("log2", x)
    return cast(log(wide(x)) * (1 / math.log(2)), x.dtype)


@composite
def log10(x: Value) -> Value:
    """Logarithm to base 10."""
    floats_only("log10", x)
    return cast(log(wide(x)) * (1 / math.log(10)), x.dtype)


# the bodies multiply a rounded logarithm; these are exact where the result is whole
exp2.numpy(_of_one(np.exp2))
log2.numpy(_of_one(np.log2))
log10.numpy(_of_one(np.log10))
exp2.inverse(always(log2))
log2.inverse(always(exp2))
log10.inverse(always(lambda y: pow_(full_like(y, 10), y)))


# --- functions of two numbers ------------------------------------------------------------------------------


@composite(prepare=aligned)
def root(x: Value, y: Value) -> Value:
    """The real ``y``-th root of ``x``, which undoes ``pow``: NaN for a negative x unless y is odd.

    Of complex numbers the principal root.
    """
    floats_only("root", x, y)
    if x.dtype.is_complex:
        return pow_(x, reciprocal(y))
    a, b = wide(x), wide(y)
    size = pow_(abs_(a), reciprocal(b))
    odd = equal(abs_(rem(b, 2.0)), 1.0)
    return cast(where(less(a, 0.0), where(odd, neg(size), math.nan), size), x.dtype)


# The function of (result, y) that gives x back.
root.inverse(always_with(pow_))


@composite(prepare=aligned)
def lerp(x: Value, y: Value, weight: Value) -> Value:
    """``x + weight * (y - x)``, computed from the nearer end so that a weight of 1 gives y exactly."""
    floats_only("lerp", x, y, weight)
    a, b, w = wide(x), wide(y), wide(weight)
    way = b - a
    return cast(where(abs_(w) < 0.5, a + w * way, b - way * (1.0 - w)), x.dtype)


@composite(prepare=aligned)
def logaddexp(x: Value, y: Value) -> Value:
    """``log(exp(x) + exp(y))`` without overflow."""
    floats_only("logaddexp", x, y)
    a, b = wide(x), wide(y)
    top = maximum(a, b)
    return cast(where(isinf(top), top, top + log1p(exp(neg(abs_(a - b))))), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def hypot(x: Value, y: Value) -> Value:
    """``sqrt(x * x + y * y)`` without overflow; infinite if either is, even if the other is NaN."""
    floats_only("hypot", x, y)
    a, b = abs_(wide(x)), abs_(wide(y))
    long, short = maximum(a, b), minimum(a, b)
    ratio = short / where(equal(long, 0.0), 1.0, long)
    return cast(where(isinf(a) | isinf(b), math.inf, long * sqrt(1.0 + ratio * ratio)), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def xlogy(x: Value, y: Value) -> Value:
    """``x * log(y)``, 0 where x is 0 (unless y is NaN)."""
    floats_only("xlogy", x, y)
    a, b = wide(x), wide(y)
    zero = not_equal(a, 0.0)
    return cast(where(zero | isnan(b), where(isnan(b), b, a * log(b)), 0.0), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def fmax(x: Value, y: Value) -> Value:
    """The larger one; if one is NaN, the other."""
    if not x.dtype.is_float:
        return maximum(x, y)
    return where(isnan(x), y, where(isnan(y), x, maximum(x, y)))


@composite(prepare=aligned, own_gradient=True)
def fmin(x: Value, y: Value) -> Value:
    """The smaller one; if one is NaN, the other."""
    if not x.dtype.is_float:
        return minimum(x, y)
    return where(isnan(x), y, where(isnan(y), x, minimum(x, y)))


@composite(prepare=aligned)
def heaviside(x: Value, y: Value) -> Value:
    """0 where x < 0 or NaN, y where x is 0, 1 where x > 0."""
    zero = zeros_like(x)
    return where(not_equal(x, zero), cast(x > zero, x.dtype), y)


# --- limits ------------------------------------------------------------------------------------------------


@composite
def clamp(x: Value, *, low: float | None = None, high: float | None = None) -> Value:
    """``x`` not below ``low`` and not above ``high`` (which wins if they cross); NaN stays NaN."""
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)


# What was clamped stays so.
clamp.inverse(always(lambda y: y))


@composite
def nan_to_num(x: Value, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Value:
    """``x`` with NaN, inf and -inf replaced, the infinities by the largest and smallest number by default."""
    if not x.dtype.is_float:
        return x
    info = cast_type(Any, ml_dtypes).finfo(x.dtype.numpy)
    largest = float(info.max)
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    return where(isnan(x), nan, where(isinf(x), where(x > 0.0, high, full_like(x, low)), x))
