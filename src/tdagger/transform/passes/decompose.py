"""Composites replaced by their bodies: one op everywhere, or all that a target doesn't know."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from tdagger.composite import Composite, composites
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, bulk
from tdagger.network import N, Origin
from tdagger.op import Value
from tdagger.ops.structure import Item
from tdagger.transform.surgery.edit import each, finished, with_checks

Known = Callable[[Value], bool]


def is_last(value: Value) -> bool:
    """Whether a composite has no body that stands for it: it has branches, or a gradient of its own.

    >>> import tdagger as td
    >>> x = td.input("x", (2,))
    >>> is_last(td.stop_gradient(x)), is_last(td.silu(x))
    (True, False)
    """
    return value.op.has_branches or value.op.own_gradient


def decompose(dag: N, *names: str, keep: Collection[str] | None = None, deep: bool = False) -> N:
    """The network with the bodies of composites in their place: of those named, or of all but those to ``keep``.

    ``decompose(dag, "layer_norm")`` takes apart that one everywhere, one level of it unless ``deep``;
    ``decompose(dag, keep=("linear", "softmax"))`` is what a target that knows the core and these ops takes, and
    ``decompose(dag)`` the core alone. What has branches (cond) stays, and so does, unless named, what has a gradient
    of its own (stop_gradient, kinks such as that of a norm at 0). AttributeValueError if there is no such composite.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: td.silu(x), {"x": (2,)})
    >>> [v.op.name for v in decompose(dag, "silu").values]
    ['input', 'sigmoid', 'binary']
    """
    unknown = [n for n in (*names, *(keep or ())) if n not in composites]
    if unknown:
        raise AttributeValueError(f"there is no composite called {', '.join(unknown)}")
    everything = not names
    kept = set(keep or ())

    def is_known(value: Value, level: int) -> bool:
        name = value.op.name
        if value.op.has_branches or name in kept:
            return True
        if everything or (level and value.op.own_gradient):
            return is_last(value)
        return not deep if level else name not in names

    graph, origins = expanded(with_checks(dag), is_known, dag.origins)
    return finished(dag, graph, origins)


def expanded(
    graph: Graph, is_known: Callable[[Value, int], bool], origins: Mapping[Value, Origin]
) -> tuple[Graph, dict[Value, Origin]]:
    """The graph with every composite that isn't known replaced by its body, and where values came from.

    ``is_known(value, level)`` is asked of every composite; the level counts the bodies that it was in.
    """
    carried: dict[Value, Origin] = {}

    def put(value: Value, args: list[Any], origin: Origin | None, level: int) -> Any:
        op = value.op
        if isinstance(op, Item) and isinstance(args[0], tuple):
            return cast(Any, args[0])[op.index]
        same = all(map(operator.is_, args, value.args))
        current = value if same else op(*args)
        if not isinstance(op, Composite) or is_known(current, level):
            if origin is not None:
                carried.setdefault(current, origin)
            return current
        body = op.body(*[a.type for a in current.args])
        inner: dict[Value, Any] = dict(zip(body.inputs.values(), current.args, strict=True))
        for v in body.values:  # recursion is as deep as composites nest, not as the graph
            if v not in inner:
                inner[v] = put(v, [inner[a] for a in v.args], origin, level + 1)
        results: list[Any] = [inner[v] for v in body.outputs.values()]
        return results[0] if len(results) == 1 else tuple[Any, ...](results)

    new: dict[Value, Any] = {}
    with bulk():
        for value in graph.values:
            new[value] = put(value, [new[a] for a in value.args], origins.get(value), 0)
    order = [v for result in new.values() for v in each(result)]
    inputs, outputs, updates = ({k: new[v] for k, v in d.items()} for d in (graph.inputs, graph.outputs, graph.updates))
    return Graph(inputs, outputs, updates, graph.name, order), carried
