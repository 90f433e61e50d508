"""Ops and modules replaced, put in and taken out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tdagger.errors import GraphError
from tdagger.graph import is_one, result_types
from tdagger.names import shown
from tdagger.network import N, Network, Weights, with_seed
from tdagger.op import Value
from tdagger.transform.surgery.adopt import Adoption, Importer, module_name
from tdagger.transform.surgery.edit import Edit, each, finished, groups, origin_of, state_of
from tdagger.transform.surgery.select import (
    Names,
    Part,
    What,
    calls,
    chooser,
    chosen,
    described,
    fed,
    found,
    tensors_of,
)
from tdagger.transform.surgery.weights import rename


def replace(dag: N, what: What, by: Any, within: str = "", importer: Importer | None = None) -> N:
    """See :meth:`tdagger.TensorDAG.replace`."""
    meant = set(chosen(dag, what, within))
    edit, adoption, paths = _begun(dag, importer)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in meant:
            return None
        return adoption.results(
            by, tensors_of(value, args), lambda: paths.at(value, module_name(by)), value.op.attributes
        )

    edit.run(rule)
    return _adopted(dag, edit, adoption)


def remove(dag: N, what: What, within: str = "") -> N:
    """See :meth:`tdagger.TensorDAG.remove`."""
    meant = set(chosen(dag, what, within))
    is_fed = fed(dag.graph)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in meant:
            return None
        same = [new for a, new in zip(value.args, args, strict=True) if a.type == value.type and a in is_fed]
        if len(same) != 1:
            raise GraphError(
                f"{described(dag, value)} can't be left out: {len(same) or 'none'} of its arguments "
                f"({', '.join(str(a.type) for a in value.args)}) could stand for it; say by replace(...) what should"
            )
        return same[0]

    edit = Edit(dag).run(rule)
    return finished(dag, edit.graph(), edit.origins, checks=edit.checks())


def insert(
    dag: N,
    what: What,
    by: Any,
    unless: What = None,
    name: str = "",
    argument: int | None = None,
    within: str = "",
    importer: Importer | None = None,
) -> N:
    """See :meth:`tdagger.TensorDAG.insert_after` and, with an ``argument``, :meth:`tdagger.TensorDAG.insert_before`."""
    meant = set(chosen(dag, what, within))
    if unless is not None:
        is_there = chooser(unless)
        users = dag.graph.users
        meant -= {v for v in meant if any(is_there(n) for n in (users[v] if argument is None else v.args))}
    edit, adoption, paths = _begun(dag, importer)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in meant:
            return None

        def path() -> str:
            return paths.beside(value, name or module_name(by))

        if argument is not None:
            if not 0 <= argument < len(args):
                raise GraphError(f"{described(dag, value)} has no argument {argument}")
            before = _one(dag, value, adoption.results(by, [args[argument]], path))
            return value.op(*args[:argument], before, *args[argument + 1 :])
        if not is_one(value):
            raise GraphError(f"{described(dag, value)} has several results: choose one of them, an item")
        own = value if args == value.args else value.op(*args)
        edit.carry(own, value, args)
        return _one(dag, value, adoption.results(by, [own], path))

    edit.run(rule)
    return _adopted(dag, edit, adoption)


def _begun(dag: Network, importer: Importer | None) -> tuple[Edit, Adoption, _Paths]:
    """An edit of a network, what it takes in, and the paths that this gets."""
    edit = Edit(dag)
    return edit, Adoption(edit, set(state_of(dag)), importer), _Paths(dag)


def _one(dag: Network, value: Value, given: Any) -> Value:
    if not isinstance(given, Value):
        raise GraphError(f"what is put at {described(dag, value)} must give one tensor, not {len(given)}")
    return given


class _Paths:
    """Paths for new modules."""

    def __init__(self, dag: Network) -> None:
        self.dag = dag
        owners = [n.rpartition(".")[0] for n in state_of(dag)]
        self.names = Names([*dag.modules, *owners])
        #: The modules that hold weights, or others that do.
        self.holding: set[str] = set()
        for path in owners:
            while path and path not in self.holding:
                self.holding.add(path)
                path = path.rpartition(".")[0]

    def beside(self, value: Value, name: str) -> str:
        """A path beside the module that a value came from."""
        path = origin_of(self.dag, value).module
        return self.names.new(f"{path}_{name}" if path else name)

    def at(self, value: Value, name: str) -> str:
        """The path of the module that a value came from where that holds no weights, else one beside it."""
        path = origin_of(self.dag, value).module
        if not path or path in self.holding:
            return self.beside(value, name)
        self.holding.add(path)
        return path


def _adopted(dag: N, edit: Edit, adoption: Adoption, state: Mapping[str, Any] | None = None, at: int | None = None,
             updates: Mapping[str, Value] | None = None, modules: Mapping[str, str] | None = None) -> N:  # fmt: skip
    """The network with what an edit made of it, and with what was taken in."""
    old = dag.graph
    updates = edit.updates() if updates is None else dict(updates)
    inputs = {n: edit.new[v] for n, v in old.inputs.items()}
    signature = dag.signature
    if adoption.seed is not None and adoption.seed not in inputs.values():
        inputs[adoption.seed.op.attributes["leaf"]] = adoption.seed
        signature = with_seed(signature, adoption.seed.op.attributes["leaf"])
    graph = edit.graph(inputs, updates={**updates, **adoption.updates})
    state = state_of(dag) if state is None else state
    weights = Weights.of(dag.weights, {n: n for n in state}) | adoption.weights if adoption.state else dag.weights
    return finished(
        dag,
        graph,
        edit.origins,
        weights=weights,
        state=adoption.merged(state, at),
        modules={**(dag.modules if modules is None else modules), **adoption.modules},
        signature=signature,
        checks=edit.checks(),
    )


# --- modules -----------------------------------------------------------------------------------------------


def replace_module(
    dag: N, path: str, by: Any, inputs: Any = None, outputs: Any = None, importer: Importer | None = None
) -> N:
    """See :meth:`tdagger.TensorDAG.replace_module`."""
    parts = calls(dag, path)
    if len(parts) > 1 and (inputs is not None or outputs is not None):
        raise GraphError(f"module {path!r} is called {len(parts)} times: inputs= and outputs= can't be told for each")
    dag = _freed(dag, path, parts)
    parts = calls(dag, path)
    ins = [_inputs(dag, path, part, inputs) for part in parts]
    outs = [part.outputs if outputs is None else list(found(dag, outputs).values()) for part in parts]
    for part, given in zip(parts, outs, strict=True):
        stray = [v for v in given if v not in part.own]
        if stray or not given:
            what = (
                f"{described(dag, stray[0])} isn't one of its values" if stray else "nothing that depends on an input"
            )
            raise GraphError(f"module {path!r} gives {', '.join(map(repr, part.outputs)) or 'nothing'}: {what}")
    under = {n for n in state_of(dag) if n.startswith(f"{path}.")}
    inside = {v for part in parts for v in part.own}
    still = {n for n in under if _is_used_outside(dag, n, inside)}
    edit = Edit(dag)
    adoption = Adoption(edit, (set(state_of(dag)) - under) | still, importer)

    def make(i: int, args: list[Value]) -> tuple[Value, ...]:
        return _results(dag, path, outs[i], adoption.results(by, args, lambda: path))

    whole = outputs is None
    gone = {v for part in parts for v in part.own} & fed(dag.graph) if whole else set[Value]()
    edit.run(groups(edit, f"module {shown(path)!r}", list(zip(ins, outs, strict=True)), make, gone))
    kept = {n: w for n, w in state_of(dag).items() if n not in under or n in still}
    before = [n for n in state_of(dag) if n in kept or n in under]
    at = next((i for i, n in enumerate(before) if n in under and n not in still), None)
    at = None if at is None else sum(n in kept for n in before[:at])
    modules = {p: k for p, k in dag.modules.items() if p != path and not p.startswith(f"{path}.")}
    modules |= {} if path in adoption.modules else {path: module_name(by)}
    updates = {n: edit.new[v] for n, v in dag.graph.updates.items() if n not in under}
    return _adopted(dag, edit, adoption, kept, at, updates, modules)


def _inputs(dag: Network, path: str, part: Part, inputs: Any) -> list[Value]:
    if inputs is not None:
        return list(found(dag, inputs).values())
    if len(part.inputs) > 1:
        told = ", ".join(described(dag, v) for v in part.inputs)
        raise GraphError(
            f"module {path!r} takes {len(part.inputs)} values ({told}): say which of them the new one takes, and in "
            "which order, by inputs=[...]"
        )
    return part.inputs


def _is_used_outside(dag: Network, name: str, inside: set[Value]) -> bool:
    leaf = dag.graph.parameters.get(name) or dag.graph.buffers.get(name)
    return leaf is not None and any(u not in inside for u in dag.graph.users[leaf])


def _freed(dag: N, path: str, parts: Iterable[Part]) -> N:
    """The network in which tied weights that others use go by their names outside of the module."""
    inside = {v for part in parts for v in part.own}
    names: dict[str, str] = {}
    for alias, weight in state_of(dag).items():
        of = weight.alias_of
        if of.startswith(f"{path}.") and not alias.startswith(f"{path}.") and _is_used_outside(dag, of, inside):
            names.setdefault(of, alias)
    return rename(dag, names, tied=True) if names else dag


def _results(dag: Network, path: str, outs: list[Value], given: Any) -> tuple[Value, ...]:
    values = each(given)
    if len(values) == 1 and not is_one(values[0]):
        raise GraphError(f"what stands for {path!r} gives {len(result_types(values[0]))} results of one op: take items")
    if len(values) != len(outs):
        told = ", ".join(described(dag, v) for v in outs)
        raise GraphError(
            f"module {shown(path)!r} gives {len(outs)} values ({told}), what stands for it gives {len(values)}: say "
            "by outputs=[...] for which of them"
        )
    return values
