"""ONNX's operators that move entries, and that make tensors of sizes and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.file.tensors import DTYPES
from tdagger.frameworks.onnx.ops.table import Int, Ints, Numbers, rule, unsupported
from tdagger.op import Array, Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, iota_like, take_along
from tdagger.ops.source import const, iota, scalar
from tdagger.types import DType, Sized, broadcast_shapes, sized

# --- sizes -------------------------------------------------------------------------------------------------


@rule("Shape")
def _shape(data: Value, *, start: int = 0, end: int | None = None) -> Value:
    return const(list(data.shape[start:end]), "i64")


@rule("Size")
def _size(data: Value) -> Value:
    return const(data.type.size, "i64")


# --- axes --------------------------------------------------------------------------------------------------


@rule("Reshape", since=5)
def _reshape(data: Value, shape: Ints, *, allowzero: int = 0) -> Value:
    """A 0 copies the size, if it isn't allowed as a size."""
    if not allowzero and any(n == 0 and i >= data.rank for i, n in enumerate(shape)):
        raise unsupported(f"its shape {shape} copies a size that {data.type} doesn't have")
    sizes = [data.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape)]
    return lib.reshape(data, shape=sizes)


@rule("Transpose")
def _transpose(data: Value, *, perm: tuple[int, ...] | None = None) -> Value:
    return s.permute(data, range(data.rank)[::-1] if perm is None else perm)


@rule("Flatten")
def _flatten(input: Value, *, axis: int = 1) -> Value:
    axis = axis + input.rank if axis < 0 else axis
    return s.group(input, [axis, input.rank - axis])


@rule("Squeeze")
def _squeeze(data: Value, axes: Ints | None = None) -> Value:
    if axes is None:
        return s.squeeze(data, [i for i, n in enumerate(data.shape) if n == 1], only_ones=True)
    return s.squeeze(_one_entry(data, axes), axes)


def _one_entry(x: Value, axes: Ints) -> Value:
    """What is squeezed away has one entry: where a slice to the end leaves one, it is that one, whatever the size."""
    if not isinstance(x.op, s.Slice):
        return x
    bounds = list(x.op.bounds)
    for axis in axes:
        at = bounds[axis]
        if at is not None and x.shape[axis] == 1 and not isinstance(at[0], Sized):
            bounds[axis] = (at[0], at[0] + 1, 1)
    return s.Slice(tuple(bounds))(*x.args)


@rule("Unsqueeze")
def _unsqueeze(data: Value, axes: Ints) -> Value:
    return s.unsqueeze(data, axes)


@rule("Expand")
def _expand(input: Value, shape: Ints) -> Value:
    """Both are broadcast: a 1 in the shape keeps the size there is."""
    return s.broadcast_to(input, broadcast_shapes(input.shape, shape))


@rule("Tile", since=6)
def _tile(input: Value, repeats: Ints) -> Value:
    return lib.tile(input, repeats=repeats)


@rule("DepthToSpace")
def _depth_to_space(input: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    if mode == "CRD":
        return lib.pixel_shuffle(input, factor=blocksize)
    x = s.ungroup(input, 1, (blocksize, blocksize, -1))
    return s.group(s.permute(x, (0, 3, 4, 1, 5, 2)), (1, 1, 2, 2))


@rule("SpaceToDepth")
def _space_to_depth(input: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    if mode == "CRD":
        return lib.pixel_unshuffle(input, factor=blocksize)
    x = s.ungroup(s.ungroup(input, 3, (-1, blocksize)), 2, (-1, blocksize))
    return s.group(s.permute(x, (0, 3, 5, 1, 2, 4)), (1, 3, 1, 1))


# --- parts -------------------------------------------------------------------------------------------------


@rule("Concat", since=4)
def _concat(*inputs: Value, axis: int) -> Value:
    return s.concat(inputs, normal_axis(axis, inputs[0].rank))


@rule("Split", since=2)
def _split_sizes(
    input: Value, split: Ints | None = None, *, axis: int = 0, wanted: Sequence[bool]
) -> tuple[Value, ...]:
    return _parts(input, split, axis, len(wanted))


@rule("Split", since=18)
def _split(
    input: Value, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, wanted: Sequence[bool]
) -> tuple[Value, ...]:
    if num_outputs is not None and num_outputs != len(wanted):
        raise unsupported(f"its num_outputs is {num_outputs}, and it has {len(wanted)} outputs")
    return _parts(input, split, axis, len(wanted))


def _parts(x: Value, sizes: Ints | None, axis: int, count: int) -> tuple[Value, ...]:
    """Parts of given sizes, or equal ones, of which the last is shorter if they don't come out even."""
    axis = normal_axis(axis, x.rank)
    if sizes:
        return s.split(x, sizes, axis)
    n = x.shape[axis]
    if count > 1 and -(-n // count) * (count - 1) >= n > 0:
        raise unsupported(f"{count} equal parts of an axis of {n} leave nothing for the last")
    how = ("chunk", count, count)
    starts = [sized(n, (count - 1,) * i, count, 0, how) if i else 0 for i in range(count)]
    return tuple(s.slice_axis(x, axis, a, b) for a, b in pairwise([*starts, None]))


@rule("Slice")
def _slice(
    data: Value, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Value:  # fmt: skip
    named = range(len(starts)) if axes is None else axes
    out = data
    for i, axis in enumerate(named):
        axis = normal_axis(axis, data.rank)
        out = _slice_axis(out, axis, starts[i], ends[i], 1 if steps is None else steps[i])
    return out


#: A bound beyond this is what exporters write for one that was left open.
_OPEN = 2**31 - 1


def _slice_axis(x: Value, axis: int, start: int, end: int, step: int) -> Value:
    """Bounds are brought within the axis: backwards from 0 .. n - 1 to -1, so that the first entry is always there."""
    n = x.shape[axis]
    if step > 0:
        return s.slice_axis(x, axis, start, None if end >= _OPEN else end, step)
    if not n:
        return x
    first = None if start == -1 or start >= n - 1 else max(start + n if start < 0 else start, 0)
    last = end + n if end < 0 else end
    return s.slice_axis(x, axis, first, None if last < 0 else min(last, n - 1), step)


@rule("Trilu")
def _trilu(input: Value, k: Int | None = None, *, upper: int = 1) -> Value:
    return (lib.triu if upper else lib.tril)(input, diagonal=k or 0)


@rule("ReverseSequence")
def _reverse_sequence(input: Value, sequence_lens: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    at = iota_like(input, time_axis)
    length = s.unsqueeze(e.cast(sequence_lens, "i64"), [i for i in range(input.rank) if i != batch_axis])
    return take_along(input, e.where(at < length, length - 1 - at, at), time_axis)


# --- padding -----------------------------------------------------------------------------------------------


@rule("Pad", since=2)
def _pad_attributes(data: Value, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Value:
    return _padded(data, _pairs(pads, None, data.rank), mode, value)


@rule("Pad", since=11)
def padding_of(
    data: Value, pads: Ints, constant_value: Value | None = None, axes: Ints | None = None, *, mode: str = "constant"
) -> Value:
    """A value of data where something was padded, or a number."""
    widths = _pairs(pads, axes, data.rank)
    if constant_value is None or mode != "constant":
        return _padded(data, widths, mode, 0)
    number = number_of(constant_value)
    if number is not None:
        return _padded(data, widths, mode, number)
    inside = _padded(e.full_like(e.cast(data, "bool"), True), widths, mode, False)
    return e.where(inside, _padded(data, widths, mode, 0), lib.reshape(constant_value, shape=()))


def _pairs(pads: Ints, axes: Ints | None, rank: int) -> list[tuple[int, int]]:
    """The entries added before and after each axis; ONNX has all before first."""
    named = range(rank) if axes is None else [normal_axis(a, rank) for a in axes]
    if len(pads) != 2 * len(named):
        raise unsupported(f"its pads are {len(pads)} numbers, where {len(named)} axes need {2 * len(named)}")
    widths = [(0, 0)] * rank
    for i, axis in enumerate(named):
        widths[axis] = (pads[i], pads[i + len(named)])
    return widths


def _padded(x: Value, widths: list[tuple[int, int]], mode: str, value: complex) -> Value:
    """Padded; what is negative is cropped first, and what is copied is of what is left."""
    cut = [(min(low, 0), min(high, 0)) for low, high in widths]
    grown = tuple((max(low, 0), max(high, 0)) for low, high in widths)
    if mode == "constant":
        if any(-low - high > n for (low, high), n in zip(cut, x.shape, strict=True)):  # some of what is added, too
            return s.pad(s.pad(x, grown, scalar(value, x.dtype)), cut)
        return s.pad(x, widths, scalar(value, x.dtype))
    x = s.pad(x, cut)
    if mode == "edge":
        return lib.replicate_pad(x, widths=grown)
    function, longest = {"reflect": (lib.reflect_pad, -1), "wrap": (lib.circular_pad, 0)}[mode]
    if all(max(w) <= max(n + longest, 0) for w, n in zip(grown, x.shape, strict=True)):
        return function(x, widths=grown)
    for axis, w in enumerate(grown):  # more than there is: round again, or back and forth
        if any(w):
            places = np.pad(np.arange(x.shape[axis]), w, mode)  # pyright: ignore[reportArgumentType, reportCallIssue]
            x = gather(x, const(places, "i64"), axis)
    return x


@rule("CenterCropPad")
def _center_crop_pad(input_data: Value, shape: Ints, *, axes: tuple[int, ...] | None = None) -> Value:
    """Of an odd difference the smaller half is in front."""
    x = input_data
    for axis, size in zip(range(x.rank) if axes is None else axes, shape, strict=True):
        axis = normal_axis(axis, x.rank)
        more = size - x.shape[axis]
        if more < 0:
            x = s.slice_axis(x, axis, -more // 2, -more // 2 + size)
        elif more:
            x = s.pad(x, [(more // 2, more - more // 2) if i == axis else None for i in range(x.rank)])
    return x


@rule("Col2Im")
def _col2im(
    input: Value, image_shape: Ints, block_shape: Ints, *, dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None, strides: tuple[int, ...] | None = None,
) -> Value:  # fmt: skip
    k = len(image_shape)
    low, high = (pads[:k], pads[k:]) if pads else ((0,) * k, (0,) * k)
    even = low == high  # the composite pads both ends alike: others are cut off here
    full = image_shape if even else tuple(n + a + b for n, a, b in zip(image_shape, low, high, strict=True))
    x = lib.col2im(
        input, output=full, kernel=block_shape, stride=strides or (1,) * k, padding=low if even else (0,) * k,
        dilation=dilations or (1,) * k,
    )  # fmt: skip
    return x if even else s.pad(x, [None, None, *[(-a, -b) for a, b in zip(low, high, strict=True)]])


# --- sources -----------------------------------------------------------------------------------------------


@rule("ConstantOfShape")
def _constant_of_shape(input: Ints, *, value: Array | None = None) -> Value:
    one = const(0.0, "f32") if value is None else const(value.reshape(()))
    return s.broadcast_to(one, input)


@rule("EyeLike")
def _eye_like(input: Value, *, dtype: int = 0, k: int = 0) -> Value:
    rows, columns = iota_like(input, 0), iota_like(input, 1)
    return e.cast(e.equal(columns, rows + k if k else rows), DTYPES[dtype] if dtype else input.dtype)


@rule("Range")
def number_range(start: Numbers, limit: Numbers, delta: Numbers, *, stash_type: int = 1) -> Value:
    """Each number is ``start + i * delta``; onnxruntime has running sums of floats. Half precision is rounded once."""
    del stash_type
    dtype = DType.of(start.dtype)
    first, last, step = (
        a.reshape(()).astype(np.float64 if dtype.is_float else np.int64).item() for a in (start, limit, delta)
    )
    if not step:
        raise unsupported("its delta is 0")
    count = max(math.ceil((last - first) / step), 0) if dtype.is_float else max(-(-(last - first) // step), 0)
    computed = dtype if dtype.is_int or dtype.bytes >= 4 else DType.of("f32")
    line = e.cast(iota(int(count), "i64"), computed)
    line = line if step == 1 else line * step
    return e.cast(line if first == 0 else line + first, dtype)
