"""Blocks that can be left out: modules in a row whose input and output have one type.

>>> import tdagger as td
>>> from tdagger.network import Origin
>>> x = td.input("x", (2, 4))
>>> y, values, origins = x, [], {}
>>> for i in range(2):
...     h = td.linear(y, td.parameter(f"blocks.{i}.a.weight", (8, 4)))
...     o = td.linear(h, td.parameter(f"blocks.{i}.b.weight", (4, 8)))
...     origins |= {h: Origin(f"blocks.{i}.a"), o: Origin(f"blocks.{i}.b"), y + o: Origin(f"blocks.{i}")}
...     y = y + o
>>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y})).with_graph(td.Graph({"x": x}, {"y": y}), origins)
>>> [b.path for b in blocks(dag)], list(without_blocks(dag, "blocks.1").graph.parameters)
(['blocks.0', 'blocks.1'], ['blocks.0.a.weight', 'blocks.0.b.weight'])
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from tdagger.errors import GraphError
from tdagger.names import shown
from tdagger.network import N, Network
from tdagger.op import Value
from tdagger.ops.source import Leaf, Parameter
from tdagger.transform.surgery.edit import Edit, finished
from tdagger.transform.surgery.outputs import without_outputs
from tdagger.transform.surgery.select import Part, fed, near


class Block(NamedTuple):
    """A module that can be left out: its ``output`` is then its ``input``."""

    path: str
    input: Value
    output: Value


_NUMBERED = re.compile(r"(?:^|\.)\d+(?=\.|$)")


def blocks(dag: Network) -> list[Block]:
    """The numbered modules (``blocks.3``, ``layer1.1``) that can be left out, in the order of the graph.

    One is called once, holds weights of more than one module, and gives one tensor that others use, of the type of one
    that it takes; what else it takes (masks, positions) is of other types or of other blocks too. Those inside of
    others don't count.
    """
    values = _by_module(dag)
    holding: dict[str, set[str]] = {}
    for name in dag.graph.parameters:
        owner = name.rpartition(".")[0]
        for path in _numbered(owner):
            holding.setdefault(path, set()).add(owner)
    is_fed = fed(dag.graph)
    parts = {
        path: Part(dag.graph, own, is_fed)
        for path, own in values.items()
        if own is not None and len(holding.get(path, ())) > 1
    }
    shared: dict[Value, int] = {}
    for part in parts.values():
        for value in part.inputs:
            shared[value] = shared.get(value, 0) + 1
    found: dict[str, Block] = {}
    for path, part in parts.items():
        block = _block(dag, path, part, shared)
        if block is not None:
            found[path] = block
    return [b for p, b in found.items() if not any(outer in found for outer in _numbered(p)[:-1])]


def _by_module(dag: Network) -> dict[str, list[Value] | None]:
    """The values of each numbered module; None for one that is called several times."""
    out: dict[str, list[Value] | None] = {}
    for value in dag.graph.values:
        origin = dag.origins.get(value)
        if origin is None or isinstance(value.op, Leaf):
            continue
        several = {p for p, _ in origin.calls}
        for path in _numbered(origin.module):
            if path in several:
                out[path] = None
            elif (own := out.setdefault(path, [])) is not None:
                own.append(value)
    return out


def _numbered(path: str) -> list[str]:
    """A path's beginnings that end with a number, the shortest first.

    >>> _numbered("layers.0.blocks.12.mlp")
    ['layers.0', 'layers.0.blocks.12']
    """
    return [path[: m.end()] for m in _NUMBERED.finditer(path)]


def _block(dag: Network, path: str, part: Part, shared: dict[Value, int]) -> Block | None:
    users, returned = dag.graph.users, set(dag.graph.outputs.values())
    # what no weight of the block is behind (a mask made as long as it has to be) others may share by interning
    own: set[Value] = set()
    for value in part.values:
        if any(a in own or isinstance(a.op, Parameter) for a in value.args):
            own.add(value)
    used = [v for v in part.outputs if v in own and any(u not in part.own for u in users[v])]
    used = used or [v for v in part.outputs if v in returned][:1]
    if len(used) != 1:
        return None
    like = [v for v in part.inputs if v.type == used[0].type]
    least = [v for v in like if shared[v] == min(shared[w] for w in like)]
    return Block(path, least[0], used[0]) if len(least) == 1 else None


def without_blocks(dag: N, *paths: str) -> N:
    """The network in which these blocks do nothing; see :meth:`tdagger.TensorDAG.without_blocks`."""
    there = {b.path: b for b in blocks(dag)}
    for path in paths:
        if path not in there:
            raise GraphError(f"{shown(dag.name)}: {shown(path)!r} is no block that can be left out{near(path, there)}")
    values = _by_module(dag)
    stands = {there[p].output: there[p].input for p in paths}
    edit = Edit(dag)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        return edit.new[stands[value]] if value in stands else None

    edit.run(rule)
    graph = edit.graph()
    gone = {n for n in dag.modules if any(n == p or n.startswith(f"{p}.") for p in paths)}
    modules = {n: k for n, k in dag.modules.items() if n not in gone}
    small = finished(dag, graph, edit.origins, checks=edit.checks(), modules=modules)
    own = {v for p in paths for v in values[p] or ()}
    returned = [n for n, v in dag.graph.outputs.items() if v in own and v not in stands]
    return without_outputs(small, *returned) if returned else small
