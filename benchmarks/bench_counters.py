"""What FLOP counters count, against closed forms: networks at published sizes, and a battery of awkward ops.

Truth is written by hand: ``tests/closed_forms.py`` and ``tests/battery.py``. Every counter is called in a process of
its own (a fork that has the network and the libraries already), one after another, with a limit on its time. Times are
processor time of one call, the network's capture or run included. Counters that aren't installed are named, left out:
``pip install -r benchmarks/counters.txt`` (docs/counters.md).

Usage: ``python benchmarks/bench_counters.py [--networks NAME,.. | --battery] [--counters NAME;..] [--limit SECONDS]``
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _counters import COUNTERS
from _zoo import quiet
from torch import nn

from tests.battery import BATTERY
from tests.closed_forms import CLOSED

#: Networks that are counted at other sizes than the published ones, to stay within minutes and 8 GB.
SMALLER: dict[str, dict[str, Any]] = {
    "llama": {"length": 128},
    "mixtral_8x7b": {"layers": 2, "width": 1024, "inner": 3584},
}


class Subject(NamedTuple):
    """A network or op with what its contractions cost."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    flops: int


def networks(names: Iterable[str]) -> Iterable[Subject]:
    for name in names:
        closed = CLOSED[name].at(**SMALLER.get(name, {}))
        module, args, kwargs = closed.build(device="cpu")
        yield Subject(name, module, args, kwargs, closed.flops)


def battery(names: Iterable[str]) -> Iterable[Subject]:
    for name in names:
        torch.manual_seed(0)
        module, args, macs = BATTERY[name]()
        if not any(True for _ in module.parameters()):  # some counters ask a parameter for its device
            module.register_parameter("unused", nn.Parameter(torch.zeros(1)))
        yield Subject(name, module, args, {}, 2 * macs)


# --- one counter on one subject ----------------------------------------------------------------------------


def _work(counter: str, subject: Subject, pipe: Any) -> None:
    """In a process of its own: count, and send what was found."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        with quiet():
            start = time.process_time()
            counted = COUNTERS[counter].count(subject.module, subject.args, dict(subject.kwargs))
            pipe.send({**counted._asdict(), "seconds": time.process_time() - start})
    except BaseException as e:  # whatever a counter raises is its result
        first = next((line.strip() for line in str(e).splitlines() if line.strip()), "")
        pipe.send({"error": f"{type(e).__name__}: {first}"[:160]})


def measure(counter: str, subject: Subject, limit: float) -> dict[str, Any]:
    """What a counter found, or its error."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(counter, subject, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"error": f"no result in {limit:.0f} s"}
        return receiver.recv()
    except EOFError:
        process.join()
        return {"error": f"the process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def best(found: dict[str, Any], truth: int) -> int:
    """The number for contractions, or the one that the counter prints, if that is right."""
    return truth if found["headline"] == truth else found["flops"]


def is_exact(found: dict[str, Any], truth: int) -> bool:
    return "error" not in found and best(found, truth) == truth


def cell(found: dict[str, Any], truth: int) -> str:
    """The share of the truth that was counted; what was counted, where the truth is 0."""
    if "error" in found:
        return "error"
    if is_exact(found, truth):
        return "exact"
    if not truth:
        return f"{best(found, truth):,}"
    share = best(found, truth) / truth
    if round(share, 4) == 1:
        return f"{share:.7f}"
    return f"{share:.4f}" if 0.99 < share < 1.01 else f"{share:.3g}"


# --- tables ------------------------------------------------------------------------------------------------


def table(kind: str, subjects: Iterable[Subject], counters: list[str], limit: float) -> list[dict[str, Any]]:
    """Measure and print, a line for every subject; what was found."""
    found: list[dict[str, Any]] = []
    print(f"\n| {kind} | flops | " + " | ".join(counters) + " |")
    print("|---|---:|" + "---:|" * len(counters))
    for subject in subjects:
        results = {c: measure(c, subject, limit) for c in counters}
        found.append({"kind": kind, "name": subject.name, "flops": subject.flops, "found": results})
        cells = [cell(results[c], subject.flops) for c in counters]
        print(f"| {subject.name} | {subject.flops:,} | " + " | ".join(cells) + " |", flush=True)
    return found


def summary(found: list[dict[str, Any]], counters: list[str]) -> None:
    """How many are exact, and the processor time of those that every counter managed to count."""
    exact = [sum(is_exact(row["found"][c], row["flops"]) for row in found) for c in counters]
    print(f"| **exact of {len(found)}** | | " + " | ".join(f"**{n}**" for n in exact) + " |")
    shared = [row for row in found if all("seconds" in row["found"][c] for c in counters)]
    seconds = [sum(row["found"][c]["seconds"] for row in shared) for c in counters]
    print(f"| processor seconds, {len(shared)} that all count | | " + " | ".join(f"{s:.1f}" for s in seconds) + " |")


def times(found: list[dict[str, Any]], counters: list[str]) -> None:
    """Processor seconds of every counter on every network."""
    print("\n| seconds | " + " | ".join(counters) + " |\n|---|" + "---:|" * len(counters))
    for row in found:
        each = [row["found"][c].get("seconds") for c in counters]
        print(f"| {row['name']} | " + " | ".join("" if s is None else f"{s:.1f}" for s in each) + " |")


def remarks(found: list[dict[str, Any]], counters: list[str]) -> None:
    """Errors, what counters say they left out, and numbers as they print them, where these differ."""
    for counter in counters:
        for row in found:
            result = row["found"][counter]
            if "error" in result:
                print(f"{counter}: {row['name']}: {result['error']}")
            elif result["missed"]:
                print(f"{counter}: {row['name']}: says that it leaves out {', '.join(result['missed'])}")
    for counter in counters:
        exact = [sum(r["found"][counter].get(n) == r["flops"] for r in found) for n in ("headline", "flops")]
        if exact[0] != exact[1]:
            said = f"of the numbers it prints {exact[0]} of {len(found)} are exact"
            print(f"{counter}: {said}, of those for contractions {exact[1]}")


def versions(counters: Iterable[str]) -> str:
    packages = dict.fromkeys(COUNTERS[c].package for c in counters)
    return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", help="names of tests/closed_forms.py, with commas; all by default")
    parser.add_argument("--battery", action="store_true", help="the battery alone")
    parser.add_argument("--counters", help="names with semicolons; all by default")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds for one counter on one network")
    parser.add_argument("--json", help="a file for all that was found")
    options = parser.parse_args()
    wanted = options.counters.split(";") if options.counters else list(COUNTERS)
    missing = dict.fromkeys(
        COUNTERS[c].package for c in wanted if importlib.util.find_spec(COUNTERS[c].package) is None
    )
    counters = [c for c in wanted if COUNTERS[c].package not in missing]
    print(f"python {sys.version.split()[0]}, {versions(counters)}")
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}")
    for counter in counters:
        print(f"{counter}: {COUNTERS[counter].reading}, in {COUNTERS[counter].unit}")
    found: list[dict[str, Any]] = []
    for module in dict.fromkeys(m for c in counters for m in COUNTERS[c].modules):
        importlib.import_module(module)
    with quiet(), contextlib.suppress(KeyboardInterrupt):
        torch.set_grad_enabled(False)
        warnings.simplefilter("ignore")
        if not options.battery:
            names = options.networks.split(",") if options.networks else list(CLOSED)
            rows = table("network", networks(names), counters, options.limit)
            summary(rows, counters)
            times(rows, counters)
            found += rows
        if not options.networks:
            rows = table("op", battery(BATTERY), counters, options.limit)
            summary(rows, counters)
            found += rows
        print()
        remarks(found, counters)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
