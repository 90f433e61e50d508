"""Parts of a network as one named composite, and back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from tdagger.composite import Composite
from tdagger.errors import GraphError
from tdagger.graph import Graph, applied, is_one
from tdagger.library.block import block
from tdagger.names import shown
from tdagger.network import N, Network, with_parts
from tdagger.op import Value
from tdagger.ops.source import Const, Input, Leaf
from tdagger.ops.structure import Item
from tdagger.transform.surgery.edit import Edit, finished, groups, origin_of
from tdagger.transform.surgery.select import What, calls, chosen, described, found, is_within


def wrap(dag: N, what: Any, name: str = "") -> N:
    """See :meth:`tdagger.TensorDAG.wrap`."""
    if isinstance(what, str) and any(is_within(dag, v, what) for v in dag.graph.values) and what:
        path, sets = what, [part.values for part in calls(dag, what)]
    else:
        path, sets = "", [list(found(dag, what).values())]
    title = name or path.rpartition(".")[2] or "block"
    parts = [_Closed(dag, values, title) for values in sets]
    edit = Edit(dag)

    def make(i: int, args: list[Value]) -> tuple[Value, ...]:
        part = parts[i]
        given: Any = block(*args, title=title, graph=part.graph)
        results = cast("tuple[Value, ...]", given if isinstance(given, tuple) else (given,))
        told = origin_of(dag, part.outputs[0])._replace(op="")
        for v in (*results, results[0].args[0] if isinstance(results[0].op, Item) else results[0]):
            edit.origins[v] = told._replace(module=path) if path else told
        return results

    gone = {v for part in parts for v in part.own}
    edit.run(groups(edit, f"{shown(title)!r}", [(p.inputs, p.outputs) for p in parts], make, gone))
    new = finished(dag, edit.graph(), edit.origins, checks=edit.checks())
    return with_parts(new, origins={**{v: o for v, o in dag.origins.items() if v in gone}, **new.origins})


def taken(inner: Sequence[Value], own: Collection[Value]) -> list[Value]:
    """What values take from outside of them but constants, weights last."""
    args = dict.fromkeys(a for v in inner for a in v.args if a not in own and not isinstance(a.op, Const))
    weights = [a for a in args if isinstance(a.op, Leaf) and not isinstance(a.op, Input)]
    return [a for a in args if not isinstance(a.op, Leaf) or isinstance(a.op, Input)] + weights


def copied(inner: Sequence[Value], inputs: Sequence[Value]) -> dict[Value, Value]:
    """Values, arguments first, made of inputs ``x0``, ``x1``, ... in the places of ``inputs``; equal parts are one."""
    there = {v: Input(f"x{i}", v.type)() for i, v in enumerate(inputs)}
    for value in inner:
        there |= {a: a for a in value.args if isinstance(a.op, Const)}
        if value not in there:
            there[value] = value.op(*[there[a] for a in value.args])
    return there


class _Closed:
    """Values as a graph of their own: its inputs are all that comes from outside, but constants."""

    def __init__(self, dag: Network, values: Sequence[Value], title: str) -> None:
        users = dag.graph.users
        returned = {*dag.graph.outputs.values(), *dag.graph.updates.values()}
        self.own = {v for v in values if not isinstance(v.op, Leaf)}
        inner = [v for v in dag.graph.values if v in self.own]
        if not inner:
            raise GraphError(f"{title!r}: there is nothing to wrap but leaves")
        self.inputs = taken(inner, self.own)
        self.outputs = [
            v for v in inner
            if not isinstance(v.op, Const) and (v in returned or any(u not in self.own for u in users[v]))
        ]  # fmt: skip
        several = [v for v in (*self.inputs, *self.outputs) if not is_one(v)]
        if several or not self.outputs:
            what = f"{described(dag, several[0])} has several results" if several else "nothing uses what it gives"
            raise GraphError(f"{title!r} can't be wrapped: {what}; take its items in too")
        self._check_cycle(dag, title)
        there = copied(inner, self.inputs)
        named = {f"x{i}": there[v] for i, v in enumerate(self.inputs)}
        self.graph = Graph(named, {f"y{i}": there[v] for i, v in enumerate(self.outputs)}, name=title)

    def _check_cycle(self, dag: Network, title: str) -> None:
        """GraphError if something between two of the values is outside."""
        after: dict[Value, Value] = {}  # what is outside and made of values inside: of which
        for value in dag.graph.values:
            for arg in value.args:
                if value in self.own and arg in after:
                    raise GraphError(
                        f"{title!r} would be a cycle: {described(dag, arg)}, which isn't in it, is made of "
                        f"{described(dag, after[arg])} and goes into {described(dag, value)}, which are"
                    )
                if value not in self.own and (arg in after or arg in self.own) and not isinstance(arg.op, Const):
                    after.setdefault(value, after.get(arg, arg))


def unwrap(dag: N, what: What = "block", within: str = "") -> N:
    """See :meth:`tdagger.TensorDAG.unwrap`."""
    meant = set(chosen(dag, what, within))
    core = next((v for v in meant if not isinstance(v.op, Composite)), None)
    if core is not None:
        raise GraphError(f"{described(dag, core)} is a core op: it stands for nothing that could be unwrapped")

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in meant:
            return None
        results = applied(cast(Composite, value.op).body(*[a.type for a in args]), args)
        return results[0] if len(results) == 1 else results

    edit = Edit(dag).run(rule)
    return finished(dag, edit.graph(), edit.origins, checks=edit.checks())
