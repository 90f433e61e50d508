"""What a worker does with a seed: makes the program, checks it, and makes its failures small."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from conformance.fuzz.check import Checks, NotApplicable, Result
from conformance.fuzz.generate import program
from conformance.fuzz.program import Program
from conformance.fuzz.shrink import finder, shrink

#: Seconds to make one failure small, and how many kinds of failure of one program are made so.
SHRINKING, KINDS = 10.0, 3


class Failure(NamedTuple):
    """A failure as a file to run."""

    seed: int
    result: Result
    script: str
    steps: tuple[str, ...]

    @property
    def kind(self) -> tuple[str, ...]:
        """Failures of one kind are of the same check, in the same way, with the same kinds of steps."""
        return (*self.result.key, *sorted(set(self.steps)))


class Row(NamedTuple):
    """What came of a seed."""

    seed: int
    results: list[Result]
    failures: list[Failure]
    seconds: float = 0.0


def checked(p: Program, only: Collection[str] | None = None) -> list[Result]:
    """All checks of a program, or some."""
    try:
        return Checks(p, only).run()
    except NotApplicable as e:
        return [Result("program", "n/a", str(e))]


def failures(
    p: Program, results: list[Result], small: bool, known: Callable[[Result], bool] = lambda r: False
) -> list[Failure]:
    """The failures of a program, one for each kind, made small or as they are."""
    found: dict[Any, Result] = {}
    for r in results:
        if r.bad and not known(r):
            found.setdefault(r.key, r)
    made: list[Failure] = []
    for r in list(found.values())[:KINDS]:
        least, shown = p, r
        if small:
            find = finder(r)
            least = shrink(p, find, SHRINKING)
            shown = find(least) or r
        script = least.script(shown.check, f"{shown.outcome}: {shown.why}", shown.sizes)
        made.append(Failure(p.seed, shown, script, tuple(s.op for s in least.steps)))
    return made


def examine(entrance: str | None = None, often: int = 3, only: Collection[str] | None = None) -> Callable[[int], Row]:
    """The work of a worker, seed by seed; a kind of failure that it has made small some times is only counted."""
    times: dict[Any, int] = {}

    def work(seed: int) -> Row:
        start = time.process_time()
        p = program(seed)
        p = replace(p, entrance=entrance) if entrance else p
        results = checked(p, only)
        spent = time.process_time() - start
        for r in results:
            if r.bad:
                times[r.key] = times.get(r.key, 0) + 1
        return Row(seed, results, failures(p, results, often > 0, lambda r: 0 < often < times[r.key]), spent)

    return work


def show(seed: int, entrance: str | None = None) -> int:
    """Print one program and all that is said of it; 1 if anything is wrong."""
    torch.set_num_threads(1)
    p = program(seed)
    p = replace(p, entrance=entrance) if entrance else p
    print(p.source)
    print("imported from", p.entrance, "sizes", dict(p.sizes), "inputs", [x.make for x in p.inputs])
    results = checked(p)
    for r in results:
        print(f"{r.check:16s} {r.outcome:8s} {r.sizes or ''} {r.why[:500]}")
    return int(any(r.bad for r in results))
