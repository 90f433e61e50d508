"""TFLite's recurrent operators. What they keep from call to call is a variable tensor, which becomes a buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ai_edge_litert import schema_py_generated as schema

from tdagger import library as lib
from tdagger.frameworks.tflite.ops.elementwise import activated
from tdagger.frameworks.tflite.ops.structure import concatenation
from tdagger.frameworks.tflite.ops.table import Call, Stateful, rule, unsupported
from tdagger.frameworks.tflite.schema import choice
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s

#: Steps that are written out one by one.
_STEPS = 1 << 14

_FUNCTIONS: dict[str, Callable[[Value], Value]] = {"TANH": e.tanh}


def function_of(number: int) -> Callable[[Value], Value]:
    """A cell's own activation, TANH among them."""
    name = choice(schema.ActivationFunctionType, number)
    if name == "SIGN_BIT":
        raise unsupported("its activation is SIGN_BIT")
    return _FUNCTIONS.get(name) or (lambda x: activated(x, name))


def _steps(x: Value, time_major: bool) -> Value:
    """x with time first; UnsupportedError for more steps than are written out."""
    y = x if time_major else s.transpose(x, 0, 1)
    if y.shape[0] > _STEPS:
        raise unsupported(f"it has {y.shape[0]} steps, more than {_STEPS} aren't written out")
    return y


def _stacked(outputs: Sequence[Value], time_major: bool) -> Value:
    y = s.concat([s.unsqueeze(o, (0,)) for o in outputs], 0)
    return y if time_major else s.transpose(y, 0, 1)


def _floats(node: Call) -> None:
    """Recurrent networks of integers are refused: their kernels round inside."""
    for tensor in (*node.inputs, *node.outputs):
        if tensor is not None and tensor.quantization is not None:
            raise unsupported("recurrent operators with quantized weights or states aren't imported")


# --- plain cells -------------------------------------------------------------------------------------------


@rule("RNN")
def _rnn(
    x: Value, w: Value, r: Value, bias: Value, state: Value, *, node: Call, fused_activation_function: int = 0
) -> Stateful:
    _floats(node)
    found = function_of(fused_activation_function)(lib.linear(x, w, bias) + lib.linear(state, r))
    return Stateful((found,), {4: found})


@rule("UNIDIRECTIONAL_SEQUENCE_RNN")
def _sequence_rnn(
    x: Value, w: Value, r: Value, bias: Value, state: Value, *, time_major: bool = False, node: Call,
    fused_activation_function: int = 0,
) -> Stateful:  # fmt: skip
    _floats(node)
    outputs, state = _rnn_over(_steps(x, time_major), w, r, bias, state, function_of(fused_activation_function), False)
    return Stateful((_stacked(outputs, time_major),), {4: state})


def _rnn_over(
    x: Value, w: Value, r: Value, bias: Value, state: Value, function: Callable[[Value], Value], reverse: bool
) -> tuple[list[Value], Value]:
    inputs = lib.linear(x, w, bias)
    outputs: list[Value] = []
    for t in range(x.shape[0])[:: -1 if reverse else 1]:
        state = function(s.select(inputs, 0, t) + lib.linear(state, r))
        outputs.append(state)
    return outputs[:: -1 if reverse else 1], state


@rule("BIDIRECTIONAL_SEQUENCE_RNN")
def _bidirectional_rnn(
    x: Value, w: Value, r: Value, bias: Value, state: Value, back_w: Value, back_r: Value, back_bias: Value,
    back_state: Value, aux: Value | None = None, aux_w: Value | None = None, back_aux_w: Value | None = None, *,
    time_major: bool = False, merge_outputs: bool = False, node: Call, fused_activation_function: int = 0,
) -> Stateful:  # fmt: skip
    _floats(node)
    if aux is not None or aux_w is not None or back_aux_w is not None:
        raise unsupported("its auxiliary input isn't imported")
    steps, function = _steps(x, time_major), function_of(fused_activation_function)
    forward, state = _rnn_over(steps, w, r, bias, state, function, False)
    back, back_state = _rnn_over(steps, back_w, back_r, back_bias, back_state, function, True)
    both = _stacked(forward, time_major), _stacked(back, time_major)
    return Stateful(_merged(both, merge_outputs), {4: state, 8: back_state})


def _merged(both: tuple[Value, Value], merge: bool) -> tuple[Value, ...]:
    return (concatenation(*both, axis=both[0].rank - 1),) if merge else both


# --- LSTM --------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """The weights of an LSTM in TFLite's order: input, forget, cell, output gate; None where it has none."""

    w: Sequence[Value | None]
    r: Sequence[Value | None]
    peephole: Sequence[Value | None]
    bias: Sequence[Value | None]
    projection: Value | None
    projection_bias: Value | None
    norm: Sequence[Value | None]
    function: Callable[[Value], Value]
    cell_clip: float
    projection_clip: float
    #: Whether the activation is TANH and there is nothing but gates.
    plain: bool


def _cell(given: Sequence[Value | None], function: int, cell_clip: float, projection_clip: float) -> _Cell:
    """Of the inputs 1 to 17 and 20 to 23."""
    w, r, peephole, bias = given[1:5], given[5:9], given[9:12], given[12:16]
    norm = given[20:24] if len(given) >= 24 else [None] * 4
    others = (*peephole, *given[16:18], *norm)
    plain = all(v is None for v in others) and None not in (*w, *r, *bias) and not cell_clip and not projection_clip
    plain = plain and choice(schema.ActivationFunctionType, function) == "TANH"
    return _Cell(
        w, r, peephole, bias, given[16], given[17], norm, function_of(function), cell_clip, projection_clip, plain
    )


def _gate(k: int, cell: _Cell, x: Value, h: Value, c: Value | None) -> Value:
    """What a gate adds up, before its function."""
    w, r, bias, norm = cell.w[k], cell.r[k], cell.bias[k], cell.norm[k]
    assert w is not None
    assert r is not None
    total = lib.linear(x, w) + lib.linear(h, r)
    place = {0: 0, 1: 1, 3: 2}.get(k)
    peephole = None if place is None else cell.peephole[place]
    if peephole is not None and c is not None:
        total = total + c * peephole
    if norm is not None:
        total = lib.layer_norm(total, rank=1, eps=1e-8) * norm
    return total if bias is None else total + bias


def _step(cell: _Cell, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
    forget = lib.sigmoid(_gate(1, cell, x, h, c))
    into = e.full_like(forget, 1.0) - forget if cell.w[0] is None else lib.sigmoid(_gate(0, cell, x, h, c))
    c = forget * c + into * cell.function(_gate(2, cell, x, h, None))
    c = lib.clamp(c, low=-cell.cell_clip, high=cell.cell_clip) if cell.cell_clip > 0 else c
    h = lib.sigmoid(_gate(3, cell, x, h, c)) * cell.function(c)
    if cell.projection is not None:
        h = lib.linear(h, cell.projection, cell.projection_bias)
        h = lib.clamp(h, low=-cell.projection_clip, high=cell.projection_clip) if cell.projection_clip > 0 else h
    return h, c


def _lstm_over(cell: _Cell, x: Value, h: Value, c: Value, reverse: bool) -> tuple[Value, Value, Value]:
    """All steps of x ``[t b i]``; one composite where nothing but gates is there."""
    if cell.plain:
        order = (0, 1, 2, 3)  # torch's: input, forget, cell, output
        w, r = (s.concat([v for k in order if (v := part[k]) is not None], 0) for part in (cell.w, cell.r))
        bias = s.concat([v for k in order if (v := cell.bias[k]) is not None], 0)
        x = s.flip(x, (0,)) if reverse else x
        none = e.zeros_like(bias)
        out, hs, cs = lib.lstm(x, s.unsqueeze(h, (0,)), s.unsqueeze(c, (0,)), w, r, bias, none, layers=1)
        out = s.flip(out, (0,)) if reverse else out
        return out, s.squeeze(hs, (0,)), s.squeeze(cs, (0,))
    outputs: list[Value] = []
    for t in range(x.shape[0])[:: -1 if reverse else 1]:
        h, c = _step(cell, s.select(x, 0, t), h, c)
        outputs.append(h)
    return _stacked(outputs[:: -1 if reverse else 1], True), h, c


@rule("UNIDIRECTIONAL_SEQUENCE_LSTM")
def _sequence_lstm(
    *given: Value | None, cell_clip: float = 0.0, proj_clip: float = 0.0, time_major: bool = False,
    diagonal_recurrent_tensors: bool = False, fused_activation_function: int = 0, node: Call,
) -> Stateful:  # fmt: skip
    """Its states 18 and 19 are kept over calls."""
    _floats(node)
    if diagonal_recurrent_tensors:
        raise unsupported("its recurrent weights are diagonals")
    cell = _cell(given, fused_activation_function, cell_clip, proj_clip)
    x, h, c = given[0], given[18], given[19]
    if x is None or h is None or c is None:
        raise unsupported("its input or a state is missing")
    out, h, c = _lstm_over(cell, _steps(x, time_major), h, c, False)
    return Stateful((out if time_major else s.transpose(out, 0, 1),), {18: h, 19: c})


@rule("BIDIRECTIONAL_SEQUENCE_LSTM")
def _bidirectional_lstm(
    *given: Value | None, cell_clip: float = 0.0, proj_clip: float = 0.0, time_major: bool = False,
    merge_outputs: bool = False, fused_activation_function: int = 0, node: Call,
) -> Stateful:  # fmt: skip
    """Inputs: x, the weights of both directions (17 each), states 35 to 38, and an auxiliary input."""
    _floats(node)
    if any(v is not None for v in given[39:]):
        raise unsupported("its auxiliary input isn't imported")
    x = given[0]
    states = given[35:39]
    if x is None or len(states) != 4 or None in states:
        raise unsupported("its input or a state is missing")
    steps, new, both = _steps(x, time_major), dict[int, Value](), list[Value]()
    for k, reverse in ((0, False), (1, True)):
        cell = _cell([None, *given[1 + 17 * k : 18 + 17 * k]], fused_activation_function, cell_clip, proj_clip)
        h, c = states[2 * k], states[2 * k + 1]
        assert h is not None
        assert c is not None
        out, new[35 + 2 * k], new[36 + 2 * k] = _lstm_over(cell, steps, h, c, reverse)
        both.append(out if time_major else s.transpose(out, 0, 1))
    return Stateful(_merged((both[0], both[1]), merge_outputs), new)


@rule("LSTM")
def _lstm(
    *given: Value | None, cell_clip: float = 0.0, proj_clip: float = 0.0, kernel_type: int = 0,
    fused_activation_function: int = 0, node: Call,
) -> Any:  # fmt: skip
    """One step; of the kernel BASIC with one weight for all gates, and its states as inputs and results."""
    _floats(node)
    if kernel_type:
        x, h, w, bias, c = given[:5]
        if x is None or h is None or w is None or bias is None or c is None:
            raise unsupported("an input is missing")
        together = s.concat((x, h), 1)
        total = lib.linear(together, w, bias)
        i, g, f, o = s.split(total, [total.shape[1] // 4] * 4, 1)  # TFLite's: input, new, forget, output
        c = lib.sigmoid(i) * e.tanh(g) + lib.sigmoid(f) * c
        return lib.sigmoid(o) * e.tanh(c), c, together, total
    cell = _cell(given, fused_activation_function, cell_clip, proj_clip)
    x, h, c = given[0], given[18], given[19]
    if x is None or h is None or c is None:
        raise unsupported("its input or a state is missing")
    h, c = _step(cell, x, h, c)
    return Stateful((None,) * (len(node.outputs) - 1) + (h,), {18: h, 19: c})


# --- SVDF --------------------------------------------------------------------------------------------------


@rule("SVDF")
def _svdf(
    x: Value, features: Value, time: Value, bias: Value | None, state: Value, *, rank: int = 0,
    fused_activation_function: int = 0, node: Call,
) -> Stateful:  # fmt: skip
    """Each filter remembers its last products, weighs them by ``time``, and ``rank`` filters make a unit."""
    _floats(node)
    filters, memory = time.shape
    if rank < 1 or filters % rank:
        raise unsupported(f"its {filters} filters don't come out even in units of {rank}")
    kept = lib.reshape(state, shape=(x.shape[0], filters, memory))
    new = s.unsqueeze(lib.linear(x, features), (2,))
    kept = s.concat((s.slice_axis(kept, 2, 1, None), new), 2)
    weighed = s.reduce(kept * s.unsqueeze(time, (0,)), "sum", (2,), keep=False)
    out = s.reduce(s.ungroup(weighed, 1, (-1, rank)), "sum", (2,), keep=False)
    out = out if bias is None else out + bias
    return Stateful((function_of(fused_activation_function)(out),), {4: lib.reshape(kept, shape=state.shape)})
