"""Norms as ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tdagger.frameworks.onnx.emit.composites.rule import (
    F32,
    Rule,
    back,
    flattened,
    in_f32,
    in_floats,
    spread_over,
    tensor,
)
from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.moves import with_shape
from tdagger.frameworks.onnx.emit.writer import Writer, has_sizes
from tdagger.frameworks.writing import Fields, unbroadcast
from tdagger.op import Value
from tdagger.types import DType, Size, TensorType


def _vector(w: Writer, v: Value | None, number: float, size: int, dtype: DType) -> str:
    """A weight, or a vector of one number where there is none."""
    if v is not None:
        return w.ref(v)
    if size.__class__ is Size:
        return w.node("Expand", [w.scalar(number, dtype), w.ints([size])])
    return w.const(np.full(int(size), number, dtype.numpy))


def _channel_norm(op: str, *statistics: str) -> Callable[[Writer, Value, Fields], str]:
    """A norm that scales and shifts channels, with further inputs."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x: Value = f["x"]
        after = x.rank - f["axis"]
        to = computed_in(op, v.dtype)
        name, _ = flattened(w, x, after)
        size = x.shape[f["axis"]]
        weight, bias = (_vector(w, tensor(v, f, n), d, size, v.dtype) for n, d in (("weight", 1), ("bias", 0)))
        inputs = [name, weight, bias, *[w.ref(f[n]) for n in statistics]]
        out = w.node(op, [w.cast(i, v.dtype, to) for i in inputs], epsilon=float(f["eps"]))
        return back(w, w.cast(out, to, v.dtype), v.type, after)

    return write


def _group_norm(w: Writer, v: Value, f: Fields) -> str:
    """InstanceNormalization of the groups as channels; onnxruntime has no kernel of GroupNormalization."""
    x: Value = f["x"]
    axis, groups, dtype = f["axis"], f["groups"], v.dtype
    to = computed_in("InstanceNormalization", dtype)
    shape = (math.prod(x.shape[:axis]), groups, -1)
    target = w.ints([0 if axis == 1 else shape[0], groups, -1])
    name = w.node("Reshape", [w.cast(w.ref(x), dtype, to), target])
    ones, zeros = (_vector(w, None, n, groups, to) for n in (1, 0))
    out = w.node("InstanceNormalization", [name, ones, zeros], epsilon=float(f["eps"]))
    three = x.type.with_shape((shape[0], groups, math.prod(x.shape[axis:]) // groups)).with_dtype(to)
    out = with_shape(w, out, three, x.shape)
    for op, part in (("Mul", "weight"), ("Add", "bias")):
        value = tensor(v, f, part)
        if value is not None:
            spread = w.ref(spread_over(value, x.rank - axis - 1))
            out = w.node(op, [out, w.cast(spread, dtype, to)])
    return w.cast(out, to, dtype)


def _has_groups(f: Fields, types: Sequence[TensorType]) -> bool:
    return in_f32(f, types)


def _layer_norm(w: Writer, v: Value, f: Fields) -> str:
    x: Value = f["x"]
    to = computed_in("LayerNormalization", v.dtype)
    weight, bias = tensor(v, f, "weight"), tensor(v, f, "bias")
    shape = x.shape[x.rank - f["rank"] :]
    scale = w.const(np.ones(shape, v.dtype.numpy)) if weight is None else w.ref(unbroadcast(weight))
    inputs = [w.ref(x), scale, *([] if bias is None else [w.ref(unbroadcast(bias))])]
    out = w.node("LayerNormalization", [w.cast(i, v.dtype, to) for i in inputs], axis=-f["rank"],
                 epsilon=float(f["eps"]))  # fmt: skip
    return w.cast(out, to, v.dtype)


def _has_shape(f: Fields, types: Sequence[TensorType]) -> bool:
    x = types[0]
    return in_f32(f, types) and not has_sizes(x.shape[x.rank - f["rank"] :])


def _rms_norm(w: Writer, v: Value, f: Fields) -> str:
    """RMSNormalization, or before it the nodes that onnxruntime makes one of (SimplifiedLayerNormalization)."""
    x: Value = f["x"]
    dtype, weight = v.dtype, tensor(v, f, "weight")
    to = F32 if dtype.bytes < 4 else dtype
    eps = f["eps"] if f["eps"] is not None else 2.0**-52 if to.bytes == 8 else 2.0**-23
    name = w.cast(w.ref(x), dtype, to)
    scale = None if weight is None else w.cast(w.ref(unbroadcast(weight)), dtype, to)
    if w.opset >= 23 and not has_sizes(x.shape[x.rank - f["rank"] :]):
        scale = scale or w.const(np.ones(x.shape[x.rank - f["rank"] :], to.numpy))
        out = w.node("RMSNormalization", [name, scale], axis=-f["rank"], epsilon=float(eps))
        return w.cast(out, to, dtype)
    squares = w.node("Pow", [name, w.scalar(2, to)])
    mean = w.node("ReduceMean", [squares, w.ints(range(-f["rank"], 0))], keepdims=1)
    root = w.node("Sqrt", [w.node("Add", [mean, w.scalar(eps, to)])])
    out = w.node("Div", [name, root])
    out = out if scale is None else w.node("Mul", [out, scale])
    return w.cast(out, to, dtype)


def _lrn(w: Writer, v: Value, f: Fields) -> str:
    return w.typed("LRN", v.dtype, [w.ref(v.args[0])], alpha=float(f["alpha"]), beta=float(f["beta"]),
                   bias=float(f["k"]), size=f["size"])  # fmt: skip


def _odd_neighbours(f: Fields, types: Sequence[TensorType]) -> bool:
    """onnxruntime takes images, and refuses even sizes (where ONNX and torch differ)."""
    return in_f32(f, types) and f["axis"] == 1 and types[0].rank == 4 and f["size"] % 2 == 1


#: Of each composite its row.
NORMS: dict[str, Rule] = {
    "batch_norm": Rule(_channel_norm("BatchNormalization", "mean", "variance"), in_f32),
    "instance_norm": Rule(_channel_norm("InstanceNormalization"), in_f32),
    "layer_norm": Rule(_layer_norm, _has_shape),
    "rms_norm": Rule(_rms_norm, in_floats),
    "group_norm": Rule(_group_norm, _has_groups),
    "local_response_norm": Rule(_lrn, _odd_neighbours),
}
