"""Who uses a value, for patterns that want it for themselves: ``only``."""

from __future__ import annotations

from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.structure import Group, Repeat, Ungroup
from tdagger.transform.rewrite.arguments import Bindings
from tdagger.transform.rewrite.rule import Rule


class Users:
    """How often each value of a graph is used, and what is made while that is rewritten; without a graph none is."""

    def __init__(self, graph: Graph | None) -> None:
        self.counts: dict[Value, int] = {}
        #: Values of the graph that others stand for now: they have no users left.
        self._gone: set[Value] = set()
        self._more: dict[Value, int] = {}
        if graph is None:
            return
        for value in graph.values:
            for arg in value.args:
                self.counts[arg] = self.counts.get(arg, 0) + 1
        for value in (*graph.outputs.values(), *graph.updates.values()):
            self.counts[value] = self.counts.get(value, 0) + 1

    def became(self, old: Value, new: Value) -> None:
        """Another value stands for one of the graph: who used that uses the other."""
        self._gone.add(old)
        self._more[new] = self._more.get(new, 0) + self.counts.get(old, 0)

    def made(self, value: Value) -> None:
        """A value was made, which uses its arguments."""
        for arg in value.args:
            self._more[arg] = self._more.get(arg, 0) + 1

    def only(self, rule: Rule, root: Value, bound: Bindings) -> bool:
        """Whether the values marked ``only`` have no users but the match."""
        roots = rule.roots_of(root, bound)
        matched = {bound[i] for i in rule.nodes if bound[i] is not None}
        edges: dict[Value, int] = {}
        stack, seen = list(roots), set(roots)
        while stack:
            for arg in stack.pop().args:
                edges[arg] = edges.get(arg, 0) + 1
                if arg not in seen and (arg in matched or isinstance(arg.op, Repeat | Group | Ungroup)):
                    seen.add(arg)
                    stack.append(arg)
        for value in (bound[i] for i in rule.only):
            if value is None or value in roots:
                continue
            known = 0 if value in self._gone else self.counts.get(value, 0)
            if known + self._more.get(value, 0) != edges.get(value, 0):
                return False
        return True
