"""Attention."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch.nn.functional as F

import tdagger as td
from tests.samples import Sample, numbers
from tests.samples.linear import INF, sampled

SAMPLES: list[Sample] = []


def _attention(**how: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    torchs = {{"causal": "is_causal", "grouped": "enable_gqa"}.get(k, k): v for k, v in how.items()}
    return (
        lambda *xs: td.scaled_dot_product_attention(*xs, **how),
        lambda *xs: F.scaled_dot_product_attention(*xs, **torchs),
    )


_SOME = numbers((4, 6), "bool", seed=3)
_SOME[1] = False  # a query that sees nothing
_ADDED = np.where(_SOME, numbers((4, 6)), np.float32(-INF))
_Q, _K, _V = (2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 5)

for _name, _shapes, _how in (
    ("plain", [_Q, _K, _V], {}),
    ("scale", [_Q, _K, _V], {"scale": 0.7}),
    ("scale 1", [_Q, _K, _V], {"scale": 1.0}),
    ("causal", [_Q, _K, _V], {"causal": True}),
    ("causal, fewer keys", [_K, _Q, _Q], {"causal": True}),
    ("mask", [_Q, _K, _V, _SOME], {}),
    ("mask per head", [_Q, _K, _V, numbers((2, 3, 4, 6), "bool")], {}),
    ("mask of keys", [_Q, _K, _V, numbers((2, 1, 1, 6), "bool")], {}),
    ("grouped", [(2, 6, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8)], {"grouped": True}),
    ("grouped, causal", [(1, 4, 5, 8), (1, 1, 5, 8), (1, 1, 5, 8)], {"grouped": True, "causal": True}),
    ("rank 3", [(3, 4, 8), (3, 6, 8), (3, 6, 8)], {}),
    ("rank 2", [(4, 8), (6, 8), (6, 8)], {}),
    ("zero batch", [(0, 3, 4, 8), (0, 3, 6, 8), (0, 3, 6, 8)], {}),
):
    SAMPLES += sampled("scaled_dot_product_attention", _name, _attention(**_how)[0], _shapes, _attention(**_how)[1])
for _dtype in ("f64", "f32", "f16", "bf16"):
    _bias = _ADDED.astype(numbers((), _dtype).dtype)
    SAMPLES += sampled("scaled_dot_product_attention", "added mask", _attention()[0], [_Q, _K, _V, _bias],
                       _attention()[1], (_dtype,))  # fmt: skip
SAMPLES += sampled("scaled_dot_product_attention", "large scores", _attention(scale=1000.0)[0], [_Q, _K, _V],
                   _attention(scale=1000.0)[1], ("f64", "f32"), ulps=4096)  # fmt: skip
