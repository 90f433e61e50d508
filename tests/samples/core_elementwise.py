"""Samples of the elementwise core ops: every unary and binary function, where, cast, bitcast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import torch

import tdagger as td
from tdagger.ops.elementwise import Binary, Unary
from tests.samples import FLOATS, INTS, UNSIGNED, Array, Sample, by_torch, dtype_of, edges, numbers

SHAPES = [(), (0,), (3,), (2, 0, 3), (2, 3), (2, 3, 4), (1, 2, 3, 1), (2, 1, 2, 1, 2)]
FLOAT8 = ("f8e4m3", "f8e5m2")

# --- unary -------------------------------------------------------------------------------------------------

# kind -> torch's function (of f64 for floats: the truth is rounded once), how many ulps it may be off
_UNARY: dict[str, tuple[Callable[..., Any], float]] = {
    "neg": (torch.neg, 0), "abs": (torch.abs, 0), "reciprocal": (torch.reciprocal, 1), "sqrt": (torch.sqrt, 1),
    "exp": (torch.exp, 2), "log": (torch.log, 2), "expm1": (torch.expm1, 2), "log1p": (torch.log1p, 2),
    "sin": (torch.sin, 2), "cos": (torch.cos, 2), "tan": (torch.tan, 2), "asin": (torch.asin, 2),
    "acos": (torch.acos, 2), "atan": (torch.atan, 2), "sinh": (torch.sinh, 2), "cosh": (torch.cosh, 2),
    "tanh": (torch.tanh, 2), "asinh": (torch.asinh, 2), "acosh": (torch.acosh, 2), "atanh": (torch.atanh, 2),
    "erf": (torch.erf, 2), "erfc": (torch.erfc, 4), "erfinv": (torch.erfinv, 8), "lgamma": (torch.lgamma, 8),
    "floor": (torch.floor, 0), "ceil": (torch.ceil, 0), "round": (torch.round, 0), "trunc": (torch.trunc, 0),
    "sign": (torch.sign, 0), "isnan": (torch.isnan, 0), "isinf": (torch.isinf, 0), "isfinite": (torch.isfinite, 0),
    "signbit": (torch.signbit, 0),
}  # fmt: skip
_ALSO_INTS = ("neg", "abs", "sign", "isnan", "isinf", "isfinite", "signbit")
_ALSO_BOOLS = ("sign", "isnan", "isinf", "isfinite", "signbit")
_ALSO_COMPLEX = ("neg", "abs", "reciprocal", "exp", "log", "sin", "cos", "tan", "tanh", "sqrt", "isnan", "isinf")


def _unary(kind: str, id_: str, array: Array, expected: Callable[..., Any], ulps: float = 0) -> Sample:
    return Sample(f"unary {kind}", id_, Unary(kind), (array,), expected, ulps)


def _unaries() -> list[Sample]:
    found: list[Sample] = []
    for kind, (function, ulps) in _UNARY.items():
        wide = by_torch(function, wide=True)
        found += [_unary(kind, f"{d} edges", edges(d), wide, ulps) for d in FLOATS]
        found += [_unary(kind, f"{d}", numbers((7, 5), d, -2, 2), wide, ulps) for d in FLOATS]
        found += [_unary(kind, f"{s}", numbers(s), wide, ulps) for s in SHAPES]
        if kind in _ALSO_INTS:
            found += [_unary(kind, f"{d} edges", edges(d), by_torch(function)) for d in INTS]
        if kind in _ALSO_BOOLS:
            found.append(_unary(kind, "bool", edges("bool"), by_torch(function)))
        if kind in _ALSO_COMPLEX:
            for d in ("c64", "c128"):
                found.append(_unary(kind, d, numbers((3, 4), d), by_torch(function), 16))
    # far out, where common approximations lose their digits; mpmath comes with torch's sympy
    far = {
        "erfc": (mpmath.erfc, numbers((50,), "f64", -3, 26)),
        "erf": (mpmath.erf, numbers((50,), "f64", -6, 6)),
        "erfinv": (mpmath.erfinv, 1 - 10.0 ** -numbers((50,), "f64", 0, 15)),
        "lgamma": (lambda x: mpmath.log(abs(mpmath.gamma(x))), numbers((90,), "f64", -0.9, 20)),
    }
    for kind, (truth, array) in far.items():
        found.append(_unary(kind, "f64 far", array, _precise(truth), 4))
    for d in FLOAT8:
        found.append(_unary("exp", d, edges(d)[3:], _by_float32(np.exp), 0))
        found.append(_unary("abs", d, edges(d), _by_float32(np.abs), 0))
        found.append(_unary("isnan", d, edges(d), lambda x: np.isnan(x.astype(np.float32))))
    for d in (*INTS, *UNSIGNED):
        found.append(_unary("not", d, edges(d), np.invert))
    found.append(_unary("not", "bool", edges("bool"), np.logical_not))
    for kind, function in (("real", torch.real), ("imag", torch.imag), ("conj", torch.conj)):
        found += [_unary(kind, d, numbers((2, 3), d), by_torch(function)) for d in ("c64", "c128")]
    found.append(_unary("sign", "c64", numbers((2, 3), "c64"), by_torch(torch.sgn), 4))
    return found


def _precise(truth: Callable[..., Any]) -> Callable[..., Any]:
    def expected(x: Array) -> Array:
        with mpmath.workdps(50):
            return np.array([float(truth(mpmath.mpf(float(v)))) for v in x])

    return expected


def _by_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: function(*[x.astype(np.float32) for x in xs]).astype(xs[0].dtype)


# --- binary ------------------------------------------------------------------------------------------------

_ARITHMETIC = {
    "add": torch.add,
    "multiply": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
    "mod": torch.remainder,
    "rem": torch.fmod,
    "floor_divide": torch.floor_divide,
}
_COMPARE = {
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
}
_BITS = {"bitwise_and": torch.bitwise_and, "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor}


def _pairs(x: Array) -> tuple[Array, Array]:
    """Every value with every value."""
    a, b = np.meshgrid(x, x)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _binary(kind: str, id_: str, arrays: tuple[Array, ...], expected: Callable[..., Any], **options: Any) -> Sample:
    return Sample(f"binary {kind}", id_, Binary(kind), arrays, expected, **options)


def _signless_zero(kind: str) -> bool:
    """The sign of max(0.0, -0.0) is nobody's: torch's differs between its own loops."""
    return kind in ("max", "min")


def _binaries() -> list[Sample]:
    found: list[Sample] = []
    for kind, function in {**_ARITHMETIC, **_COMPARE}.items():
        options = {"signless_zero": _signless_zero(kind)}
        if kind not in ("mod", "rem"):
            exact = {
                "f64": by_torch(function),
                "f32": by_torch(function),
                "f16": _narrow(function),
                "bf16": _narrow(function),
            }
            found += [_binary(kind, f"{d} edges", _pairs(edges(d)), exact[d], **options) for d in FLOATS]
        found += [
            _binary(kind, f"{s}", (numbers(s), numbers(s, seed=1)), by_torch(function), **options) for s in SHAPES
        ]
        for d in INTS:
            x, y = _pairs(edges(d))
            if kind in ("mod", "rem", "floor_divide"):  # neither 0 nor the one quotient that overflows
                fits = (y != 0) & ~((x == np.iinfo(x.dtype).min) & (y.astype(np.int64) == -1))
                x, y = x[fits], y[fits]
            found.append(_binary(kind, f"{d} edges", (x, y), by_torch(function)))
    for kind, function in {**_COMPARE, "max": torch.maximum, "min": torch.minimum, **_BITS}.items():
        found.append(_binary(kind, "bool", _pairs(edges("bool")), by_torch(function)))
    for kind, function in {"add": torch.add, "multiply": torch.mul, "equal": torch.eq, "not_equal": torch.ne}.items():
        found.append(
            _binary(kind, "c64", (numbers((3, 4), "c64"), numbers((3, 4), "c64", seed=1)), by_torch(function), ulps=2)
        )
    for kind, function in _BITS.items():
        found += [_binary(kind, d, _pairs(edges(d)), by_torch(function)) for d in INTS]
    for kind in ("shift_left", "shift_right"):
        for d in INTS:
            bits = np.array([0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 100, *([-1, -9] if d != "u8" else [])])
            x, y = np.meshgrid(edges(d), bits.astype(dtype_of(d)))
            found.append(_binary(kind, d, (x, y), _shift(kind)))
    return found + _remainders() + _powers() + _angles()


def _remainders() -> list[Sample]:
    """torch's own fmod gives NaN for a huge number by a tiny one; C's is exact."""

    def rem(x: float, y: float) -> float:
        return math.nan if math.isnan(x) or math.isnan(y) or math.isinf(x) or y == 0 else math.fmod(x, y)

    def mod(x: float, y: float) -> float:
        rest = rem(x, y)
        return rest + y if rest and (rest < 0) != (y < 0) else rest

    def expected(function: Callable[[float, float], float]) -> Callable[..., Any]:
        return lambda x, y: np.vectorize(function, [np.float64])(x.astype(float), y.astype(float)).astype(x.dtype)

    return [
        _binary(kind, f"{d} edges", _pairs(edges(d)), expected(function))
        for kind, function in (("rem", rem), ("mod", mod))
        for d in FLOATS
    ]


def _narrow(function: Callable[..., Any]) -> Callable[..., Any]:
    """In float32, rounded once: torch's own float16 loops round quotients on the way."""

    def expected(*arrays: Array) -> Any:
        out = by_torch(function)(*[a.astype(np.float32) for a in arrays])
        return out if out.dtype == np.bool_ else out.astype(arrays[0].dtype)

    return expected


def _shift(kind: str) -> Callable[..., Any]:
    """Python's shifts, whatever the width: all bits are gone beyond it (a negative count is beyond it)."""

    def one(x: int, n: int, bits: int) -> int:
        far = n < 0 or n >= bits
        if kind == "shift_right":
            return (-1 if x < 0 else 0) if far else x >> n
        return 0 if far else x << n

    def expected(x: Array, y: Array) -> Array:
        bits = x.dtype.itemsize * 8
        out = [one(int(a), int(b), bits) % 2**bits for a, b in zip(x.flat, y.flat, strict=True)]
        unsigned = np.array(out, f"u{x.dtype.itemsize}")
        return unsigned.view(x.dtype).reshape(x.shape)

    return expected


def _powers() -> list[Sample]:
    found = [_binary("pow", f"{d} edges", _pairs(edges(d)), by_torch(torch.pow, wide=True), ulps=4) for d in FLOATS]
    found += [
        _binary("pow", f"{s}", (numbers(s, "f32", 0, 3), numbers(s, seed=1)), by_torch(torch.pow, wide=True), ulps=4)
        for s in SHAPES
    ]
    for d in INTS:
        x, y = _pairs(np.array([-3, -2, -1, 0, 1, 2, 3, 7, 13]).clip(0 if d == "u8" else None).astype(dtype_of(d)))
        found.append(_binary("pow", d, (x, y), by_torch(torch.pow)))
    found.append(
        _binary("pow", "c64", (numbers((3, 4), "c64"), numbers((3, 4), "c64", seed=1)), by_torch(torch.pow), ulps=64)
    )
    return found


def _angles() -> list[Sample]:
    found = [_binary("atan2", f"{d} edges", _pairs(edges(d)), by_torch(torch.atan2, wide=True), ulps=2) for d in FLOATS]
    found += [_binary("atan2", f"{s}", (numbers(s), numbers(s, seed=1)), by_torch(torch.atan2), ulps=2) for s in SHAPES]
    found += [
        _binary("nextafter", f"{d} edges", _pairs(edges(d)), by_torch(torch.nextafter)) for d in ("f64", "f32", "bf16")
    ]
    found += [_binary("complex", f"{d} edges", _pairs(edges(d)), by_torch(torch.complex)) for d in ("f64", "f32")]
    found += [_binary("nextafter", "f16 edges", _pairs(edges("f16")), np.nextafter)]
    return found


# --- where, cast, bitcast ----------------------------------------------------------------------------------


def _wheres() -> list[Sample]:
    found: list[Sample] = []
    for d in (*FLOATS, *FLOAT8, *INTS, *UNSIGNED, "bool", "c64"):
        arrays = (numbers((2, 3), "bool"), numbers((2, 3), d), numbers((2, 3), d, seed=1))
        found.append(Sample("where", d, td.where, arrays, np.where))
    for s in SHAPES:
        arrays = (numbers(s, "bool"), numbers(s), numbers(s, seed=1))
        found.append(Sample("where", f"{s}", td.where, arrays, np.where))
    x = edges("f32")
    nothing = (np.zeros(x.shape, bool), np.full_like(x, np.nan), x)
    found.append(Sample("where", "what is not chosen doesn't matter", td.where, nothing, lambda c, x, y: y))
    return found


def _fitting(x: Array, to: str) -> Array:
    """Those values whose cast is defined: whole ones that fit, where the target is integers."""
    if to == "bool" or not (dtype_of(to).kind in "iu" and x.dtype.kind in "fV"):
        return x
    info = np.iinfo(dtype_of(to))
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        return x[np.isfinite(wide) & (np.trunc(wide) >= float(info.min)) & (np.trunc(wide) < float(info.max))]


_TORCH = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "f8e5m2": torch.float8_e5m2,
    "f8e4m3": torch.float8_e4m3fn,
}


def _casts() -> list[Sample]:
    found: list[Sample] = []
    for source in (*FLOATS, *FLOAT8, *INTS, "bool"):
        for to in (*FLOATS, *INTS, "bool", "c64"):
            if source != to:
                array, target = _fitting(edges(source), to), _TORCH[to]
                expected = by_torch(lambda x, target=target: x.to(target))
                found.append(Sample("cast", f"{source} to {to}", lambda x, to=to: td.cast(x, to), (array,), expected))
    for to in FLOAT8:  # torch's own rounds float32 to float8 once
        array, target = np.linspace(-500, 500, 997, dtype=np.float32), _TORCH[to]
        array = array[np.abs(array) <= 448]
        expected = by_torch(lambda x, target=target: x.to(target))
        found.append(Sample("cast", f"f32 to {to}", lambda x, to=to: td.cast(x, to), (array,), expected))
    c = numbers((3,), "c64")
    found.append(Sample("cast", "c64 to f32", lambda x: td.cast(x, "f32"), (c,), np.real))
    found += [
        Sample("cast", f"{s}", lambda x: td.cast(x, "f64"), (numbers(s),), lambda x: x.astype(np.float64))
        for s in SHAPES
    ]
    return found


def _bitcasts() -> list[Sample]:
    pairs = [
        ("f32", "i32"),
        ("i32", "f32"),
        ("f16", "u16"),
        ("bf16", "i16"),
        ("f64", "u64"),
        ("i64", "f64"),
        ("u8", "i8"),
        ("f8e4m3", "u8"),
        ("c64", "f64"),
    ]
    found = [
        Sample(
            "bitcast",
            f"{a} to {b}",
            lambda x, b=b: td.bitcast(x, b),
            (numbers((2, 3), a),),
            lambda x, b=b: x.view(dtype_of(b)),
        )
        for a, b in pairs
    ]
    found += [
        Sample("bitcast", f"{s}", lambda x: td.bitcast(x, "u32"), (numbers(s),), lambda x: x.view(np.uint32))
        for s in SHAPES
    ]
    return found


SAMPLES = [*_unaries(), *_binaries(), *_wheres(), *_casts(), *_bitcasts()]
