"""Multiply-adds and costly functions of values as formulas: what ``analysis.cost.counter`` counts, on nodes."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from tdagger.analysis.cost.contractions import contractions
from tdagger.analysis.cost.counter import is_transcendental
from tdagger.analysis.formulas.polynomial import Number
from tdagger.analysis.formulas.symbolic import Node
from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, flops
from tdagger.op import Value


class Work(NamedTuple):
    """Of one value or of several: multiply-adds of contractions, and functions that are a series on a processor."""

    macs: Number
    transcendental: Number


class WorkFormulas:
    """Formulas of the work of a graph's values, whose ``nodes`` have sizes as formulas; a body's are made once."""

    def __init__(self, graph: Graph, nodes: dict[Value, Node]) -> None:
        self.nodes = nodes
        self.products = contractions(graph)
        self._known: dict[int, Work] = {}

    def of(self, value: Value) -> Work | None:
        """The work of a value of the graph; None where a body isn't known as formulas."""
        return self._of(value, self.nodes.get(value), value in self.products)

    def _of(self, value: Value, node: Node | None, is_product: bool) -> Work | None:
        if node is None:
            return Work(0, 0)  # made of constants alone
        if not isinstance(value.op, Composite):
            return Work(
                node.type.size if is_product else 0, flops(cast(Any, node)) if is_transcendental(value.op) else 0
            )
        return self._body(node.op)

    @nested
    def _body(self, body: Any) -> Work | None:
        if not hasattr(body, "of"):
            return None
        if id(body) not in self._known:
            products = contractions(body.graph)
            macs: Any = 0
            costly: Any = 0
            for inner in body.graph.values:
                work = self._of(inner, body.of.get(inner), inner in products)
                if work is None:
                    return None
                macs, costly = macs + work.macs, costly + work.transcendental
            self._known[id(body)] = Work(macs, costly)
        return self._known[id(body)]
