"""Layers as two of less rank: exact at full rank, targets met, real layers, better on data where data is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import AttributeValueError, InputError


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, dilation=2, bias=False), nn.ReLU(),
        nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=2), nn.Flatten(), nn.Linear(64 * 4, 48), nn.ReLU(),
        nn.Linear(48, 96), nn.Linear(96, 10),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def x() -> Any:
    torch.manual_seed(1)
    return torch.rand(8, 3, 16, 16)


@pytest.fixture(scope="module")
def dag(x: Any) -> Any:
    return td.from_torch(model(), x)


def off(small: Any, dag: Any, x: Any) -> float:
    with torch.no_grad():
        y = dag.to_torch()(x)
        return float((small.to_torch()(x) - y).norm() / y.norm())


def test_a_matrix_of_low_rank_is_kept(x: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32 * 64, 40))
    with torch.no_grad():
        for layer, rank in ((net[0], 4), (net[2], 5)):
            w = layer.weight.reshape(len(layer.weight), -1)
            w.copy_(torch.rand(len(w), rank) @ torch.rand(rank, w.shape[1]))
    dag = td.from_torch(net.eval(), x)
    small = dag.low_rank(energy=1 - 1e-9)
    assert {n: w.shape[0] for n, w in small.weights.items() if n.endswith(".0.weight")} == {
        "0.0.weight": 4, "2.0.weight": 5
    }  # fmt: skip
    assert off(small, dag, x) < 1e-5
    assert off(dag.low_rank(energy=1 - 1e-9, data=dag.measure([x], products=True)), dag, x) < 1e-5


@pytest.mark.parametrize("what", ["flops", "params"])
@pytest.mark.parametrize("part", [0.75, 0.5])
def test_targets_are_met(dag: Any, what: str, part: float) -> None:
    small = dag.low_rank(**{what: part})
    costs = {
        "flops": small.graph.total_flops() / dag.graph.total_flops(),
        "params": sum(w.size for w in small.weights.values()) / sum(w.size for w in dag.weights.values()),
    }
    assert part * 0.98 <= costs[what] <= part


def test_they_are_layers_and_train(dag: Any, x: Any) -> None:
    small = dag.low_rank(rank={"2": 8, "7": 0.25, "9": 48})
    net = small.to_torch()
    assert str(net[2]) == (
        "Sequential(\n  (0): Conv2d(16, 8, kernel_size=(3, 3), stride=(1, 1), dilation=(2, 2), bias=False)\n"
        "  (1): Conv2d(8, 64, kernel_size=(1, 1), stride=(1, 1), bias=False)\n)"
    )
    assert [type(m) for m in net[7]] == [nn.Linear, nn.Linear]
    assert net[7][0].out_features == 12
    assert isinstance(net[9], nn.Linear)  # 48 of 48 saves nothing
    assert isinstance(net[5], nn.Conv2d)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    np.testing.assert_array_equal(small.weights["7.1.bias"], dag.weights["7.bias"])


def test_data_tells_what_matters(dag: Any, x: Any) -> None:
    data = dag.measure([x], products=True)
    plain, aware = (dag.low_rank(rank=0.2, data=d) for d in (None, data))
    assert plain.graph.total_flops() == aware.graph.total_flops()
    assert off(aware, dag, x) < 0.5 * off(plain, dag, x)


def test_products_are_of_what_a_convolution_sees(dag: Any, x: Any) -> None:
    found = dag.measure([x], products=True).layers["0.weight"]
    rows = nn.functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).reshape(-1, 27).double()
    np.testing.assert_allclose(found.products, (rows.T @ rows / len(rows)).numpy(), rtol=1e-6)


def test_tied_and_shared_weights_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid, self.head = nn.Embedding(32, 16), nn.Linear(16, 16), nn.Linear(16, 32, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, i: Any) -> Any:
            return self.head(self.mid(self.mid(self.embed(i))))

    dag = td.from_torch(Tied().eval(), torch.tensor([[1, 2]]))
    assert dag.low_rank(rank=1).graph == dag.graph


def test_without_weights_a_rank_can_be_asked() -> None:
    w, b = td.parameter("fc.weight", (64, 64)), td.parameter("fc.bias", (64,))
    x = td.input("x", (1, 64))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(x, w, b)}))
    assert dag.low_rank(rank=4).graph.total_flops() < dag.graph.total_flops() / 4
    with pytest.raises(InputError, match=r"'fc.weight' has no data; plan with rank="):
        dag.low_rank(energy=0.5)


@pytest.mark.parametrize(
    ("how", "says"),
    [({}, "give one of"), ({"flops": 0.5, "rank": 3}, "give one of"), ({"flops": 0.01}, "can't become"),
     ({"energy": 2.0}, "up to 1"), ({"rank": -1}, "is to be -1"), ({"rank": 2, "keep": ["none"]}, "is called 'none'")],
)  # fmt: skip
def test_refusals(dag: Any, how: Any, says: str) -> None:
    with pytest.raises(AttributeValueError, match=says):
        dag.low_rank(**how)


def test_data_without_products_is_refused(dag: Any, x: Any) -> None:
    with pytest.raises(InputError, match="products=True"):
        dag.low_rank(flops=0.5, data=dag.measure([x]))
