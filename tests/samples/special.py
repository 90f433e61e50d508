"""Samples of special functions and of the Fourier transform. The truth is torch's in float64, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import special

import tdagger as td
from tests.samples import Array, Sample, by_torch, numbers

#: Composite to torch's function, and the range it is asked for.
_FUNCTIONS: dict[str, tuple[Any, float, float]] = {
    "airy_ai": (lambda x: special.airy_ai(x).masked_fill(x.isinf(), 0), -20, 20),
    "bessel_i0": (special.i0, -30, 30),
    "bessel_i0e": (special.i0e, -30, 30),
    "bessel_i1": (special.i1, -30, 30),
    "bessel_i1e": (special.i1e, -30, 30),
    "bessel_j0": (special.bessel_j0, -40, 40),
    "bessel_j1": (special.bessel_j1, -40, 40),
    "bessel_k0": (special.modified_bessel_k0, -1, 30),
    "bessel_k0e": (special.scaled_modified_bessel_k0, -1, 30),
    "bessel_k1": (special.modified_bessel_k1, -1, 30),
    "bessel_k1e": (special.scaled_modified_bessel_k1, -1, 30),
    "bessel_y0": (special.bessel_y0, -1, 40),
    "bessel_y1": (special.bessel_y1, -1, 40),
    "digamma": (special.digamma, -9.75, 30),
    "erfcx": (special.erfcx, -5, 30),
    "log_ndtr": (special.log_ndtr, -30, 10),
    "ndtri": (special.ndtri, -0.1, 1.1),
    "spherical_bessel_j0": (special.spherical_bessel_j0, -30, 30),
}

#: torch's own Airy and Bessel functions are good to 1e-6 of the largest only, and those of other types go with them.
_COARSE = ("airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1")


def _points(low: float, high: float, dtype: str) -> Array:
    ends = [0.0, -0.0, 1.0, 2.0, -5.0, 8.0, 0.5, np.nan]
    values = np.concatenate([[v for v in ends if low <= v <= high or v != v], numbers((60,), "f64", low, high)])
    return values.astype(td.DType.of(dtype).numpy)


SAMPLES: list[Sample] = []
for _name, (_function, _low, _high) in _FUNCTIONS.items():
    for _dtype in ("f64", "f32", "f16"):
        # in float32 torch itself (what these export as) is some 20 units off
        _ulps = 1.0 if _dtype == "f16" else 32.0 if _dtype == "f32" else 1e10 if _name in _COARSE else 1e4
        SAMPLES.append(
            Sample(_name, _dtype, getattr(td, _name), (_points(_low, _high, _dtype),), by_torch(_function, wide=True),
                   ulps=_ulps, of_largest=_name in (*_COARSE, "digamma", "ndtri", "log_ndtr"), signless_zero=True)
        )  # fmt: skip


def _fft(axis: int, inverse: bool) -> Any:
    if inverse:
        return lambda x: torch.fft.ifft(x, dim=axis, norm="forward")
    return lambda x: torch.fft.fft(x, dim=axis)


for _shape, _axis in (((5,), 0), ((3, 8), 1), ((2, 6, 3), 1), ((1, 2), 0)):
    for _inverse in (False, True):
        for _dtype, _ulps in (("c64", 8.0), ("c128", 8.0)):
            SAMPLES.append(
                Sample("fft", f"{_shape} {_axis} {_inverse} {_dtype}",
                       lambda x, a=_axis, i=_inverse: td.fft(x, axis=a, backward=i), (numbers(_shape, _dtype),),
                       by_torch(_fft(_axis, _inverse)), ulps=_ulps, of_largest=True)
            )  # fmt: skip
