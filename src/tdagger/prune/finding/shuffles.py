"""Shuffles: a dimension that is split, reordered and put together again only moves its entries.

As reshapes they need whole factors: of 2 x 8 channels a factor of 2 or of 8 can lose entries, which ties 2 or 8
channels together. As a gather by constant places, which they are for the analysis, every channel goes or stays alone.
What is left is a reshape again where it is regular, and a gather where it isn't.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from tdagger.network import Network
from tdagger.op import Array, Value
from tdagger.ops.indexing import Gather
from tdagger.ops.source import const
from tdagger.ops.structure import Group, Permute, Ungroup, group, permute, ungroup
from tdagger.transform.surgery.edit import Edit, finished

N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class Shuffle:
    """Dimension ``axis``, split into ``sizes``, of which the result has factor ``order[i]`` at place i.

    >>> Shuffle(0, (2, 3), (1, 0)).places.tolist()
    [0, 3, 1, 4, 2, 5]
    """

    axis: int
    sizes: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def places(self) -> Array:
        """Which entry comes to each place."""
        return np.arange(np.prod(self.sizes)).reshape(self.sizes).transpose(self.order).reshape(-1)

    def of(self, x: Value) -> Value:
        """The entries of ``x`` moved so, by reshapes."""
        y = ungroup(x, self.axis, self.sizes)
        own = [self.axis + i for i in self.order]
        y = permute(y, [*range(self.axis), *own, *range(self.axis + len(own), y.rank)])
        return group(y, [len(own) if i == self.axis else 1 for i in range(x.rank)])

    def like(self, places: Array) -> Shuffle | None:
        """The shuffle with one factor less or more of each that has these places; None if there is none."""
        n = len(places)
        if len(self.sizes) != 2 or n < 4 or places[0] != 0:
            return None
        inner = int(places[1])  # two factors change places: the second entry is the first of the second row
        if not 1 < inner < n or n % inner:
            return None
        found = Shuffle(self.axis, (n // inner, inner), (1, 0))
        return found if np.array_equal(found.places, places) else None


def shuffle_of(value: Value) -> list[Shuffle]:
    """The shuffles that a group of a permute of an ungroup is; none if dimensions are mixed."""
    moved = value.args[0] if isinstance(value.op, Group) else value
    split = moved.args[0] if isinstance(moved.op, Permute) else moved
    if not (isinstance(value.op, Group) and isinstance(moved.op, Permute) and isinstance(split.op, Ungroup)):
        return []
    own = [(i, n) for i, sizes in enumerate(split.op.sizes) for n in sizes]
    if len(split.op.sizes) != value.rank or not value.type.size:
        return []
    found: list[Shuffle] = []
    ends = list(accumulate(value.op.counts))
    for axis, (end, count) in enumerate(zip(ends, value.op.counts, strict=True)):
        order = [j for j in moved.op.order[end - count : end] if own[j][1] != 1]
        here = [j for j, (i, n) in enumerate(own) if i == axis and n != 1]
        if sorted(order) != here:
            return []
        if order != here:
            found.append(Shuffle(axis, tuple([own[j][1] for j in here]), tuple([here.index(j) for j in order])))
    return found


def as_gathers(dag: N) -> tuple[N, Mapping[Value, Shuffle]]:
    """The network with shuffles as gathers by constant places, and what each of those is."""
    known = {v: s for v in dag.graph.values if isinstance(v.op, Group) and (s := shuffle_of(v))}
    if not known:
        return dag, {}
    made: dict[Value, Shuffle] = {}
    edit = Edit(dag)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in known:
            return None
        x: Value = args[0].args[0].args[0]
        for shuffle in known[value]:
            x = Gather(shuffle.axis, 0)(x, const(shuffle.places))
            made[x] = shuffle
        return x

    graph = edit.run(rule).graph()
    return finished(dag, graph, edit.origins), made
