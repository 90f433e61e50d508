"""Indices as frameworks have them, those below 0 counted from the end."""

from __future__ import annotations

from tdagger.library.shape import linear_index
from tdagger.op import Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.source import Const, Iota


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
