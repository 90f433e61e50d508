"""What a walk over a TFLite model does itself: subgraphs that operators call, and variables.

A branch by a number that is known is that branch; another is the composite ``cond``. While a program is written
(:mod:`tdagger.frameworks.tflite.programs`), branches and loops are its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tdagger import library as lib
from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.choosing import chosen
from tdagger.frameworks.tflite.state import Resource
from tdagger.names import shown
from tdagger.network import Origin
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf
from tdagger.program.trace import is_tracing, tracing
from tdagger.program.write import if_, while_loop

if TYPE_CHECKING:
    from tdagger.frameworks.tflite.importer import Frame, Walk
    from tdagger.frameworks.tflite.schema import Node

Results = Sequence[Value | Resource | None]

#: What is said of loops where no program is written.
AS_PROGRAM = "which a TDAG doesn't have: td.Program.from_tflite imports it as blocks"
#: A loop of so many turns is written out where no program is written.
_TURNS = 1 << 14
#: What a variable begins as is worked out up to so many entries.
_ENTRIES = 1 << 22


class Flow:
    """The operators of a walk that take subgraphs or variables."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        #: Whether a subgraph is walked that says what variables begin as; or a branch of a ``cond``.
        self.initialising = self.choosing = False
        self.once: set[int] = set()

    def called(self, frame: Frame, node: Node, origin: Origin) -> Results:
        """The results of a node."""
        return _CALLS[node.op](self, frame, node, origin)

    def draw(self) -> Value:
        """The seed of a random stream; none in a loop, where it would be the same in each turn."""
        if is_tracing() and tracing().frames:
            raise UnsupportedError("it draws random numbers in a loop, which would be the same in each turn")
        return self.walk.draw()

    def _args(self, frame: Frame, indices: Sequence[int]) -> list[Value | Resource]:
        found = [self.walk.find(frame, i) for i in indices]
        args = [v for v in found if v is not None]
        if len(args) != len(found):
            raise SourceError("an input of it is made by nothing")
        return args

    # Variables.

    def var_handle(self, frame: Frame, node: Node, origin: Origin) -> Results:
        options = node.options
        return [Resource(str(options.get("container") or ""), str(options.get("shared_name") or ""))]

    def _resource(self, frame: Frame, node: Node) -> Resource:
        (found,) = self._args(frame, node.inputs[:1])
        if not isinstance(found, Resource):
            raise SourceError("its first input is no variable")
        return found

    def read_variable(self, frame: Frame, node: Node, origin: Origin) -> Results:
        return [self.walk.variables.read(self._resource(frame, node))]

    def assign_variable(self, frame: Frame, node: Node, origin: Origin) -> Results:
        resource = self._resource(frame, node)
        (value,) = self._args(frame, node.inputs[1:2])
        if not isinstance(value, Value):
            raise SourceError("what it assigns is no tensor")
        if self.choosing:
            raise UnsupportedError(f"a branch assigns variable {shown(resource.name)}, {AS_PROGRAM}")
        if self.initialising:
            self.walk.variables.initialise(resource, self._worked_out(value, resource))
        else:
            self.walk.variables.assign(resource, value)
        return []

    def _worked_out(self, value: Value, resource: Resource) -> Array:
        """What a variable begins as."""
        if isinstance(value.op, Leaf) and value.op.leaf in self.walk.tensors:
            return self.walk.tensors[value.op.leaf]
        if value.type.size > _ENTRIES:
            raise UnsupportedError(f"variable {shown(resource.name)} begins as {value.type}, which isn't worked out")
        found = self.walk.known.array(value)
        if found is None:
            raise UnsupportedError(f"what variable {shown(resource.name)} begins as depends on data")
        return np.ascontiguousarray(found)

    def call_once(self, frame: Frame, node: Node, origin: Origin) -> Results:
        """What is run before the first call: it says what variables begin as."""
        index = int(node.options.get("init_subgraph_index", 0))
        if index not in self.once:
            self.once.add(index)
            before, self.initialising = self.initialising, True
            self.walk.in_subgraph(index, [], f"{frame.place}once/")
            self.initialising = before
        return []

    # Subgraphs.

    def if_(self, frame: Frame, node: Node, origin: Origin) -> Results:
        asked, *args = self._args(frame, node.inputs)
        if not isinstance(asked, Value):
            raise SourceError("what it chooses by is no tensor")
        branches = [int(node.options.get(k, 0)) for k in ("then_subgraph_index", "else_subgraph_index")]
        places = [f"{frame.place}{n}/" for n in ("then", "else")]
        known = self.walk.known.array(asked)
        if known is not None:
            which = 0 if bool(known.reshape(-1)[0]) else 1
            return self.walk.in_subgraph(branches[which], args, places[which])

        def arm(which: int) -> Callable[[], tuple[Value, ...]]:
            return lambda: _values(self.walk.in_subgraph(branches[which], args, places[which]))

        predicate = lib.reshape(asked, shape=())
        if is_tracing():
            found = cast("tuple[Value, ...]", if_(predicate, arm(0), arm(1)))
        else:
            found = self._cond(predicate, arm)
        self.walk.note(found, origin)
        return found

    def _cond(self, predicate: Value, arm: Callable[[int], Callable[[], tuple[Value, ...]]]) -> tuple[Value, ...]:
        """Both branches as the graphs of a ``cond``."""
        before, self.choosing = self.choosing, True
        results = [arm(which)() for which in (0, 1)]
        self.choosing = before
        return chosen(predicate, *results)

    def while_(self, frame: Frame, node: Node, origin: Origin) -> Results:
        args = self._args(frame, node.inputs)
        test, body = (int(node.options.get(k, 0)) for k in ("cond_subgraph_index", "body_subgraph_index"))
        if not is_tracing():
            return self._written_out(frame, args, test, body)
        carried = [i for i, v in enumerate(args) if isinstance(v, Value)]

        def filled(values: Sequence[Value]) -> list[Value | Resource]:
            own = iter(values)
            return [v if isinstance(v, Resource) else next(own) for v in args]

        def going(*values: Value) -> Value:
            found = _values(self.walk.in_subgraph(test, filled(values), f"{frame.place}cond/"))
            if len(found) != 1 or found[0].type.size != 1:
                raise SourceError("the condition of its loop isn't one number")
            return lib.reshape(found[0], shape=())

        def turn(*values: Value) -> tuple[Value, ...]:
            found = self.walk.in_subgraph(body, filled(values), f"{frame.place}body/")
            if [v for v in found if isinstance(v, Resource)] != [v for v in args if isinstance(v, Resource)]:
                raise UnsupportedError("its loop gives other variables than it takes")
            return tuple([v for v in found if isinstance(v, Value)])

        start = tuple([v for v in args if isinstance(v, Value)])
        found = cast("tuple[Value, ...]", while_loop(going, turn, start)) if carried else ()
        self.walk.note(found, origin)
        return filled(found)

    def _written_out(self, frame: Frame, args: list[Value | Resource], test: int, body: int) -> Results:
        """The turns of a loop one after the other, where each condition is a number that no input is behind."""
        turns = 0
        while True:
            found = _values(self.walk.in_subgraph(test, args, f"{frame.place}cond/"))
            known = self.walk.known.array(found[0]) if len(found) == 1 and found[0].type.size == 1 else None
            if known is None:
                raise UnsupportedError(f"it is a loop of as many turns as the data says, {AS_PROGRAM}")
            if not bool(known.reshape(-1)[0]):
                return args
            args = self.walk.in_subgraph(body, args, f"{frame.place}body/")
            turns += 1
            if turns > _TURNS:
                raise UnsupportedError(f"it is a loop of more than {_TURNS} turns, {AS_PROGRAM}")

    def composite(self, frame: Frame, node: Node, origin: Origin) -> Results:
        """A composite of StableHLO is the subgraph that defines it."""
        index = int(node.options.get("decomposition_subgraph_index", -1))
        name = str(node.options.get("name") or "composite").replace("/", "_")
        return self.walk.in_subgraph(index, self._args(frame, node.inputs), f"{frame.place}{name}/")


def _values(found: Sequence[Value | Resource]) -> tuple[Value, ...]:
    if not all(isinstance(v, Value) for v in found):
        raise UnsupportedError("a subgraph gives a variable, where a tensor is needed")
    return tuple([v for v in found if isinstance(v, Value)])


_CALLS: dict[str, Callable[[Flow, Any, Any, Origin], Results]] = {
    "ASSIGN_VARIABLE": Flow.assign_variable, "CALL_ONCE": Flow.call_once, "IF": Flow.if_,
    "READ_VARIABLE": Flow.read_variable, "STABLEHLO_COMPOSITE": Flow.composite, "VAR_HANDLE": Flow.var_handle,
    "WHILE": Flow.while_,
}  # fmt: skip
