"""How many dimensions values have, and which of them are left over: of size 1, carrying nothing.

>>> import tdagger as td
>>> x = td.input("x", (3, 4))
>>> y = td.exp(td.unsqueeze(x, (0,)))
>>> report = rank_report(td.Graph({"x": x}, {"y": td.squeeze(y, (0,))}))
>>> report.largest, report.leftover, report.values
(3, 2, 3)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tdagger.graph import Graph, is_one, label
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Leaf
from tdagger.ops.structure import Concat, Group, Reduce, Slice, Ungroup

#: How many places a report prints.
_SHOWN = 12


@dataclass(frozen=True)
class Place:
    """A value, its op and sizes, and where in the source it is from."""

    value: Value = field(repr=False)
    op: str
    shape: tuple[int, ...]
    leftover: tuple[int, ...] = ()
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = " ".join(filter(None, (shown(self.module), f"({shown(self.source)})" if self.source else "")))
        return f"{self.op} [{' '.join(map(str, self.shape))}]{' in ' + where if where else ''}"


@dataclass(frozen=True)
class RankReport:
    """The largest rank and the values that have it; the values with left-over dimensions of size 1.

    ``values`` counts the tensors, those of parameters, buffers and inputs left out; ``leftover`` those with a
    dimension of size 1 that carries no axis or one of size 1, ``leading`` those whose first dimension is such;
    ``places`` are they, ``ranks`` the number of tensors of every rank.
    """

    values: int
    largest: int
    deepest: tuple[Place, ...]
    leftover: int
    leading: int
    places: tuple[Place, ...]
    ranks: Mapping[int, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{n} of rank {r}" for r, n in sorted(self.ranks.items()))
        lines = [f"{self.values} tensors: {counts}", f"largest rank {self.largest}"]
        lines += _listed(_counted(self.deepest))
        lines.append(f"{self.leftover} with a left-over dimension of size 1, {self.leading} of them the first")
        lines += _listed(_counted(self.places))
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""

        def plain(p: Place) -> dict[str, Any]:
            shape = {"shape": list(p.shape), "leftover": list(p.leftover)}
            return {"op": p.op, **shape, "module": p.module, "source": p.source}

        return {
            "values": self.values,
            "largest": self.largest,
            "deepest": list(map(plain, self.deepest)),
            "leftover": self.leftover,
            "leading": self.leading,
            "places": list(map(plain, self.places)),
            "ranks": {str(r): n for r, n in sorted(self.ranks.items())},
        }


def rank_report(graph: Graph, origins: Mapping[Value, Any] | None = None) -> RankReport:
    """The ranks of a graph's values and their left-over dimensions. Linear in the number of values."""
    found: list[Place] = []
    for value in graph.values:
        if isinstance(value.op, Leaf) or not is_one(value):
            continue  # a value of several results has a value for each of them
        origin = (origins or {}).get(value)
        where = (origin.module, origin.source) if origin else ("", "")
        users = graph.users[value]
        left = tuple([i for i, n in enumerate(value.shape) if n == 1 and not _has_use(value, i, users)])
        found.append(Place(value, label(value.op), value.shape, left, *where))
    largest = max((len(p.shape) for p in found), default=0)
    over = tuple(p for p in found if p.leftover)
    return RankReport(
        values=len(found),
        largest=largest,
        deepest=tuple(p for p in found if len(p.shape) == largest),
        leftover=len(over),
        leading=sum(p.leftover[0] == 0 for p in over),
        places=over,
        ranks=Counter(len(p.shape) for p in found),
    )


def _has_use(value: Value, axis: int, users: list[Value]) -> bool:
    """Whether a dimension of size 1 is there for its users: one entry of a concatenation, or dropped at once.

    What takes one entry, or reduces, is two ops here: the second drops the dimension.
    """

    def uses(user: Value) -> bool:
        op = user.op
        if isinstance(op, Concat):
            return op.axis == axis
        if not isinstance(value.op, Slice | Reduce):
            return False
        if isinstance(op, Ungroup):
            return op.sizes[axis] == ()
        start = 0
        for count in op.counts if isinstance(op, Group) else ():
            if start <= axis < start + count:
                return count > 1
            start += count
        return False

    return bool(users) and all(map(uses, users))


def _counted(places: tuple[Place, ...]) -> list[str]:
    """The first of every kind of place, and how many there are: layers that only differ in a number are one kind."""
    kinds: dict[tuple[str, str], list[Place]] = {}
    for place in places:
        kinds.setdefault((place.op, re.sub(r"\b\d+\b", "*", place.module)), []).append(place)
    ranked = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return [f"{len(p)} x {p[0]}" + (f", and more in {m}" if "*" in m and len(p) > 1 else "") for (_, m), p in ranked]


def _listed(lines: list[str]) -> list[str]:
    more = [f"  ... {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*(f"  {line}" for line in lines[:_SHOWN]), *more]
