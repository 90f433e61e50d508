"""What a tensor is: its element type and its shape.

Both classes are interned: two equal types are the same object, so comparing them is ``is``.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable
from typing import Any, ClassVar, Final, cast

import ml_dtypes
import numpy as np

from tdagger.errors import AttributeValueError, TypeMismatchError

Shape = tuple[int, ...]


def least(a: Any, b: Any) -> Any:
    """The smaller of two numbers of entries: ints, or those of formulas (``tdagger.analysis.formulas.polynomial``)."""
    if a.__class__ is Size or b.__class__ is Size:
        return sizes_as(least(_formula(a), _formula(b)), min(int(a), int(b)))
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else b.least(a) if isinstance(a, int) else a.least(b)


def most(a: Any, b: Any) -> Any:
    """The larger of two numbers of entries; see :func:`least`."""
    if a.__class__ is Size or b.__class__ is Size:
        return sizes_as(most(_formula(a), _formula(b)), max(int(a), int(b)))
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
            if max(int(-(-n // size)), 1) != count:
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


class Size(int):
    """A number of entries that follows free axes: what it is here, and the formula of it.

    Arithmetic keeps the formula. It equals no plain number and no other formula, so that types and ops that hold it are
    others than those of the number; less and greater are those of the number. As text it is a mark, which generated
    code has an expression for.

    >>> from tdagger.analysis.formulas.polynomial import symbol
    >>> n = sizes_as(symbol("n", 8), 8)
    >>> half = (n + 1) // 2
    >>> half.formula, half + 0 == half, half == 4, int(half)
    (floor((1 + n)/2), True, False, 4)
    """

    formula: Any
    #: The formulas that marks stand for, and the place of each.
    formulas: ClassVar[list[Any]] = []
    places: ClassVar[dict[Any, int]] = {}

    def __str__(self) -> str:
        place = Size.places.get(self.formula)
        if place is None:
            place = Size.places[self.formula] = len(Size.formulas)
            Size.formulas.append(self.formula)
        return f"\0s{place}\0"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and int(self) == int(other) and bool(self.formula == other.formula)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Size, int(self), self.formula))

    def __neg__(self) -> int:
        return sizes_as(-self.formula, -int(self))

    def __add__(self, other: Any) -> Any:
        return _computed(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _computed(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _computed(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _computed(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return _computed(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _computed(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _computed(lambda a, b: a // b, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _computed(lambda a, b: a // b, other, self)

    def __mod__(self, other: Any) -> Any:
        return _computed(lambda a, b: a % b, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _computed(lambda a, b: a % b, other, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))


#: A size as text, also where it was escaped in a message.
MARK = re.compile(r"(?:\x00|\\x00)s([0-9]+)(?:\x00|\\x00)")


def _formula(number: int) -> Any:
    return number.formula if isinstance(number, Size) else int(number)


def _computed(function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Arithmetic of sizes with whole numbers; with all else as the numbers they are here."""
    if isinstance(a, int) and isinstance(b, int):
        return sizes_as(function(_formula(a), _formula(b)), function(int(a), int(b)))
    return function(*(int(n) if isinstance(n, Size) else n for n in (a, b)))


def sizes_as(formula: Any, value: int) -> int:
    """A size of this formula that is ``value`` here; a plain number where nothing in it is free."""
    if isinstance(formula, int):
        return int(formula)
    out = Size(value)
    out.formula = formula
    return out


def readable(text: str) -> str:
    """A text with formulas for its sizes.

    >>> readable("f32[2 3]")
    'f32[2 3]'
    """
    return MARK.sub(lambda match: f"({Size.formulas[int(match[1])]})", text)


def in_numbers(thing: Any) -> Any:
    """A number, a type, a tuple, list or dict of such with plain numbers for sizes that have formulas.

    >>> in_numbers((3, (4, "same")))
    (3, (4, 'same'))
    """
    if thing.__class__ is Size:
        return int(thing)
    if isinstance(thing, TensorType):
        return TensorType(in_numbers(thing.shape), thing.dtype)
    if thing.__class__ is list:
        return list(map(in_numbers, thing))
    if thing.__class__ is dict:
        return {k: in_numbers(v) for k, v in thing.items()}
    return tuple(map(in_numbers, thing)) if thing.__class__ is tuple else thing


def entries(start: int, stop: int, step: int, n: int) -> int:
    """How many ``range(start, stop, step)`` has: bounds of an axis of ``n`` entries, which may be sizes.

    >>> entries(1, 6, 2, 8)
    3
    """
    if n.__class__ is not Size and start.__class__ is not Size and stop.__class__ is not Size:
        return len(range(start, stop, step))
    low, high = (b.at(n) if isinstance(b, Sized) else b for b in (start, stop))
    if not range(int(low), int(high), step):
        return 0
    return (high - low + step - 1) // step if step > 0 else (low - high - step - 1) // -step


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that tensors broadcast to; ValueError if they don't.

    >>> broadcast_shapes((2, 1, 3), (4, 1), ())
    (2, 4, 3)
    """
    out: list[int] = []
    for places in itertools.zip_longest(*map(reversed, shapes), fillvalue=1):
        wide = [n for n in places if n != 1]
        if any(n != wide[0] for n in wide):
            raise ValueError(f"the shapes {', '.join(map(str, shapes))} don't broadcast to one")
        out.append(wide[0] if wide else 1)
    return tuple(out[::-1])


class DType:
    """An element type, one of a fixed table (:data:`DTYPES`).

    >>> DType.of("f32").bytes, DType.of("bfloat16").name, DType.of(np.dtype("int64"))
    (4, 'bf16', i64)
    """

    __slots__ = ("bytes", "is_complex", "is_float", "is_int", "is_signed", "name", "numpy")
    _by_name: ClassVar[dict[str, DType]] = {}
    _by_numpy: ClassVar[dict[np.dtype[Any], DType]] = {}

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
        self._by_numpy[self.numpy] = self

    @staticmethod
    def of(value: object) -> DType:
        """The DType called ``value``: a DType, a short or numpy name, or anything ``np.dtype`` takes."""
        if isinstance(value, DType):
            return value
        if isinstance(value, np.dtype) and value in DType._by_numpy:
            return DType._by_numpy[cast(Any, value)]
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
        shape = tuple([n if n.__class__ is Size else int(n) for n in shape])
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
