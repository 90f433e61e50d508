"""MIL's recurrent networks: those that torch has as composites, all others step by step.

Gates lie in MIL as input, forget, output, cell (torch: input, forget, cell, output), of a GRU as reset, output, update
(torch: reset, update, output); there is one bias, the sum of torch's two. What goes in reverse gives its outputs in the
order of its steps, the last entry's first; the way back of a bidirectional one gives them in the order of the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Bool, Float, Str, rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const

#: So many steps are written out.
_STEPS = 1 << 14

_ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "sigmoid": lib.sigmoid,
    "tanh": e.tanh,
    "relu": lib.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: lib.clamp(x * 0.2 + 0.5, low=0.0, high=1.0),
    "sigmoid_hard": lambda x: lib.clamp(x * 0.2 + 0.5, low=0.0, high=1.0),
    "scaled_tanh": e.tanh,  # its alpha and beta are 1 here
}


def _activation(name: str) -> Callable[[Value], Value]:
    if name not in _ACTIVATIONS:
        raise unsupported(f"there is no activation {name}; there are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _gates(x: Value, count: int, axis: int = 0) -> list[Value]:
    return list(s.split(x, [x.shape[axis] // count] * count, axis))


def _reordered(weight: Value, order: Sequence[int]) -> Value:
    gates = _gates(weight, len(order))
    return s.concat([gates[i] for i in order], 0)


def _zeros_for(weight: Value) -> Value:
    """The second bias of torch's composite, which MIL hasn't."""
    return s.broadcast_to(const(0.0, weight.dtype), (weight.shape[0],))


def _composite(
    function: Callable[..., Any], x: Value, states: Sequence[Value], weights: Sequence[Sequence[Value | None]],
    order: Sequence[int], direction: str, **more: Any,
) -> tuple[Value, ...]:  # fmt: skip
    """A layer by torch's composite: outputs ``[s b d*h]``, then the last states ``[b d*h]``."""
    reverse = direction == "reverse"
    tensors: list[Value] = []
    biases = any(b is not None for _, _, b in weights)
    for ih, hh, bias in weights:
        assert ih is not None
        assert hh is not None
        tensors += [_reordered(ih, order), _reordered(hh, order)]
        if biases:
            zeros = _zeros_for(ih)
            tensors += [zeros if bias is None else _reordered(bias, order), zeros]
    count = len(weights)
    first = [s.permute(s.ungroup(state, 1, (count, -1)), (1, 0, 2)) for state in states]
    out, *finals = function(
        s.flip(x, (0,)) if reverse else x, *first, *tensors, layers=1, bidirectional=count == 2, biases=biases, **more
    )
    ends = [s.group(s.permute(f, (1, 0, 2)), (1, 2)) for f in finals]
    return out, *ends


Step = Callable[[Value, tuple[Value, ...]], tuple[Value, ...]]


def _unrolled(x: Value, states: tuple[Value, ...], reverse: bool, step: Step, back: bool = False) -> tuple[Value, ...]:
    """One direction, step after step; of each step the first state is the output, in the order of the steps.

    ``back``: outputs of a way in reverse in the order of the entries.
    """
    count = x.shape[0]
    if count > _STEPS:
        raise unsupported(f"it has {count} steps, more than {_STEPS} aren't written out")
    out: list[Value] = []
    for t in reversed(range(count)) if reverse else range(count):
        states = step(s.select(x, 0, t), states)
        out.append(s.unsqueeze(states[0], (0,)))
    return s.concat(out[::-1] if back else out, 0), *states


def _last(out: Value, final: Value, whole: bool) -> Value:
    return out if whole else s.unsqueeze(final, (0,))


@rule("lstm")
def _lstm(
    x: Value, initial_h: Value, initial_c: Value, weight_ih: Value, weight_hh: Value, bias: Value | None = None,
    peephole: Value | None = None, weight_ih_back: Value | None = None, weight_hh_back: Value | None = None,
    bias_back: Value | None = None, peephole_back: Value | None = None, direction: Str = "forward",
    output_sequence: Bool = False, recurrent_activation: Str = "sigmoid", cell_activation: Str = "tanh",
    activation: Str = "tanh", clip: Float | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    both = direction == "bidirectional"
    if direction not in ("forward", "reverse", "bidirectional"):
        raise unsupported(f"its direction {direction} is none of forward, reverse, bidirectional")
    weights = [(weight_ih, weight_hh, bias)]
    if both:
        if weight_ih_back is None or weight_hh_back is None:
            raise unsupported("it is bidirectional, and has no weights of the way back")
        weights.append((weight_ih_back, weight_hh_back, bias_back))
    usual = (recurrent_activation, cell_activation, activation) == ("sigmoid", "tanh", "tanh")
    if usual and clip is None and peephole is None and peephole_back is None:
        out, h, c = _composite(lib.lstm, x, (initial_h, initial_c), weights, (0, 1, 3, 2), direction)
        return _last(out, h, output_sequence), h, c
    functions = [_activation(n) for n in (recurrent_activation, cell_activation, activation)]
    states = list(zip(*(_gates(v, len(weights), 1) for v in (initial_h, initial_c)), strict=True))
    found: list[tuple[Value, ...]] = []
    for k, (ih, hh, b) in enumerate(weights):
        step = _lstm_step(hh, (peephole, peephole_back)[k], functions, clip)
        found.append(_unrolled(lib.linear(x, ih, b), states[k], direction == "reverse" or k == 1, step, k == 1))
    out, h, c = (s.concat([f[i] for f in found], -1) for i in range(3))
    return _last(out, h, output_sequence), h, c


def _lstm_step(
    hh: Value, peephole: Value | None, functions: Sequence[Callable[[Value], Value]], clip: float | None
) -> Step:
    gate, cell, last = functions
    peeps = None if peephole is None else _gates(peephole, 3)

    def step(x: Value, states: tuple[Value, ...]) -> tuple[Value, ...]:
        h, c = states
        i, f, o, z = _gates(x + lib.linear(h, hh), 4, 1)
        if peeps is not None:
            i, f = i + peeps[0] * c, f + peeps[1] * c
        new = gate(f) * c + gate(i) * cell(z)
        if clip is not None:
            new = lib.clamp(new, low=-clip, high=clip)
        if peeps is not None:
            o = o + peeps[2] * new
        return gate(o) * last(new), new

    return step


@rule("gru")
def _gru(
    x: Value, initial_h: Value, weight_ih: Value, weight_hh: Value, bias: Value | None = None,
    direction: Str = "forward", output_sequence: Bool = False, recurrent_activation: Str = "sigmoid",
    activation: Str = "tanh", reset_after: Bool = False, input_bias: Value | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    """Without ``reset_after`` the reset gate is for the state before its weights, which torch's GRU hasn't."""
    if direction not in ("forward", "reverse"):
        raise unsupported(f"its direction {direction} is neither forward nor reverse")
    reverse = direction == "reverse"
    gate, last = _activation(recurrent_activation), _activation(activation)
    xs = lib.linear(x, weight_ih, input_bias)
    first, middle, third = _gates(weight_hh, 3)
    own = None if bias is None else _gates(bias, 3)

    def step(x_: Value, states: tuple[Value, ...]) -> tuple[Value, ...]:
        h = states[0]
        r, o, z = _gates(x_, 3, 1)
        b = own if own is not None else [None, None, None]
        r = gate(r + lib.linear(h, first, b[0]))
        z = gate(z + lib.linear(h, third, b[2]))
        inner = r * lib.linear(h, middle, b[1]) if reset_after else lib.linear(r * h, middle, b[1])
        o = last(o + inner)
        return ((1.0 - z) * o + z * h,)

    out, h = _unrolled(xs, (initial_h,), reverse, step)
    return _last(out, h, output_sequence), h


@rule("rnn")
def _rnn(
    x: Value, initial_h: Value, weight_ih: Value, weight_hh: Value, bias: Value | None = None,
    direction: Str = "forward", output_sequence: Bool = False, activation: Str = "tanh",
) -> tuple[Value, ...]:  # fmt: skip
    if direction not in ("forward", "reverse"):
        raise unsupported(f"its direction {direction} is neither forward nor reverse")
    if activation in ("tanh", "relu"):
        weights = [(weight_ih, weight_hh, bias)]
        out, h = _composite(lib.rnn, x, (initial_h,), weights, (0,), direction, nonlinearity=activation)
        return _last(out, h, output_sequence), h
    function = _activation(activation)
    out, h = _unrolled(
        lib.linear(x, weight_ih, bias), (initial_h,), direction == "reverse",
        lambda x_, states: (function(x_ + lib.linear(states[0], weight_hh)),),
    )  # fmt: skip
    return _last(out, h, output_sequence), h
