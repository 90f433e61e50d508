"""Sizes at which a source is asked whether it does what a graph says: beyond what an axis has, few and many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.formulas.polynomial import Point, Symbol
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.transform.axes.open import TRIED, solved, symbol_of


def far(named: NamedAxes, names: Sequence[str], also: Iterable[Condition] = ()) -> dict[str, int] | None:
    """For every axis a size beyond twice its own, no two alike: more by a prime number, where one fits.

    So it leaves another rest than its own by all numbers that it may be padded or split by, odd where its own is even;
    and so does, where one of the first that fit lets it, what it makes with others that are flattened with it. No two
    are as many more: one may be compared with another and a number. None if what is asked of the axes, ``also`` by
    conditions, leaves none.
    """
    _, conditions, symbols = solved(named, names)
    conditions += also
    own = {s: named.sizes[n] for n, s in symbols.items()}
    others = {symbol_of(n): size for n, size in named.sizes.items()}
    found = _beyond(own, others, conditions) or _beyond(dict(reversed(own.items())), others, conditions)
    return None if found is None else {n: found[s] for n, s in symbols.items()}


def _beyond(
    own: Mapping[Symbol, int], others: Mapping[Symbol, int], conditions: Sequence[Condition]
) -> dict[Symbol, int] | None:
    found: dict[Symbol, int] = {}
    for symbol, size in own.items():
        more = [*_primes(max(size, _FEW), size + TRIED), *range(size + 1 + size % 2, size + TRIED, 2)]
        more += range(size + 1, size + TRIED)  # where what is asked of it leaves no odd number
        fitting = (
            n
            for n in (size + k for k in more)
            if n not in found.values() and all(c.holds(Point({**others, **found, symbol: n})) for c in conditions)
        )
        few = list(itertools.islice(fitting, _CHOICES))
        if not few:
            return None
        before = [(own[s], n) for s, n in found.items()]
        apart = [n for n in few if all(n - size != b - a for a, b in before)] or few
        found[symbol] = next((n for n in apart if _leaves_others(before, size, n)), apart[0])
    return found


def _leaves_others(before: Sequence[tuple[int, int]], own: int, new: int) -> bool:
    """Whether products of a size leave other rests than its own size's by small numbers that one pads to.

    ``before`` are own and new sizes of axes before it: it is taken with each of them, and with the last ones together.
    """
    ends = [before[-k:] for k in (2, 3) if len(before) >= k]
    pairs = [*before, *((math.prod(a for a, _ in end), math.prod(b for _, b in end)) for end in ends)]
    return all((new * b - own * a) % k for a, b in pairs for k in (3, 4, 5, 7))


def elsewhere(named: NamedAxes, names: Sequence[str]) -> dict[str, int]:
    """For every axis a size by which nothing fits by chance: the next prime number, no two alike, none there is."""
    found: dict[str, int] = {}
    for name in names:
        taken = {*named.sizes.values(), *found.values()}
        found[name] = next(n for n in _primes(max(named.sizes[name], 4), 1 << 31) if n not in taken)
    return found


def _primes(above: int, below: int) -> Iterator[int]:
    """The odd prime numbers between two numbers."""
    return (n for n in range(above + 1, below) if n % 2 and all(n % k for k in range(3, math.isqrt(n) + 1, 2)))


#: So few entries more are few: a half of a third of them may be as many as it was.
_FEW = 7

#: Of so many sizes that fit one is taken that leaves other rests.
_CHOICES = 9


def divisors(size: int) -> Iterator[int]:
    """The numbers above 1 of which a size is a multiple."""
    return (n for n in range(2, size + 1) if size % n == 0)


def multiple_of(size: int, step: int) -> int:
    """A multiple of a divisor of a size beyond twice the size, that has no other divisors of the size."""
    return step * next(k for k in itertools.count(2 * size // step + 1) if math.gcd(k, size) == 1)


def apart(names: Sequence[str]) -> list[frozenset[str]]:
    """Sets of names, as few as it takes: of every two names each is once in a set in which the other isn't.

    >>> [sorted(some) for some in apart(["h", "w"])]
    [['h'], ['w']]
    >>> len(apart("abcdef")), len(apart("a"))
    (4, 0)
    """
    count = next(n for n in itertools.count() if math.comb(n, n // 2) >= len(names))
    codes = itertools.combinations(range(count), count // 2)
    sets: list[set[str]] = [set() for _ in range(count)]
    for name, code in zip(names, codes, strict=False):
        for i in code:
            sets[i].add(name)
    return [frozenset(some) for some in sets]
