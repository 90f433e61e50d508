"""Bringing a graph to the ops a target knows: composites it has no word for are replaced by their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from tdagger.composite import Composite
from tdagger.graph import Graph, bulk
from tdagger.op import Value
from tdagger.ops.structure import Item

_T = TypeVar("_T")
_Result = Value | tuple[Value, ...]


def legalize(
    graph: Graph, is_known: Callable[[Value], bool], origins: Mapping[Value, _T]
) -> tuple[Graph, dict[Value, _T]]:
    """The graph with every composite that isn't known replaced by its body, and the origins carried over.

    ``is_known`` is asked of every value of a composite. What stands in for a composite has its origin.
    """
    carried: dict[Value, _T] = {}

    def put(value: Value, args: list[_Result], origin: _T | None) -> _Result:
        op = value.op
        if isinstance(op, Item) and isinstance(args[0], tuple):
            return args[0][op.index]
        same = all(a is b for a, b in zip(args, value.args, strict=True))
        current = value if same else op(*args)  # type: ignore[arg-type]
        if not isinstance(op, Composite) or is_known(current):
            if origin is not None:
                carried.setdefault(current, origin)
            return current
        body = op.body(*[a.type for a in current.args])
        inner: dict[Value, _Result] = dict(zip(body.inputs.values(), args, strict=True))
        for v in body.values:  # recursion is as deep as composites nest, not as the graph
            if v not in inner:
                inner[v] = put(v, [inner[a] for a in v.args], origin)
        results = [inner[v] for v in body.outputs.values()]
        return results[0] if len(results) == 1 else tuple(results)  # type: ignore[return-value]

    new: dict[Value, _Result] = {}
    with bulk():
        for value in graph.values:
            new[value] = put(value, [new[a] for a in value.args], origins.get(value))

    def named(values: Mapping[str, Value]) -> dict[str, Value]:
        return {k: new[v] for k, v in values.items()}  # type: ignore[misc]

    order = [v for result in new.values() for v in (result if isinstance(result, tuple) else (result,))]
    return Graph(named(graph.inputs), named(graph.outputs), named(graph.updates), graph.name, order), carried
