"""Values of two graphs in pairs: those that compute the same, and those that stand at the same place.

What computes the same has the same class (:mod:`.classes`), which goes from the leaves to the outputs. From outputs,
and from ops that are the only ones of their kind, pairs are followed back through arguments as long as ops have one
name. A pair counts as one thing for what comes after it, so that classes go on behind a difference. Linear: a few walks
over both graphs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import permutations
from typing import Any, NamedTuple

from tdagger.composite import Composite
from tdagger.graph import Graph, label, result_types
from tdagger.op import Value
from tdagger.ops.elementwise import BINARY, Binary
from tdagger.ops.source import Buffer, Const, Input, Leaf, Parameter
from tdagger.ops.structure import Group, Permute, Ungroup
from tdagger.transform.diff.classes import Class, Classes

#: How often pairs are looked for between those that were found.
_ROUNDS = 7
#: How many ops, one after the other, may stand between a value and what it is compared with in the other network.
_INSERTED = 3
#: How many ops may stand where the other network has others, for the value that both are made of to be found.
_WRITTEN = 8


class Side(NamedTuple):
    """A network as it is compared; ``where`` tells the module path of a value, ``digests`` leaves by their data.

    ``carried`` has, of values that only bring another to a layout, that one (:mod:`.layouts`); they have no partners.
    ``entries`` tells the entries of a leaf wherever they lie; None of what can lie in one way only.
    """

    graph: Graph
    where: Callable[[Value], str]
    digests: Mapping[str, bytes]
    carried: Mapping[Value, Value] = {}
    entries: Callable[[str], Hashable] = lambda name: None

    def args(self, value: Value) -> list[Value]:
        """The arguments of a value, in whatever layout."""
        return [self.carried.get(a, a) for a in value.args]


class Result(NamedTuple):
    """An output or an updated buffer of both networks."""

    name: str
    a: Value
    b: Value


class Alignment(NamedTuple):
    """Pairs of values: ``a_of[b]`` and ``b_of[a]``; ``same`` are the values of B whose class A has too.

    ``leaves`` pairs the names of parameters, buffers and inputs of B with those of A.
    """

    a_of: dict[Value, Value]
    b_of: dict[Value, Value]
    same: set[Value]
    leaves: dict[str, str]


def is_leaf(value: Value) -> bool:
    """Whether a value is an input, parameter or buffer."""
    return isinstance(value.op, Leaf)


def paired_leaves(
    a: Side, b: Side, inputs: Mapping[str, str], by_content: bool, look: Callable[[Value], Any] = lambda v: v.type.shape
) -> dict[str, str]:
    """The leaves of B, by name, with those of A: inputs as given, weights by content or by name, the rest in order.

    By content: only what holds the same data, under the same name first, then one after the other. By name: names
    first, then what holds the same data, then the next one of the same shape (that ``look`` tells). What holds the same
    entries at other places (a matrix and its transpose) is neither a pair nor part of another.
    """
    own, other = _weights(a.graph), _weights(b.graph)
    found = dict(inputs)
    free = dict.fromkeys(own)

    def take(name: str, of: str) -> None:
        found[name] = of
        del free[of]

    if by_content:  # under the same name before any other
        for name in other:
            if name in free and a.digests.get(name, b"a") == b.digests.get(name, b"b"):
                take(name, name)
    else:
        for name, value in other.items():
            if name in free and look(own[name]) == look(value):
                take(name, name)
    keys: list[Callable[[Side, Value], Any]] = [
        lambda side, v: side.digests.get(v.op.leaf),  # type: ignore[attr-defined]
        lambda side, v: (look(v), v.op.leaf.rpartition(".")[2]),  # type: ignore[attr-defined]
        lambda side, v: look(v),
    ]
    for i, key in enumerate(keys[:1] if by_content else keys):
        if i == 1:
            mine = [n for n in own if n in free]
            theirs = {b.entries(n) for n in other if n not in found}
            turned = {e for n in mine if (e := a.entries(n)) is not None and e in theirs}
            for name in mine:
                if a.entries(name) in turned:
                    del free[name]
            other = {n: v for n, v in other.items() if n in found or b.entries(n) not in turned}
        queues: dict[Any, deque[str]] = defaultdict(deque)
        for name in free:
            queues[key(a, own[name])].append(name)
        for name, value in other.items():
            queue = queues.get(key(b, value)) if name not in found and key(b, value) is not None else None
            if queue:
                take(name, queue.popleft())
    return found


def _weights(graph: Graph) -> dict[str, Value]:
    return {v.op.leaf: v for v in graph.values if isinstance(v.op, Parameter | Buffer)}


class Aligner:
    """Finds the pairs; ``classes`` is the table of what both graphs compute, ``leaves`` pairs of names."""

    def __init__(
        self, a: Side, b: Side, results: Sequence[Result], classes: Classes, leaves: Mapping[str, str]
    ) -> None:
        self.a, self.b, self.results, self.classes, self.leaves = a, b, results, classes, leaves
        numbers = {n: i for i, n in enumerate(_names(a.graph))}
        self.names_a = {n: ("a", i) for n, i in numbers.items()}
        self.names_b = {n: ("a", numbers[leaves[n]]) if n in leaves else ("b", n) for n in _names(b.graph)}
        self.of_a = classes.walk(a.graph, self._leaf_classes(a.graph, self.names_a))
        self.by_class: dict[Class, list[Value]] = defaultdict(list)
        for value in a.graph.values:
            if value not in a.carried:
                self.by_class[self.of_a[value]].append(value)
        self.alike = classes.alike
        self.forced: dict[Value, Value] = {}
        self.taken: dict[Value, Value] = {}
        self._match()
        #: Whether all results are of one class, without any pair that was taken for one thing.
        self.done = all(self.of_a[r.a] == self.of_b[r.b] for r in results)

    def _leaf_classes(self, graph: Graph, names: Mapping[str, Any]) -> dict[Value, Class]:
        return {
            v: self.classes.number(("leaf", names[v.op.leaf]), v.type.shape)
            for v in graph.values
            if isinstance(v.op, Leaf)
        }

    def _match(self) -> None:
        """Classes of B, where what was paired counts as one thing, and the pairs that follow from them."""
        given = self._leaf_classes(self.b.graph, self.names_b)
        given |= {b: self.of_a[a] for b, a in self.forced.items()}
        self.of_b = self.classes.walk(self.b.graph, given)
        self.a_of: dict[Value, Value] = {}
        self.b_of: dict[Value, Value] = {a: b for b, a in self.forced.items()}
        self.same: set[Value] = set()
        seen: dict[Class, int] = defaultdict(int)
        for value in self.b.graph.values:
            if value in self.forced:
                self.a_of[value] = self.forced[value]
                continue
            there = self.by_class.get(self.of_b[value])
            if not there or value in self.b.carried or self.classes.look(there[0]) != self.classes.look(value):
                continue
            n = seen[self.of_b[value]]
            seen[self.of_b[value]] += 1
            like = [v for v in there if v.op.name == value.op.name and self.a.where(v) == self.b.where(value)]
            like = like or [v for v in there if v.op.name == value.op.name] or there
            mine = like[min(n, len(like) - 1)] if len(like) > 1 else like[0]
            self.a_of[value] = mine
            self.b_of.setdefault(mine, value)
            self.same.add(value)

    def align(self) -> Alignment:
        """All pairs."""
        if not self.done:
            for step in range(_ROUNDS):
                before = len(self.forced)
                self._follow([(r.a, r.b) for r in self.results] if step == 0 else self._alike(step))
                if len(self.forced) > before:
                    self._match()
            if self.alike:  # what is left stands at one place, and is another op
                self.alike = False
                pairs = [p for b, a in self.a_of.items() if a.op.name == b.op.name for p in self.arguments(a, b)]
                self._follow([*[(r.a, r.b) for r in self.results], *pairs])
                self._match()
        return Alignment(self.a_of, self.b_of, self.same, dict(self.leaves))

    def pair_anew(self, partners: Mapping[Value, Value]) -> None:
        """Give values of B other partners in A than they had, which had none; what is between these has none then."""
        for b, a in partners.items():
            old = self.forced.pop(b, None) or self.a_of[b]
            while old is not a:
                self.forced.pop(self.taken.pop(old, old), None)
                old = self.a.graph.users[old][0]
            self.forced[b], self.taken[a] = a, b
        self._match()

    # Pairs from pairs.

    def _open(self, a: Value, b: Value) -> bool:
        """Whether two values may become a pair: neither has a partner, and neither is a leaf."""
        if b in self.a_of or b in self.forced or a in self.b_of or a in self.taken or is_leaf(a) or is_leaf(b):
            return False
        if a in self.a.carried or b in self.b.carried or (self.alike and a.op.name != b.op.name):
            return False
        return len(result_types(a)) == len(result_types(b))

    def _follow(self, pairs: Iterable[tuple[Value, Value]]) -> None:
        """Pair values, and their arguments, place by place, as long as ops have one name and as many arguments."""
        todo = deque(pairs)
        while todo:
            a, b = self._past_reshapes(*todo.popleft())
            if not self._open(a, b):
                continue
            if label(a.op) != label(b.op):  # one may be behind ops that the other network hasn't
                past = [(a, v) for v in self._behind(b, a, self.b)] + [(v, b) for v in self._behind(a, b, self.a)]
                if len(past) > 1:
                    continue
                a, b = past[0] if past else (a, b)
            self.forced[b], self.taken[a] = a, b
            if a.op.name == b.op.name and (
                not isinstance(a.op, Binary) or self.classes.key(a.op) == self.classes.key(b.op)
            ):
                todo.extend(self._summands(a, b) or self.arguments(a, b))
                continue
            x, y = self._source(a, self.a), self._source(b, self.b)
            if x is not None and y is not None and self.classes.look(x) == self.classes.look(y):
                todo.append((x, y))

    def _past_reshapes(self, a: Value, b: Value) -> tuple[Value, Value]:
        """A pair, but what is reshaped in one network alone as it was before: the other may reshape it once, later."""
        while isinstance(a.op, Group | Ungroup) != isinstance(b.op, Group | Ungroup):
            if isinstance(a.op, Permute) or isinstance(b.op, Permute):  # one network may move axes in one go, too
                break
            if [t.shape for t in result_types(a)] == [t.shape for t in result_types(b)]:
                break
            if isinstance(a.op, Group | Ungroup):
                a = a.args[0]
            else:
                b = b.args[0]
        return a, b

    def _summands(self, a: Value, b: Value) -> list[tuple[Value, Value]]:
        """The terms that go together of a sum of three and a sum of two (or products); nothing of other pairs."""
        if not isinstance(a.op, Binary) or not BINARY[a.op.kind].commutes or a.op is not b.op:
            return []
        of_a, of_b = self.a.args(a), self.b.args(b)
        nested = [[x for x in args if x.op is a.op] for args in (of_a, of_b)]
        if sorted(map(len, nested)) != [0, 1]:
            return []
        if nested[0]:
            tried = [[*zip(p, of_b, strict=True)] for p in permutations(_opened(of_a, nested[0][0], self.a), 2)]
        else:
            tried = [[*zip(of_a, p, strict=True)] for p in permutations(_opened(of_b, nested[1][0], self.b), 2)]
        return max(tried, key=lambda pairs: sum(self._likeness(x, y) for x, y in pairs))

    def _source(self, value: Value, side: Side) -> Value | None:
        """The one value that others make another of by a few ops, among those that inputs are behind; None if several.

        So what is before an activation has a partner, also where the other network has another one.
        """
        place = self.places_a if side is self.a else self.places_b
        level = {x for x in side.args(value) if x in place}
        for _ in range(_WRITTEN):
            if len(level) < 2:
                break
            last = max(level, key=place.__getitem__)
            level.remove(last)
            level.update(x for x in side.args(last) if x in place)
        return level.pop() if len(level) == 1 else None

    @cached_property
    def places_a(self) -> dict[Value, int]:
        """Where values of A are that an input is behind, but for inputs."""
        return _made_of_inputs(self.a.graph)

    @cached_property
    def places_b(self) -> dict[Value, int]:
        """The same of B."""
        return _made_of_inputs(self.b.graph)

    def _behind(self, value: Value, other: Value, side: Side) -> list[Value]:
        """The nearest value that one is made of and that looks as another, of those without a partner, if there is one.

        As many ops as may be inserted at once are looked through, but no layer with a matrix of weights.
        """
        look = self.classes.look(other)
        place = self.places_a if side is self.a else self.places_b
        level = [value]
        for _ in range(_INSERTED):
            level = [x for v in level for x in dict.fromkeys(side.args(v))]
            for x in level:
                pair = (other, x) if side is self.b else (x, other)
                if label(x.op) == label(other.op) and self.classes.look(x) == look and self._open(*pair):
                    return [x]
            level = [x for x in level if not _is_layer(x, place)]
        return []

    def arguments(self, a: Value, b: Value) -> list[tuple[Value, Value]]:
        """Arguments of a pair that stand at one place; of ops that commute, those that go together."""
        of_a, of_b = self.a.args(a), self.b.args(b)
        named = _named_arguments(a, of_a), _named_arguments(b, of_b)
        if named[0] is not None and named[1] is not None:
            return [(x, named[1][n]) for n, x in named[0].items() if n in named[1]]
        if len(of_a) != len(of_b):
            return []
        if isinstance(a.op, Binary) and BINARY[a.op.kind].commutes and len(of_a) == 2:
            one = (of_a[0], of_b[0]), (of_a[1], of_b[1])
            other = (of_a[0], of_b[1]), (of_a[1], of_b[0])
            return list(max((one, other), key=lambda pairs: sum(self._likeness(x, y) for x, y in pairs)))
        return list(zip(of_a, of_b, strict=True))

    def _likeness(self, a: Value, b: Value) -> int:
        if self.a_of.get(b) is a or self.forced.get(b) is a or self.of_a[a] == self.of_b[b]:
            return 8
        if b in self.a_of or a in self.b_of:
            return 0
        same = (
            a.op.name == b.op.name,
            self.classes.key(a.op) == self.classes.key(b.op),
            self.a.where(a) == self.b.where(b),
        )
        return 1 + 2 * same[0] + sum(same[1:])

    def _alike(self, step: int) -> list[tuple[Value, Value]]:
        """Values without a partner that look alike: those that are the only ones so first, then in order."""
        token = _TOKENS[min(step - 1, len(_TOKENS) - 1)]
        only = step <= _ONLY
        queues: dict[Any, list[Value]] = defaultdict(list)
        others: dict[Any, list[Value]] = defaultdict(list)
        for v in self.a.graph.values:
            if v not in self.b_of and v not in self.a.carried and not is_leaf(v) and not isinstance(v.op, Const):
                queues[token(v, self.a, self.names_a, self.classes)].append(v)
        for v in self.b.graph.values:
            if v not in self.a_of and v not in self.b.carried and not is_leaf(v) and not isinstance(v.op, Const):
                others[token(v, self.b, self.names_b, self.classes)].append(v)
        pairs: list[tuple[Value, Value]] = []
        for key, mine in others.items():
            theirs = queues.get(key, [])
            if key is not None and (len(mine) == len(theirs) == 1 if only else len(mine) == len(theirs)):
                pairs += zip(theirs, mine, strict=True)
        return pairs


def _opened(args: Sequence[Value], inner: Value, side: Side) -> list[Value]:
    """Arguments with those of one of them in its place."""
    return [x for arg in args for x in (side.args(arg) if arg is inner else [arg])]


def _is_layer(value: Value, fed: Container[Value]) -> bool:
    """Whether a value is a composite of a matrix that no input is behind."""
    weights = (x for x in value.args if x not in fed and not isinstance(x.op, Input))
    return isinstance(value.op, Composite) and any(len(result_types(w)) == 1 and w.type.rank > 1 for w in weights)


def _made_of_inputs(graph: Graph) -> dict[Value, int]:
    found: dict[Value, int] = {}
    for i, value in enumerate(graph.values):
        if any(x in found or isinstance(x.op, Input) for x in value.args):
            found[value] = i
    return found


def _names(graph: Graph) -> list[str]:
    return [v.op.leaf for v in graph.values if isinstance(v.op, Leaf)]


def _named_arguments(value: Value, args: Sequence[Value]) -> dict[str, Value] | None:
    """The arguments of a composite by their names; None for other ops, and where there are any number."""
    definition: Any = getattr(value.op, "definition", None)
    if definition is None or definition.variadic:
        return None
    return dict(zip(definition.argument_names(getattr(value.op, "given", ()), len(value.args)), args, strict=True))


# What values are compared by where nothing else is known of them, the surest first.


def _leaf_keys(args: Sequence[Value], names: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple([names[a.op.leaf] for a in args if isinstance(a.op, Leaf) and not isinstance(a.op, Input)])


def _by_weights(value: Value, side: Side, names: Mapping[str, Any], classes: Classes) -> Any:
    own = _leaf_keys(side.args(value), names)
    return (value.op.name, own) if own else None


def _by_first_weight(value: Value, side: Side, names: Mapping[str, Any], classes: Classes) -> Any:
    own = _leaf_keys(side.args(value), names)  # a bias may be there in one network alone
    return (value.op.name, own[0]) if own else None


def _by_place(value: Value, side: Side, names: Mapping[str, Any], classes: Classes) -> Any:
    path = side.where(value)
    return (path, classes.key(value.op), tuple(classes.look(value))) if path else None


def _by_look(value: Value, side: Side, names: Mapping[str, Any], classes: Classes) -> Any:
    return (classes.key(value.op), tuple(classes.look(value)))


def _by_name(value: Value, side: Side, names: Mapping[str, Any], classes: Classes) -> Any:
    return (side.where(value), value.op.name)


_TOKENS = (_by_weights, _by_first_weight, _by_place, _by_place, _by_look, _by_name)
#: Up to this round, only what there is once in both graphs is paired.
_ONLY = 3
