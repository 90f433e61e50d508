"""Slices that are the parts an axis is cut into (``split``, ``chunk``), which one call of torch gives together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdagger.graph import Graph
from tdagger.network import Origin
from tdagger.op import Value
from tdagger.ops.structure import Slice
from tdagger.types import Sized


def is_part(bounds: Any) -> bool:
    """Whether bounds are those of one of the parts that an axis is cut into, and not of all from there on."""
    start, stop, _ = bounds
    if not isinstance(start, Sized) or start.parts is None or not isinstance(stop, Sized):
        return False
    if stop.parts == start.parts:
        return part(stop) == part(start) + 1
    return part(start) == start.parts[2] - 1 and stop.parts is None and stop.key[2:] == ((0,), 1, 0, None)


def part(start: Sized) -> int:
    """Which of the parts it is that starts there."""
    assert start.parts is not None
    return start.plus // start.parts[1] if start.parts[0] == "split" else len(start.offsets)


def all_parts(x: str, axis: int, start: Sized) -> str:
    """The call that gives all parts of ``x``, one of which starts there: ``x.split(768, 2)``."""
    assert start.parts is not None
    return f"{x}.{start.parts[0]}({start.parts[1]}, {axis})"


def together(graph: Graph, origins: Mapping[Value, Origin]) -> dict[Value, list[Value | None]]:
    """For each slice that one call gives with others, all parts: None for those that nobody takes."""
    found: dict[Any, list[Value | None]] = {}
    group: dict[Value, list[Value | None]] = {}
    for value in graph.values:
        if not isinstance(value.op, Slice):
            continue
        (x,) = value.args
        cut = [(axis, b) for axis, b in enumerate(value.op.bounds) if b is not None]
        # of an axis whose size isn't a number there may be other parts
        if len(cut) != 1 or type(x.type.shape[cut[0][0]]) is not int or not is_part(cut[0][1]):
            continue
        start: Any = cut[0][1][0]
        parts = found.setdefault((x, cut[0][0], start.parts, origins.get(value)), [None] * start.parts[2])
        if part(start) < len(parts):
            parts[part(start)] = value
            group[value] = parts
    return {v: parts for v, parts in group.items() if sum(p is not None for p in parts) > 1}
