"""What a graph leaves open of other sizes: numbers in it that may have been computed from sizes that change.

A graph that was made with one set of sizes has what was computed from them as numbers. Two kinds of places are
doubtful when an axis gets another size: what the axes themselves had to guess (``Axes.guesses``: ``x[:, :3]`` of 6
may be the first three or the first half), and numbers that nothing ties to the axis, but that are what one gets from
its size (``1 / n``, zeros of ``n`` entries that are only summed, a window over all of it).

>>> import tdagger as td
>>> from tdagger.analysis.axes import Axes
>>> from tdagger.analysis.sizes import solve
>>> x = td.input("x", (4, 12))
>>> axes = Axes(td.Graph({"x": x}, {"y": td.reduce(x, "sum", (1,)) * (1 / 12)}))
>>> for doubt in doubts(axes, solve(axes, {axes[x][1]: 24})):
...     print(doubt.value, doubt.what)
<const(...)() -> f32[]> is 1 / 12, where an axis of 12 entries has another size
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes import Axes, Axis, Guess, resolve
from tdagger.analysis.sizes import Sizes, assumed
from tdagger.graph import result_types
from tdagger.op import Term, Value
from tdagger.ops.source import Const
from tdagger.types import Sized

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

#: Those of these, the first, that a number of entries may be.
_WHOLE = dict(list(_MADE.items())[:3])

#: Attributes that hold numbers of entries as the source gave them.
_COUNTS = frozenset({"kernel", "widths", "shift", "shifts", "k", "window"})

#: Kinds of axes that nothing but constants has.
_LOOSE = frozenset({"iota", "repeated", "const", "banded", "random", "interpolated", "bins"})

#: Numbers that are everywhere, whatever the sizes are.
_COMMON = frozenset({0.0, 0.5, 1.0, 2.0})


def doubts(axes: Axes, sizes: Sizes, numbers: bool = True) -> Iterator[Guess]:
    """What is doubtful where axes have these sizes: the value, the dimension, and why; nothing if all is known.

    Without ``numbers`` those in which no cost shows are left out: factors, terms of sums.
    """
    changed = {a for a in sizes.known if sizes.known[a] != a.size}
    if not changed:
        return
    yield from assumed(axes, sizes)
    changed = {a for a in changed if a.size != 1}  # no number is made of 1 more than of anything else
    made = _made_of(_sizes_of(axes, changed))
    for value in axes.graph.values:
        op = value.op
        if not isinstance(op, Const):
            why = _count(axes, value, changed)
        elif numbers:
            why = _number(op, made)
        else:
            continue
        if why:
            yield Guess(value, (), why)
    yield from _untied(axes, sizes, made)


def _count(axes: Axes, value: Value, changed: set[Axis]) -> str:
    """Which attribute of an op holds a number of entries that is made of the size of one of its dimensions."""
    attributes = value.op.attributes
    for name in attributes.keys() & _COUNTS:
        numbers = {n for n in _numbers(attributes[name]) if n > 2}
        for arg in value.args if numbers else ():
            for terms, type_ in zip(axes.of(arg), result_types(arg), strict=True):
                own = {n for t, n in zip(terms, type_.shape, strict=True) if any(a in changed for a in t)}
                for n in own:
                    for shown, function in _WHOLE.items():
                        if function(n) in numbers:
                            return f"has {name}={attributes[name]}, {_because(shown, n)}"
    return ""


def _because(shown: str, n: int) -> str:
    return f"{shown.format(n=n)}, where an axis of {n} entries has another size"


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
            if number > 1 or number not in _COMMON:
                made.setdefault(number, _because(shown, n))
    return made


def _number(op: Const, made: Mapping[float, str]) -> str:
    """How a constant that is one number is made of sizes; nothing if it isn't."""
    data = op.data
    if data.size != 1 or data.dtype.kind not in "iuf":
        return ""
    number = abs(float(data.reshape(())))
    if number in _COMMON:
        return ""
    near = float(np.finfo(data.dtype).eps) * 4 if data.dtype.kind == "f" else 0.0
    return next((f"is {why}" for m, why in made.items() if abs(m - number) <= near * m), "")


def _numbers(attribute: Any) -> Iterator[int]:
    """The integers in an attribute."""
    stack: list[Any] = [attribute]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(cast(tuple[Any, ...], item))
        elif isinstance(item, int) and not isinstance(item, bool | Sized):
            yield item


def _untied(axes: Axes, sizes: Sizes, made: Mapping[float, str]) -> Iterator[Guess]:
    """Dimensions that were made, of as many entries as come of a size, and that nothing ties to an axis."""
    seen: set[Axis] = set()
    used: set[Axis] = set()
    for (value, i), copies in axes.copies.items():
        used.update(axis.root() for axis in copies)
        for term in axes.at(value, i):
            yield from _loose(value, term, sizes, made, seen)
    inner = set(_with_parts(used))
    outputs = {*axes.graph.outputs.values(), *axes.graph.updates.values()}
    for value in axes.graph.values:
        static = value in axes.static and value not in outputs
        for term in [t for terms in axes.of(value) for t in terms]:
            # what isn't used outside was summed, or picked from, among constants
            own = tuple(a for a in term if a not in inner) if static else term
            yield from _loose(value, own, sizes, made, seen)


def _loose(value: Value, term: Term, sizes: Sizes, made: Mapping[float, str], seen: set[Axis]) -> Iterator[Guess]:
    for axis in resolve(term):
        why = made.get(float(axis.size))
        if why is None or axis in seen or sizes.known.get(axis, axis.size) != axis.size:
            continue
        counted = [a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in resolve(p)]
        of_loose = bool(counted) and all(a.kind in _LOOSE and a not in sizes.told for a in counted)
        if axis.kind in _LOOSE and not axis.rigid and (axis not in sizes.told or of_loose):
            seen.add(axis)
            yield Guess(value, (axis,), f"has {axis.size} entries, and nothing ties them to an axis: {why}")


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
