"""``tdagger profile``, ``tdagger predict`` and ``tdagger calibrate``: how long a network takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tdagger.analysis.numbers import duration, quantity
from tdagger.analysis.time.profile import Profile, Row
from tdagger.analysis.time.timing import Device, Prediction, Share, device_of
from tdagger.cli import common
from tdagger.cli.cost import By
from tdagger.cli.layout import Column, bar, escape, share, table
from tdagger.errors import SourceError
from tdagger.frameworks.source import require
from tdagger.later import later

#: How many rows of values and modules people look at.
_TOP = 20


class Part(StrEnum):
    """What a prediction has a row for."""

    KIND = "kind"
    MODULE = "module"


DeviceName = Annotated[
    str,
    typer.Option("--device", metavar="NAME|FILE", help="A device file (calibrate writes one), or one of tdagger's."),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="How many threads a network runs on.")]


@common.of_network
def profile(
    source: common.SourceName,
    network: common.Network,
    by: Annotated[By, typer.Option("--by", help="A row for each of these.")] = By.OP,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Only so many rows, those that take longest.")] = None,
    threads: Threads = 1,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="How often it is run; about 2 s unless told.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME|FILE", help="Show predicted times beside measured ones.")
    ] = None,
    as_json: common.AsJson = False,
    unbatch: common.Unbatch = False,
    resize: common.Resize = None,
    debug: common.Debug = False,
) -> int:
    """Run a network with torch and measure every op, beside its FLOPs and bytes.

    Times are medians, of processor time on one thread and of the clock on several. The C allocator is told to keep
    its memory, so that page faults don't count. docs/time.md says more.
    """
    on = None if device is None else device_of(device)
    loaded = common.load_source(source, network, sizes=common.sizes_of(resize, "--resize"))
    dag = common.changed(common.import_source(loaded), loaded, unbatch, resize)
    later("torch.keep_memory")()
    with common.progress(f"running {dag.name}", total=_STEPS) as step:
        found: Profile = dag.profile(threads=threads, runs=runs, device=on, tell=_Steps(step))
    if as_json:
        typer.echo(json.dumps({"source": source, **found.as_json()}, indent=1))
    else:
        show_profile(common.console(), found, source, by, top)
    return 0


#: What a progress bar over a fraction counts to.
_STEPS = 100


class _Steps:
    """Turns fractions into steps of a progress bar."""

    def __init__(self, step: Any) -> None:
        self.step, self.done = step, 0

    def __call__(self, part: float) -> None:
        while self.done < int(part * _STEPS):
            self.step()
            self.done += 1


@common.of_network
def predict(
    source: common.SourceName,
    network: common.Network,
    device: DeviceName,
    by: Annotated[Part, typer.Option("--by", help="A row for each kind of kernel, or each module.")] = Part.KIND,
    as_json: common.AsJson = False,
    meta: common.Meta = False,
    unbatch: common.Unbatch = False,
    at: common.At = None,
    debug: common.Debug = False,
) -> int:
    """Say how long a network takes on a device, without running it."""
    on = device_of(device)
    loaded = common.load_source(source, network, meta, common.sizes_of(at, "--at"))
    dag = common.changed(common.import_source(loaded, external=True), loaded, unbatch, at, "--at")
    found = dag.predict_time(on)
    if as_json:
        typer.echo(json.dumps({"source": source, "name": dag.name, **found.as_json()}, indent=1))
    else:
        show_prediction(common.console(), found, dag.name, source, by)
    return 0


def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The device file to write.")] = Path(
        "device.json"
    ),
    name: Annotated[str, typer.Option("--name", help="What the device is called.")] = "this",
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="How long each network is run.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> int:
    """Measure this machine for predictions: runs networks of random sizes, a few minutes in all.

    Run it when nothing else runs. Nothing is downloaded.
    """
    if output.exists() and not force:
        raise SourceError(f"{output} is there already; --force overwrites it")
    if not output.parent.is_dir():
        raise SourceError(f"{output.parent}: there is no such folder")
    require("torch")
    calibration = later("torch.calibration")
    with common.progress("running networks", total=calibration.NETWORKS) as step:

        def told(done: int, of: int, named: str) -> None:
            step()

        found: Device = calibration.calibrate(name, threads, seconds=seconds, tell=told)
    found.save(output)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        show_device(common.console(), found)
    Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(f"wrote {escape(output)}")
    return 0


# --- what is printed ---------------------------------------------------------------------------------------


def show_profile(console: Console, found: Profile, source: str, by: By, top: int | None) -> None:
    """Print a profile: the whole, then rows, those that take longest first."""
    console.print(f"[bold]{escape(found.name)}[/bold]  [dim]{escape(source)}[/dim]")
    whole, ops, over = found.whole, found.ops, found.overhead
    console.print(
        f"{duration(whole.cpu)} of processor time, {duration(whole.wall)} on the clock; median of {found.runs} runs, "
        f"{found.threads} thread{'s' * (found.threads > 1)}"
    )
    console.print(f"[dim]sum of ops {duration(ops.cpu)}, {duration(ops.wall)}; overhead {duration(over.cpu)}[/dim]")
    if found.device is not None and found.predicted is not None and found.seconds:
        off = found.predicted / found.seconds - 1
        console.print(f"predicted {duration(found.predicted)} ({off:+.1%}) for {escape(found.device.title)}")
        if not found.device.is_calibrated:
            console.print("[yellow]not calibrated:[/yellow] a roofline of published peaks")
    rows = found.bottlenecks(len(found.rows(by.value)), by.value)
    kept = rows[: top or (len(rows) if by == By.OP else _TOP)]
    console.print()
    console.print(_rows(console, kept, by))
    if len(kept) < len(rows):
        console.print(f"[dim]{len(rows) - len(kept):,} more; --top N and --json show them[/dim]")


def _rows(console: Console, rows: Sequence[Row], by: By) -> Any:
    predicts = any(r.predicted is not None for r in rows)
    first = {By.OP: "op", By.MODULE: "module", By.VALUE: "op"}[by]
    columns = [
        Column(first, [escape(r.name) for r in rows], is_text=True),
        Column("ops", [str(r.ops) for r in rows], rank=3) if by != By.VALUE else None,
        Column("time", [duration(r.seconds) for r in rows]),
        Column("share", [share(r.share, 1) for r in rows]),
        Column("", [bar(console, r.share, 1) for r in rows], rank=5, is_text=True),
        Column("predicted", [duration(r.predicted or 0) for r in rows]) if predicts else None,
        Column("FLOPs", [quantity(r.flops) if r.flops else "" for r in rows], rank=2),
        Column("bytes", [quantity(r.bytes) if r.bytes else "" for r in rows], rank=2),
        Column("GFLOP/s", [f"{r.gflops:.1f}" if r.flops else "" for r in rows], rank=1),
        Column("GB/s", [f"{r.gbytes:.1f}" if r.bytes else "" for r in rows], rank=1),
        Column("type", [str(r.value.type) if r.value else "" for r in rows], rank=4, is_text=True),
        Column("module", [escape(r.module) for r in rows], rank=2, is_text=True) if by == By.VALUE else None,
    ]
    return table(console, [c for c in columns if c is not None])


def show_prediction(console: Console, found: Prediction, name: str, source: str, by: Part) -> None:
    """Print a prediction: the whole with what it isn't, then kinds of kernels or modules."""
    console.print(f"[bold]{escape(name)}[/bold]  [dim]{escape(source)}[/dim]")
    console.print(f"{duration(found.seconds)} on {escape(found.device.title)}")
    for notice in found.notices:
        console.print(f"[yellow]note:[/yellow] {escape(notice)}")
    rows: Sequence[Share] = found.by_kind
    if by == Part.MODULE:
        rows = sorted([s for s in found.by_module if s.name], key=lambda s: -s.seconds)[:_TOP]
    console.print()
    columns = [
        Column(by.value, [escape(s.name) for s in rows], is_text=True),
        Column("kernels", [f"{s.kernels:,}" for s in rows], rank=1),
        Column("time", [duration(s.seconds) for s in rows]),
        Column("share", [share(s.share, 1) for s in rows]),
        Column("", [bar(console, s.share, 1) for s in rows], rank=2, is_text=True),
    ]
    console.print(table(console, columns))


def show_device(console: Console, found: Device) -> None:
    """Print the numbers of a device file, and how well they do."""
    console.print(f"[bold]{escape(found.title)}[/bold]")
    record = found.calibration
    console.print(
        f"{record['networks']} networks; of those left out of the fit, median error {record['median_error']:.1%}, "
        f"90th percentile {record['p90_error']:.1%}, {record['within_10_percent']:.0%} within 10 %"
    )
    kinds = found.as_json()["kinds"]
    names = list(dict.fromkeys(n for rates in kinds.values() for n in rates))
    columns = [Column("kind", list(map(escape, kinds)), is_text=True)]
    columns += [Column(escape(n), [f"{kinds[k][n]:g}" if n in kinds[k] else "" for k in kinds]) for n in names]
    console.print()
    console.print(table(console, columns))
