"""Core ops by other core ops, for targets that have one and not the other: a row for each label.

What a row gives has the same entries, to the bit but where it is a formula of :mod:`identities`. A row may give ops
that the target hasn't either; these are rewritten in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.library.arithmetic import clamp, divide, subtract
from tdagger.library.contraction import _blocks as blocks_of  # pyright: ignore[reportPrivateUsage]
from tdagger.library.contraction import _diagonals as diagonals  # pyright: ignore[reportPrivateUsage]
from tdagger.library.contraction import _keep as summed_to  # pyright: ignore[reportPrivateUsage]
from tdagger.library.contraction import parse_equation
from tdagger.library.kinks import copysign
from tdagger.library.linear import matmul
from tdagger.op import Value
from tdagger.ops.elementwise import (
    Binary,
    abs_,
    add,
    atan2,
    bitwise_and,
    bitwise_xor,
    cast,
    cos,
    equal,
    floor_divide,
    full_like,
    greater,
    less,
    maximum,
    minimum,
    mod,
    multiply,
    neg,
    not_,
    not_equal,
    pow_,
    shift_right,
    sin,
    sqrt,
    where,
    zeros_like,
)
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import const, iota, scalar
from tdagger.ops.structure import (
    Fold,
    Pad,
    Reduce,
    Unfold,
    broadcast_to,
    concat,
    group,
    pad,
    permute,
    reduce,
    slice_axis,
    ungroup,
    unsqueeze,
)
from tdagger.transform.legal import identities
from tdagger.transform.legal.target import Identity
from tdagger.transform.passes.rank import regrouped

# --- elementwise -------------------------------------------------------------------------------------------


def _of(function: Callable[[Value], Value]) -> Identity:
    """The row that applies a function to the argument."""
    return lambda v: function(v.args[0])


def _of_two(function: Callable[[Value, Value], Value]) -> Identity:
    """The row that applies a function to both arguments."""
    return lambda v: function(*v.args)


def _neg(x: Value) -> Value:
    return x * scalar(-1, x.dtype) if x.dtype.is_float or x.dtype.is_signed else subtract(zeros_like(x), x)


def _sign(x: Value) -> Value:
    above, below = (cast(b, x.dtype) for b in (greater(x, 0), less(x, 0)))
    return subtract(above, below)


def _not(x: Value) -> Value:
    if x.dtype.name == "bool":
        return equal(x, full_like(x, False))
    return subtract(full_like(x, -1 if x.dtype.is_signed else 2 ** (8 * x.dtype.bytes) - 1), x)


def _isnan(x: Value) -> Value:
    return not_equal(x, x)


def _isinf(x: Value) -> Value:
    return equal(abs_(x), math.inf) if x.dtype.is_float else not_equal(x, x)


def _isfinite(x: Value) -> Value:
    return less(abs_(x), math.inf) if x.dtype.is_float else equal(x, x)


def _signbit(x: Value) -> Value:
    """Below 0, or with a reciprocal below it: -0.0. NaN is taken as positive."""
    if x.dtype.name == "bool":
        return not_equal(x, x)
    below = less(x, 0)
    return below | less(divide(1.0, x), 0) if x.dtype.is_float else below


def _rem(x: Value, y: Value) -> Value:
    """By the other remainder: that of the sizes, with the sign of x."""
    if x.dtype.is_float:
        return copysign(mod(abs_(x), abs_(y)), x)
    rest = mod(x, y)
    return where(not_equal(rest, 0) & not_equal(less(x, 0), less(y, 0)), rest - y, rest)


def _pow(v: Value) -> Value | None:
    return identities.pow_of_integers(*v.args) if v.dtype.is_int else None


def _floats(function: Callable[..., Value]) -> Identity:
    """The row of floats only."""
    return lambda v: function(*v.args) if v.args[0].dtype.is_float else None


def _bitwise_and(x: Value, y: Value) -> Value:
    """``x + y = (x ^ y) + 2 (x & y)``, of the halves so that nothing is lost, then of the last bit."""
    if x.dtype.name == "bool":
        return minimum(x, y)
    a, b = shift_right(x, 1), shift_right(y, 1)
    high = shift_right(add(a, b) - bitwise_xor(a, b), 1)
    return high * 2 + mod(x, 2) * mod(y, 2)


def _bitwise_or(x: Value, y: Value) -> Value:
    return maximum(x, y) if x.dtype.name == "bool" else add(bitwise_and(x, y), bitwise_xor(x, y))


def _bitwise_xor(x: Value, y: Value) -> Value:
    return not_equal(x, y) if x.dtype.name == "bool" else add(x, y) - bitwise_and(x, y) * 2


def _shift_left(x: Value, y: Value) -> Value:
    return multiply(x, pow_(full_like(x, 2), y))


def _shift_right(x: Value, y: Value) -> Value:
    return floor_divide(x, pow_(full_like(x, 2), y))


def _expm1(x: Value) -> Value:
    """By tanh, which keeps the digits near 0 and has none that a fast exp gives up: ``exp(x) - 1`` far from it."""
    from tdagger.ops.elementwise import exp, tanh

    half = tanh(minimum(abs_(x), 1.0) * 0.5)
    half = copysign(half, x)
    return where(less(abs_(x), 1.0), 2.0 * half / (1.0 - half), exp(x) - 1.0)


# --- reductions and scans -----------------------------------------------------------------------------------


def _by_numbers(kind: str) -> Identity:
    """Any and all of bools as the largest and the smallest of 0 and 1."""

    def rule(v: Value) -> Value:
        if not v.args[0].type.size:
            return broadcast_to(const(kind == "min"), v.shape)
        return not_equal(Reduce(kind, v.op.attributes["axes"])(cast(v.args[0], "i32")), 0)

    return rule


def _prod(v: Value) -> Value | None:
    """Both halves multiplied, until one entry is left."""
    x = v.args[0]
    axes: tuple[int, ...] = v.op.attributes["axes"]
    for axis in axes:
        if not x.shape[axis]:
            return None
        while x.shape[axis] > 1:
            n: int = x.shape[axis]
            a, b = slice_axis(x, axis, 0, n // 2), slice_axis(x, axis, n - n // 2, n)
            both = a * b
            x = concat([both, slice_axis(x, axis, n // 2, n // 2 + 1)], axis) if n % 2 else both
    return x


def _scan(v: Value) -> Value:
    return identities.scan_of(v.args[0], **v.op.attributes)


# --- structure ----------------------------------------------------------------------------------------------


def _slice(v: Value) -> Value:
    """An index for each axis of which not all is kept."""
    x = v.args[0]
    for axis, bounds in enumerate(v.op.attributes["bounds"]):
        if bounds is not None:
            x = Gather(axis, 0)(x, const(np.arange(*map(int, bounds), dtype=np.int64)))
    return x


def dilated(x: Value, axis: int, between: int, fill: Any) -> Value:
    """So many entries of one value between every two of an axis: beside each, and those after the last cut off."""
    n = x.shape[axis]
    if n < 2 or not between:
        return x
    apart = unsqueeze(x, (axis + 1,))
    wide = pad(apart, [(0, between) if i == axis + 1 else None for i in range(apart.rank)], fill)
    flat = regrouped(wide, (*x.shape[:axis], n * (between + 1), *x.shape[axis + 1 :]))
    return slice_axis(flat, axis, 0, (n - 1) * (between + 1) + 1)


def _pad(v: Value) -> Value:
    """Entries between others first; then what is added before and after laid end to end."""
    x, op = v.args[0], v.op
    fill, widths = op.attributes["value"], op.attributes["widths"]
    if any(w is not None and w[2] for w in widths):
        for axis, w in enumerate(widths):
            if w is not None:
                x = dilated(x, axis, w[2], fill)
        rest = tuple([None if w is None or not any(w[:2]) else (w[0], w[1], 0) for w in widths])
        return Pad(rest, fill)(x) if any(rest) else x
    for axis, w in enumerate(widths):
        if w is not None:
            shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in w[:2]]
            before, after = (broadcast_to(const(fill, x.dtype), s) for s in shapes)
            x = concat([p for p, n in ((before, w[0]), (x, 1), (after, w[1])) if n], axis)
    return x


def _concat(v: Value) -> Value | None:
    """Without what has no entries."""
    kept = [a for a in v.args if a.type.size]
    return None if not kept or len(kept) == len(v.args) else concat(kept, v.op.attributes["axis"])


def _repeat(v: Value) -> Value:
    """The first entry again and again."""
    x = v.args[0]
    for axis, n in enumerate(v.op.attributes["sizes"]):
        if n is not None and n != 1:
            x = Gather(axis, 0)(x, const(np.zeros(n, np.int64)))
    return regrouped(x, v.shape)


def _unfold(v: Value) -> Value:
    """Entries taken one by one; windows without gaps, of steps that have a divisor in common, in pieces of so many."""
    op: Any = v.op
    assert isinstance(op, Unfold)
    x = v.args[0]
    places = np.asarray(op.places(x.shape[op.axis]), np.int64).reshape(-1)
    piece = math.gcd(op.kernel, op.stride) if op.dilation == 1 else 1
    if piece > 1 and places.size:
        x = slice_axis(x, op.axis, 0, int(places[-1]) + 1)
        whole = _taken(ungroup(x, op.axis, (-1, piece)), op.axis, places[::piece] // piece)
        counts = [2 if i == op.axis else 1 for i in range(x.rank)]
        return group(whole, counts)
    if np.array_equal(places, np.arange(x.shape[op.axis])):
        return x
    shape = (op.windows(x.shape[op.axis]), op.kernel)  # counted, so that as many windows as there are can be open
    starts = unsqueeze(multiply(iota(shape[0], "i32"), op.stride), (1,))
    inside = const(np.arange(op.kernel, dtype=np.int32)[None] * np.int32(op.dilation))
    return Gather(op.axis, 0)(x, group(add(broadcast_to(starts, shape), broadcast_to(inside, shape)), (2,)))


def _taken(x: Value, axis: int, places: np.ndarray) -> Value:
    """Entries along an axis; x where these are all, in their order."""
    return x if np.array_equal(places, np.arange(x.shape[axis])) else Gather(axis, 0)(x, const(places))


def _fold(v: Value) -> Value:
    """The entries of each place in a window, as far apart as windows are, added up where they belong."""
    op, x = v.op, v.args[0]
    assert isinstance(op, Fold)
    axis, size = op.axis, v.shape[op.axis]
    windows = x.shape[axis] // op.kernel
    if not v.type.size:
        return broadcast_to(const(scalar(0, x.dtype), x.dtype), v.shape)
    apart = regrouped(x, (*x.shape[:axis], windows, op.kernel, *x.shape[axis + 1 :]))
    out: Value | None = None
    for k in range(op.kernel):
        one = regrouped(slice_axis(apart, axis + 1, k, k + 1), (*x.shape[:axis], windows, *x.shape[axis + 1 :]))
        one = dilated(one, axis, op.stride - 1, scalar(0, x.dtype))
        before = k * op.dilation
        after = size - before - one.shape[axis]
        one = pad(one, [(before, after) if i == axis else None for i in range(x.rank)])
        out = one if out is None else out + one
    assert out is not None
    return out


def _iota(v: Value) -> Value:
    return const(np.arange(v.shape[0]).astype(v.dtype.numpy), v.dtype)


# --- indices ------------------------------------------------------------------------------------------------


def _gather(v: Value) -> Value | None:
    """With batch axes: as one axis of all of them, each with its own places."""
    op, (x, index) = v.op, v.args
    assert isinstance(op, Gather)
    if not op.batch or op.axis < op.batch:
        return None
    batch, n = x.shape[: op.batch], x.shape[op.axis]
    order = [*range(op.batch), op.axis, *(i for i in range(op.batch, x.rank) if i != op.axis)]
    flat = permute(x, order)
    rest = flat.shape[op.batch + 1 :]
    flat = regrouped(flat, (math.prod(batch) * n, *rest))
    starts = np.arange(math.prod(batch), dtype=np.int64).reshape(*batch, *(1,) * (index.rank - op.batch)) * n
    places = cast(index, "i64") + broadcast_to(const(starts), index.shape)
    out = Gather(0, 0)(flat, places)
    middle, inner = op.axis - op.batch, index.rank - op.batch
    back = [*range(op.batch), *range(index.rank, index.rank + middle), *range(op.batch, index.rank),
            *range(index.rank + middle, out.rank)]  # fmt: skip
    del inner
    return permute(out, back)


def _scatter(v: Value) -> Value | None:
    """Every place asks every update whether it is its own, as few as they may be."""
    op, (x, index, updates) = v.op, v.args
    assert isinstance(op, Scatter)
    b, axis, n = op.batch, op.axis, x.shape[op.axis]
    if not updates.type.size or not x.type.size:
        return x
    count = math.prod(index.shape[b:])
    flat = regrouped(index, (*index.shape[:b], count))
    given = regrouped(updates, (*updates.shape[:axis], count, *x.shape[axis + 1 :]))
    places = broadcast_to(unsqueeze(iota(n, index.dtype), (1,)), (*index.shape[:b], n, count))
    own = equal(places, broadcast_to(unsqueeze(flat, (b,)), places.shape))  # [batch.. n count]
    if op.kind == "set":
        return _last(x, own, given, b, axis)
    spread = _spread(own, x, b, axis)
    values = broadcast_to(unsqueeze(given, (axis,)), spread.shape)
    kind, nothing = {
        "add": ("sum", 0), "multiply": ("prod", 1), "max": ("max", None), "min": ("min", None),
    }[op.kind]  # fmt: skip
    if nothing is None:
        whole = x.dtype.is_int
        low = np.iinfo(x.dtype.numpy).min if whole else -math.inf
        high = np.iinfo(x.dtype.numpy).max if whole else math.inf
        nothing = int(low if kind == "max" else high) if whole else (low if kind == "max" else high)
    found = Reduce(kind, (axis + 1,))(where(spread, values, scalar(nothing, x.dtype)))
    return Binary(op.kind)(x, regrouped(found, x.shape))


def _spread(own: Value, x: Value, b: int, axis: int) -> Value:
    """``[batch.. n count]`` as ``[x.. n count rest..]``."""
    shape = (*x.shape[:axis], x.shape[axis], own.shape[-1], *x.shape[axis + 1 :])
    wide = regrouped(own, (*x.shape[:b], *(1,) * (axis - b), *own.shape[b:], *(1,) * (x.rank - axis - 1)))
    return broadcast_to(wide, shape)


def _last(x: Value, own: Value, given: Value, b: int, axis: int) -> Value:
    """The last update that is a place's own, or what was there."""
    count = own.shape[-1]
    numbers = broadcast_to(iota(count, "i32"), own.shape)
    last = regrouped(reduce(where(own, numbers, -1), "max", (own.rank - 1,)), own.shape[:-1])
    found = Gather(axis, b)(given, clamp(last, low=0))
    lead = regrouped(last, (*x.shape[:b], *(1,) * (axis - b), x.shape[axis], *(1,) * (x.rank - axis - 1)))
    there = broadcast_to(lead, x.shape)
    return where(less(there, 0), x, found)


# --- products -----------------------------------------------------------------------------------------------


def _einsum(v: Value) -> Value | None:
    """Every two operands as one product of matrices."""
    if not v.dtype.is_float:
        return None
    xs: Sequence[Value] = v.args
    operands, out = parse_equation(v.op.attributes["equation"], [x.rank for x in xs])
    rest = [diagonals(x, labels) for x, labels in zip(xs, operands, strict=True)]
    done = rest.pop(0)
    while rest:
        needed = {*out, *(label for _, labels in rest[1:] for label in labels)}
        done = _product(done, rest.pop(0), needed)
    value, labels = summed_to(done, set(out))
    value = permute(value, [labels.index(label) for label in out if label in labels])
    return regrouped(value, v.shape)


def _product(x: Any, y: Any, needed: set[Any]) -> Any:
    (a, la), (b, lb) = summed_to(x, needed | set(y[1])), summed_to(y, needed | set(x[1]))
    batch, left, right, summed = blocks_of(la, lb, needed)
    sizes: dict[Any, int] = {}
    for label, n in [*zip(la, a.shape, strict=True), *zip(lb, b.shape, strict=True)]:
        sizes[label] = n if sizes.get(label, 1) == 1 else sizes[label]
    parts: list[Value] = []
    for value, labels, blocks in ((a, la, (batch, left, summed)), (b, lb, (batch, summed, right))):
        flat = [label for block in blocks for label in block]
        moved = permute(value, [labels.index(label) for label in flat])
        full = broadcast_to(moved, tuple([sizes[label] for label in flat]))
        lead = [sizes[label] for label in blocks[0]]
        parts.append(regrouped(full, (*lead, *[math.prod(sizes[label] for label in block) for block in blocks[1:]])))
    order = (*batch, *left, *right)
    return regrouped(matmul(*parts), tuple([sizes[label] for label in order])), order


# --- the table ----------------------------------------------------------------------------------------------

#: Labels to what is the same of other ops.
IDENTITIES: Mapping[str, Identity] = {
    "unary neg": _of(_neg),
    "unary abs": _of(lambda x: maximum(x, neg(x))),
    "unary sign": _of(_sign),
    "unary reciprocal": _of(lambda x: divide(full_like(x, 1), x)),
    "unary not": _of(_not),
    "unary isnan": _of(_isnan),
    "unary isinf": _of(_isinf),
    "unary isfinite": _of(_isfinite),
    "unary signbit": _of(_signbit),
    "unary trunc": _floats(identities.trunc_of),
    "unary ceil": _of(lambda x: neg(identities.floor(neg(x)))),
    "unary expm1": _of(_expm1),
    "unary log1p": _of(identities.log1p_of),
    "unary tan": _of(lambda x: sin(x) / cos(x)),
    "unary asin": _of(lambda x: atan2(x, sqrt((1.0 - x) * (1.0 + x)))),
    "unary acos": _of(lambda x: atan2(sqrt(1.0 - x), sqrt(1.0 + x)) * 2.0),
    "unary atan": _of(lambda x: atan2(x, full_like(x, 1))),
    "unary sinh": _of(identities.sinh_of),
    "unary cosh": _of(identities.cosh_of),
    "unary asinh": _of(identities.asinh_of),
    "unary acosh": _of(identities.acosh_of),
    "unary atanh": _of(identities.atanh_of),
    "unary erf": _of(identities.erf_of),
    "unary erfc": _of(identities.erfc_of),
    "unary erfinv": _of(identities.erfinv_of),
    "unary lgamma": _of(identities.lgamma_of),
    "binary not_equal": _of_two(lambda x, y: not_(equal(x, y))),
    "binary greater": _of_two(lambda x, y: Binary("less")(y, x)),
    "binary greater_equal": _of_two(lambda x, y: Binary("less_equal")(y, x)),
    "binary less": _of_two(lambda x, y: Binary("greater")(y, x)),
    "binary less_equal": _of_two(lambda x, y: less(x, y) | equal(x, y)),
    "binary mod": _floats(identities.mod_of),
    "binary rem": _of_two(_rem),
    "binary floor_divide": _floats(identities.floor_divide_of),
    "binary pow": _pow,
    "binary atan2": _of_two(identities.atan2_of),
    "binary bitwise_and": _of_two(_bitwise_and),
    "binary bitwise_or": _of_two(_bitwise_or),
    "binary bitwise_xor": _of_two(_bitwise_xor),
    "binary shift_left": _of_two(_shift_left),
    "binary shift_right": _of_two(_shift_right),
    "reduce any": _by_numbers("max"),
    "reduce all": _by_numbers("min"),
    "reduce prod": _prod,
    "scan sum": _scan,
    "scan prod": _scan,
    "scan max": _scan,
    "scan min": _scan,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "repeat": _repeat,
    "unfold": _unfold,
    "fold": _fold,
    "iota": _iota,
    "gather": _gather,
    "scatter set": _scatter,
    "scatter add": _scatter,
    "scatter multiply": _scatter,
    "scatter max": _scatter,
    "scatter min": _scatter,
    "einsum": _einsum,
}
