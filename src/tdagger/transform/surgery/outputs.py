"""Outputs added and removed, parts taken out, a network split in two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdagger.errors import GraphError
from tdagger.graph import Graph, is_one, topological
from tdagger.names import shown
from tdagger.network import N, Network, Signature, Weight, Weights, modules_of, plain_signature
from tdagger.op import Value
from tdagger.ops.source import Input, Leaf
from tdagger.transform.surgery.adopt import is_seed
from tdagger.transform.surgery.edit import Edit, down_to, finished, origin_of, state_of, used
from tdagger.transform.surgery.select import Names, described, found, near
from tdagger.tree import Tree

_LEAF = Tree("leaf")


# --- outputs -----------------------------------------------------------------------------------------------


def with_outputs(dag: N, what: Any) -> N:
    """See :meth:`tdagger.TensorDAG.with_outputs`."""
    graph = dag.graph
    tree = dag.signature.outputs
    taps = _taps(tree)
    names = list(graph.outputs)
    first = tree.leaf_count() - (0 if taps is None else taps.leaf_count())
    keys: list[str] = [] if taps is None else list(taps.keys)
    of_taps, of_outputs = Names(keys), Names(names)
    outputs = dict(graph.outputs)
    for name, value in found(dag, what).items():
        if not is_one(value):
            raise GraphError(f"{described(dag, value)} has several results: name one of them, an item")
        keys.append(of_taps.new(name))
        outputs[of_outputs.new(keys[-1])] = value
    original = tree if taps is None else tree.children[0]
    added = Tree("dict", tuple(keys), (_LEAF,) * len(keys))
    signature = Signature(dag.signature.inputs, Tree("tuple", (0, 1), (original, added)))
    assert list(outputs)[:first] == names[:first]
    return _with(dag, Graph(graph.inputs, outputs, graph.updates, graph.name, graph.values), signature)


def _taps(tree: Tree) -> Tree | None:
    """The dict of values that :func:`with_outputs` put beside a result."""
    if tree.kind != "tuple" or tree.type or len(tree.children) != 2:
        return None
    last = tree.children[1]
    flat = last.kind == "dict" and not last.type and all(c.kind == "leaf" for c in last.children)
    return last if flat else None


def without_outputs(dag: N, *names: str) -> N:
    """See :meth:`tdagger.TensorDAG.without_outputs`."""
    graph = dag.graph
    keys = _keys(dag)
    gone: set[str] = set()
    for name in names:
        own = [n for n, key in keys.items() if name in (n, key)]
        if not own:
            raise GraphError(f"{shown(dag.name)} has no output {name!r}{near(name, graph.outputs)}")
        gone.update(own)
    outputs = {n: v for n, v in graph.outputs.items() if n not in gone}
    if not outputs:
        raise GraphError(f"{shown(dag.name)}: at least one output stays")
    left = _pruned(dag.signature.outputs, iter([n in gone for n in graph.outputs]))
    assert left is not None
    signature = Signature(dag.signature.inputs, left)
    return _with(dag, Graph(graph.inputs, outputs, graph.updates, graph.name, graph.values), signature)


def _keys(dag: Network) -> dict[str, str]:
    """For every output its key among those that were added, else its name."""
    names = list(dag.graph.outputs)
    taps = _taps(dag.signature.outputs)
    keys = dict(zip(names, names, strict=True))
    if taps is not None:
        keys |= dict(zip(names[len(names) - len(taps.keys) :], map(str, taps.keys), strict=True))
    return keys


def _pruned(tree: Tree, gone: Any) -> Tree | None:
    """A structure without some leaves; None if nothing is left. What had one tensor beside others is that tensor."""
    if tree.kind == "leaf":
        return None if next(gone) else tree
    if not tree.children:
        return tree
    left = [(k, c, _pruned(c, gone)) for k, c in zip(tree.keys, tree.children, strict=True)]
    kept = [(k, new) for k, _, new in left if new is not None]
    if len(kept) == len(left):
        return tree._replace(children=tuple(c for _, c in kept))
    if not any(c.leaf_count() for _, c in kept):
        return None
    if tree.kind in ("tuple", "list", "namedtuple"):
        if len(kept) == 1:
            return kept[0][1]
        return Tree("list" if tree.kind == "list" else "tuple", tuple(range(len(kept))), tuple(c for _, c in kept))
    return Tree("dict", tuple(k for k, _ in kept), tuple(c for _, c in kept))


def _with(dag: N, graph: Graph, signature: Signature) -> N:
    return finished(dag, graph, dag.origins, signature=signature)


# --- parts -------------------------------------------------------------------------------------------------


def extract(dag: N, inputs: Any = None, outputs: Any = None) -> N:
    """See :meth:`tdagger.TensorDAG.extract`."""
    graph = dag.graph
    wanted = dict(graph.outputs) if outputs is None else found(dag, outputs)
    cuts = {} if inputs is None else found(dag, inputs)
    several = [v for v in (*wanted.values(), *cuts.values()) if not is_one(v)]
    if several:
        raise GraphError(f"{described(dag, several[0])} has several results: name one of them, an item")
    return taken(dag, wanted, cuts, free=inputs is None, signature=dag.signature if outputs is None else None)


def taken(
    dag: N, outputs: Mapping[str, Value], cuts: Mapping[str, Value], free: bool, signature: Signature | None = None
) -> N:
    """The network from some values on to others; ``free``: it may take the network's own inputs besides.

    GraphError names an input that is still needed, or a cut on which nothing depends, which would be a cycle.
    """
    start = {v: v if isinstance(v.op, Input) else Input(n, v.type)() for n, v in cuts.items()}
    inner = down_to(list(outputs.values()), set(start))
    within = set(inner)
    useless = [v for v in start if v not in within]
    if useless:
        raise GraphError(
            f"nothing of {', '.join(outputs)} depends on {described(dag, useless[0])}: it can't be an input"
        )
    own = [v for v in inner if isinstance(v.op, Input) and v not in start]
    stray = [v for v in own if not free and not is_seed(v.op.attributes["leaf"], v)]
    if stray:
        user = next(u for u in dag.graph.users[stray[0]] if u in within)
        raise GraphError(
            f"input {stray[0].op.attributes['leaf']!r} is still needed by {described(dag, user)}: name it among the "
            "inputs, or a value behind it"
        )
    edit = Edit(dag, start).run(lambda value, args: None, inner)
    given = {n: start[v] for n, v in cuts.items()}
    if free:  # the network's own first
        named = {n: v for n, v in dag.graph.inputs.items() if v in within or v in start} | given
    else:
        named = given | {n: v for n, v in dag.graph.inputs.items() if v in within and v not in start}
    updates = _updates(dag, edit, within, set(start))
    order = [edit.new[v] for v in dag.graph.values if v in edit.new]
    new = Graph(named, {n: edit.new[v] for n, v in outputs.items()}, updates, dag.graph.name, order)
    state = _state(dag, new)
    return finished(
        dag,
        new,
        edit.origins,
        state=state,
        weights=Weights.of(dag.weights, {n: n for n in state}),
        signature=_signature(dag, new, signature),
        modules=modules_of(dag.modules, [origin_of(dag, v) for v in inner if v not in start]),
        checks=[c for c in dag.checks if c.value is not None and set(topological([c.value])) <= within],
    )


def _updates(dag: Network, edit: Edit, within: set[Value], cuts: set[Value]) -> dict[str, Value]:
    """The new values of the buffers of modules that are within, if they can be computed there."""
    owners = {
        v.op.attributes["leaf"].rpartition(".")[0]
        for v in within
        if isinstance(v.op, Leaf) and not isinstance(v.op, Input)
    }
    kept: dict[str, Value] = {}
    for name, value in dag.graph.updates.items():
        if name.rpartition(".")[0] not in owners:
            continue
        cone = down_to([value], cuts)
        if all(v in within or not isinstance(v.op, Input) for v in cone):
            edit.run(lambda value, args: None, cone)
            kept[name] = edit.new[value]
    return kept


def _state(dag: Network, graph: Graph) -> dict[str, Weight]:
    """What the state says of the weights of a part, and of buffers beside them that no graph uses (counters)."""
    state = state_of(dag)
    own = used(graph)
    idle = state.keys() - used(dag.graph)
    owners = {n.rpartition(".")[0] for n in own}
    kept: dict[str, Weight] = {}
    for name, weight in state.items():
        beside = name in idle and not weight.is_parameter and not weight.alias_of and name.rpartition(".")[0] in owners
        if name in own or beside:
            kept[name] = weight
    return kept


def _signature(dag: Network, graph: Graph, signature: Signature | None) -> Signature:
    """How a part is called: inputs by place, the result a tensor or a tuple; the network's own where it fits."""
    if signature is not None and list(graph.inputs) == list(dag.graph.inputs):
        return signature
    names = [n for n, v in graph.inputs.items() if not is_seed(n, v)]
    seeds = [n for n, v in graph.inputs.items() if is_seed(n, v)]
    plain = plain_signature(len(names), len(graph.outputs), seeds)
    inputs = dag.signature.inputs if list(graph.inputs) == list(dag.graph.inputs) else plain.inputs
    return Signature(inputs, plain.outputs if signature is None else signature.outputs)


def split(dag: N, at: Any) -> tuple[N, N]:
    """See :meth:`tdagger.TensorDAG.split`."""
    cuts = found(dag, at)
    inner = down_to(list(dag.graph.outputs.values()), set(cuts.values()))
    behind = [v for v in inner if isinstance(v.op, Input) and v not in cuts.values()]
    behind = [v for v in behind if not is_seed(v.op.attributes["leaf"], v)]
    if behind:
        path = _path(dag, behind[0], set(inner))
        raise GraphError(
            f"{', '.join(cuts)} {'does' if len(cuts) == 1 else 'do'} not split {shown(dag.name)}: the second part "
            f"would still come from input {behind[0].op.attributes['leaf']!r} by {described(dag, path)}: name that "
            "too, or the input itself to hand it on"
        )
    first = taken(dag, cuts, {}, free=True)
    second = taken(dag, dag.graph.outputs, cuts, free=False, signature=dag.signature)
    return first, second


def _path(dag: Network, value: Value, within: set[Value]) -> Value:
    """The first value of some that takes another."""
    return next(u for u in dag.graph.users[value] if u in within)
