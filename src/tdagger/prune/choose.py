"""Which units go: the least important, as many as it takes to meet a target.

What is left of a network is a sum of products of numbers of entries (:mod:`tdagger.prune.finding.costs`), so a target
is met by evaluating that, never by making the network: how many go is found by bisection, and where one unit is more
than what is missing, others go in its place.

Units of different groups are compared by what is lost over what is freed. What is lost of a group that keeps the part
r of its importance is -log r for each weight that it lies in: the parts that layers behind one another let through are
multiplied, so these add up, and the last unit of a group is worth more than the first that went. Of a unit of
importance s, where those that matter no less add up to R, it is -log(1 - s / R) times the weights, or times the group's
sum where importances are of the loss, and so comparable as they are. What is freed is the slope of the cost where so
much has gone, so it is found anew once that is known.
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

    def gone(self, counts: list[int]) -> Array:
        """The entries that go if so many units of each group do."""
        classes = [g.classes[o[:n]] for g, o, n in zip(self.groups, self.order, counts, strict=True) if n]
        return self.found.units.removed(np.concatenate(classes) if classes else np.zeros(0, np.int64))

    def stepped(self, counts: list[int]) -> list[int]:
        """The counts, less where a group's steps or its most say so."""
        return [_down(g.size, n, s, m) for g, n, s, m in zip(self.groups, counts, self.step, self.most, strict=True)]

    def first(self, count: int, ranks: list[Array]) -> list[int]:
        """How many of each group are among the ``count`` least important of all."""
        return self.stepped([int(np.searchsorted(r, count)) for r in ranks])

    def ranks(self, freed: Array | None = None) -> list[Array]:
        """For each group, the places of its units among those of all groups; a group loses its units in order.

        ``freed``: what a unit of each group frees, which its importance is divided by.
        """
        rising = [np.maximum.accumulate(s) for s in self.scores]
        if freed is not None:
            rising = [s / f if f > 0 else np.full_like(s, np.inf) for s, f in zip(rising, freed, strict=True)]
        flat = np.concatenate(rising) if rising else np.zeros(0)
        places = np.empty(len(flat), np.int64)
        places[np.argsort(flat, kind="stable")] = np.arange(len(flat))
        return np.split(places, np.cumsum([len(s) for s in self.scores])[:-1]) if rising else []


def lost(importances: Array, times: float | None = None) -> Array:
    """What a group loses with each unit, after those before it: ``importances`` rise.

    It is as much as the group's sum, or ``times``, for each e-th part that is left. Numbers below 0 count from the
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
    out[finite] = -np.log1p(-part) * (s.sum() if times is None else times)
    return out


def _down(size: int, count: int, step: int, most: int) -> int:
    """The largest number that may go, at most ``count``, which leaves a multiple of ``step``."""
    count = min(count, most)
    left = -(-(size - count) // step) * step
    return max(size - left, 0)


def to_target(
    ranked: Ranked, cost: Callable[[Array], float], target: float, together: bool, rounds: int = 9
) -> list[int]:
    """How many of each group go so that ``cost`` (of the entries that go) is nearest to ``target``.

    ``together``: groups are compared by importance; otherwise each loses the same part of its units. A unit with which
    too much would go stays, and so do the rest of its group, where others that matter more but free less come nearer:
    at most ``rounds`` bisections, all but the first of them with one more group that loses no more.
    """
    costs = _Costs(ranked, cost)
    slopes = ranked.slopes if together else None
    if slopes is None:
        return _nearest(ranked, costs, target, ranked.ranks(), together, rounds)
    none = [0] * len(ranked.groups)
    freed = slopes.freed(ranked.gone(none))
    rough = _Costs(ranked, slopes.left)
    part = target / costs(none)
    for _ in range(_SLOPES):
        found = _nearest(ranked, rough, part * rough(none), ranked.ranks(freed), together, 1)
        freed = np.sqrt(freed * slopes.freed(ranked.gone(found)))  # the mean of both, so that nothing swings
    return _nearest(ranked, costs, target, ranked.ranks(freed), together, rounds)


class _Costs:
    """What is left where so many units of each group go, each found once: a time is that of a network made."""

    def __init__(self, ranked: Ranked, cost: Callable[[Array], float]) -> None:
        self.ranked, self.cost = ranked, cost
        self.known: dict[tuple[int, ...], float] = {}

    def __call__(self, counts: list[int]) -> float:
        key = tuple(counts)
        if key not in self.known:
            self.known[key] = self.cost(self.ranked.gone(counts))
        return self.known[key]


def _nearest(
    ranked: Ranked, left: Callable[[list[int]], float], target: float, ranks: list[Array], together: bool, rounds: int
) -> list[int]:
    """How many of each group go so that what is left is nearest to the target, in the order of ``ranks``."""
    total = sum(g.size for g in ranked.groups)
    most = list(ranked.most)

    def counts(n: int) -> list[int]:
        found = (
            ranked.first(n, ranks)
            if together
            else ranked.stepped([round(g.size * n / max(total, 1)) for g in ranked.groups])
        )
        return [min(c, m) for c, m in zip(found, most, strict=True)]

    low, best = 0, counts(0)
    near = _NEAR * left(best)
    for _ in range(rounds):
        high = total  # the cost is above the target at low, at or below it at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if left(counts(middle)) > target else (low, middle)
        before, after = counts(low), counts(high)
        best = min(best, before, after, key=lambda c: abs(left(c) - target))
        if abs(left(best) - target) <= near or before == after or left(after) > target:
            break
        most = [b if a != b else m for b, a, m in zip(before, after, most, strict=True)]
    return best


#: A target is met where what is off is so small a part of the whole network's cost.
_NEAR = 0.002
#: How often what units free is found anew where so much has gone.
_SLOPES = 3
