"""Where values come from: the leaves (input, parameter, buffer) and the sources (const, iota, random).

Leaves are named as the source framework names them; their data lives outside the graph.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Self, cast

import numpy as np

from tdagger.errors import AttributeValueError
from tdagger.names import shown
from tdagger.op import Array, AxisRules, Op, Plan, Terms, Value, interned
from tdagger.types import DType, TensorType, ValueType, i64

_new, _set = object.__new__, object.__setattr__


class Leaf(Op):
    """A named tensor whose data lives outside the graph."""

    leaf: str
    type: TensorType

    @classmethod
    def _key(cls, args: tuple[Any, ...]) -> Any:
        return cls, *args

    @classmethod
    def of(cls, leaf: str, type_: TensorType) -> Value:
        """The value of a name and a type: as ``cls(leaf, type_)()`` with half the work, for a file has thousands."""
        found: Any = _new(cls)
        _set(found, "leaf", leaf)
        _set(found, "type", type_)
        found = found._intern((cls, leaf, type_))  # the one there is, if there is one
        return found.made((), type_)

    def infer(self) -> ValueType:
        return self.type

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        """An axis for each dimension; one of size 1 of a parameter or buffer stands for nothing."""
        terms = [rules.fresh(n, self.name) if n != 1 or self.name == "input" else () for n in out.shape]
        return tuple(terms)

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return ()

    def __repr__(self) -> str:
        return f"{self.name} {shown(self.leaf)}"


class Input(Leaf, core=True):
    """A tensor given at run time."""

    name = "input"


class Parameter(Leaf, core=True):
    """A learnable tensor."""

    name = "parameter"


class Buffer(Leaf, core=True):
    """A tensor that is not learnable and can change at run time."""

    name = "buffer"


class Const(Op, core=True):
    """A tensor that can't change; its data is part of the graph, compared by content."""

    name = "const"
    dtype: DType
    shape: tuple[int, ...]
    digest: bytes
    data: Array

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # data is not part of the key: the digest stands for it
        dtype, shape, digest, data = args
        key = (cls, dtype, shape, digest)
        found = interned(key)
        if found is None:
            found = object.__new__(cls)
            data.flags.writeable = False
            for field, value in zip(cls.fields, args, strict=True):
                object.__setattr__(found, field, value)
            found = found._intern(key)
        return cast(Self, found)

    def infer(self) -> ValueType:
        return TensorType(self.shape, self.dtype)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        return tuple([rules.fresh(n, self._kind(i)) if n != 1 else () for i, n in enumerate(self.shape)])

    def _kind(self, axis: int) -> str:
        if self.resized(axis, self.shape[axis] + 1) is not None:
            return "repeated"
        return "const" if self.partner(axis) is None else "banded"

    def resized(self, axis: int, size: int) -> Array | None:
        """The data with ``size`` entries along an axis, if it is clear what they are: all equal, or counting on."""
        data = np.moveaxis(self.data, axis, 0)
        if len(data) == 0:
            return None
        first = data[:1]
        if _is_same(data, np.broadcast_to(first, data.shape)):
            new = np.broadcast_to(first, (size, *first.shape[1:]))
            return np.ascontiguousarray(np.moveaxis(new, 0, axis))
        if self.dtype.name == "bool" or len(data) < 3:
            return None
        line = _counting_on(data, max(size, len(data)))
        return None if line is None else np.ascontiguousarray(np.moveaxis(line[:size], 0, axis))

    def partner(self, axis: int) -> int | None:
        """The axis with which :meth:`banded` is clear, if there is one."""
        n = self.shape[axis]
        return next(
            (
                i
                for i, m in enumerate(self.shape)
                if i != axis and m == n and self.banded(min(i, axis), max(i, axis), n) is not None
            ),
            None,
        )

    def banded(self, axis: int, other: int, size: int) -> Array | None:
        """The data with ``size`` entries along both of two axes, if it is clear what they are: a mask of bands.

        What it holds depends only on how far the places on the two axes are apart, and is the same from some distance
        on, on either side: a causal mask, a window, an identity.
        """
        data = np.moveaxis(self.data, (axis, other), (0, 1))
        n = len(data)
        if data.shape[1] != n or n < 3 or not data.size or not _is_same(data[1:, 1:], data[:-1, :-1]):
            return None
        line = np.concatenate([data[:0:-1, 0], data[0]])  # for distances of 1 - n to n - 1
        if not (_is_same(line[0], line[1]) and _is_same(line[-1], line[-2])):
            return None
        apart = np.arange(size) - np.arange(size)[:, None]
        new = line[np.clip(apart, 1 - n, n - 1) + n - 1]
        return np.ascontiguousarray(np.moveaxis(new, (0, 1), (axis, other)))

    def run(self) -> Array:
        return self.data

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return ()

    @property
    def attributes(self) -> dict[str, Any]:
        return {"data": self.data}

    def __repr__(self) -> str:
        if self.data.size == 1:
            shown = repr(self.data.reshape(()).tolist())
        elif self.data.size <= 6:
            shown = str(self.data.tolist())
        else:
            shown = self.digest.hex()[:8]
        return f"const({shown})"


def _is_same(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and type hold the same, bit by bit."""
    left, right = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return bool((left == right).all())


def _counting_on(data: Array, size: int) -> Array | None:
    """``size`` entries along the first axis that go on as the first two do; None if those there are do not."""
    wide = data.astype(np.int64) if data.dtype.kind in "iu" and data.dtype.itemsize < 8 else data
    with np.errstate(all="ignore"):  # infinities give NaN, which is equal to nothing
        exact = wide[:1] + np.arange(size).reshape(-1, *(1,) * (data.ndim - 1)) * (wide[1:2] - wide[:1])
        line = exact.astype(data.dtype)
        fits = data.dtype.kind not in "iu" or (line == exact).all()
        return line if fits and (line[: len(data)] == data).all() else None


class Iota(Op, core=True):
    """The numbers 0, 1, ... size - 1."""

    name = "iota"
    size: int
    dtype: DType

    def check(self) -> None:
        if self.size < 0:
            raise AttributeValueError(f"iota: the size can't be negative, got {self.size}")
        if self.dtype.name == "bool" or self.dtype.is_int:
            largest = 1 if self.dtype.name == "bool" else int(np.iinfo(self.dtype.numpy).max)
            if self.size - 1 > largest:
                raise AttributeValueError(f"iota: {self.dtype} can't hold {self.size - 1}")

    def infer(self) -> ValueType:
        return TensorType((self.size,), self.dtype)

    def run(self) -> Array:
        return np.arange(self.size).astype(self.dtype.numpy)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        term = rules.fresh(self.size, "iota")
        rules.mark(term, "numbers")
        return (term,)

    def adapt(self, out: Plan, *args: Plan) -> Op:
        if len(out) != 1:
            raise AttributeValueError(f"{self} has one dimension, not {len(out)}")
        return Iota(out[0].size, self.dtype)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _threefry(key: Array, counter: Array) -> Array:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011): 64 random bits for each 64-bit counter."""
    k0, k1 = (key >> np.uint64(32)).astype(np.uint32), key.astype(np.uint32)
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    a = (counter >> np.uint64(32)).astype(np.uint32) + keys[0]
    b = counter.astype(np.uint32) + keys[1]
    for round_ in range(5):
        for r in _ROTATIONS[round_ % 2]:
            a = a + b
            b = ((b << np.uint32(r)) | (b >> np.uint32(32 - r))) ^ a
        a = a + keys[(round_ + 1) % 3]
        b = b + keys[(round_ + 2) % 3] + np.uint32(round_ + 1)
    return (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)


class Random(Op, core=True):
    """Random bits, u64, of ``shape``: a function of a seed (u64, rank 0), by the Threefry-2x32 counter cipher."""

    name = "random"
    shape: tuple[int, ...]

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        terms = tuple([rules.fresh(n, "random") for n in self.shape])
        for n, term in zip(self.shape, terms, strict=True):
            if n != 1:  # without an axis of size 1 the counter is the same
                rules.mark(term, "draws random numbers along")
        return terms

    def adapt(self, out: Plan, *args: Plan) -> Op:
        return Random(tuple([p.size for p in out]))

    def infer(self, seed: TensorType) -> ValueType:
        if seed.shape != () or seed.dtype.name != "u64":
            raise self.mismatch("the seed is a u64 of rank 0", seed)
        return seed.with_shape(self.shape)

    def run(self, seed: Array) -> Array:
        counter = np.arange(math.prod(self.shape), dtype=np.uint64)
        return _threefry(np.asarray(seed)[None], counter).reshape(self.shape)


def input(name: str, shape: tuple[int, ...], dtype: DType | str = "f32") -> Value:
    """A tensor given at run time."""
    return Input(name, TensorType(tuple(shape), dtype))()


def parameter(name: str, shape: tuple[int, ...], dtype: DType | str = "f32") -> Value:
    """A learnable tensor called ``name``."""
    return Parameter(name, TensorType(tuple(shape), dtype))()


def buffer(name: str, shape: tuple[int, ...], dtype: DType | str = "f32") -> Value:
    """A tensor called ``name`` that is not learnable and can change."""
    return Buffer(name, TensorType(tuple(shape), dtype))()


def scalar(value: Any, dtype: DType) -> Any:
    """``value`` as the Python scalar that ``dtype`` holds: 2 for floats is 2.0.

    AttributeValueError if an integer type can't hold it: 0.5, NaN, 300 in 8 bits.
    """
    if dtype.name == "bool":
        return bool(value)
    if dtype.is_complex:
        return complex(value)
    if dtype.is_float:
        return float(value)
    info = np.iinfo(dtype.numpy)
    if not (info.min <= value <= info.max and value == int(value)):
        raise AttributeValueError(f"{dtype} can't hold {value!r}; cast the tensor to floats or a wider type first")
    return int(value)


def const(value: Any, dtype: DType | str | None = None) -> Value:
    """A constant from a number, nested lists or an array.

    >>> const(2.0).type, const([1, 2], "i32").type
    (f32[], i32[2])
    """
    if dtype is None and isinstance(value, float):
        dtype = "f32"
    array = np.array(value, None if dtype is None else DType.of(dtype).numpy, order="C")
    array.flags.writeable = False
    digest = hashlib.blake2b(array.reshape(-1).view(np.uint8).data, digest_size=16)
    return Const(DType.of(array.dtype), array.shape, digest.digest(), array)()


def iota(size: int, dtype: DType | str = i64) -> Value:
    """The numbers 0, 1, ... size - 1, of rank 1."""
    return Iota(size, DType.of(dtype))()


def random_bits(seed: Value, shape: tuple[int, ...]) -> Value:
    """Random u64 bits of ``shape`` from a u64 ``seed`` of rank 0."""
    return Random(tuple(shape))(seed)
