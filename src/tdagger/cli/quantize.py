"""``tdagger quantize``: a network in numbers of few bits, and what that does to each layer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console

from tdagger.analysis.numbers import duration, quantity
from tdagger.analysis.time.timing import device_of
from tdagger.cli import common
from tdagger.cli.layout import Column, escape, say, table
from tdagger.cli.target import Target
from tdagger.errors import AttributeValueError, InputError, SourceError
from tdagger.frameworks.source import named_object
from tdagger.names import shown
from tdagger.quantization.prepare import Prepared, prepare, prepared_by, repaired
from tdagger.quantization.profiles import PROFILES, profile_of
from tdagger.quantization.quality.report import Layer, Left, layers
from tdagger.quantization.quality.report import left as in_float
from tdagger.quantization.quality.sensitivity import sqnr, with_quality
from tdagger.quantization.quality.times import times
from tdagger.tensordag import TensorDAG

#: Weights that stay in float are named where they are one of so many parts of all, and more.
_LARGE = 100


@common.of_network
def quantize(
    source: common.SourceName,
    network: common.Network,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it; the suffix says the form.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help=", ".join(PROFILES) + ".")] = "x86",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="What to find ranges on: module:callable, which gives batches, or a .npz file of inputs by name.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="NAME", help="Ops, modules or weights that stay in float, with wildcards."),
    ] = None,
    least: Annotated[
        int | None,
        typer.Option(
            "--least", metavar="N", help="Layers of sums of fewer products stay in float, if read so; 0: none."
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option("--sqnr", metavar="DB", help="Keep as few ops in float as results of so many dB need."),
    ] = None,
    drop: Annotated[
        float | None,
        typer.Option("--drop", metavar="PART", help="Keep as few ops in float as leave all but so many choices alike."),
    ] = None,
    equalize: Annotated[
        bool, typer.Option("--equalize", help="Make weights that follow one another alike in float first.")
    ] = False,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Make channels of layers' inputs alike in float first, where that helps.")
    ] = False,
    split: Annotated[
        bool, typer.Option("--split", help="Keep products with outlying channels of linear layers' inputs in float.")
    ] = False,
    compensate: Annotated[
        bool, typer.Option("--compensate", help="Round weights so that errors are made up for by others (GPTQ).")
    ] = False,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="With --compensate: move each number to where the error is the least.")
    ] = False,
    correct: Annotated[
        bool, typer.Option("--correct/--no-correct", help="Change biases so that means of channels stay, or don't.")
    ] = True,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="Predict times before and after, on a device: docs/time.md."),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Of .onnx: the operator set.")] = None,
    minimum_target: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Of .mlpackage: iOS15, iOS16, iOS17 or iOS18.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of .mlpackage: f32 or f16.")] = None,
    resize: common.Resize = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> int:
    """Write a network in numbers of few bits, and show what that does to every layer.

    docs/quantization.md says what each target quantizes and what the columns are.
    """
    options = {"opset": opset, "minimum_target": minimum_target, "precision": precision}
    to = Target(output, force, {n: v for n, v in options.items() if v is not None}) if output else None
    goal: dict[str, Any] = {n: q for n, q in (("sqnr", quality), ("drop", drop)) if q is not None}
    if goal and data is None:
        raise AttributeValueError(f"--{next(iter(goal))} is measured on data: give --data")
    on = device_of(device) if device else None
    loaded = common.load_source(source, network, sizes=common.sizes_of(resize, "--resize"))
    dag = common.changed(common.import_source(loaded), loaded, False, resize)
    batches = None if data is None else batches_of(data, dag)
    by_data = {"smooth": smooth, "split": split, "compensate": compensate}
    if batches is None and any(by_data.values()):
        name = next(n for n, is_given in by_data.items() if is_given)
        raise AttributeValueError(f"--{name} goes by what data shows: give --data")
    if adaptive and not compensate:
        raise AttributeValueError("--adaptive says how --compensate rounds: give both")
    profile = profile_of(target).having(least=least)
    prepared = prepare(dag, profile, keep=keep or ())
    predicted = None if on is None else times(prepared, on)  # before what takes long
    if prepared.observers and batches is None:
        raise AttributeValueError(f"--target {target} finds ranges of activations on data: give --data")
    changed, kept, left = dag, list[Any](), list[Any](keep or ())
    if equalize or smooth or split:
        with common.progress(f"making channels of {dag.name} alike"):
            channels = {"equalize": equalize, "smooth": smooth, "split": split}
            changed, left = repaired(dag, batches or (), profile, keep=left, **channels)
    how: dict[str, Any] = {"compensate": "adaptive" if adaptive else compensate, "correct": correct}
    how |= {"smooth": False} if smooth or goal else {}  # it is made, or what stays in float is told by values
    small: TensorDAG | None = None
    if goal and batches is not None:
        with common.progress(f"looking for what stays in float of {dag.name}"):
            small, kept = with_quality(changed, batches, goal, profile, keep=left, **how)
            left = [*left, {f.value for f in kept}.__contains__]
    with common.progress(f"quantizing {dag.name}", total=None if batches is None else len(batches)) as step:
        prepared = prepared_by(changed, batches, profile, keep=left, progress=lambda n: step(), **how)
        small = prepared.convert() if small is None else small
    with common.progress("comparing"):
        predicted = None if on is None else times(prepared, on)
        rows = layers(prepared, batches, predicted)
        whole = None if batches is None else sqnr(prepared, small, batches)
    totals = {"before": dag.graph.total_bytes(), "after": _bytes(small, prepared)}
    seconds = None if predicted is None else predicted.totals
    if as_json:
        found: dict[str, Any] = {"source": source, "name": dag.name, "target": target, "sqnr": whole, "bytes": totals}
        found["kept"] = [f.module or f.op for f in kept]
        found["float"] = [f._asdict() for f in in_float(prepared)]
        if seconds is not None:
            found |= {"device": device, "seconds": {"before": seconds[0], "after": seconds[1]}}
        typer.echo(json.dumps({**found, "layers": [r.as_json() for r in rows]}, indent=1))
    else:
        show(common.console(), rows, dag, source, whole, totals, kept, seconds, in_float(prepared))
    if to is not None:
        to.write(small)
    return 0


def _bytes(small: TensorDAG, prepared: Prepared) -> int:
    """What the weights take, those of few bits packed."""
    packed = {p.leaf.op.attributes.get("leaf"): p for p in prepared.placement.weights.values()}
    total = small.graph.total_bytes()
    for name, plan in packed.items():
        if plan.how.numbers.grid.bits < 8 and name in small.graph.buffers:
            total -= plan.leaf.type.size - -(-plan.leaf.type.size * plan.how.numbers.grid.bits // 8)
    return total


def batches_of(data: str, dag: TensorDAG) -> list[Any]:
    """The batches of ``module:callable``, or of a .npz file: its arrays cut along the first dimension."""
    if data.endswith(".npz"):
        return _cut(Path(data), dag)
    module, colon, path = data.partition(":")
    if not colon:
        raise SourceError(f"--data {shown(data)}: give module:callable or a .npz file")
    found = named_object(module, path)
    given: Any = found() if callable(found) else found
    if not isinstance(given, Iterable):
        raise InputError(f"--data {shown(data)} gave a {type(given).__name__}, not batches")
    batches = list(cast(Iterable[Any], given))
    if not batches:
        raise InputError(f"--data {shown(data)} gave no batches")
    return batches


def _cut(path: Path, dag: TensorDAG) -> list[dict[str, Any]]:
    """Arrays by the names of inputs (or in their order) as batches of the size that the network has."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    inputs = dag.graph.inputs
    if len(arrays) == len(inputs) and all(n.startswith("arr_") for n in arrays):
        arrays = dict(zip(inputs, arrays.values(), strict=True))
    if arrays.keys() != inputs.keys():
        raise InputError(f"{shown(path)} has {', '.join(arrays)}; the network takes {', '.join(map(shown, inputs))}")
    counts: set[int] = set()
    for name, value in inputs.items():
        array, shape = arrays[name], value.shape
        if array.ndim != value.rank or array.shape[1:] != shape[1:] or not shape or array.shape[0] % max(shape[0], 1):
            raise InputError(
                f"{shown(path)}: {shown(name)} is {array.dtype}{list(array.shape)}, which isn't batches of {value.type}"
            )
        arrays[name] = array.astype(value.dtype.numpy, copy=False)
        counts.add(array.shape[0] // shape[0])
    if len(counts) != 1:
        raise InputError(f"{shown(path)}: its arrays have different numbers of batches: {sorted(counts)}")
    size = {n: v.shape[0] for n, v in inputs.items()}
    return [{n: a[i * size[n] : (i + 1) * size[n]] for n, a in arrays.items()} for i in range(counts.pop())]


def show(
    console: Console, rows: list[Layer], dag: TensorDAG, source: str, whole: float | None, totals: dict[str, int],
    kept: list[Any], seconds: tuple[float, float] | None = None, stays: list[Left] | None = None,
) -> None:  # fmt: skip
    """Print a row for each quantized op."""
    console.print(f"[bold]{escape(dag.name)}[/bold]  [dim]{escape(source)}[/dim]", highlight=False)
    columns = [
        Column("layer", [escape(r.module or "-") for r in rows], is_text=True),
        Column("op", [escape(r.op) for r in rows], 1, is_text=True),
        Column("SQNR", ["" if r.sqnr is None else f"{r.sqnr:.1f}" for r in rows]),
        Column("seen", [_pair(r.seen) for r in rows], 3),
        Column("range", [_pair(r.range) for r in rows], 2),
        Column("clipped", [f"{r.clipped:.2%}" if r.clipped else "" for r in rows], 2),
        Column("saturated", [f"{r.saturated:.2%}" if r.saturated else "" for r in rows], 2),
        Column("bytes", [quantity(r.bytes[0], "B") if r.bytes[0] else "" for r in rows], 1),
        Column("now", [quantity(r.bytes[1], "B") if r.bytes[1] else "" for r in rows], 1),
    ]
    if seconds is not None:
        each = [r.seconds or (0.0, 0.0) for r in rows]
        columns += [Column("time", [duration(b) for b, _ in each], 1),
                    Column("then", [duration(a) for _, a in each], 1)]  # fmt: skip
    console.print(table(console, columns), highlight=False)
    end = "" if whole is None else f"; SQNR of the results {whole:.1f} dB"
    before, after = quantity(totals["before"], "B"), quantity(totals["after"], "B")
    say(console, f"{len(rows)} ops quantized; weights {before} -> {after}{end}")
    if seconds is not None:
        say(console, f"predicted time {duration(seconds[0])} -> {duration(seconds[1])}")
    large = [f for f in stays or () if f.bytes * _LARGE >= totals["before"]]
    if large:
        told = ", ".join(f"{escape(f.module or '-')} ({escape(f.op)}) {quantity(f.bytes, 'B')}" for f in large)
        say(console, f"weights in float: {told}")
    if kept:
        say(console, f"in float: {', '.join(escape(f.module or f.op) for f in kept)}")


def _pair(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3g} {ends[1]:.3g}"
