"""Sparse weights of a TFLite file written out: dimensions and blocks as they are traversed, each dense or CSR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tdagger.errors import SourceError
from tdagger.op import Array


class Level(NamedTuple):
    """One dimension, or a part of one in blocks: of ``size`` entries, or those that CSR has for each before it."""

    size: int
    segments: Array | None
    indices: Array | None


class Sparsity(NamedTuple):
    """How levels nest (those of blocks have numbers from the rank on), which dimensions blocks are of, the levels."""

    order: tuple[int, ...]
    blocks: tuple[int, ...]
    levels: tuple[Level, ...]


def dense(values: Array, shape: Sequence[int], sparsity: Sparsity) -> Array:
    """All entries of a tensor, zeros where it has none; SourceError where its tables don't fit.

    >>> csr = Level(0, np.array([0, 1, 3]), np.array([2, 0, 1]))
    >>> dense(np.array([5.0, 6.0, 7.0]), (2, 3), Sparsity((0, 1), (), (Level(2, None, None), csr)))
    array([[0., 0., 5.],
           [6., 7., 0.]])
    """
    order, blocks, levels = sparsity
    rank = len(shape)
    if sorted(order) != list(range(rank + len(blocks))) or len(levels) != len(order) or set(blocks) - {*range(rank)}:
        raise SourceError(f"the order {list(order)} of sparse data isn't that of {list(shape)} and its blocks")
    most = math.prod(shape)
    before, places = np.zeros(1, np.int64), np.zeros((1, 0), np.int64)
    for level in levels:
        if level.segments is None or level.indices is None:
            count = np.full(len(before), level.size)
            entries = np.tile(np.arange(level.size), len(before) if len(before) * level.size <= most else 0)
            after = np.repeat(before, count) * level.size + entries if len(entries) else None
        else:
            segments, indices = (np.asarray(a, np.int64) for a in (level.segments, level.indices))
            if len(segments) <= before.max(initial=-1) + 1:
                raise SourceError("sparse data has fewer segments than there are entries before them")
            start, count = segments[before], segments[before + 1] - segments[before]
            fits = (count >= 0).all() and int(count.sum()) <= most and (segments >= 0).all()
            within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count) if fits else before[:0]
            at = np.repeat(start, count) + within if fits else None
            after = entries = indices[at] if at is not None and at.max(initial=-1) < len(indices) else None
        if after is None:
            raise SourceError(f"sparse data of {list(shape)} has more entries than there is room for")
        assert entries is not None
        before, places = after, np.column_stack([np.repeat(places, count, axis=0), entries])
    if len(before) != len(values):
        raise SourceError(f"sparse data of {list(shape)} has {len(values)} values for {len(before)} places")
    found = np.zeros((len(before), rank), np.int64)
    for column, own in enumerate(order):
        if own < rank:
            found[:, own] = places[:, column]
    for k, dimension in enumerate(blocks):
        column = order.index(rank + k)
        found[:, dimension] = found[:, dimension] * levels[column].size + places[:, column]
    if ((found < 0) | (found >= np.array(shape, np.int64))).any():
        raise SourceError(f"sparse data of {list(shape)} has an entry beyond its shape")
    out = np.zeros(shape, values.dtype)
    out[tuple(found.T)] = values
    return out
