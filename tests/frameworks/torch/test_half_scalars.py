"""Half precision with a tensor of no axes that is wider: torch rounds it first in some ops and some orders only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tdagger as td


class Scaled(torch.nn.Module):
    def __init__(self, function: Callable[..., Any], scale: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, self.scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, s: x * s,
        lambda x, s: s * x,
        lambda x, s: x / s,
        lambda x, s: s / x,
        lambda x, s: x + s,
        lambda x, s: s - x,
        lambda x, s: torch.div(x, s, rounding_mode="trunc"),
        lambda x, s: torch.where(x > s, x, s),
        lambda x, s: x < s,
        lambda x, s: torch.maximum(x, s),
        lambda x, s: torch.addcmul(x, x, s),
        lambda x, s: x.abs() ** s,
    ],
)
def test_it_is_rounded_where_torch_rounds_it(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x = (torch.arange(1.0, 201.0) * 0.37 - 30).to(dtype)
    for scale in (torch.tensor(1.3), torch.tensor(0.7, dtype=torch.float64), torch.tensor(3)):
        net = Scaled(function, scale)
        got, want = td.from_torch(net, x).to_torch()(x), net(x)
        assert got.dtype == want.dtype
        assert torch.allclose(got.double(), want.double(), rtol=1e-5, atol=0, equal_nan=True)
