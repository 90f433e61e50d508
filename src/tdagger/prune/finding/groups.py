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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.network import Network
from tdagger.op import Array, Value
from tdagger.prune.finding.costs import Polynomial
from tdagger.prune.finding.entries import COUNTS, Entries, is_norm
from tdagger.prune.finding.factors import Factor, Term
from tdagger.prune.finding.shuffles import as_gathers
from tdagger.prune.finding.units import Units
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
        return self.each_sum(data.sum(tuple(i for i in range(data.ndim) if i != self.axis), dtype=np.float64), size)

    def each_sum(self, each: Array, size: int) -> Array:
        """The sum of numbers of the entries of the dimension over those of each unit."""
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
    found: Prunable = field(repr=False)
    why: tuple[str, ...] = ()
    only_norms: bool = True

    @cached_property
    def freed(self) -> dict[str, float]:
        """Flops, parameters and bytes that one unit frees where all others stay."""
        gone = self.found.units.removed(self.classes[:1])
        left = self.found.left(gone)
        return {name: cost(self.found.sizes) - cost(left) for name, cost in self.found.cost.items()}

    @property
    def flops(self) -> float:
        """What one unit frees of the network's flops."""
        return self.freed["flops"]

    @property
    def parameters(self) -> float:
        """How many numbers of parameters one unit frees."""
        return self.freed["parameters"]

    @property
    def bytes(self) -> float:
        """How many bytes of parameters one unit frees."""
        return self.freed["bytes"]

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
        #: The network, with shuffles of entries as gathers.
        self.dag, shuffles = as_gathers(dag)
        self.entries = Entries(self.dag.graph)
        self.entries.shuffles = shuffles
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
        before = np.concatenate([[0], np.cumsum(gone, dtype=np.int64)])  # a factor may have no entries
        return self.sizes - (before[starts + self.sizes] - before[starts])

    # Groups.

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups, in the order of the network's parameters."""
        units, free = self.units, self.units.free
        roots = {f: units.roots(f) for f in units.factors if f.block is None}
        signature = np.zeros(units.count, np.uint64)
        numbers = np.random.default_rng(0).integers(0, 2**63, len(units.factors), dtype=np.uint64)
        for (_, found), number in zip(roots.items(), numbers, strict=False):
            # classes that lie in the same factors are alike; each factor counts once
            signature[found[:, 0] if _is_plain(found) else np.unique(found[found >= 0])] += number
        _, kinds = np.unique(signature[free], return_inverse=True)
        order = np.argsort(kinds, kind="stable")
        classes = np.split(free[order], np.cumsum(np.bincount(kinds))[:-1]) if len(free) else []
        #: Of each class its group and its number there; the last is that of -1.
        kind, unit = np.full(units.count + 1, -1, np.int64), np.full(units.count + 1, -1, np.int64)
        kind[free] = kinds
        for each in classes:
            unit[each] = np.arange(len(each))
        lies = {f: _by_kind(found, kind, unit) for f, found in roots.items()}
        own: dict[int, list[_Place]] = {}
        for name, value in self.dag.graph.parameters.items():
            for axis, term in enumerate(map(resolve, self.entries.scope.terms.get(value, ()))):
                for position, factor in enumerate(term):
                    for k, found in lies[factor].items() if factor in lies else ():
                        own.setdefault(k, []).append(_Place(name, axis, position, term, found))
        why = self._why_by_kind(lies)
        names = _Names()
        return tuple([self._group(names, classes[k], places, *why(k)) for k, places in own.items()])

    def _group(
        self, names: _Names, classes: Array, places: list[_Place], why: tuple[str, ...], only_norms: bool
    ) -> Group:
        members: list[Member] = []
        number = _in_order(places[0].unit, len(classes))
        if number is not None:
            classes = classes[np.argsort(number[:-1])]
            places = [p._replace(unit=number[p.unit]) for p in places]
        for name, axis, position, term, found in places:
            inner = math.prod(f.size for f in term[position + 1 :])
            outer = math.prod(f.size for f in term[:position])
            unit = found if inner == outer == 1 else np.tile(np.repeat(found, inner, 1), (1, outer))
            members.append(Member(name, axis, unit))
        name, _, position, term, _ = next((p for p in places if p.axis == 0), places[0])
        of = [f.size for f in term if f.block is None]
        at = sum(f.block is None for f in term[:position])
        own = names.new(name.rpartition(".")[0] or name, f":{at}" if len(of) > 1 else "")
        return Group(own, len(classes), tuple(of), at, tuple(members), classes, self, why, only_norms)

    def _why_by_kind(self, lies: dict[Factor, dict[int, Array]]) -> Callable[[int], tuple[tuple[str, ...], bool]]:
        """For the number of a group, what isn't the same without its units as with zeros, and whether that is norms."""
        found: dict[int, dict[str, bool]] = {}
        for value, how, seen in self._sights:
            for k in {k for f in seen for k in lies.get(f, ())}:
                found.setdefault(k, {})[self._said(value, how)] = is_norm(value)
        first = {k: tuple(sorted(own, key=own.__getitem__)) for k, own in found.items()}  # norms last
        return lambda k: (first.get(k, ()), all(found.get(k, {}).values()))

    def _said(self, value: Value, how: str) -> str:
        return f"{value.op.name}{'' if is_norm(value) else f' {how} them'}{self._where(value)}"

    @cached_property
    def _sights(self) -> list[tuple[Value, str, list[Factor]]]:
        """Where an op takes in all entries of a dimension, some of which can go."""
        found = [(s.value, s.how, [f for f in resolve(s.term) if f.block is None]) for s in self.entries.seen]
        return [s for s in found if s[2]]

    def why(self, gone: Array, keep_numbers: bool = False, constants: bool = False) -> tuple[tuple[str, ...], bool]:
        """What isn't the same without some entries as with zeros there, and whether that is norms alone.

        ``keep_numbers``: norms divide by what they did, which may be all that they see of what goes. ``constants``: of
        what goes constants stay, of which :mod:`tdagger.prune.removing.constants` tells what isn't a norm.
        """
        found: dict[str, bool] = {}
        for value, how, factors in self._sights:
            if (keep_numbers and how == COUNTS) or (constants and how.startswith("takes the ") and not is_norm(value)):
                continue
            if any(gone[f.number : f.number + f.size].any() for f in factors):
                found[self._said(value, how)] = is_norm(value)
        return tuple(found), all(found.values())

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
                return how if value is None else f"{value.op.name} {how}{self._where(value)}"
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


class _Place(NamedTuple):
    """A factor of a dimension of a parameter, and for each of its entries the units of a group that it goes with."""

    name: str
    axis: int
    position: int
    term: Term
    unit: Array


def _is_plain(found: Array) -> bool:
    """Whether each entry of a factor goes with one class, which is nobody else's there."""
    if found.shape[1] != 1:
        return False
    return bool((np.diff(found[:, 0]) > 0).all()) or len(np.unique(found)) == len(found)  # mostly they rise


def _in_order(unit: Array, size: int) -> Array | None:
    """The numbers of units by the order of their first entries, the last that of -1; None if they are in that order.

    So a unit has the same number in a network for training, or of another batch, whose factors are others.
    """
    entries = unit.T.reshape(-1)
    own = entries[entries >= 0]
    if len(own) == size and (np.diff(own) > 0).all():  # mostly
        return None
    order = np.argsort(np.unique(own, return_index=True)[1])
    number = np.full(size + 1, -1, np.int64)
    number[order] = np.arange(size)
    return number


def _by_kind(found: Array, kind: Array, unit: Array) -> dict[int, Array]:
    """For each group that entries of a factor go with, the numbers of their units: ``[k, entries]``.

    In the order of their first entries, which is the same however the factors are numbered.
    """
    kinds = kind[found]
    out: dict[int, Array] = {}
    each, first = np.unique(kinds, return_index=True)
    for k in each[np.argsort(first)].tolist():
        if k >= 0:
            own = np.where(kinds == k, unit[found], -1).T
            out[k] = own[(own >= 0).any(1)]
    return out


class _Names:
    """Names of groups, each given once."""

    def __init__(self) -> None:
        self.given: dict[str, int] = {}

    def new(self, base: str, suffix: str) -> str:
        name = base + suffix
        count = self.given[name] = self.given.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"


def prunable(dag: Network) -> Prunable:
    """What can be pruned of a network; see :meth:`tdagger.TensorDAG.prunable`."""
    return Prunable(dag)
