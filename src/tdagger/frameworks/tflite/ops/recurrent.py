"""TFLite's recurrent operators. What they keep from call to call is a variable tensor, which becomes a buffer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tdagger import library as lib
from tdagger.frameworks.tflite.ops.elementwise import activated
from tdagger.frameworks.tflite.ops.structure import concatenation
from tdagger.frameworks.tflite.ops.table import Call, Stateful, rule, unsupported
from tdagger.frameworks.tflite.quantized import dequantized, on_the_fly, quantized
from tdagger.frameworks.tflite.schema import DTYPES, Quantization, Tensor, choice, is_quantized
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const

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


# --- numbers -----------------------------------------------------------------------------------------------


class _Numbers(NamedTuple):
    """How a kernel computes: what its products are of, and what it rounds on the way, by the name of the place."""

    product: Callable[..., Value] = lib.linear
    rounded: Callable[[Value, str], Value] = lambda x, place: x


def _numbers(node: Call) -> _Numbers:
    """Of floats, or of floats beside weights of integers: each row that is multiplied is rounded to 8 bits."""
    quantized_ones = [t is not None and is_quantized(t) for t in (*node.inputs, *node.outputs)]
    if quantized_ones[0]:
        raise unsupported("there is no kernel of integers that says what it means")
    if not any(quantized_ones):
        return _Numbers()
    asymmetric = bool(node.node.options.get("asymmetric_quantize_inputs"))

    def product(x: Value, w: Value, bias: Value | None = None) -> Value:
        return lib.linear(on_the_fly(x, (x.rank - 1,), asymmetric), w, bias)

    return _Numbers(product)


def _grid(tensor: Tensor | None) -> Quantization:
    if tensor is None or tensor.quantization is None or tensor.quantization.scale.size != 1:
        raise unsupported("a tensor of integers has no scale, or several")
    return tensor.quantization


def _step_of(*tensors: Tensor | None) -> np.ndarray:
    """The step of products of integers."""
    return np.prod([_grid(t).scale for t in tensors], axis=0).astype(np.float32)


def _real(x: Value | None, step: Any) -> Value | None:
    """The real numbers of integers in steps of a size."""
    scale = np.asarray(step, np.float32).reshape(1)
    return None if x is None else dequantized(x, Quantization(scale, np.zeros(1, np.int64), 0))


def _kept(node: Call, place: int, x: Value) -> Value:
    """A new state, as the integers of its tensor if that is quantized."""
    tensor = node.inputs[place]
    if tensor is None or not is_quantized(tensor):
        return x
    return quantized(x, _grid(tensor), tensor, DTYPES[tensor.kind])


# --- plain cells -------------------------------------------------------------------------------------------


@rule("RNN")
def _rnn(
    x: Value, w: Value, r: Value, bias: Value, state: Value, *, node: Call, fused_activation_function: int = 0
) -> Stateful:
    product = _numbers(node).product
    found = function_of(fused_activation_function)(product(x, w, bias) + product(state, r))
    return Stateful((found,), {4: found})


@rule("UNIDIRECTIONAL_SEQUENCE_RNN")
def _sequence_rnn(
    x: Value, w: Value, r: Value, bias: Value, state: Value, *, time_major: bool = False, node: Call,
    fused_activation_function: int = 0,
) -> Stateful:  # fmt: skip
    cell = _Plain(w, r, bias, function_of(fused_activation_function), _numbers(node).product)
    outputs, state = _rnn_over(cell, _steps(x, time_major), state, False)
    return Stateful((_stacked(outputs, time_major),), {4: state})


class _Plain(NamedTuple):
    """The weights of a plain cell."""

    w: Value
    r: Value
    bias: Value
    function: Callable[[Value], Value]
    product: Callable[..., Value]


def _rnn_over(cell: _Plain, x: Value, state: Value, reverse: bool) -> tuple[list[Value], Value]:
    inputs = cell.product(x, cell.w, cell.bias)
    outputs: list[Value] = []
    for t in range(x.shape[0])[:: -1 if reverse else 1]:
        state = cell.function(s.select(inputs, 0, t) + cell.product(state, cell.r))
        outputs.append(state)
    return outputs[:: -1 if reverse else 1], state


@rule("BIDIRECTIONAL_SEQUENCE_RNN")
def _bidirectional_rnn(
    x: Value, w: Value, r: Value, bias: Value, state: Value, back_w: Value, back_r: Value, back_bias: Value,
    back_state: Value, aux: Value | None = None, aux_w: Value | None = None, back_aux_w: Value | None = None, *,
    time_major: bool = False, merge_outputs: bool = False, node: Call, fused_activation_function: int = 0,
) -> Stateful:  # fmt: skip
    product = _numbers(node).product
    if aux is not None or aux_w is not None or back_aux_w is not None:
        raise unsupported("its auxiliary input isn't imported")
    steps, function = _steps(x, time_major), function_of(fused_activation_function)
    forward, state = _rnn_over(_Plain(w, r, bias, function, product), steps, state, False)
    behind = _Plain(back_w, back_r, back_bias, function, product)
    back, back_state = _rnn_over(behind, steps, back_state, True)
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
    #: Whether the activation is TANH and there is nothing but gates, of floats.
    plain: bool
    numbers: _Numbers = _Numbers()


def _cell(
    given: Sequence[Value | None], numbers: _Numbers, function: int, cell_clip: float, projection_clip: float
) -> _Cell:
    """Of the inputs 1 to 17 and 20 to 23."""
    w, r, peephole, bias = given[1:5], given[5:9], given[9:12], given[12:16]
    norm = given[20:24] if len(given) >= 24 else [None] * 4
    others = (*peephole, *given[16:18], *norm)
    plain = all(v is None for v in others) and None not in (*w, *r, *bias) and not cell_clip and not projection_clip
    plain = plain and choice(schema.ActivationFunctionType, function) == "TANH" and numbers == _Numbers()
    return _Cell(
        w, r, peephole, bias, given[16], given[17], norm, function_of(function), cell_clip, projection_clip, plain,
        numbers,
    )  # fmt: skip


def _gate(k: int, cell: _Cell, x: Value, h: Value, c: Value | None) -> Value:
    """What a gate adds up, before its function."""
    w, r, bias, norm = cell.w[k], cell.r[k], cell.bias[k], cell.norm[k]
    assert w is not None
    assert r is not None
    (product, rounded), sums = cell.numbers, f"sum {k}"
    total = rounded(product(x, w, None if norm is not None else bias), sums)
    total = rounded(total + rounded(product(h, r), sums), sums)
    place = {0: 0, 1: 1, 3: 2}.get(k)
    peephole = None if place is None else cell.peephole[place]
    if peephole is not None and c is not None:
        total = rounded(total + rounded(c * peephole, sums), sums)
    if norm is not None:
        total = rounded(lib.layer_norm(total, rank=1, eps=1e-8), "norm") * norm
        total = rounded(total if bias is None else total + bias, "gate")
    return total


def _step(cell: _Cell, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
    rounded = cell.numbers.rounded
    forget = rounded(lib.sigmoid(_gate(1, cell, x, h, c)), "unit")
    into = e.full_like(forget, 1.0) - forget
    if cell.w[0] is not None:
        into = rounded(lib.sigmoid(_gate(0, cell, x, h, c)), "unit")
    new = rounded(cell.function(_gate(2, cell, x, h, None)), "unit")
    c = rounded(rounded(forget * c, "cell") + rounded(into * new, "cell"), "cell")
    c = lib.clamp(c, low=-cell.cell_clip, high=cell.cell_clip) if cell.cell_clip > 0 else c
    out = rounded(lib.sigmoid(_gate(3, cell, x, h, c)), "unit")
    h = rounded(out * rounded(cell.function(c), "unit"), "hidden")
    if cell.projection is not None:
        h = rounded(cell.numbers.product(h, cell.projection, cell.projection_bias), "projected")
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


#: What kernels of integers round to: sums before functions, what these give, a norm.
_SUMS, _UNIT, _NORM = 2.0**-12, 2.0**-15, 2.0**-10
#: And the cell state of the kernel BASIC.
_CELL = 2.0**-11


def _integer_cell(given: Sequence[Value | None], node: Call, function: int, clips: tuple[float, float]) -> _Cell:
    """Of 8 bits, with a cell state of 16: the inputs are real numbers but for the biases."""
    tensors = [*node.inputs, *(None,) * (24 - len(node.inputs))]
    between = node.between
    if choice(schema.ActivationFunctionType, function) != "TANH" or len(between) != 5:
        raise unsupported(f"its kernel of integers has {len(between)} intermediate tensors, and computes TANH with 5")
    x, h, c = (tensors[i] for i in (0, 18, 19))
    if given[9] is not None or given[10] is not None or given[11] is not None:
        cells, outputs = (t.shape[-1] if t is not None else 0 for t in (c, h))
        if cells != outputs:
            raise unsupported("its kernel of integers takes a peephole of projected cells from wrong places")
    real, normed = list(given), any(t is not None for t in tensors[20:24])
    for k in range(4):
        steps = (tensors[20 + k],) if normed else (x, tensors[1 + k])
        if given[12 + k] is not None:
            real[12 + k] = _real(given[12 + k], _step_of(*steps) * np.float32(_NORM if normed else 1))
    if given[17] is not None:
        real[17] = _real(given[17], _step_of(between[4], tensors[16]))
    hidden = _grid(between[4])
    grids: dict[str, tuple[Any, int, str]] = {
        **{f"sum {k}": (_grid(between[k]).scale if normed and between[k].quantization else _SUMS, 0, "i16")
           for k in range(4)},
        "gate": (_SUMS, 0, "i16"), "unit": (_UNIT, 0, "i16"), "norm": (_NORM, 0, "i32"),
        "cell": (_grid(c).scale, 0, "i16"), "hidden": (hidden.scale, int(hidden.zero_point[0]), "i8"),
        "projected": (_grid(h).scale, int(_grid(h).zero_point[0]), "i8"),
    }  # fmt: skip

    return _cell(real, _Numbers(lib.linear, lambda x, place: _to_grid(x, *grids[place])), function, *clips)


def _to_grid(x: Value, scale: Any, zero: int = 0, to: str = "i16") -> Value:
    """The real numbers that integers of so many bits stand for."""
    step = const(np.float32(np.asarray(scale).reshape(())), "f32")
    offset = const(zero, to) if zero else None
    return lib.dequantize(lib.quantize(x, step, offset, to=to), step, offset)


@rule("UNIDIRECTIONAL_SEQUENCE_LSTM")
def _sequence_lstm(
    *given: Value | None, cell_clip: float = 0.0, proj_clip: float = 0.0, time_major: bool = False,
    diagonal_recurrent_tensors: bool = False, fused_activation_function: int = 0, node: Call,
) -> Stateful:  # fmt: skip
    """Its states 18 and 19 are kept over calls."""
    if diagonal_recurrent_tensors:
        raise unsupported("its recurrent weights are diagonals")
    clips = (cell_clip, proj_clip)
    if len(given) < 20 or given[0] is None or given[18] is None or given[19] is None:
        raise unsupported("its input or a state is missing")
    x, h, c = given[0], given[18], given[19]
    if node.inputs[0] is not None and is_quantized(node.inputs[0]):
        cell = _integer_cell(given, node, fused_activation_function, clips)
    else:
        cell = _cell(given, _numbers(node), fused_activation_function, *clips)
    out, h, c = _lstm_over(cell, _steps(x, time_major), h, c, False)
    states = {18: _kept(node, 18, h), 19: _kept(node, 19, c)}
    return Stateful((out if time_major else s.transpose(out, 0, 1),), states)


@rule("BIDIRECTIONAL_SEQUENCE_LSTM")
def _bidirectional_lstm(
    *given: Value | None, cell_clip: float = 0.0, proj_clip: float = 0.0, time_major: bool = False,
    merge_outputs: bool = False, fused_activation_function: int = 0, node: Call,
) -> Stateful:  # fmt: skip
    """Inputs: x, the weights of both directions (17 each), states 35 to 38, and an auxiliary input."""
    numbers = _numbers(node)
    if any(v is not None for v in given[39:]):
        raise unsupported("its auxiliary input isn't imported")
    x = given[0]
    states = given[35:39]
    if x is None or len(states) != 4 or None in states:
        raise unsupported("its input or a state is missing")
    steps, new, both = _steps(x, time_major), dict[int, Value](), list[Value]()
    for k, reverse in ((0, False), (1, True)):
        weights = [None, *given[1 + 17 * k : 18 + 17 * k]]
        cell = _cell(weights, numbers, fused_activation_function, cell_clip, proj_clip)
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
    if kernel_type:
        return _basic(node, given)
    numbers = _numbers(node)
    cell = _cell(given, numbers, fused_activation_function, cell_clip, proj_clip)
    x, h, c = given[0], given[18], given[19]
    if x is None or h is None or c is None:
        raise unsupported("its input or a state is missing")
    h, c = _step(cell, x, h, c)
    return Stateful((None,) * (len(node.outputs) - 1) + (h,), {18: h, 19: c})


def _basic(node: Call, given: Sequence[Value | None]) -> Sequence[Value]:
    """Of floats, or of u8 with a cell state of i16: rounded to the steps of 16 bits that its kernel has."""
    x, h, w, bias, c = given[:5] if len(given) >= 5 else [None] * 5
    if x is None or h is None or w is None or bias is None or c is None:
        raise unsupported("an input is missing")
    is_whole, step = any(t is not None and is_quantized(t) for t in node.inputs[:5]), 1.0
    if is_whole:
        step = float(_basic_step(node)[0])
        bias = _real(bias, step)
        assert bias is not None

    def rounded(x: Value, scale: float) -> Value:
        return _to_grid(x, scale) if is_whole else x

    together = s.concat((x, h), 1)
    total = lib.linear(together, w, bias)
    total = _rounded_twice(total, step) if is_whole else total
    i, g, f, o = s.split(total, [total.shape[1] // 4] * 4, 1)  # TFLite's: input, new, forget, output
    i, f, o = (rounded(lib.sigmoid(gate), _UNIT) for gate in (i, f, o))
    new = rounded(rounded(i * rounded(e.tanh(g), _UNIT), _UNIT), _CELL)
    c = rounded(new + rounded(f * c, _CELL), _CELL)
    return rounded(o * rounded(e.tanh(c), _UNIT), _UNIT), c, together, total


def _rounded_twice(x: Value, step: float) -> Value:
    """Sums of products of a step as i16: first to a part of its steps, by whole powers of 2, and then to these."""
    parts = float(2.0 ** -min(math.frexp(step / _SUMS)[1], 0))
    whole = e.round_(x * (parts / _SUMS))
    steps = e.floor(whole * (1 / parts) + 0.5)  # halves up
    return lib.clamp(steps, low=-32768.0, high=32767.0) * _SUMS


def _basic_step(node: Call) -> np.ndarray:
    """The step of the products of the kernel BASIC of integers, which takes those of all else as given."""
    x, h, w, bias, c = node.inputs[:5]
    grids = [(t, 1 / 128, 128, "u8") for t in (x, h, *node.outputs[:1], *node.outputs[2:3])]
    grids += [(t, _CELL, 0, "i16") for t in (c, node.outputs[1])] + [(node.outputs[3], _SUMS, 0, "i16")]
    for tensor, scale, zero, kind in grids:
        found = _grid(tensor)
        dtype = DTYPES[tensor.kind].name if tensor is not None else ""
        if (found.scale[0], found.zero_point[0], dtype) != (np.float32(scale), zero, kind):
            raise unsupported(
                f"its kernel BASIC of integers computes {kind} in steps of {scale} from {zero}, no others"
            )
    if w is None or DTYPES[w.kind].name != "u8" or bias is None or DTYPES[bias.kind].name != "i32":
        raise unsupported("its kernel BASIC of integers has weights of u8 and a bias of i32")
    step = _step_of(x, w)
    if not np.allclose(_grid(bias).scale, step, rtol=1e-5, atol=0):
        raise unsupported("its bias has another step than its products, by which its kernel takes these")
    return step


# --- SVDF --------------------------------------------------------------------------------------------------


@rule("SVDF")
def _svdf(
    x: Value, features: Value, time: Value, bias: Value | None, state: Value, *, rank: int = 0,
    fused_activation_function: int = 0, node: Call,
) -> Stateful:  # fmt: skip
    """Each filter remembers its last products, weighs them by ``time``, and ``rank`` filters make a unit.

    The kernel of integers has no activation: ReLU is where these begin.
    """
    filters, memory = time.shape
    if rank < 1 or filters % rank:
        raise unsupported(f"its {filters} filters don't come out even in units of {rank}")
    tensors, function = node.inputs, function_of(fused_activation_function)
    if tensors[0] is not None and is_quantized(tensors[0]):
        new = lib.linear(x, features)
        bias = _real(bias, _step_of(tensors[4], tensors[2]))
        name = choice(schema.ActivationFunctionType, fused_activation_function)
        if name != "NONE" and (name != "RELU" or _grid(node.outputs[0]).zero_point[0] != -128):
            raise unsupported(f"its kernel of integers leaves out its activation {name}, which isn't their range")
        function = function_of(0)
    else:
        new = _numbers(node).product(x, features)
    new = _rounded_as(tensors[4], new)
    kept = lib.reshape(state, shape=(x.shape[0], filters, memory))
    kept = s.concat((s.slice_axis(kept, 2, 1, None), s.unsqueeze(new, (2,))), 2)
    weighed = s.reduce(kept * s.unsqueeze(time, (0,)), "sum", (2,), keep=False)
    out = s.reduce(s.ungroup(weighed, 1, (-1, rank)), "sum", (2,), keep=False)
    out = out if bias is None else out + bias
    return Stateful((function(out),), {4: _kept(node, 4, lib.reshape(kept, shape=state.shape))})


def _rounded_as(tensor: Tensor | None, x: Value) -> Value:
    """Real numbers that are integers of a tensor, if that is quantized."""
    if tensor is None or not is_quantized(tensor):
        return x
    return dequantized(quantized(x, _grid(tensor), tensor, DTYPES[tensor.kind]), _grid(tensor))
