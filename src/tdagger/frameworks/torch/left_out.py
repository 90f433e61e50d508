"""Calls that change nothing at the sizes of an example, and are given numbers: at other sizes they may change much.

``x[:3]`` of 3 entries, padding by 0, rolling by a whole turn and ``x.T.reshape(x.shape)`` of a square leave no value in
a graph. What their numbers were computed from isn't known then, and that nothing is left doesn't mean that nothing
would be: so it is kept beside the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tdagger.analysis.doubts import LeftOut
from tdagger.op import Value
from tdagger.types import Sized

_Finder = Callable[..., LeftOut | None]

#: Ends of slices from here on mean all that is there.
_OPEN = 1 << 62


def _slice(x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> LeftOut | None:
    del step
    n = x.shape[dim]
    if not _entries(n, start, end):
        return LeftOut(x, (dim % x.rank,), f"is sliced where none of {n} entries are")
    if not isinstance(end, int) or isinstance(end, Sized) or end < 0 or end >= _OPEN:
        return None
    return LeftOut(x, (dim % x.rank,), f"is sliced up to {end}, which are all at {n}")


def _entries(n: int, start: Any, end: Any) -> range:
    first, last = (None if bound is None else int(bound) for bound in (start, end))
    return range(n)[first:last]


def _view(x: Value, shape: Sequence[Any]) -> LeftOut | None:
    given = [n if isinstance(n, int) and not isinstance(n, Sized) else -1 for n in shape]
    same = tuple(i for i, n in enumerate(given) if n >= 0 and x.shape.count(n) > 1)
    shown = " x ".join(map(str, x.shape))
    return LeftOut(x, same, f"is given the shape {shown}, which it has, and of which some are equal") if same else None


def _pad(x: Value, pad: Sequence[int], *_: Any) -> LeftOut | None:
    dims = tuple(x.rank - 1 - i for i in range(len(pad) // 2))
    return LeftOut(x, dims, "is padded by 0")


def _roll(x: Value, shifts: Any, dims: Any = ()) -> LeftOut | None:
    numbers, along = [[n] if isinstance(n, int) else list(n) for n in (shifts, dims)]
    if not any(numbers) and not along:
        return None
    return LeftOut(x, tuple(d % x.rank for d in along) or tuple(range(x.rank)), f"is rolled by {numbers}, whole turns")


#: By the name of an op, what says how its numbers could matter at other sizes.
_FOUND: dict[str, _Finder] = {
    "slice": _slice,
    "view": _view,
    "reshape": _view,
    "_unsafe_view": _view,
    "constant_pad_nd": _pad,
    "pad": _pad,
    "roll": _roll,
}


def left_out(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> LeftOut | None:
    """What is left out of a call that gives its first argument, or nothing of it; None if its numbers can't matter."""
    found = _FOUND.get(name)
    return None if found is None else found(*args, **kwargs)
