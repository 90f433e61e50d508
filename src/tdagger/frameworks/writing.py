"""What the writers of files share: the walk over a graph, and what is looked through on the way."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast

from tdagger.errors import InputError, UnsupportedError
from tdagger.graph import Graph, topological
from tdagger.names import shown, untaken
from tdagger.network import N, Network, Origin
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, Parameter
from tdagger.ops.structure import Group, Item, Permute, Repeat, Ungroup
from tdagger.program.parts import Raise
from tdagger.program.program import Program
from tdagger.transform.idioms import ACTIVATIONS, NORMS
from tdagger.transform.legal.legalize import Problem
from tdagger.transform.legal.target import label
from tdagger.transform.rewrite import applied

#: An operator as it is written, which has ``outputs``.
Written = TypeVar("Written", bound=Any)

#: Composites that give back their first argument.
SAME = frozenset({"stop_gradient", "dropout"})
#: So many views may stand on one another before one of them is written.
_VIEWS = 48
#: So far a constant is looked behind for the weight that it is named by.
_BEHIND = 64


#: The tensors and attributes of a composite by name.
Fields = dict[str, Any]


def fields(value: Value) -> Fields:
    """The tensors and attributes of a composite by name: None for a tensor that wasn't given, a tuple for any number.

    >>> import tdagger as td
    >>> fields(td.linear(td.input("x", (2, 3)), td.input("w", (4, 3))))
    {'x': <input x() -> f32[2 3]>, 'weight': <input w() -> f32[4 3]>, 'bias': None}
    """
    op: Any = value.op
    definition = op.definition
    if definition.variadic:
        return {definition.tensors[0]: value.args, **op.attributes}
    given = dict(zip(definition.argument_names(op.given, len(value.args)), value.args, strict=True))
    return {**dict.fromkeys(definition.tensors), **given, **op.attributes}


class Names:
    """The names of a file, each once: a taken one gets the next number behind it.

    >>> names = Names(first=1)
    >>> [names.new(n) for n in ("x", "x", "x_1", "x")]
    ['x', 'x_1', 'x_1_1', 'x_2']
    """

    def __init__(self, taken: Iterable[str] = (), first: int = 0) -> None:
        self._taken, self._first = set(taken), first
        #: The next number of names that were taken before.
        self._next: dict[str, int] = {}

    def new(self, name: str) -> str:
        """A name like this one that nothing has yet."""
        own = name
        if own in self._taken:
            count = self._next.get(name, self._first)
            while own in self._taken:
                own, count = f"{name}_{count}", count + 1
            self._next[name] = count
        self._taken.add(own)
        return own


def recognised(dag: N) -> N:
    """The network with written-out activations and norms as the composites that formats have operators for.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: x * 0.5 * (td.erf(x / 2**0.5) + 1.0), {"x": (2,)})
    >>> [v.op.name for v in recognised(dag).values]
    ['input', 'gelu']
    """
    return applied(dag, (*ACTIVATIONS, *NORMS))[0]


def weight_behind(value: Value) -> str | None:
    """The name of the weight that a value is made of first; None where there is none near."""
    seen = 0
    while value.args and seen < _BEHIND and not isinstance(value.op, Parameter | Buffer):
        value, seen = value.args[0], seen + 1
    return value.op.leaf if isinstance(value.op, Parameter | Buffer | Input) else None


def check_program(program: Program, form: str, may_vary: bool = False) -> None:
    """UnsupportedError for what no file can say of a program: that it raises; and that sizes vary, unless they may.

    A check in a branch that gives nothing is no step that anything needs, so it is looked for before any is written.
    """
    raising = {n: b.end.message for n, b in program.blocks.items() if isinstance(b.end, Raise)}
    if raising:
        told = ", ".join(f"block {shown(n)}: {shown(text)}" for n, text in list(raising.items())[:3])
        raise UnsupportedError(
            f"{shown(program.name)} can't go to {form}: it raises where its inputs are refused, which a file can't: "
            f"program.trusted() (convert --trusted) is without that ({told})"
        )
    varying = [n for n, slot in program.slots.items() if slot.lengths]
    if varying and not may_vary:
        told = ", ".join(map(shown, varying))
        raise UnsupportedError(f"{shown(program.name)} can't go to {form}: sizes of {told} vary, which isn't written")


def block_until(program: Program, block: str, after: set[str]) -> Graph:
    """What of a block has to be written for the slots that are read after it."""
    graph = program.blocks[block].graph
    outputs = {n: v for n, v in graph.outputs.items() if n in after}
    values = set(topological(outputs.values()))
    inputs = {n: v for n, v in graph.inputs.items() if v in values}
    return Graph(inputs, outputs, name=graph.name, order=[v for v in graph.values if v in values])


def needed(ops: Sequence[Written], outputs: Iterable[str], reads: Callable[[Written], Iterable[str]]) -> list[Written]:
    """The operators that some results depend on, in order; ``reads`` are the names that one takes."""
    wanted = set(outputs)
    kept: list[Written] = []
    for op in reversed(ops):
        if wanted.isdisjoint(op.outputs):
            continue
        kept.append(op)
        wanted.update(reads(op))
    return kept[::-1]


def inserted(short: Sequence[int], long: Sequence[int]) -> list[int] | None:
    """The axes of size 1 that ``long`` has more than ``short``; None if that isn't all there is to it.

    >>> inserted((2, 3), (2, 1, 3)), inserted((2, 3), (3, 1, 2))
    ([1], None)
    """
    new: list[int] = []
    at = 0
    for i, n in enumerate(long):
        if at < len(short) and short[at] == n:
            at += 1
        elif n == 1:
            new.append(i)
        else:
            return None
    return new if at == len(short) else None


def with_weights(dag: Network) -> None:
    """InputError for a weight that the graph needs and that has no data."""
    for name in dag.graph.parameters | dag.graph.buffers:
        if name not in dag.weights:
            raise InputError(f"{shown(dag.name)}: the weights have no {shown(name)}, which the graph needs")


def results_of(graph: Graph, taken: Container[str] = ()) -> dict[str, Value]:
    """The outputs of a file: those of the graph, and what buffers that change become as ``<name>.updated``.

    What has a name that is ``taken``, as of an input where one name can't be both, has underscores behind it.
    """
    found: dict[str, Value] = {}
    for name, value in [*graph.outputs.items(), *((f"{n}.updated", v) for n, v in graph.updates.items())]:
        name = untaken(name, taken, found)
        found[name] = value
    return found


# --- what is looked through --------------------------------------------------------------------------------


def is_reshape(value: Value) -> bool:
    """Whether a value has the entries of its argument in the same order, and other axes."""
    return isinstance(value.op, Group | Ungroup) or value.op.name == "reshape"


def reshaped(value: Value) -> Value:
    """What a chain of reshapes starts from."""
    while is_reshape(value) or value.op.name in SAME:
        value = value.args[0]
    return value


def adds_leading_axes(value: Value) -> bool:
    """Whether a value is its argument with axes of size 1 in front, which broadcasting adds by itself."""
    if not is_reshape(value):
        return False
    shape, old = value.type.shape, value.args[0].type.shape
    extra = len(shape) - len(old)
    return extra >= 0 and shape[:extra] == (1,) * extra and shape[extra:] == old


def unbroadcast(value: Value) -> Value:
    """The value that broadcasts to ``value``: its repeats and leading axes of size 1 left out."""
    while isinstance(value.op, Repeat) or adds_leading_axes(value):
        value = value.args[0]
    return value


def permuted(value: Value) -> tuple[Value, tuple[int, ...]]:
    """What a chain of permutes starts from, and the order of all of them."""
    order = tuple(range(value.rank))
    while isinstance(value.op, Permute):
        order = tuple([value.op.order[i] for i in order])
        value = value.args[0]
    return value, order


# --- the walk ----------------------------------------------------------------------------------------------


class Walk:
    """Writes the values of a graph in its order, each once, and after what it is made of.

    A writer says what a value is in its file (:meth:`_result`). Views, and what no input is behind (``static``), are
    written where something asks for them with :meth:`ref`: a repeat whose users broadcast by themselves never is. What
    can't be written is in ``problems``.
    """

    #: The errors of rows that are problems of the value they are of.
    refuses: ClassVar[tuple[type[Exception], ...]] = (UnsupportedError,)

    def __init__(self, graph: Graph, origins: Mapping[Value, Origin], weights: Mapping[str, Array]) -> None:
        self.graph, self.origins, self.weights = graph, origins, weights
        self.users = graph.users
        self.problems: list[Problem] = []
        #: What stands in the file for values: a name or number, a tuple or list for an op with several results.
        self.found: dict[Value, Any] = {}
        #: Values that no input is behind, as far as they are constants of the file.
        self.static: set[Value] = set()
        #: How many views a view that waits stands on.
        self._views: dict[Value, int] = {}
        self._origin: Origin | None = None

    def ref(self, value: Value) -> Any:
        """What stands for a value in the file; for all results of an op that has several."""
        if value not in self.found:
            self._write(value)
        return self.found[value]

    def write(self, roots: Iterable[Value]) -> None:
        """Write everything that is needed for some values."""
        for value in self.graph.values:
            if value not in self.found and not self._waits(value):
                self._visit(value)
        for root in roots:
            self.ref(root)

    def _write(self, value: Value) -> None:
        """Write a value, and before it what it needs that isn't written yet."""
        stack = [value]
        while stack:
            v = stack[-1]
            missing = [] if v in self.found or v in self.static else [a for a in v.args if not self._stands(a)]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            if v not in self.found and (v is value or not self._waits(v)):
                self._visit(v)

    def _stands(self, value: Value) -> bool:
        """Whether nothing has to be written before a value can be asked for."""
        return value in self.found or value in self.static or value in self._views

    def _waits(self, value: Value) -> bool:
        """Whether a value is written only where something asks for it."""
        if value in self.static:
            return True
        if not self._is_view(value):
            return False
        depth = self._views[value] = 1 + max((self._views.get(a, 0) for a in value.args), default=0)
        return depth % _VIEWS != 0

    def _is_view(self, value: Value) -> bool:
        return isinstance(value.op, Repeat | Item) or is_reshape(value) or value.op.name in SAME

    def _visit(self, value: Value) -> None:
        before = self._origin
        self._origin = self.origins.get(value, before)
        try:
            out: Any = self._result(value)
            if isinstance(out, Value):
                out = self.ref(out)
            elif isinstance(out, tuple):
                each = cast(tuple[Any, ...], out)
                out = tuple([self.ref(v) if isinstance(v, Value) else v for v in each])
            self.found[value] = out
        except self.refuses as e:
            self.problems.append(Problem(label(value), str(e), self._origin))
            count = len(value.type) if isinstance(value.type, tuple) else 0
            self.found[value] = self._unknown(value, count)
        self._origin = before

    def _unknown(self, value: Value, count: int) -> Any:
        """What stands for a value that can't be written, so that the others can be looked at."""
        return ("?",) * count if count else "?"

    def _result(self, value: Value) -> Any:
        """What stands for a value, or another value (or a tuple of them) that does."""
        raise NotImplementedError
