"""What was pruned, and what can be, as tables for people and records for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from tdagger.analysis.numbers import quantity
from tdagger.cli import cost_table
from tdagger.cli.compare import ratio
from tdagger.cli.cost import Counted
from tdagger.cli.layout import Column, bar, escape, say, table
from tdagger.cli.rows import Line
from tdagger.prune.finding.groups import Group, Prunable
from tdagger.prune.plan import PrunePlan
from tdagger.prune.removing.check import Check
from tdagger.tensordag import TensorDAG

#: How many reasons are told.
_MOST = 8


def record_of(group: Group) -> dict[str, Any]:
    """A group for programs; keys are only added."""
    return {
        "name": group.name,
        "size": group.size,
        "members": [{"parameter": m.name, "axis": m.axis, "entries_per_unit": m.each} for m in group.members],
        "unit": {"flops": group.flops, "parameters": group.parameters, "bytes": group.bytes},
        "exact": group.exact,
        "why": list(group.why),
    }


def groups_of(found: Prunable) -> dict[str, Any]:
    """What can be pruned, and what stops the rest, for programs."""
    return {
        "groups": [record_of(g) for g in found.groups],
        "stopped": [{"parameter": s.name, "axis": s.axis, "size": s.size, "why": s.why} for s in found.stopped],
    }


def show_found(console: Console, found: Prunable, dag: TensorDAG, source: str) -> None:
    """Print the groups of a network, and what stops dimensions that are in none, one line for each reason."""
    cost_table.heading(console, dag, source)
    groups = found.groups
    columns = [
        Column("group", [escape(g.name) for g in groups], is_text=True),
        Column("units", [f"{g.size:,}" for g in groups]),
        Column("FLOPs each", [quantity(round(g.flops)) for g in groups], 1),
        Column("params each", [quantity(round(g.parameters)) for g in groups]),
        cost_table.dim("in", [_members(g) for g in groups], 2),
        Column("", [_exactness(g) for g in groups], is_text=True),
    ]
    console.print(table(console, columns))
    reasons: dict[str, list[str]] = {}
    for s in found.stopped:
        reasons.setdefault(s.why.partition(" (")[0], []).append(f"{s.name}[{s.axis}] of {s.size}")
    if reasons:
        say(console, "\n[bold]stay as they are[/bold], since")
    for why, dims in reasons.items():
        say(console, f"  {escape(why)}: [dim]{escape(_first(dims))}[/dim]")


def _exactness(group: Group) -> str:
    """Whether zeros are the same as nothing, in short; --json has the places."""
    if group.exact:
        return "exact"
    whys = ["norms count them"] if group.only_norms else [why.partition(" (")[0] for why in group.why]
    return f"[yellow]{escape(_first(whys))}[/yellow]"


def _members(group: Group) -> str:
    return _first([str(m) for m in group.members])


def _first(texts: Sequence[str]) -> str:
    """The first, and how many more there are."""
    return texts[0] + (f" and {len(texts) - 1} more" if len(texts) > 1 else "") if texts else ""


def show_plan(
    console: Console,
    plan: PrunePlan,
    check: Check | None,
    counted: Mapping[str, Counted],
    lines: Sequence[tuple[int, Line]],
    source: str,
) -> None:
    """Print what went of a network: every total before and after, then every module, then whether it is exact."""
    cost_table.heading(console, plan.dag, source)
    a, b = counted["a"].totals, counted["b"].totals
    partial = bool(counted["a"].cost.partial)
    shown = ("predicted_seconds", "total_flops", "macs", "parameters", "weight_bytes", "peak_bytes")
    labels = {n: label.strip() for n, label, _ in cost_table.TOTALS}
    names = [n for n in shown if n in a]
    console.print(
        table(
            console,
            [
                Column("", [labels[n] for n in names], is_text=True),
                Column("before", [cost_table.bounded(n, a[n], partial) for n in names]),
                Column("after", [cost_table.bounded(n, b[n], partial) for n in names]),
                Column("", [f"{b[n] / a[n] - 1:+.1%}" if a[n] else "" for n in names]),
            ],
        )
    )
    cost_table.warnings(console, counted["a"].cost)
    console.print()
    console.print(table(console, _modules(console, lines)))
    console.print()
    for why in plan.why[:_MOST]:
        say(console, f"[yellow]not mask-equivalent:[/yellow] {escape(why)}")
    if len(plan.why) > _MOST:
        say(console, f"[dim]{len(plan.why) - _MOST} more, see --json[/dim]")
    if not plan.why:
        say(console, "exact: equal to the network with zeros in the place of what went")
    if check is not None:
        colour = "green" if check.passed else "bold red"
        say(console, f"[{colour}]checked in double precision:[/{colour}] {escape(check)}")


def _modules(console: Console, lines: Sequence[tuple[int, Line]]) -> list[Column]:
    """A row for each module: the units of its groups, FLOPs and parameters before and after."""

    def numbers(name: str, side: str) -> list[str]:
        return [cost_table.cell(line, name, f"{side}_") for _, line in lines]

    def left(line: Line, name: str) -> tuple[float, float]:
        return line.numbers.get(f"a_{name}", 0), line.numbers.get(f"b_{name}", 0)

    flops = [left(line, "total_flops") for _, line in lines]
    units = [left(line, "units") for _, line in lines]
    return [
        Column("module", [cost_table.name(console, depth, line) for depth, line in lines], is_text=True),
        Column("units", [f"{a:,.0f}" if a else "" for a, _ in units], 1),
        Column("left", [f"{b:,.0f}" if a else "" for a, b in units], 1),
        Column("FLOPs", numbers("total_flops", "a")),
        Column("left", numbers("total_flops", "b")),
        Column("", [f"[cyan]{bar(console, b, a)}[/cyan]" if a else "" for a, b in flops], 3, is_text=True),
        Column("of it", [ratio(a, b) for a, b in flops]),
        Column("params", numbers("parameters", "a"), 2),
        Column("left", numbers("parameters", "b"), 2),
        cost_table.dim("class", [line.kind for _, line in lines], 4),
    ]
