"""Norms written out: layer norm and RMS norm, with statistics in f32 or not, their weights and biases."""

from __future__ import annotations

from typing import Any

from tdagger.library.arithmetic import rsqrt, square
from tdagger.library.norm import layer_norm, rms_norm
from tdagger.library.reduction import mean, variance
from tdagger.op import Value
from tdagger.ops.elementwise import pow_, reciprocal, sqrt
from tdagger.transform.rewrite import either, no, number, only, op, rule, spread
from tdagger.types import DType


def _squared(x: Any) -> Any:
    return either(square(x), x * x, pow_(x, 2.0))


def _over_root(x: Any, squares: Any) -> Any:
    """``x / sqrt(squares)`` in the ways it is written."""
    root = sqrt(squares)
    return either(x / root, x * rsqrt(squares), x * reciprocal(root), x * (1.0 / root), x * pow_(squares, -0.5))


def _moments(x: Any, axes: Any) -> tuple[Any, Any]:
    """``x - mean`` and the variance, over axes."""
    away = x - mean(x, axes=axes, keep=True)
    var = either(
        mean(_squared(away), axes=axes, keep=True),
        variance(x, axes=axes, correction=0.0, keep=True),
    )
    return away, var


def _last(x: Value, axes: Any) -> Any:
    """Whether axes are the last ones of a tensor of floats."""
    return axes == tuple(range(x.rank - len(axes), x.rank)) or no(f"axes {axes} of {x.type} aren't the last")


@rule
def layer_norm_written_out(x: Any, axes: Any, eps: Any) -> Any:
    """``(x - mean) / sqrt(variance + eps)``."""
    away, var = _moments(x, axes)
    return _over_root(away, var + number(eps))


@rule
def layer_norm_weight_first(x: Any, v: Any, axes: Any, eps: Any) -> Any:
    """``weight * (x - mean) / sqrt(variance + eps)``."""
    away, var = _moments(x, axes)
    return _over_root(away * spread(v), var + number(eps))


@rule
def rms_norm_written_out(x: Any, axes: Any, eps: Any) -> Any:
    """``x / sqrt(mean(x * x) + eps)``."""
    return _over_root(x, mean(_squared(x), axes=axes, keep=True) + number(eps))


layer_norm_written_out.when(_last)
layer_norm_weight_first.when(_last)
rms_norm_written_out.when(_last)


@layer_norm_written_out.to
def _(x: Any, axes: Any, eps: Any) -> Any:
    return layer_norm(x, rank=len(axes), eps=eps)


@rms_norm_written_out.to
def _(x: Any, axes: Any, eps: Any) -> Any:
    return rms_norm(x, rank=len(axes), eps=eps)


def _fits(x: Value, v: Value, kept: Any) -> Any:
    """Whether a vector is along the axes that a norm is over."""
    wanted = x.type.with_shape(x.shape[x.rank - kept["rank"] :])
    return v.type is wanted or no(f"{v.type} isn't {wanted}")


@rule
def layer_norm_weight(x: Any, v: Any, kept: Any) -> Any:
    """A product with a norm that has no weight yet."""
    return only(layer_norm(x, **kept)) * spread(v)


@rule
def layer_norm_bias(x: Any, v: Any, kept: Any, w: Any = None) -> Any:
    """A sum with a norm that has no bias yet."""
    return only(layer_norm(x, w, **kept)) + spread(v)


@rule
def rms_norm_weight(x: Any, v: Any, kept: Any) -> Any:
    """A product with a norm that has no weight yet."""
    return only(rms_norm(x, **kept)) * spread(v)


@layer_norm_weight_first.when
def _(x: Value, v: Value, axes: Any) -> Any:
    return _fits(x, v, {"rank": len(axes)})


@layer_norm_weight_first.to
def _(x: Any, v: Any, axes: Any, eps: Any) -> Any:
    return layer_norm(x, v, rank=len(axes), eps=eps)


for _rule in (layer_norm_weight, layer_norm_bias, rms_norm_weight):
    _rule.when(_fits)


@layer_norm_weight.to
def _(x: Any, v: Any, kept: Any) -> Any:
    return layer_norm(x, v, **kept)


@layer_norm_bias.to
def _(x: Any, w: Any, v: Any, kept: Any) -> Any:
    return layer_norm(x, w, v, **kept)


@rms_norm_weight.to
def _(x: Any, v: Any, kept: Any) -> Any:
    return rms_norm(x, v, **kept)


@rule
def norm_in_f32(x: Any, kept: Any, wide: Any, narrow: Any) -> Any:
    """Statistics of narrow floats in f32, rounded at the end, as the composites do by themselves."""
    inner = op("cast", x, dtype=wide)
    return op("cast", either(only(rms_norm(inner, **kept)), only(layer_norm(inner, **kept))), dtype=narrow)


@norm_in_f32.when
def _(x: Value, wide: DType, narrow: DType) -> Any:
    return wide.name == "f32" and x.dtype is narrow and narrow.bytes < 4


@norm_in_f32.to
def _(x: Any, kept: Any, root: Value) -> Any:
    return (rms_norm if root.args[0].op.name == "rms_norm" else layer_norm)(x, **kept)


NORMS = (
    layer_norm_written_out,
    layer_norm_weight_first, rms_norm_written_out, norm_in_f32, layer_norm_weight, layer_norm_bias, rms_norm_weight,
)  # fmt: skip
