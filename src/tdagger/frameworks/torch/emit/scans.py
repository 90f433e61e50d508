"""Loops over entries found again, to be written as torch's ``scan``.

Such a loop counts from 0 by one to a number. Slots that are only read at what it counts (or from the end, at the last
place less that) are what it goes over, slots of which each turn writes that entry alone are what its turns give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

from tdagger.graph import Graph, replayed
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, less
from tdagger.ops.indexing import Scatter, gather, scatter
from tdagger.ops.source import Const, Input, const
from tdagger.program.parts import Block, Goto, Slot
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.simplify import block_of
from tdagger.program.structure import Choose, Fail, Run, Sequence, Structured, While
from tdagger.types import TensorType


class Scan(NamedTuple):
    """``body`` for each entry of ``xs``, ``turns`` of them, from the last to the first if ``reverse``.

    ``xs`` and ``ys`` are pairs of a slot and the slot of an entry of it; ``counter`` says which turn it is, from 0.
    """

    body: Steps
    turns: int
    counter: str
    xs: tuple[tuple[str, str], ...]
    ys: tuple[tuple[str, str], ...]
    reverse: bool

    @property
    def own(self) -> set[str]:
        """The slots that a turn is given, and those of what it gives, which are nothing outside of it."""
        return {self.counter} | {e for pairs in (self.xs, self.ys) for _, e in pairs}

    @property
    def results(self) -> set[str]:
        """The slots that the whole gives, but for those that are carried."""
        return {self.counter} | {y for y, _ in self.ys}


#: What is done one after the other.
Steps = tuple[Run | Choose | While | Fail | Scan, ...]


def with_scans(found: Structured) -> tuple[Program, Steps]:
    """The program and what it does, with scans in the place of the loops that are some."""
    search = _Search(found.program)
    whole = search.steps(found.whole)
    program = replace(found.program, slots=search.slots, blocks=search.blocks)
    return program, whole


class _Search:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.blocks: dict[str, Block] = dict(program.blocks)
        self.slots: dict[str, Slot] = dict(program.slots)
        self.taken = {*self.slots}
        self.known: dict[While, While | Scan] = {}

    def steps(self, steps: Sequence) -> Steps:
        """The steps with scans, inner ones too."""
        out: list[Run | Choose | While | Fail | Scan] = []
        for i, step in enumerate(steps):
            if isinstance(step, Choose):
                out.append(step._replace(arms=cast(Any, tuple([self.steps(a) for a in step.arms]))))
            elif isinstance(step, While):
                if step not in self.known:
                    made = self._scan(step, steps[:i])
                    self.known[step] = made._replace(body=cast(Any, self.steps(step.body)))
                out.append(self.known[step])
            else:
                out.append(step)
        return tuple(out)

    def _scan(self, loop: While, before: Sequence) -> While | Scan:
        """The loop as a scan, itself if it is none."""
        counted = self._counted(loop, before)
        if counted is None:
            return loop
        counter, count = counted
        here = Input(counter, self.slots[counter].type)()
        last = const(count - 1, here.dtype) - here
        for at in (here, last):
            xs = self._entries(loop, counter, count, at)
            ys = self._results(loop, count, at)
            if xs or ys:
                return self._made(loop, counter, count, at, xs, ys, at is last)
        return loop

    def _counted(self, loop: While, before: Sequence) -> tuple[str, int] | None:
        """What a loop counts from 0, and to which number; None if it is left otherwise."""
        if loop.until or len(loop.before) != 1 or not isinstance(loop.before[0], Run):
            return None
        test = self.blocks[loop.before[0].block].graph
        asked = test.outputs.get(loop.slot)
        if asked is None or len(test.outputs) != 1 or not isinstance(asked.op, Binary) or len(asked.args) != 2:
            return None
        at, end = asked.args
        if not isinstance(at.op, Input) or not isinstance(end.op, Const) or asked is not less(at, end) or at.type.rank:
            return None
        counter, count = at.op.leaf, int(end.op.run())
        one = const(1, at.dtype)
        writers = [s for s in loop.body if counter in _written(self.blocks, (s,))]
        if count < 1 or len(writers) != 1 or not isinstance(writers[0], Run):
            return None
        if self.blocks[writers[0].block].graph.outputs[counter] is not at + one:
            return None
        later = loop.body[loop.body.index(writers[0]) + 1 :]
        if counter in _read(self.blocks, later) or not self._is_zero(counter, before):
            return None
        return counter, count

    def _is_zero(self, counter: str, before: Sequence) -> bool:
        """Whether a loop begins to count at 0."""
        for step in reversed(before):
            if counter in _written(self.blocks, (step,)):
                value = self.blocks[step.block].graph.outputs[counter] if isinstance(step, Run) else None
                return value is not None and isinstance(value.op, Const) and not value.op.run().any()
        return False

    def _entries(self, loop: While, counter: str, count: int, at: Value) -> list[str]:
        """The slots that are read in the loop at one place only, and that it doesn't write."""
        changed = _written(self.blocks, loop.body)
        found: list[str] = []
        for slot in sorted(_read(self.blocks, loop.body) - changed - {counter}):
            type_ = self.slots[slot].type
            if not type_.rank or type_.shape[0] != count:
                continue
            wanted = gather(Input(slot, type_)(), at, 0)
            users = [u for g in self._graphs(loop) if slot in g.inputs for u in g.users[g.inputs[slot]]]
            given = [g for g in self._graphs(loop) if slot in g.inputs and g.inputs[slot] in g.outputs.values()]
            if not given and all(u is wanted for u in users):
                found.append(slot)
        return found

    def _results(self, loop: While, count: int, at: Value) -> dict[str, tuple[str, Value]]:
        """The slots of which each turn writes one entry and reads nothing: the block that does, and the entry."""
        found: dict[str, tuple[str, Value]] = {}
        for step in loop.body:
            if not isinstance(step, Run):
                continue
            graph = self.blocks[step.block].graph
            for slot, value in graph.outputs.items():
                if not isinstance(value.op, Scatter) or value.op.kind != "set" or value.op.axis or value.op.batch:
                    continue
                own = graph.inputs.get(slot)
                if own is None or value.args[0] is not own or value.args[1] is not at or own.shape[0] != count:
                    continue
                readers = [s for s in loop.body if slot in _read(self.blocks, (s,)) | _written(self.blocks, (s,))]
                alone = (
                    graph.users[own] == [value]
                    and not graph.users[value]
                    and [*graph.outputs.values()].count(value) == 1
                )
                if readers == [step] and alone and slot not in _read(self.blocks, loop.before):
                    found[slot] = step.block, value.args[2]
        return found

    def _graphs(self, loop: While) -> list[Graph]:
        return [self.blocks[n].graph for n in (*names_of(loop.body), *names_of(loop.before))]

    def _made(
        self, loop: While, counter: str, count: int, at: Value, xs: list[str], ys: Mapping[str, tuple[str, Value]],
        reverse: bool,
    ) -> Scan:  # fmt: skip
        """The scan: its turns read entries that a block before them takes out, and write some that one after them puts.

        So the program is one as before; what is written of it has neither of these blocks.
        """
        blocks, entries = self.blocks, dict[Value, Value]()
        header = names_of(loop.before)[0]
        taken = {*blocks}
        first, last = named("turn", taken), named("store", taken)
        of_x: dict[str, str] = {}
        taking: dict[str, Value] = {}
        for slot in xs:
            type_ = self.slots[slot].type
            own = of_x[slot] = self._slot(f"{slot}_entry", type_.with_shape(type_.shape[1:]))
            taking[own] = gather(Input(slot, type_)(), at, 0)
            entries[taking[own]] = Input(own, self.slots[own].type)()
        of_y = {n: self._slot(f"{n}_entry", v.type) for n, (_, v) in ys.items()}
        for name in dict.fromkeys(names_of(loop.body)):
            block = blocks[name]
            new = replayed(block.graph, {**{v: v for v in block.graph.inputs.values()}, **entries})
            outputs: dict[str, Value] = {}
            for slot, value in block.graph.outputs.items():
                if slot in ys:
                    outputs[of_y[slot]] = new[value.args[2]]
                elif slot != counter:
                    outputs[slot] = new[value]
            blocks[name] = block_of(outputs, block.end.renamed({header: last}), name, [*new.values()])
        here = Input(counter, self.slots[counter].type)()
        storing: dict[str, Value] = {counter: here + const(1, here.dtype)}
        for slot, own in of_y.items():
            storing[slot] = scatter(Input(slot, self.slots[slot].type)(), at, Input(own, self.slots[own].type)(), 0)
        test = blocks[header]
        again = test.end.targets[0]
        blocks[first] = block_of(taking, Goto(again), first, [])
        blocks[last] = block_of(storing, Goto(header), last, [])
        blocks[header] = Block(test.graph, test.end.renamed({again: first}))
        return Scan(loop.body, count, counter, tuple(of_x.items()), tuple(of_y.items()), reverse)

    def _slot(self, name: str, type_: TensorType) -> str:
        own = named(name, self.taken)
        self.slots[own] = Slot(type_)
        return own


def names_of(steps: Steps) -> list[str]:
    """The blocks of steps, inner ones too."""
    found: list[str] = []
    for step in steps:
        if isinstance(step, Run):
            found.append(step.block)
        elif not isinstance(step, Fail):
            for part in parts_of(step):
                found += names_of(part)
    return found


def parts_of(step: Choose | While | Scan) -> tuple[Steps, ...]:
    """The steps inside of one."""
    return (
        step.arms if isinstance(step, Choose) else (step.before, step.body) if isinstance(step, While) else (step.body,)
    )


def _written(blocks: Mapping[str, Block], steps: Steps) -> set[str]:
    return {slot for name in names_of(steps) for slot in blocks[name].writes}


def _read(blocks: Mapping[str, Block], steps: Steps) -> set[str]:
    """The slots that graphs of steps read, and those that they ask."""
    found = {slot for name in names_of(steps) for slot in blocks[name].reads}
    return found | {str(blocks[name].asks) for name in names_of(steps) if blocks[name].asks}
