"""Rules with several outputs: roots are found from one another, and replaced together in a graph that stands still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdagger.graph import Graph, bulk
from tdagger.op import Value
from tdagger.transform.rewrite.rule import Context, Refused, Rule
from tdagger.transform.rewrite.users import Users


def sweep_outputs(
    graph: Graph, rules: list[Rule], context: Context
) -> tuple[Graph, dict[Value, Value], list[tuple[str, Value, Value, Value]]]:
    """The graph with matches that don't overlap replaced, what became of each value, and what was applied."""
    place = {v: i for i, v in enumerate(graph.values)}
    instead: dict[Value, Value] = {}
    first: dict[Value, Value] = {}
    fired: list[tuple[str, Value, Value, Value]] = []
    taken: set[Value] = set()
    used = Users(graph).only if any(r.only for r in rules) else None
    for rule in rules:
        for value in graph.values:
            if value in taken or not rule.may_match(value.op):
                continue
            bound = rule.match(value, context, used, (graph.users, taken))
            if not isinstance(bound, list):
                continue
            roots = rule.roots_of(value, bound)
            made = rule.apply_all(roots, bound, context)
            if isinstance(made, Refused) or made == roots or _reaches(made, roots, place):
                continue
            first = first or dict(zip(roots, made, strict=True))
            instead.update(zip(roots, made, strict=True))
            taken.update(roots)
            fired.append((rule.name, roots[0], roots[0], made[0]))
    if not instead:
        return graph, {v: v for v in graph.values}, []
    became = _replaced(graph, instead)
    if became is None:  # matches that need one another's outputs: one now, the others in the next sweep
        fired = fired[:1]
        became = _replaced(graph, first)
        assert became is not None
    inputs, outputs, updates = (
        {k: became[v] for k, v in d.items()} for d in (graph.inputs, graph.outputs, graph.updates)
    )
    return Graph(inputs, outputs, updates, graph.name, [became[v] for v in graph.values if v in became]), became, fired


def _reaches(made: tuple[Value, ...], roots: tuple[Value, ...], place: Mapping[Value, int]) -> bool:
    """Whether what is to stand for the roots needs one of them."""
    first = min(place[r] for r in roots)
    stack, seen = list(made), set(made)
    while stack:
        value = stack.pop()
        if value in roots:
            return True
        for arg in value.args:
            if arg not in seen and place.get(arg, first) >= first:
                seen.add(arg)
                stack.append(arg)
    return False


def _replaced(graph: Graph, instead: Mapping[Value, Value]) -> dict[Value, Value] | None:
    """What becomes of every value where others stand for some; None if that goes in a circle."""
    new: dict[Value, Value] = {}
    pending: set[Value] = set()
    needed: list[Any] = [*graph.inputs.values(), *graph.outputs.values(), *graph.updates.values()]
    stack: list[Value] = needed[::-1]
    with bulk():
        while stack:
            value = stack[-1]
            if value in new:
                stack.pop()
                continue
            wanted = (instead[value],) if value in instead else value.args
            waiting = [a for a in wanted if a not in new]
            if waiting:
                if value in pending:
                    return None
                pending.add(value)
                stack += reversed(waiting)
                continue
            pending.discard(value)
            if value in instead:
                new[value] = new[instead[value]]
            else:
                args = tuple([new[a] for a in value.args])
                new[value] = value if args == value.args else value.op(*args)
            stack.pop()
    return new
