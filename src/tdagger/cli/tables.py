"""The reports as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tdagger.analysis.names import Hidden
from tdagger.cli.measure import Difference
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType
from tdagger.view.numbers import quantity

#: How many ops and outputs are listed at most; the rest are told as a count.
MOST_OPS, MOST_OUTPUTS = 24, 20


def size(n: int) -> str:
    """Bytes, for people."""
    return quantity(n, "B")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if part and whole else ""


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _or_blank(n: int, unit: str = "") -> str:
    return quantity(n, unit) if n else ""


def _table(*columns: str, left: int = 1) -> Table:
    """A table whose first columns are text and the others numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if i < left else "right",
            no_wrap=True,
            overflow="ellipsis",
            min_width=8 if i >= left else None,  # where it is narrow, names give way and numbers stay
        )
    return table


def inspection(console: Console, found: Mapping[str, Any]) -> None:
    """Print what :func:`tdagger.cli.measure.report` found."""
    console.print(f"[bold]{escape(found['name'])}[/bold]  [dim]{escape(found['source'])}[/dim]", highlight=False)
    for key in ("inputs", "outputs"):
        tensors = [f"{t['name']}: {TensorType(tuple(t['shape']), t['dtype'])}" for t in found[key]]
        more = f" ... {len(tensors) - MOST_OUTPUTS} more" if len(tensors) > MOST_OUTPUTS else ""
        shown = ", ".join(tensors[:MOST_OUTPUTS]) + more
        console.print(f"{key:8} {escape(shown)}", highlight=False)
    console.print()
    totals = found["totals"]
    grid = _table("", "", left=1)
    grid.show_header = False
    grid.add_row("parameters", quantity(totals["parameters"]), f"[dim]{totals['parameters']:,}[/dim]")
    grid.add_row("weights and constants", size(totals["bytes"]))
    grid.add_row("operations", quantity(totals["flops"], "FLOPs"), f"[dim]{totals['flops']:,}[/dim]")
    grid.add_row("memory reads", size(totals["memory_reads"]))
    grid.add_row("memory writes", size(totals["memory_writes"]))
    grid.add_row("graph", f"{totals['ops']} ops", f"[dim]{totals['values']:,} values[/dim]")
    console.print(grid, highlight=False)
    if found["external"]:
        listed = ", ".join(f"{k} x{n}" for k, n in found["external"].items())
        console.print(f"[yellow]external ops, not counted:[/yellow] {escape(listed)}", highlight=False)
    console.print()
    console.print(_ops(found["ops"], totals["flops"]), highlight=False)
    if found["modules"]:
        console.print()
        console.print(_modules(found["modules"], totals["flops"]), highlight=False)


def opaque(found: Sequence[Hidden]) -> list[str]:
    """Where dimensions could not be told apart, a line each."""
    if not found:
        return ["  every axis is known"]
    return [f"  not known ({_many(len(found), 'place')})", *(f"    {h}" for h in found)]


def _ops(ops: Mapping[str, Mapping[str, int]], total: int) -> Table:
    table = _table("op", "count", "FLOPs", "share")
    ranked = sorted(ops.items(), key=lambda item: (-item[1]["flops"], -item[1]["count"]))
    for name, op in ranked[:MOST_OPS]:
        table.add_row(escape(name), str(op["count"]), _or_blank(op["flops"]), _share(op["flops"], total))
    if len(ranked) > MOST_OPS:
        table.add_row(f"[dim]{len(ranked) - MOST_OPS} more, see --json[/dim]")
    return table


def _modules(modules: Sequence[Mapping[str, Any]], total: int) -> Table:
    table = _table("module", "class", "params", "FLOPs", "share", "reads", "writes", left=2)
    for m in modules:
        depth = m["path"].count(".")
        shown = m["path"] if not depth else "[dim]" + escape(m["path"][: m["path"].rfind(".") + 1]) + "[/dim]"
        shown += escape(m["path"].rpartition(".")[2]) if depth else ""
        table.add_row(
            shown,
            f"[dim]{escape(m['class'])}[/dim]",
            _or_blank(m["parameters"]),
            _or_blank(m["flops"]),
            _share(m["flops"], total),
            _or_blank(m["memory_reads"], "B"),
            _or_blank(m["memory_writes"], "B"),
        )
    return table


def verification(
    console: Console, dag: TensorDAG, worst: Mapping[str, Sequence[Difference]], tolerance: float, runs: int
) -> bool:
    """Print the largest error of every output, and whether all are within the tolerance."""
    names = list(dag.graph.outputs)
    table = _table("output", "type", "way", "max |a-b|", "relative", "", left=3)
    agree = True
    for way, found in worst.items():
        for i, d in enumerate(found):
            name = names[i] if i < len(names) else f"output {i}"
            type_ = dag.graph.outputs[name].type if name in dag.graph.outputs else ""
            good = d.relative <= tolerance
            agree &= good
            if i < MOST_OUTPUTS or not good:
                verdict = "[green]ok[/green]" if good else f"[red]differs[/red] {escape(d.why)}".rstrip()
                row = (
                    escape(name),
                    escape(str(type_)),
                    way,
                    f"{d.absolute:.2e}",
                    f"{d.relative:.2e}",
                    verdict,
                )
                table.add_row(*row)
    console.print(table, highlight=False)
    each = [d for found in worst.values() for d in found]
    relative, absolute = max(d.relative for d in each), max(d.absolute for d in each)
    verdict = "[green]same[/green]" if agree else "[red]not the same[/red]"
    console.print(
        f"{verdict}: {_many(len(each), 'output')}, {_many(runs, 'random input')}, "
        f"largest error {absolute:.2e} absolute, {relative:.2e} relative (tolerance {tolerance:g})",
        highlight=False,
        soft_wrap=True,
    )
    return agree
