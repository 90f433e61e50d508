"""LSTM, GRU and RNN as TFLite: steps that are written out, so many at a time as the body of a WHILE.

The fused kernels (UNIDIRECTIONAL_SEQUENCE_LSTM) keep their state from run to run, where a network begins each run as it
is told. A WHILE copies all that it carries in each turn, so a turn has several steps, more of them the more there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.frameworks.tflite.emit.composites import Fields, composite
from tdagger.frameworks.tflite.emit.core import I32, options
from tdagger.frameworks.tflite.emit.kernels import in_integers
from tdagger.frameworks.tflite.emit.writer import Row, Writer, compacted
from tdagger.frameworks.writing import unbroadcast
from tdagger.library import reshape
from tdagger.op import Value
from tdagger.ops import structure
from tdagger.types import TensorType, bool_

#: What one step does: what x and what the state add to the gates, the states before -> the states after.
Cell = Callable[[Writer, int, int, Sequence[int], TensorType], list[int]]

#: A turn of a loop has at least so many steps; so many are written out without one.
_STEPS = 16


def steps_of(count: int) -> int:
    """How many of ``count`` steps are in a turn: the fewest to be written with those that are left over.

    >>> [(n, steps_of(n), n % steps_of(n)) for n in (5, 32, 100, 199, 1000)]
    [(5, 5, 0), (32, 16, 0), (100, 20, 0), (199, 22, 1), (1000, 50, 0)]
    """
    least = max(_STEPS, math.isqrt(2 * count))
    return min(range(least, 2 * least), key=lambda k: (k + count % k, -k)) if count > least else count


# --- one step ----------------------------------------------------------------------------------------------


def _parts(w: Writer, number: int, sizes: Sequence[int], state: TensorType) -> list[int]:
    """A tensor ``[b gates]`` in parts of some numbers of gates."""
    batch, hidden = state.shape
    types = [state.with_shape((batch, n * hidden)) for n in sizes]
    if len({*sizes}) == 1:
        return w.op("SPLIT", [w.constant(np.int32(1)), number], types, options("Split", numSplits=len(sizes)))
    lengths = w.ints([n * hidden for n in sizes])
    return w.op("SPLIT_V", [number, lengths, w.constant(np.int32(1))], types, options("SplitV", numSplits=len(sizes)))


def _two(w: Writer, op: str, x: int, y: int, type_: TensorType) -> int:
    return w.op(op, [x, y], type_, options(op.capitalize()))


def _lstm(w: Writer, x: int, h: int, states: Sequence[int], state: TensorType) -> list[int]:
    gates = _two(w, "ADD", x, h, state.with_shape((state.shape[0], 4 * state.shape[1])))
    i, f, g, o = _parts(w, gates, (1, 1, 1, 1), state)
    into, forget, out = (w.op("LOGISTIC", [n], state) for n in (i, f, o))
    kept = _two(w, "MUL", forget, states[1], state)
    c = _two(w, "ADD", kept, _two(w, "MUL", into, w.op("TANH", [g], state), state), state)
    return [_two(w, "MUL", out, w.op("TANH", [c], state), state), c]


def _gru(w: Writer, x: int, h: int, states: Sequence[int], state: TensorType) -> list[int]:
    (x_gates, x_new), (h_gates, h_new) = (_parts(w, n, (2, 1), state) for n in (x, h))
    both = state.with_shape((state.shape[0], 2 * state.shape[1]))
    gates = w.op("LOGISTIC", [_two(w, "ADD", x_gates, h_gates, both)], both)
    reset, keep = _parts(w, gates, (1, 1), state)
    new = w.op("TANH", [_two(w, "ADD", x_new, _two(w, "MUL", reset, h_new, state), state)], state)
    less = _two(w, "SUB", states[0], new, state)
    return [_two(w, "ADD", new, _two(w, "MUL", keep, less, state), state)]


def _rnn(function: str) -> Cell:
    def cell(w: Writer, x: int, h: int, states: Sequence[int], state: TensorType) -> list[int]:
        return [w.op(function, [_two(w, "ADD", x, h, state)], state)]

    return cell


# --- a layer in one direction ------------------------------------------------------------------------------


class _Way(NamedTuple):
    """A layer in one direction: its cell, weights (matrices, biases, a projection) and the types of its states."""

    cell: Cell
    matrices: tuple[Value, Value]
    biases: tuple[Value | None, Value | None]
    projection: Value | None
    states: tuple[TensorType, ...]
    reverse: bool

    @property
    def weights(self) -> tuple[Value, ...]:
        """All of them that there are."""
        return tuple([v for v in (*self.matrices, *self.biases, self.projection) if v is not None])

    def steps(self, w: Writer, x: int, states: Sequence[int], x_type: TensorType) -> tuple[int, list[int]]:
        """Some steps of ``[t b i]``, written out: the states of all of them in order, and the last ones."""
        count, batch, _ = x_type.shape
        gates = x_type.with_shape((batch, self.matrices[0].shape[0]))
        x = _layer(w, x, self.matrices[0], self.biases[0], x_type.with_shape((count, *gates.shape)))
        each = w.op("UNPACK", [x], [gates] * count, options("Unpack", num=count, axis=0))
        outputs: list[int] = []
        now = list(states)
        for t in range(count)[:: -1 if self.reverse else 1]:
            h = _layer(w, now[0], self.matrices[1], self.biases[1], gates)
            now = self.cell(w, each[t], h, now, self.inner)
            if self.projection is not None:
                now[0] = _layer(w, now[0], self.projection, None, self.states[0])
            outputs.append(now[0])
        packed = options("Pack", valuesCount=count, axis=0)
        kind = self.states[0].with_shape((count, *self.states[0].shape))
        return w.op("PACK", outputs[:: -1 if self.reverse else 1], kind, packed), now

    @property
    def inner(self) -> TensorType:
        """What a gate is: the last of the states, the first of which may be projected."""
        return self.states[-1]


def _layer(w: Writer, x: int, weight: Value, bias: Value | None, type_: TensorType) -> int:
    inputs = [x, w.ref(weight), -1 if bias is None else w.ref(bias)]
    return w.op("FULLY_CONNECTED", inputs, type_, options("FullyConnected", keepNumDims=True), version=5)


def _over(w: Writer, way: _Way, x: int, states: Sequence[int], x_type: TensorType) -> tuple[int, list[int]]:
    """All steps: as many turns as there are whole ones; those that are left over, which are the last, written out."""
    count, batch, width = x_type.shape
    size = count if w.open else steps_of(count)
    turns, rest = divmod(count, size)
    if turns < 2:
        return way.steps(w, x, states, x_type)
    looped = x_type.with_shape((turns * size, batch, width))
    left = x_type.with_shape((rest, batch, width))
    if not rest:
        return _turns(w, way, x, states, x_type, turns)
    lengths = w.ints([turns * size, rest])
    first, last = w.op("SPLIT_V", [x, lengths, w.constant(np.int32(0))], [looped, left], options("SplitV", numSplits=2))
    if way.reverse:
        after, states = way.steps(w, last, states, left)
        before, states = _turns(w, way, first, states, looped, turns)
    else:
        before, states = _turns(w, way, first, states, looped, turns)
        after, states = way.steps(w, last, states, left)
    kind = way.states[0].with_shape((count, *way.states[0].shape))
    return w.op("CONCATENATION", [before, after], kind, options("Concatenation", axis=0)), [*states]


def _turns(
    w: Writer, way: _Way, x: int, states: Sequence[int], x_type: TensorType, turns: int
) -> tuple[int, list[int]]:
    """A WHILE over a number, the outputs of all turns, the states and what its turns read."""
    count, batch, width = x_type.shape
    size, number = count // turns, TensorType((), I32)
    rows = x_type.with_shape((turns, size * batch * width))
    outputs = x_type.with_shape((turns, size * way.states[0].size))
    read = [v for v in way.weights if not w.is_static(v)]
    none = w.op("FILL", [w.ints(outputs.shape), w.constant(np.float32(0))], outputs)
    inputs = [w.constant(np.int32(0)), none, *states, w.reshape(x, x_type.shape, rows), *[w.ref(v) for v in read]]
    types = [number, outputs, *way.states, rows, *[v.type for v in read]]

    def body(inner: Writer, given: list[int]) -> list[int]:
        i, made, *now = given[: 2 + len(way.states)]
        inner.found.update(zip(read, given[-len(read) :] if read else (), strict=True))
        at = i if not way.reverse else _two(inner, "SUB", inner.constant(np.int32(turns - 1)), i, number)
        own = x_type.with_shape((size, batch, width))
        flat = own.with_shape((own.size,))
        row = inner.op("GATHER", [given[2 + len(way.states)], at], flat, options("Gather", axis=0))
        out, now = way.steps(inner, inner.reshape(row, flat.shape, own), now, own)
        wide = outputs.with_shape((1, outputs.shape[1]))
        start = inner.op("PACK", [at, inner.constant(np.int32(0))], TensorType((2,), I32),
                         options("Pack", valuesCount=2, axis=0))  # fmt: skip
        placed = inner.reshape(out, (size, *way.states[0].shape), wide)
        made = inner.op("DYNAMIC_UPDATE_SLICE", [made, placed, start], outputs)
        return [_two(inner, "ADD", i, inner.constant(np.int32(1)), number), made, *now, *given[2 + len(now) :]]

    def going(inner: Writer, given: list[int]) -> list[int]:
        return [inner.op("LESS", [given[0], inner.constant(np.int32(turns))], TensorType((), bool_), options("Less"))]

    found = w.op("WHILE", inputs, types, options("While", condSubgraphIndex=_subgraph(w, "cond", types, going),
                                                 bodySubgraphIndex=_subgraph(w, "body", types, body)))  # fmt: skip
    kind = way.states[0].with_shape((count, *way.states[0].shape))
    return w.reshape(found[1], outputs.shape, kind), found[2 : 2 + len(way.states)]


def _subgraph(
    w: Writer, name: str, types: Sequence[TensorType], write: Callable[[Writer, list[int]], list[int]]
) -> int:
    """The number of a new subgraph that takes tensors of some types and gives what ``write`` makes of them."""
    inner, index = w.subgraph(name)
    given = [inner.new(f"{name}.{i}", t) for i, t in enumerate(types)]
    results = write(inner, given)
    in_integers(inner, results)
    inputs = {f"{name}.{i}": n for i, n in enumerate(given)}
    number = compacted(inner.part, inputs, {f"{name}_{i}": n for i, n in enumerate(results) if n not in given})
    inner.part.outputs = [number[n] for n in results]
    return index


# --- the network -------------------------------------------------------------------------------------------


def _network(kinds: int, cell_of: Callable[[Fields], Cell]) -> Callable[[Writer, Value, Fields], Any]:
    """The row's function of a network with so many kinds of states."""

    def write(w: Writer, v: Value, f: Fields) -> Any:
        x, *rest = v.args
        initial, weights = rest[:kinds], rest[kinds:]
        ways = 2 if f["bidirectional"] else 1
        each = len(weights) // (f["layers"] * ways)
        time_first = [x.rank - 2, *range(x.rank - 2), x.rank - 1]
        x = structure.permute(x, time_first) if f["batch_first"] else x
        lead = x.shape[1:-1]
        x = reshape(x, shape=(x.shape[0], math.prod(lead), x.shape[-1]))
        begun = [_begun(w, state, f["layers"] * ways) for state in initial]
        number, type_ = w.ref(x), x.type
        ends: list[list[int]] = []
        for layer in range(f["layers"]):
            outputs: list[int] = []
            for direction in range(ways):
                at = layer * ways + direction
                own = weights[at * each : (at + 1) * each]
                way = _way(own, f["biases"], cell_of(f), [types[at] for _, types in begun], direction == 1)
                out, last = _over(w, way, number, [numbers[at] for numbers, _ in begun], type_)
                outputs.append(out)
                ends.append(last)
            width = begun[0][1][0].shape[1]
            type_ = type_.with_shape((*type_.shape[:2], ways * width))
            number = outputs[0]
            if ways > 1:
                number = w.op("CONCATENATION", outputs, type_, options("Concatenation", axis=2))
        finals = [_together(w, [e[k] for e in ends], begun[k][1][0], v.args[1 + k].type) for k in range(kinds)]
        return [_laid(w, number, type_, v, time_first if f["batch_first"] else None), *finals]

    return write


def _way(own: Sequence[Value], biases: bool, cell: Cell, states: Sequence[TensorType], reverse: bool) -> _Way:
    w_ih, w_hh, *rest = own
    b_ih, b_hh = (rest[0], rest[1]) if biases else (None, None)
    projection = rest[2 * biases] if len(rest) > 2 * biases else None
    return _Way(cell, (w_ih, w_hh), (b_ih, b_hh), projection, tuple(states), reverse)


def _begun(w: Writer, state: Value, count: int) -> tuple[list[int], list[TensorType]]:
    """The first states ``[b h]`` of all layers and directions."""
    batch, width = math.prod(state.shape[1:-1]), state.shape[-1]
    type_ = state.type.with_shape((batch, width))
    same = unbroadcast(state)
    if same.type.size == 1 and w.is_static(state):
        whole = structure.repeat(reshape(same, shape=(1, 1)), type_.shape)
        numbers = [w.ref(whole) if w.open else w.static_of([whole], type_, "", np.ascontiguousarray)] * count
    elif w.is_static(state):
        numbers = [w.static_of([state], type_, f"{i}", _nth(i, type_)) for i in range(count)]
    else:
        numbers = [w.ref(reshape(structure.select(state, 0, i), shape=type_.shape)) for i in range(count)]
    return numbers, [type_] * count


def _nth(i: int, type_: TensorType) -> Callable[[Any], Any]:
    return lambda a: np.ascontiguousarray(a[i].reshape(type_.shape))


def _together(w: Writer, ends: Sequence[int], state: TensorType, type_: TensorType) -> int:
    """The last states of all layers and directions, one after the other."""
    kind = state.with_shape((len(ends), *state.shape))
    return w.reshape(w.op("PACK", ends, kind, options("Pack", valuesCount=len(ends), axis=0)), kind.shape, type_)


def _laid(w: Writer, number: int, type_: TensorType, v: Value, order: Sequence[int] | None) -> int:
    """What all steps give ``[t b h]``, with the axes that the network gives."""
    kinds: Any = v.type
    found: TensorType = kinds[0]
    if order is None:
        return w.reshape(number, type_.shape, found)
    count, batch, width = type_.shape
    turned = type_.with_shape((batch, count, width))
    if batch > 1 and count > 1:
        number = w.op("TRANSPOSE", [number, w.ints((1, 0, 2))], turned)
        return w.reshape(number, turned.shape, found)
    return w.reshape(number, type_.shape, found)


def _has_steps(v: Value, f: Fields) -> str | None:
    return None if all(a.type.size for a in v.args) else "TFLite has no tensors without entries"


RECURRENT: dict[str, Row] = {
    "lstm": composite(_network(2, lambda f: _lstm), _has_steps),
    "gru": composite(_network(1, lambda f: _gru), _has_steps),
    "rnn": composite(_network(1, lambda f: _rnn(f["nonlinearity"].upper())), _has_steps),
}
