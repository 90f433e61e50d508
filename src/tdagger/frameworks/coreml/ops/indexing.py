"""MIL's ops that take entries by indices, put them there, and sort."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.elementwise import converted
from tdagger.frameworks.coreml.ops.table import Bool, Int, Numbers, Str, rule, unsupported
from tdagger.frameworks.indices import non_negative
from tdagger.library.shape import linear_index
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import argsort, gather, put_along, scatter, take_along
from tdagger.ops.source import const

#: Modes of scatter to kinds here; ``sub`` and ``div`` put negated and inverted updates.
_MODES = {"update": "set", "add": "add", "sub": "add", "mul": "multiply", "div": "multiply", "max": "max", "min": "min"}


def _whole(index: Value) -> Value:
    return index if index.dtype.name in ("i32", "i64") else e.cast(index, "i32")


@rule("gather")
def _gather(
    x: Value, indices: Value, axis: Int = 0, batch_dims: Int = 0, validate_indices: Bool = False
) -> Value:  # fmt: skip
    axis = normal_axis(axis, x.rank)
    return gather(x, non_negative(_whole(indices), x, axis), axis, batch_dims)


@rule("gather_along_axis")
def _gather_along_axis(x: Value, indices: Value, axis: Int = 0, validate_indices: Bool = False) -> Value:
    axis = normal_axis(axis, x.rank)
    return take_along(x, non_negative(_whole(indices), x, axis), axis)


def _as_one(x: Value, indices: Value, batch: int) -> tuple[Value, Value, int]:
    """The axes that the last one of ``indices`` counts as one axis at ``batch``, and indices into it."""
    deep = indices.shape[-1]
    if batch + deep > x.rank:
        raise unsupported(f"its indices {indices.type} count {deep} axes of {x.type} after {batch}")
    flat = lib.reshape(x, shape=(*x.shape[:batch], math.prod(x.shape[batch : batch + deep]), *x.shape[batch + deep :]))
    parts = [s.select(_whole(indices), -1, k) for k in range(deep)]
    planes = s.permute(x, [*range(batch, x.rank), *range(batch)]) if batch else x
    return flat, linear_index(planes, *parts, axis=0, signed=(True,) * deep), deep


@rule("gather_nd")
def _gather_nd(x: Value, indices: Value, batch_dims: Int = 0, validate_indices: Bool = False) -> Value:
    flat, index, _ = _as_one(x, indices, batch_dims)
    return gather(flat, index, batch_dims, batch_dims)


def _update(mode: str, updates: Value) -> tuple[str, Value]:
    kind = _MODES.get(mode)
    if kind is None:
        raise unsupported(f"its mode {mode} is none of {', '.join(_MODES)}")
    if mode == "sub":
        return kind, e.neg(updates)
    if mode == "div":
        if not updates.dtype.is_float:
            raise unsupported("whole numbers that are divided where they are put aren't imported")
        return kind, e.reciprocal(updates)
    return kind, updates


@rule("scatter")
def _scatter(
    data: Value, indices: Value, updates: Value, axis: Int = 0, mode: Str = "add", validate_indices: Bool = False
) -> Value:  # fmt: skip
    axis = normal_axis(axis, data.rank)
    kind, new = _update(mode, updates)
    return scatter(data, non_negative(_whole(indices), data, axis), new, axis, kind=kind)


@rule("scatter_along_axis")
def _scatter_along_axis(
    data: Value, indices: Value, updates: Value, axis: Int = 0, mode: Str = "add", validate_indices: Bool = False
) -> Value:  # fmt: skip
    axis = normal_axis(axis, data.rank)
    kind, new = _update(mode, updates)
    return put_along(data, non_negative(_whole(indices), data, axis), new, axis, kind=kind)


@rule("scatter_nd")
def _scatter_nd(
    data: Value, indices: Value, updates: Value, mode: Str = "add", validate_indices: Bool = False
) -> Value:  # fmt: skip
    kind, new = _update(mode, updates)
    flat, index, _ = _as_one(data, indices, 0)
    return lib.reshape(scatter(flat, index, new, 0, kind=kind), shape=data.shape)


# --- order -------------------------------------------------------------------------------------------------


@rule("argsort")
def _argsort(x: Value, axis: Int = -1, ascending: Bool = False) -> Value:
    return e.cast(argsort(x, normal_axis(axis, x.rank), not ascending), "i32")


@rule("topk")
def _topk(
    x: Value, k: Int = 1, axis: Int = -1, ascending: Bool = False, sort: Bool = True, return_indices: Bool = True,
    output_indices_dtype: Str = "int32",
) -> Any:  # fmt: skip
    axis = normal_axis(axis, x.rank)
    values, places = lib.topk(x, k=x.shape[axis] if k == -1 else k, axis=axis, largest=not ascending)
    return (values, converted(places, output_indices_dtype)) if return_indices else values


@rule("reduce_argmax")
def _argmax(x: Value, axis: Int = -1, keep_dims: Bool = False, output_dtype: Str = "int32") -> Value:
    return converted(lib.argmax(x, axis=axis, keep=keep_dims), output_dtype)


@rule("reduce_argmin")
def _argmin(x: Value, axis: Int = -1, keep_dims: Bool = False, output_dtype: Str = "int32") -> Value:
    return converted(lib.argmin(x, axis=axis, keep=keep_dims), output_dtype)


@rule("non_zero")
def _non_zero(x: Numbers) -> Value:
    """The places of what isn't 0, of numbers that are known: as many rows."""
    return const(np.argwhere(x).astype(np.int32), "i32")
