"""The work of values, counted on core ops: multiply-adds of contractions, FLOPs of each kind.

>>> import tdagger as td
>>> x, w = td.input("x", (2, 3)), td.parameter("w", (4, 3))
>>> y = td.tanh(td.linear(x, w))
>>> list(Counter().graph(td.Graph({"x": x}, {"y": y})).values())[-2:]
[Work(macs=24, contracted=40, transcendental=0, flops=40), Work(macs=0, contracted=0, transcendental=8, flops=8)]
"""

from __future__ import annotations

from collections import Counter as Tally
from typing import NamedTuple

from tdagger.analysis.cost.contractions import contractions
from tdagger.composite import Composite
from tdagger.depth import nested
from tdagger.graph import Graph, branches, flops, label
from tdagger.op import Op, Value
from tdagger.ops.elementwise import BINARY, UNARY, Binary, Unary
from tdagger.types import TensorType


class Work(NamedTuple):
    """Work of one value or of several: ``contracted`` are the flops of products and their sums among ``flops``."""

    macs: int
    contracted: int
    transcendental: int
    flops: int


class Counter:
    """Counts the work of values, that of a composite once for each op and types of arguments."""

    def __init__(self) -> None:
        self._known: dict[tuple[Op, tuple[TensorType, ...]], Work] = {}
        self._products: dict[int, tuple[Graph, dict[Value, Value]]] = {}

    def products(self, graph: Graph) -> dict[Value, Value]:
        """:func:`contractions` of a graph or body, found once."""
        found = self._products.get(id(graph))
        if found is None:
            found = self._products[id(graph)] = graph, contractions(graph)
        return found[1]

    def graph(self, graph: Graph) -> dict[Value, Work]:
        """The work of every value."""
        products = self.products(graph)
        sums = set(products.values())
        return {v: self._value(v, v in products, v in sums) for v in graph.values}

    def _value(self, value: Value, is_product: bool, is_sum: bool) -> Work:
        if isinstance(value.op, Composite):
            return self._composite(value, value.op)
        own = flops(value)
        macs = value.type.size if is_product else 0
        return Work(macs, own if is_product or is_sum else 0, own if is_transcendental(value.op) else 0, own)

    @nested
    def _composite(self, value: Value, op: Composite) -> Work:
        key = (op, tuple([a.type for a in value.args]))
        work = self._known.get(key)
        if work is None:
            if op.definition.flops_each is not None:
                work = Work(0, 0, 0, flops(value))
            else:
                each = self.graph(op.counted(*key[1])).values()
                work = Work(*map(sum, zip(*each, strict=True)))
            self._known[key] = work
        return work

    def uneven(self, graph: Graph) -> Tally[str]:
        """Ops with branches that don't all take the same work, those inside branches too, with counts."""
        found: Tally[str] = Tally()
        for value in graph.values:
            if value.op.has_branches:
                inner = branches(value)
                works = {tuple(map(sum, zip(*self.graph(b).values(), strict=True))) for b in inner}
                found.update([label(value.op)] if len(works) > 1 else [])
                for branch in inner:
                    found.update(self.uneven(branch))
        return found


def is_transcendental(op: Op) -> bool:
    """Whether processors work an op out by a series or an iteration."""
    if isinstance(op, Unary):
        return UNARY[op.kind].transcendental
    return isinstance(op, Binary) and BINARY[op.kind].transcendental
