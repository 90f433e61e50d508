"""Axes of a whole network removed, added and resized: by name, with the sources of values carried over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.errors import AxisError
from tdagger.graph import Graph, rebuild, replayed, topological
from tdagger.names import shown
from tdagger.network import Check, Origin
from tdagger.op import Term, Value, normal_axis
from tdagger.ops.source import Input
from tdagger.ops.structure import Permute
from tdagger.transform.axes.change import Change
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.unbatch import batch, unbatch

Origins = Mapping[Value, Any]
#: A TensorDAG, which stands to the right of this module.
N = TypeVar("N", bound=Any)

#: How many more entries an axis is tried with.
_NEAR = 5

#: So few entries are few: of twice as many there may be one half, third or eighth, as there was.
_FEW = 8


class Resizable(NamedTuple):
    """Which named axes of a network's inputs can have other sizes, why others can't, and of which that isn't known.

    ``unknown`` are those for which the graph leaves open what its source would do: at which op, and why.
    """

    free: tuple[str, ...]
    fixed: dict[str, str]
    unknown: dict[str, str]

    def __str__(self) -> str:
        lines = [f"free: {', '.join(self.free) or 'none'}"]
        lines += [f"fixed: {name}: {why}" for name, why in self.fixed.items()]
        return "\n".join([*lines, *(f"not known: {name}: {why}" for name, why in self.unknown.items())])


class FreeAxes(NamedTuple):
    """The named axes of the inputs that a graph can have at other sizes (some of those it can), and why not others."""

    sizes: dict[str, list[int]]
    fixed: dict[str, str]


def place(origins: Origins) -> Callable[[Value], str]:
    """For messages: the module and the source line a value came from."""
    return lambda value: placed(origins.get(value))


def placed(origin: Origin | None) -> str:
    r"""The same of one origin.

    >>> placed(Origin("layer\n1", "relu", "net.py:3")), placed(None)
    (' (layer\\n1, net.py:3)', '')
    """
    parts = [shown(p) for p in (origin.module, origin.source) if p] if origin else []
    return f" ({', '.join(parts)})" if parts else ""


def rewritten(dag: N, rule: Callable[[Value], Value | None]) -> N:
    """The network with a rule applied to every value (:func:`tdagger.graph.rebuild`) that keeps types and inputs."""
    graph, became = rebuild(dag.graph, rule)
    origins = {new: dag.origins[old] for old, new in became.items() if old in dag.origins}
    left_out = [one._replace(value=became.get(one.value, one.value)) for one in dag.left_out]
    return replace(dag, graph=graph, origins=origins, left_out=left_out)


def changed(change: Change, origins: Origins) -> tuple[Graph, dict[Value, Any]]:
    """The changed graph, and where its values came from."""
    graph = change.run()
    return graph, {v: origins[old] for v, old in change.made_for.items() if old in origins}


def term_of(named: NamedAxes, name: str | None, input: str | None, axis: int | None) -> Term:
    """The axes meant by a name, or by a dimension of an input."""
    if (name is None) == (input is None) or (input is None) != (axis is None):
        raise AxisError("say which axis by its name, or by an input and the number of its dimension")
    if input is None or axis is None:
        if name == "b" and name not in named.sizes:
            # nothing looks like a batch: whoever says so means the first dimension, and hears what is done with it
            first = next((t[0] for t in named.axes.inputs if t), ())
            return first or named.term(name)
        return named.term(str(name))
    inputs = named.axes.graph.inputs
    if input not in inputs:
        raise AxisError(f"no input is called {input!r}; there are {', '.join(inputs)}")
    return named[inputs[input]][normal_axis(axis, inputs[input].rank)]


def without(named: NamedAxes, term: Term, origins: Origins) -> tuple[Graph, dict[Value, Any]]:
    """The graph without some axes."""
    change = unbatch(named.axes, term, place(origins))
    try:
        return changed(change, origins)
    except AxisError as e:
        raise AxisError(f"axis {named.dimension(term)} can't be removed: {e}") from e


def with_batch(
    axes: Axes, size: int, axis: int, inputs: Sequence[str] | None, origins: Origins
) -> tuple[Graph, dict[Value, Any]]:
    """The graph with a new dimension at ``axis`` of inputs and of what depends on them."""
    leaves = axes.graph.inputs
    unknown = [n for n in inputs or () if n not in leaves]
    if unknown:
        raise AxisError(f"batch: no input is called {unknown[0]!r}; there are {', '.join(leaves)}")
    if size < 1:
        raise AxisError(f"batch: the size is at least 1, got {size}")
    chosen = [leaves[n] for n in (leaves if inputs is None else inputs)]
    graph, found = changed(batch(axes, size, chosen, place(origins)), origins)
    if axis == 0:
        return graph, found
    return _moved(graph, axis, {n for n, v in leaves.items() if v in chosen}, axes.graph, found)


def _moved(
    graph: Graph, axis: int, batched: set[str], before: Graph, origins: Origins
) -> tuple[Graph, dict[Value, Any]]:
    """The first dimension of what is batched at another place."""

    def first(rank: int) -> tuple[int, ...]:
        at = normal_axis(axis, rank)
        return (at, *[i for i in range(rank) if i != at])

    inputs = dict(graph.inputs)
    for name in batched:
        value = graph.inputs[name]
        order = first(value.rank)
        shape = [0] * value.rank
        for i, a in enumerate(order):
            shape[a] = value.shape[i]
        inputs[name] = Input(name, value.type.with_shape(tuple(shape)))()
    new = {graph.inputs[n]: Permute(first(v.rank))(v) if n in batched else v for n, v in inputs.items()}
    new = replayed(graph, new)

    def last(name: str, value: Value) -> Value:
        if new[value].rank == before.outputs[name].rank:
            return new[value]
        order = first(value.rank)
        return Permute(tuple(order.index(i) for i in range(value.rank)))(new[value])

    outputs = {k: last(k, v) for k, v in graph.outputs.items()}
    updates = {k: new[v] for k, v in graph.updates.items()}
    carried = {new[v]: o for v, o in origins.items() if v in new}
    return Graph(inputs, outputs, updates, graph.name, new.values()), carried


def asked_terms(named: NamedAxes, sizes: Mapping[str, Any]) -> dict[Term, int]:
    """The dimensions that are to have other sizes: of named axes, or all dimensions of an input."""
    wanted: dict[Term, int] = {}
    for name, size in sizes.items():
        for term, n in [(named.term(name), size)] if isinstance(size, int) else _dimensions(named, name, size):
            if wanted.setdefault(term, n) != n:
                raise AxisError(f"resize: {named.dimension(term)} can't have both {wanted[term]} and {n} entries")
    if any(n < 1 for n in wanted.values()):
        raise AxisError(f"resize: sizes are at least 1, got {dict(sizes)}")
    return wanted


def at_sizes(named: NamedAxes, sizes: Mapping[str, Any], origins: Origins) -> tuple[Graph, dict[Value, Any]]:
    """The graph at other sizes, as its axes have it."""
    wanted = asked_terms(named, sizes)
    try:
        return changed(resize(named.axes, wanted, place(origins)), origins)
    except AxisError as e:
        raise refusal(named, sizes, e) from e


def refusal(named: NamedAxes, sizes: Mapping[str, Any], error: AxisError) -> AxisError:
    """The error for sizes that the axes can't follow, with those that can be resized, each of which is tried."""
    free = ", ".join(free_axes(named).sizes) or "none"
    return AxisError(f"{asking(sizes)}: {error}\naxes that can be resized: {free}")


def asking(sizes: Mapping[str, Any]) -> str:
    """How a call is told that asks for some sizes.

    >>> asking({"b": 3, "h": 64})
    'resize(b=3, h=64)'
    """
    return f"resize({', '.join(f'{k}={v}' for k, v in sizes.items())})"


def _dimensions(named: NamedAxes, name: str, shape: Sequence[int]) -> list[tuple[Term, int]]:
    """The dimensions of an input and the sizes that they are to have."""
    value = named.axes.graph.inputs.get(name)
    if value is not None and len(shape) != value.rank:
        raise AxisError(f"resize: input {name}, {value.type}, can't become {tuple(shape)}")
    return [(term_of(named, None, name, i), n) for i, n in enumerate(shape)]


def own_axes(named: NamedAxes) -> list[str]:
    """The names of axes of the inputs."""
    own = {a for terms in named.axes.inputs for t in terms for a in t}
    return [name for name in named.sizes if not own.isdisjoint(named.term(name))]


def free_axes(named: NamedAxes) -> FreeAxes:
    """The axes of the inputs tried with a multiple of their entries that is no longer few, and with some more."""
    free: dict[str, list[int]] = {}
    fixed: dict[str, str] = {}
    for name in own_axes(named):
        size = named.sizes[name]
        more = max(_FEW // max(size, 1) + 1, 2)
        multiples = [size * k for k in (more, more + 1, 2, 3)]
        for sizes in (multiples, range(size + 1, size + _NEAR)):
            for wanted in sizes:
                try:
                    resize(named.axes, {named.term(name): wanted}).run()
                except AxisError as e:
                    fixed.setdefault(name, str(e).splitlines()[0])
                else:
                    free.setdefault(name, []).append(wanted)
                    break
            if name not in free:
                break
    return FreeAxes(free, {n: why for n, why in fixed.items() if n not in free})


def check_on(graph: Graph, check: Check) -> Check:
    """A check of the data with another graph: without a value where its inputs are others, of other sizes too.

    Numbers in it may be made of the sizes that they had.
    """
    leaves = [] if check.value is None else [v for v in topological([check.value]) if isinstance(v.op, Input)]
    return check if set(graph.inputs.values()).issuperset(leaves) else check._replace(value=None)
