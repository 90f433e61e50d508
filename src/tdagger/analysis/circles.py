"""Circles of any graph that is given as what each node leads to."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

N = TypeVar("N", bound=Hashable)


def cycles(after: Mapping[N, Collection[N]], nodes: Collection[N]) -> list[set[N]]:
    """The largest sets of ``nodes`` each of which leads to all others of the set and to itself; Tarjan's algorithm.

    >>> cycles({"a": "b", "b": "c", "c": "bd", "d": ""}, "abcd") == [{"b", "c"}]
    True
    """
    inside = set(nodes)
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    open_: dict[N, None] = {}
    found: list[set[N]] = []
    for root in nodes:
        if root in index:
            continue
        stack = [(root, iter(after[root]))]
        index[root] = low[root] = len(index)
        open_[root] = None
        while stack:
            node, rest = stack[-1]
            for target in rest:
                if target not in inside:
                    continue
                if target not in index:
                    index[target] = low[target] = len(index)
                    open_[target] = None
                    stack.append((target, iter(after[target])))
                    break
                if target in open_:
                    low[node] = min(low[node], index[target])
            else:
                stack.pop()
                if stack:
                    low[stack[-1][0]] = min(low[stack[-1][0]], low[node])
                if low[node] == index[node]:
                    part: set[N] = set()
                    while node not in part:
                        part.add(open_.popitem()[0])
                    if len(part) > 1 or node in after[node]:
                        found.append(part)
    return found
