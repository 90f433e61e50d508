"""What quantizing did, layer by layer: ranges, what is clipped, the quality of each, and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tdagger.graph import label
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.quantization.placement import Plan, without_inputs
from tdagger.quantization.prepare import Prepared
from tdagger.quantization.quality.local import Local
from tdagger.quantization.quality.times import Times
from tdagger.quantization.scales import Affine, ends


class Layer(NamedTuple):
    """A quantized op: where it is, the range of what it takes, how much of that is clipped, and its own SQNR in dB.

    ``seen`` is the smallest and the largest number that data had, ``range`` what is told apart; both None where scales
    are found at run time. ``saturated`` is the share of what it takes on data that is rounded to an end of the range
    other than 0; None without data, or where ends aren't known. ``bytes`` are those of its weight, in float and in few
    bits with its scales. ``seconds`` are predicted for a device, before and after: of the op and what is computed with
    it; None without a device.
    """

    module: str
    op: str
    seen: tuple[float, float] | None
    range: tuple[float, float] | None
    clipped: float
    sqnr: float | None
    bytes: tuple[int, int]
    saturated: float | None = None
    seconds: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs; keys are only added."""
        sizes = {"before": self.bytes[0], "after": self.bytes[1]}
        seconds = None if self.seconds is None else {"before": self.seconds[0], "after": self.seconds[1]}
        return {**self._asdict(), "bytes": sizes, "seconds": seconds}


class Left(NamedTuple):
    """An op whose weights stay in float, with the bytes of those that are matrices and larger."""

    module: str
    op: str
    bytes: int


def left(prepared: Prepared) -> list[Left]:
    """The ops with weights that stay in float, the largest first; a weight counts where it is read first."""
    graph, weights = prepared.dag.graph, prepared.placement.weights
    static = without_inputs(graph)
    seen = {plan.leaf for plan in weights.values()}
    found: list[Left] = []
    for value in graph.values:
        if value in static:
            continue
        size, near = 0, [a for i, a in enumerate(value.args) if a in static and (value, i) not in weights]
        while near:
            v = near.pop()
            if v in seen:
                continue
            seen.add(v)
            near += v.args
            if isinstance(v.op, Leaf | Const) and v.rank > 1 and v.dtype.is_float:
                size += v.type.bytes
        if size:
            origin = prepared.dag.origins.get(value)
            found.append(Left("" if origin is None else origin.module, label(value.op), size))
    return sorted(found, key=lambda f: -f.bytes)


def layers(prepared: Prepared, data: Iterable[Any] | None = None, predicted: Times | None = None) -> list[Layer]:
    """The quantized ops in the network's order; with data, what quantizing each alone changes is measured on it."""
    found = {} if data is None else prepared.compare(data)
    scales = prepared.scales()
    plans = {value: plan for (value, _), plan in prepared.placement.weights.items()}
    rows = [_layer(prepared, v, found.get(v), scales, plans.get(v)) for v in prepared.placement.rows]
    if predicted is None:
        return rows
    return [
        r._replace(seconds=_seconds(prepared, v, predicted)) for r, v in zip(rows, prepared.placement.rows, strict=True)
    ]


def _seconds(prepared: Prepared, value: Value, predicted: Times) -> tuple[float, float]:
    """Of an op and what is computed with it."""
    chain, end = [value], prepared.placement.ends.get(value, value)
    while chain[-1] is not end:
        chain.append(prepared.dag.graph.users[chain[-1]][0])
    return sum(predicted.before.get(v, 0.0) for v in chain), sum(predicted.after.get(v, 0.0) for v in chain)


def _layer(
    prepared: Prepared, value: Value, local: Local | None, scales: Mapping[Value, Affine], plan: Plan | None
) -> Layer:
    placement = prepared.placement
    origin = prepared.dag.origins.get(value)
    seen = told = None
    clipped = 0.0
    root = observed(prepared, value)
    if root is not None:
        observer = prepared.observers[root]
        told, seen = ends(*scales[root], placement.numbers[root]), (observer.low, observer.high)
        clipped = observer.clipped(*told)
    module = "" if origin is None else origin.module
    sizes = (0, 0) if plan is None else (plan.leaf.type.bytes, plan.bytes)
    saturated = local.saturated / local.taken if local is not None and local.taken else None
    return Layer(module, label(value.op), seen, told, clipped, None if local is None else local.sqnr, sizes, saturated)


def observed(prepared: Prepared, value: Value) -> Value | None:
    """The value whose scale the first argument of an op has that data was seen of; None without one."""
    placement = prepared.placement
    for i, arg in enumerate(value.args):
        if placement.is_quantized(value, i) and arg in placement.points:
            root = placement.root(arg)
            if root in prepared.observers and prepared.observers[root].count:
                return root
    return None
