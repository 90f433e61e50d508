"""Which values a module's call computes: a graph divided into the calls that its source made, each a graph of its own.

A value's origin says which module's call made it. What a call takes and gives is what crosses its border; where calls
can't be put in an order (one is left and entered again), or a module's calls don't compute the same, its values are the
caller's, who is said to hold it inline.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tdagger.graph import Graph
from tdagger.network import Origin, Pass, Weight, maker
from tdagger.op import Op, Value
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Group, Item, Repeat, Ungroup, items
from tdagger.types import ResultTypes, TensorType, ValueType

#: The modules on the way that were called before, and how often.
Calls = tuple[tuple[str, int], ...]


class ModuleCall(Op):
    """A module called on values: its path seen from the module around, and how arguments and results nest.

    ``arguments`` and ``targets`` are templates: ``"{0}, ({1}, {2})"``; a place that isn't wanted is ``_``.
    """

    name = "module_call"
    path: str
    arguments: str
    targets: str
    results: tuple[TensorType, ...]

    def infer(self, *types: TensorType) -> ValueType:
        del types
        return self.results[0] if self.targets == "{0}" else ResultTypes(self.results)


class Passed(Op):
    """What a value is after a module that gives it back: itself. ``path`` and ``calls`` are those of the call."""

    name = "passed"
    path: str
    calls: Calls
    settings: tuple[tuple[str, Any], ...]

    def infer(self, x: TensorType) -> ValueType:
        return x


def with_passed(graph: Graph, origins: Mapping[Value, Origin]) -> tuple[Graph, Mapping[Value, Origin]]:
    """A graph with values for the calls of modules that give back what they take, as its origins note them."""
    if not any(o.passes for o in origins.values()):
        return graph, origins
    found = dict(origins)
    new: dict[Value, Value] = {}
    order: list[Value] = []

    def passed(value: Value, passes: Iterable[Pass]) -> Value:
        for p in passes:
            value = Passed(p.module, p.calls, p.settings)(value)
            found.setdefault(value, Origin(p.module, calls=p.calls))
            order.append(value)
        return value

    for value in graph.values:
        origin = origins.get(value)
        args = [new[a] for a in value.args]
        if origin is not None and origin.passes:
            for i, a in enumerate(value.args):
                if origins.get(a) is not origin and not isinstance(a.op, Const | Iota) and not _is_number(a):
                    args[i] = passed(args[i], origin.through(i, maker(a, origins)))
        new[value] = value.op.again(tuple(args), value.type) if args != list(value.args) else value
        order.append(new[value])
        if origin is not None:
            found.setdefault(new[value], origin)
    outputs: dict[str, Value] = {}
    for name, value in graph.outputs.items():
        origin = origins.get(value)
        outputs[name] = passed(new[value], origin.through(-1, name) if origin is not None else ())
    updates = {n: new[v] for n, v in graph.updates.items()}
    return Graph(graph.inputs, outputs, updates, graph.name, order), found


@dataclass(frozen=True)
class Layer:
    """A module of torch: its class, the settings that differ from the class's own, and how it is called.

    ``results`` has for each result of the call its place among those of the layer; ``updates`` the buffers that calling
    it changes.
    """

    kind: type
    settings: tuple[tuple[str, object], ...] = ()
    arguments: str = "{0}"
    targets: str = "{0}"
    types: tuple[TensorType, ...] = ()
    results: tuple[int, ...] = (0,)
    updates: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[type, tuple[tuple[str, object], ...]]:
        """What makes one: class and settings."""
        return self.kind, self.settings


@dataclass(eq=False)
class Call:
    """One call of a module. ``graph`` computes ``results`` of ``args``, with state by its names in that module."""

    path: str
    parent: Call | None = None
    #: Values that the module computes itself, and those with what its own calls compute.
    own: list[Value] = field(default_factory=list[Value])
    inner: set[Value] = field(default_factory=set[Value])
    children: list[Call] = field(default_factory=list["Call"])
    #: Whether the caller holds its values.
    inlined: bool = False
    #: The paths of the modules whose values it holds.
    holds: list[str] = field(default_factory=list[str])
    graph: Graph = field(default_factory=lambda: Graph({}, {}))
    args: list[Value] = field(default_factory=list[Value])
    results: list[Value] = field(default_factory=list[Value])
    origins: dict[Value, Origin] = field(default_factory=dict[Value, Origin])
    layer: Layer | None = None

    @property
    def way(self) -> list[Call]:
        """The calls from the outermost to this one."""
        found: list[Call] = [self]
        while found[-1].parent is not None:
            found.append(found[-1].parent)
        return found[::-1]

    @property
    def passed(self) -> Passed | None:
        """Of a call that gives back what it takes, and does nothing else, the op that stands for it."""
        op = self.own[0].op if len(self.own) == 1 and not self.children else None
        return op if isinstance(op, Passed) else None

    def same(self, other: Call) -> bool:
        """Whether another call of the module computes the same of its arguments."""
        if self.layer is not None or other.layer is not None:
            return self.layer is not None and other.layer is not None and self.layer.made == other.layer.made
        if self.passed is not None and other.passed is not None:
            return True
        return self.graph == other.graph


#: Says which layer computes what a call computes: (the call, names of the class, state of the module).
Finder = Callable[[Call, str, Mapping[str, Weight]], Layer | None]


_T = TypeVar("_T")


def by_module(named: Mapping[str, _T]) -> dict[str, dict[str, _T]]:
    """What is in each module by its name there, in order.

    >>> by_module({"a.b.c": 1, "d": 2})
    {'a.b': {'c': 1}, 'a': {'b.c': 1}}
    """
    found: dict[str, dict[str, _T]] = {}
    for name, thing in named.items():
        path = name.rpartition(".")[0]
        while path:
            found.setdefault(path, {})[name[len(path) + 1 :]] = thing
            path = path.rpartition(".")[0]
    return found


class Division:
    """The calls of a graph: ``root`` is the network's own, ``calls`` all that stand, the innermost first."""

    def __init__(
        self,
        graph: Graph,
        origins: Mapping[Value, Origin],
        modules: Mapping[str, str],
        state: Mapping[str, Weight],
        find: Finder,
        shaped: Mapping[str, Sequence[Value]] | None = None,
    ) -> None:
        """``shaped``: values that calls of a module take for their sizes alone, by its path."""
        self._shaped = shaped or {}
        self._graph = graph
        self._origins = origins
        self._modules = modules
        self._states = by_module(state)
        self._updates = by_module(graph.updates)
        self._find = find
        self._names: dict[str, list[str]] = {}
        for name, weight in state.items():
            self._names.setdefault(weight.alias_of or name, []).append(name)
        self._made: dict[tuple[str, Calls], Call] = {}
        self.root = Call("")
        self._place: dict[Value, Call] = {}
        self._at = {v: i for i, v in enumerate(graph.values)}
        self._updated: dict[Value, list[str]] = {}
        for name, value in graph.updates.items():
            self._updated.setdefault(value, []).append(name)
        self._given = set(graph.outputs.values())
        #: Buffers that a layer changes when it is called.
        self.handled: set[str] = set()
        #: What several calls of a module make of its weights: each makes it anew, as in the source.
        self._repeated: set[Value] = set()
        self._put()
        self._repeat()
        self._hoist()
        self._gather()
        self.calls: list[Call] = []
        self._build_all()
        for call in (self.root, *self._made.values()):  # circles would keep all graphs until the collector comes
            call.parent = None

    # Where values are.

    def _put(self) -> None:
        for value in self._graph.values:
            if isinstance(value.op, Leaf | Const | Iota) or _is_number(value):
                continue
            origin = self._origins.get(value)
            if isinstance(value.op, Item):
                self._place[value] = self._place[value.args[0]]
            elif origin is not None:
                self._place[value] = self._call_of(origin)
            else:
                around = [self._place[a].parent or self.root for a in value.args if a in self._place]
                self._place[value] = _common(around) if around else self.root

    def _repeat(self) -> None:
        """Find what was the same in several calls of a module, as it is made of the module's weights alone."""
        kept = self._given.union(self._updated)
        for value in self._graph.values:
            at = self._place.get(value)
            if at is None or at.parent is None or value in kept or isinstance(value.type, tuple):
                continue
            if value.args and all(isinstance(a.op, Parameter | Buffer) for a in value.args):
                users = [self._place.get(u) for u in self._graph.users[value]]
                if all(c is not None and c.path == at.path for c in users) and any(c is not users[0] for c in users):
                    self._repeated.add(value)
        for value in self._repeated:
            del self._place[value]

    def _call_of(self, origin: Origin) -> Call:
        key = (origin.module, origin.calls)
        found = self._made.get(key)
        if found is None:
            found = self.root
            parts = origin.module.split(".") if origin.module else []
            for i in range(1, len(parts) + 1):
                path = ".".join(parts[:i])
                if path in self._modules:
                    found = self._made.setdefault((path, _upto(path, origin.calls)), Call(path, found))
            self._made[key] = found
        return found

    def _hoist(self) -> None:
        """What one call computes without any state of its own, and others use too, is their caller's."""
        users = self._graph.users
        for value in reversed(self._graph.values):
            while True:
                call = self._place.get(value)
                if call is None or call.parent is None:
                    break
                if value not in self._given and all(self._place[u] is call for u in users[value]):
                    break
                inside = [call in self._place[u].way for u in users[value]]
                if not any(inside) or (all(inside) and value not in self._given):
                    break
                cone = self._cone(value, call)
                if cone is None:
                    break
                for v in cone:
                    self._place[v] = call.parent

    def _cone(self, value: Value, call: Call) -> list[Value] | None:
        """What ``value`` needs of a call's own values; None if it needs state, or what other calls inside compute."""
        found: dict[Value, None] = {}
        stack = [value]
        while stack:
            v = stack.pop()
            if v in found:
                continue
            found[v] = None
            if isinstance(v.op, Item) or isinstance(v.type, tuple):
                return None
            for a in v.args:
                if isinstance(a.op, Parameter | Buffer):
                    return None
                at = self._place.get(a)
                if at is call:
                    stack.append(a)
                elif at is not None and call in at.way:
                    return None
        return list(found)

    def _gather(self) -> None:
        for value in self._graph.values:
            at = self._place.get(value)
            if at is not None:
                at.own.append(value)
                for call in at.way:
                    call.inner.add(value)
        for call in {id(c): c for c in self._made.values()}.values():
            if call.parent is not None and call.inner and call not in call.parent.children:
                call.parent.children.append(call)

    # The graph of each call, from the innermost on.

    def _build_all(self) -> None:
        self._constants = self._owners_of_constants()
        depth: dict[int, dict[str, list[Call]]] = {}
        stack = [(self.root, 0)]
        while stack:
            call, level = stack.pop()
            depth.setdefault(level, {}).setdefault(call.path, []).append(call)
            stack += [(c, level + 1) for c in call.children]
        for level in sorted(depth, reverse=True):
            for path, calls in depth[level].items():
                for call in calls:
                    self._build(call)
                    if call.parent is not None:
                        self._as_layer(call)
                if path and not all(calls[0].same(c) for c in calls[1:]):
                    for call in calls:
                        call.inlined = True
                for call in calls:
                    if call.layer is not None and not call.inlined:
                        prefix = f"{call.path}."
                        self.handled.update(prefix + n for n in call.layer.updates)
        self.calls = list(self._standing(self.root))

    def _standing(self, call: Call) -> Iterator[Call]:
        for child in call.children:
            yield from self._standing(child)
        yield call

    def _owners_of_constants(self) -> dict[Value, Call]:
        owners: dict[Value, Call] = {}
        for value in self._graph.values:
            if isinstance(value.op, Const | Iota) and value.type.size != 1:
                around = [self._place[u] for u in self._graph.users[value] if u in self._place]
                is_result = value in self._given or value in self._updated
                owners[value] = self.root if is_result or not around else _common(around)
        return owners

    def _as_layer(self, call: Call) -> None:
        kind = self._modules.get(call.path, "")
        if call.holds:
            return
        state = self._states.get(call.path, {})
        own = self._own_updates(call)
        before = call.graph, call.args, call.results, call.origins
        if own:
            self._build(call, own)
        call.layer = self._find(call, kind, state)
        if call.layer is None and not call.children and any(_is_constant(v) for v in call.graph.values):
            self._build(call, own, given=True)
            call.layer = self._find(call, kind, state)
        if call.layer is None:
            call.graph, call.args, call.results, call.origins = before

    def _own_updates(self, call: Call) -> dict[str, Value]:
        """New values of a module's own buffers that its call computes, and that nobody else reads."""
        found: dict[str, Value] = {}
        for local, value in self._updates.get(call.path, {}).items():
            name = f"{call.path}.{local}"
            if value in call.inner:
                leaf = Buffer(name, value.type)()
                if all(u in call.inner for u in self._graph.users.get(leaf, ())) and leaf not in self._given:
                    found[name] = value
        return found

    def _build(self, call: Call, own: Mapping[str, Value] | None = None, given: bool = False) -> None:
        """The call's graph, with what it holds of calls that can't stand put among its own values.

        ``own`` are updates that it makes itself; ``given``: it is called with the constants it reads.
        """
        own = own or {}
        units = self._ordered(call)
        new: dict[Value, Value] = {}
        inputs: dict[str, Value] = {}
        args: list[Value] = []

        def outer(value: Value) -> Value:
            op = value.op
            if value in self._repeated:
                return op.again(tuple([arg(a) for a in value.args]), value.type)
            if isinstance(op, Parameter | Buffer):
                name = self._local(op.leaf, call.path)
                if name is not None:
                    return type(op)(name, op.type)()
            constant = isinstance(op, Const | Iota) and not self._is_around(value, call)
            if call.parent is None or ((constant or _is_number(value)) and not (given and value.type.size != 1)):
                return value
            name = _LETTERS[len(inputs)] if len(inputs) < len(_LETTERS) else f"arg{len(inputs)}"
            args.append(value)
            inputs[name] = Input(name, value.type)()
            return inputs[name]

        def arg(value: Value) -> Value:
            found = new.get(value)
            if found is None:
                found = new[value] = outer(value)
            return found

        call.origins = {}
        for unit in units:
            if isinstance(unit, Value) and isinstance(unit.op, Passed):
                new[unit] = arg(unit.args[0])
            elif isinstance(unit, Value):
                new[unit] = unit.op.again(tuple([arg(a) for a in unit.args]), unit.type)
                origin = self._origins.get(unit)
                if origin is not None:
                    call.origins.setdefault(new[unit], origin)
            else:
                made = _called(unit, [arg(a) for a in unit.args], call.path)
                new.update(zip(unit.results, made, strict=True))
        for value in self._shaped.get(call.path, ()):
            arg(value)
        users = self._graph.users
        if call.parent is None:
            results = {n: arg(v) for n, v in self._graph.outputs.items()}
            updates = {n: arg(v) for n, v in self._graph.updates.items() if n not in self.handled}
            inputs = self._graph.inputs
        else:
            escaping = [
                v
                for v in (*call.own, *[r for c in call.children for r in c.results])  # what left no call inside stays
                if v in self._given
                or not call.inner.issuperset(users[v])
                or any(n not in own and n not in self.handled for n in self._updated.get(v, ()))
            ]
            escaping = sorted([v for v in escaping if not isinstance(v.type, tuple)], key=self._at.__getitem__)
            call.results = escaping
            results = {f"y{i}": new[v] for i, v in enumerate(escaping)}
            updates = {n.removeprefix(f"{call.path}."): arg(v) for n, v in own.items()}
        call.args = args
        call.graph = Graph(inputs, results, updates, self._graph.name, list(new.values()))

    def _is_around(self, constant: Value, call: Call) -> bool:
        """Whether a constant is held by a module around that of ``call``."""
        owner = self._constants.get(constant)
        return owner is not None and owner is not call and owner in call.way

    def _local(self, leaf: str, path: str) -> str | None:
        """The name of a weight in the module at ``path``; None if it is none of its own."""
        for name in self._names.get(leaf, [leaf]):
            if not path or name.startswith(f"{path}."):
                return name.removeprefix(f"{path}.") if path else leaf
        return None

    def _ordered(self, call: Call) -> Sequence[Value | Call]:
        """What a call computes itself and what it calls, arguments first, else in the source's order."""
        for child in [c for c in call.children if c.inlined or not c.results]:
            self._inline(call, child)
        if not call.children:  # the graph's order has arguments first
            return sorted(call.own, key=self._at.__getitem__)
        while True:
            needs = self._needs(call)
            order = _in_order(needs, self._first)
            if len(order) == len(needs):
                return order
            done = set(order)
            for tangle in _tangles({u: n - done for u, n in needs.items() if u not in done}):
                for child in _to_inline(tangle, needs):
                    self._inline(call, child)

    def _inline(self, call: Call, child: Call) -> None:
        """Let ``call`` hold what ``child`` computes and calls."""
        if child.layer is not None:
            self.handled.difference_update(f"{child.path}.{n}" for n in child.layer.updates)
        child.inlined = True
        call.children.remove(child)
        call.own += child.own
        call.holds += [child.path, *child.holds]
        for inner in child.children:
            inner.parent = call
            call.children.append(inner)

    def _first(self, unit: Value | Call) -> int:
        return self._at[unit] if isinstance(unit, Value) else min(self._at[v] for v in unit.inner)

    def _needs(self, call: Call) -> dict[Value | Call, set[Value | Call]]:
        of: dict[Value, Value | Call] = {v: v for v in call.own}
        for child in call.children:
            of.update(dict.fromkeys(child.inner, child))
        needs: dict[Value | Call, set[Value | Call]] = {u: set() for u in (*call.own, *call.children)}
        for value, unit in of.items():
            for a in value.args:
                other = of.get(a)
                if other is not None and other is not unit:
                    needs[unit].add(other)
        return needs


def _is_number(value: Value) -> bool:
    """Whether a value is one number, repeated: everybody writes it for himself."""
    while value.args and isinstance(value.op, Repeat | Group | Ungroup):
        value = value.args[0]
    return isinstance(value.op, Const) and value.type.size == 1


def _is_constant(value: Value) -> bool:
    """Whether a value is a constant of more than one entry, alike or not."""
    return (isinstance(value.op, Const | Iota) or _is_number(value)) and value.type.size != 1


def _upto(path: str, calls: Calls) -> Calls:
    return tuple([c for c in calls if path == c[0] or path.startswith(f"{c[0]}.")])


def _common(calls: Iterable[Call]) -> Call:
    """The innermost call around all of these."""
    ways = [c.way for c in calls]
    at = ways[0]
    for way in ways[1:]:
        at = [a for a, b in zip(at, way, strict=False) if a is b]
    return at[-1]


#: The first parameters of a generated ``forward``.
_LETTERS = "xyzuvw"


def _called(child: Call, args: list[Value], around: str) -> tuple[Value, ...]:
    """The values that a call gives, in the graph around it."""
    path = child.path.removeprefix(f"{around}.") if around else child.path
    layer = child.layer
    if layer is None:
        arguments = ", ".join(f"{{{i}}}" for i in range(len(args)))
        targets = ", ".join(f"{{{i}}}" for i in range(len(child.results)))
        types, picks = tuple([v.type for v in child.results]), tuple(range(len(child.results)))
    else:
        arguments, targets, types, picks = layer.arguments, layer.targets, layer.types, layer.results
    out = ModuleCall(path, arguments, targets, types)(*args)
    made = (out,) if targets == "{0}" else items(out)
    return tuple([made[i] for i in picks])


def _in_order(
    needs: Mapping[Value | Call, set[Value | Call]], key: Callable[[Value | Call], int]
) -> list[Value | Call]:
    """Those that don't wait for themselves, arguments first."""
    users: dict[Value | Call, list[Value | Call]] = {u: [] for u in needs}
    for unit, args in needs.items():
        for a in args:
            users[a].append(unit)
    left = {u: len(n) for u, n in needs.items()}
    ready = [(key(u), i, u) for i, u in enumerate(needs) if not left[u]]
    heapq.heapify(ready)
    count = len(needs)
    order: list[Value | Call] = []
    while ready:
        unit = heapq.heappop(ready)[2]
        order.append(unit)
        for user in users[unit]:
            left[user] -= 1
            if not left[user]:
                count += 1
                heapq.heappush(ready, (key(user), count, user))
    return order


def _tangles(needs: Mapping[Value | Call, set[Value | Call]]) -> list[list[Value | Call]]:
    """The groups that wait for themselves: strongly connected components of more than one (Tarjan's walk)."""
    index: dict[Value | Call, int] = {}
    low: dict[Value | Call, int] = {}
    held: list[Value | Call] = []
    on: set[Value | Call] = set()
    found: list[list[Value | Call]] = []
    for start in needs:
        if start in index:
            continue
        stack: list[tuple[Value | Call, Iterator[Value | Call]]] = []

        def enter(unit: Value | Call, stack: list[tuple[Value | Call, Iterator[Value | Call]]] = stack) -> None:
            index[unit] = low[unit] = len(index)
            held.append(unit)
            on.add(unit)
            stack.append((unit, iter(needs.get(unit, ()))))

        enter(start)
        while stack:
            unit, rest = stack[-1]
            following = next((a for a in rest if a in needs and (a not in index or a in on)), None)
            if following is None:
                stack.pop()
                if stack:
                    low[stack[-1][0]] = min(low[stack[-1][0]], low[unit])
                if low[unit] == index[unit]:
                    at = held.index(unit)
                    group = held[at:]
                    del held[at:]
                    on.difference_update(group)
                    if len(group) > 1:
                        found.append(group)
            elif following in index:
                low[unit] = min(low[unit], index[following])
            else:
                enter(following)
    return found


def _to_inline(tangle: list[Value | Call], needs: Mapping[Value | Call, set[Value | Call]]) -> list[Call]:
    """The smallest call without which a group no longer waits for itself; all of its calls if there is none."""
    calls = sorted([u for u in tangle if isinstance(u, Call)], key=lambda c: len(c.inner))
    group = set(tangle)
    for call in calls:
        rest = group - {call}
        order = _in_order({u: needs[u] & rest for u in rest}, lambda u: 0)
        if len(order) == len(rest):
            return [call]
    return calls
