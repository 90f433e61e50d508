"""TFLite's operators that move entries, and that make tensors of sizes and numbers. Axes are the file's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.tflite.ops.table import Call, Float, Int, Ints, Numbers, rule, unsupported
from tdagger.library.shape import linear_index
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, iota_like, scatter, take_along
from tdagger.ops.source import const, iota, scalar
from tdagger.types import DType, broadcast_shapes

# --- axes --------------------------------------------------------------------------------------------------


@rule("RESHAPE", raw=True)
def reshape(x: Value, shape: Ints | None = None, *, new_shape: tuple[int, ...] | None = None) -> Value:
    """A 0 is a size of 0, and copies none."""
    wanted = shape if shape is not None else new_shape
    if wanted is None:
        raise unsupported("it has no shape")
    return lib.reshape(x, shape=wanted)


@rule("TRANSPOSE", raw=True)
def _transpose(x: Value, perm: Ints) -> Value:
    return s.permute(x, [normal_axis(a, x.rank) for a in perm])


@rule("SQUEEZE", raw=True)
def _squeeze(x: Value, *, squeeze_dims: tuple[int, ...] | None = None) -> Value:
    if not squeeze_dims:
        return s.squeeze(x, [i for i, n in enumerate(x.shape) if n == 1], only_ones=True)
    return s.squeeze(x, squeeze_dims)


@rule("EXPAND_DIMS", raw=True)
def _expand_dims(x: Value, axis: Int) -> Value:
    return s.unsqueeze(x, (normal_axis(axis, x.rank + 1),))


@rule("TILE", raw=True)
def _tile(x: Value, multiples: Ints) -> Value:
    return lib.tile(x, repeats=multiples)


@rule("BROADCAST_TO", raw=True)
def _broadcast_to(x: Value, shape: Ints) -> Value:
    return s.broadcast_to(x, shape)


@rule("BROADCAST_ARGS")
def _broadcast_args(a: Ints, b: Ints, *, node: Call) -> Value:
    return const(np.asarray(broadcast_shapes(a, b), np.int64), node.dtypes[0])


@rule("DEPTH_TO_SPACE", raw=True)
def _depth_to_space(x: Value, *, block_size: int = 0) -> Value:
    y = s.ungroup(x, 3, (block_size, block_size, -1))
    return s.group(s.permute(y, (0, 1, 3, 2, 4, 5)), (1, 2, 2, 1))


@rule("SPACE_TO_DEPTH", raw=True)
def _space_to_depth(x: Value, *, block_size: int = 0) -> Value:
    y = s.ungroup(s.ungroup(x, 2, (-1, block_size)), 1, (-1, block_size))
    return s.group(s.permute(y, (0, 1, 3, 2, 4, 5)), (1, 1, 1, 3))


@rule("SPACE_TO_BATCH_ND", raw=True)
def _space_to_batch(x: Value, block: Ints, paddings: Numbers, *, node: Call) -> Value:
    widths = [None, *paddings.tolist(), *[None] * (x.rank - len(block) - 1)]
    y = s.pad(x, widths, scalar(zero_of(node), x.dtype))
    for i in reversed(range(len(block))):
        y = s.ungroup(y, i + 1, (-1, block[i]))
    k = len(block)
    order = [*range(2, 2 * k + 1, 2), 0, *range(1, 2 * k, 2), *range(2 * k + 1, y.rank)]
    return s.group(s.permute(y, order), (k + 1, *(1,) * (y.rank - k - 1)))


@rule("BATCH_TO_SPACE_ND", raw=True)
def _batch_to_space(x: Value, block: Ints, crops: Numbers) -> Value:
    k = len(block)
    y = s.ungroup(x, 0, (*block, -1))
    order = [k]
    for i in range(k):
        order += [k + 1 + i, i]
    order += range(2 * k + 1, y.rank)
    y = s.group(s.permute(y, order), (1, *(2,) * k, *(1,) * (y.rank - 2 * k - 1)))
    cut: list[tuple[int, int] | None] = [None, *[(-a, -b) for a, b in crops.tolist()], *[None] * (y.rank - k - 1)]
    return s.pad(y, cut)


# --- parts -------------------------------------------------------------------------------------------------


@rule("CONCATENATION", raw=True)
def concatenation(*inputs: Value, axis: int = 0) -> Value:
    """Tensors end to end along an axis."""
    return s.concat(inputs, normal_axis(axis, inputs[0].rank))


@rule("PACK", raw=True)
def _pack(*inputs: Value, axis: int = 0, values_count: int = 0) -> Value:
    del values_count
    return lib.stack(*inputs, axis=axis)


@rule("UNPACK", raw=True)
def _unpack(x: Value, *, axis: int = 0, num: int = 0) -> tuple[Value, ...]:
    axis = normal_axis(axis, x.rank)
    if num != x.shape[axis]:
        raise unsupported(f"it has {num} results, and axis {axis} of {x.type} as many entries as it has")
    return tuple([s.select(x, axis, i) for i in range(num)])


@rule("SPLIT", raw=True)
def _split(axis: Int, x: Value, *, num_splits: int = 0) -> tuple[Value, ...]:
    axis = normal_axis(axis, x.rank)
    if num_splits < 1 or x.shape[axis] % num_splits:
        raise unsupported(f"axis {axis} of {x.type} doesn't come out even in {num_splits} parts")
    return s.split(x, [x.shape[axis] // num_splits] * num_splits, axis)


@rule("SPLIT_V", raw=True)
def _split_v(x: Value, sizes: Ints, axis: Int, *, num_splits: int = 0) -> tuple[Value, ...]:
    del num_splits
    axis = normal_axis(axis, x.rank)
    rest = x.shape[axis] - sum(n for n in sizes if n >= 0)
    return s.split(x, [rest if n < 0 else n for n in sizes], axis)


@rule("SLICE", raw=True)
def _slice(x: Value, begin: Ints, size: Ints) -> Value:
    """A size of -1 is all that is left."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        n = x.shape[axis]
        if first < 0 or count < -1 or first + max(count, 0) > n:
            raise unsupported(f"{count} entries from {first} aren't within axis {axis} of {x.type}")
        x = s.slice_axis(x, axis, first, None if count < 0 or first + count == n else first + count)
    return x


@rule("STRIDED_SLICE", raw=True)
def _strided_slice(
    x: Value, begin: Ints, end: Ints, strides: Ints, *, begin_mask: int = 0, end_mask: int = 0, ellipsis_mask: int = 0,
    new_axis_mask: int = 0, shrink_axis_mask: int = 0, offset: bool = False,
) -> Value:  # fmt: skip
    """Bounds are brought within the axis; ``-10:-100:-1`` is empty. With ``offset`` the end counts from the start."""
    ahead = sum(not (new_axis_mask >> i & 1 or ellipsis_mask >> i & 1) for i in range(len(begin)))
    axis, new, gone = 0, list[int](), list[int]()
    out = x
    for i in range(len(begin)):
        if ellipsis_mask >> i & 1:
            axis = x.rank - sum(not new_axis_mask >> j & 1 for j in range(i + 1, len(begin)))
            continue
        if new_axis_mask >> i & 1:
            new.append(axis + len(new) - len(gone))
            continue
        if axis >= x.rank:
            raise unsupported(f"it slices {ahead} axes of {x.type}")
        step, n = strides[i], x.shape[axis]
        shrinks = bool(shrink_axis_mask >> i & 1)
        first, last = _bounds(
            begin[i], end[i], step, n, bool(begin_mask >> i & 1), bool(end_mask >> i & 1), shrinks, offset
        )
        if shrinks:
            if not 0 <= first < n:
                raise unsupported(f"it takes entry {begin[i]} of {n} along axis {axis}")
            gone.append(axis)
            out = s.slice_axis(out, axis, first, first + 1 if first + 1 < n else None)
        else:
            out = _range(out, axis, first, last, step)
        axis += 1
    out = s.squeeze(out, gone) if gone else out
    return s.unsqueeze(out, new) if new else out


def _bounds(
    begin: int, end: int, step: int, n: int, from_start: bool, to_end: bool, shrinks: bool, offset: bool
) -> tuple[int, int]:
    """The first entry and where it stops, within the axis: -1 to n - 1 backwards, 0 to n forwards."""
    if not step:
        raise unsupported("a step of 0")
    low, high = (0, n) if step > 0 else (-1, n - 1)
    first = begin + n if begin < 0 else begin
    first = (0 if step > 0 else n - 1) if from_start else min(max(first, low), high)
    if shrinks:
        return first, first + 1
    if to_end:
        return first, n if step > 0 else -1
    last = end + first if offset else end + n if end < 0 else end
    return first, min(max(last, low), high)


def _range(x: Value, axis: int, first: int, last: int, step: int) -> Value:
    n = x.shape[axis]
    if step > 0:
        if last <= first:
            return s.slice_axis(x, axis, 0, 0)
        return s.slice_axis(x, axis, first or None, None if last >= n else last, step)
    if last >= first:
        return s.slice_axis(x, axis, 0, 0)
    return s.slice_axis(x, axis, None if first == n - 1 else first, None if last < 0 else last, step)


@rule("REVERSE_V2", raw=True)
def _reverse(x: Value, axes: Ints) -> Value:
    return s.flip(x, [normal_axis(a, x.rank) for a in axes])


@rule("REVERSE_SEQUENCE", raw=True)
def _reverse_sequence(x: Value, lengths: Value, *, seq_dim: int = 0, batch_dim: int = 0) -> Value:
    at = iota_like(x, seq_dim)
    length = s.unsqueeze(e.cast(lengths, "i64"), [i for i in range(x.rank) if i != batch_dim])
    return take_along(x, e.where(at < length, length - 1 - at, at), seq_dim)


@rule("DYNAMIC_UPDATE_SLICE", raw=True)
def dynamic_update_slice(x: Value, update: Value, start: Value) -> Value:
    """The start is brought to where the update has room; along axes that it fills it can only be 0."""
    known = [number_of(s.select(start, 0, i)) for i in range(x.rank)] if start.rank else []
    along = [i for i in range(x.rank) if update.shape[i] != x.shape[i]]
    if not along:
        return update
    places: list[Value] = []
    for axis in along:
        room = x.shape[axis] - update.shape[axis]
        given = known[axis]
        if isinstance(given, int):
            first: Value = const(min(max(given, 0), room), "i64")
        else:
            first = lib.clamp(e.cast(s.select(start, 0, axis), "i64"), low=0, high=room)
        places.append(iota(update.shape[axis]) + first)
    if len(along) == 1:
        return scatter(x, places[0], update, along[0])
    order = [*along, *[i for i in range(x.rank) if i not in along]]
    back = [order.index(i) for i in range(x.rank)]
    moved, put = s.permute(x, order), s.permute(update, order)
    k, rest = len(along), (1,) * (x.rank - len(along))
    each = [
        s.broadcast_to(s.unsqueeze(p, [j for j in range(k) if j != i]), put.shape[:k]) for i, p in enumerate(places)
    ]
    index = linear_index(moved, *each, axis=0, signed=(False,) * k)
    found = scatter(s.group(moved, (k, *rest)), lib.reshape(index, shape=(-1,)), s.group(put, (k, *rest)), 0)
    return s.permute(s.ungroup(found, 0, moved.shape[:k]), back)


# --- padding -----------------------------------------------------------------------------------------------


def zero_of(node: Call) -> int:
    """The integer that stands for 0 in what a node takes."""
    tensor = node.inputs[0]
    quantization = tensor.quantization if tensor is not None else None
    return int(quantization.zero_point[0]) if quantization is not None else 0


@rule("PAD", raw=True)
def _pad(x: Value, paddings: Numbers, *, node: Call) -> Value:
    return s.pad(x, paddings.tolist(), scalar(zero_of(node), x.dtype))


@rule("PADV2", raw=True)
def _padv2(x: Value, paddings: Numbers, value: Value) -> Value:
    number = number_of(value)
    if number is not None:
        return s.pad(x, paddings.tolist(), scalar(number, x.dtype))
    inside = s.pad(e.full_like(e.cast(x, "bool"), True), paddings.tolist(), False)
    return e.where(inside, s.pad(x, paddings.tolist(), scalar(0, x.dtype)), lib.reshape(value, shape=()))


@rule("MIRROR_PAD", raw=True)
def _mirror_pad(x: Value, paddings: Numbers, *, mode: int = 0) -> Value:
    """Mode 0 doesn't repeat the edge, mode 1 does."""
    widths = tuple([(int(a), int(b)) for a, b in paddings.tolist()])
    if any(max(w) > n - (mode == 0) for w, n in zip(widths, x.shape, strict=True) if any(w)):
        raise unsupported(f"it mirrors more of {x.type} than there is: {widths}")
    if mode == 0:
        return lib.reflect_pad(x, widths=widths)
    for axis, (low, high) in enumerate(widths):
        n = x.shape[axis]
        parts = [s.flip(s.slice_axis(x, axis, 0, low), (axis,))] if low else []
        parts.append(x)
        parts += [s.flip(s.slice_axis(x, axis, n - high, None), (axis,))] if high else []
        x = s.concat(parts, axis) if len(parts) > 1 else x
    return x


@rule("DILATE", raw=True)
def _dilate(x: Value, dilations: Ints, value: Float) -> Value:
    """So many steps from one entry to the next, with a value in between."""
    return s.pad(x, [(0, 0, d - 1) for d in dilations], scalar(value, x.dtype))


# --- sources -----------------------------------------------------------------------------------------------


@rule("SHAPE", raw=True)
def _shape(x: Value, *, out_type: int = 0, node: Call) -> Value:
    del out_type
    return const(np.asarray(x.shape, np.int64), node.dtypes[0])


@rule("RANK", raw=True)
def _rank(x: Value) -> Value:
    return const(x.rank, "i32")


@rule("FILL", raw=True)
def _fill(dims: Ints, value: Value) -> Value:
    return s.broadcast_to(lib.reshape(value, shape=()), dims)


@rule("RANGE")
def _range_of(start: Numbers, limit: Numbers, delta: Numbers) -> Value:
    """Each number is ``start + i * delta``; runtimes have running sums of floats."""
    dtype = DType.of(start.dtype)
    first, last, step = (a.reshape(()).item() for a in (start, limit, delta))
    if not step:
        raise unsupported("its delta is 0")
    count = max(math.ceil((last - first) / step), 0) if dtype.is_float else max(-(-(last - first) // step), 0)
    check_entries(count)
    line = e.cast(iota(int(count), "i64"), dtype)
    line = line if step == 1 else line * step
    return line if first == 0 else line + first


#: Tables that are made while importing have no more entries.
_ENTRIES = 1 << 22


def check_entries(count: float) -> None:
    """UnsupportedError for what would be too large to write out."""
    if not count <= _ENTRIES:
        raise unsupported(f"it would write out {count:.0f} entries, of which there may be {_ENTRIES}")


@rule("MATRIX_DIAG", raw=True)
def _matrix_diag(x: Value) -> Value:
    n = x.shape[-1]
    wide = s.broadcast_to(s.unsqueeze(x, (x.rank,)), (*x.shape, n))
    return e.where(e.equal(iota_like(wide, -1), iota_like(wide, -2)), wide, e.zeros_like(wide))


@rule("MATRIX_SET_DIAG", raw=True)
def _matrix_set_diag(x: Value, diagonal: Value) -> Value:
    rows, columns = x.shape[-2:]
    short = min(rows, columns)
    if diagonal.shape != (*x.shape[:-2], short):
        raise unsupported(f"its diagonal {diagonal.type} isn't that of {x.type}")
    line = s.pad(diagonal, [None] * (diagonal.rank - 1) + [(0, rows - short)], scalar(0, x.dtype))
    wide = s.broadcast_to(s.unsqueeze(line, (line.rank,)), x.shape)
    return e.where(e.equal(iota_like(x, -1), iota_like(x, -2)), wide, x)


def part_of(x: Value, places: Sequence[int], axis: int) -> Value:
    """Entries of an axis by their numbers."""
    return gather(x, const(np.asarray(places, np.int64), "i64"), axis)
