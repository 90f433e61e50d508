"""The discrete Fourier transform, a product with a matrix of roots of one."""

from __future__ import annotations

import math

import numpy as np

from tdagger.composite import Composite, composite
from tdagger.errors import TypeMismatchError
from tdagger.library.arithmetic import of_result
from tdagger.library.linear import matmul
from tdagger.op import Array, Value, ValueFunction
from tdagger.ops.elementwise import cast, cos, mod, sin
from tdagger.ops.source import const, iota
from tdagger.ops.structure import permute, unsqueeze
from tdagger.types import TensorType


@composite
def fft(x: Value, *, axis: int, backward: bool = False) -> Value:
    """``sum(x[n] * exp(-2j * pi * k * n / N))`` for each k along ``axis`` of complex numbers.

    ``backward`` turns the sign of the exponent; nothing is divided by the count.
    """
    if not x.dtype.is_complex:
        raise TypeMismatchError(f"fft takes complex numbers, got {x.type}; cast first")
    n = x.shape[axis]
    # the angles are computed within the first turn, where they are exact to the last place
    steps = mod(unsqueeze(iota(n), (1,)) * unsqueeze(iota(n), (0,)), max(n, 1))
    angle = cast(steps, "f64") * ((2 if backward else -2) * math.pi / max(n, 1))
    turns = cast(cast(cos(angle), "c128") + cast(sin(angle), "c128") * const(1j, "c128"), x.dtype)
    order = [*(i for i in range(x.rank) if i != axis), axis]
    out = matmul(permute(x, order), turns)
    return permute(out, [order.index(i) for i in range(x.rank)])


@fft.numpy
def _(x: Array, *, axis: int, backward: bool) -> Array:
    if not x.shape[axis]:
        return x
    out = np.fft.ifft(x, axis=axis, norm="forward") if backward else np.fft.fft(x, axis=axis)
    return out.astype(x.dtype, copy=False)


@fft.adjoint
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """The matrix is symmetric, so it is its own transpose."""
    return op


@fft.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """The transform of the other sign, divided by the count."""
    axis: int = op.attributes["axis"]
    backward: bool = op.attributes["backward"]
    return of_result(lambda y: fft(y, axis=axis, backward=not backward) / complex(y.shape[axis]))
