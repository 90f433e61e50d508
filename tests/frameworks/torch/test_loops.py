"""Loops over lists of modules come back as loops: a module of a list may be taken out, put in or exchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tdagger as td


class Layer(nn.Module):
    """Gives one tensor, or two if it is given ``more``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor, more: Tensor | None = None) -> Any:
        y = self.linear(x) * scale
        return y if more is None else (y, (y + more).tanh())


class Network(nn.Module):
    """Three layers in a list, called as a function says."""

    def __init__(self, function: Callable[[Network, Tensor], Any], container: type[nn.Module] = nn.ModuleList) -> None:
        super().__init__()
        layers = [Layer() for _ in range(3)]
        self.layers: Any = nn.ModuleList(layers) if container is nn.ModuleList else nn.Sequential(*layers)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def threaded(net: Network, x: Tensor) -> Tensor:
    scale = x.mean(1, keepdim=True)
    for layer in net.layers:
        x = layer(x, scale)
    return x * scale


def beside_what_it_began_with(net: Network, x: Tensor) -> Tensor:
    before = start = x.exp()
    for layer in net.layers:
        x = layer(x, before)
        start = layer(start, before)
    return x + start + before


def two(net: Network, x: Tensor) -> Tensor:
    more = x * 2
    scale = x.cos()
    for layer in net.layers:
        x, more = layer(x, scale, more)
    return x + more * scale


def twice(net: Network, x: Tensor) -> Tensor:
    scale = x.cos()
    for _ in range(2):
        for layer in net.layers:
            x = layer(x, scale)
    return x


def of_a_constant(net: Network, x: Tensor) -> Tensor:
    x = x.reshape(-1, 4)
    for layer in net.layers:
        x = layer(x, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return x


def same(module: nn.Module, net: nn.Module) -> None:
    """The same of the same numbers, and the same gradients."""
    x = torch.randn(5, 4)
    want, got = (m(x) for m in (module, net))
    torch.testing.assert_close(got, want)
    names = [n for n, _ in module.named_parameters()]
    grads = [
        torch.autograd.grad(y.square().sum(), [m.get_parameter(n) for n in names])
        for m, y in ((module, want), (net, got))
    ]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("container", [nn.ModuleList, nn.Sequential])
@pytest.mark.parametrize("function", [threaded, two, twice, of_a_constant])
def test_a_loop_comes_back_as_one(function: Callable[..., Any], container: type[nn.Module]) -> None:
    module = Network(function, container)
    net = td.from_torch(copy.deepcopy(module), torch.randn(2, 4)).to_torch()
    assert "for layer in self.layers:" in net.code
    same(module, net)
    more = Layer()
    for m in (module, net):
        del m.layers[1]
    same(module, net)
    for m in (module, net):
        m.layers.append(copy.deepcopy(more))
        m.layers[0] = copy.deepcopy(more)
    same(module, net)


def collected(net: Network, x: Tensor) -> Tensor:
    found = [x]
    for layer in net.layers:
        found.append(layer(found[-1], x))
    return torch.stack(found).sum(0)


def of_its_own(net: Network, x: Tensor) -> Tensor:
    for i, layer in enumerate(net.layers):
        x = layer(x, x.new_full((4,), i + 1.0) + x[0])
    return x


def backwards(net: Network, x: Tensor) -> Tensor:
    for layer in reversed(net.layers):
        x = layer(x, x)
    return x


def skipped(net: Network, x: Tensor) -> Tensor:
    for layer in net.layers[:2]:
        x = layer(x, x)
    return x


@pytest.mark.parametrize("function", [collected, of_its_own, backwards, skipped, beside_what_it_began_with])
def test_what_is_no_loop_is_called_by_number(function: Callable[..., Any]) -> None:
    module = Network(function)
    net = td.from_torch(module, torch.randn(2, 4)).to_torch()
    assert "for layer" not in net.code
    x = torch.randn(2, 4)
    torch.testing.assert_close(net(x), module(x))


def test_scripts_and_traces_of_loops() -> None:
    module = Network(two)
    net = td.from_torch(module, torch.randn(2, 4)).to_torch()
    x = torch.randn(2, 4)
    tools: Any = torch
    made = [tools.jit.script(net), tools.jit.trace(net, (x,)), tools.fx.symbolic_trace(net), copy.deepcopy(net)]
    made.append(tools.compile(net, backend="eager", fullgraph=True))
    for other in made:
        torch.testing.assert_close(other(x), module(x))


def test_names_of_loops_are_no_other_s() -> None:
    """A list called ``mins`` may not hide ``min``, nor ``words`` an input that is called so."""

    class Names(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mins = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
            self.words = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

        def forward(self, word: Tensor) -> Tensor:
            x = word
            for layer in (*self.mins, *self.words):
                x = layer(x)
            return x + word

    module = Names()
    net = td.from_torch(module, torch.randn(2, 4)).to_torch()
    assert "for layer in self.mins:" in net.code
    assert "for word_ in self.words:" in net.code
    x = torch.randn(3, 4)
    torch.testing.assert_close(net(x), module(x))
