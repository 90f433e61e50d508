"""Blocks that have no op of their own: patterns to look for, ``dag.find(conv_bn_relu)``, and to give replacements."""

from __future__ import annotations

from typing import Any

from tdagger.library.activation import gelu, relu, silu
from tdagger.library.conv import convolution
from tdagger.library.linear import linear
from tdagger.library.norm import batch_norm
from tdagger.ops.elementwise import neg
from tdagger.ops.structure import concat
from tdagger.transform.rewrite import either, no, op, rule


@rule
def conv_bn_relu(
    x: Any, weight: Any, mean: Any, variance: Any, conv: Any, bn: Any, bias: Any = None, gamma: Any = None,
    beta: Any = None,
) -> Any:  # fmt: skip
    """A convolution, its batch norm and a ReLU."""
    return relu(batch_norm(convolution(x, weight, bias, **conv), mean, variance, gamma, beta, **bn))


@rule
def rotary(x: Any, cos: Any, sin: Any, late: Any, early: Any) -> Any:
    """Rotary position embedding: ``x * cos + concat(-second half, first half) * sin``."""
    halves = concat([neg(op("slice", x, bounds=late)), op("slice", x, bounds=early)], -1)
    return x * cos + halves * sin


@rotary.when
def _(x: Any, late: Any, early: Any) -> Any:
    half = x.shape[-1] // 2
    wanted = [(0, half), (half, x.shape[-1])]
    found = [tuple(map(int, b[-1][:2])) for b in (early, late)]
    return found == wanted or no(f"{found} aren't the halves of {x.type}")


@rule
def swiglu(x: Any, gate: Any, up: Any, a: Any = None, b: Any = None) -> Any:
    """A gated layer: ``silu(linear(x, gate)) * linear(x, up)``, or with GELU."""
    return either(silu(linear(x, gate, a)), gelu(linear(x, gate, a))) * linear(x, up, b)


BLOCKS = (conv_bn_relu, rotary, swiglu)
