"""What a program looks like: its blocks as boxes, and between them the control flow with the slots that it carries.

docs/view-json.md describes what its JSON has besides that of a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tdagger.analysis.cost.report import Cost
from tdagger.graph import bulk
from tdagger.ops.source import Input
from tdagger.program.flow import live
from tdagger.program.parts import Block, Goto, If, Raise, Return
from tdagger.program.whole import joined
from tdagger.types import TensorType
from tdagger.view import lists
from tdagger.view.document import Opened, Wanted, whole
from tdagger.view.part import Part
from tdagger.view.tables import Side, Tables
from tdagger.view.text import numbers
from tdagger.view.views import View
from tdagger.view.weights import Weights

if TYPE_CHECKING:
    from tdagger.program.program import Program

_TURNS = "costs are those of one run of each block; the sizes have a slider for how often each is run"
#: The places of what the program takes and gives, as ends of the flow.
BEGIN, END = -1, -2


class ProgramView(View):
    """A picture of a program; options are those of :class:`tdagger.view.views.View`.

    Costs are those of one turn of each block; the page has a slider for how often each is run.

    >>> import tdagger as td
    >>> @td.program({"x": ()})
    ... def doubled(x):
    ...     return td.while_loop(lambda x: x < 100.0, lambda x: x + x, x)
    >>> document = doubled.view().document
    >>> root = document["bodies"][document["root"]]
    >>> [item["name"] for item in root["items"]]
    ['begin', 'loop', 'body', 'done']
    >>> [(flow["from"], flow["to"], flow["when"]) for flow in root["flow"]]
    [(-1, 0, ''), (0, 1, 'goto'), (1, 2, 'if again'), (1, 3, 'else'), (2, 1, 'goto'), (3, -2, 'return')]
    """

    def __init__(self, program: Program, **options: Any) -> None:
        super().__init__([joined(program, compared=True)], **options)
        self.program = program

    def _made(self) -> dict[str, Any]:
        with bulk():
            return _Program(self.program, self.networks[0], self._wanted).document(self._opened)


class _Program:
    def __init__(self, program: Program, network: Any, wanted: Wanted) -> None:
        self.program, self.wanted = program, wanted
        self.tables = Tables()
        self.side = Side(network, self.tables, network.cost(), wanted.formulas)
        self.weights = Weights([network], [self.side], wanted.histograms)
        self.parts = [Part([program.dag(n)], [self.side], self.tables) for n in program.blocks]
        self.place = {n: i for i, n in enumerate(program.slots)}
        self.block = {n: i for i, n in enumerate(program.blocks)}
        self.needed = live(program.blocks, program.outputs)

    def document(self, opened: Opened) -> dict[str, Any]:
        """All of it."""
        bodies: list[dict[str, Any]] = []
        items: list[dict[str, Any]] = []
        for (name, block), part in zip(self.program.blocks.items(), self.parts, strict=True):
            items.append(self._item(name, block, part, len(bodies) + part.bodies.root))
            bodies += part.json(len(bodies))
        bodies.append(self._root(items, bodies))
        more = {"program": {"slots": [self._slot(n) for n in self.program.slots]}}
        return whole(
            self.program.name, [self._network()], bodies, len(bodies) - 1, self.tables, self.weights, [self.side],
            opened, [_TURNS], **more,
        )  # fmt: skip

    def _root(self, items: list[dict[str, Any]], bodies: list[dict[str, Any]]) -> dict[str, Any]:
        inner: list[Any] = [bodies[item["body"]] for item in items]
        ends = ("inputs", self.program.inputs), ("outputs", self.program.outputs)
        return {
            **{what: [{"name": n, "type": self._type(n)} for n in names] for what, names in ends},
            "items": items, "edges": [], "flow": self._flow(), "ops": sum([b["ops"] for b in inner]),
            "slots": [sum([b["slots"][0] for b in inner])],
        }  # fmt: skip

    def _item(self, name: str, block: Block, part: Part, body: int) -> dict[str, Any]:
        found: dict[str, Any] = {"body": body, "name": name, "kind": "block", "module": False}
        if part.leaves and name != self.program.entry:
            found["runs"] = self.tables.formulas.runs(name)
        inline = numbers(block.graph)
        found["reads"] = [self.place[n] for n in block.reads]
        found["writes"] = [
            [self.place[n], value.op.leaf if isinstance(value.op, Input) else inline.get(value, "")]
            for n, value in block.graph.outputs.items()
        ]
        if isinstance(block.end, Raise):
            found["raises"] = block.end.message
        return found

    def _flow(self) -> list[dict[str, Any]]:
        begins = [n for n in self.program.begins_with if n in self.needed[self.program.entry]]
        found = [self._way(BEGIN, 0, "", begins)]
        for name, block in self.program.blocks.items():
            at = self.block[name]
            if isinstance(block.end, Return):
                kept = [n for n, s in self.program.slots.items() if s.buffer and n not in self.program.outputs]
                found.append(self._way(at, END, "return", [*self.program.outputs, *kept]))
            for when, target in _cases(block):
                needed = [n for n in self.program.slots if n in self.needed[target]]
                found.append(self._way(at, self.block[target], when, needed))
        return found

    def _way(self, a: int, b: int, when: str, slots: list[str]) -> dict[str, Any]:
        return {"from": a, "to": b, "when": when, "carries": [self.place[n] for n in slots]}

    def _slot(self, name: str) -> dict[str, Any]:
        slot = self.program.slots[name]
        found: dict[str, Any] = {"name": name, "type": self._type(name)}
        if slot.buffer:
            found["buffer"] = slot.buffer
        if slot.lengths:
            found["lengths"] = [[dimension, self.place[length]] for dimension, length in slot.lengths]
        return found

    def _type(self, name: str) -> int:
        type_: TensorType = self.program.slots[name].type
        value = self.side.network.graph.inputs.get(name)
        return self.side.plain(type_) if value is None else self.side.types(value)[0]

    # --- the lists: those of the blocks, one behind the other ---

    def _network(self) -> dict[str, Any]:
        costs = self.program.cost().blocks
        found: dict[str, Any] = {
            "name": self.program.name,
            "inputs": [{"name": n, "type": self._type(n)} for n in self.program.inputs],
            "outputs": [{"name": n, "type": self._type(n)} for n in self.program.outputs],
            "sizes": self.side.axes.sizes,
            "totals": self._totals(costs),
            "partial": _summed([c.partial for c in costs.values()]),
            "slots": [n for part in self.parts for n in self.weights.of(part, 0)],
            "memory": self._memory(costs),
        }
        if self.wanted.device is not None:
            found["predicted"] = self._predicted()
        return found

    def _totals(self, costs: Mapping[str, Cost]) -> dict[str, int]:
        each = [
            lists.totals(part.networks[0], cost, len(part.leaves))
            for part, cost in zip(self.parts, costs.values(), strict=True)
        ]
        found = _summed(each)
        found["peak_bytes"] = max([t["peak_bytes"] for t in each])
        state = {n: w for n, w in self.program.state.items() if not w.alias_of}
        found["parameters"] = sum([w.type.size for w in state.values() if w.is_parameter])
        found["parameter_bytes"] = sum([w.type.bytes for w in state.values() if w.is_parameter])
        found["buffer_bytes"] = sum([w.type.bytes for w in state.values() if not w.is_parameter])
        return found

    def _memory(self, costs: Mapping[str, Cost]) -> dict[str, Any]:
        """As if each block ran once, one after the other; slots that a block doesn't use are apart."""
        found: dict[str, Any] = {"order": [], "op": [], "until": [], "bytes": [], "peak": 0, "at": None}
        for part, cost in zip(self.parts, costs.values(), strict=True):
            own, before, steps = lists.memory(part, 0, cost), len(found["order"]), len(part.leaves)
            found["order"] += [before + op for op in own.get("order", range(steps))]
            found["op"] += [before + op for op in own["op"]]
            found["until"] += [before + min(step, steps - 1) for step in own["until"]]
            found["bytes"] += own["bytes"]
            if own["peak"] > found["peak"]:
                found["peak"], found["at"] = own["peak"], None if own["at"] is None else before + own["at"]
        return found

    def _predicted(self) -> dict[str, Any]:
        assert self.wanted.device is not None
        each = [lists.predicted(part, 0, self.wanted.device) for part in self.parts]
        return {
            **each[0], "seconds": sum([e["seconds"] for e in each]), "each": [s for e in each for s in e["each"]],
            "notices": list(dict.fromkeys([n for e in each for n in e["notices"]])),
        }  # fmt: skip


def _cases(block: Block) -> list[tuple[str, str]]:
    """When a block goes on with which."""
    end = block.end
    if isinstance(end, Goto):
        return [("goto", end.to)]
    if isinstance(end, If):
        return [(f"if {end.slot}", end.then), ("else", end.otherwise)]
    if isinstance(end, Return | Raise):
        return []
    return [*[(f"{end.slot} = {i}", t) for i, t in enumerate(end.to[:-1])], ("else", end.to[-1])]


def _summed(several: list[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in several:
        for name, number in one.items():
            found[name] = found.get(name, 0) + number
    return found
