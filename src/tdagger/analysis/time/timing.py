"""How long a network takes on a device: a few numbers for each kind of kernel, from a device file.

A *calibrated* device says how many seconds a call, a flop, a byte read ... of each kind of kernel take (``tdagger
calibrate`` measures them); a kernel's time is the sum. One that isn't calibrated has a vendor's peak numbers and a
stated efficiency; a kernel's time is then a roofline, the longer of computing and moving. ``docs/time.md`` says how
good that is.

>>> import tdagger as td
>>> x, w = td.input("x", (64, 1024)), td.parameter("w", (4096, 1024))
>>> found = predict(td.Graph({"x": x}, {"y": td.relu(td.linear(x, w))}), device_of("h100"))
>>> f"{1e6 * found.seconds:.1f} us", [r.name for r in found.by_kind], found.notices[0][:14]
('26.9 us', ['matmul', 'elementwise'], 'not calibrated')
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from tdagger.analysis.cost.report import outward
from tdagger.analysis.time.work import UNITS, Work, works
from tdagger.errors import SourceError
from tdagger.graph import Graph
from tdagger.op import Value

#: What a device file says of a kind, the unit of :data:`UNITS` that it is for, and how many seconds 1/number is.
RATES: dict[str, tuple[str, float]] = {
    "gflops": ("flops", 1e-9),
    "gfunctions": ("functions", 1e-9),
    "gbytes_read": ("reads", 1e-9),
    "gbytes_read_far": ("far", 1e-9),
    "gbytes_of_weights": ("weights", 1e-9),
    "gbytes_written": ("writes", 1e-9),
    "gbytes_of_scratch": ("scratch", 1e-9),
    "gbytes_before": ("before", 1e-9),
}
#: Kinds whose flops run at the peak of matrix units; the others' at the peak of float32.
_PRODUCTS = {"matmul", "batched", "convolution", "pointwise", "grouped", "depthwise", "attention", "recurrent"}


@dataclass(frozen=True)
class Device:
    """What a device file says; see :func:`device_of`.

    ``seconds`` are, for each kind of kernel, the seconds of a call, a flop, a transcendental function, a byte read of
    activations, of weights, written, and of scratch (:data:`~tdagger.analysis.time.work.UNITS`); ``calibration`` how
    they were measured. Without, ``roofline`` has the peaks: billions of flops per second by element type, of bytes per
    second, microseconds for a call, and the part of each peak to expect. ``source`` says where the numbers are from.
    """

    name: str
    title: str
    source: str
    seconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]], repr=False)
    calibration: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    roofline: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def is_calibrated(self) -> bool:
        """Whether the numbers were measured on the device."""
        return bool(self.calibration)

    def known(self, kind: str) -> str | None:
        """The kind that stands for a kind: itself, the one without what follows its first word, or "other"."""
        return next((k for k in (kind, kind.partition(" ")[0], "other") if k in self.seconds), None)

    def time(self, work: Work) -> float:
        """Seconds of a kernel."""
        if not self.is_calibrated:
            return self._roof(work)
        kind = self.known(work.kind)
        if kind is None:
            return 0.0
        return math.fsum(a * b for a, b in zip(work[2:], self.seconds[kind], strict=True))

    def _roof(self, work: Work) -> float:
        if work.kind == "view":
            return 0.0
        peaks: Mapping[str, float] = self.roofline["gflops"]
        expect: Mapping[str, float] = self.roofline["efficiency"]
        products = work.kind.partition(" ")[0] in _PRODUCTS
        peak = peaks.get(work.dtype if products else "f32", peaks["f32"])
        compute = work.flops / (peak * 1e9 * expect["compute"])
        moved = work.reads + work.far + work.weights + work.writes
        memory = moved / (self.roofline["gbytes"] * 1e9 * expect["memory"])
        return max(compute, memory) + self.roofline["us_per_call"] * 1e-6

    @classmethod
    def from_json(cls, found: Mapping[str, Any], where: str = "device file") -> Device:
        """A device of plain data; SourceError says what is missing or wrong."""
        try:
            kinds = {k: _seconds(rates) for k, rates in found.get("kinds", {}).items()}
            device = cls(
                found["name"], found["title"], found["source"], kinds, found.get("calibration", {}),
                found.get("roofline", {}),
            )  # fmt: skip
            if not device.calibration:
                device._roof(Work("matmul", "f32"))
        except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as e:
            raise SourceError(f"{where} is not a device file: {type(e).__name__} {e}; see docs/time.md") from e
        if device.calibration and not kinds:
            raise SourceError(f"{where} is not a device file: it says it is calibrated, but has no kinds")
        return device

    def as_json(self) -> dict[str, Any]:
        """Plain data that :meth:`from_json` takes: rates, where what takes no time isn't listed."""
        found: dict[str, Any] = {"name": self.name, "title": self.title, "source": self.source}
        if self.roofline:
            found["roofline"] = dict(self.roofline)
        if self.calibration:
            found["calibration"] = dict(self.calibration)
            found["kinds"] = {k: _rates(s) for k, s in self.seconds.items()}
        return found

    def save(self, path: Path | str) -> None:
        """Write the device file."""
        Path(path).write_text(json.dumps(self.as_json(), indent=1) + "\n", "utf-8")


def _seconds(rates: Mapping[str, float]) -> tuple[float, ...]:
    unknown = [n for n in rates if n not in RATES and n != "us_per_call"]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of us_per_call, {', '.join(RATES)}")
    each = {unit: factor / rates[name] for name, (unit, factor) in RATES.items() if name in rates}
    return tuple([1e-6 * rates.get("us_per_call", 0.0) if u == "calls" else each.get(u, 0.0) for u in UNITS])


def _rates(seconds: Iterable[float]) -> dict[str, float]:
    each = dict(zip(UNITS, seconds, strict=True))
    found = {"us_per_call": float(f"{1e6 * each['calls']:.4g}")} if each["calls"] else {}
    return found | {n: float(f"{factor / each[u]:.4g}") for n, (u, factor) in RATES.items() if each[u]}


def devices() -> list[str]:
    """The names of the device files that come with tdagger."""
    folder = resources.files("tdagger") / "devices"
    return sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))


def device_of(device: Device | str | Path) -> Device:
    """A device: itself, that of a file (``*.json``), or one that comes with tdagger, by name.

    SourceError if there is none of that name, or the file isn't a device file.

    >>> device_of("raspberry-pi-5").title
    'Raspberry Pi 5 (4 Cortex-A76 cores at 2.4 GHz)'
    """
    if isinstance(device, Device):
        return device
    path = Path(device)
    if path.suffix != ".json" and str(device) not in devices():
        raise SourceError(
            f"there is no device {str(device)!r}: give a device file (.json) or one of {', '.join(devices())}"
        )
    if path.suffix == ".json":
        text = path.read_text("utf-8")
    else:
        text = (resources.files("tdagger") / "devices" / f"{device}.json").read_text("utf-8")
    try:
        found = json.loads(text)
    except ValueError as e:
        raise SourceError(f"{device} is not a device file: {e}") from e
    return Device.from_json(found, str(device))


# --- predictions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """The predicted seconds of a kind of kernel, or of a module: how many kernels, and their part of all."""

    name: str
    seconds: float
    kernels: int
    share: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """How long a network should take; ``float(prediction)`` are the seconds.

    ``seconds_of`` has those of every value, ``by_kind`` of every kind of kernel, most first, ``by_module`` of every
    module, inner modules included. ``notices`` say what the number isn't: calibrated, for this element type, complete.
    """

    seconds: float
    device: Device
    works: Mapping[Value, list[Work]] = field(repr=False)
    origins: Mapping[Value, Any] = field(repr=False)
    notices: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.seconds

    @cached_property
    def seconds_of(self) -> dict[Value, float]:
        """The seconds of every value that has kernels."""
        return {v: math.fsum(map(self.device.time, each)) for v, each in self.works.items()}

    @cached_property
    def by_kind(self) -> tuple[Share, ...]:
        """The seconds of every kind of kernel, most first."""
        each = [(w.kind, self.device.time(w)) for found in self.works.values() for w in found]
        return tuple(sorted(self._shares(each), key=lambda s: -s.seconds))

    @cached_property
    def by_module(self) -> tuple[Share, ...]:
        """The seconds of every module path, in the order of the network, the whole ("") first."""
        each: list[tuple[str, float]] = []
        for value, seconds in self.seconds_of.items():
            origin = self.origins.get(value)
            path: str = origin.module if origin is not None else ""
            each += [(outer, seconds) for outer in outward(path)]
        return tuple(self._shares(each))

    def _shares(self, named: Iterable[tuple[str, float]]) -> list[Share]:
        groups: dict[str, list[float]] = {}
        for name, seconds in named:
            groups.setdefault(name, []).append(seconds)
        sums = {name: math.fsum(of) for name, of in groups.items()}
        return [Share(n, s, len(groups[n]), s / self.seconds if self.seconds else 0.0) for n, s in sums.items()]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data, but values."""
        return {
            "seconds": self.seconds,
            "device": self.device.name,
            "calibrated": self.device.is_calibrated,
            "notices": list(self.notices),
            "by_kind": [vars(s) for s in self.by_kind],
            "by_module": [vars(s) for s in self.by_module],
        }

    def __str__(self) -> str:
        lines = [f"{1e3 * self.seconds:.3g} ms on {self.device.title}", *(f"note: {n}" for n in self.notices), ""]
        lines.append(f"{'kind':24} {'kernels':>8} {'ms':>10} {'share':>8}")
        lines += [f"{s.name:24} {s.kernels:>8} {1e3 * s.seconds:>10.3f} {s.share:>8.1%}" for s in self.by_kind]
        return "\n".join(lines)


def predict(graph: Graph, device: Device, origins: Mapping[Value, Any] | None = None) -> Prediction:
    """How long a graph takes on a device, kernel by kernel; reads no weights, linear in values."""
    found = works(graph)
    total = math.fsum(device.time(w) for each in found.values() for w in each)
    return Prediction(total, device, found, origins or {}, tuple(_notices(graph, device, found)))


def _notices(graph: Graph, device: Device, found: Mapping[Value, list[Work]]) -> Iterable[str]:
    kernels = {(w.kind, w.dtype) for each in found.values() for w in each}
    if not device.is_calibrated:
        expect = device.roofline["efficiency"]
        yield (
            f"not calibrated: a roofline of published peaks, of which {expect['compute']:.0%} (compute) and "
            f"{expect['memory']:.0%} (memory) are assumed; run `tdagger calibrate` on the device"
        )
        peaks = device.roofline["gflops"]
        other = sorted({d for _, d in kernels if d in ("f16", "bf16") and d not in peaks})
        if other:
            yield f"the device file has no peak for {', '.join(other)}; that of f32 is taken"
    else:
        missing = sorted({k for k, _ in kernels if device.known(k) != k and device.known(k) != k.partition(" ")[0]})
        if missing:
            yield f"not calibrated for kernels of kind {', '.join(missing)}; the numbers of others stand for them"
        floats = sorted({d for _, d in kernels if d in ("f16", "bf16", "f64")})
        if floats:
            yield f"calibrated with f32 only, but some kernels compute with {', '.join(floats)}"
    if graph.external:
        yield f"partial: nothing is known of {', '.join(graph.external)}"
