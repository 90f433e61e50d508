"""How far two arrays are apart, and how large numbers are, where some stand for "never": the infinities of masks."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

#: From here on numbers may stand for infinity, if there is none between them and what is so many times smaller.
_NEVER, _GAP = 1e8, 1e-4


def distance(a: Any, b: Any) -> float:
    """The largest |a - b|; infinite where shapes differ, or infinities and NaN aren't at the same places.

    What a mask has for minus infinity, and what was added to it, counts by its relative error: the others are what says
    how large numbers are.

    >>> distance(np.array([1.0, -3e38]), np.array([1.5, -3e38]))
    0.5
    """
    if isinstance(a, tuple) or isinstance(b, tuple):
        pairs = zip(cast(Any, a), cast(Any, b), strict=True)
        return max((distance(x, y) for x, y in pairs), default=0.0)
    if a is b:
        return 0.0
    if a.shape != b.shape:
        return np.inf
    a, b = _wide(a, b), _wide(b, a)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return np.inf
    return _largest(a[finite], b[finite])


def spread(a: Any, b: Any) -> float:
    """The same of entries that are finite in both."""
    if isinstance(a, tuple):
        return max(map(spread, cast(Any, a), b), default=0.0)
    a, b = _wide(a, b), _wide(b, a)
    finite: Any = np.isfinite(a) & np.isfinite(b)
    return _largest(a[finite], b[finite])


def size(a: Any) -> float:
    """The largest finite |a|, but for what stands for infinity.

    >>> size(np.array([0.0, -2.0, np.finfo(np.float32).min])), size(np.array([1e6, 2e9]))
    (2.0, 2000000000.0)
    """
    if isinstance(a, tuple):
        return max(map(size, cast(Any, a)), default=0.0)
    if a.dtype.kind == "b":
        return 1.0
    magnitude = np.abs(a.astype(np.complex128 if a.dtype.kind == "c" else np.float64))
    magnitude = magnitude[np.isfinite(magnitude)]
    rest = _without_never(magnitude)
    return float(magnitude.max(initial=0.0)) if rest is None else rest


def are_the_same_entries(a: Any, b: Any, bound: float) -> bool:
    """Whether two arrays hold the same numbers, at whatever places."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        return False
    return distance(np.sort(a, axis=None), np.sort(b, axis=None)) <= bound


def _wide(a: Any, b: Any) -> Any:
    return a.astype(np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64)


def _largest(a: Any, b: Any) -> float:
    off: Any = np.abs(a - b)
    most = float(off.max(initial=0.0))
    if most:
        magnitude = np.abs(a)
        rest = _without_never(magnitude)
        if rest is not None:
            never = magnitude > rest
            off[never] *= max(rest, 1.0) / magnitude[never]
            most = float(off.max())
    return most


def _without_never(magnitude: Any) -> float | None:
    """The largest of what doesn't stand for infinity; None if nothing does, or all."""
    most = float(magnitude.max(initial=0.0))
    if most < _NEVER:
        return None
    others = magnitude[magnitude < most / 8]  # some masks are added up
    rest = float(others.max(initial=0.0))
    return rest if others.size and rest <= most * _GAP else None
