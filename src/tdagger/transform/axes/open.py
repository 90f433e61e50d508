"""A network whose free axes have no numbers: sizes are formulas in them (:class:`tdagger.types.Size`).

It is what a resize gives at some point, with the formula of every size beside its number there. What an op's rules
compute of sizes stays a formula; where they don't, types don't fit and the axes are refused, as by a resize.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple, Protocol

from tdagger.analysis.axes.algebra import resolve
from tdagger.analysis.axes.doubts import BY_CHANCE, NONE_OF, UP_TO
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import Sizes, assumed, solve
from tdagger.analysis.formulas.polynomial import Point, Symbol, divisors, symbols_of, variable
from tdagger.analysis.formulas.symbolic import Condition, FreeSizes
from tdagger.errors import AxisError
from tdagger.graph import Graph
from tdagger.transform.axes.certain import guessed, unknown
from tdagger.transform.axes.least import few_enough, long_enough
from tdagger.transform.axes.resize import at_sizes, resize
from tdagger.transform.axes.sources import SourceRaises
from tdagger.transform.networks import Origins, changed, own_axes, place
from tdagger.types import readable, sizes_as


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
    free, conditions, symbols = _solved(named, names)
    own = Point({s: named.sizes[n] for n, s in symbols.items()})
    conditions += _other_at(named, free)
    for point in _points({s: named.sizes[n] for n, s in symbols.items()}, conditions):
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


def _solved(named: NamedAxes, names: Sequence[str]) -> tuple[Sizes, list[Condition], dict[str, Symbol]]:
    """The sizes of all axes where some are open, what these must fulfil, and the symbol of each."""
    conditions: list[Condition] = []
    symbols = {n: symbol_of(n) for n in names}
    free = solve(named.axes, {named.term(n): variable(s) for n, s in symbols.items()}, FreeSizes(conditions))
    conditions += few_enough(named.axes, free)
    return free, conditions, symbols


def _points(sizes: Mapping[Symbol, int], conditions: Sequence[Condition]) -> tuple[Point, Point]:
    """A point where every axis is a multiple of what it was, and one where it is near that, but where none can be.

    Where an axis can't have more entries, it has fewer there. AxisError if the conditions have no such points.
    """
    found: list[dict[Symbol, int]] = [{}, {}]
    for symbol, size in sizes.items():
        multiples, near = [size * k for k in range(2, 9)], range(size + 1, size + _TRIED)
        fewer = range(size - 1, max(size - _TRIED, 1), -1)
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


@dataclass(frozen=True)
class Candidates:
    """The axes of the inputs that may be open, and why others aren't.

    ``own``: how many entries some must have, and of which multiples, and what is known of others.
    """

    names: tuple[str, ...]
    why: dict[str, str]
    own: tuple[Condition, ...] = ()
    #: The graphs that were made: whoever writes code wants those that were tried here.
    _made: dict[tuple[NamedAxes, tuple[str, ...]], tuple[Opened, ...]] = field(
        default_factory=dict[tuple[NamedAxes, tuple[str, ...]], tuple[Opened, ...]], repr=False, compare=False
    )

    def opened(self, named: NamedAxes, names: Sequence[str], origins: Origins) -> tuple[Opened, ...]:
        """The graph at two points, as :func:`opened`, with what ``own`` asks of sizes; made once."""
        key = (named, tuple(names))
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = tuple(opened(named, names, origins))
        symbols = set(map(symbol_of, names))
        own = [c for c in self.own if symbols.issuperset(symbols_of(c.number))]
        return tuple([o._replace(conditions=tuple(dict.fromkeys((*own, *o.conditions)))) for o in found])


def _at_least(name: str, size: int, what: str) -> Condition:
    return Condition(variable(symbol_of(name)) - size, "positive", f"{name}: {what}")


def _multiple(name: str, step: int, what: str) -> Condition:
    return Condition(variable(symbol_of(name)) % step, "zero", f"{name}: {what}")


#: What is said of 1 entry.
_AT_ONE = "the network may be another where it has 1 entry"


class Ask(Protocol):
    """Whether the source gives at some sizes what the axes say; None if it gives nothing there.

    SourceRaises if it raises by itself. ``cheaply``: by a sketch alone; where that doesn't say so, False.
    """

    def __call__(self, sizes: Mapping[str, int], *, cheaply: bool = False) -> bool | None: ...


#: What the source raises when it is run at some sizes; nothing if it runs.
Raises = Callable[[Mapping[str, int]], str]


def candidates(
    named: NamedAxes,
    origins: Origins,
    confirmed: frozenset[str],
    ask: Ask | None,
    raises: Raises = lambda sizes: "",
    numbers: Sequence[int] = (),
) -> Candidates:
    """The axes of which nothing is in doubt, and the source, where there is one to ask, says the same.

    Where it raises at some sizes by itself, an axis has the multiples, or so many entries, with which it runs.
    ``numbers`` are those that the source compares with something, which may be sizes.
    """
    found = Candidates((), {})
    why: dict[str, str] = {}
    points: dict[str, tuple[int, int]] = {}
    doubtful: dict[str, str] = {}
    least: dict[str, tuple[int, str]] = {}
    steps: dict[str, tuple[int, str]] = {}
    whole = {term for terms in named.axes.inputs for term in map(resolve, terms)}
    for name in own_axes(named):
        if named.term(name) not in whole:
            continue  # a part of a dimension: the others of it follow the dimension
        try:
            sizes = _two_sizes(named, name)
            if by_chance := guessed(named, name, sizes[0], BY_CHANCE):
                raise AxisError(by_chance)
            if name not in confirmed:
                doubtful |= unknown(named, origins, {name: sizes})
        except AxisError as e:
            why[name] = readable(str(e)).splitlines()[0]
            continue
        points[name] = sizes
        if name not in confirmed and named.sizes[name] != 1 and _is_other_at_one(named, name, origins):
            least[name] = 2, _AT_ONE
    asked = {n: s for n, s in points.items() if n not in confirmed}
    if ask is not None and asked and _why_not(found, named, list(asked), origins):
        why |= {n: w for n in asked if (w := _why_not(found, named, [n], origins))}
        asked = {n: s for n, s in asked.items() if n not in why}
    if ask is None or not asked:
        why |= doubtful
    else:
        why |= _refuted(named, asked, doubtful, ask, steps)
        for name in _same_at_one([n for n in asked if n in least and n not in why], ask):
            del least[name]
        least |= _of_fewer(named, [n for n in asked if n not in why and guessed(named, n, asked[n][0], UP_TO)], ask)
    free = [n for n in points if n not in why]
    if free and not _why_not(found, named, free, origins):
        asks = found.opened(named, free, origins)[0].conditions
        least |= _where_it_does_the_same(named, least, free, asks, ask, raises, steps)
    own = tuple([_at_least(n, *least[n]) for n in least] + [_multiple(n, *steps[n]) for n in steps])
    if free and ask is not None and numbers and not _why_not(found, named, free, origins):
        asks = found.opened(named, free, origins)[0].conditions
        own += tuple(_at_numbers(named, free, (*own, *asks), _Answers(ask, raises), numbers))
    return replace(found, names=tuple(free), why=why, own=own)


def _same_at_one(names: Sequence[str], ask: Ask) -> list[str]:
    """The axes with 1 entry of which, of any of them alone and of all together, the source does what the axes say."""
    same = [n for n in names if ask({n: 1}, cheaply=True)]
    return same if len(same) < 2 or ask(dict.fromkeys(same, 1), cheaply=True) else []


def _of_fewer(named: NamedAxes, names: Iterable[str], ask: Ask) -> dict[str, tuple[int, str]]:
    """How many entries axes must have that may be padded up to a number: the least at which the source was asked.

    Such padding is none at larger sizes, and most at the smallest.
    """
    found: dict[str, tuple[int, str]] = {}

    def agrees(sizes: Mapping[str, int]) -> bool:
        try:
            return bool(ask(sizes))
        except SourceRaises:
            return False

    several = [n for n in names if named.sizes[n] > 1]
    if not several or agrees(dict.fromkeys(several, 1)):
        return found
    for name in several:
        own = named.sizes[name]
        tried = [n for n in dict.fromkeys((1, 2, 3, own // 2)) if n < own]
        size = next((n for n in tried if agrees({name: n})), own)
        if size > 1:
            what = _AT_ONE if size == 2 else f"the source may do something else where it has less than {size} entries"
            found[name] = size, what
    return found


def _refuted(
    named: NamedAxes,
    asked: Mapping[str, tuple[int, int]],
    doubtful: Mapping[str, str],
    ask: Ask,
    steps: dict[str, tuple[int, str]],
) -> dict[str, str]:
    """The axes with which the source does something else than the axes say.

    It is asked once for all axes, at a point that tells apart what a multiple of a size and one that is near it tell:
    beyond twice what an axis has, by a prime number. Where it doesn't say the same, it is
    asked for each axis, and for those that are left together. Where it can't have such a size of an axis (it cuts it
    into windows), it is asked at multiples and at those near, which it must have where the graph leaves something in
    doubt. Where the source itself raises, ``steps`` gets the number of whose multiples it has as many.
    """
    raised: dict[tuple[tuple[str, int], ...], str] = {}
    answers: dict[tuple[tuple[str, int], ...], bool | None] = {}

    def at(point: Mapping[str, int] | None) -> bool | None:
        if point is None:
            return None
        key = tuple(point.items())
        if key not in answers:
            answers[key] = None
            try:
                answers[key] = ask(point)
            except SourceRaises as e:
                raised[key] = str(e)
        return answers[key]

    def at_both(names: Sequence[str]) -> bool | None:
        multiple, near = (at({n: asked[n][i] for n in names}) for i in (0, 1))
        return bool(multiple) and (near if any(n in doubtful for n in names) else near is not False)

    if at(_far(named, list(asked))):
        return {}
    why: dict[str, str] = {}
    even: list[str] = []
    for name in asked:
        point = _far(named, [name])
        said = at(point)
        if said is None and point is not None and (error := raised.get(tuple(point.items()))):
            step = next((n for n in _divisors(named.sizes[name]) if at({name: _only(named.sizes[name], n)})), None)
            if step is None:
                why[name] = error
            else:
                steps[name] = step, f"{error}; it runs at multiples of {step}"
        elif said is None:
            even.append(name)
        elif point is not None and not said:
            why[name] = doubtful.get(name, f"at {name}={point[name]} the source does something else")
    if even and not at_both(even):
        failing = [n for n in even if not at_both([n])]
        why |= {n: doubtful.get(n, f"at {n}={asked[n][0]} the source does something else") for n in failing}
    left = [n for n in asked if n not in why]
    together = _far(named, left) if not even and not steps else {n: asked[n][0] for n in left}
    if len(left) > 1 and not at(together):
        others = f"the source does something else where {left[0]} has another size too"
        why |= {n: doubtful.get(n, others) for n in left[1:]}
    return why


def _divisors(size: int) -> Iterator[int]:
    return (n for n in range(2, size + 1) if size % n == 0)


def _only(size: int, step: int) -> int:
    """A multiple of a divisor of a size beyond twice the size, that has no other divisors of the size."""
    return step * next(k for k in itertools.count(2 * size // step + 1) if math.gcd(k, size) == 1)


def _where_it_does_the_same(
    named: NamedAxes,
    least: Mapping[str, tuple[int, str]],
    names: Sequence[str],
    conditions: Sequence[Condition],
    ask: Ask | None,
    raises: Raises,
    steps: Mapping[str, tuple[int, str]],
) -> dict[str, tuple[int, str]]:
    """How many entries axes must have for the source to run, and to go the way it went, beside what the graph asks.

    It is asked once with as few as the graph takes. Where it raises with these, or does something else (``if n > 4``),
    it is asked for each axis, and taken to do so with still fewer too.
    """
    symbols = {n: symbol_of(n) for n in own_axes(named)}
    own = {s: named.sizes[n] for n, s in symbols.items()}
    answers = _Answers(ask, raises)

    def fitting(name: str) -> Iterator[int]:
        step, first = steps.get(name, (1,))[0], least.get(name, (1,))[0]
        sizes = range(-(-first // step) * step, named.sizes[name], step)
        return (n for n in sizes if all(c.holds(Point({**own, symbols[name]: n})) for c in conditions))

    fewest = {name: n for name in names if (n := next(fitting(name), None)) is not None}
    # where something is done to no entries, few of another axis may hide that some of this one are enough
    hidden = any(NONE_OF in g.what for g in named.axes.guesses)
    tried = [fewest, *({name: n} for name, n in fewest.items() if hidden)]
    if not fewest or not any(map(answers.why_not, tried)) or answers.why_not({}):
        return {}
    found: dict[str, tuple[int, str]] = {}
    for name, n in fewest.items():
        if len(fewest) > 1 and not answers.why_not({name: n}):
            continue
        able = [*fitting(name), named.sizes[name]]
        first = bisect_left(able, True, key=lambda n, name=name: not answers.why_not({name: n}))
        found[name] = able[first], f"with {able[first - 1]} entries {answers.why_not({name: able[first - 1]})}"
    together = fewest | {n: size for n, (size, _) in found.items()}
    if answers.why_not(together):
        some: dict[str, int] = {}
        for name, n in together.items():
            if why := answers.why_not(some | {name: n}):
                found[name] = named.sizes[name], f"with fewer entries of {' and '.join([*some, name])} {why}"
            else:
                some[name] = n
    return found


def _at_numbers(
    named: NamedAxes, names: Sequence[str], conditions: Sequence[Condition], answers: _Answers, numbers: Sequence[int]
) -> Iterator[Condition]:
    """The sizes at which the source does something else, of those that it compares with a number and one more.

    It is asked for all axes at once, and for each where it doesn't do the same. Where it does something else with more
    entries than such a number, an axis has no more; fewer were asked about before.
    """
    symbols = {n: symbol_of(n) for n in own_axes(named)}
    own = {s: named.sizes[n] for n, s in symbols.items()}

    def able(name: str, size: int) -> bool:
        return size != named.sizes[name] and all(c.holds(Point({**own, symbols[name]: size})) for c in conditions)

    most: dict[str, tuple[int, str]] = {}
    for number in sorted({n for n in numbers if n <= _LARGEST})[:_MANY]:
        other: dict[str, str] = {}
        for size in (number, number + 1):
            asked = [n for n in names if n not in most and able(n, size)]
            asked = [n for n in asked if size == number or named.sizes[n] < size]
            if not asked or not answers.why_not(dict.fromkeys(asked, size)):
                continue
            for name in asked:
                why = answers.why_not({name: size})
                if why and size == number:
                    other[name] = f"{name}: with {size} entries {why}"
                elif why:
                    last = number - 1 if name in other else number
                    most[name] = last, f"{name}: with {last + 1} entries {why}"
        rest = {n: what for n, what in other.items() if n not in most}
        yield from (Condition(variable(symbols[n]) - number, "other", what) for n, what in rest.items())
    yield from (Condition(last - variable(symbols[n]), "positive", what) for n, (last, what) in most.items())


#: Sizes that are asked about at most, and how many of them.
_LARGEST, _MANY = 1 << 13, 12


class _Answers:
    """Why a source doesn't do what the axes say, at some sizes; what was answered."""

    def __init__(self, ask: Ask | None, raises: Raises) -> None:
        self._ask, self._raises = ask, raises
        self._known: dict[tuple[tuple[str, int], ...], str] = {}

    def why_not(self, sizes: Mapping[str, int]) -> str:
        """Nothing if it does the same. Sketches are asked first, which are cheap."""
        key = tuple(sizes.items())
        if key not in self._known:
            self._known[key] = self._why_not(sizes)
        return self._known[key]

    def _why_not(self, sizes: Mapping[str, int]) -> str:
        if self._ask is None or self._ask(sizes, cheaply=True):
            return ""
        if error := self._raises(sizes):
            return f"the source itself raises {error}"
        try:
            return "" if self._ask(sizes) else "the source does something else"
        except SourceRaises as e:
            return readable(str(e)).splitlines()[0]


def _far(named: NamedAxes, names: Sequence[str]) -> dict[str, int] | None:
    """For every axis a size beyond twice its own, no two alike: more by a prime number, where one fits.

    So it leaves another rest than its own by all numbers that it may be padded or split by, odd where its own is even;
    and so does, where one of the first that fit lets it, what it makes with others that are flattened with it. No two
    are as many more: one may be compared with another and a number. None if what is asked of the axes leaves none.
    """
    _, conditions, symbols = _solved(named, names)
    own = {s: named.sizes[n] for n, s in symbols.items()}
    found: dict[Symbol, int] = {}
    for symbol, size in own.items():
        more = [*_primes(max(size, _FEW), size + _TRIED), *range(size + 1 + size % 2, size + _TRIED, 2)]
        fitting = (
            n
            for n in (size + k for k in more)
            if n not in found.values() and all(c.holds(Point({**own, **found, symbol: n})) for c in conditions)
        )
        few = list(itertools.islice(fitting, _CHOICES))
        if not few:
            return None
        before = [(own[s], n) for s, n in found.items()]
        apart = [n for n in few if all(n - size != b - a for a, b in before)] or few
        found[symbol] = next((n for n in apart if _leaves_others(before, size, n)), apart[0])
    return {n: found[s] for n, s in symbols.items()}


def _leaves_others(before: Sequence[tuple[int, int]], own: int, new: int) -> bool:
    """Whether products of a size leave other rests than its own size's by small numbers that one pads to.

    ``before`` are own and new sizes of axes before it: it is taken with each of them, and with the last ones together.
    """
    ends = [before[-k:] for k in (2, 3) if len(before) >= k]
    pairs = [*before, *((math.prod(a for a, _ in end), math.prod(b for _, b in end)) for end in ends)]
    return all((new * b - own * a) % k for a, b in pairs for k in (3, 4, 5, 7))


def _primes(above: int, below: int) -> Iterator[int]:
    """The odd prime numbers between two numbers."""
    return (n for n in range(above + 1, below) if n % 2 and all(n % k for k in range(3, math.isqrt(n) + 1, 2)))


#: So few entries more are few: a half of a third of them may be as many as it was.
_FEW = 7

#: Of so many sizes that fit one is taken that leaves other rests.
_CHOICES = 9

#: Among so many sizes one is looked for that fulfils what is asked of it.
_TRIED = 64


def _why_not(found: Candidates, named: NamedAxes, names: Sequence[str], origins: Origins) -> str:
    """Why some axes can't be open together; nothing if they can."""
    try:
        found.opened(named, names, origins)
    except AxisError as e:
        return readable(str(e)).splitlines()[0]
    return ""


def _is_other_at_one(named: NamedAxes, name: str, origins: Origins) -> bool:
    """Whether something that does nothing to an axis does something to one of 1 entry (squeezed, it is gone)."""
    if all(g.only != 1 for g in named.axes.guesses):
        return False
    try:
        sizes = resize(named.axes, {named.term(name): 1}, place(origins)).sizes
    except AxisError:
        return True  # what it is there can't be said
    return sizes is not None and any(g.only == 1 for g in assumed(named.axes, sizes))


def _two_sizes(named: NamedAxes, name: str) -> tuple[int, int]:
    """Two other sizes that an axis may have; AxisError if it can't have any."""
    rigid = [a.rigid for a in named.term(name) if a.rigid]
    if rigid or not named.sizes[name]:
        raise AxisError(f"{rigid[0]} has its size" if rigid else "it has no entries")
    _, conditions, symbols = _solved(named, [name])
    one, other = _points({symbols[name]: named.sizes[name]}, conditions)
    size = variable(symbols[name])
    return one.of(size), other.of(size)
