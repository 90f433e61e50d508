"""Random numbers drawn outside of torch: they stay as they were, which is told with the lines."""

import random
from collections.abc import Callable
from random import uniform
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td

X = torch.ones(2, 3)


class Drawing(nn.Module):
    """A network that holds generators, and computes a function of itself and its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)
        self.old = np.random.RandomState(0)
        self.own = [random.Random(0)]
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _skipped(m: Any, x: torch.Tensor) -> torch.Tensor:
    if random.random() < 2:
        return x * 2
    return x


DRAWS: dict[str, tuple[Callable[..., Any], str]] = {
    "number": (lambda m, x: x * random.random(), "Python's random"),
    "condition": (_skipped, "Python's random"),
    "imported by name": (lambda m, x: x * uniform(0, 1), "Python's random"),
    "choice": (lambda m, x: x * random.choice([2.0, 3.0]), "Python's random"),
    "numpy": (lambda m, x: x * float(np.random.rand()), "numpy.random"),
    "numpy array": (lambda m, x: x + torch.from_numpy(np.random.randn(2, 3)).float(), "numpy.random"),
    "numpy's generator": (lambda m, x: x * m.generator.random(), r"generator \(of numpy\)"),
    "numpy's old generator": (lambda m, x: x * m.old.rand(), r"old \(of numpy\)"),
    "Python's generator": (lambda m, x: x * m.own[0].random(), r"own.0 \(a random.Random\)"),
}


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", list(DRAWS))
def test_numbers_drawn_outside_of_torch_are_told(name: str, via: Any) -> None:
    function, source = DRAWS[name]
    net = Drawing(function)
    before = random.getstate(), np.random.get_state()[2], net.generator.bit_generator.state, net.old.get_state()[2]
    own = net.own[0].getstate()
    where = rf"random numbers outside of torch.*{source} at .*test_draws.py:\d+: .*Draw them with torch"
    with pytest.warns(UserWarning, match=where) as told:
        dag = td.from_torch(net, X, via=via)
    assert len(told) == 1
    after = random.getstate(), np.random.get_state()[2], net.generator.bit_generator.state, net.old.get_state()[2]
    assert after == before
    assert own == net.own[0].getstate()
    torch.testing.assert_close(dag.to_torch()(X), net(X))  # the numbers that come next, which import left there


@pytest.mark.parametrize("via", ["export", "trace"])
def test_torchs_own_random_numbers_are_drawn_anew(via: Any) -> None:
    dag = td.from_torch(Drawing(lambda m, x: x + torch.rand(2, 3)), X, via=via)
    assert not torch.equal(dag.to_torch()(X, seed=1), dag.to_torch()(X, seed=2))


def _helper() -> float:
    return 1.0


def test_a_draw_after_a_call_is_at_the_line_of_the_call() -> None:
    with pytest.warns(UserWarning, match=r"lambda m, x: x \* _helper\(\) \* random"):
        td.from_torch(Drawing(lambda m, x: x * _helper() * random.random()), X)


def test_every_line_is_named() -> None:
    def twice(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = x * random.random()
        x = x + 1
        return x * random.random()

    with pytest.warns(UserWarning, match=r"x = x \* random.random\(\), .*return x \* random.random\(\)\. Draw"):
        td.from_torch(Drawing(twice), X)
