"""How many entries every axis has when some have others: the equations of the axes, solved.

>>> import tdagger as td
>>> from tdagger.analysis.axes.algebra import Axes
>>> x = td.input("x", (2, 6))
>>> axes = Axes(td.Graph({"x": x}, {"y": td.concat([x, x], 1)}))
>>> (b,), (n,) = axes[x]
>>> sizes = solve(axes, {(n,): 10})
>>> [sizes.of(t) for t in axes.results[0]]
[2, 20]
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from heapq import heappop, heappush
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.notation import show_term
from tdagger.analysis.axes.terms import Axis, Guess, Line, resolve
from tdagger.errors import AxisError
from tdagger.op import Term


class Sizes:
    """The number of entries of every axis that stands for itself. ``one`` is the number 1 of their kind."""

    def __init__(self, one: Any = 1) -> None:
        self.known: dict[Axis, Any] = {}
        self.one = one
        #: The axes whose numbers something firm told.
        self.told: set[Axis] = set()
        #: What was assumed where a dimension was split and nothing tells which factor grows.
        self.kept: list[Guess] = []

    def of(self, term: Term) -> Any:
        """The number of entries of a dimension."""
        out = self.one
        for axis in resolve(term):
            out = out * self.known[axis]
        return out

    def in_use(self, term: Term, uses: Mapping[Axis, Any]) -> Any:
        """The number of entries of a dimension of a constant, or of what is made of constants alone, in one use.

        ``uses`` has the numbers of some axes there (see ``Axes.copies``); others follow from these by their lines.
        """
        found: dict[Axis, Any] = {}

        def size(axis: Axis) -> Any:
            if axis in uses:
                return uses[axis]
            if axis not in found:
                found[axis] = self.known.get(axis, axis.size)  # what is made of itself finds this
                line = min(axis.lines, key=lambda line: not line.firm, default=None)
                if line is not None:
                    parts = [p if isinstance(p, int) else math.prod(map(size, resolve(p))) for p in line.parts]
                    found[axis] = (sum(parts) + line.offset) // line.divisor
            return found[axis]

        return math.prod(map(size, resolve(term)))

    def has(self, term: Term) -> bool:
        """Whether every axis of a dimension is known."""
        return all(axis in self.known for axis in resolve(term))

    def line(self, line: Line) -> Any:
        """The number of entries that a line has, if all its parts are known; else None."""
        total = self.one * line.offset
        for part in line.parts:
            if isinstance(part, int):
                total = total + part
            elif self.has(part):
                total = total + self.of(part)
            else:
                return None
        total = total if line.divisor == 1 else total // line.divisor
        return max(total, 0) if isinstance(total, int) else total

    def divided(self, value: Any, known: Any, equation: Equation) -> Any:
        """The factor that is missing where a dimension has ``value`` entries and its other factors ``known``."""
        if known == 0 or value % known:
            raise AxisError(_conflict(equation, value, self))
        return value // known

    def check(self, value: Any, equation: Equation) -> None:
        """AxisError if a dimension has to have ``value`` entries and has another number."""
        if value != self.of(equation.term):
            raise AxisError(_conflict(equation, value, self))


class Equation(NamedTuple):
    """``term`` has ``value`` entries: a number, or those of a line or another term."""

    term: Term
    value: Any

    @property
    def axes(self) -> Iterator[Axis]:
        """Those of both sides."""
        yield from self.term
        if isinstance(self.value, Line):
            for part in self.value.parts:
                yield from () if isinstance(part, int) else resolve(part)
        elif isinstance(self.value, tuple):
            yield from resolve(cast(Any, self).value)

    def evaluate(self, sizes: Sizes) -> Any:
        """The number, None if it isn't known yet."""
        if isinstance(self.value, Line):
            return sizes.line(self.value)
        is_term = isinstance(self.value, tuple)
        return self.value if not is_term else sizes.of(self.value) if sizes.has(self.value) else None


def solve(axes: Axes, wanted: Mapping[Term, Any], sizes: Sizes | None = None) -> Sizes:
    """The size of every axis where some dimensions get other sizes; AxisError says which can't follow, and why.

    Axes of parameters and buffers keep theirs. Where a dimension was split and nothing tells which factor grows, the
    innermost keeps its size (windows do). What nothing tells of keeps its size. ``sizes`` is where they go: numbers of
    another kind than int have a class of their own.
    """
    sizes = Sizes() if sizes is None else sizes
    leaves = list(dict.fromkeys(a for axis in axes.all for a in resolve((axis,))))
    asked = [Equation(resolve(t), n) for t, n in wanted.items()]
    firm, soft = equations(axes)
    told = {a for equation in (*asked, *firm, *soft) for a in equation.term}
    fixed = [a for a in leaves if a.rigid or a.kind == "kernel" or a not in told]
    for axis in fixed:
        sizes.known.setdefault(axis, axis.size)
    meant = {axis for equation in asked for axis in equation.term}
    own = {a for terms in axes.inputs for t in terms for a in resolve(t)} - meant
    hard = _Following([*asked, *firm], sizes, meant, own)
    hard.all()
    for axis in leaves:
        if axis in own:
            sizes.known.setdefault(axis, axis.size)
    hard.all()
    stated = {axis for term in axes.stated for axis in resolve(term)}
    while (inner := hard.undecided(stated)) is not None:
        sizes.known[inner] = inner.size
        hard.propagate(hard.places[inner])
    sizes.told = set(sizes.known)
    sizes.told.difference_update(fixed)
    _Following([*soft, *firm], sizes).all()
    for axis in leaves:
        sizes.known.setdefault(axis, axis.size)
    for equation in [*asked, *firm]:
        value = equation.evaluate(sizes)
        if value is not None:
            sizes.check(value, equation)
    return sizes


def assumed(axes: Axes, sizes: Sizes) -> list[Guess]:
    """What was guessed of a graph at other sizes: see :mod:`tdagger.analysis.axes.doubts`, which has all of it.

    Of ``axes.guesses`` those whose dimension has another size, or is made of one that has (``n // 2`` may be the same),
    and products that were split without saying which factor grows.
    """
    moved: set[Axis] = set()
    for axis in axes.all:  # parts were made before what is made of them
        parts = [a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in resolve(p)]
        if any(sizes.known.get(a, a.size) != a.size for a in resolve((axis,))) or not moved.isdisjoint(parts):
            moved.update(resolve((axis,)))
    changed = [g for g in axes.guesses if not moved.isdisjoint(resolve(g.term)) and g.only in (None, sizes.of(g.term))]
    return [*sizes.kept, *(g for g in changed if not _is_told(g, sizes))]


def _is_told(guess: Guess, sizes: Sizes) -> bool:
    """Whether something firm tells what was guessed; what was taken for the dimension itself tells nothing."""
    by = set(resolve(guess.told_by))
    return bool(by) and by.isdisjoint(resolve(guess.term)) and sizes.told.issuperset(by)


def equations(axes: Axes) -> tuple[list[Equation], list[Equation]]:
    """What the axes of a graph must hold to, and what they hold to where nothing else tells."""
    firm = [Equation(resolve(left), resolve(right)) for left, right in axes.equal]
    soft: list[Equation] = []
    for axis in axes.all:
        for line in axis.lines if axis.parent is None else ():
            (firm if line.firm else soft).append(Equation(resolve((axis,)), line))
    return firm, soft


class _Following:
    """Finds what follows from what is known. Equations come in the order of the graph.

    Each is looked at again only where the size of one of its axes was found.
    """

    def __init__(
        self, equations: list[Equation], sizes: Sizes, meant: Set[Axis] = frozenset(), own: Set[Axis] = frozenset()
    ) -> None:
        self.equations = equations
        self.sizes = sizes
        #: The axes that are given other sizes, and those of inputs, or parts of them, that nobody asked of.
        self.meant, self.own = meant, own
        #: The equations that an axis is in.
        self.places: dict[Axis, list[int]] = {}
        for i, equation in enumerate(equations):
            for axis in dict.fromkeys(equation.axes):
                self.places.setdefault(axis, []).append(i)
        #: A heap of products whose number of entries is known, but not those of several factors.
        self._products: list[int] = []

    def all(self) -> None:
        """Look at every equation."""
        self.propagate(range(len(self.equations)))

    def propagate(self, places: Iterable[int]) -> None:
        """Look at some equations, and at all that follows from them."""
        queue = deque(places)
        while queue:
            place = queue.popleft()
            equation = self.equations[place]
            unknown = self._unknown(equation)
            value = equation.evaluate(self.sizes) if unknown else None
            if value is not None and len(unknown) > 1:
                heappush(self._products, place)
            elif value is not None:
                told = tuple(a for a in equation.term if a in self.sizes.known)
                known = self.sizes.of(told)
                if self._would_shrink(equation, value, unknown[0], told):
                    raise AxisError(_conflict(equation, value, self.sizes))
                self.sizes.known[unknown[0]] = self.sizes.divided(value, known, equation)
                queue.extend(self.places[unknown[0]])

    def _would_shrink(self, equation: Equation, value: Any, left: Axis, told: Term) -> bool:
        """Whether an input's axis that nobody asked of would make room for another: their product stays what it is."""
        if left not in self.own or isinstance(equation.value, int):
            return False
        stays = value == math.prod([a.size for a in equation.term])
        if not stays or self.sizes.of(told) == math.prod([a.size for a in told]):
            return False
        return not any(a in self.meant for a in equation.axes if a not in equation.term)

    def undecided(self, stated: set[Axis]) -> Axis | None:
        """The innermost unknown factor of the first product whose number of entries is known; ``stated`` ones first."""
        while self._products:
            equation = self.equations[heappop(self._products)]
            unknown = self._unknown(equation)
            if unknown:
                said = [axis for axis in unknown if axis in stated]
                if not said and equation.evaluate(self.sizes) != math.prod([a.size for a in equation.term]):
                    factors = " x ".join(str(a.size) for a in equation.term)
                    what = f"is split into {factors}, and nothing tells which of them grows: the last is kept"
                    self.sizes.kept.append(Guess(None, equation.term, what))
                return (said or unknown)[-1]
        return None

    def _unknown(self, equation: Equation) -> list[Axis]:
        return [a for a in equation.term if a not in self.sizes.known]


def _conflict(equation: Equation, value: Any, sizes: Sizes) -> str:
    term = resolve(equation.term)
    rigid = sorted({a.rigid for a in term if a.rigid})
    old = " x ".join(str(a.size) for a in term)
    new = " x ".join(str(sizes.known.get(a, "?")) for a in term)
    if rigid:
        return f"the dimension {show_term(term)} of {', '.join(rigid)} has {old} entries and can't have {value}"
    return f"the dimension {show_term(term)}, {old} entries, would need {value} but is made of {new}"
