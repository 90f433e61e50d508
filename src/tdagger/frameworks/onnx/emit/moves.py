"""Nodes that only move entries, which many rows write: in an element type that takes them, in another shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.writer import Writer
from tdagger.frameworks.writing import inserted
from tdagger.types import DType, Size, TensorType


def moved(w: Writer, op: str, dtype: DType, inputs: Sequence[str], more: Sequence[str] = (), **how: Any) -> str:
    """A node that only moves entries: ``more`` are inputs that say where to."""
    to = computed_in(op, dtype, moves=True)
    return w.cast(w.node(op, [*[w.cast(x, dtype, to) for x in inputs], *more], **how), to, dtype)


def with_shape(w: Writer, name: str, old: TensorType, shape: Sequence[int]) -> str:
    """A tensor in another shape, by Unsqueeze or Squeeze where it only gets or loses axes of size 1."""
    shape = tuple(shape)
    if shape == old.shape:
        return name
    kept = [i for i, n in enumerate(shape) if n != 1]
    was = [i for i, n in enumerate(old.shape) if n != 1]
    if [shape[i] for i in kept] == [old.shape[i] for i in was] and len(shape) != old.rank:
        if len(shape) > old.rank and (new := inserted(old.shape, shape)) is not None:
            return moved(w, "Unsqueeze", old.dtype, [name], [w.ints(new)])
        if len(shape) < old.rank and (gone := inserted(shape, old.shape)) is not None:
            return moved(w, "Squeeze", old.dtype, [name], [w.ints(gone)])
    target, zero = _target(old.shape, shape)
    return moved(w, "Reshape", old.dtype, [name], [w.ints(target)], allowzero=zero)


def _target(old: Sequence[int], shape: Sequence[int]) -> tuple[list[int], int | None]:
    """What Reshape is told: 0 for a size that stays in its place, -1 for one that isn't a number."""
    if not any(n.__class__ is Size for n in shape):
        return [int(n) for n in shape], 1 if 0 in shape else None
    out: list[int] = []
    for i, n in enumerate(shape):
        same = n.__class__ is Size and i < len(old) and old[i] == n
        out.append(0 if same and 0 not in [k for k in shape if k.__class__ is not Size] else n)
    left = [i for i, n in enumerate(out) if n.__class__ is Size]
    if left and all(n != 0 or n.__class__ is Size or shape[i].__class__ is Size for i, n in enumerate(out)):
        out[left[-1]] = -1
    return out, None
