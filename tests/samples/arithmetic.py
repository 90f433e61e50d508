"""Samples of the arithmetic composites. The truth of floats is torch's in float64, rounded once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import FLOATS, INTS, Array, Sample, by_torch, edges, numbers

SHAPES = [(), (0,), (3,), (2, 0, 3), (2, 3, 4), (1, 2, 1, 3, 2)]
Function = Callable[..., Any]


def _pairs(x: Array) -> tuple[Array, Array]:
    a, b = np.meshgrid(x, x)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _half(d: str) -> bool:
    return d in ("f16", "bf16")


# --- of one and of two numbers -----------------------------------------------------------------------------

_ONE: dict[str, tuple[Function, Function, float]] = {
    "square": (td.square, torch.square, 1), "rsqrt": (td.rsqrt, torch.rsqrt, 2), "exp2": (td.exp2, torch.exp2, 2),
    "log2": (td.log2, torch.log2, 2), "log10": (td.log10, torch.log10, 2),
}  # fmt: skip


def _root(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By cases: the root of the size, with the sign of x where y is an odd whole number."""
    size = torch.pow(x.abs(), 1 / y)
    odd = (y.trunc() == y) & (torch.remainder(y, 2) == 1)
    return torch.where(x < 0, torch.where(odd, -size, torch.nan), size)


_TWO: dict[str, tuple[Function, Function, float]] = {
    "subtract": (td.subtract, torch.sub, 0), "divide": (td.divide, torch.div, 0),
    "trunc_divide": (td.trunc_divide, lambda x, y: torch.div(x, y, rounding_mode="trunc"), 0),
    "logaddexp": (td.logaddexp, torch.logaddexp, 4), "hypot": (td.hypot, torch.hypot, 3),
    "xlogy": (td.xlogy, torch.xlogy, 3), "fmax": (td.fmax, torch.fmax, 0), "fmin": (td.fmin, torch.fmin, 0),
    "heaviside": (td.heaviside, torch.heaviside, 0),
}  # fmt: skip
_EXACT = ("subtract", "divide", "trunc_divide")  # by IEEE: torch's float64 would round twice


def _of_one() -> list[Sample]:
    found: list[Sample] = []
    for op, (build, function, ulps) in _ONE.items():
        wide = by_torch(function, wide=True)
        for d in FLOATS:
            found.append(Sample(op, d, build, (numbers((5, 8), d, 0.1, 9),), wide, min(ulps, 1) if _half(d) else ulps))
            found.append(Sample(op, f"{d} edges", build, (edges(d),), wide, ulps))
        found += [Sample(op, f"{s}", build, (numbers(s, "f32", 0.1, 9),), wide, ulps) for s in SHAPES]
    found.append(
        Sample(
            "log2",
            "powers of two",
            td.log2,
            (2.0 ** np.arange(-20, 21, dtype="f4"),),
            lambda x: np.arange(-20, 21, dtype="f4"),
        )
    )
    found += [Sample("square", d, td.square, (numbers((7,), d),), by_torch(torch.square)) for d in INTS]
    found.append(
        Sample("square", "c64", td.square, (numbers((7,), "c64"),), by_torch(torch.square), 2, of_largest=True)
    )
    return found


def _of_two() -> list[Sample]:
    found: list[Sample] = []
    for op, (build, function, ulps) in _TWO.items():
        options: Any = {"signless_zero": op in ("fmax", "fmin")}
        for d in FLOATS:
            wide = by_torch(function, wide=_half(d) or op not in _EXACT)
            own = min(ulps, 1) if _half(d) else ulps
            x = edges(d)
            if op == "logaddexp":  # near 0 the result is what is left of a number and the logarithm that cancels it
                size = np.nan_to_num(x.astype(np.float64))
                x = x[~((size < 0) & (size > -6))]
            found.append(Sample(op, f"{d} edges", build, _pairs(x), wide, own, **options))
            if op == "trunc_divide":
                continue
            found.append(
                Sample(op, d, build, (numbers((5, 8), d, 0.1), numbers((5, 8), d, 0.1, seed=1)), wide, own, **options)
            )
        wide = by_torch(function)
        found += [
            Sample(op, f"{s}", build, (numbers(s, low=0.1), numbers(s, low=0.1, seed=1)), wide, ulps, **options)
            for s in SHAPES
        ]
        found.append(
            Sample(op, "broadcast", build, (numbers((2, 1, 3)), numbers((4, 1), low=0.5)), wide, ulps, **options)
        )
    for d in INTS:
        x, y = _pairs(edges(d))
        fits = (y != 0) & ~((x == np.iinfo(x.dtype).min) & (y.astype(np.int64) == -1))
        found.append(Sample("trunc_divide", d, td.trunc_divide, (x[fits], y[fits]), by_torch(_TWO["trunc_divide"][1])))
        for op in ("subtract", "fmax", "fmin"):
            found.append(Sample(op, d, _TWO[op][0], (x, y), by_torch(_TWO[op][1])))
    found.append(Sample("subtract", "from a number", lambda x: 1.0 - x, (edges("f32"),), by_torch(lambda x: 1.0 - x)))
    found.append(Sample("divide", "c64", td.divide, (numbers((5,), "c64"), numbers((5,), "c64", seed=1)), np.divide, 2))
    found.append(
        Sample("root", "c64", td.root, (numbers((5,), "c64"), np.full(5, 2 + 0j, "c8")), lambda x, y: np.sqrt(x), 16)
    )
    return found + _roots() + _lerps()


def _roots() -> list[Sample]:
    found = [
        Sample(
            "root",
            d,
            td.root,
            (numbers((6,), d, 0.1, 9), np.array([1, 2, 3, 4, 0.5, -2]).astype(numbers((1,), d).dtype)),
            by_torch(_root, wide=True),
            4,
        )
        for d in FLOATS
    ]
    whole = np.array([-8, -8, -8, 27, 0, np.inf, -np.inf, np.nan, 4, 16, -1], "f4")
    of = np.array([3, 2, -3, 3, 3, 3, 3, 3, 2, 4, 5], "f4")
    values = np.array([-2, np.nan, -0.5, 3, 0, np.inf, -np.inf, np.nan, 2, 2, -1], "f4")
    found.append(Sample("root", "edges", td.root, (whole, of), lambda x, y: values, 2))
    found += [
        Sample(
            "root", f"{s}", td.root, (numbers(s, low=0.1), numbers(s, low=0.5, seed=1)), by_torch(_root, wide=True), 8
        )
        for s in SHAPES
    ]
    return found


def _lerps() -> list[Sample]:
    found: list[Sample] = []
    for d in FLOATS:
        arrays = (numbers((5, 3), d, 1), numbers((5, 3), d, 1, seed=1), numbers((5, 3), d, 0, 1, seed=2))
        found.append(Sample("lerp", d, td.lerp, arrays, by_torch(torch.lerp, wide=True), 1 if _half(d) else 2))
    ends = (
        np.array([1, 1, np.inf, 2, np.nan], "f4"),
        np.array([1e8, 3, 1, np.inf, 1], "f4"),
        np.array([1, 0, 0.25, 0.75, 0], "f4"),
    )
    found.append(Sample("lerp", "ends", td.lerp, ends, by_torch(torch.lerp)))
    for s in SHAPES:
        found.append(
            Sample(
                "lerp",
                f"{s}",
                td.lerp,
                (numbers(s), numbers(s, seed=1), numbers((), low=0, high=1)),
                by_torch(torch.lerp),
                4,
                True,
            )
        )
    return found


def _limits() -> list[Sample]:
    found: list[Sample] = []
    for low, high in [(-1.5, 2), (None, 0), (0.5, None), (3, 1), (None, None), (-math.inf, math.inf)]:
        build = lambda x, a=low, b=high: td.clamp(x, low=a, high=b)  # noqa: E731
        function = by_torch(lambda x, a=low, b=high: x if a is b is None else torch.clamp(x, a, b))
        for d in FLOATS:
            found.append(Sample("clamp", f"{low} {high} {d}", build, (edges(d),), function, signless_zero=True))
    for d in INTS:
        found.append(
            Sample("clamp", d, lambda x: td.clamp(x, low=1, high=5), (edges(d),), by_torch(lambda x: x.clamp(1, 5)))
        )
        found.append(
            Sample(
                "clamp",
                f"{d} bounds of floats",
                lambda x: td.clamp(x, low=1.0, high=5.0),
                (edges(d),),
                by_torch(lambda x: x.clamp(1, 5)),
            )
        )
        found.append(Sample("nan_to_num", d, td.nan_to_num, (edges(d),), lambda x: x))
    for d in FLOATS:
        found.append(Sample("nan_to_num", d, td.nan_to_num, (edges(d),), by_torch(torch.nan_to_num)))
        found.append(
            Sample(
                "nan_to_num",
                f"{d} given",
                lambda x: td.nan_to_num(x, nan=2.0, posinf=3.0, neginf=-4.0),
                (edges(d),),
                by_torch(lambda x: torch.nan_to_num(x, 2.0, 3.0, -4.0)),
            )
        )
    found += [Sample("nan_to_num", f"{s}", td.nan_to_num, (numbers(s),), lambda x: x) for s in SHAPES]
    found += [
        Sample(
            "clamp",
            f"{s}",
            lambda x: td.clamp(x, low=0.0),
            (numbers(s),),
            by_torch(lambda x: x.clamp(0)),
            signless_zero=True,
        )
        for s in SHAPES
    ]
    return found


# --- over axes ---------------------------------------------------------------------------------------------

_AXES = [((2, 3, 4), (1,)), ((2, 3, 4), (-1, 0)), ((3,), (0,)), ((2, 3, 0), (0,)), ((1, 2, 1, 3, 2), (1, 3))]


def _variance(x: torch.Tensor, axes: tuple[int, ...], keep: bool, correction: int) -> torch.Tensor:
    """torch's own, without its warning where too few entries are left to divide by."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*degrees of freedom is <= 0")
        return torch.var(x, axes, correction=correction, keepdim=keep)


def _over_axes() -> list[Sample]:
    norms: dict[str, Any] = {f"{p}": {"ord": p} for p in (2.0, 1.0, 0.0, 3.0, 0.5, -1.0, math.inf, -math.inf)}
    table: list[tuple[str, str, Function, Function, float]] = [
        ("mean", "", td.mean, lambda x, a, k: torch.mean(x, a, k), 4),
        ("variance", "", td.variance, lambda x, a, k: _variance(x, a, k, 1), 16),
        ("variance", "of all", lambda x, **o: td.variance(x, correction=0.0, **o),
         lambda x, a, k: _variance(x, a, k, 0), 16),
        ("std", "", td.std, lambda x, a, k: _variance(x, a, k, 1).sqrt(), 16),
        ("logsumexp", "", td.logsumexp, lambda x, a, k: torch.logsumexp(x, a, k), 8),
        *(("vector_norm", n, lambda x, p=p, **o: td.vector_norm(x, **p, **o),
           lambda x, a, k, p=p: torch.linalg.vector_norm(x, p["ord"], a, k), 8) for n, p in norms.items()),
    ]  # fmt: skip
    found: list[Sample] = []
    for op, id_, build, function, ulps in table:
        for shape, axes in _AXES:
            for keep in (False, True):
                expected = by_torch(lambda x, a=axes, k=keep, f=function: f(x, a, k), wide=True)
                for d in FLOATS if shape == (2, 3, 4) else ("f32",):
                    found.append(
                        Sample(
                            op,
                            f"{id_} {shape} {axes} {keep} {d}",
                            lambda x, a=axes, k=keep, b=build: b(x, axes=a, keep=k),
                            (numbers(shape, d, 0.2),),
                            expected,
                            1 if _half(d) else ulps,
                        )
                    )
        inf, nan = np.inf, np.nan
        rows = np.array(
            [
                [inf, 1, 2],
                [-inf, -inf, -inf],
                [inf, -inf, 0],
                [nan, 1, 2],
                [inf, inf, inf],
                [0, -0.0, 0],
                [-1000, -1000, -999],
            ],
            "f4",
        )
        found.append(
            Sample(
                op,
                f"{id_} edges",
                lambda x, b=build: b(x, axes=(1,)),
                (rows,),
                by_torch(lambda x, f=function: f(x, (1,), False), wide=True),
                ulps,
            )
        )
    found.append(
        Sample(
            "logsumexp",
            "large",
            lambda x: td.logsumexp(x, axes=(0,)),
            (np.array([1000, 1000, 3e38], "f4"),),
            lambda x: np.array(3e38, "f4"),
        )
    )
    found.append(
        Sample(
            "mean",
            "f16 of many",
            lambda x: td.mean(x, axes=(0,)),
            (np.full(5000, 60000, "f2"),),
            lambda x: np.array(60000, "f2"),
        )
    )
    for op, value in (
        ("mean", np.nan),
        ("variance", np.nan),
        ("std", np.nan),
        ("logsumexp", -np.inf),
        ("vector_norm", 0),
    ):
        build = getattr(td, op)
        found.append(
            Sample(
                op,
                "of none",
                lambda x, b=build: b(x, axes=(1,)),
                (np.zeros((2, 0), "f4"),),
                lambda x, v=value: np.full(2, v, "f4"),
            )
        )
    found.append(
        Sample(
            "variance",
            "more correction than entries",
            lambda x: td.variance(x, axes=(0,), correction=5.0),
            (np.array([[1, 1], [1, 2]], "f4"),),
            lambda x: np.array([np.nan, np.inf], "f4"),
        )
    )
    return found + _normalized()


def _normalized() -> list[Sample]:
    found: list[Sample] = []
    for d in FLOATS:
        for p in (2.0, 1.0, math.inf):
            expected = by_torch(lambda x, p=p: F.normalize(x, p, 1), wide=True)
            found.append(
                Sample(
                    "normalize",
                    f"{d} {p}",
                    lambda x, p=p: td.normalize(x, ord=p, axes=(1,)),
                    (numbers((3, 4, 2), d),),
                    expected,
                    1 if _half(d) else 8,
                )
            )
        zero = np.zeros((2, 3), numbers((1,), d).dtype)
        found.append(Sample("normalize", f"{d} of zeros", lambda x: td.normalize(x, axes=(1,)), (zero,), lambda x: x))
    for s in [(3,), (2, 0), (1, 2, 1, 3, 2)]:
        found.append(
            Sample(
                "normalize",
                f"{s}",
                lambda x: td.normalize(x, axes=(-1,)),
                (numbers(s),),
                by_torch(lambda x: F.normalize(x, dim=-1)),
                8,
            )
        )
    found.append(
        Sample(
            "normalize",
            "edges",
            lambda x: td.normalize(x, axes=(1,)),
            (np.array([[np.inf, 1], [np.nan, 1], [1e-20, 0]], "f4"),),
            by_torch(lambda x: F.normalize(x, dim=1)),
            4,
        )
    )
    return found


# --- order -------------------------------------------------------------------------------------------------


def _order() -> list[Sample]:
    found: list[Sample] = []
    nans = np.array([[1, np.nan, 3, np.nan], [2, 2, 1, 1], [np.inf, -np.inf, np.inf, 0], [-0.0, 0.0, -0.0, 0.0]], "f4")
    for op, build, function in (("argmax", td.argmax, torch.argmax), ("argmin", td.argmin, torch.argmin)):
        cases = [(numbers((2, 5, 3), d), 1) for d in (*FLOATS, *INTS)] + [(edges(d), 0) for d in (*FLOATS, *INTS)]
        cases += [(nans, 1), (nans, 0), (numbers((3,)), -1), (numbers((0, 2)), 1), (numbers((1, 2, 1, 3, 2)), 3)]
        for i, (x, axis) in enumerate(cases):
            for keep in (False, True):
                found.append(
                    Sample(
                        op,
                        f"{i} {x.dtype} {x.shape} {axis} {keep}",
                        lambda x, a=axis, k=keep, b=build: b(x, axis=a, keep=k),
                        (x,),
                        by_torch(lambda x, a=axis, k=keep, f=function: f(x, a, k)),
                    )
                )
        found.append(
            Sample(
                op,
                "bool",
                lambda x, b=build: b(x, axis=0),
                (np.array([False, True, True]),),
                {"argmax": np.argmax, "argmin": np.argmin}[op],
            )
        )
    for descending in (False, True):
        expected = by_torch(lambda x, d=descending: tuple(torch.sort(x, dim=-1, descending=d, stable=True)))
        arrays = [edges(d) for d in (*FLOATS, *INTS)] + [
            nans,
            numbers((2, 0)),
            numbers((0, 2)),
            numbers((1, 2, 1, 2, 4)),
            numbers((2, 9), "i8", 0, 3),
        ]
        for i, x in enumerate(arrays):
            found.append(
                Sample(
                    "sort",
                    f"{i} {x.dtype}{x.shape} {descending}",
                    lambda x, d=descending: td.sort(x, axis=-1, descending=d),
                    (x,),
                    expected,
                )
            )
        first = numbers((3, 6, 2))
        found.append(
            Sample(
                "sort",
                f"axis 1 {descending}",
                lambda x, d=descending: td.sort(x, axis=1, descending=d),
                (first,),
                by_torch(lambda x, d=descending: tuple(torch.sort(x, 1, d))),
            )
        )
        for k in (0, 1, 3, 6):
            found.append(
                Sample(
                    "topk",
                    f"{k} {descending}",
                    lambda x, k=k, d=descending: td.topk(x, k=k, axis=1, largest=d),
                    (first,),
                    by_torch(lambda x, k=k, d=descending: tuple(torch.topk(x, k, 1, d))),
                )
            )
        ties = numbers((4, 9)).round()
        found.append(
            Sample(
                "topk",
                f"stable {descending}",
                lambda x, d=descending: td.topk(x, k=5, axis=1, largest=d, stable=True),
                (ties,),
                by_torch(
                    lambda x, d=descending: tuple(t[:, :5] for t in torch.sort(x, dim=1, descending=d, stable=True))
                ),
            )
        )
        for d in (*FLOATS, *INTS):
            distinct = (
                np.unique(edges(d).astype(np.float64 if edges(d).dtype.kind == "V" else edges(d).dtype))
                .astype(edges(d).dtype)[::-1]
                .copy()
            )
            found.append(
                Sample(
                    "topk",
                    f"{d} {descending}",
                    lambda x, d=descending: td.topk(x, k=4, axis=0, largest=d),
                    (distinct,),
                    by_torch(lambda x, d=descending: tuple(torch.topk(x, 4, 0, d))),
                )
            )
    return found + _logcumsumexps()


def _logcumsumexps() -> list[Sample]:
    inf, nan = np.inf, np.nan
    found: list[Sample] = []
    for s, axis in [((9,), 0), ((2, 5, 3), 1), ((1,), 0), ((0, 2), 0), ((2, 0), 0), ((1, 2, 1, 4, 2), -2)]:
        found.append(
            Sample(
                "logcumsumexp",
                f"{s}",
                lambda x, a=axis: td.logcumsumexp(x, axis=a),
                (numbers(s, low=0.5),),
                by_torch(lambda x, a=axis: torch.logcumsumexp(x, a), wide=True),
                8,
            )
        )
    for d in FLOATS:
        found.append(
            Sample(
                "logcumsumexp",
                d,
                lambda x: td.logcumsumexp(x, axis=0),
                (numbers((20,), d, 0.5),),
                by_torch(lambda x: torch.logcumsumexp(x, 0), wide=True),
                1 if _half(d) else 8,
            )
        )
    rows = np.array(
        [[-inf, -inf, 1, inf, 1, -inf], [1000, 1000, -1000, 3e38, 1, 1], [1, nan, 1, inf, 0, 0], [-inf] * 6], "f4"
    )
    found.append(
        Sample(
            "logcumsumexp",
            "edges",
            lambda x: td.logcumsumexp(x, axis=1),
            (rows,),
            by_torch(lambda x: torch.logcumsumexp(x, 1), wide=True),
            4,
        )
    )
    return found


def _training() -> list[Sample]:
    """What does something in training only."""
    found = [Sample("stop_gradient", d, td.stop_gradient, (numbers((2, 3), d),), lambda x: x) for d in (*FLOATS, *INTS)]
    found += [Sample("stop_gradient", f"{s}", td.stop_gradient, (numbers(s),), lambda x: x) for s in SHAPES]
    written = [(s, "f32") for s in SHAPES] + [((2, 3), d) for d in (*FLOATS, *INTS)]
    for s, d in written:
        both = numbers(s, d), numbers(s, d, 1)
        found.append(Sample("straight_through", f"{s} {d}", td.straight_through, both, lambda x, new: new))
    return found


SAMPLES = [*_training(), *_of_one(), *_of_two(), *_limits(), *_over_axes(), *_order()]
