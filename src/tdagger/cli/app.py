"""The commands and their options; what they print is in :mod:`tdagger.cli.tables`."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tdagger.cli import DIFFERS, tables
from tdagger.cli.measure import Difference, differences, report
from tdagger.errors import AttributeValueError, SourceError
from tdagger.frameworks.source import FORMS, Options, Source, load, parse_setting, parse_shape, save
from tdagger.tensordag import TensorDAG
from tdagger.types import DType
from tdagger.view import text

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def run(args: list[str]) -> int:
    """Run a command line; errors are raised, and the exit status is returned."""
    status: Any = app(args, prog_name="tdagger", standalone_mode=False)
    return status or 0


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tdagger {version('tdagger')}")
        raise typer.Exit


@app.callback()
def tdagger(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Neural networks as tensor graphs over a very small set of operations.

    A [bold]SOURCE[/bold] is a file (.pt2 of torch.export; .pt, .pth or .ts of TorchScript),
    [bold]timm:NAME[/bold], [bold]transformers:CLASS[/bold] (both with random weights), or
    [bold]package.module:callable[/bold], which returns a module or (module, example inputs).
    Files are never unpickled.

    [dim]Examples[/dim]

      tdagger inspect timm:resnet50 --depth 1

      tdagger inspect transformers:BertModel --set num_hidden_layers=2 --text

      tdagger verify timm:vit_base_patch16_224 --batch 2

      tdagger convert my_package.models:build network.pt2 --shape x=1,3,64,64
    """


SourceName = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A file, timm:NAME, transformers:CLASS or package.module:callable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Passed to what builds the network; may be repeated."),
]
Batch = Annotated[int | None, typer.Option(min=1, help="The first size of every input.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=SIZES", help="An input: x=1,3,224,224 or ids=i64:1,16; may be repeated."),
]
Dtype = Annotated[str | None, typer.Option(metavar="TYPE", help="Of weights and inputs: f32, f16, bf16 ...")]
Unbatch = Annotated[bool, typer.Option("--unbatch", help="Take the batch axis out of every op; before --resize.")]
Resize = Annotated[
    str | None, typer.Option(metavar="AXES", help="Other sizes: b=8,h=320,w=320, by the names that --axes shows.")
]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the trace too.")]


def _console() -> Console:
    """Standard output; as wide as a table needs when it isn't a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=200)


@app.command()
def inspect(
    source: SourceName,
    depth: Annotated[int, typer.Option(min=0, help="How deep to list modules; 0 for none.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    as_text: Annotated[bool, typer.Option("--text", help="Print the graph itself.")] = False,
    axes: Annotated[
        bool | None,
        typer.Option(
            "--axes/--no-axes", help="Print the graph with named axes, and what is not known of them; or sizes."
        ),
    ] = None,
    ranks: Annotated[bool, typer.Option("--ranks", help="Show ranks and left-over dimensions of size 1.")] = False,
    settings: Settings = None,
    batch: Batch = None,
    shape: Shapes = None,
    dtype: Dtype = None,
    meta: Annotated[bool, typer.Option("--meta", help="Make no weights: for networks of any size.")] = False,
    unbatch: Unbatch = False,
    resize: Resize = None,
    debug: Debug = False,
) -> int:
    """Show a network's totals, its ops, and what each module takes."""
    if as_json and (as_text or axes):
        raise AttributeValueError(f"--json and {'--axes' if axes else '--text'} exclude each other")
    if ranks and (as_text or axes is not None):
        raise AttributeValueError("--ranks goes with --json, not with --text or --axes")
    if axes is False and not as_text:
        raise AttributeValueError("--no-axes is for --text")
    dag = _changed(_import(_load(source, settings, batch, shape, dtype, meta)), unbatch, resize)
    if as_text or axes:
        typer.echo(text.show(dag, axes=axes is not False))
        if axes:
            typer.echo("\n".join(["", *tables.opaque(dag.axes().opaque)]))
        return 0
    found = report(dag, source, depth)
    if as_json:
        typer.echo(json.dumps({**found, **({"ranks": dag.rank_report().as_json()} if ranks else {})}, indent=1))
    elif ranks:
        typer.echo(str(dag.rank_report()))
    else:
        tables.inspection(_console(), found)
    return 0


@app.command()
def verify(
    source: SourceName,
    runs: Annotated[int, typer.Option(min=1, help="On how many random inputs.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the first random input; the next ones count on.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Of max|a-b| / max|a|, for every output.")] = 1e-5,
    reference: Annotated[bool, typer.Option("--numpy", help="Compare the numpy reference too.")] = False,
    settings: Settings = None,
    batch: Batch = None,
    shape: Shapes = None,
    dtype: Dtype = None,
    debug: Debug = False,
) -> int:
    """Import a network, go back to its framework, and compare both on random inputs.

    Exit status 0 if all outputs agree, 1 if some differ, 2 if SOURCE can't be used.
    """
    loaded = _load(source, settings, batch, shape, dtype)
    dag = _import(loaded)
    ways = {"round trip": loaded.run_round_trip, **({"numpy": loaded.run_reference} if reference else {})}
    worst: dict[str, list[Difference]] = {}
    for i in range(runs):
        inputs = loaded.random_inputs(seed + i)
        with _progress(f"running the original, {i + 1} of {runs}"):
            expected = loaded.run(inputs)
        for way, run_ in ways.items():
            with _progress(f"running the {way}, {i + 1} of {runs}"):
                found = differences(expected, run_(dag, inputs))
            before = worst.get(way, found)
            worst[way] = [a.worse(b) for a, b in zip(before, found, strict=True)]
    agree = tables.verification(_console(), dag, worst, tolerance, runs)
    return 0 if agree else DIFFERS


@app.command()
def convert(
    source: SourceName,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A file; its suffix says the form.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    settings: Settings = None,
    batch: Batch = None,
    shape: Shapes = None,
    dtype: Dtype = None,
    unbatch: Unbatch = False,
    resize: Resize = None,
    debug: Debug = False,
) -> int:
    """Write a network as .pt2 (ExportedProgram), .pt or .ts (TorchScript) or .py (source and weights)."""
    form = target.suffix.lower()
    if form not in FORMS:
        known = ", ".join(f"{k} ({v})" for k, v in FORMS.items())
        raise SourceError(f"{target}: the suffix must say the form: {known}")
    written = [target, *([target.with_suffix(".safetensors")] if form == ".py" else [])]
    for path in written:
        if path.exists() and not force:
            raise SourceError(f"{path} is there already; --force overwrites it")
    if not target.parent.is_dir():
        raise SourceError(f"{target.parent}: there is no such folder")
    dag = _changed(_import(_load(source, settings, batch, shape, dtype)), unbatch, resize)
    with _progress(f"writing {target}"):
        save(dag, target, form)
    sizes = ", ".join(f"{p} ({tables.size(p.stat().st_size)})" for p in written)
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"wrote {sizes}")
    return 0


def _load(
    source: str,
    settings: list[str] | None,
    batch: int | None,
    shapes: list[str] | None,
    dtype: str | None,
    meta: bool = False,
) -> Source:
    options = Options(
        dict(map(parse_setting, settings or ())),
        batch,
        dict(map(parse_shape, shapes or ())),
        None if dtype is None else DType.of(dtype),
        meta,
    )
    if options.dtype is not None and not options.dtype.is_float:
        raise AttributeValueError(f"--dtype is for weights, which are floats, got {dtype}")
    with _progress(f"loading {source}"):
        return load(source, options)


def _import(source: Source) -> TensorDAG:
    with _progress(f"importing {source.name}"):
        return source.dag()


def _changed(dag: TensorDAG, unbatch: bool, resize: str | None) -> TensorDAG:
    """The network without its batch, at other sizes, as the options say."""
    dag = dag.unbatch() if unbatch else dag
    sizes: dict[str, int] = {}
    for part in resize.split(",") if resize else ():
        name, _, size = part.partition("=")
        if not name or not size.strip().isdigit():
            raise AttributeValueError(f"--resize takes AXIS=SIZE,AXIS=SIZE such as b=8,h=320, got {resize!r}")
        sizes[name.strip()] = int(size)
    return dag.resize(**sizes) if sizes else dag


@contextmanager
def _progress(what: str) -> Generator[None]:
    """Say on stderr what is being done, while it is, if somebody watches."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield
