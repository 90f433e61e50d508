"""ATen rules that read memory: what lies there is a value where the tensor is known to fill its part of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from tdagger import library as lib
from tdagger.frameworks.torch.aten.order import scattered
from tdagger.frameworks.torch.aten.reasons import MEMORY
from tdagger.frameworks.torch.aten.table import rule, unsupported
from tdagger.op import Value
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather
from tdagger.ops.source import const, iota


class Memory(NamedTuple):
    """How a tensor that fills its part of memory lies there.

    ``order`` is its axes, outermost first; ``offset`` where in memory it begins, in elements, None if not known.
    """

    order: tuple[int, ...]
    offset: int | None


def memory_of(shape: Sequence[int], strides: Sequence[int], offset: int | None) -> Memory | None:
    """How a tensor of these strides lies in memory; None if it leaves gaps or its elements share places."""
    long = [i for i, n in enumerate(shape) if n != 1]
    order = sorted(long, key=lambda i: -strides[i])
    if 0 not in shape and any(strides[a] != prod(shape[b] for b in order[i + 1 :]) for i, a in enumerate(order)):
        return None
    return Memory((*(i for i in range(len(shape)) if i not in long), *order), offset)


#: Of an axis of memory: where reading starts, and which axes of the result step along it, by how many entries.
_Reads = tuple[int, list[tuple[int, int]]]


class Strided(NamedTuple):
    """What ``as_strided`` reads of memory: entry (i, j, ...) is at ``offset + i * stride[0] + j * stride[1] ...``."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def of(self, x: Value) -> Value:
        """What is read where memory is the entries of ``x``, in order; by slices and windows where they do."""
        part = self._by_windows(x) if 0 not in self.size else None
        return self._by_index(x) if part is None else part

    def _by_index(self, x: Value) -> Value:
        place = const(self.offset, "i64")
        for axis, (n, step) in enumerate(zip(self.size, self.stride, strict=True)):
            line = s.unsqueeze(iota(n), [i for i in range(len(self.size)) if i != axis])
            place = place + line * step
        return gather(lib.reshape(x, shape=(-1,)), s.broadcast_to(place, self.size))

    def _by_windows(self, x: Value) -> Value | None:
        """Each axis of memory is cut, or read in windows, by itself; None if one is read in more ways than that."""
        moving = [k for k, (n, step) in enumerate(zip(self.size, self.stride, strict=True)) if n > 1 and step]
        axes = [n for n in x.shape if n > 1] or [1]
        while isinstance(found := self._reads(axes, moving), int):
            axes[found : found + 2] = [axes[found] * axes[found + 1]]
        if any(len(reads) > 2 for _, reads in found):
            return None
        out = lib.reshape(x, shape=tuple(axes))
        order: list[int] = []
        for axis, (start, reads) in reversed(list(enumerate(found))):
            stop = start + sum((self.size[k] - 1) * step for k, step in reads) + 1
            step = reads[0][1] if len(reads) == 1 else 1
            out = s.slice_axis(out, axis, start, stop, step)
            if len(reads) == 2:
                (_, stride), (kernel, dilation) = reads
                windows = s.unfold(out, axis, self.size[kernel], stride, dilation)
                out = s.ungroup(windows, axis, (windows.shape[axis] // self.size[kernel], self.size[kernel]))
            elif not reads:
                out = s.squeeze(out, (axis,))
            order[:0] = [k for k, _ in reads]
        out = s.permute(out, [order.index(k) for k in moving])
        out = s.unsqueeze(out, [k for k in range(len(self.size)) if k not in moving])
        return s.broadcast_to(out, self.size)

    def _reads(self, axes: Sequence[int], moving: Sequence[int]) -> list[_Reads] | int:
        """How each axis is read; or the axis to join with the next, if a read doesn't keep to one."""
        places = [prod(axes[i + 1 :]) for i in range(len(axes))]
        starts = [self.offset // place % n for place, n in zip(places, axes, strict=True)]
        reads: list[list[tuple[int, int]]] = [[] for _ in axes]
        for k in sorted(moving, key=lambda k: -self.stride[k]):
            axis = next(i for i, place in enumerate(places) if place <= self.stride[k])
            if self.stride[k] % places[axis]:
                return axis
            reads[axis].append((k, self.stride[k] // places[axis]))
        for axis, (start, n) in enumerate(zip(starts, axes, strict=True)):
            if start + sum((self.size[k] - 1) * step for k, step in reads[axis]) >= n:
                return axis - 1
        return list(zip(starts, reads, strict=True))


def _strided(
    x: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None, memory: Memory
) -> Strided:
    """What is read, its offset counted from where ``x`` begins."""
    offset = 0
    if storage_offset is not None:
        if memory.offset is None:
            raise unsupported(MEMORY.why)
        offset = storage_offset - memory.offset
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and not 0 <= offset <= last < x.type.size:
        raise unsupported(f"it reads memory beyond its argument: {MEMORY.why}")
    return Strided(tuple(size), tuple(stride), offset)


@rule("as_strided", "as_strided_copy")
def _as_strided(
    self: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None, *, memory: Memory
) -> Value:
    return _strided(self, size, stride, storage_offset, memory).of(s.permute(self, memory.order))


@rule("as_strided_scatter")
def _as_strided_scatter(
    self: Value, src: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None, *,
    memory: Memory,
) -> Value:  # fmt: skip
    read = _strided(self, size, stride, storage_offset, memory)
    return scattered(self, lambda x: read.of(s.permute(x, memory.order)), src)
