"""State that only tells the first run from all others, worked out: what remains is what every run does.

A script keeps numbers (which kind an attribute is of, the last sample rate) to know whether it has begun. Where all
runs after the first find the same numbers, and the first run does what they do with zeros as state, the numbers are no
state. That it does is found on graphs: both are the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tdagger.graph import Graph, topological
from tdagger.network import Signature, Weights, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Input, const
from tdagger.ops.structure import broadcast_to
from tdagger.program import simplify
from tdagger.program.parts import Goto
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.simplify import block_of, simplified
from tdagger.program.structure import nothing

#: So many runs may pass until the numbers stay.
_RUNS = 4


def specialized(program: Program, values: Mapping[str, Any]) -> Program:
    """See :meth:`tdagger.program.program.Program.specialize`."""
    return settled(simplify.specialized(program, values))


def settled(program: Program) -> Program:
    """The program whose state has no numbers that are the same after each run; as it is, if that can't be shown."""
    numbers = [n for n, s in program.slots.items() if s.buffer and not s.type.rank and not s.type.dtype.is_float]
    if not numbers or any(s.buffer and s.buffer not in program.weights for s in program.slots.values()):
        return program
    begin: dict[str, Value] = {n: const(np.asarray(_begins(program, n)), program.slots[n].type.dtype) for n in numbers}
    known, first = begin, None
    for _ in range(_RUNS):
        run = _given(program, known, numbers)
        if len(run.blocks) != 1:
            return program
        first = run if first is None else first
        (block,) = run.blocks.values()
        after = {n: block.graph.outputs.get(n, known[n]) for n in numbers}
        if after == known:
            return _from_zeros(program, known, first, run is first)
        if not all(isinstance(v.op, Const) for v in after.values()):
            return program
        if known is not begin:
            return program  # two runs that are unlike others
        known = after
    return program


def _begins(program: Program, slot: str) -> Array:
    return program.weights[program.slots[slot].buffer]


def _given(program: Program, known: Mapping[str, Value], kept: Sequence[str]) -> Program:
    """The program for known numbers as state, which it gives besides what it gives if they are ``kept``."""
    name = named("given", {*program.blocks})
    slots = {n: s._replace(buffer="") if n in known else s for n, s in program.slots.items()}
    outputs = (*program.outputs, *[n for n in kept if n not in program.outputs])
    signature = Signature(program.called.inputs, plain_signature(0, len(outputs)).outputs)
    blocks = {name: block_of(known, Goto(program.entry), name, []), **program.blocks}
    return simplified(
        replace(program, slots=slots, blocks=blocks, outputs=outputs, signature=signature if kept else program.called)
    )


def _from_zeros(program: Program, known: Mapping[str, Value], first: Program, at_once: bool) -> Program:
    """What every run does from the second on, beginning with zeros, if the first does that too."""
    steady = _given(program, known, ())
    (block,) = steady.blocks.values()
    state = {n: s for n, s in steady.slots.items() if s.buffer}
    unread = [n for n in state if n not in block.graph.inputs and n not in program.outputs]
    slots = {n: s._replace(buffer="") if n in unread else s for n, s in steady.slots.items()}
    left = {s.buffer for s in slots.values() if s.buffer}
    gone = {s.buffer for s in program.slots.values() if s.buffer} - left
    weights: dict[str, Array] = {}
    if not at_once:
        (other,) = first.blocks.values()
        kept = [n for n in state if n not in unread]
        zeros = {n: nothing(state[n].type) for n in kept}
        ours = _plain(block.graph, zeros)
        theirs = _plain(other.graph, zeros)
        for name in (*program.outputs, *kept):
            if name in program.inputs:
                continue
            mine, its = (g.get(name, zeros.get(name)) for g in (ours, theirs))
            if mine is not its or any(n in other.graph.inputs for n in kept):
                return program
        weights = {state[n].buffer: np.zeros(state[n].type.shape, state[n].type.dtype.numpy) for n in kept}
    return simplified(
        replace(
            steady, slots=slots, state={n: w for n, w in program.state.items() if n not in gone},
            weights=_with(program.weights, weights),
        )
    )  # fmt: skip


def _with(weights: Mapping[str, Array], new: Mapping[str, Array]) -> Mapping[str, Array]:
    """Weights of which some are others."""
    if not new:
        return weights
    return Weights.of(weights, {n: n for n in weights}) | Weights.of(new, {n: n for n in new})


#: Ops that give the entries of what they are given, in another order or more often.
_MOVES = frozenset({"permute", "group", "ungroup", "slice", "repeat", "reshape", "broadcast_to", "concat"})


def _plain(graph: Graph, given: Mapping[str, Value]) -> dict[str, Value]:
    """What a graph gives for known slots; what is one number everywhere, as that in one form."""
    new: dict[Value, Value] = {}
    same: dict[Value, float] = {}

    def put(old: Value, value: Value, number: float | None) -> None:
        if number is not None:
            value = broadcast_to(const(number, value.dtype), value.shape)
            same[value] = number
        new[old] = value

    for value in topological(graph.outputs.values()):
        if isinstance(value.op, Input) and value.op.leaf in given:
            put(value, value, 0.0)
        elif isinstance(value.op, Const):
            data = value.op.run()
            alike = data.size > 0 and bool((data == data.flat[0]).all())
            put(value, value, data.flat[0].item() if alike else None)
        else:
            args = [new[a] for a in value.args]
            numbers = {same.get(a) for a in args}
            moved = bool(args) and value.op.name in _MOVES and len(numbers) == 1
            put(value, value.op(*args), numbers.pop() if moved else None)
    return {n: new[v] for n, v in graph.outputs.items()}
