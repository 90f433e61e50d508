"""Patterns: what a function over ops says when it is called with wildcards in the place of values.

Every op, composite and structural function takes a wildcard; operators and numbers are as on values. What can't be said
so is said with :func:`either`, :func:`only`, :func:`elementwise`, :func:`spread`, :func:`number`, :func:`constant` and
:func:`op`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from tdagger.composite import CompositeFunction, composites
from tdagger.errors import AttributeValueError
from tdagger.op import Op, Symbolic, core_ops
from tdagger.ops.elementwise import BINARY, UNARY

#: The keyword under which ``**attributes`` of a wildcard arrives.
ALL = "**"


class Pattern(Symbolic):
    """A part of a pattern. Nothing is known of the values it stands for."""

    __slots__ = ()

    def noted(self, function: Any, args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        return note(function, args, attributes)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"in a pattern nothing is known of a value, so it has no {name}: ask it in .when or .to")


class Var(Pattern):
    """A wildcard: any value, the same at each place; as an attribute any attribute; ``**var`` all attributes.

    An ``optional`` one may stand for a tensor argument that wasn't given, and is None then.
    """

    __slots__ = ("name", "optional")

    def __init__(self, name: str, optional: bool = False) -> None:
        self.name, self.optional = name, optional

    def keys(self) -> list[str]:
        """For ``**var``."""
        return [ALL]

    def __getitem__(self, key: str) -> Var:
        return self

    def __repr__(self) -> str:
        return self.name


class Node(Pattern):
    """An op on arguments. ``what`` is a core op, a composite, a structural function, or the name of a class of ops."""

    __slots__ = ("args", "attributes", "what")

    def __init__(self, what: Any, args: tuple[Any, ...], attributes: dict[str, Any]) -> None:
        self.what, self.args, self.attributes = what, args, attributes

    def __repr__(self) -> str:
        name = self.what if isinstance(self.what, str) else getattr(self.what, "__name__", str(self.what))
        shown = [repr(a) for a in self.args] + [f"{k}={v!r}" if k != ALL else f"**{v}" for k, v in self._given()]
        return f"{name}({', '.join(shown)})"

    def _given(self) -> Iterator[tuple[str, Any]]:
        yield from self.attributes.items()


class Special(Pattern):
    """Something only a pattern can say: ``kind`` of ``parts``."""

    __slots__ = ("kind", "parts", "var")

    def __init__(self, kind: str, parts: tuple[Any, ...], var: Var | None = None) -> None:
        self.kind, self.parts, self.var = kind, parts, var

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, (*self.parts, *([self.var] if self.var else []))))})"


def note(function: Any, args: tuple[Any, ...], attributes: dict[str, Any]) -> Node:
    """The pattern of a call; AttributeValueError for a function whose attributes are wildcards."""
    if isinstance(function, Op):
        return Node(function, args, {})
    if isinstance(function, CompositeFunction):
        definition = cast(CompositeFunction[Any, Any], function)
        tensors = list(args)
        rest = dict(attributes)
        if not definition.variadic:
            tensors += [rest.pop(n, None) for n in definition.tensors[len(args) :]]
        unknown = [k for k in rest if k not in definition.defaults and k != ALL]
        if unknown or (len(tensors) != len(definition.tensors) and not definition.variadic):
            raise AttributeValueError(f"{definition} in a pattern: got {args} {attributes}")
        return Node(definition, tuple(tensors), rest)
    name = cast(str, function.__name__)
    if name != "concat" and any(isinstance(a, Var) for a in (*args[1:], *attributes.values())):
        raise AttributeValueError(
            f"{name} in a pattern takes numbers, which are counted by the rank of its argument; to bind an attribute "
            f"write op({name!r}, x, ...) with the names of the op's own attributes"
        )
    return Node(function, args, attributes)


# What only a pattern can say.


def either(*options: Any) -> Any:
    """What any of the options matches, tried in order. A wildcard that is in some only may be None."""
    return Special("either", options)


def only(of: Any) -> Any:
    """``of``, if nothing but the match uses the value: it will be gone."""
    return Special("only", (of,))


def spread(of: Any) -> Any:
    """``of``, or ``of`` repeated to a larger shape by broadcasting."""
    return Special("spread", (of,))


def elementwise(*args: Any, op: Any = None) -> Any:
    """Any elementwise op on these arguments, core or composite; ``op`` binds it, and ``op(x)`` applies it."""
    return Special("elementwise", args, op)


def number(var: Any) -> Any:
    """A constant with one number in it, of any shape; binds the Python number."""
    return Special("number", (), var)


def constant(var: Any) -> Any:
    """A constant that the graph holds; binds its value (``c.op.data`` is the array)."""
    return Special("constant", (), var)


def op(name: str, *args: Any, **attributes: Any) -> Any:
    """The op of a name on these arguments, core or composite, whatever its attributes but those given.

    Numbers must be those the op has (axes counted from the front); wildcards bind. AttributeValueError if there is no
    such op or attribute.

    >>> op("reduce", Var("x"), kind="sum", axes=Var("axes"))
    reduce(x, kind='sum', axes=axes)
    """
    if name in UNARY or name in BINARY:
        fields: tuple[str, ...] = ()
    elif name in core_ops:
        fields = core_ops[name].fields
    elif name in composites:
        fields = tuple(composites[name].defaults)
    else:
        raise AttributeValueError(f"a pattern: there is no op called {name!r}")
    unknown = [k for k in attributes if k not in fields and k != ALL]
    if unknown:
        raise AttributeValueError(f"a pattern: {name} has the attributes {fields}, not {', '.join(unknown)}")
    return Node(name, args, attributes)


def depths(pattern: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    """The wildcards for tensors in a pattern, each with how many ops are above it."""
    if isinstance(pattern, Var):
        yield pattern.name, depth
    elif isinstance(pattern, Node):
        for arg in pattern.args:
            yield from depths(arg, depth + 1)
    elif isinstance(pattern, Special):
        for part in pattern.parts:
            yield from depths(part, depth + (pattern.kind == "elementwise"))
