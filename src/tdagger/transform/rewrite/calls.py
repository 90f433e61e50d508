"""What a call written in a pattern would make of a value's own arguments."""

from __future__ import annotations

from typing import Any, cast

from tdagger.composite import Composite, CompositeFunction
from tdagger.errors import TDaggerError
from tdagger.op import Value


def gives(function: Any, arg: Value, rest: list[Any], attributes: dict[str, Any], value: Value) -> bool:
    """Whether a structural function makes a value of an argument."""
    try:
        return function(arg, *rest, **attributes) is value
    except TDaggerError:
        return False


def counted(name: str, wanted: Any, rank: int) -> Any:
    """An attribute as the op has it: axes counted from the front, lists as tuples."""
    if name == "axis" and isinstance(wanted, int) and wanted < 0:
        return wanted + rank
    if isinstance(wanted, list):
        wanted = tuple(cast(list[Any], wanted))
    if name == "axes" and isinstance(wanted, tuple):
        return tuple(sorted(a + rank if a < 0 else a for a in cast(tuple[int, ...], wanted)))
    return wanted


def made_by(definition: CompositeFunction[Any, Any], value: Value, attributes: dict[str, Any]) -> bool:
    """Whether a call with these attributes on the value's own arguments gives its op."""
    try:
        made: Any = definition(*given_arguments(value), **attributes)
    except TDaggerError:
        return False
    return (cast(Any, made)[0].args[0] if isinstance(made, tuple) else made) is value


def given_arguments(value: Value) -> list[Value | None]:
    """The arguments of a composite's value at their parameters' places, None for those that weren't given."""
    op = cast(Composite, value.op)
    tensors = iter(value.args)
    return list(value.args) if op.definition.variadic else [next(tensors) if g else None for g in op.given]
