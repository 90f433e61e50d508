"""Running a program with numpy: every block is bound once, as a list of calls on numbered places."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.errors import InputError, TDaggerError
from tdagger.interpret import leaf_array
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import Const, Input, Leaf
from tdagger.program.parts import Block, If, Raise, Return, Switch

if TYPE_CHECKING:
    from tdagger.program.program import Program

#: So many references has an array that nobody else holds, nor a view of it: a place, a name here, and what counts them.
_ALONE = 3


class Step(NamedTuple):
    """A call: where its arguments are, where its result goes, and which places are empty after it."""

    call: Any
    args: tuple[int, ...]
    result: int
    empty: tuple[int, ...]
    value: Value


class Bound:
    """A block bound to the data of its weights."""

    def __init__(self, block: Block, weights: Mapping[str, Array]) -> None:
        graph = block.graph
        place: dict[Value, int] = {v: i for i, v in enumerate(graph.values)}
        self.places: list[Any] = [None] * len(place)
        self.takes = [(name, place[v]) for name, v in graph.inputs.items()]
        self.gives = [(name, place[v]) for name, v in graph.outputs.items()]
        kept = {*graph.outputs.values()}
        last: dict[Value, Value] = {a: v for v in graph.values for a in v.args}
        fixed: set[Value] = set()
        self.steps: list[Step] = []
        #: The slots that are nowhere but in their places once they are read, for they are written at the end.
        self.moved = frozenset(n for n, v in graph.inputs.items() if _is_renewed(graph.users[v], v, n, block))
        alone = {graph.inputs[n] for n in self.moved}
        for value in graph.values:
            if isinstance(value.op, Input):
                continue
            if isinstance(value.op, Leaf | Const):
                fixed.add(value)
                own = leaf_array(value.op, weights) if isinstance(value.op, Leaf) else value.op.run()
                self.places[place[value]] = own
                continue
            gone = {a for a in value.args if last[a] is value and a not in kept and a not in fixed}
            run = _Renewed(value.op) if isinstance(value.op, Scatter) and value.args[0] in alone else value.op.run
            at = tuple([place[a] for a in value.args])
            self.steps.append(Step(run, at, place[value], tuple([place[a] for a in gone]), value))

    def run(self, slots: dict[str, Array]) -> None:
        """Read slots, and write them."""
        places = self.places.copy()
        moved = self.moved
        for name, at in self.takes:
            places[at] = slots.pop(name) if name in moved else slots[name]
        for call, args, result, empty, value in self.steps:
            try:
                if len(args) == 1:
                    places[result] = call(places[args[0]])
                elif len(args) == 2:
                    places[result] = call(places[args[0]], places[args[1]])
                elif call.__class__ is _Renewed:
                    places[result] = call(places, args)
                else:
                    places[result] = call(*[places[a] for a in args])
            except TDaggerError:
                raise
            except Exception as e:
                e.add_note(f"while running {value!r}")
                raise
            for at in empty:
                places[at] = None
        for name, at in self.gives:
            slots[name] = places[at]


class _Renewed:
    """A scatter into a slot that the block writes anew: into the array itself, where nobody else holds it."""

    def __init__(self, op: Scatter) -> None:
        self.op = op
        self.gather = Gather(op.axis, op.batch)

    def __call__(self, places: list[Any], args: Sequence[int]) -> Array:
        x, index, updates = places[args[0]], places[args[1]], places[args[2]]
        if self.op.kind != "set" or sys.getrefcount(x) != _ALONE or x.base is not None or not x.flags.writeable:
            return self.op.run(x, index, updates)
        x[self.gather.positions(x.shape, index)] = updates
        return x


def _is_renewed(users: Sequence[Value], value: Value, slot: str, block: Block) -> bool:
    """Whether a slot is read for one scatter only, whose result is what the block writes to it."""
    if len(users) != 1 or slot not in block.graph.outputs or value in block.graph.outputs.values():
        return False
    user = users[0]
    return isinstance(user.op, Scatter) and user.args[0] is value and value not in user.args[1:]


class Runner:
    """A program that is run again and again; ``state`` are its buffers, by name, as the last run left them.

    ``seen`` is called with the name of each block before it is run and with the slots, if it is set.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.state: dict[str, Array] = {
            s.buffer: _of_weights(program, s.buffer) for s in program.slots.values() if s.buffer
        }
        self.seen: Callable[[str, Mapping[str, Array]], None] | None = None
        #: How often each block was run in the last run.
        self.counts: dict[str, int] = {}
        self._blocks = {n: (Bound(b, program.weights), _next(b)) for n, b in program.blocks.items()}

    def __call__(self, *args: Any, turns: int | None = None, **kwargs: Any) -> Any:
        """One run; see :meth:`tdagger.program.program.Program.run`."""
        program = self.program
        slots = program.bind(args, kwargs)
        for name, slot in program.slots.items():
            if slot.buffer:
                slots[name] = self.state[slot.buffer]
        with np.errstate(all="ignore"):
            self._run(slots, turns)
        for name, slot in program.slots.items():
            if slot.buffer:
                self.state[slot.buffer] = slots[name]
        return program.called.outputs.unflatten([_cut(program, n, slots) for n in program.outputs])

    def _run(self, slots: dict[str, Array], turns: int | None) -> None:
        name: str | None = self.program.entry
        done = 0
        blocks, seen = self._blocks, self.seen
        counts = self.counts = dict.fromkeys(blocks, 0)
        while name is not None:
            if done == turns:
                raise InputError(
                    f"{shown(self.program.name)} isn't done after {turns} blocks; block {shown(name)} is next"
                )
            done += 1
            counts[name] += 1
            block, following = blocks[name]
            if seen is not None:
                seen(name, slots)
            block.run(slots)
            name = following(slots)


def _next(block: Block) -> Callable[[Mapping[str, Array]], str | None]:
    """What says by the slots which block is next."""
    end = block.end
    if isinstance(end, If):
        slot, then, otherwise = end
        return lambda slots: then if slots[slot] else otherwise
    if isinstance(end, Switch):
        asked, targets = end
        last = len(targets) - 1

        def choose(slots: Mapping[str, Array]) -> str:
            number = int(slots[asked])
            return targets[number if 0 <= number < last else last]

        return choose
    if isinstance(end, Raise):
        message = end.message

        def refuse(_: Mapping[str, Array]) -> str | None:
            raise InputError(message)

        return refuse
    target = None if isinstance(end, Return) else end.to
    return lambda _: target


def _of_weights(program: Program, name: str) -> Array:
    if name not in program.weights:
        raise InputError(f"{shown(program.name)}: the weights have no {name!r}, which a slot begins as")
    return program.weights[name]


def _cut(program: Program, name: str, slots: Mapping[str, Array]) -> Array:
    """What a slot holds, without what is behind its lengths."""
    slot = program.slots[name]
    cuts = {i: int(slots[length]) for i, length in slot.lengths}
    for dimension, count in cuts.items():
        if not 0 <= count <= slot.type.shape[dimension]:
            raise InputError(
                f"output {shown(name)} has {count} entries in dimension {dimension}, and at most "
                f"{slot.type.shape[dimension]}"
            )
    return slots[name][tuple([slice(cuts.get(i)) for i in range(slot.type.rank)])] if cuts else slots[name]
