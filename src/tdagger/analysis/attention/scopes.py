"""Values where they stand: among a network's own ops or in the body of a composite, and walks across both.

>>> import tdagger as td
>>> from tdagger.analysis.cost.contractions import contractions
>>> x = td.input("x", (2, 3))
>>> y = td.softmax(x, axis=1)
>>> walk = Walk(td.Graph({"x": x}, {"y": y}), contractions)
>>> scope, value = walk.place(walk.top, y)          # what a softmax gives is made by a product
>>> value, walk.outermost((scope, value)) is y
(<multiply(f32[2 3], f32[2 3]) -> f32[2 3]>, True)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tdagger.composite import Composite
from tdagger.graph import Graph
from tdagger.op import Op, Value
from tdagger.ops.source import Buffer, Input, Leaf, Parameter, Random
from tdagger.ops.structure import Item

#: What a value depends on: inputs, parameters, buffers, and products (contractions or random numbers).
INPUT, WEIGHT, BUFFER, PRODUCT = 1, 2, 4, 8
#: What is no weight: what depends on an input, or is made by a product.
DATA = INPUT | PRODUCT
_LEAVES: dict[type[Op], int] = {Input: INPUT, Parameter: WEIGHT, Buffer: BUFFER, Random: PRODUCT}


@dataclass(eq=False)
class Scope:
    """The graph, or the body of the composite ``call`` in ``parent``: what its values depend on, its products."""

    graph: Graph
    products: dict[Value, Value]
    depends: dict[Value, int]
    parent: Scope | None = None
    call: Value | None = None
    inner: dict[Value, Scope] = field(default_factory=dict["Value", "Scope"])
    constants: dict[Value, Value] = field(default_factory=dict["Value", "Value"])

    def __post_init__(self) -> None:
        self.of_sum = {total: product for product, total in self.products.items()}
        self.results = set(self.graph.outputs.values())


#: A value where it stands: a core op's, or one that is made of constants alone.
Place = tuple[Scope, Value]
_K = TypeVar("_K", bound=Hashable)


def arguments_first(start: _K, children: Callable[[_K], list[_K]], known: dict[_K, Any]) -> Iterator[_K]:
    """What ``start`` needs that isn't known, and itself, each after its children."""
    stack = [start]
    while stack:
        node = stack[-1]
        waiting = [] if node in known else [c for c in children(node) if c not in known]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if node not in known:
            yield node


class Walk:
    """Walks through a graph and the bodies of its composites, which are entered when they are needed.

    ``products`` gives the contractions of a graph or body.
    """

    def __init__(self, graph: Graph, products: Callable[[Graph], dict[Value, Value]]) -> None:
        self._products_of = products
        self._own: dict[Any, int] = {}
        self.top = self._scope(graph)

    def _scope(self, graph: Graph, depends: dict[Value, int] | None = None, *where: Any) -> Scope:
        products = self._products_of(graph)
        found: dict[Value, int] = depends or {}
        for value in graph.values:
            if value not in found:
                own = self._own_of(value.op, value) | (PRODUCT if value in products else 0)
                for arg in value.args:
                    own |= found[arg]
                found[value] = own
        return Scope(graph, products, found, *where)

    def _own_of(self, op: Op, value: Value) -> int:
        """What an op's result depends on besides its arguments."""
        if not isinstance(op, Composite):
            return _LEAVES.get(type(op), 0)
        key = (op, tuple([a.type for a in value.args]))
        if key not in self._own:
            body = op.counted(*key[1])
            inner = [self._own_of(v.op, v) for v in body.values if not isinstance(v.op, Leaf)]
            self._own[key] = PRODUCT if self._products_of(body) or PRODUCT in inner else 0
        return self._own[key]

    def enter(self, scope: Scope, call: Value) -> Scope:
        """The body of a composite in ``scope``."""
        found = scope.inner.get(call)
        if found is None:
            assert isinstance(call.op, Composite)
            body = call.op.counted(*[a.type for a in call.args])
            given = zip(body.inputs.values(), call.args, strict=True)
            depends = {name: scope.depends[arg] for name, arg in given}
            found = scope.inner[call] = self._scope(body, depends, scope, call)
        return found

    def place(self, scope: Scope, value: Value) -> Place:
        """Where a value is made: out of a body for its arguments, into bodies for their results."""
        while scope.depends[value]:
            if isinstance(value.op, Input) and scope.parent is not None and scope.call is not None:
                value = scope.call.args[list(scope.graph.inputs.values()).index(value)]
                scope = scope.parent
            elif isinstance(value.op, Composite):
                scope = self.enter(scope, value)
                value = next(iter(scope.graph.outputs.values()))
            elif isinstance(value.op, Item) and isinstance(value.args[0].op, Composite):
                index = value.op.index
                scope = self.enter(scope, value.args[0])
                value = list(scope.graph.outputs.values())[index]
            else:
                break
        return scope, value

    def args(self, place: Place) -> list[Place]:
        scope, value = place
        return [self.place(scope, a) for a in value.args]

    def users(self, scope: Scope, value: Value) -> Iterator[Place]:
        """The core ops that take a value, inside bodies and out of them."""
        for user in scope.graph.users[value]:
            if isinstance(user.op, Composite):
                inner = self.enter(scope, user)
                for name, arg in zip(inner.graph.inputs.values(), user.args, strict=True):
                    if arg is value:
                        yield from self.users(inner, name)
            else:
                yield scope, user
        if scope.parent is not None and scope.call is not None and value in scope.results:
            if len(scope.graph.outputs) == 1:
                yield from self.users(scope.parent, scope.call)
                return
            at = [i for i, v in enumerate(scope.graph.outputs.values()) if v is value]
            for item in scope.parent.graph.users[scope.call]:
                if isinstance(item.op, Item) and item.op.index in at:
                    yield from self.users(scope.parent, item)

    def outermost(self, place: Place) -> Value:
        """The value of the graph itself that a place is inside of."""
        scope, value = place
        while scope.parent is not None and scope.call is not None:
            scope, value = scope.parent, scope.call
        return value

    def constant(self, scope: Scope, value: Value) -> Value:
        """A value made of constants alone, in a body, as one that stands for itself."""
        if scope.parent is None or scope.call is None:
            return value
        known = scope.constants
        for node in arguments_first(value, lambda v: list(v.args), known):
            if isinstance(node.op, Input):
                at = list(scope.graph.inputs.values()).index(node)
                known[node] = self.constant(scope.parent, scope.call.args[at])
            else:
                known[node] = node.op(*[known[a] for a in node.args])
        return known[value]
