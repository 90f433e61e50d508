"""The one walk of surgery: some values get others in their place, and all that a network is follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from tdagger.errors import AttributeValueError, GraphError, TypeMismatchError, UnsupportedError
from tdagger.graph import Graph, bulk, is_one, result_types, topological
from tdagger.names import shown
from tdagger.network import Check, N, Network, Origin, Weight, Weights, declared, with_parts
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item
from tdagger.transform.networks import place

#: What stands for a value, given what its arguments became: a value, several for an op with several results, or None.
Rule = Callable[[Value, tuple[Any, ...]], Any]


class Edit:
    """What becomes of every value of a network: ``new``, and where those come from: ``origins``."""

    def __init__(self, dag: Network, start: Mapping[Value, Value] | None = None) -> None:
        self.dag = dag
        self.new: dict[Value, Any] = dict(start or {})
        self.origins: dict[Value, Origin] = {}
        self.where = place(dag.origins)
        #: Of a value with another type than before, the value at which the types changed.
        self.cause: dict[Value, Value] = {v: v for v, n in self.new.items() if n.type != v.type}

    def run(self, rule: Rule, values: Iterable[Value] | None = None) -> Edit:
        """Walk the values (all of the graph's unless told), arguments first."""
        with bulk():
            for value in self.dag.graph.values if values is None else values:
                if value not in self.new:
                    self._visit(value, rule)
        return self

    def _visit(self, value: Value, rule: Rule) -> None:
        args = tuple([self.new[a] for a in value.args])
        try:
            given = rule(value, args)
        except (TypeMismatchError, AttributeValueError, UnsupportedError) as e:
            told = f"; {self.told(value)}" if any(a in self.cause for a in value.args) else ""
            raise type(e)(f"at {value!r}{self.where(value)}: {e}{told}") from e
        if given is None:
            given = value if args == value.args else self._again(value, args)
            origin = self.dag.origins.get(value)
            if origin is not None and isinstance(given, Value):
                self.origins.setdefault(given, origin)
        else:
            self._check_results(value, given)
            self.carry(given, value, args)
        self.new[value] = given
        if given is not value:
            self._note_type(value, given)

    def _again(self, value: Value, args: tuple[Any, ...]) -> Any:
        op = value.op
        if isinstance(op, Item) and isinstance(args[0], tuple):
            return each(args[0])[op.index]
        try:
            return op(*args)
        except (TypeMismatchError, AttributeValueError) as e:
            raise TypeMismatchError(
                f"{value!r}{self.where(value)} can't take what it would be given: {e}; {self.told(value)}"
            ) from e

    def told(self, value: Value) -> str:
        """Which arguments of a value have other types now, and where that comes from."""
        lines = [
            f"argument {i} was {a.type} and is {_shown(self.new[a])} by what stands for "
            f"{self.cause[a]!r}{self.where(self.cause[a])}"
            for i, a in enumerate(value.args)
            if a in self.cause
        ]
        return "; ".join(lines) or "no type changed"

    def _note_type(self, value: Value, given: Any) -> None:
        if _types(given) != tuple(result_types(value)):
            self.cause[value] = next((self.cause[a] for a in value.args if a in self.cause), value)

    def _check_results(self, value: Value, given: Any) -> None:
        count = len(each(given))
        if isinstance(given, Value) and not is_one(value) and not is_one(given):
            count = len(result_types(given))
        if count != len(result_types(value)):
            raise GraphError(
                f"{value!r}{self.where(value)} has {len(result_types(value))} results, "
                f"what is to stand for it has {count}"
            )

    def carry(self, made: Any, value: Value, args: tuple[Any, ...] = ()) -> None:
        """Values that were made for another come from where that did; a leaf comes from nowhere."""
        origin = self.dag.origins.get(value)
        if origin is None:
            return
        told = origin._replace(op="")
        stop = {a for arg in args for a in each(arg)}
        stack = list(each(made))
        while stack:
            v = stack.pop()
            if v in stop or v in self.origins or isinstance(v.op, Leaf):
                continue
            self.origins[v] = self.dag.origins.get(v, told)
            stack += v.args

    # The result.

    def outputs(self) -> dict[str, Value]:
        """What became of the outputs, by name."""
        return {n: self.new[v] for n, v in self.dag.graph.outputs.items()}

    def updates(self) -> dict[str, Value]:
        """What became of the new values of buffers; TypeMismatchError if one isn't what the buffer is."""
        return {n: self.new[v] for n, v in self.dag.graph.updates.items()}

    def checks(self) -> list[Check]:
        """What became of the checks: what can't be computed any more has no value."""
        found: list[Check] = []
        for check in self.dag.checks:
            value = check.value
            if value is not None:
                try:
                    self.run(lambda v, args: None, topological([value]))
                    value = self.new[value]
                except (KeyError, TypeMismatchError):
                    value = None
            found.append(check._replace(value=value))
        return found

    def order(self) -> list[Value]:
        """The values made, in the order of those they stand for."""
        return [v for given in self.new.values() for v in each(given)]

    def graph(
        self,
        inputs: Mapping[str, Value] | None = None,
        outputs: Mapping[str, Value] | None = None,
        updates: Mapping[str, Value] | None = None,
    ) -> Graph:
        """The changed graph, with other inputs, outputs or updates where they are given."""
        old = self.dag.graph
        inputs = {n: self.new[v] for n, v in old.inputs.items()} if inputs is None else inputs
        outputs = self.outputs() if outputs is None else outputs
        updates = self.updates() if updates is None else updates
        return Graph(inputs, outputs, updates, old.name, self.order())


def down_to(outputs: list[Value], cuts: set[Value]) -> list[Value]:
    """What outputs are made of, down to the cuts, arguments first."""
    order: list[Value] = []
    seen: set[Value] = set()
    stack = list(reversed(outputs))
    while stack:
        value = stack[-1]
        if value in seen:
            stack.pop()
            continue
        missing = [] if value in cuts else [a for a in value.args if a not in seen]
        if missing:
            stack += reversed(missing)
            continue
        seen.add(value)
        order.append(value)
        stack.pop()
    return order


def groups(
    edit: Edit,
    what: str,
    places: Sequence[tuple[Sequence[Value], Sequence[Value]]],
    make: Callable[[int, list[Value]], tuple[Value, ...]],
    gone: set[Value],
) -> Rule:
    """The rule with which what ``make`` gives stands for several values at once, for each of some places.

    A place has the values that go in and those that are replaced; ``gone`` are values that nobody needs any more.
    GraphError where what goes in is made of what is replaced: a cycle.
    """
    number = {v: i for i, (_, outs) in enumerate(places) for v in outs}
    made: dict[int, tuple[Value, ...]] = {}

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in number:
            return value if value in gone and not isinstance(value.op, Leaf | Const) else None
        i = number[value]
        ins, outs = places[i]
        if i not in made:
            for arg in ins:
                reach(arg, outs)
            made[i] = make(i, [edit.new[a] for a in ins])
        return made[i][list(outs).index(value)]

    def reach(arg: Value, outs: Sequence[Value]) -> None:
        if arg in edit.new:
            return
        cone = topological([arg])
        inside = set(cone)
        late = next((v for v in outs if v in inside), None)
        if late is not None:
            where = edit.where
            raise GraphError(
                f"{what} would be a cycle: {arg!r}{where(arg)}, which it takes, is made of {late!r}{where(late)}, "
                "which it gives"
            )
        edit.run(rule, cone)

    return rule


def _types(given: Any) -> tuple[Any, ...]:
    return tuple(v.type for v in each(given)) if isinstance(given, tuple) else tuple(result_types(given))


def _shown(given: Any) -> str:
    return ", ".join(map(str, _types(given)))


def each(given: Any) -> tuple[Value, ...]:
    """The values of what stands for one: itself, or several for an op with several results."""
    return cast("tuple[Value, ...]", given) if isinstance(given, tuple) else (given,)


def state_of(dag: Network) -> dict[str, Weight]:
    """The state of a network: what it says, else what its graph has."""
    return dict(dag.state) or declared(dag.graph)


def used(graph: Graph) -> set[str]:
    """The names of the parameters and buffers of a graph, and of the buffers it changes."""
    return {*graph.parameters, *graph.buffers, *graph.updates}


#: The outputs under which a pass carries the values of checks along.
_CHECK = "\0check "


def with_checks(dag: Network) -> Graph:
    """The graph with the values of its checks as outputs more, which :func:`finished` takes for the checks again."""
    graph = dag.graph
    values = {f"{_CHECK}{i}": c.value for i, c in enumerate(dag.checks) if c.value is not None}
    if not values:
        return graph
    return Graph(graph.inputs, {**graph.outputs, **values}, graph.updates, graph.name, graph.values)


def _without_checks(graph: Graph, checks: Sequence[Check]) -> tuple[Graph, list[Check]]:
    """A graph made of one of :func:`with_checks`, without the values of checks, and the checks with these values."""
    outputs = {n: v for n, v in graph.outputs.items() if not n.startswith(_CHECK)}
    checks = [c._replace(value=graph.outputs.get(f"{_CHECK}{i}", c.value)) for i, c in enumerate(checks)]
    return Graph(graph.inputs, outputs, graph.updates, graph.name, graph.values), checks


def finished(
    dag: N,
    graph: Graph,
    origins: Mapping[Value, Origin],
    *,
    weights: Mapping[str, Any] | None = None,
    state: Mapping[str, Weight] | None = None,
    **parts: Any,
) -> N:
    """The network with another graph: without weights that nothing uses any more, without a source to ask.

    GraphError if what is written to a buffer isn't of its type, or a leaf of the graph isn't what the state says.
    """
    if any(n.startswith(_CHECK) for n in graph.outputs):
        graph, parts["checks"] = _without_checks(graph, dag.checks)
    state = state_of(dag) if state is None else dict(state)
    checks: Sequence[Check] = parts.get("checks", dag.checks)
    asked = topological([c.value for c in checks if c.value is not None])
    now = used(graph) | {v.op.leaf for v in asked if isinstance(v.op, Leaf)}
    gone = used(dag.graph) - now
    kept = {n: w for n, w in state.items() if n not in gone and (not w.alias_of or w.alias_of not in gone)}
    check_leaves(graph, kept, shown(dag.name), place(origins))
    weights = dag.weights if weights is None else weights
    if list(kept) != list(dag.state):
        weights = Weights.of(weights, {n: n for n in kept})
    values = set(graph.values)
    return with_parts(
        dag,
        graph=graph,
        origins={v: o for v, o in origins.items() if v in values},
        weights=weights,
        state=kept,
        source=None,
        certain_dimensions=frozenset[tuple[str, int]](),
        axis_names=parts.pop("axis_names", None) or _names(dag.axis_names, dag.graph, graph),
        **parts,
    )


def check_leaves(graph: Graph, state: Mapping[str, Weight], name: str, where: Callable[[Value], str]) -> None:
    """GraphError if a buffer is given what isn't of its type, or a leaf isn't of the type its state says."""
    for leaf, value in {**graph.parameters, **graph.buffers}.items():
        if leaf not in state:
            raise GraphError(f"{name}: the graph has {value!r}, of which the state says nothing")
        if state[leaf].type != value.type:
            raise TypeMismatchError(
                f"{name}: the graph takes {leaf!r} as {value.type}, the state has {state[leaf].type}"
            )
    both = set(graph.parameters) & set(graph.buffers)
    if both:
        raise GraphError(f"{name}: {sorted(both)[0]!r} is a parameter and a buffer")
    for leaf, value in graph.updates.items():
        if leaf in state and value.type != state[leaf].type:
            raise TypeMismatchError(
                f"{name}: buffer {leaf!r} is {state[leaf].type}, and would be given {value.type} by "
                f"{value!r}{where(value)}"
            )


def _names(names: Mapping[str, str], before: Graph, now: Graph) -> dict[str, str]:
    """The names of dimensions of inputs that are what they were."""
    return {n: p for n, p in names.items() if n in now.inputs and now.inputs[n] is before.inputs.get(n)}


def origin_of(dag: Network, value: Value) -> Origin:
    """Where a value came from; nowhere for a leaf."""
    return dag.origins.get(value, Origin())
