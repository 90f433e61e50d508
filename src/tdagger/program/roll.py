"""Rolling a network: blocks that follow each other and differ in their weights alone, as one block in a loop.

The blocks are found by structure. Values whose surroundings look alike are candidates for the ends of two blocks; from
both one walks back at once, over equal ops, to what the second begins with, which is where the one before it ends. What
both have is shared, and leaves that differ are the block's own: they are stacked, and the loop takes one of each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tdagger.analysis.axes.doubts import of_sizes
from tdagger.errors import GraphError
from tdagger.graph import Graph, bulk
from tdagger.names import shown
from tdagger.network import Lazy, Weight
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Input, Leaf, Parameter, const
from tdagger.ops.structure import concat, slice_axis, squeeze, unsqueeze
from tdagger.program.program import Program
from tdagger.program.simplify import simplified
from tdagger.program.trace import Trace, traced
from tdagger.program.write import scan_loop
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType

#: So many values that look alike are tried before one as the end of the block before its own.
_TRIED = 6


@dataclass
class Stack:
    """Blocks that follow each other: ``ends[0]`` is what the first takes, ``ends[i]`` what block ``i`` gives.

    ``rows`` are the values of all blocks that stand in one place, a tuple with one of each; ``leaves`` those rows whose
    values are the blocks' own leaves.
    """

    ends: list[Value]
    rows: list[tuple[Value, ...]]
    leaves: list[tuple[Value, ...]]

    @property
    def count(self) -> int:
        """How many blocks."""
        return len(self.ends) - 1


class StackedWeights(Lazy):
    """Weights of which some are others laid one after the other, when they are asked for."""

    def __init__(self, weights: Mapping[str, Array], stacked: Mapping[str, Sequence[str]], gone: set[str]) -> None:
        self.weights, self.stacked = weights, dict(stacked)
        self.kept = [n for n in weights if n not in gone]

    def __getitem__(self, name: str) -> Array:
        if name in self.stacked:
            return np.stack([self.weights[n] for n in self.stacked[name]])
        return self.weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self.stacked or name in self.kept

    def __iter__(self) -> Iterator[str]:
        return iter([*self.kept, *self.stacked])

    def __len__(self) -> int:
        return len(self.kept) + len(self.stacked)


# --- finding blocks ------------------------------------------------------------------------------------------------


def stacks(graph: Graph) -> list[Stack]:
    """The stacks of a graph, the last first; no value is in two."""
    place = {v: i for i, v in enumerate(graph.values)}
    alike = _alike(graph)
    found: list[Stack] = []
    taken: set[Value] = set()
    for value in reversed(graph.values):
        if value in taken or not value.args:
            continue
        for before in alike[value]:
            stack = _stack(value, before, place)
            if stack is not None and not any(v in taken for row in stack.rows for v in row):
                found.append(stack)
                taken |= {v for row in stack.rows for v in row}
                break
    return found


def _alike(graph: Graph) -> dict[Value, list[Value]]:
    """For each value the last ones before it that look like it, those first whose arguments do too."""
    own = {v: (type(v.op).__name__, v.type) if _is_own(v) else (v.op, v.type) for v in graph.values}
    found: dict[Value, list[Value]] = {}
    groups: dict[Any, list[Value]] = {}
    for value in graph.values:
        if not value.args:
            continue
        near = groups.setdefault((own[value], *[own[a] for a in value.args]), [])
        like = groups.setdefault(own[value], [])
        found[value] = list(dict.fromkeys([*near[: -_TRIED - 1 : -1], *like[: -_TRIED - 1 : -1]]))
        near.append(value)
        like.append(value)
    return found


def _is_own(value: Value) -> bool:
    """Whether it may be another in each block."""
    return isinstance(value.op, Parameter | Buffer | Input | Const)


def _stack(last: Value, before: Value, place: Mapping[Value, int]) -> Stack | None:
    """The blocks that end with two values and with those before; None if these aren't ends of blocks that are alike."""
    ends = [last, before]
    maps: list[dict[Value, Value]] = []
    while True:
        found = _matched(ends[-2], ends[-1], place)
        if found is None:
            break
        mapped, start = found
        if maps and set(maps[-1].values()) != set(mapped):
            break
        maps.append(mapped)
        ends.append(start)
    if not maps:
        return None
    rows: list[tuple[Value, ...]] = []
    for value in maps[0]:
        row = [value]
        for mapped in maps:
            row.append(mapped[row[-1]])
        rows.append(tuple(reversed(row)))
    leaves = [r for r in rows if _is_own(r[0])]
    if not any(isinstance(r[0].op, Parameter) for r in leaves):
        return None
    rows.sort(key=lambda r: place[r[0]])
    return Stack(ends[::-1], rows, leaves)


def _matched(last: Value, before: Value, place: Mapping[Value, int]) -> tuple[dict[Value, Value], Value] | None:
    """What each value of a block that ends with ``last`` is in the one before; and what that one begins with.

    The block begins with ``before``. None if they aren't alike.
    """
    mapped: dict[Value, Value] = {last: before}
    starts: dict[Value, None] = {}
    waiting = [(last, before)]
    while waiting:
        a, b = waiting.pop()
        if a.op is not b.op and a.op != b.op:
            if not (_is_own(a) and type(a.op) is type(b.op) and a.type is b.type):
                return None
            continue
        for x, y in zip(a.args, b.args, strict=True):
            if x is before:
                starts[y] = None
                if len(starts) > 1:
                    return None
            elif x is not y:
                if x in mapped:
                    if mapped[x] is not y:
                        return None
                    continue
                if place[x] < place[before] and x.args:
                    return None  # a value of an earlier block that isn't its end
                mapped[x] = y
                waiting.append((x, y))
    if len(starts) != 1 or len(set(mapped.values())) != len(mapped):
        return None
    (start,) = starts
    return (mapped, start) if start.type is last.type else None


# --- the program ---------------------------------------------------------------------------------------------------


def rolled(dag: TensorDAG, least: int = 2) -> Program:
    """See :meth:`tdagger.tensordag.TensorDAG.roll`."""
    if dag.graph.updates:
        raise GraphError(f"roll: {shown(dag.name)} changes its buffers ({', '.join(map(shown, dag.graph.updates))})")
    found = [s for s in stacks(dag.graph) if s.count >= least]
    if not found:
        raise GraphError(f"roll: {shown(dag.name)} has no blocks that follow each other and differ in weights alone")
    with bulk():
        return simplified(_Rolling(dag, found).program())


class _Rolling:
    def __init__(self, dag: TensorDAG, found: Sequence[Stack]) -> None:
        self.dag, self.stacks = dag, found
        self.trace = Trace(dag.name)
        self.new: dict[Value, Value] = {}
        self.of = {v: s for s in found for row in s.rows for v in row}
        self.row = {v: row for s in found for row in s.rows for v in row}
        self.names: dict[str, list[str]] = {}
        users = dag.graph.users
        given = set(dag.graph.outputs.values())
        #: The rows of each stack of which somebody outside needs a value.
        self.asked = [
            [
                row for row in s.rows
                if row[0].args and any(
                    v is not s.ends[-1] and (v in given or any(self.of.get(u) is not s for u in users[v])) for v in row
                )
            ]
            for s in found
        ]  # fmt: skip

    def program(self) -> Program:
        """The network with loops."""
        dag, trace = self.dag, self.trace
        for name, value in dag.graph.inputs.items():
            trace.taken(name, value.type)
            self.new[value] = value
        results = traced(trace, lambda: [self._made(v) for v in dag.graph.outputs.values()])
        gone = {n for names in self.names.values() for n in names}
        trace.weights = StackedWeights(dag.weights, self.names, gone)
        trace.declared = {n: w for n, w in dag.state.items() if n not in gone and w.alias_of not in gone}
        for name, own in self.names.items():
            like = dag.state[own[0]]
            type_ = TensorType((len(own), *like.type.shape), like.type.dtype)
            trace.declared[name] = Weight(type_, like.is_parameter, like.trainable, like.persistent)
        trace.origins = {self.new[v]: o for v, o in dag.origins.items() if v in self.new}
        trace.modules = dict(dag.modules)
        trace.order, trace.left_out = list(self.new.values()), of_sizes(dag.left_out)
        return trace.finished(list(dag.graph.inputs), results, dag.signature, list(dag.graph.outputs))

    def _made(self, wanted: Value) -> Value:
        """A value of the network in the program; the loops on its way are written first."""
        waiting = [wanted]
        while waiting:
            value = waiting[-1]
            if value in self.new:
                waiting.pop()
                continue
            stack = self.of.get(value)
            needs = self._needs(stack) if stack is not None and value.args else value.args
            missing = [a for a in needs if a not in self.new]
            if missing:
                waiting += missing
            elif stack is not None and value.args:
                self._loop(stack)
            else:
                self.new[value] = value.op(*[self.new[a] for a in value.args])
        return self.new[wanted]

    def _needs(self, stack: Stack) -> list[Value]:
        """What blocks take from outside: what the first begins with, what they share, inputs of their own."""
        inside = {v for row in stack.rows for v in row}
        last = [row[-1] for row in stack.rows]
        shared = [a for v in last for a in v.args if a not in inside and a not in stack.ends]
        own = [v for row in stack.leaves for v in row if isinstance(v.op, Input)]
        return [stack.ends[0], *shared, *own]

    def _loop(self, stack: Stack) -> None:
        """Write the loop of a stack; what is needed of it is known then."""
        asked = self.asked[self.stacks.index(stack)]
        entries = {i: self._stacked(row) for i, row in enumerate(stack.leaves)}

        def turn(carry: Value, x: Mapping[int, Value]) -> Any:
            own = {row[-1]: x[i] for i, row in enumerate(stack.leaves)} | {stack.ends[-2]: carry}
            for row in stack.rows:
                value = row[-1]
                if value not in own:
                    own[value] = value.op(*[own[a] if a in own else self.new[a] for a in value.args])
                    origin = self.dag.origins.get(value)
                    if origin is not None:
                        self.trace.origins.setdefault(own[value], origin)
            return own[stack.ends[-1]], [own[row[-1]] for row in asked] or None

        last, several = scan_loop(turn, self.new[stack.ends[0]], entries)
        self.new[stack.ends[-1]] = last
        for row, stacked in zip(asked, several or (), strict=True):
            for i, value in enumerate(row):
                if value not in self.new:
                    self.new[value] = squeeze(slice_axis(stacked, 0, i, i + 1), (0,))

    def _stacked(self, row: tuple[Value, ...]) -> Value:
        """The leaves of all blocks that stand in one place, one after the other."""
        first = row[0]
        shape = (len(row), *first.shape)
        if isinstance(first.op, Parameter | Buffer):
            own = [cast(Leaf, v.op).leaf for v in row]
            name = _named(own, {*self.names, *self.dag.state})
            self.names[name] = own
            kind: Callable[..., Any] = type(first.op)
            return kind(name, TensorType(shape, first.dtype))()
        if isinstance(first.op, Const):
            return const(np.stack([v.op.run() for v in row]), first.dtype)
        return concat([unsqueeze(self.new[v], (0,)) for v in row], 0)


def _named(names: Sequence[str], taken: set[str]) -> str:
    """A name for several: what they have in common, and a star where they differ.

    >>> _named(["layers.0.fc.weight", "layers.1.fc.weight"], set()), _named(["a", "b"], set())
    ('layers.all.fc.weight', 'all')
    """
    parts = [n.split(".") for n in names]
    if len({len(p) for p in parts}) == 1:
        found = ".".join([p[0] if len(set(p)) == 1 else "all" for p in zip(*parts, strict=True)])
    else:
        found = "all"
    own, count = found, 1
    while own in taken:
        count += 1
        own = f"{found}_{count}"
    return own
