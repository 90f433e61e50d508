"""Bodies: what boxes hold, each distinct one once, with what feeds what and repetitions folded."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tdagger.view.fold.boxes import Box, Leaf
from tdagger.view.fold.repeats import alike, moved, together
from tdagger.view.fold.wires import End, Port, Wires

#: The places of a body's own inputs and outputs, as ends of edges.
INPUT, OUTPUT = -1, -2


class Edge(NamedTuple):
    """A tensor from a port of an item to a port of another; ``times`` as many where items are repeated."""

    start: int
    start_port: int
    stop: int
    stop_port: int
    end: End
    times: int
    networks: int


@dataclass(eq=False)
class Entry:
    """What a body shows as one: an op, a box, or boxes in a row that are alike.

    ``chain`` are (output, input) by which each feeds the next, ``shared`` inputs that all take, ``each`` inputs and
    ``each_out`` outputs of which every one has its own.
    """

    members: list[Leaf] | list[Box]
    body: int = -1
    chain: tuple[tuple[int, int], ...] = ()
    shared: tuple[int, ...] = ()
    each: tuple[int, ...] = ()
    each_out: tuple[int, ...] = ()

    @property
    def first(self) -> Leaf | Box:
        """The first of them."""
        return self.members[0]

    @property
    def times(self) -> int:
        """How many there are."""
        return len(self.members)


@dataclass(eq=False)
class Body:
    """What a box holds, and all boxes like it: ``of`` is the first of them."""

    of: Box
    entries: list[Entry]
    edges: list[Edge]
    inputs: list[End]
    outputs: list[End]
    ops: int
    slots: tuple[int, ...]
    names: list[str] = field(default_factory=list[str])


class Bodies:
    """All bodies of a tree; ``found[root]`` is that of the whole.

    ``describe`` says of an op all that must be equal for it to be the same op elsewhere.
    """

    def __init__(self, root: Box, wires: Wires, describe: Callable[[Leaf], Hashable]) -> None:
        self.wires, self.describe = wires, describe
        self._depth = sort(root, wires)
        self._inputs: dict[Box, dict[End, int]] = {b: {} for b in self._depth}
        self._outputs: dict[Box, dict[End, int]] = {b: {} for b in self._depth}
        self._out_ports: dict[Box, dict[End, int]] = {}
        self._ends(root)
        self.found: list[Body] = []
        self._keys: dict[Hashable, int] = {}
        self._of: dict[Box, int] = {}
        for box in [*reversed(list(root.boxes())), root]:
            self._of[box] = self._body(box)
        self.root = self._of[root]

    # --- what goes into boxes and out of them ---

    def _ends(self, root: Box) -> None:
        for port in self.wires.inputs:
            mask = sum(1 << k for k, v in enumerate(port.values) if v is not None)
            self._inputs[root][port, 0] = mask
        for leaf in root.leaves():
            for source in self.wires.sources[leaf]:
                maker = source.end[0]
                stop = meet(maker, leaf, self._depth)[0] if isinstance(maker, Leaf) else root
                for box in _up(leaf, stop):
                    _add(self._inputs[box], source.end, source.networks)
                for box in _up(maker, stop) if isinstance(maker, Leaf) else ():
                    _add(self._outputs[box], source.end, source.networks)
        for _, end, mask in self.wires.outputs:
            for box in _up(end[0], root) if isinstance(end[0], Leaf) else ():
                _add(self._outputs[box], end, mask)
            _add(self._outputs[root], end, mask)

    # --- bodies ---

    def _body(self, box: Box) -> int:
        inputs, outputs = list(self._inputs[box]), list(self._outputs[box])
        entries = self._entries(box)
        where = {member: i for i, entry in enumerate(entries) for member in entry.members}
        edges = _bundled(self._edges(box, entries, where, inputs, outputs), entries)
        names = [moved(together([m.name for m in entry.members]), -box.offset) for entry in entries]
        key = (
            tuple([self._key(entry, box.offset) for entry in entries]),
            tuple([(*edge[:4], edge.times, edge.networks) for edge in edges]),
            len(inputs),
            len(outputs),
        )
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = len(self.found)
            ops = sum(e.times * (1 if isinstance(e.first, Leaf) else self.found[e.body].ops) for e in entries)
            slots = [sum(column) for column in zip(*[self._slots(e) for e in entries], strict=True)]
            self.found.append(Body(box, entries, edges, inputs, outputs, ops, tuple(slots), names))
        return known

    def _slots(self, entry: Entry) -> list[int]:
        if isinstance(entry.first, Leaf):
            return [len(own) for own in self.wires.slots[entry.first]]
        return [entry.times * n for n in self.found[entry.body].slots]

    def _key(self, entry: Entry, offset: int) -> Hashable:
        first = entry.first
        names = tuple([moved(m.name, -offset) for m in entry.members])
        if isinstance(first, Leaf):
            return ("op", names, first.kind, tuple(first.changes), self.describe(first))
        own = (first.kind, first.is_module, first.call, first.state, first.step, tuple(first.changes))
        return ("box", names, own, entry.body, entry.chain, entry.shared, entry.each, entry.each_out)

    def _entries(self, box: Box) -> list[Entry]:
        out: list[Entry] = []
        at, items = 0, box.items
        while at < len(items):
            first = items[at]
            if isinstance(first, Leaf):
                out.append(Entry([first]))
                at += 1
                continue
            run = self._run(items, at)
            out.append(run)
            at += run.times
        return out

    def _run(self, items: Sequence[Leaf | Box], at: int) -> Entry:
        """The boxes from here on that are alike, each fed as the one before."""
        first = items[at]
        assert isinstance(first, Box)
        entry = Entry([first], self._of[first])
        members = [first]
        while at + len(members) < len(items):
            new = items[at + len(members)]
            if not isinstance(new, Box) or not self._is_like(first, new):
                break
            fed = self._fed(members, new)
            if fed is None or (len(members) > 1 and fed != (entry.chain, entry.shared, entry.each)):
                break
            entry.chain, entry.shared, entry.each = fed
            members.append(new)
        entry.members = members
        return entry

    def _is_like(self, a: Box, b: Box) -> bool:
        same = (a.kind, a.is_module, a.state, a.step, a.changes) == (b.kind, b.is_module, b.state, b.step, b.changes)
        named = alike(a.name, b.name) if a.is_module else a.step or a.name == b.name
        return self._of[a] == self._of[b] and same and bool(named)

    def _fed(
        self, before: list[Box], new: Box
    ) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]] | None:
        """How a box is fed by the last of those before it: (chain, shared, each); None if by others of them."""
        last = before[-1]
        chain, shared, each = list[tuple[int, int]](), list[int](), list[int]()
        pairs = zip(self._inputs[last], self._inputs[new], strict=True)
        for i, (old, end) in enumerate(pairs):
            if _inside(end, last):
                chain.append((self._out_port(last, end), i))
            elif end == old:
                shared.append(i)
            elif any(end in self._outputs[b] for b in before[:-1]):
                return None
            else:
                each.append(i)
        return tuple(chain), tuple(shared), tuple(each)

    # --- edges ---

    def _edges(
        self,
        box: Box,
        entries: list[Entry],
        where: dict[Leaf | Box, int],
        inputs: list[End],
        outputs: list[End],
    ) -> Iterator[Edge]:
        numbers = {end: i for i, end in enumerate(inputs)}

        def start(end: End) -> tuple[int, int, Leaf | Box | None]:
            maker, result = end
            item = maker if isinstance(maker, Leaf) else None
            inner: Leaf | Box | None = _item_of(item, box)
            if inner is None:
                return INPUT, numbers[end], None
            port = result if isinstance(inner, Leaf) else self._out_port(inner, end)
            return where[inner], port, inner

        def left(a: int, port: int, maker: Leaf | Box | None) -> None:
            """An output of one of several in a row goes elsewhere than to the next."""
            if a >= 0 and maker is not entries[a].members[-1]:
                entries[a].each_out = tuple(sorted({*entries[a].each_out, port}))

        for i, entry in enumerate(entries):
            for n, member in enumerate(entry.members):
                for port, end, mask in self._taken(member):
                    a, a_port, maker = start(end)
                    if n and (port in entry.shared or (a == i and maker is entry.members[n - 1])):
                        continue
                    left(a, a_port, maker)
                    yield Edge(a, a_port, i, port, end, 1, mask)
        for port, end in enumerate(outputs):
            a, a_port, maker = start(end)
            left(a, a_port, maker)
            if a != INPUT or box.box is None:
                yield Edge(a, a_port, OUTPUT, port, end, 1, self._outputs[box][end])

    def _out_port(self, box: Box, end: End) -> int:
        ports = self._out_ports.get(box)
        if ports is None:
            ports = self._out_ports[box] = {e: i for i, e in enumerate(self._outputs[box])}
        return ports[end]

    def _taken(self, item: Leaf | Box) -> list[tuple[int, End, int]]:
        if isinstance(item, Leaf):
            return [(s.argument, s.end, s.networks) for s in self.wires.sources[item]]
        return [(i, end, mask) for i, (end, mask) in enumerate(self._inputs[item].items())]


def sort(root: Box, wires: Wires) -> dict[Box, int]:
    """Put what feeds before what is fed, where the order leaves that open; how deep every box is."""
    depth: dict[Box, int] = {root: 0}
    for box in root.boxes():
        depth[box] = depth[_owner(box)] + 1
    after: dict[Box, list[tuple[Leaf | Box, Leaf | Box]]] = {b: [] for b in depth}
    for leaf in root.leaves():
        for source in wires.sources[leaf]:
            maker = source.end[0]
            if isinstance(maker, Leaf):
                common, a, b = meet(maker, leaf, depth)
                if a is not b:
                    after[common].append((a, b))
    for box, pairs in after.items():
        box.items = _sorted(box.items, pairs)
    return depth


def meet(a: Leaf, b: Leaf, depth: dict[Box, int]) -> tuple[Box, Leaf | Box, Leaf | Box]:
    """The innermost box that holds both, and which of its items each is in."""
    left: Leaf | Box = a
    right: Leaf | Box = b
    one, other = _owner(a), _owner(b)
    while one is not other:
        if depth[one] >= depth[other]:
            left, one = one, _owner(one)
        else:
            right, other = other, _owner(other)
    return one, left, right


def _bundled(edges: Iterator[Edge], entries: list[Entry]) -> list[Edge]:
    """Edges of what is repeated as one each: those that differ only in a port there are as many of as boxes."""
    found: dict[Hashable, Edge] = {}
    for e in edges:
        into = e.stop >= 0 and e.stop_port in entries[e.stop].each
        out_of = e.start >= 0 and entries[e.start].times > 1
        key = (e.start, None if into else e.start_port, e.stop, None if out_of else e.stop_port, e.networks)
        known = found.get(key)
        found[key] = e if known is None else known._replace(times=known.times + 1)
    return list(found.values())


def _sorted(items: list[Leaf | Box], pairs: list[tuple[Leaf | Box, Leaf | Box]]) -> list[Leaf | Box]:
    """What feeds before what is fed, else as they were; of a circle the first."""
    place = {item: i for i, item in enumerate(items)}
    if all(place[a] < place[b] for a, b in pairs):
        return items
    waits = [0] * len(items)
    feeds: list[list[int]] = [[] for _ in items]
    for a, b in dict.fromkeys(pairs):
        feeds[place[a]].append(place[b])
        waits[place[b]] += 1
    ready = [i for i, n in enumerate(waits) if not n]
    done: dict[int, None] = {}
    rest = iter(range(len(items)))
    while len(done) < len(items):
        if not ready:  # a circle: modules that take turns
            heapq.heappush(ready, next(i for i in rest if i not in done))
        at = heapq.heappop(ready)
        if at in done:
            continue
        done[at] = None
        for b in feeds[at]:
            waits[b] -= 1
            if not waits[b]:
                heapq.heappush(ready, b)
    return [items[i] for i in done]


def _owner(item: Leaf | Box) -> Box:
    assert item.box is not None
    return item.box


def _up(item: Leaf | Box, stop: Box) -> Iterator[Box]:
    """The boxes around an item inside of ``stop``."""
    box = _owner(item)
    while box is not stop:
        yield box
        box = _owner(box)


def _add(ends: dict[End, int], end: End, mask: int) -> None:
    ends[end] = ends.get(end, 0) | mask


def _item_of(leaf: Leaf | None, box: Box) -> Leaf | Box | None:
    """Which item of a box an op is in; None if it isn't in it."""
    item: Leaf | Box | None = leaf
    while item is not None and item.box is not box:
        item = item.box
    return item


def _inside(end: End, box: Box) -> bool:
    maker: Leaf | Port | Box | None = end[0]
    while maker is not None and maker is not box:
        maker = None if isinstance(maker, Port) else maker.box
    return maker is box
