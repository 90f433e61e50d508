"""What a module makes from inputs alone, masks and positions: many small ops that say little, as one box each."""

from __future__ import annotations

from collections.abc import Sequence

from tdagger.graph import result_types
from tdagger.op import Value
from tdagger.ops.source import Iota
from tdagger.view.fold.boxes import Box, Leaf
from tdagger.view.fold.wires import Wires

#: Fewer ops stay as they are.
_FEWEST = 3


def prepared(items: Sequence[Box | Leaf], wires: Wires, trained: set[Value]) -> list[Box | Leaf]:
    """The items with ops that no parameter is behind together, as far as they follow each other with nothing between.

    ``items`` are in an order in which what feeds comes first.
    """
    place = {leaf: item for item in items for leaf in ([item] if isinstance(item, Leaf) else item.leaves())}
    behind: dict[Box | Leaf, set[Box | Leaf]] = {item: set() for item in items}
    for leaf, item in place.items():
        for source in wires.sources[leaf]:
            maker = source.end[0]
            if isinstance(maker, Leaf) and maker in place and place[maker] is not item:
                behind[item].add(place[maker])
    plain = {i for i in items if isinstance(i, Leaf) and i.value not in trained and not i.name}
    level: dict[Box | Leaf, int] = {}
    together = {i: i for i in plain}
    for item in items:
        level[item] = max([level.get(m, 0) + (m not in plain) for m in behind[item]], default=0)
        for maker in behind[item]:
            if item in plain and maker in plain and level[maker] == level[item]:
                together[_first(maker, together)] = _first(item, together)
    groups: dict[Leaf, list[Box | Leaf]] = {}
    for item in items:
        if isinstance(item, Leaf) and item in plain:
            groups.setdefault(_first(item, together), []).append(item)
    out: list[Box | Leaf] = []
    for item in items:
        group = groups[_first(item, together)] if isinstance(item, Leaf) and item in plain else []
        if len(group) < _FEWEST:
            out.append(item)
        elif item is group[0]:
            out.append(_boxed(group))
    return out


def _first(leaf: Box | Leaf, together: dict[Leaf, Leaf]) -> Leaf:
    assert isinstance(leaf, Leaf)
    while together[leaf] is not leaf:
        together[leaf] = together[together[leaf]]
        leaf = together[leaf]
    return leaf


def _boxed(group: list[Box | Leaf]) -> Box:
    leaves = [leaf for leaf in group if isinstance(leaf, Leaf)]
    is_mask = any(t.dtype.name == "bool" for leaf in leaves for t in result_types(leaf.value))
    kind = (
        "mask" if is_mask else "positions" if any(isinstance(leaf.value.op, Iota) for leaf in leaves) else "preparation"
    )
    box = Box(kind, kind)
    box.items = group
    return box
