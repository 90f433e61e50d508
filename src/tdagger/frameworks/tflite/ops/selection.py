"""Boxes that are kept one by one, the best that is left in each turn: a loop of the program that is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.tflite.flow import AS_PROGRAM
from tdagger.frameworks.tflite.ops.table import Int, rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather
from tdagger.ops.source import const, iota
from tdagger.program.trace import is_tracing
from tdagger.program.write import while_loop


def _number(x: Value) -> Value:
    return e.cast(lib.reshape(x, shape=()), "f32")


def _edges(boxes: Value) -> tuple[Value, ...]:
    """Of boxes ``[.. 4]``, two opposite corners each: the least and the largest y and x, and the area."""
    y, x, y2, x2 = (s.select(boxes, -1, i) for i in range(4))
    low, high = (e.minimum(y, y2), e.minimum(x, x2)), (e.maximum(y, y2), e.maximum(x, x2))
    return *low, *high, (high[0] - low[0]) * (high[1] - low[1])


def _overlap(all_: Sequence[Value], one: Sequence[Value]) -> Value:
    """The shared part of boxes with one, of what both are; 0 where one has no area."""
    height, width = (e.maximum(e.minimum(all_[i + 2], one[i + 2]) - e.maximum(all_[i], one[i]), 0.0) for i in range(2))
    shared = height * width
    has_area = (all_[4] > 0.0) & (one[4] > 0.0)
    return e.where(has_area, shared / e.where(has_area, all_[4] + one[4] - shared, 1.0), 0.0)


def _kept(
    boxes: Value, scores: Value, limit: int, overlap: Value, least: Value, sigma: Value | None
) -> tuple[Value, Value, Value]:
    """The boxes that are kept and their scores ``[limit]``, zeros behind the last, and how many there are.

    A box goes that overlaps one that is kept by ``overlap`` or more, itself among them, or whose score isn't above
    ``least``; with ``sigma`` above 0 each that is kept lowers the scores of those that it overlaps. So one without area
    is kept again until there are as many as boxes with a score, as the runtime's kernel does it.
    """
    if boxes.rank != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise unsupported(f"it takes boxes[n 4] and scores[n], not {boxes.type} and {scores.type}")
    n = boxes.shape[0]
    nothing = const(np.zeros(max(limit, 0)), "i64"), const(np.zeros(max(limit, 0)), "f32"), const(0, "i64")
    if limit <= 0 or not n:
        return nothing
    if not is_tracing():
        raise unsupported(f"it keeps boxes in a loop, {AS_PROGRAM}")
    edges, (overlap, least) = _edges(boxes), (_number(overlap), _number(least))
    scale = const(0.0, "f32")
    if sigma is not None:
        own = _number(sigma)
        scale = e.where(own > 0.0, -0.5 / e.where(own > 0.0, own, 1.0), 0.0)
    slots = iota(limit)
    room = e.minimum(s.reduce(e.cast(scores > least, "i64"), "sum", keep=False), limit)

    def above(left: Value) -> Value:
        return e.where(left > least, left, -math.inf)

    def going(k: Value, left: Value, _: Value, __: Value) -> Value:
        return (k < room) & (s.reduce(left, "max", keep=False) > least)

    def turn(k: Value, left: Value, kept: Value, found: Value) -> tuple[Value, ...]:
        best = lib.argmax(left, axis=0)
        shared = _overlap(edges, [gather(v, best, 0) for v in edges])
        here = e.equal(slots, k)
        kept, found = e.where(here, best, kept), e.where(here, gather(left, best, 0), found)
        left = left if sigma is None else left * e.exp(scale * shared * shared)
        return k + 1, above(e.where(shared >= overlap, -math.inf, left)), kept, found

    start = (nothing[2], above(scores), nothing[0], nothing[1])
    k, _, kept, found = cast("tuple[Value, ...]", while_loop(going, turn, start))
    return kept, found, k


@rule("NON_MAX_SUPPRESSION_V4")
def _v4(boxes: Value, scores: Value, limit: Int, overlap: Value, least: Value) -> tuple[Value, ...]:
    kept, _, count = _kept(boxes, scores, limit, overlap, least, None)
    return e.cast(kept, "i32"), e.cast(count, "i32")


@rule("NON_MAX_SUPPRESSION_V5")
def _v5(boxes: Value, scores: Value, limit: Int, overlap: Value, least: Value, sigma: Value) -> tuple[Value, ...]:
    kept, found, count = _kept(boxes, scores, limit, overlap, least, sigma)
    return e.cast(kept, "i32"), found, e.cast(count, "i32")
