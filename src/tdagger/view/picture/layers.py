"""Where the things of one box stand: in layers from top to bottom, what feeds above what is fed.

Sugiyama's method: the longest way says the layer, edges over several layers pass through points of their own, layers
are ordered by the middle of their neighbours while that lessens crossings, and columns are moved towards their
neighbours as far as room allows (the nearest places in least squares, by pooling neighbours that would overlap).
docs/dependencies.md says why no library does this.

>>> found = layered([(40, 20), (40, 20), (40, 20)], [(0, 1), (0, 2)])
>>> [round(y) for _, y in found.places], found.size
([0, 64, 64], (100.0, 84.0))
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tdagger.view.picture.lanes import BESIDE, Beside, skips

#: Between things side by side, and between layers.
GAP, RISE = 20.0, 44.0
#: Room for an edge that passes.
_LANE = 10.0
_SWEEPS = 8
#: More things than these have no lanes.
_MOST = 400


@dataclass
class Layout:
    """``places`` of the upper left corners, the points on the way of every edge, and the size of it all.

    ``lanes`` are the edges that go down beside the layers: their points are corners. ``dots`` are where one leaves a
    lane that goes on.
    """

    places: list[tuple[float, float]]
    ways: list[list[tuple[float, float]]]
    size: tuple[float, float]
    lanes: list[bool]
    dots: list[tuple[float, float]]


def layered(
    sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], top: int = 0, bottom: int = 0
) -> Layout:
    """The layout of things of some sizes; edges go from lower numbers to higher ones, or are drawn upwards.

    The first ``top`` of them stand in the first layer, the last ``bottom`` in the last.
    """
    return _Layered(sizes, edges, top, bottom).layout()


class _Layered:
    def __init__(
        self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], top: int, bottom: int
    ) -> None:
        self.width = [w for w, _ in sizes]
        self.height = [h for _, h in sizes]
        self.real = len(sizes)
        self.edges = edges
        self.rank = self._ranks(top, bottom)
        rising = len(sizes) <= _MOST and all(a < b for a, b in edges)
        self.skip = skips(self.rank, edges) if rising else [False] * len(edges)
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.chains = [[] if skip else self._chain(min(e), max(e)) for e, skip in zip(edges, self.skip, strict=True)]
        self.layers: list[list[int]] = [[] for _ in range(max(self.rank, default=-1) + 1)]
        for node in self._by_first_visit():
            self.layers[self.rank[node]].append(node)

    def _ranks(self, top: int, bottom: int) -> list[int]:
        """The longest way from above; what nothing feeds stands just above what it feeds."""
        rank = [0] * self.real
        down = sorted({(min(e), max(e)) for e in self.edges if e[0] != e[1]})
        below: dict[int, list[int]] = {}
        for a, b in down:
            rank[b] = max(rank[b], rank[a] + 1)
            below.setdefault(a, []).append(b)
        fed = {b for _, b in down}
        for a in range(top, self.real):
            if a not in fed and a in below:
                rank[a] = min(rank[b] for b in below[a]) - 1
        for a in range(self.real - bottom, self.real):
            rank[a] = max(rank)
        return rank

    def _chain(self, a: int, b: int) -> list[int]:
        """An edge as a chain through a point in every layer between."""
        if a == b:
            return [a]
        chain = [a]
        for rank in range(self.rank[a] + 1, self.rank[b]):
            chain.append(len(self.rank))
            self.rank.append(rank)
            self.width.append(_LANE)
            self.height.append(0.0)
            self.above.append([])
            self.below.append([])
        chain.append(b)
        for x, y in itertools.pairwise(chain):
            self.below[x].append(y)
            self.above[y].append(x)
        return chain

    def _by_first_visit(self) -> list[int]:
        done: dict[int, None] = {}
        todo = [n for n in range(len(self.rank) - 1, -1, -1) if not self.above[n]]
        while todo:
            node = todo.pop()
            if node not in done:
                done[node] = None
                todo += reversed(self.below[node])
        return list(done)

    # --- order ---

    def _order(self) -> None:
        best = [list(layer) for layer in self.layers]
        fewest = self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            downward = sweep % 2 == 0
            others = self.above if downward else self.below
            place = {n: i for layer in self.layers for i, n in enumerate(layer)}
            for layer in self.layers if downward else reversed(self.layers):
                middle = {n: _mean([place[m] for m in others[n]], place[n]) for n in layer}
                layer.sort(key=lambda n: (middle[n], place[n]))
                place.update({n: i for i, n in enumerate(layer)})
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _crossings(self) -> int:
        total = 0
        for upper, lower in zip(self.layers, self.layers[1:], strict=False):
            place = {n: i for i, n in enumerate(lower)}
            ends = [place[m] for n in upper for m in sorted(self.below[n], key=place.__getitem__)]
            total += _inversions(ends)
        return total

    # --- places ---

    def layout(self) -> Layout:
        if not self.real:
            return Layout([], [], (0.0, 0.0), [], [])
        self._order()
        x = self._columns()
        y, top = [0.0] * len(self.rank), 0.0
        for layer in self.layers:
            tall = max(self.height[n] for n in layer)
            for n in layer:
                y[n] = top + (tall - self.height[n]) / 2 if n >= self.real else top
            top += tall + RISE
        left = min(x[n] - self.width[n] / 2 for n in range(len(x)))
        right = max(x[n] + self.width[n] / 2 for n in range(len(x)))
        places = [(x[n] - self.width[n] / 2 - left, y[n]) for n in range(self.real)]
        tall = [max(self.height[n] for n in layer) for layer in self.layers]
        ways = [
            self._way(chain, edge, x, y, left, tall) if chain else []
            for chain, edge in zip(self.chains, self.edges, strict=True)
        ]
        dots = self._lead(places, ways, tall)
        wide = max([right - left, *[px + BESIDE for way, s in zip(ways, self.skip, strict=True) if s for px, _ in way]])
        return Layout(places, ways, (wide, top - RISE), self.skip, dots)

    # --- lanes ---

    def _lead(
        self, places: Sequence[tuple[float, float]], ways: list[list[tuple[float, float]]], tall: Sequence[float]
    ) -> list[tuple[float, float]]:
        """Make the ways of the edges that go down lanes; where lanes have branches."""
        ends = {i: (self._leave(a, places, tall), self._enter(b, places, tall))
                for i, (a, b) in enumerate(self.edges) if self.skip[i]}  # fmt: skip
        solid = [(x + self.width[n], y, y + self.height[n]) for n, (x, y) in enumerate(places)]
        solid += [(px, min(y, q), max(y, q)) for way in ways for (px, y), (_, q) in itertools.pairwise(way)]
        beside = Beside(solid)
        of: dict[int, list[int]] = {}
        for i in ends:
            of.setdefault(self.edges[i][0], []).append(i)
        dots: list[tuple[float, float]] = []
        for own in sorted(of.values(), key=lambda own: max(ends[i][1][0][1] for i in own) - ends[own[0]][0][-1][1]):
            heights = sorted({ends[i][1][0][1] for i in own})
            x = beside.lane(ends[own[0]][0][-1][1], heights[-1])
            dots += [(x, y) for y in heights[:-1]]
            for i in own:
                start, stop = ends[i]
                ways[i] = [*start, (x, start[-1][1]), (x, stop[0][1]), *stop]
        return dots

    def _alone(self, n: int) -> bool:
        return self.layers[self.rank[n]][-1] == n  # nothing stands right of it

    def _leave(self, n: int, places: Sequence[tuple[float, float]], tall: Sequence[float]) -> list[tuple[float, float]]:
        (x, y), w, h = places[n], self.width[n], self.height[n]
        if self._alone(n):
            return [(x + w, y + 0.7 * h)]
        return [(x + w / 2 + 8, y + h), (x + w / 2 + 8, y + h / 2 + tall[self.rank[n]] / 2 + RISE / 4)]

    def _enter(self, n: int, places: Sequence[tuple[float, float]], tall: Sequence[float]) -> list[tuple[float, float]]:
        (x, y), w, h = places[n], self.width[n], self.height[n]
        if self._alone(n):
            return [(x + w, y + 0.3 * h)]
        return [(x + w / 2, y + h / 2 - tall[self.rank[n]] / 2 - RISE / 4), (x + w / 2, y)]

    def _way(
        self,
        chain: list[int],
        edge: tuple[int, int],
        x: list[float],
        y: list[float],
        left: float,
        tall: list[float],
    ) -> list[tuple[float, float]]:
        points = [(x[chain[0]] - left, y[chain[0]] + self.height[chain[0]])]
        for n in chain[1:-1]:
            room = tall[self.rank[n]]
            points += [(x[n] - left, y[n] - room / 2), (x[n] - left, y[n] + room / 2)]
        points.append((x[chain[-1]] - left, y[chain[-1]]))
        return points if edge[0] <= edge[1] else points[::-1]

    def _columns(self) -> list[float]:
        x = [0.0] * len(self.rank)
        for layer in self.layers:
            at = 0.0
            for n in layer:
                x[n] = at + self.width[n] / 2
                at += self.width[n] + GAP
            for n in layer:
                x[n] -= (at - GAP) / 2
        for sweep in range(2 * _SWEEPS + 1):  # by one side, by both, and last of all everything below what feeds it
            downward = sweep % 2 == 0
            both = _SWEEPS <= sweep < 2 * _SWEEPS - 1
            for layer in self.layers if downward else reversed(self.layers):
                self._settle(layer, x, self.above if downward else self.below, both)
        return x

    def _settle(self, layer: list[int], x: list[float], others: list[list[int]], both: bool) -> None:
        wanted, weights = list[float](), list[float]()
        for n in layer:
            near = [*self.above[n], *self.below[n]] if both else others[n]
            wanted.append(_mean([x[m] for m in near], x[n]))
            weights.append((4.0 if n >= self.real else 1.0) if near else 0.01)
        room = [0.0]
        for a, b in itertools.pairwise(layer):
            room.append(room[-1] + (self.width[a] + self.width[b]) / 2 + GAP)
        found = _pooled([w - r for w, r in zip(wanted, room, strict=True)], weights)
        for n, place, r in zip(layer, found, room, strict=True):
            x[n] = place + r


def _mean(numbers: Sequence[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise


def _pooled(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising numbers that are nearest to those wanted, in least squares."""
    pools: list[list[float]] = []  # mean, weight, count
    for number, weight in zip(wanted, weights, strict=True):
        pools.append([number, weight, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, more, count = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * more) / (last[1] + more)
            last[1] += more
            last[2] += count
    return [mean for mean, _, count in pools for _ in range(int(count))]


def _inversions(numbers: Sequence[int]) -> int:
    """How many pairs are in the wrong order, by merging."""
    if len(numbers) < 2:
        return 0
    half = len(numbers) // 2
    left, right = list(numbers[:half]), list(numbers[half:])
    total = _inversions(left) + _inversions(right)
    left.sort()
    right.sort()
    i = 0
    for n in right:
        while i < len(left) and left[i] <= n:
            i += 1
        total += len(left) - i
    return total
