"""What follows a dimension of an input though no input is in it: masks, tables of positions, counted entries.

Worked out, it would have the example's size for good; passes that keep a dimension open leave it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.sizes import Sizes, solve
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.errors import AxisError
from tdagger.graph import Graph, result_types, topological
from tdagger.op import Term, Value

#: Dimensions of inputs: the input's name, and which dimension.
Dimensions = Iterable[tuple[str, int]]


def followers(graph: Graph, dimensions: Dimensions | None = None) -> set[Value]:
    """The values made of weights and constants alone that have other sizes where some dimensions of inputs have.

    Without ``dimensions`` it is those that can have others, each for itself. AxisError where those that are told can't.
    Linear in the graph for each dimension, but for constants that are used at many places: these count at each.

    >>> import tdagger as td
    >>> x = td.input("x", (4, 8))
    >>> numbers = td.cast(td.iota(8), "f32")
    >>> graph = td.Graph({"x": x}, {"y": x + numbers})
    >>> numbers in followers(graph), numbers in followers(graph, [("x", 0)])
    (True, False)
    """
    axes = Axes(graph)
    return {v for sizes in _sizes(axes, dimensions) for v in _following(axes, sizes)}


def _sizes(axes: Axes, dimensions: Dimensions | None) -> Iterator[Sizes]:
    """The sizes of all axes where dimensions have twice as many entries: all that are told, or each that can."""
    inputs = axes.graph.inputs
    if dimensions is not None:
        yield solve(axes, {axes[inputs[n]][i]: 2 * inputs[n].shape[i] for n, i in dimensions})
        return
    terms = {t: n for v in inputs.values() for t, n in zip(axes[v], v.shape, strict=True)}
    for term, n in terms.items():
        if any(a.rigid for a in resolve(term)):
            continue
        try:
            yield solve(axes, {term: 2 * n})
        except AxisError:  # it has the size that it has
            continue


def _following(axes: Axes, sizes: Sizes) -> Iterator[Value]:
    """What no input is in and has other sizes: itself, or of constants alone in one of its uses."""

    def size(term: Term) -> int:
        return math.prod([sizes.known.get(a, a.size) for a in resolve(term)])

    for value in axes.graph.values:
        if value in axes.static:
            continue
        if not axes.is_dynamic(value):
            pairs = zip(axes.of(value), result_types(value), strict=True)
            if any(size(t) != n for terms, kind in pairs for t, n in zip(terms, kind.shape, strict=True)):
                yield value
        for i, arg in enumerate(value.args):
            if arg in axes.static:
                uses = axes.uses(value, i, lambda copy: size((copy,)), [size(t) for t in axes.at(value, i)])
                if any(n != axis.size for axis, n in uses.items()):
                    yield from _in_use(axes, sizes, arg, uses)


def _in_use(axes: Axes, sizes: Sizes, value: Value, uses: Mapping[Axis, int]) -> Iterator[Value]:
    """What is behind a value made of constants alone, and it, that has other sizes in one use of it."""
    for part in topological([value]):
        pairs = zip(axes.of(part), result_types(part), strict=True)
        if any(sizes.in_use(t, uses) != n for terms, kind in pairs for t, n in zip(terms, kind.shape, strict=True)):
            yield part
