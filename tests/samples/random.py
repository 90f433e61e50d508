"""Random numbers of a seed, against Threefry as Random123 defines it, written here a second time in plain Python."""

import math
from typing import Any

import numpy as np

import tdagger as td
from tests.samples import FLOATS, Array, Sample, dtype_of, numbers

SAMPLES: list[Sample] = []
_SEED = np.array(0x0123456789ABCDEF, np.uint64)
_MASK = 2**32 - 1


def _bits(seed: Array, count: int) -> list[int]:
    k0, k1 = int(seed) >> 32, int(seed) & _MASK
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    out: list[int] = []
    for counter in range(count):
        a, b = keys[0], (counter + keys[1]) & _MASK
        for round_ in range(20):
            r = ((13, 15, 26, 6), (17, 29, 16, 24))[round_ // 4 % 2][round_ % 4]
            a = (a + b) & _MASK
            b = ((b << r | b >> (32 - r)) & _MASK) ^ a
            if round_ % 4 == 3:
                n = round_ // 4 + 1
                a, b = (a + keys[n % 3]) & _MASK, (b + keys[(n + 1) % 3] + n) & _MASK
        out.append(a << 32 | b)
    return out


def _whole(seed: Array, shape: tuple[int, ...], bits: int) -> Array:
    return np.array([n >> (64 - bits) for n in _bits(seed, math.prod(shape))], np.int64).reshape(shape)


def _fraction(seed: Array, shape: tuple[int, ...], dtype: str) -> Array:
    digits = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}[dtype]
    return (_whole(seed, shape, digits) / 2.0**digits).astype(dtype_of(dtype))


for _number in (0, 1, 2, 1000):
    SAMPLES.append(
        Sample("stream", str(_number), lambda s, n=_number: td.stream(s, number=n), (_SEED,),
               lambda s, n=_number: np.array(int(s) ^ (n * 0x9E3779B97F4A7C15 % 2**63), np.uint64))
    )  # fmt: skip
_SHAPE = (3, 40)
for _dtype in FLOATS:
    SAMPLES += [
        Sample("uniform", _dtype, lambda s, d=_dtype: td.uniform(s, shape=_SHAPE, dtype=d), (_SEED,),
               lambda s, d=_dtype: _fraction(s, _SHAPE, d)),
        Sample("uniform", f"{_dtype} within -2 .. 3",
               lambda s, d=_dtype: td.uniform(s, shape=_SHAPE, dtype=d, low=-2.0, high=3.0), (_SEED,),
               lambda s, d=_dtype: (_fraction(s, _SHAPE, d).astype("f8") * 5 - 2).astype(dtype_of(d)), 1, True),
        Sample("exponential", _dtype, lambda s, d=_dtype: td.exponential(s, shape=_SHAPE, dtype=d, rate=2.0), (_SEED,),
               lambda s, d=_dtype: (-np.log((_whole(s, _SHAPE, 53) + 0.5) / 2.0**53) / 2).astype(dtype_of(d)), 4),
    ]  # fmt: skip


def _normal(seed: Array, mean: float, std: float, dtype: str) -> Array:
    from statistics import NormalDist

    u = (_whole(seed, _SHAPE, 53) + 0.5) / 2.0**53
    return np.vectorize(NormalDist(mean, std).inv_cdf)(u).astype(dtype_of(dtype))


for _dtype in FLOATS:
    for _mean, _std in ((0.0, 1.0), (1.5, 0.5)):
        SAMPLES.append(
            Sample("normal", f"{_dtype} {_mean} {_std}",
                   lambda s, d=_dtype, m=_mean, t=_std: td.normal(s, shape=_SHAPE, dtype=d, mean=m, std=t), (_SEED,),
                   lambda s, d=_dtype, m=_mean, t=_std: _normal(s, m, t, d), 64 if _dtype == "f64" else 1, True)
        )  # fmt: skip
SAMPLES += [
    Sample("random_integers", "i64", lambda s: td.random_integers(s, shape=_SHAPE, low=-3, high=11), (_SEED,),
           lambda s: _whole(s, _SHAPE, 63) % 14 - 3),
    Sample("random_integers", "i8", lambda s: td.random_integers(s, shape=(), low=0, high=100, dtype="i8"), (_SEED,),
           lambda s: (_whole(s, (), 63) % 100).astype(np.int8)),
    Sample("permutation", "20", lambda s: td.permutation(s, size=20), (_SEED,),
           lambda s: np.argsort(_whole(s, (20,), 63), kind="stable")),
    Sample("permutation", "none", lambda s: td.permutation(s, size=0), (_SEED,), lambda s: np.zeros(0, np.int64)),
]  # fmt: skip
for _rate in (0.0, 0.3, 1.0):
    SAMPLES.append(
        Sample("bernoulli", f"rate {_rate}", lambda s, r=_rate: td.bernoulli(s, shape=_SHAPE, rate=r), (_SEED,),
               lambda s, r=_rate: _whole(s, _SHAPE, 53) / 2.0**53 < r)
    )  # fmt: skip
for _dtype in FLOATS:
    SAMPLES.append(
        Sample("bernoulli", f"{_dtype} of each", td.bernoulli, (_SEED, numbers((5, 6), _dtype, 0, 1)),
               lambda s, p: _whole(s, p.shape, 53) / 2.0**53 < p.astype(np.float64))
    )  # fmt: skip


def _mask(x: Array, seed: Array, p: float, features: bool, axis: int = 1) -> Array:
    shape = (*x.shape[: axis + 1], *(1,) * (x.ndim - axis - 1)) if features else x.shape
    return np.broadcast_to(_whole(seed, shape, 53) / 2.0**53 < 1 - p, x.shape)


def _dropout(p: float, features: bool, axis: int = 1) -> Any:
    def expected(x: Array, seed: Array) -> Array:
        wide = x.astype(np.float64 if x.dtype.itemsize == 8 else np.float32)
        scaled = wide / wide.dtype.type(1 - p) if p < 1 else wide
        return np.where(_mask(x, seed, p, features, axis), scaled, 0).astype(x.dtype)

    return expected


def _alpha_dropout(p: float, features: bool, axis: int = 1) -> Any:
    low = -1.0507009873554805 * 1.6732632423543772
    a = 1 / math.sqrt((1 - p) * (1 + p * low**2)) if p < 1 else 0.0

    def expected(x: Array, seed: Array) -> Array:
        y = np.where(_mask(x, seed, p, features, axis), x.astype(np.float64), low)
        return (a * y - a * p * low).astype(x.dtype)

    return expected


for _dtype in FLOATS:
    for _p, _features in ((0.0, False), (0.4, False), (0.4, True), (1.0, False)):
        _x = numbers((3, 5, 4), _dtype)
        _id = f"{_dtype} {_p}" + " features" * _features
        _how: dict[str, Any] = {"p": _p, "features": _features}
        SAMPLES += [
            Sample("dropout_train", _id, lambda x, s, h=_how: td.dropout_train(x, s, **h), (_x, _SEED),
                   _dropout(_p, _features), 1),
            Sample("alpha_dropout_train", _id, lambda x, s, h=_how: td.alpha_dropout_train(x, s, **h), (_x, _SEED),
                   _alpha_dropout(_p, _features), 2, True),
        ]  # fmt: skip
for _axis, _x in ((0, numbers((5, 4, 2))), (2, numbers((2, 3, 5, 4))), (0, numbers((7,))), (-2, numbers((2, 3, 5, 4)))):
    _how = {"p": 0.4, "features": True, "axis": _axis}
    _id = f"features at {_axis} {list(_x.shape)}"
    SAMPLES += [
        Sample("dropout_train", _id, lambda x, s, h=_how: td.dropout_train(x, s, **h), (_x, _SEED),
               _dropout(0.4, True, _axis % _x.ndim), 1),
        Sample("alpha_dropout_train", _id, lambda x, s, h=_how: td.alpha_dropout_train(x, s, **h), (_x, _SEED),
               _alpha_dropout(0.4, True, _axis % _x.ndim), 2, True),
    ]  # fmt: skip
# what is dropped is 0, whatever it was
SAMPLES.append(
    Sample("dropout_train", "inf", lambda x, s: td.dropout_train(x, s, p=0.5),
           (np.full((4, 6), np.inf, np.float32), _SEED), _dropout(0.5, False), 1)
)  # fmt: skip


def _attention(p: float) -> Any:
    def expected(q: Array, k: Array, v: Array, seed: Array, mask: Array) -> Array:
        scores = np.where(mask, q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1]), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        return np.where(_mask(weights, seed, p, False), weights / (1 - p), 0) @ v

    return expected


for _dtype in ("f64", "f32"):
    SAMPLES.append(
        Sample("attention_train", _dtype, lambda q, k, v, s, m: td.attention_train(q, k, v, s, m, p=0.3),
               (numbers((2, 3, 4, 8), _dtype), numbers((2, 3, 6, 8), _dtype), numbers((2, 3, 6, 5), _dtype), _SEED,
                numbers((4, 6), "bool", seed=3) | np.eye(4, 6, dtype=bool)), _attention(0.3), 64, True)
    )  # fmt: skip
