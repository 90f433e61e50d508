"""Activations as ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tdagger.frameworks.onnx.emit.composites.arithmetic import clip
from tdagger.frameworks.onnx.emit.composites.rule import Rule, floats, narrow, real_numbers, spread_over
from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.writer import Writer
from tdagger.frameworks.writing import Fields
from tdagger.op import Value
from tdagger.ops.structure import squeeze
from tdagger.types import TensorType


def _with(op: str, **names: str) -> Callable[[Writer, Value, Fields], str]:
    """An operator of one tensor whose attributes are the composite's: ``alpha="slope"``."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        options: dict[str, Any] = {k: float(f[n]) for k, n in names.items()}
        return w.typed(op, v.dtype, [w.ref(v.args[0])], **options)

    return write


def _along(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.is_float and types[0].rank > 0


def _axis(op: str) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        return w.typed(op, v.dtype, [w.ref(v.args[0])], axis=f["axis"])

    return write


def _silu(w: Writer, v: Value, f: Fields) -> str:
    """``x * sigmoid(x)``: the two nodes that onnxruntime makes one of."""
    to = computed_in("Sigmoid", v.dtype)
    x = w.cast(w.ref(v.args[0]), v.dtype, to)
    return w.cast(w.node("Mul", [x, w.node("Sigmoid", [x])]), to, v.dtype)


def _mish(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("Softplus", v.dtype)
    x = w.cast(w.ref(v.args[0]), v.dtype, to)
    return w.cast(w.node("Mul", [x, w.node("Tanh", [w.node("Softplus", [x])])]), to, v.dtype)


def _gelu(w: Writer, v: Value, f: Fields) -> Any:
    if w.opset < 20 and f["approximate"] != "none":
        return w.body(v)
    to = computed_in("Gelu", v.dtype)
    x = w.cast(w.ref(v.args[0]), v.dtype, to)
    if w.opset >= 20:
        return w.cast(w.node("Gelu", [x], approximate=None if f["approximate"] == "none" else "tanh"), to, v.dtype)
    inner = w.node("Erf", [w.node("Div", [x, w.scalar(math.sqrt(2), to)])])
    out = w.node("Mul", [x, w.node("Add", [inner, w.scalar(1, to)])])
    return w.cast(w.node("Mul", [out, w.scalar(0.5, to)]), to, v.dtype)


def _prelu(w: Writer, v: Value, f: Fields) -> str:
    weight: Value = f["weight"]
    to = computed_in("PRelu", v.dtype)
    shape = (
        (1,)
        if weight.shape == (1,) and v.rank
        else ()
        if not v.rank
        else (*weight.shape, *[1] * (v.rank - f["axis"] - 1))
    )
    spread = w.ref(spread_over(weight, len(shape) - 1) if len(shape) else squeeze(weight, (0,)))
    return w.cast(w.node("PRelu", [w.cast(w.ref(f["x"]), v.dtype, to), w.cast(spread, v.dtype, to)]), to, v.dtype)


def _plain_softplus(f: Fields, types: Sequence[TensorType]) -> bool:
    """Beyond the threshold it is x itself, which f32 can't tell apart."""
    return narrow(f, types) and f["beta"] == 1 and f["threshold"] >= 20


#: Of each composite its row.
ACTIVATIONS: dict[str, Rule] = {
    "relu": Rule("Relu", real_numbers),
    "relu6": Rule(lambda w, v, f: clip(w, v.args[0], 0, 6), floats),
    "hardtanh": Rule(lambda w, v, f: clip(w, v.args[0], f["low"], f["high"]), floats),
    "leaky_relu": Rule(_with("LeakyRelu", alpha="slope"), narrow),
    "elu": Rule(_with("Elu", alpha="alpha"), narrow),
    "selu": Rule("Selu", narrow),
    "celu": Rule(_with("Celu", alpha="alpha"), narrow),
    "prelu": Rule(_prelu, narrow),
    "gelu": Rule(_gelu, narrow),
    "silu": Rule(_silu, floats),
    "mish": Rule(_mish, narrow),
    "sigmoid": Rule("Sigmoid", floats),
    "hard_sigmoid": Rule(
        lambda w, v, f: w.typed("HardSigmoid", v.dtype, [w.ref(v.args[0])], alpha=1 / 6, beta=0.5), narrow
    ),
    "hard_swish": Rule("HardSwish", narrow),
    "softplus": Rule("Softplus", _plain_softplus),
    "softsign": Rule("Softsign", narrow),
    "softmax": Rule(_axis("Softmax"), _along),
    "log_softmax": Rule(_axis("LogSoftmax"), _along),
    "straight_through": Rule(lambda w, v, f: v.args[1]),
}
