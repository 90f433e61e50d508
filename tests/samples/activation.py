"""Samples of the activations. The truth of floats is torch's in float64, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import FLOATS, Array, Sample, by_torch, edges, numbers

SHAPES = [(), (0,), (3,), (2, 0, 3), (2, 3, 4), (1, 2, 1, 3, 2)]

Function = Callable[..., Any]


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


# id -> op, build, torch's function, ulps, what they are of: the element, or the largest element (for those that
# subtract numbers that are nearly equal)
_ELEMENTWISE: dict[str, tuple[str, Function, Function, float, bool]] = {
    "relu": ("relu", td.relu, torch.relu, 0, False),
    "relu6": ("relu6", td.relu6, F.relu6, 0, False),
    "leaky_relu": ("leaky_relu", td.leaky_relu, F.leaky_relu, 1, False),
    "leaky_relu 0.3": ("leaky_relu", lambda x: td.leaky_relu(x, slope=0.3), lambda x: F.leaky_relu(x, 0.3), 1, False),
    "hardtanh": ("hardtanh", td.hardtanh, F.hardtanh, 0, False),
    "hardtanh 0.5..2": ("hardtanh", lambda x: td.hardtanh(x, low=0.5, high=2.0),
                        lambda x: F.hardtanh(x, 0.5, 2.0), 0, False),
    "hard_sigmoid": ("hard_sigmoid", td.hard_sigmoid, F.hardsigmoid, 2, False),
    "hard_swish": ("hard_swish", td.hard_swish, F.hardswish, 3, False),
    "elu": ("elu", td.elu, F.elu, 3, False),
    "elu 2": ("elu", lambda x: td.elu(x, alpha=2.0), lambda x: F.elu(x, 2.0), 3, False),
    "selu": ("selu", td.selu, torch.selu, 4, False),
    "celu": ("celu", td.celu, F.celu, 3, False),
    "celu 2": ("celu", lambda x: td.celu(x, alpha=2.0), lambda x: F.celu(x, 2.0), 4, False),
    "silu": ("silu", td.silu, F.silu, 4, False),
    "mish": ("mish", td.mish, F.mish, 6, False),
    "sigmoid": ("sigmoid", td.sigmoid, torch.sigmoid, 4, False),
    "log_sigmoid": ("log_sigmoid", td.log_sigmoid, F.logsigmoid, 4, False),
    "softplus": ("softplus", td.softplus, F.softplus, 4, False),
    "softplus 2": ("softplus", lambda x: td.softplus(x, beta=2.0, threshold=5.0),
                   lambda x: F.softplus(x, 2.0, 5.0), 4, False),
    "softsign": ("softsign", td.softsign, F.softsign, 2, False),
    "gelu": ("gelu", td.gelu, F.gelu, 4, True),
    "gelu tanh": ("gelu", lambda x: td.gelu(x, approximate="tanh"), _gelu_tanh, 4, True),
    # what is left of a number and its tanh, which has a unit of its own
    "tanh_shrink": ("tanh_shrink", td.tanh_shrink, F.tanhshrink, 8, True),
    "soft_shrink": ("soft_shrink", td.soft_shrink, F.softshrink, 2, True),
    "soft_shrink 1": ("soft_shrink", lambda x: td.soft_shrink(x, lambd=1.0), lambda x: F.softshrink(x, 1.0), 0, False),
    "hard_shrink": ("hard_shrink", td.hard_shrink, F.hardshrink, 0, False),
    "hard_shrink 1": ("hard_shrink", lambda x: td.hard_shrink(x, lambd=1.0), lambda x: F.hardshrink(x, 1.0), 0, False),
    "threshold": ("threshold", lambda x: td.threshold(x, threshold=0.5, value=20.0),
                  lambda x: F.threshold(x, 0.5, 20.0), 0, False),
    "gaussian": ("gaussian", td.gaussian, lambda x: torch.exp(-x * x), 16, False),
    "inv_gaussian": ("inv_gaussian", td.inv_gaussian, lambda x: torch.sqrt(-torch.log(x)), 4, False),
    "logit": ("logit", td.logit, torch.logit, 4, True),
    "logit 0.1": ("logit", lambda x: td.logit(x, eps=0.125), lambda x: torch.logit(x, 0.125), 4, True),
    "dropout": ("dropout", lambda x: td.dropout(x, p=0.5), lambda x: F.dropout(x, 0.5, False), 0, False),
    "prelu": ("prelu", lambda x: td.prelu(x, td.const([0.25], x.dtype)),
              lambda x: torch.where(x > 0, x, 0.25 * x), 1, False),
}  # fmt: skip

#: In the unit interval, where logarithms are real.
_UNIT = ("inv_gaussian", "logit")


def _small(dtype: str) -> Array:
    """Edges at which nothing under- or overflows in this type, so that float64 tells what must come out."""
    x = edges(dtype)
    with np.errstate(all="ignore"):
        return x[~(np.abs(x.astype(np.float64)) > 8) | ~np.isfinite(x.astype(np.float64))]


def _elementwise() -> list[Sample]:
    found: list[Sample] = []
    for id_, (op, build, function, ulps, of_largest) in _ELEMENTWISE.items():
        options: Any = {"of_largest": of_largest, "signless_zero": True}
        low = 0.01 if op in _UNIT else -3
        high = 0.99 if op in _UNIT else 3
        wide = by_torch(_limits(op, function), wide=True)
        for d in FLOATS:
            own = ulps if d in ("f64", "f32") else min(ulps, 1)  # computed in float32 and rounded once
            found.append(Sample(op, f"{id_} {d}", build, (numbers((5, 8), d, low, high),), wide, own, **options))
            found.append(Sample(op, f"{id_} {d} edges", build, (_small(d),), wide, own, **options))
        for s in SHAPES:
            found.append(Sample(op, f"{id_} {s}", build, (numbers(s, "f32", low, high),), wide, ulps, **options))
    return found


def _limits(op: str, function: Function) -> Function:
    """torch's gelu of inf is NaN in some of its loops and inf in others; inf it is."""
    if op != "gelu":
        return function
    return lambda x: torch.where(x == torch.inf, x, function(x))


def _far() -> list[Sample]:
    """Large numbers, of float32, by what the functions tend to."""
    big = np.array([1000, -1000, 90, -110, 3e38, -3e38], "f4")
    cases: dict[str, tuple[Function, list[float]]] = {
        "relu": (td.relu, [1000, 0, 90, 0, 3e38, 0]), "sigmoid": (td.sigmoid, [1, 0, 1, 0, 1, 0]),
        "softplus": (td.softplus, [1000, 0, 90, 0, 3e38, 0]),
        "log_sigmoid": (td.log_sigmoid, [0, -1000, -8.194e-40, -110, 0, -3e38]),
        "silu": (td.silu, [1000, 0, 90, 0, 3e38, 0]), "mish": (td.mish, [1000, 0, 90, 0, 3e38, 0]),
        "gelu": (td.gelu, [1000, 0, 90, 0, 3e38, 0]),
        "gelu tanh": (lambda x: td.gelu(x, approximate="tanh"), [1000, 0, 90, 0, 3e38, 0]),
        "hard_swish": (td.hard_swish, [1000, 0, 90, 0, 3e38, 0]), "hard_sigmoid": (td.hard_sigmoid, [1, 0, 1, 0, 1, 0]),
        "elu": (td.elu, [1000, -1, 90, -1, 3e38, -1]), "celu": (td.celu, [1000, -1, 90, -1, 3e38, -1]),
        "softsign": (td.softsign, [1000 / 1001, -1000 / 1001, 90 / 91, -110 / 111, 1, -1]),
        "tanh_shrink": (td.tanh_shrink, [999, -999, 89, -109, 3e38, -3e38]),
        "gaussian": (td.gaussian, [0] * 6),
    }  # fmt: skip
    return [
        Sample(
            id_.split()[0], f"{id_} far", build, (big,), lambda x, v=values: np.array(v, "f4"), 2, signless_zero=True
        )
        for id_, (build, values) in cases.items()
    ]


def _infinite_rows() -> Array:
    inf, nan = np.inf, np.nan
    rows = [
        [inf, -inf, 1],
        [-inf, -inf, -inf],
        [inf, inf, 0],
        [nan, 1, 2],
        [-inf, 1, 2],
        [1000, 999, -1000],
        [3e38, -3e38, 0],
        [-0.0, 0.0, 0.0],
    ]
    return np.array(rows, "f4")


def _along_axis() -> list[Sample]:
    found: list[Sample] = []
    for op, build, function in (
        ("softmax", td.softmax, torch.softmax),
        ("log_softmax", td.log_softmax, torch.log_softmax),
    ):
        wide = [by_torch(lambda x, a=a, f=function: f(x, a), wide=True) for a in (0, 1, -1)]
        for d in FLOATS:
            ulps = 8 if d in ("f64", "f32") else 1
            found.append(Sample(op, d, lambda x, b=build: b(x, axis=1), (numbers((3, 7, 2), d, -8, 8),), wide[1], ulps))
        found.append(
            Sample(op, "edges", lambda x, b=build: b(x, axis=-1), (_infinite_rows(),), wide[2], 4, signless_zero=True)
        )
        for s in [(3,), (0, 2), (2, 0), (1, 3), (1, 2, 1, 3, 2)]:
            found.append(Sample(op, f"{s}", lambda x, b=build: b(x, axis=0), (numbers(s),), wide[0], 8))
    for d in FLOATS:
        found.append(
            Sample(
                "glu",
                d,
                lambda x: td.glu(x, axis=1),
                (numbers((3, 6, 2), d),),
                by_torch(lambda x: F.glu(x, 1), wide=True),
                4 if d in ("f64", "f32") else 1,
            )
        )
    for s, axis in [((4,), 0), ((2, 0), 1), ((0, 2), -1), ((1, 2, 4, 1, 3), 2)]:
        found.append(
            Sample(
                "glu",
                f"{s}",
                lambda x, a=axis: td.glu(x, axis=a),
                (numbers(s),),
                by_torch(lambda x, a=axis: F.glu(x, a)),
                4,
            )
        )
    for s, n in [((2, 3), 3), ((2, 3, 4), 3), ((2, 3, 2, 1, 2), 1), ((4,), 1), ((0, 2), 2), ((), 1)]:
        found.append(Sample("prelu", f"{s} {n}", td.prelu, (numbers(s), numbers((n,), seed=2)), by_torch(F.prelu), 1))
    for s, axis in [((3,), 0), ((3, 4), 0), ((2, 3), -1), ((2, 2, 3, 4), 2), ((0, 2, 3), 2), ((2, 1, 3), 1)]:
        n = s[axis]
        like = [1] * len(s)
        like[axis] = n
        found.append(
            Sample(
                "prelu", f"{s} axis {axis}", lambda x, w, a=axis: td.prelu(x, w, axis=a),
                (numbers(s), numbers((n,), seed=2)),
                by_torch(lambda x, w, to=tuple(like): torch.where(x > 0, x, w.reshape(to) * x)), 1,
            )
        )  # fmt: skip
    for d in FLOATS:
        found.append(
            Sample(
                "prelu",
                f"{d} weights",
                td.prelu,
                (numbers((2, 3, 4), d), numbers((3,), d)),
                by_torch(F.prelu, wide=True),
                1,
            )
        )
    ints = np.array([-3, 0, 5], "i4")
    found.append(Sample("relu", "i32", td.relu, (ints,), by_torch(torch.relu)))
    found.append(Sample("relu6", "i32", td.relu6, (np.array([-3, 0, 5, 9], "i4"),), by_torch(F.relu6)))
    found.append(
        Sample(
            "hardtanh",
            "i64",
            lambda x: td.hardtanh(x, low=-2, high=3),
            (ints.astype("i8"),),
            by_torch(lambda x: F.hardtanh(x, -2, 3)),
        )
    )
    found.append(
        Sample(
            "threshold",
            "i32",
            lambda x: td.threshold(x, threshold=1, value=7),
            (ints,),
            by_torch(lambda x: F.threshold(x, 1, 7)),
        )
    )
    return found


SAMPLES = [*_elementwise(), *_far(), *_along_axis()]
