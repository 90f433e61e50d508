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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from conformance import table, timm_models, transformers_models
from conformance.check import check, quiet
from conformance.sweep import Limits, read, sweep
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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=[*LIBRARIES, "table"], help="what to sweep; table: only write the table")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the subjects this is found in")
    parser.add_argument("--again", nargs="*", default=(), metavar="STATUS", help="run subjects of these statuses again")
    parser.add_argument("--seconds", type=float, default=Limits().seconds, help="limit for one network")
    parser.add_argument("--megabytes", type=int, default=Limits().memory >> 20, help="limit for one network")
    options = parser.parse_args(arguments)
    if options.library != "table":
        names, build = LIBRARIES[options.library]
        chosen: list[str] = [n for n in names() if re.search(options.only, n)]
        limits = Limits(options.seconds, options.megabytes << 20)
        with quiet():
            warm_up(options.library)
            sweep(chosen, work(build), results_of(options.library), limits, options.again)
    written: dict[str, Any] = {}
    for library, (names, _) in LIBRARIES.items():
        written[library] = (list(names()), read(results_of(library)))
    TABLE.write_text(table.page(written))


def results_of(library: str) -> Path:
    """The results file of a library."""
    return RESULTS / f"{library}.jsonl"


if __name__ == "__main__":
    main()
