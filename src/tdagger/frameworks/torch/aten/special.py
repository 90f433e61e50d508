"""ATen rules of special functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tdagger import library as lib
from tdagger.frameworks.torch.aten.reasons import LOOP
from tdagger.frameworks.torch.aten.table import RULES, axes_of, floating, rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.types import DType

#: ATen's names of composites of special functions.
_NAMES = {
    "i0": "bessel_i0", "special_i0": "bessel_i0", "special_modified_bessel_i0": "bessel_i0",
    "special_i0e": "bessel_i0e", "special_i1": "bessel_i1", "special_modified_bessel_i1": "bessel_i1",
    "special_i1e": "bessel_i1e", "special_modified_bessel_k0": "bessel_k0",
    "special_scaled_modified_bessel_k0": "bessel_k0e", "special_modified_bessel_k1": "bessel_k1",
    "special_scaled_modified_bessel_k1": "bessel_k1e", "special_bessel_j0": "bessel_j0",
    "special_bessel_j1": "bessel_j1", "special_bessel_y0": "bessel_y0", "special_bessel_y1": "bessel_y1",
    "special_spherical_bessel_j0": "spherical_bessel_j0", "special_erfcx": "erfcx", "special_ndtri": "ndtri",
    "sinc": "sinc", "special_sinc": "sinc", "special_entr": "entr",
    "special_log_ndtr": "log_ndtr", "digamma": "digamma", "special_digamma": "digamma", "special_psi": "digamma",
}  # fmt: skip


def _of_floats(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    return lambda self: function(floating(self))


RULES.update({name: _of_floats(getattr(lib, composite)) for name, composite in _NAMES.items()})


@rule("special_airy_ai")
def _airy_ai(x: Value) -> Value:
    x = floating(x)
    return e.where(e.isinf(x), math.nan, lib.airy_ai(x))  # as torch has it


@rule("polygamma", "special_polygamma")
def _polygamma(*args: Value | int) -> Value:
    n, x = (args[0], args[1]) if isinstance(args[0], int) else (args[1], args[0])
    assert isinstance(x, Value)
    if n != 0:
        raise unsupported(LOOP.why)
    return lib.digamma(floating(x))


#: Of a float: the integers of its width, the bits of its fraction, its largest exponent.
_LAYOUT = {"f64": ("i64", 52, 1023), "f32": ("i32", 23, 127)}


def _power_of_two(exponent: Value, x: Value, whole: DType) -> Value:
    """``2 ** exponent`` as floats like ``x``, made of their bits."""
    _, bits, bias = _LAYOUT[x.dtype.name]
    return e.bitcast(e.shift_left(e.cast(exponent + bias, whole), bits), x.dtype)


@rule("frexp", "frexp.Tensor")
def _frexp(self: Value) -> tuple[Value, Value]:
    """Fraction in 0.5..1 and exponent, read from the bits; numbers below the normal range are scaled up first.

    The fraction is the number times a power of two, so that it has its slope.
    """
    x = self if self.dtype.name in _LAYOUT else e.cast(self, "f32")
    whole, bits, bias = _LAYOUT[x.dtype.name]
    to = DType.of(whole)
    tiny = e.less(e.abs_(x), 2.0 ** (1 - bias))
    scaled = e.where(tiny, x * 2.0**54, x)
    raw = e.bitcast(scaled, to)
    exponent = e.shift_right(raw, bits) & (2 * bias + 1)
    plain = e.isfinite(x) & e.not_equal(x, 0.0)
    away = exponent - (bias - 1)
    half = e.shift_right(away, 1)  # 2 ** -away may be too small for a float, its two halves are not
    fraction = e.where(plain, scaled * _power_of_two(-half, x, to) * _power_of_two(half - away, x, to), x)
    power = e.where(plain, away - e.where(tiny, e.full_like(raw, 54), e.zeros_like(raw)), 0)
    return e.cast(fraction, self.dtype), e.cast(power, "i32")


@rule("hash_tensor")
def _hash_tensor(self: Value, dim: Sequence[int] = (), *, keepdim: bool = False, mode: int = 0) -> Value:
    """The exclusive or of the bits of all entries, each as 64 bits; half is put on half until one is left."""
    axes = axes_of(dim, self.rank)
    x = e.bitcast(e.cast(self, "f64"), "i64") if self.dtype.is_float else e.cast(self, "i64")
    rest = [i for i in range(self.rank) if i not in axes]
    count = math.prod(self.shape[i] for i in axes)
    x = lib.reshape(s.permute(x, [*axes, *rest]), shape=(count, *(self.shape[i] for i in rest)))
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        left, right, odd = (s.slice_axis(x, 0, *b) for b in ((0, half), (half, 2 * half), (2 * half, x.shape[0])))
        joined = left ^ right
        x = s.concat([joined, odd], 0) if odd.shape[0] else joined
    shape = [1 if i in axes else n for i, n in enumerate(self.shape) if keepdim or i not in axes]
    return e.bitcast(lib.reshape(x, shape=tuple(shape)), "u64")
