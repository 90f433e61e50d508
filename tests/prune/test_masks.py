"""Learned masks: gates that multiply what a plan removes, a cost that is the plan's, training, the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import AttributeValueError
from tdagger.frameworks.torch.prune.masks import LearnedMasks, Schedule
from tdagger.prune.removing.check import _masked  # what masked means


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 5),
    ).eval()  # fmt: skip


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.qkv, self.proj, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return self.head((x + self.proj(y)).mean(1))


CASES = {"conv": (small, (4, 3, 8, 8)), "attention": (Attention, (2, 5, 16))}


@pytest.fixture(params=CASES)
def dag(request: Any) -> Any:
    make, shape = CASES[request.param]
    torch.manual_seed(2)
    return td.from_torch(make(), torch.rand(shape))


def example(dag: Any) -> Any:
    torch.manual_seed(3)
    return torch.rand(next(iter(dag.graph.inputs.values())).shape)


def set_logits(learned: LearnedMasks, seed: int = 0) -> None:
    with torch.no_grad():
        numbers = np.random.default_rng(seed).permutation(np.linspace(-4, 4, len(learned.logits)))
        learned.logits.copy_(torch.from_numpy(numbers))


@pytest.mark.parametrize("gates", ["hard_concrete", "straight_through"])
@pytest.mark.parametrize("multiple_of", [1, 4])
def test_in_eval_mode_it_is_the_pruned_network(dag: Any, gates: str, multiple_of: int) -> None:
    learned = dag.learned_masks(gates=gates, multiple_of=multiple_of).eval()
    set_logits(learned)
    x = example(dag)
    plan = learned.plan()
    assert any(r.removed for r in plan.rows) or multiple_of > 1
    assert plan.check().passed
    assert not plan.why
    y = plan.apply().to_torch()(x)
    torch.testing.assert_close(learned(x), y, rtol=1e-5, atol=1e-6)
    by_name = {r.group.name: r for r in plan.rows}
    for group, step in zip(learned.tables.groups, learned.steps, strict=True):
        assert by_name[group.name].left % step == 0


def test_norms_count_what_is_zero_unless_numbers_are_kept() -> None:
    torch.manual_seed(0)

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Linear(6, 16), nn.RMSNorm(16), nn.Linear(16, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.embed(x)))

    x = torch.rand(5, 6)
    dag = td.from_torch(Stream().eval(), x)
    with pytest.raises(AttributeValueError, match="no group of Stream may lose units"):
        dag.learned_masks()
    learned = dag.learned_masks(inexact="norms").eval()
    set_logits(learned)
    plan, kept = learned.plan(), learned.plan(keep_numbers=True)
    assert plan.why
    assert plan.check().passed
    torch.testing.assert_close(kept.apply().to_torch()(x), learned(x))
    assert not torch.allclose(plan.apply().to_torch()(x), learned(x), atol=1e-3)


def test_masked_is_what_a_plan_is_checked_against(dag: Any) -> None:
    learned = dag.learned_masks(gates="straight_through").eval()
    set_logits(learned)
    plan = learned.plan()
    expected = _masked(dag, plan._applied[1])
    for name, masked in learned.parameters_masked().items():
        np.testing.assert_array_equal(masked.detach().numpy(), expected[name])


def test_expected_cost_of_sure_gates_is_the_plans(dag: Any) -> None:
    learned = dag.learned_masks(gates="straight_through").eval()
    set_logits(learned)
    plan = learned.plan()
    with torch.no_grad():
        kept = learned.gates()[:-1] > 0
        learned.logits.copy_(torch.where(kept, 60.0, -60.0))
    for name, cost in (("flops", "flops"), ("params", "parameters"), ("bytes", "bytes")):
        assert float(learned.expected(name).detach()) == pytest.approx(plan.after[cost] / plan.before[cost], rel=1e-5)


def test_expected_cost_has_the_gradient_of_its_differences(dag: Any) -> None:
    learned = dag.learned_masks()
    set_logits(learned)
    learned.expected().backward()
    grad = learned.logits.grad
    with torch.no_grad():
        learned.logits[1] += 1e-2
        more = float(learned.expected().detach())
        learned.logits[1] -= 2e-2
        less = float(learned.expected().detach())
    assert float(grad[1]) == pytest.approx((more - less) / 2e-2, rel=2e-2)


@pytest.mark.parametrize("gates", ["hard_concrete", "straight_through"])
def test_training_meets_the_target_and_learns(gates: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = (x[:, 0] * x[:, 1] > 0).long()
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    dag = td.from_torch(net.train(), x)
    learned = dag.learned_masks(gates=gates, schedule={"steps": 300}, seed=0)
    assert learned.open
    opt = torch.optim.Adam(
        [{"params": learned.network.parameters(), "lr": 0.01}, {"params": [learned.logits], "lr": 0.05}]
    )
    for _ in range(300):
        loss = nn.functional.cross_entropy(learned(x), y) + 4 * learned.penalty(flops=0.3)
        opt.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in learned.network.parameters())
        opt.step()
        learned.advance()
    assert float(learned.expected().detach()) == pytest.approx(0.3, abs=0.05)
    plan = learned.plan()
    assert plan.after["flops"] / plan.before["flops"] == pytest.approx(0.3, abs=0.1)
    pruned = plan.apply().to_torch()
    accuracy = float((pruned(x).argmax(1) == y).float().mean())
    assert accuracy > 0.9
    exact = learned.plan(flops=0.25)
    assert exact.after["flops"] / exact.before["flops"] == pytest.approx(0.25, rel=0.03)


def test_state_goes_on_where_it_was_saved() -> None:
    dag = td.from_torch(small(), torch.rand(1, 3, 8, 8))
    one, other = (dag.learned_masks(schedule=Schedule(10)) for _ in range(2))
    set_logits(one)
    for _ in range(4):
        one.advance()
    other.load_state_dict(one.state_dict())
    x = torch.rand(1, 3, 8, 8)
    assert int(other.step) == 4
    torch.testing.assert_close(one.eval()(x), other.eval()(x))


def test_the_networks_own_weights_stay() -> None:
    dag = td.from_torch(small(), torch.rand(1, 3, 8, 8))
    before = {n: np.array(w) for n, w in dag.weights.items()}
    learned = dag.learned_masks(seed=0)
    learned(torch.rand(1, 3, 8, 8)).sum().backward()
    torch.optim.SGD(learned.parameters(), 1.0).step()
    for name, data in before.items():
        np.testing.assert_array_equal(dag.weights[name], data)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"gates": "soft"}, "hard_concrete or straight_through"), ({"start": 1.0}, "between 0 and 1"),
     ({"only": ["none"]}, "no group, parameter or module")],
)  # fmt: skip
def test_refusals(options: Any, says: str) -> None:
    dag = td.from_torch(small(), torch.rand(1, 3, 8, 8))
    with pytest.raises(AttributeValueError, match=says):
        dag.learned_masks(**options)


def test_refusals_of_costs() -> None:
    learned = td.from_torch(small(), torch.rand(1, 3, 8, 8)).learned_masks()
    with pytest.raises(AttributeValueError, match="costs are flops, params, bytes, got 'time'"):
        learned.penalty(time=0.5)
    with pytest.raises(AttributeValueError, match="is no part"):
        learned.penalty(flops=2)


def test_begins_with_what_matters() -> None:
    """Units of large weights are likelier at first; what is planned without a step is what importance alone plans."""
    dag = td.from_torch(small(), torch.rand(4, 3, 8, 8))
    learned = dag.learned_masks(importance="l1")
    assert float(learned.logits.detach().std()) > 0.5
    assert abs(float(learned.chances().detach().mean()) - 0.9) < 0.1
    one = learned.plan(flops=0.5).units
    other = dag.prune_plan(flops=0.5, importance="l1", normalise="mean").units
    assert {n: u.tolist() for n, u in one.items()} == {n: u.tolist() for n, u in other.items()}


class Deep(nn.Module):
    """A stem, and blocks with two residual branches each."""

    def __init__(self, depth: int = 2, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({n: nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, width)) for n in "ab"})
            for _ in range(depth)
        )

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block["a"](x)
            x = block["b"](x) + x
        return self.head(x)


def test_branches() -> None:
    dag = td.from_torch(Deep().eval(), torch.rand(5, 4))
    names = [b.name for b in dag.branches()]
    assert names == ["blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.1.b"]
    small = dag.without_branches("blocks.0.b", "blocks.1.a")
    module, x = Deep().eval(), torch.rand(5, 4)
    wanted = module.stem(x)
    wanted = wanted + module.blocks[0]["a"](wanted)
    wanted = module.head(wanted + module.blocks[1]["b"](wanted))
    torch.testing.assert_close(small.to_torch()(x), wanted)
    with pytest.raises(td.GraphError, match="no branch"):
        dag.without_branches("stem")


@pytest.mark.parametrize("gates", ["hard_concrete", "straight_through"])
def test_gates_of_branches(gates: str) -> None:
    """A branch whose gate is 0 goes with all that is in it; what is expected is then what the plan's network costs."""
    dag = td.from_torch(Deep().eval(), torch.rand(5, 4))
    learned = dag.learned_masks(gates=gates, branches=True, seed=0).eval()
    with torch.no_grad():
        learned.logits[:] = 20.0
        learned.logits[-3:-1] = -20.0
    plan = learned.plan()
    small = plan.apply()
    assert [b.name for b in small.branches()] == ["blocks.0.a", "blocks.1.b"]
    x = torch.rand(5, 4)
    torch.testing.assert_close(small.to_torch()(x), learned(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        params = float(learned.expected("params"))
    counted = [sum(w.type.size for w in d.state.values()) for d in (small, dag)]
    assert abs(params - counted[0] / counted[1]) < 1e-5
    half = learned.plan(params=0.4)
    assert half.check().passed


class Units(nn.Module):
    """Residual units of convolutions with norms, of which the last is over fewer places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.units = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 1))
            for _ in range(3)
        )

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for unit in self.units:
            x = torch.relu(x + unit(x))
        return x.mean((2, 3))


class Transformer(nn.Module):
    """Blocks of attention and of a gated MLP, each past a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        for block, gate in zip(self.blocks, self.gates, strict=True):
            x = block(x)
            x = x + torch.sigmoid(gate(x)) * x.mean(1, keepdim=True)
        return self.head(x)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        pytest.param(Deep, (5, 4), id="linear"),
        pytest.param(Units, (2, 3, 8, 8), id="convolutions"),
        pytest.param(Transformer, (2, 6, 5), id="attention"),
    ],
)
def test_a_plan_proves_what_went_with_branches(build: Any, shape: tuple[int, ...]) -> None:
    """The network without branches is the one in which they are times 0; another one isn't."""
    torch.manual_seed(1)
    x = torch.rand(shape)
    learned = td.from_torch(build().eval(), x).learned_masks(branches=True, seed=0).eval()
    with torch.no_grad():
        learned.logits[:] = torch.linspace(-3, 3, len(learned.logits))[torch.randperm(len(learned.logits))]
        learned.logits[-1] = -20.0
    plan = learned.plan()
    assert plan.closed is not None
    assert plan.check().exact
    torch.testing.assert_close(plan.apply().to_torch()(x), learned(x), rtol=1e-4, atol=1e-5)
    other = replace(
        plan, closed=plan.closed.with_weights({n: np.ones((), np.float32) for n in learned.branch_gates[:1]})
    )
    assert not other.check().passed


def test_branches_learn() -> None:
    """One that helps stays, those that add noise alone go."""
    torch.manual_seed(0)
    module = Deep(1)
    dag = td.from_torch(module.train(), torch.rand(64, 4))
    learned = dag.learned_masks(branches=True, only=["blocks.0.a.0"], schedule={"steps": 60, "warmup": 0.0}, seed=0)
    before = learned.logits.detach()[learned._own :].clone()
    optimizer = torch.optim.Adam([learned.logits], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        learned.penalty(flops=0.3).backward()
        optimizer.step()
        learned(torch.rand(64, 4))
        learned.advance()
    assert (learned.logits.detach()[learned._own :] < before).all()
    assert float(learned.expected("flops").detach()) < 0.6


def test_a_time_has_a_gradient() -> None:
    dag = td.from_torch(Deep(1).eval(), torch.rand(64, 4))
    learned = dag.learned_masks(device="epyc-zen4-core", branches=True)
    with torch.no_grad():
        learned.logits[:] = 30.0
    assert float(learned.expected("time").detach()) == pytest.approx(1, abs=1e-4)
    learned.penalty(time=0.5, flops=0.5).backward()
    with torch.no_grad():
        learned.logits[:] = 0.0
    learned.logits.grad = None
    learned.penalty(time=0.3).backward()
    assert (learned.logits.grad > 0).all()
    with pytest.raises(td.AttributeValueError, match="needs the device"):
        dag.learned_masks().penalty(time=0.5)
