"""Networks whose state moves, with a dimension more, one less, and at other sizes: the buffers stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import AxisError


class Stateful(nn.Module):
    """A function of a module and x, with buffers of several shapes."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("level", torch.ones(()))
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("row", torch.zeros(4))
        self.register_buffer("last", torch.zeros(4, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def level(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.level.add_(x.mean())
    return x * (m.level + 1)


def largest(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.level = torch.maximum(m.level, x.abs().max())
    return x / m.level


def average(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.average.lerp_(x.mean(0), 0.1)
    return x - m.average


def last(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.last.copy_(x * 2)
    return x * 3


def row(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.row.copy_(x[:, 0])
    return x * 3


def norm(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.norm(x)


def count(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.count += 2
    return x * m.count


def decay(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.average.mul_(0.5).add_(1)
    return x + m.average


X = torch.arange(12.0).reshape(4, 3) / 7 - 0.5


def of(function: Callable[[Any, torch.Tensor], Any]) -> td.TensorDAG:
    return td.from_torch(Stateful(function).train(), X)


@pytest.mark.parametrize(
    ("function", "buffer"),
    [
        (level, "level"),
        (largest, "level"),
        (average, "average"),
        (last, "last"),
        (row, "row"),
        (norm, "norm.running_mean"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_buffer_that_sees_the_new_dimension_is_refused(function: Any, buffer: str, axis: int) -> None:
    with pytest.raises(AxisError, match=rf"(?s)buffer '{buffer}'.*\.py:\d+\).*every entry.*eval\(\)"):
        of(function).batch(2, axis=axis)


@pytest.mark.parametrize("function", [count, decay])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_buffer_that_moves_by_itself_has_no_new_dimension(function: Any, axis: int) -> None:
    net, new = Stateful(function), of(function).batch(2, axis=axis).to_torch(copy=True)
    xs = torch.stack([X, X + 1], axis)
    for _ in range(2):  # the state goes on
        want = net(xs.movedim(axis, 0))
        assert torch.allclose(new(xs), want.movedim(0, axis))
        state = net.state_dict()
        assert all(torch.equal(t, state[n]) for n, t in new.state_dict().items() if n in ("count", "average"))


def test_a_norm_in_eval_mode_has_no_state_that_moves() -> None:
    net = Stateful(norm).eval()
    xs = torch.stack([X, X + 1])
    assert torch.allclose(td.from_torch(net, X).batch(2).to_torch()(xs), torch.stack([net(x) for x in xs]))


def test_only_what_depends_on_a_batched_input_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("level", torch.zeros(()))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.level.add_(y.sum())
            return x * self.level

    dag = td.from_torch(Two(), (X, X))
    new = dag.batch(2, inputs=["x"]).to_torch(copy=True)
    assert torch.allclose(new(torch.stack([X, X]), X), torch.stack([X, X]) * X.sum())
    with pytest.raises(AxisError, match="buffer 'level'"):
        dag.batch(2, inputs=["y"])


@pytest.mark.parametrize(("function", "buffer"), [(last, "last"), (row, "row")])
def test_a_buffer_that_carries_the_axis_is_refused(function: Any, buffer: str) -> None:
    dag = of(function)
    for change in (lambda: dag.unbatch("b"), lambda: dag.resize(b=8, assume=True)):
        with pytest.raises(AxisError, match=f"buffer '{buffer}'.*would become"):
            change()


@pytest.mark.parametrize("function", [level, largest, average, norm])
def test_a_buffer_that_contracts_the_axis_is_refused_without_it(function: Any) -> None:
    dag = of(function)
    with pytest.raises(AxisError, match="not only carried"):
        dag.unbatch(input="x", axis=0)


@pytest.mark.parametrize("function", [count, decay])
def test_a_buffer_that_moves_by_itself_lets_the_axis_go(function: Any) -> None:
    net, new = Stateful(function), of(function).unbatch("b").to_torch(copy=True)
    assert torch.allclose(new(X[0]), net(X)[0])
