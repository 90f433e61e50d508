"""What a view's JSON says of every op of the opened tree, in one list each: seconds, when activations are alive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tdagger.analysis.cost.report import Cost
from tdagger.analysis.memory.activations import buffers
from tdagger.analysis.time.profile import Profile
from tdagger.analysis.time.timing import Device, predict
from tdagger.errors import AttributeValueError
from tdagger.network import Network
from tdagger.op import Value
from tdagger.view.part import Part
from tdagger.view.weights import tied


def totals(network: Network, cost: Cost, ops: int) -> dict[str, int]:
    """What a network is and costs in all; parameters that are one tensor count once."""
    memory = cost.memory
    return {
        "flops": cost.total_flops, "macs": cost.macs, "attention_flops": cost.attention_flops,
        "transcendental": cost.transcendental, "reads": cost.reads, "writes": cost.writes,
        "fused_reads": cost.fused.reads, "fused_writes": cost.fused.writes, "peak_bytes": memory.peak_bytes,
        "parameters": sum(v.type.size for n, v in network.graph.parameters.items() if not tied(network, n)),
        "parameter_bytes": memory.parameter_bytes, "buffer_bytes": memory.buffer_bytes,
        "constant_bytes": memory.constant_bytes, "ops": ops,
    }  # fmt: skip


def memory(part: Part, k: int, cost: Cost) -> dict[str, Any]:
    """When what network ``k`` makes is alive, in steps: the ops in the order they run."""
    graph, side, shown = part.networks[k].graph, part.sides[k], part.facts[k].shown
    number = {leaf.values[k]: i for i, leaf in enumerate(part.leaves) if leaf.values[k] is not None}
    steps = [number[v] for v in shown]
    of_steps, before = set(shown), list[int]()  # of every value, the steps before it
    for value in graph.values:
        before.append((before[-1] if before else 0) + (value in of_steps))
    last = len(graph.values)
    held = buffers(graph)
    found: dict[str, Any] = {} if steps == sorted(steps) and len(steps) == len(part.leaves) else {"order": steps}
    types = part.tables.types.entries
    found["op"] = [number[b.value] for b in held]
    found["until"] = [len(steps) if b.stop == last else max(before[b.stop] - 1, 0) for b in held]
    found["bytes"] = [types[side.types(b.value)[b.index]]["bytes"] for b in held]
    peak = cost.memory
    found["peak"] = peak.peak_bytes
    found["at"] = None if peak.peak_at is None else max(before[graph.values.index(peak.peak_at)] - 1, 0)
    return found


def each(part: Part, k: int, seconds: Mapping[Value, float]) -> list[float | None]:
    """Seconds of every op of the opened tree; None of those that network ``k`` doesn't have."""
    values = [leaf.values[k] for leaf in part.leaves]
    return [None if value is None else float(f"{seconds.get(value, 0.0):.4g}") for value in values]


def found(part: Part, k: int, numbers: Mapping[Value, float]) -> list[float | None]:
    """A number of every op of the opened tree; None where there is none, or it isn't finite."""
    each = [None if leaf.values[k] is None else numbers.get(leaf.values[k]) for leaf in part.leaves]  # type: ignore[arg-type]
    return [float(f"{n:.4g}") if n is not None and math.isfinite(n) else None for n in each]


def predicted(part: Part, k: int, device: Device) -> dict[str, Any]:
    """How long each op takes on a device."""
    network = part.networks[k]
    found = predict(network.graph, device, network.origins)
    return {
        "device": device.name, "title": device.title, "seconds": found.seconds, "notices": list(found.notices),
        "each": each(part, k, found.seconds_of), "roofline": _roofline(device),
    }  # fmt: skip


def measured(part: Part, k: int, profile: Profile) -> dict[str, Any]:
    """How long each op took; AttributeValueError if the profile is of another network."""
    seconds = {row.value: row.seconds for row in profile.by_value if row.value is not None}
    known = set(part.networks[k].graph.values)
    strange = [v for v in seconds if v not in known]
    if strange:
        raise AttributeValueError(f"the profile is of another network: it has {strange[0]!r}, which this one lacks")
    title = f"{profile.runs} runs on {profile.threads} thread{'s' * (profile.threads != 1)}"
    return {"title": title, "seconds": profile.seconds, "each": each(part, k, seconds)}


def _roofline(device: Device) -> dict[str, float]:
    """Peaks in operations and bytes per second; of a calibrated device the highest that were measured."""
    if device.roofline:
        peaks: Mapping[str, float] = device.roofline["gflops"]
        return {"flops": 1e9 * peaks["f32"], "bytes": 1e9 * float(device.roofline["gbytes"])} | {
            f"flops_{name}": 1e9 * peak for name, peak in peaks.items()
        }
    flops = [1 / s[1] for s in device.seconds.values() if s[1]]
    moved = [1 / s[3] for s in device.seconds.values() if s[3]]
    return {"flops": max(flops, default=0.0), "bytes": max(moved, default=0.0)}
