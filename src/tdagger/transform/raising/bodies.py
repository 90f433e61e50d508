"""Bodies of composites, and whether one ends at a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tdagger.composite import Composite
from tdagger.errors import TDaggerError
from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.elementwise import BINARY, Binary
from tdagger.ops.source import Input
from tdagger.transform.passes.decompose import expanded, is_last
from tdagger.transform.raising.cone import Guess
from tdagger.types import TensorType


def composite_of(guess: Guess) -> Composite | None:
    """The composite that is guessed; None if there is none with these attributes."""
    attributes = {**guess.definition.defaults, **guess.attributes}
    try:
        return cast(Any, guess.definition.op)(*attributes.values(), guess.given)
    except TDaggerError:
        return None


def core_body(op: Composite, types: tuple[TensorType, ...]) -> Graph | None:
    """The body of a composite with the bodies of all composites inside; None if it doesn't take these types."""
    key = ("core body", types)
    if key not in op.found:
        try:
            body = op.body(*types)
            op.found[key] = expanded(body, lambda value, level: is_last(value), {})[0]
        except (TDaggerError, ValueError, IndexError, ZeroDivisionError):
            op.found[key] = None
    return op.found[key]


def matched(
    body: Graph, value: Value, result: int = 0, given: Mapping[int, Value] | None = None
) -> tuple[Value, ...] | None:
    """What the inputs of a body stand for where a result of it ends at a value, op by op; None if none does.

    ``given`` are those known before, by number: a body needn't read an input of which it takes the sizes.
    """
    end = list(body.outputs.values())[result]
    if isinstance(end.op, Input):
        return None  # the identity is everywhere
    inputs = list(body.inputs.values())
    bound: dict[Value, Value] = {inputs[i]: v for i, v in (given or {}).items()}
    stack = [(end, value)]
    while stack:
        inner, outer = stack.pop()
        known = bound.get(inner)
        if known is not None:
            if known is not outer:
                return None
            continue
        if isinstance(inner.op, Input):
            if inner.type is not outer.type:
                return None
        elif inner.op is not outer.op or len(inner.args) != len(outer.args):
            return None
        bound[inner] = outer
        if not isinstance(inner.op, Input):
            stack += zip(inner.args, _ordered(inner, outer), strict=True)
    return tuple([bound[v] for v in inputs]) if all(v in bound for v in inputs) else None


def _ordered(inner: Value, outer: Value) -> tuple[Value, ...]:
    """The arguments of ``outer`` in the order of those of ``inner``, for ops whose arguments go either way."""
    args = outer.args
    if not isinstance(inner.op, Binary) or not BINARY[inner.op.kind].commutes:
        return args

    def fits(pairs: Any) -> bool:
        return all(isinstance(i.op, Input) or i.op is o.op for i, o in pairs)

    straight = fits(zip(inner.args, args, strict=True))
    return args[::-1] if not straight and fits(zip(inner.args, args[::-1], strict=True)) else args
