"""LSTM, GRU and RNN, unrolled over time; tensors in torch's flat order ``(x, h0[, c0], *weights)``.

The weights of each layer and direction are ``w_ih [gates i]``, ``w_hh [gates h]``, then with biases ``b_ih``
and ``b_hh [gates]``, and for an LSTM with a projection ``w_hr [p h]``. The initial states are
``[(layers directions) b h]``; x is ``[t b i]``, or ``[b t i]`` if ``batch_first``. The batch may be any number of
axes, none among them: x ``[t i]`` and states ``[(layers directions) h]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.activation import relu, sigmoid
from tdagger.library.linear import linear
from tdagger.op import AxisRules, Plan, Terms, Value
from tdagger.ops.elementwise import tanh
from tdagger.ops.structure import concat, permute, repeat, select, split, unsqueeze
from tdagger.types import TensorType

States = tuple[Value, ...]

#: What one step does: (x through w_ih, h through w_hh, the states before) -> the states after.
Cell = Callable[[Value, Value, States], States]


def _gates(x: Value, count: int) -> tuple[Value, ...]:
    return split(x, [x.shape[-1] // count] * count, -1)


def _lstm_cell(x: Value, h: Value, states: States) -> States:
    i, f, g, o = _gates(x + h, 4)
    c = sigmoid(f) * states[1] + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru_cell(x: Value, h: Value, states: States) -> States:
    (xr, xz, xn), (hr, hz, hn) = _gates(x, 3), _gates(h, 3)
    new = tanh(xn + sigmoid(xr + hr) * hn)
    return (new + sigmoid(xz + hz) * (states[0] - new),)


def _rnn_cell(function: Callable[[Value], Value]) -> Cell:
    return lambda x, h, states: (function(x + h),)


def _one_way(
    x: Value, states: States, weights: tuple[Value, ...], cell: Cell, reverse: bool, biases: bool
) -> tuple[Value, States]:
    """One layer in one direction over ``[t .. i]``: the outputs of all steps in order, and the last states."""
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = (rest[0], rest[1]) if biases else (None, None)
    projection = rest[2 * biases] if len(rest) > 2 * biases else None
    inputs, taken = linear(x, w_ih, b_ih), states[0].type
    outputs: list[Value] = []
    steps = range(x.shape[0])
    for t in reversed(steps) if reverse else steps:
        states = cell(select(inputs, 0, t), linear(states[0], w_hh, b_hh), states)
        if projection is not None:
            states = (linear(states[0], projection), *states[1:])
        if states[0].shape != taken.shape:  # of one step nothing else would ask
            raise TypeMismatchError(f"a recurrent network takes the state {taken} and gives {states[0].type}")
        outputs.append(unsqueeze(states[0], (0,)))
    return concat(outputs[::-1] if reverse else outputs, 0), states


def _network(
    name: str, tensors: tuple[Value, ...], kinds: int, cell: Cell, layers: int, bidirectional: bool,
    batch_first: bool, biases: bool,
) -> tuple[Value, ...]:  # fmt: skip
    """All layers and directions: the output, then the last state of each kind."""
    x, *initial = tensors[: 1 + kinds]
    weights = tensors[1 + kinds :]
    directions = 2 if bidirectional else 1
    each, rest = divmod(len(weights), layers * directions)
    known = 2 + 2 * biases
    if rest or each not in (known, known + 1) or x.rank < 2 or any(s.rank != x.rank for s in initial):
        raise TypeMismatchError(
            f"{name}: takes x and {kinds} states of one rank of 2 or more, then {known} weights for each of {layers} "
            f"layers in {directions} directions, got ({', '.join(str(t.type) for t in tensors)})"
        )
    order = [x.rank - 2, *range(x.rank - 2), x.rank - 1]  # time first
    x = permute(x, order) if batch_first else x
    if any(s.shape[1:-1] != x.shape[1:-1] for s in initial):
        raise TypeMismatchError(
            f"{name}: the states of x {tensors[0].type} have its batch, got {', '.join(str(s.type) for s in initial)}"
        )
    if not x.shape[0]:
        raise TypeMismatchError(f"{name}: x {tensors[0].type} has no steps")
    last: list[States] = []
    for layer in range(layers):
        outputs: list[Value] = []
        for direction in range(directions):
            at = layer * directions + direction
            states = tuple(select(s, 0, at) for s in initial)
            own = weights[at * each : (at + 1) * each]
            out, states = _one_way(x, states, own, cell, direction == 1, biases)
            outputs.append(out)
            last.append(states)
        x = concat(outputs, -1)
    finals = [concat([unsqueeze(states[k], (0,)) for states in last], 0) for k in range(kinds)]
    return (permute(x, [order.index(i) for i in range(x.rank)]) if batch_first else x, *finals)


@composite
def lstm(
    *tensors: Value, layers: int, bidirectional: bool = False, batch_first: bool = False, biases: bool = True,
    dropout: float = 0.0,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """LSTM of (x, h0, c0, *weights): (outputs, last h, last c). ``dropout`` acts in training only."""
    del dropout
    out, h, c = _network("lstm", tensors, 2, _lstm_cell, layers, bidirectional, batch_first, biases)
    return out, h, c


@composite
def gru(
    *tensors: Value, layers: int, bidirectional: bool = False, batch_first: bool = False, biases: bool = True,
    dropout: float = 0.0,
) -> tuple[Value, Value]:  # fmt: skip
    """GRU of (x, h0, *weights): (outputs, last h). ``dropout`` acts in training only."""
    del dropout
    out, h = _network("gru", tensors, 1, _gru_cell, layers, bidirectional, batch_first, biases)
    return out, h


_FUNCTIONS: dict[str, Callable[[Value], Value]] = {"tanh": tanh, "relu": relu}


@composite
def rnn(
    *tensors: Value, layers: int, bidirectional: bool = False, batch_first: bool = False, biases: bool = True,
    dropout: float = 0.0, nonlinearity: str = "tanh",
) -> tuple[Value, Value]:  # fmt: skip
    """RNN of (x, h0, *weights): (outputs, last h). ``dropout`` acts in training only."""
    del dropout
    if nonlinearity not in _FUNCTIONS:
        raise AttributeValueError(f"rnn: nonlinearity {nonlinearity!r} is none of {', '.join(_FUNCTIONS)}")
    cell = _rnn_cell(_FUNCTIONS[nonlinearity])
    out, h = _network("rnn", tensors, 1, cell, layers, bidirectional, batch_first, biases)
    return out, h


def _over_time(op: Composite, rules: AxisRules, out: tuple[TensorType, ...], x: Terms, *rest: Terms) -> list[Terms]:
    """An output for every step: the body, unrolled, has so many outputs one after the other."""
    outputs, *finals = rules.body(x, *rest)
    time = out[0].rank - 2 if op.attributes["batch_first"] else 0
    return [(*outputs[:time], x[time], *outputs[time + 1 :]), *finals]


def _batched(op: Composite, args: Sequence[Value], *plans: Plan) -> tuple[Value, ...] | None:
    """A new first dimension is one more of the batch, if the weights don't have it."""
    if plans[0][0].axis is not None:
        return None
    rank, size = len(plans[0]), plans[0][0].size
    x, *rest = [a if i >= len(plans) or a.rank == rank else _more(a, size) for i, a in enumerate(args)]
    states, weights = rest[: len(plans) - 1], rest[len(plans) - 1 :]
    networks: int = op.attributes["layers"] * (2 if op.attributes["bidirectional"] else 1)
    ranks = [2, 2, *([1, 1] if op.attributes["biases"] else []), 2][: len(weights) // networks]
    if [w.rank for w in weights] != ranks * networks:
        return None

    def swapped(value: Value) -> Value:
        return permute(value, (1, 0, *range(2, rank)))

    inputs = [x if op.attributes["batch_first"] else swapped(x), *map(swapped, states), *weights]
    out, *finals = op.definition(*inputs, **op.attributes)
    return (out if op.attributes["batch_first"] else swapped(out), *map(swapped, finals))


def _more(value: Value, size: int) -> Value:
    return repeat(unsqueeze(value, (0,)), [size, *[None] * value.rank])


for definition in (lstm, gru, rnn):
    definition.axes(_over_time)
    definition.adapt(_batched)
