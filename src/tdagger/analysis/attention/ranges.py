"""What elementwise ops can give, of arguments of which the least and the most is known (interval arithmetic).

>>> from tdagger.ops.elementwise import Binary
>>> range_of(Binary("less"), [(0, 3), (5, 9)]), range_of(Binary("less"), [(0, 6), (5, 9)])
((True, True), (False, True))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tdagger.op import Op
from tdagger.ops.elementwise import Cast

#: The least and the most that entries can be; of bools, whether all are true and whether some may be.
Range = tuple[Any, Any]


def without_nan(pair: Range) -> Range:
    """What may be NaN may be anything; narrow floats as f32."""
    low, high = (x.astype(np.float32) if x.dtype.kind == "V" else x for x in map(np.asarray, pair))
    if low.dtype.kind != "f":
        return low, high
    return _choose(np.isnan(low), -math.inf, low), _choose(np.isnan(high), math.inf, high)


def range_of(op: Op, args: list[Range]) -> Range:
    """The least and the most that an elementwise op can give; of one that nothing is known of, anything."""
    kind = getattr(op, "kind", op.name)
    if kind in _RANGES:
        return _RANGES[kind](*args)
    low, high = zip(*args, strict=True)
    if kind in _RISING or (isinstance(op, Cast) and op.dtype.name != "bool"):
        return op.run(*low), op.run(*high)
    sample = op.run(*low)
    anything = (False, True) if sample.dtype == np.bool_ else (-math.inf, math.inf)
    same = [np.equal(a, b) for a, b in args]
    is_point = np.logical_and.reduce(np.broadcast_arrays(*same))
    return np.where(is_point, sample, anything[0]), np.where(is_point, sample, anything[1])


#: What rises with every argument. Of bools; of integers, and and or are not among them.
_RISING = frozenset(
    (
        "add",
        "max",
        "min",
        "floor",
        "ceil",
        "round",
        "trunc",
        "sign",
        "sqrt",
        "exp",
        "log",
        "expm1",
        "log1p",
        "tanh",
        "erf",
    )
)


_choose: Callable[..., Any] = np.where


def _less(x: Range, y: Range) -> Range:
    return x[1] < y[0], x[0] < y[1]


def _less_equal(x: Range, y: Range) -> Range:
    return x[1] <= y[0], x[0] <= y[1]


def _equal(x: Range, y: Range) -> Range:
    same = (x[0] == x[1]) & (y[0] == y[1]) & (x[0] == y[0])
    return same, (x[0] <= y[1]) & (y[0] <= x[1])


def _negated(x: Range) -> Range:
    return np.logical_not(x[1]), np.logical_not(x[0])


def _abs(x: Range) -> Range:
    low, high = np.abs(x[0]), np.abs(x[1])
    return np.where((x[0] <= 0) & (x[1] >= 0), 0, np.minimum(low, high)), np.maximum(low, high)


def _product(x: Range, y: Range) -> Range:
    each = [np.multiply(a, b) for a in x for b in y]
    return np.minimum.reduce(each), np.maximum.reduce(each)


def _choice(condition: Range, x: Range, y: Range) -> Range:
    always, maybe = condition
    low = _choose(always, x[0], _choose(maybe, np.minimum(x[0], y[0]), y[0]))
    return low, _choose(always, x[1], _choose(maybe, np.maximum(x[1], y[1]), y[1]))


def _floor_divided(x: Range, y: Range) -> Range:
    fits = (y[0] == y[1]) & (y[0] > 0)
    return np.where(fits, x[0] // y[0], -math.inf), np.where(fits, x[1] // y[0], math.inf)


def _remainder(x: Range, y: Range) -> Range:
    fits = (y[0] == y[1]) & (y[0] > 0)
    in_one = fits & (x[0] // y[0] == x[1] // y[0])
    low = _choose(in_one, np.mod(x[0], y[0]), _choose(fits, 0, -math.inf))
    return low, _choose(in_one, np.mod(x[1], y[0]), _choose(fits, y[0], math.inf))


def _bitwise(of_bools: Callable[[Any, Any], Any]) -> Callable[[Range, Range], Range]:
    def rule(x: Range, y: Range) -> Range:
        if np.asarray(x[0]).dtype == np.bool_:
            return of_bools(x[0], y[0]), of_bools(x[1], y[1])
        return -math.inf, math.inf

    return rule


def _not(x: Range) -> Range:
    return _negated(x) if np.asarray(x[0]).dtype == np.bool_ else (np.invert(x[1]), np.invert(x[0]))


def _neg(x: Range) -> Range:
    return np.negative(x[1]), np.negative(x[0])


def _greater(x: Range, y: Range) -> Range:
    return _less(y, x)


def _greater_equal(x: Range, y: Range) -> Range:
    return _less_equal(y, x)


def _not_equal(x: Range, y: Range) -> Range:
    return _negated(_equal(x, y))


_RANGES: dict[str, Callable[..., Range]] = {
    "less": _less,
    "less_equal": _less_equal,
    "greater": _greater,
    "greater_equal": _greater_equal,
    "equal": _equal,
    "not_equal": _not_equal,
    "not": _not,
    "neg": _neg,
    "abs": _abs,
    "multiply": _product,
    "where": _choice,
    "bitwise_and": _bitwise(np.logical_and),
    "bitwise_or": _bitwise(np.logical_or),
    "floor_divide": _floor_divided,
    "mod": _remainder,
}
