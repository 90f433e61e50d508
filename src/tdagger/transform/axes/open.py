"""A network whose free axes have no numbers: sizes are formulas in them (:class:`tdagger.types.Size`).

It is what a resize gives at some point, with the formula of every size beside its number there. What an op's rules
compute of sizes stays a formula; where they don't, types don't fit and the axes are refused, as by a resize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import Sizes, solve
from tdagger.analysis.formulas.polynomial import Point, Symbol, divisors, symbols_of, variable
from tdagger.analysis.formulas.symbolic import Condition, FreeSizes
from tdagger.errors import AxisError
from tdagger.graph import Graph
from tdagger.transform.axes.least import few_enough, long_enough
from tdagger.transform.axes.resize import at_sizes
from tdagger.transform.networks import Origins, changed, place
from tdagger.types import sizes_as


class Opened(NamedTuple):
    """A graph with formulas for sizes, where its values came from, and what sizes must fulfil for it to hold."""

    graph: Graph
    origins: Origins
    conditions: tuple[Condition, ...]


@lru_cache(1024)
def symbol_of(name: str) -> Symbol:
    """One for a name, so that the types of one network are those of the next."""
    return Symbol(name, 0)


def opened(named: NamedAxes, names: Sequence[str], origins: Origins) -> Iterator[Opened]:
    """The graph with some axes open, at two points where all of these have other sizes.

    What is said by numbers differs between the two. AxisError if the axes can't all be free.
    """
    free, conditions, symbols = solved(named, names)
    own = Point({s: named.sizes[n] for n, s in symbols.items()})
    conditions += _other_at(named, free)
    for point in two_points({s: named.sizes[n] for n, s in symbols.items()}, conditions):
        sizes = Sizes()
        sizes.known = {a: sizes_as(n, point.of(n)) for a, n in free.known.items()}
        graph, found = changed(at_sizes(named.axes, sizes, place(origins)), origins)
        asked = [d for c in (*conditions, *long_enough(graph, own)) for d in (*_divided(c), c)]
        yield Opened(graph, found, tuple(dict.fromkeys(asked)))


def _divided(condition: Condition) -> Iterator[Condition]:
    """That what a condition divides by isn't 0, which is asked before it."""
    return (Condition(n, "other", condition.message) for n in divisors(condition.number))


def _other_at(named: NamedAxes, free: Sizes) -> Iterator[Condition]:
    """That what is made of sizes isn't as many entries as an op does otherwise with.

    Where an axis has 1 entry, :func:`candidates` says that.
    """
    for guess in named.axes.guesses:
        n = 0 if guess.only is None else free.of(guess.term)
        if guess.only is None or isinstance(n, int) or (guess.only == 1 and n in map(variable, symbols_of(n))):
            continue
        if n.terms.get((), 0) <= guess.only or min(n.terms.values()) < 0:  # else there are always more
            yield Condition(n - guess.only, "other", f"{n} isn't {guess.only}: {guess.value!r} {guess.what}")


def solved(named: NamedAxes, names: Sequence[str]) -> tuple[Sizes, list[Condition], dict[str, Symbol]]:
    """The sizes of all axes where some are open, what these must fulfil, and the symbol of each."""
    conditions: list[Condition] = []
    symbols = {n: symbol_of(n) for n in names}
    free = solve(named.axes, {named.term(n): variable(s) for n, s in symbols.items()}, FreeSizes(conditions))
    conditions += few_enough(named.axes, free)
    return free, conditions, symbols


def two_points(sizes: Mapping[Symbol, int], conditions: Sequence[Condition]) -> tuple[Point, Point]:
    """A point where every axis is a multiple of what it was, and one where it is near that, but where none can be.

    Where an axis can't have more entries, it has fewer there. AxisError if the conditions have no such points.
    """
    found: list[dict[Symbol, int]] = [{}, {}]
    for symbol, size in sizes.items():
        multiples, near = [size * k for k in range(2, 9)], range(size + 1, size + TRIED)
        fewer = range(size - 1, max(size - TRIED, 1), -1)
        for at, tried in zip(found, ((*multiples, *near), (*near, *multiples)), strict=True):
            for n in (*tried, *fewer):
                here = Point({**sizes, **at, symbol: n})
                if n > 1 and n != found[0].get(symbol) and all(c.holds(here) for c in conditions):
                    at[symbol] = n
                    break
            else:
                more = Point({**sizes, **at, symbol: size + 1})
                asked = next((f": {c.message}" for c in conditions if not c.holds(more)), "")
                raise AxisError(
                    f"axis {symbol} of {size} entries has no two other sizes that fulfil what is asked of it{asked}"
                )
    return Point(found[0]), Point(found[1])


#: Among so many sizes one is looked for that fulfils what is asked of it.
TRIED = 64
