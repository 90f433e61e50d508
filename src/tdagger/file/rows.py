"""Rows of numbers in which repeats are stored once: what a file's tables and graphs are written as.

A *stream* is a JSON list ``[numbers, back, times, numbers, back, times, ..., numbers]``: the numbers as they are, of
which the last ``back`` then come ``times`` more. What a row refers to is written so that rows of repeated layers are
the same numbers: relative to the row (negative) or by its place (from 0 on).

>>> rows = [((7,), ()), *[((8,), (i,)) for i in range(39)]]
>>> packed(rows)
[[7, 8, -1, 8, -1, 8, -1, 8, -1, 8, -1, 8, -1, 8, -1, 8, -1, 8, -1], 18, 3, [8, -1, 8, -1, 8, -1]]
>>> len(expanded(packed(rows), 1000, "nodes"))
79
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, compress, count
from operator import ne, sub
from typing import Any, NamedTuple, cast

from tdagger.errors import FileError

#: A repeat has at least so many rows and is taken at most so many times more, so that a file can't become many times
#: as large as it is: rows are never more than a number times the file's bytes.
_SHORTEST, _MOST = 8, 7
#: Where 8 rows are alike a repeat may be; so many places are tried.
_TRIED = 4
#: No number of a stream is as large as this.
LARGEST = 2**53


#: A row is its numbers and the places of the rows that it refers to.
Row = tuple[tuple[int, ...], tuple[int, ...]]


def packed(rows: Sequence[Row]) -> list[Any]:
    """The stream of rows. Linear in what they refer to."""
    stream: list[Any] = []
    now: list[int] = []
    at = 0
    for start, period, stop, masks in _repeats(rows):
        _plain(rows, at, start, now)
        at = start
        while stop - at > period:  # a part of the repeat that is taken at most _MOST times more
            times = min((stop - at) // period - 1, _MOST)
            body = [
                n
                for i in range(at, at + period)
                for n in (*rows[i][0], *_chosen(i, rows[i][1], masks[(i - start) % period]))
            ]
            stream += [[*now, *body], len(body), times]
            now = []
            at += (times + 1) * period
    _plain(rows, at, len(rows), now)
    return [*stream, now]


def _plain(rows: Sequence[Row], start: int, stop: int, to: list[int]) -> None:
    """Put some rows behind what is written, each reference as is shorter: relative to the row, or the place."""
    for i in range(start, stop):
        numbers, refs = rows[i]
        to += numbers
        for ref in refs:
            back = i - ref
            to.append(-back if back < 10 or len(str(back)) <= len(str(ref)) else ref)


def _chosen(row: int, refs: tuple[int, ...], masks: list[int]) -> list[int]:
    """References as they are the same in every repeat: relative where bit 0 allows it."""
    return [r - row if mask & 1 else r for r, mask in zip(refs, masks, strict=True)]


class _Found(NamedTuple):
    start: int
    period: int
    stop: int
    masks: list[list[int]]


def _repeats(rows: Sequence[Row]) -> list[_Found]:
    """Repeats that don't overlap, those that save most before others, in order."""
    found = sorted(_candidates(rows), key=lambda f: (f.period + f.start - f.stop, f.start, f.period))
    taken = bytearray(len(rows))
    kept: list[_Found] = []
    for one in found:
        if not any(taken[one.start : one.stop]):
            taken[one.start : one.stop] = b"\1" * (one.stop - one.start)
            kept.append(one)
    return sorted(kept)


def _numbered(keys: Iterable[Hashable]) -> list[int]:
    """A number for each key, from 0 on in the order in which they come: of equal keys the same."""
    numbers: defaultdict[Hashable, int] = defaultdict(count().__next__)
    return [numbers[key] for key in keys]


def _candidates(rows: Sequence[Row]) -> list[_Found]:
    """Every place from which on rows are those of ``period`` rows before, for at least one whole period."""
    kinds = _numbered([(numbers, len(refs)) for numbers, refs in rows])
    alike = kinds
    if any(refs for _, refs in rows):
        own = enumerate(zip(kinds, rows, strict=True))
        alike = _numbered([(kind, *[i - r for r in row[1]]) for i, (kind, row) in own])
    windows = kinds
    for width in (1, 2, 4):  # of as many rows, then of twice as many
        windows = _numbered(zip(windows, windows[width:], strict=False))
    seen: list[deque[int]] = []
    known: dict[int, int] = {}  # period -> up to where it has been looked at
    found: list[_Found] = []
    for i, window in enumerate(windows):
        if window == len(seen):
            seen.append(deque([i], _TRIED))
            continue
        places, refs = seen[window], rows[i][1]
        for place in reversed(places):
            period = i - place
            last = i + period - 1
            if last >= len(rows) or kinds[last] != kinds[i - 1] or known.get(period, 0) > i:
                continue
            for ref, old in zip(refs, rows[place][1], strict=True):
                if ref != old and ref - old != period:
                    break  # as of most that aren't the same row
            else:
                stop, masks = _extent(rows, kinds, alike, i, period)
                known[period] = max(stop, i + 1)
                if stop - i >= period:
                    whole = -(-_SHORTEST // period) * period  # short ones several times as one
                    stop = place + (stop - place) // whole * whole
                    if stop - place >= 2 * whole:
                        found.append(_Found(place, whole, stop, [masks[j % period] for j in range(whole)]))
        places.append(i)
    return found


def _extent(
    rows: Sequence[Row], kinds: Sequence[int], alike: Sequence[int], start: int, period: int
) -> tuple[int, list[list[int]]]:
    """Up to where rows are those of ``period`` rows before, and how each of a period's references is the same.

    Rows of one number in ``alike`` have the same numbers and, relative to themselves, the same references.
    """
    own, before = (map(alike.__getitem__, range(k, len(rows))) for k in (start, start - period))
    first = next(compress(count(start), map(ne, own, before)), len(rows))
    masks = [[1] * len(refs) for _, refs in rows[start : min(first, start + period)]]
    for i in range(first, len(rows)):
        last, at = i - period, (i - start) % period
        if alike[i] == alike[last]:
            if len(masks) <= at:
                masks.append([1] * len(rows[i][1]))
                continue
            if 2 not in masks[at]:  # each reference may be relative
                continue
        if kinds[i] != kinds[last]:
            return i, masks
        refs, old = rows[i][1], rows[last][1]
        same = [(r - o == period) | (r == o) << 1 for r, o in zip(refs, old, strict=True)]
        if len(masks) > at:
            same = [m & s for m, s in zip(masks[at], same, strict=True)]
        if 0 in same:
            return i, masks
        masks[at : at + 1] = [same]
    return len(rows), masks


def steps(columns: Sequence[tuple[int, ...]]) -> list[Row]:
    """Rows whose numbers are how far each is from the one above it, 0 above the first."""
    moved = [map(sub, column, (0, *column)) for column in zip(*columns, strict=True)]
    return [(numbers, ()) for numbers in zip(*moved, strict=True)]


def expanded(stream: Any, most: int, where: str) -> list[int]:
    """All numbers of a stream; FileError if it is none, or they would be more than ``most``."""
    if not isinstance(stream, list) or len(cast(list[Any], stream)) % 3 != 1:
        raise FileError(f"{where}: must be a stream: lists of integers with two integers between")
    parts = cast(list[Any], stream)
    total = 0
    for i in range(0, len(parts), 3):
        numbers = parts[i]
        if not isinstance(numbers, list) or not set(map(type, cast(list[Any], numbers))) <= {int}:
            raise FileError(f"{where}[{i}]: must be a list of integers")
        if numbers and not (min(cast(list[int], numbers)) > -LARGEST and max(cast(list[int], numbers)) < LARGEST):
            raise FileError(f"{where}[{i}]: has integers beyond 2^53")
        total += len(cast(list[int], numbers))
        if i + 1 < len(parts):
            back, times = parts[i + 1], parts[i + 2]
            if type(back) is not int or type(times) is not int or not 0 < back <= len(cast(list[int], numbers)):
                raise FileError(f"{where}[{i + 1}]: can't repeat {back!r:.40} numbers")
            if not 0 < times <= _MOST:
                raise FileError(f"{where}[{i + 2}]: a repeat is taken 1 to {_MOST} times, not {times!r:.40}")
            total += back * times
        if total > most:
            raise FileError(f"{where}: would be more than the {most} numbers that a file of this size may have")
    found: list[int] = []
    for i in range(0, len(parts), 3):
        found += parts[i]
        if i + 1 < len(parts):
            found += parts[i][-parts[i + 1] :] * parts[i + 2]
    return found


def table(stream: Any, width: int, most: int, where: str) -> list[tuple[int, ...]]:
    """The rows that :func:`steps` made the stream of, each of ``width`` numbers."""
    flat = expanded(stream, most, where)
    if len(flat) % width:
        raise FileError(f"{where}: has {len(flat)} numbers, which are no rows of {width}")
    return list(zip(*[accumulate(flat[c::width]) for c in range(width)], strict=True))
