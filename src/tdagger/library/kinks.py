"""Functions whose derivative at a kink or an end isn't that of their formula.

There 0 meets an infinite slope, two branches tie, or a sign says nothing. A framework has one derivative for the whole
function; as composites they go back to it whole. The bodies keep what isn't chosen finite.
float16 and bfloat16 are computed in float32 and rounded once, as torch does.
"""

from __future__ import annotations

import math

from tdagger.composite import composite
from tdagger.library.arithmetic import aligned, floats_only, wide
from tdagger.op import Value
from tdagger.ops.elementwise import (
    abs_,
    cast,
    complex_,
    cos,
    equal,
    full_like,
    isnan,
    less,
    log,
    log1p,
    maximum,
    minimum,
    neg,
    not_equal,
    signbit,
    sin,
    where,
)
from tdagger.ops.structure import reduce

# --- at 0 --------------------------------------------------------------------------------------------------


@composite(own_gradient=True)
def sinc(x: Value) -> Value:
    """``sin(pi x) / (pi x)``, 1 at 0."""
    floats_only("sinc", x)
    w = wide(x) * math.pi
    zero = equal(w, 0.0)
    w = where(zero, 1.0, w)
    return cast(where(zero, 1.0, sin(w) / w), x.dtype)


@composite(own_gradient=True)
def entr(x: Value) -> Value:
    """``-x * log(x)``, the entropy of one outcome: 0 at 0, -inf below; NaN stays NaN."""
    floats_only("entr", x)
    w = wide(x)
    inside = w > 0.0
    safe = where(inside, w, 1.0)
    outside = where(isnan(w), w, where(equal(w, 0.0), 0.0, full_like(w, -math.inf)))
    return cast(where(inside, neg(safe) * log(safe), outside), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def xlog1py(x: Value, y: Value) -> Value:
    """``x * log(1 + y)``, 0 where x is 0 (unless y is NaN)."""
    floats_only("xlog1py", x, y)
    a, b = wide(x), wide(y)
    return cast(where(not_equal(a, 0.0) | isnan(b), where(isnan(b), b, a * log1p(b)), 0.0), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def copysign(x: Value, y: Value) -> Value:
    """The size of ``x`` with the sign of ``y``, whose zeros have one too."""
    floats_only("copysign", x, y)
    size = abs_(x)
    return where(signbit(y), neg(size), size)


@composite(prepare=aligned, own_gradient=True)
def polar(size: Value, angle: Value) -> Value:
    """The complex number of a size and an angle in radians, of f32 or f64."""
    return complex_(size * cos(angle), size * sin(angle))


# --- limits ------------------------------------------------------------------------------------------------


@composite(prepare=aligned, own_gradient=True)
def at_least(x: Value, low: Value) -> Value:
    """``max(x, low)``: of two that are equal, it is x that is passed on; NaN if either is."""
    return maximum(x, low)


@composite(prepare=aligned, own_gradient=True)
def at_most(x: Value, high: Value) -> Value:
    """``min(x, high)``: of two that are equal, it is x that is passed on; NaN if either is."""
    return minimum(x, high)


@composite(own_gradient=True)
def largest(x: Value, *, axis: int, keep: bool = False) -> Value:
    """The first largest entry along ``axis``; NaN if there is one. ``keep`` leaves the axis with size 1."""
    return reduce(x, "max", (axis,), keep)


@composite(own_gradient=True)
def smallest(x: Value, *, axis: int, keep: bool = False) -> Value:
    """The first smallest entry along ``axis``; NaN if there is one. ``keep`` leaves the axis with size 1."""
    return reduce(x, "min", (axis,), keep)


# --- losses of two numbers ---------------------------------------------------------------------------------


@composite(prepare=aligned, own_gradient=True)
def binary_cross_entropy(x: Value, target: Value) -> Value:
    """``-target * log(x) - (1 - target) * log(1 - x)`` of probabilities, each logarithm not below -100."""
    floats_only("binary_cross_entropy", x, target)
    p, t = wide(x), wide(target)
    return cast((t - 1.0) * maximum(log1p(neg(p)), -100.0) - t * maximum(log(p), -100.0), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def huber_loss(x: Value, y: Value, *, delta: float = 1.0) -> Value:
    """Half the square of ``x - y`` up to ``delta``, and on in a straight line."""
    floats_only("huber_loss", x, y)
    size = abs_(wide(x) - wide(y))
    near = minimum(size, delta)
    return cast(where(less(size, delta), near * near * 0.5, (size - 0.5 * delta) * delta), x.dtype)


@composite(prepare=aligned, own_gradient=True)
def smooth_l1_loss(x: Value, y: Value, *, beta: float = 1.0) -> Value:
    """``huber_loss`` divided by its width ``beta``; ``|x - y|`` for a width of 0."""
    floats_only("smooth_l1_loss", x, y)
    size = abs_(wide(x) - wide(y))
    if beta == 0:
        return cast(size, x.dtype)
    near = minimum(size, beta)
    return cast(where(less(size, beta), near * near * 0.5 / beta, size - 0.5 * beta), x.dtype)
