"""What ``inspect`` and ``verify`` report, as plain data: the totals of a network, the errors of outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.graph import flops, label
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item
from tdagger.tensordag import Region, TensorDAG
from tdagger.types import TensorType


class Cost(NamedTuple):
    """What one value, or several together, take: operations, bytes read and bytes written."""

    flops: int
    reads: int
    writes: int


def _is_op(value: Value) -> bool:
    return not isinstance(value.op, Leaf | Const | Item)


def _described(name: str, type_: TensorType) -> dict[str, Any]:
    return {"name": name, "dtype": type_.dtype.name, "shape": list(type_.shape)}


def report(dag: TensorDAG, source: str, depth: int | None) -> dict[str, Any]:
    """Totals, ops and modules of a network, in the form ``inspect --json`` prints.

    Bytes are bytes, FLOPs operations; modules are those down to ``depth`` names (None: all), each with all
    that is inside it. Keys are only ever added.
    """
    graph = dag.graph
    costs = {v: Cost(flops(v), *graph.traffic[v]) for v in graph.values}
    counts: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for value in filter(_is_op, graph.values):
        counts[label(value.op)] += 1
        spent[label(value.op)] += costs[value].flops
    return {
        "source": source,
        "name": dag.name,
        "inputs": [_described(n, v.type) for n, v in graph.inputs.items()],
        "outputs": [_described(n, v.type) for n, v in graph.outputs.items()],
        "updates": list(graph.updates),
        "totals": {
            "parameters": sum(v.type.size for v in graph.parameters.values()),
            "parameter_bytes": sum(v.type.bytes for v in graph.parameters.values()),
            "bytes": graph.total_bytes(),
            **_sum(costs.values()),
            "values": len(graph.values),
            "ops": sum(counts.values()),
        },
        "ops": {n: {"count": c, "flops": spent[n]} for n, c in counts.most_common()},
        "external": dict(graph.external),
        "modules": [
            {
                "path": path,
                "class": region.type,
                "parameters": sum(v.type.size for v in region.parameters.values()),
                "parameter_bytes": region.total_bytes(),
                **_sum([costs[v] for v in region.values]),
                "ops": sum(map(_is_op, region.values)),
            }
            for path, region in _outermost_first(dag.regions(depth)).items()
        ],
    }


def _outermost_first(regions: Mapping[str, Region]) -> dict[str, Region]:
    """The regions in the order of the network, each after the one it is in, without the whole."""
    found: dict[str, Region] = {}
    for path in regions:
        steps = path.split(".")
        for i in range(len(steps)):
            outer = ".".join(steps[: i + 1])
            if outer in regions and outer:
                found.setdefault(outer, regions[outer])
    return found


def _sum(costs: Any) -> dict[str, int]:
    each = list(costs)
    keys = ("flops", "memory_reads", "memory_writes")
    return dict(zip(keys, (sum(c[i] for c in each) for i in range(3)), strict=True))


class Difference(NamedTuple):
    """How far two arrays are apart: the largest |a - b|, and that divided by the largest |a|."""

    absolute: float
    relative: float
    why: str = ""

    def worse(self, other: Difference) -> Difference:
        """The larger of both, number by number."""
        larger = max(self.absolute, other.absolute), max(self.relative, other.relative)
        return Difference(*larger, self.why or other.why)


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
