"""A profile: the measured time of every op of a network beside what is counted of it, and where the time goes.

A framework measures (``frameworks/torch/measure/profiler.py``), :func:`profile_of` sums up. ``docs/time.md`` says how
it is done.

>>> import tdagger as td
>>> x, w = td.input("x", (8, 4)), td.parameter("w", (4, 4))
>>> y = td.linear(x, w)
>>> z = td.relu(y)
>>> measured = [Measured((y,), Seconds(3e-6, 3e-6)), Measured((z,), Seconds(1e-6, 1e-6))]
>>> profile = profile_of("net", td.Graph({"x": x}, {"z": z}), {}, measured, Seconds(5e-6, 5e-6))
>>> [(r.name, r.flops, r.bytes, round(r.share, 2)) for r in profile.bottlenecks(2)]
[('linear', 224, 320, 0.75), ('relu', 32, 256, 0.25)]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tdagger.analysis.cost.report import Count, cost_of, outward
from tdagger.analysis.numbers import duration, quantity
from tdagger.analysis.time.timing import Device, device_of, predict
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, label
from tdagger.names import shown
from tdagger.op import Value

#: So many page faults in a run aren't worth a word.
_FEW_FAULTS = 100


class Seconds(NamedTuple):
    """Time on the clock, and processor time of all threads together."""

    wall: float
    cpu: float


class Measured(NamedTuple):
    """What was measured at once: an op, with the views and small ops that are written inside its expression."""

    values: tuple[Value, ...]
    seconds: Seconds


@dataclass(frozen=True)
class Row:
    """The time of one op, or of several together, beside what is counted of them.

    ``wall_seconds`` are on the clock, ``cpu_seconds`` of processors; ``seconds`` is the one that ``share``, ``gflops``
    and ``gbytes`` are of: processor time on one thread, which waits for nobody, the clock's on several. ``share`` is of
    the sum over all ops; ``flops`` are all operations on elements, ``bytes`` what is read and written at the boundaries
    of composites; ``predicted`` the seconds that a device file says, None without one.
    """

    name: str
    seconds: float
    wall_seconds: float
    cpu_seconds: float
    flops: int
    bytes: int
    ops: int = 1
    module: str = ""
    share: float = 0.0
    predicted: float | None = None
    value: Value | None = field(default=None, repr=False)

    @property
    def gflops(self) -> float:
        """Billions of operations on elements per second, achieved."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """Billions of bytes read and written per second, achieved."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """The row as plain data; a value's has its ``type``, and nothing is there that wasn't measured."""
        found: dict[str, Any] = {
            "name": self.name, "module": self.module, "ops": self.ops, "seconds": self.seconds,
            "wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds, "share": self.share,
            "flops": self.flops, "bytes": self.bytes,
            "gflops": self.gflops, "gbytes": self.gbytes,
        }  # fmt: skip
        if self.value is not None:
            found["type"] = str(self.value.type)
        return found if self.predicted is None else {**found, "predicted_seconds": self.predicted}


@dataclass(frozen=True)
class Profile:
    """The time of a network and of its parts; ``print(profile)`` is a table.

    ``by_value`` has a row for every op in the order of the network, ``by_op`` one for each kind of op, ``by_module``
    one for each module, inner modules included. ``ops`` is the sum over ops, ``whole`` the network run at once, without
    clocks in between; both are medians over ``runs`` on ``threads`` threads. ``device`` is what ``predicted`` is for.
    ``page_faults`` is how often in a run the allocator gave out memory that the system had to provide first.
    """

    name: str
    whole: Seconds
    ops: Seconds
    threads: int
    runs: int
    by_value: tuple[Row, ...] = field(repr=False)
    by_op: tuple[Row, ...] = field(repr=False)
    by_module: tuple[Row, ...] = field(repr=False)
    device: Device | None = None
    page_faults: int = 0

    @property
    def overhead(self) -> Seconds:
        """What the whole takes beyond its ops: checks of arguments, the call; less than 0 where clocks disturb."""
        return Seconds(self.whole.wall - self.ops.wall, self.whole.cpu - self.ops.cpu)

    @property
    def seconds(self) -> float:
        """The time of the whole: processor time on one thread, the clock's on several."""
        return chosen(self.whole, self.threads)

    @property
    def predicted(self) -> float | None:
        """The seconds that the device file says, of all ops."""
        return None if self.device is None else math.fsum(r.predicted or 0.0 for r in self.by_value)

    def rows(self, by: str = "value") -> tuple[Row, ...]:
        """The rows by value, op or module; AttributeValueError for anything else."""
        if by not in ("value", "op", "module"):
            raise AttributeValueError(f"profile: rows are by value, op or module, not by {by!r}")
        return getattr(self, f"by_{by}")

    def bottlenecks(self, count: int = 5, by: str = "value") -> list[Row]:
        """The rows that take the most time, most first; the whole network isn't among the modules."""
        rows = [r for r in self.rows(by) if by != "module" or r.name]
        return sorted(rows, key=lambda r: -r.seconds)[:count]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data; times are seconds."""
        found: dict[str, Any] = {
            "name": self.name,
            "threads": self.threads,
            "runs": self.runs,
            "page_faults": self.page_faults,
            "seconds": {
                "whole": self.whole._asdict(), "ops": self.ops._asdict(), "overhead": self.overhead._asdict()
            },
        }  # fmt: skip
        if self.device is not None:
            found["device"] = {"name": self.device.name, "calibrated": self.device.is_calibrated}
            found["predicted_seconds"] = self.predicted
        return found | {f"by_{by}": [r.as_json() for r in self.rows(by)] for by in ("op", "module", "value")}

    def __str__(self) -> str:
        whole, ops, over = self.whole, self.ops, self.overhead
        lines = [
            f"{shown(self.name)}: {duration(whole.cpu)} of processor time, {duration(whole.wall)} on the clock; median "
            f"of {self.runs} runs on {self.threads} thread{'s' * (self.threads > 1)}",
            f"sum of ops {duration(ops.cpu)}, {duration(ops.wall)}; "
            f"overhead {duration(over.cpu)}, {duration(over.wall)}",
        ]
        if self.page_faults > _FEW_FAULTS:
            lines.append(
                f"{self.page_faults:,} page faults in a run: the C allocator gives memory back and asks for it again; "
                "docs/time.md says how to stop it"
            )
        if self.device is not None and self.predicted is not None:
            off = self.predicted / self.seconds - 1 if self.seconds else 0.0
            lines.append(f"predicted {duration(self.predicted)} ({off:+.1%}) for {self.device.title}")
        lines += ["", *table(self.by_op, "op"), "", *table(self.bottlenecks(10), "slowest")]
        return "\n".join(lines)


def table(rows: Iterable[Row], title: str) -> list[str]:
    """Rows as lines: time, share, what is counted, what is achieved."""
    rows = list(rows)
    predicts = any(r.predicted is not None for r in rows)
    head = f"{title:24} {'ops':>5} {'time':>10} {'share':>7}" + f" {'predicted':>10}" * predicts
    lines = [f"{head} {'FLOPs':>8} {'bytes':>8} {'GFLOP/s':>8} {'GB/s':>7}"]
    for r in rows:
        text = f"{(r.name or '(all)')[:24]:24} {r.ops:>5} {duration(r.seconds):>10} {r.share:>7.1%}"
        text += f" {duration(r.predicted or 0.0):>10}" * predicts
        text += f" {quantity(r.flops):>8} {quantity(r.bytes):>8} {r.gflops:>8.1f} {r.gbytes:>7.1f}"
        where = r.module if r.value is None else f"{r.module} {r.value.type}".strip()
        lines.append(f"{text}  {where}".rstrip())
    return lines


def _weight(row: Count | None) -> tuple[int, int]:
    return (0, 0) if row is None else (row.total_flops, row.reads + row.writes)


def chosen(seconds: Seconds, threads: int) -> float:
    """Processor time on one thread, time on the clock on several."""
    return seconds.cpu if threads == 1 else seconds.wall


def profile_of(
    name: str,
    graph: Graph,
    origins: Mapping[Value, Any],
    measured: Sequence[Measured],
    whole: Seconds,
    threads: int = 1,
    runs: int = 1,
    device: Device | str | None = None,
    page_faults: int = 0,
) -> Profile:
    """Sum up what was measured of a graph: ``measured`` in the order it ran, ``whole`` without clocks in between.

    ``origins`` tells the module a value is from. ``device``: see :func:`tdagger.analysis.time.timing.device_of`.
    """
    counted = {r.value: r for r in cost_of(graph, origins).by_value}
    on = None if device is None else device_of(device)
    times = {} if on is None else predict(graph, on).seconds_of
    total = math.fsum(chosen(m.seconds, threads) for m in measured)
    rows: list[Row] = []
    for values, seconds in measured:
        costs = [counted[v] for v in values if v in counted]
        first = max(values, key=lambda v: _weight(counted.get(v)))  # what the others are only views of, or steps to
        time = chosen(seconds, threads)
        row = Row(
            label(first.op), time, seconds.wall, seconds.cpu, sum(c.total_flops for c in costs),
            sum(c.reads + c.writes for c in costs), module=counted[first].module if first in counted else "",
            share=time / total if total else 0.0,
            predicted=None if on is None else sum(times.get(v, 0.0) for v in values), value=first,
        )  # fmt: skip
        rows.append(row)
    by_op = sorted(_grouped((r.name, r) for r in rows), key=lambda r: -r.seconds)
    by_module = _grouped((path, r) for r in rows for path in outward(r.module))
    ops = Seconds(math.fsum(m.seconds.wall for m in measured), math.fsum(m.seconds.cpu for m in measured))
    return Profile(name, whole, ops, threads, runs, tuple(rows), tuple(by_op), tuple(by_module), on, page_faults)


def _grouped(named: Iterable[tuple[str, Row]]) -> list[Row]:
    """A row for every name, the sum of its rows."""
    groups: dict[str, list[Row]] = {}
    for name, row in named:
        groups.setdefault(name, []).append(row)
    return [
        Row(
            name, math.fsum(r.seconds for r in of), math.fsum(r.wall_seconds for r in of),
            math.fsum(r.cpu_seconds for r in of), sum(r.flops for r in of),
            sum(r.bytes for r in of), len(of), share=math.fsum(r.share for r in of),
            predicted=None if of[0].predicted is None else math.fsum(r.predicted or 0.0 for r in of),
        )
        for name, of in groups.items()
    ]  # fmt: skip
