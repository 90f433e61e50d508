"""What special functions are put together from: Chebyshev series and pieces, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tdagger.library.arithmetic import floats_only
from tdagger.op import Value
from tdagger.ops.elementwise import cast, maximum, minimum, where


def series(coefficients: Sequence[float], t: Value) -> Value:
    """The sum of coefficients times Chebyshev polynomials of ``t`` in -1..1 (Clenshaw's recurrence)."""
    double = t + t
    last, before = t * 0.0, t * 0.0
    for c in coefficients[:0:-1]:
        last, before = double * last - before + c, last
    return t * last - before + coefficients[0]


def piecewise(x: Value, edge: float, near: Callable[[Value], Value], far: Callable[[Value], Value]) -> Value:
    """``near(x)`` up to ``edge`` and ``far(x)`` beyond, each given only numbers on its own side; NaN stays NaN."""
    inside = near(minimum(x, edge))
    return where(x <= edge, inside, far(maximum(x, edge)))


def in_double(name: str, x: Value) -> Value:
    """``x`` as float64; TypeMismatchError, with the name of the op, if it isn't floats."""
    floats_only(name, x)
    return cast(x, "f64")
