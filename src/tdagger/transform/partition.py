"""A network in parts that run one after the other: by what a target supports, in balanced stages, or by memory.

Every value gets the number of a part, never less than those of its arguments; so the parts are acyclic whatever is in
them, and each is a network. All of it is linear in the graph.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from math import inf
from typing import Any, Generic, NamedTuple, cast

from tdagger.analysis.numbers import quantity
from tdagger.errors import GraphError
from tdagger.graph import Graph, bulk, flops, traffic
from tdagger.interpret import run
from tdagger.names import shown
from tdagger.network import N, Network, Weight, Weights, modules_of, plain_signature, with_parts
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Input, Leaf
from tdagger.ops.structure import Item
from tdagger.transform.surgery.adopt import is_seed
from tdagger.transform.surgery.edit import Edit, state_of
from tdagger.transform.surgery.select import Names, What, chooser, described, name_of
from tdagger.types import TensorType, each_type

#: What a value costs: "flops", "bytes" (read and written) or a function of values.
Cost = str | Callable[[Value], float]
#: Values in an order in which arguments come first, and the place of each. What is said of them is in lists, by place.
Line = dict[Value, int]


def _line(values: Sequence[Value]) -> Line:
    return dict(zip(values, range(len(values)), strict=True))


class _Sizes(dict[Any, int]):
    """The bytes of what has a type (or several, of an op with several results); asked once for each."""

    def __missing__(self, type_: Any) -> int:
        size = self[type_] = sum([t.bytes for t in each_type(type_)])
        return size


class Edge(NamedTuple):
    """A tensor that goes from one part to another: its name, the numbers of the parts, its type."""

    name: str
    source: int
    target: int
    type: TensorType


class _State:
    """What the state of a network says, and which of its buffers no graph uses, by the module that they are of."""

    def __init__(self, state: Mapping[str, Weight], idle: Mapping[str, list[str]]) -> None:
        self.state = state
        self.idle = idle

    @classmethod
    def of_network(cls, dag: Network) -> _State:
        """That of a network."""
        state, idle = state_of(dag), dict[str, list[str]]()
        used = {*dag.graph.buffers, *dag.graph.updates}
        for name, weight in state.items():
            if not weight.is_parameter and not weight.alias_of and name not in used:
                idle.setdefault(name.rpartition(".")[0], []).append(name)
        return cls(state, idle)

    def of(self, names: Iterable[str]) -> dict[str, Weight]:
        """What it says of some weights, and of the counters that go with them."""
        found: dict[str, Weight] = {}
        for name in names:
            for own in (name, *self.idle.get(name.rpartition(".")[0], ())):
                found[own] = self.state[own]
        return found


@dataclass(frozen=True, eq=False)
class Part(Generic[N]):
    """One part: ``values`` of the whole; ``inputs`` and ``outputs`` are what comes and goes, called as edges are.

    ``supported`` says which kind it is where that was asked. ``network`` is made when it is first asked for.
    """

    whole: N
    number: int
    supported: bool | None = None
    state: _State = field(default_factory=lambda: _State({}, {}), repr=False)
    values: list[Value] = field(default_factory=list[Value], repr=False)
    inputs: dict[str, Value] = field(default_factory=dict[str, Value], repr=False)
    outputs: dict[str, Value] = field(default_factory=dict[str, Value], repr=False)
    updates: dict[str, Value] = field(default_factory=dict[str, Value], repr=False)

    @cached_property
    def network(self) -> N:
        """The part as a network, with the weights that it needs."""
        return _network(self)

    @cached_property
    def memory(self) -> int:
        """The bytes that it needs at most: weights, what comes in, the most of its values that are alive at once."""
        line = _line(self.values)
        last = _last_uses([*self.outputs.values(), *self.updates.values()], line)
        held = _Held(line, last, _Sizes(), [0] * len(line), 0)
        for i, value in enumerate(self.values):
            held.with_value(value, i)
        return held.fixed + held.peak

    def cost(self, cost: Cost = "flops") -> float:
        """The sum of its values' costs."""
        return sum(_costs(self.values, cost))


@dataclass(frozen=True)
class Partition(Generic[N]):
    """The parts of a network in the order in which they run; ``edges`` are the tensors between them."""

    whole: N
    parts: tuple[Part[N], ...]
    edges: tuple[Edge, ...]
    #: The names of the whole's outputs, as the parts and inputs call them.
    outputs: tuple[str, ...]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the whole gives, by running part after part with numpy; takes what the whole's ``run`` takes."""
        whole: Any = self.whole
        known: dict[str, Array] = dict(whole.bind(args, kwargs))
        for part in self.parts:
            known.update(run(part.network.graph, known, part.network.weights)[0])
        return self.whole.signature.outputs.unflatten([known[n] for n in self.outputs])

    def joined(self) -> N:
        """The networks of the parts as one again: the whole's graph, value for value."""
        known: dict[str, Value] = dict(self.whole.graph.inputs)
        updates: dict[str, Value] = {}
        order: list[Value] = []
        for part in self.parts:
            graph = part.network.graph
            edit = Edit(part.network, {v: known[n] for n, v in graph.inputs.items()}).run(lambda value, args: None)
            known.update({n: edit.new[v] for n, v in graph.outputs.items()})
            updates.update({n: edit.new[v] for n, v in graph.updates.items()})
            order += edit.order()
        old = self.whole.graph
        outputs = {n: known[own] for n, own in zip(old.outputs, self.outputs, strict=True)}
        return with_parts(self.whole, graph=Graph(old.inputs, outputs, updates, old.name, order))

    def __str__(self) -> str:
        lines: list[str] = []
        for part in self.parts:
            kind = "" if part.supported is None else " supported" if part.supported else " not supported"
            names = f"{', '.join(map(shown, part.inputs))} -> {', '.join(map(shown, part.outputs))}"
            counted = f"{len(part.values)} ops, {quantity(part.cost(), 'FLOPs')}, {quantity(part.memory, 'B')}"
            lines.append(f"{part.number}{kind}: {names}; {counted}")
        return "\n".join(lines)


def partition(
    dag: N,
    *,
    supported: What = None,
    stages: int | None = None,
    memory: int | Sequence[int] | None = None,
    cost: Cost = "flops",
    slack: float = 0.05,
) -> Partition[N]:
    """See :meth:`tdagger.TensorDAG.partition`."""
    asked = [n for n, given in (("supported", supported), ("stages", stages), ("memory", memory)) if given is not None]
    if len(asked) != 1:
        raise GraphError(f"partition: say one of supported=, stages= or memory=, got {', '.join(asked) or 'none'}")
    with bulk(acyclic=True):
        values = [v for v in dag.graph.values if v.args or not isinstance(v.op, Leaf | Const)]
        if not values:
            raise GraphError(f"partition: {shown(dag.name)} computes nothing")
        line = _line(values)
        if supported is not None:
            is_supported = chooser(supported)
            flags = [is_supported(v) for v in values]
            return parted(dag, line, by_support(line, flags), flags)
        if stages is not None:
            return parted(dag, line, by_cost(line, _costs(values, cost), stages, slack))
        assert memory is not None
        return parted(dag, line, by_memory(dag, line, memory))


def _costs(values: Iterable[Value], cost: Cost) -> list[float]:
    if cost == "flops":
        return [flops(v) for v in values]
    if cost == "bytes":
        return [t.reads + t.writes for t in traffic(values).values()]
    if callable(cost):
        found = [(v, cost(v)) for v in values]
        for value, number in found:
            if not 0 <= number < inf:
                raise GraphError(f"partition: a cost is a number from 0 on, that of {value!r} is {number!r}")
        return [number for _, number in found]
    raise GraphError(f'partition: a cost is "flops", "bytes" or a function of values, not {cost!r}')


# --- by what is supported ----------------------------------------------------------------------------------


def by_support(line: Line, flags: Sequence[bool]) -> list[int]:
    """The fewest parts in which all values are of one kind: as many as kinds alternate on any path.

    A value goes as early as it can. Parts take turns: those of even numbers are of one kind, whichever gives fewer.
    """
    first: list[int] = []  # where parts of even numbers are supported
    other: list[int] = []
    place = line.get
    for value, flag in zip(line, flags, strict=True):
        a = b = 0
        for arg in value.args:
            at = place(arg)
            if at is not None:
                n = first[at]
                if n > a:
                    a = n
                n = other[at]
                if n > b:
                    b = n
        if value.op.__class__ is not Item:  # a result goes with the op that it is of
            if (a & 1) == flag:
                a += 1
            if (b & 1) != flag:
                b += 1
        first.append(a)
        other.append(b)
    return min(first, other, key=lambda numbers: len(set(numbers)))


# --- in stages ---------------------------------------------------------------------------------------------


def by_cost(line: Line, costs: Sequence[float], stages: int, slack: float) -> list[int]:
    """So many stages, the most expensive as cheap as the order of the graph lets it be, and ``slack`` more.

    With what slack there is, cuts are where the fewest bytes cross. GraphError for more stages than values.
    """
    if not isinstance(cast(Any, stages), int) or not 1 <= stages <= len(line):
        raise GraphError(f"partition: from 1 to {len(line)} stages, one for each value, not {stages}")
    sums = [0.0, *accumulate(costs)]
    most = _bottleneck(sums, stages) * (1 + slack)
    return _by_place(line, _cuts(sums, stages, most, _crossing(line)))


def _reach(sums: Sequence[float], start: int, most: float) -> int:
    """The last place up to which the values from ``start`` on cost no more than ``most``."""
    return bisect_right(sums, sums[start] + most * (1 + 1e-12)) - 1


def _fits(sums: Sequence[float], stages: int, most: float) -> bool:
    at, n = 0, len(sums) - 1
    for _ in range(stages):
        at = _reach(sums, at, most)
        if at >= n:
            return True
    return False


def _bottleneck(sums: Sequence[float], stages: int) -> float:
    """The least cost that the most expensive of so many stages can have."""
    low, high = sums[-1] / stages, sums[-1]
    single = max((b - a for a, b in pairwise(sums)), default=0.0)
    low = max(low, single)
    if _fits(sums, stages, low):
        return low
    for _ in range(60):
        middle = (low + high) / 2
        if _fits(sums, stages, middle):
            high = middle
        else:
            low = middle
    return high


def _crossing(line: Line) -> list[int]:
    """For every place between values, the bytes that are made before and used after it."""
    sizes, place = _Sizes(), line.get
    last = [0] * len(line)  # of no use: nothing is used at the first place
    for i, value in enumerate(line):
        for arg in value.args:
            at = place(arg)
            if at is not None:
                last[at] = i
    change = [0] * (len(line) + 2)
    for start, (value, end) in enumerate(zip(line, last, strict=True)):
        if end:
            size = sizes[value.type]
            change[start + 1] += size
            change[end + 1] -= size
    return list(accumulate(change))


def _cuts(sums: Sequence[float], stages: int, most: float, crossing: Sequence[int]) -> list[int]:
    """Where stages end, each within ``most`` and with at least one value, where the least crosses."""
    n = len(sums) - 1
    # from how early on the rest fits into the stages that are left
    lows = [n]
    for _ in range(stages - 1):
        end = lows[-1]
        start = end
        while start > 0 and sums[end] - sums[start - 1] <= most * (1 + 1e-12):
            start -= 1
        lows.append(start)
    lows.reverse()
    cuts = [0]
    for stage in range(1, stages):
        low = max(lows[stage - 1], cuts[-1] + 1)
        high = min(max(_reach(sums, cuts[-1], most), low), n - (stages - stage))
        low = min(low, high)
        cuts.append(min(range(low, high + 1), key=lambda i: (crossing[i], -i)))
    return [*cuts[1:], n]


def _by_place(line: Line, ends: Sequence[int]) -> list[int]:
    """The number of the stage that each value is in; a result is where its op is."""
    numbers: list[int] = []
    stage = 0
    for i, value in enumerate(line):
        while i >= ends[stage]:
            stage += 1
        numbers.append(numbers[line[value.args[0]]] if value.op.__class__ is Item else stage)
    return numbers


# --- by memory ---------------------------------------------------------------------------------------------


class _Held:
    """The bytes that a stage needs while values are added to it.

    ``numbers`` are the stages of all values of ``line`` so far, ``last`` the last use of each.
    """

    def __init__(self, line: Line, last: Sequence[int], sizes: _Sizes, numbers: Sequence[int], stage: int) -> None:
        self.line, self.last, self.sizes, self.numbers, self.stage = line, last, sizes, numbers, stage
        self.known: set[Value] = set()  # what comes from elsewhere
        self.count = self.fixed = self.alive = self.peak = 0

    def with_value(self, value: Value, at: int) -> int:
        """What is needed with one more value, which is added; its number comes after."""
        self.count += 1
        if value.op.__class__ is Item:  # a part of what is there
            return self.fixed + self.peak
        sizes, place, freed = self.sizes, self.line.get, 0
        args = value.args
        if len(args) > 1:
            args = tuple(dict.fromkeys(args))
        for arg in args:
            there = place(arg)
            if there is None or self.numbers[there] != self.stage:
                if arg not in self.known:
                    self.known.add(arg)
                    self.fixed += sizes[arg.type]
                if arg.op.__class__ is not Item:
                    continue
            if arg.op.__class__ is Item:
                arg = arg.args[0]
                there = place(arg)
                if there is None or self.numbers[there] != self.stage:
                    continue
            assert there is not None
            if self.last[there] == at:
                freed += sizes[arg.type]
        self.alive += sizes[value.type]
        if self.alive > self.peak:
            self.peak = self.alive
        self.alive -= freed
        return self.fixed + self.peak


def _last_uses(returned: Iterable[Value], line: Line) -> list[int]:
    """The place of the last value that takes each; of an op with several results that of who takes one of them."""
    last = [-1] * len(line)
    place = line.get
    for i, value in enumerate(line):
        for arg in value.args:
            at = place(arg)
            if at is not None:
                last[at] = i
                if arg.op.__class__ is Item:
                    last[line[arg.args[0]]] = i
    for value in returned:
        at = place(value.args[0] if value.op.__class__ is Item else value)
        if at is not None:
            last[at] = len(line)
    return last


def by_memory(dag: Network, line: Line, memory: int | Sequence[int]) -> list[int]:
    """Stages that each need no more than a device has, filled one after the other in the order of the graph.

    ``memory`` is what every device has, or each of some. GraphError names a value that doesn't fit on one, or what is
    left over.
    """
    last = _last_uses([*dag.graph.outputs.values(), *dag.graph.updates.values()], line)
    numbers: list[int] = []
    sizes = _Sizes()
    stage, held = 0, _Held(line, last, sizes, numbers, 0)
    for i, value in enumerate(line):
        if value.op.__class__ is Item and (there := numbers[line[value.args[0]]]) < stage:
            numbers.append(there)  # it comes from there, as a tensor
            continue
        need = held.with_value(value, i)
        limit = _limit(dag, memory, stage, line, i)
        while need > limit:
            alone = held.count == 1
            if alone and (isinstance(memory, int) or stage + 1 == len(memory)):
                raise GraphError(
                    f"partition: {described(dag, value)} needs {quantity(need, 'B')} with its weights and arguments, "
                    f"device {stage} has {quantity(limit, 'B')}"
                )
            stage, held = stage + 1, _Held(line, last, sizes, numbers, stage + 1)
            limit = _limit(dag, memory, stage, line, i)
            need = held.with_value(value, i)
        numbers.append(stage)
    return numbers


def _limit(dag: Network, memory: int | Sequence[int], stage: int, line: Line, at: int) -> int:
    """The bytes of a device; GraphError if there are no more."""
    if isinstance(memory, int):
        return memory
    if stage >= len(memory):
        rest, sizes = [*line][at:], _Sizes()
        left = quantity(sum([sizes[v.type] for v in rest]), "B")
        raise GraphError(
            f"partition: {shown(dag.name)} doesn't fit on {len(memory)} devices: from {described(dag, rest[0])} on, "
            f"{len(rest)} values of {left} and their weights are left"
        )
    return memory[stage]


# --- networks of parts -------------------------------------------------------------------------------------


def parted(dag: N, line: Line, numbers: Sequence[int], flags: Sequence[bool] = ()) -> Partition[N]:
    """The partition in which each value that isn't a leaf is in the part of its number; empty parts are left out."""
    graph = dag.graph
    kinds = dict(zip(numbers, flags, strict=False))
    order = {n: i for i, n in enumerate(sorted(set(numbers)))}
    state = _State.of_network(dag)
    parts = [Part(dag, i, kinds.get(n), state) for n, i in order.items()]
    homes = [order[n] for n in numbers]
    place = line.get
    names: list[str] = [""] * len(line)  # by place, as what is far apart in memory is slow to look up
    taken = Names(graph.inputs)
    edges: list[Edge] = []
    for value, at in zip(line, homes, strict=True):
        part = parts[at]
        part.values.append(value)
        for arg in value.args:
            there = place(arg)
            if there is None:
                if isinstance(arg.op, Input):
                    part.inputs[arg.op.leaf] = arg
                continue
            source = homes[there]
            if source == at:
                continue
            name = names[there]
            if not name:
                name = names[there] = taken.new(name_of(dag, arg))
                parts[source].outputs[name] = arg
            inputs = part.inputs
            count = len(inputs)
            inputs[name] = arg
            if len(inputs) > count:
                edges.append(Edge(name, source, at, arg.type))

    outputs: list[str] = []
    handed: dict[Value, str] = {}  # leaves that are outputs, by the last part
    for value in graph.outputs.values():
        if isinstance(value.op, Input):
            outputs.append(value.op.leaf)
            continue
        there = place(value)
        name = handed.get(value, "") if there is None else names[there]
        if not name:
            name = taken.new(name_of(dag, value))
            if there is None:
                handed[value] = name
            else:
                names[there] = name
            parts[-1 if there is None else homes[there]].outputs[name] = value
        outputs.append(name)
    for name, value in graph.updates.items():
        there = place(value)
        parts[-1 if there is None else homes[there]].updates[name] = value
    return Partition(dag, tuple(parts), tuple(edges), tuple(outputs))


def _network(part: Part[N]) -> N:
    """A part with what it needs of the state, origins and modules."""
    dag = part.whole
    new: dict[Value, Value] = {v: v if isinstance(v.op, Input) else Input(n, v.type)() for n, v in part.inputs.items()}
    leaves: dict[str, Value] = {}
    with bulk():
        for value in part.values:
            args: list[Value] = []
            for arg in value.args:
                mine = new.get(arg)
                if mine is None:
                    mine = new[arg] = arg
                    if isinstance(arg.op, Leaf):
                        leaves[arg.op.leaf] = arg
                args.append(mine)
            given = tuple(args)
            new[value] = value if given == value.args else value.op(*given)
    leaves.update({v.op.leaf: v for v in part.outputs.values() if isinstance(v.op, Leaf)})
    state = part.state.of([*leaves, *part.updates])
    seeds = {n: new[v] for n, v in part.inputs.items() if is_seed(n, v)}
    inputs = {**{n: new[v] for n, v in part.inputs.items() if n not in seeds}, **seeds}
    outputs = {n: new.get(v, v) for n, v in part.outputs.items()}
    updates = {n: new.get(v, v) for n, v in part.updates.items()}
    origins = {new[v]: dag.origins[v] for v in part.values if v in dag.origins}
    return with_parts(
        dag,
        graph=Graph(inputs, outputs, updates, f"{dag.graph.name} {part.number}", [new[v] for v in part.values]),
        weights=Weights.of(dag.weights, {n: n for n in state}),
        signature=plain_signature(len(inputs) - len(seeds), len(outputs), list(seeds)),
        state=state,
        origins=origins,
        modules=modules_of(dag.modules, origins.values()),
        name=f"{dag.name} {part.number}",
        axis_names={n: p for n, p in dag.axis_names.items() if n in inputs},
        source=None,
        certain_dimensions=frozenset[tuple[str, int]](),
        checks=(),
    )


__all__ = ["Cost", "Edge", "Part", "Partition", "by_cost", "by_memory", "by_support", "parted", "partition"]
