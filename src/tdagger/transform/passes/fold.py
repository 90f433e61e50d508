"""What doesn't depend on the inputs worked out once: constants from constants, weights from weights."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from functools import wraps
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import InputError
from tdagger.graph import Graph, is_one, topological
from tdagger.interpret import run
from tdagger.names import shown
from tdagger.network import N, Network, Weight, Weights
from tdagger.op import Array, Op, Value
from tdagger.ops.external import External
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter, Random, const
from tdagger.ops.structure import Group, Permute, Repeat, Slice, Ungroup
from tdagger.transform.axes.follow import Dimensions, followers
from tdagger.transform.surgery.edit import Edit, down_to, finished, state_of
from tdagger.types import TensorType

#: Constants of more elements than these are kept as the programs that make them.
ELEMENTS = 1 << 16
#: What only moves or repeats entries is not worth data of its own.
_MOVES = (Group, Ungroup, Repeat, Permute, Slice)


def fold_constants(dag: N, limit: int = ELEMENTS, besides: Container[Value] = ()) -> N:
    """The network with what is made of constants alone as constants, if they have at most ``limit`` elements.

    What only moves or repeats the entries of a constant stays. ``besides`` are values that are left as they are.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: x * td.exp(td.const([0.0, 1.0], "f32")), {"x": (2,)})
    >>> [v.op.name for v in fold_constants(dag).values]
    ['input', 'const', 'binary']
    """
    static = _static(dag.graph, _is_constant)
    wanted = [v for v in _frontier(dag.graph, static) if v.type.size <= limit and v not in besides]
    if not wanted:
        return dag
    arrays = _run(wanted, {})
    made = {v: const(a, v.dtype) for v, a in zip(wanted, arrays, strict=True)}
    return _with(dag, made)


def fold_weights(dag: N, besides: Container[Value] = (), limit: int = ELEMENTS) -> N:
    """The network with what is computed from weights alone as weights: ``w * scale`` becomes a parameter.

    A weight that is used up gives its name to what has its type. Buffers that a run changes are left as they are, and
    so is what only moves entries and weights without data. What is larger than all it is made of is worked out if it
    has at most ``limit`` elements and is made of weights alone: a table of positions that is looked up at pairs in a
    buffer. Constants may have been counted, and would follow another size.
    ``besides`` are values that are left as they are.
    """
    wanted = [v for v in static_ends(dag) if v not in besides]
    cones = {v: topological([v]) for v in wanted}
    behind = {v: [w for w in cone if isinstance(w.op, Parameter | Buffer)] for v, cone in cones.items()}

    def is_small(v: Value) -> bool:
        if v.type.bytes <= sum(w.type.bytes for w in behind[v]):
            return True
        counted = any(isinstance(w.op, Iota) or (isinstance(w.op, Const) and w.type.size > 1) for w in cones[v])
        return v.type.size <= limit and not counted

    wanted = [v for v in wanted if behind[v] and is_small(v)]
    wanted = [v for v in wanted if all(has_data(dag, w) for w in behind[v])]
    if not wanted:
        return dag
    behind = {_as_it_lay(v, dag.graph, {w.type for w in behind[v]}, besides): behind[v] for v in wanted}
    wanted = list(behind)
    read = _Read(dag.weights)
    arrays, held = _run(wanted, read), read.ids
    state = state_of(dag)
    names = _names(dag, wanted, behind)
    made: dict[Value, Value] = {}
    given: dict[str, Array] = {}
    for value, array in zip(wanted, arrays, strict=True):
        name, sources = names[value], [state[cast(Leaf, w.op).leaf] for w in behind[value]]
        learned = any(s.is_parameter for s in sources)
        old = state.get(name, Weight(value.type, learned))
        state[name] = Weight(value.type, learned, any(s.trainable for s in sources), old.persistent)
        made[value] = (Parameter if learned else Buffer)(name, value.type)()
        given[name] = _own(array, held)
        held.add(id(given[name]))
    kept = {n: n for n in dag.weights if n not in given}
    weights = Weights.of(dag.weights, kept) | Weights.of(given, {n: n for n in given})
    return _with(dag, made, weights=weights, state=state)


def keeping_open(fold: Callable[..., N], dimensions: Dimensions | None = None) -> Callable[[N], N]:
    """:func:`fold_weights` or :func:`fold_constants` as a pass that leaves sizes open.

    What has other sizes where dimensions of inputs have stays as it is: the dimensions that are told, or all that can.
    """

    @wraps(fold)
    def kept(dag: N) -> N:
        return fold(dag, besides=followers(dag.graph, dimensions))

    return kept


def static_ends(dag: Network) -> list[Value]:
    """What is computed from weights and constants alone, and used by what isn't; buffers that change left out."""
    changing = set(dag.graph.updates)

    def is_static(op: Op) -> bool:
        return not isinstance(op, Input | Random) and not (isinstance(op, Buffer) and op.leaf in changing)

    static = _static(dag.graph, is_static)
    return _frontier(dag.graph, static)


def _is_constant(op: Op) -> bool:
    return not isinstance(op, Leaf | Random)


def has_data(dag: Network, leaf: Value) -> bool:
    """Whether a weight has data: networks on the meta device don't."""
    try:
        dag.weights[cast(Leaf, leaf.op).leaf]
    except (InputError, KeyError):
        return False
    return True


def _static(graph: Graph, is_static: Callable[[Op], bool]) -> set[Value]:
    """The values of whose ops, and of all those behind them, something is true; external ones never."""
    found: set[Value] = set()
    for value in graph.values:
        op = value.op
        if not isinstance(op, External) and is_static(op) and all(a in found for a in value.args):
            found.add(value)
    return found


def _frontier(graph: Graph, static: set[Value]) -> list[Value]:
    """The static values that something else uses, behind what only moves their entries; no leaves."""
    ends = [a for v in graph.values if v not in static for a in v.args if a in static]
    ends += [v for v in (*graph.outputs.values(), *graph.updates.values()) if v in static]
    found: dict[Value, None] = {}
    for value in ends:
        while _only_moves(value):
            value = value.args[0]
        if not isinstance(value.op, Leaf | Const) and is_one(value):
            found[value] = None
    return list(found)


def _as_it_lay(value: Value, graph: Graph, types: Container[TensorType], besides: Container[Value]) -> Value:
    """What a value is moved to that has one of these types, if nothing else uses what lies between: else itself.

    A weight that was standardised as a matrix is a weight of a convolution again.
    """
    at, results = value, {*graph.outputs.values(), *graph.updates.values()}
    while at.type not in types:
        users = graph.users[at]
        if len(users) != 1 or at in results or not _only_moves(users[0]) or users[0] in besides:
            return value
        at = users[0]
        if at.type.size != value.type.size:
            return value
    return at


def _only_moves(value: Value) -> bool:
    return isinstance(value.op, _MOVES) or _is_reshape(value)


def _is_reshape(value: Value) -> bool:
    return isinstance(value.op, Composite) and value.op.name == "reshape"


def _run(values: list[Value], weights: Mapping[str, Array]) -> list[Array]:
    """What values that need no inputs are."""
    out, _ = run(Graph({}, {str(i): v for i, v in enumerate(values)}), {}, weights)
    return list(out.values())


class _Read(Mapping[str, Array]):
    """Weights, and the ids of the arrays that were read."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.ids: set[int] = set()

    def __getitem__(self, name: str) -> Array:
        array = self.weights[name]
        self.ids.add(id(array))
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _own(array: Array, held: set[int]) -> Array:
    """An array in C order that nobody else has: a copy of what isn't its own data, or is one of ``held`` (ids)."""
    f = array.flags
    own = f.owndata and f.c_contiguous and f.writeable and id(array) not in held
    return array if own else np.array(array, order="C")


def _with(dag: N, made: Mapping[Value, Value], **parts: Any) -> N:
    """The network with other values in the place of some."""
    edit = Edit(dag).run(lambda value, args: made.get(value))
    return finished(dag, edit.graph(), edit.origins, checks=edit.checks(), **parts)


def _names(dag: Network, wanted: list[Value], behind: Mapping[Value, list[Value]]) -> dict[Value, str]:
    """A name for each new weight: what it is to a layer, or that of a weight of its type that is used up."""
    state = state_of(dag)
    aliased = {w.alias_of for w in state.values() if w.alias_of}
    reached = down_to([*dag.graph.outputs.values(), *dag.graph.updates.values()], set(wanted))
    still = {cast(Leaf, v.op).leaf for v in reached if _is_weight(v)}
    free = {n for n in (cast(Leaf, w.op).leaf for ws in behind.values() for w in ws) if n not in still | aliased}
    found: dict[Value, str] = {}
    for value in wanted:
        own = [cast(Leaf, w.op).leaf for w in behind[value] if w.type is value.type and w.op.name == "parameter"]
        name = next((n for n in own if n in free), None)
        if name is not None:
            free.discard(name)
            found[value] = name
    # biases last, whose names go by those of their weights
    for value in sorted(wanted, key=lambda v: _weight_beside(dag.graph, v) is not None):
        hint = _hint(dag.graph, value, found)
        if hint is not None and (hint not in state or (hint in free and hint not in found.values())):
            found[value] = hint
        elif value not in found:
            prefix, dot, last = cast(Leaf, behind[value][0].op).leaf.rpartition(".")
            found[value] = _fresh(f"{prefix}{dot}folded_{last}", {*state, *found.values()})
    return found


def _is_weight(value: Value) -> bool:
    return isinstance(value.op, Parameter | Buffer)


def _hint(graph: Graph, value: Value, names: Mapping[Value, str]) -> str | None:
    """For the bias of a layer, the name it has beside the layer's weight: ``conv.weight`` says ``conv.bias``."""
    weight = _weight_beside(graph, value)
    if weight is None:
        return None
    name = names.get(weight) or (cast(Leaf, weight.op).leaf if _is_weight(weight) else "")
    return f"{name.removesuffix('weight')}bias" if name.endswith("weight") else None


def _weight_beside(graph: Graph, value: Value) -> Value | None:
    """The weight of a layer that takes a value as its bias."""
    for user in graph.users[value]:
        op = user.op
        if isinstance(op, Composite) and not op.definition.variadic:
            arguments = dict(zip(op.definition.argument_names(op.given, len(user.args)), user.args, strict=True))
            if arguments.get("bias") is value and "weight" in arguments:
                return arguments["weight"]
    return None


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    fresh = name
    while fresh in taken:
        fresh, number = f"{name}{number}", number + 1
    return fresh


def freeze(dag: N, *names: str) -> N:
    """The network with parameters and buffers as constants: all, or those whose name or module path is given.

    Buffers that a run changes stay. They leave the state_dict; :func:`unfreeze` makes parameters of constants.
    """
    graph = dag.graph
    leaves = {n: v for n, v in {**graph.parameters, **graph.buffers}.items() if n not in graph.updates}
    meant = [n for n in leaves if not names or any(n == p or n.startswith(f"{p}.") for p in names)]
    if names and not meant:
        raise InputError(f"{shown(dag.name)} has no weights called {', '.join(names)}")
    return _with(dag, {leaves[n]: const(np.asarray(dag.weights[n]), leaves[n].dtype) for n in meant})


def unfreeze(dag: N, minimum: int = 2) -> N:
    """The network with constants of floats of at least ``minimum`` elements as parameters ``constant_0`` ..."""
    state = state_of(dag)
    made: dict[Value, Value] = {}
    given: dict[str, Array] = {}
    for value in dag.graph.constants:
        if not value.dtype.is_float or value.type.size < minimum:
            continue
        name = _fresh(f"constant_{len(made)}", set(state))
        state[name] = Weight(value.type, True)
        made[value] = Parameter(name, value.type)()
        given[name] = np.array(cast(Const, value.op).data)
    if not made:
        return dag
    weights = Weights.of(dag.weights, {n: n for n in dag.weights}) | Weights.of(given, {n: n for n in given})
    return _with(dag, made, weights=weights, state=state)
