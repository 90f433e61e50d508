"""TFLite's products, convolutions, pools and norms. Channels are last in the file, and first in the composites."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tdagger import library as lib
from tdagger.frameworks.tflite.ops.table import Call, Ints, rule, unsupported
from tdagger.frameworks.tflite.schema import choice
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const

Pairs = tuple[tuple[int, int], ...]

# --- windows -----------------------------------------------------------------------------------------------


def first(x: Value) -> Value:
    """``[b s.. c]`` as ``[b c s..]``."""
    return s.permute(x, (0, x.rank - 1, *range(1, x.rank - 1)))


def last(x: Value) -> Value:
    """``[b c s..]`` as ``[b s.. c]``."""
    return s.permute(x, (0, *range(2, x.rank), 1))


def pads(padding: int, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> Pairs:
    """The padding of each axis: with SAME there are ``ceil(size / stride)`` windows, and the odd entry goes after."""
    if min([*spans, *strides]) < 1:
        raise unsupported(f"windows of {list(spans)} with steps of {list(strides)}")
    if choice(schema.Padding, padding) == "VALID":
        return ((0, 0),) * len(sizes)
    totals = [max((-(-n // st) - 1) * st + w - n, 0) for n, w, st in zip(sizes, spans, strides, strict=True)]
    return tuple([(t // 2, t - t // 2) for t in totals])


def _spans(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


# --- products ----------------------------------------------------------------------------------------------


@rule("FULLY_CONNECTED")
def _fully_connected(
    x: Value, weight: Value, bias: Value | None = None, *, keep_num_dims: bool = False, weights_format: int = 0
) -> Value:
    """Without ``keep_num_dims`` x is rows of as many entries as the weight takes, whatever its axes are."""
    if weights_format:
        raise unsupported("its weights lie shuffled (SHUFFLED4x16INT8)")
    if keep_num_dims:
        if x.shape[-1] != weight.shape[1]:
            raise unsupported(f"its weight {weight.type} doesn't take {x.type}")
    elif x.rank != 2 or x.shape[1] != weight.shape[1]:
        x = _rows(x, weight.shape[1])
    return lib.linear(x, weight, None if bias is None else lib.reshape(bias, shape=(-1,)))


def _rows(x: Value, width: int) -> Value:
    """x as rows of some entries; where its last axes are a row, the axes ahead are one."""
    if x.rank and x.shape[-1] == width:
        return s.group(x, (x.rank - 1, 1))
    if width == 0 or x.type.size % width:
        raise unsupported(f"its weight takes rows of {width} entries, which {x.type} doesn't come out even in")
    return lib.reshape(x, shape=(-1, width))


@rule("BATCH_MATMUL")
def _batch_matmul(x: Value, y: Value, *, adj_x: bool = False, adj_y: bool = False) -> Value:
    a = s.transpose(x, -2, -1) if adj_x else x
    b = s.transpose(y, -2, -1) if adj_y else y
    return lib.matmul(a, b)


# --- convolutions ------------------------------------------------------------------------------------------


def _convolution(
    x: Value, weight: Value, bias: Value | None, padding: int, strides: Sequence[int], dilations: Sequence[int],
    groups: int,
) -> Value:  # fmt: skip
    """x ``[b s.. i]`` with weight ``[o i/groups k..]``."""
    kernel = weight.shape[2:]
    pairs = pads(padding, x.shape[1:-1], _spans(kernel, dilations), strides)
    y = lib.convolution(
        first(x), weight, bias, stride=tuple(strides), padding=pairs, dilation=tuple(dilations), groups=groups
    )
    return last(y)


def _groups(x: Value, taken: int) -> int:
    """A filter of fewer channels than the input has means groups, which no option says."""
    if taken < 1 or x.shape[-1] % taken:
        raise unsupported(f"its filter takes {taken} channels, its input is {x.type}")
    return x.shape[-1] // taken


@rule("CONV_2D")
def _conv_2d(
    x: Value, weight: Value, bias: Value | None = None, *, padding: int = 0, stride_w: int = 0, stride_h: int = 0,
    dilation_w_factor: int = 1, dilation_h_factor: int = 1,
) -> Value:  # fmt: skip
    """The filter lies as ``[o h w i]``."""
    return _convolution(
        x, first(weight), bias, padding, (stride_h, stride_w), (dilation_h_factor, dilation_w_factor),
        _groups(x, weight.shape[3]),
    )  # fmt: skip


@rule("DEPTHWISE_CONV_2D")
def _depthwise_conv_2d(
    x: Value, weight: Value, bias: Value | None = None, *, padding: int = 0, stride_w: int = 0, stride_h: int = 0,
    depth_multiplier: int = 0, dilation_w_factor: int = 1, dilation_h_factor: int = 1,
) -> Value:  # fmt: skip
    """The filter lies as ``[1 h w o]``; how many results a channel has is in the shapes, whatever the option says."""
    del depth_multiplier
    channels = x.shape[-1]
    if weight.rank != 4 or weight.shape[0] != 1 or not channels or weight.shape[3] % channels:
        raise unsupported(f"its filter {weight.type} doesn't take {x.type}")
    return _convolution(
        x, s.permute(weight, (3, 0, 1, 2)), bias, padding, (stride_h, stride_w),
        (dilation_h_factor, dilation_w_factor), channels,
    )  # fmt: skip


@rule("CONV_3D")
def _conv_3d(
    x: Value, weight: Value, bias: Value | None = None, *, padding: int = 0, stride_d: int = 0, stride_w: int = 0,
    stride_h: int = 0, dilation_d_factor: int = 1, dilation_w_factor: int = 1, dilation_h_factor: int = 1,
) -> Value:  # fmt: skip
    """The filter lies as ``[d h w i o]``."""
    return _convolution(
        x, s.permute(weight, (4, 3, 0, 1, 2)), bias, padding, (stride_d, stride_h, stride_w),
        (dilation_d_factor, dilation_h_factor, dilation_w_factor), _groups(x, weight.shape[3]),
    )  # fmt: skip


def _transposed(
    shape: Sequence[int], weight: Value, x: Value, bias: Value | None, padding: int, strides: Sequence[int],
    dilations: Sequence[int],
) -> Value:  # fmt: skip
    """x ``[b s.. i]`` with weight ``[i o k..]``, as large as ``shape``: cropped at both ends, the odd entry after."""
    spans = _spans(weight.shape[2:], dilations)
    wanted, sizes = tuple(shape[1:-1]), x.shape[1:-1]
    same = choice(schema.Padding, padding) == "SAME"
    for out, n, w, st in zip(wanted, sizes, spans, strides, strict=True):
        fits = -(-out // st) if same else -(-(out - w + 1) // st)
        if fits != n:
            raise unsupported(f"its output {list(shape)} isn't of an input {x.type}")
    if shape[-1] != weight.shape[1] or shape[0] != x.shape[0]:
        raise unsupported(f"its output {list(shape)} isn't of {x.type} and {weight.type}")
    full = [(n - 1) * st + w for n, st, w in zip(sizes, strides, spans, strict=True)]
    cut = [max(f - o, 0) if same else 0 for f, o in zip(full, wanted, strict=True)]
    low = [c // 2 for c in cut]
    extra = tuple([o - f + 2 * a for o, f, a in zip(wanted, full, low, strict=True)])
    how = {"stride": tuple(strides), "dilation": tuple(dilations)}
    if all(0 <= m < max(st, d) for m, st, d in zip(extra, strides, dilations, strict=True)):
        y = lib.convolution_transpose(first(x), weight, bias, padding=tuple(low), output_padding=extra, **how)
        return last(y)
    y = lib.convolution_transpose(first(x), weight, None, padding=0, output_padding=0, **how)
    widths = [(-a, o - f + a) for a, o, f in zip(low, wanted, full, strict=True)]
    y = last(s.pad(y, [None, None, *widths], 0.0))
    return y if bias is None else y + bias


@rule("TRANSPOSE_CONV")
def _transpose_conv(
    output_shape: Ints, weight: Value, x: Value, bias: Value | None = None, *, padding: int = 0, stride_w: int = 0,
    stride_h: int = 0,
) -> Value:  # fmt: skip
    """The filter lies as ``[o h w i]``. VALID may be asked for more than there is: zeros are behind."""
    return _transposed(output_shape, s.permute(weight, (3, 0, 1, 2)), x, bias, padding, (stride_h, stride_w), (1, 1))


@rule("CONV_3D_TRANSPOSE")
def _conv_3d_transpose(
    output_shape: Ints, weight: Value, x: Value, bias: Value | None = None, *, padding: int = 0, stride_d: int = 0,
    stride_w: int = 0, stride_h: int = 0, dilation_d_factor: int = 1, dilation_w_factor: int = 1,
    dilation_h_factor: int = 1,
) -> Value:  # fmt: skip
    """The filter lies as ``[d h w o i]``."""
    return _transposed(
        output_shape, s.permute(weight, (4, 3, 0, 1, 2)), x, bias, padding, (stride_d, stride_h, stride_w),
        (dilation_d_factor, dilation_h_factor, dilation_w_factor),
    )  # fmt: skip


#: How MediaPipe's custom operator writes its padding.
_MEDIAPIPE_PADDING = {1: schema.Padding.SAME, 2: schema.Padding.VALID}


@rule("custom:Convolution2DTransposeBias")
def _convolution_2d_transpose_bias(x: Value, weight: Value, bias: Value, *, node: Call) -> Value:
    """MediaPipe's transposed convolution, whose options are three integers: padding, strides along w and h."""
    if len(node.node.custom) < 12:
        raise unsupported(f"its options have {len(node.node.custom)} bytes, which are 12 or more")
    padding, stride_w, stride_h = struct.unpack("<3i", node.node.custom[:12])
    if padding not in _MEDIAPIPE_PADDING:
        raise unsupported(f"its padding is {padding}, which is 1 or 2")
    batch, *wanted = node.outputs[0].shape
    del batch
    shape = (x.shape[0], *wanted)
    return _transposed(
        shape, s.permute(weight, (3, 0, 1, 2)), x, bias, _MEDIAPIPE_PADDING[padding], (stride_h, stride_w), (1, 1)
    )


# --- pools -------------------------------------------------------------------------------------------------


def _widened(x: Value, pairs: Pairs, fill: float) -> Value:
    """x ``[b c h w]`` padded; a window of nothing else has the fill."""
    return s.pad(x, [None, None, *pairs], fill)


@rule("MAX_POOL_2D", raw=True)
def _max_pool_2d(
    x: Value, *, padding: int = 0, stride_w: int = 0, stride_h: int = 0, filter_width: int = 0, filter_height: int = 0
) -> Value:
    """NaN stays, which runtimes drop."""
    kernel, strides = (filter_height, filter_width), (stride_h, stride_w)
    pairs = pads(padding, x.shape[1:3], kernel, strides)
    y = first(x)
    if all(a == b and a <= k // 2 for (a, b), k in zip(pairs, kernel, strict=True)):
        return last(lib.max_pool(y, kernel=kernel, stride=strides, padding=tuple([a for a, _ in pairs])))
    lowest = -math.inf if x.dtype.is_float else int(np.iinfo(x.dtype.numpy).min)
    return last(lib.max_pool(_widened(y, pairs, lowest), kernel=kernel, stride=strides))


def _average(x: Value, padding: int, kernel: tuple[int, int], strides: tuple[int, int]) -> Value:
    """x ``[b h w c]``; what is padded doesn't count."""
    pairs = pads(padding, x.shape[1:3], kernel, strides)
    y = first(x)
    if all(a == b and a <= k // 2 for (a, b), k in zip(pairs, kernel, strict=True)):
        low = tuple([a for a, _ in pairs])
        return last(lib.avg_pool(y, kernel=kernel, stride=strides, padding=low, count_include_pad=False))
    total = lib.avg_pool(_widened(y, pairs, 0.0), kernel=kernel, stride=strides, divisor=1)
    counts = [
        np.minimum(np.arange(m) * st - a + k, n) - np.maximum(np.arange(m) * st - a, 0)
        for m, n, k, st, (a, _) in zip(total.shape[2:], x.shape[1:3], kernel, strides, pairs, strict=True)
    ]
    return last(total / const(np.multiply.outer(*counts).astype(np.float32), "f32"))


@rule("AVERAGE_POOL_2D")
def _average_pool_2d(
    x: Value, *, padding: int = 0, stride_w: int = 0, stride_h: int = 0, filter_width: int = 0, filter_height: int = 0
) -> Value:
    return _average(x, padding, (filter_height, filter_width), (stride_h, stride_w))


@rule("L2_POOL_2D")
def _l2_pool_2d(
    x: Value, *, padding: int = 0, stride_w: int = 0, stride_h: int = 0, filter_width: int = 0, filter_height: int = 0
) -> Value:
    return e.sqrt(_average(lib.square(x), padding, (filter_height, filter_width), (stride_h, stride_w)))


@rule("LOCAL_RESPONSE_NORMALIZATION")
def _local_response_normalization(
    x: Value, *, radius: int = 0, bias: float = 0.0, alpha: float = 0.0, beta: float = 0.0
) -> Value:
    """Alpha is not divided by the window, which the composite does."""
    size = 2 * radius + 1
    return lib.local_response_norm(x, size=size, alpha=alpha * size, beta=beta, k=bias, axis=x.rank - 1)
