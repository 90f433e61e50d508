"""The table of parameters, buffers and large constants of a view's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.library.quantized import grid_of
from tdagger.network import Network
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.view.changes import Changes, data_of
from tdagger.view.expressions import constant
from tdagger.view.part import Part
from tdagger.view.tables import Side

#: So many bins a histogram has.
BINS = 32


class Weights:
    """The table of parameters, buffers and large constants."""

    def __init__(self, networks: Sequence[Network], sides: Sequence[Side], histograms: bool) -> None:
        self.networks, self.sides, self.histograms = networks, sides, histograms
        self.table: list[dict[str, Any]] = []
        self._numbers: dict[tuple[int, Value], int] = {}
        #: Of each network the integers that stand for floats, with the op that makes those of them.
        self._floats = [
            {v.args[0]: v for v in n.graph.values if v.op.name == "dequantize"} if histograms else {} for n in networks
        ]

    def number(self, weight: Value, k: int) -> int:
        """The number of a weight of network ``k``."""
        found = self._numbers.get((k, weight))
        if found is None:
            found = self._numbers[k, weight] = len(self.table)
            self.table.append(self._entry(weight, k))
        return found

    def of(self, part: Part, k: int) -> list[int]:
        """The numbers of the weights that the ops of a part take in network ``k``, place by place."""
        return [self.number(weight, k) for leaf in part.leaves for _, weight in part.wires.slots[leaf][k]]

    def compare(self, changes: Changes) -> None:
        """Say of the weights of the first network which those of the second are, and how far these are off."""
        for weight, (other, change) in changes.of.items():
            if (0, weight) in self._numbers:
                entry = self.table[self._numbers[0, weight]]
                entry |= {"b": self.number(other, 1), "change": float(f"{change:.4g}")}

    def _entry(self, weight: Value, k: int) -> dict[str, Any]:
        op, network = weight.op, self.networks[k]
        type_ = self.sides[k].types(weight)[0]
        if isinstance(op, Const):
            entry: dict[str, Any] = {"name": constant(op), "type": type_, "kind": "constant"}
            return entry | self._histogram(weight, k)
        assert isinstance(op, Parameter | Buffer)
        entry = {"name": op.leaf, "type": type_, "kind": "parameter" if isinstance(op, Parameter) else "buffer"}
        state = network.state.get(op.leaf)
        if state is not None and not state.trainable and isinstance(op, Parameter):
            entry["trainable"] = False
        if tied(network, op.leaf):
            entry["tied"] = tied(network, op.leaf)
        return entry | self._histogram(weight, k)

    def _histogram(self, weight: Value, k: int) -> dict[str, Any]:
        data = data_of(self.networks[k], weight) if self.histograms else None
        if data is None or not data.size:
            return {}
        found: dict[str, Any] = {"histogram": histogram(data)}
        user = self._floats[k].get(weight)
        given = [data_of(self.networks[k], arg) for arg in user.args[1:]] if user is not None else []
        if user is not None and not any(n is None for n in given):
            floats: Array = user.op.run(data, *given)
            grid = grid_of(user.op.attributes.get("of") or weight.type.dtype.name)
            at_ends = int(np.count_nonzero(data == grid.low)) + int(np.count_nonzero(data == grid.high))
            found["codes"] = {
                "low": float(floats.min()),
                "high": float(floats.max()),
                "ends": float(f"{at_ends / data.size:.4g}"),
            }
        return found


def histogram(data: Array) -> dict[str, Any]:
    """How a weight's numbers are spread.

    >>> histogram(np.array([0.0, 1.0, float("nan")]))["nonfinite"]
    1
    """
    numbers = np.asarray(data).astype(np.float64 if data.dtype.kind in "fiu" else np.float32).reshape(-1)
    finite = numbers[np.isfinite(numbers)]
    counts, edges = np.histogram(finite, BINS) if finite.size else (np.zeros(0, int), np.zeros(2))
    mean, std = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 0.0)
    return {
        "low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(), "mean": mean, "std": std,
        "zeros": int((numbers == 0).sum()), "nonfinite": int(numbers.size - finite.size),
    }  # fmt: skip


def tied(network: Network, name: str) -> str:
    """The name of the parameter that one is the same as; empty if it is itself."""
    return network.state[name].alias_of if name in network.state else ""
