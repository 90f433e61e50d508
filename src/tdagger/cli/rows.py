"""What a network costs as rows of plain numbers: by op, by value, or by module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import accumulate
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from tdagger.analysis.cost.backward import BackwardWork
from tdagger.analysis.cost.report import Cost, Count, Row, cost_of, outward
from tdagger.analysis.cost.traffic import MODELS
from tdagger.analysis.memory.activations import Memory, buffers
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph
from tdagger.graph import Traffic as Moved
from tdagger.op import Value
from tdagger.ops.external import External
from tdagger.ops.source import Parameter
from tdagger.ops.structure import Item
from tdagger.tensordag import TensorDAG

#: What a table has a row for.
By = Literal["op", "module", "value"]

#: A cost by name; every name is a column of ``--csv``.
Numbers = dict[str, float]

#: How many seconds values take.
Seconds = Mapping[Value, float]

_COUNTED = [f.name for f in fields(Count)]
_columns = attrgetter(*_COUNTED)


def _named(counts: Sequence[Any]) -> Numbers:
    """The columns of a count by name, with ``composite_reads`` and ``composite_writes`` for ``composite``."""
    found: Numbers = {}
    for name, n in zip(_COUNTED, counts, strict=True):
        if isinstance(n, Moved):
            found |= {f"{name}_reads": n.reads, f"{name}_writes": n.writes}
        elif isinstance(n, BackwardWork):
            flops = {"backward_contraction_flops": 2 * n.macs, "recomputed_flops": 2 * n.recomputed}
            found |= {"backward_macs": n.macs, **flops}
        elif n is not None:
            found[name] = n
    return found


@cache
def names(backward: bool, timed: bool) -> tuple[str, ...]:
    """What the numbers of a row are called; with those of the backward pass, with predicted time."""
    nothing = cost_of(Graph({}, {}), backward={} if backward else None)
    return (*_named(_columns(nothing)), "parameters", "peak_bytes", "ops", *(["predicted_seconds"] if timed else []))


def intensities(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """FLOPs for each byte read or written, under every model of traffic; None where nothing is moved."""
    moved = {m: numbers[f"{m}_reads"] + numbers[f"{m}_writes"] for m in MODELS}
    return {f"{m}_intensity": numbers["total_flops"] / n if n else None for m, n in moved.items()}


def totals(dag: TensorDAG, cost: Cost, seconds: Seconds | None = None) -> Numbers:
    """What the whole network costs and holds, and how many seconds it takes if those of its values are known."""
    held = [f.name for f in fields(Memory) if f.name.endswith("_bytes")]
    memory = {name: getattr(cost.memory, name) for name in held}
    size = sum(v.type.size for v in dag.graph.parameters.values())
    time = {} if seconds is None else {"predicted_seconds": math.fsum(seconds.values())}
    found = {**_named(_columns(cost)), "parameters": size, **memory, "weight_bytes": cost.memory.weight_bytes}
    return {**found, **time}


# --- rows --------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """A row: an op, a value, or a module with the rows ``inner`` to it, which its numbers include.

    ``kind`` is the class of a module or the type of a value, ``path`` the whole path of a module, or that of the one a
    value is from. A line stands for ``times`` equal modules, whose numbers are added up. ``partial`` of its ops aren't
    counted. ``own`` is what a module does itself, outside of all inner ones.
    """

    name: str
    numbers: Numbers
    kind: str = ""
    path: str = ""
    partial: int = 0
    times: int = 1
    inner: list[Line] = field(default_factory=list["Line"])
    own: Line | None = None


class Traffic(NamedTuple):
    """Which reads and writes are shown: those of a ``model``, in bytes or in elements."""

    model: str = "composite"
    unit: str = "bytes"

    @property
    def suffix(self) -> str:
        """What the names of numbers of elements have after the model."""
        return "_elements" if self.unit == "elements" else ""

    @property
    def reads(self) -> str:
        """The name of the number that is read."""
        return f"{self.model}{self.suffix}_reads"

    @property
    def writes(self) -> str:
        """The name of the number that is written."""
        return f"{self.model}{self.suffix}_writes"

    @property
    def intensity(self) -> str:
        """The name of FLOPs for each byte."""
        return f"{self.model}_intensity"

    def shows(self, name: str) -> bool:
        """Whether a number is in this unit, or isn't traffic."""
        return not name.endswith(("_reads", "_writes")) or ("_elements_" in name) == bool(self.suffix)


def _alive(graph: Graph) -> dict[Value, int]:
    """The bytes of activations that are alive while each value is computed."""
    change = [0] * (len(graph.values) + 2)
    for b in buffers(graph):
        change[b.start] += b.size
        change[b.stop + 1] -= b.size
    return dict(zip(graph.values, accumulate(change), strict=False))


def _ops(cost: Cost) -> list[Row]:
    """The rows of values that are computed: taking one of several results isn't an op."""
    return [r for r in cost.by_value if r.value is not None and not isinstance(r.value.op, Item)]


def _grouped(
    cost: Cost, alive: Mapping[Value, int], seconds: Seconds | None, keys: Callable[[Row], Iterable[str]]
) -> dict[str, Line]:
    """A line for every key, the sum of the ops that have it; in the order they come."""
    groups: dict[str, list[Row]] = {}
    for row in _ops(cost):
        for key in keys(row):
            groups.setdefault(key, []).append(row)
    return {key: _line(key, of, alive, seconds) for key, of in groups.items()}


def _line(name: str, rows: Sequence[Row], alive: Mapping[Value, int], seconds: Seconds | None) -> Line:
    values = [r.value for r in rows if r.value is not None]
    used = {a for v in values for a in v.args if isinstance(a.op, Parameter)}
    numbers: Numbers = {
        **_named([_sum(column) for column in zip(*map(_columns, rows), strict=True)]),
        "parameters": sum(v.type.size for v in used),
        "peak_bytes": max((alive[v] for v in values), default=0),
        "ops": len(rows),
    }
    if seconds is not None:
        numbers["predicted_seconds"] = math.fsum(seconds.get(v, 0.0) for v in values)
    return Line(name, numbers, partial=sum(isinstance(v.op, External) for v in values))


def _sum(column: Sequence[Any]) -> Any:
    """The sum of a column of numbers, or of tuples of numbers, or of nothing."""
    first = column[0]
    if first is None or isinstance(first, int):
        return None if first is None else sum(column)
    return type(first)(*map(sum, zip(*column, strict=True)))


def by_op(dag: TensorDAG, cost: Cost, seconds: Seconds | None = None) -> list[Line]:
    """A line for every op."""
    return list(_grouped(cost, _alive(dag.graph), seconds, lambda r: [r.name]).values())


def by_value(dag: TensorDAG, cost: Cost, seconds: Seconds | None = None) -> list[Line]:
    """A line for every value: its op, type and module."""
    alive = _alive(dag.graph)
    return [
        replace(_line(r.name, [r], alive, seconds), kind=str(r.value and r.value.type), path=r.module)
        for r in cost.by_value
    ]


def by_module(dag: TensorDAG, cost: Cost, seconds: Seconds | None = None) -> Line:
    """The network as a line, with its modules as inner lines."""
    alive = _alive(dag.graph)
    found = _grouped(cost, alive, seconds, lambda r: outward(r.module))
    own = _grouped(cost, alive, seconds, lambda r: [r.module])
    nothing = Line("", {**_named(_columns(cost)), "parameters": 0, "peak_bytes": 0, "ops": 0})
    root = found.setdefault("", nothing)  # a network without ops has no rows
    for path, line in found.items():
        outer, _, line.name = path.rpartition(".")
        line.path, line.kind, line.own = path, dag.modules.get(path, ""), own.get(path)
        if path:
            found[outer].inner.append(line)
    root.name = dag.name
    return root


def deep(line: Line, depth: int | None = None, at: int = 0) -> Iterable[tuple[int, Line]]:
    """A line and those inner to it, down to ``depth``, each after the one it is in and with how deep it is."""
    yield at, line
    for inner in line.inner if depth is None or at < depth else ():
        yield from deep(inner, depth, at + 1)


def parts(line: Line, depth: int | None = None, times: int = 1) -> list[Line]:
    """The modules down to ``depth``, each without inner ones that are listed too: every op is in one line, by path.

    ``times`` is how many modules the line is in that are told as one.
    """
    times, path = times * line.times, line.path or line.name
    if not line.inner or depth == 0:
        return [replace(line, name=path, times=times)]
    own = [replace(line.own, name=f"{path} (itself)", path=line.path, kind=line.kind, times=times)] if line.own else []
    below = None if depth is None else depth - 1
    return [*own, *(part for inner in line.inner for part in parts(inner, below, times))]


# --- order -------------------------------------------------------------------------------------------------

#: Shorter names for numbers, on the command line.
_SHORT = {"flops": "total_flops", "peak": "peak_bytes", "params": "parameters", "time": "predicted_seconds"}


def field_of(name: str, traffic: Traffic, backward: bool = False, timed: bool = False) -> str:
    """The number that ``--sort`` means; AttributeValueError tells which there are.

    ``reads``, ``writes`` and ``intensity`` are those that are shown.
    """
    short = {**_SHORT, "reads": traffic.reads, "writes": traffic.writes, "intensity": traffic.intensity}
    wanted = short.get(name, name)
    known = [*names(backward, timed), *(f"{m}_intensity" for m in MODELS)]
    if wanted not in known:
        there = [*(s for s, n in short.items() if n in known), *known]
        raise AttributeValueError(f"--sort: there is no {name!r}; there are {', '.join(there)}")
    return wanted


def ranked(lines: Iterable[Line], by: str) -> list[Line]:
    """The lines with most of a number first; those that have equally much stay as they come."""

    def amount(line: Line) -> float:
        n = line.numbers[by] if by in line.numbers else intensities(line.numbers)[by]
        return -1.0 if n is None else n

    return sorted(lines, key=amount, reverse=True)
