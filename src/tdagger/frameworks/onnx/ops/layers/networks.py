"""ONNX's operators of products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.layers.resize import between
from tdagger.frameworks.onnx.ops.layers.windows import Ints, Pairs, halves, padding, per_axis, spans
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.source import const
from tdagger.ops.structure import concat, pad, slice_axis, squeeze, transpose, unsqueeze

# --- products ----------------------------------------------------------------------------------------------


@rule("MatMul")
def _matmul(A: Value, B: Value) -> Value:
    return lib.matmul(A, B)


@rule("Gemm", since=7)
def gemm(
    A: Value, B: Value, C: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Value:  # fmt: skip
    """``alpha * A @ B + beta * C``; a linear layer where it is one."""
    x = transpose(A, 0, 1) if transA else A
    wide = B.shape[0 if transB else 1]
    plain = alpha == 1 and beta == 1 and A.dtype.is_float
    if plain and transB and (C is None or C.shape in ((wide,), (1, wide))):
        return lib.linear(x, B, squeeze(C, (0,)) if C is not None and C.rank == 2 else C)
    y = transpose(B, 0, 1) if transB else B
    if C is None or beta == 0:
        out = lib.matmul(x, y)
        return out if alpha == 1 else out * _factor(alpha, A)
    if A.dtype.is_float:
        return lib.addmm(C, x, y, beta=float(beta), alpha=float(alpha))
    return lib.matmul(x, y) * _factor(alpha, A) + C * _factor(beta, A)


def _factor(number: float, x: Value) -> Any:
    if not x.dtype.is_float and number != int(number):
        raise unsupported(f"integers times {number} aren't imported")
    return number if x.dtype.is_float else int(number)


# --- convolutions ------------------------------------------------------------------------------------------


def kernel_of(W: Value, kernel_shape: Sequence[int] | None, X: Value) -> Ints:
    """The kernel's sizes, which the weight has and the attribute may repeat."""
    if X.rank != W.rank or X.rank < 3:
        raise unsupported(f"its input {X.type} and weight {W.type} should have one rank, of 3 or more")
    if kernel_shape and tuple(kernel_shape) != W.shape[2:]:
        raise unsupported(f"its kernel_shape {list(kernel_shape)} isn't that of its weight {W.type}")
    return W.shape[2:]


def convolution_options(
    X: Value, W: Value, auto_pad: str, dilations: Sequence[int] | None, group: int,
    kernel_shape: Sequence[int] | None, pads: Sequence[int] | None, strides: Sequence[int] | None,
) -> dict[str, Any]:  # fmt: skip
    """The attributes of a convolution as :func:`tdagger.library.convolution` has them."""
    kernel = kernel_of(W, kernel_shape, X)
    stride = per_axis(strides, len(kernel), "strides")
    dilation = per_axis(dilations, len(kernel), "dilations")
    pairs = padding(auto_pad, pads, X.shape[2:], spans(kernel, dilation), stride)
    return {"stride": stride, "padding": pairs, "dilation": dilation, "groups": group}


@rule("Conv")
def _conv(
    X: Value, W: Value, B: Value | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    options = convolution_options(X, W, auto_pad, dilations, group, kernel_shape, pads, strides)
    return lib.convolution(X, W, B, **options)


@rule("ConvTranspose")
def _conv_transpose(
    X: Value, W: Value, B: Value | None = None, *, auto_pad: str = "NOTSET", dilations: Ints | None = None,
    group: int = 1, kernel_shape: Ints | None = None, output_padding: Ints | None = None,
    output_shape: Ints | None = None, pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    kernel = kernel_of(W, kernel_shape, X)
    n = len(kernel)
    stride, dilation = per_axis(strides, n, "strides"), per_axis(dilations, n, "dilations")
    extra = per_axis(output_padding, n, "output_padding", 0)
    full = [(m - 1) * s + w for m, s, w in zip(X.shape[2:], stride, spans(kernel, dilation), strict=True)]
    pairs, extra = _transposed_padding(auto_pad, pads, output_shape, X.shape[2:], stride, full, extra)
    same: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": group}
    low = tuple([a for a, _ in pairs])
    added = tuple([e + a - b for e, (a, b) in zip(extra, pairs, strict=True)])
    if all(a >= 0 and 0 <= e < max(s, d) for a, e, s, d in zip(low, added, stride, dilation, strict=True)):
        return lib.convolution_transpose(X, W, B, padding=low, output_padding=added, **same)
    out = lib.convolution_transpose(X, W, padding=0, output_padding=0, **same)
    out = pad(out, [None, None, *((-a, e - b) for e, (a, b) in zip(extra, pairs, strict=True))])
    return out if B is None else out + unsqueeze(B, range(1, 1 + n))


def _transposed_padding(
    auto_pad: str, pads: Sequence[int] | None, output_shape: Sequence[int] | None, sizes: Sequence[int],
    stride: Ints, full: Sequence[int], extra: Ints,
) -> tuple[Pairs, Ints]:  # fmt: skip
    """What is cut off at (low, high) of each axis, and what is added at the end.

    A size that is asked for decides the padding: what is cut off is halved, and the odd entry goes as
    :func:`halves` has it, to the start without auto_pad; what is missing is added at the end (onnxruntime adds nothing
    with SAME_*, and gives a smaller size than the ``size * stride`` it is to be).
    """
    n = len(sizes)
    wanted: Sequence[int] | None = None
    if output_shape:
        wanted = output_shape[-n:]  # older exporters wrote the batch and channels too
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [m * s for m, s in zip(sizes, stride, strict=True)]
    if wanted is None:
        return padding("NOTSET" if auto_pad == "VALID" else auto_pad, pads, sizes, full, stride), extra
    totals = [f + e - w for f, e, w in zip(full, extra, wanted, strict=True)]
    return tuple([halves(t, auto_pad) if t > 0 else (0, t) for t in totals]), extra


@rule("DeformConv", since=19)
def _deform_conv(
    X: Value, W: Value, offset: Value, B: Value | None = None, mask: Value | None = None, *,
    dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None, offset_group: int = 1,
    pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    """Each tap of each window is read at a place of its own, between the entries; outside of X there is 0."""
    kernel = kernel_of(W, kernel_shape, X)
    if len(kernel) != 2:
        raise unsupported(f"deformable convolutions are imported of 2 spatial axes, not of {X.type}")
    stride, dilation = per_axis(strides, 2, "strides"), per_axis(dilations, 2, "dilations")
    pairs = padding("NOTSET", pads, X.shape[2:], kernel, stride)
    n, channels, *sizes = X.shape
    taps, out = math.prod(kernel), offset.shape[2:]
    places: list[Value] = []
    moved = lib.reshape(offset, shape=(n * offset_group, taps, 2, *out))
    for axis in range(2):
        tap = [t * dilation[axis] for t in range(kernel[axis])]
        tap = [t for t in tap for _ in range(kernel[1])] if axis == 0 else tap * kernel[0]
        start = [i * stride[axis] - pairs[axis][0] for i in range(out[axis])]
        fixed = unsqueeze(const([float(t) for t in tap], X.dtype), (1, 2))
        start_ = unsqueeze(const([float(t) for t in start], X.dtype), (1,) if axis == 0 else (0,))
        at = squeeze(slice_axis(moved, 2, axis, axis + 1), (2,)) + fixed + start_
        places.append(at)
    flat = lib.reshape(X, shape=(n * offset_group, channels // offset_group, math.prod(sizes)))
    read = between(flat, places, sizes)
    read = lib.reshape(read, shape=(n, offset_group, channels // offset_group, taps, *out))
    if mask is not None:
        read = read * unsqueeze(lib.reshape(mask, shape=(n, offset_group, taps, *out)), (2,))
    columns = lib.reshape(read, shape=(n, group, channels // group * taps, math.prod(out)))
    rows = lib.reshape(W, shape=(group, W.shape[0] // group, channels // group * taps))
    result = lib.reshape(lib.matmul(rows, columns), shape=(n, W.shape[0], *out))
    return result if B is None else result + unsqueeze(B, (1, 2))


@rule("CausalConvWithState", since=27)
def causal_conv(
    input: Value, weight: Value, bias: Value | None = None, past_state: Value | None = None, *,
    activation: str = "none",
) -> tuple[Value, Value]:  # fmt: skip
    """Each channel over itself and what came before; the state is the end of what was read."""
    length = weight.shape[2] - 1
    if activation not in ("none", "silu", "swish"):
        raise unsupported(f"its activation {activation} is none of none, silu, swish")
    x = pad(input, (None, None, (length, 0))) if past_state is None else concat([past_state, input], 2)
    out = lib.convolution(x, weight, bias, groups=weight.shape[0])
    state = slice_axis(x, 2, x.shape[2] - length, x.shape[2])
    return (out if activation == "none" else lib.silu(out)), state


# --- of integers -------------------------------------------------------------------------------------------


def exactly(terms: int, *xs: Value) -> tuple[Value, ...]:
    """Integers of at most 9 bits (differences of bytes) as floats that sum so many products of two exactly.

    The sums are those of integers, bit for bit, by kernels that are fast; f32 holds whole numbers up to 2^24.
    """
    to = "f32" if terms * 255 * 255 <= 1 << 24 else "f64"
    return tuple([cast(x, to) for x in xs])


def whole(x: Value, terms: int) -> Value:
    """Sums made by :func:`exactly` as i32; one that i32 doesn't hold wraps around."""
    return cast(cast(x, "i64"), "i32") if terms * 255 * 255 > 1 << 31 else cast(x, "i32")


def without_zero(x: Value, zero_point: Value | None, shape: Sequence[int] | None = None) -> Value:
    """``x - zero_point`` in i32; the zero point is brought to ``shape`` if it isn't one number."""
    x = cast(x, "i32")
    if zero_point is None:
        return x
    zero = cast(zero_point, "i32")
    if zero.type.size == 1:
        zero = lib.reshape(zero, shape=())
    elif shape is not None:
        zero = lib.reshape(zero, shape=tuple(shape))
    return x - zero


def rows(zero_point: Value | None) -> Sequence[int] | None:
    """The shape of zero points or scales of the rows of the first matrix of a product."""
    return (*zero_point.shape, 1) if zero_point is not None and zero_point.rank == 1 else None


def integer_matmul(A: Value, B: Value, a_zero_point: Value | None, b_zero_point: Value | None) -> Value:
    """The product of bytes less their zero points, as i32."""
    terms = A.shape[-1]
    x, y = exactly(terms, without_zero(A, a_zero_point, rows(a_zero_point)), without_zero(B, b_zero_point))
    return whole(lib.matmul(x, y), terms)


def integer_convolution(X: Value, W: Value, x_zero: Value | None, w_zero: Value | None, **options: Any) -> Value:
    """The convolution of bytes less their zero points, as i32: what is padded is the zero point."""
    terms = math.prod(W.shape[1:])
    per_channel = (W.shape[0], *(1,) * (W.rank - 1))
    x, w = exactly(terms, without_zero(X, x_zero), without_zero(W, w_zero, per_channel))
    return whole(lib.convolution(x, w, **options), terms)


@rule("MatMulInteger", since=10)
def _matmul_integer(A: Value, B: Value, a_zero_point: Value | None = None, b_zero_point: Value | None = None) -> Value:
    return integer_matmul(A, B, a_zero_point, b_zero_point)


@rule("ConvInteger", since=10)
def _conv_integer(
    x: Value, w: Value, x_zero_point: Value | None = None, w_zero_point: Value | None = None, *,
    auto_pad: str = "NOTSET", dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None,
    pads: Ints | None = None, strides: Ints | None = None,
) -> Value:  # fmt: skip
    options = convolution_options(x, w, auto_pad, dilations, group, kernel_shape, pads, strides)
    return integer_convolution(x, w, x_zero_point, w_zero_point, **options)
