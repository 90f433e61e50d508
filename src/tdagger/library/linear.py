"""Matrix products: linear, matmul and their relatives, and embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import NoInverseError, TypeMismatchError
from tdagger.op import Array, Op, Value, ValueFunction
from tdagger.ops.elementwise import cast, greater_equal, less, minimum, where
from tdagger.ops.indexing import Gather, scatter
from tdagger.ops.source import const, iota, scalar
from tdagger.ops.structure import (
    accumulator,
    broadcast_to,
    reduce,
    squeeze,
    transpose,
    unsqueeze,
)
from tdagger.types import TensorType

# --- what products share -----------------------------------------------------------------------------------


def wide(x: Value) -> Value:
    """``x`` in the element type its sums are made in: f32 for the narrower floats, else its own."""
    return cast(x, "f32") if x.dtype.is_float and x.dtype.bytes < 4 else x


def wide_array(x: Array) -> Array:
    """The same for an array."""
    return x.astype(accumulator(x.dtype), copy=False)


def sum_to(x: Value, shape: Sequence[int]) -> Value:
    """Undo broadcasting: the sum over the axes that broadcasting ``shape`` to that of ``x`` repeats."""
    extra = x.rank - len(shape)
    x = reduce(x, "sum", range(extra), keep=False) if extra else x
    axes = [i for i, n in enumerate(shape) if n == 1 != x.shape[i]]
    return reduce(x, "sum", axes) if axes else x


def _affine(op: Op, given: bool) -> None:
    if given:
        raise NoInverseError(f"{op} with a bias is not linear, so it has no adjoint")


# --- linear and matmul -------------------------------------------------------------------------------------


@composite
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """``x @ weight.T + bias``: x ``[... i]``, weight ``[o i]`` (or ``[i]``), bias ``[o]`` -> ``[... o]``."""
    if x.rank < 1 or weight.rank not in (1, 2) or x.shape[-1] != weight.shape[-1]:
        raise TypeMismatchError(f"linear: x [... i] and weight [o i] differ in i: {x.type} and {weight.type}")
    rows = wide(x) if weight.rank == 1 else unsqueeze(wide(x), (-2,))
    out = reduce(rows * wide(weight), "sum", (-1,), keep=False)
    out = out if bias is None else out + wide(bias)
    return cast(out, x.dtype)


@linear.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of floats of one type that fit; the rest is the body's to take or refuse."""
    if len(types) != 2 + op.given[2] or op.given[:2] != (True, True):
        return None
    (x, weight, *bias) = types
    if not x.dtype.is_float or any(t.dtype is not x.dtype for t in types) or not x.rank or weight.rank != 2:
        return None
    if x.shape[-1] != weight.shape[1] or not weight.shape[1] or any(b.shape != weight.shape[:1] for b in bias):
        return None
    return x.with_shape((*x.shape[:-1], weight.shape[0]))


@linear.numpy
def _(x: Array, weight: Array, bias: Array | None) -> Array:
    out = np.matmul(wide_array(x), wide_array(weight).T)
    out = out if bias is None else out + wide_array(bias)
    return np.asarray(out).astype(x.dtype, copy=False)


@linear.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """With respect to x: the function of (y, weight)."""
    _affine(op, op.given[2])

    def back(y: Value, weight: Value) -> Value:
        return matmul(y, weight) if weight.rank == 2 else unsqueeze(y, (-1,)) * weight

    return back


@composite
def matmul(x: Value, y: Value) -> Value:
    """Matrix product by numpy's rules: ``[... m k] @ [... k n] -> [... m n]``.

    Axes before the last two broadcast; a vector stands for one row on the left, one column on the right,
    which the result doesn't have.
    """
    if not x.rank or not y.rank or x.shape[-1] != y.shape[-min(y.rank, 2)] or x.dtype is not y.dtype:
        raise TypeMismatchError(f"matmul: [... m k] and [... k n] differ in k or dtype: {x.type} and {y.type}")
    # [.. m k n], without m or n where a vector has none
    a = wide(x) if y.rank == 1 else unsqueeze(wide(x), (-1,))
    b = wide(y) if x.rank == 1 or y.rank == 1 else unsqueeze(wide(y), (-3,))
    return cast(reduce(a * b, "sum", (-1 if y.rank == 1 else -2,), keep=False), x.dtype)


@matmul.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of matrices of floats of one type with the same axes before; the rest is the body's to take or refuse."""
    if len(types) != 2 or op.given != (True, True):
        return None
    x, y = types
    if not x.dtype.is_float or x.dtype is not y.dtype or not x.rank == y.rank >= 2 or not x.shape[-1]:
        return None
    return (
        x.with_shape((*x.shape[:-1], y.shape[-1]))
        if x.shape[-1] == y.shape[-2] and x.shape[:-2] == y.shape[:-2]
        else None
    )


@matmul.numpy
def _(x: Array, y: Array) -> Array:
    return np.asarray(np.matmul(wide_array(x), wide_array(y))).astype(x.dtype, copy=False)


@matmul.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """With respect to the first argument: the function of (result, second argument)."""
    if len(types) != 2:
        raise NoInverseError(f"{op}.adjoint() needs the types of both arguments")
    x = types[0]

    def back(z: Value, y: Value) -> Value:
        z = unsqueeze(z, [-1]) if y.rank == 1 else z
        z = unsqueeze(z, [-2]) if x.rank == 1 else z
        out = matmul(z, unsqueeze(y, [0]) if y.rank == 1 else transpose(y, -1, -2))
        return sum_to(out, x.shape) if x.rank > 1 else reduce(out, "sum", range(out.rank - 1), keep=False)

    return back


@composite
def addmm(bias: Value, x: Value, y: Value, *, beta: float = 1.0, alpha: float = 1.0) -> Value:
    """``beta * bias + alpha * (x @ y)`` of anything :func:`matmul` takes; a beta of 0 ignores the bias, NaN and all."""
    return _scaled_sum(bias, x, y, beta, alpha)


@composite
def baddbmm(bias: Value, x: Value, y: Value, *, beta: float = 1.0, alpha: float = 1.0) -> Value:
    """The same as :func:`addmm`; torch has it for batches of matrices, x ``[b m k]`` and y ``[b k n]``."""
    return _scaled_sum(bias, x, y, beta, alpha)


def _scaled_sum(bias: Value, x: Value, y: Value, beta: float, alpha: float) -> Value:
    out = matmul(wide(x), wide(y))
    out = out if alpha == 1 else out * scalar(alpha, out.dtype)
    if beta != 0:
        scaled = wide(bias) if beta == 1 else wide(bias) * scalar(beta, out.dtype)
        out = out + broadcast_to(scaled, out.shape)
    return cast(out, x.dtype)


@composite
def grouped_matmul(x: Value, weight: Value, ends: Value) -> Value:
    """Each row of x times the matrix of its group: x ``[m k]``, weight ``[g k n]``, ends ``[g]`` -> ``[m n]``.

    Group i is the rows from ``ends[i - 1]`` (0 for the first) up to ``ends[i]``; ends never fall, so a group may
    be empty. Rows after the last end are in no group and give 0. This is how experts work on tokens that were
    sorted by expert.
    """
    shapes_fit = x.rank == 2 and weight.rank == 3 and ends.shape == weight.shape[:1] and x.shape[1] == weight.shape[1]
    if not shapes_fit or x.dtype is not weight.dtype or not ends.dtype.is_int or not ends.shape[0]:
        raise TypeMismatchError(
            f"grouped_matmul: takes x [m k], weight [g k n] of one dtype and whole ends [g], got {x.type}, "
            f"{weight.type} and {ends.type}"
        )
    passed = greater_equal(unsqueeze(iota(x.shape[0]), (1,)), unsqueeze(cast(ends, "i64"), (0,)))
    group = reduce(cast(passed, "i64"), "sum", (1,), keep=False)
    matrices = Gather(0, 0)(weight, minimum(group, ends.shape[0] - 1))
    out = squeeze(matmul(unsqueeze(x, (1,)), matrices), (1,))
    return where(unsqueeze(less(group, ends.shape[0]), (1,)), out, 0.0)


@grouped_matmul.numpy
def _(x: Array, weight: Array, ends: Array) -> Array:
    out = np.zeros((x.shape[0], weight.shape[2]), wide_array(x).dtype)
    start = 0
    for matrix, end in zip(weight, ends.tolist(), strict=True):
        out[start:end] = wide_array(x[start:end]) @ wide_array(matrix)
        start = end
    return out.astype(x.dtype, copy=False)


@composite
def embedding(weight: Value, index: Value, *, padding: int | None = None) -> Value:
    """Rows of weight ``[n d]`` at index ``[...]`` -> ``[... d]``.

    ``padding`` names a row whose gradient is 0 in training; it changes nothing here.
    """
    del padding
    return Gather(0, 0)(weight, index)


@embedding.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """With respect to the weight: the function of (y, index) that adds every row back."""
    return _rows_back(op, types, "add")


@embedding.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """The function of (y, index) that puts every row back; rows not read become 0."""
    return _rows_back(op, types, "set")


def _rows_back(op: Composite, types: tuple[TensorType, ...], kind: str) -> ValueFunction:
    if not types:
        raise NoInverseError(f"{op}.adjoint() needs the type of the weight")
    weight = types[0]
    zero = const(scalar(0, weight.dtype), weight.dtype)

    def back(y: Value, index: Value) -> Value:
        return scatter(broadcast_to(zero, weight.shape), index, y, 0, 0, kind)

    return back
