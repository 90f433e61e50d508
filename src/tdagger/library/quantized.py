"""Numbers of few bits: to them, back, and both at once in training.

A quantized tensor is a tensor of integers (or of float8) and how they are read: ``(x - zero_point) * scale``. Element
types of fewer than 8 bits are held in those of 8, and an attribute says which they are: an i4 is an i8 of -8 to 7.

>>> import tdagger as td
>>> x = td.input("x", (2, 8))
>>> q = quantize(x, td.const(0.5, "f32"), td.const(3, "u8"), to="u8")
>>> q.type, dequantize(q, td.const(0.5, "f32"), td.const(3, "u8")).type
(u8[2 8], f32[2 8])
"""

from __future__ import annotations

from typing import Any, NamedTuple
from typing import cast as cast_type

import ml_dtypes
import numpy as np

from tdagger.composite import composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.arithmetic import clamp, divide
from tdagger.library.shape import repeat_interleave, reshape
from tdagger.library.training import straight_through
from tdagger.op import Array, Value
from tdagger.ops.elementwise import cast, equal, full_like, isnan, maximum, minimum, reciprocal, round_, where
from tdagger.ops.structure import reduce, slice_axis
from tdagger.types import DType


class Grid(NamedTuple):
    """What numbers are quantized to: the element type that holds them, their bits, the smallest and the largest."""

    dtype: DType
    bits: int
    low: float
    high: float

    @property
    def is_float(self) -> bool:
        """Whether the steps between its numbers grow with these (float8)."""
        return self.dtype.is_float


def _grids() -> dict[str, Grid]:
    found: dict[str, Grid] = {}
    for name in ("i8", "u8", "i16", "u16", "i32"):
        info = np.iinfo(DType.of(name).numpy)
        found[name] = Grid(DType.of(name), info.bits, int(info.min), int(info.max))
    for bits in (2, 4):
        found[f"i{bits}"] = Grid(DType.of("i8"), bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        found[f"u{bits}"] = Grid(DType.of("u8"), bits, 0, 2**bits - 1)
    for name in ("f8e4m3", "f8e5m2"):
        largest = float(cast_type(Any, ml_dtypes).finfo(DType.of(name).numpy).max)
        found[name] = Grid(DType.of(name), 8, -largest, largest)
    return found


#: Every element type that is quantized to, by name.
GRIDS: dict[str, Grid] = _grids()


def grid_of(name: str) -> Grid:
    """The grid of a name; AttributeValueError if there is none.

    >>> grid_of("i4")
    Grid(dtype=i8, bits=4, low=-8, high=7)
    """
    if name not in GRIDS:
        raise AttributeValueError(f"numbers aren't quantized to {name!r}; there are {', '.join(GRIDS)}")
    return GRIDS[name]


def spread(v: Value, x: Value, axis: int | None, block: int = 0) -> Value:
    """A scale or a zero point in a shape that broadcasts with x.

    It is one number; one for each entry of ``axis`` (rank 1); one for each ``block`` entries of it (of x's rank, a last
    block may be short); or, without an axis, of x's rank with dimensions that are 1 or x's.
    """
    if v.type.size == 1:
        return reshape(v, shape=())
    if axis is None:
        if v.rank == x.rank and all(n in (1, m) for n, m in zip(v.shape, x.shape, strict=True)):
            return v
        raise TypeMismatchError(f"quantize: scales {v.type} don't broadcast to {x.type}; say along which axis they are")
    if not block:
        if v.rank != 1 or not -x.rank <= axis < x.rank or v.shape[0] != x.shape[axis]:
            raise TypeMismatchError(f"quantize: scales {v.type} don't fit axis {axis} of {x.type}")
        return reshape(v, shape=(-1, *(1,) * (x.rank - axis % x.rank - 1)))
    axis %= x.rank
    others = [(n, m) for i, (n, m) in enumerate(zip(v.shape, x.shape, strict=False)) if i != axis]
    if v.rank != x.rank or v.shape[axis] != -(-x.shape[axis] // block) or any(n != m for n, m in others):
        raise TypeMismatchError(f"quantize: scales {v.type} don't fit blocks of {block} along axis {axis} of {x.type}")
    each = repeat_interleave(v, repeats=block, axis=axis) if block > 1 else v
    return slice_axis(each, axis, 0, x.shape[axis])


def _bounds(to: str, low: float | None, high: float | None) -> tuple[Grid, float, float]:
    grid = grid_of(to)
    low, high = grid.low if low is None else low, grid.high if high is None else high
    if not grid.low <= low <= high <= grid.high:
        raise AttributeValueError(f"quantize: {low} to {high} isn't in the range of {to}, {grid.low} to {grid.high}")
    return grid, low, high


def _check_like(like: str) -> None:
    if like not in ("onnx", "torch"):
        raise AttributeValueError(f"quantize: rounding is like 'onnx' or 'torch', not {like!r}")


@composite
def quantize(
    x: Value, scale: Value, zero_point: Value | None = None, *, to: str, axis: int | None = None, block: int = 0,
    low: int | None = None, high: int | None = None, like: str = "onnx", precision: str = "",
) -> Value:  # fmt: skip
    """``x / scale`` rounded to the nearest whole number, half to even, plus the zero point, within ``low`` to ``high``.

    ``to`` is the element type: i8, u8, i16, u16, i4, u4, i2, u2, i32, f8e4m3, f8e5m2; ``low`` and ``high`` are its own
    unless given. Scales are one number, or as :func:`spread` takes them along ``axis``. What is beyond is the bound, of
    infinities too. ``like`` says what the two definitions there are do otherwise:

    ``"onnx"`` (QuantizeLinear, as onnxruntime computes it): the quotient is a division in the scale's element type (in
    ``precision``, if that is given); NaN becomes ``low``. ``"torch"`` (quantized_decomposed.quantize_per_tensor,
    quantize_per_channel): x in f32 times the reciprocal of the scale; NaN becomes 0. Float8 keeps NaN.
    """
    grid, low_, high_ = _bounds(to, low, high)
    _check_like(like)
    quotient = _quotient(x, scale, axis, block, like, precision)
    if grid.is_float:
        if zero_point is not None:
            quotient = quotient + cast(spread(zero_point, x, axis, block), quotient.dtype)
        return cast(clamp(cast(quotient, "f32"), low=low_, high=high_), grid.dtype)
    y = round_(cast(quotient, "f32") if quotient.dtype.bytes < 4 else quotient)
    if to == "i32":  # whose ends f32 doesn't hold
        y = cast(y, "f64")
    if zero_point is not None:
        y = y + cast(spread(zero_point, x, axis, block), y.dtype)
    limited = clamp(y, low=float(low_), high=float(high_))
    return cast(where(isnan(y), float(low_) if like == "onnx" else 0.0, limited), grid.dtype)


def _quotient(x: Value, scale: Value, axis: int | None, block: int, like: str, precision: str) -> Value:
    if like == "torch":
        times = spread(reciprocal(scale), x, axis, block)
        wide = times.dtype if times.rank and times.dtype.bytes > 4 else DType.of("f32")
        return cast(x, wide) * cast(times, wide)
    dtype = DType.of(precision) if precision else scale.dtype if scale.dtype.is_float else DType.of("f32")
    return divide(cast(x, dtype), cast(spread(scale, x, axis, block), dtype))


@quantize.numpy
def _(
    x: Array, scale: Array, zero_point: Array | None, *, to: str, axis: int | None, block: int, low: int | None,
    high: int | None, like: str, precision: str,
) -> Array:  # fmt: skip
    """The same in place, but where the body is to say what is wrong."""
    grid, low_, high_ = _bounds(to, low, high)
    single = x.dtype == scale.dtype == np.float32 and not precision and to != "i32" and not grid.is_float
    if not single:
        given = (True, True, zero_point is not None)
        op = cast_type(Any, quantize.op)(to, axis, block, low, high, like, precision, given)
        return op.run_body(*[a for a in (x, scale, zero_point) if a is not None])
    with np.errstate(all="ignore"):
        s = spread_array(scale, x.shape, axis, block)
        y = np.divide(x, s) if like == "onnx" else np.multiply(x, np.float32(1) / s)
        y = np.asarray(y)
        np.rint(y, out=y)
        if zero_point is not None:
            y += spread_array(zero_point, x.shape, axis, block).astype(np.float32)
        nothing = np.isnan(y) if like == "torch" else None
        np.fmin(np.fmax(y, np.float32(low_), out=y), np.float32(high_), out=y)
        if nothing is not None:
            y[nothing] = 0
        return y.astype(grid.dtype.numpy)


def spread_array(v: Array, shape: tuple[int, ...], axis: int | None, block: int = 0) -> Array:
    """:func:`spread` of arrays.

    >>> spread_array(np.array([1, 2]), (2, 3), 0).tolist()
    [[1], [2]]
    """
    if v.size == 1:
        return v.reshape(())
    if axis is None:
        return v
    if not block:
        return v.reshape(-1, *(1,) * (len(shape) - axis % len(shape) - 1))
    each = np.repeat(v, block, axis)
    return each[(slice(None),) * (axis % len(shape)) + (slice(0, shape[axis]),)]


@composite
def dequantize(
    x: Value, scale: Value, zero_point: Value | None = None, *, axis: int | None = None, block: int = 0,
    of: str = "", to: str = "",
) -> Value:  # fmt: skip
    """``(x - zero_point) * scale``: the difference exactly, the product in f32 at least; of the scale's element type.

    ``of`` says which element type is held in x's (i4, u4, i2, u2), ``to`` another one of the result. Scales are as
    those of :func:`quantize`. This is both ONNX's DequantizeLinear and torch's quantized_decomposed.dequantize_*, but
    for i32 with a zero point, where torch rounds to f32 before it subtracts.
    """
    if of and grid_of(of).dtype is not x.dtype:
        raise TypeMismatchError(f"dequantize: {of} is held in {grid_of(of).dtype}, x is {x.type}")
    s = spread(scale, x, axis, block)
    zero = None if zero_point is None else spread(zero_point, x, axis, block)
    dtype = DType.of(to) if to else scale.dtype
    work = DType.of("f32") if dtype.bytes < 4 else dtype
    if zero is None:
        less = cast(x, work)
    elif x.dtype.is_int:
        wide = "i64" if x.dtype.bytes > 2 else "i32"
        less = cast(cast(x, wide) - cast(zero, wide), work)
    else:
        less = cast(x, work) - cast(zero, work)
    return cast(less * cast(s, work), dtype)


@dequantize.numpy
def _(x: Array, scale: Array, zero_point: Array | None, *, axis: int | None, block: int, of: str, to: str) -> Array:
    """The same in place for bytes and f32."""
    if x.dtype.itemsize > 2 or x.dtype.kind not in "iu" or scale.dtype != np.float32 or to not in ("", "f32"):
        given = (True, True, zero_point is not None)
        op = cast_type(Any, dequantize.op)(axis, block, of, to, given)
        return op.run_body(*[a for a in (x, scale, zero_point) if a is not None])
    y = x.astype(np.float32)
    if zero_point is not None:
        y -= spread_array(zero_point, x.shape, axis, block).astype(np.float32)
    y *= spread_array(scale, x.shape, axis, block)
    return y


@composite
def fake_quantize(
    x: Value, scale: Value, zero_point: Value | None = None, *, to: str, axis: int | None = None, block: int = 0,
    low: int | None = None, high: int | None = None, like: str = "onnx",
) -> Value:  # fmt: skip
    """``dequantize(quantize(x))``, with the gradient of x where what is rounded is within the bounds, else 0.

    The same numbers bit for bit; the rounding is straight through, so that a network learns to be quantized. A scale
    that is learned has the gradient of the numbers that are read, whose rounding is straight through too: what rounding
    adds within the bounds, the bound beyond (LSQ, Esser et al. 2020, arXiv:1902.08153), and so has a zero point of
    floats.

    >>> import tdagger as td
    >>> td.fake_quantize(td.input("x", (3,)), td.const(0.1, "f32"), to="i8").type
    f32[3]
    """
    grid, low_, high_ = _bounds(to, low, high)
    zero = zero_point
    if zero is not None and zero.dtype.is_float and not grid.is_float:
        zero_point = cast(clamp(round_(zero), low=float(low_), high=float(high_)), grid.dtype)
        zero = straight_through(zero, cast(zero_point, zero.dtype))
    y = quantize(x, scale, zero_point, to=to, axis=axis, block=block, low=low, high=high, like=like)
    found = cast(dequantize(y, scale, zero_point, axis=axis, block=block, of=to if grid.bits < 8 else ""), x.dtype)
    s = spread(scale, x, axis, block)
    less: Any = 0.0 if zero is None else cast(spread(zero, x, axis, block), s.dtype)
    quotient = cast(x, s.dtype) / s
    edge = 0.0 if grid.is_float else 0.5  # what is rounded to a bound isn't beyond
    limited = clamp(quotient + less, low=float(low_) - edge, high=float(high_) + edge) - less
    read = limited if grid.is_float else straight_through(limited, cast(found, s.dtype) / s)
    return straight_through(cast(read * s, x.dtype), found)


@composite
def quantize_dynamic(x: Value) -> tuple[Value, Value, Value]:
    """x as u8 by a scale and a zero point of its own, that of the numbers it has and 0: ONNX's DynamicQuantizeLinear.

    Gives (quantized, scale, zero point). Of zeros the scale is 1, as in onnxruntime.
    """
    low, high = (minimum(reduce(x, "min", keep=False), 0.0), maximum(reduce(x, "max", keep=False), 0.0))
    scale = (high - low) / 255.0
    scale = where(equal(scale, 0.0), 1.0, scale)
    zero = cast(clamp(round_(-low / scale), low=0.0, high=255.0), "u8")
    return quantize(x, scale, zero, to="u8"), scale, zero


#: No scale of a range is smaller, so that its reciprocal is a number.
LEAST_SCALE = 2.0**-120


@composite
def quantization_range(
    low: Value, high: Value, *, to: str, symmetric: bool = False, narrow: bool = False
) -> tuple[Value, Value]:
    """The scale and zero point with which numbers from ``low`` to ``high``, and 0 exactly, are on the grid of ``to``.

    ``symmetric``: the zero point is the middle; ``narrow`` leaves out the smallest integer. A range of nothing but 0
    has the scale 1. Gives (scale in f32, zero point in the grid's type), both of the shape of ``low``.

    >>> import tdagger as td
    >>> low, high = td.const(0.0, "f32"), td.const(255.0, "f32")
    >>> td.network(lambda x: quantization_range(low, high, to="u8")[0] * x, {"x": ()}).run(np.float32(3))
    array(3., dtype=float32)
    """
    grid = grid_of(to)
    first, last = (grid.low + 1 if narrow and grid.low < 0 and not grid.is_float else grid.low), grid.high
    low, high = minimum(cast(low, "f64"), 0.0), maximum(cast(high, "f64"), 0.0)
    if symmetric or grid.is_float:
        middle = (first + last + 1) // 2 if grid.low == 0 else 0
        reach = maximum(-low / float(middle - first), high / float(last - middle))
        zero: Any = full_like(reach, float(middle))
    else:
        reach = (high - low) / float(last - first)
        zero = None
    limited = clamp(reach, low=LEAST_SCALE, high=float(np.finfo(np.float32).max))
    scale = cast(where(equal(reach, 0.0), 1.0, limited), "f32")
    if zero is None:
        zero = clamp(round_(float(first) - low / cast(scale, "f64")), low=float(first), high=float(last))
    return scale, cast(zero, grid.dtype)
