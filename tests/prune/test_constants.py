"""Constants that removal leaves, folded into what takes them: equal to the network in which they stay.

pytest tests/prune/test_constants.py -k attention
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.ops.source import parameter
from tdagger.ops.structure import Reduce
from tdagger.prune.removing.known import Known, _contracted, _pointwise, _reduced
from tests.networks import perturb
from tests.prune.test_patterns import PRUNED, network, some
from tests.quick import one_of


@pytest.mark.parametrize("name", one_of(2, PRUNED))
def test_patterns(name: str) -> None:
    """What is left equals the network with constants, but for what is named."""
    dag = network(name)
    plan = dag.prune_plan(entries=some(dag, 0), constants="fold")
    check = plan.check(framework="numpy")
    assert check.passed, (str(check), plan.why)
    assert check.exact or plan.why


def of(*layers: nn.Module, x: torch.Tensor) -> Any:
    module = nn.Sequential(*layers)
    torch.manual_seed(0)
    perturb(module)
    return td.from_torch(module.eval(), x)


IMAGE = torch.rand(2, 3, 8, 8)


def conv(i: int, o: int, bias: bool = True, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, bias=bias, **how)


#: Layers, and what is left of them after the first's units 0 and 2 go: which parameters have other numbers than before,
#: and whether that is exact.
FOLDED = {
    "linear": ((nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 4)), {"2.bias"}, True),
    "no bias yet": ((nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 4, bias=False)), {"2.bias"}, True),
    "convolution": ((conv(3, 6), nn.GELU(), conv(6, 4)), {"2.bias"}, True),
    "padded": ((conv(3, 6), nn.GELU(), conv(6, 4, padding=1)), {"2.bias"}, False),
    "reflected": ((conv(3, 6), nn.GELU(), conv(6, 4, padding=1, padding_mode="reflect")), {"2.bias"}, True),
    "padded zero": ((conv(3, 6, bias=False), nn.GELU(), conv(6, 4, padding=1)), set[str](), True),
    "norm": ((conv(3, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4)), {"3.bias"}, True),
    "norm after": (
        (conv(3, 6), nn.SiLU(), conv(6, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)), {"3.bias"}, True,
    ),
    "norm without shift": (
        (conv(3, 6), nn.SiLU(), conv(6, 4, bias=False), nn.BatchNorm2d(4, affine=False)), {"3.running_mean"}, True,
    ),
    "pooled": ((conv(3, 6), nn.SiLU(), nn.MaxPool2d(3, padding=1), nn.Conv2d(6, 4, 2)), {"3.bias"}, True),
    "upsampled": ((conv(3, 6), nn.SiLU(), nn.Upsample(scale_factor=2), conv(6, 4)), {"3.bias"}, True),
    "transposed": ((conv(3, 6), nn.SiLU(), nn.ConvTranspose2d(6, 4, 3, stride=2), conv(4, 2)), set[str](), True),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_where_it_goes(name: str) -> None:
    layers, changed, exact = FOLDED[name]
    dag = of(*layers, x=torch.rand(2, 3) if isinstance(layers[0], nn.Linear) else IMAGE)
    plan = dag.prune_plan(entries={"0": [0, 2]}, constants="fold")
    check, small = plan.check(), plan.apply()
    assert check.passed
    assert check.exact == exact == (not plan.why)
    plain = dag.prune(entries={"0": [0, 2]})
    other = {
        n for n in small.weights if n not in plain.weights or not np.array_equal(small.weights[n], plain.weights[n])
    }
    assert other == changed
    assert not any(isinstance(m, nn.ParameterList) for m in small.to_torch().modules())
    kinds = [type(m) for m in small.to_torch().children()]
    assert kinds == [type(m) for m in dag.to_torch().children()]  # layers stay layers


def test_weights_of_weights() -> None:
    """What goes inside of a weight that is made of weights, and nowhere else, counts as zero."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 7), nn.Linear(7, 3)
            self.up, self.down = nn.Parameter(torch.randn(7, 4)), nn.Parameter(torch.randn(4, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.layer.weight + 0.5 * self.up @ self.down
            return self.head(nn.functional.linear(x, weight, self.layer.bias).tanh())

    dag = td.from_torch(LowRank().eval(), torch.rand(2, 5))
    (rank,) = [g for g in dag.prunable() if g.size == 4]
    plan = dag.prune_plan(entries={rank.name: [0, 2]}, constants="fold")
    assert {str(m) for m in rank.members} == {"up[1]", "down[0]"}
    assert plan.check().exact
    assert np.array_equal(plan.apply().weights["down"], dag.weights["down"][[1, 3]])


def test_nearer_than_zeros() -> None:
    """Units that hardly change with the input go for nothing: zeros in their place would be far off."""
    first = nn.Linear(5, 8)
    with torch.no_grad():
        first.weight[:4] *= 1e-6
        first.bias[:4] = 3.0
    dag = td.from_torch(nn.Sequential(first, nn.Tanh(), nn.Linear(8, 4)).eval(), x := torch.rand(6, 5))
    with torch.no_grad():
        wanted = dag.to_torch()(x)
        small = {c: dag.prune(entries={"0": range(4)}, constants=c).to_torch() for c in ("zero", "fold")}
        off = {c: (m(x) - wanted).abs().max().item() for c, m in small.items()}
    assert off["fold"] < 1e-5 < 0.1 < off["zero"]


def test_learns_on() -> None:
    """In train mode a norm after it learns from what it did: the constant is in the bias before it."""
    module = nn.Sequential(conv(3, 6), nn.SiLU(), conv(6, 4, bias=False), nn.BatchNorm2d(4))
    perturb(module)
    plan = td.from_torch(module.train(), IMAGE).prune_plan(entries={"0": [1, 4]}, constants="fold")
    assert plan.check().exact
    small = plan.apply().to_torch().train()
    assert isinstance(small[2], nn.Conv2d)
    assert small[2].bias is not None
    small(IMAGE).square().sum().backward()
    assert small[2].bias.grad is not None


def test_without_weights() -> None:
    with torch.device("meta"):
        dag = td.from_torch(nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 4)).eval(), torch.rand(2, 3))
    plan = dag.prune_plan(entries={"0": [1]}, constants="fold")
    with pytest.raises(td.InputError, match="has a type but no data"):
        plan.apply()


def test_says_what_it_takes() -> None:
    dag = of(nn.Linear(3, 6), nn.Linear(6, 4), x=torch.rand(2, 3))
    with pytest.raises(td.AttributeValueError, match="constants are 'zero' or 'fold'"):
        dag.prune(ratio=0.5, constants="keep")


def test_a_token_that_is_known_costs_no_more_than_one_that_is_not() -> None:
    """A class token is constants, the other rows of a text aren't."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 64))
            self.first, self.hidden, self.out = nn.Linear(16, 64), nn.Linear(64, 256), nn.Linear(256, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.first(x)], 1)
            return self.out(torch.relu(self.hidden(x)))

    torch.manual_seed(0)
    plan = td.from_torch(Tokens().eval(), (torch.randn(1, 600, 16),)).prune_plan(ratio=0.5, constants="fold")
    tracemalloc.start()
    plan.apply()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.check().exact
    assert peak < 601 * 64 * 256 * 8 / 2  # half of what all products take in double precision


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_products(seed: int) -> None:
    """A contraction by matrix products knows what the sum of the products that are multiplied one by one does."""
    rng = np.random.default_rng(seed)
    shape, axes = (3, 4, 5, 2), tuple(np.flatnonzero(rng.random(4) < 0.5).tolist())

    def some_known() -> Known:
        def array(often: float) -> Any:
            wide = [n if rng.random() < 0.6 else 1 for n in shape]
            return rng.random(wide) < often

        gone, sure, edge, zero = array(0.3), array(rng.random()), array(rng.choice([0, 0.1])), array(0.3)
        number = np.where(sure & ~zero, rng.normal(size=shape), 0.0)
        less = array(rng.choice([0, 0.2])), array(rng.choice([0, 0.05]))
        missing = np.where(less[0], rng.normal(size=shape), 0.0)
        return Known(gone, sure, number, np.where(gone, 0.0, np.where(less[1], np.nan, missing)), edge)

    args = [some_known(), some_known()]
    x, y = parameter("x", shape, "f64"), parameter("y", shape, "f64")
    value = Reduce("sum", axes)(x * y)
    product = value.args[0]
    one = _contracted(value, args)
    other = _reduced(value.op, _pointwise(product.op, args), product.shape)
    for a, b in zip(one.arrays, other.arrays, strict=True):
        np.testing.assert_allclose(*np.broadcast_arrays(a, b), rtol=1e-12, atol=1e-12)


def test_a_buffer_that_becomes_a_constant_keeps_its_size() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 1), nn.Linear(6, 2)
            self.register_buffer("scale", torch.ones(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x) * self.scale[:, None, None]
            self.scale.copy_(torch.arange(6).float())
            return self.head(y.mean((2, 3)))

    found = td.from_torch(Net(), torch.randn(2, 3, 4, 4)).prunable()
    assert not list(found)
    assert "is what the buffer 'scale' becomes" in str(found)
