"""What ops of a file with fixed sizes leave open of others that no value in a graph shows.

See :mod:`tdagger.frameworks.left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.frameworks.known import array_of_constant
from tdagger.frameworks.left_out import of_padding, of_shape, of_slice, of_split, of_squeeze, of_unsqueeze
from tdagger.op import Value


def _reshape(out: Value, x: Value, shape: Sequence[int], opset: int = 15) -> Iterator[LeftOut | None]:
    back = x.rank - len(shape) if opset >= 17 else 0
    if 0 not in shape:
        yield of_shape(out, x, shape)
    elif not all(n == 0 for n in shape[:-1]):
        yield of_shape(out, x, [x.shape[i + back] if n == 0 else n for i, n in enumerate(shape)])


def _slice(
    out: Value, x: Value, begin: Value, end: Value, stride: Any = None, begin_mask: Any = None, end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Iterator[LeftOut | None]:  # fmt: skip
    starts, ends = array_of_constant(begin), array_of_constant(end)
    for axis in range(x.rank):
        step = 1 if stride is None else stride[axis]
        if step < 0 or (squeeze_mask and squeeze_mask[axis]):
            continue
        start = None if (begin_mask and begin_mask[axis]) or starts is None else int(starts[axis])
        stop = None if (end_mask and end_mask[axis]) or ends is None else int(ends[axis])
        if (start or 0) < x.shape[axis]:
            yield of_slice(out, x, axis, start, stop)


def _sized(out: Value, x: Value, begin: Value, size: Sequence[int]) -> Iterator[LeftOut | None]:
    for axis, count in enumerate(size):
        if count != -1:
            yield of_slice(out, x, axis, 0, count)


def _split(
    out: Value, x: Value, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> Iterator[LeftOut | None]:
    if split_sizes is not None:
        yield of_split(x, axis, split_sizes)


def _squeeze(out: Value, x: Value, axes: Sequence[int] | None = None) -> Iterator[LeftOut | None]:
    yield of_squeeze(x, axes)


def _expand_dims(out: Value, x: Value, axes: Sequence[int]) -> Iterator[LeftOut | None]:
    yield of_unsqueeze(out, axes)


def _pad(
    out: Value, x: Value, pad: Sequence[int], mode: str = "", constant_val: Any = None
) -> Iterator[LeftOut | None]:
    first = x.rank - len(pad) // 2
    sides = {first + i: (pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)}
    padded = min([i for i, side in sides.items() if any(side)], default=min(2, x.rank - 1))
    yield of_padding(out, x, {i: side for i, side in sides.items() if i >= padded}, pad)


#: By the op, what says how its numbers could matter at other sizes.
FINDERS: dict[str, Callable[..., Iterator[LeftOut | None]]] = {
    "reshape": _reshape,
    "slice_by_index": _slice,
    "slice_by_size": _sized,
    "pad": _pad,
    "split": _split,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
}
