"""Networks joined: one after the other, or side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tdagger.errors import GraphError, TypeMismatchError
from tdagger.graph import Graph
from tdagger.names import shown
from tdagger.network import N, Network, Origin, Signature, Weight, Weights, with_seed
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.transform.surgery.adopt import Bare, is_seed, seed_of, shifted, streams_of
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.transform.surgery.select import Names, described
from tdagger.tree import Tree


def _check_network(first: Network, second: Any) -> None:
    """GraphError if what is to be joined is no network."""
    if not isinstance(getattr(second, "graph", None), Graph):
        raise GraphError(
            f"{shown(first.name)} can be joined with a TensorDAG, got {type(second).__name__}; "
            "td.from_torch(module, inputs) makes one, and so does td.network(function, inputs)"
        )


def chain(first: N, second: Network) -> N:
    """See :meth:`tdagger.TensorDAG.__rshift__`."""
    _check_network(first, second)
    takes = {n: v for n, v in second.graph.inputs.items() if not is_seed(n, v)}
    gives = first.graph.outputs
    if len(takes) != len(gives):
        raise GraphError(
            f"{shown(first.name)} gives {len(gives)} tensors ({_listed(gives)}), {shown(second.name)} takes "
            f"{len(takes)} ({_listed(takes)})"
        )
    for (out, a), (name, b) in zip(gives.items(), takes.items(), strict=True):
        if a.type != b.type:
            raise TypeMismatchError(
                f"{shown(first.name)} gives {out!r}: {described(first, a)}, {shown(second.name)} takes "
                f"{name!r} as {b.type}"
            )
    start = dict(zip(takes.values(), gives.values(), strict=True))
    joined = _joined(first, second, start)
    inputs, signature = _with_seed(first, joined, dict(first.graph.inputs), first.signature.inputs)
    outputs = {n: joined.new[v] for n, v in second.graph.outputs.items()}
    return _made(first, second, joined, inputs, outputs, Signature(signature, second.signature.outputs))


def _listed(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{shown(n)}: {v.type}" for n, v in values.items()) or "nothing"


def beside(first: N, second: Network, share: bool = False) -> N:
    """See :meth:`tdagger.TensorDAG.beside`."""
    _check_network(first, second)
    start: dict[Value, Value] = {}
    inputs = dict(first.graph.inputs)
    taken = {n: v for n, v in second.graph.inputs.items() if not is_seed(n, v)}
    own = {n: v for n, v in inputs.items() if not is_seed(n, v)}
    if share:
        if [v.type for v in own.values()] != [v.type for v in taken.values()]:
            raise TypeMismatchError(
                f"{shown(first.name)} takes ({_listed(own)}), {shown(second.name)} ({_listed(taken)}): only "
                "what both take alike can be shared"
            )
        start = dict(zip(taken.values(), own.values(), strict=True))
    else:
        names = Names(inputs)
        for name, value in taken.items():
            free = names.new(name)
            start[value] = inputs[free] = value if free == name else Input(free, value.type)()
    joined = _joined(first, second, start)
    inputs, tree = _with_seed(first, joined, inputs, first.signature.inputs if share else _both(first, second))
    outputs = dict(first.graph.outputs)
    names = Names(outputs)
    for name, value in second.graph.outputs.items():
        outputs[names.new(name)] = joined.new[value]
    results = Tree("tuple", (0, 1), (first.signature.outputs, second.signature.outputs))
    seeds = [n for n, v in inputs.items() if is_seed(n, v)]
    inputs = {**{n: v for n, v in inputs.items() if n not in seeds}, **{n: inputs[n] for n in seeds}}
    return _made(first, second, joined, inputs, outputs, Signature(tree, results))


def _both(first: Network, second: Network) -> Tree:
    """The arguments of one network, then those of the other; GraphError for keyword arguments."""
    args, kwargs = first.signature.inputs.children
    others, named = second.signature.inputs.children
    named_only = [k for k in (*kwargs.keys, *named.keys) if not str(k).startswith("seed")]
    if named_only:
        raise GraphError(
            f"{shown(first.name)} and {shown(second.name)} take keyword arguments ({', '.join(map(str, named_only))}): "
            "import them with arguments by place, or share the inputs, share=True"
        )
    count = len(args.keys) + len(others.keys)
    return Tree("tuple", (0, 1), (Tree("tuple", tuple(range(count)), (*args.children, *others.children)), kwargs))


def _joined(first: Network, second: Network, start: dict[Value, Value]) -> Edit:
    """The second network on other values than its inputs, with random numbers of its own."""
    seeds = seed_of(first.graph), seed_of(second.graph)
    if seeds[1] is not None:
        start[seeds[1]] = seeds[0] or seeds[1]
    drawn = set(streams_of(first.graph))
    shift = max(drawn) if drawn & set(streams_of(second.graph)) else 0

    return Edit(second, start).run(lambda value, args: shifted(value, args, shift))


def _with_seed(first: Network, joined: Edit, inputs: dict[str, Value], tree: Tree) -> tuple[dict[str, Value], Tree]:
    seed = seed_of(joined.dag.graph)
    if seed is None or seed_of(first.graph) is not None:
        return inputs, tree
    name = seed.op.attributes["leaf"]
    if name in inputs:
        raise GraphError(
            f"{name!r} is an input of {shown(first.name)} and the seed of {shown(joined.dag.name)}: rename it"
        )
    inputs[name] = seed
    return inputs, with_seed(Signature(tree, Tree("leaf")), name).inputs


def _made(first: N, second: Network, joined: Edit, inputs: Mapping[str, Value], outputs: Mapping[str, Value],
          signature: Signature) -> N:  # fmt: skip
    state = _merged_state(first, second)
    twice = set(first.graph.updates) & set(second.graph.updates)
    if twice:
        raise GraphError(f"both networks change the buffer {sorted(twice)[0]!r}: rename those of one of them first")
    updates = {**first.graph.updates, **{n: joined.new[v] for n, v in second.graph.updates.items()}}
    order = [*first.graph.values, *joined.order()]
    graph = Graph(inputs, outputs, updates, first.graph.name, order)
    weights = Weights.of(second.weights, {n: n for n in state_of(second)})
    weights |= Weights.of(first.weights, {n: n for n in state_of(first)})
    origins: dict[Value, Origin] = {**joined.origins, **first.origins}
    # what finished() drops is what the old graph used and the new one doesn't: nothing of either network
    return finished(
        first,
        graph,
        origins,
        weights=weights,
        state=state,
        modules={**second.modules, **first.modules},
        signature=signature,
        checks=[*first.checks, *joined.checks()],
        axis_names={n: p for n, p in {**second.axis_names, **first.axis_names}.items() if n in inputs},
    )


def _merged_state(first: Network, second: Network) -> dict[str, Weight]:
    """The states of both; GraphError for a name that both have for different weights."""
    mine, theirs = state_of(first), state_of(second)
    for name in [n for n in mine if n in theirs]:
        if mine[name] != theirs[name] or not _same_data(first, second, name):
            raise GraphError(
                f"{shown(first.name)} and {shown(second.name)} both have a weight {name!r}, and it isn't the same: "
                'rename those of one first, rename({"": "second"}) puts all below that path'
            )
    return {**mine, **{n: w for n, w in theirs.items() if n not in mine}}


def _same_data(first: Network, second: Network, name: str) -> bool:
    """Whether a weight of two networks is one piece of memory."""
    if (name in first.weights) != (name in second.weights):
        return False
    if name not in first.weights:
        return True
    found: list[Any] = [getattr(d.weights, "tensor", None) for d in (first, second)]
    tensors = [None if f is None else f(name) for f in found]
    if tensors[0] is not None and tensors[0] is tensors[1]:
        return True
    if any(getattr(t, "is_meta", False) for t in tensors):
        return False
    a, b = first.weights[name], second.weights[name]
    return (
        a is b
        or (a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.size > 0)
        or bool(a.size == 0 and np.array_equal(a, b))
    )


__all__ = ["Bare", "beside", "chain"]
