"""Axes that are asked about together: with as many entries, with few, and with few of some and many of others."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from tdagger.analysis.formulas.polynomial import variable
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.transform.axes.answers import Answers, Steps, shown
from tdagger.transform.axes.open import TRIED, symbol_of
from tdagger.transform.axes.points import apart


def where_alike(
    answers: Answers, names: Sequence[str], steps: Steps, unlike: dict[tuple[str, str], str]
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
            why[name] = f"at {shown(some | {name: n})} {other}"
        else:
            some[name] = n
    left = [n for n in alike if n not in why]
    if answers.differs(dict.fromkeys(left, size)) and not any(a in left and b in left for a, b in unlike):
        why |= {n: f"at {shown(alike)} {told}" for n in left[1:]}
    return why


def all_other(unlike: Mapping[tuple[str, str], str]) -> Iterator[Condition]:
    """That pairs of axes haven't as many entries."""
    for (a, b), what in unlike.items():
        yield Condition(variable(symbol_of(a)) - variable(symbol_of(b)), "other", what)


#: Few entries of some axes, and many of others.
Corner = tuple[dict[str, int], dict[str, int]]


def where_it_does_the_same(
    answers: Answers,
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


def corners_of(
    answers: Answers, least: Mapping[str, tuple[int, str]], names: Sequence[str], steps: Steps
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


def where_one_is_few(answers: Answers, corners: Sequence[Corner]) -> dict[str, str]:
    """The axes of which there may not be many where others have few: a source may cut one where another ends."""
    why: dict[str, str] = {}
    for few, many in corners:
        if not why.keys().isdisjoint(few) or not answers.differs(few | many):
            continue
        told = {n: w for n, size in many.items() if (w := answers.differs(few | {n: size}))}
        for name in told or many:
            why[name] = f"at {shown({name: many[name], **few})} {told.get(name, 'the source does something else')}"
    return why


#: What sizes are multiples of where they are to have much in common.
_DIVIDED = 12
