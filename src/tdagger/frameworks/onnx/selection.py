"""ONNX's operators whose result has as many entries as the data says, in a program: a bound, and how many count.

NonMaxSuppression is a loop of the program: in each turn every class of every batch keeps the best of the boxes that
are left, and drops those that overlap it. NonZero and Compress bring forward what they keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.things import Absent, Read, Thing, Varying, blanked, plain_of, what
from tdagger.frameworks.onnx.varying import sliced
from tdagger.library import reshape
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import argsort, gather, scatter, take_along
from tdagger.ops.source import const, iota
from tdagger.program.trace import tracing

_Things = Sequence[Thing | None]


# --- what is kept, in front --------------------------------------------------------------------------------


def _in_front(kept: Value) -> tuple[Value, Value]:
    """The places of what is true in a tensor of rank 1, and behind them the others; and how many are true.

    There are two places at least: one alone would spread over other tensors.
    """
    places = argsort(e.cast(kept, "i64"), 0, descending=True)
    if kept.type.size == 1:
        places = s.pad(places, [(0, 1)])
    return places, s.reduce(e.cast(kept, "i64"), "sum", keep=False)


def _non_zero(things: _Things, _: Mapping[str, Any], read: Read) -> Thing | None:
    x = blanked(things[0] or Absent(), "X")
    if read(x) is not None or not x.rank or not x.type.size:
        return None
    places, count = _in_front(e.cast(reshape(x, shape=(-1,)), "bool"))
    along: list[Value] = []
    step = x.type.size
    for n in x.shape:
        step, whole = step // n, places
        if along:  # of what is left of the axes before
            whole = e.mod(places, n * step)
        along.append(e.floor_divide(whole, step))
    return Varying(s.concat([s.unsqueeze(v, (0,)) for v in along], 0), {1: count})


def _compress(things: _Things, attributes: Mapping[str, Any], read: Read) -> Thing | None:
    x, kept = blanked(things[0] or Absent(), "input"), blanked(things[1] or Absent(), "condition")
    if read(kept) is not None:
        return None
    axis = attributes.get("axis")
    if isinstance(things[0], Varying):
        own = dict(things[1].lengths) if isinstance(things[1], Varying) else {}
        if axis is None and x.rank == 1:
            axis = 0
        along = None if axis is None else normal_axis(int(axis), x.rank)
        if along is None or set(things[0].lengths) != {along} or own != {0: things[0].lengths[along]}:
            other = what(things[1] or Absent())
            raise UnsupportedError(f"its input is {what(things[0])}, and its condition {other}: not one for each entry")
    if axis is None:
        x, axis = reshape(x, shape=(-1,)), 0
    axis = normal_axis(int(axis), x.rank)
    if not x.shape[axis] or kept.rank != 1 or not 0 < kept.shape[0] <= x.shape[axis]:
        raise UnsupportedError(f"its condition {kept.type} isn't for {x.shape[axis]} entries")
    places, count = _in_front(kept)
    return Varying(gather(x, places, axis), {axis: count})


# --- boxes -------------------------------------------------------------------------------------------------


def _number(thing: Thing | None, name: str, dtype: str) -> Value | None:
    if thing is None:
        return None
    found = plain_of(thing, name)
    if found.type.size != 1:
        raise UnsupportedError(f"its {name} is {found.type}: it takes one number")
    return e.cast(reshape(found, shape=()), dtype)


def _corners(boxes: Value, center: int) -> Value:
    """The edges of boxes ``[.. 4]``, smaller first: x, y, x, y, and the area ``[.. 5]``."""
    a, b, c, d = (s.select(boxes, -1, i) for i in range(4))
    if center:
        edges = [a - c * 0.5, b - d * 0.5, a + c * 0.5, b + d * 0.5]
    else:
        edges = [e.minimum(b, d), e.minimum(a, c), e.maximum(b, d), e.maximum(a, c)]
    area = (edges[2] - edges[0]) * (edges[3] - edges[1])
    return s.concat([s.unsqueeze(v, (v.rank,)) for v in (*edges, area)], boxes.rank - 1)


def _overlap(all_: Sequence[Value], one: Sequence[Value], threshold: Value) -> Value:
    """Whether the shared part of boxes is more of their union than a threshold; not where there is no area."""
    left, top = (e.maximum(a, b) for a, b in zip(all_[:2], one[:2], strict=True))
    right, bottom = (e.minimum(a, b) for a, b in zip(all_[2:4], one[2:4], strict=True))
    shared = (right - left) * (bottom - top)
    union = all_[4] + one[4] - shared
    meet = (left < right) & (top < bottom)
    for area in (shared, all_[4], one[4], union):
        meet = meet & (area > 0)
    return meet & (shared / e.where(meet, union, 1) > threshold)


def _kept(order: Value, edges: Value, alive: Value, threshold: Value, limit: int, most: Value) -> Value:
    """Of each batch and class the boxes that are kept, best first, by number ``[b c limit]``; -1 behind them.

    ``order`` ``[b c n]`` are the boxes by score, ``edges`` ``[b c n 5]`` and ``alive`` ``[b c n]`` in that order.
    """
    start = [const(0, "i64"), alive, nothing_kept(order, limit)]

    def again(k: Value, alive: Value, _: Value) -> Value:
        return going(k, alive, most)

    def once(k: Value, alive: Value, kept: Value) -> list[Value]:
        return turn(k, alive, kept, order, edges, threshold)

    return tracing().loop(again, once, start, ("turn", "left", "kept"), lambda x: x)[2]


def nothing_kept(order: Value, limit: int) -> Value:
    """What is kept before the first turn."""
    return s.broadcast_to(const(-1, "i64"), (*order.shape[:2], limit))


def going(k: Value, alive: Value, most: Value) -> Value:
    """Whether there is another turn after ``k``."""
    return (k < most) & s.reduce(alive, "max", keep=False)


def turn(k: Value, alive: Value, kept: Value, order: Value, edges: Value, threshold: Value) -> list[Value]:
    """What the number of turns, the boxes that are left and those that are kept are after a turn."""
    n = order.shape[2]
    each = [s.select(edges, -1, i) for i in range(5)]
    places = s.broadcast_to(iota(n), order.shape)
    first = s.reduce(e.where(alive, places, n), "min", (2,))  # [b c 1]
    at = e.minimum(first, n - 1)
    own = [s.select(gather(edges, at, 2, 2), -1, i) for i in range(5)]
    drop = _overlap(each, own, threshold) | e.equal(places, first)
    box = e.where(first < n, take_along(order, at, 2), -1)
    return [k + 1, alive & ~drop, scatter(kept, k, s.squeeze(box, (2,)), 2)]


def _non_max_suppression(things: _Things, attributes: Mapping[str, Any], read: Read) -> Thing | None:
    things = [*things, *[None] * (5 - len(things))]
    count = things[0].lengths.get(1) if isinstance(things[0], Varying) else None
    if isinstance(things[1], Varying):
        count = count or things[1].lengths.get(2)
    boxes, scores = (blanked(t or Absent(), n) for t, n in zip(things[:2], ("boxes", "scores"), strict=True))
    for thing, name, axis in zip(things[:2], ("boxes", "scores"), (1, 2), strict=True):
        if isinstance(thing, Varying) and (set(thing.lengths) != {axis} or thing.lengths[axis] is not count):
            raise UnsupportedError(f"its {name} vary in size along another axis than the boxes, or by another number")
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape != (scores.shape[0], scores.shape[2], 4):
        raise UnsupportedError(f"it takes boxes[b n 4] and scores[b c n], not {boxes.type} and {scores.type}")
    b, c, n = scores.shape
    most = _number(things[2], "max_output_boxes_per_class", "i64")
    most = const(0, "i64") if most is None else most
    known = read(most)
    limit = n if known is None else min(max(int(known), 0), n)
    if not b * c * limit:  # without a number no box is kept
        return const(np.zeros((0, 3)), "i64")
    threshold = _number(things[3], "iou_threshold", "f32")
    threshold = const(0.0, "f32") if threshold is None else threshold
    told = read(threshold)
    if told is not None and not 0 <= float(told) <= 1:
        raise UnsupportedError(f"its iou_threshold is {float(told):.6g}, which has to be in 0..1")
    order = argsort(scores, 2, descending=True)
    least = _number(things[4], "score_threshold", "f32")
    alive = alive_at_first(scores, order, None if least is None else e.cast(least, scores.dtype), count)
    edges = edges_of(boxes, order, int(attributes.get("center_point_box", 0)))
    kept = _kept(order, edges, alive, e.cast(threshold, boxes.dtype), limit, e.minimum(most, limit))
    return rows_of(kept)


def alive_at_first(scores: Value, order: Value, least: Value | None, count: Value | None) -> Value:
    """Which boxes are left before the first turn, best first: with more than the least score, of the first so many."""
    alive = s.broadcast_to(const(np.asarray(True), "bool"), scores.shape)
    if least is not None:
        alive = take_along(scores, order, 2) > least
    return alive if count is None else alive & (order < count)


def edges_of(boxes: Value, order: Value, center: int) -> Value:
    """The edges and the area of boxes ``[b c n 5]``, best first."""
    return gather(_corners(boxes, center), order, 1, 1)


def rows_of(kept: Value) -> Varying:
    """Batch, class and box of what is kept ``[b c limit]``, one after the other."""
    batch, class_ = (
        s.broadcast_to(s.unsqueeze(iota(kept.shape[i]), [j for j in range(3) if j != i]), kept.shape) for i in (0, 1)
    )
    box = e.maximum(kept, 0)
    rows = s.concat([s.unsqueeze(reshape(v, shape=(-1,)), (1,)) for v in (batch, class_, box)], 1)
    places, count = _in_front(reshape(kept, shape=(-1,)) >= 0)
    return Varying(gather(rows, places, 0), {0: count})


#: What gives so many entries as the data says; None where all is known, which rules are for.
SELECTING: dict[str, Callable[[_Things, Mapping[str, Any], Read], Thing | None]] = {
    "Compress": _compress, "NonMaxSuppression": _non_max_suppression, "NonZero": _non_zero, "Slice": sliced,
}  # fmt: skip
