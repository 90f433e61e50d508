"""MIL's recurrent networks in numpy, for :mod:`conformance.mil`: written from the specification of the ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _over_steps(x: Any, states: Any, step: Any, back: bool) -> Any:
    """The first state after each step in the order of x, and the last ones."""
    out = [None] * len(x)
    for t in reversed(range(len(x))) if back else range(len(x)):
        states = step(x[t], *states)
        out[t] = states[0]
    return np.stack(out), *states


def _lstm(
    x: Any, initial_h: Any, initial_c: Any, direction: str, output_sequence: Any, recurrent_activation: str,
    cell_activation: str, activation: str, **weights: Any,
) -> Any:  # fmt: skip
    assert output_sequence
    assert (recurrent_activation, cell_activation, activation) == ("sigmoid", "tanh", "tanh")
    ways = ["", "_back"] if direction == "bidirectional" else [""]
    found = []
    for k, way in enumerate(ways):
        ih, hh, bias = (weights.get(f"{n}{way}", 0.0) for n in ("weight_ih", "weight_hh", "bias"))

        def step(now: Any, h: Any, c: Any, ih: Any = ih, hh: Any = hh, bias: Any = bias) -> Any:
            i, f, o, z = np.split(now @ ih.T + h @ hh.T + bias, 4, -1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(z)
            return _sigmoid(o) * np.tanh(c), c

        states = [np.split(s, len(ways), -1)[k] for s in (initial_h, initial_c)]
        found.append(_over_steps(x, states, step, way == "_back"))
    return tuple(np.concatenate(parts, -1).astype(x.dtype) for parts in zip(*found, strict=True))


def _rnn(
    x: Any, initial_h: Any, weight_ih: Any, weight_hh: Any, direction: str, output_sequence: Any, activation: str,
    bias: Any = 0.0,
) -> Any:  # fmt: skip
    assert output_sequence
    assert direction == "forward"
    function = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[activation]
    return _over_steps(x, [initial_h], lambda now, h: (function(now @ weight_ih.T + h @ weight_hh.T + bias),), False)


RECURRENT: dict[str, Callable[..., Any]] = {"lstm": _lstm, "rnn": _rnn}
