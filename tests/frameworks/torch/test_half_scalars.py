"""Half precision with a tensor of no axes that is wider: torch rounds it first in some ops and some orders only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
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


class ByNumber(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.function(x, y)


def as_numpy(t: torch.Tensor) -> Any:
    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if t.dtype is torch.bfloat16 else t.numpy()


#: Ops of half precision and a number; whether a sum may be nearly 0, where numpy is many ulps away.
NUMBERS: dict[str, tuple[Callable[..., Any], bool]] = {
    "mul": (lambda x, y: x * 1.3, False),
    "rmul": (lambda x, y: 1.3 * x, False),
    "mul_whole": (lambda x, y: x * 4099, False),
    "mul_": (lambda x, y: x.clone().mul_(1.3), False),
    "div": (lambda x, y: x / 1.3, False),
    "rdiv": (lambda x, y: 1.3 / x, False),
    "floor_divide": (lambda x, y: x // 0.3, False),
    "trunc_divide": (lambda x, y: torch.div(x, 1.3, rounding_mode="trunc"), False),
    "add": (lambda x, y: x + 1.3, False),
    "sub": (lambda x, y: x - 1.3, False),
    "rsub": (lambda x, y: 1.3 - x, False),
    "add_alpha": (lambda x, y: torch.add(x, y, alpha=1.3), True),
    "sub_alpha": (lambda x, y: torch.sub(x, y, alpha=1.3), True),
    "rsub_alpha": (lambda x, y: torch.rsub(x, y, alpha=1.3), True),
    "pow": (lambda x, y: x.abs() ** 1.3, False),
    "remainder": (lambda x, y: x % 1.3, False),
    "fmod": (lambda x, y: torch.fmod(x, 1.3), False),
    "less": (lambda x, y: x < 1.3, False),
    "where": (lambda x, y: torch.where(x > y, x, 1.3), False),
    "clamp": (lambda x, y: x.clamp(-0.3, 1.3), False),
    "lerp": (lambda x, y: torch.lerp(x, y, 1.3), True),
    "addcmul": (lambda x, y: torch.addcmul(x, x, y, value=1.3), True),
    "round": (lambda x, y: torch.round(x, decimals=1), False),
    "round_whole": (lambda x, y: torch.round(x, decimals=-1), False),
}

#: What is written with other kernels than eager's.
OTHER_KERNELS = ("lerp", "addcmul", "round", "round_whole", "rdiv")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_rounded_where_torch_rounds_it(name: str, dtype: torch.dtype) -> None:
    function, cancels = NUMBERS[name]
    generator = torch.Generator().manual_seed(0)
    # 1024 entries: of the last few that fill no vector, torch rounds alpha * y by itself
    x, y = ((torch.randn(1024, generator=generator) * 3).to(dtype) for _ in range(2))
    net = ByNumber(function)
    dag = td.from_torch(net, (x, y))
    got, want = dag.to_torch()(x, y), net(x, y)
    found = torch.as_tensor(dag.run(as_numpy(x), as_numpy(y)).astype(np.float64))
    step = torch.finfo(dtype).eps
    near = {"rtol": step, "atol": step / 8 if cancels else 0}
    assert got.dtype is want.dtype
    assert torch.allclose(got.double(), want.double(), **near) if name in OTHER_KERNELS else torch.equal(got, want)
    assert torch.allclose(found, want.double(), **near)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [torch.add, torch.sub, torch.rsub])
def test_alpha_is_rounded_beside_a_number(function: Callable[..., Any], dtype: torch.dtype) -> None:
    x = (torch.arange(1024.0) * 0.037 - 12).to(dtype)
    net = ByNumber(lambda x, y: function(x, 0.7, alpha=1.3))
    got, want = td.from_torch(net, (x, x)).to_torch()(x, x), net(x, x)
    step = torch.finfo(dtype).eps
    assert torch.allclose(got.double(), want.double(), rtol=step, atol=step / 8)


def test_the_code_has_the_number_as_it_was_written() -> None:
    x = torch.ones(3, dtype=torch.bfloat16)
    code = td.from_torch(ByNumber(lambda x, y: torch.add(x * 1.3, y / 1.7, alpha=0.5)), (x, x)).to_torch().code
    assert all(text in code for text in ("x * 1.3", "y / 1.7", "alpha=0.5"))
    assert ".to(" not in code
