"""TFLite's reductions: over axes, and over windows of any operation."""

from __future__ import annotations

from collections.abc import Callable

from tdagger import library as lib
from tdagger.frameworks.tflite.ops.table import Ints, rule, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s


def _axes(x: Value, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys([normal_axis(a, x.rank) for a in axes]))


def _reduction(kind: str) -> Callable[..., Value]:
    def apply(x: Value, axes: Ints, *, keep_dims: bool = False) -> Value:
        return s.reduce(x, kind, _axes(x, axes), keep=keep_dims) if axes else x

    return apply


for _name, _kind in {
    "SUM": "sum", "REDUCE_MAX": "max", "REDUCE_MIN": "min", "REDUCE_PROD": "prod", "REDUCE_ANY": "any",
    "REDUCE_ALL": "all",
}.items():  # fmt: skip
    rule(_name)(_reduction(_kind))


@rule("MEAN")
def _mean(x: Value, axes: Ints, *, keep_dims: bool = False) -> Value:
    """Of integers the sum's quotient, cut towards 0."""
    if not axes:
        return x
    found = _axes(x, axes)
    if x.dtype.is_float:
        return lib.mean(x, axes=found, keep=keep_dims)
    count = 1
    for a in found:
        count *= x.shape[a]
    total = s.reduce(e.cast(x, "i64"), "sum", found, keep=keep_dims)
    return e.cast(lib.trunc_divide(total, e.full_like(total, count)), x.dtype)


#: By the number of the function of a window, the reduction, and what it begins with where that is known.
_FUNCTIONS = {1: "sum", 2: "prod", 3: "min", 4: "max", 5: "all", 6: "any"}


@rule("REDUCE_WINDOW")
def _reduce_window(
    x: Value, init: Value, shape: Ints, strides: Ints, dilations: Ints, *, reduce_function: int = 0
) -> Value:
    """Windows that are wholly inside; what they begin with takes part once."""
    kind = _FUNCTIONS.get(reduce_function)
    if kind is None:
        raise unsupported(f"the function of its windows is number {reduce_function}")
    y = x
    for axis, (k, step, dilation) in enumerate(zip(shape, strides, dilations, strict=True)):
        if (k - 1) * dilation + 1 > x.shape[axis]:
            raise unsupported(f"a window of {k} along axis {axis} of {x.type} has no room")
        y = s.unfold(y, axis, k, step, dilation)
    factors = [(n // k, k) for n, k in zip(y.shape, shape, strict=True)]
    for axis in reversed(range(x.rank)):
        y = s.ungroup(y, axis, factors[axis])
    out = s.reduce(y, kind, range(1, 2 * x.rank, 2), keep=False)
    start = s.broadcast_to(lib.reshape(init, shape=()), out.shape)
    together = {
        "sum": e.add, "prod": e.multiply, "min": e.minimum, "max": e.maximum, "all": e.bitwise_and, "any": e.bitwise_or
    }  # fmt: skip
    return together[kind](out, start)
