"""Real networks there and back: the smallest of every family of timm, one of each kind of transformers.

    python -m conformance.models timm                  # what is not in the results yet; then the table
    python -m conformance.models transformers --again failed wrong
    python -m conformance.models timm --only vision_transformer --again ok

Each network runs in a process of its own with limits of time and memory, and is imported, brought back with
``to_torch()``, and compared: outputs on two inputs, the state_dict, gradients, FLOPs. Results are lines of JSON
in ``conformance/results/``; docs/conformance-models.md is made from them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from conformance import table, timm_models, transformers_models
from conformance.check import check, quiet
from conformance.sweep import Limits, Row, read, sweep
from tests.networks import Network, perturb

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "conformance" / "results"
TABLE = ROOT / "docs" / "conformance-models.md"

#: Names of the subjects, and what builds one.
LIBRARIES: dict[str, tuple[Callable[[], Sequence[str]], Callable[[str], Network]]] = {
    "timm": (timm_models.names, timm_models.build),
    "transformers": (transformers_models.names, transformers_models.build),
}


def work(build: Callable[[str], Network]) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject: build it, move its zeros and ones away, check it."""

    def run(name: str, report: Callable[..., None]) -> None:
        torch.manual_seed(0)
        report(stage="build")
        network = build(name)
        perturb(network.module)
        network.module.eval()
        report(model=type(network.module).__name__)
        check(network, report)

    return run


def warm_up(library: str) -> None:
    """Import the library and export something, so that no subject pays for what is loaded once."""
    import tdagger as td

    if library == "transformers":
        from transformers import MODEL_MAPPING, GenerationMixin, PreTrainedModel

        del MODEL_MAPPING, GenerationMixin, PreTrainedModel  # importing them loads most of the library

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    module = Small()
    torch.export.export(module, (torch.ones(2),), strict=False)
    td.from_torch(module, torch.ones(2)).to_torch()


def command_line(
    description: str | None,
    subjects: Mapping[str, Callable[[], Sequence[str]]],
    work: Callable[[str], Callable[[str, Callable[..., None]], None]],
    prefix: str,
    write: Callable[[dict[str, dict[str, Row]]], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Sweep the ``subjects`` of a library as the arguments say, and write the table of all that was found.

    ``work`` gives for a library what is done with a subject; results are kept in a file of the library's name, after
    the ``prefix``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=[*subjects, "table"], help="what to sweep; table: only write the table")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the subjects this is found in")
    parser.add_argument("--again", nargs="*", default=(), metavar="STATUS", help="run subjects of these statuses again")
    parser.add_argument("--seconds", type=float, default=Limits().seconds, help="limit for one network")
    parser.add_argument("--megabytes", type=int, default=Limits().memory >> 20, help="limit for one network")
    options = parser.parse_args(arguments)
    if options.library != "table":
        chosen = [n for n in subjects[options.library]() if re.search(options.only, n)]
        limits = Limits(options.seconds, options.megabytes << 20)
        with quiet():
            warm_up(options.library)
            sweep(chosen, work(options.library), RESULTS / f"{prefix}{options.library}.jsonl", limits, options.again)
    write({library: read(RESULTS / f"{prefix}{library}.jsonl") for library in subjects})


def listed(
    subjects: Mapping[str, Callable[[], Sequence[str]]], found: Mapping[str, dict[str, Row]]
) -> dict[str, dict[str, Row]]:
    """Of each library what was found of its subjects, in their order."""
    return {k: {n: found[k][n] for n in names() if n in found[k]} for k, names in subjects.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    subjects = {library: names for library, (names, _) in LIBRARIES.items()}

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(table.page({library: (list(names()), found[library]) for library, names in subjects.items()}))

    command_line(__doc__, subjects, lambda library: work(LIBRARIES[library][1]), "", write, arguments)


if __name__ == "__main__":
    main()
