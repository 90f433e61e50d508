"""Convolution and transposed convolution: x ``[.. c spatial..]``, spatial axes as the weight has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, NoInverseError, TypeMismatchError
from tdagger.library.linear import wide, wide_array
from tdagger.op import Array, Value, ValueFunction
from tdagger.ops.elementwise import cast
from tdagger.ops.structure import Group, Ungroup, fold, pad, reduce, unfold, unsqueeze
from tdagger.types import TensorType

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

# --- what both share ---------------------------------------------------------------------------------------


def per_axis(value: Any, count: int, what: str, op: str) -> Ints:
    """A number for each spatial axis: one int stands for all; AttributeValueError for another count."""
    found = (value,) * count if isinstance(value, int) else tuple(value)
    found = found * count if len(found) == 1 else found
    if len(found) != count:
        raise AttributeValueError(f"{op}: {what} {value} should have {count} entries, one per spatial axis")
    return found


def _check(op: str, x: Value, weight: Value, channels: int, groups: int) -> None:
    """TypeMismatchError if x and weight don't fit together; ``channels`` is what the weight takes."""
    if weight.rank < 3 or x.rank < weight.rank - 1:
        raise TypeMismatchError(
            f"{op}: x is [.. c spatial..] with as many spatial axes as the weight (1 or more), got {x.type} and "
            f"{weight.type}"
        )
    if groups < 1 or weight.shape[0] % groups or x.shape[_lead(x, weight)] != channels:
        raise TypeMismatchError(
            f"{op}: with {groups} groups, weight {weight.type} takes {channels} channels, x is {x.type}"
        )


def _lead(x: Any, weight: Any) -> int:
    """How many axes x ``[.. c spatial..]`` has before its channels (of values, arrays or types)."""
    return len(x.shape) - len(weight.shape) + 1


def _spans(kernel: Sequence[int], dilation: Ints) -> list[int]:
    """Entries from the first to the last of one window."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]


def _add_bias(out: Value, bias: Value | None, spatial: int, like: Value) -> Value:
    if bias is not None:
        out = out + unsqueeze(wide(bias), range(1, 1 + spatial))
    return cast(out, like.dtype)


def _linear_only(op: Composite, types: tuple[TensorType, ...]) -> TensorType:
    """The type of x, if the op has no bias."""
    if op.given[2]:
        raise NoInverseError(f"{op} with a bias is not linear, so it has no adjoint")
    if len(types) != 2:
        raise NoInverseError(f"{op}.adjoint() needs the types of x and the weight")
    return types[0]


# --- convolution -------------------------------------------------------------------------------------------


def _pairs(padding: Any, kernel: Ints, dilation: Ints, stride: Ints) -> Pairs:
    """Padding as (low, high) for each axis: from ints, pairs, "valid" or "same"."""
    if padding == "same":
        if any(s != 1 for s in stride):
            raise AttributeValueError(f'convolution: padding "same" needs strides of 1, got {stride}')
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        raise AttributeValueError(f'convolution: padding is "same", "valid" or numbers, got {padding!r}')
    each: tuple[Any, ...] = (padding,) * len(kernel) if isinstance(padding, int) else tuple(padding)
    each = each * len(kernel) if len(each) == 1 else each
    if len(each) != len(kernel):
        raise AttributeValueError(f"convolution: padding {padding} should have {len(kernel)} entries")
    return tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in each)


def _prepare(
    x: Value, weight: Value, bias: Value | None = None, *, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
    n, kernel = weight.rank - 2, weight.shape[2:]
    stride = per_axis(stride, n, "stride", "convolution")
    dilation = per_axis(dilation, n, "dilation", "convolution")
    pairs = _pairs(padding, kernel, dilation, stride)
    return (x, weight, bias), {"stride": stride, "padding": pairs, "dilation": dilation, "groups": groups}


@composite(prepare=_prepare)
def convolution(
    x: Value, weight: Value, bias: Value | None = None, *, stride: Ints, padding: Pairs, dilation: Ints,
    groups: int = 1,
) -> Value:  # fmt: skip
    """Cross-correlation of x ``[.. i s..]`` with weight ``[o i/groups k..]``, plus bias ``[o]``: ``[.. o n..]``.

    Any number of axes may lead, none among them; the weight's rank says how many axes are spatial.

    ``stride`` and ``dilation`` have an int per spatial axis, ``padding`` a (low, high) pair; written as one
    int, ints, "same" or "valid" they are normalised to that. Negative padding crops. There are
    ``(low + s + high - (k - 1) * dilation - 1) // stride + 1`` windows; TypeMismatchError if there is no room
    for one.
    """
    _check("convolution", x, weight, weight.shape[1] * groups, groups)
    out_channels, in_channels, *kernel = weight.shape
    lead = _lead(x, weight)
    y = pad(wide(x), [*(None,) * (lead + 1), *padding])
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), lead + 1):
        if y.shape[i] < (k - 1) * d + 1:
            raise TypeMismatchError(f"convolution: {kernel} doesn't fit in {x.type} padded by {padding}")
        y = unfold(y, i, k, s, d)
    windows = [n // k for n, k in zip(y.shape[lead + 1 :], kernel, strict=True)]
    # x as .. g 1 i (w k)..  times the weight as .. g o i (1 k)..
    pairs = tuple(zip(windows, kernel, strict=True))
    y = Ungroup((*((n,) for n in x.shape[:lead]), (groups, 1, in_channels), *pairs))(y)
    ones = tuple((1, k) for k in kernel)
    taps = Ungroup(((*(1,) * lead, groups, out_channels // groups), (in_channels,), *ones))(wide(weight))
    out = reduce(y * taps, "sum", [lead + 2, *range(lead + 4, y.rank, 2)])
    return _add_bias(Group((*(1,) * lead, 3, *(2,) * len(kernel)))(out), bias, len(kernel), x)


@convolution.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of floats of one type and windows that fit; the rest is the body's to take or refuse."""
    if len(types) != 2 + op.given[2] or op.given[:2] != (True, True):
        return None
    (x, weight, *bias), count = types, len(op.stride)
    lead = _lead(x, weight)
    if weight.rank != count + 2 or lead < 0 or not count == len(op.padding) == len(op.dilation):
        return None
    if (
        not x.dtype.is_float
        or any(t.dtype is not x.dtype for t in types)
        or any(b.shape != weight.shape[:1] for b in bias)
    ):
        return None
    if op.groups < 1 or weight.shape[0] % op.groups or x.shape[lead] != weight.shape[1] * op.groups:
        return None
    shape = [*x.shape[:lead], weight.shape[0]]
    windows = zip(x.shape[lead + 1 :], weight.shape[2:], op.stride, op.dilation, op.padding, strict=True)
    for n, k, s, d, (low, high) in windows:
        room = n + low + high - (k - 1) * d - 1
        if min(k, s, d, n) < 1 or min(low, high, room) < 0:
            return None
        shape.append(room // s + 1)
    return x.with_shape(tuple(shape)) if 0 not in (*x.shape, *weight.shape) else None


@convolution.numpy
def _(
    x: Array, weight: Array, bias: Array | None, *, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Array:
    """Windows as a view, then one matrix product per image and group."""
    o, i, *kernel = weight.shape
    a = _padded(_images(wide_array(x), weight), padding)
    windows = [(n - r) // s + 1 for n, r, s in zip(a.shape[2:], _spans(kernel, dilation), stride, strict=True)]
    steps = a.strides[2:]
    view = np.lib.stride_tricks.as_strided(
        a,
        (*a.shape[:2], *kernel, *windows),
        (*a.strides[:2], *(t * d for t, d in zip(steps, dilation, strict=True)),
         *(t * s for t, s in zip(steps, stride, strict=True))),
        writeable=False,
    )  # fmt: skip
    columns = view.reshape(a.shape[0], groups, i * math.prod(kernel), math.prod(windows))
    rows = wide_array(weight).reshape(groups, o // groups, i * math.prod(kernel))
    out = np.matmul(rows, columns).reshape(*x.shape[: _lead(x, weight)], o, *windows)
    out = out if bias is None else out + wide_array(bias).reshape(-1, *(1,) * len(kernel))
    return out.astype(x.dtype, copy=False)


def _images(x: Array, weight: Array) -> Array:
    """``[.. c spatial..]`` as ``[b c spatial..]``."""
    lead = _lead(x, weight)
    return x.reshape(math.prod(x.shape[:lead]), *x.shape[lead:])


def _padded(x: Array, padding: Pairs) -> Array:
    """Zeros added to x, or entries cut off where a width is negative."""
    cut = [slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape[2:], padding, strict=True)]
    widths = [(max(low, 0), max(high, 0)) for low, high in padding]
    x = x[(slice(None), slice(None), *cut)]
    return np.pad(x, [(0, 0), (0, 0), *widths]) if any(map(any, widths)) else x


@convolution.adjoint
def _(op: Any, *types: TensorType) -> ValueFunction:
    """With respect to x: the function of (y, weight), a transposed convolution of exactly the size of x."""
    x = _linear_only(op, types)
    kernel, lead = types[1].shape[2:], _lead(x, types[1])
    padded = [n + a + b for n, (a, b) in zip(x.shape[lead + 1 :], op.padding, strict=True)]
    # what no window reached at the end of the padded axis
    left = [(n - r) % s for n, r, s in zip(padded, _spans(kernel, op.dilation), op.stride, strict=True)]
    extra = tuple(r + a - b for r, (a, b) in zip(left, op.padding, strict=True))
    same = {"stride": op.stride, "dilation": op.dilation, "groups": op.groups}
    if all(a >= 0 for a, _ in op.padding) and all(e >= 0 for e in extra):
        low = tuple(a for a, _ in op.padding)
        return partial(convolution_transpose, padding=low, output_padding=extra, **same)
    zero, widths = (0,) * len(kernel), [(-a, r - b) for (a, b), r in zip(op.padding, left, strict=True)]

    def back(y: Value, weight: Value) -> Value:
        full = convolution_transpose(y, weight, padding=zero, output_padding=zero, **same)
        return pad(full, [*(None,) * (lead + 1), *widths])

    return back


# --- transposed convolution --------------------------------------------------------------------------------


def _prepare_transpose(
    x: Value, weight: Value, bias: Value | None = None, *, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
    given = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    each = {k: per_axis(v, weight.rank - 2, k, "convolution_transpose") for k, v in given.items()}
    return (x, weight, bias), {**each, "groups": groups}


@composite(prepare=_prepare_transpose)
def convolution_transpose(
    x: Value, weight: Value, bias: Value | None = None, *, stride: Ints, padding: Ints, output_padding: Ints,
    dilation: Ints, groups: int = 1,
) -> Value:  # fmt: skip
    """Convolution's adjoint: x ``[.. i s..]``, weight ``[i o/groups k..]``, bias ``[o]`` -> ``[.. o n..]``.

    ``n = (s - 1) * stride - 2 * padding + (k - 1) * dilation + 1 + output_padding``; each attribute has an
    int per spatial axis.
    """
    _check("convolution_transpose", x, weight, weight.shape[0], groups)
    in_channels, out_channels, *kernel = weight.shape
    lead = _lead(x, weight)
    # x as .. g i 1 (s 1)..  times the weight as .. g i o (1 k)..
    channels, places = (groups, in_channels // groups, 1), [(n, 1) for n in x.shape[lead + 1 :]]
    y = Ungroup((*((n,) for n in x.shape[:lead]), channels, *places))(wide(x))
    ones = tuple((1, k) for k in kernel)
    taps = Ungroup(((*(1,) * lead, groups, in_channels // groups), (out_channels,), *ones))(wide(weight))
    y = Group((*(1,) * lead, 3, *(2,) * len(kernel)))(reduce(y * taps, "sum", [lead + 1]))
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), lead + 1):
        y = fold(y, i, k, s, d)
    crop = [(-p, e - p) for p, e in zip(padding, output_padding, strict=True)]
    return _add_bias(pad(y, [*(None,) * (lead + 1), *crop]), bias, len(kernel), x)


@convolution_transpose.numpy
def _(
    x: Array, weight: Array, bias: Array | None, *, stride: Ints, padding: Ints, output_padding: Ints,
    dilation: Ints, groups: int,
) -> Array:  # fmt: skip
    """One matrix product per image and group, then the windows added where they belong."""
    i, o, *kernel = weight.shape
    images = _images(wide_array(x), weight)
    b, _, *sizes = images.shape
    rows = wide_array(weight).reshape(groups, i // groups, o * math.prod(kernel)).swapaxes(1, 2)
    columns = images.reshape(b, groups, i // groups, math.prod(sizes))
    y = np.matmul(rows, columns).reshape(b, groups * o, *kernel, *sizes)
    full = [(n - 1) * s + r for n, s, r in zip(sizes, stride, _spans(kernel, dilation), strict=True)]
    out = np.zeros((b, groups * o, *full), y.dtype)
    for tap in np.ndindex(*kernel):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        place = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, sizes, stride, strict=True)]
        out[(slice(None), slice(None), *place)] += y[(slice(None), slice(None), *tap)]
    out = _padded(out, tuple((-p, e - p) for p, e in zip(padding, output_padding, strict=True)))
    out = out if bias is None else out + wide_array(bias).reshape(-1, *(1,) * len(kernel))
    return out.reshape(*x.shape[: _lead(x, weight)], *out.shape[1:]).astype(x.dtype, copy=False)


@convolution_transpose.adjoint
def _(op: Any, *types: TensorType) -> ValueFunction:
    """With respect to x: the function of (y, weight), a convolution."""
    _linear_only(op, types)
    padding = tuple((p, p - e) for p, e in zip(op.padding, op.output_padding, strict=True))
    same = {"stride": op.stride, "dilation": op.dilation, "groups": op.groups}
    return partial(convolution, padding=padding, **same)
