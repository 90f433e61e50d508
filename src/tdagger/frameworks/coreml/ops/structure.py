"""MIL's ops that move entries, and that make tensors of sizes and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Bool, Bools, Int, Ints, Numbers, Str, Values, rule, unsupported
from tdagger.frameworks.known import array_of_constant
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, iota_like, scan, take_along
from tdagger.ops.source import const, iota
from tdagger.types import DType

# --- axes --------------------------------------------------------------------------------------------------


@rule("transpose")
def _transpose(x: Value, perm: Ints) -> Value:
    return s.permute(x, [p % x.rank for p in perm])


@rule("reshape")
def _reshape(x: Value, shape: Ints, *, opset: int) -> Value:
    """A 0 copies a size: of the same place, or since iOS17 of the same place counted from the right.

    Before, there have to be as many dimensions as there were; since then it is 1 where there is no such place.
    """
    if opset < 17 and 0 in shape and len(shape) != x.rank:
        raise unsupported(f"before iOS17 a 0 in its shape {list(shape)} needs as many dimensions as {x.type} has")
    back = x.rank - len(shape)
    sizes = [n or (x.shape[i + back] if i + back >= 0 else 1) for i, n in enumerate(shape)]
    return lib.reshape(x, shape=sizes)


@rule("reshape_like")
def _reshape_like(x: Value, ref_tensors: Values, begins: Ints, ends: Ints, end_masks: Bools) -> Value:
    """The sizes ``begin .. end`` of each of some tensors, one after the other."""
    sizes: list[int] = []
    for ref, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += ref.shape[begin : None if whole else end]
    return lib.reshape(x, shape=sizes)


@rule("expand_dims")
def _expand_dims(x: Value, axes: Ints) -> Value:
    return s.unsqueeze(x, [a % (x.rank + len(axes)) for a in axes])


@rule("squeeze")
def _squeeze(x: Value, axes: Ints | None = None) -> Value:
    return s.squeeze(x, [i for i, n in enumerate(x.shape) if n == 1] if axes is None else axes)


@rule("flatten2d")
def _flatten2d(x: Value, axis: Int = 1) -> Value:
    axis = axis + x.rank if axis < 0 else axis
    return s.group(x, [axis, x.rank - axis])


@rule("shape")
def _shape(x: Value) -> Value:
    return const(list(x.shape), "i32")


# --- parts -------------------------------------------------------------------------------------------------


def bounds(n: int, begin: int, end: int, stride: int, all_before: bool, all_after: bool) -> tuple[int, int]:
    """Start and stop within ``0 .. n`` (down to -1 backwards): what is counted from the end stops at the first entry.

    So ``4:-6:-1`` leaves out entry 0 of five, as CoreML has it; but of a single one ``-1:-2:-1`` is that.
    """
    if n == 1 and stride < 0 and not all_after and end < (0 if all_before else min(begin, 0)):
        return 0, -1
    start = (0 if stride > 0 else n - 1) if all_before else max(begin + n, 0) if begin < 0 else begin
    stop = (n if stride > 0 else -1) if all_after else max(end + n, 0) if end < 0 else end
    if stride > 0:
        return min(start, n), min(stop, n)
    return min(start, n - 1), stop


def _cut(x: Value, axis: int, start: int, stop: int, stride: int) -> Value:
    if (start, stop, stride) == (0, x.shape[axis], 1):
        return x
    return s.slice_axis(x, axis, start, None if stop < 0 else max(stop, start) if stride > 0 else stop, stride)


def _place(bound: Value, axis: int, n: int) -> Value:
    """A bound of an axis that depends on data: counted from the end where it is below 0."""
    at = e.cast(s.select(bound, 0, axis), "i64")
    return e.where(at < 0, at + n, at)


def _apart(begin: Value, end: Value, axis: int) -> int | None:
    """By how much two bounds that depend on data differ, where that is known: ``begin + 1`` and ``begin``."""
    (one, less), (other, more) = _term(begin, axis), _term(end, axis)
    return more - less if one is other else None


def _term(value: Value, place: int) -> tuple[Value, int]:
    """An entry of a vector as a value, an entry of a vector or a number of rank 0, and a number more."""
    more = 0
    while True:
        op = value.op
        if isinstance(op, s.Concat):
            for part in value.args:
                if place < part.type.size:
                    value = part
                    break
                place -= part.type.size
        elif op.name == "binary" and op.attributes["kind"] in ("add", "sub"):
            known = [array_of_constant(a) for a in value.args]
            which = 0 if known[0] is None else 1
            number = known[1 - which]
            if number is None or (which == 1 and op.attributes["kind"] == "sub"):
                return _entry(value, place), more
            by = int(np.broadcast_to(number, value.shape).reshape(-1)[place])
            more += by if op.attributes["kind"] == "add" else -by
            value = value.args[which]
        elif value.type.size == 1 and (op.name in ("reshape", "group", "ungroup", "repeat")):
            if value.args[0].type.size != 1:
                return value, more
            value, place = value.args[0], 0
        else:
            known_ = array_of_constant(value)
            if known_ is not None:
                return const(0, "i32"), more + int(np.asarray(known_).reshape(-1)[place])
            return _entry(value, place), more


def _entry(value: Value, place: int) -> Value:
    return value if value.type.size == 1 else s.select(value, 0, place)


@rule("slice_by_index")
def _slice_by_index(
    x: Value, begin: Value, end: Value, stride: Ints | None = None, begin_mask: Bools | None = None,
    end_mask: Bools | None = None, squeeze_mask: Bools | None = None,
) -> Value:  # fmt: skip
    """A begin that depends on data needs an end that is so many entries behind it."""
    none = (False,) * x.rank
    before, after, lost = begin_mask or none, end_mask or none, squeeze_mask or none
    starts, ends = array_of_constant(begin), array_of_constant(end)
    steps = stride or (1,) * x.rank
    out = x
    for axis in range(x.rank):
        n = x.shape[axis]
        if lost[axis]:
            if starts is None:
                out = gather(out, s.unsqueeze(_place(begin, axis, n), (0,)), axis)
            else:
                at = int(starts[axis])
                out = s.slice_axis(out, axis, at % n if -n <= at < n else at, at % n + 1 if -n <= at < n else at)
            continue
        first, last = _known(starts, begin, axis, before[axis]), _known(ends, end, axis, after[axis])
        if first is None or last is None:
            count = None if before[axis] or after[axis] else _apart(begin, end, axis)
            if count is None:
                raise unsupported(
                    "its begin or end depends on data, and how many entries it takes with them: values= makes an "
                    "input that says so a constant"
                )
            many = len(range(0, count, steps[axis]))
            at = s.unsqueeze(_place(begin, axis, n), (0,))
            out = gather(out, at + iota(many) * steps[axis] if many else iota(0), axis)
            continue
        out = _cut(out, axis, *bounds(n, first, last, steps[axis], before[axis], after[axis]), steps[axis])
    squeezed = [i for i, gone in enumerate(lost) if gone]
    return s.squeeze(out, squeezed) if squeezed else out


def _known(numbers: Any, bounds_: Value, axis: int, masked: bool) -> int | None:
    """One of some bounds, None if it depends on data."""
    if masked:
        return 0
    if numbers is not None:
        return int(numbers[axis])
    value, more = _term(bounds_, axis)
    array = array_of_constant(value)
    return None if array is None else int(array.reshape(())) + more


@rule("slice_by_size")
def _slice_by_size(x: Value, begin: Value, size: Ints) -> Value:
    """Sizes are known; where they begin may depend on data. A size of -1 is all that is left."""
    starts = array_of_constant(begin)
    out = x
    for axis, count in enumerate(size):
        n = x.shape[axis]
        if starts is not None:
            at = int(starts[axis]) + (n if starts[axis] < 0 else 0)
            out = _cut(out, axis, at, n if count == -1 else at + count, 1)
        elif count not in (-1, n):
            out = gather(out, _place(begin, axis, n) + iota(count), axis)
        elif count == -1:
            raise unsupported(
                "its begin depends on data, and how many entries are left with it: values= makes an input that says so "
                "a constant"
            )
    return out


@rule("slice_update")
def _slice_update(
    x: Value, update: Value, begin: Value, end: Value, stride: Ints | None = None, begin_mask: Bools | None = None,
    end_mask: Bools | None = None, squeeze_mask: Bools | None = None,
) -> Value:  # fmt: skip
    """``x`` with an update in the place of a slice.

    The update is padded to the size of x. Where its begin depends on data its entries are picked by their places; it is
    as large as the slice then.
    """
    none = (False,) * x.rank
    before, after, lost = begin_mask or none, end_mask or none, squeeze_mask or none
    starts, ends = array_of_constant(begin), array_of_constant(end)
    steps = stride or (1,) * x.rank
    new = s.unsqueeze(update, [i for i, gone in enumerate(lost) if gone]) if any(lost) else update
    widths = [(0, 0, 0)] * x.rank
    turned: list[int] = []
    moving: list[int] = []
    for axis, n in enumerate(x.shape):
        first, last = _known(starts, begin, axis, before[axis]), _known(ends, end, axis, after[axis])
        if first is None or (last is None and not lost[axis]):
            moving.append(axis)
            continue
        if lost[axis]:
            start, stop, step = first % n, first % n + 1, 1
        else:
            step = steps[axis]
            start, stop = bounds(n, first, last or 0, step, before[axis], after[axis])
        places = range(start, stop, step)
        if len(places) != new.shape[axis]:
            raise unsupported(f"its update {update.type} isn't as large as the slice, {len(places)} of axis {axis}")
        if not places:
            return x
        if step < 0:
            turned.append(axis)
            places = places[::-1]
        widths[axis] = (places[0], n - 1 - places[-1], abs(step) - 1)
    new = s.flip(new, turned) if turned else new
    inside = s.pad(e.full_like(e.cast(new, "bool"), True), widths, False)
    new = s.pad(new, widths)
    for axis in moving:
        if before[axis]:
            raise unsupported(f"its end of axis {axis} depends on data, where its begin is left open")
        step = 1 if lost[axis] else steps[axis]
        behind = (iota(x.shape[axis]) - _place(begin, axis, x.shape[axis])) * (1 if step > 0 else -1)
        count = new.shape[axis]
        which = e.floor_divide(behind, abs(step))
        here = e.bitwise_and(e.equal(which * abs(step), behind), e.bitwise_and(which >= 0, which < count))
        which = e.minimum(e.maximum(which, 0), count - 1)
        new, inside = gather(new, which, axis), gather(inside, which, axis)
        spread = s.unsqueeze(here, [i for i in range(x.rank) if i != axis])
        inside = e.bitwise_and(inside, s.broadcast_to(spread, inside.shape))
    return e.where(inside, new, x)


@rule("split")
def _split(x: Value, axis: Int, num_splits: Int | None = None, split_sizes: Ints | None = None) -> tuple[Value, ...]:
    axis = normal_axis(axis, x.rank)
    if split_sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise unsupported(f"{num_splits} equal parts of an axis of {x.shape[axis]}")
        split_sizes = (x.shape[axis] // num_splits,) * num_splits
    return tuple(s.split(x, split_sizes, axis))


@rule("crop")
def _crop(x: Value, crop_height: Ints, crop_width: Ints) -> Value:
    out = s.slice_axis(x, x.rank - 2, crop_height[0], x.shape[-2] - crop_height[1])
    return s.slice_axis(out, x.rank - 1, crop_width[0], x.shape[-1] - crop_width[1])


@rule("reverse")
def _reverse(x: Value, axes: Ints | None = None) -> Value:
    return s.flip(x, [a % x.rank for a in (range(x.rank) if axes is None else axes)])


@rule("reverse_sequence")
def _reverse_sequence(x: Value, lengths: Value, seq_axis: Int, batch_axis: Int = 0) -> Value:
    seq_axis, batch_axis = normal_axis(seq_axis, x.rank), normal_axis(batch_axis, x.rank)
    at = iota_like(x, seq_axis)
    length = s.unsqueeze(e.cast(lengths, "i64"), [i for i in range(x.rank) if i != batch_axis])
    return take_along(x, e.where(at < length, length - 1 - at, at), seq_axis)


@rule("sliding_windows")
def _sliding_windows(x: Value, axis: Int, size: Int, stride: Int = 1) -> Value:
    axis = normal_axis(axis, x.rank)
    return s.ungroup(s.unfold(x, axis, size, stride), axis, (-1, size))


@rule("band_part")
def _band_part(x: Value, lower: Int = -1, upper: Int = -1) -> Value:
    """A band of the last two axes: so many diagonals below and above the main one, all for numbers below 0."""
    out = x if lower < 0 else lib.triu(x, diagonal=-lower)
    return out if upper < 0 else lib.tril(out, diagonal=upper)


# --- together ----------------------------------------------------------------------------------------------


@rule("concat")
def _concat(values: Values, axis: Int, interleave: Bool = False) -> Value:
    axis = normal_axis(axis, values[0].rank)
    if not interleave or len(values) == 1:
        return s.concat(values, axis)
    sides = lib.stack(*values, axis=axis + 1)
    return s.group(sides, [2 if i == axis else 1 for i in range(values[0].rank)])


@rule("stack")
def _stack(values: Values, axis: Int) -> Value:
    return lib.stack(*values, axis=axis % (values[0].rank + 1))


@rule("tile")
def _tile(x: Value, reps: Ints) -> Value:
    if len(reps) != x.rank:
        raise unsupported(f"its reps {list(reps)} aren't one for each axis of {x.type}")
    return x if all(r == 1 for r in reps) else lib.tile(x, repeats=reps)


# --- padding -----------------------------------------------------------------------------------------------


@rule("pad")
def _pad(x: Value, pad: Ints, mode: Str = "constant", constant_val: Numbers | None = None) -> Value:
    """The last axes are padded, as many as there are pairs."""
    if len(pad) % 2 or len(pad) > 2 * x.rank:
        raise unsupported(f"its pad {list(pad)} isn't pairs for axes of {x.type}")
    first = x.rank - len(pad) // 2
    widths = [(0, 0)] * first + list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        fill: Any = 0 if constant_val is None else constant_val.reshape(-1)[0].item()
        return s.pad(x, widths, fill) if any(map(any, widths)) else x
    function = {"reflect": lib.reflect_pad, "replicate": lib.replicate_pad}.get(mode)
    if function is None:
        raise unsupported(f"its mode {mode} is none of constant, reflect, replicate")
    return function(x, widths=tuple(widths))


# --- blocks ------------------------------------------------------------------------------------------------


@rule("pixel_shuffle")
def _pixel_shuffle(x: Value, upscale_factor: Int) -> Value:
    return lib.pixel_shuffle(x, factor=upscale_factor)


@rule("pixel_unshuffle")
def _pixel_unshuffle(x: Value, downscale_factor: Int) -> Value:
    return lib.pixel_unshuffle(x, factor=downscale_factor)


@rule("depth_to_space")
def _depth_to_space(x: Value, block_size: Int) -> Value:
    """``[b (r r c) h w] -> [b c (h r) (w r)]``."""
    y = s.ungroup(x, 1, (block_size, block_size, -1))
    return s.group(s.permute(y, (0, 3, 4, 1, 5, 2)), (1, 1, 2, 2))


@rule("space_to_depth")
def _space_to_depth(x: Value, block_size: Int) -> Value:
    """``[b c (h r) (w r)] -> [b (r r c) h w]``."""
    y = s.ungroup(s.ungroup(x, 3, (-1, block_size)), 2, (-1, block_size))
    return s.group(s.permute(y, (0, 3, 5, 1, 2, 4)), (1, 3, 1, 1))


@rule("space_to_batch")
def _space_to_batch(x: Value, block_shape: Ints, paddings: Ints) -> Value:
    """``[b c (h r) (w r)] -> [(r r b) c h w]`` of what was padded."""
    y = s.pad(x, [(0, 0), (0, 0), paddings[:2], paddings[2:]])
    y = s.ungroup(s.ungroup(y, 3, (-1, block_shape[1])), 2, (-1, block_shape[0]))
    return s.group(s.permute(y, (3, 5, 0, 1, 2, 4)), (3, 1, 1, 1))


@rule("batch_to_space")
def _batch_to_space(x: Value, block_shape: Ints, crops: Ints) -> Value:
    """``[(r r b) c h w] -> [b c (h r) (w r)]``, then cropped."""
    y = s.ungroup(x, 0, (block_shape[0], block_shape[1], -1))
    y = s.group(s.permute(y, (2, 3, 4, 0, 5, 1)), (1, 1, 2, 2))
    y = s.slice_axis(y, 2, crops[0], y.shape[2] - crops[1])
    return s.slice_axis(y, 3, crops[2], y.shape[3] - crops[3])


# --- made of numbers ---------------------------------------------------------------------------------------


def made(shape: Sequence[int], number: Any, dtype: DType) -> Value:
    """A tensor of one number."""
    return s.broadcast_to(const(number, dtype), tuple(shape))


@rule("fill")
def _fill(shape: Ints, value: Value | None = None) -> Value:
    return s.broadcast_to(const(0.0, "f32") if value is None else lib.reshape(value, shape=()), shape)


@rule("fill_like")
def _fill_like(ref_tensor: Value, value: Value | None = None) -> Value:
    return s.broadcast_to(const(0.0, "f32") if value is None else lib.reshape(value, shape=()), ref_tensor.shape)


@rule("range_1d")
def _range_1d(end: Numbers, start: Numbers, step: Numbers) -> Value:
    dtype = DType.of(end.dtype)
    first, last, by = (a.reshape(-1)[0].item() for a in (start, end, step))
    if by == 0:
        raise unsupported("its step is 0")
    count = max(math.ceil((last - first) / by), 0)
    if dtype.is_int and by == 1:
        out = iota(count, dtype)
        return out if first == 0 else out + first
    if count > 1 << 22:
        raise unsupported(f"it would write out {count} numbers")
    return const(np.asarray(first + by * np.arange(count)).astype(dtype.numpy), dtype)


@rule("one_hot")
def _one_hot(
    indices: Value, one_hot_vector_size: Int, axis: Int = -1, on_value: Numbers | None = None,
    off_value: Numbers | None = None,
) -> Value:  # fmt: skip
    dtype = DType.of(np.int32 if on_value is None else on_value.dtype)
    on, off = (n if a is None else a.reshape(-1)[0].item() for a, n in ((on_value, 1), (off_value, 0)))
    axis = axis + indices.rank + 1 if axis < 0 else axis
    spread = s.unsqueeze(indices, (axis,))
    shape = [one_hot_vector_size if i == axis else n for i, n in enumerate(spread.shape)]
    spread = s.broadcast_to(spread, shape)
    here = e.equal(e.cast(spread, "i64"), iota_like(spread, axis))
    return e.where(here, const(on, dtype), const(off, dtype))


@rule("cumsum")
def _cumsum(x: Value, axis: Int = 0, exclusive: Bool = False, reverse: Bool = False) -> Value:
    axis = normal_axis(axis, x.rank)
    out = scan(x, "sum", axis, reverse)
    if not exclusive:
        return out
    n = x.shape[axis]
    sides = [(0, 0)] * x.rank
    sides[axis] = (0, 1) if reverse else (1, 0)
    return s.slice_axis(s.pad(out, sides), axis, 1 if reverse else 0, n + 1 if reverse else n)
