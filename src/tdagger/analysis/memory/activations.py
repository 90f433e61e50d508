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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tdagger.composite import Composite
from tdagger.graph import Graph, is_one, is_view, result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import POINTWISE
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item
from tdagger.types import TensorType


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

    ``in_place_bytes`` is the peak if elementwise ops write over an argument that nobody needs any more
    (:func:`overwritten`). ``sum_bytes`` is of all activations, as if none were ever freed. ``output_bytes`` are those
    that are left at the end. ``input_bytes``, ``parameter_bytes``, ``buffer_bytes`` and ``constant_bytes`` are what the
    caller holds besides; weights that are tied are counted once, and so is a weight that is read through several views.
    """

    peak_bytes: int
    peak_at: Value | None
    in_place_bytes: int
    sum_bytes: int
    input_bytes: int
    output_bytes: int
    parameter_bytes: int
    buffer_bytes: int
    constant_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters, buffers and constants."""
        return self.parameter_bytes + self.buffer_bytes + self.constant_bytes


#: Of every value the activations that it keeps alive, as (value, number of its result).
Holds = dict[Value, tuple[tuple[Value, int], ...]]


def holds(values: Iterable[Value]) -> Holds:
    """For each value the activations that it keeps alive, as (value, number of its result); leaves have none."""
    found: Holds = {}
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


def buffers(graph: Graph, order: Sequence[Value] = (), held: Holds | None = None) -> list[Buffer]:
    """The activations of a graph in the order they are made; ``order`` is another order of its values.

    ``held`` is what :func:`holds` says of the values, if it is known.
    """
    values = order or graph.values
    held = holds(values) if held is None else held
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
    return _peak(order or graph.values, ((b.size, b.start, b.stop) for b in buffers(graph, order)))


def _peak(values: Sequence[Value], alive: Iterable[tuple[int, int, int]]) -> tuple[int, Value | None]:
    """Of what is alive: (bytes, first step, last step)."""
    change = [0] * (len(values) + 2)
    for size, start, stop in alive:
        change[start] += size
        change[stop + 1] -= size
    live = most = 0
    at: Value | None = None
    for value, n in zip(values, change, strict=False):
        live += n
        if live > most:
            most, at = live, value
    return most, at


def memory(graph: Graph, aliases: Mapping[str, str] | None = None) -> Memory:
    """What a graph holds; ``aliases`` maps names of weights to the names of those that they are tied to."""
    held = holds(graph.values)
    found, end = buffers(graph, held=held), len(graph.values)
    most, at = _peak(graph.values, ((b.size, b.start, b.stop) for b in found))
    slots = in_place(graph, found, held)

    def total(leaves: Mapping[str, Value]) -> int:
        once = {(aliases or {}).get(name) or name: v.type.bytes for name, v in leaves.items()}
        return sum(once.values())

    return Memory(
        peak_bytes=most,
        peak_at=at,
        in_place_bytes=_peak(graph.values, ((s[0].size, s[0].start, s[-1].stop) for s in slots))[0],
        sum_bytes=sum(b.size for b in found),
        input_bytes=sum(v.type.bytes for v in graph.inputs.values()),
        output_bytes=sum(b.size for b in found if b.stop == end),
        parameter_bytes=total(graph.parameters),
        buffer_bytes=total(graph.buffers),
        constant_bytes=sum(v.type.bytes for v in graph.constants),
    )


# --- in place ----------------------------------------------------------------------------------------------


def overwritten(op: Op, out: TensorType, types: tuple[TensorType, ...]) -> tuple[int, ...]:
    """The arguments that a kernel of ``op`` may write its result over, by number.

    Each entry of the result needs only the entry of the argument at the same place, which is as large: the op is
    elementwise, or a composite whose body takes that argument by elementwise ops alone.
    """
    same = {i for i, t in enumerate(types) if t.bytes == out.bytes}
    return tuple(sorted(same & _pointwise(op, out, types))) if same else ()


def _pointwise(op: Op, out: TensorType, types: tuple[TensorType, ...]) -> set[int]:
    """The arguments of which each entry of the result needs only the entry at the same place."""
    same = {i for i, t in enumerate(types) if t.shape == out.shape}
    if not same or isinstance(op, POINTWISE):
        return same
    if not isinstance(op, Composite):
        return set()
    body = op.body(*types)
    behind: dict[Value, set[int]] = {v: {i} for i, v in enumerate(body.inputs.values())}
    moved: set[int] = set()
    for value in body.values:
        if value.args:
            behind[value] = {i for a in value.args for i in behind.get(a, ())}
            if not behind[value] <= moved:  # recursion is as deep as composites nest, not as the graph
                one = is_one(value) and value.type.shape == out.shape
                fine = _pointwise(value.op, value.type, tuple([a.type for a in value.args])) if one else set[int]()
                moved |= {i for n, a in enumerate(value.args) if n not in fine for i in behind.get(a, ())}
    return same - moved


def in_place(graph: Graph, found: Sequence[Buffer], held: Holds) -> list[list[Buffer]]:
    """The activations in slots: those of one slot follow each other, each written over the one before at its last use.

    ``found`` and ``held`` are the graph's :func:`buffers` and :func:`holds`. An activation is written over only if the
    op that makes the next one is the last to take it (or a view of it), and takes it whole, at the same places.
    """
    last = {(b.value, b.index): b for b in found}
    whole = _whole(graph.values)
    known: dict[tuple[Op, tuple[TensorType, ...]], tuple[int, ...]] = {}
    slot: dict[Buffer, list[Buffer]] = {}
    for b in found:
        target = None
        if b.size and is_one(b.value):
            key = (b.value.op, tuple([a.type for a in b.value.args]))
            numbers = known.get(key)
            if numbers is None:
                numbers = known[key] = overwritten(key[0], b.value.type, key[1])
            # of several the slot that began first: what lives long stays where it is, so gaps stay large
            target = min(_dying(b, numbers, held, last, whole), key=lambda old: slot[old][0].start, default=None)
        if target is None:
            slot[b] = [b]
        else:
            slot[target].append(b)
            slot[b] = slot[target]
    return list({id(s): s for s in slot.values()}.values())


def _whole(values: Iterable[Value]) -> set[Value]:
    """The values that lie as their activation does, entry for entry: not views that repeat."""
    found: set[Value] = set()
    for value in values:
        view = is_view(value) and not isinstance(value.op, Item)
        if not view or (is_one(value) and value.args[0] in found and value.type.size == value.args[0].type.size):
            found.add(value)
    return found


def _dying(
    b: Buffer, numbers: Iterable[int], held: Holds, last: Mapping[tuple[Value, int], Buffer], whole: set[Value]
) -> list[Buffer]:
    """The activations that ``b`` can be written over: an argument's, of its size, that dies where ``b`` is made."""
    args, found = b.value.args, list[Buffer]()
    for n in numbers:
        keys = held[args[n]]
        if len(keys) != 1 or args[n] not in whole:
            continue
        old = last[keys[0]]
        others = [i for i, a in enumerate(args) if keys[0] in held[a]]
        if old.stop == b.start and old.size == b.size and all(i in numbers and args[i] in whole for i in others):
            found.append(old)
    return found
