"""The one table of rules for layers, and what they are written with.

A rule takes the network as it is read, the layer's parameters (a protobuf) and the layer's inputs, and gives a value or
a tuple of several. Everything is a float in these networks: indices and truths come as floats, and go as such. What a
layer of a rule shares with an op of MIL is called by :func:`mil`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tdagger import library as lib
from tdagger.errors import UnsupportedError
from tdagger.frameworks.coreml.ops import RULES
from tdagger.op import Value
from tdagger.ops import elementwise as e

#: Rules by the name of the layer's field.
LAYERS: dict[str, Callable[..., Any]] = {}

#: Layers that have no rule, and why.
REASONS: dict[str, str] = {
    "custom": "it is code of an app's own",
    "dot": "products of blobs along their channels aren't imported",
    "NonMaximumSuppression": "it keeps or drops boxes one after the other by data, in a loop",
    "categoricalDistribution": "its random numbers of categories aren't imported",
}


def layer(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the rule of layers."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in LAYERS, name
            LAYERS[name] = function
        return function

    return register


def mil(op: str, *args: Any, **more: Any) -> Any:
    """The result of a rule of MIL's op."""
    return RULES[op].function(*args, **more)


def unsupported(why: str) -> UnsupportedError:
    """An error for what a layer can't be imported with."""
    return UnsupportedError(why)


def floats(*xs: Value) -> tuple[Value, ...]:
    """Values as floats."""
    return tuple([as_float(x) for x in xs])


def as_float(x: Value) -> Value:
    """A value as floats."""
    return x if x.dtype.is_float else e.cast(x, "f32")


def whole(x: Value) -> Value:
    """A value as indices."""
    return x if x.dtype.is_int else e.cast(x, "i32")


def truth(x: Value) -> Value:
    """A value as a bool."""
    return x if x.dtype.name == "bool" else e.not_equal(x, 0 if x.dtype.is_int else 0.0)


def images(x: Value, rank: int = 4) -> tuple[Value, tuple[int, ...]]:
    """``[.. c h w]`` with one axis before the channels, and what was there."""
    lead = x.shape[: x.rank - rank + 1]
    return lib.reshape(x, shape=(math.prod(lead), *x.shape[x.rank - rank + 1 :])), lead


def and_back(x: Value, lead: tuple[int, ...]) -> Value:
    """With the axes that were there before the channels."""
    return lib.reshape(x, shape=(*lead, *x.shape[1:]))


def edges(amounts: Any) -> list[int]:
    """How much is added or cut at the top, bottom, left and right."""
    sides = [(int(a.startEdgeSize), int(a.endEdgeSize)) for a in amounts.borderAmounts]
    return [n for side in (sides or [(0, 0), (0, 0)]) for n in side]
