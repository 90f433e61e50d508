"""What a graph leaves open of other sizes: numbers in it that may have been computed from sizes that change.

A graph that was made with one set of sizes has what was computed from them as numbers. Two kinds of places are
doubtful when an axis gets another size: what the axes themselves had to guess (``Line.firm``: ``x[:, :3]`` of 6
may be the first three or the first half), and numbers that nothing ties to the axis, but that are what one gets from
its size (``1 / n``, zeros of ``n`` entries that are only summed, a window over all of it).

>>> import tdagger as td
>>> from tdagger.analysis.axes import Axes
>>> from tdagger.analysis.sizes import solve
>>> x = td.input("x", (4, 12))
>>> axes = Axes(td.Graph({"x": x}, {"y": td.reduce(x, "sum", (1,)) * (1 / 12)}))
>>> for doubt in doubts(axes, solve(axes, {axes[x][1]: 24})):
...     print(doubt)
<const(...)() -> f32[]> is 1 / 12, where an axis of 12 entries has another size
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes import Axes, Axis, resolve
from tdagger.analysis.sizes import Sizes
from tdagger.graph import result_types
from tdagger.op import Value
from tdagger.ops.source import Const

Where = Callable[[Value], str]

#: What Python makes of a size, of which a trace may be left in the graph as a number.
_MADE: dict[str, Callable[[int], float]] = {
    "{n}": lambda n: n,
    "{n} - 1": lambda n: n - 1,
    "{n} // 2": lambda n: n // 2,
    "{n} + 1": lambda n: n + 1,
    "2 * {n}": lambda n: 2 * n,
    "{n} / 2": lambda n: n / 2,
    "({n} - 1) / 2": lambda n: (n - 1) / 2,
    "1 / {n}": lambda n: 1 / n,
    "2 / {n}": lambda n: 2 / n,
    "1 / ({n} - 1)": lambda n: 1 / (n - 1) if n > 1 else 1,
    "sqrt({n})": math.sqrt,
    "1 / sqrt({n})": lambda n: 1 / math.sqrt(n),
    "log({n})": math.log,
}

#: How many of these, the first, a number of entries may be.
_WHOLE = 3

#: Attributes that hold numbers of entries as the source gave them.
_COUNTS = frozenset({"kernel", "size", "widths", "shift", "shifts", "k", "window"})

#: Kinds of axes that nothing but constants has.
_LOOSE = frozenset({"iota", "repeated", "const", "banded"})

#: What is said of axes of constants that don't follow another axis.
_FREE = "nothing ties to an axis"

#: Numbers that are everywhere.
_COMMON = frozenset({0.0, 1.0, -1.0})


def doubts(axes: Axes, sizes: Sizes, where: Where = lambda value: "") -> Iterator[str]:
    """What is doubtful where axes have these sizes, one line each: the value, where it is, and why."""
    changed = {a for a in sizes.known if sizes.known[a] != a.size}
    if not changed:
        return
    yield from _guessed(axes, changed, where)
    changed = {a for a in changed if a.size != 1}  # no number is made of 1 more than of anything else
    made = _made_of(_sizes_of(axes, changed))
    for value in axes.graph.values:
        op = value.op
        why = _number(op, made) if isinstance(op, Const) else _count(axes, value, changed)
        if why:
            yield f"{value!r}{where(value)} {why}"
    yield from _untied(axes, sizes, made, where)


def _count(axes: Axes, value: Value, changed: set[Axis]) -> str:
    """Which attribute of an op holds a number of entries that is made of the size of one of its dimensions."""
    attributes = value.op.attributes
    for name in attributes.keys() & _COUNTS:
        numbers = {n for n in _numbers(attributes[name]) if n > 1}
        for arg in value.args if numbers else ():
            for terms, type_ in zip(axes.of(arg), result_types(arg), strict=True):
                own = {n for t, n in zip(terms, type_.shape, strict=True) if any(a in changed for a in t)}
                for n in own:
                    for shown, function in list(_MADE.items())[:_WHOLE]:
                        if function(n) in numbers:
                            return f"has {name}={attributes[name]}, {_because(shown, n)}"
    return ""


def _because(shown: str, n: int) -> str:
    return f"{shown.format(n=n)}, where an axis of {n} entries has another size"


def _guessed(axes: Axes, changed: set[Axis], where: Where) -> Iterator[str]:
    """What the axes had to guess of axes that change."""
    for value, term, what in axes.guesses:
        if any(a in changed for a in resolve(term)):
            yield f"{value!r}{where(value)}: {what}"


def _sizes_of(axes: Axes, changed: set[Axis]) -> set[int]:
    """The numbers of entries of all dimensions that change."""
    found: set[int] = {a.size for a in changed}
    for value in axes.graph.values:
        for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
            for term, n in zip(terms, type_.shape, strict=True):
                if n not in found and any(a in changed for a in term):
                    found.add(n)
    return {n for n in found if n > 1}


def _made_of(sizes: set[int]) -> dict[float, str]:
    """The numbers that are made of sizes that change, and how."""
    made: dict[float, str] = {}
    for n in sorted(sizes):
        for shown, function in _MADE.items():
            number = float(function(n))
            if number not in _COMMON:
                made.setdefault(number, _because(shown, n))
    return made


def _number(op: Const, made: Mapping[float, str]) -> str:
    """How a constant that is one number is made of sizes; nothing if it isn't."""
    data = op.data
    if data.size != 1 or data.dtype.kind not in "iuf":
        return ""
    number = abs(float(data.reshape(())))
    near = float(np.finfo(data.dtype).eps) * 4 if data.dtype.kind == "f" else 0.0
    return next((f"is {why}" for m, why in made.items() if abs(m - number) <= near * m), "")


def _numbers(attribute: Any) -> Iterator[int]:
    """The integers in an attribute."""
    stack: list[Any] = [attribute]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(cast(tuple[Any, ...], item))
        elif isinstance(item, int) and not isinstance(item, bool):
            yield item


def _untied(axes: Axes, sizes: Sizes, made: Mapping[float, str], where: Where) -> Iterator[str]:
    """Constants with dimensions that nothing ties to an axis, with as many entries as are made of one."""
    used: dict[Axis, None] = {}
    for (value, i), copies in axes.copies.items():
        for axis, copy in copies.items():
            used[axis.root()] = None
            for own in resolve((copy,)):
                why = made.get(float(own.size))
                loose = own.kind in _LOOSE and not own.rigid
                if why and loose and sizes.known.get(own, own.size) == own.size:
                    yield f"{value!r}{where(value)} takes {value.args[i]!r}, whose {own.size} entries {_FREE}: {why}"
    tied = set(_with_parts(used))
    for value in axes.graph.values if axes.static else ():
        for axis in {a for terms in axes.of(value) for t in terms for a in t} if value in axes.static else ():
            why = made.get(float(axis.size))
            if why and axis not in tied and not axis.rigid and axis.kind in _LOOSE:
                tied.add(axis)
                yield f"{value!r}{where(value)} has {axis.size} entries that {_FREE}: {why}"


def _with_parts(axes: Iterable[Axis]) -> Iterator[Axis]:
    """Axes, and those that they are made of."""
    seen: set[Axis] = set()
    stack = list(axes)
    while stack:
        for axis in resolve((stack.pop(),)):
            if axis not in seen:
                seen.add(axis)
                yield axis
                stack.extend(a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in p)
