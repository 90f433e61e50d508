"""Tables by which gates of units multiply parameters and count in costs, for whatever framework trains them.

Every unit of the groups that may lose some has a number, group after group; one more number stands for what is always
there. A parameter's entry is there if all its units are, and the expected size of a factor is the sum over its entries
of the chance that they are there.

>>> import numpy as np
>>> import tdagger as td
>>> x = td.input("x", (2, 3))
>>> w, v = td.parameter("a.weight", (4, 3)), td.parameter("b.weight", (4, 4))
>>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(td.relu(td.linear(x, w)), v)}))
>>> found = dag.prunable()
>>> tables = GateTables(found, found.groups)
>>> [(m.name, m.axis, m.units.tolist()) for m in tables.masks]
[('a.weight', 0, [[0, 1, 2, 3]]), ('b.weight', 1, [[0, 1, 2, 3]])]
>>> tables.sizes(np.array([1, 1, 0.5, 0, 1])).tolist()  # of the factors that can lose entries
[2.5]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.analysis.axes.terms import size_of
from tdagger.analysis.time.timing import Device
from tdagger.analysis.time.work import Work, works
from tdagger.graph import Graph, is_one
from tdagger.op import Array, Value
from tdagger.prune.finding.costs import Polynomial
from tdagger.prune.finding.factors import Factor, Terms
from tdagger.prune.finding.groups import Group, Prunable
from tdagger.prune.methods.branches import Branch


class Mask(NamedTuple):
    """Of a parameter's dimension, for every entry the numbers of the units it needs: ``[k, entries]``."""

    name: str
    axis: int
    units: Array


class GateTables:
    """The numbers of units, the masks of parameters and the entries of factors.

    ``starts`` has the number of each group's first unit; ``count`` is how many units there are, and the number of what
    is always there. ``entries`` (``[n, k]``) has for each entry of the factors that can lose some the units it needs,
    ``factor`` (``[n]``) which of ``factors`` it is of, by their places among those of :attr:`Prunable.sizes`.
    """

    def __init__(self, found: Prunable, groups: Sequence[Group]) -> None:
        self.found = found
        self.groups = tuple(groups)
        self.starts = np.cumsum([0, *(g.size for g in self.groups)])[:-1].astype(np.int64)
        self.count = sum(g.size for g in self.groups)
        self.masks = [
            Mask(m.name, m.axis, np.where(m.unit >= 0, m.unit + start, self.count))
            for g, start in zip(self.groups, self.starts, strict=True)
            for m in g.members
        ]
        number = np.full(found.units.count + 1, self.count, np.int64)  # by class; the last is that of -1
        for g, start in zip(self.groups, self.starts, strict=True):
            number[g.classes] = start + np.arange(g.size)
        own: list[int] = []
        rows: list[Array] = []
        for i, factor in enumerate(found.units.factors):
            if factor.block is None:
                units = number[found.units.roots(factor)]
                if (units < self.count).any():
                    own.append(i)
                    rows.append(units)
        width = max((r.shape[1] for r in rows), default=1)
        wide = [np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=self.count) for r in rows]
        self.factors = np.array(own, np.int64)
        self.entries: Array = np.concatenate(wide) if wide else np.zeros((0, width), np.int64)
        self.factor: Array = np.repeat(np.arange(len(rows)), [len(r) for r in rows])

    def sizes(self, there: Array) -> Array:
        """The expected sizes of ``factors``, of the chances that units are there and a 1: ``[count + 1]``."""
        return np.bincount(self.factor, there[self.entries].prod(1), len(self.factors))

    def of(self, flat: Array) -> dict[str, Array]:
        """What there is for every unit, by the name of its group."""
        return {
            g.name: flat[start : start + g.size] for g, start in zip(self.groups, self.starts.tolist(), strict=True)
        }


def costs_of(found: Prunable, parts: Sequence[Branch], device: Device | None = None) -> dict[str, Polynomial]:
    """The costs of a network in which some branches may not be there: of the sizes of factors, then 1s for branches.

    With a ``device`` also its ``time``: what is predicted of every value, which but for the calls themselves falls as
    its operations do, or its entries where it has none. That is no prediction of the smaller network, whose kernels may
    be others, but it has a gradient.
    """
    there = [Factor(1) for _ in parts]
    gates: dict[Value, Terms] = {}
    for factor, branch in zip(there, parts, strict=True):
        for value in branch.inside:
            gates[value] = (*gates.get(value, ()), (factor,))
    factors, entries = [*found.units.factors, *there], found.entries

    def work(value: Value) -> list[tuple[float, Terms]]:
        start, stop = entries.work_of.get(value, (0, 0))
        return [(n, (*terms, *gates.get(value, ()))) for n, terms in entries.work[start:stop]]

    graph, own = found.dag.graph, entries.scope.terms
    leaves = [v for v in graph.parameters.values() if v in own]
    costs = {
        "flops": Polynomial([w for v in graph.values for w in work(v)], factors),
        "parameters": Polynomial([(1, (*own[v], *gates.get(v, ()))) for v in leaves], factors),
        "bytes": Polynomial([(v.dtype.bytes, (*own[v], *gates.get(v, ()))) for v in leaves], factors),
    }
    whole = np.append(found.sizes, np.ones(len(there)))
    for name, cost in costs.items():  # what the graph doesn't use
        cost.constant += found.cost[name](found.sizes) - cost(whole)
    if device is not None:
        costs["time"] = Polynomial(_seconds(graph, device, work, own, gates), factors)
    return costs


def _seconds(
    graph: Graph, device: Device, work: Callable[[Value], list[tuple[float, Terms]]], own: Mapping[Value, Any],
    gates: Mapping[Value, Terms],
) -> Iterator[tuple[float, Terms]]:  # fmt: skip
    """The time of every value, as so many seconds times the entries of some dimensions."""
    for value, kernels in works(graph).items():
        calls = sum(device.time(Work(w.kind, w.dtype, calls=w.calls)) for w in kernels)
        rest = sum(device.time(w) for w in kernels) - calls
        each = work(value) or ([(1, (*own[value], *gates.get(value, ())))] if value in own and is_one(value) else [])
        whole = sum(n * math.prod(size_of(t) for t in terms) for n, terms in each)
        yield calls, gates.get(value, ())
        if whole:
            yield from ((rest * n / whole, terms) for n, terms in each)
        else:
            yield rest, gates.get(value, ())


def chosen(scores: Array, on: Array, step: int, least: int) -> Array:
    """Which units of a group stay: those that are ``on``, at least ``least``, a multiple of ``step``: sorted numbers.

    What that takes besides are those with the highest scores; all stay where the next multiple is more than there are.

    >>> chosen(np.array([0.1, 0.9, 0.5, 0.7]), np.array([False, True, False, False]), step=2, least=1).tolist()
    [1, 3]
    """
    size = len(scores)
    wanted = -(-max(int(on.sum()), least, 1) // step) * step
    order = np.lexsort((-scores, ~on))
    return np.sort(order[: min(wanted, size)])
