"""Guesses of recurrent networks: their bodies are unrolled, and one step of each layer says what the whole takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tdagger.composite import composites
from tdagger.op import Value
from tdagger.ops.structure import Concat, Permute, Slice, unsqueeze
from tdagger.transform.raising.bodies import composite_of, core_body, matched
from tdagger.transform.raising.cone import Cone, Guess, Guesses
from tdagger.transform.raising.products import linear
from tdagger.types import Shape, TensorType

#: The networks, with the gates of a cell, the kinds of states, and attributes that nothing but the cell says.
_NETWORKS: tuple[tuple[str, int, int, dict[str, str]], ...] = (
    ("lstm", 4, 2, {}),
    ("gru", 3, 1, {}),
    ("rnn", 1, 1, {"nonlinearity": "tanh"}),
    ("rnn", 1, 1, {"nonlinearity": "relu"}),
)


class _Step(NamedTuple):
    """What a step says of its layer: all steps' inputs of its gates ``[t b gates]``, and what they are linear in."""

    gates: Value
    x: Value
    biases: bool


class _Size(NamedTuple):
    """How many layers and directions there are, and how long states are."""

    layers: int
    directions: int
    state: int


def recurrent(cone: Cone) -> Guesses:
    """Guesses of LSTM, GRU and RNN at the outputs of all steps, or at the last states of all layers.

    Guesses are made from a first or a last step only, so a loop that is none of them costs a look at each step.
    """
    value = cone.value
    if not value.rank:
        return
    batch_first = isinstance(value.op, Permute) and value.op.order == (*range(1, value.rank - 1), 0, value.rank - 1)
    outputs = value.args[0] if batch_first else value
    ways = _ways(outputs)
    state = outputs.shape[-1] // max(len(ways), 1)
    for step in _steps(ways[0], first=True) if ways else ():
        for total in _totals(ways[0], step, state):
            size = _Size(total // len(ways), len(ways), state)
            if total == size.layers * size.directions:
                yield from _network(step, size, batch_first, 0)
    if batch_first:
        return
    last = _entries(value)
    for directions in (1, 2) if last else ():
        for step in _steps(last[-1], first=directions == 2) if len(last) % directions == 0 else ():
            size = _Size(len(last) // directions, directions, value.shape[-1])
            for result in (1, 2):
                yield from _network(step, size, True, result)
                yield from _network(step, size, False, result)


def _network(step: _Step, size: _Size, batch_first: bool, result: int) -> Guesses:
    """The networks that have this step in the last layer."""
    x: Value | None = step.x
    for _ in range(size.layers - 1):
        ways = _ways(x)
        x = next((s.x for s in _steps(ways[0], first=True)), None) if ways else None
        if x is None:
            return
    if batch_first and not isinstance(x.op, Permute):
        return
    time, *batch, width = x.shape
    gates = step.gates.shape[-1]
    for name, count, states, more in _NETWORKS:
        hidden = gates // count
        if gates % count or result > states or not (hidden == size.state or (hidden > size.state and name == "lstm")):
            continue
        layers, directions, out = size
        shapes: list[Shape] = [(*batch, time, width) if batch_first else (time, *batch, width)]
        shapes += [(layers * directions, *batch, n) for n in (out, hidden)[:states]]
        for layer in range(layers):
            own = [(gates, out * directions if layer else width), (gates, out), *[(gates,)] * (2 * step.biases)]
            shapes += [*own, *[(out, hidden)] * (hidden != out)] * directions
        both = directions == 2
        attributes = dict(layers=layers, bidirectional=both, batch_first=batch_first, biases=step.biases, **more)
        yield Guess(composites[name], tuple([TensorType(s, x.dtype) for s in shapes]), attributes, (), result)


def _entries(value: Value) -> list[Value]:
    """What a value has one after the other along a new first axis: states; none if it is anything else."""
    parts = value.args if isinstance(value.op, Concat) and value.op.axis == 0 else (value,)
    ends = [p.args[0] for p in (parts[0], parts[-1]) if p.args and p.rank > 1]
    if len(ends) < 2 or any(unsqueeze(e, (0,)) is not p for e, p in zip(ends, (parts[0], parts[-1]), strict=True)):
        return []
    return [p.args[0] for p in parts]


def _ways(outputs: Value) -> list[Value]:
    """The first states of the directions of a layer with these outputs of all steps; none if it is anything else."""
    two = isinstance(outputs.op, Concat) and outputs.op.axis == outputs.rank - 1 and len(outputs.args) == 2
    each = [_entries(way) for way in (outputs.args if two else (outputs,))]
    return [states[0] for states in each] if all(each) else []


def _entry(value: Value) -> int | None:
    """Which one entry of the first axis a slice is."""
    if not isinstance(value.op, Slice):
        return None
    first, *rest = value.op.bounds
    return first[0] if first is not None and first[1:] == (first[0] + 1, 1) and not any(rest) else None


def _steps(state: Value, first: bool) -> Iterator[_Step]:
    """What the first or the last step in time says, by a state after it."""
    for v in Cone(state).ops(Slice, 12):
        gates = v.args[0]
        if _entry(v) == (0 if first else gates.shape[0] - 1):
            for guess in linear(Cone(gates)):
                op = composite_of(guess)
                body = core_body(op, guess.types) if op is not None else None
                args = matched(body, gates) if body is not None else None
                if args is not None:
                    yield _Step(gates, args[0], len(args) == 3)
                    break


def _totals(state: Value, step: _Step, size: int) -> list[int]:
    """How many layers and directions the initial states may be for, by the first step of the last layer."""
    wanted = (*step.gates.shape[1:-1], size)
    found = [v.args[0] for v in Cone(state).ops(Slice, 12) if _entry(v) is not None and v.args[0] is not step.gates]
    return list(dict.fromkeys(v.shape[0] for v in found if v.shape[1:] == wanted))
