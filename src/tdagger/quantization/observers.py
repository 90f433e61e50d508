"""The range of a tensor, found while data runs: each observer keeps a few numbers, or a histogram of one size.

>>> import numpy as np
>>> observer = observer_of("minmax")
>>> observer.update(np.float32([-1, 3])), observer.update(np.float32([2, 5])), observer.range(Numbers("u8"))
(None, None, (-1.0, 5.0))
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tdagger.errors import AttributeValueError
from tdagger.op import Array
from tdagger.quantization.profile import Numbers

_BINS = 2048
#: So many numbers are counted at once, so that counting takes little memory.
_CHUNK = 1 << 16
#: Of a tensor with more numbers than these, so many of its inner half are counted, for all of them.
_COUNTED = 1 << 18


class Observer:
    """What all observers have: the smallest and largest number so far, how many numbers, and in how many updates."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.count = self.updates = 0

    def update(self, x: Array, ends: tuple[float, float] | None = None) -> None:
        """Take in the numbers of a tensor, which are finite: its :func:`ends_of`, where they are known, say so."""
        if not x.size:
            return
        low, high = ends or ends_of(x)
        self.note(x, low, high)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += x.size
        self.updates += 1

    def note(self, x: Array, low: float, high: float) -> None:
        """What an observer of its own kind does with the numbers, from ``low`` to ``high``."""

    def range(self, numbers: Numbers) -> tuple[float, float]:
        """From where to where numbers are told apart; what is beyond is the bound. (0, 0) of what wasn't seen."""
        return (self.low, self.high) if self.count else (0.0, 0.0)

    def clipped(self, low: float, high: float) -> float:
        """The share of numbers beyond a range; NaN where the observer keeps too little to say."""
        return 0.0 if low <= self.low and self.high <= high else float("nan")


def ends_of(x: Array) -> tuple[float, float]:
    """The smallest and the largest number of a tensor: NaN both, if it has one; (0, 0) of none.

    >>> ends_of(np.float32([1, 3])), ends_of(np.float32([1, np.nan]))
    ((1.0, 3.0), (nan, nan))
    """
    return (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)


def refused(ends: tuple[float, float]) -> str:
    """What makes a tensor of these ends useless for calibration; empty if nothing does.

    >>> refused((1.0, np.inf))
    'an infinity'
    """
    if any(np.isnan(e) for e in ends):
        return "NaN"
    return "an infinity" if any(np.isinf(e) for e in ends) else ""


class Moving(Observer):
    """The mean of each tensor's ends, where later ones count more: ``(1 - weight) * before + weight * now``."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight
        self.ends: Array | None = None

    def note(self, x: Array, low: float, high: float) -> None:
        now = np.array([low, high])
        self.ends = now if self.ends is None else self.ends + self.weight * (now - self.ends)

    def range(self, numbers: Numbers) -> tuple[float, float]:
        return (0.0, 0.0) if self.ends is None else (float(self.ends[0]), float(self.ends[1]))


class Histogram(Observer):
    """Counts in bins of one width, which doubles where numbers are beyond; zeros are counted apart, as they are exact.

    Of a large tensor the numbers of the outer half of what was seen, which say whether it pays to clip them, are all
    counted, and of the others each so-manieth, as so many. Subclasses choose the range.
    """

    def __init__(self, bins: int = _BINS) -> None:
        super().__init__()
        self.bins = np.zeros(bins, np.int64)
        self.start, self.width, self.zeros = 0.0, 0.0, 0

    def note(self, x: Array, low: float, high: float) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        if high == low:  # zeros alone
            self.zeros += x.size
            return
        n = len(self.bins)
        if not self.width:
            self.width = max((high - low) / n * (1 + 1e-6), float(np.finfo(np.float32).tiny))
            self.start = low
        while high >= self.start + n * self.width:
            self._double(up=True)
        while low < self.start:
            self._double(up=False)
        flat = x.ravel("K")  # as they lie
        step = -(-len(flat) // _COUNTED) | 1  # odd: sizes of images and channels rarely are
        low, high = min(low, self.low) / 2, max(high, self.high) / 2
        some = np.ascontiguousarray(flat[::step])
        for at in range(0, len(some), _CHUNK):
            self._count(some[at : at + _CHUNK], step)
        if step > 1:
            self._count(_outside(some, low, high), -step)
            for at in range(0, len(flat), _CHUNK):
                self._count(_outside(flat[at : at + _CHUNK], low, high), 1)

    def _count(self, flat: Array, times: int) -> None:
        """Count some numbers, all of them within the bins, each as so many."""
        n = len(self.bins)
        places = ((flat - np.float32(self.start)) * np.float32(1 / self.width)).astype(np.int32)
        counts = np.bincount(places, minlength=n)
        counts *= times
        self.bins += counts[:n]
        self.bins[-1] += counts[n:].sum()  # rounded up to the end
        zeros = times * np.count_nonzero(flat == 0)
        if zeros:
            self.bins[min(int(np.float32(-self.start) * np.float32(1 / self.width)), n - 1)] -= zeros
            self.zeros += zeros

    def _double(self, up: bool) -> None:
        n = len(self.bins)
        half = self.bins.reshape(n // 2, 2).sum(1)
        self.bins = np.zeros_like(self.bins)
        if up:
            self.bins[: n // 2] = half
        else:
            self.bins[n - n // 2 :] = half
            self.start -= n * self.width
        self.width *= 2

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        return self.start + self.width * (np.arange(len(self.bins)) + 0.5)

    def clipped(self, low: float, high: float) -> float:
        if not self.count:
            return 0.0
        c = self.centres
        return float(self.bins[(c < low) | (c > high)].sum() / self.count)

    def range(self, numbers: Numbers) -> tuple[float, float]:
        if not self.bins.any():
            return super().range(numbers)
        low, high = self.choose(numbers, *super().range(numbers))
        return max(low, self.low), min(high, self.high)

    def choose(self, numbers: Numbers, low: float, high: float) -> tuple[float, float]:
        """The range, of what was seen from ``low`` to ``high``."""
        raise NotImplementedError


def _outside(x: Array, low: float, high: float) -> Array:
    """The numbers beyond ``low``, if it isn't 0, and ``high``, as they follow one another."""
    beyond = x > np.float32(high)
    return x[beyond | (x < np.float32(low)) if low else beyond]


class Percentile(Histogram):
    """From a percentile to another: what is rarer is clipped."""

    def __init__(self, percent: float = 99.99, bins: int = _BINS) -> None:
        super().__init__(bins)
        self.percent = percent

    def choose(self, numbers: Numbers, low: float, high: float) -> tuple[float, float]:
        total = np.asarray(np.cumsum(self.bins))
        last_count = int(total[-1])
        beyond = (1 - self.percent / 100) * (last_count + self.zeros)
        first = int(np.searchsorted(total, beyond, "right"))
        last = int(np.searchsorted(total, last_count - beyond, "left"))
        at = self.start + self.width * np.array([first, last + 1])
        return min(float(at[0]), 0.0), max(float(at[1]), 0.0)


class SquaredError(Histogram):
    """The range with the least mean square of what quantizing changes: rounding inside, clipping outside."""

    def choose(self, numbers: Numbers, low: float, high: float) -> tuple[float, float]:
        low, high = min(low, 0.0), max(high, 0.0)
        if numbers.grid.is_float or low == high:
            return low, high
        kept = self.bins > 0
        c, n = self.centres[kept], self.bins[kept].astype(np.float64)
        steps = numbers.bounds[1] - numbers.bounds[0]

        def errors(ranges: Array) -> Array:
            """Of each of some ranges: the sum of the squares of what quantizing to it changes."""
            a, b = ranges[:, :1], ranges[:, 1:]
            if numbers.symmetric:
                b = np.maximum(-a, b)
                a = -b
            return np.asarray(self.changed(c, (b - a) / steps, a, b) @ n)

        best = np.array([low, high])
        tried = best * np.linspace(1, 0.1, 46)[:, None]
        best = tried[np.argmin(errors(tried))]
        parts = np.linspace(1, 0.7, 16)[:, None]
        for _ in range(8):  # each end by itself, as long as that is better
            before = best
            for end in np.eye(2):
                tried = best * np.where(end, parts, 1)
                best = tried[np.argmin(errors(tried))]
            if (best == before).all():
                break
        return float(best[0]), float(best[1])

    def changed(self, c: Array, step: Array, low: Array, high: Array) -> Array:
        """Mean squares of what rounding to the steps of ranges changes of numbers near ``c``: ``[ranges, len(c)]``."""
        held = np.clip(c, low, high)
        beyond = np.square(c - held)
        fine = step < 2 * self.width  # anywhere between two numbers of the grid
        return np.where(
            beyond > 0, beyond, np.where(fine, np.square(step) / 12, np.square(held - np.round(held / step) * step))
        )


class ReadError(SquaredError):
    """The range with the least mean square of what quantizing changes of the results of a function.

    ``read``: the function of the numbers that is all anybody makes of them; without one it is as its parent.
    """

    read: Callable[[Array], Array] | None = None

    def changed(self, c: Array, step: Array, low: Array, high: Array) -> Array:
        read, half = self.read, self.width / 2
        if read is None or not np.isfinite(read(c.astype(np.float32))).all():
            return super().changed(c, step, low, high)

        def f(x: Array) -> Array:
            return read(x.astype(np.float32)).astype(np.float64)

        fine = step < 2 * self.width  # anywhere between two numbers of the grid
        away = np.square(f(np.clip(np.where(fine, c, np.round(c / step) * step), low, high)) - f(c))
        slope = (f(c + half) - f(c - half)) / self.width
        return away + np.square(slope * step) / 12 * (fine & (c >= low) & (c <= high))


class Entropy(Histogram):
    """The largest number for which what is quantized tells the most of the distribution: the least KL divergence.

    As in TensorRT: the distribution clipped at a threshold against itself in as many steps as there are.
    """

    def choose(self, numbers: Numbers, low: float, high: float) -> tuple[float, float]:
        most = max(-low, high)
        levels = 128 if min(low, 0.0) < 0 or numbers.symmetric else 256
        size = np.abs(self.centres)
        counts = np.histogram(size, len(self.bins), (0, most), weights=self.bins.astype(np.float64))[0]
        best, least = len(counts), np.inf
        for stop in range(levels, len(counts) + 1, 16):
            found = _divergence(counts, stop, levels)
            if found < least:
                best, least = stop, found
        threshold = most * best / len(counts)
        return max(min(low, 0.0), -threshold), min(max(high, 0.0), threshold)


def _divergence(counts: Array, stop: int, levels: int) -> float:
    """Of the first bins with what is beyond added to the last, and what ``levels`` steps make of them."""
    p = counts[:stop].copy()
    p[-1] += counts[stop:].sum()
    parts = np.arange(stop) * levels // stop
    filled = counts[:stop] > 0
    sums = np.bincount(parts, counts[:stop], levels)
    number = np.bincount(parts, filled, levels)
    q = np.where(filled, (sums / np.maximum(number, 1))[parts], 0.0)
    both = (p > 0) & (q > 0)
    if not both.any():
        return np.inf
    missing = p[(p > 0) & (q == 0)].sum() / p.sum()
    p, q = p / p.sum(), q / q.sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + missing)


#: Observers by name.
OBSERVERS: dict[str, type[Observer]] = {
    "minmax": Observer, "moving": Moving, "percentile": Percentile, "mse": SquaredError, "read": ReadError,
    "entropy": Entropy,
}  # fmt: skip


def observer_of(what: str | Callable[[], Observer]) -> Observer:
    """A new observer of a name, or by a function that makes one; AttributeValueError if there is none."""
    if not isinstance(what, str):
        return what()
    if what not in OBSERVERS:
        raise AttributeValueError(f"there is no observer {what!r}; there are {', '.join(OBSERVERS)}, or a function")
    return OBSERVERS[what]()
