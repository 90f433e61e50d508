"""Learned masks: a network whose units have gates that are trained with it, and the plan that comes of them.

A gate multiplies all that a unit holds of parameters, which is what a pruned network is compared with
(:mod:`tdagger.prune.removing.check`): without units whose gates are 0 the network is the same. What it costs is the
network's cost polynomial in the sizes that are expected of the chances that units are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tdagger.analysis.time.timing import device_of
from tdagger.errors import AttributeValueError, InputError
from tdagger.frameworks.torch.exporter import to_torch
from tdagger.frameworks.torch.runtime import to_numpy
from tdagger.op import Array
from tdagger.prune.finding.costs import Polynomial
from tdagger.prune.finding.groups import Group, Prunable
from tdagger.prune.importance import NORMALISE, Importance, Weighed, importance_of
from tdagger.prune.methods.branches import Branch, with_gates
from tdagger.prune.methods.branches import branches as found_branches
from tdagger.prune.methods.gates import GateTables, chosen, costs_of
from tdagger.prune.plan import PrunePlan, allowed, prune_plan, step_of
from tdagger.tensordag import TensorDAG

#: How far the hard concrete distribution is stretched beyond 0 and 1: arXiv:1712.01312.
_LOW, _HIGH = -0.1, 1.1
#: The costs that a penalty may be of, and their polynomials.
_COSTS = {"flops": "flops", "params": "parameters", "bytes": "bytes", "time": "time"}


class Schedule(NamedTuple):
    """What changes with the steps of training: ``steps`` of them in all.

    In the first part ``warmup`` of them all gates are open and there is no penalty; in the next part ``ramp`` the
    penalty grows to its full weight. ``temperature`` is what it begins and ends with, geometrically between.

    >>> schedule = Schedule(100, warmup=0.1, ramp=0.2, temperature=(1, 0.25))
    >>> [schedule.at(t) for t in (0, 20, 55, 100)]
    [(0.0, 1.0), (0.5, 0.8572), (1.0, 0.5), (1.0, 0.25)]
    """

    steps: int
    warmup: float = 0.1
    ramp: float = 0.2
    temperature: tuple[float, float] = (2 / 3, 2 / 3)

    def at(self, step: int) -> tuple[float, float]:
        """The weight of the penalty (0 while all gates are open) and the temperature."""
        after = max(min(step / self.steps, 1.0) - self.warmup, 0.0)
        weight = min(after / self.ramp, 1.0) if self.ramp else float(after > 0)
        first, last = self.temperature
        return weight, round(first * (last / first) ** (after / (1 - self.warmup)), 4)


class LearnedMasks(nn.Module):
    """The network of :meth:`tdagger.TensorDAG.learned_masks`, called as that is; ``network`` is its module.

    ``logits`` is one parameter, a number for every unit (or ``multiple_of`` of them); train it with the network's.
    In training gates are drawn anew in each call; in eval mode they are those of :meth:`plan`.
    """

    step: Tensor
    _block: Tensor
    _entries: Tensor
    _factor: Tensor

    def __init__(
        self,
        dag: TensorDAG,
        *,
        gates: str = "hard_concrete",
        start: float = 0.9,
        importance: str | Importance | None = None,
        multiple_of: int = 1,
        least: int | float = 1,
        keep: Sequence[str] = (),
        only: Sequence[str] = (),
        inexact: str = "none",
        branches: bool = False,
        device: Any = None,
        schedule: Schedule | None = None,
        seed: int | None = None,
        found: Prunable | None = None,
    ) -> None:
        super().__init__()
        if gates not in ("hard_concrete", "straight_through"):
            raise AttributeValueError(f"learned_masks: gates are hard_concrete or straight_through, got {gates!r}")
        if not 0 < start < 1:
            raise AttributeValueError(f"learned_masks: start is a chance between 0 and 1, got {start}")
        own: Prunable = dag.prunable() if found is None else found
        groups = allowed(own, keep, only, inexact)
        #: The residual branches that have a gate each, and the names of those in the module.
        self.branches = found_branches(own.dag) if branches else []
        if not groups and not self.branches:
            raise AttributeValueError(f"learned_masks: no group of {dag.name} may lose units; see dag.prunable()")
        self.dag, self.kind, self.schedule = dag, gates, schedule
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.tables = GateTables(own, groups)
        self.steps = [step_of(g, multiple_of) for g in groups]
        self.least = [max(math.ceil(least * g.size) if 0 < least < 1 else int(least), 1) for g in groups]
        gated, self.branch_gates = with_gates(dag, _same(self.branches, dag)) if branches else (dag, [])
        self.network = cast(nn.Module, to_torch(gated, copy=True))
        for name in self.branch_gates:
            self.network.get_parameter(name).requires_grad_(False)
        self.random = None if seed is None else torch.Generator().manual_seed(seed)
        blocks = _blocks([g.size for g in groups], self.steps)
        self._own = int(blocks.max(initial=-1)) + 1  # the logits after these are of branches
        whole = math.log(start / (1 - start))
        self.logits = nn.Parameter(
            torch.cat([torch.full((self._own,), self._logit_of(start)), torch.full((len(self.branches),), whole)])
        )
        if importance is not None and groups:
            more = torch.from_numpy(_spread(dag, groups, importance_of(importance), blocks)).float()
            self.logits.data[: self._own] += more
        self._constant("block", blocks)
        self._constant("entries", self.tables.entries)
        self._constant("factor", self.tables.factor)
        sizes = np.append(own.sizes, np.ones(len(self.branches)))
        places = np.append(self.tables.factors, len(own.sizes) + np.arange(len(self.branches))).astype(np.int64)
        costs = costs_of(own, self.branches, None if device is None else device_of(device))
        self.costs = {n: _Cost(costs[p], sizes, places) for n, p in _COSTS.items() if p in costs}
        self._find_masks()

    def _constant(self, name: str, array: Array) -> None:
        self.register_buffer(f"_{name}", torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def _find_masks(self) -> None:
        """The masks by the names of the module's parameters."""
        held = dict(self.network.named_parameters())
        self.masks: dict[str, list[tuple[int, str]]] = {}
        for i, mask in enumerate(self.tables.masks):
            if mask.name not in held:
                raise InputError(f"learned_masks: the parameter {mask.name!r} has no data, so it can't be trained")
            self._constant(f"mask{i}", mask.units)
            self.masks.setdefault(mask.name, []).append((mask.axis, f"_mask{i}"))

    # Gates.

    def _shift(self) -> float:
        """The logit at which a unit is as likely there as not."""
        return self.temperature * math.log(-_LOW / _HIGH) if self.kind == "hard_concrete" else 0.0

    def _logit_of(self, chance: float) -> float:
        return math.log(chance / (1 - chance)) + self._shift()

    @property
    def temperature(self) -> float:
        """How soft gates are at this step."""
        return self._now()[1]

    def _now(self) -> tuple[float, float]:
        """The weight of the penalty, and the temperature."""
        if self.schedule is None:
            return 1.0, 2 / 3
        return self.schedule.at(int(self.step))

    def advance(self) -> None:
        """One step of the schedule: call it after each step of the optimiser. It is kept in the state_dict."""
        self.step += 1

    @property
    def open(self) -> bool:
        """Whether all gates are open, as they are in the warm-up."""
        return self._now()[0] == 0

    def chances(self) -> Tensor:
        """For every unit how likely it is there, with gradients; those of one block are the same: ``[units]``."""
        return torch.sigmoid(self.logits[: self._own] - self._shift())[self._block]

    def branch_chances(self) -> Tensor:
        """For every branch how likely it is there, with gradients."""
        return torch.sigmoid(self.logits[self._own :])

    def gates(self) -> Tensor:
        """A gate for every unit, and a 1 for what is always there: ``[units + 1]``; drawn anew in training."""
        one = self.logits.new_ones(1)
        if self.training and self.open:
            return self.logits.new_ones(self.tables.count + 1)
        if self.training:
            return torch.cat([self._drawn()[: self._own][self._block], one])
        return torch.cat([self._stays() * self._settled(), one])

    def _stays(self) -> Tensor:
        """For every unit 1 if it stays, else 0."""
        return torch.from_numpy(np.concatenate([_marks(k, g.size) for k, g in self._kept()])).to(self.logits)

    def _settled(self) -> Tensor:
        """The gates of units that stay, with nothing drawn."""
        if self.kind == "straight_through":
            return self.logits.new_ones(self.tables.count)
        return self._stretched(torch.sigmoid(self.logits[: self._own] / self.temperature))[self._block]

    def _drawn(self) -> Tensor:
        u = torch.empty_like(self.logits, requires_grad=False)
        if self.random is None:
            u.uniform_(1e-6, 1 - 1e-6)
        else:
            u.copy_(torch.empty(self.logits.shape).uniform_(1e-6, 1 - 1e-6, generator=self.random))
        soft = torch.sigmoid((self.logits + torch.log(u) - torch.log1p(-u)) / self.temperature)
        self._branches_drawn = _straight(soft[self._own :])
        return self._stretched(soft) if self.kind == "hard_concrete" else _straight(soft)

    def _stretched(self, soft: Tensor) -> Tensor:
        return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def _kept(self) -> list[tuple[Array, Group]]:
        """The units of each group that stay, and the group: as many as are expected, those with the highest logits.

        So a plan costs what was expected; of hard concrete gates those that are 0 go in any case.
        """
        chances = self.tables.of(self.chances().detach().double().cpu().numpy())
        gates = self.tables.of(self._settled().detach().cpu().numpy())
        out: list[tuple[Array, Group]] = []
        for g, step, least in zip(self.tables.groups, self.steps, self.least, strict=True):
            on = gates[g.name] > 0
            on &= _marks(np.argsort(-chances[g.name], kind="stable")[: round(float(chances[g.name].sum()))], g.size) > 0
            out.append((chosen(chances[g.name], on, step, least), g))
        return out

    # The network.

    def parameters_masked(self, gates: Tensor | None = None) -> dict[str, Tensor]:
        """The parameters that units lie in, by name, each multiplied by the gates of its entries' units."""
        gates = self.gates() if gates is None else gates
        held = dict(self.network.named_parameters())
        out: dict[str, Tensor] = {}
        for name, masks in self.masks.items():
            weight = held[name]
            for axis, table in masks:
                by_entry = gates[getattr(self, table)].prod(0).to(weight)
                weight = weight * by_entry.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
            out[name] = weight
        return out

    def _of_branches(self) -> dict[str, Tensor]:
        """The gates of branches, by name: 0 or 1, in training those drawn with the others'."""
        if self.training and not self.open:
            gates = self._branches_drawn
        else:
            gates = self.logits.new_ones(len(self.branches))
            gates = gates if self.training else gates * (self.branch_chances().detach() > 0.5)
        held = dict(self.network.named_parameters())
        return {n: gates[i].to(held[n]) for i, n in enumerate(self.branch_gates)}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives with its parameters masked."""
        masked = self.parameters_masked()
        return functional_call(self.network, {**masked, **self._of_branches()}, args, kwargs)

    # The cost.

    def expected(self, cost: str = "flops") -> Tensor:
        """The part of a cost (flops, params, bytes) that is left, in the sizes that are expected, with gradients."""
        if cost not in self.costs:
            raise AttributeValueError(
                f"learned_masks: costs are {', '.join(self.costs)}, got {cost!r}; a time needs the device that it is "
                "predicted for: learned_masks(device='a100')"
            )
        there = torch.cat([self.chances(), self.logits.new_ones(1)])
        sizes = self.logits.new_zeros(len(self.tables.factors))
        sizes = sizes.index_add(0, self._factor, there[self._entries].prod(1))
        return self.costs[cost](torch.cat([sizes, self.branch_chances()]))

    def penalty(self, **targets: float) -> Tensor:
        """How far the costs are from their targets: ``penalty(flops=0.5)`` is ``|log(expected / 0.5)|``.

        From below too: gates whose draws are noise to the network close further than they were asked to. It is 0 in the
        warm-up, and less than that while the schedule's ramp lasts. Add it to the loss, with a weight.
        """
        if not targets:
            raise AttributeValueError(f"learned_masks: give a target for one of {', '.join(self.costs)}")
        weight = self._now()[0]
        total = self.logits.new_zeros(())
        for name, target in targets.items():
            if not 0 < target <= 1:
                raise AttributeValueError(f"learned_masks: {name}={target} is no part of what there is, as 0.5 is")
            total = total + torch.log(self.expected(name) / target).abs()
        return weight * total

    # What comes of it.

    def trained(self) -> TensorDAG:
        """The network with the weights as they were trained, the gates of units that stay multiplied into them.

        Nothing is removed: that is :meth:`plan`.
        """
        return self._baked(self._stays() > 0)

    @torch.no_grad()
    def _baked(self, stays: Tensor) -> TensorDAG:
        """The network with the weights as they are, times the gates of the units marked."""
        held: dict[str, Tensor] = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        if self.kind == "hard_concrete":  # others are 0 or 1, and which are 0 is the plan's to say
            gates = self._settled()
            one = gates.new_ones(1)
            held |= self.parameters_masked(torch.cat([torch.where(stays, gates, one), one]))
        names = [n for n in self.dag.weights if n in held]
        return self.dag.with_weights({n: to_numpy(held[n].detach().cpu().clone()) for n in names})

    def plan(self, keep_numbers: bool = False, **how: Any) -> PrunePlan:
        """The plan that removes what the gates say, of the network with its trained weights.

        Or, with what :meth:`tdagger.TensorDAG.prune_plan` takes (``flops=0.5``, ``time=0.6, device="h100"``), the plan
        that meets a target exactly, units with the lowest logits first; a unit that stays though its gate is 0 has the
        weights that it was trained with. ``keep_numbers``: norms that count units which go count them still.
        """
        if not how:
            dag, found, closed = self._without_branches(self.trained())
            gone = {g.name: np.setdiff1d(np.arange(g.size), kept) for kept, g in self._kept() if _has(found, g)}
            return PrunePlan(dag, found, {n: u for n, u in gone.items() if len(u)}, keep_numbers, closed=closed)
        scores = self.tables.of(self.chances().detach().double().cpu().numpy())
        dag, found, closed = self._without_branches(self._baked(self._settled() > 0))
        only = [g.name for g in self.tables.groups if _has(found, g)]

        def importance(group: Weighed) -> Array:
            return scores[group.group.name]

        own: dict[str, Any] = {
            "keep_numbers": keep_numbers,
            "inexact": "all",
            "only": only,
            "normalise": "none",
            "found": found,
            "importance": importance,
        }
        return replace(prune_plan(dag, **{**own, **how}), closed=closed)

    def _without_branches(self, dag: TensorDAG) -> tuple[TensorDAG, Prunable, TensorDAG | None]:
        """The network without the branches whose gates are 0, what can be pruned of it, and it with those times 0."""
        names = [b.name for b, p in zip(self.branches, self.branch_chances().tolist(), strict=True) if p <= 0.5]
        gone = [b for b in found_branches(dag) if b.name in names]
        if not gone:
            return dag, self.tables.found, None
        small = dag.without_branches(*[b.name for b in gone])
        gated, gates = with_gates(dag, gone)
        return small, small.prunable(), gated.with_weights({n: np.zeros_like(gated.weights[n]) for n in gates})

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.tables.count} units in {len(self.tables.groups)} groups"


class _Cost:
    """A cost polynomial on tensors, as a part of what it is for the whole network."""

    def __init__(self, cost: Polynomial, sizes: Array, factors: Array) -> None:
        whole = cost(sizes)
        self.index = torch.from_numpy(cost.index)
        self.coefficients = torch.from_numpy(cost.coefficients / (whole or 1.0))
        self.constant = cost.constant / (whole or 1.0)
        self.sizes = torch.from_numpy(np.append(sizes.astype(float), 1.0))
        self.factors = torch.from_numpy(factors)

    def __call__(self, sizes: Tensor) -> Tensor:
        # in f64 on the CPU, where a sum of many products is one number and costs nothing
        wide = self.sizes.index_copy(0, self.factors, sizes.double().cpu())
        return (self.constant + self.coefficients @ wide[self.index].prod(1)).to(sizes)


def _has(found: Prunable, group: Group) -> bool:
    """Whether a network has a group still, of which a branch that went may have held all members or some."""
    own = {(m.name, m.axis) for m in group.members}
    like = [g for g in found.groups if g.name == group.name and g.size == group.size]
    return any({(m.name, m.axis) for m in g.members} <= own for g in like)


def _straight(soft: Tensor) -> Tensor:
    """0 or 1, with the gradient of what lies between."""
    return (soft > 0.5).to(soft) - soft.detach() + soft


def _same(found: Sequence[Branch], dag: TensorDAG) -> list[Branch]:
    """The same branches of the network itself, where those are of one whose shuffles are gathers."""
    own = {b.name: b for b in found_branches(dag)}
    return [own[b.name] for b in found]


def _marks(kept: Array, size: int) -> Array:
    out = np.zeros(size, np.float32)
    out[kept] = 1
    return out


#: How far logits of units lie apart at first, in standard deviations of the logarithms of their importances.
_SPREAD = 1.0


def _spread(dag: TensorDAG, groups: Sequence[Group], importance: Importance, blocks: Array) -> Array:
    """By how much the logits of blocks differ at first: with the logarithms of importances, whose mean is 0."""
    normalise = NORMALISE["none" if getattr(importance, "of_loss", False) else "mean"]
    scores = [np.asarray(importance(Weighed(g, dag.weights)), np.float64) for g in groups]
    flat = np.concatenate([s / normalise(s) for s in scores])
    least = flat[flat > 0].min(initial=np.inf)
    logs = np.log(np.maximum(flat, least if np.isfinite(least) else 1.0))
    logs = np.bincount(blocks, logs) / np.bincount(blocks)
    return _SPREAD * (logs - logs.mean()) / (logs.std() or 1.0)


def _blocks(sizes: list[int], steps: list[int]) -> Array:
    """For every unit the number of its logit: one for ``step`` neighbours of a group."""
    out: list[Array] = []
    at = 0
    for size, step in zip(sizes, steps, strict=True):
        out.append(at + np.arange(size) // step)
        at += -(-size // step)
    return np.concatenate(out) if out else np.zeros(0, np.int64)


def learned_masks(dag: TensorDAG, **options: Any) -> LearnedMasks:
    """The network with gates; see :meth:`tdagger.TensorDAG.learned_masks`."""
    return LearnedMasks(dag, **scheduled(options))


def scheduled(options: dict[str, Any]) -> dict[str, Any]:
    """Options with a schedule that was given as a dict."""
    if isinstance(options.get("schedule"), Mapping):
        return {**options, "schedule": Schedule(**options["schedule"])}
    return options
