"""What a smaller network does without beside the entries that go: what nothing reads any more."""

from __future__ import annotations

import math
from typing import cast

from tdagger.analysis.axes.algebra import resolve
from tdagger.graph import Graph
from tdagger.op import Array, Value
from tdagger.ops.indexing import Gather, Scatter
from tdagger.prune.finding.costs import Polynomial
from tdagger.prune.finding.entries import Entries
from tdagger.prune.finding.factors import Factor, Terms
from tdagger.prune.finding.places import is_written_out, shapes_alone
from tdagger.types import TensorType


class Unread:
    """Called with the entries that are left of every factor: flops, parameters and bytes that nothing reads then.

    An op that takes the shape of an argument, and nothing else of it, has its own shape written out where the two
    aren't alike any more. What is left of something made of constants is written out, and so are the places that
    entries are taken at where those are others.
    """

    def __init__(self, graph: Graph, entries: Entries, factors: list[Factor]) -> None:
        self.graph, self.entries, self.factors = graph, entries, factors
        scope = self.scope = entries.scope
        self._number = {f: i for i, f in enumerate(factors)}
        self._shapes = [(v, i) for v in scope.terms for i in shapes_alone(v)]
        self._tables = [(v, i) for v, i in scope.uses if v.args[i] not in scope.terms and v.args[i].args]
        self._places = [v for v in entries.placed if v in scope.terms]

    def __call__(self, left: Array) -> dict[str, float]:
        cut = {(v, i) for v, i in self._shapes if not self._follows(v, left)}
        cut |= {(v, i) for v, i in self._tables if is_written_out(v.args[i], self._cut(v, i, left))}
        cut |= {(v, 1) for v in self._places if self._moves(v, left)}
        if not cut:
            return {}
        needed: set[Value] = set()
        stack = [*self.graph.outputs.values(), *self.graph.updates.values()]
        while stack:
            value = stack.pop()
            if value not in needed:
                needed.add(value)
                stack += [a for i, a in enumerate(value.args) if (value, i) not in cut]
        spans = [self.entries.work_of[v] for v in self.graph.values if v not in needed]
        flops = Polynomial([w for low, high in spans for w in self.entries.work[low:high]], self.factors)(left)
        own = [v for v in self.graph.parameters.values() if v in self.scope.terms and v not in needed]
        sizes = {v: math.prod(self._sizes(self.scope.terms[v], left)) for v in own}
        return {
            "flops": flops,
            "parameters": sum(sizes.values()),
            "bytes": sum(n * v.dtype.bytes for v, n in sizes.items()),
        }

    def _sizes(self, terms: Terms, left: Array) -> list[int]:
        number = self._number
        return [math.prod(int(left[number[f]]) if f.block is None else f.size for f in resolve(t)) for t in terms]

    def _cut(self, value: Value, i: int, left: Array) -> list[bool]:
        """Which dimensions of an argument lose entries."""
        sizes = self._sizes(self.scope.at(value, i), left)
        return [n != m for n, m in zip(sizes, value.args[i].shape, strict=True)]

    def _moves(self, value: Value, left: Array) -> bool:
        """Whether a gather or scatter takes or puts fewer entries, or of fewer."""
        op = cast("Gather | Scatter", value.op)
        if self._cut(value, 0, left)[op.axis]:
            return True
        if value.args[1].rank == op.batch:
            return False
        if isinstance(op, Scatter):
            return self._cut(value, 2, left)[op.axis]
        return self._sizes(self.scope.terms[value], left)[op.axis] != value.shape[op.axis]

    def _follows(self, value: Value, left: Array) -> bool:
        """Whether an op gives what is left of its result where it is given what is left of its arguments."""

        def type_of(v: Value, terms: Terms) -> TensorType:
            return TensorType(tuple(self._sizes(terms, left)), v.dtype)

        args = [type_of(a, self.scope.at(value, i)) for i, a in enumerate(value.args)]
        return value.op.infer(*args) == type_of(value, self.scope.terms[value])
