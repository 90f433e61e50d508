"""Normalisation: statistics in float32 at least, rounded once at the end.

Where there is an ``axis`` it is that of the channels, 1 unless said: axes before it are batch, those after it spatial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tdagger.composite import composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.linear import wide
from tdagger.op import Value, ValueFunction
from tdagger.ops.elementwise import cast, pow_, reciprocal, sqrt
from tdagger.ops.structure import group, pad, reduce, unfold, ungroup, unsqueeze
from tdagger.types import TensorType


def _rsqrt(x: Value) -> Value:
    return reciprocal(sqrt(x))


def _average(x: Value, axes: Sequence[int]) -> Value:
    """Mean over axes, which stay with size 1; NaN over no entries."""
    return reduce(x, "sum", axes) / float(math.prod(x.shape[a] for a in axes))


def _standardised(x: Value, axes: Sequence[int], eps: float) -> Value:
    """``(x - mean) / sqrt(variance + eps)`` over axes, with the variance of n, not n - 1."""
    centred = x - _average(x, axes)
    return centred * _rsqrt(_average(centred * centred, axes) + eps)


def _on_channels(v: Value, rank: int, axis: int) -> Value:
    """A vector along ``axis`` of a tensor of ``rank``."""
    return unsqueeze(v, range(1, rank - axis))


def _scaled(y: Value, x: Value, weight: Value | None, bias: Value | None, axis: int) -> Value:
    """``y * weight + bias`` along the channels, in the element type of x."""
    y = y if weight is None else y * _on_channels(wide(weight), y.rank, axis)
    y = y if bias is None else y + _on_channels(wide(bias), y.rank, axis)
    return cast(y, x.dtype)


def _needs_channels(op: str, x: Value, axis: int) -> None:
    if axis >= x.rank:
        raise TypeMismatchError(f"{op}: x must be [.. c ..] with the channels at axis {axis}, got {x.type}")


def _needs_spatial(op: str, x: Value, axis: int) -> range:
    """The axes after ``axis``; TypeMismatchError if there are none."""
    if axis + 1 >= x.rank:
        raise TypeMismatchError(f"{op}: x must be [.. c spatial..] with the channels at axis {axis}, got {x.type}")
    return range(axis + 1, x.rank)


@composite
def batch_norm(
    x: Value, mean: Value, variance: Value, weight: Value | None = None, bias: Value | None = None, *,
    eps: float = 1e-5, momentum: float | None = 0.1, axis: int = 1,
) -> Value:  # fmt: skip
    """Batch norm as it is applied after training: x ``[b c ..]`` (c at ``axis``), everything else ``[c]``.

    ``momentum`` is what :func:`batch_norm_train` would use, None for the average of all
    batches; it changes nothing here.
    """
    del momentum
    _needs_channels("batch_norm", x, axis)
    scale = _rsqrt(wide(variance) + eps)
    scale = scale if weight is None else scale * wide(weight)
    shift = -(wide(mean) * scale) if bias is None else wide(bias) - wide(mean) * scale
    return cast(wide(x) * _on_channels(scale, x.rank, axis) + _on_channels(shift, x.rank, axis), x.dtype)


@batch_norm.types
def _(op: Any, x: TensorType, *rest: TensorType) -> TensorType | None:
    """Of floats of one type, with a number for each channel; the rest is the body's to take or refuse."""
    if len(rest) != sum(op.given) - 1 or len(rest) < 2 or op.given[:3] != (True, True, True):
        return None
    axis, eps, momentum = op.axis, op.eps, op.momentum
    if type(axis) is not int or type(eps) is not float or type(momentum) not in (float, type(None)):
        return None
    if not x.dtype.is_float or not 0 <= axis < x.rank:
        return None
    channels = x.with_shape((x.shape[axis],))
    return x if all(t is channels for t in rest) else None


@batch_norm.inverse
def _(op: Any, *types: TensorType) -> ValueFunction:
    """The function of (y, mean, variance, weight, bias) that gives x back, where no weight is 0."""
    del types

    def back(y: Value, mean: Value, variance: Value, *affine: Value) -> Value:
        rest = iter(affine)
        weight, bias = (next(rest) if given else None for given in op.given[3:])
        scale = sqrt(wide(variance) + op.eps)
        scale = scale if weight is None else scale / wide(weight)
        out = wide(y) if bias is None else wide(y) - _on_channels(wide(bias), y.rank, op.axis)
        return cast(out * _on_channels(scale, y.rank, op.axis) + _on_channels(wide(mean), y.rank, op.axis), y.dtype)

    return back


@composite
def batch_norm_train(
    x: Value, mean: Value | None = None, variance: Value | None = None, weight: Value | None = None,
    bias: Value | None = None, *, eps: float = 1e-5, momentum: float = 0.1, axis: int = 1,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Batch norm in training: normalised by the batch's own statistics, over all axes but ``axis``.

    Returns (out, new mean, new variance): the running ones moved by ``momentum`` towards the batch's, whose
    variance is that of n - 1. Without running ones, those of the batch.
    """
    _needs_channels("batch_norm_train", x, axis)
    axes = [i for i in range(x.rank) if i != axis]
    count = math.prod(x.shape[a] for a in axes)
    y = wide(x)
    average = _average(y, axes)
    centred = y - average
    squares = reduce(centred * centred, "sum", axes)
    out = centred * _rsqrt(squares / float(count) + eps)
    running = _moved((mean, variance), (average, squares / float(count - 1)), momentum)
    return _scaled(out, x, weight, bias, axis), *running


def _moved(old: tuple[Value | None, Value | None], new: tuple[Value, Value], momentum: float) -> tuple[Value, Value]:
    """The running statistics ``[c]`` moved by ``momentum`` towards new ones ``[1 c 1 ..]``, or just those."""
    flat = [group(v, [v.rank]) for v in new]
    moved = [
        v if o is None else cast(wide(o) * (1 - momentum) + v * momentum, o.dtype)
        for o, v in zip(old, flat, strict=True)
    ]
    return moved[0], moved[1]


def _last_axes(op: str, x: Value, rank: int) -> list[int]:
    if not 1 <= rank <= x.rank:
        raise AttributeValueError(f"{op}: rank {rank} should be from 1 to {x.rank}, the axes of {x.type}")
    return list(range(x.rank - rank, x.rank))


@composite
def layer_norm(
    x: Value, weight: Value | None = None, bias: Value | None = None, *, rank: int = 1, eps: float = 1e-5
) -> Value:
    """Normalise over the last ``rank`` axes, then ``* weight + bias``, which have those axes."""
    y = _standardised(wide(x), _last_axes("layer_norm", x, rank), eps)
    y = y if weight is None else y * wide(weight)
    y = y if bias is None else y + wide(bias)
    return cast(y, x.dtype)


@composite
def rms_norm(x: Value, weight: Value | None = None, *, rank: int = 1, eps: float | None = None) -> Value:
    """Divide by the root of the mean square over the last ``rank`` axes, then ``* weight``.

    An eps of None is the machine epsilon of the type computed in: f64's for f64, else f32's.
    """
    axes = _last_axes("rms_norm", x, rank)
    y = wide(x)
    if eps is None:
        eps = 2.0**-52 if y.dtype.bytes == 8 else 2.0**-23
    y = y * _rsqrt(_average(y * y, axes) + eps)
    return cast(y if weight is None else y * wide(weight), x.dtype)


@composite
def group_norm(
    x: Value, weight: Value | None = None, bias: Value | None = None, *, groups: int, eps: float = 1e-5, axis: int = 1
) -> Value:
    """Normalise each group of channels per sample, then ``* weight + bias``: x ``[b (groups c) ..]``."""
    _needs_channels("group_norm", x, axis)
    if groups < 1 or x.shape[axis] % groups:
        raise AttributeValueError(f"group_norm: the channels of {x.type} don't divide into {groups} groups")
    y = ungroup(wide(x), axis, (groups, x.shape[axis] // groups))
    y = _standardised(y, range(axis + 1, y.rank), eps)
    return _scaled(group(y, [2 if i == axis else 1 for i in range(x.rank)]), x, weight, bias, axis)


@composite
def instance_norm(
    x: Value, weight: Value | None = None, bias: Value | None = None, *, eps: float = 1e-5, axis: int = 1
) -> Value:
    """Normalise each channel of each sample over its spatial axes: x ``[b c ..]``, weight, bias ``[c]``."""
    axes = _needs_spatial("instance_norm", x, axis)
    return _scaled(_standardised(wide(x), axes, eps), x, weight, bias, axis)


@composite
def instance_norm_train(
    x: Value, mean: Value, variance: Value, weight: Value | None = None, bias: Value | None = None, *,
    eps: float = 1e-5, momentum: float = 0.1, axis: int = 1,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Instance norm in training with running statistics: (out, new mean, new variance).

    The running ones are moved by ``momentum`` towards those of each sample, averaged over the samples.
    """
    axes = _needs_spatial("instance_norm_train", x, axis)
    count = math.prod(x.shape[a] for a in axes)
    y = wide(x)
    average = _average(y, axes)
    centred = y - average
    squares = reduce(centred * centred, "sum", axes)
    out = centred * _rsqrt(squares / float(count) + eps)
    batch = range(axis)
    new = (_average(average, batch), _average(squares / float(count - 1), batch))
    return _scaled(out, x, weight, bias, axis), *_moved((mean, variance), new, momentum)


@composite
def local_response_norm(
    x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, axis: int = 1
) -> Value:
    """``x / (k + alpha * mean of x^2 over size neighbours along axis) ^ beta``; x ``[b c ..]``."""
    _needs_channels("local_response_norm", x, axis)
    y = wide(x)
    around = [(size // 2, (size - 1) // 2) if i == axis else None for i in range(x.rank)]
    squares = unfold(pad(y * y, around), axis, size)
    squares = reduce(ungroup(squares, axis, (x.shape[axis], size)), "sum", (axis + 1,), keep=False)
    return cast(y / pow_(squares * (alpha / size) + k, beta), x.dtype)
