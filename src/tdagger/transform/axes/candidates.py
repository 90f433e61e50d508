"""Which axes of a network can have any size: of those that nothing is in doubt of, and the source says the same."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.doubts import BY_CHANCE, UP_TO
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import assumed, solve
from tdagger.analysis.axes.terms import resolve
from tdagger.analysis.formulas.polynomial import Number, Point, given, symbols_of, variable
from tdagger.analysis.formulas.symbolic import Condition, FreeSizes
from tdagger.errors import AxisError
from tdagger.graph import Graph, topological
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.transform.axes.certain import guessed, unknown
from tdagger.transform.axes.open import TRIED, Opened, opened, solved, symbol_of, two_points
from tdagger.transform.axes.points import apart, divisors, far, multiple_of
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.sources import Comparison, SizeOf, SourceRaises
from tdagger.transform.networks import Origins, own_axes, place
from tdagger.types import readable


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
        sizes = {symbol_of(n): size for n, size in named.sizes.items() if n not in names}
        own = [c._replace(number=given(c.number, sizes)) for c in self.own if symbols_of(c.number) - sizes.keys()]
        own = [c for c in own if symbols_of(c.number)]
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


#: By axis of which multiples it has as many entries, and why.
Steps = Mapping[str, tuple[int, str]]

#: The comparisons that the source's code makes at some sizes, in what sizes of values are made of.
Compared = Callable[[Mapping[str, int], SizeOf], Iterable[Comparison]]

#: What the source raises when it is run at some sizes; nothing if it runs.
Raises = Callable[[Mapping[str, int]], str]


def candidates(
    named: NamedAxes,
    origins: Origins,
    confirmed: frozenset[str],
    ask: Ask | None = None,
    raises: Raises = lambda sizes: "",
    compared: Compared = lambda sizes, size_of: (),
) -> Candidates:
    """The axes of which nothing is in doubt, and the source, where there is one to ask, says the same.

    Where it raises at some sizes by itself, an axis has the multiples, or so many entries, with which it runs.
    ``compared`` are comparisons of sizes in the source's code, behind each of which it may go another way.
    """
    found = Candidates((), {})
    wrong: list[Mapping[str, int]] = []
    ask = None if ask is None else _remembering(ask, wrong)
    why: dict[str, str] = {}
    points: dict[str, tuple[int, int]] = {}
    least: dict[str, tuple[int, str]] = {}
    whole = {term for terms in named.axes.inputs for term in map(resolve, terms)}
    for name in own_axes(named):
        if named.term(name) not in whole:
            continue  # a part of a dimension: the others of it follow the dimension
        try:
            sizes = _two_sizes(named, name)
            if by_chance := guessed(named, name, sizes[0], BY_CHANCE):
                raise AxisError(by_chance)
            for size in () if name in confirmed else sizes:
                resize(named.axes, {named.term(name): size})
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
    if ask is None:
        why |= unknown(named, origins, asked)
    free = [n for n in points if n not in why]
    answers = _Answers(named, ask, raises)
    turns: list[Condition] = []
    limits = _Limits(tuple(free), {}, least, {}, {})
    for _ in range(_PASSES):
        limits = _Limits(tuple(free), {}, dict(least), {}, {})
        if ask is not None and asked:
            limits = _each_asked(named, limits, asked, origins, ask, turns)
        limits = _asked_together(found, answers, limits, turns, origins)
        if ask is None:
            break
        told: set[str] = set()
        if limits.why and free and not _why_not(found, named, free, origins):
            told = _explained(answers, free, compared, wrong)
        names = [n for n in free if n in limits.free or n in told]
        before = len(turns)
        if names and not _why_not(found, named, names, origins):
            answers.conditions = (*found.opened(named, names, origins)[0].conditions, *turns)
            turns += _where_compared(answers, names, compared)
        if len(turns) == before or not limits.any:
            break  # else it's known now why the source does something else there
    own = [_at_least(n, *least) for n, least in limits.least.items()]
    own += [_multiple(n, *step) for n, step in limits.steps.items()]
    return replace(found, names=limits.free, why=why | limits.why, own=(*own, *turns, *_all_other(limits.unlike)))


class _Limits(NamedTuple):
    """The axes that can be free together, why others can't, how many entries some must have, and which not as many."""

    free: tuple[str, ...]
    why: dict[str, str]
    least: dict[str, tuple[int, str]]
    steps: dict[str, tuple[int, str]]
    unlike: dict[tuple[str, str], str]

    @property
    def any(self) -> bool:
        """Whether the source does something else anywhere."""
        return bool(self.why or self.least or self.unlike)

    def without(self, why: Mapping[str, str]) -> _Limits:
        """Where some axes can't be free."""
        free = tuple([n for n in self.free if n not in why])
        return self._replace(free=free, why={**self.why, **why})


def _each_asked(
    named: NamedAxes,
    limits: _Limits,
    asked: Mapping[str, tuple[int, int]],
    origins: Origins,
    ask: Ask,
    turns: Sequence[Condition],
) -> _Limits:
    """What is so for each axis, of two other sizes of which it may have one."""
    limits = limits.without(_refuted(named, asked, origins, ask, limits.steps, turns))
    left = [n for n in asked if n in limits.free]
    for name in _same_at_one([n for n in left if n in limits.least], ask):
        del limits.least[name]
    limits.least.update(_of_fewer(named, [n for n in left if guessed(named, n, asked[n][0], UP_TO)], ask))
    return limits


def _asked_together(
    found: Candidates, answers: _Answers, limits: _Limits, turns: Sequence[Condition], origins: Origins
) -> _Limits:
    """What is so where axes have few entries, many, and as many as others, but where ``turns`` don't hold."""
    named, steps = answers.named, limits.steps
    while limits.free and not _why_not(found, named, limits.free, origins):
        free = limits.free
        answers.conditions = (*found.opened(named, free, origins)[0].conditions, *turns)
        refuted = _where_alike(answers, free, steps, limits.unlike)
        answers.conditions += tuple(_all_other(limits.unlike))
        if not refuted:
            corners = list(_corners(answers, limits.least, free, steps))
            fewest = _where_it_does_the_same(answers, limits.least, free, steps, corners)
            limits.least.update(fewest)
            corners = list(_corners(answers, limits.least, free, steps)) if fewest else corners
            refuted = _where_one_is_few(answers, corners)
        if not refuted:
            break
        limits = limits.without(refuted)  # the others have other fewest entries where these have their own
    return limits


def _remembering(ask: Ask, wrong: list[Mapping[str, int]]) -> Ask:
    """One who isn't asked again where the source does what the axes say; ``wrong`` gets the sizes where it doesn't."""
    right: list[Mapping[str, int]] = []

    def again(sizes: Mapping[str, int], *, cheaply: bool = False) -> bool | None:
        if sizes in right:
            return True
        said = ask(sizes, cheaply=cheaply)
        if said or (said is False and not cheaply):
            (right if said else wrong).append(dict(sizes))
        return said

    return again


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
    origins: Origins,
    ask: Ask,
    steps: dict[str, tuple[int, str]],
    turns: Sequence[Condition],
) -> dict[str, str]:
    """The axes with which the source does something else than the axes say, where ``turns`` hold.

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

    if at(far(named, list(asked), turns)):
        return {}
    doubtful = unknown(named, origins, asked)
    why: dict[str, str] = {}
    even: list[str] = []
    for name in asked:
        point = far(named, [name], turns)
        said = at(point)
        if said is None and point is not None and (error := raised.get(tuple(point.items()))):
            step = next((n for n in divisors(named.sizes[name]) if at({name: multiple_of(named.sizes[name], n)})), None)
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
    together = far(named, left, turns) if not even and not steps else {n: asked[n][0] for n in left}
    if len(left) > 1 and not at(together):
        others = f"the source does something else where {left[0]} has another size too"
        why |= {n: doubtful.get(n, others) for n in left[1:]}
    return why


class _Answers:
    """Why a source doesn't do what the axes say, at some sizes of axes, where the others have their own; kept."""

    def __init__(self, named: NamedAxes, ask: Ask | None, raises: Raises) -> None:
        self.named = named
        #: What the graph asks of sizes.
        self.conditions: tuple[Condition, ...] = ()
        self._own = {symbol_of(n): named.sizes[n] for n in own_axes(named)}
        self._ask, self._raises = ask, raises
        self._known: dict[tuple[tuple[str, int], ...], str] = {}

    def point(self, sizes: Mapping[str, int]) -> Point:
        """Some sizes, and the own ones of other axes."""
        return Point({**self._own, **{symbol_of(n): size for n, size in sizes.items()}})

    def fit(self, sizes: Mapping[str, int]) -> bool:
        """Whether the graph may have such sizes."""
        point = self.point(sizes)
        return all(c.holds(point) for c in self.conditions)

    def fewer(self, name: str, least: Mapping[str, tuple[int, str]], steps: Steps) -> Iterator[int]:
        """The sizes below its own that an axis may have where the others have their own, the least first."""
        step, first = steps.get(name, (1,))[0], least.get(name, (1,))[0]
        sizes = range(-(-first // step) * step, self.named.sizes[name], step)
        return (n for n in sizes if self.fit({name: n}))

    def many(self, names: Sequence[str], steps: Steps) -> dict[str, int]:
        """Sizes far beyond the own ones, where the graph takes such: else the largest that it takes."""
        found = far(self.named, [n for n in names if n not in steps]) or {}
        for name in names:
            own, step = self.named.sizes[name], steps.get(name, (1,))[0]
            if name not in found or not self.fit({name: found[name]}):
                more = range(multiple_of(own, step) if step > 1 else own + TRIED, own, -step)
                found[name] = next((n for n in more if self.fit({name: n})), own)
        return found

    def fitting(self, sizes: Mapping[str, int], given: Mapping[str, int] | None = None) -> dict[str, int]:
        """Those of some sizes that the graph takes, one after the other, beside those that are given."""
        found = dict(given or {})
        for name, size in sizes.items():
            found |= {name: size} if self.fit(found | {name: size}) else {}
        return found

    def given(self, few: Mapping[str, int], many: Mapping[str, int]) -> dict[str, int]:
        """The largest sizes on the way from ``many`` to the own ones at which, beside few, anything is given at all."""
        while self.why_not({**few, **many}) == _NOTHING and any(n > self.named.sizes[a] for a, n in many.items()):
            less = {a: (n + self.named.sizes[a]) // 2 for a, n in many.items()}
            many = less if self.fit({**few, **less}) else {a: self.named.sizes[a] for a in many}
        return dict(many)

    def why_not(self, sizes: Mapping[str, int]) -> str:
        """Nothing if it does the same. Sketches are asked first, which are cheap."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            self._known[key] = self._why_not(sizes)
        return self._known[key]

    def differs(self, sizes: Mapping[str, int]) -> str:
        """As :meth:`why_not`, but nothing where one of them gives nothing: beyond a table of positions."""
        why = self.why_not(sizes)
        return "" if why == _NOTHING else why

    def _why_not(self, sizes: Mapping[str, int]) -> str:
        if self._ask is None or self._ask(sizes, cheaply=True):
            return ""
        if error := self._raises(sizes):
            return f"the source itself raises {error}"
        try:
            same = self._ask(sizes)
            return "" if same else _NOTHING if same is None else "the source does something else"
        except SourceRaises as e:
            return readable(str(e)).splitlines()[0]


def _where_alike(
    answers: _Answers, names: Sequence[str], steps: Steps, unlike: dict[tuple[str, str], str]
) -> dict[str, str]:
    """The axes that can't have multiples of others' entries; ``unlike`` gets those that can't have as many, and why.

    A source may go another way there (``if h == w``), where its other sizes never come by chance. It is asked at
    multiples where it does something else with as many of all.
    """
    own = answers.named.sizes
    step = math.lcm(_DIVIDED, *(steps[n][0] for n in names if n in steps))
    above = step * (max(own[n] for n in names) // step + 1)
    sizes = range(above, above + TRIED * step, step)
    size = next((n for n in sizes if answers.fit(dict.fromkeys(names, n))), above)
    alike = answers.fitting(dict.fromkeys(names, size))
    why: dict[str, str] = {}
    told = answers.differs(alike)
    if not told:
        return why
    pairs = [(a, b) for a, b in itertools.combinations(alike, 2) if answers.differs({a: size, b: size})]
    unlike |= {(a, b): f"{a}, {b}: with {size} entries of both {told}" for a, b in pairs if own[a] != own[b]}
    some: dict[str, int] = {}
    for name, n in answers.fitting({n: size * k for k, n in enumerate(alike, 1)}).items():
        if other := answers.differs(some | {name: n}):
            why[name] = f"at {_shown(some | {name: n})} {other}"
        else:
            some[name] = n
    left = [n for n in alike if n not in why]
    if answers.differs(dict.fromkeys(left, size)) and not any(a in left and b in left for a, b in unlike):
        why |= {n: f"at {_shown(alike)} {told}" for n in left[1:]}
    return why


def _all_other(unlike: Mapping[tuple[str, str], str]) -> Iterator[Condition]:
    """That pairs of axes haven't as many entries."""
    for (a, b), what in unlike.items():
        yield Condition(variable(symbol_of(a)) - variable(symbol_of(b)), "other", what)


def _shown(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{n}={size}" for n, size in sizes.items())


#: Few entries of some axes, and many of others.
Corner = tuple[dict[str, int], dict[str, int]]


def _where_it_does_the_same(
    answers: _Answers,
    least: Mapping[str, tuple[int, str]],
    names: Sequence[str],
    steps: Steps,
    corners: Sequence[Corner],
) -> dict[str, tuple[int, str]]:
    """How many entries axes must have for the source to run, and to go the way it went, beside what the graph asks.

    It is asked once with as few as the graph takes, and with few of some where there are many of others, which hides
    nothing. Where it raises with these, or does something else (``if n > 4``), it is asked for each axis, and taken to
    do so with still fewer too.
    """
    own = answers.named.sizes
    fewest = {name: n for name in names if (n := next(answers.fewer(name, least, steps), None)) is not None}
    fewest = answers.fitting(fewest)
    tried = [answers.why_not(fewest), *[answers.differs(few | many) for few, many in corners]] if fewest else []
    if not any(tried) or answers.why_not({}):
        return {}
    found: dict[str, tuple[int, str]] = {}
    for name, n in fewest.items():
        if not answers.why_not({name: n}):
            continue
        able = [*answers.fewer(name, least, steps), own[name]]
        first = bisect_left(able, True, key=lambda n, name=name: not answers.why_not({name: n}))
        found[name] = able[first], f"with {able[first - 1]} entries {answers.why_not({name: able[first - 1]})}"
    together = fewest | {n: size for n, (size, _) in found.items()}
    if answers.why_not(together):
        some: dict[str, int] = {}
        for name, n in together.items():
            if why := answers.why_not(some | {name: n}):
                found[name] = own[name], f"with fewer entries of {' and '.join([*some, name])} {why}"
            else:
                some[name] = n
    return found


def _corners(
    answers: _Answers, least: Mapping[str, tuple[int, str]], names: Sequence[str], steps: Steps
) -> Iterator[Corner]:
    """Few entries of some axes and many of the others, as the graph takes: of every two axes each is once the few.

    Not where the network as it is has few of the ones and many of the others: the graph says what it does there.
    """
    own = answers.named.sizes
    few = {n: next(answers.fewer(n, least, steps), own[n]) for n in names}
    many = answers.many(names, steps)
    for some in apart(names):
        others = [n for n in names if n not in some]
        if all(own[m] >= _APART * own[n] for n in some for m in others):
            continue
        of_few = answers.fitting({n: few[n] for n in names if n in some})
        of_many = answers.fitting({n: many[n] for n in others}, of_few)
        yield of_few, answers.given(of_few, {n: size for n, size in of_many.items() if n not in of_few})


#: So many times as many entries are many, where others are few.
_APART = 8


def _where_one_is_few(answers: _Answers, corners: Sequence[Corner]) -> dict[str, str]:
    """The axes of which there may not be many where others have few: a source may cut one where another ends."""
    why: dict[str, str] = {}
    for few, many in corners:
        if not why.keys().isdisjoint(few) or not answers.differs(few | many):
            continue
        told = {n: w for n, size in many.items() if (w := answers.differs(few | {n: size}))}
        for name in told or many:
            why[name] = f"at {_shown({name: many[name], **few})} {told.get(name, 'the source does something else')}"
    return why


def _where_compared(answers: _Answers, names: Sequence[str], compared: Compared) -> Iterator[Condition]:
    """What sizes must fulfil so that comparisons in the source's code go the way they go, where that matters.

    It is asked at the nearest sizes at which one goes the other way. Where it does the same there, the comparisons that
    it makes there are read as well (``h == 8 and w == 6``).
    """
    named = answers.named
    own = {n: named.sizes[n] for n in names}
    points: list[dict[str, int]] = [{}]
    known: set[tuple[Number, str]] = set()
    for point in points:  # grows
        for number, kind, holds, line in compared(point, _size_of(named, names, point)):
            if (number, kind) in known:
                continue
            known.add((number, kind))
            if not holds:
                number, kind = (-number - 1, kind) if kind == "positive" else (number, "other")
            condition = Condition(number, kind, "")
            at = _nearest(answers, condition, {**own, **point})
            if at is None or not condition.holds(answers.point({})):
                continue
            at = {n: size for n, size in at.items() if size != own[n]}
            if why := answers.why_not(at):
                shown = f"{next(iter(at.values()))} entries" if len(at) == 1 else _shown(at)
                found = condition._replace(message=f"{', '.join(at)}: with {shown} {why} ({line})")
                answers.conditions += (found,)
                yield found
            elif len(points) < _MANY:
                points.append(at)


def _explained(
    answers: _Answers,
    names: Sequence[str],
    compared: Compared,
    wrong: Sequence[Mapping[str, int]],
) -> set[str]:
    """The axes for which, where the source doesn't do what they say, something that it compares comes out otherwise.

    Not those with which alone it doesn't do that anyway.
    """
    conditions = [(Condition(c.number, c.kind, ""), c.holds) for c in compared({}, _size_of(answers.named, names, {}))]
    turned = [w for w in wrong if any(c.holds(answers.point(w)) != holds for c, holds in conditions)]
    anyway = {n for sizes in wrong if len(sizes) == 1 and sizes not in turned for n in sizes}
    return {n for sizes in turned for n in sizes} - anyway


def _size_of(named: NamedAxes, names: Sequence[str], sizes: Mapping[str, int]) -> SizeOf:
    """What dimensions of values are made of where the network has some sizes: those that it has, and a few others."""
    free, _, _ = solved(named, names)
    change = resize(named.axes, {named.term(n): k for n, k in sizes.items()}, empty=True)
    change.run()
    here = {new: old for old, new in change.new.items()}
    shapes = {n: tuple(map(free.of, named[v])) for n, v in named.axes.graph.inputs.items()}
    others: dict[Value, Sequence[Number]] = {}

    def of(value: Value, dim: int) -> Number | None:
        old = here.get(value)
        if old is not None and old.rank == value.rank:
            return free.of(named[old][dim])
        if value not in others:
            others[value] = _shape(value, shapes) if len(others) < _OTHERS else ()
        return others[value][dim] if others[value] else None

    return of


def _shape(value: Value, shapes: Mapping[str, Sequence[Number]]) -> Sequence[Number]:
    """The shape of a value that no result is made of (``x.mT.shape``), of those of inputs; none if it can't be told."""
    inputs = {v.op.leaf: v for v in topological([value]) if isinstance(v.op, Input)}
    axes = Axes(Graph(inputs, {"out": value}))
    terms = [(t, n) for name, v in inputs.items() for t, n in zip(axes[v], shapes.get(name, v.shape), strict=True)]
    try:
        return tuple(map(solve(axes, {t: n for t, n in terms if t}, FreeSizes([])).of, axes[value]))
    except AxisError:
        return ()


def _nearest(answers: _Answers, condition: Condition, at: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes nearest to some at which a condition doesn't hold and which the graph may have: of one axis, or two."""
    names = sorted(s.name for s in symbols_of(condition.number))

    def sizes_of(name: str) -> list[int]:
        here, near = (answers.point({**at, name: at[name] + k}).defined(condition.number) for k in (0, 1))
        root = at[name] if here is None or near is None or here == near else at[name] - here // (near - here)
        more = {n for n in range(root - 2, root + 3) if 1 <= n <= _LARGEST}
        return sorted(more | {*range(1, at[name] + TRIED)}, key=lambda n: abs(n - at[name]))

    tried = ({**at, name: n} for name in names for n in sizes_of(name))
    few = range(1, _GRID)
    both = ({**at, a: n, b: m} for a, b in itertools.combinations(names, 2) for n in few for m in few)
    none = ({**at, name: 0} for name in names)  # of which all may be the same
    other = (sizes for sizes in itertools.chain(tried, both, none) if not condition.holds(answers.point(sizes)))
    return next((sizes for sizes in other if answers.fit(sizes)), None)


#: How often the axes are asked about, each time with what was found of comparisons.
_PASSES = 3

#: What is said where the source, or the graph, has no such sizes.
_NOTHING = "the source gives nothing that can be compared"

#: What sizes are multiples of where they are to have much in common.
_DIVIDED = 12

#: Of so many values that no result is made of sizes are worked out, each for itself.
_OTHERS = 16

#: Sizes that are asked about at most, those of two axes together, and at how many sizes comparisons are read.
_LARGEST, _GRID, _MANY = 1 << 13, 33, 12


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
    _, conditions, symbols = solved(named, [name])
    one, other = two_points({symbols[name]: named.sizes[name]}, conditions)
    size = variable(symbols[name])
    return one.of(size), other.of(size)
