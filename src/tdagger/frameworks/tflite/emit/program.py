"""A program as TFLite: loops are WHILE, branches IF, whose subgraphs take all that they read; state is in variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.emit.kernels import in_integers
from tdagger.frameworks.tflite.emit.save import Signature, serialized, write
from tdagger.frameworks.tflite.emit.share import share
from tdagger.frameworks.tflite.emit.writer import Operator, Part, Writer, compacted
from tdagger.frameworks.tflite.exporter import ROWS, legalized
from tdagger.frameworks.writing import block_until, check_program, with_weights
from tdagger.graph import Graph
from tdagger.names import untaken
from tdagger.program.lives import Lives
from tdagger.program.program import Program
from tdagger.program.simplify import at_end
from tdagger.program.structure import Choose, Run, While, structured
from tdagger.program.structure import Sequence as Steps
from tdagger.program.whole import changed, joined
from tdagger.transform.legal import unsupported
from tdagger.types import TensorType

_BOOL = TensorType((), "bool")
#: Slots to the tensors that hold them, in the subgraph that is written.
_Names = dict[str, int]


def to_tflite(program: Program, path: str | Path | None = None) -> bytes | None:
    """See :meth:`tdagger.program.program.Program.to_tflite`.

    UnsupportedError names all that can't be written, InputError weights that have no data.
    """
    with_weights(joined(program))
    check_program(program, "TFLite")
    found = structured(program)
    emitter = _Emitter(changed(found.program, legalized))
    signature = emitter.main(found.whole)
    name = program.name or "program"
    if path is None:
        return serialized(emitter.parts, signature, name)
    write(emitter.parts, signature, Path(path), name)
    return None


class _Emitter:
    """The subgraphs of a program; the first is called."""

    def __init__(self, program: Program) -> None:
        self.program, self.lives = program, Lives(program)
        self.parts: list[Part] = []
        self.problems: list[Any] = []

    def main(self, whole: Steps) -> Signature:
        """Write all subgraphs; how the first is called."""
        program = self.program
        buffers = {n: slot.buffer for n, slot in program.slots.items() if slot.buffer}
        changing = [n for n in buffers if n in self.lives.written(whole)]
        self.parts.append(Part(name="main"))
        first = self._begins(buffers, changing) if changing else -1
        writer, names = self._writer(self.parts[0], program.inputs)
        inputs = dict(names)
        if first >= 0:
            made: Any = s.CallOnceOptionsT()
            made.initSubgraphIndex = first
            writer.part.operators.append(Operator("CALL_ONCE", [], [], made))
        handles = {n: self._handle(writer, buffers[n]) for n in changing}
        for n, buffer in buffers.items():
            type_ = program.slots[n].type
            if n in handles:
                names[n] = writer.op("READ_VARIABLE", [handles[n]], type_, s.ReadVariableOptionsT())
            else:
                names[n] = writer.new(buffer, type_, self._weight(buffer))
        self.sequence(whole, writer, names, at_end(program))
        outputs: dict[str, int] = {}
        for n in program.outputs:
            own = untaken(n, outputs, program.inputs)
            outputs[own] = self._own(writer, self.name_of(n, writer, names), program.slots[n].type, outputs.values())
        for n in changing:
            made = s.AssignVariableOptionsT()
            writer.part.operators.append(Operator("ASSIGN_VARIABLE", [handles[n], names[n]], [], made))
        if self.problems:
            raise unsupported(program.name, "TFLite", self.problems, "written")
        number = _finished(writer, inputs, outputs)
        return Signature(
            "serving_default", {n: number[i] for n, i in inputs.items()}, {n: number[i] for n, i in outputs.items()}
        )

    # State.

    def _weight(self, name: str) -> Callable[[], Any]:
        return lambda: np.asarray(self.program.weights[name])

    def _handle(self, writer: Writer, buffer: str) -> int:
        """The variable of a buffer, by its name."""
        options: Any = s.VarHandleOptionsT()
        options.container, options.sharedName = "", buffer
        out = writer.new(f"{buffer}.handle", TensorType((), "i32"), kind=s.TensorType.RESOURCE)
        writer.part.operators.append(Operator("VAR_HANDLE", [], [out], options))
        return out

    def _begins(self, buffers: Mapping[str, str], changing: Sequence[str]) -> int:
        """The subgraph that is run once: it says what variables begin as."""
        index = len(self.parts)
        self.parts.append(Part(name="begin"))
        writer, _ = self._writer(self.parts[index], ())
        for n in changing:
            own = buffers[n]
            data = writer.new(f"{own}.begin", self.program.slots[n].type, self._weight(own))
            inputs = [self._handle(writer, own), data]
            writer.part.operators.append(Operator("ASSIGN_VARIABLE", inputs, [], s.AssignVariableOptionsT()))
        compacted(writer.part, {}, {})
        return index

    # Subgraphs.

    def _writer(self, part: Part, slots: Sequence[str]) -> tuple[Writer, _Names]:
        """A writer of a subgraph, with the tensors of the slots that it takes."""
        writer = Writer(Graph({}, {}), ROWS, self.program.origins, self.program.weights)
        writer.part, writer.problems, writer.parts = part, self.problems, self.parts
        return writer, {n: writer.new(n, self.program.slots[n].type) for n in slots}

    def _subgraph(self, name: str, slots: Sequence[str], body: Callable[[Writer, _Names], list[int]]) -> int:
        """A subgraph that takes slots and gives what ``body`` writes."""
        index = len(self.parts)
        part = Part(name=name)
        self.parts.append(part)
        writer, names = self._writer(part, slots)
        inputs = dict(names)
        results = body(writer, names)
        outputs = {f"{name}_{i}": n for i, n in enumerate(results) if n not in inputs.values()}
        number = _finished(writer, inputs, outputs)
        part.outputs = [number[n] for n in results]
        return index

    def _own(self, writer: Writer, number: int, type_: TensorType, taken: Any) -> int:
        """A tensor of its own with a result: not a constant, what the subgraph takes, or another result."""
        made = {n for o in writer.part.operators for n in o.outputs}
        return writer.copied(number, type_) if number not in made or number in taken else number

    # What is done one after the other.

    def name_of(self, slot: str, writer: Writer, names: Mapping[str, int]) -> int:
        """The tensor of a slot; zeros if nothing was written to it yet."""
        own = names.get(slot)
        if own is not None:
            return own
        kind = self.program.slots[slot].type
        return writer.constant(np.zeros(kind.shape, kind.dtype.numpy))

    def sequence(self, steps: Steps, writer: Writer, names: _Names, after: set[str]) -> None:
        """Write some steps, after which some slots are read; ``names`` become the tensors of slots then."""
        for step, wanted in zip(steps, self.lives.after_each(steps, after), strict=True):
            if isinstance(step, Run):
                self._run(step.block, writer, names, wanted)
            elif isinstance(step, Choose):
                self._choice(step, writer, names, wanted)
            elif isinstance(step, While):
                self._loop(step, writer, names, wanted)
            else:
                raise AssertionError(f"{step.message}: raising blocks are refused before")

    def _run(self, block: str, writer: Writer, names: _Names, after: set[str]) -> None:
        graph = block_until(self.program, block, after)
        inner = writer.within(graph, {v: self.name_of(n, writer, names) for n, v in graph.inputs.items()})
        inner.write(graph.outputs.values())
        names.update({n: inner.ref(v) for n, v in graph.outputs.items()})

    def _choice(self, step: Choose, writer: Writer, names: _Names, after: set[str]) -> None:
        """An IF, or of several arms IFs in each other."""
        wanted = self.lives.changed(step, after)
        if not wanted:
            return
        asked = self.name_of(step.slot, writer, names)
        if not step.by_number:
            found = self._if(asked, [self._arm(a, after, wanted) for a in step.arms], step.arms, writer, names, wanted)
        else:
            found = self._numbered(step, 0, asked, writer, names, after, wanted)
        names.update(zip(wanted, found, strict=True))

    def _arm(self, arm: Steps, after: set[str], wanted: list[str]) -> Callable[[Writer, _Names], list[int]]:
        def body(writer: Writer, names: _Names) -> list[int]:
            self.sequence(arm, writer, names, after)
            return self._results(writer, names, wanted)

        return body

    def _results(self, writer: Writer, names: _Names, wanted: Sequence[str]) -> list[int]:
        found: list[int] = []
        for n in wanted:
            found.append(self._own(writer, self.name_of(n, writer, names), self.program.slots[n].type, found))
        return found

    def _if(
        self, asked: int, arms: Sequence[Callable[[Writer, _Names], list[int]]], steps: Sequence[Steps], writer: Writer,
        names: _Names, wanted: Sequence[str], also: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        """An IF; both subgraphs take all that either reads, and what stays as it is in one."""
        reads = {*also, *wanted}.union(*[self.lives.reads(a) for a in steps])
        taken = [n for n in self.program.slots if n in reads and n in names]
        options: Any = s.IfOptionsT()
        options.thenSubgraphIndex = self._subgraph("then", taken, arms[0])
        options.elseSubgraphIndex = self._subgraph("else", taken, arms[1])
        types = [self.program.slots[n].type for n in wanted]
        return writer.op("IF", [asked, *[names[n] for n in taken]], types, options)

    def _numbered(
        self, step: Choose, i: int, asked: int, writer: Writer, names: _Names, after: set[str], wanted: list[str]
    ) -> list[int]:
        type_ = self.program.slots[step.slot].type
        number = writer.constant(np.asarray(i, type_.dtype.numpy))
        here = writer.op("EQUAL", [asked, number], _BOOL, s.EqualOptionsT(), version=2)
        rest = list(step.arms[i + 1 :])

        def numbered(writer: Writer, names: _Names) -> list[int]:
            own = self.name_of(step.slot, writer, names)
            return self._numbered(step, i + 1, own, writer, names, after, wanted)

        otherwise = numbered if len(rest) > 1 else self._arm(rest[0], after, wanted)
        arms = [self._arm(step.arms[i], after, wanted), otherwise]
        return self._if(here, arms, step.arms[i:], writer, names, wanted, [step.slot])

    def _loop(self, step: While, writer: Writer, names: _Names, after: set[str]) -> None:
        """A WHILE over whether it goes on, what changes, and what its turns read.

        What is asked first is written before it and at the end of its turns, unless there is control flow in it.
        """
        at_test = self.lives.at_test(step, after)
        twice = all(isinstance(b, Run) for b in step.before)
        if twice:
            self.sequence(step.before, writer, names, at_test)
        alive = at_test if twice else self.lives.before(step.before, at_test) | after
        changing = self.lives.written(step.before) | self.lives.written(step.body)
        carried = [n for n in self.program.slots if n in changing and n in alive]
        reads = self.lives.reads((*step.before, *step.body)) | {step.slot}
        read = [n for n in self.program.slots if n in reads and n not in changing and n in names]

        def going(writer: Writer, names: _Names) -> int:
            own = self.name_of(step.slot, writer, names)
            return writer.op("LOGICAL_NOT", [own], _BOOL, s.LogicalNotOptionsT()) if step.until else own

        def body(writer: Writer, names: _Names) -> list[int]:
            if twice:
                self.sequence(step.body, writer, names, self.lives.before(step.before, at_test))
                self.sequence(step.before, writer, names, at_test)
                again = going(writer, names)
            else:
                self.sequence(step.before, writer, names, at_test)
                again = going(writer, names)
                arms = ((), step.body) if step.until else (step.body, ())
                self._choice(Choose(step.slot, arms), writer, names, alive)
            found = [self._own(writer, again, _BOOL, ())]
            for n in carried:
                found.append(self._own(writer, self.name_of(n, writer, names), self.program.slots[n].type, found))
            return [*found, *[names[n] for n in read]]

        start = going(writer, names) if twice else writer.constant(np.asarray(True))
        inputs = [start, *[self.name_of(n, writer, names) for n in carried], *[names[n] for n in read]]
        options: Any = s.WhileOptionsT()
        options.condSubgraphIndex = self._turn("cond", [*carried, *read], lambda w, _, go: [w.op(
            "LOGICAL_AND", [go, go], _BOOL, s.LogicalAndOptionsT())])  # fmt: skip
        options.bodySubgraphIndex = self._turn("body", [*carried, *read], lambda w, own, _: body(w, own))
        types = [_BOOL, *[self.program.slots[n].type for n in (*carried, *read)]]
        found = writer.op("WHILE", inputs, types, options)
        names.update(zip(carried, found[1:], strict=False))

    def _turn(self, name: str, slots: Sequence[str], body: Callable[[Writer, _Names, int], list[int]]) -> int:
        """A subgraph of a loop, which takes besides slots whether it goes on."""
        index = len(self.parts)
        part = Part(name=name)
        self.parts.append(part)
        writer, _ = self._writer(part, ())
        go = writer.new("going", _BOOL)
        names = {n: writer.new(n, self.program.slots[n].type) for n in slots}
        inputs = {"going": go, **names}
        results = body(writer, dict(names), go)
        outputs = {f"{name}_{i}": n for i, n in enumerate(results) if n not in inputs.values()}
        number = _finished(writer, inputs, outputs)
        part.outputs = [number[n] for n in results]
        return index


def _finished(writer: Writer, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> dict[int, int]:
    """Leave out what nothing needs of a subgraph that is written, and compute in integers what they are read for."""
    in_integers(writer, outputs.values())
    share(writer.part, outputs.values())
    return compacted(writer.part, inputs, outputs)
