"""Activations written out: GELU's spellings, SiLU, sigmoid, hard swish, mish."""

# The wildcards of a rule have no types.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tdagger.library.activation import gelu, hard_swish, mish, relu6, sigmoid, silu, softplus
from tdagger.library.arithmetic import square
from tdagger.ops.elementwise import erf, exp, neg, pow_, reciprocal, tanh
from tdagger.transform.rewrite import Rule, either, rule_of


def _is(name: str, pattern: Callable[..., Any], composite: Any) -> Rule:
    return rule_of(name, pattern, lambda x: composite(x))


def _half(x: Any, factor: Any) -> Any:
    """``x / 2 * factor`` in the orders it is written."""
    half = either(x * 0.5, x / 2.0)
    return either(half * factor, either(x * factor * 0.5, (x * factor) / 2.0), x * either(factor * 0.5, factor / 2.0))


def _cube(x: Any) -> Any:
    return either(pow_(x, 3.0), x * x * x, x * (x * x), x * square(x))


def _tanh_argument(x: Any) -> Any:
    c = math.sqrt(2 / math.pi)
    inner = x + _cube(x) * 0.044715
    second = either(square(x) * 0.044715, x * x * 0.044715, x * 0.044715 * x, pow_(x, 2.0) * 0.044715)
    return either(inner * c, x * c * (second + 1.0), x * (second + 1.0) * c)


ACTIVATIONS = (
    _is(
        "gelu_erf",
        lambda x: _half(x, erf(either(x / math.sqrt(2), x * math.sqrt(0.5))) + 1.0),
        gelu,
    ),
    _is("gelu_tanh", lambda x: _half(x, tanh(_tanh_argument(x)) + 1.0), lambda x: gelu(x, approximate="tanh")),
    _is("sigmoid", lambda x: either(reciprocal(exp(neg(x)) + 1.0), 1.0 / (exp(neg(x)) + 1.0)), sigmoid),
    _is("silu", lambda x: either(x * sigmoid(x), x / (exp(neg(x)) + 1.0)), silu),
    _is("hard_swish", lambda x: either(x * relu6(x + 3.0) / 6.0, x * (relu6(x + 3.0) / 6.0)), hard_swish),
    _is("mish", lambda x: x * tanh(softplus(x)), mish),
)
