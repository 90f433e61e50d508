"""How the ops of a pair are related: one op on the same, one op with other attributes or weights, or other ops."""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import Enum
from typing import Any, NamedTuple, cast

import ml_dtypes
import numpy as np

from tdagger.composite import Composite
from tdagger.graph import label, result_types
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Group, Permute, Repeat, Ungroup
from tdagger.transform.diff.align import Aligner, is_leaf
from tdagger.transform.diff.classes import plain
from tdagger.transform.diff.exact import unit, wide
from tdagger.types import DType, f32


class Relation(Enum):
    """How a value of B is related to its partner in A.

    LITERAL: one op on the same. ROUNDED: so, but numbers it holds or takes were rounded otherwise. NAMED: one op that
    has other attributes, weights or constants. SPELLED: other ops, or one on other values. EXTRA: it has no partner.
    """

    LITERAL = 0
    ROUNDED = 1
    NAMED = 2
    SPELLED = 3
    EXTRA = 4


class Detail(NamedTuple):
    """What differs between two ops: ``what`` is attribute, weight, constant, without, with, op or argument.

    ``name`` is that of the attribute or tensor; ``a`` and ``b`` are what either side has; ``note`` is more in words.
    """

    what: str
    name: str
    a: Any
    b: Any
    note: str = ""


class Weights:
    """The data of the leaves of both networks, and which are the same; each pair is compared once."""

    def __init__(self, a: Mapping[str, Array], b: Mapping[str, Array], digests: Mapping[str, bytes]) -> None:
        self.a, self.b = a, b
        self._names = {d: n for n, d in reversed([*digests.items()])}  # of A
        self._compared: dict[tuple[str, str], tuple[bool, bool, float]] = {}

    def compared(self, a: str, b: str) -> tuple[bool, bool, float]:
        """Whether two weights are equal, whether they are up to rounding, and how far they are apart relatively."""
        found = self._compared.get((a, b))
        if found is None:
            found = self._compared[a, b] = nearly(self.a[a], self.b[b])
        return found

    def named_like(self, digest: bytes | None) -> str | None:
        """The name under which A has this data."""
        return None if digest is None else self._names.get(digest)


def nearly(a: Array, b: Array) -> tuple[bool, bool, float]:
    """Whether two arrays are equal, whether up to rounding to the coarser of both types, and how far they are apart."""
    one: Any = wide(a)
    other: Any = wide(b)
    if one.shape != other.shape:
        return False, False, np.inf
    if np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"):
        return True, True, 0.0
    if one.dtype.kind not in "fc" or other.dtype.kind not in "fc":
        return False, False, np.inf
    coarser = max(a.dtype, b.dtype, key=lambda d: unit(DType.of(d)))
    size, least = unit(DType.of(coarser)), _least(coarser)
    off = np.abs(one - other)
    close = bool((off <= size * np.maximum(np.abs(one), np.abs(other)) + least).all())
    scale = float(np.abs(one).max(initial=0.0))
    worst = float(off.max(initial=0.0))
    return False, close, worst / scale if scale else worst


def _least(dtype: Any) -> float:
    found = cast(Any, ml_dtypes.finfo(dtype))
    return float(found.smallest_subnormal)


def is_constant(value: Value, known: dict[Value, bool]) -> bool:
    """Whether a value is a constant, or one that was moved and repeated; arguments are in ``known`` already."""
    found = known.get(value)
    if found is None:
        moves = isinstance(value.op, Group | Ungroup | Permute | Repeat) or value.op.name in ("reshape", "filled")
        found = isinstance(value.op, Const) or (moves and all(is_constant(a, known) for a in value.args))
        known[value] = found
    return found


class Relations:
    """Says of every pair how it is related; ``constants`` holds what is made of constants alone, by value."""

    def __init__(self, aligner: Aligner, weights: Weights, constants: Mapping[Value, Array]) -> None:
        self.aligner, self.weights, self.constants = aligner, weights, constants

    def of(self, b: Value, alike: Container[tuple[Value, Value]] = ()) -> tuple[Relation, list[Detail]]:
        """The relation of a value of B to its partner, and what differs where that can be said by name.

        ``alike`` are arguments of A and B that count as one thing, besides those that do by how they are made.
        """
        a = self.aligner.a_of.get(b)
        if a is None:
            return Relation.EXTRA, []
        if is_leaf(a) and is_leaf(b):
            return (
                Relation.LITERAL if self._leaf(a, b)[0] else Relation.ROUNDED if self._leaf(a, b)[1] else Relation.NAMED
            ), []
        if a in self.constants and b in self.constants:
            same, close, _ = nearly(self.constants[a], self.constants[b])
            return (Relation.LITERAL if same else Relation.ROUNDED if close else Relation.NAMED), []
        if label(a.op) != label(b.op) or type(a.op) is not type(b.op):
            return Relation.SPELLED, []
        pairs = self.aligner.arguments(a, b)
        details: list[Detail] = []
        rounded = False
        for name, (x, y) in zip(self._argument_names(a, b, len(pairs)), pairs, strict=True):
            if is_leaf(x) and is_leaf(y):
                same, close, detail = self._leaf(x, y)
            elif x in self.constants and y in self.constants:
                same, close, _ = nearly(self.constants[x], self.constants[y])
                detail = Detail("constant", name, x, y)
            elif self.goes_with(x, y) or (x, y) in alike:
                continue
            else:
                return Relation.SPELLED, []
            rounded = rounded or (close and not same)
            details += [] if close else [detail]
        counted = len(pairs) == len(a.args) == len(b.args)
        for detail in attributes(a, b):
            if _is_rounded(a, b, detail):
                rounded = True
            else:
                details.append(detail)
        if not counted:
            details += self._without(a, b)
            if not details:
                return Relation.SPELLED, []
        return (Relation.NAMED if details else Relation.ROUNDED if rounded else Relation.LITERAL), details

    def goes_with(self, x: Value, y: Value) -> bool:
        """Whether a value of A and one of B count as one thing."""
        return self.aligner.a_of.get(y) is x or self.aligner.of_a[x] == self.aligner.of_b[y]

    def _leaf(self, a: Value, b: Value) -> tuple[bool, bool, Detail]:
        one, other = leaf_name(a), leaf_name(b)
        if a.op.name == "input" or b.op.name == "input":
            same = self.goes_with(a, b)
            return same, same, Detail("weight", one, one, other, "another input")
        if a.type.shape != b.type.shape:
            return False, False, Detail("weight", one, one, other, f"{a.type} and {b.type}")
        same, close, off = self.weights.compared(one, other)
        note = "" if close else self._note(a, b, off)
        return same, close, Detail("weight", one, one, other, note)

    def _note(self, a: Value, b: Value, off: float) -> str:
        digest = self.aligner.b.digests.get(leaf_name(b))
        there = self.weights.named_like(digest)
        if there is not None and there != leaf_name(a):
            return f"it holds what A has in {there}"
        return f"its data differs by {off:.2g} of the largest"

    def _argument_names(self, a: Value, b: Value, count: int) -> list[str]:
        if isinstance(a.op, Composite) and not a.op.definition.variadic:
            names = a.op.definition.argument_names(a.op.given, len(a.args))
            if isinstance(b.op, Composite):
                there = b.op.definition.argument_names(b.op.given, len(b.args))
                return [n for n in names if n in there]
        return [f"argument {i + 1}" for i in range(count)]

    def _without(self, a: Value, b: Value) -> list[Detail]:
        if not isinstance(a.op, Composite) or not isinstance(b.op, Composite) or a.op.definition.variadic:
            return []
        mine = dict(zip(a.op.definition.argument_names(a.op.given, len(a.args)), a.args, strict=True))
        theirs = dict(zip(b.op.definition.argument_names(b.op.given, len(b.args)), b.args, strict=True))
        gone = [Detail("without", n, x, None) for n, x in mine.items() if n not in theirs]
        return gone + [Detail("with", n, None, y) for n, y in theirs.items() if n not in mine]


def attributes(a: Value, b: Value) -> list[Detail]:
    """The attributes in which two ops of one kind differ; an element type of floats is none."""
    if isinstance(a.op, Const):
        return []
    mine, theirs = a.op.attributes, b.op.attributes
    return [
        Detail("attribute", n, mine[n], theirs[n]) for n in mine if n in theirs and plain(mine[n]) != plain(theirs[n])
    ]


def _is_rounded(a: Value, b: Value, detail: Detail) -> bool:
    """Whether two numbers are one in f32, as which files hold attributes, and ops work in no more than that."""
    one, other = detail.a, detail.b
    if not isinstance(one, float) or not isinstance(other, float) or np.float32(one) != np.float32(other):
        return False
    return all(unit(t.dtype) >= unit(f32) for v in (a, b) for t in result_types(v) if t.dtype.is_float)


def leaf_name(value: Value) -> str:
    """The name of an input, parameter or buffer."""
    assert isinstance(value.op, Leaf)
    return value.op.leaf
