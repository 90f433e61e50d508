"""ATen rules of Fourier transforms; torch.fft's many functions decompose into these three."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.known import array_of_constant
from tdagger.frameworks.torch.aten.table import RULES, rule, tuple_of, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const
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


@rule("istft")
def _istft(
    self: Value,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Value | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Value:
    """Each frame transformed back and windowed, added where they overlap, divided by what the windows add up to.

    Where that is nearly 0 torch raises an exception; of a window that isn't known on import it is taken not to be.
    """
    hop, win = hop_length or n_fft // 4, win_length or n_fft
    onesided = self.shape[-2] != n_fft if onesided is None else onesided
    x = s.permute(self, (*range(self.rank - 2), self.rank - 1, self.rank - 2))
    axis, scale = x.rank - 1, 1 if normalized else 2
    if return_complex:
        x = _c2c(x, [axis], scale, False)
    else:
        x = _c2r(x if onesided else s.slice_axis(x, axis, 0, n_fft // 2 + 1), [axis], scale, n_fft)
    if window is None:
        window = const(np.ones(win), "f64" if x.dtype.name in ("f64", "c128") else "f32")
    if win < n_fft:
        window = s.pad(window, [((n_fft - win) // 2, n_fft - win - (n_fft - win) // 2)])
    envelope = s.broadcast_to(lib.square(window), (x.shape[-2], n_fft))
    total = n_fft + hop * (x.shape[-2] - 1)
    start = n_fft // 2 if center else 0
    stop = start + length if length is not None else total - n_fft // 2 if center else total
    x, envelope = (_overlapped(v, n_fft, hop, start, min(stop, total)) for v in (RULES["mul"](x, window), envelope))
    known = array_of_constant(envelope)
    if known is not None and not (np.abs(known) > 1e-11).all():
        raise unsupported("its windows don't overlap everywhere (what they add up to has zeros), which torch refuses")
    out = RULES["true_divide"](x, envelope)
    return out if stop <= total else s.pad(out, [*[(0, 0)] * (out.rank - 1), (0, stop - total)])


def _overlapped(frames: Value, kernel: int, hop: int, start: int, stop: int) -> Value:
    """Frames, the last dimension of each, added up ``hop`` apart; what lies between ``start`` and ``stop``."""
    axis = frames.rank - 2
    line = s.group(frames, [*[1] * axis, 2])
    return s.slice_axis(s.fold(line, axis, kernel, hop), axis, start, stop)
