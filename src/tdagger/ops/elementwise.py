"""The elementwise ops: unary, binary, where, cast, bitcast. Tables give each function its numpy meaning.

Arguments of binary and where have equal shapes and element types; the functions here insert the repeats and
turn Python numbers into constants. float16, bfloat16 and float8 are computed in float32 and rounded once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tdagger.errors import AttributeValueError, NoInverseError, TypeMismatchError
from tdagger.op import Array, Op, Value, ValueFunction, functions, identity, patterned, symbolic
from tdagger.ops.source import const, scalar
from tdagger.ops.structure import broadcast_to
from tdagger.types import DType, TensorType, ValueType, bool_, broadcast_shapes, f8e4m3

# --- numpy functions numpy does not have -------------------------------------------------------------------

# W. J. Cody, Rational Chebyshev approximations for the error function (1969): relative error < 1e-16.
_ERF_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_ERFC_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_ERFC_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346047, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    return np.polyval(coefficients[0], x) / np.polyval(coefficients[1], x)


def _erfc_positive(x: Array) -> Array:
    """erfc for x >= 0.46875 (smaller x are clipped to it)."""
    x = np.maximum(x, 0.46875)
    middle = _ratio(_ERFC_MIDDLE, np.minimum(x, 4.0))
    inverse_square = 1 / np.maximum(x, 4.0) ** 2
    large = (1 / math.sqrt(math.pi) - inverse_square * _ratio(_ERFC_LARGE, inverse_square)) / np.maximum(x, 4.0)
    coarse = np.trunc(np.minimum(x, 30.0) * 16) / 16  # its square is exact, so that exp keeps its digits
    return np.exp(-coarse * coarse) * np.exp(-(x - coarse) * (x + coarse)) * np.where(x <= 4.0, middle, large)


def _erf(x: Array) -> Array:
    wide = x.astype(np.float64)
    size = np.abs(wide)
    small = wide * _ratio(_ERF_SMALL, np.minimum(size, 0.5) ** 2)
    return np.where(size <= 0.46875, small, np.sign(wide) * (1 - _erfc_positive(size))).astype(x.dtype)


def _erfc(x: Array) -> Array:
    wide = x.astype(np.float64)
    size = np.abs(wide)
    small = 1 - wide * _ratio(_ERF_SMALL, np.minimum(size, 0.5) ** 2)
    tail = _erfc_positive(size)
    return np.where(size <= 0.46875, small, np.where(wide < 0, 2 - tail, tail)).astype(x.dtype)


def _erfinv(x: Array) -> Array:
    """Winitzki's estimate, then three Halley steps on erf (on erfc near 1, where erf loses digits)."""
    wide = x.astype(np.float64)
    size = np.abs(wide)
    log = np.log1p(-size * size)
    a = 2 / (math.pi * 0.147) + log / 2
    y = np.sqrt(np.maximum(np.sqrt(a * a - log / 0.147) - a, 0))
    for _ in range(3):
        error = np.where(size < 0.5, _erf(y) - size, (1 - size) - _erfc(y))
        step = error * (math.sqrt(math.pi) / 2) * np.exp(y * y)
        y = y - np.where(np.isfinite(step), step / (1 + y * step), 0)
    y = np.where(size == 1, np.inf, np.where(size > 1, np.nan, y))
    return np.copysign(y, wide).astype(x.dtype)


# lgamma(2 + x) = x * polynomial: the Taylor series, (1 - gamma) x + sum over k of (-1)^k (zeta(k) - 1) x^k / k.
_LGAMMA_AT_2 = (
    0.422784335098467139, 0.322467033424113218, -0.0673523010531980951, 0.0205808084277845479,
    -0.00738555102867398527, 0.00289051033074152329, -0.00119275391170326098, 0.000509669524743042422,
    -0.00022315475845357938, 0.0000994575127818085337, -0.0000449262367381331417, 0.0000205072127756706916,
    -9.4394882752683959e-6, 4.3748667899074878e-6, -2.03921575380136624e-6, 9.55141213040741983e-7,
    -4.49246919876456604e-7, 2.12071848055546659e-7, -1.00432248239680996e-7, 4.76981016936398057e-8,
    -2.27110946089431649e-8, 1.08386592148969541e-8, -5.18347504197004666e-9, 2.48367454380247832e-9,
    -1.19214014058609121e-9, 5.73136724167886201e-10, -2.75952288512423315e-10, 1.33047643742444895e-10,
    -6.42296456383810002e-11,
)  # fmt: skip
# Stirling's series in 1 / x: B(2k) / (2k (2k - 1)).
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)


def _lgamma_positive(x: Array) -> Array:
    """For x >= 0: the series within 1.5..2.5, steps of lgamma(x) = lgamma(x + 1) - log(x) to get there, or Stirling."""
    low = np.minimum(x, 10.0)
    up = np.where(low < 0.5, 2, np.where(low < 1.5, 1, 0))
    down = np.maximum(np.ceil(low - 2.5), 0)
    product = np.ones_like(x)
    for k in range(1, 9):
        product = np.where(k <= down, product * (low - k), product)
    shifted = np.where(up == 2, low, np.where(up == 1, low - 1, low - 2 - down))
    small = shifted * np.polyval(_LGAMMA_AT_2[::-1], shifted) + np.log(product)
    small = small - np.where(up > 0, np.log1p(shifted), 0) - np.where(up == 2, np.log(low), 0)
    high = np.maximum(x, 10.0)
    tail = np.polyval(_STIRLING[::-1], 1 / high**2) / high
    large = (high - 0.5) * np.log(high) - high + 0.5 * math.log(2 * math.pi) + tail
    return np.where(np.isinf(x), np.inf, np.where(x < 10, small, large))


def _lgamma(x: Array) -> Array:
    wide = x.astype(np.float64)
    size = np.abs(wide)
    positive = _lgamma_positive(size)
    # below 0 by reflection; sin of the distance to the nearest whole number, which is exact
    sine = np.abs(np.sin(math.pi * (size - np.rint(size))))
    negative = np.where(size < 1e-300, positive, math.log(math.pi) - np.log(sine) - np.log(size) - positive)
    whole = np.isinf(size) | ((wide <= 0) & (size == np.floor(size)))
    return np.where(whole, np.inf, np.where(wide < 0, negative, positive)).astype(x.dtype)


def _sign(x: Array) -> Array:
    """-1, 0 or 1, and 0 for NaN, as torch has it; of complex numbers the point on the unit circle."""
    if x.dtype.kind in "bc":
        return np.sign(x) if x.dtype.kind == "c" else x
    return np.where(x > 0, 1, np.where(x < 0, -1, 0)).astype(x.dtype)


def _not(x: Array) -> Array:
    return np.logical_not(x) if x.dtype.kind == "b" else np.invert(x)


# --- unary -------------------------------------------------------------------------------------------------

_FLOAT, _REAL_FLOAT = "floats and complex numbers", "floats"
_NUMBER, _REAL, _INT = "numbers", "real numbers", "integers"
_ANY, _ORDERED, _WHOLE, _COMPLEX = "anything", "real numbers and bools", "integers and bools", "complex numbers"


@dataclass(frozen=True)
class UnaryRule:
    """A unary function: what it takes, its numpy meaning, what undoes it, whether the result is a bool.

    ``transcendental`` marks what processors work out by a series or an iteration, not by one instruction for numbers.
    """

    takes: str
    numpy: Callable[[Array], Any]
    inverse: str | None = None
    predicate: bool = False
    flops: int = 1
    transcendental: bool = False


#: Every unary function. "identity" as an inverse marks functions that applying twice changes nothing.
UNARY: dict[str, UnaryRule] = {
    "neg": UnaryRule(_NUMBER, np.negative, "neg"),
    "abs": UnaryRule(_NUMBER, np.abs, "identity"),
    "sign": UnaryRule(_ANY, _sign, "identity"),
    "reciprocal": UnaryRule(_FLOAT, lambda x: np.divide(1, x, dtype=x.dtype), "reciprocal"),
    "sqrt": UnaryRule(_FLOAT, np.sqrt, "square", transcendental=True),
    "exp": UnaryRule(_FLOAT, np.exp, "log", transcendental=True),
    "log": UnaryRule(_FLOAT, np.log, "exp", transcendental=True),
    "expm1": UnaryRule(_FLOAT, np.expm1, "log1p", transcendental=True),
    "log1p": UnaryRule(_FLOAT, np.log1p, "expm1", transcendental=True),
    "sin": UnaryRule(_FLOAT, np.sin, "asin", transcendental=True),
    "cos": UnaryRule(_FLOAT, np.cos, "acos", transcendental=True),
    "tan": UnaryRule(_FLOAT, np.tan, "atan", transcendental=True),
    "asin": UnaryRule(_FLOAT, np.arcsin, "sin", transcendental=True),
    "acos": UnaryRule(_FLOAT, np.arccos, "cos", transcendental=True),
    "atan": UnaryRule(_FLOAT, np.arctan, "tan", transcendental=True),
    "sinh": UnaryRule(_FLOAT, np.sinh, "asinh", transcendental=True),
    "cosh": UnaryRule(_FLOAT, np.cosh, "acosh", transcendental=True),
    "tanh": UnaryRule(_FLOAT, np.tanh, "atanh", transcendental=True),
    "asinh": UnaryRule(_FLOAT, np.arcsinh, "sinh", transcendental=True),
    "acosh": UnaryRule(_FLOAT, np.arccosh, "cosh", transcendental=True),
    "atanh": UnaryRule(_FLOAT, np.arctanh, "tanh", transcendental=True),
    "erf": UnaryRule(_REAL_FLOAT, _erf, "erfinv", transcendental=True),
    "erfc": UnaryRule(_REAL_FLOAT, _erfc, transcendental=True),
    "erfinv": UnaryRule(_REAL_FLOAT, _erfinv, "erf", transcendental=True),
    "lgamma": UnaryRule(_REAL_FLOAT, _lgamma, transcendental=True),
    "floor": UnaryRule(_REAL_FLOAT, np.floor, "identity"),
    "ceil": UnaryRule(_REAL_FLOAT, np.ceil, "identity"),
    "round": UnaryRule(_REAL_FLOAT, np.rint, "identity"),
    "trunc": UnaryRule(_REAL_FLOAT, np.trunc, "identity"),
    "not": UnaryRule(_WHOLE, _not, "not"),
    "isnan": UnaryRule(_ANY, np.isnan, None, True),
    "isinf": UnaryRule(_ANY, np.isinf, None, True),
    "isfinite": UnaryRule(_ANY, np.isfinite, None, True),
    "signbit": UnaryRule(_ORDERED, lambda x: np.signbit(x) if x.dtype.kind == "f" else x < 0, None, True),
    "real": UnaryRule(_COMPLEX, np.real),
    "imag": UnaryRule(_COMPLEX, np.imag),
    "conj": UnaryRule(_COMPLEX, np.conj, "conj"),
}


_TAKES: dict[str, Callable[[DType], bool]] = {
    _FLOAT: lambda d: d.is_float or d.is_complex,
    _REAL_FLOAT: lambda d: d.is_float,
    _NUMBER: lambda d: d is not bool_,
    _REAL: lambda d: d.is_float or d.is_int,
    _INT: lambda d: d.is_int,
    _ANY: lambda d: True,
    _ORDERED: lambda d: not d.is_complex,
    _WHOLE: lambda d: d.is_int or d is bool_,
    _COMPLEX: lambda d: d.is_complex,
}


def _takes(dtype: DType, what: str) -> bool:
    return _TAKES[what](dtype)


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    """Floats narrower than 32 bits, which are computed in float32 (ml_dtypes have kind V)."""
    return dtype.kind in "fV" and dtype.itemsize < 4


def _widened(function: Callable[..., Any], *arrays: Array) -> Any:
    """``function`` on arrays, computed in float32 where they are narrower floats."""
    dtype = arrays[0].dtype
    if not _is_narrow(dtype):
        return function(*arrays)
    out = np.asarray(function(*[a.astype(np.float32) for a in arrays]))
    return out if out.dtype == np.bool_ else out.astype(dtype)


class Unary(Op, core=True):
    """A function of one tensor, element by element; ``kind`` is a name in :data:`UNARY`."""

    name = "unary"
    kind: str

    def check(self) -> None:
        if self.kind not in UNARY:
            raise AttributeValueError(f"unary: there is no function {self.kind!r}; there are {', '.join(UNARY)}")

    def infer(self, x: TensorType) -> ValueType:
        rule = UNARY[self.kind]
        if not _takes(x.dtype, rule.takes):
            raise self.mismatch(f"{self.kind} takes {rule.takes}", x)
        if rule.predicate:
            return x.with_dtype(bool_)
        if x.dtype.is_complex and self.kind in ("abs", "real", "imag"):
            return x.with_dtype(DType.of("f32" if x.dtype.bytes == 8 else "f64"))
        return x

    def run(self, x: Array) -> Array:
        return np.asarray(_widened(UNARY[self.kind].numpy, x))

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return out.size * UNARY[self.kind].flops

    def inverse(self, *types: TensorType) -> ValueFunction:
        name = UNARY[self.kind].inverse
        if name is None:
            raise NoInverseError(f"{self.kind} has no inverse")
        if name == "identity":
            return identity
        return functions["square"] if name == "square" else Unary(name)

    def adjoint(self, *types: TensorType) -> ValueFunction:
        if self.kind in ("neg", "conj"):
            return self
        raise NoInverseError(f"{self.kind} is not linear, so it has no adjoint")

    def __repr__(self) -> str:
        return self.kind


# --- binary ------------------------------------------------------------------------------------------------


#: A function of (result, other argument).
Undo = Callable[[Value, Value], Value]


@dataclass(frozen=True)
class BinaryRule:
    """A binary function: what it takes, its numpy meaning, whether the result is a bool, how it is undone.

    ``undo`` gives, for each argument, the function of (result, other argument) that gives it back;
    ``transcendental`` is as of :class:`UnaryRule`.
    """

    takes: str
    numpy: Callable[[Array, Array], Any]
    predicate: bool = False
    commutes: bool = False
    undo: tuple[Undo, Undo] | None = None
    transcendental: bool = False


def _complex(x: Array, y: Array) -> Array:
    # not x + 1j * y: that makes the real part NaN where y is infinite
    out = np.empty(np.shape(x), np.complex64 if x.dtype.itemsize == 4 else np.complex128)
    out.real, out.imag = x, y
    return out


def _pow(x: Array, y: Array) -> Array:
    if x.dtype.kind not in "iu":
        return np.power(x, y)
    # an integer to a negative power is the integer part of the fraction: 0 but for 1 and -1
    whole = np.power(x, np.maximum(y, 0))
    unit = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0)).astype(x.dtype)
    return np.where(y < 0, unit, whole)


def _mod(x: Array, y: Array) -> Array:
    """The remainder with the sign of y; one of 0 keeps the sign of x, as torch has it."""
    if x.dtype.kind in "iu":
        return np.mod(x, y)
    rest = np.fmod(x, y)
    return np.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


def _divided(z: Value, y: Value) -> Value:
    return floor_divide(z, y) if z.dtype.is_int else z / y


#: Every binary function.
BINARY: dict[str, BinaryRule] = {
    "add": BinaryRule(_NUMBER, np.add, False, True, (lambda z, y: z - y, lambda z, x: z - x)),
    "multiply": BinaryRule(_NUMBER, np.multiply, False, True, (_divided, _divided)),
    "pow": BinaryRule(
        _NUMBER,
        _pow,
        undo=(
            lambda z, y: functions["root"](z, y),
            lambda z, x: functions["log"](z) / functions["log"](x),
        ),
        transcendental=True,
    ),
    "max": BinaryRule(_ORDERED, np.maximum, False, True),
    "min": BinaryRule(_ORDERED, np.minimum, False, True),
    "mod": BinaryRule(_REAL, _mod),
    "rem": BinaryRule(_REAL, np.fmod),
    "floor_divide": BinaryRule(_REAL, np.floor_divide),
    "atan2": BinaryRule(_REAL_FLOAT, np.arctan2, transcendental=True),
    "complex": BinaryRule(_REAL_FLOAT, _complex),
    "nextafter": BinaryRule(_REAL_FLOAT, np.nextafter),
    "equal": BinaryRule(_ANY, np.equal, True, True),
    "not_equal": BinaryRule(_ANY, np.not_equal, True, True),
    "less": BinaryRule(_ORDERED, np.less, True),
    "less_equal": BinaryRule(_ORDERED, np.less_equal, True),
    "greater": BinaryRule(_ORDERED, np.greater, True),
    "greater_equal": BinaryRule(_ORDERED, np.greater_equal, True),
    "bitwise_and": BinaryRule(_WHOLE, np.bitwise_and, False, True),
    "bitwise_or": BinaryRule(_WHOLE, np.bitwise_or, False, True),
    "bitwise_xor": BinaryRule(_WHOLE, np.bitwise_xor, False, True, (lambda z, y: z ^ y, lambda z, x: z ^ x)),
    "shift_left": BinaryRule(_INT, np.left_shift),
    "shift_right": BinaryRule(_INT, np.right_shift),
}


class Binary(Op, core=True):
    """A function of two tensors of one type, element by element; ``kind`` is a name in :data:`BINARY`."""

    name = "binary"
    kind: str

    def check(self) -> None:
        if self.kind not in BINARY:
            raise AttributeValueError(f"binary: there is no function {self.kind!r}; there are {', '.join(BINARY)}")

    def infer(self, x: TensorType, y: TensorType) -> ValueType:
        rule = BINARY[self.kind]
        if x is not y:
            raise self.mismatch("both arguments must have one shape and element type", x, y)
        if rule.takes is not _ANY and not _takes(x.dtype, rule.takes):
            raise self.mismatch(f"{self.kind} takes {rule.takes}", x, y)
        if self.kind == "complex":
            if x.dtype.bytes < 4:
                raise self.mismatch("there are complex numbers of f32 and f64 only; cast first", x, y)
            return x.with_dtype(DType.of("c64" if x.dtype.bytes == 4 else "c128"))
        return x.with_dtype(bool_) if rule.predicate else x

    def run(self, x: Array, y: Array) -> Array:
        function = BINARY[self.kind].numpy
        # the next number depends on which numbers there are
        return np.asarray(function(x, y) if self.kind == "nextafter" else _widened(function, x, y))

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return out.size

    def inverse(self, *types: TensorType) -> ValueFunction:
        """The function of (result, second argument) that gives the first argument back."""
        return self.undo(0)

    def undo(self, argument: int) -> ValueFunction:
        """The function of (result, other argument) that gives argument number ``argument`` back."""
        undo = BINARY[self.kind].undo
        if undo is None:
            raise NoInverseError(f"{self.kind} can't be undone: its result doesn't tell its arguments")
        return undo[argument]

    def adjoint(self, *types: TensorType) -> ValueFunction:
        """Of add: the function that gives both arguments the result. Others are not linear."""
        if self.kind == "add":

            def both(y: Value) -> tuple[Value, Value]:
                return y, y

            return both
        raise NoInverseError(f"{self.kind} is not linear in both arguments, so it has no adjoint")

    def __repr__(self) -> str:
        return self.kind


class Where(Op, core=True):
    """``x`` where ``condition`` (bool) holds, else ``y``: a choice, nothing is computed with the other."""

    name = "where"

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> ValueType:
        if condition.dtype is not bool_ or x is not y or condition.shape != x.shape:
            raise self.mismatch("takes a bool and two tensors of one type, all of one shape", condition, x, y)
        return x

    def run(self, condition: Array, x: Array, y: Array) -> Array:
        return np.where(condition, x, y)

    def flops(self, out: TensorType, *types: TensorType) -> int:
        return out.size

    def adjoint(self, *types: TensorType) -> ValueFunction:
        """Linear in (x, y) for a given condition: the function of (condition, result) to both."""

        def back(condition: Value, z: Value) -> tuple[Value, Value]:
            return where(condition, z, zeros_like(z)), where(condition, zeros_like(z), z)

        return back

    def inverse(self, *types: TensorType) -> ValueFunction:
        """Pseudo-inverse: the function of (condition, result) whose result gives the same again."""

        def both(condition: Value, z: Value) -> tuple[Value, Value]:
            del condition
            return z, z

        return both


_LARGEST_E4M3 = np.float32(448)


class Cast(Op, core=True):
    """Another element type: floats to integers truncate, anything but 0 to bool is True.

    A float too large for an integer type, or NaN, has no defined result (frameworks and processors differ). Float8 is
    rounded from float32; e4m3, which has no infinity, keeps what is too large at its largest number, NaN NaN.
    """

    name = "cast"
    dtype: DType

    def infer(self, x: TensorType) -> ValueType:
        return x.with_dtype(self.dtype)

    def run(self, x: Array) -> Array:
        if x.dtype.kind == "c" and not self.dtype.is_complex and self.dtype is not bool_:
            x = np.real(x)
        if self.dtype.is_float and self.dtype.bytes == 1:
            x = x.astype(np.float32)
            if self.dtype is f8e4m3:
                x = np.clip(x, -_LARGEST_E4M3, _LARGEST_E4M3)
        return x.astype(self.dtype.numpy)

    def inverse(self, *types: TensorType) -> ValueFunction:
        return Cast(self.one(types, "inverse").dtype)

    adjoint = inverse


class Bitcast(Op, core=True):
    """The same bits read as another element type of the same width."""

    name = "bitcast"
    dtype: DType

    def infer(self, x: TensorType) -> ValueType:
        if x.dtype.bytes != self.dtype.bytes:
            raise self.mismatch(f"{x.dtype} and {self.dtype} are not equally wide", x)
        return x.with_dtype(self.dtype)

    def run(self, x: Array) -> Array:
        return np.ascontiguousarray(x).reshape(x.shape).view(self.dtype.numpy)

    def inverse(self, *types: TensorType) -> ValueFunction:
        return Bitcast(self.one(types, "inverse").dtype)


#: Ops whose every entry depends on the same entry of each argument.
POINTWISE = (Unary, Binary, Where, Cast, Bitcast)


# --- functions ---------------------------------------------------------------------------------------------


def as_value(x: Any, like: Value) -> Value:
    """``x`` itself if it is a value, else a constant of rank 0 with the element type of ``like``."""
    return x if isinstance(x, Value) else const(scalar(x, like.dtype), like.dtype)


def align(*xs: Any) -> tuple[Value, ...]:
    """Values of one shape: numbers become constants, shapes are broadcast by numpy's rules."""
    like = next((x for x in xs if isinstance(x, Value)), None)
    if like is None:
        raise TypeMismatchError(f"at least one argument must be a value, got {xs}")
    if like.op.name != "filled" and all(not isinstance(x, Value) or x is like for x in xs):
        return tuple([x if isinstance(x, Value) else full_like(like, x) for x in xs])
    values = [as_value(x, like) for x in xs]
    shape = values[0].type.shape
    if all(v.type.shape == shape for v in values) and not any(v.op.name == "filled" for v in values):
        return tuple(values)
    try:
        shape = broadcast_shapes(*[v.shape for v in values])
    except ValueError:
        raise TypeMismatchError(f"shapes {', '.join(str(v.type) for v in values)} don't broadcast") from None
    if any(v.op.name == "filled" for v in values):
        values = _without_filled(values, shape)
    return tuple(broadcast_to(v, shape) for v in values)


def _without_filled(values: list[Value], shape: tuple[int, ...]) -> list[Value]:
    """A number in the shape of another tensor (``ones_like``) as the number, where others have the shape."""
    others = [v for v in values if v.op.name != "filled"]
    if not others or broadcast_shapes(*[v.shape for v in others]) != shape:
        return values
    return [const(v.op.attributes["value"], v.dtype) if v.op.name == "filled" else v for v in values]


def _unary(name: str) -> Callable[[Value], Value]:
    made = Unary(name).__call__  # the method: calling the op is a call more

    def function(x: Value) -> Value:
        return made(x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``{name}`` of every element."
    return function


def _binary(name: str) -> Callable[[Any, Any], Value]:
    op = Binary(name)
    made = op.__call__  # the method: calling the op is a call more

    def function(x: Any, y: Any) -> Value:
        if x.__class__ is Value and y.__class__ is Value and x.type is y.type:
            return made(x, y)
        found = symbolic(x, y)
        return made(*align(x, y)) if found is None else found.noted(op, (x, y), {})

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``{name}`` of every pair of elements; numbers become constants, shapes broadcast."
    return function


neg, abs_, sign, reciprocal, sqrt = map(_unary, ("neg", "abs", "sign", "reciprocal", "sqrt"))
exp, log, expm1, log1p = map(_unary, ("exp", "log", "expm1", "log1p"))
sin, cos, tan, asin, acos, atan = map(_unary, ("sin", "cos", "tan", "asin", "acos", "atan"))
sinh, cosh, tanh, asinh, acosh, atanh = map(_unary, ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"))
erf, erfc, erfinv, lgamma = map(_unary, ("erf", "erfc", "erfinv", "lgamma"))
floor, ceil, round_, trunc, not_ = map(_unary, ("floor", "ceil", "round", "trunc", "not"))
isnan, isinf, isfinite, signbit = map(_unary, ("isnan", "isinf", "isfinite", "signbit"))
real, imag, conj = map(_unary, ("real", "imag", "conj"))

add, multiply, pow_, maximum, minimum = map(_binary, ("add", "multiply", "pow", "max", "min"))
mod, rem, floor_divide, atan2, nextafter = map(_binary, ("mod", "rem", "floor_divide", "atan2", "nextafter"))
complex_ = _binary("complex")
equal, not_equal, less, less_equal = map(_binary, ("equal", "not_equal", "less", "less_equal"))
greater, greater_equal = map(_binary, ("greater", "greater_equal"))
bitwise_and, bitwise_or, bitwise_xor = map(_binary, ("bitwise_and", "bitwise_or", "bitwise_xor"))
shift_left, shift_right = map(_binary, ("shift_left", "shift_right"))


def where(condition: Value, x: Any, y: Any) -> Value:
    """``x`` where ``condition`` holds, else ``y``; numbers become constants, shapes broadcast."""
    found = symbolic(condition, x, y)
    if found is not None:
        return found.noted(Where(), (condition, x, y), {})
    like = next((v for v in (x, y) if isinstance(v, Value)), None)
    if like is None:
        like = const(float(x)) if isinstance(x, float) or isinstance(y, float) else const(x)
    return Where()(*align(condition, as_value(x, like), as_value(y, like)))


@patterned
def cast(x: Value, dtype: DType | str) -> Value:
    """``x`` with another element type; ``x`` itself if it has it already."""
    to = DType.of(dtype)
    return x if x.type.dtype is to else Cast(to)(x)


@patterned
def bitcast(x: Value, dtype: DType | str) -> Value:
    """The bits of ``x`` read as another element type of the same width."""
    to = DType.of(dtype)
    return x if x.type.dtype is to else Bitcast(to)(x)


def full_like(x: Value, value: Any) -> Value:
    """A constant of the type of ``x``, every element ``value``."""
    number = scalar(value, x.dtype)
    # by their digits: 0.0 is not -0.0
    return _full(number.hex() if number.__class__ is float else repr(number), number, x.type)


@functools.lru_cache(maxsize=512)
def _full(digits: str, number: Any, of: TensorType) -> Value:
    """A constant, kept as the same few numbers are wanted again and again."""
    del digits
    return broadcast_to(const(number, of.dtype), of.shape)


def zeros_like(x: Value) -> Value:
    """A constant 0 of the type of ``x``."""
    return full_like(x, 0)


for _function in (
    neg, abs_, reciprocal, log, add, multiply, pow_, mod, floor_divide, less, less_equal, greater, greater_equal,
    bitwise_and, bitwise_or, bitwise_xor,
):  # fmt: skip
    functions[_function.__name__] = _function
functions["not_"] = not_


def _square(x: Value) -> Value:
    return multiply(x, x)


functions["square"] = _square
