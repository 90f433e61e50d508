"""Graphs: named inputs, named outputs, and every value in between."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast, overload

from tdagger.depth import nested
from tdagger.errors import GraphError
from tdagger.later import later
from tdagger.names import shown
from tdagger.op import Op, Value, ValueRef, forget
from tdagger.ops.external import External
from tdagger.ops.source import Buffer, Const, Input, Leaf, Parameter
from tdagger.ops.structure import Item
from tdagger.types import TensorType, each_type, least

#: What reads and writes are counted in.
Unit = Literal["bytes", "elements"]
#: Totals as formulas: in the free axes (True), or in the axes of parameters too.
Symbolic = Literal[True, "all"]


#: Whether somebody was seen to have frozen objects.
_others_froze = False


@contextmanager
def bulk(acyclic: bool = False) -> Generator[None, None, None]:
    """Pause Python's cycle collector while many values are made.

    Values hold no cycles, but a collection visits every one of them, again and again as a graph grows: half
    the time of building a large one. Importers and passes build inside ``with bulk():``. Where nothing that was made is
    in a cycle (``acyclic``), the collector takes it all as old when it goes on, and doesn't visit it then either; not
    where somebody has frozen objects of their own, which is asked until it is so: to count them takes as long as
    there are of them.
    """
    global _others_froze
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if was_enabled and acyclic and not _others_froze:
            _others_froze = gc.get_freeze_count() > 0
            if not _others_froze:
                gc.freeze()
                gc.unfreeze()
    finally:
        if was_enabled:
            gc.enable()


def topological(roots: Iterable[Value]) -> list[Value]:
    """Everything the roots reach, arguments before users; no recursion, linear in values and arguments."""
    order: list[Value] = []
    _reach(roots, set(), order, [])
    return order


def _reach(roots: Iterable[Value], done: set[Value], order: list[Value], leaves: list[Value]) -> None:
    """Add to ``done`` and ``order`` what is reached and isn't there yet, first what is first in ``roots``.

    Leaves are added to ``leaves`` too. A value that waits for its arguments lies in the stack below them, under a None,
    so that it is looked at once. ``done`` is a set beside a list, not a dict: addresses, which are the hashes, have
    strides that a set takes better, so that a million values take half the time.
    """
    stack: list[Any] = [*roots]
    stack.reverse()
    push, pop, add, append = stack.append, stack.pop, done.add, order.append
    while stack:
        value: Value | None = pop()
        if value is None:
            value = cast(Value, pop())
            add(value)
            append(value)
            continue
        if value in done:
            continue
        while True:  # from a value to an argument that isn't done, as deep as that goes
            args = value.args
            count = len(args)
            if count == 2:  # most have two arguments or one, for which a loop takes three times the time
                first, second = args
                if first not in done:
                    push(value)
                    push(None)
                    if second not in done:
                        push(second)
                    value = first
                elif second not in done:
                    push(value)
                    push(None)
                    value = second
                else:
                    add(value)
                    append(value)
                    break
            elif count == 1:
                (first,) = args
                if first in done:
                    add(value)
                    append(value)
                    break
                push(value)
                push(None)
                value = first
            else:
                new = [a for a in args if a not in done]
                if not new:
                    add(value)
                    append(value)
                    if not count:
                        leaves.append(value)
                    break
                push(value)
                push(None)
                value = new[0]
                stack += new[:0:-1]


def _ordered(given: Iterable[Value], needed: list[Value]) -> list[Value]:
    """What is needed, in a given order where that lets arguments come first; linear."""
    done: set[Value] = set()
    order: list[Value] = []
    for value in given:
        if value in done:
            continue
        for arg in value.args:
            if arg not in done:
                _reach([value], done, order, [])
                break
        else:
            done.add(value)
            order.append(value)
    _reach(needed, done, order, [])
    return _used(order, needed)


def _used(order: list[Value], needed: list[Value]) -> list[Value]:
    """Those of some values, arguments first, that others need."""
    reached = set(needed)
    update = reached.update
    for value in reversed(order):
        if value in reached:
            update(value.args)
    return order if len(reached) == len(order) else [v for v in order if v in reached]


class Graph:
    """Inputs, outputs and buffer updates, all named; immutable.

    ``updates`` maps the name of a buffer to its value after a run: a network that changes a buffer is a pure
    function here. Two graphs are equal if their names and values are: values are interned, so that is
    equality node for node. ``order`` lists values in the order a walk should take where arguments leave it
    open, the source's for an imported network; without it, each value comes when it is first needed. Where the caller
    knows that it has all that is needed, inputs and arguments first, it is ``complete``.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 3))
    >>> g = td.Graph({"x": x}, {"y": td.exp(x) + 1.0})
    >>> g.total_flops(), g == td.Graph({"x": x}, {"y": td.exp(x) + 1.0})
    (12, True)
    """

    def __init__(
        self,
        inputs: Mapping[str, Value],
        outputs: Mapping[str, Value],
        updates: Mapping[str, Value] | None = None,
        name: str = "graph",
        order: Iterable[Value] = (),
        complete: bool = False,
    ) -> None:
        self.inputs = dict(inputs)
        self.outputs = dict(outputs)
        self.updates = dict(updates or {})
        self.name = name
        self._order, self._complete = order, complete
        for key, value in self.inputs.items():
            if not isinstance(value.op, Input) or value.op.leaf != key:
                why = f"input {key!r} must be an input leaf of that name, got {value!r}"
                raise GraphError(f"graph {shown(name)}: {why}")

    @classmethod
    def ordered(
        cls,
        inputs: Mapping[str, Value],
        outputs: Mapping[str, Value],
        updates: Mapping[str, Value],
        name: str,
        values: list[Value],
    ) -> Graph:
        """A graph of exactly these values: the caller knows that they are all it needs, inputs and arguments first."""
        graph = cls(inputs, outputs, updates, name)
        graph.__dict__["values"] = values
        return graph

    @cached_property
    def values(self) -> list[Value]:
        """Every value, arguments before users: the inputs first, then what the outputs and updates need."""
        needed = [*self.inputs.values(), *self.outputs.values(), *self.updates.values()]
        if self._order:
            if self._complete:
                order = _used(list(self._order), needed)
            else:
                order = _ordered([*self.inputs.values(), *self._order], needed)
            leaves: list[Value] = [v for v in order if not v.args]
            self._order = ()
        else:
            order, leaves = list[Value](), list[Value]()
            _reach(needed, set(), order, leaves)
        known = set(self.inputs.values())
        strange = [v for v in leaves if isinstance(v.op, Input) and v not in known]
        if strange:
            why = f"the outputs need {strange[0]!r}, which is not among the inputs"
            raise GraphError(f"graph {shown(self.name)}: {why}")
        return order

    def __iter__(self) -> Iterator[Value]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def _key(self) -> tuple[Any, ...]:
        return (tuple(self.inputs.items()), tuple(self.outputs.items()), tuple(sorted(self.updates.items())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((tuple(self.inputs.items()), tuple(self.outputs.items())))

    def __repr__(self) -> str:
        inputs, outputs = len(self.inputs), len(self.outputs)
        return f"<Graph {shown(self.name)}: {inputs} inputs, {outputs} outputs, {len(self)} values>"

    def __reduce__(self) -> Any:
        """Pickled as a flat table of ops and the places of their arguments, without recursion."""
        place = {value: i for i, value in enumerate(self.values)}
        ops = [v.op for v in self.values]
        args = [tuple([place[a] for a in v.args]) for v in self.values]
        named = [{k: place[v] for k, v in d.items()} for d in (self.inputs, self.outputs, self.updates)]
        return (_from_table, (ops, args, named, self.name))

    def _leaves(self, kind: type[Leaf]) -> dict[str, Value]:
        return {v.op.leaf: v for v in self.values if isinstance(v.op, kind)}

    @cached_property
    def parameters(self) -> dict[str, Value]:
        """The parameters the outputs need, by name."""
        return self._leaves(Parameter)

    @cached_property
    def buffers(self) -> dict[str, Value]:
        """The buffers the outputs need, by name."""
        return self._leaves(Buffer)

    @cached_property
    def constants(self) -> list[Value]:
        """The constants the outputs need."""
        return [v for v in self.values if isinstance(v.op, Const)]

    @cached_property
    def external(self) -> Counter[str]:
        """The external ops, those in bodies and branches too, with counts: their flops are not in the totals."""
        return _external(self, {})

    @cached_property
    def users(self) -> dict[Value, list[Value]]:
        """For each value, the values that take it as an argument (once each)."""
        users: dict[Value, list[Value]] = {v: [] for v in self.values}
        for value in self.values:
            for arg in dict.fromkeys(value.args):
                users[arg].append(value)
        return users

    @cached_property
    def traffic(self) -> dict[Value, Traffic]:
        """Bytes that each value reads and writes; see :func:`traffic`."""
        return traffic(self.values)

    def _traffic(self, unit: str) -> dict[Value, Traffic]:
        return self.traffic if unit == "bytes" else traffic(self.values, unit)

    @cached_property
    def costs(self) -> Any:
        """The totals as formulas, ``analysis.formulas.formula.Costs``."""
        return later("costs")(self)

    # Totals; each is a sum of the ops' own rules. Symbolic ones are sympy expressions in the names of free axes, with
    # "all" in those of parameters too, where axes with a name of one letter and of one size are taken for one.

    @overload
    def total_bytes(self, symbolic: Literal[False] = False) -> int: ...
    @overload
    def total_bytes(self, symbolic: Symbolic) -> Any: ...
    def total_bytes(self, symbolic: bool | Symbolic = False) -> Any:
        """Bytes of all parameters, buffers and constants, each once."""
        if symbolic:
            return self.costs.expression("bytes", symbolic == "all")
        leaves = [*self.parameters.values(), *self.buffers.values(), *self.constants]
        return sum(v.type.bytes for v in leaves)

    @overload
    def total_flops(self, symbolic: Literal[False] = False) -> int: ...
    @overload
    def total_flops(self, symbolic: Symbolic) -> Any: ...
    def total_flops(self, symbolic: bool | Symbolic = False) -> Any:
        """Arithmetic operations on elements: a multiply-add is 2, summing n numbers n - 1, a function 1.

        >>> import tdagger as td
        >>> x = td.input("x", (2, 3))
        >>> td.Graph({"x": x}, {"y": td.softmax(x, axis=1)}).total_flops(symbolic=True)
        b*(5*s - 2)
        """
        if symbolic:
            return self.costs.expression("flops", symbolic == "all")
        return sum(map(flops, self.values))

    @overload
    def total_memory_reads(self, unit: Unit = "bytes", symbolic: Literal[False] = False) -> int: ...
    @overload
    def total_memory_reads(self, unit: Unit = "bytes", *, symbolic: Symbolic) -> Any: ...
    def total_memory_reads(self, unit: Unit = "bytes", symbolic: bool | Symbolic = False) -> Any:
        """What every op reads, its arguments at a composite's boundary; views (group, ungroup, repeat) read nothing."""
        if symbolic:
            return self.costs.expression("reads" if unit == "bytes" else "elements read", symbolic == "all")
        return sum(t.reads for t in self._traffic(unit).values())

    @overload
    def total_memory_writes(self, unit: Unit = "bytes", symbolic: Literal[False] = False) -> int: ...
    @overload
    def total_memory_writes(self, unit: Unit = "bytes", *, symbolic: Symbolic) -> Any: ...
    def total_memory_writes(self, unit: Unit = "bytes", symbolic: bool | Symbolic = False) -> Any:
        """What every op writes, its results at a composite's boundary; views (group, ungroup, repeat) write nothing."""
        if symbolic:
            return self.costs.expression("writes" if unit == "bytes" else "elements written", symbolic == "all")
        return sum(t.writes for t in self._traffic(unit).values())


def _from_table(ops: list[Op], args: list[tuple[int, ...]], named: list[dict[str, int]], name: str) -> Graph:
    """The graph that :meth:`Graph.__reduce__` took apart."""
    values: list[Value] = []
    with bulk():
        for op, places in zip(ops, args, strict=True):
            values.append(op(*[values[i] for i in places]))
    inputs, outputs, updates = ({k: values[i] for k, i in d.items()} for d in named)
    return Graph(inputs, outputs, updates, name, values)


@nested
def _external(graph: Graph, known: dict[Any, Counter[str]]) -> Counter[str]:
    """The external ops of a graph; ``known`` are those inside an op on arguments of some types."""
    found: Counter[str] = Counter()
    for value in graph.values:
        if isinstance(value.op, External):
            found[f"{value.op.framework}:{value.op.target}"] += 1
            continue
        key = (value.op, tuple([a.type for a in value.args]))
        inside = known.get(key)
        if inside is None:
            inside = known[key] = Counter()
            for inner in value.op.inside(*key[1]):
                inside.update(_external(inner, known))
        if inside:
            found.update(inside)
    return found


def result_types(value: Value) -> tuple[TensorType, ...]:
    """The types of all results of a value: one, or several for an op with several."""
    return each_type(value.type)


def is_one(value: Value) -> bool:
    """Whether a value is one tensor, not the several results of one op."""
    return value.type.__class__ is TensorType


def flops(value: Value) -> int:
    """Arithmetic operations on elements of one value."""
    return value.op.flops(value.type, *[a.type for a in value.args])


def branches(value: Value) -> tuple[Graph, ...]:
    """The graphs of which a run executes one, each on all arguments, for a value whose op ``has_branches``."""
    op = cast(Any, value.op)
    return op.branches(*[a.type for a in value.args])


def is_view(value: Value) -> bool:
    """Whether a value is a view of its argument: nothing is read or written to have it."""
    return bool(value.args) and value.op.moves_nothing(*[a.type for a in value.args])


class Traffic(NamedTuple):
    """What a value reads of its arguments and writes of its results."""

    reads: int
    writes: int


def traffic(values: Iterable[Value], unit: str = "bytes") -> dict[Value, Traffic]:
    """What each value reads and writes, in bytes or elements; ``values`` are in topological order.

    Composites count at their boundary. Views (group, ungroup, repeat) cost nothing; reading one reads, at
    most, the elements behind it.
    """
    found: dict[Value, Traffic] = {}
    stored: dict[Value, int] = {}  # of a view, the elements behind it
    for value in values:
        reads = writes = 0
        if is_view(value):
            base = value.args[0]
            if not isinstance(value.op, Item):
                stored[value] = least(base.type.size, stored.get(base, base.type.size))
        elif not isinstance(value.op, Leaf | Const):
            read = value.op.reads(value.type, *[a.type for a in value.args])
            for n, arg in zip(read, value.args, strict=True):
                each = arg.type.dtype.bytes if unit == "bytes" else 1
                reads += least(n, stored.get(arg, n)) * each
            writes = sum(t.bytes if unit == "bytes" else t.size for t in result_types(value))
        found[value] = Traffic(reads, writes)
    return found


def rebuild(graph: Graph, rule: Callable[[Value], Value | None]) -> tuple[Graph, dict[Value, Value]]:
    """The graph with ``rule`` applied to every value, and what became of each value.

    The rule sees each value after its arguments were rebuilt and returns what stands for it, or None to keep
    it. Values whose arguments didn't change are kept as they are. Linear; this is the one rewrite driver.
    """
    new: dict[Value, Value] = {}
    same_types = True  # so far every value has the type it had, so types need not be inferred again
    with bulk():
        for value in graph.values:
            old = value.args
            args: tuple[Value, ...] = old
            count = len(old)
            if count == 1:  # as in _reach
                (first,) = old
                a = new[first]
                if a is not first:
                    args = (a,)
            elif count == 2:
                first, second = old
                a, b = new[first], new[second]
                if a is not first or b is not second:
                    args = (a, b)
            elif count:
                args = tuple([new[a] for a in old])
                if args == old:
                    args = old
            if args is old:
                current = value
            elif same_types:  # Op.made written out: calling it is a tenth of the time
                op = value.op
                table = op.values
                current = Value()
                current.op, current.args, current.type = op, args, value.type
                ref = ValueRef(current, forget)
                ref.args, ref.table = args, table
                if table.setdefault(args, ref) is not ref:
                    current = op.settled(current, ref)
            else:
                current = value.op(*args)
            replaced = rule(current)
            if replaced is None:
                new[value] = current
            else:
                new[value] = replaced
                same_types = same_types and replaced.type is current.type
    inputs = {k: new[v] for k, v in graph.inputs.items()}
    outputs = {k: new[v] for k, v in graph.outputs.items()}
    updates = {k: new[v] for k, v in graph.updates.items()}
    return Graph(inputs, outputs, updates, graph.name, new.values()), new


def replayed(graph: Graph, new: Mapping[Value, Value]) -> dict[Value, Value]:
    """What becomes of every value where ``new`` stands for some (the inputs): its op on what its arguments became."""
    found = dict(new)
    with bulk():
        for value in graph.values:
            if value not in found:
                found[value] = value.op(*[found[a] for a in value.args])
    return found


def remade(value: Value, new: Mapping[Value, Value]) -> Value:
    """What becomes of one value where ``new`` stands for some that it is made of.

    >>> import tdagger as td
    >>> x, y = td.input("x", (2,)), td.input("y", (2,))
    >>> remade(td.exp(x) + x, {x: y}) is td.exp(y) + y
    True
    """
    found: dict[Value, Value] = {}
    stack = [value]
    while stack:
        v = stack[-1]
        waiting = [] if v in found or v in new else [a for a in v.args if a not in found]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        if v not in found:
            found[v] = new[v] if v in new else v.op(*[found[a] for a in v.args]) if v.args else v
    return found[value]


def applied(graph: Graph, args: Sequence[Value]) -> tuple[Value, ...]:
    """The results of a graph with values in the places of its inputs.

    >>> import tdagger as td
    >>> x, y = td.input("x", (2,)), td.input("y", (2,))
    >>> applied(td.Graph({"x": x}, {"out": td.exp(x)}), [y])[0] is td.exp(y)
    True
    """
    new = replayed(graph, dict(zip(graph.inputs.values(), args, strict=True)))
    return tuple([new[v] for v in graph.outputs.values()])


def op_counts(values: Iterable[Value]) -> Counter[str]:
    """How often each op occurs, by name; elementwise ops under the name of their function."""
    return Counter(label(v.op) for v in values)


def label(op: Op) -> str:
    """The name an op is counted under: its function for elementwise ops, the title of a block, else its name."""
    own = _NAMED_BY.get(op.name)
    return op.name if own is None else cast(str, getattr(op, own, op.name))


#: Ops that go by the name that one of their attributes has.
_NAMED_BY = {"unary": "kind", "binary": "kind", "block": "title"}
