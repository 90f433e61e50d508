"""The smaller network whose biases have the constants that what went would be: see :mod:`.constants`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.network import Weight, Weights
from tdagger.op import Array, Value
from tdagger.ops.source import Parameter, parameter
from tdagger.ops.structure import broadcast_to
from tdagger.prune.finding.units import Units
from tdagger.prune.removing.apply import without
from tdagger.prune.removing.constants import Constants, kept_of, response
from tdagger.prune.removing.known import unknown
from tdagger.prune.removing.removal import Removal
from tdagger.tensordag import TensorDAG
from tdagger.transform.networks import place
from tdagger.transform.surgery.edit import Edit, finished, state_of


class Folded(NamedTuple):
    """A smaller network with constants in its biases; ``exact`` are those in double precision, by name."""

    small: TensorDAG
    removal: Removal
    constants: Constants
    exact: dict[str, Array]


def folded(dag: TensorDAG, units: Units, gone: Array, keep_numbers: bool) -> Folded:
    """The network without the entries marked in ``gone``, of which constants stay."""
    constants = Constants(dag, Removal(units, gone, keep_numbers, place(dag.origins)))
    small, removal = without(_with(dag, constants.weights), units, gone, keep_numbers)
    constants.removal, constants.plain = removal, dict(removal.new)
    exact: dict[str, Array] = {}
    leaves = {**dag.graph.parameters, **dag.graph.buffers}
    for name, data in constants.weights.items():
        (kept,) = [removal.kept(t) for t in constants.scope.terms[leaves[name]]]
        exact[name] = data if kept is None else data[kept]
    return Folded(_added(small, removal, constants, exact), removal, constants, exact)


def _with(dag: TensorDAG, weights: Mapping[str, Array]) -> TensorDAG:
    new = {n: w.astype(np.asarray(dag.weights[n]).dtype) for n, w in weights.items()}
    others = {n: n for n in dag.weights if n not in new}
    order = list(dag.weights)
    both = Weights.of(dag.weights, others) | Weights.of(new, {n: n for n in new})
    return replace(dag, weights=Weights({n: both.places[n] for n in order}), source=None)


def _added(small: TensorDAG, removal: Removal, constants: Constants, exact: dict[str, Array]) -> TensorDAG:
    """The smaller network with new biases where there were none."""
    if not constants.added:
        return small
    wanted = {removal.new[v]: kept_of(constants, v, a) for v, a in constants.added.items()}
    edit = Edit(small)
    state, new = state_of(small), dict[str, Array]()

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in wanted:
            return None
        missing = wanted[value]
        name = _name(value, state)
        made, data = _biased(value, args, missing, name)
        exact[name] = data
        new[name] = data.astype(value.dtype.numpy)
        leaf = next(v for v in _leaves(made, args) if cast(Any, v.op).leaf == name)
        state[name] = Weight(leaf.type, True)
        return made

    edit.run(rule)
    weights = Weights.of(small.weights, {n: n for n in small.weights}) | Weights.of(new, {n: n for n in new})
    made = finished(small, edit.graph(), edit.origins, weights=weights, state=state, checks=edit.checks())
    removal.new = {v: edit.new.get(n, n) if isinstance(n, Value) else n for v, n in removal.new.items()}
    return made


def _leaves(value: Value, stop: tuple[Any, ...]) -> Iterator[Value]:
    stack = [value]
    while stack:
        v = stack.pop()
        if isinstance(v.op, Parameter):
            yield v
        stack += [a for a in v.args if not any(a is s for s in stop)]


def _name(value: Value, state: Mapping[str, Any]) -> str:
    own = next((cast(Any, a.op).leaf for a in value.args if isinstance(a.op, Parameter)), "")
    module = own.rpartition(".")[0]
    base = f"{module}.bias" if module else "bias"
    found, n = base, 1
    while found in state:
        n += 1
        found = f"{base}{n}"
    return found


def _biased(value: Value, args: tuple[Any, ...], missing: Array, name: str) -> tuple[Value, Array]:
    """The value with a vector added, which is its layer's bias where it can have one; else whatever has that shape."""
    op: Any = value.op
    tensors: list[str] = value.op.definition.tensors if isinstance(value.op, Composite) else []
    flat = missing.reshape(-1)
    if "bias" in tensors and flat.size == max(missing.shape, default=1):
        at = tensors.index("bias")
        if not any(op.given[at:]):
            axis: int = missing.shape.index(flat.size)
            size = value.shape[axis]
            vector = parameter(name, (size,), value.dtype)
            given = tuple([g or i == at for i, g in enumerate(op.given)])
            made: Value = type(op)(*op.attributes.values(), given)(*args, vector)
            times = response(made, [unknown(a.type) for a in made.args], len(args))
            if made.type is value.type and times is not None and (times == 1).all() and times.shape[axis] == size:
                return made, np.broadcast_to(flat, (size,)).copy()
    leaf = parameter(name, missing.shape, value.dtype)
    return value.op(*args) + broadcast_to(leaf, value.shape), missing
