"""Decompositions of torch's are compared with the ops themselves; those that differ aren't taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import tdagger as td
from tdagger.frameworks.torch.aten import RULES, calls, decompositions
from tdagger.frameworks.torch.aten.decompositions import Spec, disagreement

aten: Any = torch.ops.aten


def _twice(x: Tensor, dim: int = 0) -> Tensor:
    return x + x


def _fails(x: Tensor) -> Tensor:
    raise ValueError("no such thing")


def test_a_right_decomposition_is_taken() -> None:
    table = {aten.silu.default: lambda x: x * x.sigmoid()}
    assert disagreement(aten.silu.default, (Spec((3, 4), torch.float32),), {}, table) == ""


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda x: x * x.sigmoid() + 0.01, "other values"),
        (lambda x: (x * x.sigmoid())[:1], "other values"),
        (lambda x: (x * x.sigmoid()).double(), "other values"),
        (_fails, r"fails \(ValueError: no such thing\)"),
    ],
)
def test_a_wrong_one_is_found(wrong: Callable[..., Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompositions, "_found", {})
    found = disagreement(aten.silu.default, (Spec((3, 4), torch.float32),), {}, {aten.silu.default: wrong})
    assert re.search(why, found)


def test_it_is_compared_once_for_each_kind_of_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompositions, "_found", {})
    ran: list[int] = []

    def own(x: Tensor) -> Tensor:
        ran.append(x.numel())
        return x * x.sigmoid()

    for shape in ((3, 4), (5, 6), (1000, 1000), (3, 1), (0, 4), (4,)):
        for dtype in (torch.float32, torch.bfloat16):
            disagreement(aten.silu.default, (Spec(shape, dtype),), {}, {aten.silu.default: own})
    # (3, 4), (5, 6) and (1000, 1000) are one kind; two draws for each
    assert ran == [12, 12] * 2 + [3, 3] * 2 + [0, 0] * 2 + [4, 4] * 2


def test_large_calls_are_compared_on_few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompositions, "_found", {})
    seen: list[Any] = []

    def own(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x * x.sigmoid()

    disagreement(aten.silu.default, (Spec((1 << 20, 1 << 20), torch.float32),), {}, {aten.silu.default: own})
    assert seen == [(5, 5)] * 2


def test_what_cannot_be_compared_is_taken() -> None:
    x = Spec((3,), torch.float32)
    assert disagreement(aten.bernoulli.p, (x, 0.5), {}, {aten.bernoulli.p: _twice}) == ""
    assert disagreement(aten.mm.default, (x, x), {}, {aten.mm.default: _twice}) == ""  # the kernel refuses it


class _WeightNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, v: Tensor, g: Tensor) -> Tensor:
        return torch._weight_norm(v, g, self.dim)


def test_an_op_whose_decomposition_is_wrong_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "_weight_norm")
    monkeypatch.delitem(RULES, "_weight_norm_interface")
    calls.plan_of.cache_clear()
    calls._without_own_rule.cache_clear()
    try:
        with pytest.raises(td.UnsupportedError, match=r"aten._weight_norm: torch's decomposition of it gives other va"):
            td.from_torch(_WeightNorm(0), (torch.ones(4), torch.ones(4)))
        v, g = torch.randn(3, 4), torch.ones(3, 1)
        back = td.from_torch(_WeightNorm(0), (v, g)).to_torch()  # of two axes it is right
        torch.testing.assert_close(back(v, g), _WeightNorm(0)(v, g))
    finally:
        calls.plan_of.cache_clear()
        calls._without_own_rule.cache_clear()


SHAPES = ((4,), (1,), (3, 4), (2, 3, 4), (2, 1, 3))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *[(torch.float32, s) for s in SHAPES],
        (torch.float64, (3, 4)),
        (torch.bfloat16, (4,)),
        (torch.bfloat16, (2, 3, 4)),
    ],
)
def test_weight_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(shape, generator=generator).to(dtype)
    for dim in sorted({0, len(shape) - 1, -1}):
        sizes = [1] * len(shape) if dim == -1 else [n if i == dim else 1 for i, n in enumerate(shape)]
        g = torch.rand(sizes, generator=generator).to(dtype)
        module = _WeightNorm(dim)
        back = td.from_torch(module, (v, g)).to_torch()
        torch.testing.assert_close(back(v, g), module(v, g))
        got, want = ([t.clone().requires_grad_() for t in (v, g)] for _ in range(2))
        back(*got).float().square().sum().backward()
        module(*want).float().square().sum().backward()
        tolerance = {"rtol": 5e-2, "atol": 5e-2} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close([t.grad for t in got], [t.grad for t in want], **tolerance)


def _layer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made: dict[str, Callable[[], nn.Module]] = {
        "layer norm": lambda: parametrizations.weight_norm(nn.LayerNorm(5), "weight"),
        "prelu": lambda: parametrizations.weight_norm(nn.PReLU(5)),
        "bias": lambda: parametrizations.weight_norm(nn.Linear(5, 5), "bias"),
        "batch norm": lambda: parametrizations.weight_norm(nn.BatchNorm1d(5), "weight"),
        "one norm": lambda: parametrizations.weight_norm(nn.Linear(5, 3), dim=None),  # pyright: ignore
        "columns": lambda: parametrizations.weight_norm(nn.Linear(5, 3), dim=1),
        "rows": lambda: parametrizations.weight_norm(nn.Linear(5, 3)),
    }
    return made[kind]().eval()


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("kind", ["layer norm", "prelu", "bias", "batch norm", "one norm", "columns", "rows"])
def test_layers_with_weight_norm(kind: str, via: Any) -> None:
    layer = _layer(kind)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.linspace(-2, 3, p.numel()).reshape(p.shape))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    dag = td.from_torch(layer, x, via=via)
    torch.testing.assert_close(dag.to_torch()(x), layer(x))
    torch.testing.assert_close(torch.from_numpy(dag.run(x.numpy())), layer(x).detach())
