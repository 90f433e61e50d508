"""Sizes that are certain: what a resize gives is compared with what the network's source gives at those sizes.

A graph has the sizes of its example as numbers, and what Python computed from them (how much to pad, how often to
loop, half of ``n``) looks like any other number. So whoever still has the source, the model that was captured, asks
it: it is captured again at the new sizes, and as values are interned, whether that is the resized graph is one
comparison (:mod:`tdagger.transform.axes.same`). Where it is another, the source's is right. Without a source, what the
graph itself leaves open (:mod:`tdagger.analysis.axes.doubts`) is refused unless the caller says to assume it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from tdagger.analysis.axes.doubts import BY_CHANCE, doubts
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import assumed
from tdagger.analysis.axes.terms import resolve
from tdagger.errors import AxisError, TDaggerError
from tdagger.graph import Graph
from tdagger.op import Term, Value
from tdagger.ops.source import Const, Iota
from tdagger.transform.axes.change import reads_beyond
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.same import same
from tdagger.transform.axes.sources import Asked, Network, OtherWeights, Source, SourceRaises, shapes_at, shapes_of
from tdagger.transform.axes.unbatch import unbatch
from tdagger.transform.networks import (
    Origins,
    Resizable,
    asked_terms,
    asking,
    changed,
    free_axes,
    own_axes,
    place,
    refusal,
)

#: How the caller who knows better says so.
ASSUME = "assume=True takes the graph at its word"


class Resized(NamedTuple):
    """A network at other sizes. ``network`` is the source's, if that is another than what the axes say."""

    graph: Graph
    origins: Origins
    network: Any = None


class Certainty(NamedTuple):
    """What is known of the axes: which are free; for which of them the source gave what the axes say.

    ``counted`` are those at other sizes of which the network costs what the axes say, whatever numbers are in it.
    """

    resizable: Resizable
    confirmed: frozenset[str]
    counted: frozenset[str]


class _Answer(NamedTuple):
    """The graph that the source gave, and the one that the axes say."""

    theirs: Graph
    ours: Graph
    #: Whether they are the same network.
    same: bool

    @property
    def counted(self) -> bool:
        """Whether one costs as much as the other."""
        return self.same or _costs(self.theirs) == _costs(self.ours)


def resized(
    named: NamedAxes,
    asked: Mapping[str, Any],
    origins: Origins,
    source: Source | None,
    assume: bool = False,
    confirmed: frozenset[str] = frozenset(),
    given: bool = False,
) -> Resized:
    """The network at other sizes; see :meth:`tdagger.TensorDAG.resize`. ``given``: the caller named the source."""
    wanted = asked_terms(named, asked)
    refused: AxisError | None = None
    ours: Resized | None = None
    try:
        ours = Resized(*changed(resize(named.axes, wanted, place(origins)), origins))
    except AxisError as e:
        refused = e
    theirs: Network | None = None
    failed: TDaggerError | None = None
    if source is not None and not assume:
        if ours is not None and Asked(source, named.axes.graph).agrees(ours.graph):
            return ours
        try:
            theirs = source.at(shapes_of(ours.graph) if ours is not None else shapes_at(named, wanted))
        except TDaggerError as e:
            goes_on = isinstance(e, SourceRaises) and (ours is None or _has_new_constants(named, ours.graph))
            if isinstance(e, OtherWeights | SourceRaises) and not goes_on:
                raise type(e)(f"{asking(asked)}: {e}") from e
            failed = e
    if ours is not None and theirs is not None and same(theirs.graph, ours.graph):
        return ours
    if source is not None and theirs is not None:
        unchanged = Asked(source, named.axes.graph).unchanged()
        if unchanged and refused is not None and (beyond := _beyond(theirs.graph)):
            raise AxisError(f"{refusal(named, asked, refused)}\nand the source's network at these sizes {beyond}")
        if unchanged:
            return Resized(theirs.graph, theirs.origins, theirs)
        failed = AxisError(
            "the source isn't what this network was imported from: it, or the network, was changed since; resize "
            "first and change it then"
        )
        if given:
            raise AxisError(f"{asking(asked)}: {failed}")
    if refused is not None and isinstance(failed, SourceRaises):
        raise SourceRaises(f"{refusal(named, asked, refused)}\nand {failed}") from refused
    if refused is not None:
        raise refusal(named, asked, refused) from refused
    if not assume:
        _no_doubt(named, asked, wanted, origins, confirmed, failed)
    assert ours is not None
    return ours


def _has_new_constants(named: NamedAxes, graph: Graph) -> bool:
    """Whether constants were made anew at other sizes (a mask that is a buffer's): where they are, a source raises."""
    own = {v.op for v in named.axes.graph.values if isinstance(v.op, Const)}
    return any(isinstance(v.op, Const) and v.rank and v.op not in own for v in graph.values)


def _beyond(graph: Graph) -> str:
    """Where a graph reads a table beyond its end, by indices that are constants: captures don't notice."""
    static: set[Value] = set()
    for value in graph.values:
        if isinstance(value.op, Const | Iota) or (value.args and all(a in static for a in value.args)):
            static.add(value)
        elif value.op.name in ("gather", "embedding") and value.args[1] in static:
            beyond = reads_beyond(value.op, *value.args)
            if beyond:
                return beyond
    return ""


# --- without a source --------------------------------------------------------------------------------------


def _no_doubt(
    named: NamedAxes,
    asked: Mapping[str, Any],
    wanted: Mapping[Term, int],
    origins: Origins,
    confirmed: frozenset[str],
    failed: TDaggerError | None,
) -> None:
    """AxisError if the graph leaves open what becomes of the axes that are asked for."""
    certain = {a for n in confirmed for a in named.term(n)}
    open_terms = {t: n for t, n in wanted.items() if not certain.issuperset(resolve(t))}
    found = list(_doubts(named, open_terms, origins)) if open_terms else []
    if found:
        why = "no source is there to ask" if failed is None else f"the source can't say ({_first(failed)})"
        more = [f"  and {len(found) - 6} more"] if len(found) > 6 else []
        what = f"give the source, resize(..., source=model), or {ASSUME}" if failed is None else ASSUME
        lines = [f"{asking(asked)}: not known, as {why}:", *(f"  {d}" for d in found[:6]), *more, what]
        raise AxisError("\n".join(lines)) from failed


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def _doubts(named: NamedAxes, wanted: Mapping[Term, int], origins: Origins, numbers: bool = True) -> Iterator[str]:
    change = resize(named.axes, wanted)
    assert change.sizes is not None
    where = place(origins)
    for value, term, what, *_ in doubts(named.axes, change.sizes, numbers):
        yield f"{named.dimension(term) if value is None else f'{value!r}{where(value)}'} {what}"


# --- which axes are certain -----------------------------------------------------------------------------------


def certainty(
    named: NamedAxes, origins: Origins, source: Source | None, confirmed: frozenset[str] = frozenset()
) -> Certainty:
    """Which named axes of the inputs can have other sizes, which can't, and of which that isn't known.

    A source is asked at two points at which all of them have other sizes; only where that isn't what the axes say, it
    is asked for each axis.
    """
    found = free_axes(named)
    if source is None:
        open_axes = {n: s for n, s in found.sizes.items() if n not in confirmed}
        doubtful = unknown(named, origins, open_axes)
        free = tuple(n for n in found.sizes if n not in doubtful)
        counted = frozenset(found.sizes.keys() - unknown(named, origins, open_axes, numbers=False).keys())
        return Certainty(Resizable(free, found.fixed, doubtful), confirmed, counted)
    asked = Asked(source, named.axes.graph)
    answers = [_asks(named, asked, point) for point in _points(named, found.sizes)] if found.sizes else []
    failing: dict[str, str] = {}
    stopped: dict[str, str] = {}
    if all(a is not None and a.same for a in answers):
        confirmed = counted = frozenset(found.sizes)
    else:
        confirmed, counted, failing = _each(named, asked, found.sizes, stopped)
        if not all(a is None or a.counted for a in answers):  # with another of these, resize gives what costs else
            counted &= confirmed
    own = {n: found.sizes[n] for n in failing}
    fixed = {n: failing[n] for n in unknown(named, origins, own)} | stopped
    counted |= own.keys() - unknown(named, origins, own, numbers=False).keys()
    chance = {n for n, s in found.sizes.items() if guessed(named, n, s[0], BY_CHANCE)}
    confirmed, counted = confirmed - chance, counted - chance
    free = [n for n in found.sizes if n not in fixed]
    for name, why in found.fixed.items():
        size = named.sizes[name]
        rigid = any(a.rigid for a in named.term(name))
        if not rigid and any(_can(named, asked, {name: n}) for n in (2 * size, size + 1)):
            free.append(name)
        else:
            fixed[name] = why
    order = {n: i for i, n in enumerate(own_axes(named))}
    return Certainty(Resizable(tuple(sorted(free, key=order.__getitem__)), fixed, {}), confirmed, counted)


def unknown(
    named: NamedAxes, origins: Origins, sizes: Mapping[str, Sequence[int]], numbers: bool = True
) -> dict[str, str]:
    """The axes of which the graph leaves something open at some sizes, and the first such thing."""
    found: dict[str, str] = {}
    for name, own in sizes.items():
        why = next((d for n in own for d in _doubts(named, {named.term(name): n}, origins, numbers)), None)
        if why is not None:
            found[name] = why
    return found


def guessed(named: NamedAxes, name: str, size: int, said: str) -> str:
    """What is guessed of an axis at another size in which some words are; nothing if no guess has them."""
    if not any(said in g.what for g in named.axes.guesses):
        return ""
    sizes = resize(named.axes, {named.term(name): size}).sizes
    found = () if sizes is None else assumed(named.axes, sizes)
    return next((f"{g.value!r} {g.what}" for g in found if said in g.what), "")


def dimensions(named: NamedAxes, confirmed: frozenset[str]) -> frozenset[tuple[str, int]]:
    """The dimensions of inputs, by name and number, that are made of confirmed axes: names of axes can change."""
    axes = {a for n in confirmed for a in named.term(n)}
    inputs = named.axes.graph.inputs.items()
    return frozenset((n, i) for n, v in inputs for i, term in enumerate(named[v]) if term and axes.issuperset(term))


def dimensions_of(named: NamedAxes, names: Iterable[str]) -> frozenset[tuple[str, int]]:
    """The dimensions of inputs, by name and number, that some axes are; AxisError for one that no input has."""
    found = dimensions(named, frozenset(names))
    inside = {a for n, i in found for a in named[named.axes.graph.inputs[n]][i]}
    for name in names:
        if not inside.issuperset(named.term(name)):
            raise AxisError(f"{name}={named.sizes[name]} isn't the whole of a dimension of an input")
    return found


def confirmed(named: NamedAxes, dimensions: frozenset[tuple[str, int]]) -> frozenset[str]:
    """The names of the axes that dimensions of inputs are made of."""
    inputs = named.axes.graph.inputs
    axes = {a for n, i in dimensions if n in inputs for a in named[inputs[n]][i]}
    return frozenset(n for n in own_axes(named) if axes.issuperset(named.term(n)))


def carried(named: NamedAxes) -> frozenset[str]:
    """The names of axes of the inputs that are only carried: each entry is computed as if it were alone."""
    found: list[str] = []
    doubtful = {a for guess in named.axes.guesses if not guess.keeps for a in resolve(guess.term)}
    for name in own_axes(named):
        term = resolve(named.term(name))
        if not any(a.rigid or a in doubtful for a in term):
            with suppress(AxisError):
                unbatch(named.axes, term)
                found.append(name)
    return frozenset(found)


def _points(named: NamedAxes, sizes: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """Two points at which every axis has another size, a multiple of its own and one that is near where it can.

    No two axes are alike there, where they can differ: a source may do something else where its image isn't a square.
    What is near leaves other rests than the own size, so it differs by an odd number.
    """
    points: list[dict[str, int]] = []
    for i in (0, -1):
        point: dict[str, int] = {}
        for name, own in sizes.items():
            more = own[i] - named.sizes[name]
            further = (named.sizes[name] + k * more for k in ((2, 3, 4) if i == 0 else (5, 7, 11)))
            taken = set(point.values())
            point[name] = own[i]
            if own[i] in taken:
                point[name] = next((n for n in further if n not in taken and _fits(named, name, n)), own[i])
        points.append(point)
    return points


def _fits(named: NamedAxes, name: str, size: int) -> bool:
    try:
        resize(named.axes, {named.term(name): size}).run()
    except AxisError:
        return False
    return True


def _each(
    named: NamedAxes, asked: Asked, sizes: Mapping[str, Sequence[int]], stopped: dict[str, str]
) -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """The axes for which the source gives what the axes say, and what costs as much; and those with which it fails.

    ``stopped`` gets those with which weights are others, or the source itself raises at all sizes, and why.
    """
    confirmed: set[str] = set()
    counted: set[str] = set()
    failing: dict[str, str] = {}
    for name, own in sizes.items():
        answers: list[_Answer] = []
        errors: list[str] = []
        raised: list[str] = []
        for size in dict.fromkeys(own):
            try:
                answer = _asks(named, asked, {name: size}, telling=True)
            except OtherWeights as e:
                stopped[name] = str(e)
                errors.append(str(e))
            except TDaggerError as e:
                errors.append(_first(e))
                if isinstance(e, SourceRaises):
                    ours = resize(named.axes, {named.term(name): size}).run()
                    raised += [] if _has_new_constants(named, ours) else [_first(e)]
            else:
                answers += [] if answer is None else [answer]
        if raised and len(raised) == len(errors) and not answers:
            stopped[name] = raised[0]
        if errors and not answers:
            failing[name] = f"the source can't be imported with {name}={own[0]}: {errors[0]}"
        if answers and not errors:
            confirmed |= {name} if all(a.same for a in answers) else set()
            counted |= {name} if all(a.counted for a in answers) else set()
    return frozenset(confirmed), frozenset(counted), failing


def _asks(named: NamedAxes, asked: Asked, sizes: Mapping[str, int], telling: bool = False) -> _Answer | None:
    """Whether the source gives what the axes say; None if one of them gives nothing (``telling``: its error)."""
    try:
        ours = resize(named.axes, {named.term(n): k for n, k in sizes.items()}).run()
    except AxisError:
        return None
    try:
        return _answer(asked, ours)
    except TDaggerError:
        if telling:
            raise
        return None


def _answer(asked: Asked, ours: Graph) -> _Answer:
    """What the source gives at the sizes of a graph; TDaggerError if it gives nothing."""
    theirs = ours if asked.agrees(ours) else asked.at(shapes_of(ours))
    return _Answer(theirs, ours, theirs is ours or same(theirs, ours))


def _costs(graph: Graph) -> tuple[int, ...]:
    return graph.total_flops(), graph.total_bytes(), graph.total_memory_reads(), graph.total_memory_writes()


def _can(named: NamedAxes, asked: Asked, sizes: Mapping[str, int]) -> bool:
    """Whether the source can have sizes that the axes can't follow."""
    try:
        return not _beyond(asked.at(shapes_at(named, {named.term(n): k for n, k in sizes.items()})))
    except TDaggerError:
        return False
