"""The one table of op samples: what drives every op test (types, reference, cost, round trips).

Each module of this folder has a list ``SAMPLES``; :func:`all_samples` joins them. A sample's truth is computed
by torch or numpy, never by tdagger.

>>> sample = Sample("unary neg", "f32", td.neg, (edges("f32"),), by_torch(torch.neg))
>>> check(sample, -sample.arrays[0])
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

import tdagger as td
from tdagger.types import DType

Array = np.ndarray[Any, np.dtype[Any]]

FLOATS = ("f64", "f32", "f16", "bf16")
INTS = ("i8", "i16", "i32", "i64", "u8")
UNSIGNED = ("u16", "u32", "u64")


class Sample(NamedTuple):
    """An op applied to arrays, and what must come out.

    ``op`` names what is sampled: a core op (``pad``), a core op and its kind (``unary exp``, ``reduce sum``), or a
    composite (``softmax``). ``build(*values)`` makes the value, or the tuple of values, of inputs that have the
    types of ``arrays``; ``expected(*arrays)`` gives the array or tuple of arrays that must come out.

    ``ulps`` is how many units in the last place of the result's element type a result may be off: of each
    element, or, for sums that can cancel, of the largest element (``of_largest``). With 0 the results must be
    equal. NaN equals NaN, and -0.0 is not 0.0, unless ``of_largest`` or ``signless_zero``: where no one says which
    zero it is, as of max(0.0, -0.0).
    """

    op: str
    id: str
    build: Callable[..., Any]
    arrays: tuple[Array, ...]
    expected: Callable[..., Any]
    ulps: float = 0
    of_largest: bool = False
    signless_zero: bool = False

    @property
    def name(self) -> str:
        """What pytest calls it."""
        return f"{self.op}-{self.id}"

    def inputs(self) -> list[td.Value]:
        """Input values of the types of the arrays."""
        return [td.input(f"x{i}", a.shape, DType.of(a.dtype)) for i, a in enumerate(self.arrays)]


@cache
def all_samples() -> tuple[Sample, ...]:
    """The samples of every module of this folder."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    found = tuple(s for n in names for s in importlib.import_module(f"{__name__}.{n}").SAMPLES)
    seen = [s.name for s in found]
    assert len(set(seen)) == len(seen), f"sample names occur twice: {sorted({n for n in seen if seen.count(n) > 1})}"
    return found


def by_op(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each op, which are one test: thousands of tests take longer around samples than inside."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.op, []).append(sample)
    return found


def each(samples: Iterable[Sample], holds: Callable[[Sample], None], misses: Iterable[str] = ()) -> None:
    """Let a check be made of every sample; an ExceptionGroup of all that fail, each with the name of its sample.

    ``misses`` are the names of those for which the check may not hold.
    """
    known, failed = frozenset(misses), list[Exception]()
    for sample in samples:
        try:
            holds(sample)
        except Exception as e:
            if not (isinstance(e, AssertionError) and sample.name in known):
                e.add_note(f"the sample {sample.name!r}")
                failed.append(e)
    if failed:
        raise ExceptionGroup(f"{len(failed)} samples fail", failed)


# --- numpy and torch ---------------------------------------------------------------------------------------

_AS_BITS = {"bf16": torch.bfloat16, "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2}


def to_torch(array: Any) -> torch.Tensor:
    """The tensor of an array, bfloat16 and float8 by their bits."""
    array = np.array(array, order="C")  # writable and contiguous, as torch wants it
    dtype = DType.of(array.dtype)
    if dtype.name in _AS_BITS:
        bits = array.reshape(array.shape).view(np.int16 if dtype.bytes == 2 else np.uint8)
        return torch.from_numpy(bits).view(_AS_BITS[dtype.name])
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> Array:
    """The array of a tensor, bfloat16 and float8 by their bits."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    for name, dtype in _AS_BITS.items():
        if tensor.dtype is dtype:
            bits = tensor.view(torch.int16 if dtype is torch.bfloat16 else torch.uint8).numpy()
            return bits.view(DType.of(name).numpy)
    return tensor.numpy()


def by_torch(function: Callable[..., Any], wide: bool = False) -> Callable[..., Any]:
    """``function`` of tensors as a function of arrays; a tuple of tensors gives a tuple of arrays.

    ``wide`` computes floats in float64 and rounds the results once to the element type of the first array:
    the truth where torch itself rounds on the way.
    """

    def expected(*arrays: Array) -> Any:
        tensors = [to_torch(a) for a in arrays]
        if not wide:
            out = function(*tensors)
            return tuple(map(to_numpy, out)) if isinstance(out, tuple | list) else to_numpy(out)
        out = function(*[t.double() if t.is_floating_point() else t for t in tensors])
        return tuple(_rounded(t, arrays[0]) for t in out) if isinstance(out, tuple | list) else _rounded(out, arrays[0])

    return expected


def _rounded(tensor: torch.Tensor, like: Array) -> Array:
    out = to_numpy(tensor)
    with np.errstate(all="ignore"):
        return out.astype(like.dtype) if tensor.is_floating_point() else out


# --- arrays ------------------------------------------------------------------------------------------------


def dtype_of(name: str) -> np.dtype[Any]:
    """The numpy dtype of a tdagger element type."""
    return DType.of(name).numpy


def edges(dtype: str) -> Array:
    """The values where definitions go wrong: infinities, NaN, both zeros, huge, tiny, near 1, halves."""
    d = DType.of(dtype)
    if d.name == "bool":
        return np.array([False, True, True, False])
    if d.is_int:
        info = np.iinfo(d.numpy)
        low = [info.min, info.min + 1, -128, -7, -3, -2, -1] if d.is_signed else []
        return np.array([*low, 0, 1, 2, 3, 7, 100, info.max - 1, info.max], d.numpy)
    import ml_dtypes

    info = ml_dtypes.finfo(d.numpy)
    size = [float(info.max), float(info.tiny), float(info.smallest_subnormal), float(info.eps),
            0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 0.46875, 0.1, 0.999, 1.001, 4.0, 6.0, 10.0, 20.5, 90.0, 1000.0]  # fmt: skip
    with np.errstate(all="ignore"):
        values = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, *size, *[-v for v in size]])
        return values.astype(d.numpy)


def numbers(shape: Sequence[int], dtype: str = "f32", low: float = -3, high: float = 3, seed: int = 0) -> Array:
    """Random numbers of ``low``..``high``: whole ones for integers, any for bools."""
    rng = np.random.default_rng([seed, *shape])
    d = DType.of(dtype)
    if d.name == "bool":
        return rng.random(tuple(shape)) < 0.5
    if d.is_int:
        return rng.integers(int(max(low, 0) if not d.is_signed else low), int(high) + 1, tuple(shape)).astype(d.numpy)
    values = rng.uniform(low, high, tuple(shape))
    if d.is_complex:
        values = values + 1j * rng.uniform(low, high, tuple(shape))
    return np.asarray(values).astype(d.numpy)


# --- comparing ---------------------------------------------------------------------------------------------


def check(sample: Sample, got: Any, expected: Any = None) -> None:
    """Assert that ``got`` is what the sample expects: type, and every element within its tolerance."""
    if expected is None:
        with np.errstate(all="ignore"):
            expected = sample.expected(*[a.copy() for a in sample.arrays])
    wanted = expected if isinstance(expected, tuple) else (expected,)
    results = got if isinstance(got, tuple) else (got,)
    assert len(results) == len(wanted), f"{sample.name}: {len(results)} results, expected {len(wanted)}"
    for i, (a, b) in enumerate(zip(results, wanted, strict=True)):
        close(np.asarray(a), np.asarray(b), sample, f"{sample.name} result {i}")


def close(a: Array, b: Array, sample: Sample, what: str) -> None:
    """Assert that ``a`` is ``b`` within the tolerance of the sample."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{what}: {a.dtype}{a.shape}, expected {b.dtype}{b.shape}"
    d = DType.of(a.dtype)
    wrong = _wrong_floats(a, b, d, sample) if d.is_float or d.is_complex else a != b
    if wrong.any():
        at = tuple(int(n) for n in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {a.size} elements differ, first at {at}: {a[at]!r}, expected {b[at]!r}"
        )


def _wrong_floats(a: Array, b: Array, d: DType, sample: Sample) -> Array:
    import ml_dtypes

    if d.is_complex:
        parts = [_wrong_floats(f(a), f(b), DType.of(f(a).dtype), sample) for f in (np.real, np.imag)]
        return parts[0] | parts[1]
    info = ml_dtypes.finfo(d.numpy)
    eps, smallest = float(info.eps), float(info.smallest_subnormal)
    sign = np.signbit(a) != np.signbit(b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        finite = np.isfinite(a) & np.isfinite(b)
        size = np.abs(b)
        if sample.of_largest:
            size = np.full_like(size, np.max(size, initial=0, where=finite))
        off = np.abs(a - b) > sample.ulps * np.maximum(size * eps, smallest)
        wrong = np.where(finite, off, (a != b) & ~(np.isnan(a) & np.isnan(b)))
        return wrong if sample.of_largest or sample.signless_zero else wrong | (sign & (a == 0) & (b == 0))
