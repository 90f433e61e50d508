"""The commands and their options; what they print is in :mod:`tdagger.cli.tables`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from tdagger.cli import DIFFERS, common, programs, tables
from tdagger.cli.measure import Difference, as_rounded, differences, report
from tdagger.cli.target import Target
from tdagger.cli.tree import show as show_tree
from tdagger.errors import AttributeValueError
from tdagger.graph import bulk
from tdagger.later import later
from tdagger.program.program import Program
from tdagger.view import text


def run(args: list[str]) -> int:
    """Run a command line; errors are raised, and the exit status is returned.

    A command that is asked for by name comes without the others, whose modules take longer than it does.
    """
    with bulk():
        app = _application(args[0] if args and args[0] in (*OWN, *ELSEWHERE) else None)
    status: Any = app(args, prog_name="tdagger", standalone_mode=False)
    return status or 0


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # 14 ms, which no other command needs

        typer.echo(f"tdagger {version('tdagger')}")
        raise typer.Exit


def tdagger(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Neural networks as tensor graphs over a very small set of operations.

    A [bold]SOURCE[/bold] is a file (.tdag; .onnx; .tflite or .task; .mlpackage or .mlmodel; .pt2 of torch.export; .pt,
    .pth or .ts of TorchScript), [bold]timm:NAME[/bold], [bold]transformers:CLASS[/bold] (both with random weights), or
    [bold]package.module:callable[/bold], which returns a module, (module, example inputs), or a network or program of
    tdagger's. Files are never unpickled. What loops or branches on data is a program, of several networks: inspect,
    cost, diff, verify and convert take it.

    [dim]Examples[/dim]

      tdagger inspect timm:resnet50 --depth 1

      tdagger inspect transformers:BertModel --set num_hidden_layers=2 --text

      tdagger view timm:resnet50 -o resnet50.html

      tdagger cost transformers:LlamaForCausalLM --meta --at b=8,s=4096

      tdagger compare timm:resnet50 timm:resnet101 --by op

      tdagger diff my_package.models:old my_package.models:new

      tdagger profile timm:resnet50 --by module --top 10

      tdagger verify timm:vit_base_patch16_224 --batch 2

      tdagger convert my_package.models:build network.pt2 --shape x=1,3,64,64

      tdagger prune timm:resnet50 --flops 50% --importance l2 -o small.pt2

      tdagger quantize timm:resnet50 --data images.npz -o q.onnx
    """


@common.of_network
def inspect(
    source: common.SourceName,
    network: common.Network,
    depth: Annotated[
        int | None, typer.Option(min=0, help="How deep to list modules; 0 for none, 2 unless told. Or to open --tree.")
    ] = None,
    as_json: common.AsJson = False,
    tree: Annotated[bool, typer.Option("--tree", help="Show the structure, folded, with bars.")] = False,
    as_text: Annotated[bool, typer.Option("--text", help="Print the graph itself.")] = False,
    axes: Annotated[
        bool | None,
        typer.Option(
            "--axes/--no-axes", help="Print the graph with named axes, and what is not known of them; or sizes."
        ),
    ] = None,
    ranks: Annotated[bool, typer.Option("--ranks", help="Show ranks and left-over dimensions of size 1.")] = False,
    meta: common.Meta = False,
    unbatch: common.Unbatch = False,
    resize: common.Resize = None,
    optimize: common.Optimize = False,
    debug: common.Debug = False,
) -> int:
    """Show a network's totals, its ops, and what each module takes; of a program its blocks and what each costs."""
    if as_json and (as_text or axes):
        raise AttributeValueError(f"--json and {'--axes' if axes else '--text'} exclude each other")
    if ranks and (as_text or axes is not None):
        raise AttributeValueError("--ranks goes with --json, not with --text or --axes")
    if tree and (as_json or as_text or ranks or axes is not None):
        raise AttributeValueError("--tree goes with none of --json, --text, --ranks and --axes")
    if axes is False and not as_text:
        raise AttributeValueError("--no-axes is for --text")
    loaded = common.load_source(source, network, meta, common.sizes_of(resize, "--resize"))
    dag = common.changed(common.whole_source(loaded), loaded, unbatch, resize, optimize=optimize)
    if isinstance(dag, Program):
        programs.refuse(dag, {"--ranks": ranks, "--depth": depth is not None and not tree})
        if tree:
            show_tree(common.console(), dag.view(depth=depth, formulas=False))
        elif as_json:
            typer.echo(json.dumps(programs.reported(dag, source), indent=1))
        else:
            typer.echo(programs.listed(dag, axes) if as_text or axes else programs.inspected(dag))
        return 0
    if as_text or axes:
        typer.echo(text.show(dag, axes=axes is not False))
        if axes:
            typer.echo("\n".join(["", *tables.opaque(dag.axes().opaque)]))
        return 0
    if tree:
        show_tree(common.console(), dag.view(depth=depth, formulas=False))
        return 0
    found = report(dag, source, 2 if depth is None else depth)
    if as_json:
        typer.echo(json.dumps({**found, **({"ranks": dag.rank_report().as_json()} if ranks else {})}, indent=1))
    elif ranks:
        typer.echo(str(dag.rank_report()))
    else:
        tables.inspection(common.console(), found)
    return 0


@common.of_network
def verify(
    source: common.SourceName,
    network: common.Network,
    runs: Annotated[int, typer.Option(min=1, help="On how many random inputs.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the first random input; the next ones count on.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Of max|a-b| / max|a|, for every output.")] = 1e-5,
    reference: Annotated[bool, typer.Option("--numpy", help="Compare the numpy reference too.")] = False,
    at: common.At = None,
    debug: common.Debug = False,
) -> int:
    """Import a network, go back to its framework, and compare both on random inputs.

    A network that rounds to integers agrees but for rounding where an output is as near to its own runtime's as that is
    to itself, with nodes fused or not and on inputs a millionth off, or a step of the integers away.
    Exit status 0 if all outputs agree, 1 if some differ, 2 if SOURCE can't be used.
    """
    sizes = common.sizes_of(at, "--at")
    loaded = common.load_source(source, network, sizes=sizes)
    dag = common.whole_source(loaded)
    fixed = ", ".join(common.beyond(loaded, sizes))
    if fixed:
        raise AttributeValueError(
            f"--at is for sizes that a file leaves open, and {source} leaves none open called {fixed}"
        )
    ways = {"round trip": loaded.run_round_trip, **({"numpy": loaded.run_reference} if reference else {})}
    worst: dict[str, list[Difference]] = {}
    with common.progress(f"running {loaded.name}", total=runs * (1 + len(ways))) as step:
        for i in range(runs):
            inputs = loaded.random_inputs(seed + i)
            expected = loaded.run(inputs)
            step()
            for way, run_ in ways.items():
                got = run_(dag, inputs)
                found = as_rounded(loaded, dag, inputs, got, differences(expected, got), tolerance)
                before = worst.get(way, found)
                worst[way] = [a.worse(b) for a, b in zip(before, found, strict=True)]
                step()
    types = programs.output_types(dag)
    agree = tables.verification(common.console(), types, worst, tolerance, runs)
    return 0 if agree else DIFFERS


@common.of_network
def convert(
    source: common.SourceName,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A file; its suffix says the form.")],
    network: common.Network,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    unbatch: common.Unbatch = False,
    resize: common.Resize = None,
    optimize: common.Optimize = False,
    dynamic: Annotated[
        str | None,
        typer.Option(
            metavar="AXES", help="Of .onnx, .tflite, .mlpackage: axes of any size, b,s by names that --axes shows."
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Of .onnx: the operator set.")] = None,
    minimum_target: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Of .mlpackage: iOS15, iOS16, iOS17 or iOS18.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of .mlpackage: f32 or f16.")] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Of programs: leave out what only raises, for .onnx, which can't.")
    ] = False,
    meta: common.Meta = False,
    debug: common.Debug = False,
) -> int:
    """Write a network as .tdag, .onnx, .mlpackage, .tflite, .pt2 (torch.export), .pt, .ts (TorchScript) or .py.

    With --meta a .tdag holds the graph alone, to which --weights gives a .safetensors or another .tdag.
    """
    free = tuple(n.strip() for n in dynamic.split(",")) if dynamic else None
    given = {"dynamic": free, "opset": opset, "minimum_target": minimum_target, "precision": precision,
             "meta": meta or None}  # fmt: skip
    to = Target(target, force, {name: value for name, value in given.items() if value is not None})
    loaded = common.load_source(source, network, meta, common.sizes_of(resize, "--resize"))
    whole = common.whole_source(loaded)
    if trusted and isinstance(whole, Program):
        whole = whole.trusted()
    elif trusted:
        raise AttributeValueError(f"--trusted is for programs; {source} is one network")
    to.write(common.changed(whole, loaded, unbatch, resize, optimize=optimize, free=free or ()))
    return 0


#: The commands of this file, and those that have one of their own.
OWN: dict[str, Callable[..., int]] = {"inspect": inspect, "verify": verify, "convert": convert}
ELSEWHERE = ("view", "cost", "compare", "diff", "prune", "quantize", "profile", "predict", "calibrate")


@cache
def _application(asked: str | None) -> typer.Typer:
    """The command line with the command that is asked for, or with all."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(tdagger)
    for name in (*OWN, *ELSEWHERE) if asked is None else (asked,):
        app.command()(OWN.get(name) or later(f"cli.{name}"))
    return app
