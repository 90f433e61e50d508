"""What data says: statistics of layers' inputs and importances of them, gradients, blocks left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import GraphError, InputError
from tdagger.prune.importance import obd, taylor
from tdagger.prune.statistics import activations, wanda


class Layer(nn.Module):
    def __init__(self, width: int, small: float) -> None:
        super().__init__()
        self.up, self.down, self.small = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), small

    def forward(self, x: Any, mask: Any) -> Any:
        return x + self.small * self.down(torch.relu(self.up(x))) * mask


class Stack(nn.Module):
    def __init__(self, smalls: tuple[float, ...] = (2.0, 1e-3, 2.0, 0.5)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer(8, s) for s in smalls])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any, mask: Any) -> Any:
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


@pytest.fixture(scope="module")
def args() -> Any:
    torch.manual_seed(1)
    return torch.randn(2, 5, 8), torch.ones(2, 5, 1)


@pytest.fixture(scope="module")
def dag(args: Any) -> Any:
    return td.from_torch(Stack().eval(), args)


def test_squares_are_those_of_hooks(dag: Any, args: Any) -> None:
    net, seen = Stack().eval(), {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append(i[0].detach()))
    second = (args[0] * 2, args[1])
    found = dag.measure([args, {"x": second[0], "mask": second[1]}])
    with torch.no_grad():
        net(*args), net(*second)
    assert set(found.layers) == {f"{n}.weight" for n in seen}
    for name, inputs in seen.items():
        rows = torch.cat([i.reshape(-1, i.shape[-1]) for i in inputs]).double()
        np.testing.assert_allclose(found.layers[f"{name}.weight"].squares, rows.square().mean(0), rtol=1e-5)


def test_wanda_removes_what_nothing_comes_through(dag: Any, args: Any) -> None:
    net = Stack().eval()
    with torch.no_grad():  # large weights on what is always 0
        net.layers[0].up.bias[3] = -100
        net.layers[0].down.weight[:, 3] = 50
    dag = td.from_torch(net, args)
    found = dag.measure([args])
    for importance in (activations(found),):
        plan = dag.prune_plan(ratio={"layers.0.up": 1 / 16}, importance=importance)
        assert plan.units["layers.0.up"].tolist() == [3]
    assert 3 in dag.prune_plan(ratio={"layers.0.up": 15 / 16}, importance="l1").rows[0].group.classes * 0 + 3
    score = wanda(found)
    from tdagger.prune.importance import Weighed

    group = dag.prunable()["layers.0.up"]
    up, down = (np.abs(np.asarray(dag.weights[f"layers.0.{n}.weight"])) for n in ("up", "down"))
    sizes = {n: np.sqrt(found.layers[f"layers.0.{n}.weight"].squares) for n in ("up", "down")}
    expected = (up * sizes["up"]).sum(1) + (down * sizes["down"]).sum(0)
    np.testing.assert_allclose(score(Weighed(group, dag.weights)), expected, rtol=1e-5)


def test_a_group_that_was_not_measured_is_refused(dag: Any, args: Any) -> None:
    from tdagger.prune.statistics import Statistics

    with pytest.raises(InputError, match=r"no layer that was measured .* 'layers.0.up'"):
        dag.prune_plan(flops=0.5, importance=wanda(Statistics({}, {})))
    with pytest.raises(InputError, match="no batches"):
        dag.measure([])


def test_depthwise_and_grouped_convolutions_are_measured() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 12, 1, groups=2), nn.ConvTranspose2d(12, 4, 2)
    )
    x = torch.rand(2, 3, 6, 6)
    dag = td.from_torch(net.eval(), x)
    found = dag.measure([x])
    assert [len(found.layers[f"{i}.weight"].squares) for i in range(4)] == [3, 8, 8, 12]
    for importance in (wanda(found), activations(found)):
        plan = dag.prune_plan(ratio=0.5, importance=importance)
        assert any(r.removed for r in plan.rows)
        assert plan.check().passed


class Experts(nn.Module):
    """Weights of products that are no layers: of all tokens, of each expert's own, from the left."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 6, 4))
        self.plain, self.left = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(5, 7))
        self.both = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Any) -> Any:
        h = torch.einsum("btd,edm->bemt", x, self.up).relu()
        y = torch.einsum("bemt,emd->btd", h, self.down)
        z = (self.left @ (y @ self.plain)) @ self.both
        return z @ self.both.T


def test_products_that_are_no_layers_are_measured() -> None:
    net, x = Experts().eval(), torch.randn(2, 7, 4)
    dag = td.from_torch(net, x)
    found = dag.measure([x])
    with torch.no_grad():
        h = torch.einsum("btd,edm->bemt", x, net.up).relu()
        y = torch.einsum("bemt,emd->btd", h, net.down)
    wanted = {
        "up": ((1,), x.square().mean((0, 1))),
        "down": ((0, 1), h.square().mean((0, 3))),
        "plain": ((0,), y.square().mean((0, 1))),
        "left": ((1,), (y @ net.plain).detach().square().mean((0, 2))),
    }
    assert set(found.layers) == set(wanted)  # `both` is applied along both dimensions
    for name, (axes, squares) in wanted.items():
        assert found.layers[name].axes == axes
        np.testing.assert_allclose(found.layers[name].squares, squares, rtol=1e-4)
        shape = dag.weights[name].shape
        assert np.broadcast_shapes(found.layers[name].by_entry(shape).shape, shape) == shape
    for importance in (wanda(found), activations(found)):
        assert dag.prune_plan(ratio=0.5, importance=importance, only=["up"]).check().passed


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_measured_step_by_step(kind: Any) -> None:
    torch.manual_seed(0)
    net, x = kind(4, 3, num_layers=2, batch_first=True).eval(), torch.randn(2, 5, 4)
    dag = td.from_torch(net, x)
    found = dag.measure([x])
    one, two = kind(4, 3, batch_first=True), kind(3, 3, batch_first=True)
    one.load_state_dict({n: w for n, w in net.state_dict().items() if n.endswith("l0")})
    two.load_state_dict({n.replace("l1", "l0"): w for n, w in net.state_dict().items() if n.endswith("l1")})
    with torch.no_grad():
        first = one(x)[0]
        second = two(first)[0]
    start = torch.zeros(2, 1, 3)
    seen = {
        "weight_ih_l0": x, "weight_hh_l0": torch.cat([start, first[:, :-1]], 1),
        "weight_ih_l1": first, "weight_hh_l1": torch.cat([start, second[:, :-1]], 1),
    }  # fmt: skip
    for name, value in seen.items():
        np.testing.assert_allclose(found.layers[name].squares, value.square().mean((0, 1)), rtol=1e-4)


def test_gradients_are_those_of_a_loop(dag: Any, args: Any) -> None:
    net, target = Stack().eval(), torch.randint(0, 3, (2, 5))

    def loss(y: Any, t: Any) -> Any:
        return nn.functional.cross_entropy(y.flatten(0, 1), t.flatten())

    batches = [(args, target), ({"x": args[0] * 2, "mask": args[1]}, target)]
    found, squares = dag.gradients(batches, loss), dag.gradients(batches, loss, squared=True)
    each = []
    for x in (args[0], args[0] * 2):
        each.append(torch.autograd.grad(loss(net(x, args[1]), target), list(net.parameters())))
    for (name, _), a, b in zip(net.named_parameters(), *each, strict=True):
        np.testing.assert_allclose(found[name], (a + b) / 2, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(squares[name], (a * a + b * b) / 2, rtol=1e-4, atol=1e-9)
    for importance in (taylor(found), obd(squares)):
        plan = dag.prune_plan(flops=0.6, importance=importance)
        assert plan.after["flops"] == pytest.approx(0.6 * plan.before["flops"], rel=0.05)


def test_blocks_that_change_least_are_left_out(dag: Any, args: Any) -> None:
    assert [b.path for b in dag.blocks()] == [f"layers.{i}" for i in range(4)]
    found = dag.measure([args])
    assert found.least_needed(1) == ["layers.1"]
    small = dag.without_blocks("layers.1")
    assert not [n for n in small.weights if n.startswith("layers.1.")]
    net = Stack().eval()
    del net.layers[1]
    torch.testing.assert_close(small.to_torch()(*args), net(*args))
    two = dag.without_blocks("layers.1", "layers.2")
    del net.layers[1]
    torch.testing.assert_close(two.to_torch()(*args), net(*args))
    with pytest.raises(GraphError, match=r"'layers.9' is no block that can be left out; did you mean layers"):
        dag.without_blocks("layers.9")


def test_blocks_of_a_resnet_are_those_of_one_shape() -> None:
    import timm

    dag = td.from_torch(timm.create_model("resnet18").eval(), torch.rand(1, 3, 32, 32))
    assert [b.path for b in dag.blocks()] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    small = dag.without_blocks("layer1.0", "layer3.1")
    assert small.to_torch()(torch.rand(1, 3, 32, 32)).shape == (1, 1000)
