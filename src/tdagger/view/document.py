"""A view's JSON, which docs/view-json.md describes: the tree, its bodies and tables, and lists over the opened tree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.cost.report import Cost
from tdagger.analysis.memory.activations import buffers
from tdagger.analysis.time.profile import Profile
from tdagger.analysis.time.timing import Device, predict
from tdagger.composite import Composite
from tdagger.errors import AttributeValueError
from tdagger.graph import bulk
from tdagger.network import Network
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.view.expressions import constant, expression
from tdagger.view.fold.align import merged, state_of
from tdagger.view.fold.blocks import arrange
from tdagger.view.fold.bodies import INPUT, Bodies, Body, Entry, sort
from tdagger.view.fold.boxes import Box, Facts, Leaf, tree
from tdagger.view.fold.differences import differences
from tdagger.view.fold.repeats import moved
from tdagger.view.fold.wires import End, Port, Wires
from tdagger.view.tables import COLUMNS, Side, Tables

VERSION = 1

#: So many bins a histogram has.
BINS = 32


class Viewed(Network, Protocol):
    """What a view needs of a network: a :class:`tdagger.TensorDAG`."""

    @property
    def confirmed(self) -> frozenset[str]: ...
    def axes(self) -> NamedAxes: ...
    def cost(self) -> Cost: ...


@dataclass(frozen=True)
class Wanted:
    """What a view has besides structure and costs."""

    device: Device | None = None
    profiles: Sequence[Profile | None] = ()
    histograms: bool = False
    formulas: bool = True


def document(networks: Sequence[Viewed], wanted: Wanted, opened: Callable[[Any], list[list[int]]]) -> dict[str, Any]:
    """The JSON of one network, or of two compared; ``opened`` says which boxes of it are open at first."""
    with bulk():
        return _Document(networks, wanted).whole(opened)


class _Document:
    def __init__(self, networks: Sequence[Viewed], wanted: Wanted) -> None:
        self.networks, self.wanted = networks, wanted
        self.tables = Tables()
        self.facts = [Facts.of(n) for n in networks]
        self.sides = [Side(n, self.tables, n.cost(), wanted.formulas) for n in networks]
        self.root = _tree(networks, self.facts)
        self.wires = Wires(list(networks), self.facts, self.root)
        trained = {v for n in networks for v in _trained(n)}
        sort(self.root, self.wires)
        arrange(self.root, self.wires, trained, by_structure=not any(True for _ in self.root.boxes()))
        for box in [*reversed(list(self.root.boxes())), self.root] if len(networks) == 2 else ():
            state_of(box)
        self.bodies = Bodies(self.root, self.wires, self._described)
        self.leaves = list(_in_order(self.bodies, self.root))
        self.parameters = _Weights(networks, self.sides, wanted.histograms)

    def whole(self, opened: Callable[[Any], list[list[int]]]) -> dict[str, Any]:
        bodies = [_Written(self, body).json() for body in self.bodies.found]
        networks = [self._network(k) for k in range(len(self.networks))]
        titles = [n.name for n in self.networks]
        found: dict[str, Any] = {
            "schema": "tdagger.view", "version": VERSION, "title": " | ".join(titles), "networks": networks,
            "types": self.tables.types.entries, "ops": self.tables.ops.entries, "texts": self.tables.texts.entries,
            "symbols": self.tables.formulas.symbols, "formulas": self.tables.formulas.table.entries,
            "conditions": self.tables.formulas.conditions, "cost_columns": list(COLUMNS),
            "costs": self.tables.costs.entries, "parameters": self.parameters.table, "bodies": bodies,
            "root": self.bodies.root,
        }  # fmt: skip
        found["notices"] = list(dict.fromkeys(n for side in self.sides for n in side.sizes.notices))
        found["open"] = opened(found)
        return found

    # --- what makes ops equal ---

    def _described(self, leaf: Leaf) -> Hashable:
        return tuple([None if v is None else self._formal(leaf, k, v) for k, v in enumerate(leaf.values)])

    def _formal(self, leaf: Leaf, k: int, value: Value) -> Hashable:
        side = self.sides[k]
        weights = tuple([side.formal(w) for _, w in self.wires.slots[leaf][k]])
        own = (side.formal(value), *[side.formal(a) for a in value.args])
        said = (tuple(self.labels(leaf, k)), self.source(value, k), tuple(self.numbers(value, k)))
        return (self.tables.op(value), own, weights, side.cost_of(value), said)

    # --- what is said of an op wherever it stands ---

    def source(self, value: Value, k: int) -> tuple[str, str]:
        """The framework's op that made it, and the line of source."""
        origin = self.networks[k].origins.get(value)
        return ("", "") if origin is None else (origin.op, origin.source)

    def numbers(self, value: Value, k: int) -> list[str]:
        """Its arguments as far as they are written out, as numbers are."""
        return [self.facts[k].inline.get(a, "") for a in value.args]

    def labels(self, leaf: Leaf, k: int) -> list[str]:
        """What its weights are called in its expression."""
        return [self.label(leaf, k, i, weight) for i, weight in self.wires.slots[leaf][k]]

    def label(self, leaf: Leaf, k: int, argument: int, weight: Value) -> str:
        """What an argument that is a weight is called in an expression: by its name in the module, or in the op."""
        value = leaf.values[k]
        assert value is not None
        name = getattr(weight.op, "leaf", "")
        origin = self.networks[k].origins.get(value)
        path = f"{origin.module}." if origin is not None and origin.module else ""
        if name and path and name.startswith(path):
            return name[len(path) :]
        if isinstance(value.op, Composite):
            return value.op.definition.argument_names(value.op.given, len(value.args))[argument]
        return f"p{argument}" if not isinstance(weight.op, Const) else f"constant{argument}"

    # --- lists over the opened tree ---

    def _network(self, k: int) -> dict[str, Any]:
        network, side = self.networks[k], self.sides[k]
        cost, graph = side.cost, network.graph
        memory = cost.memory
        totals = {
            "flops": cost.total_flops, "macs": cost.macs, "attention_flops": cost.attention_flops,
            "transcendental": cost.transcendental, "reads": cost.reads, "writes": cost.writes,
            "fused_reads": cost.fused.reads, "fused_writes": cost.fused.writes, "peak_bytes": memory.peak_bytes,
            "parameters": sum(v.type.size for n, v in graph.parameters.items() if not _tied(network, n)),
            "parameter_bytes": memory.parameter_bytes, "buffer_bytes": memory.buffer_bytes,
            "constant_bytes": memory.constant_bytes, "ops": len(self.facts[k].shown),
        }  # fmt: skip
        found: dict[str, Any] = {
            "name": network.name,
            "inputs": [{"name": n, "type": side.types(v)[0]} for n, v in graph.inputs.items()],
            "outputs": [{"name": n, "type": side.types(v)[0]} for n, v in graph.outputs.items()],
            "sizes": side.axes.sizes,
            "totals": totals,
            "partial": dict(cost.partial),
            "slots": [self.parameters.number(w, k) for leaf in self.leaves for _, w in self.wires.slots[leaf][k]],
            "memory": self._memory(k),
        }
        if self.wanted.device is not None:
            found["predicted"] = self._predicted(k, self.wanted.device)
        profile = self.wanted.profiles[k] if k < len(self.wanted.profiles) else None
        if profile is not None:
            found["measured"] = self._measured(k, profile)
        return found

    def _memory(self, k: int) -> dict[str, Any]:
        graph = self.networks[k].graph
        number = {leaf.values[k]: i for i, leaf in enumerate(self.leaves) if leaf.values[k] is not None}
        steps = [number[v] for v in self.facts[k].shown]
        shown, before = set(self.facts[k].shown), list[int]()  # of every value, the steps before it
        for value in graph.values:
            before.append((before[-1] if before else 0) + (value in shown))
        last = len(graph.values)
        held = buffers(graph)
        until = [len(steps) if b.stop == last else max(before[b.stop] - 1, 0) for b in held]
        found: dict[str, Any] = {} if steps == sorted(steps) and len(steps) == len(self.leaves) else {"order": steps}
        side = self.sides[k]
        types = self.tables.types.entries
        found["op"] = [number[b.value] for b in held]
        found["until"] = until
        found["bytes"] = [types[side.types(b.value)[b.index]]["bytes"] for b in held]
        peak = side.cost.memory
        found["peak"] = peak.peak_bytes
        found["at"] = None if peak.peak_at is None else max(before[graph.values.index(peak.peak_at)] - 1, 0)
        return found

    def _each(self, k: int, seconds: Mapping[Value, float]) -> list[float | None]:
        out: list[float | None] = []
        for leaf in self.leaves:
            value = leaf.values[k]
            out.append(None if value is None else float(f"{seconds.get(value, 0.0):.4g}"))
        return out

    def _predicted(self, k: int, device: Device) -> dict[str, Any]:
        found = predict(self.networks[k].graph, device, self.networks[k].origins)
        return {
            "device": device.name, "title": device.title, "seconds": found.seconds, "notices": list(found.notices),
            "each": self._each(k, found.seconds_of), "roofline": _roofline(device),
        }  # fmt: skip

    def _measured(self, k: int, profile: Profile) -> dict[str, Any]:
        seconds = {row.value: row.seconds for row in profile.by_value if row.value is not None}
        strange = [v for v in seconds if v not in set(self.networks[k].graph.values)]
        if strange:
            raise AttributeValueError(f"the profile is of another network: it has {strange[0]!r}, which this one lacks")
        title = f"{profile.runs} runs on {profile.threads} thread{'s' * (profile.threads != 1)}"
        return {"title": title, "seconds": profile.seconds, "each": self._each(k, seconds)}


def _tree(networks: Sequence[Viewed], facts: Sequence[Facts]) -> Box:
    trees = [tree(network, own, k) for k, (network, own) in enumerate(zip(networks, facts, strict=True))]
    return trees[0] if len(trees) == 1 else merged(*trees)


def _trained(network: Network) -> set[Value]:
    found: set[Value] = set()
    for value in network.graph.values:
        if isinstance(value.op, Parameter) or any(a in found for a in value.args):
            found.add(value)
    return found


def _tied(network: Network, name: str) -> str:
    return network.state[name].alias_of if name in network.state else ""


def _in_order(bodies: Bodies, root: Box) -> Iterator[Leaf]:
    """Every op in the order of the opened tree; boxes hold what they hold in the order of their bodies."""
    return root.leaves()


def _roofline(device: Device) -> dict[str, float]:
    """Peaks in operations and bytes per second; of a calibrated device the highest that were measured."""
    if device.roofline:
        peaks: Mapping[str, float] = device.roofline["gflops"]
        return {"flops": 1e9 * peaks["f32"], "bytes": 1e9 * float(device.roofline["gbytes"])} | {
            f"flops_{name}": 1e9 * peak for name, peak in peaks.items()
        }
    flops = [1 / s[1] for s in device.seconds.values() if s[1]]
    moved = [1 / s[3] for s in device.seconds.values() if s[3]]
    return {"flops": max(flops, default=0.0), "bytes": max(moved, default=0.0)}


class _Weights:
    """The table of parameters, buffers and large constants."""

    def __init__(self, networks: Sequence[Viewed], sides: Sequence[Side], histograms: bool) -> None:
        self.networks, self.sides, self.histograms = networks, sides, histograms
        self.table: list[dict[str, Any]] = []
        self._numbers: dict[tuple[int, Value], int] = {}

    def number(self, weight: Value, k: int) -> int:
        """The number of a weight of network ``k``."""
        found = self._numbers.get((k, weight))
        if found is None:
            found = self._numbers[k, weight] = len(self.table)
            self.table.append(self._entry(weight, k))
        return found

    def _entry(self, weight: Value, k: int) -> dict[str, Any]:
        op, network = weight.op, self.networks[k]
        type_ = self.sides[k].types(weight)[0]
        if isinstance(op, Const):
            entry: dict[str, Any] = {"name": constant(op), "type": type_, "kind": "constant"}
            return entry | self._histogram(op.data)
        assert isinstance(op, Parameter | Buffer)
        entry = {"name": op.leaf, "type": type_, "kind": "parameter" if isinstance(op, Parameter) else "buffer"}
        state = network.state.get(op.leaf)
        if state is not None and not state.trainable and isinstance(op, Parameter):
            entry["trainable"] = False
        if _tied(network, op.leaf):
            entry["tied"] = _tied(network, op.leaf)
        return entry | (self._histogram(network.weights[op.leaf]) if self._has_data(network, op.leaf) else {})

    def _has_data(self, network: Viewed, name: str) -> bool:
        return self.histograms and name in network.weights

    def _histogram(self, data: Array) -> dict[str, Any]:
        return {"histogram": histogram(data)} if self.histograms and data.size else {}


def histogram(data: Array) -> dict[str, Any]:
    """How a weight's numbers are spread.

    >>> histogram(np.array([0.0, 1.0, float("nan")]))["nonfinite"]
    1
    """
    numbers = np.asarray(data).astype(np.float64 if data.dtype.kind in "fiu" else np.float32).reshape(-1)
    finite = numbers[np.isfinite(numbers)]
    counts, edges = np.histogram(finite, BINS) if finite.size else (np.zeros(0, int), np.zeros(2))
    mean, std = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 0.0)
    return {
        "low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(), "mean": mean, "std": std,
        "zeros": int((numbers == 0).sum()), "nonfinite": int(numbers.size - finite.size),
    }  # fmt: skip


class _Written:
    """A body as JSON."""

    def __init__(self, whole: _Document, body: Body) -> None:
        self.whole, self.body = whole, body
        self.names: dict[End, str] = {end: f"in{i}" for i, end in enumerate(body.inputs)}
        self._name_results()

    def _name_results(self) -> None:
        """Name what the items make as the arguments of others."""
        for edge in self.body.edges:
            if edge.start != INPUT:
                self.names[edge.end] = f"%{edge.start}" + (f".{edge.start_port}" if edge.start_port else "")

    def json(self) -> dict[str, Any]:
        body = self.body
        found: dict[str, Any] = {
            "inputs": [self._port(end) for end in body.inputs],
            "outputs": [self._port(end) for end in body.outputs],
            "items": [self._item(entry, i) for i, entry in enumerate(body.entries)],
            "edges": [self._edge(edge) for edge in body.edges],
            "ops": body.ops,
            "slots": list(body.slots) or [0] * len(self.whole.networks),
        }
        if body.of.box is None:
            for port, (name, _, _) in zip(found["outputs"], self.whole.wires.outputs, strict=False):
                port["name"] = name
        return found

    def _port(self, end: End) -> dict[str, Any]:
        maker, _ = end
        found: dict[str, Any] = {"type": self._type(end)}
        if isinstance(maker, Port) and self.body.of.box is None:
            found["name"] = maker.name
        return found

    def _type(self, end: End) -> int:
        maker, result = end
        k = 0 if maker.values[0] is not None else 1
        value = maker.values[k]
        assert value is not None
        return self.whole.sides[k].types(value)[result]

    def _edge(self, edge: Any) -> list[Any]:
        found: list[Any] = [edge.start, edge.start_port, edge.stop, edge.stop_port, self._type(edge.end)]
        side = "" if len(self.whole.networks) == 1 or edge.networks == 3 else "ab"[edge.networks - 1]
        if edge.times > 1 or side:
            found.append(edge.times)
        return [*found, side] if side else found

    def _item(self, entry: Entry, number: int) -> dict[str, Any]:
        first = entry.first
        offset = self.body.of.offset
        if isinstance(first, Leaf):
            return self._op(first, moved(first.name, -offset))
        found: dict[str, Any] = {"body": entry.body, "name": self.body.names[number], "kind": first.kind}
        found["module"] = first.is_module
        if entry.times > 1:
            found["times"] = entry.times
            found["names"] = [moved(m.name, -offset) for m in entry.members]
            found |= {"chain": [list(pair) for pair in entry.chain], "shared": list(entry.shared)}
            found |= {"each": list(entry.each), "each_out": list(entry.each_out)}
        if first.call:
            found["call"] = first.call + 1
        if first.step:
            found["step"] = first.step
        differs = differences(self.whole.bodies, self.body, number, self.whole.wires)
        if differs:
            found["differs"] = differs
        return self._state(found, first)

    def _state(self, found: dict[str, Any], item: Leaf | Box) -> dict[str, Any]:
        if len(self.whole.networks) == 2:
            state = state_of(item)
            if state != "same":
                found["state"] = state
            if item.changes:
                found["changes"] = item.changes
        return found

    def _op(self, leaf: Leaf, name: str) -> dict[str, Any]:
        k = 0 if leaf.values[0] is not None else 1
        found = self._of_one(leaf, k)
        if name:
            found |= {"name": name, "kind": leaf.kind}
        if k == 0 and len(leaf.values) > 1 and leaf.values[1] is not None:
            other = self._of_one(leaf, 1)
            changed = {
                key: other.get(key) for key in {**found, **other} if key in _OWN and other.get(key) != found.get(key)
            }
            if leaf.changes:
                found["b"] = {key: n for key, n in changed.items() if n is not None or key == "cost"}
        return self._state(found, leaf)

    def _of_one(self, leaf: Leaf, k: int) -> dict[str, Any]:
        value = leaf.values[k]
        assert value is not None
        whole = self.whole
        args = whole.numbers(value, k)
        for s in whole.wires.sources[leaf]:
            if s.networks >> k & 1:
                args[s.argument] = self.names[s.end]
        labels = whole.labels(leaf, k)
        for (i, _), label in zip(whole.wires.slots[leaf][k], labels, strict=True):
            args[i] = label
        side = whole.sides[k]
        found: dict[str, Any] = {"op": whole.tables.op(value), "text": expression(value, args)}
        found |= {"out": side.types(value), "cost": side.cost_of(value)}
        made, source = whole.source(value, k)
        if labels:
            found["weights"] = labels
        if source:
            found["source"] = whole.tables.texts.put(source)
        return found | ({"made": made} if made else {})


#: What the second network has of its own in an op that changed.
_OWN = ("op", "text", "out", "cost", "weights", "source", "made")
