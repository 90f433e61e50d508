"""Normalisation: statistics in float32 at least, rounded once at the end."""

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


def _on_channels(v: Value, rank: int) -> Value:
    """A vector along axis 1 of a tensor of ``rank``."""
    return unsqueeze(v, range(1, rank - 1))


def _scaled(y: Value, x: Value, weight: Value | None, bias: Value | None) -> Value:
    """``y * weight + bias`` along the channels, in the element type of x."""
    y = y if weight is None else y * _on_channels(wide(weight), y.rank)
    y = y if bias is None else y + _on_channels(wide(bias), y.rank)
    return cast(y, x.dtype)


def _needs_channels(op: str, x: Value) -> None:
    if x.rank < 2:
        raise TypeMismatchError(f"{op}: x must be [b c ..], got {x.type}")


@composite
def batch_norm(
    x: Value, mean: Value, variance: Value, weight: Value | None = None, bias: Value | None = None, *,
    eps: float = 1e-5, momentum: float = 0.1,
) -> Value:  # fmt: skip
    """Batch norm as it is applied after training: x ``[b c ..]``, everything else ``[c]``.

    ``momentum`` is what :func:`batch_norm_train` would use; it changes nothing here.
    """
    del momentum
    _needs_channels("batch_norm", x)
    scale = _rsqrt(wide(variance) + eps)
    scale = scale if weight is None else scale * wide(weight)
    shift = -(wide(mean) * scale) if bias is None else wide(bias) - wide(mean) * scale
    return cast(wide(x) * _on_channels(scale, x.rank) + _on_channels(shift, x.rank), x.dtype)


@batch_norm.inverse
def _(op: Any, *types: TensorType) -> ValueFunction:
    """The function of (y, mean, variance, weight, bias) that gives x back, where no weight is 0."""
    del types

    def back(y: Value, mean: Value, variance: Value, *affine: Value) -> Value:
        rest = iter(affine)
        weight, bias = (next(rest) if given else None for given in op.given[3:])
        scale = sqrt(wide(variance) + op.eps)
        scale = scale if weight is None else scale / wide(weight)
        out = wide(y) if bias is None else wide(y) - _on_channels(wide(bias), y.rank)
        return cast(out * _on_channels(scale, y.rank) + _on_channels(wide(mean), y.rank), y.dtype)

    return back


@composite
def batch_norm_train(
    x: Value, mean: Value | None = None, variance: Value | None = None, weight: Value | None = None,
    bias: Value | None = None, *, eps: float = 1e-5, momentum: float = 0.1,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Batch norm in training: normalised by the batch's own statistics.

    Returns (out, new mean, new variance): the running ones moved by ``momentum`` towards the batch's, whose
    variance is that of n - 1. Without running ones, those of the batch.
    """
    _needs_channels("batch_norm_train", x)
    axes = [0, *range(2, x.rank)]
    count = math.prod(x.shape[a] for a in axes)
    y = wide(x)
    average = _average(y, axes)
    centred = y - average
    squares = reduce(centred * centred, "sum", axes)
    out = centred * _rsqrt(squares / float(count) + eps)
    running = _moved((mean, variance), (average, squares / float(count - 1)), momentum)
    return _scaled(out, x, weight, bias), *running


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
    x: Value, weight: Value | None = None, bias: Value | None = None, *, groups: int, eps: float = 1e-5
) -> Value:
    """Normalise each group of channels per sample: x ``[b (groups c) ..]``, ``* weight + bias``."""
    _needs_channels("group_norm", x)
    if groups < 1 or x.shape[1] % groups:
        raise AttributeValueError(f"group_norm: the channels of {x.type} don't divide into {groups} groups")
    y = ungroup(wide(x), 1, (groups, x.shape[1] // groups))
    y = _standardised(y, range(2, y.rank), eps)
    return _scaled(group(y, [1, 2] + [1] * (x.rank - 2)), x, weight, bias)


@composite
def instance_norm(x: Value, weight: Value | None = None, bias: Value | None = None, *, eps: float = 1e-5) -> Value:
    """Normalise each channel of each sample over its spatial axes: x ``[b c ..]``, weight, bias ``[c]``."""
    if x.rank < 3:
        raise TypeMismatchError(f"instance_norm: x must be [b c spatial..], got {x.type}")
    return _scaled(_standardised(wide(x), range(2, x.rank), eps), x, weight, bias)


@composite
def instance_norm_train(
    x: Value, mean: Value, variance: Value, weight: Value | None = None, bias: Value | None = None, *,
    eps: float = 1e-5, momentum: float = 0.1,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Instance norm in training with running statistics: (out, new mean, new variance).

    The running ones are moved by ``momentum`` towards those of each sample, averaged over the samples.
    """
    if x.rank < 3:
        raise TypeMismatchError(f"instance_norm_train: x must be [b c spatial..], got {x.type}")
    axes = list(range(2, x.rank))
    count = math.prod(x.shape[2:])
    y = wide(x)
    average = _average(y, axes)
    centred = y - average
    squares = reduce(centred * centred, "sum", axes)
    out = centred * _rsqrt(squares / float(count) + eps)
    new = (_average(average, (0,)), _average(squares / float(count - 1), (0,)))
    return _scaled(out, x, weight, bias), *_moved((mean, variance), new, momentum)


@composite
def local_response_norm(x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Value:
    """``x / (k + alpha * mean of x^2 over size neighbouring channels) ^ beta``; x ``[b c ..]``."""
    _needs_channels("local_response_norm", x)
    y = wide(x)
    around = [(size // 2, (size - 1) // 2) if i == 1 else None for i in range(x.rank)]
    squares = unfold(pad(y * y, around), 1, size)
    squares = reduce(ungroup(squares, 1, (x.shape[1], size)), "sum", (2,), keep=False)
    return cast(y / pow_(squares * (alpha / size) + k, beta), x.dtype)
