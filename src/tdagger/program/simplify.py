"""A program made simpler: constants through slots, decided branches, blocks that follow each other, dead slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tdagger.errors import AttributeValueError, GraphError, InputError
from tdagger.graph import Graph, replayed, topological
from tdagger.interpret import computed
from tdagger.names import shown
from tdagger.network import Signature
from tdagger.op import Value
from tdagger.ops.elementwise import Binary
from tdagger.ops.source import Const, Input, Leaf, const
from tdagger.program.check import decided
from tdagger.program.flow import Flow, next_of
from tdagger.program.parts import Block, End, Goto, If, Return, Switch
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.whole import changed, used_slots, without_arguments
from tdagger.transform.passes import fold_constants

_Blocks = dict[str, Block]


def simplified(program: Program) -> Program:
    """The program with constants worked out, branches that are decided left out, and blocks merged."""
    while True:
        before = program
        program = changed(program, fold_constants)
        program = with_blocks(program, _with_constants(program))
        program = with_blocks(program, _passed_by(dict(program.blocks)))
        program = with_blocks(program, _with_equalities(program))
        if _told(program) == _told(before):
            return program


def with_blocks(program: Program, blocks: _Blocks) -> Program:
    """The program with other blocks, as few of them as do, which write only what is needed."""
    blocks = _reached(_threaded(_decided(blocks)))
    blocks = _merged(blocks)
    blocks = _without_dead(program, blocks)
    new = replace(program, blocks=blocks) if blocks != program.blocks else program
    return replace(new, slots=used_slots(new))


def _told(program: Program) -> Any:
    return [(n, b.graph, b.end) for n, b in program.blocks.items()], list(program.slots)


def _rebuilt(block: Block, new: Mapping[Value, Value], writes: Mapping[str, Value] | None = None) -> Block:
    """A block with other values in the place of some of its inputs."""
    found = replayed(block.graph, new)
    outputs = {n: found[v] for n, v in block.graph.outputs.items()}
    return block_of({**(writes or {}), **outputs}, block.end, block.graph.name, [*found.values()])


def block_of(outputs: Mapping[str, Value], end: End, name: str, order: list[Value]) -> Block:
    """The block that writes some values."""
    reads = {v.op.leaf: v for v in topological(outputs.values()) if isinstance(v.op, Input)}
    return Block(Graph(reads, outputs, name=name, order=order), end)


def _with_constants(program: Program) -> _Blocks:
    """Slots that are always one constant, as that where they are read; ends that a constant decides."""
    written: dict[str, set[Value]] = {}
    for block in program.blocks.values():
        for slot, value in block.graph.outputs.items():
            if not (isinstance(value.op, Input) and value.op.leaf == slot):
                written.setdefault(slot, set()).add(value)
    fixed: dict[str, Value] = {}
    for slot, values in written.items():
        value = next(iter(values))
        if slot not in program.begins_with and len(values) == 1 and isinstance(value.op, Const):
            fixed[slot] = value
    out: _Blocks = {}
    for name, block in program.blocks.items():
        new = {v: fixed.get(n, v) for n, v in block.graph.inputs.items()}
        own = _rebuilt(block, new) if any(n in fixed for n in block.reads) else block
        if own.asks is not None and own.asks in fixed and own.asks not in own.writes:
            own = Block(own.graph, Goto(decided(own.end, fixed[own.asks])))
        out[name] = own
    return out


def _with_equalities(program: Program) -> _Blocks:
    """Slots as constants where only one way of an if leads that asks whether they are: ``k == 2``, or the slot."""
    out = dict(program.blocks)
    flow = program.flow
    for name, block in program.blocks.items():
        end = block.end
        if not isinstance(end, If) or end.then == end.otherwise:
            continue
        pairs = [(end.then, {end.slot: const(True), **_equal_to(block)}), (end.otherwise, {end.slot: const(False)})]
        for target, known in pairs:
            if target == flow.entry or flow.before[target] != [name]:
                continue
            region = [n for n in flow.order if flow.dominates(target, n)]
            written = {s for n in region for s in program.blocks[n].writes}
            fixed = {s: v for s, v in known.items() if s not in written}
            for inside in region:
                own = out[inside]
                new = {v: fixed.get(n, v) for n, v in own.graph.inputs.items()}
                own = _rebuilt(own, new) if any(n in fixed for n in own.reads) else own
                if own.asks in fixed:
                    own = Block(own.graph, Goto(decided(own.end, fixed[str(own.asks)])))
                out[inside] = own
    return out


def _equal_to(block: Block) -> dict[str, Value]:
    """The slots of integers that are constants where a block goes on with the first of its two ways."""
    asked = block.graph.outputs.get(str(block.asks))
    if asked is None or not isinstance(asked.op, Binary) or asked.op.kind != "equal":
        return {}
    for a, b in (asked.args, asked.args[::-1]):
        if (
            isinstance(a.op, Input)
            and isinstance(b.op, Const)
            and not a.dtype.is_float
            and a.op.leaf not in block.writes
        ):
            return {a.op.leaf: b}
    return {}


def _decided(blocks: _Blocks) -> _Blocks:
    """Ends that ask for a constant which the block writes, or that lead to one block anyway."""
    out: _Blocks = {}
    for name, block in blocks.items():
        end = block.end
        if isinstance(end, If | Switch):
            value = block.graph.outputs.get(end.slot)
            if value is not None and isinstance(value.op, Const):
                end = Goto(decided(end, value))
            elif len(set(end.targets)) == 1:
                end = Goto(end.targets[0])
        out[name] = Block(block.graph, end)
    return out


def _passed_by(blocks: _Blocks) -> _Blocks:
    """Loops that are known to be done where they would begin: the block before goes on with what comes after them."""
    loops = Flow(next_of(blocks)).loops
    out = dict(blocks)
    for name, block in blocks.items():
        loop = loops.get(block.end.to) if isinstance(block.end, Goto) else None
        if loop is None or name in loop.blocks:
            continue
        test = blocks[loop.header]
        asked = test.graph.outputs.get(str(test.asks))
        fixed = {n: v for n, v in block.graph.outputs.items() if isinstance(v.op, Const)}
        if asked is None:
            continue
        known = {v: fixed.get(n, v) for n, v in test.graph.inputs.items()}
        answer = replayed(test.graph, known)[asked]
        if any(isinstance(v.op, Leaf) for v in topological([answer])):
            continue
        target = decided(test.end, const(computed(answer), answer.dtype))
        if target in loop.blocks:
            continue
        writes = dict(block.graph.outputs)
        found = replayed(test.graph, {v: writes.get(n, v) for n, v in test.graph.inputs.items()})
        writes |= {n: found[v] for n, v in test.graph.outputs.items()}
        out[name] = block_of(writes, Goto(target), name, [*block.graph.values, *found.values()])
    return out


def _threaded(blocks: _Blocks) -> _Blocks:
    """Blocks that do nothing left out of the ways through them."""
    goes = {n: b.end.to for n, b in blocks.items() if isinstance(b.end, Goto) and not b.writes and b.end.to != n}

    def last(name: str) -> str:
        seen: set[str] = set()
        while name in goes and name not in seen:
            seen.add(name)
            name = goes[name]
        return name

    names = {n: last(n) for n in blocks}
    entry = names[next(iter(blocks))]
    ordered = {entry: blocks[entry], **blocks}
    return {n: Block(b.graph, b.end.renamed(names)) for n, b in ordered.items()}


def _reached(blocks: _Blocks) -> _Blocks:
    reached = set(Flow(next_of(blocks)).order)
    return {n: b for n, b in blocks.items() if n in reached}


def _merged(blocks: _Blocks) -> _Blocks:
    """Blocks that always follow each other, and only so, as one."""
    flow = Flow(next_of(blocks))
    follows: dict[str, str] = {}
    for name, block in blocks.items():
        if isinstance(block.end, Goto):
            target = block.end.to
            if target != flow.entry and flow.before[target] == [name] and target != name:
                follows[name] = target
    inner = set(follows.values())
    out: _Blocks = {}
    for name, block in blocks.items():
        if name in inner:
            continue
        if name not in follows:
            out[name] = block
            continue
        writes = dict(block.graph.outputs)
        order = list(block.graph.values)
        last = name
        while last in follows:
            last = follows[last]
            graph = blocks[last].graph
            found = replayed(graph, {v: writes.get(n, v) for n, v in graph.inputs.items()})
            order += found.values()
            writes |= {n: found[v] for n, v in graph.outputs.items()}
        out[name] = block_of(writes, blocks[last].end, block.graph.name, order)
    return out if len(out) + len(inner) == len(blocks) else blocks  # a ring of blocks is no chain


def _without_dead(program: Program, blocks: _Blocks) -> _Blocks:
    """Writes left out that nothing needs: what is returned or asked, and what that is made of, in whatever block."""
    needed = {*at_end(program), *[b.asks for b in blocks.values() if b.asks]}
    reads: dict[str, set[str]] = {}
    for block in blocks.values():
        behind: dict[Value, set[str]] = {}
        for value in block.graph.values:
            own = {value.op.leaf} if isinstance(value.op, Input) else set[str]()
            behind[value] = own.union(*[behind[a] for a in value.args])
        for slot, value in block.graph.outputs.items():
            reads.setdefault(slot, set()).update(behind[value])
    waiting = list(needed)
    while waiting:
        for slot in reads.get(waiting.pop(), ()):
            if slot not in needed:
                needed.add(slot)
                waiting.append(slot)
    out: _Blocks = {}
    for name, block in blocks.items():
        kept = {
            n: v
            for n, v in block.graph.outputs.items()
            if n in needed and not (isinstance(v.op, Input) and v.op.leaf == n)
        }
        same = len(kept) == len(block.writes)
        out[name] = block if same else block_of(kept, block.end, block.graph.name, block.graph.values)
    return out


def at_end(program: Program) -> set[str]:
    """The slots that are read where a program returns."""
    lengths = {length for n in program.outputs for _, length in program.slots[n].lengths}
    return {*program.outputs, *lengths, *[n for n, s in program.slots.items() if s.buffer]}


def raising(program: Program) -> set[str]:
    """The blocks from which the program can't return."""
    before = program.flow.before
    waiting = [n for n, b in program.blocks.items() if isinstance(b.end, Return)]
    returning = set(waiting)
    while waiting:
        new = [p for p in before[waiting.pop()] if p not in returning]
        returning.update(new)
        waiting += new
    return {n for n in program.blocks if n not in returning}


# --- specialising and unrolling ----------------------------------------------------------------------------


def specialized(program: Program, values: Mapping[str, Any]) -> Program:
    """See :meth:`tdagger.program.program.Program.specialize`."""
    unknown = [n for n in values if n not in program.inputs]
    if unknown:
        raise InputError(f"{shown(program.name)} takes no {unknown[0]!r}; it takes {', '.join(program.inputs)}")
    fixed: dict[str, Value] = {}
    for name, given in values.items():
        slot = program.slots[name]
        array = np.asarray(given, slot.type.dtype.numpy)
        if slot.lengths or array.shape != slot.type.shape:
            raise InputError(f"input {shown(name)} is declared {slot}, got {array.dtype}{list(array.shape)}")
        fixed[name] = const(array, slot.type.dtype)
    gone = [n in values for n in program.inputs]
    signature = Signature(without_arguments(program.called.inputs, gone), program.called.outputs)
    first = named("given", {*program.blocks})
    begin = block_of(fixed, Goto(program.entry), first, [])
    new = replace(
        program, blocks={first: begin, **program.blocks}, signature=signature,
        inputs=tuple(n for n in program.inputs if n not in values),
        axis_names={n: p for n, p in program.axis_names.items() if n not in values},
    )  # fmt: skip
    return simplified(new)


def trusted(program: Program) -> Program:
    """See :meth:`tdagger.program.program.Program.trusted`."""
    gone = raising(program)
    blocks: _Blocks = {}
    for name, block in program.blocks.items():
        end = block.end
        left = [t for t in end.targets if t not in gone]
        if isinstance(end, If) and len(left) == 1:
            end = Goto(left[0])
        elif isinstance(end, Switch) and left:
            end = Switch(end.slot, tuple([t if t not in gone else left[-1] for t in end.to]))
        if name not in gone:
            blocks[name] = Block(block.graph, end)
    if not blocks:
        raise GraphError(f"program {shown(program.name)} refuses whatever it is given")
    return simplified(replace(program, blocks=blocks))


def unrolled(program: Program, turns: int, header: str | None = None) -> Program:
    """See :meth:`tdagger.program.program.Program.unroll`."""
    if turns < 1:
        raise AttributeValueError(f"unroll: at least one turn, not {turns}")
    loops = program.flow.loops
    if header is None:
        if len(loops) != 1:
            told = ", ".join(loops) or "none"
            raise GraphError(f"unroll: say which loop, by its first block; {shown(program.name)} has {told}")
        header = next(iter(loops))
    if header not in loops:
        raise GraphError(f"unroll: {shown(header)} begins no loop; there are {', '.join(loops) or 'none'}")
    loop = loops[header]
    taken = {*program.blocks}
    inside = [n for n in program.blocks if n in loop.blocks]
    copies = [{n: named(n, taken) for n in inside} for _ in range(turns)]
    blocks: _Blocks = {}
    for name, block in program.blocks.items():
        if name == program.entry == header:
            blocks[copies[0][header]] = block  # the first stays the first
        if name not in loop.blocks:
            blocks[name] = Block(block.graph, block.end.renamed({header: copies[0][header]}))
    for i, names in enumerate(copies):
        following = copies[i + 1][header] if i + 1 < turns else header
        for name in inside:
            block = program.blocks[name]
            blocks[names[name]] = Block(block.graph, block.end.renamed({**names, header: following}))
    blocks |= {n: program.blocks[n] for n in inside}
    return simplified(replace(program, blocks=blocks))
