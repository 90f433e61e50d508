"""Loops that NonMaxSuppression was imported as, written as that node again.

Values are interned: a loop is the importer's if the importer's functions (:mod:`tdagger.frameworks.onnx.selection`)
give the same values of the tensors that are found in it, constants worked out in both. Nothing is taken for it that
only looks like it, and a loop that something changed stays a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.emit.writer import Writer
from tdagger.frameworks.onnx.selection import alive_at_first, edges_of, going, nothing_kept, rows_of, turn
from tdagger.graph import Graph, replayed, topological
from tdagger.op import Op, Value
from tdagger.ops.indexing import Argsort, Scatter
from tdagger.ops.source import Const, Input, Leaf, const
from tdagger.ops.structure import Item
from tdagger.program.flow import Loop
from tdagger.program.parts import Block, Goto, If, Slot
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.simplify import block_of, with_blocks
from tdagger.types import DType, ResultTypes, TensorType, ValueType, i64

F32 = DType.of("f32")


class Selected(Op):
    """The rows that NonMaxSuppression gives, zeros behind them, and how many these are.

    It takes boxes, scores, the most of a class, the threshold of overlaps, the least score if there is one, and how
    many boxes count if that varies.
    """

    name = "selected_boxes"
    center: int
    rows: int
    least: bool
    counted: bool

    def infer(self, *types: TensorType) -> ValueType:
        return ResultTypes((TensorType((self.rows, 3), i64), TensorType((), i64)))

    def run(self, *arrays: Any) -> Any:
        raise UnsupportedError("selected_boxes is only written")


def selected(w: Writer, v: Value) -> tuple[str, str]:
    """The node, its rows padded, and their number; a result that is cut to as many is the node itself."""
    op: Any = v.op
    boxes, scores, *numbers = map(w.ref, v.args)
    if op.counted:
        end = w.node("Unsqueeze", [numbers.pop(), w.ints([0])])
        boxes, scores = (
            w.node("Slice", [x, w.ints([0]), end, w.ints([axis])]) for x, axis in ((boxes, 1), (scores, 2))
        )
    found = w.node("NonMaxSuppression", [boxes, scores, *numbers], center_point_box=op.center or None)
    size = w.node("Shape", [found], start=0, end=1)
    count = w.node("Squeeze", [size, w.ints([0])])
    pads = w.node("Concat", [w.ints([0, 0]), w.node("Sub", [w.ints([op.rows]), size]), w.ints([0])], axis=0)
    rows = w.node("Pad", [found, pads])
    w.uncut[rows] = (found, count)
    return rows, count


# --- finding them ------------------------------------------------------------------------------------------


def with_selections(program: Program) -> Program:
    """The program with an op in the place of each loop that suppresses boxes, if it is as it was imported."""
    while True:
        whole = None
        for loop in program.flow.loops.values():
            parts = _parts(program, loop)
            if parts is None:
                continue
            whole = whole or _Whole(program)
            changed = _changed(program, loop, parts, whole)
            if changed is not None:
                program = changed
                break
        else:
            return program


class _Parts(NamedTuple):
    """Of a loop of a block that asks and one that is a turn: these, the next one, and the slots that turns change."""

    test: str
    body: str
    after: str
    slots: tuple[str, str, str]


def _parts(program: Program, loop: Loop) -> _Parts | None:
    """The parts of a loop that is built like one of boxes."""
    end = program.blocks[loop.header].end
    if len(loop.blocks) != 2 or not isinstance(end, If) or end.then not in loop.blocks or end.otherwise in loop.blocks:
        return None
    outputs = program.blocks[end.then].graph.outputs
    if len(outputs) != 3 or program.blocks[end.then].end != Goto(loop.header):
        return None
    number, left, kept = sorted(outputs, key=lambda n: (outputs[n].rank > 0, outputs[n].dtype.name != "bool"))
    scattered = isinstance(outputs[kept].op, Scatter) and outputs[left].dtype.name == "bool"
    if not scattered or outputs[kept].rank != 3 or outputs[number].type != TensorType((), i64):
        return None
    return _Parts(loop.header, end.then, end.otherwise, (number, left, kept))


class _Whole:
    """What values are in the terms of all blocks: slots that are written once are what is written."""

    def __init__(self, program: Program) -> None:
        writers: dict[str, list[str]] = {}
        for name, block in program.blocks.items():
            for slot in block.writes:
                writers.setdefault(slot, []).append(name)
        self.program, self.writers = program, writers
        self.of: dict[str, dict[Value, Value]] = {}
        #: Where a value is computed: a block, and what it is there.
        self.places: dict[Value, tuple[str, Value]] = {}
        known: dict[str, Value] = {}
        for name in program.flow.order:
            graph = program.blocks[name].graph
            new = _folded(graph.values, {v: known.get(n, v) for n, v in graph.inputs.items()})
            self.of[name] = new
            for value, own in new.items():
                self.places.setdefault(own, (name, value))
            for slot, value in graph.outputs.items():
                if len(writers[slot]) == 1 and slot not in program.begins_with:
                    known[slot] = new[value]

    def outputs(self, block: str) -> dict[str, Value]:
        """What a block writes."""
        return {n: self.of[block][v] for n, v in self.program.blocks[block].graph.outputs.items()}


def _changed(program: Program, loop: Loop, parts: _Parts, whole: _Whole) -> Program | None:
    """The program with an op for the loop; None if the loop isn't what it looks like."""
    number, left, kept = parts.slots
    begins = {n: [b for b in whole.writers[n] if b != parts.body] for n in parts.slots}
    readers = [n for n, b in program.blocks.items() if n not in loop.blocks and not {number, left}.isdisjoint(b.reads)]
    if readers or any(len(b) != 1 or b[0] in loop.blocks for b in begins.values()):
        return None
    start = [whole.outputs(begins[n][0])[n] for n in parts.slots]
    found = _operands(program, parts, whole, start)
    if found is None:
        return None
    op, operands = found
    blocks, slots = dict(program.blocks), dict(program.slots)
    given: list[Value] = []
    for value in operands:
        own = _at(program, loop, whole, value, blocks, slots)
        if own is None:
            return None
        given.append(own)
    made = op(*given)
    sel, count = named("selected", {*slots}), named("selected_length", {*slots})
    slots |= {sel: Slot(TensorType((op.rows, 3), i64)), count: Slot(TensorType((), i64))}
    writes = {sel: Item(0)(made), count: Item(1)(made)}
    blocks[parts.test] = block_of(writes, Goto(parts.after), parts.test, [*given, made, *writes.values()])
    del blocks[parts.body]
    rows = rows_of(Input(kept, program.slots[kept].type)())
    instead = {_folded_one(rows.value): Input(sel, slots[sel].type)(),
               _folded_one(rows.lengths[0]): Input(count, slots[count].type)()}  # fmt: skip
    for name, block in list(blocks.items()):
        if kept in block.reads:
            new = _folded(block.graph.values, {})
            own = Graph({n: new[v] for n, v in block.graph.inputs.items()},
                        {n: new[v] for n, v in block.graph.outputs.items()})  # fmt: skip
            new = replayed(own, {**{v: v for v in own.inputs.values()}, **instead})
            outputs = {n: new[v] for n, v in own.outputs.items()}
            blocks[name] = block_of(outputs, block.end, name, [*new.values()])
            if kept in blocks[name].reads:
                return None
    origins = {**program.origins}
    origin = next((program.origins[v] for v in program.blocks[parts.body].graph.values if v in program.origins), None)
    if origin is not None:
        origins[made] = origin
    return with_blocks(replace(program, slots=slots, origins=origins), blocks)


def _at(
    program: Program, loop: Loop, whole: _Whole, value: Value, blocks: dict[str, Block], slots: dict[str, Slot]
) -> Value | None:
    """A value of the whole where the loop stands: itself, or a slot that the block that has it writes."""
    made_of = topological([value])
    if isinstance(value.op, Input) or (len(made_of) < 9 and not any(isinstance(v.op, Input) for v in made_of)):
        return value  # what no input is behind is made there
    block, own = whole.places.get(value, ("", value))
    if not block or not program.flow.dominates(block, loop.header) or program.flow.loop_of.get(block) is not loop.outer:
        return None
    graph = blocks[block].graph
    slot = next((n for n, v in graph.outputs.items() if v is own and len(whole.writers.get(n, ())) == 1), None)
    if slot is None:
        slot = named(own.op.name, {*slots})
        slots[slot] = Slot(own.type)
        blocks[block] = block_of({**graph.outputs, slot: own}, blocks[block].end, graph.name, list(graph.values))
    return Input(slot, own.type)()


def _operands(
    program: Program, parts: _Parts, whole: _Whole, start: Sequence[Value]
) -> tuple[Selected, list[Value]] | None:
    """What the loop takes, if it is what the importer makes of that."""
    k, alive, kept = [Input(n, program.slots[n].type)() for n in parts.slots]
    after = [whole.outputs(parts.body)[n] for n in parts.slots]
    asked = program.blocks[parts.test].asks
    goes = whole.outputs(parts.test).get(asked or "")
    of_turn, at_first = topological(after), topological([start[1]])
    orders = [v for v in of_turn if isinstance(v.op, Argsort) and v.rank == 3 and v.op.axis == 2 and v.op.descending]
    if len(orders) != 1 or goes is None or whole.of[parts.test].get(alive) is None:
        return None
    (order,) = orders
    scores = order.args[0]
    if (
        scores.dtype is not F32
        or not _same(nothing_kept(order, kept.shape[2]), start[2])
        or start[0] is not const(0, "i64")
    ):
        return None
    first = next(_begins(scores, order, start[1], at_first), None)
    most = next((v for v in _numbers(topological([goes]), i64) if _same(going(k, alive, v), goes)), None)
    if first is None or most is None:
        return None
    for boxes, center in _boxes(of_turn, order):
        edges = edges_of(boxes, order, center)
        for threshold in _numbers(of_turn, F32):
            if all(map(_same, turn(k, alive, kept, order, edges, threshold), after)):
                more = [v for v in first if v is not None]
                op = Selected(center, rows_of(kept).value.shape[0], first[0] is not None, first[1] is not None)
                return op, [boxes, scores, most, threshold, *more]
    return None


def _folded(values: Sequence[Value], new: Mapping[Value, Value]) -> dict[Value, Value]:
    """What becomes of values, arguments first, with what is made of constants worked out."""
    found = dict(new)
    for value in values:
        if value not in found:
            args = [found[a] for a in value.args]
            known = all(isinstance(a.op, Const) for a in args) and not isinstance(value.op, Leaf | Const)
            one = not isinstance(value.type, tuple)
            found[value] = (
                const(value.op.run(*[cast(Const, a.op).data for a in args])) if known and one else value.op(*args)
            )
    return found


def _folded_one(value: Value) -> Value:
    return _folded(topological([value]), {})[value]


def _same(made: Value, wanted: Value) -> bool:
    return _folded_one(made) is wanted


def _numbers(values: Sequence[Value], dtype: DType) -> list[Value]:
    """The single numbers among some values, and those that constants repeat."""
    found = {v: None for v in values if v.type == TensorType((), dtype)}
    for value in values:
        if isinstance(value.op, Const) and value.dtype is dtype and value.op.data.size:
            first = value.op.data.reshape(-1)[:1]
            if (value.op.data == first).all():
                found[const(first[0], dtype)] = None
    return list(found)


def _begins(
    scores: Value, order: Value, alive: Value, values: Sequence[Value]
) -> Iterator[tuple[Value | None, Value | None]]:
    """The least score and the number of boxes that count (None where there is none) that make what is left at first."""
    for least in (None, *_numbers(values, F32)):
        for count in (None, *_numbers(values, i64)):
            if _same(alive_at_first(scores, order, least, count), alive):
                yield least, count


def _boxes(values: Sequence[Value], order: Value) -> Iterator[tuple[Value, int]]:
    """The boxes whose edges are among some values, and whether they are said by their centers."""
    there = set(values)
    b, _, n = order.shape
    for value in values:
        if value.type == TensorType((b, n, 4), F32):
            yield from ((value, center) for center in (0, 1) if _folded_one(edges_of(value, order, center)) in there)
