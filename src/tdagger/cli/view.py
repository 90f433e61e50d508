"""``tdagger view``: a picture of a network, or of two compared."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tdagger.analysis.time.profile import Profile
from tdagger.analysis.time.timing import device_of
from tdagger.cli import common
from tdagger.cli.layout import escape
from tdagger.cli.tables import size
from tdagger.errors import AttributeValueError, SourceError
from tdagger.later import later
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.view.views import FORMS, View


@common.of_network
def view(
    a: Annotated[str, typer.Argument(metavar="A", help="A SOURCE: a file, timm:NAME, transformers:CLASS ...")],
    network: common.Network,
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="Another SOURCE: what differs is shown.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help=f"Its suffix says the form: {', '.join(FORMS)}."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    open_: Annotated[
        list[str] | None, typer.Option("--open", metavar="MODULE", help="Open this box at first; may be repeated.")
    ] = None,
    depth: Annotated[int | None, typer.Option("--depth", min=0, help="Open all boxes that are less deep.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME|FILE", help="Predict the time of every op on a device.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Run it with torch, and measure every op.")] = False,
    histograms: Annotated[bool, typer.Option("--histograms", help="How weights are spread; reads them.")] = False,
    structure: Annotated[
        bool, typer.Option("--structure", help="Of two networks compare no weights, and read none.")
    ] = False,
    browse: Annotated[bool, typer.Option("--browse", help="Show the page in a browser.")] = False,
    set_a: common.SettingsOfA = None,
    set_b: common.SettingsOfB = None,
    optimize_b: Annotated[
        bool, typer.Option("--optimize-b", help="B with layers folded and merged; A again unless there is a B.")
    ] = False,
    meta: common.Meta = False,
    unbatch: common.Unbatch = False,
    resize: common.Resize = None,
    debug: common.Debug = False,
) -> int:
    """Draw a network as one page that needs nothing else, or as SVG, PNG, Mermaid, DOT or JSON.

    Modules fold; where there are none, blocks are found by structure, and what repeats is one box. With B, or --set-b
    or --optimize-b, A and B are shown as one, with what is only in one, what changed, and by how much weights differ.
    """
    target = _target(a, output, force)
    if profile and meta:
        raise AttributeValueError("--profile runs the network, which has no weights with --meta")
    on = None if device is None else device_of(device)
    compared = b is not None or bool(set_b) or optimize_b
    sources = [(a, set_a), *([(b or a, set_b)] if compared else [])]
    sizes = common.sizes_of(resize, "--resize")
    loaded = [common.load_source(source, network.also(own), meta, sizes) for source, own in sources]
    found = [common.changed(common.whole_source(one, external=True), one, unbatch, resize) for one in loaded]
    options: dict[str, Any] = {"open": open_ or (), "depth": depth, "device": on}
    options |= {"histograms": histograms, "weights": not structure}
    dags = [one for one in found if isinstance(one, TensorDAG)]
    if len(dags) < len(found):
        programs = _programs(found, profile)
        if optimize_b:
            programs[1] = programs[1].optimize()
        with common.progress(f"drawing {programs[0].name}"):
            drawn: View = programs[0].view(*programs[1:], **options)
            drawn.save(target)
        return _wrote(target, browse)
    if optimize_b:
        dags[1] = dags[1].optimize()
    profiles = [_profile(dag) for dag in dags] if profile else []
    with common.progress(f"drawing {dags[0].name}"):
        View(dags, profiles=profiles, **options).save(target)
    return _wrote(target, browse)


def _programs(found: Sequence[TensorDAG | Program], profile: bool) -> list[Program]:
    """The programs to draw; AttributeValueError for what there is for networks only."""
    programs = [p for p in found if isinstance(p, Program)]
    name = shown(programs[0].name)
    if len(programs) < len(found):
        other = next(shown(n.name) for n in found if not isinstance(n, Program))
        raise AttributeValueError(
            f"{name} is a program, of several networks, and {other} is one network: a program is compared with a "
            f"program; its blocks are networks (Program.dag): {', '.join(map(shown, programs[0].blocks))}"
        )
    if profile:
        raise AttributeValueError(f"{name} is a program, of several networks: --profile is for one network")
    return programs


def _wrote(target: Path, browse: bool) -> int:
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"wrote {escape(target)} ({size(target.stat().st_size)})")
    if browse:
        webbrowser.open(target.resolve().as_uri())
    return 0


def _profile(dag: TensorDAG) -> Profile:
    later("torch.keep_memory")()
    with common.progress(f"running {dag.name}"):
        return dag.profile()


def _target(source: str, output: Path | None, force: bool) -> Path:
    """The file to write, checked before what takes long."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(source.rpartition(":")[2]).stem) or "network"
    target = Path(f"{name}.html") if output is None else output
    if target.suffix.lower() not in FORMS:
        raise SourceError(f"{shown(target)}: the suffix must say the form: {', '.join(FORMS)}")
    if target.exists() and not force:
        raise SourceError(f"{shown(target)} is there already; --force overwrites it")
    if not target.parent.is_dir():
        raise SourceError(f"{shown(target.parent)}: there is no such folder")
    return target
