"""How much memory a network's activations take, in which order they take least, and where each can lie.

An activation is what an op that isn't a view makes; ``group``, ``ungroup``, ``repeat`` and composites of them share
the memory of their argument. Inputs, weights and constants are the caller's, before and after, and are counted apart.
An activation is freed after the last value that takes it, or a view of it; outputs and updates never are. That is
how :func:`tdagger.interpret.interpret` holds results.

>>> import tdagger as td
>>> x = td.input("x", (4,))
>>> y = td.exp(td.exp(td.exp(x)))
>>> memory(td.Graph({"x": x}, {"y": y})).peak_bytes
32
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import attrgetter

from tdagger.graph import Graph, is_view, result_types
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item

#: Every offset of a plan is a multiple of this many bytes.
ALIGNMENT = 64
#: Up to so many buffers a plan is also made largest first, which takes quadratic time.
_FEW = 2000


@dataclass(frozen=True)
class Buffer:
    """The memory of one result of ``value``: alive from step ``start`` to step ``stop``, both included.

    Steps are places in the order of the graph's values; ``stop`` is the number of them for what is never freed.
    """

    value: Value
    index: int
    size: int
    start: int
    stop: int


@dataclass(frozen=True)
class Memory:
    """Bytes a network holds. ``peak_bytes`` is of activations, outputs included, ``peak_at`` the op that needs them.

    ``input_bytes``, ``parameter_bytes``, ``buffer_bytes`` and ``constant_bytes`` are what the caller holds besides;
    weights that are tied are counted once. ``output_bytes`` are those of activations that are left at the end.
    """

    peak_bytes: int
    peak_at: Value | None
    input_bytes: int
    output_bytes: int
    parameter_bytes: int
    buffer_bytes: int
    constant_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters, buffers and constants."""
        return self.parameter_bytes + self.buffer_bytes + self.constant_bytes


def holds(values: Iterable[Value]) -> dict[Value, tuple[tuple[Value, int], ...]]:
    """For each value the activations that it keeps alive, as (value, number of its result); leaves have none."""
    found: dict[Value, tuple[tuple[Value, int], ...]] = {}
    for value in values:
        if isinstance(value.op, Leaf | Const):
            found[value] = ()
        elif isinstance(value.op, Item):
            of = found[value.args[0]]
            found[value] = of[value.op.index : value.op.index + 1]
        elif is_view(value):
            found[value] = tuple(dict.fromkeys(b for a in value.args for b in found[a]))
        else:
            found[value] = tuple([(value, i) for i in range(len(result_types(value)))])
    return found


def buffers(graph: Graph, order: Sequence[Value] = ()) -> list[Buffer]:
    """The activations of a graph in the order they are made; ``order`` is another order of its values."""
    values = order or graph.values
    held = holds(values)
    stop: dict[tuple[Value, int], int] = {}
    for step, value in enumerate(values):
        for key in held[value]:
            stop[key] = step
        for arg in value.args:
            for key in held[arg]:
                stop[key] = step
    for value in (*graph.outputs.values(), *graph.updates.values()):
        for key in held[value]:
            stop[key] = len(values)
    place = {value: step for step, value in enumerate(values)}
    return [Buffer(v, i, result_types(v)[i].bytes, place[v], end) for (v, i), end in stop.items()]


def peak(graph: Graph, order: Sequence[Value] = ()) -> tuple[int, Value | None]:
    """The most bytes of activations alive at once, and the first op that needs them."""
    return _peak(order or graph.values, buffers(graph, order))


def _peak(values: Sequence[Value], found: Iterable[Buffer]) -> tuple[int, Value | None]:
    change = [0] * (len(values) + 2)
    for b in found:
        change[b.start] += b.size
        change[b.stop + 1] -= b.size
    live = most = 0
    at: Value | None = None
    for value, n in zip(values, change, strict=False):
        live += n
        if live > most:
            most, at = live, value
    return most, at


def memory(graph: Graph, aliases: Mapping[str, str] | None = None) -> Memory:
    """What a graph holds; ``aliases`` maps names of weights to the names of those that they are tied to."""
    found, end = buffers(graph), len(graph.values)
    most, at = _peak(graph.values, found)

    def total(leaves: Mapping[str, Value]) -> int:
        once = {(aliases or {}).get(name) or name: v.type.bytes for name, v in leaves.items()}
        return sum(once.values())

    return Memory(
        peak_bytes=most,
        peak_at=at,
        input_bytes=sum(v.type.bytes for v in graph.inputs.values()),
        output_bytes=sum(b.size for b in found if b.stop == end),
        parameter_bytes=total(graph.parameters),
        buffer_bytes=total(graph.buffers),
        constant_bytes=sum(v.type.bytes for v in graph.constants),
    )


# --- a plan ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Where every activation lies in one block of ``size`` bytes: ``offsets[buffer]``.

    Buffers that are alive at one step don't overlap. ``size`` is at least the peak.
    """

    size: int
    offsets: Mapping[Buffer, int]


def plan(graph: Graph, alignment: int = ALIGNMENT) -> Plan:
    """Places for all activations, each in the smallest gap that has room for it.

    In the order they are made, n log n; for up to 2000 buffers also the largest first, as TFLite's arena does, and
    the smaller of the two is taken.
    """
    found = buffers(graph)
    plans = [_in_order(found, alignment)]
    if len(found) <= _FEW:
        plans.append(_largest_first(found, alignment))
    return min(plans, key=attrgetter("size"))


def _aligned(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _in_order(found: Sequence[Buffer], alignment: int) -> Plan:
    gaps = _Gaps()
    offsets: dict[Buffer, int] = {}
    alive: list[tuple[int, int, int]] = []  # (last step, offset, size)
    for b in sorted(found, key=attrgetter("start")):
        while alive and alive[0][0] < b.start:
            _, offset, size = heappop(alive)
            gaps.give(offset, size)
        size = _aligned(b.size, alignment)
        offsets[b] = gaps.take(size) if size else 0
        if size:
            heappush(alive, (b.stop, offsets[b], size))
    return Plan(gaps.end, offsets)


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


def _largest_first(found: Sequence[Buffer], alignment: int) -> Plan:
    offsets: dict[Buffer, int] = {}
    placed: list[tuple[int, int, Buffer]] = []  # (offset, number, buffer), by offset
    end = 0
    for number, b in enumerate(sorted(found, key=lambda b: (-b.size, b.start))):
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
        offsets[b] = at if size else 0
        if size:
            insort(placed, (at, number, b))
            end = max(end, at + size)
    return Plan(end, offsets)


# --- an order ----------------------------------------------------------------------------------------------


def scheduled(graph: Graph) -> Graph:
    """The graph in the order, of those tried, that has the lowest peak; never a higher one than its own.

    Tried are the graph's own, going for what frees most and allocates least at every step, and going for what an
    output needs, the argument that takes most memory first.
    """
    best, least = graph, peak(graph)[0]
    for order in (_by_gain(graph), _by_need(graph)):
        other = Graph(graph.inputs, graph.outputs, graph.updates, graph.name, order)
        most = peak(other)[0]
        if most < least:
            best, least = other, most
    return best


def _made(value: Value) -> int:
    """Bytes that a value takes in memory by itself."""
    if isinstance(value.op, Leaf | Const | Item) or is_view(value):
        return 0
    return sum(t.bytes for t in result_types(value))


def _by_gain(graph: Graph) -> list[Value]:
    """At every step the value, of those whose arguments are there, that adds least to what is alive."""
    values = graph.values
    place = {v: i for i, v in enumerate(values)}
    held = holds(values)
    users: dict[tuple[Value, int], set[Value]] = {}  # of each activation, who is still to take it
    for value in values:
        for arg in value.args:
            for key in held[arg]:
                users.setdefault(key, set()).add(value)
    for value in (*graph.outputs.values(), *graph.updates.values()):
        for key in held[value]:
            users.pop(key, None)  # never freed
    sizes = {key: result_types(key[0])[key[1]].bytes for key in users}
    waits = {v: len(set(v.args)) for v in values}

    def gain(value: Value) -> int:
        own = set(held[value])
        taken = dict.fromkeys(k for a in value.args for k in held[a] if k not in own)
        return _made(value) - sum(sizes[k] for k in taken if len(users.get(k, ())) == 1)

    ready = [(gain(v), place[v]) for v in values if not v.args]
    heapify(ready)
    order: list[Value] = []
    done: set[Value] = set()
    while ready:
        value = values[heappop(ready)[1]]
        if value in done:
            continue
        done.add(value)
        order.append(value)
        for user in graph.users[value]:
            waits[user] -= 1
            if not waits[user]:
                heappush(ready, (gain(user), place[user]))
        for key in dict.fromkeys(k for a in value.args for k in held[a]):
            left = users.get(key, set())
            left.discard(value)
            if len(left) == 1:  # the last one to take it frees it
                last = next(iter(left))
                if not waits[last]:
                    heappush(ready, (gain(last), place[last]))
    return order


def _by_need(graph: Graph) -> list[Value]:
    """From the outputs back: the argument that takes most memory first, as if the graph were a tree."""
    need: dict[Value, int] = {}
    first: dict[Value, list[Value]] = {}
    for value in graph.values:
        args = sorted(dict.fromkeys(value.args), key=lambda a: need[a] - _made(a), reverse=True)
        most = held = 0
        for arg in args:
            most = max(most, held + need[arg])
            held += _made(arg)
        need[value], first[value] = max(most, held + _made(value)), args
    order: list[Value] = []
    seen: set[Value] = set()
    roots = dict.fromkeys([*graph.outputs.values(), *graph.updates.values()])
    stack = sorted(roots, key=lambda v: need[v] - _made(v))
    while stack:
        value = stack[-1]
        waiting = [a for a in first[value] if a not in seen] if value not in seen else []
        if waiting:
            stack.extend(reversed(waiting))
            continue
        stack.pop()
        if value not in seen:
            seen.add(value)
            order.append(value)
    return order
