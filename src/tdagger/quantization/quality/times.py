"""Predicted times of a quantized network, op by op, by the device model of docs/time.md.

The float network's kernels are taken as the target has them: a quantized op computes in its numbers' type and reads and
writes as many bytes as these have, what is computed with the op before takes no time, and a value that no op gives in
few bits is rounded in a pass of its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tdagger.analysis.time.timing import Device
from tdagger.analysis.time.work import Work, works
from tdagger.errors import AttributeValueError
from tdagger.graph import label
from tdagger.op import Value
from tdagger.quantization.placement import Placement
from tdagger.quantization.prepare import Prepared


class Times(NamedTuple):
    """Predicted seconds by op of the float network, before and after it is quantized; ``roundings`` are extra."""

    before: dict[Value, float]
    after: dict[Value, float]
    roundings: float

    @property
    def totals(self) -> tuple[float, float]:
        """Of the whole network."""
        return math.fsum(self.before.values()), math.fsum(self.after.values()) + self.roundings


def times(prepared: Prepared, device: Device) -> Times:
    """What a device is predicted to take; AttributeValueError where it says nothing of integers, which are needed."""
    placement = prepared.placement
    activation = placement.profile.activation
    kind = "f32" if activation is None else "f8" if activation.grid.is_float else "i8"
    if activation is not None and kind not in device.roofline.get("gflops", {}):
        raise AttributeValueError(
            f"{device.name} says nothing of products of {kind}: give a device file whose roofline has gflops of "
            f"{kind}, or a target that quantizes weights alone"
        )
    found = works(prepared.dag.graph)
    before = {v: math.fsum(map(device.time, each)) for v, each in found.items()}
    after = {v: math.fsum([device.time(_as_quantized(placement, v, w, kind)) for w in each])
             for v, each in found.items() if not _is_fused(placement, v)}  # fmt: skip
    return Times(before, after, math.fsum([device.time(w) for w in _roundings(placement)]))


def _bits(placement: Placement, value: Value) -> int:
    return placement.numbers[placement.root(value)].grid.bits if value in placement.points else 32


def _as_quantized(placement: Placement, value: Value, work: Work, kind: str) -> Work:
    """A kernel of the float network as it is in the quantized one."""
    taken = [a for i, a in enumerate(value.args) if placement.is_quantized(value, i) or value in placement.moved]
    read = min((_bits(placement, a) for a in taken), default=32)
    written = _bits(placement, value) if value in placement.given or value in placement.moved else 32
    end = _end(placement, value)
    written = min(written, _bits(placement, end) if end in placement.given else 32)
    plans = [p for (v, _), p in placement.weights.items() if v is value]
    weights = work.weights - sum(p.leaf.type.bytes - p.bytes for p in plans)
    return work._replace(
        dtype=kind if value in placement.rows else work.dtype, reads=work.reads * read // 32,
        far=work.far * read // 32, writes=work.writes * written // 32, weights=max(weights, 0),
    )  # fmt: skip


def _end(placement: Placement, value: Value) -> Value:
    """What a quantized op gives with what is computed with it."""
    return placement.ends.get(value, value)


def _is_fused(placement: Placement, value: Value) -> bool:
    """Whether a value is computed by the kernel of the quantized op before it."""
    fused = label(value.op) in placement.profile.fused
    return fused and value in placement.given and value not in placement.rows


def _roundings(placement: Placement) -> list[Work]:
    """The passes that round values which no op gives in few bits."""
    return [
        Work("elementwise", "f32", calls=1, flops=4 * v.type.size, reads=v.type.bytes,
             writes=v.type.size * _bits(placement, v) // 8)
        for v in placement.points
        if v not in placement.given and v not in placement.moved
    ]  # fmt: skip
