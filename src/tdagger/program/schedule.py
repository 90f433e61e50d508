"""Values of a whole program to blocks: each is computed in one place, and goes through a slot where another needs it.

What is traced are values over slots that each have one meaning: wherever a value is needed, it is the same. So there is
a choice of where it is computed. It is the last block that is on all ways to those that need it, moved out of every
loop in which nothing of it changes, if a turn of that loop would compute it anyway (Click's global code motion).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tdagger.graph import Graph, is_view, label, topological
from tdagger.names import identifier
from tdagger.network import Origin
from tdagger.op import Value
from tdagger.ops.source import Const, Input, Iota, Leaf
from tdagger.ops.structure import Item
from tdagger.program.flow import Flow, Loop
from tdagger.program.parts import Block, End, If, Slot, Switch


@dataclass
class Draft:
    """A block as it is traced: the values that it writes to slots, and how it ends."""

    writes: dict[str, Value] = field(default_factory=dict[str, Value])
    end: End | None = None
    #: What an if or switch asks; its slot is named when the program is made.
    asked: Value | None = None


def scheduled(
    drafts: Mapping[str, Draft], slots: dict[str, Slot], defined: Mapping[str, str], origins: dict[Value, Origin],
    order: Collection[Value] = (),
) -> dict[str, Block]:  # fmt: skip
    """The blocks of drafts; ``defined`` says at which block each slot gets its meaning, ``slots`` gets new ones.

    ``origins`` gets those of values that are made anew.
    """
    return _Schedule(drafts, slots, defined, origins, order).blocks()


class _Schedule:
    def __init__(
        self, drafts: Mapping[str, Draft], slots: dict[str, Slot], defined: Mapping[str, str],
        origins: dict[Value, Origin], order: Collection[Value],
    ) -> None:  # fmt: skip
        self.drafts, self.slots, self.defined, self.origins = drafts, slots, defined, origins
        self.flow = Flow({n: d.end.targets if d.end else () for n, d in drafts.items()})
        self.roots: dict[str, list[Value]] = {n: list(d.writes.values()) for n, d in drafts.items()}
        for name, draft in drafts.items():
            if draft.asked is not None:
                self.roots[name].append(draft.asked)
        live = [v for n in self.flow.order for v in self.roots[n]]
        #: All values, arguments first, in the order of the source where it tells.
        self.values = _all(live, order)
        self.at: dict[Value, str] = {}
        self.needed: dict[Value, set[str]] = {v: set() for v in self.values}
        self.through: dict[Value, str] = {}
        self.taken = {*slots}

    def blocks(self) -> dict[str, Block]:
        self._place()
        self._name()
        found: dict[str, Block] = {}
        for name in self.flow.order:
            found[name] = self._block(name)
        return {n: found[n] for n in self.drafts if n in found}

    def _earliest(self) -> dict[Value, str]:
        """For each value the first block where all that it is made of is known."""
        level, entry = self.flow.level, self.flow.entry
        found: dict[Value, str] = {}
        for value in self.values:
            if isinstance(value.op, Input):
                found[value] = self.defined[value.op.leaf]
                continue
            found[value] = max((found[a] for a in value.args), key=level.__getitem__, default=entry)
        return found

    def _place(self) -> None:
        earliest = self._earliest()
        for name in self.flow.order:
            for value in self.roots[name]:
                self.needed[value].add(name)
        for value in reversed(self.values):
            needed = self.needed[value]
            if not needed:  # only items, which come before it here, tell where several results are needed
                continue
            if _is_free(value) or isinstance(value.op, Item):
                where = needed
            else:
                where = {self._moved_out(self.flow.common(needed), earliest[value])}
                (self.at[value],) = where
            for arg in value.args:
                self.needed[arg] |= where
        for value in self.values:
            if isinstance(value.op, Item) and value.args[0] in self.at:
                self.at[value] = self.at[value.args[0]]

    def _moved_out(self, block: str, earliest: str) -> str:
        """Out of the loops whose turns all compute it, as far as what it is made of is known there."""
        while True:
            loop = self.flow.loop_of.get(block)
            if loop is None or earliest in loop.blocks or not self._each_turn(block, loop):
                return block
            block = self.flow.dominator[loop.header]

    def _each_turn(self, block: str, loop: Loop) -> bool:
        return all(self.flow.dominates(block, latch) for latch in loop.latches)

    def _name(self) -> None:
        """A slot for each value that is computed in one block and needed in another."""
        for value in self.values:
            where = self.at.get(value)
            if where is None or isinstance(value.type, tuple):
                continue
            if any(b != where for b in self.needed[value]):
                self.through[value] = self._slot(label(value.op), value)

    def _slot(self, name: str, value: Value) -> str:
        own = named(name, self.taken)
        self.slots[own] = Slot(value.type)
        return own

    def _block(self, name: str) -> Block:
        draft = self.drafts[name]
        made: dict[Value, Value] = {}
        writes = {s: self._made(v, name, made) for s, v in draft.writes.items()}
        for value, slot in self.through.items():
            if self.at[value] == name:
                writes[slot] = self._made(value, name, made)
        end = draft.end
        assert end is not None
        if isinstance(end, If | Switch):
            assert draft.asked is not None
            own = self._asked(draft.asked, name, writes, made)
            end = end._replace(slot=own)
        inputs = {v.op.leaf: v for v in topological(writes.values()) if isinstance(v.op, Input)}
        order = [made[v] for v in self.values if v in made]
        return Block(Graph(inputs, writes, name=name, order=order), end)

    def _asked(self, value: Value, name: str, writes: dict[str, Value], made: dict[Value, Value]) -> str:
        """The slot that has what a block's end asks."""
        own = self._made(value, name, made)
        if isinstance(own.op, Input) and own.op.leaf not in writes:
            return own.op.leaf
        for slot, written in writes.items():
            if written is own:
                return slot
        slot = self._slot("again" if self.drafts[name].end.__class__ is If else "which", value)
        writes[slot] = own
        return slot

    def _made(self, root: Value, name: str, made: dict[Value, Value]) -> Value:
        """A value as a block has it: what another block computes is read from its slot."""
        stack = [root]
        while stack:
            value = stack[-1]
            if value in made:
                stack.pop()
                continue
            where = self.at.get(value)
            if where is not None and where != name and value in self.through:
                made[value] = Input(self.through[value], value.type)()
                stack.pop()
                continue
            waiting = [a for a in value.args if a not in made]
            if waiting:
                stack += reversed(waiting)
                continue
            args = tuple([made[a] for a in value.args])
            new = value if args == value.args else value.op.again(args, value.type)
            if new is not value and value in self.origins:
                self.origins.setdefault(new, self.origins[value])
            made[value] = new
            stack.pop()
        return made[root]


def _all(roots: list[Value], order: Collection[Value]) -> list[Value]:
    """All that roots need, arguments first, in an order where it tells."""
    needed = topological(roots)
    if not order:
        return needed
    inputs = {v.op.leaf: v for v in needed if isinstance(v.op, Input)}
    return Graph(inputs, {str(i): v for i, v in enumerate(roots)}, order=order).values


def _is_free(value: Value) -> bool:
    """Whether a value is made again wherever it is needed: leaves, constants, and views of others."""
    if isinstance(value.op, Item):
        return False
    return isinstance(value.op, Leaf | Const | Iota) or is_view(value)


def named(text: str, taken: set[str]) -> str:
    """A name like ``text`` for a slot or block, which is none of those taken; it is taken then.

    >>> taken = {"x"}
    >>> named("x", taken), named("x", taken), named("a b", taken)
    ('x_2', 'x_3', 'a_b')
    """
    base = identifier(text, set())
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name
