"""Rules of recurrent layers: sequences are ``[s b i 1 1]``, states ``[1 b h 1 1]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.coreml.layers.table import as_float, layer, mil, unsupported
from tdagger.op import Value
from tdagger.ops import structure as s
from tdagger.ops.source import const

_ACTIVATIONS = {"linear": "linear", "ReLU": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "scaledTanh": "scaled_tanh",
                "sigmoidHard": "hard_sigmoid"}  # fmt: skip
#: The numbers that an activation has in MIL's recurrent ops, where it has some; numbers that aren't set are these too.
_USUAL = {"linear": (1.0, 0.0), "scaledTanh": (1.0, 1.0), "sigmoidHard": (0.2, 0.5)}


def _activation(params: Any) -> str:
    kind = params.WhichOneof("NonlinearityType")
    if kind not in _ACTIVATIONS:
        raise unsupported(f"recurrent layers with {kind} aren't imported")
    if kind in _USUAL:
        inner = getattr(params, kind)
        given = (inner.alpha, inner.beta)
        if any(given) and any(abs(a - b) > 1e-6 for a, b in zip(given, _USUAL[kind], strict=True)):
            raise unsupported(f"recurrent layers with a {kind} of {given} aren't imported, of {_USUAL[kind]} they are")
    return _ACTIVATIONS[kind]


def _sequence(x: Value) -> Value:
    """``[s b i 1 1] -> [s b i]``."""
    y = as_float(x)
    return lib.reshape(y, shape=y.shape[:3]) if y.rank == 5 and y.shape[3:] == (1, 1) else y


def _state(x: Value | None, like: Value, size: int) -> Value:
    """``[1 b h 1 1] -> [b h]``, zeros where there is none."""
    if x is None:
        return s.broadcast_to(const(0.0, "f32"), (like.shape[1], size))
    return lib.reshape(as_float(x), shape=(like.shape[1], size))


def _back(x: Value, out: Value, state: bool = False) -> Value:
    """As the layer's input is: five axes, or three."""
    three = s.unsqueeze(out, (0,)) if state else out
    return lib.reshape(three, shape=(*three.shape, 1, 1)) if x.rank == 5 else three


def _together(w: Any, params: Any, names: Sequence[str], shape: tuple[int, ...], way: str = "") -> Value:
    """Weights one after the other; ``way`` is added to the names that they have here, each of which is one weight."""
    return s.concat([w.weight(f"{n}{way}", getattr(params, n), shape) for n in names], 0)


@layer("simpleRecurrent")
def _rnn(w: Any, p: Any, x: Value, h: Value | None = None) -> tuple[Value, ...]:
    y = _sequence(x)
    size = p.outputVectorSize
    out, last = mil(
        "rnn", y, _state(h, y, size), w.weight("weightMatrix", p.weightMatrix, (size, p.inputVectorSize)),
        w.weight("recursionMatrix", p.recursionMatrix, (size, size)),
        w.weight("biasVector", p.biasVector, (size,)) if p.hasBiasVector else None,
        direction="reverse" if p.reverseInput else "forward", output_sequence=p.sequenceOutput,
        activation=_activation(p.activation),
    )  # fmt: skip
    return _back(x, out), _back(x, last, state=True)


_GATES = ("resetGate", "outputGate", "updateGate")


@layer("gru")
def _gru(w: Any, p: Any, x: Value, h: Value | None = None) -> tuple[Value, ...]:
    y = _sequence(x)
    size = p.outputVectorSize
    ih = _together(w, p, [f"{g}WeightMatrix" for g in _GATES], (size, p.inputVectorSize))
    hh = _together(w, p, [f"{g}RecursionMatrix" for g in _GATES], (size, size))
    bias = _together(w, p, [f"{g}BiasVector" for g in _GATES], (size,)) if p.hasBiasVectors else None
    gate, last_ = (_activation(a) for a in (p.activations[0], p.activations[1]))
    out, last = mil(
        "gru", y, _state(h, y, size), ih, hh, bias, direction="reverse" if p.reverseInput else "forward",
        output_sequence=p.sequenceOutput, recurrent_activation=gate, activation=last_,
    )  # fmt: skip
    return _back(x, out), _back(x, last, state=True)


_LSTM = ("inputGate", "forgetGate", "outputGate", "blockInput")


def _lstm_weights(w: Any, params: Any, p: Any, given: Any, way: str = "") -> dict[str, Value]:
    size = p.outputVectorSize
    found = {
        "weight_ih": _together(w, given, [f"{g}WeightMatrix" for g in _LSTM], (size, p.inputVectorSize), way),
        "weight_hh": _together(w, given, [f"{g}RecursionMatrix" for g in _LSTM], (size, size), way),
    }
    if params.hasBiasVectors:
        found["bias"] = _together(w, given, [f"{g}BiasVector" for g in _LSTM], (size,), way)
    if params.hasPeepholeVectors:
        found["peephole"] = _together(w, given, [f"{g}PeepholeVector" for g in _LSTM[:3]], (size,), way)
    return found


def _settings(params: Any, activations: Sequence[Any]) -> dict[str, Any]:
    if params.coupledInputAndForgetGate:
        raise unsupported("coupled input and forget gates aren't imported")
    gate, cell, last = (_activation(a) for a in activations)
    found: dict[str, Any] = {"recurrent_activation": gate, "cell_activation": cell, "activation": last}
    if 0 < params.cellClipThreshold < 1e5:
        found["clip"] = params.cellClipThreshold
    return {**found, "output_sequence": params.sequenceOutput}


@layer("uniDirectionalLSTM")
def _lstm(w: Any, p: Any, x: Value, h: Value | None = None, c: Value | None = None) -> tuple[Value, ...]:
    y = _sequence(x)
    size = p.outputVectorSize
    found = mil(
        "lstm", y, _state(h, y, size), _state(c, y, size), **_lstm_weights(w, p.params, p, p.weightParams),
        direction="reverse" if p.reverseInput else "forward", **_settings(p.params, p.activations),
    )  # fmt: skip
    return _back(x, found[0]), *(_back(x, f, state=True) for f in found[1:])


@layer("biDirectionalLSTM")
def _both(w: Any, p: Any, x: Value, *states: Value) -> tuple[Value, ...]:
    """States are given, and come out, for each way: h, c, and those of the way back."""
    y = _sequence(x)
    size = p.outputVectorSize
    given = [_state(v, y, size) for v in states] or [_state(None, y, size)] * 4
    forward, back = (_lstm_weights(w, p.params, p, g, way) for g, way in zip(p.weightParams, ("", "_"), strict=True))
    settings = _settings(p.params, p.activationsForwardLSTM)
    if settings != _settings(p.params, p.activationsBackwardLSTM):
        raise unsupported("its two ways have different activations")
    h, c = (s.concat([given[i], given[i + 2]], 1) for i in range(2))
    out, h, c = mil(
        "lstm", y, h, c, **forward, **{f"{k}_back": v for k, v in back.items()}, direction="bidirectional", **settings
    )
    ends = [_back(x, part, state=True) for v in (h, c) for part in s.split(v, (size, size), 1)]
    return _back(x, out), ends[0], ends[2], ends[1], ends[3]
