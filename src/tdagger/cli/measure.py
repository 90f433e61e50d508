"""What ``inspect`` and ``verify`` report, as plain data: the totals of a network, the errors of outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tdagger.analysis.cost.report import outward
from tdagger.analysis.cost.traffic import composite
from tdagger.graph import bulk, flops, label
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf, Parameter
from tdagger.ops.structure import Item
from tdagger.quantization.quality.steps import Within, steps, within
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType


def described(name: str, type_: TensorType) -> dict[str, Any]:
    """An input or output for programs."""
    return {"name": name, "dtype": type_.dtype.name, "shape": list(type_.shape)}


@dataclass
class _Sums:
    """What values cost together: those of an op, or of a module with all that is inside of it."""

    flops: int = 0
    reads: int = 0
    writes: int = 0
    ops: int = 0
    parameters: set[Value] = field(default_factory=set[Value])

    def add(self, other: _Sums) -> None:
        self.flops += other.flops
        self.reads += other.reads
        self.writes += other.writes
        self.ops += other.ops
        self.parameters |= other.parameters

    @property
    def costs(self) -> dict[str, int]:
        return {"flops": self.flops, "memory_reads": self.reads, "memory_writes": self.writes}

    @property
    def size(self) -> int:
        return sum([v.type.size for v in self.parameters])


def _summed(dag: TensorDAG) -> tuple[dict[str, _Sums], dict[str, _Sums]]:
    """What each op costs, by name, and each module, by path, in the order they come.

    These are columns of ``dag.cost()``, which finds much more: attention and its masks, memory, the other models.
    """
    moved = composite(dag.graph)
    known: dict[Any, int] = {}
    ops: dict[str, _Sums] = defaultdict(_Sums)
    alone: dict[str, _Sums] = defaultdict(_Sums)
    for value in dag.graph.values:
        op = value.op
        if isinstance(op, Leaf | Const | Item):  # taking one of several results isn't an op
            continue
        types = tuple([a.type for a in value.args])
        each = known.get((op, types))
        if each is None:
            each = known[op, types] = flops(value)
        reads, writes = moved[value]
        used = [a for a in value.args if isinstance(a.op, Parameter)]
        origin = dag.origins.get(value)
        for sums in (ops[label(op)], alone[origin.module if origin is not None else ""]):
            sums.flops += each
            sums.reads += reads
            sums.writes += writes
            sums.ops += 1
            if used:
                sums.parameters.update(used)
    modules: dict[str, _Sums] = defaultdict(_Sums, {"": _Sums()})
    for path, sums in alone.items():
        for around in outward(path):
            modules[around].add(sums)
    return ops, modules


def report(dag: TensorDAG, source: str, depth: int | None) -> dict[str, Any]:
    """Totals, ops and modules of a network, in the form ``inspect --json`` prints.

    Bytes are bytes, FLOPs operations; modules are those down to ``depth`` names (None: all), each with all
    that is inside it. Keys are only ever added.
    """
    graph = dag.graph
    with bulk():
        ops, modules = _summed(dag)
    whole = modules[""]
    return {
        "source": source,
        "name": dag.name,
        "inputs": [described(n, v.type) for n, v in graph.inputs.items()],
        "outputs": [described(n, v.type) for n, v in graph.outputs.items()],
        "updates": list(graph.updates),
        "totals": {
            "parameters": whole.size,
            "parameter_bytes": sum(v.type.bytes for v in graph.parameters.values()),
            "bytes": graph.total_bytes(),
            **whole.costs,
            "values": len(graph.values),
            "ops": whole.ops,
        },
        "ops": {
            name: {"count": sums.ops, "flops": sums.flops}
            for name, sums in sorted(ops.items(), key=lambda item: -item[1].ops)
        },
        "external": dict(graph.external),
        "modules": [
            {
                "path": path,
                "class": dag.modules.get(path, ""),
                "parameters": modules[path].size,
                "parameter_bytes": dag[path].total_bytes(),
                **modules[path].costs,
                "ops": modules[path].ops,
            }
            for path in _inward(modules, depth)
        ],
    }


def _inward(modules: Iterable[str], depth: int | None) -> list[str]:
    """The paths of modules down to ``depth``, each followed by those inside of it."""
    inner: dict[str, list[str]] = {}
    for path in modules:
        if path:
            inner.setdefault(path.rpartition(".")[0], []).append(path)
    found: list[str] = []
    stack = inner.get("", [])[::-1] if depth != 0 else []
    while stack:
        path = stack.pop()
        found.append(path)
        if depth is None or path.count(".") + 1 < depth:
            stack += inner.get(path, [])[::-1]
    return found


class Difference(NamedTuple):
    """How far two arrays are apart: the largest |a - b|, and that divided by the largest |a|.

    ``within`` says that no more than rounding to integers is in it, ``beyond`` that more is, of one run or several.
    """

    absolute: float
    relative: float
    why: str = ""
    within: Within | None = None
    beyond: bool = False

    def worse(self, other: Difference) -> Difference:
        """The larger of both, number by number."""
        larger = max(self.absolute, other.absolute), max(self.relative, other.relative)
        rounded = max([d.within for d in (self, other) if d.within is not None], default=None)
        return Difference(*larger, self.why or other.why, rounded, self.beyond or other.beyond)

    def verdict(self, tolerance: float) -> str:
        """``same``, ``rounded`` or ``differs``."""
        if self.relative <= tolerance:
            return "same"
        return "rounded" if self.within is not None and not self.beyond else "differs"


def difference(expected: Array, got: Array) -> Difference:
    """The difference of two outputs; infinite if types differ, or infinities and NaNs are not at one place."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        shown = [f"{a.dtype}{list(a.shape)}" for a in (expected, got)]
        return Difference(np.inf, np.inf, f"{shown[0]} became {shown[1]}")
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return Difference(np.inf, np.inf, "infinities or NaNs differ")
    absolute = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(a[finite]).max(initial=0.0))
    return Difference(absolute, absolute / scale if scale else absolute)


def differences(expected: Sequence[Array], got: Sequence[Array]) -> list[Difference]:
    """The difference of every output; if their numbers differ, each is infinitely far off."""
    if len(expected) != len(got):
        lost = Difference(np.inf, np.inf, f"{len(expected)} outputs became {len(got)}")
        return [lost] * max(len(expected), 1)
    return [difference(a, b) for a, b in zip(expected, got, strict=True)]


def as_rounded(
    source: Any, dag: Any, inputs: Any, got: Sequence[Array], found: Sequence[Difference], tolerance: float
) -> list[Difference]:
    """Differences beyond the tolerance, with what rounding to integers explains of them.

    Of a network that rounds nothing to integers, and of a source that is run in one way only, they are as they were.
    """
    if not isinstance(dag, TensorDAG) or not hasattr(source, "run_ways"):
        return list(found)
    off = [i for i, d in enumerate(found) if tolerance < d.relative < np.inf]
    sizes = steps(dag, dag.bind(*inputs)) if off else []
    if not any(sizes[i] for i in off):
        return list(found)
    ways = source.run_ways(inputs)
    told = list(found)
    for i in off:
        size = sizes[i]
        if size:
            own = within(got[i], [[run[i] for run in runs] for runs in ways], size)
            told[i] = found[i]._replace(within=own, beyond=own is None)
    return told
