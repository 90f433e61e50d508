"""Activation functions. float16 and bfloat16 are computed in float32 and rounded once, as torch does."""

from __future__ import annotations

import math
from typing import Any

from tdagger.composite import Composite, composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.arithmetic import always, clamp, of_result, wide
from tdagger.op import Value, ValueFunction, normal_axis
from tdagger.ops.elementwise import (
    abs_,
    cast,
    erf,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    neg,
    reciprocal,
    sqrt,
    tanh,
    where,
    zeros_like,
)
from tdagger.ops.structure import broadcast_to, reduce, split, squeeze, unsqueeze
from tdagger.types import TensorType


def _same(op: Composite, *types: TensorType) -> ValueFunction:
    """The pseudo-inverse of a function that leaves its own results alone."""
    del op, types
    return of_result(lambda y: y)


def _below_zero(x: Value) -> Value:
    """``x`` where it is not above 0, else 0: so that exp of what isn't chosen can't overflow."""
    return where(x > 0.0, 0.0, x)


def _floats(op: Any, *types: TensorType) -> TensorType | None:
    """The type of an activation of one tensor of floats: its own. For those without attributes, that may be wrong."""
    return types[0] if len(types) == 1 and op.given == (True,) and types[0].dtype.is_float else None


# --- pieces of lines ---------------------------------------------------------------------------------------


@composite
def relu(x: Value) -> Value:
    """``max(x, 0)``; NaN stays NaN."""
    return maximum(x, zeros_like(x))


@composite
def relu6(x: Value) -> Value:
    """``min(max(x, 0), 6)``; NaN stays NaN."""
    return minimum(maximum(x, 0), 6)


@composite
def hardtanh(x: Value, *, low: float = -1.0, high: float = 1.0) -> Value:
    """``x`` not below ``low`` and not above ``high``; NaN stays NaN."""
    return minimum(maximum(x, low), high)


relu.inverse(_same)
relu6.inverse(_same)
hardtanh.inverse(_same)


@composite
def leaky_relu(x: Value, *, slope: float = 0.01) -> Value:
    """``x`` where it is above 0, else ``slope * x``."""
    w = wide(x)
    return cast(where(w > 0.0, w, w * slope), x.dtype)


@leaky_relu.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    slope: float = op.attributes["slope"]
    if slope <= 0:  # results are all positive, and positive x is left alone
        return _same(op)
    return of_result(lambda y: where(y > 0.0, y, y / slope))


def _channels(x: Value, weight: Value, *, axis: int = 1) -> tuple[tuple[Value, Value], dict[str, Any]]:
    """Of one weight for all the axis says nothing, so that it is always the same."""
    return (x, weight), {"axis": 1 if weight.shape == (1,) else normal_axis(axis, x.rank)}


@composite(prepare=_channels, normal_axes=False)
def prelu(x: Value, weight: Value, *, axis: int = 1) -> Value:
    """``x`` where it is above 0, else ``weight * x``: one weight ``[1]``, or one for each entry of ``axis`` ``[c]``."""
    if weight.rank != 1 or (weight.shape[0] != 1 and weight.shape != x.shape[axis : axis + 1]):
        raise TypeMismatchError(f"prelu: weight must be [1] or as long as axis {axis} of x: {x.type} and {weight.type}")
    w, slope = wide(x), wide(weight)
    slope = squeeze(slope, (0,)) if weight.shape == (1,) else unsqueeze(slope, range(1, x.rank - axis))
    return cast(where(w > 0.0, w, broadcast_to(slope, x.shape) * w), x.dtype)


@composite
def hard_sigmoid(x: Value) -> Value:
    """``(x + 3) / 6`` between 0 and 1."""
    return cast(relu6(wide(x) + 3.0) / 6.0, x.dtype)


@composite
def hard_swish(x: Value) -> Value:
    """``x * hard_sigmoid(x)``."""
    w = wide(x)
    return cast(w * hard_sigmoid(w), x.dtype)


@composite
def soft_shrink(x: Value, *, lambd: float = 0.5) -> Value:
    """``x`` moved towards 0 by ``lambd``, but not past it."""
    w = wide(x)
    return cast(w - clamp(w, low=-lambd, high=lambd), x.dtype)


@composite
def hard_shrink(x: Value, *, lambd: float = 0.5) -> Value:
    """0 where ``-lambd <= x <= lambd``, else ``x``."""
    return where((x >= -lambd) & (x <= lambd), 0, x)


@composite
def threshold(x: Value, *, threshold: float, value: float) -> Value:
    """``x`` where it is above ``threshold`` (or NaN), else ``value``."""
    return where(x <= threshold, value, x)


hard_shrink.inverse(_same)


@composite
def dropout(x: Value, *, p: float) -> Value:
    """``x`` itself: what dropout is in inference. Exporters make it drop with probability ``p`` in training."""
    if not 0 <= p <= 1:
        raise AttributeValueError(f"dropout: the probability must be within 0..1, got p={p}")
    return x


dropout.inverse(_same)
dropout.adjoint(_same)


# --- exponentials ------------------------------------------------------------------------------------------


@composite(own_gradient=True)
def sigmoid(x: Value) -> Value:
    """``1 / (1 + exp(-x))``; its gradient is 0, not that of the formula (NaN), where ``exp(-x)`` is infinite."""
    return cast(reciprocal(1.0 + exp(neg(wide(x)))), x.dtype)


@composite(own_gradient=True)
def logit(x: Value, *, eps: float | None = None) -> Value:
    """``log(x / (1 - x))``, the inverse of sigmoid; ``x`` is first brought within ``eps`` .. ``1 - eps``."""
    w = wide(x)
    w = w if eps is None else clamp(w, low=eps, high=1 - eps)
    return cast(log(w / (1.0 - w)), x.dtype)


sigmoid.inverse(always(logit))
logit.inverse(always(sigmoid))


@composite
def log_sigmoid(x: Value) -> Value:
    """``log(sigmoid(x))`` without overflow."""
    w = wide(x)
    return cast(minimum(w, 0.0) - log1p(exp(neg(abs_(w)))), x.dtype)


# ``y - log(1 - exp(y))``.
log_sigmoid.inverse(always(lambda y: y - log(neg(expm1(y)))))


@composite
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """``x`` where it is above 0, else ``alpha * (exp(x) - 1)``."""
    w = wide(x)
    return cast(where(w > 0.0, w, expm1(_below_zero(w)) * alpha), x.dtype)


@elu.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    alpha: float = op.attributes["alpha"]
    if alpha == 0:
        return _same(op)
    return of_result(lambda y: where(y > 0.0, y, log1p(_below_zero(y) / alpha)))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@composite
def selu(x: Value) -> Value:
    """:func:`elu` with the alpha and scale of self-normalizing networks (Klambauer et al. 2017)."""
    w = wide(x)
    return cast(where(w > 0.0, w, expm1(_below_zero(w)) * _SELU_ALPHA) * _SELU_SCALE, x.dtype)


@selu.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del op, types
    down = 1 / (_SELU_ALPHA * _SELU_SCALE)
    return of_result(lambda y: where(y > 0.0, y / _SELU_SCALE, log1p(_below_zero(y) * down)))


@composite
def celu(x: Value, *, alpha: float = 1.0) -> Value:
    """``x`` where it is above 0, else ``alpha * (exp(x / alpha) - 1)``."""
    if alpha == 0:
        raise AttributeValueError("celu: alpha can't be 0")
    w = wide(x)
    return cast(where(w > 0.0, w, expm1(_below_zero(w) / alpha) * alpha), x.dtype)


@celu.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    del types
    alpha: float = op.attributes["alpha"]
    return of_result(lambda y: where(y > 0.0, y, log1p(_below_zero(y) / alpha) * alpha))


@composite
def softplus(x: Value, *, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """``log(1 + exp(beta * x)) / beta`` without overflow; ``x`` itself where ``beta * x`` is above ``threshold``."""
    if beta == 0:
        raise AttributeValueError("softplus: beta can't be 0")
    w = wide(x)
    scaled = w if beta == 1 else w * beta
    soft = maximum(scaled, 0.0) + log1p(exp(neg(abs_(scaled))))
    return cast(where(scaled > threshold, w, soft if beta == 1 else soft / beta), x.dtype)


@softplus.inverse
def _(op: Composite, *types: TensorType) -> ValueFunction:
    """``y + log(1 - exp(-beta * y)) / beta``."""
    del types
    beta, threshold = op.attributes["beta"], op.attributes["threshold"]

    def undo(y: Value) -> Value:
        scaled = y * beta
        return where(scaled > threshold, y, y + log(neg(expm1(neg(scaled)))) / beta)

    return undo


@composite
def softsign(x: Value) -> Value:
    """``x / (1 + |x|)``."""
    w = wide(x)
    return cast(w / (1.0 + abs_(w)), x.dtype)


softsign.inverse(always(lambda y: y / (1.0 - abs_(y))))


@composite
def silu(x: Value) -> Value:
    """``x * sigmoid(x)``."""
    w = wide(x)
    return cast(w * sigmoid(w), x.dtype)


@composite
def mish(x: Value) -> Value:
    """``x * tanh(softplus(x))``."""
    w = wide(x)
    return cast(w * tanh(softplus(w)), x.dtype)


@composite
def gelu(x: Value, *, approximate: str = "none") -> Value:
    """``x`` times the normal distribution below it, by erf, or with ``approximate="tanh"`` by tanh."""
    w = wide(x)
    if approximate == "none":
        inner = erf(w * math.sqrt(0.5))
    elif approximate == "tanh":
        inner = tanh((w + w * w * w * 0.044715) * math.sqrt(2 / math.pi))
    else:
        raise AttributeValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return cast(w * (0.5 + 0.5 * inner), x.dtype)


@composite
def tanh_shrink(x: Value) -> Value:
    """``x - tanh(x)``."""
    w = wide(x)
    return cast(w - tanh(w), x.dtype)


@composite
def gaussian(x: Value) -> Value:
    """``exp(-x * x)``."""
    w = wide(x)
    return cast(exp(neg(w * w)), x.dtype)


@composite
def inv_gaussian(x: Value) -> Value:
    """``sqrt(-log(x))``, the inverse of :func:`gaussian` for x >= 0."""
    return cast(sqrt(neg(log(wide(x)))), x.dtype)


gaussian.inverse(always(inv_gaussian))
inv_gaussian.inverse(always(gaussian))


# --- along an axis -----------------------------------------------------------------------------------------


@composite
def softmax(x: Value, *, axis: int) -> Value:
    """``exp(x) / sum(exp(x))`` along ``axis``, shifted by the largest entry so that it can't overflow."""
    w = wide(x)
    e = exp(w - reduce(w, "max", (axis,)))
    return cast(e / reduce(e, "sum", (axis,)), x.dtype)


# The logarithm: softmax of it gives the same again.
softmax.inverse(always(log))


@composite
def log_softmax(x: Value, *, axis: int) -> Value:
    """``log(softmax(x))`` along ``axis``, exact where softmax itself is 0."""
    w = wide(x)
    shifted = w - reduce(w, "max", (axis,))
    return cast(shifted - log(reduce(exp(shifted), "sum", (axis,))), x.dtype)


log_softmax.inverse(_same)


@composite
def glu(x: Value, *, axis: int) -> Value:
    """The first half of ``axis`` times the sigmoid of the second half."""
    n = x.shape[axis] if x.rank else 1
    if n % 2:
        raise TypeMismatchError(f"glu: axis {axis} of {x.type} is not made of two halves")
    a, b = split(wide(x), (n // 2, n // 2), axis)
    return cast(a * sigmoid(b), x.dtype)


for _definition in (relu, relu6, hard_sigmoid, hard_swish, sigmoid, log_sigmoid, softsign, silu, mish, tanh_shrink):
    _definition.types(_floats)


@softmax.types
def _(op: Any, *types: TensorType) -> TensorType | None:
    """Of floats along an axis that is there and has entries; the rest is the body's to take or refuse."""
    x = _floats(op, *types)
    axis: Any = op.axis
    return x if x is not None and type(axis) is int and 0 <= axis < x.rank and x.shape[axis] else None
