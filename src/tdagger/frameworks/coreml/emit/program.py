"""A program as an ML program: loops are ``while_loop``, branches ``cond``, whose blocks see what is around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tdagger.frameworks.coreml.emit.quantized import needed_opset, packed
from tdagger.frameworks.coreml.emit.target import row_of, target
from tdagger.frameworks.coreml.emit.writer import Inside, Op, Writer, reads
from tdagger.frameworks.coreml.exporter import Made, check_ends, check_states, finished, target_of
from tdagger.frameworks.writing import block_until, check_program, needed, with_weights
from tdagger.graph import Graph
from tdagger.ops.source import Input
from tdagger.program.lives import Lives
from tdagger.program.program import Program
from tdagger.program.simplify import at_end
from tdagger.program.structure import Choose, Run, Sequence, While, structured
from tdagger.program.whole import changed, joined
from tdagger.transform.legal import legalize
from tdagger.types import TensorType

_BOOL = TensorType((), "bool")
#: What slots are called, by their names.
_Names = dict[str, str]


def to_coreml(
    program: Program, path: str | Path | None = None, *, minimum_target: str | None = None, states: bool = False,
    metadata: bool = True,
) -> Any:  # fmt: skip
    """See :meth:`tdagger.program.program.Program.to_coreml`.

    UnsupportedError names all that can't be written, InputError weights that have no data.
    """
    least = 18 if states else needed_opset(joined(program).graph)
    opset, version = target_of(minimum_target or f"iOS{least}", path)
    with_weights(joined(program))
    check_program(program, "CoreML")
    found = structured(program)
    legal = changed(found.program, lambda dag: legalize(dag, target(opset)))
    return finished(_Emitter(legal, opset).made(found.whole, states), version, path, metadata)


class _Emitter:
    """Writes the ops of a program."""

    def __init__(self, program: Program, opset: int) -> None:
        self.program, self.opset, self.lives = program, opset, Lives(program)
        given = {n: Input(n, program.slots[n].type)() for n in program.inputs}
        self.given = given
        held = target(opset).held
        self.writer = Writer(Graph(given, given), row_of, program.origins, program.weights, held, opset, packed)

    def made(self, whole: Sequence, states: bool) -> Made:
        """The ops of the whole program; with ``states`` its buffers are states of the model."""
        program, writer = self.program, self.writer
        made = Made(program.name, self.opset, writer)
        buffers = {n: s.buffer for n, s in program.slots.items() if s.buffer}
        results = {n: n for n in dict.fromkeys(program.outputs)}
        changing = [n for n in buffers if n in self.lives.written(whole)]
        if states:
            check_states(program.name, self.opset, [buffers[n] for n in changing], program.weights)
        kept = {buffers[n]: n for n in changing} if states else {}
        results |= {} if states else {f"{buffers[n]}.updated": n for n in changing}
        values = {told: Input(n, program.slots[n].type)() for told, n in (results | kept).items()}
        check_ends(program.name, self.opset, self.given, {told: values[told] for told in results})
        ends = made.begin(self.given, results)
        names: _Names = {n: writer.found[v] for n, v in self.given.items()}
        for n, buffer in buffers.items():
            if buffer in kept:
                names[n] = made.state(buffer, program.slots[n].type)
            else:
                names[n] = writer.const(np.asarray(program.weights[buffer]), name="state")
        ops = [*writer.ops, *self.sequence(whole, names, at_end(program))]
        for told, n in (results | kept).items():
            writer.found[values[told]] = self.name_of(n, names)
        made.end(ops, {ends[told]: values[told] for told in results}, {b: values[b] for b in kept})
        return made

    def name_of(self, slot: str, names: Mapping[str, str]) -> str:
        """What a slot is called; zeros if nothing was written to it yet."""
        own = names.get(slot)
        if own is not None:
            return own
        kind = self.type(slot)
        return self.writer.const(np.zeros(kind.shape, kind.dtype.numpy))

    def type(self, slot: str) -> TensorType:
        """The type of a slot as the file has it."""
        return self.writer.type(self.program.slots[slot].type)

    def sequence(self, steps: Sequence, names: _Names, after: set[str]) -> list[Op]:
        """The ops of some steps, after which some slots are read; ``names`` become what slots are called then."""
        ops: list[Op] = []
        for step, wanted in zip(steps, self.lives.after_each(steps, after), strict=True):
            if isinstance(step, Run):
                ops += self._run(step.block, names, wanted)
            elif isinstance(step, Choose):
                ops += self._choice(step, names, wanted)
            elif isinstance(step, While):
                ops += self._loop(step, names, wanted)
            else:
                raise AssertionError(f"{step.message}: raising blocks are refused before")
        return ops

    def _run(self, block: str, names: _Names, after: set[str]) -> list[Op]:
        graph = block_until(self.program, block, after)
        inner = self.writer.within(graph, {v: self.name_of(n, names) for n, v in graph.inputs.items()})
        inner.write(graph.outputs.values())
        names.update({n: inner.ref(v) for n, v in graph.outputs.items()})
        return inner.ops

    def _outside(self) -> Writer:
        """A writer of ops that belong to no block."""
        return self.writer.within(Graph({}, {}), {})

    def _inside(
        self, ops: list[Op], results: list[tuple[str, TensorType]], inputs: tuple[tuple[str, TensorType], ...] = ()
    ) -> Inside:
        """A block that gives what it makes itself, each result under a name of its own."""
        made = {n for op in ops for n in op.outputs}
        more, outputs = list[Op](), list[str]()
        for name, type_ in results:
            if name in made and name not in outputs:
                outputs.append(name)
                continue
            outside = self._outside()  # one that makes the op anew
            outputs.append(outside.op("identity", type_, x=name))
            more += outside.ops
        whole = needed([*ops, *more], outputs, reads)
        return Inside(inputs, tuple(whole), tuple(outputs))

    def _results(self, slots: list[str], names: Mapping[str, str]) -> list[tuple[str, TensorType]]:
        return [(self.name_of(n, names), self.type(n)) for n in slots]

    def _choice(self, step: Choose, names: _Names, after: set[str]) -> list[Op]:
        """A cond, or of several arms conds in each other."""
        wanted = self.lives.changed(step, after)
        if not wanted:
            return []
        outside = self._outside()
        own = self.name_of(step.slot, names)
        if step.by_number:
            found = self._numbered(step, 0, own, outside, names, after, wanted)
        else:
            found = self._cond(own, [self._arm(a, names, after, wanted) for a in step.arms], outside, wanted)
        names.update(zip(wanted, found, strict=True))
        return outside.ops

    def _cond(self, asked: str, blocks: list[Inside], outside: Writer, wanted: list[str]) -> tuple[str, ...]:
        return outside.with_blocks("cond", [self.type(n) for n in wanted], blocks, pred=asked)

    def _arm(self, arm: Sequence, names: _Names, after: set[str], wanted: list[str]) -> Inside:
        own = dict(names)
        return self._inside(self.sequence(arm, own, after), self._results(wanted, own))

    def _numbered(
        self, step: Choose, i: int, own: str, outside: Writer, names: _Names, after: set[str], wanted: list[str]
    ) -> tuple[str, ...]:
        number = outside.number(i, self.program.slots[step.slot].type.dtype)
        asked = outside.op("equal", _BOOL, x=own, y=number)
        then = self._arm(step.arms[i], names, after, wanted)
        if i + 2 == len(step.arms):
            otherwise = self._arm(step.arms[i + 1], names, after, wanted)
        else:
            inner = self._outside()
            found = self._numbered(step, i + 1, own, inner, names, after, wanted)
            renamed = {**names, **dict(zip(wanted, found, strict=True))}
            otherwise = self._inside(inner.ops, self._results(wanted, renamed))
        return self._cond(asked, [then, otherwise], outside, wanted)

    def _loop(self, step: While, names: _Names, after: set[str]) -> list[Op]:
        """A while_loop over whether it goes on and what its turns change.

        What is asked first is written before it and at the end of its turns, unless there is control flow in it.
        """
        at_test = self.lives.at_test(step, after)
        twice = all(isinstance(b, Run) for b in step.before)
        ops = self.sequence(step.before, names, at_test) if twice else []
        alive = at_test if twice else self.lives.before(step.before, at_test) | after
        changing = self.lives.written(step.before) | self.lives.written(step.body)
        carried = [n for n in self.program.slots if n in changing and n in alive]
        outside = self._outside()

        def asked(of: Writer, names: _Names) -> str:
            own = self.name_of(step.slot, names)
            return of.op("logical_not", _BOOL, x=own) if step.until else own

        going = asked(outside, names) if twice else outside.flag(True)
        start = (going, *[self.name_of(n, names) for n in carried])

        def inputs(what: str) -> tuple[tuple[str, TensorType], ...]:
            types = [("going", _BOOL), *[(n, self.type(n)) for n in carried]]
            return tuple([(self.writer.names.new(f"{what}_{n}"), t) for n, t in types])

        before, inside = inputs("cond"), inputs("body")
        own = dict(names) | {n: name for n, (name, _) in zip(carried, inside[1:], strict=True)}
        inner = self._outside()
        if twice:
            body = self.sequence(step.body, own, self.lives.before(step.before, at_test))
            body += self.sequence(step.before, own, at_test)
            again = asked(inner, own)
            body += inner.ops
        else:
            body = self.sequence(step.before, own, at_test)
            again = asked(inner, own)
            body += inner.ops
            arms = ((), step.body) if step.until else (step.body, ())
            body += self._choice(Choose(step.slot, arms), own, alive)
        test = self._inside([], [(before[0][0], _BOOL)], before)
        turn = self._inside(body, [(again, _BOOL), *self._results(carried, own)], inside)
        types = [_BOOL, *[self.type(n) for n in carried]]
        found = outside.with_blocks("while_loop", types, [test, turn], loop_vars=start)
        names.update(zip(carried, found[1:], strict=True))
        return [*ops, *outside.ops]
