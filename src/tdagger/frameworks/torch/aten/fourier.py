"""ATen rules of Fourier transforms; torch.fft's many functions decompose into these three."""

from __future__ import annotations

from collections.abc import Sequence

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import rule, tuple_of
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.types import DType, sized


def _transformed(x: Value, dims: Sequence[int], inverse: bool) -> Value:
    for dim in dims:
        x = lib.fft(x, axis=dim % x.rank, backward=inverse)
    return x


def _scaled(x: Value, dims: Sequence[int], normalization: int) -> Value:
    """Divided by nothing, the root of the count of entries, or the count, as torch numbers them."""
    if not normalization:
        return x
    return lib.over_count(x, axes=tuple(d % x.rank for d in dims), root=normalization == 1)


@rule("fft_fftshift")
def _fftshift(self: Value, dim: int | Sequence[int] | None = None) -> Value:
    return _shifted(self, dim, 0)


@rule("fft_ifftshift")
def _ifftshift(self: Value, dim: int | Sequence[int] | None = None) -> Value:
    return _shifted(self, dim, 1)


def _shifted(x: Value, dim: int | Sequence[int] | None, offset: int) -> Value:
    """Rolled by half of what there is along each axis, rounded down, or up with an ``offset`` of 1."""
    axes = range(x.rank) if dim is None else tuple_of(dim, 1)
    axes = tuple(sorted({normal_axis(a, x.rank) for a in axes}))
    return lib.roll(x, shifts=tuple(sized(x.shape[a], (offset,), 2) for a in axes), axes=axes) if axes else x


@rule("_fft_c2c")
def _c2c(self: Value, dim: Sequence[int], normalization: int, forward: bool) -> Value:
    out = _transformed(self, dim, not forward)
    return _scaled(out, dim, normalization)


@rule("_fft_r2c")
def _r2c(self: Value, dim: Sequence[int], normalization: int, onesided: bool) -> Value:
    x = e.cast(self, DType.of("c128" if self.dtype.name == "f64" else "c64"))
    out = _scaled(_transformed(x, dim, False), dim, normalization)
    if not onesided:
        return out
    last = normal_axis(dim[-1], self.rank)
    return s.slice_axis(out, last, 0, sized(self.shape[last], (2,), 2))


@rule("_fft_c2r")
def _c2r(self: Value, dim: Sequence[int], normalization: int, last_dim_size: int) -> Value:
    *others, last = (normal_axis(d, self.rank) for d in dim)
    x = _transformed(self, others, True)
    # the half that isn't given mirrors the other; what it says of the first and middle entry's angle is left out
    half = last_dim_size // 2 + 1
    x = s.slice_axis(x, last, 0, half)
    end = sized(half, plus=-1) if last_dim_size % 2 == 0 and half > 1 else None
    mirrored = s.flip(e.conj(s.slice_axis(x, last, 1, end)), (last,))
    out = e.real(_transformed(s.concat((x, mirrored), last), [last], True))
    return _scaled(out, dim, normalization)
