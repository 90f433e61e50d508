"""What a source's code compares of sizes: it is asked where a comparison comes out otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tdagger.analysis.formulas.polynomial import Number, symbols_of
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.transform.axes.answers import Answers, shown
from tdagger.transform.axes.asking import Asking
from tdagger.transform.axes.open import TRIED
from tdagger.transform.axes.sources import Comparison


def where_compared(answers: Answers, names: Sequence[str], asking: Asking) -> Iterator[Condition]:
    """What sizes must fulfil so that comparisons in the source's code go the way they go, where that matters.

    It is asked at the nearest sizes at which one goes the other way, if no run went the way it goes there. Where it
    does the same, the comparisons that it makes there are read as well (``h == 8 and w == 6``).
    """
    named = answers.named
    own = {n: named.sizes[n] for n in names}
    points: list[dict[str, int]] = [{}]
    known: set[tuple[Number, str]] = set()
    for point in points:  # grows
        way: list[Comparison] = []
        for made in asking.compared(names, point):
            number, kind, holds, line = made
            if asking.unknown(number, line):
                continue
            way.append(made)
            if (number, kind) in known:
                continue
            known.add((number, kind))
            if not holds:
                number, kind = (-number - 1, kind) if kind == "positive" else (number, "other")
            condition = Condition(number, kind, "")
            at = _nearest(answers, condition, {**own, **point}, names, way[:-1])
            if at is None or not condition.holds(answers.point({})):
                continue
            at = {n: size for n, size in at.items() if size != own[n]}
            if asking.seen(names, at) is None and (why := answers.why_not(at)):
                entries = f"{next(iter(at.values()))} entries" if len(at) == 1 else shown(at)
                found = condition._replace(message=f"{', '.join(at)}: with {entries} {why} ({line})")
                answers.conditions += (found,)
                yield found
            elif at not in points and len(points) < _MANY:
                points.append(at)


def explained(answers: Answers, names: Sequence[str], asking: Asking) -> set[str]:
    """The axes for which, where the source doesn't do what they say, something that it compares comes out otherwise.

    Not those with which alone it doesn't do that anyway.
    """
    made = [c for c in asking.compared(names, {}) if not asking.unknown(c.number, c.place)]
    conditions = [(Condition(c.number, c.kind, ""), c.holds) for c in made]
    wrong = asking.wrong
    turned = [w for w in wrong if any(c.holds(answers.point(w)) != holds for c, holds in conditions)]
    anyway = {n for sizes in wrong if len(sizes) == 1 and sizes not in turned for n in sizes}
    return {n for sizes in turned for n in sizes} - anyway


def _nearest(
    answers: Answers, condition: Condition, at: Mapping[str, int], free: Sequence[str], way: Sequence[Comparison]
) -> dict[str, int] | None:
    """The sizes nearest to some at which a condition doesn't hold and which the graph may have: of one axis, or two.

    Where it may not have those of one axis, another that is ``free`` gives way. What was compared on the ``way`` there
    comes out the same, if that can be.
    """
    names = sorted(s.name for s in symbols_of(condition.number))

    def sizes_of(name: str) -> list[int]:
        here, near = (answers.point({**at, name: at[name] + k}).defined(condition.number) for k in (0, 1))
        root = at[name] if here is None or near is None or here == near else at[name] - here // (near - here)
        more = {n for n in range(root - 2, root + 3) if 1 <= n <= _LARGEST}
        return sorted(more | {*range(1, at[name] + TRIED)}, key=lambda n: abs(n - at[name]))

    def of_one() -> Iterator[dict[str, int]]:
        return ({**at, name: n} for name in names for n in sizes_of(name))

    def turned(sizes: Iterable[dict[str, int]]) -> Iterator[dict[str, int]]:
        return (s for s in sizes if not condition.holds(answers.point(s)))

    few = range(1, _GRID)
    both = ({**at, a: n, b: m} for a, b in itertools.combinations(names, 2) for n in few for m in few)
    some = itertools.islice(turned(of_one()), _TURNED)
    beside = ({**sizes, a: n} for sizes in some for a in free if a not in names for n in few)
    none = ({**at, name: 0} for name in names)  # of which all may be the same
    before = [(Condition(c.number, c.kind, ""), c.holds) for c in way]
    first: dict[str, int] | None = None
    for sizes in turned(itertools.chain(of_one(), both, beside, none)):
        if answers.fit(sizes):
            point = answers.point(sizes)
            if all(c.holds(point) == holds for c, holds in before):
                return sizes
            first = sizes if first is None else first
    return first


#: Sizes that are asked about at most, those of two axes together, how many of one are tried beside others, and at how
#: many sizes comparisons are read.
_LARGEST, _GRID, _TURNED, _MANY = 1 << 13, 33, 8, 12
