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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tdagger.op import Array
from tdagger.prune.groups import Group, Prunable


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
