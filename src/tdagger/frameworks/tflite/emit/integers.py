"""How ``quantize`` and ``dequantize`` are written: operators around those of floats.

:mod:`tdagger.frameworks.tflite.emit.kernels` then makes integer operators of what lies between.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tdagger.frameworks.tflite.emit import core
from tdagger.frameworks.tflite.emit.writer import Row, Writer
from tdagger.frameworks.tflite.schema import Quantization
from tdagger.frameworks.writing import fields
from tdagger.graph import is_one, topological
from tdagger.library.quantized import GRIDS
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input
from tdagger.ops.structure import Concat, Group, Pad, Permute, Repeat, Slice, Ungroup
from tdagger.transform.legal import Accepts, label, types
from tdagger.types import DType

I8 = DType.of("i8")
_I32 = DType.of("i32")

# --- the rows ----------------------------------------------------------------------------------------------


def _step(f: dict[str, Any], dtype: DType) -> Quantization | None:
    """One scale and one zero point, both known; None where they aren't."""
    scale, zero = f["scale"], f["zero_point"]
    parts = [p for p in (scale, zero) if p is not None]
    if any(not isinstance(p.op, Const) or p.type.size != 1 for p in parts) or scale.dtype.name != "f32":
        return None
    step = scale.op.data.reshape(1)
    offset = np.zeros(1, np.int64) if zero is None else zero.op.data.reshape(1).astype(np.int64)
    if not (np.isfinite(step).all() and (step > 0).all()) or (dtype.name == "i16" and offset.any()):
        return None
    return Quantization(step, offset, 0)


def _quantizes(v: Value) -> str | None:
    f = fields(v)
    grid = GRIDS[f["to"]]
    plain = f["to"] in ("i8", "u8", "i16") and not f["block"] and f["precision"] in ("", "f32")
    whole = (f["low"] in (None, grid.low)) and (f["high"] in (None, grid.high))
    fits = plain and whole and _step(f, v.dtype) is not None
    return None if fits else "TFLite rounds to i8, u8 and i16, by one scale that is known"


def _reads(v: Value) -> str | None:
    f = fields(v)
    x, step = f["x"], _step(f, f["x"].dtype)
    fits = not f["block"] and v.dtype.name == "f32" and not f["of"] and step is not None
    return None if fits and _rounded(x, step) else "TFLite reads what was rounded by the same scale"


def _rounded(x: Value, step: Quantization | None) -> bool:
    """Whether the integers of a value are steps of a known size: they were rounded to it."""
    if isinstance(x.op, Input | Buffer):
        return True
    own = _step(fields(x), x.dtype) if x.op.name == "quantize" else None
    return own is not None and step is not None and same(own, step) and _quantizes(x) is None


def _quantize(w: Writer, v: Value) -> int:
    number = w.op("QUANTIZE", [w.ref(v.args[0])], v.type, version=1)
    w.part.tensors[number] = w.part.tensors[number]._replace(steps=_step(fields(v), v.dtype))
    return number


def _dequantize(w: Writer, v: Value) -> int:
    """A tensor has one scale; an input that is read with another too is computed with it."""
    number, steps = w.ref(v.args[0]), _step(fields(v), v.args[0].dtype)
    tensor = w.part.tensors[number]
    assert steps is not None
    if tensor.steps is not None and not same(tensor.steps, steps):
        less = w.op("SUB", [core.cast_to(w, number, tensor.type, v.dtype), w.constant(np.float32(steps.zero_point[0]))],
                    v.type, core.options("Sub"))  # fmt: skip
        return w.op("MUL", [less, w.constant(np.float32(steps.scale[0]))], v.type, core.options("Mul"))
    w.part.tensors[number] = tensor._replace(steps=steps)
    return w.op("DEQUANTIZE", [number], v.type, version=2)


def read_before(v: Value) -> Value | None:
    """What is read of integers that were moved, as what is read of them moved: ``dequantize(permute(x))``."""
    f = fields(v)
    steps = _step(f, f["x"].dtype)
    if steps is None or not _is_moved(f["x"]):
        return None
    again: dict[Value, Value] = {}
    for value in topological([f["x"]]):
        op: Any = value.op
        if not is_one(value) or value.dtype is not f["x"].dtype:
            continue
        if not _is_moved(value):
            again[value] = v.op(value, *v.args[1:])
            continue
        if isinstance(op, Pad):
            op = Pad(
                op.widths, float(np.float32(int(np.asarray(op.value).item()) - steps.zero_point[0]) * steps.scale[0])
            )
        again[value] = op(*[again[a] if a.dtype is value.dtype else a for a in value.args])
    return again[f["x"]]


def _is_moved(x: Value) -> bool:
    """Whether the entries of a value are those of its arguments, or padding: pools of the largest take some of them."""
    moves = isinstance(x.op, Permute | Group | Ungroup | Slice | Concat | Repeat | Pad)
    moves = moves or label(x) in ("reshape", "max_pool", "adaptive_max_pool")
    return moves or (x.op.name == "gather" and x.args[1].dtype is not x.dtype)


INTEGERS: dict[str, Row] = {
    "quantize": Row(Accepts(types("f32", "f32", "i8 u8 i16"), None, _quantizes), _quantize),
    "dequantize": Row(Accepts(types("i8 u8 i16", "f32", "i8 u8 i16"), None, _reads), _dequantize),
}


def same(a: Quantization | None, b: Quantization | None) -> bool:
    """Whether integers stand for the same numbers."""
    return a is b or (
        a is not None and b is not None and bool(a.scale[0] == b.scale[0]) and bool(a.zero_point[0] == b.zero_point[0])
    )
