"""Indices as frameworks have them, those below 0 counted from the end, and slices that are written to."""

from __future__ import annotations

from tdagger.library.shape import linear_index
from tdagger.op import Value
from tdagger.ops.elementwise import Cast, where
from tdagger.ops.source import Const, Iota, const
from tdagger.ops.structure import Slice, broadcast_to, concat, slice_axis


def non_negative(index: Value, x: Value, axis: int) -> Value:
    """Indices into an axis of ``x`` with those below 0 counted from the end."""
    return linear_index(x, index, axis=axis, signed=(True,)) if may_be_negative(index) else index


def may_be_negative(index: Value) -> bool:
    """Whether there can be indices below 0: not if they plainly count, or are constants."""
    op = index
    while len(op.args) == 1 and (op.op.name in ("group", "ungroup", "repeat", "permute", "slice", "cast")):
        if isinstance(op.op, Cast) and not op.args[0].dtype.is_int:
            break
        op = op.args[0]
    if isinstance(op.op, Iota) or not index.dtype.is_signed:
        return False
    return not (isinstance(op.op, Const) and (op.op.data.size == 0 or op.op.data.min() >= 0))


def put_slice(op: Slice, old: Value, new: Value) -> Value:
    """``old`` with ``new`` in the place of ``op(old)``."""
    cut = [(i, b) for i, b in enumerate(op.bounds) if b is not None]
    if not cut:
        return new
    if len(cut) == 1 and cut[0][1][2] == 1:
        axis, (start, stop, _) = cut[0]
        pieces = (
            slice_axis(old, axis, 0, start),
            new,
            slice_axis(old, axis, max(start, stop), old.shape[axis]),
        )
        return concat([p for p in pieces if p.shape[axis]] or [old], axis)
    if not new.type.size:
        return old
    ones = broadcast_to(const(True), new.shape)
    spread = op.adjoint(old.type)
    mask_of = op.adjoint(old.type.with_dtype(ones.dtype))
    return where(mask_of(ones), spread(new), old)
