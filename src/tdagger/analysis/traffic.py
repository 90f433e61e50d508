"""What a graph reads and writes under three models that bracket reality, in bytes, value by value.

``materialised``: every core op writes its result. ``composite``: every composite does, its inside costs nothing
(``Graph.traffic``). ``fused``: elementwise ops and movements cost nothing by themselves, only what must be in memory
between the other ops is written and read. ``docs/counting.md`` defines each exactly. For every value,
``fused <= composite <= materialised``, of reads and of writes.

>>> import tdagger as td
>>> x, w = td.input("x", (2, 3)), td.parameter("w", (4, 3))
>>> graph = td.Graph({"x": x}, {"y": td.relu(td.linear(x, w))})
>>> [tuple(map(sum, zip(*model(graph).values()))) for model in (materialised, composite, fused)]
[(204, 160), (104, 64), (72, 32)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from tdagger.composite import Composite
from tdagger.graph import Graph, Traffic, is_one, is_view, traffic
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Binary, Bitcast, Cast, Unary, Where
from tdagger.ops.source import Const, Iota, Leaf
from tdagger.ops.structure import Concat, Group, Item, Pad, Permute, Repeat, Slice, Unfold, Ungroup

#: What a value is to fusion: in memory from the start (or a result of several), read through, computed in passing,
#: or done by itself.
Kind = Literal["stored", "movement", "elementwise", "anchor"]

_MOVEMENTS = (Permute, Group, Ungroup, Repeat, Slice, Pad, Unfold)
_ELEMENTWISE = (Unary, Binary, Where, Cast, Bitcast, Concat, Iota)


def composite(graph: Graph) -> dict[Value, Traffic]:
    """Bytes read and written at the boundary of every composite; see :func:`tdagger.graph.traffic`."""
    return graph.traffic


def materialised(graph: Graph) -> dict[Value, Traffic]:
    """Bytes read and written if every core op, those inside composites too, reads and writes memory.

    Views (group, ungroup, repeat) cost nothing here either; a composite costs at least what its boundary does.
    """
    return _materialised(graph.values, graph.traffic, {})


def _materialised(
    values: Iterable[Value], boundary: dict[Value, Traffic], known: dict[Any, Traffic]
) -> dict[Value, Traffic]:
    found: dict[Value, Traffic] = {}
    for value in values:
        reads, writes = boundary[value]
        op = value.op
        if isinstance(op, Composite) and op.definition.flops_each is None and (reads or writes):
            key = (op, tuple([a.type for a in value.args]))
            inside = known.get(key)
            if inside is None:
                body = op.body(*key[1]).values
                each = _materialised(body, traffic(body), known).values()
                inside = known[key] = Traffic(sum(t.reads for t in each), sum(t.writes for t in each))
            reads, writes = max(reads, inside.reads), max(writes, inside.writes)
        found[value] = Traffic(reads, writes)
    return found


def fused(graph: Graph) -> dict[Value, Traffic]:
    """Bytes read and written if elementwise ops and movements are fused with what is around them.

    Every op that is neither is an anchor. In memory are inputs, weights, constants, outputs and what anchors take;
    movements are read through, and what only elementwise ops take isn't written.
    """
    return _Fused(graph).found


class _Fused:
    def __init__(self, graph: Graph) -> None:
        self._kinds: dict[Any, Kind] = {}
        self._reads: dict[Any, tuple[int, ...]] = {}
        self._groups: dict[Value, Value] = {}
        #: How much of a value each group of elementwise ops has read already.
        self._read: dict[tuple[Value, Value], int] = {}
        self.kinds = {v: self._kind(v) for v in graph.values}
        kept = {*graph.outputs.values(), *graph.updates.values()}
        #: What a value is read from, and how many elements of it at most.
        self.behind: dict[Value, tuple[Value, int]] = {}
        for value in graph.values:
            self._look_behind(value, value in kept)
        self.stored = {self.behind[v][0] for v in kept if is_one(v)}
        self.stored.update(v for v in graph.values if self.kinds[v] == "stored" or not is_one(v))
        for value in graph.values:
            if self.kinds[value] == "anchor":
                self.stored.update(self.behind[a][0] for a in value.args)
        for value in graph.values:
            if self.kinds[value] == "elementwise":
                self._group(value)
        self.found = {v: self._count(v, graph.traffic[v]) for v in graph.values}

    def _kind(self, value: Value) -> Kind:
        op = value.op
        if isinstance(op, Leaf | Const | Item):
            return "stored"
        if not isinstance(op, Composite):
            return "movement" if isinstance(op, _MOVEMENTS) else "elementwise" if _is_elementwise(op) else "anchor"
        if not is_one(value):
            return "anchor"
        key = (op, tuple([a.type for a in value.args]))
        if key not in self._kinds:
            inside = {self._kind(v) for v in op.body(*key[1]).values if not isinstance(v.op, Leaf | Const)}
            moves = inside <= {"movement"} and len(value.args) == 1
            free = moves or inside <= {"movement", "elementwise"}
            self._kinds[key] = "movement" if moves else "elementwise" if free else "anchor"
        return self._kinds[key]

    def _look_behind(self, value: Value, is_kept: bool) -> None:
        if self.kinds[value] == "movement" and (not is_kept or is_view(value)):
            base, most = self.behind[value.args[0]]
            self.behind[value] = base, min(most, value.args[0].type.size)
        else:
            self.behind[value] = value, value.type.size if is_one(value) else 0

    def _root(self, value: Value) -> Value:
        root = value
        while (up := self._groups.get(root, root)) is not root:
            root = up
        while (up := self._groups.get(value, root)) is not root:
            self._groups[value], value = root, up
        return root

    def _group(self, value: Value) -> None:
        """Join an elementwise op with those that make its arguments, as far as these aren't in memory."""
        for arg in value.args:
            base = self.behind[arg][0]
            if base not in self.stored:
                self._groups[self._root(value)] = self._root(base)

    def _count(self, value: Value, boundary: Traffic) -> Traffic:
        kind = self.kinds[value]
        if kind == "stored" or self.behind[value][0] is not value or boundary == (0, 0):
            return Traffic(0, 0)
        reads = 0
        key = (value.op, tuple([a.type for a in value.args]))
        if key not in self._reads:
            self._reads[key] = value.op.reads(value.type, *key[1])
        for n, arg in zip(self._reads[key], value.args, strict=True):
            base, most = self.behind[arg]
            if base in self.stored:
                n = min(n, most) * arg.type.dtype.bytes
                reads += self._not_yet_read(value, base, n) if kind == "elementwise" else n
        return Traffic(reads, boundary.writes if value in self.stored else 0)

    def _not_yet_read(self, value: Value, base: Value, n: int) -> int:
        """What a group of elementwise ops reads of ``base`` beyond what it has read before."""
        key = (self._root(value), base)
        before = self._read.get(key, 0)
        self._read[key] = max(n, before)
        return max(n - before, 0)


def _is_elementwise(op: Op) -> bool:
    return isinstance(op, _ELEMENTWISE)


#: The models, from the most traffic to the least.
MODELS: dict[str, Callable[[Graph], dict[Value, Traffic]]] = {
    "materialised": materialised,
    "composite": composite,
    "fused": fused,
}
