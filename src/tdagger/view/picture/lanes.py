"""Edges that skip things go beside the column, each source down a lane of its own, as wires do in a circuit diagram.

What is left for the layers is short, so that a network stays the column that it mostly is. The page has the same
(``web/src/lanes.ts``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: Rows that an edge goes down at least; 2 where several leave or enter one thing.
FAR = 3
#: Between two lanes, and between a lane and what stands beside it.
APART, BESIDE = 10.0, 14.0

#: An interval of heights that a lane takes, and where it is.
_Lane = tuple[float, float, float]


def skips(rank: Sequence[int], edges: Sequence[tuple[int, int]]) -> list[bool]:
    """Which edges skip things: there is a longer way between the same two, :data:`FAR` rows long.

    >>> skips([0, 1, 2, 3], [(0, 1), (1, 2), (2, 3), (0, 3)])
    [False, False, False, True]
    """
    after: dict[int, list[int]] = {}
    for a, b in edges:
        after.setdefault(a, []).append(b)
    found = [rank[b] - rank[a] > 1 and _around(a, b, after, rank) for a, b in edges]
    leave = Counter([a for (a, _), skip in zip(edges, found, strict=True) if skip])
    enter = Counter([b for (_, b), skip in zip(edges, found, strict=True) if skip])
    return [
        skip and (rank[b] - rank[a] >= FAR or leave[a] > 1 or enter[b] > 1)
        for (a, b), skip in zip(edges, found, strict=True)
    ]


def _around(a: int, b: int, after: dict[int, list[int]], rank: Sequence[int]) -> bool:
    """Whether there is a way from one to the other that isn't the edge between them."""
    todo = [n for n in after[a] if n != b and rank[n] < rank[b]]
    seen = set(todo)
    while todo:
        for n in after.get(todo.pop(), ()):
            if n == b:
                return True
            if n not in seen and rank[n] < rank[b]:
                seen.add(n)
                todo.append(n)
    return False


class Beside:
    """The lanes right of some layers; ``solid`` is what stands there: its right end, its top and its bottom."""

    def __init__(self, solid: Sequence[_Lane]) -> None:
        self.solid = solid
        self.lanes: list[_Lane] = []

    def lane(self, top: float, bottom: float) -> float:
        """Where a new lane is that reaches from one height to another: as near as there is room."""
        x = max([right for right, t, b in self.solid if t <= bottom and b >= top], default=0.0) + BESIDE
        for other, t, b in sorted(self.lanes):
            if t <= bottom + 3 and b >= top - 3 and abs(other - x) < APART:
                x = other + APART
        self.lanes.append((x, top, bottom))
        return x
