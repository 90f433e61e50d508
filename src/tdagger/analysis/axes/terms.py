"""What dimensions are made of: axes, the lines that say how many entries an axis has, and terms, products of axes."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

from tdagger.op import Term, Value


class Refined:
    """What may be found to be one with another of its kind, or be split into ``factors``, everywhere."""

    __slots__ = ("factors", "parent")

    def __init__(self) -> None:
        self.parent: Self | None = None
        self.factors: tuple[Self, ...] = ()

    def root(self) -> Self:
        """The one that stands for all those found to be one with this."""
        one = self
        while one.parent is not None:
            if one.parent.parent is not None:
                one.parent = one.parent.parent
            one = one.parent
        return one


class Axis(Refined):
    """One axis: its size, and what is known of it. Axes found equal are one: ask their :meth:`root`.

    ``kind`` says where it came from: input, parameter, buffer, const, iota, repeated, kernel, one, line ...;
    ``rigid`` names the parameter or buffer whose shape holds it; ``factors`` are what it was split into;
    ``lines`` tell its number of entries.
    """

    __slots__ = ("kind", "lines", "name", "rigid", "size")

    def __init__(self, size: int, kind: str, rigid: str = "") -> None:
        super().__init__()
        self.size = size
        self.kind = kind
        self.rigid = rigid
        self.lines: list[Line] = []
        self.name = ""

    def __repr__(self) -> str:
        return self.name or f"{self.kind}:{self.size}"


class Line(NamedTuple):
    """A number of entries: ``(sum of parts + offset) // divisor``. Parts lie end to end; an int is constant entries.

    Not ``firm``: a guess (a slice of fixed length), taken only where nothing else tells.
    """

    parts: tuple[Term | int, ...]
    offset: int = 0
    divisor: int = 1
    firm: bool = True

    @property
    def is_sum(self) -> bool:
        """Whether it is just its parts end to end."""
        return self.divisor == 1 and not self.offset


class Mark(NamedTuple):
    """An op that doesn't just carry an axis: the value, the term of the dimension, and what it does."""

    value: Value
    term: Term
    how: str


class Guess(NamedTuple):
    """What the program doesn't tell: a number that may have been computed from the size of ``term``, or may not.

    It is taken to stay. ``told_by`` is a dimension whose size, where something firm tells it, takes the guess away.
    ``only``: it is a guess where the dimension gets so many entries. ``keeps``: it is about where entries lie, or
    how many are added, and none of a dimension that is only carried is left out whatever is meant.
    """

    value: Value | None
    term: Term
    what: str
    told_by: Term = ()
    only: int | None = None
    keeps: bool = False


class Opaque(NamedTuple):
    """Two views of one dimension that have no common refinement, and where they met."""

    value: Value
    term: Term
    other: Term


def resolve(term: Term) -> Term:
    """A term in axes that stand for themselves: found equal, split where they were split.

    >>> a = Axis(6, "input")
    >>> a.factors = (Axis(2, "part"), Axis(3, "part"))
    >>> resolve((a,))
    (part:2, part:3)
    """
    if len(term) == 1:
        axis: Refined = term[0]
        if axis.parent is None and not axis.factors:
            return term
    out: list[Refined] = []
    stack: list[Refined] = list(reversed(term))
    while stack:
        axis = stack.pop().root()
        if axis.factors:
            stack.extend(reversed(axis.factors))
        else:
            out.append(axis)
    return tuple(out)


def size_of(term: Term) -> int:
    """How many entries a dimension has."""
    return math.prod([a.size for a in term])


def firm_line(term: Term) -> Line | None:
    """What tells the number of entries of a single axis."""
    if len(term) != 1:
        return None
    return next((line for line in term[0].lines if line.firm), None) if term[0].kind == "line" else None


def sources_of(term: Term) -> set[Axis]:
    """The axes of inputs that the number of entries of a dimension comes from."""
    found: set[Axis] = set()
    seen: set[Axis] = set()
    stack = list(resolve(term))
    while stack:
        axis = stack.pop()
        if axis in seen:
            continue
        seen.add(axis)
        if axis.kind == "input":
            found.add(axis)
        else:
            stack += [a for line in axis.lines for p in line.parts if not isinstance(p, int) for a in resolve(p)]
    return found


def sum_line(term: Term) -> Line | None:
    """The firm line of a single axis that is its parts end to end, whole."""
    if len(term) != 1:
        return None
    return next((line for line in term[0].lines if line.firm and line.divisor == 1), None)


def without_ones(term: Term) -> Term:
    """A term without the axes of size 1 that were added beside others (a convolution's one group)."""
    return tuple([a for a in term if a.kind != "one"]) if len(term) > 1 else term


def ones_counted(term: Term) -> list[Axis]:
    """The axes of 1 entry that are factors of what a dimension is counted from: a view may have a place for one."""
    found: list[Axis] = []
    seen: set[Axis] = set()
    stack = list(term)
    while stack:
        axis = stack.pop()
        if axis in seen:
            continue
        seen.add(axis)
        for part in [resolve(p) for line in axis.lines for p in line.parts if not isinstance(p, int)]:
            stack += part
            found += [a for a in part if a.size == 1 and len(part) > 1]
    return list(dict.fromkeys(found))
