"""``tdagger compare``: the costs of two networks, or of one at two sizes, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tdagger.analysis.time.timing import device_of
from tdagger.cli import common, cost_table, rows
from tdagger.cli.cost import Counted, DeviceName, Model, TrafficModel, TrafficUnit, Unit, fitting, summary
from tdagger.cli.fold import folded
from tdagger.cli.layout import Column, table
from tdagger.cli.rows import Line
from tdagger.errors import AttributeValueError


class By(StrEnum):
    """What there is a row for: what has a name in both networks."""

    MODULE = "module"
    OP = "op"


_SIDES = ("a", "b")


@common.of_network
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A SOURCE: a file, timm:NAME, transformers:CLASS ...")],
    network: common.Network,
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="Another SOURCE; unless given, A again.")] = None,
    by: Annotated[By, typer.Option("--by", help="A row for each module or op, by its name.")] = By.MODULE,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="How deep to list modules; unless told, as many as fit.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="FIELD", help="Compare rows by this; most different first.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="A row for every module, also where several are equal.")] = False,
    model: TrafficModel = Model.COMPOSITE,
    unit: TrafficUnit = Unit.BYTES,
    at: common.At = None,
    at_a: Annotated[
        str | None,
        typer.Option("--at-a", metavar="AXES", help="Sizes of A, besides --at.", rich_help_panel=common.PANEL),
    ] = None,
    at_b: Annotated[
        str | None,
        typer.Option("--at-b", metavar="AXES", help="Sizes of B, besides --at.", rich_help_panel=common.PANEL),
    ] = None,
    set_a: common.SettingsOfA = None,
    set_b: common.SettingsOfB = None,
    device: DeviceName = None,
    meta: common.Meta = False,
    as_json: common.AsJson = False,
    as_csv: common.AsCsv = False,
    debug: common.Debug = False,
) -> int:
    """Show the costs of two networks side by side: every total, and every module or op by its name.

    Options hold for both; --set-a, --set-b, --at-a and --at-b for one: with them A can be compared with itself.
    """
    if as_json and as_csv:
        raise AttributeValueError("--json and --csv exclude each other")
    traffic = rows.Traffic(model.value, unit.value)
    on = device_of(device) if device else None  # this and the next before what takes long
    rows.field_of(sort or "total_flops", traffic, timed=on is not None)
    sources = {"a": a, "b": b or a}
    own = {"a": (set_a, at_a), "b": (set_b, at_b)}
    counted: dict[str, Counted] = {}
    for side, source in sources.items():
        of_one, sizes = own[side]
        wanted = {**common.sizes_of(at, "--at"), **common.sizes_of(sizes, f"--at-{side}")}
        loaded = common.load_source(source, network.also(of_one), meta, wanted)
        dag = common.import_source(loaded, external=True)
        other = common.beyond(loaded, wanted)
        counted[side] = Counted(dag.resize(other) if other else dag, traffic, device=on)
    lines = aligned(counted, by, depth, sort, fold=not every and not (as_json or as_csv), fit=not (as_json or as_csv))
    if as_json:
        typer.echo(json.dumps(_json(counted, sources, by, [line for _, line in lines]), indent=1))
    elif as_csv:
        columns = list(_flat(counted["a"].root, by, on is not None))
        typer.echo(common.as_csv(columns, [_flat(line, by, on is not None) for _, line in lines]), nl=False)
    else:
        _show(common.console(), counted, sources, lines, by, counted["a"].field(sort))
    return 0


# --- aligned -----------------------------------------------------------------------------------------------


def aligned(
    counted: Mapping[str, Counted], by: By, depth: int | None, sort: str | None, *, fold: bool, fit: bool
) -> list[tuple[int, Line]]:
    """The rows of networks ``a`` and ``b``, each with how deep it is; numbers are called ``a_macs``, ``b_macs``."""
    a, b = counted["a"], counted["b"]
    key = a.field(sort)
    if by == By.MODULE:
        root = _merged(a.root, b.root)
        same = [f"{side}_{name}" for side in _SIDES for name in a.same]
        root = folded(root, same) if fold else root
        found = list(rows.deep(root, fitting(root) if depth is None and fit else depth))
    else:
        found = [
            (0, line) for line in _aligned(rows.by_op(a.dag, a.cost, a.seconds), rows.by_op(b.dag, b.cost, b.seconds))
        ]
        found.sort(key=lambda one: -max(_pair(one[1], key)))
    if sort:
        found = sorted(((0, line) for _, line in found), key=lambda one: -abs(_difference(one[1], key)))
    return found


def _merged(a: Line | None, b: Line | None) -> Line:
    """Two lines of one name as one, whose numbers are called ``a_macs``, ``b_macs``; what is inner to them by name."""
    one = a or b
    assert one is not None
    sides = {side: {**of.numbers, "partial": of.partial} for side, of in (("a", a), ("b", b)) if of is not None}
    numbers = {f"{side}_{k}": n for side, of in sides.items() for k, n in of.items()}
    kinds = dict.fromkeys(of.kind for of in (a, b) if of is not None)
    inner = _aligned(a.inner if a else [], b.inner if b else [])
    partial = sum(of.partial for of in (a, b) if of is not None)
    return Line(one.name, numbers, " | ".join(kinds), one.path, partial, inner=inner)


def _aligned(a: Sequence[Line], b: Sequence[Line]) -> list[Line]:
    """Lines by name, in the order of ``a``; what only ``b`` has stands after what it stands after there."""
    of_a, of_b = ({line.name: line for line in lines} for lines in (a, b))
    order = list(of_a)
    before: str | None = None
    for name in of_b:
        if name not in of_a:
            order.insert(0 if before is None else order.index(before) + 1, name)
        before = name
    return [_merged(of_a.get(name), of_b.get(name)) for name in order]


def _pair(line: Line, name: str) -> tuple[float, float]:
    return line.numbers.get(f"a_{name}", 0), line.numbers.get(f"b_{name}", 0)


def _difference(line: Line, name: str) -> float:
    a, b = _pair(line, name)
    return b - a


def _only(line: Line) -> str:
    """The side that alone has a line, or nothing."""
    sides = [s for s in _SIDES if f"{s}_ops" in line.numbers]
    return sides[0] if len(sides) == 1 else ""


# --- for people --------------------------------------------------------------------------------------------


def _show(
    console: Console,
    counted: Mapping[str, Counted],
    sources: Mapping[str, str],
    lines: Sequence[tuple[int, Line]],
    by: By,
    key: str,
) -> None:
    for side in _SIDES:
        console.print(f"[bold]{side.upper()}[/bold]  ", end="")
        cost_table.heading(console, counted[side].dag, sources[side])
    console.print(_totals(console, counted["a"], counted["b"]))
    for side in _SIDES:
        cost_table.warnings(console, counted[side].cost, f" of {side.upper()}")
    console.print()
    console.print(_rows(console, lines, by, key, counted["a"].traffic))
    alone = {side: sum(line.times for _, line in lines if _only(line) == side) for side in _SIDES}
    if any(alone.values()):
        told = ", ".join(f"{n} only in {side.upper()}" for side, n in alone.items() if n)
        console.print(f"\n[dim]{by.value}s: {told}[/dim]")


def _totals(console: Console, of_a: Counted, of_b: Counted) -> Table:
    a, b = of_a.totals, of_b.totals
    labels = {n: label.strip() for n, label, _ in cost_table.TOTALS}
    names = [n for n in dict.fromkeys([*labels, *a]) if (a.get(n) or b.get(n)) and of_a.traffic.shows(n)]
    pairs = [(n, a[n], b[n]) for n in names]
    shown = [[cost_table.bounded(n, of.totals[n], bool(of.cost.partial)) for n in names] for of in (of_a, of_b)]
    return table(
        console,
        [
            Column("", [labels.get(n, n.replace("_", " ")) for n in names], is_text=True),
            Column("A", shown[0]),
            Column("B", shown[1]),
            Column("B/A", [ratio(x, y) for _, x, y in pairs]),
            Column("B-A", [_signed(n, y - x) for n, x, y in pairs], 1),
            Column("", [f"[dim]{y - x:+,}[/dim]" if x != y and isinstance(x, int) else "" for _, x, y in pairs], 2),
        ],
    )


def _rows(console: Console, lines: Sequence[tuple[int, Line]], by: By, key: str, traffic: rows.Traffic) -> Table:
    headers = {
        "predicted_seconds": "time",
        "total_flops": "FLOPs",
        "parameters": "params",
        traffic.reads: "reads",
        traffic.writes: "writes",
    }
    columns = [Column(by.value, [cost_table.name(console, depth, line) for depth, line in lines], is_text=True)]
    for rank, name in enumerate(n for n in dict.fromkeys([key, *headers]) if n != "predicted_seconds" or n == key):
        header = headers.get(name, name)
        columns += [
            Column(f"{header} {side.upper()}", [cost_table.cell(line, name, f"{side}_") for _, line in lines], 4 * rank)
            for side in _SIDES
        ]
        if not rank:
            columns += [
                Column("B/A", [_only_or_ratio(line, name) for _, line in lines]),
                Column("B-A", [_signed(name, _difference(line, name)) for _, line in lines], 2),
            ]
    return table(console, [*columns, cost_table.dim("class", [line.kind for _, line in lines], 20)])


def _only_or_ratio(line: Line, name: str) -> str:
    side = _only(line)
    return f"[yellow]only {side.upper()}[/yellow]" if side else ratio(*_pair(line, name))


def ratio(a: float, b: float) -> str:
    """How many times ``a`` is ``b``; nothing where there is no telling."""
    if a == b or not a:
        return "[dim]=[/dim]" if a == b and a else ""
    return f"{b / a:.2f}" if 0.005 <= b / a < 100 else f"{b / a:.3g}"


def _signed(name: str, n: float) -> str:
    return f"{'+' if n > 0 else '-'}{cost_table.amount(name, abs(n))}" if n else ""


# --- for programs ------------------------------------------------------------------------------------------


def _names(line: Line, by: By) -> dict[str, str]:
    return {"module": line.path, "class": line.kind} if by == By.MODULE else {"op": line.name}


def _flat(line: Line, by: By, timed: bool) -> dict[str, Any]:
    """A row of CSV: every number of A, then of B; empty where one has no such row."""
    order = [*rows.names(backward=False, timed=timed), "partial"]
    return {**_names(line, by), **{f"{s}_{k}": line.numbers.get(f"{s}_{k}", "") for s in _SIDES for k in order}}


def _json(counted: Mapping[str, Counted], sources: Mapping[str, str], by: By, lines: Sequence[Line]) -> dict[str, Any]:
    a, b = (counted[side].totals for side in _SIDES)
    compared = {n: {"a": a[n], "b": b[n], "difference": b[n] - a[n], "ratio": b[n] / a[n] if a[n] else None} for n in a}
    found: dict[str, Any] = {side: summary(counted[side], sources[side]) for side in _SIDES}
    return {**found, "totals": compared, "by": by.value, "rows": [_side_by_side(line, by) for line in lines]}


def _side_by_side(line: Line, by: By) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for side in _SIDES:
        own = {k.partition("_")[2]: n for k, n in line.numbers.items() if k.startswith(f"{side}_")}
        sides[side] = own or None
    return {**_names(line, by), **sides}
