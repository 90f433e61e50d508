"""A part of a network as one op with a name of its own: hierarchy needs no second mechanism."""

from __future__ import annotations

from typing import Any

from tdagger.composite import composite
from tdagger.graph import Graph
from tdagger.library.control import of_types
from tdagger.op import Value


@composite
def block(*tensors: Value, title: str, graph: Graph) -> Any:
    """What ``graph`` gives of the tensors, by place: a value, or a tuple of several. It is counted as ``title``.

    TypeMismatchError if the tensors aren't of the types of the graph's inputs. Weights are among the tensors.

    >>> import tdagger as td
    >>> x = td.input("x", (3,))
    >>> y = td.block(td.sin(x), title="twice", graph=td.Graph({"x": x}, {"y": x + x}))
    >>> y.type, td.Graph({"x": x}, {"y": y}).total_flops()
    (f32[3], 6)
    """
    del title
    results = of_types(graph, tensors)
    return results[0] if len(results) == 1 else results
