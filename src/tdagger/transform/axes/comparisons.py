"""What a source's code compares of sizes: it is asked where a comparison comes out otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import solve
from tdagger.analysis.formulas.polynomial import Number, symbols_of
from tdagger.analysis.formulas.symbolic import Condition, FreeSizes
from tdagger.errors import AxisError
from tdagger.graph import Graph, topological
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.ops.structure import Slice
from tdagger.transform.axes.answers import Answers, shown
from tdagger.transform.axes.least import counted_to
from tdagger.transform.axes.open import TRIED, solved
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.sources import Comparison, SizeOf

#: The comparisons that the source's code makes at some sizes, in what sizes of values are made of.
Compared = Callable[[Mapping[str, int], SizeOf], Iterable[Comparison]]


def where_compared(answers: Answers, names: Sequence[str], compared: Compared) -> Iterator[Condition]:
    """What sizes must fulfil so that comparisons in the source's code go the way they go, where that matters.

    It is asked at the nearest sizes at which one goes the other way. Where it does the same there, the comparisons that
    it makes there are read as well (``h == 8 and w == 6``).
    """
    named = answers.named
    own = {n: named.sizes[n] for n in names}
    points: list[dict[str, int]] = [{}]
    known: set[tuple[Number, str]] = set()
    for point in points:  # grows
        for number, kind, holds, line in _made(named, names, compared, point):
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
                entries = f"{next(iter(at.values()))} entries" if len(at) == 1 else shown(at)
                found = condition._replace(message=f"{', '.join(at)}: with {entries} {why} ({line})")
                answers.conditions += (found,)
                yield found
            elif at not in points and len(points) < _MANY:
                points.append(at)


def explained(
    answers: Answers,
    names: Sequence[str],
    compared: Compared,
    wrong: Sequence[Mapping[str, int]],
) -> set[str]:
    """The axes for which, where the source doesn't do what they say, something that it compares comes out otherwise.

    Not those with which alone it doesn't do that anyway.
    """
    made = _made(answers.named, names, compared, {})
    conditions = [(Condition(c.number, c.kind, ""), c.holds) for c in made]
    turned = [w for w in wrong if any(c.holds(answers.point(w)) != holds for c, holds in conditions)]
    anyway = {n for sizes in wrong if len(sizes) == 1 and sizes not in turned for n in sizes}
    return {n for sizes in turned for n in sizes} - anyway


def _made(named: NamedAxes, names: Sequence[str], compared: Compared, sizes: Mapping[str, int]) -> Iterator[Comparison]:
    """The comparisons at some sizes, and what must be so that sizes that are read are what is compared."""
    clipped: list[Comparison] = []
    yield from compared(sizes, _size_of(named, names, sizes, clipped))
    yield from clipped


def _size_of(named: NamedAxes, names: Sequence[str], sizes: Mapping[str, int], clipped: list[Comparison]) -> SizeOf:
    """What dimensions of values are made of where the network has some sizes: those that it has, and a few others.

    ``clipped`` gets what that asks of sizes.
    """
    free, _, _ = solved(named, names)
    here = {v: v for v in named.axes.graph.values}
    if sizes:
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
            others[value] = _shape(value, shapes, clipped) if len(others) < _OTHERS else ()
        return others[value][dim] if others[value] else None

    return of


def _shape(value: Value, shapes: Mapping[str, Sequence[Number]], clipped: list[Comparison]) -> Sequence[Number]:
    """The shape of a value that no result is made of (``x.mT.shape``), of those of inputs; none if it can't be told.

    ``clipped`` gets that slices have what they take: ``x[:, -2:]`` is of one of one.
    """
    inputs = {v.op.leaf: v for v in topological([value]) if isinstance(v.op, Input)}
    axes = Axes(graph := Graph(inputs, {"out": value}))
    terms = [(t, n) for name, v in inputs.items() for t, n in zip(axes[v], shapes.get(name, v.shape), strict=True)]
    try:
        free = solve(axes, {t: n for t, n in terms if t}, FreeSizes([]))
    except AxisError:
        return ()
    for v in graph.values:
        op, x = v.op, v.args[0] if v.args else v
        for size, term, bounds in zip(x.shape, axes[x], op.bounds, strict=True) if isinstance(op, Slice) else ():
            for needed in counted_to(bounds):
                at_least = free.of(term) - needed
                clipped.append(Comparison(at_least, "positive", size >= needed, f"of which {v!r} is read"))
    return tuple(map(free.of, axes[value]))


def _nearest(answers: Answers, condition: Condition, at: Mapping[str, int]) -> dict[str, int] | None:
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


#: Of so many values that no result is made of sizes are worked out, each for itself.
_OTHERS = 16

#: Sizes that are asked about at most, those of two axes together, and at how many sizes comparisons are read.
_LARGEST, _GRID, _MANY = 1 << 13, 33, 12
