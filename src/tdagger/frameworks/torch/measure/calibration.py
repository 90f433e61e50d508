"""Calibrates a device: profiles networks of random sizes on this machine and fits a device file to them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tdagger.analysis.time.fit import Sample, errors, fit
from tdagger.analysis.time.timing import Device
from tdagger.analysis.time.work import Work, works
from tdagger.errors import AttributeValueError
from tdagger.frameworks.torch.measure.calibration_networks import FAMILIES, network
from tdagger.frameworks.torch.measure.profiler import Profiler, keep_memory

#: How many networks are measured unless told otherwise, and for how many seconds each.
NETWORKS, SECONDS = 4 * len(FAMILIES), 1.0
#: Fewer would leave out a family.
LEAST_NETWORKS = len(FAMILIES)
#: Where others use the machine too, a low quantile of the runs says more of the machine than their median.
_QUANTILE = 0.25
#: How often the whole counts, beside all its kernels one by one.
_WHOLES = 4
#: How many parts the networks are cut in to see how well the rest predicts each.
_FOLDS = 5


class Observed(NamedTuple):
    """What was measured of a network: its kernels with their times, one by one and all at once."""

    name: str
    samples: list[Sample]
    whole: Sample

    @property
    def all(self) -> list[Sample]:
        """What to fit to: every kernel, and the whole, which is what is to be predicted, several times."""
        return [*self.samples, *[self.whole] * _WHOLES]


def observe(profiler: Profiler, seconds: float | None = None) -> Observed:
    """What a profiler has measured, in processor time, as samples; ``seconds`` stands for its time of the whole."""
    of = works(profiler.graph)
    samples = [
        Sample([w for v in values for w in of.get(v, ())], time.cpu)
        for values, time in profiler.measured(_QUANTILE)
        if any(v in of for v in values)
    ]
    everything: list[Work] = [w for each in of.values() for w in each]
    whole = profiler.seconds(_low).cpu if seconds is None else seconds
    return Observed(profiler.dag.name, samples, Sample(everything, whole))


def _low(times: Sequence[float]) -> float:
    return sorted(times)[int(_QUANTILE * (len(times) - 1))]


def device_from(observed: Sequence[Observed], name: str, threads: int = 1) -> Device:
    """The device that fits what was observed; its calibration says how well, on networks left out of the fit."""
    predicted: dict[int, float] = {}
    for fold in range(_FOLDS):
        others = [s for i, o in enumerate(observed) if i % _FOLDS != fold for s in o.all]
        trial = Device(name, "", "", fit(others), {"fold": fold})
        predicted |= {i: sum(map(trial.time, o.whole.works)) for i, o in enumerate(observed) if i % _FOLDS == fold}
    record: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "threads": threads,
        "torch": torch.__version__,
        "dtype": "f32",
        "networks": len(observed),
        **errors([predicted[i] for i in range(len(observed))], [o.whole.seconds for o in observed]),
    }
    title = f"{record['processor']}, {threads} thread{'s' * (threads > 1)}"
    source = "measured by `tdagger calibrate`; the errors are of networks that were left out of the fit, in 5 parts"
    return Device(name, title, source, fit([s for o in observed for s in o.all]), record)


def calibrate(
    name: str = "this",
    threads: int = 1,
    networks: int | None = None,
    seconds: float = SECONDS,
    tell: Callable[[int, int, str], None] | None = None,
) -> Device:
    """A device file for this machine: about two minutes on ``threads`` threads.

    ``networks`` of :mod:`~tdagger.frameworks.torch.measure.calibration_networks` are profiled for ``seconds`` each.
    ``tell(done, of, name)`` is called before each. Keeps the memory of the process (:func:`keep_memory`).
    AttributeValueError for fewer networks than there are families.
    """
    return device_from(observations(threads, networks, seconds, tell), name, threads)


def observations(
    threads: int = 1,
    networks: int | None = None,
    seconds: float = SECONDS,
    tell: Callable[[int, int, str], None] | None = None,
) -> list[Observed]:
    """What :func:`calibrate` measures, with its options."""
    networks = NETWORKS if networks is None else networks
    if networks < LEAST_NETWORKS:
        raise AttributeValueError(f"calibrate: {networks} networks are too few, there are {LEAST_NETWORKS} families")
    keep_memory()
    observed: list[Observed] = []
    for number in range(networks):
        dag = network(number)
        if tell is not None:
            tell(number, networks, dag.name)
        observed.append(observe(Profiler(dag, threads=threads).run(seconds=seconds)))
    return observed


def _processor() -> str:
    """The name of the processor, as the system has it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8", "replace").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if named:
            return named[0]
    return platform.processor() or platform.machine()
