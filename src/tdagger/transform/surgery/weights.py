"""Weights renamed, frozen, thawed, set and initialised; a head for another number of classes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import GraphError, TypeMismatchError
from tdagger.graph import topological
from tdagger.names import shown
from tdagger.network import N, Network, Origin, Weight, Weights, with_parts
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf, Parameter
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.transform.surgery.select import described, near
from tdagger.types import TensorType

#: How a weight begins: a name of :data:`STARTS`, a number, or a function of name, type and a random generator.
How = Any


def _prefixes(name: str) -> list[str]:
    """A name and the paths that it is below, longest first; the last is that of the whole network."""
    parts = name.split(".")
    return [*(".".join(parts[:i]) for i in range(len(parts), 0, -1)), ""]


def _meant(dag: Network, what: Iterable[Any], parameters: bool = True) -> list[str]:
    """The names of the weights that are meant, by name, module path or a predicate of names; all if nothing is said."""
    state = state_of(dag)
    names = [n for n, w in state.items() if w.is_parameter or not parameters]
    wanted = list(what)
    if not wanted:
        return names
    found: dict[str, None] = {}
    for one in wanted:
        own = [n for n in names if one(n)] if callable(one) else [n for n in names if one in _prefixes(n)]
        if not own:
            paths = [p for n in names for p in _prefixes(n)[:-1]]
            raise GraphError(f"{shown(dag.name)} has no parameters {one!r}{near(str(one), paths)}")
        found |= dict.fromkeys(own)
    return list(found)


# --- names -------------------------------------------------------------------------------------------------


def rename(dag: N, names: Mapping[str, str], tied: bool = False) -> N:
    """See :meth:`tdagger.TensorDAG.rename`. ``tied``: the new names are aliases that the weights have already."""
    state = state_of(dag)
    paths = [p for n in [*state, *dag.modules, *(o.module for o in dag.origins.values())] for p in _prefixes(n)]
    known = {"", *paths}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise GraphError(f"{shown(dag.name)} has nothing called {unknown[0]!r} to rename{near(unknown[0], paths)}")

    def new(name: str) -> str:
        old = next((p for p in _prefixes(name) if p in names), None)
        if old is None:
            return name
        rest = name[len(old) :].removeprefix(".")
        return ".".join(filter(None, (names[old], rest)))

    if tied:
        weights_of = {**{n: n for n in state}, **{alias: of for of, alias in names.items()}}
        renamed = {n: replace(w, alias_of=_tied(n, w.alias_of, names)) for n, w in state.items()}
    else:
        weights_of, renamed = dict[str, str](), dict[str, Weight]()
        for name, weight in state.items():
            if new(name) in renamed:
                raise GraphError(f"rename: {weights_of[new(name)]!r} and {name!r} would both be {new(name)!r}")
            weights_of[new(name)] = name
            renamed[new(name)] = replace(weight, alias_of=new(weight.alias_of) if weight.alias_of else "")
    leaves = {**dag.graph.parameters, **dag.graph.buffers}
    start = {v: type(v.op)(names.get(n, n) if tied else new(n), v.type)() for n, v in leaves.items()}
    edit = Edit(dag, start).run(lambda value, args: None)
    moved = dag.modules if tied else {new(p) if p or "" not in names else p: k for p, k in dag.modules.items()}
    origins = edit.origins if tied else {v: _moved(o, new) for v, o in edit.origins.items()}
    if "" in names:  # also what came from no module is now from one
        origins = {**{v: Origin(names[""]) for v in edit.order() if not isinstance(v.op, Leaf)}, **origins}
    updates = {(names.get(n, n) if tied else new(n)): edit.new[v] for n, v in dag.graph.updates.items()}
    return finished(
        dag, edit.graph(updates=updates), origins, weights=Weights.of(dag.weights, weights_of), state=renamed,
        modules=moved, checks=edit.checks(),
    )  # fmt: skip


def _tied(name: str, alias_of: str, names: Mapping[str, str]) -> str:
    """What a weight is tied to where the weights of ``names`` go by aliases of theirs."""
    if name in names:
        return names[name]
    return "" if name in names.values() else names.get(alias_of, alias_of)


def _moved(origin: Origin, new: Callable[[str], str]) -> Origin:
    return origin.renamed(new)


# --- training ----------------------------------------------------------------------------------------------


def trainable(dag: N, what: Iterable[Any], is_trainable: bool) -> N:
    """See :meth:`tdagger.TensorDAG.freeze` and :meth:`tdagger.TensorDAG.thaw`."""
    state = state_of(dag)
    owners = {state[n].alias_of or n for n in _meant(dag, what)}
    changed = {n: replace(w, trainable=is_trainable) if (w.alias_of or n) in owners else w for n, w in state.items()}
    return with_parts(dag, state=changed)


# --- data --------------------------------------------------------------------------------------------------


def with_weights(dag: N, arrays: Mapping[str, Any]) -> N:
    """See :meth:`tdagger.TensorDAG.with_weights`."""
    state = state_of(dag)
    given: dict[str, Array] = {}
    for name, data in arrays.items():
        if name not in state:
            raise GraphError(f"{shown(dag.name)} has no weight {name!r}{near(name, state)}")
        own = state[name].alias_of or name
        array = np.asarray(data)
        wanted = state[own].type
        if array.shape != wanted.shape or array.dtype != wanted.dtype.numpy:
            raise TypeMismatchError(f"{shown(dag.name)}: {name!r} is {wanted}, got {array.dtype}{list(array.shape)}")
        given[own] = array
    return with_parts(dag, weights=_other(dag, state, given), source=None)


def _other(dag: Network, state: Mapping[str, Weight], arrays: Mapping[str, Array]) -> Weights:
    """The weights of a network with other data for some, under all their names."""
    rest = {n: n for n in dag.weights if n not in arrays and state.get(n, _NONE).alias_of not in arrays}
    return Weights.of(dag.weights, rest) | Weights.of(arrays, {n: n for n in arrays})


_NONE = Weight(TensorType((), "f32"), True)


def initialise(dag: N, what: Iterable[Any], how: How = "torch", seed: int = 0) -> N:
    """See :meth:`tdagger.TensorDAG.initialise`."""
    state = state_of(dag)
    owners = dict.fromkeys(state[n].alias_of or n for n in _meant(dag, what))
    arrays: dict[str, Array] = {}
    for name in owners:
        leaf = dag.graph.parameters.get(name)
        role = _role(dag, name, leaf) if how == "torch" else _Role()
        arrays[name] = start(how, name, state[name].type, role, seed)
    return with_weights(dag, arrays)


class _Role:
    """What a parameter is to the op that takes it: the op, as what, and from how many entries an output comes."""

    def __init__(self, op: str = "", argument: str = "", fan: int = 0) -> None:
        self.op, self.argument, self.fan = op, argument, fan


#: Ops whose weights and biases torch starts by how many entries go into an output, and norms, which start as nothing.
_LAYERS = ("linear", "convolution", "convolution_transpose")
_NORMS = (
    "batch_norm",
    "batch_norm_train",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "instance_norm_train",
    "rms_norm",
)


def _role(dag: Network, name: str, leaf: Value | None) -> _Role:
    for user in dag.graph.users[leaf] if leaf is not None else ():
        op = user.op
        if not isinstance(op, Composite) or op.definition.variadic:
            continue
        argument = op.definition.argument_names(op.given, len(user.args))[user.args.index(cast(Value, leaf))]
        if op.name in _LAYERS:
            weight = user.args[1].type
            return _Role(op.name, argument, math.prod(weight.shape[1:]))
        if op.name in _NORMS or op.name == "embedding":
            return _Role(op.name, argument)
    users = dag.graph.users[leaf] if leaf is not None else []
    used = f"which {described(dag, users[0])} takes" if users else "which the graph doesn't use"
    raise GraphError(f'how torch starts {name!r}, {used}, isn\'t known: say it, how="normal" or a function')


def start(how: How, name: str, type_: TensorType, role: _Role | None = None, seed: int = 0) -> Array:
    """What a weight begins with, the same for the same seed and name.

    GraphError for an unknown ``how``, or a function that gives another type.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    role = role or _Role()
    if callable(how):
        found = np.asarray(how(name, type_, random))
        if found.shape != type_.shape:
            raise TypeMismatchError(f"{name!r} is {type_}, got {found.dtype}{list(found.shape)}")
        return found.astype(type_.dtype.numpy)
    fan = role.fan or (math.prod(type_.shape[1:]) if type_.rank > 1 else math.prod(type_.shape))
    fan_out = type_.shape[0] if type_.rank else 1
    receptive = math.prod(type_.shape[2:])
    bound = 1 / math.sqrt(max(fan, 1))
    if how == "torch":
        if role.op in _NORMS:
            how = "zeros" if role.argument == "bias" else "ones"
        elif role.op == "embedding":
            return random.standard_normal(type_.shape).astype(type_.dtype.numpy)
        else:
            return random.uniform(-bound, bound, type_.shape).astype(type_.dtype.numpy)
    if isinstance(how, int | float) and not isinstance(how, bool):
        return np.full(type_.shape, how, type_.dtype.numpy)
    makers: dict[str, Callable[[], Array]] = {
        "zeros": lambda: np.zeros(type_.shape),
        "ones": lambda: np.ones(type_.shape),
        "normal": lambda: random.normal(0, 0.02, type_.shape),
        "kaiming": lambda: random.normal(0, math.sqrt(2 / max(fan, 1)), type_.shape),
        "xavier": lambda: random.uniform(-1, 1, type_.shape) * math.sqrt(6 / max(fan + fan_out * receptive, 1)),
    }
    if how not in makers:
        raise GraphError(f"weights begin as torch, {', '.join(makers)}, a number or by a function, not as {how!r}")
    return makers[how]().astype(type_.dtype.numpy)


# --- heads -------------------------------------------------------------------------------------------------


def with_head(dag: N, classes: int, how: How = "torch", seed: int = 0, output: str = "") -> N:
    """See :meth:`tdagger.TensorDAG.with_head`."""
    if classes < 1:
        raise GraphError(f"a head has at least 1 class, not {classes}")
    head = _head(dag, output)
    state = state_of(dag)
    arrays: dict[str, Array] = {}
    own: dict[Value, Value] = {}
    fan = math.prod(head.args[1].shape[1:])
    for leaf, argument in zip(head.args[1:], ("weight", "bias"), strict=False):
        old: str = leaf.op.attributes["leaf"]
        name = _own_name(dag, head, leaf, state)
        type_ = leaf.type.with_shape((classes, *leaf.shape[1:]))
        state = {n: replace(w, type=type_) if n == name or (name == old and w.alias_of == old) else w
                 for n, w in state.items()}  # fmt: skip
        state[name] = replace(state[name], alias_of="")
        own[leaf] = Parameter(name, type_)()
        arrays[name] = start(how, name, type_, _Role(head.op.name, argument, fan), seed)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        return value.op(args[0], *[own[a] for a in value.args[1:]]) if value is head else None

    edit = Edit(dag)
    edit.cause[head] = head
    edit.run(rule)
    weights = _other(dag, state, arrays)
    return finished(dag, edit.graph(), edit.origins, weights=weights, state=state, checks=edit.checks())


def _head(dag: Network, output: str) -> Value:
    """The last linear layer or convolution that an output comes from, the first output unless told."""
    outputs = dag.graph.outputs
    name = output or next(iter(outputs), "")
    if name not in outputs:
        raise GraphError(f"{shown(dag.name)} has no output {name!r}{near(name, outputs)}")
    for value in reversed(topological([outputs[name]])):
        if value.op.name in ("linear", "convolution") and all(isinstance(a.op, Parameter) for a in value.args[1:]):
            return value
    raise GraphError(f"{shown(dag.name)}: output {name!r} comes from no linear layer or convolution with weights")


def _own_name(dag: Network, head: Value, leaf: Value, state: Mapping[str, Weight]) -> str:
    """The name of a weight of the head that nothing else uses: a tied one has one in the head's module."""
    name: str = leaf.op.attributes["leaf"]
    others = [u for u in dag.graph.users[leaf] if u is not head]
    if not others:
        return name
    origin = dag.origins.get(head)
    path = origin.module if origin else ""
    alias = next((n for n, w in state.items() if w.alias_of == name and n.rpartition(".")[0] == path), None)
    if alias is None:
        raise GraphError(
            f"the head {described(dag, head)} shares {name!r} with {described(dag, others[0])}: put a layer in its "
            f"place, replace_module({path!r}, ...)"
        )
    return alias
