"""Which units go: the least important, as many as it takes to meet a target.

What is left of a network is a sum of products of numbers of entries (:mod:`tdagger.prune.finding.costs`), so a target
is met by evaluating that, never by making the network: how many go is found by bisection, and where one unit is more
than what is missing, others go in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tdagger.op import Array
from tdagger.prune.finding.groups import Group, Prunable


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

    def ranks(self) -> list[Array]:
        """For each group, the places of its units among those of all groups; a group loses its units in order."""
        rising = [np.maximum.accumulate(s) for s in self.scores]
        flat = np.concatenate(rising) if rising else np.zeros(0)
        places = np.empty(len(flat), np.int64)
        places[np.argsort(flat, kind="stable")] = np.arange(len(flat))
        return np.split(places, np.cumsum([len(s) for s in self.scores])[:-1]) if rising else []


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
    total = sum(g.size for g in ranked.groups)
    ranks = ranked.ranks()
    most = list(ranked.most)
    known: dict[tuple[int, ...], float] = {}  # a time is that of a network made

    def counts(n: int) -> list[int]:
        found = (
            ranked.first(n, ranks)
            if together
            else ranked.stepped([round(g.size * n / max(total, 1)) for g in ranked.groups])
        )
        return [min(c, m) for c, m in zip(found, most, strict=True)]

    def left(counts: list[int]) -> float:
        key = tuple(counts)
        if key not in known:
            known[key] = cost(ranked.gone(counts))
        return known[key]

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
