"""How much goes: what a target may be, and how importances of groups are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.prune.importance import obd, taylor
from tdagger.prune.removing.check import EQUAL, difference_of, outputs_of


@pytest.fixture
def dag() -> Any:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)]
    return td.from_torch(nn.Sequential(*layers).eval(), torch.rand(16, 8))


@pytest.mark.parametrize(("what", "as_text", "as_part"), [("flops", "50%", 0.5), ("params", "0.4", 0.4)])
def test_parts_as_text(dag: Any, what: str, as_text: str, as_part: float) -> None:
    one, other = dag.prune_plan(**{what: as_text}), dag.prune_plan(**{what: as_part})
    assert {n: u.tolist() for n, u in one.units.items()} == {n: u.tolist() for n, u in other.units.items()}


def test_numbers_as_text(dag: Any) -> None:
    plan = dag.prune_plan(params="1.5k")
    assert abs(plan.after["parameters"] - 1500) < 30


def test_a_time_below_a_second(dag: Any) -> None:
    whole = dag.predict_time("epyc-zen4-core").seconds
    plan = dag.prune_plan(time=f"{0.9 * whole * 1e6:.3f} us", device="epyc-zen4-core")
    assert plan.apply().predict_time("epyc-zen4-core").seconds <= 0.91 * whole


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "give one of flops, params, bytes, time, ratio or entries, got none"),
        ({"flops": 0.5, "time": 0.5}, "got flops, time"),
        ({"flops": "half"}, "takes a part or a number"),
        ({"time": 0.5}, "needs the device"),
    ],
)
def test_refused(dag: Any, how: dict[str, Any], says: str) -> None:
    with pytest.raises(td.AttributeValueError, match=says):
        dag.prune_plan(**how)


@pytest.mark.parametrize("global_", [True, False])
def test_large_units_and_small_ones(global_: bool) -> None:
    """A large unit that would be too much stays, and small ones that matter more go instead."""
    layers = [nn.Linear(100, 5), nn.ReLU(), nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 2)]
    dag = td.from_torch(nn.Sequential(*layers).eval(), torch.rand(2, 100))
    sizes = {g.name: g.parameters for g in dag.prunable()}
    assert sizes == {"0": 141, "2": 8}

    def large_first(group: Any) -> Any:
        return np.arange(group.size) + (100 if group.group.name == "2" else 0)

    for left in (0.9, 0.8, 0.65, 0.5, 0.35):
        plan = dag.prune_plan(params=left, importance=large_first, normalise="none", global_=global_)
        assert abs(plan.after["parameters"] / plan.before["parameters"] - left) < 0.005
        if global_ and left == 0.65:  # the third large one would be too much
            assert {r.group.name: r.removed for r in plan.rows}["0"] == 2


def like(importances: dict[str, Any]) -> Any:
    """An importance of given numbers, by the group's name; of others all are alike."""
    return lambda group: np.asarray(importances.get(group.group.name, np.ones(group.size)), float)


class Beside(nn.Module):
    """Two layers beside one another, a unit of which holds 12 numbers, and 44."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(n, 64, False), nn.ReLU(), nn.Linear(64, 4, False)) for n in (8, 40))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x[:, :8]) + self.b(x)


#: By what is lost over what is freed, and by importance alone.
HOW: tuple[dict[str, Any], ...] = ({}, {"normalise": "none"})


def test_groups_lose_what_costs_most() -> None:
    """Where all units are alike, one unit's part of its group over what it frees is the same in all groups."""
    dag = td.from_torch(Beside().eval(), torch.rand(16, 40))
    one, other = (
        {r.group.name: r.left for r in dag.prune_plan(params=0.3, importance=like({}), **how).rows} for how in HOW
    )
    assert 12 * one["a.0"] == pytest.approx(44 * one["b.0"], rel=0.1)
    assert other["a.0"] < one["b.0"]


def test_no_group_is_emptied() -> None:
    """What a group has lost makes what is left of it matter more, also where another matters more as it is."""
    dag = td.from_torch(Beside().eval(), torch.rand(16, 40))

    def little(group: Any) -> Any:
        return np.full(group.size, 0.1 if group.group.name == "b.0" else 1.0)

    one, other = (
        {r.group.name: r.left for r in dag.prune_plan(params=0.22, importance=little, **how).rows} for how in HOW
    )
    assert 12 * one["a.0"] == pytest.approx(44 * one["b.0"], rel=0.3)
    assert other["b.0"] == 1


def test_importances_without_bounds(dag: Any) -> None:
    """Infinite ones stay, numbers below 0 are in order, and groups of zeros go first."""
    rising = np.arange(64.0) - 100
    kept = np.where(np.arange(64) % 2, np.inf, rising)
    one = dag.prune_plan(params=0.75, importance=like({"0": kept}))
    assert one.units["0"].tolist() == list(range(0, 2 * len(one.units["0"]), 2))
    two = dag.prune_plan(params=0.75, importance=like({"0": rising}))
    assert two.units["0"].tolist() == list(range(len(two.units["0"])))
    three = dag.prune_plan(params=0.9, importance=like({"2": np.zeros(32)}))
    assert {n: len(u) for n, u in three.units.items()}.keys() == {"2"}


@pytest.mark.parametrize("make", [taylor, obd])
def test_changes_of_the_loss(dag: Any, make: Any) -> None:
    """How large they are in one layer or another says nothing, unless they are to be compared as they are."""
    rng = np.random.default_rng(0)
    gradients = {n: rng.normal(size=w.shape) ** 2 for n, w in dag.weights.items()}
    little = {n: g * (1e-6 if n in ("0.weight", "0.bias", "2.weight") else 1) for n, g in gradients.items()}

    def removed(gradients: Any, **how: Any) -> list[int]:
        return [r.removed for r in dag.prune_plan(flops=0.6, importance=make(gradients), **how).rows]

    every = {n: g * 1e-6 for n, g in gradients.items()}
    assert removed(gradients) == removed(every)
    assert min(removed(little)) > 0
    assert min(removed(little, normalise="none")) == 0


def test_nothing_may_go() -> None:
    whole = td.from_torch(nn.Linear(4, 3).eval(), torch.rand(2, 4))
    said = (
        r"prune: flops can't become .* is left if all goes that may go.*stopped.*weight\[0\] of 3: linear is the output"
    )
    with pytest.raises(td.AttributeValueError, match=said):
        whole.prune_plan(flops=0.5)


class Loudest(nn.Module):
    """The loudest of some channels is taken, after a norm over them: zeros don't stand for channels that went."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.a(x)).amax(1)


def test_what_keeps_groups_is_said() -> None:
    whole = td.from_torch(Loudest().eval(), torch.rand(2, 4))
    said = r"kept: a \(reduce takes the max over them .*\); with inexact='all' those with a reason may go too"
    with pytest.raises(td.AttributeValueError, match=said):
        whole.prune_plan(flops=0.5)
    assert whole.prune_plan(flops=0.5, inexact="all").apply().graph.total_flops() < 0.6 * whole.graph.total_flops()


class Empty(nn.Module):
    """Some of its dimensions have no entries, which nothing can be taken from."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nowhere = torch.arange(x.shape[0])[2:]
        return x[:, 4:].exp(), self.b(self.a(x).relu()), x[:, :0] * 2, x.index_fill(0, nowhere, 0.0)


class ShapeAlone(nn.Module):
    """Of two layers behind one another nothing but the shape is read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(self.b(self.a(x).relu()), 2.0) + self.c(x)


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_only_a_shape_is_read_of(name: str) -> None:
    """Without some rows of ``b`` the shape is a number, and nothing needs the layers; without some of ``a`` it is."""
    dag = td.from_torch(ShapeAlone(), torch.randn(2, 4))
    plan = dag.prune_plan(entries={name: [0, 3]})
    small = plan.apply()
    assert plan.after["flops"] == small.graph.total_flops()
    assert ("a.weight" in small.graph.parameters) == (name == "a")
    assert plan.check().passed


class OneBin(nn.Module):
    """Bins of one entry: with other numbers of bins the pool is written out, and where each largest one lay isn't."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(nn.functional.adaptive_max_pool2d(x, 8), self.weight).relu()


def test_what_nothing_reads_any_more_is_no_cost() -> None:
    """Both of what a plan says and of what it was asked for, which polynomials alone don't know."""
    dag = td.from_torch(OneBin(), torch.randn(1, 3, 1, 1))
    (group,) = dag.prunable().groups
    plan = dag.prune_plan(entries={group.name: [0]})
    small = plan.apply()
    assert plan.after["flops"] == small.graph.total_flops()
    assert plan.found.cost["flops"](plan.found.left(plan.gone)) > small.graph.total_flops()
    plan = dag.prune_plan(flops=0.5)
    assert plan.after["flops"] == plan.apply().graph.total_flops()
    others = [dag.prune_plan(entries={group.name: range(n)}).after["flops"] for n in range(group.size)]
    half = 0.5 * dag.graph.total_flops()
    assert abs(plan.after["flops"] - half) == min(abs(n - half) for n in others)


def test_dimensions_without_entries() -> None:
    dag = td.from_torch(Empty(), torch.randn(2, 4))
    (group,) = dag.prunable().groups
    plan = dag.prune_plan(entries={group.name: [0, 3]})
    assert plan.after["flops"] == plan.apply().graph.total_flops()
    assert plan.check().exact


class Cancels(nn.Module):
    """The mean of what a layer norm gives is 0 but for rounding, and so is a sum less the same in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 8), nn.Linear(8, 6), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.norm(self.b(self.a(x).relu()))
        mean = y.mean()
        return mean, y.sum((0, 1)) - y.sum(1).sum(0), mean.view(())


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_what_cancels_is_equal_within_what_it_is_made_of(framework: str) -> None:
    dag = td.from_torch(Cancels().eval(), torch.randn(3, 4))
    group = next(g for g in dag.prunable().groups if g.size == 8)
    checks = [dag.prune_plan(entries={group.name: [0, n]}).check(seed, framework) for n in (1, 5) for seed in range(3)]
    assert all(c.exact for c in checks)


def test_what_cancels_is_not_equal_to_something_else() -> None:
    """A weight less where the sum isn't 0 for it: off by a part of 1e-7 of what is summed."""
    dag = td.from_torch(Cancels().eval(), torch.randn(3, 4))
    inputs = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    bias = np.array([1e-7, 0, 0, 0, 0, 0], np.float32)
    other = dag.with_weights({"norm.bias": bias})
    assert difference_of(dag, inputs, "numpy", outputs_of(dag, inputs, "torch")) <= EQUAL
    assert difference_of(dag, inputs, "numpy", outputs_of(other, inputs, "torch")) > EQUAL


@pytest.mark.parametrize("constants", ["zero", "fold"])
def test_names_that_no_module_has(constants: str) -> None:
    """What torch can't hold, numpy checks; who asks for torch is told."""
    module = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3)).eval()
    dag = td.from_torch(module, torch.randn(2, 4)).rename({"0.weight": "2"})
    plan = dag.prune_plan(ratio=0.5, constants=constants)
    assert plan.check().exact
    with pytest.raises(td.UnsupportedError, match="no module of torch has a weight called 2: rename it"):
        plan.check(framework="torch")


class SharedPart(nn.Module):
    """Heads whose last entries are turned with those of one key for all, as latent attention has them; two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (
            nn.ModuleList([nn.Linear(6, 24) for _ in "ab"]),
            nn.ModuleList([nn.Linear(6, 14) for _ in "ab"]),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        angles = torch.arange(n)[:, None] * 100.0 ** (-torch.arange(0, 4, 2) / 4)
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

        def turned(t: torch.Tensor) -> torch.Tensor:
            return t * cos + torch.cat([-t[..., 2:], t[..., :2]], -1) * sin

        for q, k in zip(self.q, self.k, strict=True):
            a, one = q(x).reshape(b, n, 2, 12).transpose(1, 2).split([8, 4], -1)
            other, shared = k(x).split([10, 4], -1)
            keys = torch.cat([other[:, None, :, :8].expand(b, 2, n, 8), turned(shared[:, None]).expand(b, 2, n, 4)], -1)
            scores = torch.cat([a, turned(one)], -1) @ keys.transpose(-1, -2)
            x = x + scores.softmax(-1).mean(1) @ x
        return x


def test_units_have_the_same_names_at_other_sizes() -> None:
    """A plan found for one batch, or for inference, names what goes of another: however the factors are numbered."""
    found: list[Any] = []
    for batch in (1, 2, 3):
        dag = td.from_torch(SharedPart(), torch.randn(batch, 5, 6))
        found.append([(g.name, [(m.name, m.axis, m.unit.tolist()) for m in g.members]) for g in dag.prunable()])
    assert found[0] == found[1] == found[2]
    last: dict[tuple[str, int, int], int] = {}
    for group in dag.prunable():  # groups of a dimension by their first entries, and so their units
        member = group.members[0]
        entries = np.flatnonzero((member.unit >= 0).any(0))
        place = (member.name, member.axis, group.place)
        assert last.get(place, -1) < entries[0]
        last[place] = int(entries[0])
        _, firsts = np.unique(member.unit[0][entries], return_index=True)
        assert (np.diff(firsts) > 0).all()


def test_a_network_without_parameters() -> None:
    dag = td.network(lambda x: td.relu(x), {"x": (2, 3)})
    with pytest.raises(td.AttributeValueError, match=r"no params .*td\.dequantize"):
        dag.prune_plan(params=0.5)
