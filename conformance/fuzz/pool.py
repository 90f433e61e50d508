"""Workers on all cores, each given one seed after the other; one that hangs or dies is a result, and is replaced."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from conformance.fuzz.check import Result
from conformance.fuzz.work import Row

#: A worker ends after so many programs: torch and Python keep some memory of every capture.
LIFE = 400


class Limits(NamedTuple):
    """Seconds for one program; seconds in which programs are started, and how many there are at most."""

    program: float = 120.0
    time: float | None = None
    count: int | None = None


class _Worker:
    """A process and the seed it works at."""

    def __init__(self, work: Callable[[int], Row]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs, self.pipe), daemon=True)
        self.process.start()
        theirs.close()
        self.seed: int | None = None
        self.since = 0.0
        self.done = 0

    def give(self, seed: int) -> None:
        self.seed, self.since = seed, time.monotonic()
        self.pipe.send(seed)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(work: Callable[[int], Row], pipe: Connection, other: Connection) -> None:
    """The loop of a worker."""
    other.close()
    torch.set_num_threads(1)
    while True:
        try:
            seed = pipe.recv()
        except EOFError:
            return
        try:
            row = work(seed)
        except Exception as e:  # of the harness itself: it is told as a crash, with its place
            place = traceback.extract_tb(e.__traceback__)[-1]
            found = Result(
                "harness", "crash", f"{type(e).__name__}: {e} ({place.filename}:{place.lineno})", type(e).__name__
            )
            row = Row(seed, [found], [])
        pipe.send(row)


def run(work: Callable[[int], Row], first: int, limits: Limits, jobs: int, add: Callable[[Row], Any]) -> None:
    """Work at seeds from ``first`` on; ``add`` gets every row, in the order they are done."""
    torch.set_num_threads(1)
    start, seed, workers = time.monotonic(), first, [_Worker(work) for _ in range(jobs)]

    def more() -> bool:
        return (limits.count is None or seed < first + limits.count) and (
            limits.time is None or time.monotonic() - start < limits.time
        )

    while True:
        for i, worker in enumerate(workers):
            if worker.seed is None and more():
                if worker.done >= LIFE:
                    worker.end()
                    workers[i] = worker = _Worker(work)
                worker.give(seed)
                seed += 1
        busy = [w for w in workers if w.seed is not None]
        if not busy:
            break
        ready = wait([w.pipe for w in busy], timeout=0.5)
        for i, worker in enumerate(workers):
            if worker.seed is None:
                continue
            row = _received(worker, limits.program) if worker.pipe in ready or _late(worker, limits.program) else None
            if row is None:
                continue
            add(row)
            worker.seed, worker.done = None, worker.done + 1
            if not worker.process.is_alive():
                worker.end()
                workers[i] = _Worker(work)
    for worker in workers:
        worker.end()


def _late(worker: _Worker, seconds: float) -> bool:
    return time.monotonic() - worker.since > seconds


def _received(worker: _Worker, seconds: float) -> Row:
    """The row of a worker that has one, is dead or hangs."""
    seed = worker.seed or 0
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
        worker.process.kill()
        worker.process.join()
        why, kind = f"took more than {seconds:g} s", "hangs"
    except EOFError:
        worker.process.join()
        why, kind = f"its process ended with {worker.process.exitcode}", "dies"
    return Row(seed, [Result("worker", "crash", why, kind)], [])
