"""Composites that only move entries: reshape, stack, tile, roll, shuffles, diagonals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, NoInverseError, TypeMismatchError
from tdagger.library.adjoint import body_adjoint
from tdagger.library.arithmetic import of_result
from tdagger.op import Array, AxisRules, Plan, Term, Terms, Value, ValueFunction, functions, normal_axis, still
from tdagger.ops.elementwise import cast, equal, greater_equal, less, less_equal, where, zeros_like
from tdagger.ops.indexing import iota_like
from tdagger.ops.source import const, iota
from tdagger.ops.structure import (
    Group,
    Ungroup,
    broadcast_to,
    concat,
    group,
    open_factors,
    permute,
    repeat,
    select,
    slice_axis,
    ungroup,
    unsqueeze,
)
from tdagger.ops.structure import (
    stride as every,
)
from tdagger.types import Shape, Size, Sized, TensorType, sized

Prepared = tuple[tuple[Value, ...], dict[str, Any]]

# --- reshape -----------------------------------------------------------------------------------------------


def _full_shape(x: TensorType, shape: Sequence[int]) -> Shape:
    """``shape`` with its -1 resolved; AttributeValueError if it doesn't hold the elements of ``x``."""
    known = math.prod(n for n in shape if n != -1)
    wrong = AttributeValueError(f"reshape: {x} has {x.size} elements, the shape {tuple(shape)} doesn't")
    if any(n < -1 for n in shape) or list(shape).count(-1) > 1:
        raise AttributeValueError(f"reshape: sizes are at least 0, and one may be -1, got {tuple(shape)}")
    if -1 in shape and (known == 0 or x.size % known):
        raise wrong
    full = tuple(sized(x.size, divisor=known) if n == -1 else n for n in shape)
    if math.prod(full) != x.size:
        raise wrong
    return full


def runs(old: Shape, new: Shape) -> list[tuple[int, int]]:
    """How many old and new axes make up each of the smallest runs of axes with one product, in order."""
    if math.prod(old) == 0:
        same = 0
        while old[same] == new[same] and 0 in old[same + 1 :] and 0 in new[same + 1 :]:
            same += 1
        return [(1, 1)] * same + [(len(old) - same, len(new) - same)]
    pieces: list[tuple[int, int]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        a, b, start = old[i], new[j], (i, j)
        i, j = i + 1, j + 1
        while a != b:
            if i == len(old) if a < b else j == len(new):  # formulas of sizes that are alike here alone
                raise AttributeValueError(f"reshape: {tuple(old)} can't become {tuple(new)} at all sizes")
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        while _is_open(new[j - 1]) and old[i : i + 1] == (1,) != new[j : j + 1]:  # what is left open has it
            i += 1
        pieces.append((i - start[0], j - start[1]))
    rest = (len(old) - i, len(new) - j)  # axes of size 1 at the end go with the last piece
    if rest != (0, 0):
        last = pieces.pop() if pieces else (0, 0)
        pieces.append((last[0] + rest[0], last[1] + rest[1]))
    return pieces


def _is_open(size: int) -> bool:
    """Whether it follows from the other sizes."""
    return isinstance(size, Sized) and bool(size.offsets)


def _regroup(x: Value, new: Shape) -> Value:
    """``x`` in the new shape: each piece is grouped to one axis, then split."""
    pieces = runs(x.shape, new)
    sizes: list[tuple[int, ...]] = []
    at = 0
    for _, count in pieces:
        sizes.append(open_factors(new[at : at + count]))
        at += count
    if any(count != 1 for count, _ in pieces):
        x = Group(tuple(count for count, _ in pieces))(x)
    return Ungroup(tuple(sizes))(x) if any(len(s) != 1 for s in sizes) else x


def _resolve(x: Value, *, shape: Sequence[int]) -> Prepared:
    return (x,), {"shape": tuple([n if n.__class__ is Size else int(n) for n in _full_shape(x.type, shape)])}


@composite(prepare=_resolve)
def reshape_(x: Value, *, shape: tuple[int, ...]) -> Value:
    """The same elements, in row-major order, in another shape, one of whose sizes may be -1.

    Axes stay apart where their sizes align: ``(2, 3, 4) -> (2, 2, 6)`` regroups the last two only.
    """
    if math.prod(shape) != x.type.size:
        raise TypeMismatchError(f"reshape: {x.type} has {x.type.size} elements, the shape {shape} doesn't")
    return _regroup(x, _full_shape(x.type, shape))


@reshape_.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms) -> Terms:
    """Each piece's factors, wherever axes of size 1 are in it; the body would have grouped them out of sight."""
    del op
    terms: list[Term] = []
    i = 0
    sizes = [math.prod([a.size for a in term]) for term in x]
    for old, new in runs(tuple(sizes), out.shape):
        whole = sum(x[i : i + old], ())
        terms += rules.split(whole, out.shape[len(terms) : len(terms) + new])
        i += old
    return tuple(terms)


@reshape_.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value:
    del op
    return reshape(args[0], shape=[p.size for p in plan])


@reshape_.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    x = op.one(types, "inverse")
    return of_result(lambda y: reshape(y, shape=x.shape))


reshape_.adjoint(reshape_.ways["inverse"])


def reshape(x: Value, *, shape: Sequence[int]) -> Value:
    """``x`` in another shape, one of whose sizes may be -1.

    One group or ungroup if that is all there is to it, ``x`` itself if nothing is, else the composite reshape.
    AttributeValueError if the shape doesn't hold the elements of ``x``.
    """
    full = _full_shape(x.type, shape)
    pieces = runs(x.shape, full)
    if all(a == 1 for a, _ in pieces) or all(b == 1 for _, b in pieces):
        return _regroup(x, full)
    return reshape_(x, shape=full)


functions["reshape"] = reshape

# --- copies ------------------------------------------------------------------------------------------------


def _new_axis(*xs: Value, axis: int = 0) -> Prepared:
    if not xs:
        raise TypeMismatchError("stack needs at least one tensor")
    return xs, {"axis": normal_axis(axis, xs[0].rank + 1)}


@composite(prepare=_new_axis, normal_axes=False)
def stack(*xs: Value, axis: int = 0) -> Value:
    """Tensors of one type laid side by side along a new axis."""
    if any(x.type is not xs[0].type for x in xs):
        raise TypeMismatchError(f"stack: types must be equal, got {', '.join(str(x.type) for x in xs)}")
    return concat([unsqueeze(x, (axis,)) for x in xs], axis)


def _unstack(op: Composite, *types: TensorType) -> ValueFunction:
    """The function that gives every tensor back, in a tuple."""
    del types
    axis: int = op.attributes["axis"]
    return of_result(lambda y: tuple(select(y, axis, i) for i in range(y.shape[axis])))


stack.inverse(_unstack)
stack.adjoint(_unstack)


@composite
def tile(x: Value, *, repeats: tuple[int, ...]) -> Value:
    """``x`` laid end to end ``repeats`` times along each axis; more repeats than axes add axes in front."""
    new = len(repeats) - x.rank
    if new < 0 or any(r < 0 for r in repeats):
        raise AttributeValueError(f"tile: needs a repeat of 0 or more for each axis of {x.type}, got {repeats}")
    x = unsqueeze(x, range(new))
    if all(r == 1 for r in repeats):
        return x
    times = [t for r in repeats for t in ((None,) if r == 1 else (r, None))]
    x = unsqueeze(x, [i for i, t in enumerate(times) if t is not None])
    return group(repeat(x, times), [1 if r == 1 else 2 for r in repeats])


tile.adjoint(body_adjoint)


@tile.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    x, repeats = op.one(types, "inverse"), op.attributes["repeats"]
    if 0 in repeats:
        raise NoInverseError(f"{op} keeps nothing of its argument")
    new = len(repeats) - x.rank

    def first(y: Value) -> Value:
        for axis, n in enumerate((*(1,) * new, *x.shape)):
            y = slice_axis(y, axis, 0, n)
        return reshape(y, shape=x.shape)

    return first


@composite
def repeat_interleave(x: Value, *, repeats: int, axis: int) -> Value:
    """Every entry of ``axis`` ``repeats`` times in a row."""
    if repeats < 0:
        raise AttributeValueError(f"repeat_interleave: repeats can't be negative, got {repeats}")
    x = unsqueeze(x, (axis + 1,))
    x = repeat(x, [repeats if i == axis + 1 else None for i in range(x.rank)])
    return group(x, [2 if i == axis else 1 for i in range(x.rank - 1)])


repeat_interleave.adjoint(body_adjoint)


@repeat_interleave.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    axis, repeats = op.attributes["axis"], op.attributes["repeats"]
    if not repeats:
        raise NoInverseError(f"{op} keeps nothing of its argument")
    return of_result(lambda y: every(y, axis, repeats))


# --- orders ------------------------------------------------------------------------------------------------


def _rolls(x: Value, *, shifts: int | Sequence[int], axes: int | Sequence[int]) -> Prepared:
    steps = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    named = (axes,) if isinstance(axes, int) else tuple(axes)
    if len(steps) != len(named):
        raise AttributeValueError(f"roll: needs one shift for each axis, got shifts {steps} and axes {named}")
    total: dict[int, int] = {}
    for step, axis in zip(steps, named, strict=True):
        axis = normal_axis(axis, x.rank)
        total[axis] = total[axis] + step if axis in total else step
    order = tuple(sorted(total))
    return (x,), {"shifts": tuple(total[a] for a in order), "axes": order}


@composite(prepare=_rolls)
def roll(x: Value, *, shifts: tuple[int, ...], axes: tuple[int, ...]) -> Value:
    """Entries moved on by ``shifts`` along ``axes``, around the end."""
    for step, axis in zip(shifts, axes, strict=True):
        n = x.shape[axis]
        step = step % n if n else 0
        if step:
            x = concat((slice_axis(x, axis, -step, None), slice_axis(x, axis, 0, -step)), axis)
    return x


@roll.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms) -> Terms:
    """The same axes, in another order."""
    del out
    for axis in op.attributes["axes"]:
        rules.mark(x[axis], "rolls")
    return x


@roll.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value:
    axes = [still(plan, a) for a in op.attributes["axes"]]
    pairs = zip(op.attributes["shifts"], axes, strict=True)
    return roll(args[0], shifts=[s.of(plan[a].size) if isinstance(s, Sized) else s for s, a in pairs], axes=axes)


@roll.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    shifts, axes = op.attributes["shifts"], op.attributes["axes"]
    return of_result(lambda y: roll(y, shifts=tuple(-s for s in shifts), axes=axes))


roll.adjoint(roll.ways["inverse"])


@composite
def pixel_shuffle(x: Value, *, factor: int) -> Value:
    """``[.. (c r r) h w] -> [.. c (h r) (w r)]`` with ``r = factor``."""
    if x.rank < 3 or factor < 1 or x.shape[-3] % factor**2:
        raise TypeMismatchError(f"pixel_shuffle: axis -3 of {x.type} is no multiple of {factor}**2")
    b = x.rank - 3
    x = ungroup(x, b, (x.shape[b] // factor**2, factor, factor))
    x = permute(x, [*range(b), b, b + 3, b + 1, b + 4, b + 2])
    return group(x, [1] * (b + 1) + [2, 2])


@composite
def pixel_unshuffle(x: Value, *, factor: int) -> Value:
    """``[.. c (h r) (w r)] -> [.. (c r r) h w]`` with ``r = factor``."""
    if x.rank < 3 or factor < 1 or x.shape[-2] % factor or x.shape[-1] % factor:
        raise TypeMismatchError(f"pixel_unshuffle: the last two axes of {x.type} are no multiples of {factor}")
    b = x.rank - 3
    x = ungroup(x, b + 2, (x.shape[b + 2] // factor, factor))
    x = ungroup(x, b + 1, (x.shape[b + 1] // factor, factor))
    x = permute(x, [*range(b), b, b + 2, b + 4, b + 1, b + 3])
    return group(x, [1] * b + [3, 1, 1])


@pixel_shuffle.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    return of_result(lambda y: pixel_unshuffle(y, factor=op.attributes["factor"]))


@pixel_unshuffle.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    return of_result(lambda y: pixel_shuffle(y, factor=op.attributes["factor"]))


pixel_shuffle.adjoint(pixel_shuffle.ways["inverse"])
pixel_unshuffle.adjoint(pixel_unshuffle.ways["inverse"])


@composite
def channel_shuffle(x: Value, *, groups: int, axis: int = 1) -> Value:
    """The axis ``(groups c)`` becomes ``(c groups)``."""
    if axis >= x.rank or groups < 1 or x.shape[axis] % groups:
        raise TypeMismatchError(f"channel_shuffle: axis {axis} of {x.type} is not made of {groups} groups")
    split_ = ungroup(x, axis, (groups, x.shape[axis] // groups))
    order = [*range(axis), axis + 1, axis, *range(axis + 2, split_.rank)]
    return group(permute(split_, order), [2 if i == axis else 1 for i in range(x.rank)])


@channel_shuffle.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    groups: int = op.attributes["groups"]
    axis: int = op.attributes["axis"]
    return of_result(lambda y: channel_shuffle(y, groups=max(y.shape[axis] // groups, 1), axis=axis))


channel_shuffle.adjoint(channel_shuffle.ways["inverse"])

# --- diagonals ---------------------------------------------------------------------------------------------


def _two_axes(x: Value, *, offset: int = 0, axis0: int = 0, axis1: int = 1) -> Prepared:
    a, b = normal_axis(axis0, x.rank), normal_axis(axis1, x.rank)
    if a == b:
        raise AttributeValueError(f"diagonal: needs two axes of {x.type}, got {axis0} and {axis1}")
    return (x,), {"offset": offset, "axis0": a, "axis1": b}


@composite(prepare=_two_axes)
def diagonal(x: Value, *, offset: int = 0, axis0: int = 0, axis1: int = 1) -> Value:
    """Entries ``i, i + offset`` of two axes as one last axis, the others before it."""
    if max(axis0, axis1) >= x.rank:
        raise TypeMismatchError(f"diagonal: {x.type} has no axes {axis0} and {axis1}")
    rows, columns = max(-offset, 0), max(offset, 0)
    n = max(min(x.shape[axis0] - rows, x.shape[axis1] - columns), 0)
    others = [i for i in range(x.rank) if i not in (axis0, axis1)]
    x = slice_axis(slice_axis(x, axis0, rows, rows + n), axis1, columns, columns + n)
    x = group(permute(x, [*others, axis0, axis1]), [1] * len(others) + [2])
    return slice_axis(x, len(others), None, None, n + 1)


@diagonal.axes
def _(op: Composite, rules: AxisRules, out: TensorType, x: Terms) -> Terms:
    """As long as what is left of the shorter axis."""
    offset, axes = op.attributes["offset"], (op.attributes["axis0"], op.attributes["axis1"])
    lines: list[Term] = []
    for axis, left_out in zip(axes, (max(-offset, 0), max(offset, 0)), strict=True):
        rules.mark(x[axis], "takes the diagonal of")
        lines.append(rules.line((x[axis],), -left_out))
    short = min(lines, key=lambda term: math.prod([a.size for a in term]))
    return (*[t for i, t in enumerate(x) if i not in axes], short)


@diagonal.adapt
def _(op: Composite, args: Sequence[Value], plan: Plan) -> Value | None:
    """None where axes came or went: the body says where the diagonal is then."""
    if [p.axis for p in plan] != list(range(args[0].rank - 1)):
        return None
    return diagonal(args[0], **op.attributes)


diagonal.adjoint(body_adjoint)
diagonal.inverse(body_adjoint)


def _triangle(x: Value, keep: Callable[[Value, Value], Value]) -> Value:
    if x.rank < 2:
        raise TypeMismatchError(f"tril and triu take matrices, got {x.type}")
    plane = broadcast_to(const(0), x.shape[-2:])
    chosen = keep(iota_like(plane, 0), iota_like(plane, 1))
    return where(broadcast_to(chosen, x.shape), x, zeros_like(x))


@composite
def tril(x: Value, *, diagonal: int = 0) -> Value:
    """Entries of the last two axes on and below a diagonal (1 is above the main one), 0 elsewhere."""
    return _triangle(x, lambda row, column: less_equal(column, row + diagonal))


@composite
def triu(x: Value, *, diagonal: int = 0) -> Value:
    """Entries of the last two axes on and above a diagonal (1 is above the main one), 0 elsewhere."""
    return _triangle(x, lambda row, column: greater_equal(column, row + diagonal))


def _itself(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    return op


for _function in (tril, triu):
    _function.adjoint(_itself)
    _function.inverse(_itself)


@composite
def linear_index(*xs: Value, axis: int, signed: tuple[bool, ...]) -> Value:
    """Where entries are in some axes of a tensor laid end to end: ``xs`` are the tensor and an index for each axis.

    The axes are ``axis`` and those after it; the indices are integers of one shape, and so is the result. Of those
    that are ``signed``, negative ones count from the end. The tensor only tells the sizes.
    """
    x, *indices = xs
    if not indices or len(signed) != len(indices) or axis + len(indices) > x.rank:
        raise TypeMismatchError(f"linear_index: axes from {axis} of {x.type} don't go with {len(indices)} indices")
    total: Value | None = None
    for n, index, negative in zip(x.shape[axis:], indices, signed, strict=False):
        place = where(less(index, 0), index + n, index) if negative else index
        total = place if total is None else cast(total, place.dtype) * n + place
    assert total is not None
    return total


@linear_index.numpy
def _(*xs: Array, axis: int, signed: tuple[bool, ...]) -> Array:
    """IndexError for an index that its axis doesn't have: together with the others it would be another entry."""
    x, *indices = xs
    total = np.zeros((), indices[0].dtype)
    for n, index, negative in zip(x.shape[axis:], indices, signed, strict=False):
        low = -n if negative else 0
        if index.size and (index.min() < low or index.max() >= n):
            raise IndexError(f"linear_index: indices must be in {low}..{n - 1}, got {index.min()}..{index.max()}")
        place = np.where(index < 0, index + n, index) if negative else index
        total = total.astype(place.dtype) * n + place
    return np.asarray(total)


@composite
def one_hot(index: Value, *, classes: int) -> Value:
    """1 (i64) at each index along a new last axis of size ``classes``, else 0; nothing at an index out of range."""
    if not index.dtype.is_int:
        raise TypeMismatchError(f"one_hot: the index must be integers, got {index.type}")
    index = unsqueeze(cast(index, "i64"), (-1,))
    return cast(equal(index, iota(classes)), "i64")
