"""The proof of a plan whose constants are folded: the network in which what goes lets no input through.

As :mod:`tdagger.prune.removing.check` for zeros: of the parameters of what goes those are zero that inputs would come
through, and the rest is what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.graph import is_one, remade
from tdagger.network import Weight, Weights
from tdagger.op import Array, Value
from tdagger.ops.source import parameter
from tdagger.ops.structure import Item, broadcast_to
from tdagger.prune.finding.entries import is_norm
from tdagger.prune.removing.check import EQUAL, Check, difference_of, outputs_of, put_back, written_out
from tdagger.prune.removing.constants import Constants, kept_of
from tdagger.prune.removing.folding import Folded
from tdagger.prune.removing.known import Known
from tdagger.prune.removing.removal import Removal, picked
from tdagger.tensordag import TensorDAG
from tdagger.transform.diff.inputs import random_inputs
from tdagger.transform.surgery.edit import Edit, finished, state_of


def checked_constants(dag: TensorDAG, folded: Folded, seed: int, framework: str = "") -> Check:
    """Run both; see :meth:`tdagger.prune.plan.PrunePlan.check`."""
    inputs = random_inputs(dag.graph, dag.graph, {n: n for n in dag.graph.inputs}, seed)
    given = outputs_of(folded.small, inputs, framework, folded.exact)
    constants = folded.constants
    masked, _, _ = _with_constants(dag, constants, ())
    counted = [v for v, *_ in folded.removal.recounted]
    values = list(dict.fromkeys([*constants.inexact, *counted, *_counting(folded.removal)]))
    unlike = difference_of(masked, inputs, framework, given, last=not values)
    if unlike <= EQUAL or not values:
        return Check(unlike, unlike)
    helped, exact, names = _with_constants(dag, constants, values)
    return Check(difference_of(helped, inputs, framework, given, exact), unlike, names)


def _counting(removal: Removal) -> list[Value]:
    """The norms that count what goes, and what draws random numbers for it."""
    return [
        s.value
        for s in removal.units.entries.seen
        if (is_norm(s.value) or s.how.startswith("draws"))
        and any(removal.kept((f,)) is not None for f in resolve(s.term) if f.block is None)
    ]


def _with_constants(
    dag: TensorDAG, constants: Constants, values: Sequence[Value]
) -> tuple[TensorDAG, dict[str, Array], tuple[str, ...]]:
    """The network in which what goes lets no input through, where ``values`` are given what is left.

    Numbers that it has besides, in double precision, by name; and the names of those ops.
    """
    removal, scope, chosen = constants.removal, constants.scope, set(values)
    names: list[str] = []
    edit = Edit(dag)
    state, exact = state_of(dag), dict[str, Array]()

    def plus(value: Value, numbers: Array) -> Value:
        if not numbers.any():
            return value
        name = f"constants {len(exact)}"
        exact[name] = np.asarray(numbers, np.float64)
        leaf = parameter(name, numbers.shape, value.dtype)
        state[name] = Weight(leaf.type, True)
        return value + broadcast_to(leaf, value.shape)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        made: Any = constants.plain.get(value)
        of, given = (value.args[0], args[0].args) if isinstance(value.op, Item) else (value, args)
        if of in chosen and is_one(value) and isinstance(made, Value):
            names.append(f"{of.op.name}{removal.where(of)}")
            small = {
                constants.plain[own]: picked(a, constants.keeps(of, i))
                for i, (own, a) in enumerate(zip(of.args, given, strict=True))
                if own in scope.terms and is_one(own)
            }
            stays = remade(made, small)
            if value in constants.missed:
                stays = plus(stays, kept_of(constants, value, constants.missed[value]))
            known: Any = constants.known.get(value)
            whole = put_back(stays, [removal.kept(t) for t in scope.terms[value]])
            return plus(whole, np.where(known.gone & known.sure, known.number, 0.0)) if _floats(known) else whole
        zero = [constants.masked.get((value, i), ()) for i in range(len(args))]
        if not any(zero):
            return written_out(value, args, made)
        return value.op(*map(zeroed, [(value, i) for i in range(len(args))], args, zero))

    def zeroed(use: tuple[Value, int], arg: Any, axes: tuple[int, ...]) -> Any:
        keeps = [k if axis in axes else None for axis, k in enumerate(constants.keeps(*use))] if axes else []
        return put_back(picked(arg, keeps), keeps) if axes else arg

    graph = edit.run(rule).graph()
    new = {n: a.astype(state[n].type.dtype.numpy) for n, a in exact.items()}
    weights = Weights.of(dag.weights, {n: n for n in dag.weights}) | Weights.of(new, {n: n for n in new})
    found = replace(finished(dag, graph, edit.origins, weights=weights, state=state), source=None)
    return found, exact, tuple(names)


def _floats(known: Any) -> bool:
    return isinstance(known, Known) and known.number.dtype.kind == "f"
