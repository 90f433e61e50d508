"""LSTM, GRU and RNN."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

import tdagger as td
from tests.samples import Sample
from tests.samples.linear import sampled

SAMPLES: list[Sample] = []
_MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def _network(op: str, kinds: int, how: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    """What builds the value, what torch does, and the shapes: 5 steps, batch 2, 3 inputs, 4 hidden."""
    names = {"layers": "num_layers", "biases": "bias"}
    module = _MODULES[op](3, 4, **{names.get(k, k): v for k, v in how.items()})
    own = {k: v for k, v in how.items() if k != "proj_size"}
    weights = [p for ws in module.all_weights for p in ws]
    states = how["layers"] * (2 if how["bidirectional"] else 1)
    x = (2, 5, 3) if how["batch_first"] else (5, 2, 3)
    initial = [(states, 2, how.get("proj_size", 4)), (states, 2, 4)][:kinds]
    shapes = [x, *initial, *[tuple(w.shape) for w in weights]]

    @torch.no_grad()
    def function(x: torch.Tensor, *rest: torch.Tensor) -> Any:
        module.to(x.dtype)
        for w, value in zip(weights, rest[kinds:], strict=True):
            w.copy_(value)
        out, last = module(x, rest[:kinds] if kinds > 1 else rest[0])
        return (out, *last) if kinds > 1 else (out, last)

    return lambda *xs: getattr(td, op)(*xs, **own), function, shapes


for _layers, _both, _first, _biases in product((1, 2), (False, True), (False, True), (True, False)):
    _how = {"layers": _layers, "bidirectional": _both, "batch_first": _first, "biases": _biases}
    _id = " ".join(f"{k}={v}" for k, v in _how.items())
    for _op, _kinds in (("lstm", 2), ("gru", 1), ("rnn", 1)):
        _build, _function, _shapes = _network(_op, _kinds, _how)
        SAMPLES += sampled(_op, _id, _build, _shapes, _function, ("f32",))
    _build, _function, _shapes = _network("lstm", 2, {**_how, "proj_size": 2})
    SAMPLES += sampled("lstm", f"projected {_id}", _build, _shapes, _function, ("f32",))

_how = {"layers": 1, "bidirectional": False, "batch_first": False, "biases": True}
for _op, _kinds in (("lstm", 2), ("gru", 1), ("rnn", 1)):
    _build, _function, _shapes = _network(_op, _kinds, _how)
    SAMPLES += sampled(_op, "plain", _build, _shapes, _function, ("f64",))
    # every step is rounded, as torch does
    SAMPLES += sampled(_op, "plain", _build, _shapes, _function, ("f16", "bf16"), ulps=16)
_build, _function, _shapes = _network("rnn", 1, {**_how, "nonlinearity": "relu"})
SAMPLES += sampled("rnn", "relu", _build, _shapes, _function, ("f64", "f32"))
