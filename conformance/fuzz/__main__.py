"""Run the fuzzer: programs of consecutive seeds, on all cores, for a time or a number.

    python -m conformance.fuzz --seed 1 --time 60
    python -m conformance.fuzz --seed 1 --count 500 --jobs 2 --entrance program
    python -m conformance.fuzz --show 17                 # one program: its source and what is said of it

Prints a table of outcomes and the reasons of refusals, writes every failure made small to conformance/results/fuzz/ as
a file to run, and ends with 1 if anything was wrong or crashed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance.fuzz.generate import ENTRANCES
from conformance.fuzz.pool import Limits, run
from conformance.fuzz.report import Report
from conformance.fuzz.work import examine, show

RESULTS = Path(__file__).parents[1] / "results" / "fuzz"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the first of the seeds")
    parser.add_argument("--time", type=float, help="how many seconds to start programs")
    parser.add_argument("--count", type=int, help="how many programs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one program before it counts as hung")
    parser.add_argument("--entrance", choices=list(ENTRANCES), help="import every program so")
    parser.add_argument("--small", type=int, default=3, help="how many failures of a kind a worker makes small (3)")
    parser.add_argument("--checks", help="only some of the checks, as in to_torch,numpy")
    parser.add_argument("--most", type=int, default=200, help="how many failures to write")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where failures are written")
    parser.add_argument("--show", type=int, help="say all of one seed instead")
    given = parser.parse_args(arguments)
    if given.show is not None:
        return show(given.show, given.entrance)
    if given.time is None and given.count is None:
        given.time = 60.0
    report = Report(given.out, given.most)
    limits = Limits(given.limit, given.time, given.count)
    run(
        examine(given.entrance, given.small, given.checks and given.checks.split(",")),
        given.seed,
        limits,
        given.jobs,
        report.add,
    )
    print(report.text())
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
