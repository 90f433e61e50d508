"""Rewriting a network's graph: origins carried along, and what was applied where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from tdagger.errors import AttributeValueError
from tdagger.graph import Graph
from tdagger.network import N
from tdagger.op import Array, Value
from tdagger.transform.networks import place
from tdagger.transform.rewrite.driver import Driver, Fired
from tdagger.transform.rewrite.rule import Rule
from tdagger.transform.rewrite.sweeps import swept
from tdagger.transform.surgery.edit import finished, with_checks


@dataclass(frozen=True)
class Report:
    """What rules did: ``applied`` in order, ``counts`` by rule; ``print(report)`` says where.

    ``len(report)`` is how often a rule was applied.
    """

    applied: tuple[Fired, ...]
    modules: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How often each rule was applied."""
        return dict(Counter(f.rule for f in self.applied))

    def __len__(self) -> int:
        return len(self.applied)

    def __str__(self) -> str:
        if not self.applied:
            return "no rule applied"
        rows = [
            f"{f.rule:<24} {m or '-':<24} {f.before.op} -> {f.after.op}"
            for f, m in zip(self.applied, self.modules, strict=True)
        ]
        counts = ", ".join(f"{n} of {k}" for k, n in self.counts.items())
        shown = rows if len(rows) <= 40 else [*rows[:40], f"and {len(rows) - 40} more"]
        return "\n".join([f"{len(self.applied)} applied: {counts}", *shown])


def rewritten(
    graph: Graph,
    rules: Iterable[Rule] | Rule,
    origins: Mapping[Value, Any] | None = None,
    weights: Mapping[str, Array] | None = None,
    axes: Any = None,
) -> tuple[Graph, dict[Value, Any], Report]:
    """The graph with rules applied until none applies, where its values came from, and what was done.

    What a rule makes has the origin of the value it stands for. ``weights`` are for rules that ask for them, and so are
    ``axes``, which say the dimensions of a value. GraphError names rules that undo each other or never end.
    """
    after, carried, report, _ = _rewritten(graph, rules, origins or {}, weights, axes)
    return after, carried, report


def _rewritten(
    graph: Graph,
    rules: Iterable[Rule] | Rule,
    known: Mapping[Any, Any],
    weights: Mapping[str, Array] | None,
    axes: Any,
) -> tuple[Graph, dict[Value, Any], Report, Mapping[Value, Value]]:
    """As :func:`rewritten`, and of which value of the graph each value was made (where anything is known of these)."""
    every = _rules(rules)
    lacking = [r.name for r in every if r.replacement is None]
    if lacking:
        raise AttributeValueError(f"rule {lacking[0]} has no replacement: register one with @{lacking[0]}.to")
    after, made_for, fired = swept(graph, every, weights, axes, bool(known), place(known))
    carried = {v: known[o] for v, o in made_for.items() if o in known} if known else {}
    modules = [getattr(known.get(f.place), "module", "") for f in fired]
    return after, carried, Report(tuple(fired), tuple(modules)), made_for


def _rules(given: Any) -> list[Rule]:
    """One rule or several as a list; AttributeValueError for anything else."""
    every: list[Any] = list(cast(Iterable[Any], given)) if isinstance(given, Iterable) else [given]
    for one in every:
        if not isinstance(one, Rule):
            raise AttributeValueError(f"a rule is what @td.rule makes of a function, got {one!r}")
    return every


def applied(
    dag: N, rules: Iterable[Rule] | Rule, weights: Mapping[str, Array] | None = None, axes: Any = None
) -> tuple[N, Report]:
    """A network with rules applied until none applies (itself if none ever does), and what was done."""
    graph, origins, report, made_for = _rewritten(with_checks(dag), rules, dag.origins, weights, axes)
    if not len(report):
        return dag, report
    became: dict[Value, Value] = {}
    for new, old in made_for.items() if dag.left_out else ():
        if new.type == old.type:
            became.setdefault(old, new)
    left_out = [one._replace(value=became.get(one.value, one.value)) for one in dag.left_out]
    return finished(dag, graph, origins, left_out=left_out), report


class Match(NamedTuple):
    """Where a pattern was found: the value it ends at, and what its wildcards stand for."""

    root: Value
    found: dict[str, Any]


def found(graph: Graph, rule: Rule, weights: Mapping[str, Array] | None = None) -> list[Match]:
    """Every match of a rule in a graph, in order; matches may overlap. Of several outputs ``root`` is the first."""
    driver = Driver(graph, _rules(rule), weights)
    return [Match(v, m) for v in graph.values if rule.may_match(v.op) and (m := driver.matches(rule, v)) is not None]
