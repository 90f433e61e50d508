"""``tdagger cost``: what a network costs, for people and for programs."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from tdagger.analysis.time.timing import Device, device_of
from tdagger.cli import common, cost_table, programs, rows
from tdagger.cli.fold import folded
from tdagger.cli.measure import described
from tdagger.cli.rows import Line
from tdagger.errors import AttributeValueError
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG

#: How many rows people look at: modules are listed as deep as fits, and of ranked ones so many.
_FITS = 40
#: What there are formulas of.
_FORMULAS = ("flops", "bytes", "reads", "writes")


class By(StrEnum):
    """What a table has a row for."""

    MODULE = "module"
    OP = "op"
    VALUE = "value"


class Model(StrEnum):
    """The models of traffic, see docs/counting.md."""

    MATERIALISED = "materialised"
    COMPOSITE = "composite"
    FUSED = "fused"


class Unit(StrEnum):
    """What reads and writes are counted in."""

    BYTES = "bytes"
    ELEMENTS = "elements"


TrafficModel = Annotated[Model, typer.Option("--traffic", help="Which reads and writes rows have.")]
TrafficUnit = Annotated[Unit, typer.Option("--unit", help="What reads and writes are counted in.")]


DeviceName = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Predict time too, on a device: its name, or a file of calibrate."),
]


@common.of_network
def cost(
    source: common.SourceName,
    network: common.Network,
    by: Annotated[By, typer.Option("--by", help="A row for each of these.")] = By.MODULE,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="How deep to list modules; unless told, as many as fit.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="FIELD", help="Most of this first: flops, macs, reads, peak ...")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Only so many rows, those with most.")] = None,
    every: Annotated[bool, typer.Option("--all", help="A row for every module, also where several are equal.")] = False,
    model: TrafficModel = Model.COMPOSITE,
    unit: TrafficUnit = Unit.BYTES,
    at: common.At = None,
    formula: Annotated[bool, typer.Option("--formula", help="Print formulas in named axes instead.")] = False,
    as_json: common.AsJson = False,
    as_csv: common.AsCsv = False,
    meta: common.Meta = False,
    unbatch: common.Unbatch = False,
    backward: Annotated[bool, typer.Option("--backward", help="Count the backward pass too.")] = False,
    device: DeviceName = None,
    debug: common.Debug = False,
) -> int:
    """Show what a network costs: FLOPs, memory traffic, memory; in all and by module, op or value.

    docs/counting.md says what each number is.

    Numbered modules of equal parameters and multiply-adds, and else within 1 %, are one row (0-31 ×32), their sum.

    With --sort or --top modules are ranked: those without inner ones in the table, and what others do themselves.

    Ops that can't be imported don't stop it: they are named, and costs are lower bounds then.

    Of a program it shows what a turn of each block costs, and a formula in how often each is run.
    """
    if as_json and as_csv:
        raise AttributeValueError("--json and --csv exclude each other")
    if formula:
        others = {
            "--csv": as_csv, "--sort": sort, "--top": top, "--depth": depth is not None, "--backward": backward,
            "--device": device, "--by": by != By.MODULE, "--traffic": model != Model.COMPOSITE,
        }  # fmt: skip
        for option in [name for name, given in others.items() if given]:
            raise AttributeValueError(f"--formula goes with --at, --unit and --json only, not with {option}")
    traffic = rows.Traffic(model.value, unit.value)
    on = device_of(device) if device else None  # this and the next two before what takes long
    rows.field_of(sort or "total_flops", traffic, backward, on is not None)
    sizes = common.sizes_of(at, "--at")
    loaded = common.load_source(source, network, meta, sizes)
    dag = common.whole_source(loaded, external=True)
    if isinstance(dag, Program):
        others = {
            "--by": by != By.MODULE, "--depth": depth is not None, "--sort": sort, "--top": top, "--all": every,
            "--traffic": model != Model.COMPOSITE, "--unit": unit != Unit.BYTES, "--formula": formula,
            "--backward": backward, "--device": device,
        }  # fmt: skip
        programs.refuse(dag, others)
        dag = common.changed(dag, loaded, unbatch, at, "--at")
        if as_json:
            typer.echo(json.dumps(programs.priced(dag, source), indent=1))
        else:
            typer.echo(common.as_csv(*programs.rows(dag)) if as_csv else str(dag.cost()), nl=not as_csv)
        return 0
    if formula:
        _formulas(common.changed(dag, loaded, unbatch, None), source, common.beyond(loaded, sizes), unit, as_json)
        return 0
    dag = common.changed(dag, loaded, unbatch, at, "--at")
    plain = as_json or as_csv
    counted = Counted(dag, traffic, backward, on)
    want = Wanted(by, depth, sort, top, fold=not every and not plain, fit=not plain)
    if as_json:
        typer.echo(json.dumps(_json(counted, source, want), indent=1))
    elif as_csv:
        typer.echo(_csv(counted, want), nl=False)
    else:
        _show(common.console(), counted, source, want)
    return 0


class Wanted(NamedTuple):
    """Which rows are wanted: equal modules ``fold``ed, only so many as ``fit`` a screen."""

    by: By
    depth: int | None
    sort: str | None
    top: int | None
    fold: bool
    fit: bool


class Counted:
    """A network with its costs, and which traffic is shown."""

    def __init__(
        self, dag: TensorDAG, traffic: rows.Traffic, backward: bool = False, device: Device | None = None
    ) -> None:
        with common.progress(f"counting {dag.name}"):
            self.dag = dag
            self.cost = dag.cost(backward=backward)
            self.prediction = dag.predict_time(device) if device else None
            self.seconds = self.prediction.seconds_of if self.prediction else None
            self.totals = rows.totals(dag, self.cost, self.seconds)
            self.root = rows.by_module(dag, self.cost, self.seconds)
        self.traffic, self.backward = traffic, backward

    def field(self, name: str | None) -> str:
        """The number that ``--sort`` names; without, predicted time if there is any, else FLOPs."""
        usual = "flops" if self.prediction is None else "time"
        return rows.field_of(name or usual, self.traffic, self.backward, self.prediction is not None)

    @property
    def same(self) -> list[str]:
        """The numbers that are nearly equal where modules are told as one."""
        return ["total_flops", self.traffic.reads, self.traffic.writes]


# --- rows --------------------------------------------------------------------------------------------------


def _lines(counted: Counted, want: Wanted) -> tuple[list[tuple[int, Line]], int]:
    """The rows that the options ask for, each with how deep it is inside others, and how many are left out."""
    root = folded(counted.root, counted.same) if want.fold else counted.root
    if want.by == By.MODULE and not want.sort and not want.top:
        depth = fitting(root) if want.depth is None and want.fit else want.depth
        return list(rows.deep(root, depth)), 0
    if want.by == By.MODULE:
        found = rows.parts(root, want.depth)
    else:
        found = (rows.by_op if want.by == By.OP else rows.by_value)(counted.dag, counted.cost, counted.seconds)
    if want.sort or want.top or want.by == By.OP or want.fit:
        found = rows.ranked(found, counted.field(want.sort))
    top = want.top or (_FITS if want.fit else len(found))
    return [(0, line) for line in found[:top]], max(len(found) - top, 0)


def fitting(root: Line) -> int:
    """How deep modules can be listed in so many rows as people look at; 1 at least."""
    depths = [depth for depth, _ in rows.deep(root)]
    return max([n for n in range(1, max(depths) + 1) if sum(d <= n for d in depths) <= _FITS], default=1)


def _show(console: Console, counted: Counted, source: str, want: Wanted) -> None:
    peak = counted.cost.memory.peak_at
    origin = counted.dag.origins.get(peak) if peak is not None else None
    at = " ".join(filter(None, (str(peak.op) if peak is not None else "", origin.module if origin else "")))
    lines, left = _lines(counted, want)
    cost_table.heading(console, counted.dag, source)
    cost_table.totals(console, counted.totals, counted.cost, at, counted.traffic, counted.prediction)
    key = counted.field(want.sort)
    cost_table.rows(console, lines, counted.root.numbers, want.by.value, counted.traffic, key)
    if left:
        console.print(f"[dim]{left:,} more; --top N and --json show them[/dim]")


def _record(line: Line, by: By) -> dict[str, Any]:
    """A row for programs."""
    names = {
        By.MODULE: {"module": line.path, "class": line.kind},
        By.OP: {"op": line.name},
        By.VALUE: {"op": line.name, "type": line.kind, "module": line.path},
    }
    return {**names[by], **line.numbers, **rows.intensities(line.numbers), "partial": line.partial}


def summary(counted: Counted, source: str) -> dict[str, Any]:
    """What a network is and costs in all, for programs."""
    graph, time = counted.dag.graph, counted.prediction
    return {
        "source": source,
        "name": counted.dag.name,
        "inputs": [described(n, v.type) for n, v in graph.inputs.items()],
        "outputs": [described(n, v.type) for n, v in graph.outputs.items()],
        "totals": {**counted.totals, **rows.intensities(counted.totals)},
        "partial": dict(counted.cost.partial),
        "at_most": dict(counted.cost.at_most),
        **({} if time is None else {"device": time.device.name, "notices": list(time.notices)}),
    }


def _json(counted: Counted, source: str, want: Wanted) -> dict[str, Any]:
    found = [_record(line, want.by) for _, line in _lines(counted, want)[0]]
    return {**summary(counted, source), "by": want.by.value, "rows": found}


def _csv(counted: Counted, want: Wanted) -> str:
    records = [_record(line, want.by) for _, line in _lines(counted, want)[0]]
    return common.as_csv(list(_record(counted.root, want.by)), records)


# --- formulas ----------------------------------------------------------------------------------------------


def _formulas(dag: TensorDAG, source: str, sizes: dict[str, int], unit: Unit, as_json: bool) -> None:
    """Print flops, bytes, reads and writes as formulas in the free axes, and what they are at some sizes."""
    with common.progress(f"making formulas of {dag.name}"):
        functions = {what: dag.cost_formula(what, unit.value) for what in _FORMULAS}
        axes = functions["flops"].names
        found = {what: (str(f.expression), f(**sizes)) for what, f in functions.items()}
    if as_json:
        shown = {what: {"formula": formula, "value": n} for what, (formula, n) in found.items()}
        head = {"source": source, "name": dag.name, "partial": dict(dag.graph.external)}
        typer.echo(json.dumps({**head, "axes": axes, "at": axes | sizes, **shown}, indent=1))
        return
    console = common.console()
    cost_table.heading(console, dag, source)
    cost_table.formulas(console, axes | sizes, found, unit.value)
    cost_table.warning(console, "PARTIAL", "the formulas are of lower bounds, not counted:", dag.graph.external)
