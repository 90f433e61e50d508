"""Who is asked what a network is at other sizes: its source, the model that was captured, or a change of one.

A source is captured again at other sizes; where it can give the graph alone for less (a sketch), that is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.sizes import Sizes
from tdagger.analysis.axes.terms import resolve
from tdagger.analysis.formulas.polynomial import Number
from tdagger.errors import AxisError, TDaggerError
from tdagger.graph import Graph
from tdagger.op import Term, Value
from tdagger.transform.axes.same import same

Shapes = Mapping[str, tuple[int, ...]]


class Comparison(NamedTuple):
    """What a source's code asks of sizes: whether a number is "zero" or "positive" (or 0), whether it is, and where."""

    number: Number
    kind: str
    holds: bool
    place: str


#: What a dimension of a value is made of, in axes that are open. The last says that the value was cut, and all of it
#: was left, or (False) that it is made of such.
SizeOf = Callable[[Value, int, bool | None], Number]


class Noted(NamedTuple):
    """A sketch and the comparisons of its code, each None where it can't be had."""

    graph: Graph | None = None
    comparisons: Sequence[Comparison] | None = None


class Network(Protocol):
    """What is needed of a network that a source gives: a TensorDAG."""

    @property
    def graph(self) -> Graph: ...

    @property
    def origins(self) -> Mapping[Value, Any]: ...

    @property
    def weights(self) -> Mapping[str, Any]: ...


class Source(Protocol):
    """What a network was imported from, which can be imported again with inputs of other shapes."""

    def at(self, shapes: Shapes) -> Network:
        """The network with inputs of these shapes, by their names; TDaggerError if the source can't have them.

        SourceRaises where it isn't the capture that fails: the source itself raises on such inputs.
        """
        ...


@runtime_checkable
class Sketching(Protocol):
    """A source that can give the graph alone, for less."""

    def sketch_at(self, shapes: Shapes) -> Graph | None:
        """The graph of the network with inputs of these shapes; None where only :meth:`Source.at` can tell."""
        ...

    def noted_at(self, shapes: Shapes, size_of: SizeOf) -> Noted:
        """The same, with the comparisons of sizes that its code makes: it may go another way where they differ."""
        ...


class Asked:
    """A source that is asked for graphs at other sizes, of a network that has the graph ``own``.

    A sketch that says the same is taken; any other where the sketch at the network's own sizes is the network.
    """

    def __init__(self, source: Source, own: Graph) -> None:
        self.source = source
        self.own = own
        self._last: tuple[Shapes, Noted] | None = None

    def sketch(self, shapes: Shapes, size_of: SizeOf | None = None) -> Graph | None:
        """What the source gives with inputs of these shapes, if that can be had for less than a network.

        ``size_of``: what its code compares is noted in these sizes, if it is run.
        """
        if self._last is None or self._last[0] != shapes:
            found = Noted()
            if isinstance(self.source, Sketching):
                found = found if size_of is None else self.source.noted_at(shapes, size_of)
                found = Noted(self.source.sketch_at(shapes)) if found.graph is None else found
            self._last = shapes, found
        return self._last[1].graph

    @property
    def noted(self) -> Sequence[Comparison] | None:
        """The comparisons of the last sketch; None where it wasn't followed."""
        return None if self._last is None else self._last[1].comparisons

    def at(self, shapes: Shapes) -> Graph:
        """What the source gives with inputs of these shapes; TDaggerError if it gives nothing."""
        sketch = self.sketch(shapes)
        return self.source.at(shapes).graph if sketch is None or not self._believed else sketch

    @cached_property
    def _believed(self) -> bool:
        return self.sketch(shapes_of(self.own)) == self.own

    def unchanged(self) -> bool:
        """Whether the source still gives the network at its own sizes."""
        return self._believed or self.source.at(shapes_of(self.own)).graph == self.own

    def agrees(self, ours: Graph, size_of: SizeOf | None = None) -> bool:
        """Whether a sketch says that the source gives the same network at the sizes of a graph."""
        sketch = self.sketch(shapes_of(ours), size_of)
        return sketch is not None and same(sketch, ours)


def raises(source: Any, named: NamedAxes, sizes: Mapping[str, int]) -> str:
    """What a source raises when it is run at some sizes; nothing if it runs, or if it can't be run."""
    run = _first_with(source, "raises")
    try:
        return "" if run is None else str(run(shapes_at(named, {named.term(n): k for n, k in sizes.items()})))
    except TDaggerError:  # no such inputs can be made
        return ""


def compared(source: Any, shapes: Shapes, size_of: SizeOf) -> Sequence[Comparison]:
    """The comparisons of sizes that a source's code makes with inputs of some shapes, as far as it gets."""
    noted = _first_with(source, "noted_at")
    return () if noted is None else noted(shapes, size_of).comparisons or ()


def _first_with(source: Any, name: str) -> Any:
    """An attribute of a source, or of that of which it is a change."""
    while not hasattr(source, name) and hasattr(source, "source"):
        source = source.source
    return getattr(source, name, None)


class SourceRaises(AxisError):
    """A source can't run with inputs of some shapes: it raises by itself, whoever captures it."""


class OtherWeights(AxisError):
    """A change makes other weights of the same names where sizes are others: a number made of a size is merged in."""


@dataclass(frozen=True)
class Changed:
    """The source of a network that was changed: its own, changed likewise. The same change gives the same graph.

    ``merged`` is the changed network if the change makes new weights of old ones.
    """

    source: Source
    change: Callable[[Any], Network]
    merged: Network | None = None

    def at(self, shapes: Shapes) -> Network:
        """The network with inputs of these shapes, changed; TDaggerError if the source can't have them.

        OtherWeights if weights that the change makes aren't those that it makes at the sizes of the changed network.
        """
        new = self.change(self.source.at(shapes))
        if self.merged is not None:
            own = {**self.merged.graph.parameters, **self.merged.graph.buffers}
            for name, value in {**new.graph.parameters, **new.graph.buffers}.items():
                if name in own and not _equal(new.weights[name], self.merged.weights[name]):
                    raise OtherWeights(
                        f"what is merged into the weight {name!r} ({value.type}) depends on sizes: resize first, and "
                        "change the network then"
                    )
        return new


def _equal(a: Any, b: Any) -> bool:
    """Whether two arrays are the same, bit by bit; of memory that both share none is read."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides:
        return True
    return bool(a.tobytes() == b.tobytes())


def shapes_of(graph: Graph) -> Shapes:
    """The shapes of a graph's inputs."""
    return {n: v.shape for n, v in graph.inputs.items()}


def shapes_at(named: NamedAxes, wanted: Mapping[Term, int]) -> Shapes:
    """The shapes of the inputs where the axes say of no other dimension what becomes of it."""
    new: dict[Term, int] = {resolve(t): n for t, n in wanted.items()}
    single = Sizes()
    for axis in {a for terms in named.axes.inputs for t in terms for a in t}:
        single.known[axis] = new.get((axis,), axis.size)

    def size(term: Term) -> int:
        wanted = new.get(term)
        return int(single.of(term)) if wanted is None else wanted

    return {n: tuple([size(t) for t in named.axes[v]]) for n, v in named.axes.graph.inputs.items()}
