"""What a graph reads and writes under three models that bracket reality, in bytes or elements, value by value.

``materialised``: every core op writes its result. ``composite``: every composite does, its inside costs nothing
(``Graph.traffic``). ``fused``: elementwise ops and movements cost nothing by themselves, only what must be in memory
between the other ops is written and read. ``docs/counting.md`` defines each exactly. For every value,
``fused <= composite <= materialised``, of reads and of writes, in either unit.

>>> import tdagger as td
>>> x, w = td.input("x", (2, 3)), td.parameter("w", (4, 3))
>>> graph = td.Graph({"x": x}, {"y": td.relu(td.linear(x, w))})
>>> [tuple(map(sum, zip(*model(graph).values()))) for model in (materialised, composite, fused)]
[(204, 160), (104, 64), (72, 32)]
>>> [tuple(map(sum, zip(*model(graph, "elements").values()))) for model in (materialised, composite, fused)]
[(51, 40), (26, 16), (18, 8)]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, Traffic, Unit, is_one, result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import POINTWISE
from tdagger.ops.source import Const, Iota, Leaf
from tdagger.ops.structure import Concat, Group, Item, Pad, Permute, Repeat, Slice, Unfold, Ungroup

#: What a value is to fusion: in memory from the start (or a result of several), read through, computed in passing,
#: or done by itself.
Kind = Literal["stored", "movement", "elementwise", "anchor"]

_MOVEMENTS = (Permute, Group, Ungroup, Repeat, Slice, Pad, Unfold)
_ELEMENTWISE = (*POINTWISE, Concat, Iota)
_SOURCES = (Leaf, Const)
_STORED = (Leaf, Const, Item)


class Moved(NamedTuple):
    """What a value reads and writes: bytes, then elements."""

    reads: int
    writes: int
    elements_read: int
    elements_written: int

    def in_unit(self, unit: Unit) -> Traffic:
        """In bytes or elements; AttributeValueError for another unit."""
        if unit not in ("bytes", "elements"):
            raise AttributeValueError(f"traffic is counted in bytes or elements, not in {unit!r}")
        return Traffic(*(self[:2] if unit == "bytes" else self[2:]))


NOTHING = Moved(0, 0, 0, 0)


class Model(Protocol):
    """Traffic of every value of a graph in bytes or elements."""

    def __call__(self, graph: Graph, unit: Unit = "bytes") -> dict[Value, Traffic]: ...


def composite(graph: Graph, unit: Unit = "bytes") -> dict[Value, Traffic]:
    """Read and written at the boundary of every composite; see :func:`tdagger.graph.traffic`."""
    return _in_unit(_Rules().boundary(graph.values), unit)


def materialised(graph: Graph, unit: Unit = "bytes") -> dict[Value, Traffic]:
    """Read and written if every core op, those inside composites too, reads and writes memory.

    Views (group, ungroup, repeat) cost nothing here either; a composite costs at least what its boundary does.
    """
    return _in_unit(moved(graph)["materialised"], unit)


def fused(graph: Graph, unit: Unit = "bytes") -> dict[Value, Traffic]:
    """Read and written if elementwise ops and movements are fused with what is around them.

    Every op that is neither is an anchor. In memory are inputs, weights, constants, outputs and what anchors take;
    movements are read through, and what only elementwise ops take isn't written.
    """
    return _in_unit(moved(graph)["fused"], unit)


#: The models, from the most traffic to the least.
MODELS: dict[str, Model] = {"materialised": materialised, "composite": composite, "fused": fused}


def moved(graph: Graph) -> dict[str, dict[Value, Moved]]:
    """What every value reads and writes, in both units, under every model."""
    rules = _Rules()
    boundary = rules.boundary(graph.values)
    return {
        "materialised": rules.materialised(graph.values, boundary),
        "composite": boundary,
        "fused": _Fused(graph, rules, boundary).found,
    }


def _in_unit(found: dict[Value, Moved], unit: Unit) -> dict[Value, Traffic]:
    return {value: m.in_unit(unit) for value, m in found.items()}


class _Rule(NamedTuple):
    """An op on arguments of certain types: whether it is a view, elements read of each, elements and bytes written."""

    is_view: bool
    reads: tuple[int, ...]
    elements: int
    bytes: int


_VIEW = _Rule(True, (), 0, 0)


class _Rules:
    """The ops' own rules, asked once for each op and types of arguments."""

    def __init__(self) -> None:
        self._known: dict[Any, _Rule] = {}
        self._inside: dict[Any, Moved] = {}

    def of(self, value: Value) -> _Rule:
        op = value.op
        types = tuple([a.type for a in value.args])
        found = self._known.get((op, types))
        if found is None:
            if types and op.moves_nothing(*types):
                found = _VIEW
            elif is_one(value):
                found = _Rule(False, op.reads(value.type, *types), value.type.size, value.type.bytes)
            else:
                out = result_types(value)
                found = _Rule(False, op.reads(value.type, *types), sum(t.size for t in out), sum(t.bytes for t in out))
            self._known[op, types] = found
        return found

    def boundary(self, values: Iterable[Value]) -> dict[Value, Moved]:
        """Of each value at the boundary of composites: as :func:`tdagger.graph.traffic` has it, in both units."""
        found: dict[Value, Moved] = {}
        stored: dict[Value, int] = {}  # of a view, the elements behind it
        for value in values:
            op = value.op
            if isinstance(op, _SOURCES):
                found[value] = NOTHING
                continue
            rule = _VIEW if op.is_view and value.args else self.of(value)
            if rule.is_view:
                found[value] = NOTHING
                if not isinstance(op, Item):
                    base = value.args[0]
                    size = base.type.size
                    stored[value] = min(size, stored.get(base, size))
                continue
            total = elements = 0
            for n, arg in zip(rule.reads, value.args, strict=True):
                behind = stored.get(arg)
                if behind is not None and behind < n:
                    n = behind
                elements += n
                total += n * arg.type.dtype.bytes
            found[value] = Moved(total, rule.bytes, elements, rule.elements)
        return found

    def materialised(self, values: Iterable[Value], boundary: dict[Value, Moved]) -> dict[Value, Moved]:
        found: dict[Value, Moved] = {}
        for value in values:
            outside = found[value] = boundary[value]
            op = value.op
            if outside == NOTHING or not isinstance(op, Composite) or op.definition.flops_each is not None:
                continue
            key = (op, tuple([a.type for a in value.args]))
            inside = self._inside.get(key)
            if inside is None:
                body = op.counted(*key[1]).values
                each = self.materialised(body, self.boundary(body)).values()
                inside = self._inside[key] = Moved(*map(sum, zip(*each, strict=True)))
            found[value] = Moved(*map(max, outside, inside))
        return found


class _Fused:
    def __init__(self, graph: Graph, rules: _Rules, boundary: dict[Value, Moved]) -> None:
        self._kinds: dict[Any, Kind] = {}
        self._rules = rules
        self._groups: dict[Value, Value] = {}
        #: How many elements of a value each group of elementwise ops has read already.
        self._read: dict[tuple[Value, Value], int] = {}
        self.kinds = {v: self._kind(v) for v in graph.values}
        kept = {*graph.outputs.values(), *graph.updates.values()}
        #: What a value is read from, and how many elements of it at most.
        self.behind: dict[Value, tuple[Value, int]] = {}
        for value in graph.values:
            self._look_behind(value, value in kept)
        self.stored = {self.behind[v][0] for v in kept if is_one(v)}
        self.stored.update(v for v, kind in self.kinds.items() if kind == "stored" or not is_one(v))
        for value, kind in self.kinds.items():
            if kind == "anchor":
                self.stored.update([self.behind[a][0] for a in value.args])
        for value, kind in self.kinds.items():
            if kind == "elementwise":
                self._group(value)
        self.found = {v: self._count(v, boundary[v]) for v in graph.values}

    def _kind(self, value: Value) -> Kind:
        op = value.op
        if isinstance(op, _STORED):
            return "stored"
        if not isinstance(op, Composite):
            return "movement" if isinstance(op, _MOVEMENTS) else "elementwise" if _is_elementwise(op) else "anchor"
        if not is_one(value):
            return "anchor"
        key = (op, tuple([a.type for a in value.args]))
        if key not in self._kinds:
            inside = {self._kind(v) for v in op.body(*key[1]).values if not isinstance(v.op, _SOURCES)}
            moves = inside <= {"movement"} and len(value.args) == 1
            free = moves or inside <= {"movement", "elementwise"}
            self._kinds[key] = "movement" if moves else "elementwise" if free else "anchor"
        return self._kinds[key]

    def _look_behind(self, value: Value, is_kept: bool) -> None:
        if self.kinds[value] == "movement" and (not is_kept or self._rules.of(value).is_view):
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

    def _count(self, value: Value, boundary: Moved) -> Moved:
        kind = self.kinds[value]
        if boundary == NOTHING or kind == "stored" or self.behind[value][0] is not value:
            return NOTHING
        total = elements = 0
        for n, arg in zip(self._rules.of(value).reads, value.args, strict=True):
            base, most = self.behind[arg]
            if base in self.stored:
                n = min(n, most)
                n = self._not_yet_read(value, base, n) if kind == "elementwise" else n
                elements += n
                total += n * arg.type.dtype.bytes
        if value in self.stored:
            return Moved(total, boundary.writes, elements, boundary.elements_written)
        return Moved(total, 0, elements, 0)

    def _not_yet_read(self, value: Value, base: Value, n: int) -> int:
        """How many elements a group of elementwise ops reads of ``base`` beyond what it has read before."""
        key = (self._root(value), base)
        before = self._read.get(key, 0)
        self._read[key] = max(n, before)
        return max(n - before, 0)


def _is_elementwise(op: Op) -> bool:
    return isinstance(op, _ELEMENTWISE)
