"""Attributes of ops as a document has them: JSON's own values, and objects of one key for all else.

>>> Attributes(depth=8).read([1, {"float": "inf"}, {"dtype": "f32"}], "ops[0].x")
(1, inf, f32)
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Any, cast

from tdagger.composite import Composite
from tdagger.errors import FileError
from tdagger.file.checked import integer, listed
from tdagger.file.rows import LARGEST
from tdagger.later import later
from tdagger.names import shown
from tdagger.op import Op, core_ops
from tdagger.ops.external import Slot
from tdagger.types import DTYPES, Sized, sized_of

#: Element types by their names.
DTYPE_OF = {d.name: d for d in DTYPES}


def _nothing(place: Any, where: str) -> Any:
    raise FileError(f"{where}: there is no table that {place!r:.40} could be a place in")


@dataclass(frozen=True)
class Attributes:
    """Reads attributes nested at most ``depth`` deep; ``type_at`` and ``graph_at`` give what a place stands for."""

    depth: int
    type_at: Callable[[Any, str], Any] = _nothing
    graph_at: Callable[[Any, str], Any] = _nothing

    def read(self, value: Any, where: str, depth: int = 0) -> Any:
        """What JSON stands for; FileError if nothing is written so."""
        kind = value.__class__
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return integer(value, where, -LARGEST + 1, LARGEST)
        if kind is float:
            if not math.isfinite(value):
                raise FileError(f"{where}: a number that isn't finite is written as an object")
            return value
        if depth > self.depth:
            raise FileError(f"{where}: is nested more than {self.depth} deep")
        if kind is list:
            return tuple([self.read(v, where, depth + 1) for v in value])
        if kind is not dict or len(value) != 1:
            raise FileError(f"{where}: must be a value of JSON, or an object with one key")
        ((what, content),) = value.items()
        rule = _OBJECTS.get(what)
        if rule is None:
            raise FileError(f"{where}: nothing is written as {shown(what)!r}; there are {', '.join(_OBJECTS)}")
        try:
            return rule(self, content, where)
        except (ValueError, TypeError, KeyError, OverflowError) as e:
            if isinstance(e, FileError):
                raise
            raise FileError(f"{where}: {content!r:.80} is no {what}") from None


# --- the types that core ops declare -----------------------------------------------------------------------

_KNOWN_HINTS: dict[Any, dict[str, Any]] = {}


def hints_of(kind: type[Op]) -> dict[str, Any]:
    """The types of an op's attributes, as its class declares them, or a composite's function; {} if they aren't known.

    >>> from tdagger.library import convolution
    >>> hints_of(convolution.op)["groups"], hints_of(convolution.op)["given"]
    (<class 'int'>, tuple[bool, ...])
    """
    if kind not in _KNOWN_HINTS:
        _KNOWN_HINTS[kind] = _hints_of(kind)
    return _KNOWN_HINTS[kind]


def _hints_of(kind: Any) -> dict[str, Any]:
    if core_ops.get(kind.name) is kind:
        return typing.get_type_hints(kind)
    if not issubclass(kind, Composite):
        return {}
    try:
        found = typing.get_type_hints(kind.definition.function)
    except (NameError, AttributeError, TypeError):  # as of a type that is imported for type checkers alone
        return {}
    return {**{name: hint for name, hint in found.items() if name in kind.fields}, "given": tuple[bool, ...]}


def fits(value: Any, hint: Any) -> bool:
    """Whether an attribute is of the type that its op declares."""
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is UnionType or origin is typing.Union:
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = cast(tuple[Any, ...], value)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(fits(v, inner[0]) for v in items)
        return len(items) == len(inner) and all(fits(v, one) for v, one in zip(items, inner, strict=True))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


# --- what JSON has no form for -----------------------------------------------------------------------------


def _float(reader: Any, content: Any, where: str) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]


def _complex(reader: Any, content: Any, where: str) -> complex:
    real, imag = listed(content, where, 2)
    if not isinstance(real, str) or not isinstance(imag, str) or len(real) + len(imag) > 80:
        raise ValueError
    return complex(float(real), float(imag))


def _wide(reader: Any, content: Any, where: str) -> int:
    if not isinstance(content, str) or len(content) > 40:
        raise ValueError
    found = int(content)
    if str(found) != content or -LARGEST < found < LARGEST:
        raise ValueError
    return found


def _sized(reader: Any, content: Any, where: str) -> Sized:
    number, offsets, divisor, plus, parts = listed(content, where, 5)
    small = {"least": -LARGEST + 1, "below": LARGEST}
    rule = (
        tuple([integer(o, where, **small) for o in listed(offsets, where)]),
        integer(divisor, where, 1),
        integer(plus, where, **small),
    )
    if parts is not None:
        how, by, count = listed(parts, where, 3)
        if how not in ("split", "chunk", "tensor_split", "squeeze"):
            raise ValueError
        parts = (how, integer(by, where), integer(count, where))
    return sized_of(integer(number, where, **small), *rule, parts)


def _torch(reader: Any, content: Any, where: str) -> Any:
    kind, name = listed(content, where, 2)
    if not isinstance(kind, str) or not isinstance(name, str):
        raise ValueError
    try:
        constant = later("torch.constant")
    except ModuleNotFoundError as e:
        raise FileError(f"{where}: an op of torch has the constant {shown(name)}; install torch to load it") from e
    return constant(kind, name)


def _ellipsis(reader: Any, content: Any, where: str) -> Any:
    if content is not True:
        raise ValueError
    return Ellipsis


#: What an object with one key stands for.
_OBJECTS: dict[str, Callable[[Any, Any, str], Any]] = {
    "float": _float,
    "complex": _complex,
    "int": _wide,
    "sized": _sized,
    "dtype": lambda reader, content, where: DTYPE_OF[content],
    "type": lambda reader, content, where: reader.type_at(content, where),
    "graph": lambda reader, content, where: reader.graph_at(content, where),
    "slot": lambda reader, content, where: Slot(integer(content, where, 0, 2**16)),
    "bytes": lambda reader, content, where: bytes.fromhex(content),
    "ellipsis": _ellipsis,
    "torch": _torch,
}
