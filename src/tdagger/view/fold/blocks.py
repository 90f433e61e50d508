"""Blocks found by structure, where there are no modules or a module holds too much for one screen.

Where a network is narrow, one tensor passing from what came before to what follows, one block ends and the next begins:
a residual block, attention, an MLP. What has no such places is cut where fewest tensors pass, into parts of about one
size. So every box holds a bounded number of others, and all of it is linear in the number of ops, times the depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tdagger.graph import result_types
from tdagger.op import Value
from tdagger.view.fold.boxes import Box, Leaf, own
from tdagger.view.fold.names import WEIGHTED, is_norm, kind_of
from tdagger.view.fold.prepared import prepared
from tdagger.view.fold.repeats import Shapes, moved, periods, together
from tdagger.view.fold.wires import End, Wires

#: A box holds no more things than this, repetitions folded; what is found by structure aims at the second.
MOST, WANTED = 40, 16
_SCREEN = 24

#: So few ops are shown as they are.
FEW = 8

Items = list[Box | Leaf]


def arrange(root: Box, wires: Wires, trained: set[Value], by_structure: bool) -> None:
    """Put what repeats, and what is too much for one box, in boxes of its own; ``by_structure``: all of the root."""
    every = [root, *root.boxes()]
    shapes = Shapes()
    for box in every:
        if len(box.items) > FEW and any(isinstance(i, Box) for i in box.items):
            box.items = prepared(box.items, wires, trained)
    for box in reversed(every):
        if by_structure and box is root and len(box.items) > FEW:
            continue
        box.items = _repeating(box.items, shapes)
    for box in every:
        whole = by_structure and box is root and len(box.items) > FEW
        if whole or _count(box.items, shapes) > MOST:
            box.items = _Found(box, wires, trained).all()
    own(root)


def _count(items: Items, shapes: Shapes) -> int:
    """How many things there are to see: boxes in a row that are alike are one."""
    labels = [shapes.of(i) if isinstance(i, Box) else -n - 1 for n, i in enumerate(items)]
    return sum(1 for a, b in zip([None, *labels], labels, strict=False) if a != b)


def _repeating(items: Items, shapes: Shapes) -> Items:
    """What repeats several at a time (a window and a shifted one) put together, where the numbers of names agree."""
    labels = [shapes.of(i) for i in items]
    out, done = Items(), 0
    for start, length, times in periods(labels):
        runs = [items[start + k * length : start + (k + 1) * length] for k in range(times)]
        if not all(isinstance(i, Box) for run in runs for i in run) or not _agree(runs, length):
            continue
        out += items[done:start]
        for k, run in enumerate(runs):
            box = Box(together([i.name for i in run]), "", False)
            counted = any(a.name != b.name for a, b in zip(runs[0], runs[1], strict=True))
            box.items, box.step, box.offset = run, length * counted, k * length * counted
            out.append(box)
        done = start + length * times
    return [*out, *items[done:]]


def _agree(runs: Sequence[Items], length: int) -> bool:
    """Whether names count on from one run to the next, or are the same in all."""
    every = [
        (moved(a.name, length * k), a.name, b.name)
        for k, run in enumerate(runs)
        for a, b in zip(runs[0], run, strict=True)
    ]
    return all(moved_ == name for moved_, _, name in every) or all(first == name for _, first, name in every)


class _Found:
    """The blocks of what one box holds."""

    def __init__(self, box: Box, wires: Wires, trained: set[Value]) -> None:
        self.box, self.items, self.wires = box, box.items, wires
        self.shapes = Shapes()
        self.place: dict[Leaf, int] = {}
        for i, item in enumerate(self.items):
            for leaf in [item] if isinstance(item, Leaf) else item.leaves():
                self.place[leaf] = i
        self.passing = self._passing(trained)

    def _passing(self, trained: set[Value]) -> list[int]:
        """How many tensors pass between every two items; of networks with parameters, those that they are behind.

        What is only given out, as keys and values for a cache are, passes nothing.
        """
        any_trained = any(leaf.value in trained for leaf in self.place)
        first: dict[End, int] = {}
        last: dict[End, int] = {}
        for leaf, j in self.place.items():
            for s in self.wires.sources[leaf]:
                maker = s.end[0]
                inside = isinstance(maker, Leaf) and maker in self.place
                first.setdefault(s.end, self.place[maker] if inside and isinstance(maker, Leaf) else j)
                last[s.end] = max(j, last.get(s.end, 0))
        change = [0] * (len(self.items) + 2)
        made = {leaf.value.type for leaf in self.place}
        for end, stop in last.items():
            if isinstance(end[0], Leaf) and end[0] in self.place:
                passes = end[0].value in trained or not any_trained
            else:  # what comes from outside and goes round the first block, not what all blocks take
                passes = end[0].value.type in made and stop - first[end] <= MOST
            if passes:
                change[first[end]] += 1
                change[max(stop, first[end])] -= 1
        live, out = 0, list[int]()
        for n in change:
            live += n
            out.append(live)
        return out

    def all(self) -> Items:
        """What the box holds, in blocks."""
        return self._blocks(0, len(self.items))

    def _blocks(self, start: int, stop: int) -> Items:
        if stop - start <= (FEW if stop - start == len(self.items) else WANTED):
            return self.items[start:stop]
        pieces = self._pieces(start, stop)
        if len(pieces) == 1:
            return self.items[start:stop]
        found = [self._block(unit) for unit in self._units(pieces)]
        return self._bounded(_layers(found, self.shapes))

    def _block(self, pieces: list[tuple[int, int]]) -> Box | Leaf:
        items = [item for piece in pieces for item in self._blocks(*piece)]
        return items[0] if len(items) == 1 else self._boxed(items)

    def _boxed(self, items: Items) -> Box:
        kind = kind_of(items, self.wires)
        box = Box(kind, kind)
        box.items = items
        return box

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut where fewest tensors pass; where that leaves nearly all in one piece, in parts of about one size."""
        inside = self.passing[start : stop - 1]
        least = min(inside)
        ends = [start + i + 1 for i, n in enumerate(inside) if n == least]
        pieces = list(zip([start, *ends], [*ends, stop], strict=True))
        if max(b - a for a, b in pieces) <= 0.75 * (stop - start):
            return pieces
        if stop - start <= MOST:
            return [(start, stop)]
        return self._even(start, stop)

    def _even(self, start: int, stop: int) -> list[tuple[int, int]]:
        """About :data:`WANTED` parts, each cut where fewest tensors pass near its end."""
        size = math.ceil((stop - start) / WANTED)
        out, at = list[tuple[int, int]](), start
        while stop - at > 1.5 * size:
            near = range(at + max(1, size * 3 // 4), at + size * 5 // 4 + 1)
            end = min(near, key=lambda i: (self.passing[i - 1], abs(i - at - size)))
            out.append((at, end))
            at = end
        return [*out, (at, stop)]

    def _units(self, pieces: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """Pieces of one op put with what they follow: a norm and an activation with their convolution."""
        out: list[list[tuple[int, int]]] = []
        weighted = False  # whether the last unit is one op with weights and what follows it
        for start, stop in pieces:
            single = self.items[start] if stop - start == 1 else None
            op = single.value.op.name if isinstance(single, Leaf) else ""
            joins = op and (weighted if is_norm(op) else op not in WEIGHTED and not self._has_weights(single))
            if out and joins:
                out[-1].append((start, stop))
            else:
                out.append([(start, stop)])
                weighted = op in WEIGHTED
        return out

    def _has_weights(self, item: Box | Leaf | None) -> bool:
        return isinstance(item, Leaf) and any(self.wires.slots[item])

    def _bounded(self, items: Items) -> Items:
        """No more than fit a screen: those whose results have one resolution together, or so many at a time."""
        if _count(items, self.shapes) <= _SCREEN:
            return items
        runs: list[Items] = []
        before: object = None
        for item in items:
            type_ = _resolution(item)
            if not runs or type_ != before:
                runs.append([])
            runs[-1].append(item)
            before = type_
        if not 1 < len(runs) <= _SCREEN:
            size = math.ceil(len(items) / WANTED)
            runs = [items[i : i + size] for i in range(0, len(items), size)]
        return [self._staged(run) if len(run) > 1 else run[0] for run in runs]

    def _staged(self, run: Items) -> Box:
        box = Box("stage", "stage") if any(isinstance(i, Box) for i in run) else self._boxed(run)
        box.items = self._bounded(run)
        return box


def _resolution(item: Box | Leaf) -> object:
    """What a stage keeps: the sizes of a picture, whatever its channels; of other tensors their type."""
    while isinstance(item, Box):
        item = item.items[-1]
    type_ = result_types(item.value)[0]
    return type_.shape[2:] if type_.rank == 4 else type_


def _layers(items: Items, shapes: Shapes) -> Items:
    """What repeats several at a time as one box each: attention and an MLP are a layer."""
    labels = [shapes.of(i) for i in items]
    out, done = Items(), 0
    for start, length, times in periods(labels):
        out += items[done:start]
        for k in range(times):
            run = items[start + k * length : start + (k + 1) * length]
            box = Box("layer", "layer")
            box.items = run
            out.append(box)
        done = start + length * times
    return [*out, *items[done:]]
