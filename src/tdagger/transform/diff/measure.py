"""What executions gave, compared value by value: are they apart by more than what rounding in their types can do?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger.graph import Graph, result_types
from tdagger.interpret import run_all
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.transform.diff.align import Result, is_leaf
from tdagger.transform.diff.errors import distance
from tdagger.transform.diff.exact import unit, wide
from tdagger.transform.diff.judge import Difference, Judge
from tdagger.transform.diff.relate import Detail
from tdagger.transform.diff.walk import Walk, is_rounded, last_uses

#: An execution: of inputs by name, what values came out as; of all of them, or of the outputs alone.
Measure = Callable[[Mapping[str, Array]], Mapping[Value, Any]]

#: Kernels sum in any order and fuse: how much more than a unit in the last place of every value counts as rounding.
_MARGIN = 8.0


def by_numpy(network: Any) -> Measure:
    """The execution of a network by the numpy reference, in its own types."""

    def measure(inputs: Mapping[str, Array]) -> Mapping[Value, Any]:
        return run_all(network.graph, inputs, network.weights)

    return measure


def spreads(judge: Judge, walk: Walk, seed: int) -> dict[Value, float]:
    """How far rounding in its own type, there and in all that it is made of, may move every value of a graph."""
    noisy = {
        v: max(unit(t.dtype) for t in result_types(v))
        for v in walk.graph.values
        if is_rounded(v) and not isinstance(v.op, Leaf | Const)
    }
    noisy |= {v: max(relative, noisy.get(v, 0.0)) for v, relative in walk.noisy.items()}
    again = Walk(judge.exact, walk.graph, noisy, walk.leaves, seed)
    dying = last_uses(walk.graph, set())
    for value in walk.graph.values:
        again.step(value)
        for gone in dying.get(value, ()):
            again.forget(gone, everything=True)
    return {v: spread + noisy.get(v, 0.0) * again.sizes[v] for v, spread in again.spread.items()}


def measured(
    judge: Judge, results: list[Result], a: Mapping[Value, Any], b: Mapping[Value, Any], seed: int
) -> tuple[Difference | None, bool, dict[str, tuple[float, float, float]]]:
    """The first pair that two executions gave too far apart, whether all are equal, and errors of results."""
    pairs = [(judge.aligner.a_of[v], v) for v in judge.b.values if v in judge.aligner.a_of and not is_leaf(v)]
    pairs = [(x, y) for x, y in pairs if x in a and y in b]
    pairs += [(r.a, r.b) for r in results if r.a in a and r.b in b]
    allowed = spreads(judge, judge.of_a, seed), spreads(judge, judge.of_b, seed + 1)
    first: Difference | None = None
    equal = True
    off: dict[tuple[Value, Value], tuple[float, float]] = {}
    for x, y in pairs:
        error, bound = distance(wide(a[x]), wide(b[y])), _MARGIN * (allowed[0][x] + allowed[1][y])
        off[x, y] = error, bound
        equal = equal and error == 0
        if error > bound and first is None:
            first = Difference("run", x, y, error, bound, (Detail("run", "", x, y),))
    errors = {r.name: (*off[r.a, r.b], _largest(a[r.a])) for r in results if (r.a, r.b) in off}
    return first, equal, errors


def _largest(array: Any) -> float:
    numbers = np.abs(wide(array).astype(np.complex128))
    return float(numbers[np.isfinite(numbers)].max(initial=0.0))


def graph_of_all(graph: Graph) -> tuple[Graph, list[Value]]:
    """A graph that gives every tensor that is computed as an output, and these in order."""
    kept = [v for v in graph.values if not is_leaf(v) and len(result_types(v)) == 1 and not isinstance(v.type, tuple)]
    outputs = {f"v{i}": v for i, v in enumerate(kept)}
    return Graph(graph.inputs, outputs, {}, graph.name, graph.values), kept
