"""What is alike among boxes and what repeats in a row.

>>> periods(list("xababab"))
[(1, 2, 3)]
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Sequence

from tdagger.op import Value
from tdagger.view.fold.boxes import Box, Leaf

#: The longest thing looked for that repeats: so many boxes.
_LONGEST = 8

_NUMBER = re.compile(r"\d+(?=\D*$)")
_RANGE = re.compile(r"(.*?)(\d+)-(\d+)")


class Shapes:
    """A number for every item: equal for those that hold the same ops of the same types, on whatever weights."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._of: dict[Box | Leaf, int] = {}

    def of(self, item: Box | Leaf) -> int:
        """The number of an item; what it holds must stay as it is from now on."""
        found = self._of.get(item)
        if found is None:
            key = self._leaf(item) if isinstance(item, Leaf) else self._box(item)
            found = self._of[item] = self._numbers.setdefault(key, len(self._numbers))
        return found

    def _leaf(self, leaf: Leaf) -> Hashable:
        name = _NUMBER.sub("#", leaf.name)
        return ("op", name, leaf.kind, tuple(leaf.changes), *[_value(v) for v in leaf.values])

    def _box(self, box: Box) -> Hashable:
        name = "" if not box.is_module else _NUMBER.sub("#", box.name)
        return ("box", name, box.kind, box.state, tuple(box.changes), *map(self.of, box.items))


def _value(value: Value | None) -> Hashable:
    return None if value is None else (value.op, value.type, tuple([a.type for a in value.args]))


def periods(labels: Sequence[Hashable]) -> list[tuple[int, int, int]]:
    """Where several labels repeat in a row, one after the other: (start, how many labels, how often)."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while at < len(labels):
        best = (0, 0)
        for length in range(1, min(_LONGEST, (len(labels) - at) // 2) + 1):
            first, times = labels[at : at + length], 1
            while labels[at + times * length : at + (times + 1) * length] == first:
                times += 1
            if times > 1 and times * length > best[0] * best[1]:
                best = (length, times)
        length, times = best
        if length > 1:
            found.append((at, length, times))
        at += max(1, length * times)
    return found


def moved(name: str, by: int) -> str:
    """A name with another last number.

    >>> moved("blocks.5", -4), moved("norm", -4)
    ('blocks.1', 'norm')
    """
    return _NUMBER.sub(lambda m: str(int(m[0]) + by), name) if by else name


def number(name: str) -> int | None:
    """The last number of a name."""
    found = _NUMBER.search(name)
    return int(found[0]) if found and len(found[0]) < 10 else None


def alike(a: str, b: str) -> bool:
    """Whether two names differ in their last number only."""
    return a == b or _NUMBER.sub("#", a) == _NUMBER.sub("#", b)


def together(names: Sequence[str]) -> str:
    """The name of several in a row.

    >>> together(["layers.0", "layers.1", "layers.2"]), together(["a", "a"]), together(["h.1", "h.5"])
    ('layers.0-2', 'a', 'h.1,5')
    >>> together(["h.0-1", "h.2-3"])
    'h.0-3'
    """
    ranges = [_RANGE.fullmatch(n) for n in names]
    if all(ranges) and len({m[1] for m in ranges if m}) == 1 and len(set(names)) > 1:
        return f"{names[0].rpartition('-')[0]}-{names[-1].rpartition('-')[2]}"
    numbers = [number(n) for n in names]
    known = [n for n in numbers if n is not None]
    if len(known) < len(names) or len(set(names)) == 1 or not all(alike(n, names[0]) for n in names):
        return names[0] if len(set(names)) == 1 else f"{names[0]} ... {names[-1]}"
    in_row = all(b == a + 1 for a, b in itertools.pairwise(known))
    short = (
        f"{known[0]}-{known[-1]}"
        if in_row
        else f"{known[0]},{known[1]}"
        if len(known) == 2
        else f"{known[0]},...,{known[-1]}"
    )
    return _NUMBER.sub(short, names[0])
