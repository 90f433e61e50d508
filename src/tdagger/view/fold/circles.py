"""Ops that stand between two parts of a box, in the box: else it would feed them and be fed by them.

Modules of a torch network are called, and what is computed between two calls is the caller's. Those of files are read
from names, and converters give what they make names of their own.
"""

from __future__ import annotations

from tdagger.analysis.circles import cycles
from tdagger.view.fold.bodies import meet
from tdagger.view.fold.boxes import Box, Leaf
from tdagger.view.fold.wires import Wires

_Item = Leaf | Box


def enclose(root: Box, wires: Wires) -> None:
    """Move ops without a name into the box that they are in a circle with, if it is the only one; outermost first."""
    depth: dict[Box, int] = {root: 0}
    boxes = list(root.boxes())
    for box in boxes:
        assert box.box is not None
        depth[box] = depth[box.box] + 1
    between: dict[Box, list[tuple[Leaf, Leaf]]] = {box: [] for box in depth}

    for leaf in root.leaves():
        for source in wires.sources[leaf]:
            maker = source.end[0]
            if isinstance(maker, Leaf):
                between[meet(maker, leaf, depth)[0]].append((maker, leaf))
    for box in [root, *boxes]:
        after: dict[_Item, dict[_Item, None]] = {item: {} for item in box.items}
        for maker, leaf in between[box]:
            _, a, b = meet(maker, leaf, depth)
            after[a][b] = None
        for circle in cycles(after, box.items):
            inner = [item for item in circle if isinstance(item, Box)]
            if len(inner) == 1 and not any(item.name for item in circle if isinstance(item, Leaf)):
                _move(box, inner[0], circle)
        for maker, leaf in between.pop(box):
            common, _, _ = meet(maker, leaf, depth)
            if common is not box:
                between[common].append((maker, leaf))


def _move(box: Box, into: Box, circle: set[_Item]) -> None:
    moved = [item for item in box.items if item in circle and item is not into]
    box.items = [item for item in box.items if item not in circle or item is into]
    into.items += moved
    for item in moved:
        item.box = into
