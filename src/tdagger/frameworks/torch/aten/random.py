"""ATen rules of what draws random numbers. Each draw takes a stream of its own of the network's one seed.

A rule registered with ``draws=True`` is given ``draw``, which makes the seed of the next stream when called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import DTYPES, rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.indexing import scan
from tdagger.ops.structure import broadcast_to, reduce, slice_axis, unsqueeze
from tdagger.types import DType

#: Makes the seed (u64, rank 0) of a stream that nothing else draws from.
Draw = Callable[[], Value]


# --- dropout -----------------------------------------------------------------------------------------------


@rule("dropout", draws=True)
def _dropout(input: Value, p: float, train: bool, *, draw: Draw) -> Value:
    if not p:
        return input
    return lib.dropout_train(input, draw(), p=float(p)) if train else lib.dropout(input, p=float(p))


@rule("native_dropout", draws=True)
def _native_dropout(input: Value, p: float, train: bool | None, *, draw: Draw) -> Any:
    if train is False or not p:
        return input, broadcast_to(e.full_like(e.cast(input, "bool"), True), input.shape)
    seed = draw()
    kept = lib.dropout_train(e.full_like(input, 1.0), seed, p=float(p))
    return lib.dropout_train(input, seed, p=float(p)), e.not_equal(kept, 0.0)


def _other_dropout(function: Any, **options: Any) -> Any:
    def apply(input: Value, p: float, train: bool, *, draw: Draw) -> Value:
        return function(input, draw(), p=float(p), **options) if train and p else input

    return apply


rule("feature_dropout", draws=True)(_other_dropout(lib.dropout_train, features=True))
rule("alpha_dropout", draws=True)(_other_dropout(lib.alpha_dropout_train))
rule("feature_alpha_dropout", draws=True)(_other_dropout(lib.alpha_dropout_train, features=True))


@rule("rrelu", draws=True)
def _rrelu(
    self: Value, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, *_: Any, draw: Draw
) -> Value:
    if not training:
        return lib.leaky_relu(self, slope=(lower + upper) / 2)
    slope = lib.uniform(draw(), shape=self.shape, dtype=self.dtype, low=float(lower), high=float(upper))
    return e.where(self > 0, self, self * slope)


# --- tensors of random numbers -----------------------------------------------------------------------------


def _float(dtype: torch.dtype | None) -> DType:
    return DTYPES[dtype or torch.get_default_dtype()]


def _sized(function: Any) -> Any:
    """``rand(size, dtype=)``."""

    def apply(size: Sequence[int], *, dtype: torch.dtype | None = None, names: Any = None, draw: Draw) -> Value:
        return function(draw(), shape=size, dtype=_float(dtype))

    return apply


def _like(function: Any) -> Any:
    """``rand_like(self, dtype=)``."""

    def apply(self: Value, *, dtype: torch.dtype | None = None, draw: Draw) -> Value:
        return function(draw(), shape=self.shape, dtype=self.dtype if dtype is None else DTYPES[dtype])

    return apply


for _name, _function in (("rand", lib.uniform), ("randn", lib.normal)):
    rule(_name, draws=True)(_sized(_function))
    rule(f"{_name}_like", draws=True)(_like(_function))


def _filled(draw_floats: Callable[..., Value]) -> Any:
    """``uniform_(self, from, to)``: the numbers of a distribution in the place of those of self."""

    def apply(self: Value, *numbers: float, draw: Draw, **named: float) -> Value:
        return draw_floats(draw(), self, *map(float, numbers), **{k: float(v) for k, v in named.items()})

    return apply


def _uniform(seed: Value, x: Value, low: float = 0.0, to: float = 1.0, **named: float) -> Value:
    return lib.uniform(seed, shape=x.shape, dtype=x.dtype, low=named.get("from", low), high=to)


def _normal(seed: Value, x: Value, mean: float = 0.0, std: float = 1.0) -> Value:
    return lib.normal(seed, shape=x.shape, dtype=x.dtype, mean=mean, std=std)


def _exponential(seed: Value, x: Value, lambd: float = 1.0) -> Value:
    return lib.exponential(seed, shape=x.shape, dtype=x.dtype, rate=lambd)


def _log_normal(seed: Value, x: Value, mean: float = 1.0, std: float = 2.0) -> Value:
    return e.cast(e.exp(lib.normal(seed, shape=x.shape, dtype="f64", mean=mean, std=std)), x.dtype)


def _cauchy(seed: Value, x: Value, median: float = 0.0, sigma: float = 1.0) -> Value:
    angle = lib.uniform(seed, shape=x.shape, dtype="f64", low=-0.5, high=0.5) * torch.pi
    return e.cast(e.tan(angle) * sigma + median, x.dtype)


def _geometric(seed: Value, x: Value, p: float) -> Value:
    times = lib.exponential(seed, shape=x.shape, dtype="f64") / -torch.log1p(torch.tensor(-p, dtype=torch.float64))
    return e.cast(e.ceil(times), x.dtype)


for _name, _function in {
    "uniform": _uniform, "normal": _normal, "normal_functional": _normal, "exponential": _exponential,
    "log_normal": _log_normal, "cauchy": _cauchy, "geometric": _geometric,
}.items():  # fmt: skip
    rule(_name, draws=True)(_filled(_function))


@rule("normal.float_float", draws=True)
def _normal_sized(
    mean: float, std: float, size: Sequence[int], *, dtype: torch.dtype | None = None, draw: Draw
) -> Value:
    return lib.normal(draw(), shape=size, dtype=_float(dtype), mean=float(mean), std=float(std))


@rule("normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor", draws=True)
def _normal_tensors(mean: Any, std: Any = 1.0, *, draw: Draw) -> Value:
    like = e.align(*[v for v in (mean, std) if isinstance(v, Value)])[0]
    return lib.normal(draw(), shape=like.shape, dtype=like.dtype) * std + mean


@rule("bernoulli", "bernoulli.p", "bernoulli.float", "bernoulli.Tensor", "bernoulli.Tensor_p", draws=True)
def _bernoulli(self: Value, p: float | Value | None = None, *, draw: Draw) -> Value:
    if isinstance(p, float | int):
        return e.cast(lib.bernoulli(draw(), shape=self.shape, rate=float(p)), self.dtype)
    rates = broadcast_to(self if p is None else p, self.shape)
    return e.cast(lib.bernoulli(draw(), rates if rates.dtype.is_float else e.cast(rates, "f64")), self.dtype)


# --- whole numbers -----------------------------------------------------------------------------------------


@rule("randint", "randint.low", draws=True)
def _randint(*args: Any, dtype: torch.dtype | None = None, draw: Draw) -> Value:
    *bounds, size = args
    low, high = bounds if len(bounds) == 2 else (0, bounds[0])
    return lib.random_integers(draw(), shape=size, low=low, high=high, dtype=DTYPES[dtype or torch.int64])


@rule("randint_like", "randint_like.low_dtype", draws=True)
def _randint_like(self: Value, *bounds: int, dtype: torch.dtype | None = None, draw: Draw) -> Value:
    low, high = bounds if len(bounds) == 2 else (0, bounds[0])
    to = self.dtype if dtype is None else DTYPES[dtype]
    return lib.random_integers(draw(), shape=self.shape, low=low, high=high, dtype=to)


#: The integers that a float type holds without gaps end here; of integer types those of torch's random_().
_WHOLE = {"f64": 2**53 + 1, "f32": 2**24 + 1, "f16": 2**11 + 1, "bf16": 2**8 + 1, "bool": 2, "i8": 2**7,
          "u8": 2**8, "i16": 2**15, "i32": 2**31, "i64": 2**63 - 1}  # fmt: skip


@rule("random", "random.from", "random.to", draws=True)
def _random(self: Value, *bounds: int | None, draw: Draw) -> Value:
    low, high = bounds if len(bounds) == 2 else (0, bounds[0] if bounds else None)
    high = _WHOLE[self.dtype.name] if high is None else high
    return lib.random_integers(draw(), shape=self.shape, low=low or 0, high=high, dtype=self.dtype)


@rule("randperm", draws=True)
def _randperm(n: int, *, dtype: torch.dtype | None = None, draw: Draw) -> Value:
    return e.cast(lib.permutation(draw(), size=n), DTYPES[dtype or torch.int64])


@rule("multinomial", draws=True)
def _multinomial(self: Value, num_samples: int, replacement: bool = False, *, draw: Draw) -> Value:
    """Without replacement the places of the largest ``p / exponential``, which torch takes too."""
    weights = e.cast(self, "f64")
    axis = self.rank - 1
    if not replacement or num_samples == 1:
        if num_samples > self.shape[axis]:
            raise unsupported(f"multinomial of {num_samples} out of {self.shape[axis]} without replacement")
        waiting = lib.exponential(draw(), shape=self.shape, dtype="f64")
        return lib.topk(lib.divide(weights, waiting), k=num_samples, axis=axis)[1]
    sums = scan(weights, "sum", axis)
    total = slice_axis(sums, axis, self.shape[axis] - 1, self.shape[axis])
    at = lib.uniform(draw(), shape=(*self.shape[:-1], num_samples), dtype="f64") * total
    passed = e.greater_equal(unsqueeze(at, (axis + 1,)), unsqueeze(sums, (axis,)))
    return reduce(e.cast(passed, "i64"), "sum", (axis + 1,), keep=False)
