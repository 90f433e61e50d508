"""The one driver of rules: a rebuild in topological order, every value brought to its normal form as it is made.

A value's normal form is that of its op on the normal forms of its arguments, after which rules are tried until none
applies. What a rule puts in the place of a value is brought to its normal form the same way. Values are interned and
patterns look at arguments only, so each distinct value is done once: the cost is linear in the values there were and
those that rules make, whatever the number of rules, which are looked up by the ops at the root and below it.

Rules that ask for users (``only``) or for several outputs see the users of the graph that a *sweep* starts from, so
these are done in sweeps until one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tdagger.errors import AttributeValueError, GraphError, TypeMismatchError, UnsupportedError
from tdagger.graph import Graph, label
from tdagger.op import Array, Op, Value
from tdagger.transform.rewrite.rule import Context, Refused, Rule
from tdagger.transform.rewrite.users import Users

#: What a rule may put in the place of one value, one after the other, before it is taken to go on forever.
CHAIN = 1000


class Fired(NamedTuple):
    """A rule that was applied: in the place of which value of the graph, what it matched and what it put there.

    Of a rule with several outputs, the first one.
    """

    rule: str
    place: Value | None
    before: Value
    after: Value


#: What the ops of a replacement raise, and the rule if it has another type.
MADE_WRONG = (TypeMismatchError, AttributeValueError, UnsupportedError)


def wrong(rule: Rule, place: str, error: Exception) -> Exception:
    """The error of a replacement with the rule's name and the place."""
    return type(error)(f"rule {rule.name} at {place}: {error}")


class RulesNotEnding(GraphError):
    """Rules that undo each other, or that go on without an end."""


class Index:
    """The rules that may apply at a value: by its op, then by the ops of its arguments."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = list(rules)
        self._by_label: dict[str, tuple[Rule, ...]] = {}
        #: Of each op the rules by its arguments' ops (of one argument its op alone); None if no rule starts at it.
        self.of_op: dict[Op, dict[Any, tuple[Rule, ...]] | None] = {}

    def at_op(self, op: Op) -> dict[Any, tuple[Rule, ...]] | None:
        """The table of an op, which is empty at first."""
        if op in self.of_op:
            return self.of_op[op]
        self.of_op[op] = {} if self._starting(op) else None
        return self.of_op[op]

    def _starting(self, op: Op) -> tuple[Rule, ...]:
        name = label(op)
        found = self._by_label.get(name)
        if found is None:
            found = self._by_label[name] = tuple([r for r in self.rules if r.may_match(op)])
        return found

    def at(self, value: Value) -> tuple[Rule, ...]:
        """The rules to try at a value."""
        names = tuple([label(a.op) for a in value.args])
        return tuple([r for r in self._starting(value.op) if r.may_take(names)])


class Driver(Context):
    """One sweep over a graph. ``told`` says of one of its values, for messages, what it is and where it came from."""

    def __init__(
        self,
        graph: Graph,
        rules: Iterable[Rule],
        weights: Mapping[str, Array] | None = None,
        axes: Any = None,
        told: Callable[[Any], str] = repr,
    ) -> None:
        self.graph, self.told = graph, told
        self.index = Index(rules)
        self.normal: dict[Value, Value] = {}
        self.fired: list[Fired] = []
        self.made: dict[Value, Value] = {}
        self.place: Value | None = None
        self._weights, self._axes = weights, axes
        self._known: set[Value] = set()
        self._counts_users = any(r.only for r in self.index.rules)
        self._users = Users(graph if self._counts_users else None)
        self._traces = any(c.asks_graph for r in self.index.rules for c in r.conditions)
        self._sources: dict[Value, list[Value]] = {}

    # What conditions ask.

    def users(self, value: Value) -> list[Value]:
        olds = self._sources.get(value, [value])
        return list(dict.fromkeys(u for o in olds for u in self.graph.users.get(o, ())))

    def axes(self, value: Value) -> Any:
        if self._axes is None:
            raise GraphError("a rule asks for axes, which only a network has: dag.rewrite(rules)")
        old = next(iter(self._sources.get(value, [value])))
        return self._axes()[old] if old in self.graph.users else None

    @property
    def weights(self) -> Mapping[str, Array]:
        if self._weights is None:
            raise GraphError("a rule asks for the values of weights, which its caller doesn't allow: weights=True")
        return self._weights

    def matches(self, rule: Rule, value: Value) -> dict[str, Any] | None:
        """What a rule's wildcards stand for at a value of the graph as it is; None where it doesn't apply."""
        if rule.only and not self._users.counts:
            self._users = Users(self.graph)
        around = (self.graph.users, frozenset[Value]()) if len(rule.patterns) > 1 else None
        bound = rule.match(value, self, self._users.only, around)
        return {n: bound[i] for n, i in rule.slots.items()} if isinstance(bound, list) else None

    # The sweep.

    def run(self) -> Graph:
        """The graph with every value in its normal form."""
        graph, normal = self.graph, self.normal
        of_op, at_op, at = self.index.of_op, self.index.at_op, self.index.at
        get = normal.get
        missing: Any = object()
        for value in graph.values:
            op, old = value.op, value.args
            args: tuple[Value, ...] = old
            n = len(old)
            if n == 1:  # as in graph.rebuild
                (first,) = old
                a = normal[first]
                if a is not first:
                    args = (a,)
            elif n == 2:
                first, second = old
                a, b = normal[first], normal[second]
                if a is not first or b is not second:
                    args = (a, b)
            else:
                args = tuple([normal[a] for a in old])
                if args == old:
                    args = old
            current = value if args is old else op.made(args, value.type)  # rules keep types
            found = get(current)
            if found is None:
                table = of_op.get(op, missing)
                if table is missing:
                    table = at_op(op)
                found = current
                if table is not None:
                    key = args[0].op if n == 1 else (args[0].op, args[-1].op) if n == 2 else tuple([a.op for a in args])
                    rules = table.get(key)
                    if rules is None:
                        rules = table[key] = at(current)
                    if rules:
                        self.place = value
                        after = self._applied(current, rules)
                        if after is not None:
                            found = self._bring(current, after)
                normal[current] = found
            if current is not value:
                normal[value] = found
            if found is not value:
                if self._counts_users:
                    self._users.became(value, found)
                if self._traces:
                    self._sources.setdefault(found, []).append(value)
        inputs, outputs, updates = (
            {k: normal[v] for k, v in d.items()} for d in (graph.inputs, graph.outputs, graph.updates)
        )
        # every normal form, arguments first, with what came of the replaced in its place
        return Graph(inputs, outputs, updates, graph.name, [v for v, n in normal.items() if v is n], complete=True)

    def _applied(self, value: Value, rules: tuple[Rule, ...]) -> tuple[Rule, Value] | None:
        """The first rule that applies at a value whose arguments are in normal form, and what it gives."""
        used = self._users.only if self._counts_users else None
        for rule in rules:
            bound = rule.match(value, self, used)
            if bound.__class__ is not list:
                continue
            try:
                after = rule.apply(value, bound, self)  # type: ignore[arg-type]
            except MADE_WRONG as e:
                raise wrong(rule, self.told(self.place), e) from e
            if isinstance(after, Refused) or after is value:
                continue
            self.fired.append(Fired(rule.name, self.place, value, after))
            return rule, after
        return None

    def _bring(self, start: Value, first: tuple[Rule, Value]) -> Value:
        """The normal form of what a rule put in the place of ``start``; without recursion."""
        normal = self.normal
        # what stands for a value until its normal form is known, and the rule that says so (None: arguments changed)
        standing: dict[Value, tuple[Rule | None, Value]] = {start: first}
        self._note(first[1])
        fires = 0
        stack = [start, first[1]]
        while len(stack) > 1:
            value = stack[-1]
            if value in normal:
                stack.pop()
                continue
            instead = standing.get(value)
            if instead is not None:
                found = normal.get(instead[1])
                if found is None:
                    raise self._undone(stack, standing)
                normal[value] = found
                stack.pop()
                continue
            waiting = [a for a in value.args if a not in normal]
            if waiting:
                stack += reversed(waiting)
                continue
            args = tuple([normal[a] for a in value.args])
            if args != value.args:
                again = value.op.again(args, value.type)
                standing[value] = (None, again)
                if self.place is not None:
                    self.made.setdefault(again, self.place)
            else:
                after = self._applied(value, self._rules(value))
                if after is None:
                    normal[value] = value
                    stack.pop()
                    continue
                self._note(after[1])
                fires += 1
                standing[value] = after
            stack.append(standing[value][1])
            if fires > CHAIN and fires > 2 * len(self.graph):
                raise self._endless(standing)
        return normal[first[1]]

    def _rules(self, value: Value) -> tuple[Rule, ...]:
        table = self.index.at_op(value.op)
        if table is None:
            return ()
        key = value.args[0].op if len(value.args) == 1 else tuple([a.op for a in value.args])
        rules = table.get(key)
        if rules is None:
            rules = table[key] = self.index.at(value)
        return rules

    def _note(self, after: Value) -> None:
        """Remember of what a rule made that it was made in the place of a value of the graph."""
        place = self.place
        if place is None:
            return
        stack = [after]
        while stack:
            value = stack.pop()
            if value in self.made or value in self.normal:
                continue
            self.made[value] = place
            stack += value.args
            if self._counts_users:
                self._users.made(value)

    # What goes wrong.

    def _undone(self, stack: list[Value], standing: Mapping[Value, tuple[Rule | None, Value]]) -> GraphError:
        again = stack[-1]
        loop = stack[stack.index(again) : -1]
        names = [r.name for r, _ in (standing[v] for v in loop if v in standing) if r is not None]
        return undone(names, f"{self.told(self.place)}, where {again!r} comes again")

    def _endless(self, standing: Mapping[Value, tuple[Rule | None, Value]]) -> GraphError:
        names = list(dict.fromkeys(r.name for r, _ in list(standing.values())[-50:] if r is not None))
        what = f"rule {names[0]} goes" if len(names) == 1 else f"rules {', '.join(names)} go"
        last = list(standing)[-1]
        return RulesNotEnding(f"{what} on without an end at {self.told(self.place)}: {last!r} matches again")


def undone(rules: Iterable[str], place: str) -> RulesNotEnding:
    """The error of rules that undo each other, by name."""
    names = list(dict.fromkeys(rules))
    if len(names) == 1:
        return RulesNotEnding(f"rule {names[0]} undoes itself at {place}")
    return RulesNotEnding(f"rules {', '.join(names)} undo each other at {place}: leave one out")
