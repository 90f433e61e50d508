"""``tdagger diff``: whether two networks compute the same, and if not, at which op they part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import unified_diff
from typing import Annotated, Any

import typer

from tdagger import comparison
from tdagger.cli import DIFFERS, common, programs
from tdagger.cli.measure import differences
from tdagger.errors import AttributeValueError
from tdagger.frameworks.file import FileSource
from tdagger.frameworks.source import Source
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.transform.diff.words import Diff, finite


@common.of_network
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A SOURCE: a file, timm:NAME, transformers:CLASS ...")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another SOURCE.")],
    network: common.Network,
    structure: Annotated[
        bool, typer.Option("--structure", help="Run nothing; show both graphs as one listing with - and +.")
    ] = False,
    listing: Annotated[bool, typer.Option("--listing", help="Show that listing too.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    set_a: common.SettingsOfA = None,
    set_b: common.SettingsOfB = None,
    resize: common.Resize = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> int:
    """Compare two versions of a network on the same random inputs, and say which op differs first.

    The verdict is same, rounding or different. Exit status 0 for the first two, 1 for different, 2 if they can't be
    compared. With --structure it is 1 if the graphs differ.

    --resize gives A and B the sizes of the axes that they have, also those that files leave open.

    Programs are run by numpy: the verdict is same, or by the largest error rounding (below 1e-5 of the largest number
    of an output) or different.
    """
    if structure and (as_json or listing):
        raise AttributeValueError(f"--structure prints a listing alone, without {'--json' if as_json else '--listing'}")
    sizes = common.sizes_of(resize, "--resize")
    one: Source = common.load_source(a, network.also(set_a), sizes=sizes)
    other = common.load_source(b, network.also(set_b), sizes=sizes)
    dags = [common.whole_source(loaded, external=structure) for loaded in (one, other)]
    if sizes:
        whole, dags = dags[0], _resized(dags, (one, other), sizes)
        one = one if dags[0] is whole else FileSource(one.name, dags[0])  # what is run has the sizes of A
    if any(isinstance(dag, Program) for dag in dags):
        return _of_programs(one, (dags[0], dags[1]), structure, listing, seed, as_json)
    dags = [common.network_of(dag, loaded.name) for dag, loaded in zip(dags, (one, other), strict=True)]
    call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {}) if structure else one.random_inputs(seed)
    with common.progress("comparing"):
        found = comparison.diff(dags[0], dags[1], *call, structure, None, seed)
    if as_json:
        typer.echo(json.dumps(summary(found), indent=1))
    else:
        typer.echo("\n".join([str(found), *(["", found.listing] if listing else [])]))
    return DIFFERS if found.verdict == "different" or (structure and not found.alike) else 0


def _resized(
    dags: Sequence[TensorDAG | Program], sources: Sequence[Source], sizes: Mapping[str, int]
) -> list[TensorDAG | Program]:
    """Each at the sizes of the axes that it has; the first one refuses names that neither has."""
    left = [common.beyond(source, sizes) for source in sources]
    named = [set(dag.axes().sizes) for dag in dags]
    nowhere = {n for n in sizes if all(n in own and n not in has for own, has in zip(left, named, strict=True))}
    found: list[TensorDAG | Program] = []
    for dag, own, has in zip(dags, left, named, strict=True):
        asked = {n: size for n, size in own.items() if n in has or n in nowhere}
        found.append(dag.resize(asked) if asked else dag)
    return found


#: Outputs of programs that are no further apart, by the largest number, are told as rounding.
_ROUNDING = 1e-5


def _of_programs(
    source: Source, dags: tuple[TensorDAG | Program, TensorDAG | Program], structure: bool, listing: bool, seed: int,
    as_json: bool,
) -> int:  # fmt: skip
    """The comparison of two where one at least is a program: their texts, and what they give of the same inputs."""
    a, b = dags
    lines = list(unified_diff(str(a).splitlines(), str(b).splitlines(), a.name, b.name, lineterm=""))
    if structure:
        typer.echo("\n".join(lines) or "one text")
        return DIFFERS if lines else 0
    inputs = source.random_inputs(seed)
    with common.progress("comparing"):
        errors = differences(source.run_reference(a, inputs), source.run_reference(b, inputs))
    pairs = list(zip(programs.output_types(a), errors, strict=False))
    worst = max((e.relative for e in errors), default=0.0)
    verdict = "same" if not worst and not lines else "rounding" if worst <= _ROUNDING else "different"
    if as_json:
        told = {n: {"error": finite(e.absolute), "relative": finite(e.relative)} for n, e in pairs}
        typer.echo(json.dumps({"a": a.name, "b": b.name, "verdict": verdict, "outputs": told}, indent=1))
    else:
        rows = [f"  {shown(n)}  {e.absolute:.2e}  {e.relative:.2e}  {e.why}".rstrip() for n, e in pairs]
        typer.echo("\n".join([verdict, "", "outputs, largest |a - b|, and that by the largest |a|", *rows]))
        typer.echo("\n".join(["", *lines]) if listing else "", nl=listing)
    return DIFFERS if verdict == "different" else 0


def summary(found: Diff) -> dict[str, Any]:
    """What a comparison found, for programs; errors are null where shapes differ or infinities. Keys are only added."""
    return {
        "a": found.a.name,
        "b": found.b.name,
        "verdict": found.verdict,
        "differences": [found.described(d) for d in found.differences],
        "without_effect": [found.described(d) for d in found.found.differences if not d.matters],
        "outputs": {
            n: {"error": finite(e), "bound": finite(b), "largest": m} for n, (e, b, m) in found.found.errors.items()
        },
    }
