"""A source that is asked whether it does at some sizes what the axes say, and what its code compared meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import Sizes, solve
from tdagger.analysis.axes.terms import resolve
from tdagger.analysis.formulas.polynomial import Number, Point, Symbol, symbols_of, variable
from tdagger.analysis.formulas.symbolic import Condition, FreeSizes
from tdagger.composite import Composite
from tdagger.errors import AxisError, TDaggerError
from tdagger.graph import Graph, is_one, topological
from tdagger.op import Term, Value
from tdagger.ops.elementwise import Binary, Unary
from tdagger.ops.source import Const, Input, Leaf
from tdagger.ops.structure import Slice, Ungroup
from tdagger.transform.axes.least import counted_to
from tdagger.transform.axes.open import solved, symbol_of
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.same import same
from tdagger.transform.axes.sources import (
    Asked,
    Comparison,
    OtherWeights,
    SizeOf,
    SourceRaises,
    compared,
    raises,
    shapes_at,
    shapes_of,
)
from tdagger.transform.networks import own_axes
from tdagger.types import Sized


class Run(NamedTuple):
    """The comparisons of a run that did what the axes say, in the sizes of some axes."""

    names: tuple[str, ...]
    comparisons: Sequence[Comparison]
    #: Whether all that was compared is known at other sizes.
    known: bool

    def tells_of(self, point: Point) -> bool:
        """Whether all that was compared comes out the same at other sizes: the code goes the same way there."""
        return self.known and all(Condition(c.number, c.kind, "").holds(point) == c.holds for c in self.comparisons)


class Asking:
    """Whether a source gives at some sizes, where other axes have their own, what the axes say.

    ``names`` are the axes in whose sizes it is noted what the source's code compares; none, and nothing is.
    """

    def __init__(self, named: NamedAxes, asked: Asked) -> None:
        self.named = named
        self.names: tuple[str, ...] = ()
        #: Sizes at which it was found not to.
        self.wrong: list[Mapping[str, int]] = []
        #: Of which axes something is compared that isn't known at other sizes, and where.
        self.why: dict[str, str] = {}
        self._asked = asked
        #: What stands for sizes that aren't known at others, and the axes that they may be made of.
        self._hidden: dict[Symbol, Sequence[str]] = {}
        self._right: list[Mapping[str, int]] = []
        self._runs: list[Run] = []
        self._free: tuple[tuple[str, ...], Sizes] | None = None
        self._own = {symbol_of(n): named.sizes[n] for n in own_axes(named)}

    def __call__(self, sizes: Mapping[str, int], *, cheaply: bool = False) -> bool | None:
        """Whether it does; None if one of them gives nothing there.

        SourceRaises if the source raises by itself. ``cheaply``: by a sketch alone; where that doesn't say so, False.
        """
        if sizes in self._right:
            return True
        said = self._ask(sizes, cheaply)
        if said or (said is False and not cheaply):
            (self._right if said else self.wrong).append(dict(sizes))
        return said

    def _ask(self, sizes: Mapping[str, int], cheaply: bool) -> bool | None:
        try:
            change = resize(self.named.axes, self._terms(sizes), empty=True)
            ours = change.run()
            clipped: list[Comparison] = []
            size_of = self._size_of(self.names, change.new, clipped) if self.names else None
            if self._asked.agrees(ours, size_of):
                if self._asked.noted is not None:
                    noted = [*self._asked.noted, *clipped]
                    known = all(self._hidden.keys().isdisjoint(symbols_of(c.number)) for c in noted)
                    self._runs.append(Run(self.names, noted, known))
                return True
            return False if cheaply else same(self._asked.at(shapes_of(ours)), ours)
        except OtherWeights:
            return False
        except SourceRaises:
            raise
        except TDaggerError:
            return None

    def raises(self, sizes: Mapping[str, int]) -> str:
        """What the source raises when it is run at some sizes; nothing if it runs."""
        return raises(self._asked.source, self.named, sizes)

    def seen(self, names: Sequence[str], sizes: Mapping[str, int]) -> Sequence[Comparison] | None:
        """The comparisons at some sizes, if a run that did the same tells of them: its code goes the same way."""
        point = Point({**self._own, **{symbol_of(n): size for n, size in sizes.items()}})
        return next((r.comparisons for r in self._runs if r.names == tuple(names) and r.tells_of(point)), None)

    def compared(self, names: Sequence[str], sizes: Mapping[str, int]) -> Sequence[Comparison]:
        """The comparisons of sizes that the source's code makes at some sizes, in those of axes that are open.

        Behind them what must be so that sizes that were read are what they seem.
        """
        found = self.seen(names, sizes)
        if found is not None:
            return found
        values: dict[Value, Any] = {v: v for v in self.named.axes.graph.values}
        if sizes:
            change = resize(self.named.axes, self._terms(sizes), empty=True)
            change.run()
            values = change.new
        shapes = shapes_at(self.named, self._terms(sizes))
        clipped: list[Comparison] = []
        made = compared(self._asked.source, shapes, self._size_of(names, values, clipped))
        return [*made, *clipped]

    def unknown(self, number: Number, line: str) -> bool:
        """Whether a number that is compared isn't known at other sizes; ``why`` gets axes that it may be made of."""
        axes = {n for symbol in symbols_of(number) for n in self._hidden.get(symbol, ())}
        for name in axes:
            self.why.setdefault(name, f"a size is compared that isn't known where it has others ({line})")
        return bool(axes)

    def _terms(self, sizes: Mapping[str, int]) -> dict[Term, int]:
        return {self.named.term(n): k for n, k in sizes.items()}

    def _size_of(self, names: Sequence[str], values: Mapping[Value, Any], clipped: list[Comparison]) -> SizeOf:
        """What dimensions of values are made of: of those that the network has, old and new, and a few others.

        What isn't known at other sizes has a symbol of its own. ``clipped`` gets what must be so that others are.
        """
        named = self.named
        free = self._solved(tuple(names))
        here = {new: old for old, new in values.items() if isinstance(new, Value)}
        shapes = {n: tuple(map(free.of, named[v])) for n, v in named.axes.graph.inputs.items()}
        others: dict[tuple[Value, bool | None], Sequence[Number]] = {}
        known: dict[Term, Number] = {}

        def of(value: Value, dim: int, cut: bool | None) -> Number:
            old = here.get(value)
            if not cut and old is not None and old.rank == value.rank:
                term = named[old][dim]
                if term not in known:
                    known[term] = free.of(term)
                return known[term]
            key = value, cut
            if key not in others and cut is None and len(others) >= _OTHERS:
                return value.shape[dim]
            if key not in others:
                found = [None] * value.rank if cut is not None else _shape(value, shapes, clipped)
                hidden = self._not_known(value, names) if None in found else ()
                others[key] = [hidden[i] if n is None else n for i, n in enumerate(found)]
            return others[key][dim]

        return of

    def _not_known(self, value: Value, names: Sequence[str]) -> Sequence[Number]:
        """Symbols for the sizes of a value; those themselves of what the network holds.

        And of what is made of inputs that it hasn't: of a second call, in which its code compares what it did before.
        """
        inputs = {v.op.leaf for v in topological([value]) if isinstance(v.op, Input)}
        if not inputs <= self.named.axes.graph.inputs.keys():
            return value.shape
        axes = {a for n in inputs for term in self.named[self.named.axes.graph.inputs[n]] for a in resolve(term)}
        held = isinstance(value.op, Leaf | Const)  # which the network holds, if it is no input
        of = [n for n in names if not (inputs or held) or not axes.isdisjoint(resolve(self.named.term(n)))]
        if not of:
            return value.shape
        symbols = [Symbol(f"?{len(self._hidden) + i}", n, low=0) for i, n in enumerate(value.shape)]
        self._hidden.update(dict.fromkeys(symbols, of))
        return [variable(s) for s in symbols]

    def _solved(self, names: tuple[str, ...]) -> Sizes:
        if self._free is None or self._free[0] != names:
            self._free = names, solved(self.named, names)[0]
        return self._free[1]


#: Of so many values that no result is made of sizes are worked out, each for itself; those of more are taken as they
#: are, as each takes as long as the network is deep.
_OTHERS = 32

#: Ops that give no other sizes than those of what they are given, but those that they merge or add up.
_AS_GIVEN = frozenset({"permute", "group", "concat", "reduce", "cast", "stop_gradient"})


def _is_as_given(value: Value) -> bool:
    """Whether sizes of an op's result are those of its arguments, without a number that may be made of others."""
    op = value.op
    if isinstance(op, Ungroup):
        return all(sum(n != 1 for n in sizes) <= 1 for sizes in op.sizes)
    if isinstance(op, Slice):
        return all(not isinstance(n, Sized) or n.parts is None for b in op.bounds if b is not None for n in b[:2])
    if isinstance(op, Composite):  # an activation
        alike = is_one(value) and all(is_one(a) and a.shape == value.shape for a in value.args)
        return alike and not any(isinstance(v, int | tuple) for v in op.attributes.values())
    return isinstance(op, Leaf | Const | Unary | Binary) or op.name in _AS_GIVEN


#: Ops that give so many entries, which may be as many as there are, or the fewer of two axes.
_TAKING = frozenset({"topk", "diagonal", "adaptive_avg_pool", "adaptive_max_pool", "interpolate", "unfold"})


def _takes(axes: Axes, value: Value) -> bool:
    """Whether an op takes a number of entries, or of an axis one of as many parts as there are."""
    if not isinstance(value.op, Slice):
        return value.op.name in _TAKING
    cut = [
        term
        for term, bounds in zip(axes[value.args[0]], value.op.bounds, strict=True)
        if bounds is not None and any(isinstance(n, Sized) and n.parts for n in bounds[:2])
    ]
    return any(not a.rigid for term in cut for a in resolve(term))


def _shape(value: Value, shapes: Mapping[str, Sequence[Number]], clipped: list[Comparison]) -> Sequence[Number | None]:
    """The shape of a value that no result is made of (``x.mT.shape``), of those of inputs; None where it isn't known.

    Known are dimensions that an input has, or a weight, whatever was done to others. Of others numbers that Python
    worked out of sizes may be in windows and the like. ``clipped`` gets that slices have what they take: ``x[:, -2:]``
    is of one of one.
    """
    of = list(topological([value]))
    inputs = {v.op.leaf: v for v in of if isinstance(v.op, Input)}
    axes = Axes(graph := Graph(inputs, {"out": value}))
    terms = [(t, n) for name, v in inputs.items() for t, n in zip(axes[v], shapes.get(name, v.shape), strict=True)]
    try:
        free = solve(axes, {t: n for t, n in terms if t}, FreeSizes([]))
    except AxisError:
        return [None] * value.rank
    whole = {tuple(resolve(t)) for t, _ in terms}
    sure = not any(_takes(axes, v) for v in of)
    kept = [
        sure and (tuple(resolve(t)) in whole or all(a.rigid or a.kind in ("input", "one") for a in resolve(t)))
        for t in axes[value]
    ]
    repeats = not any(v.op.name == "concat" for v in of)  # a number, to what it is added to
    if not all(kept) and all(_is_as_given(v) or (repeats and v.op.name == "repeat") for v in of):
        kept = [True] * value.rank
        for v in graph.values:
            op, x = v.op, v.args[0] if v.args else v
            for size, term, bounds in zip(x.shape, axes[x], op.bounds, strict=True) if isinstance(op, Slice) else ():
                for needed in counted_to(bounds):
                    at_least = free.of(term) - needed
                    clipped.append(Comparison(at_least, "positive", size >= needed, f"of which {v!r} is read"))
    return [free.of(t) if known else None for t, known in zip(axes[value], kept, strict=True)]
