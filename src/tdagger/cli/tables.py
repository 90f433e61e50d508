"""The reports as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tdagger.analysis.axes.names import Hidden
from tdagger.analysis.numbers import quantity
from tdagger.cli.layout import Column, escape, share, table
from tdagger.cli.measure import Difference
from tdagger.names import shown
from tdagger.types import TensorType

#: How many ops and outputs are listed at most; the rest are told as a count.
MOST_OPS, MOST_OUTPUTS = 24, 20


def size(n: int) -> str:
    """Bytes, for people."""
    return quantity(n, "B")


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _or_blank(n: int, unit: str = "") -> str:
    return quantity(n, unit) if n else ""


def inspection(console: Console, found: Mapping[str, Any]) -> None:
    """Print what :func:`tdagger.cli.measure.report` found."""
    console.print(f"[bold]{escape(found['name'])}[/bold]  [dim]{escape(found['source'])}[/dim]", highlight=False)
    for key in ("inputs", "outputs"):
        tensors = [escape(f"{shown(t['name'])}: {TensorType(tuple(t['shape']), t['dtype'])}") for t in found[key]]
        more = f" ... {len(tensors) - MOST_OUTPUTS} more" if len(tensors) > MOST_OUTPUTS else ""
        console.print(f"{key:8} {', '.join(tensors[:MOST_OUTPUTS]) + more}", highlight=False)
    console.print()
    totals = found["totals"]
    rows = [
        ("parameters", quantity(totals["parameters"]), f"{totals['parameters']:,}"),
        ("weights and constants", size(totals["bytes"]), ""),
        ("operations", quantity(totals["flops"], "FLOPs"), f"{totals['flops']:,}"),
        ("memory reads", size(totals["memory_reads"]), ""),
        ("memory writes", size(totals["memory_writes"]), ""),
        ("graph", f"{totals['ops']} ops", f"{totals['values']:,} values"),
    ]
    labels, amounts, exact = zip(*rows, strict=True)
    grid = table(
        console, [Column("", labels, 0, True), Column("", amounts), Column("", [f"[dim]{e}[/dim]" for e in exact])]
    )
    grid.show_header = False
    console.print(grid, highlight=False)
    if found["external"]:
        listed = ", ".join(f"{escape(k)} x{n}" for k, n in found["external"].items())
        console.print(f"[yellow]external ops, not counted:[/yellow] {listed}", highlight=False)
    console.print()
    console.print(_ops(console, found["ops"], totals["flops"]), highlight=False)
    if found["modules"]:
        console.print()
        console.print(_modules(console, found["modules"], totals["flops"]), highlight=False)


def opaque(found: Sequence[Hidden]) -> list[str]:
    """Where dimensions could not be told apart, a line each."""
    if not found:
        return ["  every axis is known"]
    return [f"  not known ({_many(len(found), 'place')})", *(f"    {h}" for h in found)]


def _ops(console: Console, ops: Mapping[str, Mapping[str, int]], total: int) -> Table:
    ranked = sorted(ops.items(), key=lambda item: (-item[1]["flops"], -item[1]["count"]))
    most = ranked[:MOST_OPS]
    more = [f"[dim]{len(ranked) - MOST_OPS} more, see --json[/dim]"] if len(ranked) > MOST_OPS else []
    blank = [""] * len(more)
    columns = [
        Column("op", [*(escape(name) for name, _ in most), *more], is_text=True),
        Column("count", [*(str(op["count"]) for _, op in most), *blank]),
        Column("FLOPs", [*(_or_blank(op["flops"]) for _, op in most), *blank]),
        Column("share", [*(share(op["flops"], total) for _, op in most), *blank]),
    ]
    return table(console, columns)


def _modules(console: Console, modules: Sequence[Mapping[str, Any]], total: int) -> Table:
    names = [m["path"].rpartition(".") for m in modules]
    columns = [
        Column("module", [f"[dim]{escape(a + dot)}[/dim]{escape(b)}" for a, dot, b in names], is_text=True),
        Column("class", [f"[dim]{escape(m['class'])}[/dim]" for m in modules], 3, is_text=True),
        Column("params", [_or_blank(m["parameters"]) for m in modules], 2),
        Column("FLOPs", [_or_blank(m["flops"]) for m in modules]),
        Column("share", [share(m["flops"], total) for m in modules]),
        Column("reads", [_or_blank(m["memory_reads"], "B") for m in modules], 1),
        Column("writes", [_or_blank(m["memory_writes"], "B") for m in modules], 1),
    ]
    return table(console, columns)


def _verdict(d: Difference, judged: str) -> str:
    if judged == "rounded" and d.within is not None:
        w = d.within
        return (
            f"[yellow]within {_many(w.steps, 'step')} of {w.size:.3g} on {w.part:.1%}[/yellow], its own runtime "
            f"within {w.own}"
        )
    return "[green]ok[/green]" if judged == "same" else f"[red]differs[/red] {escape(d.why)}".rstrip()


def verification(
    console: Console,
    types: Mapping[str, TensorType],
    worst: Mapping[str, Sequence[Difference]],
    tolerance: float,
    runs: int,
) -> bool:
    """Print the largest error of every output, and whether all are within the tolerance; ``types`` are the outputs'."""
    names = list(types)
    rows: list[tuple[str, ...]] = []
    agree = True
    for way, found in worst.items():
        for i, d in enumerate(found):
            name = names[i] if i < len(names) else f"output {i}"
            type_ = types.get(name, "")
            judged = d.verdict(tolerance)
            agree &= judged != "differs"
            if i < MOST_OUTPUTS or judged != "same":
                shown = (escape(name), escape(str(type_)), way, f"{d.absolute:.2e}", f"{d.relative:.2e}")
                rows.append((*shown, _verdict(d, judged)))
    cells = list(zip(*rows, strict=True)) or [()] * 6
    headers = ("output", "type", "way", "max |a-b|", "relative", "")
    texts = ("output", "type", "way")
    columns = [Column(h, c, 0, h in texts) for h, c in zip(headers, cells, strict=True)]
    console.print(table(console, columns), highlight=False)
    each = [d for found in worst.values() for d in found]
    relative, absolute = max(d.relative for d in each), max(d.absolute for d in each)
    rounded = any(d.verdict(tolerance) == "rounded" for d in each)
    verdict = "[yellow]same but for rounding[/yellow]" if rounded else "[green]same[/green]"
    verdict = verdict if agree else "[red]not the same[/red]"
    console.print(
        f"{verdict}: {_many(len(each) // len(worst), 'output')}, {_many(runs, 'random input')}, "
        f"largest error {absolute:.2e} absolute, {relative:.2e} relative (tolerance {tolerance:g})",
        highlight=False,
        soft_wrap=True,
    )
    return agree
