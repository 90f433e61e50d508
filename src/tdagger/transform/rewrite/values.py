"""What rules ask of single values: what broadcasting made them of, which number they hold, what works by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdagger.composite import Composite
from tdagger.graph import is_one, label
from tdagger.op import Value
from tdagger.ops.elementwise import POINTWISE
from tdagger.ops.source import Const, Input
from tdagger.ops.structure import Group, Repeat, Ungroup

#: Of a value with more users than these, only the first are looked at as further roots of a match.
USERS = 64


def behind(value: Value) -> list[Value]:
    """A value, and what broadcasting made it of: without being repeated, without axes of size 1 added in front."""
    found = [value]
    if isinstance(value.op, Repeat):
        value = value.args[0]
        found.append(value)
    if isinstance(value.op, Group | Ungroup):
        inner = value.args[0]
        if value.rank > inner.rank and value.shape == (1,) * (value.rank - inner.rank) + inner.shape:
            found.append(inner)
    return found


def number_in(value: Value) -> Any:
    """The number of which a constant has nothing but copies; None for anything else."""
    if value.op.__class__ is not Const:
        value = behind(value)[-1]
    op: Any = value.op
    if isinstance(op, Const):
        return op.data.item() if op.data.size == 1 else None
    return op.attributes["value"] if op.name == "filled" else None


def is_elementwise(value: Value) -> bool:
    """Whether every entry of a value depends on the same entry of each argument, and on constants."""
    op = value.op
    if isinstance(op, POINTWISE):
        return True
    if not isinstance(op, Composite) or not is_one(value):
        return False
    if any(getattr(a.type, "shape", None) != value.shape for a in value.args):
        return False
    types = tuple([a.type for a in value.args])
    key = ("elementwise", types)
    if key not in op.found:
        op.found[key] = all(_by_element(v) for v in op.body(*types).values)
    return op.found[key]


def _by_element(value: Value) -> bool:
    if isinstance(value.op, Input) or is_elementwise(value):
        return True
    if isinstance(value.op, Const):
        return value.type.size == 1
    return isinstance(value.op, Repeat | Group | Ungroup) and number_in(value) is not None


def around(value: Value, users: Mapping[Value, list[Value]], depth: int, wanted: frozenset[str]) -> list[Value]:
    """The values up to ``depth`` uses further whose ops have one of the labels."""
    found: dict[Value, None] = {}
    level = [value]
    for _ in range(depth):
        level = list(dict.fromkeys(u for v in level for u in users.get(v, ())[:USERS]))
        found.update(dict.fromkeys(v for v in level if label(v.op) in wanted))
    return list(found)
