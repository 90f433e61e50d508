"""The proof that a smaller network computes what the larger one does with zeros in the place of what went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.composite import Composite
from tdagger.errors import InputError, UnsupportedError
from tdagger.graph import applied, is_one, remade
from tdagger.interpret import run
from tdagger.later import later
from tdagger.network import Weights
from tdagger.op import Array, Value
from tdagger.ops.elementwise import zeros_like
from tdagger.ops.indexing import Gather
from tdagger.ops.source import const
from tdagger.ops.structure import Concat, Item, slice_axis
from tdagger.prune.removing.removal import Kept, Removal, picked
from tdagger.tensordag import TensorDAG
from tdagger.transform.diff.inputs import random_inputs
from tdagger.transform.passes import convert_dtype
from tdagger.transform.passes.pipeline import difference, scales
from tdagger.transform.surgery.edit import Edit, finished

#: Outputs of both networks that differ by no more, over the largest, are equal: rounding of f64 in other orders of
# sums.
EQUAL = 1e-9


@dataclass(frozen=True)
class Check:
    """How far a pruned network is from the one with zeros: the largest difference over the largest output, in f64.

    ``helped`` are the ops that take in entries that went, for which zeros aren't the same: in ``error`` they were given
    in both networks what is left, so that all else is compared; in ``unlike`` they weren't.
    """

    error: float
    unlike: float
    helped: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the outputs are equal without help."""
        return self.unlike <= EQUAL

    @property
    def passed(self) -> bool:
        """Whether they are equal, apart from ops that are said not to be."""
        return self.error <= EQUAL

    def __str__(self) -> str:
        if self.exact:
            return f"exact: outputs differ by {self.unlike:.1e} of the largest"
        if self.passed:
            return (
                f"equal to {self.error:.1e} where {len(self.helped)} ops are given what is left "
                f"({', '.join(self.helped[:3])}{' ...' if len(self.helped) > 3 else ''}), {self.unlike:.1e} with zeros"
            )
        return f"NOT EQUAL: {self.error:.1e}"


def checked(dag: TensorDAG, small: TensorDAG, removal: Removal, seed: int, framework: str = "") -> Check:
    """Run both; see :meth:`tdagger.prune.plan.PrunePlan.check`."""
    missing = [n for n in dag.graph.parameters if n not in dag.weights]
    if missing:
        raise InputError(f"a plan of a network without weights can't be checked: {missing[0]!r} has no data")
    inputs = random_inputs(dag.graph, dag.graph, {n: n for n in dag.graph.inputs}, seed)
    masked = replace(dag, weights=_masked(dag, removal), source=None)
    given = outputs_of(small, inputs, framework)
    values = _unlike_values(removal)
    unlike = difference_of(_with_zeros(masked, removal, [])[0], inputs, framework, given, last=not values)
    if unlike <= EQUAL or not values:
        return Check(unlike, unlike)
    helped, names = _with_zeros(masked, removal, values)
    return Check(difference_of(helped, inputs, framework, given), unlike, names)


def without_what_adds_nothing(check: Check, closed: TensorDAG, dag: TensorDAG, seed: int, framework: str) -> Check:
    """The check of a network without some branches, with how far it is from the one in which those are times 0."""
    inputs = random_inputs(dag.graph, dag.graph, {n: n for n in dag.graph.inputs}, seed)
    off = difference_of(closed, inputs, framework, outputs_of(dag, inputs, framework))
    return replace(check, error=max(check.error, off), unlike=max(check.unlike, off))


def zeroed(dag: TensorDAG, removal: Removal) -> TensorDAG:
    """The network with zeros in the place of what goes, which the smaller one is compared with."""
    masked = replace(dag, weights=_masked(dag, removal), source=None)
    return _with_zeros(masked, removal, [])[0]


def _masked(dag: TensorDAG, removal: Removal) -> Weights:
    """The weights with zeros in the place of what goes; buffers stay."""
    new: dict[str, Array] = {}
    for name, value in dag.graph.parameters.items():
        for axis, term in enumerate(removal.units.entries.scope.terms.get(value, ())):
            kept = removal.kept(term)
            if kept is not None:
                data = new[name] if name in new else np.array(dag.weights[name])
                new[name] = data
                data[(slice(None),) * axis + (~kept,)] = 0
    others = {n: n for n in dag.weights if n not in new}
    return Weights.of(dag.weights, others) | Weights.of(new, {n: n for n in new})


def outputs_of(
    dag: TensorDAG, inputs: Mapping[str, Array], framework: str, exact: Mapping[str, Array] | None = None
) -> list[Array]:
    """The outputs in double precision; ``exact`` has weights that are known in that, by name.

    Without a ``framework`` torch runs it, if it is installed and can hold the network (weights may have names that no
    module has), else numpy.
    """
    wide, arrays = _wide(dag, inputs, exact)
    own = {n: np.array(wide.weights[n]) for n in wide.graph.updates if n in wide.weights}
    if own:  # buffers that a run changes aren't to change in the network that is checked
        others = Weights.of(wide.weights, {n: n for n in wide.weights if n not in own})
        wide = replace(wide, weights=others | Weights.of(own, {n: n for n in own}))
    flat = replace(wide, modules={})  # only what is computed counts, not by which layers
    by_numpy = framework == "numpy" or (not framework and find_spec("torch") is None)
    module = None if by_numpy else _module(flat, refusing=bool(framework))
    if module is None:
        return list(run(wide.graph, arrays, wide.weights)[0].values())
    found = later(f"{framework or 'torch'}.by_call")(module, flat)(arrays)
    return [np.asarray(found[v]) for v in flat.graph.outputs.values()]  # which may be one value twice


def _module(dag: TensorDAG, refusing: bool) -> Any:
    """The network as a module of torch; None for what torch can't hold, if that isn't to be refused."""
    try:
        return dag.to_torch(fixed=True).eval()
    except UnsupportedError:
        if refusing:
            raise
        return None


def _wide(
    dag: TensorDAG, inputs: Mapping[str, Array], exact: Mapping[str, Array] | None
) -> tuple[TensorDAG, dict[str, Array]]:
    """The network in double precision, and its inputs."""
    wide = convert_dtype(dag, "f64", inputs=True)
    if exact:
        wide = wide.with_weights({n: a for n, a in exact.items() if n in wide.weights})
    return wide, {n: np.asarray(inputs[n]).astype(v.dtype.numpy) for n, v in wide.graph.inputs.items()}


def difference_of(
    dag: TensorDAG,
    inputs: Mapping[str, Array],
    framework: str,
    given: list[Array],
    exact: Mapping[str, Array] | None = None,
    last: bool = True,
) -> float:
    """The largest difference of any output from what is given, over its largest entry; infinite where one isn't finite.

    Where that isn't equal it is over what the output is made of, which may cancel (:func:`scales`), but where it isn't
    the ``last`` word.
    """
    pairs = list(zip(dag.graph.outputs, outputs_of(dag, inputs, framework, exact), given, strict=True))
    found = max((difference(a, b) for _, a, b in pairs), default=0.0)
    if found <= EQUAL or not last or dag.graph.external:
        return found
    wide, arrays = _wide(dag, inputs, exact)
    least = scales(wide.graph, arrays, wide.weights, EQUAL)
    return max(difference(a, b, least[n]) for n, a, b in pairs)


def _unlike_values(removal: Removal) -> list[Value]:
    """The values of the network that take in entries that go, for which zeros aren't the same as nothing."""
    found: dict[Value, None] = {}
    for seen in removal.units.entries.seen:
        if any(f.block is None and not removal.units.kept((f,), removal.removed).all() for f in resolve(seen.term)):
            found[seen.value] = None
    return list(found | {value: None for value, *_ in removal.recounted})


def _with_zeros(dag: TensorDAG, removal: Removal, values: list[Value]) -> tuple[TensorDAG, tuple[str, ...]]:
    """The network with zeros in the place of what goes, where ``values`` are given what is left; the names of those.

    Zeros are in the parameters (of ``dag``), and in what is made of parameters alone (a weight over its norm).
    """
    scope, chosen = removal.units.entries.scope, set(values)
    last = {a for v in dag.graph.values for a in v.args if scope.is_last(a, v)}
    names: list[str] = []
    edit = Edit(dag)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        made: Any = removal.new.get(value)
        of, given = (value.args[0], args[0].args) if isinstance(value.op, Item) else (value, args)
        if of in chosen and is_one(value) and isinstance(made, Value):
            names.append(f"{of.op.name}{removal.where(of)}")
            small = {
                removal.new[own]: picked(a, [removal.kept(t) for t in scope.at(of, i)])
                for i, (own, a) in enumerate(zip(of.args, given, strict=True))
                if own in scope.terms and is_one(own)
            }
            return put_back(remade(made, small), [removal.kept(t) for t in scope.terms[value]])
        if value in last:
            keeps = [removal.kept(t) for t in scope.terms[value]]
            return put_back(picked(value.op(*args), keeps), keeps)
        return written_out(value, args, made)

    graph = edit.run(rule).graph()
    return finished(dag, graph, edit.origins), tuple(names)


def written_out(value: Value, args: tuple[Any, ...], made: Any) -> Value | None:
    """A composite as its body, where the smaller network has it so too (``made``); None elsewhere.

    Constants of a body are rounded to the element type, which shows in double precision.
    """
    op = value.op
    if not isinstance(op, Composite) or op.has_branches or not is_one(value):
        return None
    if not isinstance(made, Value) or made.op.name == op.name:
        return None
    return applied(op.body(*[a.type for a in value.args]), args)[0]


def put_back(value: Value, keeps: list[Kept]) -> Value:
    """What is left of a value with zeros in the place of what went."""
    for axis, kept in enumerate(keeps):
        if kept is not None:
            place = np.where(kept, np.cumsum(kept) - 1, int(kept.sum()))
            with_zero = Concat(axis)(value, zeros_like(slice_axis(value, axis, 0, 1)))
            value = Gather(axis, 0)(with_zero, const(place))
    return value
