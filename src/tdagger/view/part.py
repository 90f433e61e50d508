"""A tree of boxes, its bodies, and these as JSON: what a view shows of one network, of two, or of one block."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from tdagger.composite import Composite
from tdagger.later import later
from tdagger.network import Network
from tdagger.op import Value
from tdagger.ops.source import Const, Parameter
from tdagger.view.expressions import expression
from tdagger.view.fold.align import merged, state_of
from tdagger.view.fold.blocks import arrange
from tdagger.view.fold.bodies import INPUT, Bodies, Body, Entry, sort
from tdagger.view.fold.boxes import Box, Facts, Leaf, simplified, tree
from tdagger.view.fold.circles import enclose
from tdagger.view.fold.differences import differences
from tdagger.view.fold.homes import homes
from tdagger.view.fold.repeats import moved
from tdagger.view.fold.wires import End, Port, Wires
from tdagger.view.tables import Side, Tables


class Part:
    """The tree of a network, or of two that are compared; ``sides`` have the costs and types of each.

    ``leaves`` are its ops in the order of the opened tree: boxes hold what they hold in the order of their bodies.
    """

    def __init__(self, networks: Sequence[Network], sides: Sequence[Side], tables: Tables) -> None:
        self.networks, self.sides, self.tables = networks, sides, tables
        self.facts = [Facts.of(n) for n in networks]
        pairs = later("paired")(*networks) if len(networks) == 2 else None
        #: Of two networks the values that only bring others to a layout.
        self.carry: frozenset[Value] = pairs.carry if pairs else frozenset()
        self.root = _tree(networks, self.facts, pairs)
        self.wires = Wires(list(networks), self.facts, self.root)
        trained = {v for n in networks for v in _trained(n)}
        enclose(self.root, self.wires)
        sort(self.root, self.wires)
        arrange(self.root, self.wires, trained, by_structure=not any(True for _ in self.root.boxes()))
        for box in [*reversed(list(self.root.boxes())), self.root] if len(networks) == 2 else ():
            state_of(box)
        self.bodies = Bodies(self.root, self.wires, self._described)
        self.leaves = list(self.root.leaves())

    def json(self, before: int = 0) -> list[dict[str, Any]]:
        """Its bodies; ``before`` is how many others the table of bodies has before them."""
        return [_Written(self, body, before).json() for body in self.bodies.found]

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


def _tree(networks: Sequence[Network], facts: Sequence[Facts], pairs: Any) -> Box:
    if pairs is None:
        return simplified(tree(networks[0], facts[0]))
    (a, b), (facts_a, facts_b) = networks, facts
    own, other = homes(a, b, facts_a, facts_b, pairs.a_of)
    return simplified(merged(tree(a, facts_a, 0, *own), tree(b, facts_b, 1, *other), pairs))


def _trained(network: Network) -> set[Value]:
    found: set[Value] = set()
    for value in network.graph.values:
        if isinstance(value.op, Parameter) or any(a in found for a in value.args):
            found.add(value)
    return found


class _Written:
    """A body as JSON."""

    def __init__(self, whole: Part, body: Body, before: int) -> None:
        self.whole, self.body, self.before = whole, body, before
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
        found: dict[str, Any] = {"body": entry.body + self.before, "name": self.body.names[number], "kind": first.kind}
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
            if isinstance(item, Leaf) and item.moves:
                found["moves"] = True
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
