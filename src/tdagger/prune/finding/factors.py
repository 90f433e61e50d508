"""Factors: what dimensions are made of, entry by entry, and which entries of which factors are the same.

The axis algebra (:mod:`tdagger.analysis.axes.algebra`) tells *sizes* apart: two axes of it are one if they have as many
entries. Here two factors are one only if their entries are the same ones in the same order, since what is removed is
entries: a roll keeps an axis and moves its entries. A dimension is a *term*, the product of its factors, outermost
first; dimensions of size 1 have none. A factor that meets a product is split into it, everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tdagger.analysis.axes.terms import Refined, resolve, size_of
from tdagger.op import Array, Value


class Block(NamedTuple):
    """Why no entry of a factor can be removed: the value of the network at which that is so, and what it does."""

    value: Value | None
    how: str


class Factor(Refined):
    """So many entries, each of which goes or stays. Those found the same are one: ask :meth:`root`.

    >>> a, b = Factor(6), Factor(6)
    >>> equate(a, b)
    >>> a.root() is b.root()
    True
    """

    __slots__ = ("block", "number", "size")

    def __init__(self, size: int, block: Block | None = None) -> None:
        super().__init__()
        self.size = size
        #: Why it stays whole; None if nothing says so.
        self.block = block
        #: Of its first entry, among all entries there are (see :mod:`tdagger.prune.finding.units`).
        self.number = -1


#: One dimension: the product of factors, outermost first.
Term = tuple[Factor, ...]
Terms = tuple[Term, ...]


class Tie(NamedTuple):
    """Entries ``places`` of a factor (all of them if None) are those of a term, one after the other."""

    factor: Factor
    places: Array | None
    term: Term


def block(term: Term, why: Block) -> None:
    """No entry of any factor of a term can be removed."""
    for factor in resolve(term):
        factor.block = factor.block or why


def equate(a: Factor, b: Factor) -> None:
    """Two factors of one size become one."""
    a, b = a.root(), b.root()
    if a is b:
        return
    if a.factors or b.factors:
        align(list(resolve((a,))), list(resolve((b,))), None)
        return
    if a.number < 0 <= b.number:  # one that is counted stands for both
        a, b = b, a
    b.parent = a
    a.block = a.block or b.block


def divide(factor: Factor, inner: int) -> Term:
    """Split a factor into two, the inner one of ``inner`` entries, everywhere."""
    factor.factors = (Factor(factor.size // inner, factor.block), Factor(inner, factor.block))
    return factor.factors


def align(a: list[Factor], b: list[Factor], value: Value | None) -> None:
    """Make two products one, from the inside out, splitting factors where needed.

    Where they have no common refinement, neither can lose entries: that is said at ``value``.
    """
    if any(f.size == 0 for f in (*a, *b)):
        block((*a, *b), Block(value, "has no entries"))
        return
    while a and b:
        x, y = a.pop().root(), b.pop().root()
        if x.factors or y.factors:  # split a moment ago
            a += resolve((x,))
            b += resolve((y,))
        elif x is y:
            continue
        elif x.size == y.size:
            equate(x, y)
        elif x.size % y.size == 0:
            outer, inner = divide(x, y.size)
            equate(inner, y)
            a.append(outer)
        elif y.size % x.size == 0:
            outer, inner = divide(y, x.size)
            equate(inner, x)
            b.append(outer)
        else:
            sides = " and ".join(" x ".join(str(f.size) for f in s) for s in ([*a, x], [*b, y]))
            block((*a, x, *b, y), Block(value, f"takes a dimension as {sides}, which have no common refinement"))
            return


def split(term: Term, sizes: list[int], value: Value) -> list[Term]:
    """The factors of a dimension that ``sizes`` (their product) are made of, splitting them where needed."""
    if 0 in sizes:
        block(term, Block(value, "has no entries"))
        return [() if n == 1 else (Factor(n, Block(value, "has no entries")),) for n in sizes]
    rest = list(resolve(term))
    pieces: list[Term] = [() for _ in sizes]
    for i in reversed(range(len(sizes))):
        need = sizes[i]
        while need > 1 and rest:
            factor = rest.pop().root()
            if factor.factors:
                rest += resolve((factor,))
            elif need % factor.size == 0:
                pieces[i] = (factor, *pieces[i])
                need //= factor.size
            elif factor.size % need == 0:
                rest += divide(factor, need)
            else:
                why = Block(value, f"splits {' x '.join(str(f.size) for f in resolve(term))} into {_times(sizes)}")
                block(term, why)
                return [() if n == 1 else (Factor(n, why),) for n in sizes]
    return pieces


def columns(term: Term, places: Array | None = None) -> Array:
    """For each entry of a dimension the numbers of the entries of its factors (a resolved term): ``[n, factors]``."""
    out: list[Any] = []
    n, after = size_of(term), size_of(term)
    if not n:
        return np.zeros((0, len(term)), np.int64)
    for factor in term:
        after //= factor.size
        at = np.arange(n, dtype=np.int64) // after % factor.size
        out.append(factor.number + (at if places is None else at[places]))
    return np.stack(out, 1) if out else np.zeros((n if places is None else len(places), 0), np.int64)


def _times(sizes: list[int]) -> str:
    return " x ".join(str(int(n)) for n in sizes)
