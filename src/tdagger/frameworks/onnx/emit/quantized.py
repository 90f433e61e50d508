"""Rows of quantized tensors: QuantizeLinear and DequantizeLinear, whose int4 and int2 are held in bytes here."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto as T

from tdagger import library as lib
from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.emit.writer import Tensor, Writer
from tdagger.frameworks.onnx.file.tensors import ONNX_DTYPES
from tdagger.frameworks.writing import permuted
from tdagger.library.quantized import grid_of
from tdagger.op import Array, Value
from tdagger.ops.structure import permute
from tdagger.types import DType, TensorType

_NARROW = {"i4": T.INT4, "u4": T.UINT4, "i2": T.INT2, "u2": T.UINT2}
_SINCE = {"i8": 18, "u8": 18, "i32": 18, "f8e4m3": 19, "f8e5m2": 19, "i16": 21, "u16": 21, "i4": 21, "u4": 21,
          "i2": 25, "u2": 25}  # fmt: skip


def writes_quantize(f: dict[str, Any], types: Any, opset: int) -> bool:
    """Whether QuantizeLinear computes what the composite does."""
    grid = grid_of(f["to"])
    whole = f["low"] in (None, grid.low) and f["high"] in (None, grid.high) and f["like"] == "onnx"
    return whole and not f["precision"] and f["to"] != "i32" and _along(f, types, opset, _SINCE[f["to"]])


def writes_dequantize(f: dict[str, Any], types: Any, opset: int) -> bool:
    """Whether DequantizeLinear does; numbers of fewer bits than a byte are cast from it elsewhere."""
    name = f["of"] or types[0].dtype.name
    return name in _SINCE and f["to"] in ("", types[1].dtype.name) and _along(f, types, opset, _SINCE[name])


def _along(f: dict[str, Any], types: Any, opset: int, since: int) -> bool:
    """A node's zero point is one number, or has the shape of its scale."""
    _, scale, *zero = types
    if zero and zero[0].size != 1 and zero[0].shape != scale.shape:
        return False
    plain = scale.size == 1 or (f["axis"] is not None and not f["block"])
    blocks = f["block"] and opset >= 21
    return opset >= since and scale.dtype.name in ("f32", "f16") and bool(plain or blocks)


def quantize(w: Writer, v: Value, f: dict[str, Any]) -> str:
    """The node; what is held in bytes here is cast to them for whoever takes it as bytes."""
    zero = _zero(w, f, f["to"])
    out = w.node("QuantizeLinear", [w.ref(f["x"]), _scale(w, f), zero], **_axis(f))
    if f["to"] not in _NARROW:
        return out
    w.held[v] = out
    return w.node("Cast", [out], to=ONNX_DTYPES[v.dtype])


def dequantize(w: Writer, v: Value, f: dict[str, Any]) -> Any:
    """The node, on numbers of the element type that they are of."""
    zero: Value | None = f["zero_point"]
    if zero is not None and f["x"].dtype.name == "i32":  # onnxruntime's difference wraps around
        known = w.array(zero)
        if known is None or known.any():
            return w.body(v)
        zero = None
    inputs = [held(w, f["x"], f["of"]), _scale(w, f)]
    name = f["of"] or f["x"].dtype.name
    if zero is not None or not grid_of(name).is_float:  # without one, onnxruntime makes no QGemm of it
        inputs.append(_zero(w, {**f, "zero_point": zero}, name))
    return w.node("DequantizeLinear", inputs, **_axis(f))


def quantize_dynamic(w: Writer, v: Value, f: dict[str, Any]) -> Any:
    """Three results."""
    return w.node("DynamicQuantizeLinear", [w.ref(f["x"])], 3)


def transposed(w: Writer, weight: Value) -> str | None:
    """A quantized matrix with its axes exchanged before it is read; None if it isn't one."""
    if weight.op.name != "dequantize" or weight.rank != 2:
        return None
    f = weight.op.attributes
    scales = [a if a.rank < 2 else permute(a, (1, 0)) for a in weight.args[1:]]
    axis = None if f["axis"] is None else 1 - f["axis"]
    return w.ref(lib.dequantize(permute(weight.args[0], (1, 0)), *scales, **{**f, "axis": axis}))


def _axis(f: dict[str, Any]) -> dict[str, Any]:
    if f["axis"] is None or f["scale"].type.size == 1:
        return {}
    return {"axis": f["axis"], "block_size": f["block"] or None}


def _scale(w: Writer, f: dict[str, Any]) -> str:
    return held(w, _single(f["scale"]), "")


def _zero(w: Writer, f: dict[str, Any], of: str) -> str:
    """The zero point in the numbers' element type, which says what is quantized to."""
    given: Value | None = f["zero_point"]
    if given is not None and grid_of(of).dtype is given.dtype:
        return held(w, _single(given), of)
    grid = grid_of(of)
    scale = f["scale"]
    data = np.zeros(() if scale.type.size == 1 else scale.shape, grid.dtype.numpy)
    if given is not None:
        known = w.array(given)
        if known is None:
            return w.cast(w.ref(_single(given)), given.dtype, grid.dtype)
        if known.min() < grid.low or known.max() > grid.high:
            raise UnsupportedError(f"the zero point {known.tolist()} isn't one of {of}, {grid.low} to {grid.high}")
        data = known.reshape(data.shape).astype(grid.dtype.numpy)
    return _constant(w, data, of)


def _single(v: Value) -> Value:
    """One number has rank 0."""
    return lib.reshape(v, shape=()) if v.type.size == 1 and v.rank else v


def held(w: Writer, x: Value, of: str) -> str:
    """The tensor of a value in the element type that is held in its own."""
    if x in w.held and of:
        return w.held[x]
    base, order = permuted(x)
    leaf = w.weight(base)
    if leaf is not None:
        kind = _NARROW.get(of, 0)
        flipped = order != tuple(range(x.rank))
        if not kind and not flipped:
            return w.ref(x)
        if not kind and _lies(w, leaf):  # one table in the file
            return w.node("Transpose", [w.ref(base)], perm=order)
        name = ".".join([*(["T"] if flipped else []), *([of] if kind else [])])
        return w.combined([leaf], name, lambda a: np.ascontiguousarray(a.transpose(order)), x.type, kind)
    if not of or of not in _NARROW:
        return w.ref(x)
    known = w.array(x)
    return w.node("Cast", [w.ref(x)], to=_NARROW[of]) if known is None else _constant(w, known, of)


def _lies(w: Writer, leaf: Value) -> bool:
    """Whether the integers of a matrix are also read as they lie: by more than linear layers that take it flipped."""
    readers = [u for u in w.users.get(leaf, ()) if u.op.name != "permute"]
    return any(u.op.name != "dequantize" or not w.is_flipped(u) for u in readers)


def _constant(w: Writer, data: Array, of: str) -> str:
    if of not in _NARROW:
        return w.const(data)
    key = (of, data.shape, data.tobytes())
    return w.constant_of(key, Tensor(TensorType(data.shape, DType.of(data.dtype)), lambda: data, _NARROW[of]))
