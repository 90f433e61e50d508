"""What is written through detach() or .data changes the value, and autograd sees none of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tdagger as td


def doubled(y: torch.Tensor) -> torch.Tensor:
    y.detach().mul_(2)
    return y


def data(y: torch.Tensor) -> torch.Tensor:
    y.data.mul_(2)
    return y


def column(y: torch.Tensor) -> torch.Tensor:
    y.detach()[:, 0] = 3
    return y


def view(y: torch.Tensor) -> torch.Tensor:
    y[:, 1:].detach().zero_()
    return y


def assigned(y: torch.Tensor) -> torch.Tensor:
    y.data = y.data * 2
    return y


def both(y: torch.Tensor) -> torch.Tensor:
    d = y.detach()
    d.mul_(2)
    return y + d


class Net(torch.nn.Module):
    def __init__(self, write: Callable[..., Any]) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.write(F.silu(x))


@pytest.mark.parametrize("write", [doubled, data, column, view, assigned, both])
def test_the_gradient_is_that_of_what_was_there(write: Callable[..., Any]) -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
    net = Net(write)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in (net, td.from_torch(net, x).to_torch()):
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        out.backward(torch.arange(1.0, 7.0).reshape(2, 3))
        assert leaf.grad is not None
        found.append((out.detach(), leaf.grad))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])
