"""What calls leave open of other sizes that no value in a graph shows.

``x[:3]`` of 3 entries, padding by 0, rolling by a whole turn, ``x.T.reshape(x.shape)`` of a square change nothing, and
``x.reshape(2, -1)`` of 2 x 3 x 4 keeps its first dimension: whether for the number's sake or because it is 2 isn't
known. So it is kept beside the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.op import Value
from tdagger.ops.structure import OPEN
from tdagger.types import Sized

_Finder = Callable[..., LeftOut | None]

#: A size up to here that a view gives as a number beside one that it leaves open may be just that number.
_FEW = 4


def _slice(out: Value, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> LeftOut | None:
    del step
    n = x.shape[dim]
    if not _entries(n, start, end):
        return LeftOut(x, (dim % x.rank,), f"is sliced where none of {n} entries are")
    if out is not x or not isinstance(end, int) or isinstance(end, Sized) or end < 0 or end >= OPEN:
        return None
    return LeftOut(x, (dim % x.rank,), f"is sliced up to {end}, which are all at {n}")


def _entries(n: int, start: Any, end: Any) -> range:
    first, last = (None if bound is None else int(bound) for bound in (start, end))
    return range(n)[first:last]


def _view(out: Value, x: Value, shape: Sequence[Any] | torch.dtype) -> LeftOut | None:
    if isinstance(shape, torch.dtype):  # the same bits as other numbers
        return None
    given = [n if isinstance(n, int) and not isinstance(n, Sized) else -1 for n in shape]
    shown = " x ".join(map(str, given))
    if out is x:
        same = tuple(i for i, n in enumerate(given) if n >= 0 and x.shape.count(n) > 1)
        if same:
            return LeftOut(x, same, f"is given the shape {shown}, which it has, and of which some are equal")
    few = [i for i, n in enumerate(given) if 1 < n <= _FEW and -1 in given]
    wanted = {(math.prod(out.shape[:i]), given[i]) for i in few}
    kept = tuple(i for i, n in enumerate(x.shape) if (math.prod(x.shape[:i]), n) in wanted)
    return LeftOut(x, kept, f"is given the shape {shown}, in which so few may be meant as a number") if kept else None


def _pad(out: Value, x: Value, pad: Sequence[int], *_: Any) -> LeftOut | None:
    if out is not x:
        return None
    dims = tuple(x.rank - 1 - i for i in range(len(pad) // 2))
    return LeftOut(x, dims, "is padded by 0")


def _roll(out: Value, x: Value, shifts: Any, dims: Any = ()) -> LeftOut | None:
    numbers, along = [[n] if isinstance(n, int) else list(n) for n in (shifts, dims)]
    if out is not x or (not any(numbers) and not along):
        return None
    return LeftOut(x, tuple(d % x.rank for d in along) or tuple(range(x.rank)), f"is rolled by {numbers}, whole turns")


def _alias(out: Value, x: Value) -> LeftOut | None:
    del out
    return LeftOut(x, tuple(range(x.rank)), "is what torch left of an index that takes all of it, and may take less")


def _smoothed(
    out: Any, x: Value, target: Value, weight: Any = None, reduction: int = 1, ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> LeftOut | None:  # fmt: skip
    del out, target, weight, reduction, ignore_index
    classes = (min(x.rank - 1, 1),)
    return LeftOut(x, classes, "is counted by torch for label_smoothing") if label_smoothing else None


#: By the name of an op, what says how its numbers could matter at other sizes.
_FOUND: dict[str, _Finder] = {
    "alias": _alias,  # of a slice of all entries, among others
    "slice": _slice,
    "view": _view,
    "reshape": _view,
    "_unsafe_view": _view,
    "constant_pad_nd": _pad,
    "pad": _pad,
    "roll": _roll,
    "cross_entropy_loss": _smoothed,
}


def left_out(
    name: str, result: Any, args: Sequence[Any], kwargs: dict[str, Any], read: Callable[[Any], Any] = lambda x: x
) -> list[LeftOut]:
    """What a call leaves open without showing it in its result; None for the result of what torch decomposes.

    ``read`` gives the values of arguments that are refs.
    """
    found = _FOUND.get(name)
    if found is None:
        return []
    left = found(result, *map(read, args), **{k: read(v) for k, v in kwargs.items()})
    return [] if left is None else [left]
