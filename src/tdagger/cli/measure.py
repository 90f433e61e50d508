"""What ``inspect`` and ``verify`` report, as plain data: the totals of a network, the errors of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.cli import rows
from tdagger.op import Array
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType


def described(name: str, type_: TensorType) -> dict[str, Any]:
    """An input or output for programs."""
    return {"name": name, "dtype": type_.dtype.name, "shape": list(type_.shape)}


def report(dag: TensorDAG, source: str, depth: int | None) -> dict[str, Any]:
    """Totals, ops and modules of a network, in the form ``inspect --json`` prints.

    Bytes are bytes, FLOPs operations; modules are those down to ``depth`` names (None: all), each with all
    that is inside it. Keys are only ever added.
    """
    graph, cost = dag.graph, dag.cost()
    root = rows.by_module(dag, cost)
    ops = rows.ranked(rows.by_op(dag, cost), "ops")
    return {
        "source": source,
        "name": dag.name,
        "inputs": [described(n, v.type) for n, v in graph.inputs.items()],
        "outputs": [described(n, v.type) for n, v in graph.outputs.items()],
        "updates": list(graph.updates),
        "totals": {
            "parameters": root.numbers["parameters"],
            "parameter_bytes": sum(v.type.bytes for v in graph.parameters.values()),
            "bytes": graph.total_bytes(),
            **_costs(root),
            "values": len(graph.values),
            "ops": root.numbers["ops"],
        },
        "ops": {op.name: {"count": op.numbers["ops"], "flops": op.numbers["total_flops"]} for op in ops},
        "external": dict(cost.partial),
        "modules": [
            {
                "path": module.path,
                "class": module.kind,
                "parameters": module.numbers["parameters"],
                "parameter_bytes": dag[module.path].total_bytes(),
                **_costs(module),
                "ops": module.numbers["ops"],
            }
            for _, module in rows.deep(root, depth)
            if module.path
        ],
    }


def _costs(line: rows.Line) -> rows.Numbers:
    """The costs that ``inspect`` shows of a line."""
    names = {"flops": "total_flops", "memory_reads": "composite_reads", "memory_writes": "composite_writes"}
    return {key: line.numbers[name] for key, name in names.items()}


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
