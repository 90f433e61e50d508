"""Which axes of a network can have any size: of those that nothing is in doubt of, and the source says the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tdagger.analysis.axes.doubts import BY_CHANCE, UP_TO
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import assumed
from tdagger.analysis.axes.terms import resolve
from tdagger.analysis.formulas.polynomial import Point, given, symbols_of, variable
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.errors import AxisError
from tdagger.graph import Graph
from tdagger.op import Term
from tdagger.transform.axes.answers import Answers
from tdagger.transform.axes.asking import Asking
from tdagger.transform.axes.certain import guessed, unknown
from tdagger.transform.axes.comparisons import explained, where_compared
from tdagger.transform.axes.open import Opened, opened, solved, symbol_of, two_points
from tdagger.transform.axes.points import divisors, far, multiple_of
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.same import same
from tdagger.transform.axes.sources import SourceRaises
from tdagger.transform.axes.together import all_other, corners_of, where_alike, where_it_does_the_same, where_one_is_few
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
    #: Axes that aren't free by what the graph says of its own sizes alone: the source may mean another thing.
    by_chance: tuple[str, ...] = ()
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

    def hold(self, named: NamedAxes, origins: Origins, graph: Graph) -> bool:
        """Whether the axes may have the sizes of the inputs of another graph."""
        sizes = _sizes_in(named, graph)
        point = Point({symbol_of(n): sizes.get(resolve(named.term(n)), size) for n, size in named.sizes.items()})
        return all(c.holds(point) for c in self.opened(named, self.names, origins)[0].conditions)


def is_at(named: NamedAxes, graph: Graph) -> bool:
    """Whether a network is another graph where its inputs have the shapes of that one's."""
    own = {resolve(t): n for v in named.axes.graph.inputs.values() for t, n in zip(named[v], v.shape, strict=True)}
    wanted = {t: n for t, n in _sizes_in(named, graph).items() if own[t] != n}
    try:
        return same(resize(named.axes, wanted).run(), graph)
    except AxisError:
        return False


def _sizes_in(named: NamedAxes, graph: Graph) -> dict[Term, int]:
    """How many entries the dimensions of inputs have in another graph of such inputs."""
    inputs = named.axes.graph.inputs.items()
    return {resolve(t): n for k, v in inputs for t, n in zip(named[v], graph.inputs[k].shape, strict=True)}


def _at_least(name: str, size: int, what: str) -> Condition:
    return Condition(variable(symbol_of(name)) - size, "positive", f"{name}: {what}")


def _multiple(name: str, step: int, what: str) -> Condition:
    return Condition(variable(symbol_of(name)) % step, "zero", f"{name}: {what}")


#: What is said of 1 entry.
_AT_ONE = "the network may be another where it has 1 entry"


def candidates(
    named: NamedAxes,
    origins: Origins,
    confirmed: frozenset[str],
    ask: Asking | None = None,
) -> Candidates:
    """The axes of which nothing is in doubt, and the source, where there is one to ask, says the same.

    Where it raises at some sizes by itself, an axis has the multiples, or so many entries, with which it runs.
    Behind each comparison of sizes in its code it may go another way.
    """
    found = Candidates((), {})
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
    answers = Answers(named, ask)
    if ask is not None and free and not _why_not(found, named, free, origins):
        ask.names = tuple(free)
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
        if limits.why and ask.wrong and not _why_not(found, named, free, origins):
            told = explained(answers, free, ask)
        names = [n for n in free if n in limits.free or n in told]
        before = len(turns)
        if names and not _why_not(found, named, names, origins):
            answers.conditions = (*found.opened(named, names, origins)[0].conditions, *turns)
            turns += where_compared(answers, names, ask)
        if len(turns) == before or not limits.any:
            break  # else it's known now why the source does something else there
    if ask is not None:
        limits = limits.without({n: w for n, w in ask.why.items() if n in limits.free})
    own = [_at_least(n, *least) for n, least in limits.least.items()]
    own += [_multiple(n, *step) for n, step in limits.steps.items()]
    doubtful = unknown(named, origins, {n: s for n, s in asked.items() if n in limits.why}) if ask is not None else {}
    by_chance = tuple([n for n in (*why, *doubtful) if not any(a.rigid for a in named.term(n))])
    own_conditions = (*own, *turns, *all_other(limits.unlike))
    return replace(found, names=limits.free, why=why | limits.why, own=own_conditions, by_chance=by_chance)


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
    ask: Asking,
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
    found: Candidates, answers: Answers, limits: _Limits, turns: Sequence[Condition], origins: Origins
) -> _Limits:
    """What is so where axes have few entries, many, and as many as others, but where ``turns`` don't hold."""
    named, steps = answers.named, limits.steps
    while limits.free and not _why_not(found, named, limits.free, origins):
        free = limits.free
        answers.conditions = (*found.opened(named, free, origins)[0].conditions, *turns)
        refuted = where_alike(answers, free, steps, limits.unlike)
        answers.conditions += tuple(all_other(limits.unlike))
        if not refuted:
            corners = list(corners_of(answers, limits.least, free, steps))
            fewest = where_it_does_the_same(answers, limits.least, free, steps, corners)
            limits.least.update(fewest)
            corners = list(corners_of(answers, limits.least, free, steps)) if fewest else corners
            refuted = where_one_is_few(answers, corners)
        if not refuted:
            break
        limits = limits.without(refuted)  # the others have other fewest entries where these have their own
    return limits


def _same_at_one(names: Sequence[str], ask: Asking) -> list[str]:
    """The axes with 1 entry of which, of any of them alone and of all together, the source does what the axes say."""
    same = [n for n in names if ask({n: 1}, cheaply=True)]
    return same if len(same) < 2 or ask(dict.fromkeys(same, 1), cheaply=True) else []


def _of_fewer(named: NamedAxes, names: Iterable[str], ask: Asking) -> dict[str, tuple[int, str]]:
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
    ask: Asking,
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


#: How often the axes are asked about, each time with what was found of comparisons.
_PASSES = 3


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
