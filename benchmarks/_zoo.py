"""What the benchmarks over networks share: the list of networks, arguments, quiet libraries."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.networks import NETWORKS, Network

__all__ = ["NETWORKS", "Network", "chosen", "quiet"]


def chosen(description: str | None) -> tuple[list[str], int]:
    """The networks and the number of runs that the command line asks for; all, and 7, by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    unknown = set(options.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"no network is called {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    return options.networks or list(NETWORKS), options.runs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, no gradients, and no warnings of other libraries about each other."""
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
