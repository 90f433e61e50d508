"""Operators of onnxruntime's own that ONNX has too, with other inputs and attributes, or that are one of its ops."""

from __future__ import annotations

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.contrib.common import contrib, refuse
from tdagger.frameworks.onnx.ops.indexing import gather_nd, unique
from tdagger.frameworks.onnx.ops.signal import dft
from tdagger.frameworks.onnx.ops.structure import number_range, padding_of
from tdagger.frameworks.onnx.ops.table import Int, Ints, Numbers, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops.elementwise import cast
from tdagger.ops.structure import permute, reduce, select, unfold, ungroup, unsqueeze


@contrib("ExpandDims")
def _expand_dims(X: Value, axis: Int) -> Value:
    return unsqueeze(X, (axis if axis >= 0 else axis + X.rank + 1,))


@contrib("GatherND")
def _gather_nd(data: Value, indices: Value) -> Value:
    return gather_nd(data, indices)


@contrib("Pad")
def _pad(data: Value, pads: Ints, value: Value | None = None, *, mode: str = "constant") -> Value:
    return padding_of(data, pads, value, mode=mode)


@contrib("Range")
def _range(start: Numbers, limit: Numbers, delta: Numbers | None = None) -> Value:
    step = np.ones((), start.dtype) if delta is None else delta
    return number_range(start, limit, step)


@contrib("Unique")
def _unique(x: Numbers) -> tuple[Value, ...]:
    """In the order in which they come first; which of them each entry is, and how often each comes."""
    found, _, inverse, counts = unique(x, sorted=0)
    return found, inverse, counts


@contrib("TorchEmbedding")
def _embedding(
    weight: Value, indices: Value, padding_idx: Value | None = None, scale_grad_by_freq: Value | None = None
) -> Value:
    """What the last two say is of gradients alone."""
    del padding_idx, scale_grad_by_freq
    return lib.embedding(weight, indices)


@contrib("ReduceSumInteger")
def _reduce_sum(data: Value, *, axes: tuple[int, ...] = (), keepdims: int = 1) -> Value:
    over = tuple(sorted(normal_axis(a, data.rank) for a in axes)) or tuple(range(data.rank))
    wide = "u32" if data.dtype.name.startswith("u") else "i32"
    return reduce(cast(data, wide), "sum", over, keep=bool(keepdims))


@contrib("UnfoldTensor")
def _unfold(input: Value, *, size: int, dim: int = -1, step: int = 1) -> Value:
    """Windows along an axis, each along a new last one."""
    axis = normal_axis(dim, input.rank)
    if not 0 < size <= input.shape[axis] or step < 1:
        raise unsupported(f"windows of {size} entries every {step} of an axis of {input.shape[axis]}")
    windows = ungroup(unfold(input, axis, size, step), axis, (-1, size))
    return permute(windows, (*range(axis + 1), *range(axis + 2, windows.rank), axis + 1))


# --- complex numbers, as pairs along the last axis -----------------------------------------------------------


@contrib("Rfft")
def _rfft(X: Value, *, signal_ndim: int, normalized: int = 0, onesided: int = 1) -> Value:
    refuse(normalized=normalized, **{"signals of several axes": signal_ndim != 1, "both sides": not onesided})
    return dft(unsqueeze(X, (X.rank,)), None, X.rank - 1, onesided=1)


@contrib("Irfft")
def _irfft(X: Value, *, signal_ndim: int, normalized: int = 0, onesided: int = 1) -> Value:
    """Of an even number of entries."""
    refuse(normalized=normalized, **{"signals of several axes": signal_ndim != 1, "both sides": not onesided})
    return select(dft(X, None, X.rank - 2, inverse=1, onesided=1), X.rank - 1, 0)


def _product(A: Value, B: Value, sign: float) -> Value:
    a, b = ([select(x, x.rank - 1, i) for i in range(2)] for x in (A, B))
    real, imaginary = a[0] * b[0] - a[1] * b[1] * sign, a[0] * b[1] * sign + a[1] * b[0]
    return lib.stack(real, imaginary, axis=-1)


@contrib("ComplexMul")
def _complex_mul(A: Value, B: Value) -> Value:
    return _product(A, B, 1.0)


@contrib("ComplexMulConj")
def _complex_mul_conj(A: Value, B: Value) -> Value:
    """A times the conjugate of B."""
    return _product(A, B, -1.0)
