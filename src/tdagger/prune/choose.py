"""Which units go: the least important, as many as it takes to meet a target.

What is left of a network is a sum of products of numbers of entries (:mod:`tdagger.prune.finding.costs`), so a target
is met by evaluating that, not by making networks: how many go is found by bisection, and where one unit is more
than what is missing, others go in its place.

Units of different groups are compared by what is lost over what is freed. What is lost of a group that keeps the part
r of its importance is -log r for each weight that it lies in: the parts that layers behind one another let through are
multiplied, so these add up, and the last unit of a group is worth more than the first that went. Of a unit of
importance s, where those that matter no less add up to R, it is -log(1 - s / R) times the weights. What is freed is the
slope of the cost where so much has gone, so it is found anew once that is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tdagger.op import Array
from tdagger.prune.finding.groups import Group, Prunable


class Slopes(NamedTuple):
    """A cost as a polynomial where some entries are gone, and what a unit of each group frees of it: ``[groups]``."""

    left: Callable[[Array], float]
    freed: Callable[[Array], Array]


@dataclass
class Ranked:
    """Groups whose units are in the order in which they go, and how many may."""

    found: Prunable
    groups: list[Group]
    #: For each group the units' numbers, the least important first, and their importances in that order.
    order: list[Array]
    scores: list[Array]
    #: For each group how many go at least at a time, and at most.
    step: list[int]
    most: list[int]
    #: What units free; None to compare importances alone.
    slopes: Slopes | None = None

    def __post_init__(self) -> None:
        self.sizes = np.array([g.size for g in self.groups], np.int64)
        self.steps, self.mosts = np.array(self.step, np.int64), np.array(self.most, np.int64)
        nothing = np.zeros(0, np.int64)
        #: Of all units, group after group in the order in which they go: the class, the group, and the place in it.
        own = [g.classes[o] for g, o in zip(self.groups, self.order, strict=True)]
        self.classes = np.concatenate([nothing, *own])
        self.group = np.repeat(np.arange(len(self.groups)), self.sizes)
        starts = np.cumsum(self.sizes) - self.sizes
        self.place = np.arange(len(self.group)) - starts[self.group]

    def gone(self, counts: Array) -> Array:
        """The entries that go if so many units of each group do."""
        return self.found.units.removed(self.classes[self.place < counts[self.group]])

    def stepped(self, counts: Array) -> Array:
        """The counts, less where a group's steps or its most say so: what is left is a multiple of ``step``."""
        counts = np.minimum(counts, self.mosts)
        left = -(-(self.sizes - counts) // self.steps) * self.steps
        return np.maximum(self.sizes - left, 0)

    def ranks(self, freed: Array | None = None) -> Array:
        """The groups of all units, the least important first; a group loses its units in order.

        ``freed``: what a unit of each group frees, which its importance is divided by.
        """
        rising = np.concatenate([np.zeros(0), *[np.maximum.accumulate(s) for s in self.scores]])
        if freed is not None:
            each = freed[self.group]
            rising = np.where(each > 0, rising / np.where(each > 0, each, 1.0), np.inf)
        return self.group[np.argsort(rising, kind="stable")]


def lost(importances: Array, times: float) -> Array:
    """What a group loses with each unit, after those before it: ``importances`` rise.

    It is ``times`` for each e-th part that is left. Numbers below 0 count from the
    least; units that matter infinitely go last.

    >>> lost(np.array([1.0, 1.0, 2.0]), 1)[:2].round(3).tolist()
    [0.288, 0.405]
    """
    finite = np.isfinite(importances)
    s = importances[finite]
    s = s - min(s.min(initial=0.0), 0.0)
    rest = np.cumsum(s[::-1])[::-1]
    part = np.minimum(s / np.where(rest > 0, rest, 1.0), 1 - 1e-12)
    out = np.full(importances.shape, np.inf)
    out[finite] = -np.log1p(-part) * times
    return out


def to_target(ranked: Ranked, cost: Callable[[Array], float], target: float, together: bool, rounds: int = 9) -> Array:
    """How many of each group go so that ``cost`` (of the entries that go) is nearest to ``target``.

    ``together``: groups are compared by importance; otherwise each loses the same part of its units. A unit with which
    too much would go stays, and so do the rest of its group, where others that matter more but free less come nearer:
    at most ``rounds`` bisections, all but the first of them with one more group that loses no more.
    """
    costs = _Costs(ranked, cost)
    slopes = ranked.slopes if together else None
    if slopes is None:
        return _nearest(ranked, costs, target, ranked.ranks() if together else None, rounds)
    none = np.zeros_like(ranked.sizes)
    freed = slopes.freed(ranked.gone(none))
    rough = _Costs(ranked, slopes.left)
    part = target / costs(none)
    for _ in range(_SLOPES):
        found = _nearest(ranked, rough, part * rough(none), ranked.ranks(freed), 1)
        freed = np.sqrt(freed * slopes.freed(ranked.gone(found)))  # the mean of both, so that nothing swings
    return _nearest(ranked, costs, target, ranked.ranks(freed), rounds)


class _Costs:
    """What is left where so many units of each group go, each found once: a time is that of a network made."""

    def __init__(self, ranked: Ranked, cost: Callable[[Array], float]) -> None:
        self.ranked, self.cost = ranked, cost
        self.known: dict[bytes, float] = {}

    def __call__(self, counts: Array) -> float:
        key = counts.tobytes()
        if key not in self.known:
            self.known[key] = self.cost(self.ranked.gone(counts))
        return self.known[key]


def _nearest(ranked: Ranked, left: Callable[[Array], float], target: float, ranks: Array | None, rounds: int) -> Array:
    """How many of each group go so that what is left is nearest to the target, in the order of ``ranks``.

    None: of each group the same part.
    """
    total = len(ranked.place)
    most = ranked.mosts

    def counts(n: int) -> Array:
        if ranks is None:
            found = np.rint(ranked.sizes * n / max(total, 1)).astype(np.int64)
        else:
            found = np.bincount(ranks[:n], minlength=len(ranked.groups))
        return np.minimum(ranked.stepped(found), most)

    low, best = 0, counts(0)
    near = NEAR * left(best)
    for _ in range(rounds):
        high = total  # the cost is above the target at low, at or below it at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if left(counts(middle)) > target else (low, middle)
        before, after = counts(low), counts(high)
        best = min(best, before, after, key=lambda c: abs(left(c) - target))
        if abs(left(best) - target) <= near or (before == after).all() or left(after) > target:
            break
        most = np.where(before == after, most, before)
    return best


#: A target is met where what is off is so small a part of the whole network's cost.
NEAR = 0.002
#: How often what units free is found anew where so much has gone.
_SLOPES = 3
