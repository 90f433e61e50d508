"""Where every activation lies in one block of memory, like TFLite's arena.

>>> import tdagger as td
>>> x = td.input("x", (16,))
>>> y = td.exp(td.sin(td.exp(x)))
>>> graph = td.Graph({"x": x}, {"y": y})
>>> plan(graph).size, plan(graph, in_place=True).size
(128, 64)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate

import numpy as np

from tdagger.analysis.memory.activations import Buffer, buffers, holds
from tdagger.analysis.memory.activations import in_place as in_place_slots
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, label

#: Every offset of a plan is a multiple of this many bytes.
ALIGNMENT = 64
#: Up to so many buffers a plan is also made by rules that take quadratic time.
_FEW = 2000


@dataclass(frozen=True)
class Slot:
    """A part of the block: alive from step ``start`` to ``stop``, both included, for all its ``buffers`` in turn."""

    size: int
    start: int
    stop: int
    buffers: tuple[Buffer, ...] = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """Where every activation lies in one block of ``size`` bytes: ``offsets[buffer]``.

    Buffers that are alive at one step don't overlap, but for one that is written over another, in place.
    ``peak_bytes`` is what is alive at most, the least any plan could take (but for alignment); ``sum_bytes`` what all
    would take side by side. ``print(plan)`` shows a row for each buffer.
    """

    size: int
    offsets: Mapping[Buffer, int]
    peak_bytes: int
    sum_bytes: int

    def __str__(self) -> str:
        rows = sorted(self.offsets.items(), key=lambda item: (item[0].start, item[0].index))
        lines = [f"{'offset':>14} {'size':>14} {'first':>7} {'last':>7}  op"]
        lines += [
            f"{offset:>14,} {b.size:>14,} {b.start:>7} {b.stop:>7}  {label(b.value.op)} {b.value.type}"
            for b, offset in rows
        ]
        more = f"{self.size / self.peak_bytes:.3f} of the peak" if self.peak_bytes else "nothing to hold"
        lines.append(f"{len(rows)} buffers in {self.size:,} bytes, {more} {self.peak_bytes:,}; all: {self.sum_bytes:,}")
        return "\n".join(lines)


def plan(graph: Graph, alignment: int = ALIGNMENT, *, in_place: bool = False) -> Plan:
    """Places for all activations, each in the smallest gap that has room for it.

    In the order they are made, n log n; for up to 2000 also the largest first, as TFLite's arena does, and those alive
    at the widest step first; the smallest is taken. ``in_place``: an elementwise op may write over an argument that
    dies with it (:func:`tdagger.analysis.memory.activations.in_place`), never over an input, a weight or a constant.
    Offsets are multiples of ``alignment`` bytes; AttributeValueError unless that is positive.
    """
    if alignment < 1:
        raise AttributeValueError(f"plan: the alignment is a positive number of bytes, got {alignment}")
    held = holds(graph.values)
    found = buffers(graph, held=held)
    groups = [[[b] for b in found]]
    if in_place:
        groups.insert(0, in_place_slots(graph, found, held))
    tried: list[tuple[int, list[Slot], list[int]]] = []
    for group in groups:
        slots = [Slot(g[0].size, g[0].start, g[-1].stop, tuple(g)) for g in group]
        tried += [(size, slots, places) for size, places in _placements(slots, alignment, len(graph.values))]
    size, slots, places = min(tried, key=lambda t: t[0])
    offsets = {b: at for slot, at in zip(slots, places, strict=True) for b in slot.buffers}
    return Plan(size, offsets, max(_alive(slots, len(graph.values))), sum(b.size for b in found))


def _alive(slots: Sequence[Slot], steps: int) -> list[int]:
    """The bytes that are alive at every step, and after the last."""
    change = [0] * (steps + 2)
    for s in slots:
        change[s.start] += s.size
        change[s.stop + 1] -= s.size
    return list(accumulate(change))


def _placements(slots: Sequence[Slot], alignment: int, steps: int) -> Iterator[tuple[int, list[int]]]:
    """Sizes of the block with an offset for every slot, by several rules."""
    yield _in_order(slots, alignment)
    if len(slots) <= _FEW:
        alive = np.array(_alive(slots, steps))
        breadth = [int(alive[s.start : s.stop + 1].max()) for s in slots]
        for first in ([0] * len(slots), breadth):
            order = sorted(range(len(slots)), key=lambda n: (-first[n], -slots[n].size, slots[n].start))
            yield _one_by_one(slots, order, alignment)


def _aligned(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _in_order(slots: Sequence[Slot], alignment: int) -> tuple[int, list[int]]:
    """The size, and an offset for every slot."""
    gaps = _Gaps()
    offsets = [0] * len(slots)
    alive: list[tuple[int, int, int]] = []  # (last step, offset, size)
    for n in sorted(range(len(slots)), key=lambda n: slots[n].start):
        b = slots[n]
        while alive and alive[0][0] < b.start:
            _, offset, size = heappop(alive)
            gaps.give(offset, size)
        size = _aligned(b.size, alignment)
        offsets[n] = gaps.take(size) if size else 0
        if size:
            heappush(alive, (b.stop, offsets[n], size))
    return gaps.end, offsets


class _Gaps:
    """The free parts of a block that grows at its end: ``starts`` and ``stops`` say where each of them is."""

    def __init__(self) -> None:
        self.end = 0
        self._by_size: list[tuple[int, int]] = []
        self._starts: dict[int, int] = {}
        self._stops: dict[int, int] = {}

    def _add(self, start: int, size: int) -> None:
        insort(self._by_size, (size, start))
        self._starts[start] = start + size
        self._stops[start + size] = start

    def _drop(self, start: int, stop: int) -> None:
        del self._by_size[bisect_left(self._by_size, (stop - start, start))]
        del self._starts[start], self._stops[stop]

    def take(self, size: int) -> int:
        """The offset of the smallest gap with room; the block grows, from its last gap on, if there is none."""
        at = bisect_left(self._by_size, (size, -1))
        if at < len(self._by_size):
            room, start = self._by_size[at]
            self._drop(start, start + room)
            if room > size:
                self._add(start + size, room - size)
            return start
        start = self._stops.get(self.end, self.end)
        if start < self.end:
            self._drop(start, self.end)
        self.end = start + size
        return start

    def give(self, start: int, size: int) -> None:
        """A part is free again; it is joined with the gaps beside it."""
        stop = start + size
        if start in self._stops:
            before = self._stops[start]
            self._drop(before, start)
            start = before
        if stop in self._starts:
            after = self._starts[stop]
            self._drop(stop, after)
            stop = after
        self._add(start, stop - start)


def _one_by_one(slots: Sequence[Slot], order: Iterable[int], alignment: int) -> tuple[int, list[int]]:
    """The size, and an offset for every slot, placed one after the other among those placed before; quadratic."""
    offsets = [0] * len(slots)
    placed: list[tuple[int, int, Slot]] = []  # (offset, number, slot), by offset
    end = 0
    for number in order:
        b = slots[number]
        size = _aligned(b.size, alignment)
        best: tuple[int, int] | None = None  # (room, offset)
        free = 0
        for offset, _, other in placed:
            if other.stop < b.start or b.stop < other.start:
                continue
            if offset - free >= size and (best is None or offset - free < best[0]):
                best = offset - free, free
            free = max(free, offset + _aligned(other.size, alignment))
        at = free if best is None else best[1]
        offsets[number] = at if size else 0
        if size:
            insort(placed, (at, number, b))
            end = max(end, at + size)
    return end, offsets
