"""``tdagger diff``: whether two networks compute the same, and if not, at which op they part."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tdagger import comparison
from tdagger.cli import DIFFERS, common
from tdagger.errors import AttributeValueError
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
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> int:
    """Compare two versions of a network on the same random inputs, and say which op differs first.

    The verdict is same, rounding or different. Exit status 0 for the first two, 1 for different, 2 if they can't be
    compared. With --structure it is 1 if the graphs differ.
    """
    if structure and (as_json or listing):
        raise AttributeValueError(f"--structure prints a listing alone, without {'--json' if as_json else '--listing'}")
    one, other = (common.load_source(s, network.also(own)) for s, own in ((a, set_a), (b, set_b)))
    dags = [common.import_source(loaded, external=structure) for loaded in (one, other)]
    call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {}) if structure else one.random_inputs(seed)
    with common.progress("comparing"):
        found = comparison.diff(dags[0], dags[1], *call, structure, None, seed)
    if as_json:
        typer.echo(json.dumps(summary(found), indent=1))
    else:
        typer.echo("\n".join([str(found), *(["", found.listing] if listing else [])]))
    return DIFFERS if found.verdict == "different" or (structure and not found.alike) else 0


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
