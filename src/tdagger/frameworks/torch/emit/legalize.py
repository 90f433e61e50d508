"""Bringing a graph to the ops torch knows: composites it has no word for are replaced by their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tdagger.graph import Graph
from tdagger.network import Origin
from tdagger.op import Value
from tdagger.transform.passes.decompose import expanded


def legalize(
    graph: Graph, is_known: Callable[[Value], bool], origins: Mapping[Value, Origin]
) -> tuple[Graph, dict[Value, Origin]]:
    """The graph with every composite that isn't known replaced by its body, and the origins carried over.

    ``is_known`` is asked of every value of a composite. What stands in for a composite has its origin.
    """
    return expanded(graph, lambda value, level: is_known(value), origins)
