"""Rules of torch's ``quantized_decomposed``: what networks of torchao's PT2E hold between their float ops."""

from __future__ import annotations

from typing import Any

import torch

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import DTYPES, rule, unsupported
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.source import const


def _number(v: Any, dtype: str) -> Any:
    """A scale or a zero point that may be a number: scales as Python has them, in f64."""
    return v if isinstance(v, Value) or v is None else const(v, dtype)


def _zero(v: Any) -> Value | None:
    """A zero point; None where it is the number 0."""
    return None if v == 0 and not isinstance(v, Value) else _number(v, "i32")


def _bounds(low: Any, high: Any, to: str) -> dict[str, Any]:
    if isinstance(low, Value) or isinstance(high, Value):
        raise unsupported("its quant_min and quant_max are tensors")
    return {"low": int(low), "high": int(high), "to": to, "like": "torch"}


@rule("quantized_decomposed.quantize_per_tensor")
def _quantize_per_tensor(
    input: Value, scale: Any, zero_point: Any, quant_min: Any, quant_max: Any, dtype: torch.dtype
) -> Value:
    bounds = _bounds(quant_min, quant_max, DTYPES[dtype].name)
    return lib.quantize(input, _number(scale, "f64"), _zero(zero_point), **bounds)


@rule("quantized_decomposed.quantize_per_channel")
def _quantize_per_channel(
    input: Value, scales: Value, zero_points: Value, axis: int, quant_min: Any, quant_max: Any, dtype: torch.dtype
) -> Value:
    bounds = _bounds(quant_min, quant_max, DTYPES[dtype].name)
    return lib.quantize(input, scales, zero_points, axis=axis, **bounds)


@rule("quantized_decomposed.quantize_per_token")
def _quantize_per_token(
    input: Value, scales: Value, zero_points: Value, quant_min: Any, quant_max: Any, dtype: torch.dtype
) -> Value:
    """Each row by a scale of its own, ``[.. 1]``."""
    return lib.quantize(input, scales, zero_points, **_bounds(quant_min, quant_max, DTYPES[dtype].name))


def _result(out_dtype: torch.dtype | None) -> str:
    return "f32" if out_dtype is None else DTYPES[out_dtype].name


@rule("quantized_decomposed.dequantize_per_tensor")
def _dequantize_per_tensor(
    input: Value, scale: Any, zero_point: Any, quant_min: Any, quant_max: Any, dtype: torch.dtype, *,
    out_dtype: torch.dtype | None = None,
) -> Value:  # fmt: skip
    scale = cast(_number(scale, "f64"), "f32")
    to = _result(out_dtype)
    return lib.dequantize(input, scale, _zero(zero_point), to="" if to == "f32" else to)


@rule("quantized_decomposed.dequantize_per_channel")
def _dequantize_per_channel(
    input: Value, scales: Value, zero_points: Value | None, axis: int, quant_min: Any, quant_max: Any,
    dtype: torch.dtype, *, out_dtype: torch.dtype | None = None,
) -> Value:  # fmt: skip
    to = _result(out_dtype)
    return lib.dequantize(input, scales, zero_points, axis=axis, to="" if to == scales.dtype.name else to)


@rule("quantized_decomposed.dequantize_per_token")
def _dequantize_per_token(
    input: Value, scales: Value, zero_points: Value, quant_min: Any, quant_max: Any, dtype: torch.dtype,
    output_dtype: torch.dtype,
) -> Value:  # fmt: skip
    return cast(lib.dequantize(input, cast(scales, "f32"), zero_points), DTYPES[output_dtype])


@rule("quantized_decomposed.dequantize_per_channel_group")
def _dequantize_per_channel_group(
    w_int8: Value, scales: Value, zero_points: Value | None, quant_min: Any, quant_max: Any, dtype: torch.dtype,
    group_size: int, output_dtype: torch.dtype,
) -> Value:  # fmt: skip
    """Each row of a matrix in blocks, scales ``[rows blocks]``."""
    rows, columns = w_int8.shape
    block = columns if group_size > columns else group_size
    each = tuple(lib.reshape(v, shape=(rows, columns // block)) for v in (scales, zero_points) if v is not None)
    return cast(lib.dequantize(w_int8, *each, axis=1, block=block), DTYPES[output_dtype])
