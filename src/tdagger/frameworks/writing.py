"""What the writers of files share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

#: An operator as it is written, which has ``outputs``.
Written = TypeVar("Written", bound=Any)


def needed(ops: Sequence[Written], outputs: Iterable[str], reads: Callable[[Written], Iterable[str]]) -> list[Written]:
    """The operators that some results depend on, in order; ``reads`` are the names that one takes."""
    wanted = set(outputs)
    kept: list[Written] = []
    for op in reversed(ops):
        if wanted.isdisjoint(op.outputs):
            continue
        kept.append(op)
        wanted.update(reads(op))
    return kept[::-1]


def inserted(short: Sequence[int], long: Sequence[int]) -> list[int] | None:
    """The axes of size 1 that ``long`` has more than ``short``; None if that isn't all there is to it.

    >>> inserted((2, 3), (2, 1, 3)), inserted((2, 3), (3, 1, 2))
    ([1], None)
    """
    new: list[int] = []
    at = 0
    for i, n in enumerate(long):
        if at < len(short) and short[at] == n:
            at += 1
        elif n == 1:
            new.append(i)
        else:
            return None
    return new if at == len(short) else None
