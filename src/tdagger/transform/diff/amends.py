"""Differences that ops behind them make good: files scale queries where networks scale scores, or fold a norm.

A value of B that isn't what A has, on A's own arguments, is carried on through the ops behind it, which take from A
whatever else they take. Where it comes to what A has soon after, by ops that give something else on A's arguments too,
the networks only part and meet again, wherever else they differ. What fades on the way, by ops that are right
themselves, isn't made good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from heapq import heappop, heappush
from typing import Any

from tdagger.graph import Graph
from tdagger.op import Value

#: So many values may be between where two networks part and where they meet again.
_SOON = 48


class Amends:
    """The values of a graph that are made good.

    ``wrong`` has those that differ on A's arguments, with what they are then, ``other`` those that can't take these,
    ``fixed`` those that no input is behind, ``given`` tells what any value is on them, ``run`` works one out on others.
    ``error`` tells of what came out how far it is from what A has, as a multiple of what rounding allows there and as
    one of what float64 leaves.
    """

    def __init__(
        self, graph: Graph, wrong: Mapping[Value, Any], other: Collection[Value], fixed: Collection[Value],
        given: Callable[[Value], Any], run: Callable[[Value, list[Any]], Any],
        error: Callable[[Value, Any], tuple[float, float]],
    ) -> None:  # fmt: skip
        self.graph, self.wrong, self.other, self.fixed = graph, wrong, other, fixed
        self.given, self.run, self.error = given, run, error
        self.place = {v: i for i, v in enumerate(graph.values)}
        self.results = {*graph.outputs.values(), *graph.updates.values()}

    def all(self) -> set[Value]:
        """Those of the wrong values that are made good, alone or several together."""
        found: set[Value] = set()
        for value in self.wrong:
            if value not in found:
                found |= self._behind(value, ()) or self._behind(value, self.wrong.keys() - found)
        return found

    def _behind(self, start: Value, others: Collection[Value]) -> set[Value]:
        """The values that are made good where one is carried on, with those of ``others`` that meet it; or none."""
        carried = {start: self.wrong[start]}
        todo: list[tuple[int, Value]] = []
        queued: set[Value] = set()
        good: set[Value] = set()

        def follow(value: Value) -> None:
            for user in self.graph.users[value]:
                if user not in queued:
                    queued.add(user)
                    heappush(todo, (self.place[user], user))

        follow(start)
        while todo and len(carried) < _SOON and not carried.keys() & self.results:
            _, value = heappop(todo)
            joining = [x for x in self._joining(value, others) if x not in carried]
            if joining:
                carried.update({x: self.wrong[x] for x in joining})
                heappush(todo, (self.place[value], value))
                for x in joining:
                    follow(x)
                continue
            made = self.run(value, [carried[x] if x in carried else self.given(x) for x in value.args])
            error, left = self.error(value, made)
            if error > 1:
                carried[value] = made
                follow(value)
            elif (value in self.wrong or value in self.other) and not self._is_right(value):
                good.add(value)
            elif left > 1:
                return set()
        return {*carried, *good} if good and not todo and not carried.keys() & self.results else set()

    def _is_right(self, value: Value) -> bool:
        """Whether a value is what A has where nothing is carried on to it."""
        return self.error(value, self.run(value, [self.given(x) for x in value.args]))[0] <= 1

    def _joining(self, value: Value, others: Collection[Value]) -> list[Value]:
        """Those of ``others`` that a value takes, or of which weights that it takes are made."""
        found: dict[Value, None] = {}
        stack = list(value.args) if others else []
        seen = set(stack)
        while stack:
            x = stack.pop()
            if x in others:
                found[x] = None
            elif x in self.fixed:
                stack += [y for y in x.args if y not in seen]
                seen.update(x.args)
        return list(found)
