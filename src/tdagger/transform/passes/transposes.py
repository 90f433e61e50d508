"""One transpose for two with nothing but reshapes between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from tdagger.network import N
from tdagger.op import Value
from tdagger.ops.structure import Group, Permute, Ungroup
from tdagger.transform.passes.rank import regrouped
from tdagger.transform.surgery.edit import Edit, finished
from tdagger.types import Shape


def join_transposes(dag: N, limit: int | None = None) -> N:
    """The network with one transpose for each two between which there are reshapes alone, and none where they cancel.

    Both reorder the same parts of axes, if reshapes between them only group axes and take them apart; then one does it
    all. It has at most ``limit`` axes, else there are two as before. So have those of which something else is made.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 4, 3, 5))
    >>> y = td.transpose(td.group(td.permute(x, (0, 2, 3, 1)), (1, 2, 1)), 1, 2)
    >>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    >>> [(v.op.name, v.shape) for v in join_transposes(dag).values]
    [('input', (2, 4, 3, 5)), ('group', (2, 4, 15))]
    """
    if not any(_is_second(v) for v in dag.graph.values):
        return dag
    edit = Edit(dag)
    users, outputs = dag.graph.users, {*dag.graph.outputs.values(), *dag.graph.updates.values()}

    def rule(value: Value, args: tuple[Any, ...]) -> Value | None:
        if not _is_second(value):
            return None
        middle, alone = value.args[0], True
        while _is_view(middle):
            alone = alone and len(users[middle]) == 1 and middle not in outputs
            middle = middle.args[0]
        alone = alone and len(users[middle]) == 1 and middle not in outputs
        return _joined(value.op.attributes["order"], args[0], limit, alone)

    edit.run(rule)
    return finished(dag, edit.graph(), edit.origins, checks=edit.checks())


def _is_view(value: Value) -> bool:
    return isinstance(value.op, Group | Ungroup) or value.op.name == "reshape"


def _is_second(value: Value) -> bool:
    """Whether it is a transpose of reshapes of a transpose."""
    if not isinstance(value.op, Permute):
        return False
    x = value.args[0]
    while _is_view(x):
        x = x.args[0]
    return isinstance(x.op, Permute)


def _joined(order: Sequence[int], x: Value, limit: int | None, alone: bool) -> Value | None:
    """The axes of ``x`` in an order, of what is below the transpose that it is a reshape of."""
    first = x
    while _is_view(first):
        first = first.args[0]
    if not isinstance(first.op, Permute):
        return None
    parts = _parts(first.shape, x.shape)
    if parts is None:
        return None
    sizes, before, after = parts
    base, own = first.args[0], first.op.order
    source = [p for i in range(base.rank) for p in before[own.index(i)]]
    wanted = [p for i in order for p in after[i]]
    runs = _side_by_side(source, wanted)
    shape = tuple([x.shape[i] for i in order])
    moved = sorted(range(len(runs)), key=lambda r: wanted.index(runs[r][0]))
    if moved == list(range(len(runs))):
        return regrouped(base, shape)
    if not alone or (limit is not None and len(runs) > limit):
        return None
    return regrouped(Permute(tuple(moved))(regrouped(base, [math.prod(sizes[p] for p in r) for r in runs])), shape)


def _parts(old: Shape, new: Shape) -> tuple[list[int], list[list[int]], list[list[int]]] | None:
    """Parts that the axes of two shapes of the same entries are groups of: their sizes, and those of each axis.

    None where there are none: axes of one are cut through by those of the other.

    >>> _parts((6, 4), (2, 12)), _parts((2, 3), (3, 2))
    (([2, 3, 4], [[0, 1], [2]], [[0], [1, 2]]), None)
    """
    sizes: list[int] = []
    before: list[list[int]] = [[] for _ in old]
    after: list[list[int]] = [[] for _ in new]
    i = j = 0
    left, right = 1, 1
    while True:
        while left == 1 and i < len(old):
            left, i = old[i], i + 1
        while right == 1 and j < len(new):
            right, j = new[j], j + 1
        if left == 1 or right == 1:
            return (sizes, before, after) if left == right else None
        size = min(left, right)
        if size == 0 or left % size or right % size:
            return None
        before[i - 1].append(len(sizes))
        after[j - 1].append(len(sizes))
        sizes.append(size)
        left, right = left // size, right // size


def _side_by_side(source: list[int], wanted: list[int]) -> list[list[int]]:
    """Parts in their order, in runs of those that stay side by side."""
    following = dict(itertools.pairwise(wanted))
    runs: list[list[int]] = []
    for p in source:
        if runs and following.get(runs[-1][-1]) == p:
            runs[-1].append(p)
        else:
            runs.append([p])
    return runs
