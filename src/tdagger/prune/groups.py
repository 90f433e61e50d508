"""What can be pruned of a network: groups of units that are alike, what each holds and frees, and what stops the rest.

>>> import numpy as np
>>> import tdagger as td
>>> x = td.input("x", (2, 3))
>>> w, v = td.parameter("a.weight", (8, 3)), td.parameter("b.weight", (4, 8))
>>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(td.relu(td.linear(x, w)), v)}))
>>> found = prunable(dag)
>>> [(g.name, g.size, [str(m) for m in g.members]) for g in found.groups]
[('a', 8, ['a.weight[0]', 'b.weight[1]'])]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tdagger.network import Network
from tdagger.op import Array, Value
from tdagger.prune.costs import Polynomial
from tdagger.prune.entries import Entries, is_norm
from tdagger.prune.factors import Factor, resolve
from tdagger.prune.units import Units
from tdagger.transform.networks import place


@dataclass(frozen=True, eq=False)
class Member:
    """A dimension of a parameter that a group's units lie in.

    ``unit`` has for each entry of the dimension the number of the unit it goes with, -1 for those of other groups; an
    entry that goes with several units of the group is in several rows: ``[k, entries]``.
    """

    name: str
    axis: int
    unit: Array

    @property
    def each(self) -> int:
        """How many entries of the dimension a unit takes, on average."""
        taken = self.unit >= 0
        return round(int(taken.sum()) / max(len(np.unique(self.unit[taken])), 1))

    def sums(self, data: Array, size: int) -> Array:
        """The sum of ``data`` (of the parameter's shape) over what each of ``size`` units holds: f64 ``[size]``."""
        each = data.sum(tuple(i for i in range(data.ndim) if i != self.axis), dtype=np.float64)
        out = np.zeros(size)
        for row in self.unit:
            taken = row >= 0
            out += np.bincount(row[taken], each[taken], size)
        return out

    def rows(self, data: Array, size: int) -> Array | None:
        """What each unit holds as a row, ``[size, n]``; None if units hold different numbers of entries."""
        if len(self.unit) > 1:
            return None
        order = np.argsort(self.unit[0], kind="stable")
        order = order[self.unit[0][order] >= 0]
        if len(order) % size or (np.bincount(self.unit[0][order], minlength=size) != len(order) // size).any():
            return None
        return np.moveaxis(data, self.axis, 0)[order].reshape(size, -1)

    def __str__(self) -> str:
        return f"{self.name}[{self.axis}]"


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are alike: each can be removed, alone or with others.

    ``size`` units, named after the module that makes them; ``of`` are the factors of the dimension they are in (a head
    is one of ``(3, 64)``); ``flops``, ``parameters`` and ``bytes`` are what one unit frees where all others stay.
    ``exact`` says whether the network without units is the one in which their weights are zero, ``why`` what says
    otherwise.
    """

    name: str
    size: int
    of: tuple[int, ...]
    place: int
    members: tuple[Member, ...]
    classes: Array = field(repr=False)
    flops: float = 0
    parameters: float = 0
    bytes: float = 0
    why: tuple[str, ...] = ()
    only_norms: bool = True

    @property
    def module(self) -> str:
        """The path of the module that makes the units."""
        return next((m for m in self.members if m.axis == 0), self.members[0]).name.rpartition(".")[0]

    @property
    def exact(self) -> bool:
        """Whether removing units is the same as making their weights zero."""
        return not self.why

    def __str__(self) -> str:
        of = "" if len(self.of) < 2 else f", factor {self.place} of {' x '.join(map(str, self.of))}"
        exact = "exact" if self.exact else f"not mask-equivalent: {'; '.join(self.why)}"
        return f"{self.name}: {self.size} units{of} in {', '.join(map(str, self.members))} ({exact})"


@dataclass(frozen=True)
class Stopped:
    """A dimension of a parameter that can't lose entries, and why: op, module and line."""

    name: str
    axis: int
    size: int
    why: str

    def __str__(self) -> str:
        return f"{self.name}[{self.axis}] of {self.size}: {self.why}"


class Prunable:
    """What can be pruned of a network: ``groups``, and ``stopped``, the dimensions of parameters that can't be."""

    def __init__(self, dag: Network) -> None:
        self.dag = dag
        self.entries = Entries(dag.graph)
        self.units = Units(self.entries)
        self._where = place(dag.origins)

    # Costs.

    @cached_property
    def sizes(self) -> Array:
        """The entries of every factor."""
        return np.array([f.size for f in self.units.factors], np.int64)

    @cached_property
    def cost(self) -> dict[str, Polynomial]:
        """Of the sizes of factors: ``flops``, ``parameters`` (how many numbers) and ``bytes`` of them."""
        factors, graph = self.units.factors, self.dag.graph
        leaves = [(v, self.entries.scope.terms[v]) for v in graph.parameters.values() if v in self.entries.scope.terms]
        unused = [
            w.type for n, w in self.dag.state.items() if w.is_parameter and not w.alias_of and n not in graph.parameters
        ]
        return {
            "flops": Polynomial(self.entries.work, factors),
            "parameters": Polynomial([(1, t) for _, t in leaves], factors, sum(t.size for t in unused)),
            "bytes": Polynomial(
                [(v.dtype.bytes, t) for v, t in leaves], factors, sum(t.size * t.dtype.bytes for t in unused)
            ),
        }

    def left(self, gone: Array) -> Array:
        """The entries that are left of every factor where those marked in ``gone`` go."""
        starts = np.array([f.number for f in self.units.factors], np.int64)
        return self.sizes - np.add.reduceat(gone, starts, dtype=np.int64) if len(starts) else self.sizes

    # Groups.

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of the network's parameters."""
        units, signature = self.units, np.zeros(self.units.count, np.uint64)
        numbers = np.random.default_rng(0).integers(0, 2**63, len(units.factors), dtype=np.uint64)
        roots: dict[Factor, Array] = {}
        for factor, number in zip(units.factors, numbers, strict=True):
            if factor.block is None:
                roots[factor] = found = units.roots(factor)
                signature[np.unique(found[found >= 0])] += number  # classes that lie in the same factors are alike
        free = units.free
        own: dict[int, list[tuple[str, int, int, Factor]]] = {}
        for name, value in self.dag.graph.parameters.items():
            for axis, term in enumerate(self.entries.scope.terms.get(value, ())):
                for position, factor in enumerate(resolve(term)):
                    if factor in roots:
                        for kind in np.unique(signature[roots[factor][roots[factor] >= 0]]).tolist():
                            own.setdefault(kind, []).append((name, axis, position, factor))
        order = np.argsort(signature[free], kind="stable")
        kinds, starts = np.unique(signature[free][order], return_index=True)
        classes = dict(zip(kinds.tolist(), np.split(free[order], starts[1:]), strict=True))
        names = _Names()
        return tuple(
            [self._group(names, classes[kind], places, roots) for kind, places in own.items() if kind in classes]
        )

    def _group(
        self, names: _Names, classes: Array, places: list[tuple[str, int, int, Factor]], roots: dict[Factor, Array]
    ) -> Group:
        unit = np.full(self.units.count + 1, -1, np.int64)
        unit[classes] = np.arange(len(classes))
        members: list[Member] = []
        for name, axis, position, factor in places:
            terms = self.entries.scope.terms[self.dag.graph.parameters[name]]
            term = resolve(terms[axis])
            inner = math.prod(f.size for f in term[position + 1 :])
            outer = math.prod(f.size for f in term[:position])
            found = unit[roots[factor]].T  # [k, size]
            found = found[(found >= 0).any(1)]
            if len(found):
                members.append(Member(name, axis, np.tile(np.repeat(found, inner, 1), (1, outer))))
        name, axis, position, factor = next((p for p in places if p[1] == 0), places[0])
        of = [
            f.size for f in resolve(self.entries.scope.terms[self.dag.graph.parameters[name]][axis]) if f.block is None
        ]
        at = sum(
            f.block is None for f in resolve(self.entries.scope.terms[self.dag.graph.parameters[name]][axis])[:position]
        )
        gone = self.units.removed(classes[:1])
        freed = {k: cost(self.sizes) - cost(self.left(gone)) for k, cost in self.cost.items()}
        why, only_norms = self.why(gone)
        return Group(
            names.new(name.rpartition(".")[0] or name, f":{at}" if len(of) > 1 else ""),
            len(classes), tuple(of), at, tuple(members), classes,
            freed["flops"], freed["parameters"], freed["bytes"], why, only_norms,
        )  # fmt: skip

    @cached_property
    def _sights(self) -> list[tuple[Value, str, list[Factor]]]:
        """Where an op takes in all entries of a dimension, some of which can go."""
        found = [(s.value, s.how, [f for f in resolve(s.term) if f.block is None]) for s in self.entries.seen]
        return [s for s in found if s[2]]

    def why(self, gone: Array) -> tuple[tuple[str, ...], bool]:
        """What isn't the same without some entries as with zeros there, and whether that is norms alone."""
        found: dict[str, None] = {}
        only_norms = True
        for value, how, factors in self._sights:
            if any(gone[f.number : f.number + f.size].any() for f in factors):
                norm = is_norm(value)
                only_norms &= norm
                said = f"{value.op.name}" if norm else f"{value.op.name} {how} them"
                found[f"{said}{self._where(value)}"] = None
        return tuple(found), only_norms

    @cached_property
    def stopped(self) -> tuple[Stopped, ...]:
        """The dimensions of more than one entry that are in no group, and what stops them."""
        known = {(m.name, m.axis) for g in self.groups for m in g.members}
        found: list[Stopped] = []
        for name, value in self.dag.graph.parameters.items():
            for axis, (n, term) in enumerate(zip(value.shape, self.entries.scope.terms.get(value, ()), strict=False)):
                if n > 1 and (name, axis) not in known:
                    found.append(Stopped(name, axis, n, self._stop(term)))
        return tuple(found)

    def _stop(self, term: Any) -> str:
        for factor in resolve(term):
            if factor.block is not None:
                value, how = factor.block
                return how if value is None else f"{_called(value)} {how}{self._where(value)}"
        return "entries of it are taken one by one"

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __getitem__(self, name: str) -> Group:
        found = next((g for g in self.groups if g.name == name), None)
        if found is None:
            from difflib import get_close_matches

            near = get_close_matches(name, [g.name for g in self.groups], 3)
            raise KeyError(f"no group is called {name!r}{'; there are ' + ', '.join(near) if near else ''}")
        return found

    def __str__(self) -> str:
        lines = [*map(str, self.groups)]
        return "\n".join([*lines, *(f"stopped: {s}" for s in self.stopped)])


class _Names:
    """Names of groups, each given once."""

    def __init__(self) -> None:
        self.given: dict[str, int] = {}

    def new(self, base: str, suffix: str) -> str:
        name = base + suffix
        count = self.given[name] = self.given.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"


def _called(value: Value) -> str:
    return value.op.name


def prunable(dag: Network) -> Prunable:
    """What can be pruned of a network; see :meth:`tdagger.TensorDAG.prunable`."""
    return Prunable(dag)
