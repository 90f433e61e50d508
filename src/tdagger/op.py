"""What an op is and what a value is: the two classes everything else is made of.

An :class:`Op` is an immutable, interned set of attributes together with the rules an op owes: type
inference, numpy reference, flops, traffic, inverse and adjoint. A :class:`Value` is an op applied to
arguments. Both are interned (hash-consed): the same attributes are the same op, the same op on the same
arguments is the same value, so equality is identity and common subexpressions are found by construction.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, ParamSpec, Protocol, Self, TypeVar, cast, dataclass_transform

import numpy as np

from tdagger.errors import AttributeValueError, NoInverseError, TDaggerError, TypeMismatchError
from tdagger.types import DType, Shape, Sized, TensorType, ValueType

Array = np.ndarray[Any, np.dtype[Any]]
P = ParamSpec("P")
R = TypeVar("R")

#: A function of values: an op is one, and so is what ``inverse`` and ``adjoint`` return.
ValueFunction = Callable[..., Any]

#: Functions that build values, by name; operators on values (``x + y``) are looked up here.
functions: dict[str, Callable[..., Any]] = {}

#: Every class of core op, by name.
core_ops: dict[str, type[Op]] = {}


#: One dimension as axes, outermost first: none is a dimension of size 1 that stands for nothing.
Term = tuple[Any, ...]
#: The terms of a tensor's dimensions.
Terms = tuple[Term, ...]


class AxisRules(Protocol):
    """What an op's axis rule says of its arguments' dimensions; ``tdagger.analysis.axes.algebra`` implements it.

    A term is opaque to a rule: rules take terms, hand them to these functions, and return terms.
    """

    def fresh(self, size: int, why: str) -> Term:
        """A new axis of ``size`` entries."""
        ...

    def one(self) -> Term:
        """A new dimension of size 1, the product of no axes."""
        ...

    def join(self, *args: Terms) -> Terms:
        """The dimensions of arguments that must be equal, place by place."""
        ...

    def split(self, term: Term, sizes: Sequence[int]) -> list[Term]:
        """A dimension's factors of ``sizes``, outermost first."""
        ...

    def line(self, parts: Sequence[Term | int], offset: int = 0, divisor: int = 1, firm: bool = True) -> Term:
        """A dimension of ``(sum of parts + offset) // divisor`` entries; an int is so many constant entries.

        Not ``firm``: a guess, taken only where nothing else tells.
        """
        ...

    def like(self, term: Term, size: int) -> Term | None:
        """A new dimension of ``size`` entries, a number that may be the size of one there is before.

        Where nothing else tells, it has as many as the first that comes of the same axes of inputs as ``term``; None if
        there is none.
        """
        ...

    def cut(self, axis: int, term: Term, start: int, stop: int, step: int) -> Term:
        """Entries ``range(start, stop, step)`` of dimension ``axis`` of the argument."""
        ...

    def expect(self, argument: int, terms: Terms) -> None:
        """What the dimensions of an argument are here: joined, they may carry axes of size 1 it doesn't have."""
        ...

    def body(self, *args: Terms) -> Any:
        """For a composite, what its body says of the dimensions of the result: a list of them if it has several."""
        ...

    def mark(self, term: Term, how: str) -> None:
        """The op doesn't just carry the axes of this dimension: it sums over them, slices them, ..."""
        ...

    def stays_one(self, term: Term) -> None:
        """The op is another one where this dimension of size 1 has more entries."""
        ...

    def guess(self, term: Term, what: str, told_by: Term = ()) -> None:
        """What the op holds may have been computed from the size of ``term``, and is taken to stay.

        Not where something firm tells the size of ``told_by``.
        """
        ...


class Place(NamedTuple):
    """A dimension of a tensor in a changed graph: which dimension it was (None: it is new) and its size."""

    axis: int | None
    size: int


#: The dimensions of a tensor in a changed graph. New ones come first.
Plan = tuple[Place, ...]


def where_now(plan: Plan, axis: int) -> int | None:
    """Where dimension ``axis`` is now; None if it is gone.

    >>> where_now((Place(0, 2), Place(2, 4)), 2)
    1
    """
    return next((i for i, p in enumerate(plan) if p.axis == axis), None)


def still(plan: Plan, axis: int) -> int:
    """Where dimension ``axis``, which an op works along, is now; AttributeValueError if it is gone."""
    found = where_now(plan, axis)
    if found is None:
        raise AttributeValueError(f"dimension {axis} is gone from {plan}, but the op needs it")
    return found


#: Held where a table of ops or values is looked at and then changed; values may die meanwhile, so it is reentrant.
_interning = threading.RLock()


class ValueRef(weakref.ref["Value"]):
    """What an op's table of values holds: it forgets the value when nobody else knows it."""

    __slots__ = ("args", "table")
    args: tuple[Any, ...]
    table: dict[tuple[Any, ...], ValueRef]


def forget(ref: ValueRef, interning: threading.RLock = _interning) -> None:  # globals are gone as Python ends
    """Take a value that died out of its op's table."""
    table, args = ref.table, ref.args
    with interning:
        if table.get(args) is ref:
            del table[args]


class _OpRef(weakref.ref["Op"]):
    """What the table of ops holds: it forgets the op when nobody else knows it."""

    __slots__ = ("key",)
    key: Any


#: Every op that somebody holds, by its class and attributes.
_ops: dict[Any, _OpRef] = {}


def _forget_op(ref: _OpRef, interning: threading.RLock = _interning, ops: dict[Any, _OpRef] = _ops) -> None:
    with interning:
        if ops.get(ref.key) is ref:
            del ops[ref.key]


def interned(key: Any) -> Op | None:
    """The op of a class and attributes, if there is one."""
    ref = _ops.get(key)
    return None if ref is None else ref()


class Unknown:
    """The type of what stands for a value in a pattern: nothing is known of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = Unknown()


class _Operators:
    """Operators, for writing composites and patterns: each is the function of that name, with scalars, broadcasting."""

    __slots__ = ()

    def __add__(self, other: Any) -> Value:
        return functions["add"](self, other)

    def __radd__(self, other: Any) -> Value:
        return functions["add"](other, self)

    def __sub__(self, other: Any) -> Value:
        return functions["subtract"](self, other)

    def __rsub__(self, other: Any) -> Value:
        return functions["subtract"](other, self)

    def __mul__(self, other: Any) -> Value:
        return functions["multiply"](self, other)

    def __rmul__(self, other: Any) -> Value:
        return functions["multiply"](other, self)

    def __truediv__(self, other: Any) -> Value:
        return functions["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return functions["divide"](other, self)

    def __floordiv__(self, other: Any) -> Value:
        return functions["floor_divide"](self, other)

    def __mod__(self, other: Any) -> Value:
        return functions["mod"](self, other)

    def __pow__(self, other: Any) -> Value:
        return functions["pow"](self, other)

    def __neg__(self) -> Value:
        return functions["neg"](self)

    def __abs__(self) -> Value:
        return functions["abs"](self)

    def __lt__(self, other: Any) -> Value:
        return functions["less"](self, other)

    def __le__(self, other: Any) -> Value:
        return functions["less_equal"](self, other)

    def __gt__(self, other: Any) -> Value:
        return functions["greater"](self, other)

    def __ge__(self, other: Any) -> Value:
        return functions["greater_equal"](self, other)

    def __and__(self, other: Any) -> Value:
        return functions["bitwise_and"](self, other)

    def __or__(self, other: Any) -> Value:
        return functions["bitwise_or"](self, other)

    def __xor__(self, other: Any) -> Value:
        return functions["bitwise_xor"](self, other)

    def __invert__(self) -> Value:
        return functions["not_"](self)


class Symbolic(_Operators):
    """What stands for a value where a function over ops is read as a pattern: ops on it are noted, not applied.

    ``tdagger.transform.rewrite`` implements it.
    """

    __slots__ = ()
    type = UNKNOWN

    def noted(self, function: Any, args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """What stands for an op, composite or function called with arguments, this among them."""
        raise NotImplementedError


def symbolic(*args: Any) -> Symbolic | None:
    """The first argument that stands for a value in a pattern, None if all are what they seem."""
    for arg in args:
        if arg.__class__ is not Value and isinstance(arg, Symbolic):
            return arg
    return None


def patterned(function: Callable[P, R]) -> Callable[P, R]:
    """A function of a value first, which can be part of a pattern too."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if args and args[0].__class__ is not Value:
            found = symbolic(*args)
            if found is not None:
                return found.noted(function, args, kwargs)
        return function(*args, **kwargs)

    return call


class Value(_Operators):
    """An op applied to arguments: a tensor that would come out. Made by calling an op, never directly.

    ``type`` is its :class:`~tdagger.types.TensorType` (or a tuple of them for an op with several results,
    which only ``item`` takes). Values are immutable and compared by identity.
    """

    __slots__ = ("__weakref__", "args", "op", "type")

    op: Op
    args: tuple[Value, ...]
    type: TensorType

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.type.dtype

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.type.rank

    def __repr__(self) -> str:
        args = ", ".join(str(a.type) for a in self.args)
        return f"<{self.op}({args}) -> {self.type}>"

    def __iter__(self) -> Iterator[Value]:
        raise TypeMismatchError(f"a value can't be iterated over: {self!r}; slice or unstack it")

    def __reduce__(self) -> Any:
        raise TDaggerError("a value can't be pickled alone, pickle or save the graph it belongs to")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self


_set = object.__setattr__


def _canonical(attribute: Any) -> Any:
    """What an attribute is compared by: 0.0, -0.0, 0 and False differ, every NaN is the same."""
    kind = attribute.__class__
    if kind is float:
        return (float, attribute.hex())
    if kind is bool:
        return (bool, attribute)
    if kind is complex:
        return (complex, attribute.real.hex(), attribute.imag.hex())
    if kind is Sized:  # a bound that counts from the end is not one that counts from the start
        return cast(Sized, attribute).key
    if kind is tuple:
        return tuple([a if a.__class__ is int else _canonical(a) for a in attribute])
    if isinstance(attribute, tuple):  # a named tuple is not equal to a plain one
        return (kind, _canonical(tuple(cast(tuple[Any, ...], attribute))))
    if isinstance(attribute, np.generic):  # np.float64(-0.0), np.int64(2): as the Python number
        number: Any = cast(Any, attribute).item()  # itself, where Python has no such number
        return number if number.__class__ is kind else _canonical(number)
    return attribute


@dataclass_transform(frozen_default=True)
class Op:
    """An op: its attributes and the rules it owes. A subclass declares its attributes as annotations.

    >>> class Twice(Op):
    ...     name = "twice"
    ...     axis: int
    ...     def infer(self, x):
    ...         return x
    >>> Twice(axis=1) is Twice(1), Twice(axis=1)
    (True, twice(axis=1))

    ``name`` is what it is called everywhere; the class is registered under it in :data:`core_ops` if
    ``core`` is given: ``class Permute(Op, core=True)``.
    """

    name: ClassVar[str] = "op"
    #: The attribute names in order, from the annotations.
    fields: ClassVar[tuple[str, ...]] = ()
    #: True for ops that rename or repeat axes (group, ungroup, repeat, item): nothing is read or written.
    is_view: ClassVar[bool] = False
    #: True for composites of which a run executes one of several graphs (cond).
    has_branches: ClassVar[bool] = False
    #: True for composites whose gradient isn't their body's (stop_gradient, kinks): the body doesn't stand for them.
    own_gradient: ClassVar[bool] = False

    #: The values this op has made, by arguments, as long as somebody else holds them.
    values: dict[tuple[Any, ...], ValueRef]
    #: The types inferred so far, by those of the arguments.
    inferred: dict[tuple[TensorType, ...], ValueType]

    def __init_subclass__(cls, core: bool = False) -> None:
        own = tuple(n for n, t in cls.__annotations__.items() if "ClassVar" not in str(t))
        cls.fields = (*cls.fields, *own) if "__annotations__" in cls.__dict__ else cls.fields
        if core:
            core_ops[cls.name] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if kwargs:
            args = (*args, *(kwargs.pop(f) for f in cls.fields[len(args) :] if f in kwargs))
        if len(args) != len(cls.fields) or kwargs:
            raise AttributeValueError(f"{cls.name} has the attributes {cls.fields}, got {args} {kwargs}")
        key = cls._key(args)
        found = interned(key)
        if found is None:
            found = super().__new__(cls)
            for field, value in zip(cls.fields, args, strict=True):
                _set(found, field, value)
            found.check()
            found = found._intern(key)
        return cast(Self, found)

    @classmethod
    def _key(cls, args: tuple[Any, ...]) -> Any:
        """What the op of some attributes is found by."""
        return cls, _canonical(args)

    def _intern(self, key: Any) -> Op:
        """Make this the one op of ``key``, without values so far; the one there is, if another thread was faster."""
        _set(self, "values", {})
        _set(self, "inferred", {})
        ref = _OpRef(self, _forget_op)
        ref.key = key
        return self if _ops.setdefault(key, ref) is ref else self._settled(key, ref)

    def _settled(self, key: Any, ref: _OpRef) -> Op:
        """What an op just made is where the table has an entry: that of one that died, or another thread's."""
        with _interning:
            other = _ops.get(key)
            found = None if other is None else other()
            if found is not None:
                return found
            _ops[key] = ref
        return self

    def __call__(self, *args: Value) -> Value:
        """The value of this op on ``args``; TypeMismatchError if their types don't fit."""
        table = self.values
        ref = table.get(args)
        if ref is not None:
            value = ref()
            if value is not None:
                return value
        # most have one argument or two, for which a list takes three times the time
        count = len(args)
        if count == 1:
            types = (args[0].type,)
        elif count == 2:
            types = (args[0].type, args[1].type)
        else:
            types = tuple([a.type for a in args])
        type_ = self.inferred.get(types)
        if type_ is None:
            if any(t is UNKNOWN for t in types):  # pyright: ignore[reportUnnecessaryComparison]
                return cast(Value, cast(Symbolic, symbolic(*args)).noted(self, args, {}))
            type_ = self.inferred[types] = self.infer(*types)
        value = Value()  # made() written out: calling it is a tenth of the time
        value.op, value.args, value.type = self, args, cast(TensorType, type_)
        ref = ValueRef(value, forget)
        ref.args, ref.table = args, table
        return value if table.setdefault(args, ref) is ref else self.settled(value, ref)

    def again(self, args: tuple[Value, ...], type_: TensorType) -> Value:
        """The same, where it is known that the result has type ``type_``: rewrites that change no types.

        Where sizes are formulas, one size may be told by two: what has another type is another value.
        """
        ref = self.values.get(args)
        value = None if ref is None else ref()
        if value is None or value.type is type_ or value.type == type_:
            return self.made(args, type_) if value is None else value
        return self.made(args, type_, (*args, type_))

    def made(self, args: tuple[Value, ...], type_: TensorType, key: tuple[Any, ...] | None = None) -> Value:
        """The same where there hardly is such a value yet, so that looking for it first is work for nothing.

        ``key`` is what it is found by, if not by its arguments.
        """
        # here and not in a Value.__init__: a third of the time to build a graph would go into calling it
        table = self.values
        value = Value()
        value.op, value.args, value.type = self, args, type_
        ref = ValueRef(value, forget)
        ref.args, ref.table = args if key is None else key, table
        return value if table.setdefault(ref.args, ref) is ref else self.settled(value, ref)

    def settled(self, value: Value, ref: ValueRef) -> Value:
        """What a value just made is where the table has an entry: that of one that died, or another thread's."""
        table = self.values
        with _interning:
            other = table.get(ref.args)
            alive = None if other is None else other()
            if alive is not None:
                return alive
            table[ref.args] = ref
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self} is immutable, can't set {name}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{f}={getattr(self, f)!r}" for f in self.fields)
        return f"{self.name}({shown})" if shown else self.name

    def __reduce__(self) -> Any:
        return (self.__class__, tuple(getattr(self, f) for f in self.fields))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes by name."""
        return {f: getattr(self, f) for f in self.fields}

    # The rules an op owes.

    def check(self) -> None:
        """Raise AttributeValueError if the attributes can't be, whatever the arguments."""

    # The signatures below take anything so that an op may name its arguments: infer(self, x, index).

    def infer(self, *types: Any, **_: Any) -> ValueType:
        """The type of the result on arguments of these types; TypeMismatchError if they don't fit."""
        raise NotImplementedError(f"{self.name} has no rule for types")

    def run(self, *arrays: Any, **_: Any) -> Any:
        """The numpy reference: slow and right. An array, or a tuple of them for several results."""
        raise NotImplementedError(f"{self.name} has no reference execution")

    def flops(self, out: TensorType, *types: TensorType) -> int:
        """Arithmetic operations on elements, 0 for what only moves data."""
        del out, types
        return 0

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        """Elements read of each argument."""
        del out
        return tuple(0 if self.is_view else t.size for t in types)

    def inside(self, *types: TensorType) -> tuple[Any, ...]:
        """The graphs that the op stands for on arguments of these types; none for core ops."""
        del types
        return ()

    def moves_nothing(self, *types: TensorType) -> bool:
        """Whether the result on arguments of these types is a view of one: nothing is written."""
        return self.is_view

    def inverse(self, *types: TensorType) -> ValueFunction:
        """A function that undoes this op: exactly where it can be undone, else a pseudo-inverse.

        A pseudo-inverse p of f satisfies ``f(p(f(x))) = f(x)``. ``types`` are those of the arguments; they
        are needed where the result doesn't tell what was there (the size a slice was cut from).
        """
        raise NoInverseError(f"{self} has no inverse")

    def adjoint(self, *types: TensorType) -> ValueFunction:
        """For a linear op f, the function g with ``sum(f(x) * y) = sum(x * g(y))``."""
        raise NoInverseError(f"{self} is not linear, so it has no adjoint")

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        """The terms of the result's dimensions, from those of the arguments: the op's axis rule.

        Elementwise ops, which join their arguments, need no rule of their own.
        """
        del out
        if len(args) == 1:
            return args[0]
        joined = rules.join(*args)
        for i in range(len(args)):
            rules.expect(i, joined)
        return joined

    def adapt(self, out: Plan, *args: Plan) -> Op:
        """This op where dimensions of its arguments and result went, came or changed their sizes."""
        del out, args
        return self

    # Helpers for rules.

    def mismatch(self, why: str, *types: ValueType) -> TypeMismatchError:
        """The error for arguments this op doesn't take."""
        return TypeMismatchError(f"{self} on ({', '.join(map(str, types))}): {why}")

    def one(self, types: tuple[TensorType, ...], what: str) -> TensorType:
        """The only type given to ``inverse`` or ``adjoint``, or an error that asks for it."""
        if len(types) != 1:
            raise NoInverseError(f"{self}.{what}() needs the type of the argument: .{what}(x.type)")
        return types[0]


def identity(y: Value) -> Value:
    """``y`` itself: a pseudo-inverse of an op that changes nothing when applied to its own result."""
    return y


def normal_axis(axis: int, rank: int, what: str = "axis") -> int:
    """``axis`` counted from the front; AttributeValueError if there is no such axis.

    >>> normal_axis(-1, 3)
    2
    """
    if not -rank <= axis < rank:
        raise AttributeValueError(f"{what} {axis} is out of range for a tensor of rank {rank}")
    return axis + rank if axis < 0 else axis
