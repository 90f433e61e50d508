"""Fits a device's numbers to measured times: seconds as a sum of what kernels do, no number below 0.

>>> slow = [Sample([Work("copy", "f32", 1, reads=n)], 1e-6 + n * 1e-9) for n in (1000, 2000, 4000)] * 1000
>>> fitted = fit(slow)
>>> [f"{s:.2g}" for s in fitted["copy"]]
['1e-06', '0', '0', '1e-09', '0', '0', '0', '0', '0']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tdagger.analysis.time.work import UNITS, Work

Floats = NDArray[np.float64]

#: The kind that stands for those that weren't measured is fitted to kernels of these.
_ORDINARY = {"elementwise", "function", "copy", "reduction", "norm", "softmax", "window", "indexing", "other"}


class Sample(NamedTuple):
    """Kernels whose seconds were measured together."""

    works: Sequence[Work]
    seconds: float


#: How often the fit is repeated with weights from the one before, and the least seconds a weight is taken for.
_PASSES, _SHORT = 3, 2e-6
#: Slow, but not absurd, seconds of every unit: a number that the samples say little of stays near those of kinds that
#: are like it, on this scale. Else what a few bytes seem to take would be taken for what millions do.
_SCALE = {"calls": 5e-6, "flops": 1e-10, "functions": 2e-9}
_BYTE = 5e-10
#: How much that counts, in seconds of samples.
_PRIOR = 1e-6

Seconds = dict[str, tuple[float, ...]]


def fit(samples: Sequence[Sample]) -> Seconds:
    """Seconds of every unit of :data:`UNITS` for every kind of kernel, so that sums are nearest to what was measured.

    Least squares of (predicted - measured) / sqrt(predicted): an error counts as much in a long time as in many short
    ones that make it up, and the sum over all samples comes out right. A kind of one word stands for those that begin
    with it, and "other" for all that don't compute products, where a kind isn't in the samples; where it is, but they
    say little of a unit, its number stays near theirs.
    """
    pools = sorted({w.kind.partition(" ")[0] for s in samples for w in s.works} - {"view"})
    found: Seconds = {"other": (0.0,) * len(UNITS)}
    found |= _fitted([_pooled(s, set(pools), "other") for s in samples if _only(s, _ORDINARY)], found)
    for pool in pools:
        near = {pool: found["other"]} if pool in _ORDINARY else {}
        found |= _fitted([_pooled(s, {pool}, pool) for s in samples if _only(s, {pool})], {**found, **near})
    return {**found, **_fitted(samples, found)}


def _only(sample: Sample, pools: set[str]) -> bool:
    """Whether all kernels of a sample but views are of these kinds, whatever follows their first words."""
    found = {w.kind.partition(" ")[0] for w in sample.works} - {"view"}
    return bool(found) and found <= pools


def _pooled(sample: Sample, pools: set[str], name: str) -> Sample:
    """The sample with all kernels of these kinds taken for kernels of one."""
    works = [w._replace(kind=name) if w.kind.partition(" ")[0] in pools else w for w in sample.works]
    return Sample(works, sample.seconds)


def _fitted(samples: Sequence[Sample], near: Seconds) -> Seconds:
    """The fit to samples; the numbers of a kind stay near those of it, or of its first word, in ``near``."""
    kinds = sorted({w.kind for s in samples for w in s.works})
    count = len(UNITS)
    place = {k: i * count for i, k in enumerate(kinds)}
    rows: list[tuple[NDArray[np.intp], Floats]] = []
    for s in samples:
        row: Floats = np.zeros(len(kinds) * count)
        for w in s.works:
            row[place[w.kind] : place[w.kind] + count] += w[2:]
        at = np.flatnonzero(row)
        rows.append((at, row[at]))
    none = (0.0,) * count
    prior: Floats = np.array([near.get(k, near.get(k.partition(" ")[0], none)) for k in kinds], np.float64).reshape(-1)
    hold: Floats = np.tile([_PRIOR / _SCALE.get(u, _BYTE) ** 2 for u in UNITS], len(kinds))
    expected = [s.seconds for s in samples]
    numbers = prior
    for _ in range(_PASSES if kinds else 0):
        products, right = np.diag(hold), hold * prior
        for (at, row), s, seconds in zip(rows, samples, expected, strict=True):
            weight = 1 / max(seconds, _SHORT)
            products[np.ix_(at, at)] += np.outer(row, row) * weight
            right[at] += row * (s.seconds * weight)
        numbers = nonnegative(products, right, numbers)
        expected = [float(row @ numbers[at]) for at, row in rows]
    return {k: tuple([float(n) for n in numbers[i : i + count]]) for k, i in place.items()}


def nonnegative(products: Floats, right: Floats, start: Floats | None = None) -> Floats:
    """The x >= 0 that is nearest to solving A x = b, from A'A and A'b (Lawson and Hanson's active set).

    ``start`` says which are likely to be above 0: those that are there.

    >>> nonnegative(np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([4.0, -2.0])).round(6).tolist()
    [2.0, 0.0]
    """
    scale = np.sqrt(np.diag(products))
    scale[scale == 0] = 1.0
    gram: Floats = products / np.outer(scale, scale)
    target: Floats = right / scale
    x: Floats = np.zeros(len(target))
    free = np.zeros(len(target), bool) if start is None else (start > 0)
    if start is not None:
        x[free] = start[free] * scale[free]
    ridge: Floats = 1e-9 * np.eye(len(target))  # columns may say the same: sizes that always go together
    least = 1e-8 * float(np.abs(target).max(initial=0.0))
    for _ in range(3 * len(target) + 1):
        while free.any():
            y: Floats = np.zeros(len(target))
            y[free] = np.linalg.solve(gram[np.ix_(free, free)] + ridge[: free.sum(), : free.sum()], target[free])
            if y[free].min() > 0:
                x = y
                break
            down = free & (y <= 0)
            step = float(np.min(x[down] / np.maximum(x[down] - y[down], 1e-300)))
            x = x + step * (y - x)
            free &= x > 1e-14 * float(np.abs(x).max(initial=0.0))
            x[~free] = 0.0
        slope = target - gram @ x
        blocked = free | (np.diag(gram) == 0)
        if blocked.all() or slope[~blocked].max() <= least:
            break
        free[np.flatnonzero(~blocked)[np.argmax(slope[~blocked])]] = True
    return x / scale


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Mapping[str, Any]:
    """How far predictions are off, of what was measured: the median, the 90th percentile, the part within 10 %."""
    off = np.abs(np.array(predicted) / np.array(measured) - 1)
    return {
        "median_error": round(float(np.median(off)), 4),
        "p90_error": round(float(np.quantile(off, 0.9)), 4),
        "within_10_percent": round(float(np.mean(off <= 0.1)), 4),
    }
