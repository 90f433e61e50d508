"""Random numbers: functions of a seed, which is an input of the graph, so that a graph stays a function.

Each draw takes a stream of its own, ``stream(seed, 1)``, ``stream(seed, 2)`` ...; the same seed gives the same
numbers, bit for bit, in every execution.

>>> import tdagger as td
>>> seed = td.input("seed", (), "u64")
>>> td.uniform(td.stream(seed, number=1), shape=(2, 3)).type
f32[2 3]
"""

from __future__ import annotations

import math
from typing import Any

from tdagger.composite import composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.library.linear import wide
from tdagger.op import Value, normal_axis
from tdagger.ops.elementwise import (
    bitwise_xor,
    cast,
    erfinv,
    less,
    log,
    mod,
    neg,
    shift_right,
    where,
)
from tdagger.ops.indexing import argsort
from tdagger.ops.source import const, random_bits
from tdagger.ops.structure import broadcast_to
from tdagger.types import DType, f32, f64, i64

#: What an importer calls the input that all random numbers come from; it is a u64 of rank 0.
SEED = "seed"

# An odd number without pattern (2^64 divided by the golden ratio): streams of neighbouring seeds don't meet.
_STEP = 0x9E3779B97F4A7C15


@composite
def stream(seed: Value, *, number: int) -> Value:
    """The seed of stream ``number`` of a seed: other numbers, or another seed, give unrelated random bits."""
    if number < 0:
        raise AttributeValueError(f"stream: the number can't be negative, got {number}")
    return bitwise_xor(seed, const(number * _STEP % 2**63, "u64"))


def _whole(seed: Value, shape: tuple[int, ...], bits: int) -> Value:
    """Random integers of 0 .. 2^bits - 1, i64; bits is at most 63."""
    return cast(shift_right(random_bits(seed, shape), 64 - bits), "i64")


#: How many bits of a random number a float type holds exactly.
_DIGITS = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}


def _typed(*args: Any, **attributes: Any) -> tuple[Any, dict[str, Any]]:
    """The element type by its name, the shape as a tuple."""
    if "dtype" in attributes:
        attributes["dtype"] = DType.of(attributes["dtype"])
    attributes["shape"] = tuple(attributes["shape"])
    return args, attributes


def _fraction(seed: Value, shape: tuple[int, ...], dtype: DType) -> Value:
    """Random floats of 0 (included) to 1, as fine as ``dtype`` holds them everywhere in that range."""
    if dtype.name not in _DIGITS:
        raise AttributeValueError(f"random numbers are of {', '.join(_DIGITS)}, not {dtype}")
    digits = _DIGITS[dtype.name]
    return cast(_whole(seed, shape, digits), dtype) * 2.0**-digits


@composite(prepare=_typed)
def uniform(seed: Value, *, shape: tuple[int, ...], dtype: DType = f32, low: float = 0.0, high: float = 1.0) -> Value:
    """Random floats of ``low`` (included) to ``high``, evenly spread."""
    x = _fraction(seed, shape, dtype)
    if (low, high) == (0.0, 1.0):
        return x
    return cast(wide(x) * (high - low) + low, dtype)


@composite(prepare=_typed)
def normal(seed: Value, *, shape: tuple[int, ...], dtype: DType = f32, mean: float = 0.0, std: float = 1.0) -> Value:
    """Random floats of the normal distribution, computed in f64."""
    u = (cast(_whole(seed, shape, 53), "f64") + 0.5) * 2.0**-52 - 1.0  # within -1..1, both left out
    z = erfinv(u) * (math.sqrt(2) * std)
    return cast(z + mean if mean else z, dtype)


@composite(prepare=_typed)
def exponential(seed: Value, *, shape: tuple[int, ...], dtype: DType = f32, rate: float = 1.0) -> Value:
    """Random floats of the exponential distribution: above 0, ``1 / rate`` on average; computed in f64."""
    u = (cast(_whole(seed, shape, 53), "f64") + 0.5) * 2.0**-53
    return cast(neg(log(u)) / rate, dtype)


@composite(prepare=_typed)
def random_integers(seed: Value, *, shape: tuple[int, ...], low: int, high: int, dtype: DType = i64) -> Value:
    """Random integers of ``low`` to ``high - 1``, all equally likely (to within ``(high - low) / 2^63``)."""
    if not high > low:
        raise AttributeValueError(f"random_integers: no integers from {low} to below {high}")
    x = _whole(seed, shape, 63)
    return cast(mod(x, high - low) + low, dtype)


@composite
def permutation(seed: Value, *, size: int) -> Value:
    """The numbers 0 .. size - 1 in random order, i64."""
    return cast(argsort(_whole(seed, (size,), 63)), "i64")


def _kept(seed: Value, shape: tuple[int, ...], p: float) -> Value:
    """True with probability ``p``, compared as integers: the same in every execution."""
    if not 0 <= p <= 1:
        raise AttributeValueError(f"a probability must be within 0..1, got {p}")
    return less(_whole(seed, shape, 53), round(p * 2**53))


@composite
def bernoulli(seed: Value, p: Value | None = None, *, shape: tuple[int, ...] = (), rate: float = 0.5) -> Value:
    """True with a probability: of each place its ``p``, or ``rate`` everywhere of ``shape``."""
    if p is None:
        return _kept(seed, shape, rate)
    if not p.dtype.is_float:
        raise TypeMismatchError(f"bernoulli: the probabilities must be floats, got {p.type}")
    return less(_fraction(seed, p.shape, f64), cast(p, "f64"))


def _features(
    x: Value, seed: Value, *, features: bool = False, axis: int = 1, **rest: Any
) -> tuple[tuple[Value, Value], dict[str, Any]]:
    """Where each place has its own fate the axis says nothing, so that it is always the same."""
    axis = normal_axis(axis, x.rank) if features else 1
    return (x, seed), {"features": features, "axis": axis, **rest}


def _mask(x: Value, seed: Value, p: float, features: bool, axis: int) -> Value:
    """Where dropout keeps x: each place, or with ``features`` each entry of the axes up to ``axis`` as a whole."""
    if features and axis >= x.rank:
        raise TypeMismatchError(f"dropout of features: x must be [.. c ..] with c at axis {axis}, got {x.type}")
    shape = (*x.shape[: axis + 1], *(1,) * (x.rank - axis - 1)) if features else x.shape
    return broadcast_to(_kept(seed, shape, 1 - p), x.shape)


def _probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise AttributeValueError(f"dropout: the probability must be within 0..1, got p={p}")


@composite(prepare=_features, normal_axes=False)
def dropout_train(x: Value, seed: Value, *, p: float, features: bool = False, axis: int = 1) -> Value:
    """Dropout in training: each place becomes 0 with probability ``p``, the others are divided by ``1 - p``.

    With ``features`` places of one ``[b c]`` share their fate: x ``[b c ..]``, c at ``axis``. What is dropped is 0
    also where x is infinite or NaN.
    """
    _probability(p)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return where(_mask(x, seed, p, features, axis), cast(wide(x) * scale, x.dtype), 0.0)


# What selu tends to at minus infinity.
_SATURATED = -1.7580993408473766


@composite(prepare=_features, normal_axes=False)
def alpha_dropout_train(x: Value, seed: Value, *, p: float, features: bool = False, axis: int = 1) -> Value:
    """Dropout for networks of selu: dropped places get its lowest value, then mean and variance are restored."""
    _probability(p)
    a = 1 / math.sqrt((_SATURATED**2 * p + 1) * (1 - p)) if p < 1 else 0.0
    y = where(_mask(x, seed, p, features, axis), wide(x), _SATURATED)
    return cast(y * a - a * p * _SATURATED, x.dtype)
