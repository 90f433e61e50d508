"""MIL's ops of quantized numbers for :mod:`conformance.mil`, from the specification of the ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _read_by(x: Any, scale: Any, zero_point: Any, axis: Any) -> tuple[Any, Any]:
    """A scale and a zero point along an axis, which there is only where the scale is a vector."""
    assert (axis is None) == (scale.ndim == 0)
    zero = np.zeros(scale.shape, np.int8) if zero_point is None else zero_point
    assert zero.shape == scale.shape
    assert scale.ndim == 0 or scale.shape == (x.shape[int(axis)],)
    assert (scale != 0).all()
    to = () if axis is None else [-1 if i == int(axis) % x.ndim else 1 for i in range(x.ndim)]
    return scale.reshape(to), zero.reshape(to)


def _quantize(input: Any, scale: Any, output_dtype: str, zero_point: Any = None, axis: Any = None) -> Any:
    """``clip(round(input / scale) + zero_point)``; coremltools' own evaluation rounds half to even (numpy.round)."""
    assert input.dtype == scale.dtype
    to = {"int8": np.int8, "uint8": np.uint8}[output_dtype]
    assert zero_point is None or zero_point.dtype == to
    s, zero = _read_by(input, scale, zero_point, axis)
    bounds = np.iinfo(to)
    return np.clip(np.round(input / s) + zero.astype(input.dtype), bounds.min, bounds.max).astype(to)


def _dequantize(input: Any, scale: Any, zero_point: Any = None, axis: Any = None) -> Any:
    """``scale * (input - zero_point)``."""
    assert input.dtype in (np.int8, np.uint8)
    assert zero_point is None or zero_point.dtype == input.dtype
    s, zero = _read_by(input, scale, zero_point, axis)
    return s * (input.astype(scale.dtype) - zero.astype(scale.dtype))


def _affine(quantized_data: Any, zero_point: Any, scale: Any, axis: Any) -> Any:
    """``scale * (quantized_data - zero_point)``, each of them one number or one for each entry of the axis."""
    assert quantized_data.dtype in (np.int8, np.uint8)
    along = [-1 if i == int(axis) % quantized_data.ndim else 1 for i in range(quantized_data.ndim)]
    s, zero = (a.reshape(along) if a.ndim else a for a in (scale, zero_point))
    return s * (quantized_data.astype(scale.dtype) - zero.astype(scale.dtype))


def _blockwise(data: Any, scale: Any, offset: Any = None) -> Any:
    """``scale[i0, j0] * (data[i, j] - offset[i0, j0])`` with ``i0 = floor(i / block_size[0])``."""
    assert data.ndim == scale.ndim >= 1
    assert all(n % s == 0 for n, s in zip(data.shape, scale.shape, strict=True))
    assert offset is None or (offset.shape == scale.shape and offset.dtype == data.dtype)
    places = np.ix_(*[np.arange(n) // (n // s) for n, s in zip(data.shape, scale.shape, strict=True)])
    less = data.astype(scale.dtype) - (0 if offset is None else offset[places].astype(scale.dtype))
    return scale[places] * less.astype(scale.dtype)


QUANTIZED: dict[str, Callable[..., Any]] = {
    "quantize": _quantize, "dequantize": _dequantize, "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
}  # fmt: skip
