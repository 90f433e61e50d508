"""Loops and branches recovered from blocks: what a language without goto needs.

Every program can be written so: one whose blocks aren't nested that way is changed first, into one that computes the
same. A loop that is left from several blocks gets a flag that says whether to go on, and a loop that can be entered at
several blocks (an irreducible program) becomes one loop over the number of the next block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.elementwise import cast, less, minimum, where
from tdagger.ops.indexing import gather
from tdagger.ops.source import Input, const
from tdagger.ops.structure import broadcast_to
from tdagger.program.flow import Loop, dominators, live
from tdagger.program.parts import Block, Goto, If, Raise, Return, Slot, Switch
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.simplify import at_end, block_of, raising
from tdagger.types import TensorType


class Run(NamedTuple):
    """Run the graph of a block."""

    block: str


class Choose(NamedTuple):
    """Of several arms the one that a slot says: of an if the first if it is true, of a switch by its number."""

    slot: str
    arms: tuple[Sequence, ...]
    by_number: bool = False


class While(NamedTuple):
    """Run ``before``; as long as the slot is then true (false, if ``until``) run ``body`` and begin again."""

    before: Sequence
    slot: str
    body: Sequence
    until: bool = False


class Fail(NamedTuple):
    """Refuse what the program was given; nothing comes after it."""

    message: str


#: What is done one after the other.
Sequence = tuple[Run | Choose | While | Fail, ...]

_BOOL, _I64 = TensorType((), "bool"), TensorType((), "i64")


class Structured(NamedTuple):
    """A program, perhaps changed, and what it does as a whole; it returns at the end."""

    program: Program
    whole: Sequence


def structured(program: Program) -> Structured:
    """The loops and branches of a program, or of one that computes the same where its blocks aren't nested.

    >>> import tdagger as td
    >>> @td.program({"x": ()})
    ... def doubled(x):
    ...     return td.while_loop(lambda x: x < 100.0, lambda x: x + x, x)
    >>> structured(doubled).whole[:2]
    (Run(block='begin'), While(before=(Run(block='loop'),), slot='again', body=(Run(block='body'),), until=False))
    """
    program = _with_one_return(program)
    if not program.flow.is_reducible:
        program = dispatched(program)
    while (loop := next((x for x in program.flow.loops.values() if _test(program, x) is None), None)) is not None:
        program = _with_one_exit(program, loop)
    found = _Recovery(program)
    whole = found.sequence(program.entry, None)
    if whole is None:
        program = dispatched(program)
        whole = _Recovery(program).sequence(program.entry, None)
    assert whole is not None
    return Structured(program, whole)


def _test(program: Program, loop: Loop) -> str | None:
    """The one block by which a loop is left, which each turn goes through; None if it isn't so."""
    inside = loop.blocks | raising(program)
    leaving = [n for n in loop.blocks if any(t not in inside for t in program.blocks[n].end.targets)]
    if len(leaving) != 1 or not isinstance(program.blocks[leaving[0]].end, If):
        return None
    (test,) = leaving
    if program.flow.loop_of[test].header != loop.header:
        return None
    return test if all(program.flow.dominates(test, latch) for latch in loop.latches) else None


class _Recovery:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.flow = program.flow
        self.joins = _joins(program)
        #: How many blocks may be written, those of arms that go on together twice.
        self.left = 4 * len(program.blocks) + 64

    def sequence(self, block: str, stop: str | None, inside: str | None = None) -> Sequence | None:
        """From a block up to another; ``inside`` is the loop whose header comes first here. None if it is too long."""
        out: list[Run | Choose | While | Fail] = []
        now: str | None = block
        while now is not None and (now != stop or inside == now):
            loop = self.flow.loops.get(now)
            if loop is not None and now != inside:
                found = self._loop(loop)
                if found is None:
                    return None
                out.append(found[0])
                now = found[1]
                continue
            inside = None
            self.left -= 1
            if self.left < 0:
                return None
            out.append(Run(now))
            end = self.program.blocks[now].end
            if isinstance(end, Return):
                return tuple(out)
            if isinstance(end, Raise):
                return (*out, Fail(end.message))
            if isinstance(end, Goto):
                now = end.to
                continue
            join = self.joins.get(now, "")
            arms = [self.sequence(t, join) for t in end.targets]
            if any(a is None for a in arms):
                return None
            out.append(Choose(end.slot, tuple([a for a in arms if a is not None]), isinstance(end, Switch)))
            now = join or None
        return tuple(out)

    def _loop(self, loop: Loop) -> tuple[While, str] | None:
        """A loop, and the block that comes after it."""
        test = _test(self.program, loop)
        assert test is not None
        end = self.program.blocks[test].end
        assert isinstance(end, If)
        before: Sequence | None = ()
        if test != loop.header:
            before = self.sequence(loop.header, test, loop.header)
        self.left -= 1
        until = end.then not in loop.blocks
        again, after = (end.otherwise, end.then) if until else (end.then, end.otherwise)
        body = self.sequence(again, loop.header) if again != loop.header else ()
        if before is None or body is None:
            return None
        return While((*before, Run(test)), end.slot, body, until), after


def _joins(program: Program) -> dict[str, str]:
    """For each block from which the program can return the next other one on all ways there; "" is the end itself."""
    gone = raising(program)
    back: dict[str, list[str]] = {"": [], **{n: [] for n in program.flow.order if n not in gone}}
    for node in program.flow.order:
        if node not in gone:
            for target in [t for t in program.flow.after[node] if t not in gone] or [""]:
                back[target].append(node)
    return dominators(back, "")


def _with_one_return(program: Program) -> Program:
    returning = [n for n, b in program.blocks.items() if isinstance(b.end, Return)]
    if len(returning) < 2:
        return program
    end = named("end", {*program.blocks})
    blocks = {n: Block(b.graph, Goto(end)) if n in returning else b for n, b in program.blocks.items()}
    return replace(program, blocks={**blocks, end: Block(Graph({}, {}), Return())})


def nothing(type_: TensorType) -> Value:
    """Zeros of a type."""
    return broadcast_to(const(np.zeros((), type_.dtype.numpy), type_.dtype), type_.shape)


def _number(n: int) -> Value:
    return const(np.asarray(n, np.int64), "i64")


def _with_one_exit(program: Program, loop: Loop) -> Program:
    """The program with a flag that says whether a loop goes on, asked where each turn begins."""
    taken, slots = {*program.blocks}, dict(program.slots)
    names = {*slots}
    go, leaving = named("going", names), named("leaving", names)
    enter, test, leave = (named(n, taken) for n in ("enter", "test", "leave"))
    slots |= {go: Slot(_BOOL), leaving: Slot(_I64)}
    blocks = dict(program.blocks)
    targets: dict[str, int] = {}
    inside = loop.blocks | raising(program)
    for name in program.blocks:
        block = program.blocks[name]
        if name not in loop.blocks:
            blocks[name] = Block(block.graph, block.end.renamed({loop.header: enter}))
            continue
        to: dict[str, str] = {loop.header: test}
        for target in dict.fromkeys(block.end.targets):
            if target not in inside:
                number = targets.setdefault(target, len(targets))
                to[target] = out = named("out", taken)
                writes = {go: const(False), leaving: _number(number)}
                blocks[out] = Block(Graph({}, writes, name=out), Goto(test))
        blocks[name] = Block(block.graph, block.end.renamed(to))
    needed = live(program.blocks, at_end(program))
    known = program.known
    unknown = {s for n in (loop.header, *targets) for s in needed[n]} - known[loop.header]
    unknown |= {s for n in targets for s in _read_after(program, n)} - known[loop.header]
    begin = {go: const(True), leaving: _number(0)} | {s: nothing(slots[s].type) for s in unknown}
    blocks[enter] = Block(Graph({}, begin, name=enter), Goto(test))
    blocks[test] = Block(Graph({}, {}, name=test), If(go, loop.header, leave))
    several = Switch(leaving, tuple(targets)) if len(targets) > 1 else Goto(next(iter(targets)))
    blocks[leave] = Block(Graph({}, {}, name=leave), several)
    first = enter if program.entry == loop.header else program.entry
    return replace(program, slots=slots, blocks={first: blocks[first], **blocks})


def _read_after(program: Program, block: str) -> set[str]:
    """What is read from a block on, at the end too."""
    return set(at_end(program)) if isinstance(program.blocks[block].end, Return) else set()


def dispatched(program: Program) -> Program:
    """The program as one loop over the number of the next block."""
    taken, slots = {*program.blocks}, dict(program.slots)
    names = {*slots}
    at, going = named("block", names), named("going", names)
    start, turn, choose, end = (named(n, taken) for n in ("start", "turn", "choose", "end"))
    slots |= {at: Slot(_I64), going: Slot(_BOOL)}
    number = {n: i for i, n in enumerate(program.blocks)}
    begin = {n: nothing(s.type) for n, s in program.slots.items() if n not in program.begins_with}
    begin[at] = _number(number[program.entry])
    blocks = {start: Block(Graph({}, begin, name=start), Goto(turn))}
    here = Input(at, _I64)()
    blocks[turn] = Block(Graph({at: here}, {going: less(here, _number(len(number)))}), If(going, choose, end))
    blocks[choose] = Block(Graph({}, {}), Switch(at, tuple(program.blocks)) if len(number) > 1 else Goto(program.entry))
    for name, block in program.blocks.items():
        if isinstance(block.end, Raise):
            blocks[name] = block
            continue
        writes = {**block.graph.outputs, at: _next(program, block, block.end, number)}
        blocks[name] = block_of(writes, Goto(turn), name, block.graph.values)
    blocks[end] = Block(Graph({}, {}), Return())
    return replace(program, slots=slots, blocks=blocks)


def _next(program: Program, block: Block, end: Goto | If | Switch | Return, number: Mapping[str, int]) -> Value:
    """The number of the block that is next, as a value."""
    if isinstance(end, Return):
        return _number(len(number))
    if isinstance(end, Goto):
        return _number(number[end.to])
    asked = block.graph.outputs.get(end.slot)
    if asked is None:
        asked = Input(end.slot, program.slots[end.slot].type)()
    if isinstance(end, If):
        return where(asked, _number(number[end.then]), _number(number[end.otherwise]))
    last = len(end.to) - 1
    which = cast(asked, "i64")
    which = where(less(which, _number(0)), _number(last), minimum(which, _number(last)))
    return gather(const(np.asarray([number[t] for t in end.to], np.int64)), which, 0)


def zeroed(program: Program) -> dict[str, Value]:
    """Zeros for the slots that aren't assigned at the start, for where every name must have a value."""
    return {n: nothing(s.type) for n, s in program.slots.items() if n not in program.begins_with}
