"""Measures a network op by op: the code that ``to_torch`` writes, with the clocks read before every statement.

So what is measured is what runs: the same calls, on the same tensors with their strides, with what is in the caches
at that point, and freed when ``to_torch`` frees it. A statement's time includes freeing what died by it.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdagger.analysis.time.profile import Measured, Profile, Seconds, profile_of
from tdagger.errors import AttributeValueError, InputError
from tdagger.frameworks.torch import exporter
from tdagger.frameworks.torch.emit.codegen import Path, Statement, Writer
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.tensordag import TensorDAG
from tdagger.transform.diff.inputs import least_indexed

#: How often the whole is run at least and, unless told otherwise, for how many seconds in all.
LEAST_RUNS, ENOUGH = 5, 2.0


def profile(
    dag: TensorDAG,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    threads: int = 1,
    runs: int | None = None,
    device: Any = None,
    tell: Callable[[float], None] | None = None,
) -> Profile:
    """The time of every op of a network, of its modules and of the whole.

    ``args`` (a tensor, or a tuple of arguments) and ``kwargs`` are the network's, random ones of the right types if
    neither is given. After a warm-up the network is run ``runs`` times as it is and as often with clocks, in turns
    (None: for about two seconds, 5 times at least); a time is the median. ``device`` (see
    :func:`tdagger.analysis.time.timing.device_of`) adds predicted times, ``tell`` is called with the fraction that is
    done.
    """
    given = (args,) if isinstance(args, Tensor) else tuple(args or ())
    return Profiler(dag, given, kwargs, threads).run(runs, tell).profile(device)


class Profiler:
    """A network that can be measured again and again: every :meth:`run` adds to what :meth:`profile` sums up.

    InputError if the arguments don't fit, AttributeValueError for less than one thread.
    """

    def __init__(
        self, dag: TensorDAG, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None, threads: int = 1
    ) -> None:
        if threads < 1:
            raise AttributeValueError(f"profile: a network runs on 1 thread or more, not {threads}")
        self.dag = dag
        self.threads = threads
        self._writers: list[_TimedWriter] = []
        own = bool(dag.graph.updates)  # running it must not change the network's buffers
        self._module = exporter.module_of(dag, copy=own, plain=False, flat=True)
        self._timed = exporter.module_of(dag, copy=own, plain=False, writer_of=self._writer, flat=True)
        given = bool(args or kwargs) or not dag.graph.inputs
        self._args, self._kwargs = (tuple(args), dict(kwargs or {})) if given else random_inputs(dag)
        self.whole: list[tuple[float, float]] = []
        self._faults: list[int] = []
        self._each: list[np.ndarray[Any, Any]] = []
        if any(t.is_meta for t in self._module.state_dict().values()):
            raise InputError(f"{dag.name}: its weights are on the meta device, without data: nothing can be run")

    def _writer(self, *args: Any) -> Writer:
        self._writers.append(_TimedWriter(*args))
        return self._writers[-1]

    @property
    def _clocks(self) -> _TimedWriter:
        return self._writers[0]

    def run(
        self, runs: int | None = None, tell: Callable[[float], None] | None = None, seconds: float = ENOUGH
    ) -> Profiler:
        """Run the network ``runs`` times, or for about so many ``seconds``; the first time ever, warm it up before."""
        with _alone(self.threads):
            if not self.whole:
                for module in (self._module, self._timed, self._module):
                    module(*self._args, **self._kwargs)
            start = time.perf_counter()
            done, part = 0, 0.0
            while part < 1:
                self._once()
                done += 1
                spent = (time.perf_counter() - start) / seconds
                part = min(done / LEAST_RUNS, spent) if runs is None else done / runs
                if tell is not None:
                    tell(min(part, 1.0))
        return self

    def _once(self) -> None:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        self._module(*self._args, **self._kwargs)
        self.whole.append(((time.perf_counter_ns() - wall) / 1e9, (time.process_time_ns() - cpu) / 1e9))
        self._faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
        self._clocks.stamps.clear()
        self._timed(*self._args, **self._kwargs)
        stamps = np.array(self._clocks.stamps, np.int64)
        self._each.append(np.diff(stamps, axis=0) / 1e9)

    def seconds(self, of: Callable[[Sequence[float]], float] = statistics.median) -> Seconds:
        """Wall and processor time of the whole network, without clocks; ``of`` sums up the runs."""
        return Seconds(*(of(column) for column in zip(*self.whole, strict=True)))

    def measured(self, quantile: float = 0.5) -> list[Measured]:
        """The time of every statement: the median of the runs, or another quantile where others use the machine too."""
        each = np.quantile(np.stack(self._each), quantile, axis=0) - _clock_cost()
        return [
            Measured(tuple(values), Seconds(max(float(wall), 0.0), max(float(cpu), 0.0)))
            for values, (wall, cpu) in zip(self._clocks.computed, each, strict=True)
        ]

    @property
    def graph(self) -> Graph:
        """The graph whose values are measured: composites that torch doesn't have are replaced by their bodies."""
        return self._clocks.graph

    def profile(self, device: Any = None) -> Profile:
        """All that was measured so far."""
        faults = round(statistics.median(self._faults))
        return profile_of(
            self.dag.name, self.graph, self._clocks.origins, self.measured(), self.seconds(), self.threads,
            len(self.whole), device, faults,
        )  # fmt: skip


#: Parameters of glibc's mallopt: how much free memory at its end is given back, how many blocks are mapped apart.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Let the C allocator keep the memory it has, for the rest of the process; False where it can't (not glibc).

    By default glibc may give the activations of a run back to the system and ask for them again in the next: thousands
    of page faults, up to half the time of a small network, in one process and not in the next.
    """
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


class _TimedWriter(Writer):
    """Writes code that reads the clocks before every statement and after the last."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stamps: list[tuple[int, int]] = []
        stamp, wall, cpu = self.stamps.append, time.perf_counter_ns, time.process_time_ns
        self.names["_tick"] = lambda: stamp((wall(), cpu()))
        self._statements: list[Statement] = []

    def statements(self, roots: Sequence[Value]) -> list[Statement]:
        self._statements = super().statements(roots)
        for s in self._statements:
            s.before.insert(0, "_tick()")
        return self._statements

    def lines(self, statements: list[Statement], end: list[str], inputs: dict[Value, str],
              path: Path, modules: Mapping[str, str], said: str = "") -> list[str]:  # fmt: skip
        return super().lines(statements, ["_tick()", *end], inputs, path, modules, said)

    @cached_property
    def computed(self) -> list[list[Value]]:
        """The values that each statement computes: its target first, then what is written inside its expression."""
        of: dict[Value, int] = {}
        found: list[list[Value]] = []
        for n, s in enumerate(self._statements):
            target = next(t for t in s.targets if t is not None)
            target = target.args[0] if len(s.targets) > 1 else target
            of[target] = n
            found.append([target])
        for value in reversed(self.graph.values):
            if isinstance(value.op, Leaf | Const) or value in of:
                continue
            users = [of[u] for u in self.users[value] if u in of]
            if users:
                of[value] = min(users)
                found[of[value]].append(value)
        return found


def _clock_cost() -> np.ndarray[Any, Any]:
    """Seconds of wall and processor time between two readings of the clocks with nothing in between."""
    stamps: list[tuple[int, int]] = []
    stamp, wall, cpu = stamps.append, time.perf_counter_ns, time.process_time_ns
    read = lambda: stamp((wall(), cpu()))  # noqa: E731 (as the code has it)
    for _ in range(1001):
        read()
    return np.median(np.diff(np.array(stamps, np.int64), axis=0), axis=0) / 1e9


@contextmanager
def _alone(threads: int) -> Generator[None]:
    """So many threads, no gradients, and no collection of cycles in between."""
    before, collects = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)
        if collects:
            gc.enable()


# --- inputs ------------------------------------------------------------------------------------------------


def random_inputs(dag: TensorDAG, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the types that a network takes: normal floats, bools, integers that fit what they are indices of.

    Integers that index nothing are 0 or 1.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves = [_drawn(v, least_indexed(dag.graph, v), generator) for v in dag.graph.inputs.values()]
    args, kwargs = dag.signature.inputs.unflatten(leaves)
    return tuple(args), dict(kwargs)


def _drawn(value: Value, below: int, generator: torch.Generator) -> Tensor:
    shape, dtype = value.type.shape, DTYPES[value.dtype.name]
    if value.dtype.is_float or value.dtype.is_complex:
        wide = torch.complex64 if value.dtype.is_complex else torch.float32
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)
    most = 2 if dtype == torch.bool else min(below, torch.iinfo(dtype).max)
    return torch.randint(0, most, shape, generator=generator).to(dtype)
