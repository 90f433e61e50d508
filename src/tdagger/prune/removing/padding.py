"""A padded dimension of which some entries are left: an even padding of others, or its entries one by one."""

from __future__ import annotations

import numpy as np

from tdagger.op import Array, Value
from tdagger.ops.elementwise import full_like
from tdagger.ops.indexing import Gather
from tdagger.ops.source import const
from tdagger.ops.structure import Concat, Widths, slice_axis


def sources(size: int, widths: Widths, kept: Array | None) -> Array:
    """For every entry of a padded dimension which of those that stay of ``size`` it is; -1 where it is padded.

    >>> sources(2, (1, 0, 1), None).tolist()
    [-1, 0, -1, 1]
    """
    before, after, between = widths
    out = np.full(before + after + max(size + (size - 1) * between, 0), -1)
    numbers = np.arange(size) if kept is None else np.where(kept, np.cumsum(kept) - 1, -1)
    out[before + np.arange(size) * (between + 1)] = numbers
    return out


def even(found: Array, between: int) -> Widths | None:
    """The widths of a padding that gives these entries; None if as many aren't between all.

    >>> even(np.array([-1, 0, -1, 1]), 1), even(np.array([0, 1, -1, 2]), 1)
    ((1, 0, 1), None)
    """
    places = np.flatnonzero(found >= 0)
    gaps = np.unique(np.diff(places))
    if not len(places) or len(gaps) > 1:
        return None
    return int(places[0]), int(len(found) - 1 - places[-1]), int(gaps[0]) - 1 if len(gaps) else between


def spread(x: Value, axis: int, found: Array, fill: bool | int | float | complex) -> Value:
    """The entries of an axis at other places, ``fill`` where there are none."""
    one = full_like(slice_axis(x, axis, 0, 1), fill)
    return Gather(axis, 0)(Concat(axis)(x, one), const(np.where(found < 0, x.shape[axis], found)))
