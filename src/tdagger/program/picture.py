"""What a program looks like: its blocks as boxes, and between them the control flow with the slots that it carries.

Of two programs blocks go together (:func:`paired`), and what is in each pair is compared as two networks are.
docs/view-json.md describes what its JSON has besides that of a network.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tdagger.analysis.cost.report import Cost
from tdagger.graph import Graph, bulk
from tdagger.ops.source import Input
from tdagger.program.flow import live
from tdagger.program.parts import Block, Goto, If, Raise, Return
from tdagger.program.whole import joined
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType
from tdagger.view import lists
from tdagger.view.document import Opened, Wanted, changed, whole
from tdagger.view.fold.align import matched
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
    """A picture of a program, or of two compared; options are those of :class:`tdagger.view.views.View`.

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

    def __init__(self, program: Program, other: Program | None = None, **options: Any) -> None:
        self.programs = [program] if other is None else [program, other]
        super().__init__([joined(p, compared=True) for p in self.programs], **options)

    def _made(self) -> dict[str, Any]:
        with bulk():
            return _Programs(self.programs, self.networks, self._wanted).document(self._opened)


class _Pair(NamedTuple):
    """The block of each program, by name, that are one box; None where a program has none."""

    names: tuple[str | None, ...]
    part: Part

    @property
    def name(self) -> str:
        """What the box is called."""
        return next(n for n in self.names if n is not None)


class _Programs:
    def __init__(self, programs: Sequence[Program], networks: Sequence[Any], wanted: Wanted) -> None:
        self.programs, self.networks, self.wanted = programs, networks, wanted
        self.tables = Tables()
        self.sides = [Side(n, self.tables, n.cost(), wanted.formulas) for n in networks]
        self.weights = Weights(networks, self.sides, wanted.histograms)
        names = [(n,) for n in programs[0].blocks] if len(programs) == 1 else paired(*programs)
        self.pairs = [_Pair(of, Part(self._blocks(of), self.sides, self.tables)) for of in names]
        self.block = [{pair.names[k]: i for i, pair in enumerate(self.pairs)} for k in range(len(programs))]
        self.place = {n: i for i, n in enumerate(dict.fromkeys([n for p in programs for n in p.slots]))}
        self.needed = [live(p.blocks, p.outputs) for p in programs]

    def _blocks(self, names: Sequence[str | None]) -> list[TensorDAG]:
        found: list[TensorDAG] = []
        for program, name in zip(self.programs, names, strict=True):
            found.append(TensorDAG.of_graph(Graph({}, {})) if name is None else program.dag(name))
        return found

    def document(self, opened: Opened) -> dict[str, Any]:
        """All of it."""
        bodies: list[dict[str, Any]] = []
        items: list[dict[str, Any]] = []
        for pair in self.pairs:
            items.append(self._box(pair, len(bodies) + pair.part.bodies.root))
            bodies += pair.part.json(len(bodies))
        bodies.append(self._root(items, bodies))
        more = {"program": {"slots": [self._slot(n) for n in self.place]}}
        told = [self._network(k) for k in range(len(self.programs))]
        notices = [_TURNS]
        if len(told) == 2:
            notices += changed([pair.part for pair in self.pairs], told, self.weights, self.wanted)
        title = " | ".join([p.name for p in self.programs])
        return whole(
            title, told, bodies, len(bodies) - 1, self.tables, self.weights, self.sides, opened, notices, **more
        )

    def _root(self, items: list[dict[str, Any]], bodies: list[dict[str, Any]]) -> dict[str, Any]:
        inner: list[Any] = [bodies[item["body"]] for item in items]
        ends = {
            what: dict.fromkeys([n for p in self.programs for n in getattr(p, what)]) for what in ("inputs", "outputs")
        }
        return {
            **{what: [{"name": n, "type": self._type(n)} for n in names] for what, names in ends.items()},
            "items": items, "edges": [], "flow": self._flow(), "ops": sum([b["ops"] for b in inner]),
            "slots": [sum(of) for of in zip(*[b["slots"] for b in inner], strict=True)],
        }  # fmt: skip

    # --- a block ---

    def _box(self, pair: _Pair, body: int) -> dict[str, Any]:
        found: dict[str, Any] = {"body": body, "name": pair.name, "kind": "block", "module": False}
        if pair.part.leaves and not any(n == p.entry for n, p in zip(pair.names, self.programs, strict=True)):
            found["runs"] = self.tables.formulas.runs(pair.name)
        said = [None if n is None else self._control(k, n) for k, n in enumerate(pair.names)]
        found |= next(one for one in said if one is not None)
        if None in said:
            found["state"] = "ba"[said.index(None)]
        elif len(said) == 2:
            changes = self._changes(pair.names, [one for one in said if one is not None])
            if changes or pair.part.root.state != "same":
                found["state"] = "changed"
            if changes:
                found["changes"] = changes
        return found

    def _control(self, k: int, name: str) -> dict[str, Any]:
        """Which slots a block reads and writes, and what it raises."""
        block = self.programs[k].blocks[name]
        inline = numbers(block.graph)
        found: dict[str, Any] = {"reads": [self.place[n] for n in block.reads]}
        found["writes"] = [
            [self.place[n], value.op.leaf if isinstance(value.op, Input) else inline.get(value, "")]
            for n, value in block.graph.outputs.items()
        ]
        if isinstance(block.end, Raise):
            found["raises"] = block.end.message
        return found

    def _changes(self, names: Sequence[str | None], said: Sequence[Mapping[str, Any]]) -> list[str]:
        """What changed in the control of a block, in words."""
        one, other = [self._words(k, str(n), control) for k, (n, control) in enumerate(zip(names, said, strict=True))]
        return [f"{key}: {text} -> {other[key]}" for key, text in one.items() if text != other[key]]

    def _words(self, k: int, name: str, control: Mapping[str, Any]) -> dict[str, str]:
        slots = list(self.place)
        writes: list[tuple[int, str]] = control["writes"]
        return {
            "name": name,
            "reads": ", ".join([slots[int(n)] for n in control["reads"]]),
            "writes": ", ".join([f"{slots[n]} ← {text}" if text else slots[n] for n, text in writes]),
            "raises": control.get("raises", "nothing"),
            "then": self._then(k, name),
        }

    def _then(self, k: int, name: str) -> str:
        """What follows a block, by the names of boxes."""
        ways = _cases(self.programs[k].blocks[name])
        return ", ".join([f"{when}: {self.pairs[self.block[k][target]].name}" for when, target in ways]) or "return"

    # --- the flow and the slots ---

    def _flow(self) -> list[dict[str, Any]]:
        each = [self._flow_of(k) for k in range(len(self.programs))]
        if len(each) == 1:
            return each[0]
        one, other = [{_key(way): way for way in ways} for ways in each]
        found = [way if key in other else {**way, "side": "a"} for key, way in one.items()]
        return found + [{**way, "side": "b"} for key, way in other.items() if key not in one]

    def _flow_of(self, k: int) -> list[dict[str, Any]]:
        program, block, needed_in = self.programs[k], self.block[k], self.needed[k]
        begins = [n for n in program.begins_with if n in needed_in[program.entry]]
        found = [self._way(BEGIN, block[program.entry], "", begins)]
        for name, of in program.blocks.items():
            at = block[name]
            if isinstance(of.end, Return):
                kept = [n for n, s in program.slots.items() if s.buffer and n not in program.outputs]
                found.append(self._way(at, END, "return", [*program.outputs, *kept]))
            for when, target in _cases(of):
                needed = [n for n in program.slots if n in needed_in[target]]
                found.append(self._way(at, block[target], when, needed))
        return found

    def _way(self, a: int, b: int, when: str, slots: list[str]) -> dict[str, Any]:
        return {"from": a, "to": b, "when": when, "carries": [self.place[n] for n in slots]}

    def _slot(self, name: str) -> dict[str, Any]:
        k = 0 if name in self.programs[0].slots else 1
        slot = self.programs[k].slots[name]
        found: dict[str, Any] = {"name": name, "type": self._type(name)}
        if slot.buffer:
            found["buffer"] = slot.buffer
        if slot.lengths:
            found["lengths"] = [[dimension, self.place[length]] for dimension, length in slot.lengths]
        if any(name not in p.slots for p in self.programs):
            found["state"] = "ab"[k]
        elif len(self.programs) == 2 and self.programs[1].slots[name].type != slot.type:
            found |= {"state": "changed", "b": self._type(name, 1)}
        return found

    def _type(self, name: str, k: int = 0) -> int:
        """The type of a slot in a program; where that has none such, in the other."""
        k = k if name in self.programs[k].slots else 1 - k
        type_: TensorType = self.programs[k].slots[name].type
        value = self.sides[k].network.graph.inputs.get(name)
        return self.sides[k].plain(type_) if value is None else self.sides[k].types(value)[0]

    # --- the lists: those of the blocks, one behind the other ---

    def _network(self, k: int) -> dict[str, Any]:
        program = self.programs[k]
        costs = program.cost().blocks
        found: dict[str, Any] = {
            "name": program.name,
            "inputs": [{"name": n, "type": self._type(n, k)} for n in program.inputs],
            "outputs": [{"name": n, "type": self._type(n, k)} for n in program.outputs],
            "sizes": self.sides[k].axes.sizes,
            "totals": self._totals(k, costs),
            "partial": _summed([c.partial for c in costs.values()]),
            "slots": [n for pair in self.pairs for n in self.weights.of(pair.part, k)],
            "memory": self._memory(k, costs),
        }
        if self.wanted.device is not None:
            found["predicted"] = self._predicted(k)
        return found

    def _totals(self, k: int, costs: Mapping[str, Cost]) -> dict[str, int]:
        of = [(pair.part, costs[name]) for pair in self.pairs if (name := pair.names[k]) is not None]
        each = [lists.totals(part.networks[k], cost, len(part.facts[k].shown)) for part, cost in of]
        found = _summed(each)
        found["peak_bytes"] = max([t["peak_bytes"] for t in each])
        state = {n: w for n, w in self.programs[k].state.items() if not w.alias_of}
        found["parameters"] = sum([w.type.size for w in state.values() if w.is_parameter])
        found["parameter_bytes"] = sum([w.type.bytes for w in state.values() if w.is_parameter])
        found["buffer_bytes"] = sum([w.type.bytes for w in state.values() if not w.is_parameter])
        return found

    def _memory(self, k: int, costs: Mapping[str, Cost]) -> dict[str, Any]:
        """As if each block ran once, one after the other; slots that a block doesn't use are apart."""
        found: dict[str, Any] = {"order": [], "op": [], "until": [], "bytes": [], "peak": 0, "at": None}
        first = 0
        for pair in self.pairs:
            name, ops, before = pair.names[k], len(pair.part.leaves), len(found["order"])
            if name is not None:
                own = lists.memory(pair.part, k, costs[name])
                order = own.get("order", range(ops))
                found["order"] += [first + op for op in order]
                found["op"] += [first + op for op in own["op"]]
                found["until"] += [before + min(step, len(order) - 1) for step in own["until"]]
                found["bytes"] += own["bytes"]
                if own["peak"] > found["peak"]:
                    found["peak"], found["at"] = own["peak"], None if own["at"] is None else before + own["at"]
            first += ops
        return found

    def _predicted(self, k: int) -> dict[str, Any]:
        assert self.wanted.device is not None
        each = [lists.predicted(pair.part, k, self.wanted.device) for pair in self.pairs]
        return {
            **each[0], "seconds": sum([e["seconds"] for e in each]), "each": [s for e in each for s in e["each"]],
            "notices": list(dict.fromkeys([n for e in each for n in e["notices"]])),
        }  # fmt: skip


def paired(a: Program, b: Program) -> list[tuple[str | None, str | None]]:
    """Which blocks of two programs go together, in an order that is that of both.

    Those where they begin; those of one name that hold the same ops, on whatever weights; others that hold the same,
    one after the other; others of one name. None stands for the block that a program doesn't have.
    """
    partner = {a.entry: b.entry}
    for tier in range(3):
        one = [n for n in a.blocks if n not in partner]
        other = [n for n in b.blocks if n not in partner.values()]
        pairs = matched([_block_key(a, n, tier) for n in one], [_block_key(b, n, tier) for n in other])
        partner |= {one[i]: other[j] for i, j in pairs}
    found: list[tuple[str | None, str | None]] = [(n, partner.get(n)) for n in a.blocks]
    at = 0
    for name in b.blocks:
        place = next((i for i, (_, m) in enumerate(found) if m == name), None)
        if place is None:
            found.insert(at, (None, name))
        at = (at if place is None else place) + 1
    return found


def _block_key(program: Program, name: str, tier: int) -> Hashable:
    """What blocks that go together have in common: name and ops, then ops alone (if there are any), then the name."""
    held = tuple([(v.op, v.type) for v in program.blocks[name].graph.values if v.args])
    return (name, held) if tier == 0 else name if tier == 2 else held or (id(program), name)


def _key(way: Mapping[str, Any]) -> Hashable:
    return way["from"], way["to"], way["when"], frozenset(way["carries"])


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
