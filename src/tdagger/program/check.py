"""What a program must be: every fault is told by the names of its slots and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from tdagger.analysis.circles import cycles
from tdagger.errors import GraphError
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Const, Input
from tdagger.program.flow import Flow, next_of
from tdagger.program.parts import Block, End, If, Return, Switch
from tdagger.types import TensorType

if TYPE_CHECKING:
    from tdagger.program.program import Program

_BOOL, _I64 = TensorType((), "bool"), TensorType((), "i64")


def check(program: Program) -> None:
    """GraphError names all that is wrong with a program, the first kind of fault that there is."""
    for faults in (_of_slots, _of_blocks, _of_reach, _of_assignment, _of_loops):
        found = list(faults(program))
        if found:
            raise GraphError(f"program {shown(program.name)}: {'; '.join(found)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(shown, names))


def _of_slots(program: Program) -> Iterator[str]:
    slots = program.slots
    for what, names in (("takes", program.inputs), ("gives", program.outputs)):
        missing = [n for n in names if n not in slots]
        if missing:
            yield f"it {what} {_listed(missing)}, which is no slot"
    if len(set(program.inputs)) != len(program.inputs):
        yield "it takes a slot twice"
    for name, slot in slots.items():
        for dimension, length in slot.lengths:
            if not 0 <= dimension < slot.type.rank:
                yield f"slot {shown(name)} ({slot.type}) has no dimension {dimension}"
            if length not in slots or slots[length].type is not _I64:
                yield f"the length of slot {shown(name)} must be a slot i64[], {shown(length)} isn't"
            elif name in program.outputs and length not in program.known_at_end:
                yield f"slot {shown(name)} is returned, its length {shown(length)} isn't assigned where that happens"
        if slot.buffer:
            said = program.state.get(slot.buffer)
            if said is None or said.is_parameter:
                yield f"slot {shown(name)} begins as {shown(slot.buffer)}, which is no buffer"
            elif said.type is not slot.type:
                yield f"slot {shown(name)} ({slot.type}) begins as buffer {shown(slot.buffer)} of type {said.type}"
            if name in program.inputs:
                yield f"slot {shown(name)} is taken, and begins as a buffer"
    buffers = [s.buffer for s in slots.values() if s.buffer]
    if len(set(buffers)) != len(buffers):
        yield "two slots begin as one buffer"


def _of_blocks(program: Program) -> Iterator[str]:
    if not program.blocks:
        yield "it has no blocks"
    for name, block in program.blocks.items():
        at = f"block {shown(name)}"
        for what, values in (("reads", block.graph.inputs), ("writes", block.graph.outputs)):
            for slot, value in values.items():
                if slot not in program.slots:
                    yield f"{at} {what} {shown(slot)}, which is no slot"
                elif value.type is not program.slots[slot].type:
                    yield f"{at} {what} {shown(slot)} as {value.type}, the slot is {program.slots[slot].type}"
        if block.graph.updates:
            yield f"{at} changes buffers ({_listed(block.graph.updates)}): those that change are slots"
        yield from _of_end(program, block, at)
        for leaf, value in (*block.graph.parameters.items(), *block.graph.buffers.items()):
            said = program.state.get(leaf)
            if said is None:
                yield f"{at} needs the weight {shown(leaf)}, which the program's state doesn't have"
            elif said.type is not value.type:
                yield f"{at} has the weight {shown(leaf)} as {value.type}, the state as {said.type}"


def _of_end(program: Program, block: Block, at: str) -> Iterator[str]:
    end = block.end
    missing = [t for t in end.targets if t not in program.blocks]
    if missing:
        yield f"{at} goes on with {_listed(missing)}, which is no block"
    if isinstance(end, Switch) and not end.to:
        yield f"{at} chooses among no blocks"
    if isinstance(end, If | Switch):
        slot = program.slots.get(end.slot)
        if slot is None:
            yield f"{at} goes on by {shown(end.slot)}, which is no slot"
        elif isinstance(end, If) and slot.type is not _BOOL:
            yield f"{at} goes on by {shown(end.slot)}, which is {slot.type} and not bool[]"
        elif isinstance(end, Switch) and (slot.type.rank or not slot.type.dtype.is_int):
            yield f"{at} chooses by {shown(end.slot)}, which is {slot.type} and no integer of rank 0"


def _of_reach(program: Program) -> Iterator[str]:
    flow = Flow(next_of(program.blocks))
    unreached = [n for n in program.blocks if n not in set(flow.order)]
    if unreached:
        yield f"no way leads to block {_listed(unreached)}"
    if not any(isinstance(b.end, Return) for b in program.blocks.values()):
        yield "no block returns"


def _of_assignment(program: Program) -> Iterator[str]:
    known = program.known
    for name, block in program.blocks.items():
        given = known[name]
        unknown = [s for s in block.reads if s not in given]
        if unknown:
            yield f"block {shown(name)} reads {_listed(unknown)}, which isn't assigned on every way there"
        given = given | set(block.writes)
        if block.asks and block.asks not in given:
            yield f"block {shown(name)} goes on by {shown(block.asks)}, which isn't assigned on every way there"
        if isinstance(block.end, Return):
            lacking = [s for s in program.outputs if s not in given]
            if lacking:
                yield f"block {shown(name)} returns without {_listed(lacking)}, which isn't assigned on every way there"


def _of_loops(program: Program) -> Iterator[str]:
    """Loops that can't end: nothing leaves them, or what is asked where they are left never changes inside."""
    after = next_of(program.blocks)
    waiting = cycles(after, list(after))
    while waiting:
        loop = waiting.pop()
        ordered = [n for n in after if n in loop]
        leaving = [n for n in ordered if any(t not in loop for t in after[n])]
        inside = {n: program.blocks[n] for n in ordered}
        if not leaving:
            yield f"nothing leads out of the loop of {_listed(ordered)}"
        elif not any(_can_leave(program.blocks[n], inside) for n in leaving):
            asked = dict.fromkeys(str(program.blocks[n].asks) for n in leaving)
            yield f"the loop of {_listed(ordered)} is left by {_listed(asked)}, which nothing in it changes"
        else:
            flow = [n for n in ordered if n != _header(program, loop)]
            waiting += cycles({n: [t for t in after[n] if t in loop] for n in ordered}, flow)


def _header(program: Program, loop: set[str]) -> str:
    """A block by which a loop is entered."""
    first = next(iter(program.blocks))
    outside = (t for n, b in program.blocks.items() if n not in loop for t in b.end.targets if t in loop)
    return first if first in loop else next(outside)


def _can_leave(block: Block, loop: Mapping[str, Block]) -> bool:
    """Whether what a block asks may come to be another: it computes that, or another block of the loop does.

    A constant that it writes itself decides where it goes, once and for all.
    """
    end = block.end
    own = block.graph.outputs.get(str(block.asks))
    if own is not None and isinstance(own.op, Const):
        return decided(end, own) not in loop
    if own is not None and not _is_itself(own, str(block.asks)):
        return True
    others = [b.graph.outputs.get(str(block.asks)) for b in loop.values()]
    return any(v is not None and not _is_itself(v, str(block.asks)) for v in others)


def _is_itself(value: Value, slot: str) -> bool:
    return isinstance(value.op, Input) and value.op.leaf == slot


def decided(end: End, value: Value) -> str:
    """Where an end leads that asks for a constant."""
    data = value.op.run()
    if isinstance(end, If):
        return end.then if bool(data) else end.otherwise
    number = int(data)
    return end.targets[number if 0 <= number < len(end.targets) else -1]
