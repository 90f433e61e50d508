"""A program as one ONNX graph: its loops and branches as Loop and If, the nodes of each block where it is run.

Slots are names of tensors: a block's nodes take what its slots are called then, and give them other names. What an If
or Loop writes and somebody reads later are its results; all else is read from around it. Weights are tensors of the
model, which the graphs inside nodes see, so that each is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tdagger.errors import AttributeValueError, AxisError, TypeMismatchError
from tdagger.frameworks.onnx.emit.core import row_of
from tdagger.frameworks.onnx.emit.selection import with_selections
from tdagger.frameworks.onnx.emit.writer import Branch, Node, Writer, reads
from tdagger.frameworks.onnx.exporter import OPSET, Made, checked, difference, ended, refuse, tables_of, written
from tdagger.frameworks.writing import block_until, check_program, needed
from tdagger.graph import Graph
from tdagger.names import shown, untaken
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.program.lives import Lives
from tdagger.program.parts import Slot
from tdagger.program.program import Program
from tdagger.program.simplify import at_end
from tdagger.program.structure import Choose, Run, Sequence, Structured, While, structured
from tdagger.program.whole import opened
from tdagger.types import Size, TensorType, readable

_BOOL, _I64 = TensorType((), "bool"), TensorType((), "i64")
#: What slots are called, by their names.
_Names = dict[str, str]


def to_onnx(
    program: Program,
    path: str | Path | None = None,
    *,
    opset: int | None = None,
    dynamic: Iterable[str] | bool = (),
    external_data: bool | None = None,
    metadata: bool = True,
) -> onnx.ModelProto | None:
    """See :meth:`tdagger.program.program.Program.to_onnx`.

    UnsupportedError names all that can't be written, InputError weights that have no data, AxisError an axis of
    ``dynamic`` that can't be of any size.
    """
    opset = OPSET if opset is None else opset
    checked(opset, program.name, [n for b in program.blocks.values() for n in (b.graph.parameters | b.graph.buffers)],
            program.weights)  # fmt: skip
    check_program(program, "ONNX", may_vary=True)
    found = structured(program if dynamic else with_selections(program))
    made = _dynamic(found, opset, dynamic) if dynamic else _Emitter(found.program, opset).made(found.whole)
    return written(program.name, made, path, opset, external_data, metadata)


def _dynamic(found: Structured, opset: int, dynamic: Iterable[str] | bool) -> Made:
    """The nodes of a program whose axes have no numbers: made at two points of sizes, where they must be the same."""
    asked: list[str] | bool | str = dynamic if isinstance(dynamic, bool | str) else list(dynamic)

    def refused(why: str) -> AxisError:
        told = (
            "its axes" if asked is True else ", ".join(map(shown, [asked] if isinstance(asked, str) else asked or ()))
        )
        return AxisError(f"{shown(found.program.name)}: {told} can't be of any size: {why}")

    try:
        points = opened(found.program, asked)
        if not points:  # all that can be, and none can
            return _Emitter(found.program, opset).made(found.whole)
        made, other = (_Emitter(p, opset).made(found.whole) for p, _ in points)
    except (AxisError, AttributeValueError, TypeMismatchError) as e:
        raise refused(readable(str(e)).splitlines()[0].removeprefix(f"{shown(found.program.name)}: ")) from e
    why = difference(made, other)
    if why is not None:
        raise refused(why)
    made.conditions = points[0][1]
    return made


class _Emitter:
    """Writes the nodes of a program."""

    def __init__(self, program: Program, opset: int) -> None:
        self.program = program
        given = {n: Input(n, program.slots[n].type)() for n in program.inputs}
        self.given = given
        self.writer = Writer(Graph(given, given), row_of, program.origins, program.weights, opset,
                             tables_of(program.state))  # fmt: skip
        self.writer.taken |= {*program.outputs}
        self.lives = Lives(program)

    def made(self, whole: Sequence) -> Made:
        """The nodes and tensors of the whole program."""
        program, writer = self.program, self.writer
        names: _Names = {}
        for name in program.inputs:
            names |= self._taken(name, program.slots[name], names)
        buffers = {n: s.buffer for n, s in program.slots.items() if s.buffer}
        for slot, buffer in buffers.items():
            names[slot] = writer.leaf(buffer, program.slots[slot].type)
        own_nodes = self.sequence(whole, names, at_end(program))
        nodes = [*writer.nodes, *own_nodes]  # those of sizes, which others ask for, before them
        del writer.nodes[:]
        refs: dict[str, str] = {}
        types: dict[str, Value] = {}
        labels = {n: self._labels(n) for n in program.inputs}
        for slot in program.outputs:
            own = untaken(slot, refs, program.inputs)
            refs[own] = self._cut(slot, names)
            types[own] = Input(slot, program.slots[slot].type)()
            labels[own] = self._labels(slot)
        updates = [n for n in buffers if n in self.lives.written(whole)]
        for slot in updates:
            own = untaken(f"{buffers[slot]}.updated", refs, program.inputs)
            refs[own], types[own] = names[slot], Input(slot, program.slots[slot].type)()
        if writer.problems:
            refuse(program.name, writer)
        nodes = ended([*nodes, *writer.nodes], refs)
        used = {n for node in nodes for n in reads(node)}
        tensors = {n: t for n, t in writer.tensors.items() if n in used}
        graph = Graph(self.given, self.given)
        return Made(graph, nodes, tensors, types, writer.domains, (), labels, [buffers[n] for n in updates])

    # Sizes that vary.

    def _labels(self, name: str) -> list[str | None]:
        slot = self.program.slots[name]
        told = dict(slot.lengths)
        return [told.get(i) or (str(n.formula) if isinstance(n, Size) else None) for i, n in enumerate(slot.type.shape)]

    def _taken(self, name: str, slot: Slot, names: Mapping[str, str]) -> _Names:
        """What an input is called where it has its largest size, and how many entries of it count."""
        if not slot.lengths:
            return {name: name}
        writer, found = self.writer, dict[str, str]()
        shape = writer.node("Shape", [name])
        x = name
        for dimension, length in slot.lengths:
            count = writer.node("Gather", [shape, writer.const(np.asarray(dimension, np.int64))], axis=0)
            if length not in self.program.inputs and length not in names:
                found[length] = count
            size = writer.node("Unsqueeze", [count, writer.ints([0])])
            rest = writer.node("Sub", [writer.ints([slot.type.shape[dimension]]), size])
            parts = [writer.node("Shape", [x], start=0, end=dimension)] if dimension else []
            after = [writer.node("Shape", [x], start=dimension + 1)] if dimension + 1 < slot.type.rank else []
            whole = [*parts, rest, *after]
            zeros = writer.node("Concat", whole, axis=0) if len(whole) > 1 else rest
            filling = writer.node("ConstantOfShape", [zeros], value=np.zeros(1, slot.type.dtype.numpy))
            x = writer.node("Concat", [x, filling], axis=dimension)
        return {**found, name: x}

    def _cut(self, name: str, names: _Names) -> str:
        """An output without what is behind its lengths."""
        slot, writer = self.program.slots[name], self.writer
        own = self.name_of(name, names)
        if not slot.lengths:
            return own
        whole, count = writer.uncut.get(own, ("", ""))
        if whole and [(i, self.name_of(n, names)) for i, n in slot.lengths] == [(0, count)]:
            return whole
        ends = [writer.node("Unsqueeze", [self.name_of(n, names), writer.ints([0])]) for _, n in slot.lengths]
        axes = [i for i, _ in slot.lengths]
        end = writer.node("Concat", ends, axis=0) if len(ends) > 1 else ends[0]
        return writer.node("Slice", [own, writer.ints([0] * len(axes)), end, writer.ints(axes)])

    # What is done one after the other.

    def name_of(self, slot: str, names: Mapping[str, str]) -> str:
        """What a slot is called; zeros if nothing was written to it yet."""
        own = names.get(slot)
        if own is not None:
            return own
        kind = self.program.slots[slot].type
        return self.writer.const(np.zeros(kind.shape, kind.dtype.numpy))

    def sequence(self, steps: Sequence, names: _Names, after: set[str]) -> list[Node]:
        """The nodes of some steps, after which some slots are read; ``names`` become what slots are called then."""
        nodes: list[Node] = []
        for step, wanted in zip(steps, self.lives.after_each(steps, after), strict=True):
            if isinstance(step, Run):
                nodes += self._run(step.block, names, wanted)
            elif isinstance(step, Choose):
                nodes += self._choice(step, names, wanted)
            elif isinstance(step, While):
                nodes += self._loop(step, names, wanted)
            else:
                raise AssertionError(f"{step.message}: raising blocks are refused before")
        return nodes

    def _run(self, block: str, names: _Names, after: set[str]) -> list[Node]:
        graph = block_until(self.program, block, after)
        given = {v: self.name_of(n, names) for n, v in graph.inputs.items()}
        inner = self.writer.within(graph, given, self.program.origins)
        inner.write(graph.outputs.values())
        names.update({n: inner.ref(v) for n, v in graph.outputs.items()})
        return inner.nodes

    def _choice(self, step: Choose, names: _Names, after: set[str]) -> list[Node]:
        """An If, or of several arms Ifs in each other."""
        wanted = self.lives.changed(step, after)
        if not wanted:
            return []
        own = self.name_of(step.slot, names)
        outside = self._outside()
        if step.by_number:
            own = outside.cast(own, self.program.slots[step.slot].type.dtype, _I64.dtype)
            found = self._numbered(step.arms, 0, own, outside, names, after, wanted)
        else:
            then, otherwise = (self._arm(self._arm_nodes(a, names, after), wanted) for a in step.arms)
            found = outside.node("If", [own], len(wanted), then_branch=then, else_branch=otherwise)
        names.update(zip(wanted, [found] if len(wanted) == 1 else found, strict=True))
        return outside.nodes

    def _numbered(
        self, arms: tuple[Sequence, ...], i: int, own: str, outside: Writer, names: _Names, after: set[str],
        wanted: list[str],
    ) -> Any:  # fmt: skip
        asked = outside.node("Equal", [own, outside.const(np.asarray(i, np.int64))])
        then = self._arm(self._arm_nodes(arms[i], names, after), wanted)
        if i + 2 == len(arms):
            otherwise = self._arm(self._arm_nodes(arms[i + 1], names, after), wanted)
        else:
            inner = self._outside()
            found = self._numbered(arms, i + 1, own, inner, names, after, wanted)
            renamed = {**names, **dict(zip(wanted, [found] if len(wanted) == 1 else found, strict=True))}
            otherwise = self._arm((inner.nodes, renamed), wanted)
        return outside.node("If", [asked], len(wanted), then_branch=then, else_branch=otherwise)

    def _arm_nodes(self, arm: Sequence, names: _Names, after: set[str]) -> tuple[list[Node], _Names]:
        own = dict(names)
        return self.sequence(arm, own, after), own

    def _arm(self, made: tuple[list[Node], _Names], wanted: Iterable[str]) -> Branch:
        nodes, names = made
        return self._graph(nodes, [(self.name_of(n, names), self.program.slots[n].type) for n in wanted], ())

    def _graph(
        self, nodes: list[Node], results: list[tuple[str, TensorType]], inputs: tuple[tuple[str, TensorType], ...]
    ) -> Branch:
        """A graph inside a node, which gives what it makes itself, each under a name of its own."""
        made = {n for node in nodes for n in node.outputs}
        outside, outputs = self._outside(), list[str]()
        for name, _ in results:
            is_own = name in made and name not in outputs
            outputs.append(name if is_own else outside.node("Identity", [name], fresh=True))
        whole = needed([*nodes, *outside.nodes], outputs, reads)
        return Branch(whole, tuple(outputs), tuple([t for _, t in results]), inputs)

    def _outside(self) -> Writer:
        """A writer of nodes that belong to no block."""
        return self.writer.within(Graph({}, {}), {}, {})

    def _loop(self, step: While, names: _Names, after: set[str]) -> list[Node]:
        """A Loop: what is asked first is written before it and at the end of its turns, unless there is much of it."""
        at_test = self.lives.at_test(step, after)
        twice = all(isinstance(s, Run) for s in step.before)
        nodes = self.sequence(step.before, names, at_test) if twice else []
        alive = at_test if twice else self.lives.before(step.before, at_test) | after
        changing = self.lives.written(step.before) | self.lives.written(step.body)
        carried = [n for n in self.program.slots if n in changing and n in alive]
        outside = self._outside()

        def asked(of: Writer, names: _Names) -> str:
            own = self.name_of(step.slot, names)
            return of.node("Not", [own]) if step.until else own

        going = asked(outside, names) if twice else outside.const(np.asarray(True))
        start = [self.name_of(n, names) for n in carried]
        own = dict(names)
        inputs = [(outside.named("/Loop/turn"), _I64), (outside.named("/Loop/going"), _BOOL)]
        for name in carried:
            own[name] = outside.named(f"/Loop/{name}")
            inputs.append((own[name], self.program.slots[name].type))
        inner = self._outside()
        if twice:
            body = self.sequence(step.body, own, self.lives.before(step.before, at_test))
            body += self.sequence(step.before, own, at_test)
            again = asked(inner, own)
        else:
            body = self.sequence(step.before, own, at_test)
            again = asked(inner, own)
            arms = ((), step.body) if step.until else (step.body, ())
            body += self._choice(Choose(step.slot, arms), own, alive)
        results = [(again, _BOOL), *[(self.name_of(n, own), self.program.slots[n].type) for n in carried]]
        graph = self._graph([*body, *inner.nodes], results, tuple(inputs))
        found = outside.node("Loop", ["", going, *start], max(len(carried), 1), body=graph)
        names.update(zip(carried, [found] if len(carried) < 2 else found, strict=False))
        return [*nodes, *outside.nodes]
