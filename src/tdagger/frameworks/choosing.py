"""A choice between two graphs as the composite ``cond``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from tdagger import library as lib
from tdagger.errors import UnsupportedError
from tdagger.graph import Graph, replayed, topological
from tdagger.op import Value
from tdagger.ops.source import Input, Leaf


def chosen(predicate: Value, then: Sequence[Value], otherwise: Sequence[Value]) -> tuple[Value, ...]:
    """One of two lists of values, by a bool of rank 0: all that they take from around are the operands of a ``cond``.

    >>> import tdagger as td
    >>> p, x = td.input("p", (), "bool"), td.input("x", (2,))
    >>> chosen(p, [x + x], [x])[0].op.name
    'cond'
    """
    kinds = [[v.type for v in r] for r in (then, otherwise)]
    if kinds[0] != kinds[1]:
        raise UnsupportedError(f"one branch of it gives {kinds[0]}, the other {kinds[1]}")
    leaves = [v for v in topological([*then, *otherwise]) if isinstance(v.op, Leaf)]
    stands = {v: Input(f"x{i}", v.type)() for i, v in enumerate(leaves)}
    named = {f"x{i}": stands[v] for i, v in enumerate(leaves)}
    graphs: list[Graph] = []
    for name, values in (("then", then), ("otherwise", otherwise)):
        graph = Graph({cast(Leaf, v.op).leaf: v for v in leaves if isinstance(v.op, Input)},
                      {str(i): v for i, v in enumerate(values)}, name=name)  # fmt: skip
        new = replayed(graph, stands)
        graphs.append(Graph(named, {str(i): new[v] for i, v in enumerate(values)}, name=name))
    found: Any = lib.cond(predicate, *leaves, then=graphs[0], otherwise=graphs[1])
    return cast("tuple[Value, ...]", found if isinstance(found, tuple) else (found,))
