"""What shapes, slices and padding given as numbers leave open of other sizes, whatever framework they are of.

What changes nothing at the example's sizes leaves nothing in a graph, and a number may be meant as it is or be made of
a size: so such calls are kept beside the graph (``TensorDAG.left_out``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tdagger.analysis.axes.doubts import NEW, SQUEEZED, UP_TO, LeftOut
from tdagger.analysis.axes.made import WHOLE
from tdagger.op import Value
from tdagger.ops.structure import OPEN
from tdagger.types import Shape, Sized

#: A size up to here that a view gives as a number beside one that it leaves open may be just that number.
_FEW = 4


def of_slice(out: Value, x: Value, dim: int, start: Any, end: Any) -> LeftOut | None:
    """A slice of one dimension: up to a number of entries that are all here, or of none.

    A number beyond them all may be the size of another dimension, which then cuts where it is less.
    """
    n = x.shape[dim]
    if not _entries(n, start, end):
        return LeftOut(x, (dim % x.rank,), f"is sliced where none of {n} entries are")
    if not isinstance(end, int) or isinstance(end, Sized) or end < 0 or end >= OPEN:
        return None
    made = [i for i, size in enumerate(x.shape) if end > n and any(end == f(size) for f in WHOLE.values())]
    dims = tuple(sorted({dim % x.rank, *made} if out is x else made))
    return LeftOut(x, dims, f"is sliced up to {end}, which are all at {n}") if dims else None


def _entries(n: int, start: Any, end: Any) -> range:
    first, last = (None if bound is None else int(bound) for bound in (start, end))
    return range(n)[first:last]


def of_split(x: Value, dim: int, sizes: Sequence[int]) -> LeftOut | None:
    """A split into parts of which one has all entries: with others the rest may have some."""
    dim %= x.rank
    whole = x.shape[dim] in sizes
    return LeftOut(x, (dim,), f"is split into parts of {', '.join(map(str, sizes))} entries") if whole else None


def of_squeeze(x: Value, axes: Sequence[int] | None) -> LeftOut:
    """A squeeze of some dimensions, or of all of 1 entry: of more entries they are none, or aren't dropped."""
    dims = [i for i, n in enumerate(x.shape) if n == 1] if not axes else [a % x.rank for a in axes]
    return LeftOut(x, tuple(dims), SQUEEZED, keeps=True)


def of_unsqueeze(out: Value, axes: Sequence[int]) -> LeftOut | None:
    """A new dimension: after ``x.flatten(0, 1)`` of 1 x 3, ``[None]`` isn't the dimension of 1 entry."""
    return LeftOut(out, tuple([a % out.rank for a in axes]), NEW) if out.op.name == "ungroup" else None


def of_shape(out: Value, x: Value, shape: Sequence[Any]) -> LeftOut | None:
    """Another shape, by its numbers: where sizes are equal, few, or of 1 entry, they may be meant in other ways."""
    given = [n if isinstance(n, int) and not isinstance(n, Sized) else -1 for n in shape]
    shown = " x ".join(map(str, given))
    old, new = [n for n in x.shape if n != 1], [n for n in given if n != 1]
    if old != new and sorted(old) == sorted(new):
        return LeftOut(x, tuple(range(x.rank)), f"is given the shape {shown}, its own in another order", keeps=True)
    lost = _lost_ones(x.shape, given, out.shape)
    if old == new:
        same = tuple(i for i, n in enumerate(x.shape) if x.shape.count(n) > 1 and (n != 1 or out is x))
        if same:
            what = f"is given the shape {shown}, which it has, and of which some are equal"
            return LeftOut(x, tuple(lost.union(same)), what, keeps=True)
    few = [i for i, n in enumerate(given) if 1 < n <= _FEW and (-1 in given or _beside_a_new_one(x.shape, given, i))]
    wanted = {(math.prod(out.shape[:i]), given[i]) for i in few}
    kept = {i for i, n in enumerate(x.shape) if (math.prod(x.shape[:i]), n) in wanted}
    if kept:
        return LeftOut(x, tuple(kept | lost), _FEW_GIVEN.format(shown), keeps=True)
    what = f"has 1 entry for which the shape {shown} has no place of its own"
    return LeftOut(x, tuple(lost), what, keeps=True) if lost else None


def _beside_a_new_one(old: Shape, given: Sequence[int], i: int) -> bool:
    """Whether a size stands beside a 1 where it had none: it may be that number, and the 1 how often it goes into n."""

    def ones(shape: Sequence[int], at: int) -> int:
        return sum(1 for step in (1, -1) if 0 <= at + step < len(shape) and shape[at + step] == 1)

    at = [k for k, n in enumerate(old) if n == given[i] and math.prod(old[:k]) == math.prod(given[:i])]
    return bool(at) and ones(given, i) > ones(old, at[-1])


_FEW_GIVEN = "is given the shape {}, in which so few may be meant as a number"


def of_parts(x: Value, dim: int, sizes: Sequence[int]) -> LeftOut | None:
    """A dimension divided into sizes one of which is all of it: that may be meant as a number."""
    dim %= x.rank
    few = any(1 < n <= _FEW and n == x.shape[dim] and not isinstance(n, Sized) for n in sizes)
    shown = " x ".join(map(str, sizes))
    return LeftOut(x, (dim,), _FEW_GIVEN.format(shown), keeps=True) if few and len(sizes) > 1 else None


def _lost_ones(old: Shape, given: Sequence[int], new: Shape) -> set[int]:
    """The dimensions of 1 entry that a shape has at another place, or that it doesn't say where they went.

    Beside a size that is left open they are certain to be in that one only.
    """
    within = [math.prod(new[k + 1 :]) for k in range(len(new))]
    ones: dict[int, list[int]] = {}
    for i, n in enumerate(old):
        if n == 1:
            ones.setdefault(math.prod(old[i + 1 :]), []).append(i)
    slots = [p for p, n in zip(within, new, strict=True) if n == 1]
    elsewhere = any(slots.count(p) > len(ones.get(p, ())) for p in slots)
    lost: set[int] = set()
    for place, dims in ones.items():
        if slots.count(place) >= len(dims):
            continue
        around = [k for k, (p, n) in enumerate(zip(within, new, strict=True)) if n > 1 and p <= place <= p * n]
        taken = [k for k in around if given[k] < 0] if around and given[around[0]] < 0 else around
        if elsewhere or (-1 in given and any(given[k] >= 0 for k in taken)):
            lost.update(dims)
    return lost


def of_padding(out: Value, x: Value, sides: dict[int, tuple[int, int]], shown: Sequence[int]) -> LeftOut | None:
    """What is on one side only may be up to a number; beside it, or alone, nothing on both may be, too."""
    said = {i: isinstance(before, Sized) or isinstance(after, Sized) for i, (before, after) in sides.items()}
    one_sided = any(min(side) == 0 < max(side) and not said[i] for i, side in sides.items())
    if out is not x and not one_sided:
        return None
    dims = tuple([i for i, side in sides.items() if min(side) == 0 and not said[i]])
    what = f"is padded by {[int(n) for n in shown]}, {UP_TO}"
    return LeftOut(x, dims, what, keeps=True) if dims else None
