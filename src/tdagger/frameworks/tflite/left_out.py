"""What operators of a file with fixed sizes leave open of others that no value in a graph shows.

See :mod:`tdagger.frameworks.left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.frameworks.left_out import of_padding, of_shape, of_slice, of_split, of_squeeze, of_unsqueeze
from tdagger.op import Array, Value


def _slice(out: Value, x: Value, begin: Sequence[int], size: Sequence[int]) -> Iterator[LeftOut | None]:
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        yield of_slice(out, x, axis, first, None if count < 0 else first + count)


def _strided_slice(
    out: Value, x: Value, begin: Sequence[int], end: Sequence[int], strides: Sequence[int], *, begin_mask: int = 0,
    end_mask: int = 0, ellipsis_mask: int = 0, new_axis_mask: int = 0, shrink_axis_mask: int = 0, offset: bool = False,
) -> Iterator[LeftOut | None]:  # fmt: skip
    if ellipsis_mask or new_axis_mask or offset:
        return
    for axis in range(min(len(begin), x.rank)):
        if strides[axis] > 0 and not shrink_axis_mask >> axis & 1:
            first = None if begin_mask >> axis & 1 else begin[axis]
            yield of_slice(out, x, axis, first, None if end_mask >> axis & 1 else end[axis])


def _reshape(out: Value, x: Value, shape: Sequence[int] | None = None, **options: Any) -> Iterator[LeftOut | None]:
    wanted = shape if shape is not None else options.get("new_shape")
    if wanted is not None and x.type.size:
        yield of_shape(out, x, wanted)


def _split(out: Value, x: Value, sizes: Sequence[int], axis: int, **_: Any) -> Iterator[LeftOut | None]:
    yield of_split(x, axis, [int(n) for n in sizes])


def _squeeze(out: Value, x: Value, *, squeeze_dims: Sequence[int] | None = None) -> Iterator[LeftOut | None]:
    yield of_squeeze(x, squeeze_dims)


def _expand_dims(out: Value, x: Value, axis: int) -> Iterator[LeftOut | None]:
    yield of_unsqueeze(out, [axis])


def _pad(out: Value, x: Value, paddings: Array, *_: Any, **__: Any) -> Iterator[LeftOut | None]:
    """Padding is given for every axis; those before the first that is padded aren't meant, nor the channels."""
    sides = {i: (int(a), int(b)) for i, (a, b) in enumerate(paddings.tolist())}
    first = min([i for i, side in sides.items() if any(side)], default=x.rank)
    last = max([i for i, side in sides.items() if any(side)], default=-1)
    sides = {i: side for i, side in sides.items() if first <= i <= last}
    if sides:
        yield of_padding(out, x, sides, paddings.reshape(-1).tolist())


#: By the operator, what says how its numbers could matter at other sizes.
FINDERS: dict[str, Callable[..., Iterator[LeftOut | None]]] = {
    "EXPAND_DIMS": _expand_dims,
    "PAD": _pad,
    "PADV2": _pad,
    "RESHAPE": _reshape,
    "SLICE": _slice,
    "SPLIT_V": _split,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
}


def left_out(op: str, result: Value, args: Sequence[Any], keywords: dict[str, Any]) -> list[LeftOut]:
    """What an operator leaves open without showing it in its result."""
    named = {k: v for k, v in keywords.items() if k not in ("node", "draw")}
    return [found for found in FINDERS[op](result, *args, **named) if found is not None]
