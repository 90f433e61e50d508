"""The operators of StableHLO that a TFLite file may have; what they mean is StableHLO's specification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.tflite.ops.elementwise import saturated
from tdagger.frameworks.tflite.ops.table import Call, binary, rule, unary, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import iota

for _name, _function in {
    "ABS": e.abs_, "COSINE": e.cos, "EXPONENTIAL": e.exp, "FLOOR": e.floor, "LOG": e.log, "LOGISTIC": lib.sigmoid,
    "NEGATE": e.neg, "RSQRT": lib.rsqrt, "TANH": e.tanh,
}.items():  # fmt: skip
    rule(f"STABLEHLO_{_name}")(unary(_function))
for _name, _operation in {
    "ADD": e.add, "SUBTRACT": lib.subtract, "MULTIPLY": e.multiply, "MAXIMUM": e.maximum, "MINIMUM": e.minimum,
    "AND": e.bitwise_and, "OR": e.bitwise_or, "REMAINDER": e.rem, "POWER": e.pow_,
}.items():  # fmt: skip
    rule(f"STABLEHLO_{_name}")(binary(_operation))


@rule("STABLEHLO_DIVIDE")
def _divide(x: Value, y: Value) -> Value:
    """Of integers the quotient rounded towards 0."""
    return lib.trunc_divide(x, y) if x.dtype.is_int else lib.divide(x, y)


@rule("STABLEHLO_CBRT")
def _cbrt(x: Value) -> Value:
    return e.sign(x) * e.pow_(e.abs_(x), 1 / 3)


@rule("STABLEHLO_SHIFT_LEFT")
def _shift_left(x: Value, y: Value) -> Value:
    """By as many bits as there are, or more, nothing is left."""
    bits = 8 * x.dtype.bytes
    outside = e.greater_equal(y, bits) | (y < 0) if y.dtype.is_signed else e.greater_equal(y, bits)
    return e.where(outside, e.zeros_like(x), e.shift_left(x, e.where(outside, 0, y)))


@rule("STABLEHLO_CLAMP")
def _clamp(low: Value, x: Value, high: Value) -> Value:
    """Where low is above high, high."""
    return e.minimum(e.maximum(x, low), high)


@rule("STABLEHLO_SELECT", raw=True)
def _select(condition: Value, x: Value, y: Value) -> Value:
    return e.where(condition, x, y)


_COMPARISONS = (e.equal, e.not_equal, e.greater_equal, e.greater, e.less_equal, e.less)


@rule("STABLEHLO_COMPARE")
def _compare(x: Value, y: Value, *, comparison_direction: int = 0, compare_type: int = 0) -> Value:
    del compare_type
    if not 0 <= comparison_direction < len(_COMPARISONS):
        raise unsupported(f"its direction is number {comparison_direction}")
    return _COMPARISONS[comparison_direction](x, y)


@rule("STABLEHLO_CONVERT")
def _convert(x: Value, *, node: Call) -> Value:
    """A float beyond an integer's range becomes its end, NaN 0."""
    to = node.dtypes[0]
    if not (x.dtype.is_float and to.is_int):
        return e.cast(x, to)
    return e.where(e.isnan(x), 0, saturated(x, to))


@rule("STABLEHLO_BROADCAST_IN_DIM", raw=True)
def _broadcast_in_dim(
    x: Value, shape: Value | None = None, *, broadcast_dimensions: tuple[int, ...] = (), node: Call
) -> Value:
    del shape
    return broadcast_in_dim(x, node.outputs[0].shape, broadcast_dimensions)


def broadcast_in_dim(x: Value, shape: Sequence[int], dims: Sequence[int]) -> Value:
    """x whose axes are ``dims`` of a shape, and of 1 entry or as large."""
    if len(dims) != x.rank or sorted(dims) != list(dict.fromkeys(sorted(dims))):
        raise unsupported(f"{x.type} has no axes {list(dims)} of {list(shape)}")
    x = s.permute(x, np.argsort(dims).tolist())
    return s.broadcast_to(s.unsqueeze(x, [i for i in range(len(shape)) if i not in dims]), shape)


@rule("STABLEHLO_RESHAPE", raw=True)
def _reshape(x: Value, *, node: Call) -> Value:
    return lib.reshape(x, shape=node.outputs[0].shape)


@rule("STABLEHLO_TRANSPOSE", raw=True)
def _transpose(x: Value, *, permutation: tuple[int, ...] = ()) -> Value:
    return s.permute(x, permutation)


@rule("STABLEHLO_SLICE", raw=True)
def _slice(
    x: Value, *, start_indices: tuple[int, ...] = (), limit_indices: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Value:  # fmt: skip
    for axis, (first, last, step) in enumerate(zip(start_indices, limit_indices, strides, strict=True)):
        if not 0 <= first <= last <= x.shape[axis] or step < 1:
            raise unsupported(f"{first} to {last} by {step} along axis {axis} of {x.type}")
        x = s.slice_axis(x, axis, first, last, step)
    return x


@rule("STABLEHLO_CONCATENATE", raw=True)
def _concatenate(*inputs: Value, dimension: int = 0) -> Value:
    return s.concat(inputs, dimension)


@rule("STABLEHLO_IOTA", raw=True)
def _iota(*, iota_dimension: int = 0, node: Call) -> Value:
    shape = node.outputs[0].shape
    line = e.cast(iota(shape[iota_dimension]), node.dtypes[0])
    return broadcast_in_dim(line, shape, (iota_dimension,))


@rule("STABLEHLO_PAD", raw=True)
def _pad(
    x: Value, fill: Value, *, edge_padding_low: tuple[int, ...] = (), edge_padding_high: tuple[int, ...] = (),
    interior_padding: tuple[int, ...] = (),
) -> Value:  # fmt: skip
    """Entries between come first; what is negative at the ends is cut off after."""
    number = number_of(fill)
    if number is None:
        raise unsupported("what it pads with depends on data")
    kind = float if x.dtype.is_float else bool if x.dtype.name == "bool" else int
    x = s.pad(x, [(0, 0, n) for n in interior_padding], kind(number))  # pyright: ignore[reportArgumentType]
    return s.pad(x, list(zip(edge_padding_low, edge_padding_high, strict=True)), kind(number))  # pyright: ignore[reportArgumentType]


@rule("STABLEHLO_DOT_GENERAL")
def _dot_general(
    x: Value, y: Value, *, lhs_batching_dimensions: tuple[int, ...] = (), rhs_batching_dimensions: tuple[int, ...] = (),
    lhs_contracting_dimensions: tuple[int, ...] = (), rhs_contracting_dimensions: tuple[int, ...] = (),
) -> Value:  # fmt: skip
    """Batch axes, then those of x that are left, then those of y."""
    given = (x, lhs_batching_dimensions, lhs_contracting_dimensions), (
        y, rhs_batching_dimensions, rhs_contracting_dimensions,
    )  # fmt: skip
    sides: list[Value] = []
    free: list[tuple[int, ...]] = []
    for side, (v, batch, inner) in enumerate(given):
        rest = [i for i in range(v.rank) if i not in batch and i not in inner]
        order = [*batch, *rest, *inner] if side == 0 else [*batch, *inner, *rest]
        free.append(tuple([v.shape[i] for i in rest]))
        ones = (1,) * len(batch)
        counts = (*ones, len(rest), len(inner)) if side == 0 else (*ones, len(inner), len(rest))
        sides.append(s.group(s.permute(v, order), counts))
    batches = tuple([x.shape[i] for i in lhs_batching_dimensions])
    return lib.reshape(lib.matmul(sides[0], sides[1]), shape=(*batches, *free[0], *free[1]))
