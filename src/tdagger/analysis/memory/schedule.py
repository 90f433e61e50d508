"""Orders of a graph's values whose activations take less memory at their peak."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from tdagger.analysis.execution.tracing import Backend, trace
from tdagger.analysis.memory.activations import holds, peak
from tdagger.graph import Graph, is_view, result_types
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item


def scheduled(graph: Graph, backend: Backend | None = None) -> Graph:
    """The graph in the order, of those tried, that has the lowest peak; never a higher one than its own.

    The peak is that of a ``backend``, with scratch, or without one of activations alone. Tried are the graph's own,
    going for what frees most and allocates least at every step, and going for what an output needs, the argument that
    takes most memory first.
    """

    def most(g: Graph) -> int:
        return peak(g)[0] if backend is None else trace(g, backend).peak_bytes

    best, least = graph, most(graph)
    for order in (_by_gain(graph), _by_need(graph)):
        other = Graph(graph.inputs, graph.outputs, graph.updates, graph.name, order)
        found = most(other)
        if found < least:
            best, least = other, found
    return best


def _made(value: Value) -> int:
    """Bytes that a value takes in memory by itself."""
    if isinstance(value.op, Leaf | Const | Item) or is_view(value):
        return 0
    return sum(t.bytes for t in result_types(value))


def _by_gain(graph: Graph) -> list[Value]:
    """At every step the value, of those whose arguments are there, that adds least to what is alive."""
    values = graph.values
    place = {v: i for i, v in enumerate(values)}
    held = holds(values)
    users: dict[tuple[Value, int], set[Value]] = {}  # of each activation, who is still to take it
    for value in values:
        for arg in value.args:
            for key in held[arg]:
                users.setdefault(key, set()).add(value)
    for value in (*graph.outputs.values(), *graph.updates.values()):
        for key in held[value]:
            users.pop(key, None)  # never freed
    sizes = {key: result_types(key[0])[key[1]].bytes for key in users}
    waits = {v: len(set(v.args)) for v in values}

    def gain(value: Value) -> int:
        own = set(held[value])
        taken = dict.fromkeys(k for a in value.args for k in held[a] if k not in own)
        return _made(value) - sum(sizes[k] for k in taken if len(users.get(k, ())) == 1)

    ready = [(gain(v), place[v]) for v in values if not v.args]
    heapify(ready)
    order: list[Value] = []
    done: set[Value] = set()
    while ready:
        value = values[heappop(ready)[1]]
        if value in done:
            continue
        done.add(value)
        order.append(value)
        for user in graph.users[value]:
            waits[user] -= 1
            if not waits[user]:
                heappush(ready, (gain(user), place[user]))
        for key in dict.fromkeys(k for a in value.args for k in held[a]):
            left = users.get(key, set())
            left.discard(value)
            if len(left) == 1:  # the last one to take it frees it
                last = next(iter(left))
                if not waits[last]:
                    heappush(ready, (gain(last), place[last]))
    return order


def _by_need(graph: Graph) -> list[Value]:
    """From the outputs back: the argument that takes most memory first, as if the graph were a tree."""
    need: dict[Value, int] = {}
    first: dict[Value, list[Value]] = {}
    for value in graph.values:
        args = sorted(dict.fromkeys(value.args), key=lambda a: need[a] - _made(a), reverse=True)
        most = held = 0
        for arg in args:
            most = max(most, held + need[arg])
            held += _made(arg)
        need[value], first[value] = max(most, held + _made(value)), args
    order: list[Value] = []
    seen: set[Value] = set()
    roots = dict.fromkeys([*graph.outputs.values(), *graph.updates.values()])
    stack = sorted(roots, key=lambda v: need[v] - _made(v))
    while stack:
        value = stack[-1]
        waiting = [a for a in first[value] if a not in seen] if value not in seen else []
        if waiting:
            stack.extend(reversed(waiting))
            continue
        stack.pop()
        if value not in seen:
            seen.add(value)
            order.append(value)
    return order
