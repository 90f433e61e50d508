"""ATen rules of elementwise ops, activations and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import (
    DTYPES,
    RULES,
    axes_of,
    floating,
    number,
    promote,
    promoted,
    rule,
    unsupported,
)
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.indexing import argsort, scan
from tdagger.ops.source import Const, const, scalar
from tdagger.ops.structure import broadcast_to, reduce
from tdagger.types import DType

# --- functions of one tensor -------------------------------------------------------------------------------


def _of_floats(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """A rule that takes ints and bools as the default float."""
    return lambda self: function(floating(self))


def _of_floats_only(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """A rule that leaves ints as they are."""
    return lambda self: function(self) if self.dtype.is_float else self


def _of_complex_only(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """A rule that leaves real numbers as they are."""
    return lambda self: function(self) if self.dtype.is_complex else self


_FLOAT_UNARY = """
    sqrt exp log expm1 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc erfinv
    lgamma reciprocal
"""
for _name in _FLOAT_UNARY.split():
    RULES[_name] = _of_floats(getattr(e, _name))
for _name in ("rsqrt", "exp2", "log2", "log10", "sigmoid"):
    RULES[_name] = _of_floats(getattr(lib, _name))
for _name in ("floor", "ceil", "trunc"):
    RULES[_name] = _of_floats_only(getattr(e, _name))
for _name in ("real", "imag", "conj"):
    RULES[_name] = _of_complex_only(getattr(e, _name))
for _name in ("neg", "sign", "isnan", "isinf", "isfinite", "signbit"):
    RULES[_name] = getattr(e, _name)
for _name in ("relu", "relu6", "silu", "mish", "softsign", "log_sigmoid", "selu"):
    RULES[_name] = getattr(lib, _name)
RULES["abs"], RULES["hardswish"], RULES["hardsigmoid"] = e.abs_, lib.hard_swish, lib.hard_sigmoid

#: Other names of ATen for the same op.
_ALIASES = {
    "special_erf": "erf", "special_expm1": "expm1", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "negative": "neg", "absolute": "abs",
    "sgn": "sign", "fix": "trunc", "conj_physical": "conj",
    "_conj_physical": "conj", "_conj": "conj",
}  # fmt: skip
RULES.update({alias: RULES[name] for alias, name in _ALIASES.items()})


@rule("square")
def _square(self: Value) -> Value:
    return lib.square(e.cast(self, "i64") if self.dtype.name == "bool" else self)


@rule("round", "round.default")
def _round(self: Value) -> Value:
    return e.round_(self) if self.dtype.is_float else self


@rule("round.decimals")
def _round_decimals(self: Value, *, decimals: int = 0) -> Value:
    x, unit = e.cast(self, "f32") if _is_half(self.dtype) else self, 10.0 ** abs(decimals)
    out = e.round_(x * unit) / unit if decimals >= 0 else e.round_(x / unit) * unit
    return e.cast(out, self.dtype)


@rule("logical_not")
def _logical_not(self: Value) -> Value:
    return e.not_(e.cast(self, "bool"))


@rule("bitwise_not")
def _bitwise_not(self: Value) -> Value:
    return e.not_(self)


@rule("detach", "detach_copy")
def _detach(self: Value) -> Value:
    return lib.stop_gradient(self)


@rule("alias", "contiguous", "clone", "lift_fresh", "lift_fresh_copy", "lift", "resolve_conj", "resolve_neg",
      "alias_copy", "positive", "requires_grad_", "data")  # fmt: skip
def _identity(self: Value, *_: Any, **__: Any) -> Value:
    return self


@rule("gelu")
def _gelu(self: Value, *, approximate: str = "none") -> Value:
    return lib.gelu(self, approximate=approximate)


@rule("elu")
def _elu(self: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if scale == 1 and input_scale == 1:
        return lib.elu(self, alpha=float(alpha))
    inner = lib.elu(self * float(input_scale), alpha=float(alpha))
    return e.where(self > 0, self * float(scale), inner * float(scale))


@rule("celu")
def _celu(self: Value, alpha: float = 1.0) -> Value:
    return lib.celu(self, alpha=float(alpha))


@rule("leaky_relu")
def _leaky_relu(self: Value, negative_slope: float = 0.01) -> Value:
    return lib.leaky_relu(self, slope=float(negative_slope))


@rule("prelu", "_prelu_kernel")
def _prelu(self: Value, weight: Value) -> Value:
    return lib.prelu(self, weight if weight.rank == 1 else _flat(weight))


def _flat(x: Value) -> Value:
    return lib.reshape(x, shape=(-1,))


@rule("hardtanh")
def _hardtanh(self: Value, min_val: float = -1, max_val: float = 1) -> Value:
    if (min_val, max_val) == (0, 6):
        return lib.relu6(self)
    low, high = (number(v, self.dtype) for v in (min_val, max_val))
    return lib.hardtanh(self, low=low, high=high) if self.dtype.is_float else lib.clamp(self, low=low, high=high)


@rule("softplus")
def _softplus(self: Value, beta: float = 1, threshold: float = 20) -> Value:
    return lib.softplus(self, beta=float(beta), threshold=float(threshold))


@rule("softshrink")
def _softshrink(self: Value, lambd: float = 0.5) -> Value:
    return lib.soft_shrink(self, lambd=float(lambd))


@rule("hardshrink")
def _hardshrink(self: Value, lambd: float = 0.5) -> Value:
    return lib.hard_shrink(self, lambd=float(lambd))


@rule("threshold")
def _threshold(self: Value, threshold: float, value: float) -> Value:
    return lib.threshold(self, threshold=number(threshold, self.dtype), value=number(value, self.dtype))


@rule("glu")
def _glu(self: Value, dim: int = -1) -> Value:
    return lib.glu(self, axis=dim)


@rule("logit", "special_logit")
def _logit(self: Value, eps: float | None = None) -> Value:
    return lib.logit(floating(self), eps=eps)


@rule("nan_to_num")
def _nan_to_num(
    self: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    return (
        lib.nan_to_num(self, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)
        if self.dtype.is_float
        else self
    )


@rule("softmax", "_softmax", "special_softmax")
def _softmax(self: Value, dim: int, dtype: Any = None, **_: Any) -> Value:
    x = floating(e.cast(self, DTYPES[dtype]) if isinstance(dtype, torch.dtype) else self)
    return lib.softmax(x, axis=dim) if x.rank else e.full_like(x, 1)


@rule("log_softmax", "_log_softmax", "special_log_softmax")
def _log_softmax(self: Value, dim: int, dtype: Any = None, **_: Any) -> Value:
    x = floating(e.cast(self, DTYPES[dtype]) if isinstance(dtype, torch.dtype) else self)
    return lib.log_softmax(x, axis=dim) if x.rank else e.zeros_like(x)


# --- casts -------------------------------------------------------------------------------------------------


@rule(
    "to.dtype",
    "_to_copy",
    "to.dtype_layout",
    "type_as",
    "to.other",
    "to.device",
    "to.prim_Device",
    "to.prim_dtype",
)
def _to(self: Any, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Any:
    for arg in args:
        if isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, Value):
            return e.cast(self, arg.dtype)
    if dtype is None:
        return self
    is_number = not isinstance(self, Value)  # a trace has tensors of one number as numbers
    return const(self, DTYPES[dtype]) if is_number else e.cast(self, DTYPES[dtype])


@rule("prims.convert_element_type")
def _convert_element_type(a: Value, dtype: torch.dtype) -> Value:
    return e.cast(a, DTYPES[dtype])


def _to_dtype(dtype: DType) -> Callable[..., Value]:
    return lambda self, *_: e.cast(self, dtype)


_CASTS = {
    "float": "f32", "double": "f64", "half": "f16", "bfloat16": "bf16", "int": "i32", "long": "i64", "bool": "bool",
    "_cast_Float": "f32", "_cast_Half": "f16", "_cast_Long": "i64", "_cast_Int": "i32",
}  # fmt: skip
RULES.update({name: _to_dtype(DType.of(dtype)) for name, dtype in _CASTS.items()})


@rule("view.dtype")
def _view_dtype(self: Value, dtype: torch.dtype) -> Value:
    return e.bitcast(self, DTYPES[dtype])


# --- functions of two tensors ------------------------------------------------------------------------------


def _binary(function: Callable[..., Value], float_only: bool = False) -> Callable[..., Value]:
    def apply(self: Any, other: Any) -> Value:
        dtype = promoted(self, other)
        if float_only and not (dtype.is_float or dtype.is_complex):
            dtype = DTYPES[torch.get_default_dtype()]  # of the numbers as they are, not as the integers hold them
        x, y = (e.cast(v, dtype) if isinstance(v, Value) else v for v in (self, other))
        if not isinstance(x, Value):  # a number first: a constant of the tensor's type
            x = const(scalar(x, y.dtype), y.dtype)
        return function(x, y)

    return apply


for _name, _function in {
    "maximum": e.maximum, "minimum": e.minimum, "remainder": e.mod,
    "fmod": e.rem, "floor_divide": e.floor_divide, "eq": e.equal, "ne": e.not_equal, "not_equal": e.not_equal,
    "lt": e.less, "less": e.less, "le": e.less_equal, "less_equal": e.less_equal, "gt": e.greater,
    "greater": e.greater,
    "ge": e.greater_equal, "greater_equal": e.greater_equal, "bitwise_and": e.bitwise_and,
    "bitwise_or": e.bitwise_or, "bitwise_xor": e.bitwise_xor, "bitwise_left_shift": e.shift_left,
    "bitwise_right_shift": e.shift_right, "fmax": lib.fmax, "fmin": lib.fmin, "max.other": e.maximum,
    "min.other": e.minimum, "heaviside": lib.heaviside,
    "__and__": e.bitwise_and, "__or__": e.bitwise_or, "__xor__": e.bitwise_xor, "__lshift__": e.shift_left,
    "__rshift__": e.shift_right,
}.items():  # fmt: skip
    RULES[_name] = _binary(_function)
for _name, _function in {
    "atan2": e.atan2, "arctan2": e.atan2, "nextafter": e.nextafter, "true_divide": lib.divide,
    "xlogy": lib.xlogy, "special_xlogy": lib.xlogy, "logaddexp": lib.logaddexp, "hypot": lib.hypot,
    "special_xlog1py": lib.xlog1py, "copysign": lib.copysign,
}.items():  # fmt: skip
    RULES[_name] = _binary(_function, float_only=True)


def _is_half(dtype: DType) -> bool:
    return dtype.is_float and dtype.bytes == 2


def _is_rounded(number: Any, dtype: DType) -> bool:
    """Whether a type of half precision holds a number only rounded."""
    with np.errstate(over="ignore"):
        return isinstance(number, int | float) and not math.isnan(number) and float(dtype.numpy.type(number)) != number


def _wide(function: Callable[..., Value]) -> Callable[..., Value]:
    """A product or quotient, which takes a second argument that isn't rounded to half precision as float32 to it.

    That is a tensor of no axes and another type, or a Python number.
    """

    def apply(self: Any, other: Any) -> Value:
        if not isinstance(self, Value):
            return function(self, other)
        to = promoted(self, other)
        if not _is_half(to):
            return function(self, other)
        if not isinstance(other, Value):
            return e.cast(function(e.cast(self, "f32"), other), to) if _is_rounded(other, to) else function(self, other)
        if self.rank and not other.rank and other.dtype is not to:
            return e.cast(function(e.cast(self, "f32"), e.cast(other, "f32")), to)
        return function(self, other)

    return apply


for _name in ("floor_divide", "true_divide"):
    RULES[_name] = _wide(RULES[_name])


@rule("mul", "multiply")
def _mul(self: Any, other: Any) -> Value:
    return _wide(_product)(self, other)


def _product(self: Any, other: Any) -> Value:
    return _binary(e.bitwise_and if promoted(self, other).name == "bool" else e.multiply)(self, other)


@rule("angle")
def _angle(self: Value) -> Value:
    if self.dtype.is_complex:
        return e.atan2(e.imag(self), e.real(self))
    x = floating(self)
    flat = x * 0.0  # NaN stays NaN, and has no slope either
    return e.where(e.isnan(x), flat, e.where(x < 0, math.pi, e.zeros_like(x)))


@rule("add")
def _add(self: Any, other: Any, alpha: Any = 1) -> Value:
    x, y = promote(self, other)
    if promoted(x, y).name == "bool":
        return _binary(e.bitwise_or)(x, y if alpha else False)
    return e.add(x, y) if alpha == 1 else _with_multiple(e.add, x, y, alpha)


@rule("sub", "subtract")
def _sub(self: Any, other: Any, alpha: Any = 1) -> Value:
    x, y = promote(self, other)
    return lib.subtract(x, y) if alpha == 1 else _with_multiple(lib.subtract, x, y, alpha)


def _with_multiple(function: Callable[..., Value], x: Any, y: Any, alpha: Any) -> Value:
    """A sum or difference of ``x`` and ``alpha * y``, of half precision rounded once; numbers and alpha are before."""
    to = promoted(x, y)
    if not _is_half(to):
        return function(x, y * alpha)
    if isinstance(x, Value) and isinstance(y, Value):
        x, y = e.align(x, y)
    x, y = (e.cast(v if isinstance(v, Value) else const(v, to), "f32") for v in (x, y))
    return e.cast(function(x, y * float(to.numpy.type(alpha))), to)


@rule("rsub")
def _rsub(self: Any, other: Any, alpha: Any = 1) -> Value:
    return _sub(other, self, alpha=alpha)


@rule("div", "divide")
def _div(self: Any, other: Any, *, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return RULES["floor_divide"](self, other)
    if rounding_mode == "trunc":
        return _wide(_binary(lib.trunc_divide))(self, other)
    return RULES["true_divide"](self, other)


@rule("pow")
def _pow(self: Any, exponent: Any) -> Value:
    x, y = promote(self, exponent)
    if not isinstance(y, Value):
        if isinstance(y, int | float) and x.dtype.is_float:
            if y == 2:
                return lib.square(x)
            if y == 0.5:
                return e.sqrt(x)
            if y == -0.5:
                return lib.rsqrt(x)
            if y == 1:
                return x
        return e.pow_(x, y)
    return e.pow_(const(scalar(x, y.dtype), y.dtype), y) if not isinstance(x, Value) else e.pow_(x, y)


def _logical(function: Callable[..., Value]) -> Callable[..., Value]:
    return lambda self, other: function(*(e.cast(v, "bool") for v in promote(self, other)))


RULES["logical_and"] = _logical(e.bitwise_and)
RULES["logical_or"] = _logical(e.bitwise_or)
RULES["logical_xor"] = _logical(e.bitwise_xor)


@rule("where", "where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(condition: Value, self: Any = None, other: Any = None) -> Value:
    if self is None:
        raise unsupported("where with a condition alone has a result whose shape depends on the data")
    x, y = promote(self, other)
    if not isinstance(x, Value) and not isinstance(y, Value):
        like = const(0, DTYPES[torch.result_type(self, other)])
        x, y = e.as_value(x, like), e.as_value(y, like)
    return e.where(e.cast(condition, "bool"), x, y)


@rule("masked_fill")
def _masked_fill(self: Value, mask: Value, value: Any) -> Value:
    value = e.cast(value, self.dtype) if isinstance(value, Value) else number(value, self.dtype)
    return e.where(mask, e.as_value(value, self), self)


@rule("clamp", "clip", "clamp.Tensor", "clip.Tensor")
def _clamp(self: Value, min: Any = None, max: Any = None) -> Value:
    if isinstance(min, Value) or isinstance(max, Value):
        x, low, high = promote(self, min, max)
        x = x if low is None else lib.at_least(x, low)
        return x if high is None else lib.at_most(x, high)
    dtype = promoted(self, *(v for v in (min, max) if v is not None))
    x = e.cast(self, dtype)
    return lib.clamp(
        x,
        low=None if min is None else scalar(min, dtype),
        high=None if max is None else scalar(max, dtype),
    )


@rule("clamp_min")
def _clamp_min(self: Value, min: Any) -> Value:
    return _clamp(self, min)


@rule("clamp_max")
def _clamp_max(self: Value, max: Any) -> Value:
    return _clamp(self, None, max)


@rule("lerp")
def _lerp(self: Value, end: Value, weight: Any) -> Value:
    if self.dtype.bytes < 4 and not isinstance(weight, Value):  # the number isn't rounded to half precision
        return e.cast(lib.lerp(*e.align(e.cast(self, "f32"), e.cast(end, "f32"), weight)), self.dtype)
    return lib.lerp(*e.align(self, end, weight))


def _added(function: Callable[..., Value], x: Value, y: Value, z: Value, value: Any) -> Value:
    """``x + value * function(y, z)``, rounded once to half precision as torch does."""
    to = promoted(x, y, z)
    if to.is_float and to.bytes < 4:
        x, y, z = (e.cast(e.cast(v, to), "f32") for v in (x, y, z))  # what is wider is rounded first
    product = function(y, z)
    out = _add(x, product if value == 1 else product * number(value, product.dtype))
    return e.cast(out, to) if to.is_float else out


@rule("addcmul")
def _addcmul(self: Value, tensor1: Value, tensor2: Value, *, value: Any = 1) -> Value:
    return _added(RULES["mul"], self, tensor1, tensor2, value)


@rule("addcdiv")
def _addcdiv(self: Value, tensor1: Value, tensor2: Value, *, value: Any = 1) -> Value:
    return _added(RULES["true_divide"], self, tensor1, tensor2, value)


@rule("fill", "fill.Scalar", "fill.Tensor", "full_like")
def _fill(self: Value, value: Any, *, dtype: torch.dtype | None = None) -> Value:
    to = self.dtype if dtype is None else DTYPES[dtype]
    if isinstance(value, Value):
        return _over(self, e.cast(value, to))
    value = number(value, to)
    return lib.filled(self, value=value, dtype=to) if self.rank else const(value, to)


def _over(x: Value, value: Value) -> Value:
    """``value`` broadcast to the shape of ``x``, of which a number keeps the axes."""
    if isinstance(value.op, Const) and not value.rank and x.rank and value.dtype.name in NUMBERS:
        return lib.filled(x, value=scalar(value.op.data.item(), value.dtype), dtype=value.dtype)
    return e.align(value, _typed(x, value.dtype))[0]


#: Element types whose numbers Python has.
NUMBERS = {"f32", "f64", "i8", "i16", "i32", "i64", "u8", "bool", "c64", "c128"}


def _typed(x: Value, dtype: DType) -> Value:
    """Any value of the shape of ``x`` and another element type; only its type is used."""
    return e.cast(x, dtype)


@rule("copy")
def _copy(self: Value, src: Value, non_blocking: bool = False) -> Value:
    return _over(self, e.cast(src, self.dtype))


@rule("zero", "zeros_like", "empty_like")
def _zeros_like(self: Value, *, dtype: torch.dtype | None = None) -> Value:
    return _fill(self, 0, dtype=dtype)


@rule("ones_like")
def _ones_like(self: Value, *, dtype: torch.dtype | None = None) -> Value:
    return _fill(self, 1, dtype=dtype)


# --- reductions --------------------------------------------------------------------------------------------


def _summable(x: Value, dtype: torch.dtype | None) -> Value:
    if dtype is not None:
        return e.cast(x, DTYPES[dtype])
    return x if x.dtype.is_float or x.dtype.is_complex else e.cast(x, "i64")


@rule("sum", "sum.dim_IntList", "sum.default")
def _sum(self: Value, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    if isinstance(dim, torch.dtype):  # TorchScript gives aten::sum(self, dtype) by position
        dim, dtype = None, dim
    x = _summable(self, dtype)
    return reduce(x, "any" if x.dtype.name == "bool" else "sum", axes_of(dim, self.rank), keepdim)


@rule("prod", "prod.dim_int")
def _prod(self: Value, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    x = _summable(self, dtype)
    return reduce(x, "all" if x.dtype.name == "bool" else "prod", axes_of(dim, self.rank), keepdim)


@rule("mean", "mean.dim")
def _mean(self: Value, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    x = self if dtype is None else e.cast(self, DTYPES[dtype])
    axes = axes_of(dim, x.rank)
    return lib.mean(x, axes=axes, keep=keepdim) if axes else x


@rule("amax")
def _amax(self: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return reduce(self, "max", axes_of(dim, self.rank), keepdim)


@rule("amin")
def _amin(self: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return reduce(self, "min", axes_of(dim, self.rank), keepdim)


def _first(function: Callable[..., Value], kind: str, self: Value, dim: int, keepdim: bool) -> Value:
    """The largest or smallest: of several floats the first, which alone is given the gradient."""
    if self.rank and self.dtype.is_float:
        return function(self, axis=dim, keep=keepdim)
    return reduce(self, kind, axes_of(dim, self.rank), keepdim)


@rule("max", "max.dim")
def _max(self: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return _amax(self)
    return _first(lib.largest, "max", self, dim, keepdim), _argmax(self, dim, keepdim)


@rule("min", "min.dim")
def _min(self: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        return _amin(self)
    return _first(lib.smallest, "min", self, dim, keepdim), _argmin(self, dim, keepdim)


def _arg(function: Callable[..., Value], self: Value, dim: int | None, keepdim: bool) -> Value:
    if self.rank == 0:
        return const(0, "i64")
    if dim is None:
        out = function(_flat(self), axis=0)
        return broadcast_to(out, (1,) * self.rank) if keepdim else out
    return function(self, axis=dim, keep=keepdim)


@rule("argmax")
def _argmax(self: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _arg(lib.argmax, self, dim, keepdim)


@rule("argmin")
def _argmin(self: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _arg(lib.argmin, self, dim, keepdim)


@rule("any", "any.dim", "any.dims", "_is_any_true")
def _any(self: Value, dim: Any = None, keepdim: bool = False) -> Value:
    nothing = isinstance(dim, list | tuple) and not dim  # here, and nowhere else, that is no axis and not all of them
    axes = () if nothing else axes_of(dim, self.rank)
    out = reduce(e.cast(self, "bool"), "any", axes, keepdim)
    return e.cast(out, "u8") if self.dtype.name == "u8" else out


@rule("all", "all.dim", "all.dims", "_is_all_true")
def _all(self: Value, dim: Any = None, keepdim: bool = False) -> Value:
    nothing = isinstance(dim, list | tuple) and not dim  # here, and nowhere else, that is no axis and not all of them
    axes = () if nothing else axes_of(dim, self.rank)
    out = reduce(e.cast(self, "bool"), "all", axes, keepdim)
    return e.cast(out, "u8") if self.dtype.name == "u8" else out


def _spread(function: Callable[..., Value]) -> Callable[..., Value]:
    def apply(
        self: Value, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = 1
    ) -> Value:
        if isinstance(dim, bool):  # var(x, unbiased)
            dim, unbiased = None, dim
        c = 0 if not unbiased else 1 if correction is None else correction
        return function(self, axes=axes_of(dim, self.rank), correction=float(c), keep=keepdim)

    return apply


RULES["var"] = RULES["var.dim"] = RULES["var.correction"] = _spread(lib.variance)
RULES["std"] = RULES["std.dim"] = RULES["std.correction"] = _spread(lib.std)


def _with_mean(function: Callable[..., Value]) -> Callable[..., tuple[Value, Value]]:
    def apply(
        self: Value, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = 1
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        return function(self, dim, unbiased, keepdim, correction=correction), _mean(self, dim, keepdim)

    return apply


RULES["var_mean"] = RULES["var_mean.dim"] = RULES["var_mean.correction"] = _with_mean(RULES["var"])
RULES["std_mean"] = RULES["std_mean.dim"] = RULES["std_mean.correction"] = _with_mean(RULES["std"])


@rule("logsumexp", "special_logsumexp")
def _logsumexp(self: Value, dim: Any, keepdim: bool = False) -> Value:
    x = floating(self)
    return lib.logsumexp(x, axes=axes_of(dim, x.rank), keep=keepdim) if x.rank else x


@rule(
    "norm",
    "norm.ScalarOpt_dim",
    "linalg_vector_norm",
    "norm.Scalar",
    "norm.ScalarOpt_dim_dtype",
    "frobenius_norm",
)
def _norm(
    self: Value, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    x = self if dtype is None else e.cast(self, DTYPES[dtype])
    return lib.vector_norm(x, ord=2.0 if p is None else float(p), axes=axes_of(dim, x.rank), keep=keepdim)


@rule("cumsum", "cumsum.default")
def _cumsum(self: Value, dim: int, *, dtype: torch.dtype | None = None) -> Value:
    x = _summable(self, dtype)
    return scan(x, "sum", dim) if x.rank else x


@rule("cumprod")
def _cumprod(self: Value, dim: int, *, dtype: torch.dtype | None = None) -> Value:
    x = _summable(self, dtype)
    return scan(x, "prod", dim) if x.rank else x


@rule("logcumsumexp")
def _logcumsumexp(self: Value, dim: int) -> Value:
    return lib.logcumsumexp(self, axis=dim) if self.rank else self


@rule("sort", "sort.stable")
def _sort(self: Value, *args: Any, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Any:
    for arg, name in zip([a for a in args if a is not None], ("dim", "descending"), strict=False):
        dim, descending = (arg, descending) if name == "dim" else (dim, arg)
    if not self.rank:
        return self, const(0, "i64")
    return lib.sort(self, axis=dim, descending=descending)


@rule("argsort", "argsort.stable")
def _argsort(self: Value, dim: int = -1, descending: bool = False, stable: bool = True) -> Value:
    if not self.rank:
        return const(0, "i64")
    return argsort(self, dim, descending)


@rule("topk")
def _topk(self: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    if not self.rank:
        return self, const(0, "i64")
    return lib.topk(self, k=k, axis=dim, largest=largest)
