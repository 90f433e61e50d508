"""Residual branches: what is added to something that it is made of, which can be left out as a whole.

>>> import tdagger as td
>>> x, w, v = td.input("x", (2, 4)), td.parameter("a.weight", (8, 4)), td.parameter("b.weight", (4, 8))
>>> y = x + td.linear(td.relu(td.linear(x, w)), v)
>>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.relu(y)}))
>>> [(b.name, b.parameters) for b in branches(dag)]
[('a', ('a.weight', 'b.weight'))]
>>> list(without_branches(dag, "a").graph.parameters)
[]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.errors import GraphError
from tdagger.graph import is_one
from tdagger.names import shown
from tdagger.network import N, Network, Weight, Weights
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf, Parameter, parameter
from tdagger.ops.structure import broadcast_to
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.transform.surgery.select import near


class Branch(NamedTuple):
    """A sum ``value`` whose argument number ``skip`` goes past what else is added.

    ``inside`` are the values that nothing else needs, ``parameters`` the names of those among them.
    """

    name: str
    value: Value
    skip: int
    inside: frozenset[Value]
    parameters: tuple[str, ...]


def branches(dag: Network) -> list[Branch]:
    """The residual branches that hold parameters, in the order of the graph; one may lie in another."""
    users, returned = dag.graph.users, {*dag.graph.outputs.values(), *dag.graph.updates.values()}
    order = {v: i for i, v in enumerate(dag.graph.values)}
    found: list[Branch] = []
    given: dict[str, int] = {}
    for value in dag.graph.values:
        if not _is_sum(value):
            continue
        for skip in (0, 1):
            inside, taken = _only_for(value.args[1 - skip], value, users, returned)
            if value.args[skip] not in taken or value.args[0] is value.args[1]:
                continue
            own = [v for v in sorted(inside, key=order.__getitem__) if isinstance(v.op, Parameter)]
            names = tuple([cast(Leaf, v.op).leaf for v in own])
            if names:
                base = _path(names)
                count = given[base] = given.get(base, 0) + 1
                name = base if count == 1 else f"{base}#{count}"
                found.append(Branch(name, value, skip, frozenset(inside), names))
                break
    return found


def _is_sum(value: Value) -> bool:
    if getattr(value.op, "kind", value.op.name) != "add" or len(value.args) != 2 or not is_one(value):
        return False
    return all(a.type is value.type for a in value.args)


def _only_for(
    start: Value, end: Value, users: dict[Value, list[Value]], returned: set[Value]
) -> tuple[set[Value], set[Value]]:
    """The values from which there is no way but by ``start`` into ``end``, and what those take besides."""
    inside, taken = set[Value](), set[Value]()
    waiting = [start] if users[start] == [end] and start not in returned else []
    while waiting:
        value = waiting.pop()
        inside.add(value)
        taken.discard(value)
        for arg in value.args:
            if arg not in returned and all(u in inside for u in users[arg]):
                waiting.append(arg)
            else:
                taken.add(arg)
    return inside, taken


def _path(names: Sequence[str]) -> str:
    """The module that all parameters are in.

    >>> _path(["blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight"]), _path(["a", "b"])
    ('blocks.0.attn', 'a')
    """
    owners = [n.rpartition(".")[0].split(".") for n in names]
    same = [len(set(parts)) == 1 for parts in zip(*owners, strict=False)]
    common = owners[0][: [*same, False].index(False)]
    return ".".join(common) or ".".join(owners[0]) or names[0]


def without_branches(dag: N, *names: str) -> N:
    """The network in which these branches add nothing; see :meth:`tdagger.TensorDAG.without_branches`."""
    there = {b.name: b for b in branches(dag)}
    for name in names:
        if name not in there:
            raise GraphError(f"{shown(dag.name)}: {shown(name)!r} is no branch that can be left out{near(name, there)}")
    skips = {there[n].value: there[n].skip for n in names}
    edit = Edit(dag)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        return args[skips[value]] if value in skips else None

    graph = edit.run(rule).graph()
    return finished(dag, graph, edit.origins, checks=edit.checks())


def with_gates(dag: N, found: Sequence[Branch]) -> tuple[N, list[str]]:
    """The network in which branches are multiplied by a parameter each, 1 at first; the names of those."""
    number = {b.value: i for i, b in enumerate(found)}
    state = state_of(dag)
    names = [f"branch_gate_{i}" for i in range(len(found))]
    if taken := [n for n in names if n in state]:
        raise GraphError(f"{shown(dag.name)}: there is a {taken[0]!r} already")
    edit = Edit(dag)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        i = number.get(value)
        if i is None:
            return None
        skip, leaf = found[i].skip, parameter(names[i], (), value.dtype)
        state[names[i]] = Weight(leaf.type, True)
        own = args[1 - skip] * broadcast_to(leaf, value.shape)
        return value.op(*((args[0], own) if skip == 0 else (own, args[1])))

    graph = edit.run(rule).graph()
    ones: dict[str, Array] = {n: np.ones((), state[n].type.dtype.numpy) for n in names}
    weights = Weights.of(dag.weights, {n: n for n in dag.weights}) | Weights.of(ones, {n: n for n in names})
    return finished(dag, graph, edit.origins, weights=weights, state=state, checks=edit.checks()), names
