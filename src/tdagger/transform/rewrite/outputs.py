"""Rules with several outputs: roots are found from one another, and replaced together in a graph that stands still."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from tdagger.graph import Graph, bulk
from tdagger.op import Value
from tdagger.transform.rewrite.driver import MADE_WRONG, RulesNotEnding, wrong
from tdagger.transform.rewrite.rule import Context, Refused, Rule
from tdagger.transform.rewrite.users import Users


def sweep_outputs(
    graph: Graph, rules: list[Rule], context: Context, told: Callable[[Value], str]
) -> tuple[Graph, dict[Value, Value], list[tuple[str, Value, Value, Value]]]:
    """The graph with matches that don't overlap replaced, what became of each value, and what was applied.

    ``told`` says of a value, for messages, what it is and where it came from.
    """
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
            try:
                made = rule.apply_all(roots, bound, context)
            except MADE_WRONG as e:
                raise wrong(rule, told(value), e) from e
            if isinstance(made, Refused) or made == roots:
                continue
            put = {r: m for r, m in zip(roots, made, strict=True) if r is not m}
            if _goes_round(put, place, ()):
                captured = {v for v in bound[: len(rule.slots)] if isinstance(v, Value)}
                held = _goes_round(put, place, captured)
                if held is None:  # what the wildcards stand for needs an output
                    continue
                raise RulesNotEnding(
                    f"rule {rule.name} goes on without an end at {told(value)}: what stands for its output {held!r} "
                    "holds that again"
                )
            first = first or put
            instead.update(put)
            taken.update(roots)
            fired.append((rule.name, roots[0], *next(iter(put.items()))))
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


def _goes_round(put: Mapping[Value, Value], place: Mapping[Value, int], past: Container[Value]) -> Value | None:
    """A root that what stands for it needs again, where it isn't looked past some values; None if there is none."""
    first = min(place[r] for r in put)
    needs = {root: _needed(made, put, lambda v: v not in past and place.get(v, first) >= first)
             for root, made in put.items()}  # fmt: skip
    while needs:
        free = [root for root, others in needs.items() if not any(o in needs for o in others)]
        if not free:
            return next(iter(needs))
        for root in free:
            del needs[root]
    return None


def _needed(made: Value, roots: Container[Value], beyond: Callable[[Value], bool]) -> set[Value]:
    """The roots among what a value is made of, as far as that is looked at."""
    found: set[Value] = set()
    stack, seen = [made], {made}
    while stack:
        value = stack.pop()
        if value in roots:
            found.add(value)
        elif beyond(value):
            new = [a for a in value.args if a not in seen]
            seen.update(new)
            stack += new
    return found


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
