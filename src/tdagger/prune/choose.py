"""Which units go: the least important, as many as it takes to meet a target.

What is left of a network is a sum of products of numbers of entries (:mod:`tdagger.prune.finding.costs`), so a target
is met by evaluating that, never by making the network: how many go is found by bisection, and where groups lose
several at a time, single steps come after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    ranked: Ranked, cost: Callable[[Array], float], target: float, together: bool, steps: int = 8
) -> list[int]:
    """How many of each group go so that ``cost`` (of the entries that go) is nearest to ``target``.

    ``together``: groups are compared by importance; otherwise each loses the same part of its units. ``steps``: so many
    single steps are tried after the bisection.
    """
    total = sum(g.size for g in ranked.groups)
    ranks = ranked.ranks()

    def counts(n: int) -> list[int]:
        if together:
            return ranked.first(n, ranks)
        return ranked.stepped([round(g.size * n / max(total, 1)) for g in ranked.groups])

    low, high = 0, total  # the cost is above the target at low, at or below it at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(ranked.gone(counts(middle))) > target else (low, middle)
    best = min((counts(low), counts(high)), key=lambda c: abs(cost(ranked.gone(c)) - target))
    return _nearer(ranked, cost, target, best, steps)


def _nearer(ranked: Ranked, cost: Callable[[Array], float], target: float, counts: list[int], steps: int) -> list[int]:
    """Single steps of single groups, as long as one comes nearer to the target; what matters least is tried first."""
    now = cost(ranked.gone(counts))
    start = cost(ranked.gone([0] * len(counts)))
    for _ in range(steps):
        if abs(now - target) <= _NEAR * start:
            break
        tried: list[tuple[float, int, int, float]] = []
        for i in _by_importance(ranked, counts, more=now > target):
            n = ranked.groups[i].size
            other = counts[i] + (ranked.step[i] if now > target else -ranked.step[i])
            other = _down(n, other, ranked.step[i], ranked.most[i]) if other > 0 else 0
            if other == counts[i]:
                continue
            found = cost(ranked.gone([*counts[:i], other, *counts[i + 1 :]]))
            tried.append((abs(found - target), i, other, found))
            if tried[-1][0] <= _NEAR * start:
                break
        if not tried or min(tried)[0] >= abs(now - target):
            break
        _, i, other, now = min(tried)
        counts = [*counts[:i], other, *counts[i + 1 :]]
    return counts


#: A target is met where what is off is so small a part of the whole network's cost.
_NEAR = 0.002


def _by_importance(ranked: Ranked, counts: list[int], more: bool) -> list[int]:
    def next_score(i: int) -> Any:
        at = min(counts[i], len(ranked.scores[i]) - 1) if more else max(counts[i] - 1, 0)
        return ranked.scores[i][at] if more else -ranked.scores[i][at]

    return sorted([i for i in range(len(counts)) if len(ranked.scores[i])], key=next_score)
