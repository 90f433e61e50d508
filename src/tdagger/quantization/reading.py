"""What a value is read as: the function of each of its numbers that is all anybody makes of it.

A convolution whose result goes through SiLU, and nowhere else, is to be rounded so that SiLU's results are near; what
is far below 0 may be clipped, since all of it becomes nearly 0. Every range is cut to what is told apart; the observer
"read" weighs errors by the function besides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tdagger.errors import TDaggerError
from tdagger.graph import Graph
from tdagger.op import Array, Value
from tdagger.transform.rewrite.values import is_elementwise, number_in
from tdagger.types import DType, TensorType

_F32 = DType.of("f32")
#: A function is looked at in so many places on each side of 0.
_PLACES = 1 << 12


def read_as(graph: Graph, value: Value) -> Callable[[Array], Array] | None:
    """The function of a value's numbers through which alone all that reads it does; None where there is none.

    >>> import numpy as np, tdagger as td
    >>> x, w = td.input("x", (2, 3)), td.parameter("w", (4, 3))
    >>> y = td.linear(x, w)
    >>> graph = td.Graph({"x": x}, {"z": td.linear(y * td.sigmoid(y) + 1.0, td.parameter("v", (1, 4)))})
    >>> f = read_as(graph, y)
    >>> f(np.float32([0])).tolist(), read_as(graph, x)
    ([1.0], None)
    """
    made: dict[Value, None] = {value: None}
    near = [value]
    while near:
        for user in graph.users[near.pop()]:
            if user not in made and _is_of(user, made):
                made[user] = None  # after all that it is made of
                near.append(user)
    ends = {*graph.outputs.values(), *graph.updates.values()}
    last = [v for v in made if v in ends or any(u not in made for u in graph.users[v])]
    if len(last) != 1 or last[0] is value or last[0].dtype is not _F32:
        return None
    steps = [v for v in made if v is not value]

    def function(x: Array) -> Array:
        found: dict[Value, Array] = {value: x}
        with np.errstate(all="ignore"):
            for v in steps:
                found[v] = v.op.run(*[found[a] if a in found else _full(a, x.shape) for a in v.args])
        return found[last[0]]

    return function


def _is_of(value: Value, made: dict[Value, None]) -> bool:
    given = all(a in made or number_in(a) is not None for a in value.args)
    return given and is_elementwise(value) and _is_of_any_shape(value)


def _is_of_any_shape(value: Value) -> bool:
    """Whether an op is one of numbers whatever their shape: a pool of one entry isn't."""
    try:
        found = value.op.infer(*[TensorType((2,), a.dtype.name) for a in value.args])
    except TDaggerError:
        return False
    return isinstance(found, TensorType) and found.shape == (2,)


def _full(value: Value, shape: tuple[int, ...]) -> Array:
    return np.full(shape, number_in(value), value.dtype.numpy)


def told_apart(read: Callable[[Array], Array], low: float, high: float, steps: int) -> tuple[float, float]:
    """The part of a range, with 0 in it, that is enough for what all that reads the numbers makes of them.

    Each end is the nearest to 0 for which clipping all that is beyond changes no result by more than half a step, if
    the results had as many steps: no more than rounding the numbers changes some result. An end stays where that
    spares less than a step.

    >>> low, high = told_apart(lambda x: np.clip(x, 0, 6), -20.0, 8.0, 255)
    >>> low, round(high, 1)
    (0.0, 6.0)
    """
    places = [np.linspace(end, 0, _PLACES) for end in (low, high)]
    results = [read(x.astype(np.float32)).astype(np.float64) for x in places]
    both = np.concatenate(results)
    if not np.isfinite(both).all():
        return low, high
    allowed = np.ptp(both) / steps / 2
    ends: list[float] = []
    for x, y in zip(places, results, strict=True):
        away = np.maximum(np.maximum.accumulate(y) - y, y - np.minimum.accumulate(y))
        end = float(x[np.flatnonzero(away <= allowed)[-1]])
        ends.append(end if abs(end - x[0]) >= (high - low) / steps else float(x[0]))
    return ends[0], ends[1]
