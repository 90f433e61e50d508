"""Samples of functions with kinks and ends. The truth of floats is torch's in float64, rounded once."""

from __future__ import annotations

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


#: Composite, torch's function, ulps; whether the arguments must be probabilities.
_ONE: dict[str, tuple[Function, Function, float]] = {
    "sinc": (td.sinc, torch.sinc, 8), "entr": (td.entr, torch.special.entr, 3),
}  # fmt: skip
_TWO: dict[str, tuple[Function, Function, float]] = {
    "xlog1py": (td.xlog1py, torch.special.xlog1py, 3),
    "copysign": (td.copysign, torch.copysign, 0),
    "at_least": (td.at_least, torch.maximum, 0),
    "at_most": (td.at_most, torch.minimum, 0),
    "huber_loss": (
        lambda x, y: td.huber_loss(x, y, delta=2.0), lambda x, y: F.huber_loss(x, y, reduction="none", delta=2.0), 3,
    ),
    "smooth_l1_loss": (
        lambda x, y: td.smooth_l1_loss(x, y, beta=0.5),
        lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=0.5), 3,
    ),
}  # fmt: skip


def _bce(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy(x, t, reduction="none")


def _of_one() -> list[Sample]:
    found: list[Sample] = []
    for op, (build, function, ulps) in _ONE.items():
        wide = by_torch(function, wide=True)
        for d in FLOATS:
            found.append(Sample(op, d, build, (numbers((5, 8), d, 0.1, 2),), wide, ulps, of_largest=op == "sinc"))
        x = edges("f32")
        x = (
            x[~(np.abs(x) > 1e4) | ~np.isfinite(x)] if op == "sinc" else x
        )  # the sine of large numbers is what rounding left
        found.append(Sample(op, "edges", build, (x,), by_torch(function), ulps))
        found += [Sample(op, f"{s}", build, (numbers(s, "f32", 0.1, 0.9),), wide, ulps) for s in SHAPES]
    return found


def _of_two() -> list[Sample]:
    found: list[Sample] = []
    for op, (build, function, ulps) in _TWO.items():
        zero = op in ("at_least", "at_most")
        for d in FLOATS:
            arrays = (numbers((5, 8), d, 0.1), numbers((5, 8), d, 0.1, seed=1))
            found.append(Sample(op, d, build, arrays, by_torch(function, wide=True), max(ulps, 1), signless_zero=zero))
        found.append(Sample(op, "edges", build, _pairs(edges("f32")), by_torch(function), ulps, signless_zero=zero))
        for s in SHAPES:
            arrays = (numbers(s, low=0.1), numbers(s, low=0.1, seed=1))
            found.append(Sample(op, f"{s}", build, arrays, by_torch(function), ulps, signless_zero=zero))
    for d in ("f32", "f64"):
        arrays = (numbers((5, 8), d, 0, 3), numbers((5, 8), d, seed=1))
        found.append(Sample("polar", d, td.polar, arrays, by_torch(torch.polar), 4, of_largest=True))
    for d in INTS:
        for op in ("at_least", "at_most"):
            found.append(Sample(op, d, _TWO[op][0], _pairs(edges(d)), by_torch(_TWO[op][1])))
    x, t = np.meshgrid(np.array([0, 1, 0.5, 1e-30, 0.25], "f4"), np.array([0, 1, 0.5], "f4"))
    found.append(Sample("binary_cross_entropy", "edges", td.binary_cross_entropy, (x, t), by_torch(_bce), 4))
    for s in SHAPES:
        arrays = (numbers(s, low=0.1, high=0.9), numbers(s, low=0.1, high=0.9, seed=1))
        found.append(Sample("binary_cross_entropy", f"{s}", td.binary_cross_entropy, arrays, by_torch(_bce), 4))
    found.append(
        Sample("smooth_l1_loss", "of no width", lambda x, y: td.smooth_l1_loss(x, y, beta=0.0), (x, t),
               by_torch(lambda x, y: F.l1_loss(x, y, reduction="none")))
    )  # fmt: skip
    return found


def _along() -> list[Sample]:
    found: list[Sample] = []
    nans = np.array([[1, np.nan, 3, np.nan], [2, 2, 1, 1], [np.inf, -np.inf, np.inf, 0]], "f4")
    for op, build, function in (("largest", td.largest, torch.amax), ("smallest", td.smallest, torch.amin)):
        cases = [(numbers((2, 5, 3), d), 1) for d in (*FLOATS, *INTS)] + [
            (nans, 0),
            (nans, -1),
            (numbers((1, 2, 1)), 0),
        ]
        for i, (x, axis) in enumerate(cases):
            for keep in (False, True):
                found.append(
                    Sample(
                        op,
                        f"{i} {x.dtype} {axis} {keep}",
                        lambda x, a=axis, k=keep, b=build: b(x, axis=a, keep=k),
                        (x,),
                        by_torch(lambda x, a=axis, k=keep, f=function: f(x, a, k)),
                    )
                )
    return found


SAMPLES = [*_of_one(), *_of_two(), *_along()]
