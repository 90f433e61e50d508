"""How near results must be that different kernels compute.

Two results are compared bit for bit (``torch.equal``, ``assert_array_equal``, a tolerance of 0) only if one kernel
computes both on the same shapes and strides, or if nothing is rounded: data that is moved, integers, sums of whole
numbers. Whatever else agrees on one processor needn't on another, whose library splits and orders sums otherwise,
or has no fused multiply-add: that is compared by :func:`assert_rounded_alike`, or by a tolerance.

>>> assert_rounded_alike(np.array([0.1, 0.2]) + 0.2, np.array([0.3, 0.4]))
>>> assert_rounded_alike(np.array([0.30001, 0.4]), np.array([0.3, 0.4]))
Traceback (most recent call last):
AssertionError: off by 1e-05 of at most 7.1e-16: 8 units in the last place of 0.4
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from tests.samples import to_numpy

#: What a few operations and sums of some ten numbers may be off by; longer sums need more.
UNITS = 8


def assert_rounded_alike(got: Any, want: Any, units: float = UNITS, what: str = "") -> None:
    """Arrays or tensors of one type and shape that differ by rounding alone.

    Each element may be off by ``units`` units in the last place of the largest number in ``want``.
    """
    a, b = (to_numpy(t) if isinstance(t, torch.Tensor) else np.asarray(t) for t in (got, want))
    assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{what} {a.dtype}{a.shape}, expected {b.dtype}{b.shape}"
    if b.dtype.kind in "biu":  # indices and counts aren't rounded
        np.testing.assert_array_equal(a, b, err_msg=what)
        return
    eps = float(ml_dtypes.finfo(b.real.dtype).eps)
    wide = np.complex128 if b.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite], err_msg=what)
    largest = float(np.abs(b[finite]).max(initial=0))
    off = float(np.abs(a - b)[finite].max(initial=0))
    limit = units * eps * largest
    if not off <= limit:
        least = f"{units} units in the last place of {largest:.3g}"
        raise AssertionError(f"{what} off by {off:.2g} of at most {limit:.2g}: {least}".strip())
