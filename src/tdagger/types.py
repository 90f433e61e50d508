"""What a tensor is: its element type and its shape.

Both classes are interned: two equal types are the same object, so comparing them is ``is``.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final, cast

import ml_dtypes
import numpy as np

from tdagger.errors import AttributeValueError, TypeMismatchError

Shape = tuple[int, ...]


def least(a: Any, b: Any) -> Any:
    """The smaller of two numbers of entries: ints, or those of formulas (``tdagger.analysis.formulas.polynomial``)."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else b.least(a) if isinstance(a, int) else a.least(b)


def most(a: Any, b: Any) -> Any:
    """The larger of two numbers of entries; see :func:`least`."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else b.most(a) if isinstance(a, int) else a.most(b)


class Sized(int):
    """A number in an attribute that follows the size of an axis: what it is here, and how it follows.

    For an axis of n entries it is ``sum((n + o) // divisor for o in offsets) + plus``, from 0 to n; with no offsets it
    is stated as a number, whatever n. ``parts``: what cuts the axis must give so many parts there:
    ``("split", size, count)``, ``("chunk", chunks, count)`` or ``("tensor_split", count, count)``. As a count of axes
    that ``group`` merges ``("squeeze", mask, 0)`` says which of them were squeezed away (bit i: axis i).

    >>> half = sized(7, (2,), 2)  # torch.fft.rfft keeps n // 2 + 1 of n
    >>> half, half.at(9), sized(6, plus=-1), sized(6, plus=-1).at(9)
    (4, 5, 5, 8)
    """

    offsets: tuple[int, ...]
    divisor: int
    plus: int
    parts: tuple[str, int, int] | None

    def at(self, n: Any) -> Any:
        """The number for an axis of ``n`` entries; AttributeValueError if that has another number of parts."""
        if self.parts is not None and self.parts[0] in ("split", "chunk"):
            how, by, count = self.parts
            size = max(-(-n // by), 1) if how == "chunk" else by
            if max(-(-n // size), 1) != count:
                raise AttributeValueError(
                    f"{how}({by}) of {n} entries gives {max(-(-n // size), 1)} parts, but the network takes {count}"
                )
        found = sum([(n + o) // self.divisor for o in self.offsets], self.plus)
        return found if not isinstance(n, int) or self.parts else min(max(found, 0), n)

    def of(self, n: int) -> Sized:
        """The same for an axis of ``n`` entries."""
        return sized(n, self.offsets, self.divisor, self.plus, self.parts)

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is compared by."""
        return (Sized, int(self), self.offsets, self.divisor, self.plus, self.parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (sized_of, self.key[1:])


def sized_of(value: int, *rule: Any) -> Sized:
    """A number with how it follows: offsets, divisor, plus and parts of :class:`Sized`."""
    out = Sized(value)
    out.offsets, out.divisor, out.plus, out.parts = rule
    return out


def sized(
    n: int,
    offsets: tuple[int, ...] = (0,),
    divisor: int = 1,
    plus: int = 0,
    parts: tuple[str, int, int] | None = None,
) -> Sized:
    """A number that follows the size of an axis, which is ``n`` here; see :class:`Sized`."""
    rule = sized_of(0, offsets, divisor, plus, parts)
    return sized_of(rule.at(n), offsets, divisor, plus, parts)


class DType:
    """An element type, one of a fixed table (:data:`DTYPES`).

    >>> DType.of("f32").bytes, DType.of("bfloat16").name, DType.of(np.dtype("int64"))
    (4, 'bf16', i64)
    """

    __slots__ = ("bytes", "is_complex", "is_float", "is_int", "is_signed", "name", "numpy")
    _by_name: ClassVar[dict[str, DType]] = {}

    def __init__(self, name: str, numpy: Any) -> None:
        self.name: Final = name
        self.numpy: Final[np.dtype[Any]] = np.dtype(numpy)
        self.bytes: Final = self.numpy.itemsize
        self.is_float: Final = name[0] in "fb" and name != "bool"
        self.is_complex: Final = name[0] == "c"
        self.is_int: Final = name[0] in "iu"
        self.is_signed: Final = name[0] != "u" and name != "bool"
        for key in (name, self.numpy.name):
            self._by_name[key] = self

    @staticmethod
    def of(value: object) -> DType:
        """The DType called ``value``: a DType, a short or numpy name, or anything ``np.dtype`` takes."""
        if isinstance(value, DType):
            return value
        found = DType._by_name.get(value if isinstance(value, str) else np.dtype(cast(Any, value)).name)
        if found is None:
            known = ", ".join(d.name for d in DTYPES)
            raise AttributeValueError(f"no element type is called {value!r}; there are {known}")
        return found

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (DType.of, (self.name,))


f16: Final = DType("f16", np.float16)
bf16: Final = DType("bf16", ml_dtypes.bfloat16)
f32: Final = DType("f32", np.float32)
f64: Final = DType("f64", np.float64)
f8e4m3: Final = DType("f8e4m3", ml_dtypes.float8_e4m3fn)
f8e5m2: Final = DType("f8e5m2", ml_dtypes.float8_e5m2)
i8: Final = DType("i8", np.int8)
i16: Final = DType("i16", np.int16)
i32: Final = DType("i32", np.int32)
i64: Final = DType("i64", np.int64)
u8: Final = DType("u8", np.uint8)
u16: Final = DType("u16", np.uint16)
u32: Final = DType("u32", np.uint32)
u64: Final = DType("u64", np.uint64)
bool_: Final = DType("bool", np.bool_)
c64: Final = DType("c64", np.complex64)
c128: Final = DType("c128", np.complex128)

#: Every element type there is.
DTYPES: Final = (f16, bf16, f32, f64, f8e4m3, f8e5m2, i8, i16, i32, i64, u8, u16, u32, u64, bool_, c64, c128)


class TensorType:
    """A shape and an element type.

    ``TensorType((2, 3), "f32")`` prints as ``f32[2 3]``. ``size`` is the number of elements, ``bytes`` what
    they take in memory, without padding.

    >>> t = TensorType((2, 3), "f32")
    >>> t, t.size, t.bytes, t is TensorType((2, 3), "float32")
    (f32[2 3], 6, 24, True)
    """

    __slots__ = ("bytes", "dtype", "rank", "shape", "size")
    # Types are few (hundreds in a large network) and small, so they are kept for the life of the process.
    _interned: ClassVar[dict[tuple[Shape, DType], TensorType]] = {}

    shape: Shape
    dtype: DType
    rank: int
    size: int
    bytes: int

    def __new__(cls, shape: Shape, dtype: DType | str) -> TensorType:
        """The one type of this shape and element type."""
        if dtype.__class__ is not DType:
            dtype = DType.of(dtype)
        key = (shape, cast(DType, dtype))
        found = cls._interned.get(key)
        if found is not None:
            return found
        shape = tuple(int(n) for n in shape)
        if any(n < 0 for n in shape):
            raise AttributeValueError(f"a shape has no negative sizes, got {shape}")
        self = super().__new__(cls)
        self.shape, self.dtype = shape, key[1]
        self.rank, self.size = len(shape), math.prod(shape)
        self.bytes = self.size * self.dtype.bytes
        return cls._interned.setdefault((shape, self.dtype), self)

    def with_shape(self, shape: Shape) -> TensorType:
        """The same element type with another shape."""
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another element type."""
        return TensorType(self.shape, dtype)

    def __repr__(self) -> str:
        return f"{self.dtype}[{' '.join(map(str, self.shape))}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return (TensorType, (self.shape, self.dtype))


class ResultTypes(tuple[TensorType, ...]):
    """The types of an op with several results; only ``item`` takes such a value."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TypeMismatchError(f"an op with {len(self)} results has no one {name}; take one with item()")

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self))})"


#: What a value can be: one tensor, or the several results of one op.
ValueType = TensorType | ResultTypes


def each_type(type_: Any) -> tuple[Any, ...]:
    """The types of all results: the one, or those of an op with several.

    >>> each_type(TensorType((2, 3), "f32"))
    (f32[2 3],)
    """
    return cast(tuple[Any, ...], type_) if isinstance(type_, tuple) else (type_,)
