"""Repeated parts as one composite that is called several times, found by what they compute alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np

from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, bulk, is_one
from tdagger.library.block import block
from tdagger.network import N, Network, Origin, with_parts
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Input, Leaf
from tdagger.ops.structure import Item
from tdagger.transform.surgery.edit import Edit, finished, groups, origin_of
from tdagger.transform.surgery.select import Names
from tdagger.transform.surgery.wrap import copied, taken

#: What parts are called whose values come from no module, or from modules of several classes.
TITLE = "repeated"


@dataclass(frozen=True)
class Outlined:
    """A part that occurs several times: what it is called, how often it occurs, how many values one of it has.

    ``modules`` are the modules the parts came from, where that is known.
    """

    title: str
    times: int
    size: int
    modules: tuple[str, ...]

    @property
    def saved(self) -> int:
        """Values that needn't be looked at again: all but those of one part and a call for each."""
        return (self.times - 1) * self.size - self.times

    def __str__(self) -> str:
        where = f"  {self.modules[0]} ... {self.modules[-1]}" if any(self.modules) else ""
        return f"{self.title:<20} {self.times:>6} times {self.size:>6} values, {self.saved} saved{where}"


@overload
def outline(dag: N, size: int = ..., times: int = ..., report: Literal[False] = ...) -> N: ...
@overload
def outline(dag: N, size: int = ..., times: int = ..., *, report: Literal[True]) -> tuple[N, list[Outlined]]: ...
def outline(dag: N, size: int = 5, times: int = 2, report: bool = False) -> N | tuple[N, list[Outlined]]:
    """The network with every part that occurs ``times`` or more as a composite ``block``, one op for all of them.

    Parts are runs of ``size`` or more values, leaves aside, that compute the same of what they are given; weights are
    among that. What saves most goes first, until nothing is left to save. A part is called by the class of the module
    it is, or ``repeated``. ``dag.unwrap()`` is the inverse: it gives the same graph. With ``report`` also a list of
    :class:`Outlined`. Linear in the graph but for a logarithm. AttributeValueError unless size and times are 2 or more.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: td.tanh(td.sin(td.exp(td.tanh(td.sin(td.exp(x)))))), {"x": (2,)})
    >>> new, found = outline(dag, size=2, report=True)
    >>> [str(v.op.name) for v in new.values], found[0].times, found[0].size, new.unwrap().graph == dag.graph
    (['input', 'block', 'block'], 2, 3, True)
    """
    if size < 2 or times < 2:
        raise AttributeValueError(f"outline: size and times are 2 or more, got {size} and {times}")
    told: list[Outlined] = []
    names = Names(v.op.attributes["title"] for v in dag.graph.values if v.op.name == block.name)
    while True:
        kinds = list(_kinds(dag, size, times))
        if not kinds:
            return (dag, told) if report else dag
        for kind in kinds:
            kind.title = names.new(_title(dag, kind.paths))
            told.append(Outlined(kind.title, len(kind.parts), len(kind.parts[0].inner), tuple(kind.paths)))
        dag = _replaced(dag, kinds)


class _Part(NamedTuple):
    """One occurrence: its values, what they take from outside, and what became of them made of inputs."""

    inner: list[Value]
    inputs: list[Value]
    there: dict[Value, Value]


class _Kind:
    """Occurrences of one structure. What is used of any of them, by its place, all of them give."""

    def __init__(self, dag: Network, parts: list[_Part]) -> None:
        self.parts = parts
        self.title = ""
        self.paths = [_path(dag, p.inner) for p in parts]
        graph = dag.graph
        returned = {*graph.outputs.values(), *graph.updates.values()}
        self.outputs = sorted({
            i for part in parts
            for own in [set(part.inner)]
            for i, v in enumerate(part.inner)
            if v in returned or any(u not in own for u in graph.users[v])
        })  # fmt: skip

    def graph(self) -> Graph:
        inner, inputs, there = self.parts[0]
        results = {f"y{n}": there[inner[i]] for n, i in enumerate(self.outputs)}
        return Graph({f"x{i}": there[v] for i, v in enumerate(inputs)}, results, name=self.title)


def _path(dag: Network, values: Sequence[Value]) -> str:
    """The innermost module that all of some values came from."""
    common: list[str] | None = None
    for value in values:
        origin = dag.origins.get(value)
        if origin is not None:
            path = origin.module.split(".")
            common = path if common is None else common[: _shared(common, path)]
    return ".".join(common or ())


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _title(dag: Network, paths: Sequence[str]) -> str:
    classes = {dag.modules.get(p, "") if p else "" for p in paths}
    found = classes.pop().rpartition(".")[2] if len(classes) == 1 else ""
    return found or TITLE


def _replaced(dag: N, kinds: Sequence[_Kind]) -> N:
    """The network with calls of blocks for the parts."""
    edit = Edit(dag)
    parts = [(kind, part, path) for kind in kinds for part, path in zip(kind.parts, kind.paths, strict=True)]
    graphs = {kind: kind.graph() for kind in kinds}

    def make(i: int, args: list[Value]) -> tuple[Value, ...]:
        kind, part, path = parts[i]
        given: Any = block(*args, title=kind.title, graph=graphs[kind])
        results = cast("tuple[Value, ...]", given if isinstance(given, tuple) else (given,))
        told = origin_of(dag, part.inner[-1])._replace(op="", module=path)
        if told != Origin():
            for v in (*results, *(r.args[0] for r in results if isinstance(r.op, Item))):
                edit.origins[v] = told
        return results

    places = [(part.inputs, [part.inner[i] for i in kind.outputs]) for kind, part, _ in parts]
    gone = {v for _, part, _ in parts for v in part.inner}
    leaves = [v for v in dag.graph.values if isinstance(v.op, Leaf | Const)]
    edit.run(groups(edit, "a repeated part", places, make, gone), [*leaves, *in_order(dag.graph)])
    edit.new = {v: edit.new[v] for v in dag.graph.values}  # in the order they had
    new = finished(dag, edit.graph(), edit.origins, checks=edit.checks())
    return with_parts(new, origins={**{v: o for v, o in dag.origins.items() if v in gone}, **new.origins})


# --- finding -----------------------------------------------------------------------------------------------
#
# The values in an order that follows from the structure alone, leaves left out, are a text whose letters are ops and
# types of arguments. Runs of letters that occur again are found as in a suffix array, by naming windows of 2, 4, 8, ...
# letters; the arguments of what is found are compared then, by making each occurrence anew of inputs: equal parts are
# equal values. A run of an order in which arguments come first can always be one op: nothing goes out and back in.

#: Of what was found in one search those that save at least this much of what the best saves are taken before the next.
_NEAR = 0.5
#: How often, on average, a value may be looked at in comparing occurrences in one search.
_LOOKS = 16


class _Found(NamedTuple):
    """Letters that occur several times: where the first of them may start, how many more starts there are, how many."""

    starts: Array
    more: int
    length: int

    @property
    def saved(self) -> int:
        return (len(self.starts) - 1) * self.length


def _kinds(dag: Network, size: int, times: int) -> Iterator[_Kind]:
    values = in_order(dag.graph)
    letters = _letters(values)
    found = [f for f in _repeats(letters, size) if len(f.starts) >= times and f.saved > len(f.starts)]
    found.sort(key=lambda f: -f.saved)
    crossing = _crossing(values)
    free = np.ones(len(values), np.bool_)
    looks, best = _LOOKS * len(values), 0
    for one in found:
        if one.saved < best * _NEAR or looks < 0:
            return
        starts = _at_best(one, crossing)
        if starts is None or not all(free[s : s + one.length].all() for s in starts):
            continue
        looks -= len(starts) * one.length
        same: dict[tuple[Value, ...], list[_Part]] = {}
        with bulk():
            for s in starts:
                inner = values[s : s + one.length]
                inputs = taken(inner, set(inner))
                there = copied(inner, inputs)
                same.setdefault(tuple([there[v] for v in inner]), []).append(_Part(inner, inputs, there))
        place = dict(zip((values[s] for s in starts), starts, strict=True))
        for parts in same.values():
            if len(parts) >= times:
                best = max(best, one.saved)
                for part in parts:
                    s = place[part.inner[0]]
                    free[s : s + one.length] = False
                yield _Kind(dag, parts)


def in_order(graph: Graph) -> list[Value]:
    """The values of a graph but leaves, arguments first, so that equal parts are in an equal order and in one piece.

    A value comes when it is first needed, going back from the results; of what is needed for one, what has the least
    behind it comes first: what many parts share, masks and positions, comes before all of them.
    """
    users = graph.users
    returned = {*graph.outputs.values(), *graph.updates.values()}
    cones: dict[Value, _Cone] = {}
    for value in graph.values:
        if not isinstance(value.op, Leaf | Const) and (len(users[value]) != 1 or value in returned):
            cones[value] = _Cone(value, cones)
    found: list[Value] = []
    seen: set[_Cone] = set()
    for cone in sorted(cones.values(), key=lambda c: -c.depth):
        stack = [(cone, False)]
        while stack:
            cone, ready = stack.pop()
            if ready:
                found += cone.values
            elif cone not in seen:
                seen.add(cone)
                stack.append((cone, True))
                stack += [(c, False) for c in reversed(cone.after) if c not in seen]
    return found


class _Cone:
    """A value that is used more than once, or returned, after what only it uses; and the cones that come before."""

    def __init__(self, root: Value, cones: Mapping[Value, _Cone]) -> None:
        self.values: list[Value] = []
        after: dict[_Cone, None] = {}
        stack = [(root, False)]
        while stack:
            value, ready = stack.pop()
            if ready:
                self.values.append(value)
                continue
            stack.append((value, True))
            for arg in reversed(dict.fromkeys(value.args)):
                if arg in cones:
                    after.setdefault(cones[arg])
                elif not isinstance(arg.op, Leaf | Const):
                    stack.append((arg, False))
        #: The shallowest first.
        self.after = sorted(after, key=lambda c: c.depth)
        self.depth: int = 1 + max([c.depth for c in after], default=0)


def _letters(values: Sequence[Value]) -> Array:
    """A number for each value, equal where the ops and what is known of their arguments are."""
    numbers: dict[Any, int] = {}
    letters: list[int] = []
    for value in values:
        op = value.op
        args = tuple([a if isinstance(a.op, Const) else (_is_weight(a), a.type) for a in value.args])
        # a block is none of a larger one, so that what was outlined stays as it is
        is_block = op.name == block.name or (isinstance(op, Item) and value.args[0].op.name == block.name)
        letters.append(numbers.setdefault(value if is_block else (op, args), len(numbers)))
    return np.array(letters, np.int64)


def _is_weight(value: Value) -> bool:
    return isinstance(value.op, Leaf) and not isinstance(value.op, Input)


def _crossing(values: Sequence[Value]) -> Array:
    """What it costs to cut before place i: how many values go over, less if they are used more often on the other side.

    Infinite where one goes over that has several results.
    """
    place = {v: i for i, v in enumerate(values)}
    last = np.arange(len(values))
    steps = np.zeros(len(values) + 2)
    uses = [(place[a], i) for i, v in enumerate(values) for a in dict.fromkeys(v.args) if a in place]
    for at, user in uses:
        last[at] = user
        steps[at + 1] -= 0.5 / (len(uses) + 1)
        steps[user + 1] += 0.5 / (len(uses) + 1)
    over = len(values) + 1.0
    weight: Array = np.array([1.0 if is_one(v) else over for v in values])
    np.add.at(steps, np.arange(len(values)) + 1, weight)
    np.add.at(steps, last + 1, -weight)
    counts: Array = np.cumsum(steps)[: len(values) + 1]
    return np.where(counts >= over - 0.5, np.inf, counts)


def _at_best(one: _Found, crossing: Array) -> list[int] | None:
    """Where occurrences start so that the fewest values go in and out; None if none can be cut out."""
    starts = one.starts[:, None] + np.arange(one.more + 1)
    cost: Array = np.add.reduce(crossing[starts] + crossing[starts + one.length])
    best = int(np.argmin(np.round(cost, 9)))
    return None if np.isinf(cost[best]) else starts[:, best].tolist()


def _repeats(letters: Array, size: int) -> list[_Found]:
    """What occurs more than once without overlapping, as long as it can be."""
    names = _windows(letters)
    found: dict[tuple[int, int, int], _Found] = {}
    for level, named in enumerate(names):
        order = np.argsort(named, kind="stable")
        same: Array = named[order[1:]] == named[order[:-1]]
        firsts, seconds = order[:-1][same], order[1:][same]  # neighbours of one name
        if not len(firsts):
            continue
        named = named[firsts]
        bounds = _bounds(named)
        apart = np.minimum.reduceat(seconds - firsts, bounds) >= 1 << level
        kept = np.repeat(apart, np.diff(np.append(bounds, len(named))))
        firsts, seconds, named = firsts[kept], seconds[kept], named[kept]
        if not len(firsts):
            continue
        bounds = _bounds(named)
        right = np.minimum.reduceat(_common(names, firsts, seconds), bounds)
        left = np.minimum.reduceat(_common_before(names, firsts, seconds), bounds)
        length = np.minimum(right + left, np.minimum.reduceat(seconds - firsts, bounds))
        ends = np.append(bounds[1:], len(named))
        for i in np.flatnonzero(length >= size).tolist():
            starts = np.append(firsts[bounds[i]], seconds[bounds[i] : ends[i]]) - left[i]
            one = _Found(starts, int(right[i] + left[i] - length[i]), int(length[i]))
            found.setdefault((int(starts[0]), one.length, len(starts)), one)
    return list(found.values())


def _bounds(sorted_: Array) -> Array:
    """Where runs of equal numbers start."""
    return np.flatnonzero(np.append(True, sorted_[1:] != sorted_[:-1]))


def _windows(letters: Array) -> list[Array]:
    """Names of the windows of 1, 2, 4, ... letters at each place, equal where the letters are, while any are equal."""
    names = [letters]
    while True:
        last, step = names[-1], 1 << len(names) - 1
        if len(last) <= step:
            return names
        pairs = last[:-step] * (int(last.max()) + 1) + last[step:]
        kinds, named = np.unique(pairs, return_inverse=True)
        names.append(named.reshape(-1).astype(np.int64))
        if len(kinds) == len(pairs):
            return names


def _common(names: list[Array], a: Array, b: Array) -> Array:
    """How many letters from places ``b`` on are those from ``a`` on; a < b."""
    count = np.zeros(len(a), np.int64)
    for level in reversed(range(len(names))):
        named, step = names[level], 1 << level
        inside = b + count < len(named)
        equal = inside.copy()
        equal[inside] = named[(a + count)[inside]] == named[(b + count)[inside]]
        count += step * equal
    return count


def _common_before(names: list[Array], a: Array, b: Array) -> Array:
    """How many letters before places ``b`` are those before ``a``; a < b."""
    count = np.zeros(len(a), np.int64)
    for level in reversed(range(len(names))):
        named, step = names[level], 1 << level
        inside = a - count - step >= 0
        equal = inside.copy()
        equal[inside] = named[(a - count - step)[inside]] == named[(b - count - step)[inside]]
        count += step * equal
    return count
