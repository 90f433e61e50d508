"""How much of an output one step of the integers behind it is: what two right executions may be apart.

Where a number lies between two integers, rounding in the last place decides which of them it becomes, and kernels
sum in different orders. So two executions of a quantized network agree in most integers and are a step apart in some.
An output is seldom these integers themselves; what a step of them is there is found by trying: some of their entries
are moved by one, and what is behind is computed again.

>>> import numpy as np
>>> import tdagger as td
>>> x = td.input("x", (2, 8))
>>> half = td.const(0.5, "f32")
>>> y = td.dequantize(td.quantize(x, half, to="i8"), half)
>>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y, "x2": x * 2}))
>>> steps(dag, {"x": np.zeros((2, 8), "f")})
[0.5, None]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.interpret import run_all
from tdagger.library.quantized import grid_of, spread_array
from tdagger.op import Array, Value
from tdagger.ops.structure import Item
from tdagger.tensordag import TensorDAG

#: So many of the last roundings behind an output are looked at, and so many entries of each.
_ROUNDINGS, _ENTRIES = 4, 4


def steps(dag: TensorDAG, inputs: Mapping[str, Array], seed: int = 0) -> list[float | None]:
    """For each output how much one step of the last integers behind it is; None where nothing is rounded to integers.

    ``inputs`` are arrays by name. For each ``quantize`` or ``quantize_dynamic`` from which a way leads to the output on
    which no other is, the largest change of the output by a step of one entry, the median of several; of these the
    largest. Integers that are an output have a step of 1. What is rounded to float8 isn't looked at.
    """
    graph = dag.graph
    behind: set[Value] = set()
    for v in graph.values:
        if v.op.name == "input" or any(a in behind for a in v.args):
            behind.add(v)
    rounded = {v for v in graph.values if v in behind and _is_rounded(v)}
    if not rounded:
        return [None] * len(graph.outputs)
    arrays = run_all(graph, inputs, dag.weights)
    rng = np.random.default_rng(seed)
    found: list[float | None] = []
    for out in graph.outputs.values():
        last = _last(out, rounded, behind)
        sizes = [_step(out, v, rounded, graph.values, arrays, rng) for v in last[:_ROUNDINGS]]
        found.append(max([s for s in sizes if s], default=None))
    return found


def _is_rounded(v: Value) -> bool:
    """Whether a value is integers, or what stands for them, that real numbers were rounded to."""
    op = v.op
    if isinstance(op, Item):
        return v.args[0].op.name == "quantize_dynamic" and op.index == 0
    return op.name in ("quantize", "fake_quantize") and not grid_of(op.attributes["to"]).is_float


def _last(out: Value, rounded: set[Value], behind: set[Value]) -> list[Value]:
    """The roundings from which a way leads to an output on which no other is, the nearest first."""
    found: dict[Value, None] = {}
    seen, level = {out}, [out]
    while level:
        near: list[Value] = []
        for v in level:
            if v in rounded:
                found[v] = None
            else:
                near += [a for a in v.args if a in behind and a not in seen]
                seen.update(near)
        level = list(dict.fromkeys(near))
    return list(found)


def _step(
    out: Value, at: Value, rounded: set[Value], order: Any, arrays: Mapping[Value, Any], rng: np.random.Generator
) -> float:
    """The median of what one step of an entry of ``at`` changes an output by at most; 0 where it changes nothing."""
    after = {at}
    for v in order:
        if v not in rounded and any(a in after for a in v.args):
            after.add(v)
    if out not in after:
        return 0.0
    needed = {out}
    for v in reversed(order):
        if v in needed:
            needed.update(v.args)
    again = [v for v in order if v in after and v in needed and v is not at]
    before = np.asarray(arrays[out], np.float64)
    changes: list[float] = []
    for _ in range(_ENTRIES):
        own = {at: _moved(at, arrays, rng)}
        with np.errstate(all="ignore"):
            for v in again:
                own[v] = v.op.run(*[own[a] if a in own else arrays[a] for a in v.args])
        change = np.abs(np.asarray(own[out], np.float64) - before)
        largest = float(change[np.isfinite(change)].max(initial=0.0))
        if largest:
            changes.append(largest)
    return float(np.median(changes)) if changes else 0.0


def _moved(at: Value, arrays: Mapping[Value, Any], rng: np.random.Generator) -> Array:
    """What a rounding gave, with one entry a step nearer to the middle of its range."""
    array = np.array(arrays[at])
    if not array.size:
        return array
    place = np.unravel_index(int(rng.integers(array.size)), array.shape)
    step: Any = 1
    if at.op.name == "fake_quantize":
        attributes = at.op.attributes
        step = np.broadcast_to(
            spread_array(arrays[at.args[1]], array.shape, attributes["axis"], attributes["block"]), array.shape
        )[place]
    middle = 128 if array.dtype == np.uint8 else 1 << 15 if array.dtype == np.uint16 else 0
    array[place] = array[place] + step if array[place] < middle else array[place] - step
    return array


#: The part of an output's entries that steps are told of.
PART = 0.999


class Within(NamedTuple):
    """An output that is as it should be but for what numbers were rounded to.

    ``part`` of its entries are at most ``steps`` of ``size`` apart; right executions of the network itself ``own``.
    """

    steps: int
    size: float
    own: int
    part: float = PART


def apart(a: Array, b: Array, step: float) -> float:
    """The fewest whole steps that all but one of a thousand entries are at most apart by.

    >>> apart(np.float32([0, 0, 1, 2]), np.float32([0, 0.5, 1, 2]), 0.5)
    1.0
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    far = np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(-1)
    far[np.asarray(a == b).reshape(-1)] = 0  # infinities
    far = np.where(np.isnan(far), np.inf, np.maximum(np.ceil(far / step - 0.5), 0))
    return float(np.sort(far)[min(int(np.ceil(PART * far.size)), far.size) - 1]) if far.size else 0.0


def within(found: Array, ways: Sequence[Sequence[Array]], step: float) -> Within | None:
    """How an output agrees with right executions but for rounding; None if it doesn't.

    ``ways`` are kinds of execution that may round otherwise (kernels fused or not), each run on the inputs and on
    others so near that they are the same but for rounding. What was found has to be as near to a run of a way as
    the runs of that way are to one another, or a step away.

    >>> right = [[np.float32([0, 1, 2]), np.float32([0, 1.5, 2])]]
    >>> within(np.float32([0, 1, 2.5]), right, 0.5)
    Within(steps=1, size=0.5, own=1, part=0.999)
    >>> within(np.float32([0, 4, 2.5]), right, 0.5)
    """
    best: Within | None = None
    for runs in ways:
        own = max([apart(a, b, step) for i, a in enumerate(runs) for b in runs[:i]], default=0.0)
        far = min([apart(r, found, step) for r in runs])
        if far <= max(own, 1) and far < np.inf and (best is None or far < best.steps):
            best = Within(int(far), step, int(own))
    return best
