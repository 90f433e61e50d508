"""Sweeps over a graph until nothing changes, and of which value of the first graph each value was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tdagger.graph import Graph, bulk
from tdagger.op import Array, Value
from tdagger.transform.rewrite.driver import Driver, Fired, undone
from tdagger.transform.rewrite.outputs import sweep_outputs
from tdagger.transform.rewrite.rule import Rule


def swept(
    graph: Graph,
    rules: Iterable[Rule],
    weights: Mapping[str, Array] | None = None,
    axes: Any = None,
    trace: bool = True,
    where: Callable[[Any], str] = lambda _: "",
) -> tuple[Graph, dict[Value, Value], list[Fired]]:
    """The graph rewritten to a fixed point, of which value of the graph each value was made, and what was applied.

    Where values were made isn't told without ``trace``, which rules that need one sweep only do without. ``where`` says
    for messages where a value of the graph came from.
    """

    def told(value: Any) -> str:
        first = origin.get(value, value)
        return f"{first!r}{where(first)}"

    every = list(rules)
    single = [r for r in every if len(r.patterns) == 1]
    several = [r for r in every if len(r.patterns) > 1]
    sweeps = bool(several) or any(r.only for r in single)
    origin: dict[Value, Value] = {}
    fired: list[Fired] = []
    seen = {graph: 0}  # and how much had been applied then
    with bulk():
        while True:
            places = origin
            driver = Driver(graph, single, weights, axes, told)
            after = driver.run()
            became, made = driver.normal, driver.made
            changed = list(driver.fired)
            if several:
                origin = _traced(origin, graph, became, made)
                graph = after
                after, became, more = sweep_outputs(graph, several, driver, told)
                made = {}
                changed += [Fired(*m) for m in more]
            if trace or sweeps:
                origin = _traced(origin, graph, became, made)
            graph = after
            # a later sweep's places are in a graph that nobody has
            if places:
                changed = [f if f.place is None else f._replace(place=places.get(f.place, f.place)) for f in changed]
            fired += changed
            if not sweeps or not changed:
                return graph, origin, fired
            if graph in seen:
                again = fired[seen[graph] :]
                first = again[0].place
                raise undone((f.rule for f in again), f"{first!r}{where(first)}")
            seen[graph] = len(fired)


def _traced(
    origin: Mapping[Value, Value], graph: Graph, became: Mapping[Value, Value], made: Mapping[Value, Value]
) -> dict[Value, Value]:
    """Of which value of the first graph each value was made, after one more sweep over ``graph``."""
    found: dict[Value, Value] = {}
    for old in graph.values:
        new = became.get(old)
        if new is not None and new is not old and new not in found:
            found[new] = origin.get(old, old)
    for new, old in made.items():
        if new not in found:
            found[new] = origin.get(old, old)
    for old in graph.values:
        if became.get(old) is old:
            found[old] = origin.get(old, old)
    return found
