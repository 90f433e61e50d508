"""What nodes of a file with fixed sizes leave open of others that no value in a graph shows.

A file that another program made for one batch has what was computed from sizes as numbers: ``Slice(x, 0, 1)`` of 1
entry, the shape of a Reshape. See :mod:`tdagger.frameworks.left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.frameworks.left_out import of_padding, of_shape, of_slice, of_split, of_squeeze, of_unsqueeze
from tdagger.op import Value

#: A bound beyond this is what exporters write for one that was left open.
_OPEN = 2**31 - 1


def _slice(
    out: Value, data: Value, starts: Sequence[int], ends: Sequence[int], axes: Any = None, steps: Any = None
) -> Iterator[LeftOut | None]:
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        if steps is None or steps[i] > 0:
            yield of_slice(out, data, axis, starts[i], None if ends[i] >= _OPEN else ends[i])


def _split(
    out: Value, data: Value, split: Sequence[int] | None = None, *, axis: int = 0, **more: Any
) -> Iterator[LeftOut | None]:
    if split:
        yield of_split(data, axis, split)


def _squeeze(out: Value, data: Value, axes: Sequence[int] | None = None) -> Iterator[LeftOut | None]:
    yield of_squeeze(data, axes)


def _unsqueeze(out: Value, data: Value, axes: Sequence[int]) -> Iterator[LeftOut | None]:
    yield of_unsqueeze(out, axes)


def _reshape(out: Value, data: Value, shape: Sequence[int], allowzero: int = 0) -> Iterator[LeftOut | None]:
    """A 0 copies a size, which says where it goes: the dimensions before and after it are told from one another."""
    if 0 not in shape or allowzero:
        yield of_shape(out, data, shape)
        return
    if all(n == 0 for n in shape[:-1]) or data.type.size == 0:
        return
    yield of_shape(out, data, [data.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _pad(out: Value, data: Value, pads: Sequence[int], *more: Any, **named: Any) -> Iterator[LeftOut | None]:
    """A node gives the padding of every dimension: those before the first that is padded aren't meant."""
    axes = named.get("axes", more[1] if len(more) > 1 else None)
    count = len(pads) // 2
    along = range(count) if axes is None else [a % data.rank for a in axes]
    sides = dict(zip(along, zip(pads[:count], pads[count:], strict=True), strict=True))
    first = min([i for i, side in sides.items() if any(side)], default=min(2, data.rank - 1))
    sides = {i: side for i, side in sides.items() if i >= first}
    yield of_padding(out, data, sides, pads)


def _gather(out: Value, data: Value, indices: Value, axis: int = 0) -> Iterator[LeftOut | None]:
    if out is data or out.op.name == "ungroup":  # no index is looked at
        n = data.shape[axis]
        yield LeftOut(data, (axis % data.rank,), f"is indexed by the numbers of all its {n} entries", keeps=True)


def _scatter_nd(
    out: Value, data: Value, indices: Value, updates: Value, reduction: str = "none"
) -> Iterator[LeftOut | None]:
    scattered = out.args[0] if out.op.name in ("group", "ungroup", "reshape") else out
    if scattered.op.name != "scatter":  # no index is looked at: a slice is assigned
        dims = tuple(range(indices.shape[-1]))
        yield LeftOut(data, dims, "is assigned to by the numbers of all entries", keeps=True)


#: By the operator, what says how its numbers could matter at other sizes.
FINDERS: dict[str, Callable[..., Iterator[LeftOut | None]]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Pad": _pad,
    "ScatterND": _scatter_nd,
}


def left_out(op: str, results: Sequence[Value], args: Sequence[Any], keywords: dict[str, Any]) -> list[LeftOut]:
    """What a node leaves open without showing it in its result."""
    return [found for found in FINDERS[op](results[0], *args, **keywords) if found is not None]
