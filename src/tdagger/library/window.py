"""Composites of windows and borders: im2col, col2im, and the pads that copy entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.adjoint import body_adjoint
from tdagger.library.arithmetic import divide, of_result
from tdagger.op import Value, ValueFunction
from tdagger.ops.elementwise import full_like, maximum
from tdagger.ops.structure import (
    Ungroup,
    concat,
    flip,
    fold,
    group,
    pad,
    permute,
    repeat,
    slice_axis,
    unfold,
)
from tdagger.types import TensorType

# --- windows -----------------------------------------------------------------------------------------------


def _window_check(op: str, x: Value, rank: int, attributes: dict[str, tuple[int, ...]]) -> None:
    kernel = attributes["kernel"]
    if x.rank < rank:
        raise TypeMismatchError(f"{op}: needs a tensor of rank {rank} or more, got {x.type}")
    if any(len(v) != len(kernel) for v in attributes.values()):
        raise AttributeValueError(f"{op}: needs one number for each of {len(kernel)} axes, got {attributes}")


@composite
def im2col(
    x: Value,
    *,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Value:
    """Windows as columns (torch's unfold): ``[.. c spatial..] -> [.. (c kernel..) (windows..)]``, zeros around."""
    k = len(kernel)
    given = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    _window_check("im2col", x, 1 + k, given)
    at = x.rank - k
    x = pad(x, [*(None,) * at, *((p, p) for p in padding)])
    for i in range(k):
        x = unfold(x, at + i, kernel[i], stride[i], dilation[i])
    windows = [(n // s, s) for n, s in zip(x.shape[at:], kernel, strict=True)]
    x = Ungroup((*((n,) for n in x.shape[:at]), *windows))(x)
    x = permute(x, [*range(at), *range(at + 1, at + 2 * k, 2), *range(at, at + 2 * k, 2)])
    return group(x, [*(1,) * (at - 1), 1 + k, k])


@composite
def col2im(
    x: Value,
    *,
    output: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Value:
    """Columns ``[.. (c kernel..) (windows..)]`` added up where they came from (torch's fold): im2col's adjoint.

    ``output`` is the sizes of the spatial axes of the result.
    """
    k = len(kernel)
    given = {"kernel": kernel, "output": output, "stride": stride, "padding": padding, "dilation": dilation}
    _window_check("col2im", x, 2, given)
    full = [n + 2 * p for n, p in zip(output, padding, strict=True)]
    spans = [(s - 1) * d + 1 for s, d in zip(kernel, dilation, strict=True)]
    windows = [max((n - s) // t + 1, 0) for n, s, t in zip(full, spans, stride, strict=True)]
    size = math.prod(kernel)
    at = x.rank - 1  # where the spatial axes of the result begin
    if x.shape[-2] % size or x.shape[-1] != math.prod(windows):
        raise TypeMismatchError(f"col2im: {x.type} is not {windows} windows of {kernel} in {output}")
    x = Ungroup((*((n,) for n in x.shape[:-2]), (x.shape[-2] // size, *kernel), tuple(windows)))(x)
    pairs = [axis for i in range(k) for axis in (at + k + i, at + i)]
    x = group(permute(x, [*range(at), *pairs]), [1] * at + [2] * k)
    for i in range(k):
        x = fold(x, at + i, kernel[i], stride[i], dilation[i])
    x = pad(x, [*(None,) * at, *((0, n - old) for n, old in zip(full, x.shape[at:], strict=True))])
    for i, p in enumerate(padding):
        x = slice_axis(x, at + i, p, -p or None)
    return x


def _folded(op: Composite, x: TensorType) -> ValueFunction:
    """The function that adds the columns ``op`` makes of a tensor of type ``x`` up where they came from."""
    attributes = op.attributes
    output = x.shape[x.rank - len(attributes["kernel"]) :]
    return of_result(lambda y: col2im(y, output=output, **attributes))


@im2col.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    x = op.one(types, "adjoint")
    return _folded(op, x)


@im2col.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """The mean of what each entry is in the windows; 0 where it is in none."""
    add = _folded(op, op.one(types, "inverse"))
    return of_result(lambda y: divide(add(y), maximum(add(full_like(y, 1)), 1)))


def _columns(op: Composite) -> ValueFunction:
    attributes = {k: v for k, v in op.attributes.items() if k != "output"}
    return of_result(lambda y: im2col(y, **attributes))


@col2im.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    return _columns(op)


@col2im.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """An equal share of each entry to every window that it is in."""
    del types

    def undo(y: Value) -> Value:
        times = op(full_like(_columns(op)(y), 1))
        return _columns(op)(divide(y, maximum(times, 1)))

    return undo


# --- pads that copy ----------------------------------------------------------------------------------------

Widths = tuple[tuple[int, int], ...]


def _pad_axes(name: str, x: Value, widths: Widths, longest: Callable[[int], int]) -> list[tuple[int, int, int]]:
    """(axis, low, high) of every axis that is padded; errors if a width is more than there is to copy."""
    if len(widths) != x.rank:
        raise AttributeValueError(f"{name}: needs a pair of widths for each axis of {x.type}, got {widths}")
    for (low, high), n in zip(widths, x.shape, strict=True):
        if min(low, high) < 0 or (max(low, high) > 0 and max(low, high) > longest(n)):
            raise AttributeValueError(f"{name}: widths {(low, high)} don't fit an axis of {n} in {x.type}")
    return [(axis, low, high) for axis, (low, high) in enumerate(widths) if low or high]


def _join(parts: Sequence[Value], axis: int) -> Value:
    return concat([p for p in parts if p.shape[axis]] or parts[:1], axis)


@composite
def reflect_pad(x: Value, *, widths: Widths) -> Value:
    """Mirrored entries around, the border not repeated; ``widths`` has (low, high) for each axis."""
    for axis, low, high in _pad_axes("reflect_pad", x, widths, lambda n: n - 1):
        before = flip(slice_axis(x, axis, 1, low + 1), (axis,))
        after = flip(slice_axis(x, axis, -1 - high, -1), (axis,))
        x = _join((before, x, after), axis)
    return x


@composite
def replicate_pad(x: Value, *, widths: Widths) -> Value:
    """The border repeated around; ``widths`` has (low, high) for each axis."""
    for axis, low, high in _pad_axes("replicate_pad", x, widths, lambda n: 2**62 if n else 0):
        sizes = [[w if i == axis else None for i in range(x.rank)] for w in (low, high)]
        before = repeat(slice_axis(x, axis, 0, 1), sizes[0])
        after = repeat(slice_axis(x, axis, -1, None), sizes[1])
        x = _join((before, x, after), axis)
    return x


@composite
def circular_pad(x: Value, *, widths: Widths) -> Value:
    """Entries of the other end around; ``widths`` has (low, high) for each axis."""
    for axis, low, high in _pad_axes("circular_pad", x, widths, lambda n: n):
        n = x.shape[axis]
        x = _join((slice_axis(x, axis, -low or n, None), x, slice_axis(x, axis, 0, high)), axis)
    return x


def _unpad(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    widths: Widths = op.attributes["widths"]

    def undo(y: Value) -> Value:
        for axis, (low, high) in enumerate(widths):
            y = slice_axis(y, axis, low, -high or None)
        return y

    return undo


for _function in (reflect_pad, replicate_pad, circular_pad):
    _function.inverse(_unpad)
    _function.adjoint(body_adjoint)
