"""A network without some entries: the graph, and of each weight what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tdagger.graph import topological
from tdagger.network import Lazy, N, Weights
from tdagger.op import Array
from tdagger.prune.finding.factors import Terms
from tdagger.prune.finding.units import Units
from tdagger.prune.removing.removal import Kept, Removal
from tdagger.transform.networks import place
from tdagger.transform.surgery.edit import Edit, finished, state_of


class Left(Lazy):
    """Weights of which entries were removed: each is taken of the one there was when it is asked for."""

    def __init__(self, weights: Mapping[str, Array], keeps: Mapping[str, list[Kept]]) -> None:
        self.weights = weights
        self.keeps = keeps

    def __getitem__(self, name: str) -> Array:
        data = np.asarray(self.weights[name])
        keeps = self.keeps[name]
        if sum(k is not None for k in keeps) < 2:
            for axis, kept in enumerate(keeps):
                data = data if kept is None else data.compress(kept, axis)
            return data
        return data[
            np.ix_(*[np.flatnonzero(np.ones(n) if k is None else k) for n, k in zip(data.shape, keeps, strict=True)])
        ]

    def part(self, names: Iterable[str]) -> Left:
        """Those of some names."""
        return Left(self.weights, {n: self.keeps[n] for n in names})

    def __contains__(self, name: object) -> bool:
        return name in self.keeps

    def __iter__(self) -> Iterator[str]:
        return iter(self.keeps)

    def __len__(self) -> int:
        return len(self.keeps)


def without(dag: N, units: Units, gone: Array, keep_numbers: bool = False) -> tuple[N, Removal]:
    """The network without the entries marked in ``gone``, and how it was made.

    Weights are read where they lie and made smaller when they are asked for. A check of the data that is made of
    what goes is left without a value.
    """
    where = place(dag.origins)
    removal = Removal(units, gone, keep_numbers, where)
    graph = removal.run()
    edit = Edit(dag)
    for value, old in removal.made_for.items():
        edit.carry(value, old)
    scope = units.entries.scope
    leaves = {**dag.graph.parameters, **dag.graph.buffers}
    keeps = {n: _keeps(removal, scope.terms[v]) for n, v in leaves.items() if v in scope.terms}
    for name, value in dag.graph.updates.items():
        if name not in leaves:
            keeps[name] = _keeps(removal, scope.terms[value]) if value in scope.terms else []
    smaller = {n: k for n, k in keeps.items() if any(kept is not None for kept in k)}
    state = state_of(dag)
    for name, weight in state.items():
        kept = smaller.get(weight.alias_of or name)
        if kept is not None:
            shape = [n if k is None else int(k.sum()) for n, k in zip(weight.type.shape, kept, strict=True)]
            state[name] = replace(weight, type=weight.type.with_shape(tuple(shape)))
            smaller[name] = kept
    held = [n for n in state if n in dag.weights]
    weights = Weights.of(dag.weights, {n: n for n in held if n not in smaller})
    weights = weights | Weights.of(
        Left(dag.weights, {n: smaller[n] for n in held if n in smaller}), {n: n for n in smaller}
    )
    weights = Weights({n: weights.places[n] for n in held})
    checks = [_check(c, removal) for c in dag.checks]
    return finished(dag, graph, edit.origins, weights=weights, state=state, checks=checks), removal


def _keeps(removal: Removal, terms: Terms) -> list[Kept]:
    return [removal.kept(t) for t in terms]


def _check(check: Any, removal: Removal) -> Any:
    """A check of the data on what is left: without a value where it is made of what was removed."""
    if check.value is None:
        return check
    unchanged = all(removal.new.get(v, v) is v for v in topological([check.value]))
    return check if unchanged else check._replace(value=None)
