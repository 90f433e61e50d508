"""ATen rules of Fourier transforms; torch.fft's many functions decompose into these three."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import rule
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.types import DType


def _transformed(x: Value, dims: Sequence[int], inverse: bool) -> Value:
    for dim in dims:
        x = lib.fft(x, axis=dim % x.rank, backward=inverse)
    return x


def _scaled(x: Value, count: int, normalization: int) -> Value:
    """Divided by nothing, the root of the count, or the count, as torch numbers them."""
    by = (1.0, math.sqrt(count), float(count))[normalization]
    return x if by == 1 else x / by


@rule("_fft_c2c")
def _c2c(self: Value, dim: Sequence[int], normalization: int, forward: bool) -> Value:
    out = _transformed(self, dim, not forward)
    return _scaled(out, math.prod(self.shape[d] for d in dim), normalization)


@rule("_fft_r2c")
def _r2c(self: Value, dim: Sequence[int], normalization: int, onesided: bool) -> Value:
    x = e.cast(self, DType.of("c128" if self.dtype.name == "f64" else "c64"))
    out = _scaled(_transformed(x, dim, False), math.prod(self.shape[d] for d in dim), normalization)
    if not onesided:
        return out
    last = normal_axis(dim[-1], self.rank)
    return s.slice_axis(out, last, 0, self.shape[last] // 2 + 1)


@rule("_fft_c2r")
def _c2r(self: Value, dim: Sequence[int], normalization: int, last_dim_size: int) -> Value:
    *others, last = (normal_axis(d, self.rank) for d in dim)
    x = _transformed(self, others, True)
    # the half that isn't given mirrors the other; what it says of the first and middle entry's angle is left out
    half = last_dim_size // 2 + 1
    x = s.slice_axis(x, last, 0, half)
    mirrored = s.flip(e.conj(s.slice_axis(x, last, 1, last_dim_size - half + 1)), (last,))
    out = e.real(_transformed(s.concat((x, mirrored), last), [last], True))
    return _scaled(out, math.prod(out.shape[d] for d in dim), normalization)
