"""Learned ranks: layers as two with gates of singular values, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(192, 32),
        nn.ReLU(), nn.Linear(32, 4),
    ).eval()  # fmt: skip


X = torch.rand(2, 3, 8, 8)


@pytest.fixture
def learned() -> Any:
    return td.from_torch(network(), X).learned_ranks(seed=0)


def test_begins_as_it_was(learned: Any) -> None:
    """Two layers of full rank are the layer, and all of them are one again where no rank goes."""
    with torch.no_grad():
        learned.logits[:] = 20.0
        torch.testing.assert_close(learned.eval()(X), network()(X), rtol=1e-4, atol=1e-5)
        assert float(learned.expected("flops")) > 1
    whole = learned.low_rank()
    assert [type(m) for m in whole.to_torch().children()] == [type(m) for m in network().children()]
    torch.testing.assert_close(whole.to_torch()(X), network()(X), rtol=1e-4, atol=1e-5)


def test_what_is_expected_is_what_it_costs(learned: Any) -> None:
    """Where every layer saves."""
    with torch.no_grad():
        learned.logits[:] = torch.where(torch.arange(len(learned.logits)) % 4 == 0, 30.0, -30.0)
        expected = {c: float(learned.expected(c)) for c in ("flops", "params")}
        small = learned.low_rank()
        torch.testing.assert_close(small.to_torch()(X), learned.eval()(X), rtol=1e-4, atol=1e-5)
    whole = td.from_torch(network(), X)
    assert small.graph.total_flops() / whole.graph.total_flops() == pytest.approx(expected["flops"], rel=0.02)
    counted = [sum(w.type.size for w in d.state.values()) for d in (small, whole)]
    assert counted[0] / counted[1] == pytest.approx(expected["params"], rel=0.02)


@pytest.mark.parametrize("what", ["flops", "params"])
def test_targets(learned: Any, what: str) -> None:
    small = learned.low_rank(**{what: 0.6})
    whole = td.from_torch(network(), X)
    costs = [
        d.graph.total_flops() if what == "flops" else sum(w.type.size for w in d.state.values()) for d in (small, whole)
    ]
    assert 0.4 < costs[0] / costs[1] <= 0.6
    with pytest.raises(td.AttributeValueError, match="can't become"):
        learned.low_rank(flops=0.001)


def test_learns(learned: Any) -> None:
    """A penalty closes gates, of small singular values first; a layer's products are trained on."""
    learned.train()
    optimizer = torch.optim.Adam(
        [{"params": learned.network.parameters(), "lr": 1e-3}, {"params": [learned.logits], "lr": 0.2}]
    )
    with torch.no_grad():
        target = network()(X)
    for _ in range(40):
        optimizer.zero_grad()
        ((learned(X) - target).square().mean() + learned.penalty(flops=0.5)).backward()
        optimizer.step()
        learned.advance()
    assert abs(float(learned.expected("flops").detach()) - 0.5) < 0.1
    small = learned.low_rank()
    torch.testing.assert_close(small.to_torch()(X), learned.eval()(X), rtol=1e-3, atol=1e-4)


def test_refused() -> None:
    dag = td.from_torch(nn.ReLU(), torch.rand(2, 3))
    with pytest.raises(td.AttributeValueError, match="no layer"):
        dag.learned_ranks()
