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
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.analysis.axes import Axes, Axis, Guess, resolve
from tdagger.analysis.sizes import Sizes, assumed
from tdagger.graph import result_types
from tdagger.op import Term, Value
from tdagger.ops.source import Const, Iota
from tdagger.types import Sized

#: What Python makes of a size as a number of entries.
_WHOLE: dict[str, Callable[[int], int]] = {
    "{n}": lambda n: n,
    "{n} - 1": lambda n: n - 1,
    "{n} // 2": lambda n: n // 2,
    "({n} + 1) // 2": lambda n: (n + 1) // 2,
    "{n} + 1": lambda n: n + 1,
    "2 * {n}": lambda n: 2 * n,
}

#: What else it makes of it; and of any of these, as a number.
_MADE: dict[str, Callable[[int], float]] = {
    **_WHOLE,
    "{n} / 2": lambda n: n / 2,
    "({n} - 1) / 2": lambda n: (n - 1) / 2,
    "{n} ** 2": lambda n: n**2,
}
_OF: dict[str, Callable[[float], float]] = {
    "{}": float,
    "1 / ({})": lambda x: 1 / x,
    "2 / ({})": lambda x: 2 / x,
    "sqrt({})": math.sqrt,
    "1 / sqrt({})": lambda x: 1 / math.sqrt(x),
    "log({})": math.log,
}

#: What is made of 1: of the rest the same comes of anything.
_OF_ONE = frozenset({("{n}", "{}"), ("{n} + 1", "log({})")})

#: Attributes that hold numbers of entries as the source gave them.
_COUNTS = frozenset({"kernel", "widths", "shift", "shifts", "k", "window"})

#: Kinds of axes that nothing but constants has.
_LOOSE = frozenset({"iota", "repeated", "const", "banded", "random", "interpolated", "bins"})

#: Numbers that are everywhere as exponents, and anywhere: these are doubtful only beside an axis that changes.
_POWERS = frozenset({0.5, 2.0, 3.0})
_COMMON = frozenset({0.5, 1.0, 2.0})

#: Where 0 is hardly ever meant as such.
_WITHOUT_ZERO = frozenset({"multiply", "add"})

#: Ops whose second argument is indices.
_INDEXED = frozenset({"gather", "scatter"})

#: Ops that only spread a number over more entries.
_SPREADS = frozenset({"group", "repeat", "cast", "stop_gradient"})

#: Of an axis of more entries, 1 and 2 as an attribute are taken as said.
_FEW = 5

#: Of a value of more dimensions only the product of all is looked for among numbers.
_MOST = 6

#: So many ops back something that a number is used with is looked for.
_BACK = 3
_NEAR = 64


class LeftOut(NamedTuple):
    """Something that was done to a value and changed nothing at these sizes: of which dimensions that isn't sure."""

    value: Value
    dimensions: tuple[int, ...]
    what: str


def with_left_out(axes: Axes, left_out: Iterable[LeftOut]) -> Axes:
    """The axes, with what was left out of their graph among the guesses."""
    known = set(axes.graph.values) if left_out else set[Value]()
    for value, dimensions, what in left_out:
        for i in dimensions if value in known else ():
            axes.guesses.append(Guess(value, axes[value][i], what))
    return axes


def doubts(axes: Axes, sizes: Sizes, numbers: bool = True) -> Iterator[Guess]:
    """What is doubtful where axes have these sizes: the value, the dimension, and why; nothing if all is known.

    Without ``numbers`` those in which no cost shows are left out: factors, terms of sums.
    """
    changed = {a for a in sizes.known if sizes.known[a] != a.size}
    if not changed:
        return
    yield from assumed(axes, sizes)
    of = _sizes_of(axes, changed)
    entries = {float(function(n)): _because(shown, n) for n in sorted(of) for shown, function in _WHOLE.items()}
    for value in axes.graph.values:
        if why := _count(axes, value, changed) or _bound(value, entries):
            yield Guess(value, (), why)
    if numbers:
        yield from _numbers_made(axes, changed, of)
    if any(a.size == 1 for a in changed):
        yield from _single(axes, changed)
    yield from _untied(axes, sizes, {n: why for n, why in entries.items() if n > 1})


def _count(axes: Axes, value: Value, changed: set[Axis]) -> str:
    """Which attribute of an op holds a number of entries that is made of the size of one of its dimensions."""
    attributes = value.op.attributes
    for name in attributes.keys() & _COUNTS:
        given = {n for n in _numbers(attributes[name]) if n > 0}
        for arg in value.args if given else ():
            for terms, type_ in zip(axes.of(arg), result_types(arg), strict=True):
                own = {n for t, n in zip(terms, type_.shape, strict=True) if any(a in changed for a in t)}
                for n in own:
                    numbers = {k for k in given if k > 2 or k == n or (n <= _FEW and name != "kernel")}
                    for shown, function in _WHOLE.items():
                        if function(n) in numbers:
                            return f"has {name}={attributes[name]}, {_because(shown, n)}"
    return ""


def _bound(value: Value, entries: Mapping[float, str]) -> str:
    """Which bound of a slice, of whatever axis, is made of the size of an axis that changes."""
    if value.op.name != "slice":
        return ""
    for bounds, n in zip(value.op.attributes["bounds"], value.args[0].shape, strict=True):
        start, stop, _ = bounds or (0, 0, 1)
        for bound in (start, stop) if stop - start > 1 else ():  # one entry is picked, which has guesses of its own
            if 2 < bound < n and not isinstance(bound, Sized) and bound in entries:
                return f"takes entries from or to {bound}, {entries[bound]}"
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
    return found - {0}


class _Made:
    """The numbers that are made of sizes: how, and of which."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = frozenset(sizes)
        found: dict[float, tuple[str, set[int]]] = {}
        if 1 in self.sizes:
            found[0.0] = ("1 - 1 or 1 // 2, where an axis of 1 entry has another size", {1})
        for n in sorted(sizes):
            for inner, whole in _MADE.items():
                for outer, function in _OF.items() if whole(n) > 0 else ():
                    if n > 1 or (inner, outer) in _OF_ONE:
                        shown = inner if outer == "{}" else outer.format(inner)
                        found.setdefault(float(function(whole(n))), (_because(shown, n), set()))[1].add(n)
        self.found = sorted(found.items())
        self.numbers = [n for n, _ in self.found]

    def of(self, number: float, near: float) -> tuple[str, set[int]] | None:
        """How a number is made, and of which sizes; None if it isn't. ``near``: the relative error it may have."""
        i = bisect_left(self.numbers, number * (1 - near))
        if i == len(self.numbers) or self.numbers[i] > number * (1 + near):
            return None
        return self.found[i][1]


def _numbers_made(axes: Axes, changed: set[Axis], sizes: set[int]) -> Iterator[Guess]:
    """The constants of one number that are made of sizes that change."""
    made = _Made(sizes)
    spread: dict[Value, Value] = {}  # a constant that was only broadcast, and the constant
    seen: set[Value] = set()
    for value in axes.graph.values:
        if isinstance(value.op, Const):
            if value.type.size == 1 and value.op.data.dtype.kind in "iuf":
                spread[value] = value
        elif len(value.args) == 1 and value.args[0] in spread and value.op.name in _SPREADS:
            spread[value] = spread[value.args[0]]
        else:
            for i, arg in enumerate(value.args):
                if (
                    arg in spread
                    and spread[arg] not in seen
                    and (why := _number(axes, value, i, spread[arg], made, changed))
                ):
                    seen.add(spread[arg])
                    yield Guess(spread[arg], (), f"is {why}")


def _number(axes: Axes, value: Value, place: int, constant: Value, made: _Made, changed: set[Axis]) -> str:
    """How a constant that is one number is made of sizes; nothing if it isn't."""
    data = cast(Const, constant.op).data
    number = abs(float(data.reshape(())))
    kind = value.op.attributes.get("kind")
    if place == 1 and kind == "pow" and number in _POWERS:
        return ""
    if not number and (1 not in made.sizes or kind not in _WITHOUT_ZERO):
        return ""
    near = float(np.finfo(data.dtype).eps) * 4 if data.dtype.kind == "f" else 0.0
    near_by = _near(value)
    found = made.of(number, near)
    if found is not None:
        why, sizes = found
        if number not in _COMMON and number:
            return why
        if value in axes.static:  # a number among constants: beside as many of them
            beside = any(n in sizes and n > 1 for arg in value.args for n in arg.shape)
        else:
            beside = any(a in changed for v in near_by for terms in axes.of(v) for t in terms for a in resolve(t))
        if beside:
            return why
    for other in near_by if number else ():
        for product in _products(axes, other, changed):
            if any(abs(m - number) <= near * m for m in (product, 1 / product)):
                return f"made of {product}, a product of sizes of {other!r} of which some change"
    return ""


def _near(value: Value) -> list[Value]:
    """A value and what it is made of, some ops back, not counting those of one argument: sums, signs, roots."""
    found = level = [value]
    for _ in range(_BACK):
        level = [a for v in level for a in v.args[:_MOST]]
        for v in level:
            while len(v.args) == 1 and len(found) < _NEAR:
                found.append(v)
                v = v.args[0]
            found.append(v)
    return list(dict.fromkeys(found))


def _products(axes: Axes, value: Value, changed: set[Axis]) -> Iterator[int]:
    """The products of some sizes of a value of which some change."""
    for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
        moves = [any(a in changed for a in resolve(t)) for t in terms]
        if not type_.size or not any(moves):
            continue
        yield type_.size
        dims = [(n, m) for n, m in zip(type_.shape, moves, strict=True) if n > 1 or m]
        for count in range(2, len(dims) + 1 if len(dims) <= _MOST else 0):
            for some in combinations(dims, count):
                if any(m for _, m in some):
                    yield math.prod(n for n, _ in some)


def _numbers(attribute: Any) -> Iterator[int]:
    """The integers in an attribute."""
    stack: list[Any] = [attribute]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(cast(tuple[Any, ...], item))
        elif isinstance(item, int) and not isinstance(item, bool | Sized):
            yield item


def _single(axes: Axes, changed: set[Axis]) -> Iterator[Guess]:
    """Constants of one entry where an axis of one entry changes: there may be as many as that axis has."""
    ones: set[Value] = set()
    outputs = {*axes.graph.outputs.values(), *axes.graph.updates.values()}
    for value in axes.graph.values:
        # what an index is made of, beside the shape of what it goes into
        made = value.args if value in axes.static else value.args[1:] if value.op.name == "linear_index" else ()
        if (isinstance(value.op, Const | Iota) and 1 in value.shape) or any(a in ones for a in made):
            ones.add(value)
        if value in ones and value in outputs:
            yield Guess(value, (), "is an output with 1 entry, where an axis of 1 entry has another size")
        if value in axes.static or value in ones:
            continue
        for i, arg in enumerate(value.args):
            if arg not in ones:
                continue
            index = i == 1 and value.op.name in _INDEXED
            for terms, type_ in zip(axes.of(value), result_types(value), strict=True):
                along = type_.shape == arg.shape and any(
                    n == 1 and any(a in changed for a in resolve(t)) for t, n in zip(terms, type_.shape, strict=True)
                )
                if index or along:
                    yield Guess(arg, (), "has 1 entry, where an axis of 1 entry has another size")


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
        counted = [a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in resolve(p)]
        of_loose = bool(counted) and all(a.kind in _LOOSE and a not in sizes.told for a in counted)
        if axis in seen or axis.rigid or sizes.known.get(axis, axis.size) != axis.size:
            continue
        own = [axis] if axis.kind in _LOOSE and (axis not in sizes.told or of_loose) else []
        for a in [*own, *(counted if of_loose and axis.kind == "line" else [])]:
            why = made.get(float(a.size))
            if why is not None:
                seen.add(axis)
                yield Guess(value, (axis,), f"has {a.size} entries, and nothing ties them to an axis: {why}")
                break


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
