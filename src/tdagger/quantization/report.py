"""What quantizing did, layer by layer: ranges, what is clipped, the quality of each, and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tdagger.graph import label
from tdagger.op import Value
from tdagger.quantization.local import Local
from tdagger.quantization.placement import Plan
from tdagger.quantization.prepare import Prepared
from tdagger.quantization.scales import Affine, ends


class Layer(NamedTuple):
    """A quantized op: where it is, the range of what it takes, how much of that is clipped, and its own SQNR in dB.

    ``seen`` is the smallest and the largest number that data had, ``range`` what is told apart; both None where scales
    are found at run time. ``bytes`` are those of its weight, in float and in few bits with its scales.
    """

    module: str
    op: str
    seen: tuple[float, float] | None
    range: tuple[float, float] | None
    clipped: float
    sqnr: float | None
    bytes: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        """For programs; keys are only added."""
        sizes = {"before": self.bytes[0], "after": self.bytes[1]}
        return {**self._asdict(), "bytes": sizes}


def layers(prepared: Prepared, data: Iterable[Any] | None = None) -> list[Layer]:
    """The quantized ops in the network's order; with data, what quantizing each alone changes is measured on it."""
    found = {} if data is None else prepared.compare(data)
    scales = prepared.scales()
    plans = {value: plan for (value, _), plan in prepared.placement.weights.items()}
    return [_layer(prepared, v, found.get(v), scales, plans.get(v)) for v in prepared.placement.rows]


def _layer(
    prepared: Prepared, value: Value, local: Local | None, scales: Mapping[Value, Affine], plan: Plan | None
) -> Layer:
    placement = prepared.placement
    origin = prepared.dag.origins.get(value)
    seen = told = None
    clipped = 0.0
    for data in _taken(prepared, value):
        root = placement.root(data)
        observer = prepared.observers.get(root)
        if observer is None or not observer.count:
            continue
        told, seen = ends(*scales[root], placement.numbers[root]), (observer.low, observer.high)
        clipped = observer.clipped(*told)
        break
    module = "" if origin is None else origin.module
    sizes = (0, 0) if plan is None else (plan.leaf.type.bytes, plan.bytes)
    return Layer(module, label(value.op), seen, told, clipped, None if local is None else local.sqnr, sizes)


def _taken(prepared: Prepared, value: Value) -> Iterator[Value]:
    placement = prepared.placement
    for i, arg in enumerate(value.args):
        if placement.is_quantized(value, i) and arg in placement.points:
            yield arg
