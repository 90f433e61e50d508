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


def _network(
    op: str, kinds: int, how: dict[str, Any], batch: tuple[int, ...] = (2,)
) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    """What builds the value, what torch does, and the shapes: 5 steps, 3 inputs, 4 hidden."""
    names = {"layers": "num_layers", "biases": "bias"}
    module = _MODULES[op](3, 4, **{names.get(k, k): v for k, v in how.items()})
    own = {k: v for k, v in how.items() if k != "proj_size"}
    weights = [p for ws in module.all_weights for p in ws]
    states = how["layers"] * (2 if how["bidirectional"] else 1)
    x = (*batch, 5, 3) if how["batch_first"] else (5, *batch, 3)
    initial = [(states, *batch, how.get("proj_size", 4)), (states, *batch, 4)][:kinds]
    shapes = [x, *initial, *[tuple(w.shape) for w in weights]]

    @torch.no_grad()
    def function(x: torch.Tensor, *rest: torch.Tensor) -> Any:
        module.to(x.dtype)
        for w, value in zip(weights, rest[kinds:], strict=True):
            w.copy_(value)
        first = [t.reshape(t.shape[0], -1, t.shape[-1]) for t in rest[:kinds]]
        at = 0 if how["batch_first"] else 1
        rows = x.reshape(*x.shape[:at], -1, *x.shape[at + len(batch) :])
        out, last = module(rows, first if kinds > 1 else first[0])
        last = [t.reshape(t.shape[0], *batch, t.shape[-1]) for t in (last if kinds > 1 else (last,))]
        return (out.reshape(*x.shape[:-1], out.shape[-1]), *last)

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
for _batch, _first in product(((), (2, 3)), (False, True)):
    _how = {"layers": 2, "bidirectional": True, "batch_first": _first, "biases": True}
    for _op, _kinds in (("lstm", 2), ("gru", 1), ("rnn", 1)):
        _build, _function, _shapes = _network(_op, _kinds, _how, _batch)
        SAMPLES += sampled(_op, f"batch {list(_batch)}{' first' if _first else ''}", _build, _shapes, _function,
                           ("f64", "f32"))  # fmt: skip
