"""What an execution of a graph holds, step by step: results by the storage they lie in, and scratch of kernels.

A *backend* is a declared table: of each op, whether its result is a view of an argument (that depends on strides, so
they are followed), how much memory it gets otherwise, and how much a kernel holds besides while it works. ``numpy`` is
:func:`tdagger.interpret.run`, ``torch-cpu`` what :meth:`TensorDAG.to_torch` runs
(:mod:`tdagger.analysis.execution.torch_cpu`).

>>> import tdagger as td
>>> x = td.input("x", (2, 3))
>>> y = td.exp(td.permute(td.exp(x), (1, 0)))       # a permute is a view
>>> trace(td.Graph({"x": x}, {"y": y}), NUMPY).peak_bytes
48
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tdagger.analysis.execution.layout import Strides, contiguous, is_contiguous, like, reshaped
from tdagger.composite import Composite
from tdagger.graph import Graph, result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Binary, Bitcast, Cast, Unary, Where
from tdagger.ops.source import Const, Leaf, Parameter
from tdagger.ops.structure import Group, Item, Permute, Reduce, Repeat, Slice, Ungroup
from tdagger.types import TensorType


class Made(NamedTuple):
    """One result of a kernel: its strides, and the argument it is a view of, or the bytes of a storage of its own."""

    strides: Strides
    view_of: int | None = None
    size: int = 0


class Kernel(NamedTuple):
    """What a kernel makes, and the most bytes it holds at one moment beside its arguments and results."""

    results: tuple[Made, ...]
    scratch: int = 0


class Call(NamedTuple):
    """An op on arguments that lie somehow: their types and strides, and the types of the results.

    ``parameters`` are the numbers of those arguments that are parameters.
    """

    op: Op
    types: tuple[TensorType, ...]
    strides: tuple[Strides, ...]
    out: tuple[TensorType, ...]
    parameters: tuple[int, ...] = ()

    def contiguous(self, scratch: int = 0) -> Kernel:
        """Results of their own, row by row."""
        return Kernel(tuple([Made(contiguous(t.shape), None, t.bytes) for t in self.out]), scratch)

    def fresh(self, strides: Strides, scratch: int = 0) -> Kernel:
        """One result of its own."""
        return Kernel((Made(strides, None, self.out[0].bytes),), scratch)

    def view(self, strides: Strides, of: int = 0) -> Kernel:
        """A view of an argument."""
        return Kernel((Made(strides, of),))


Rule = Callable[[Call], Kernel]


@dataclass(frozen=True)
class Backend:
    """A declared table of kernels: ``rules`` by the name of the op.

    A composite without a rule is its body: run inside of the kernel, or, if the backend ``inlines``, in its place,
    so that what it doesn't need any more is freed. Another op without a rule makes contiguous results. ``held`` are
    the ops whose results the backend holds from the start, like weights.
    """

    name: str
    rules: Mapping[str, Rule]
    inlines: bool = False
    held: tuple[type[Op], ...] = (Leaf, Const)


# --- kernels that every backend has ------------------------------------------------------------------------


def _permute(c: Call) -> Kernel:
    assert isinstance(c.op, Permute)
    return c.view(tuple([c.strides[0][i] for i in c.op.order]))


def _slice(c: Call) -> Kernel:
    assert isinstance(c.op, Slice)
    steps = [1 if b is None else b[2] for b in c.op.bounds]
    return c.view(tuple([s * step for s, step in zip(c.strides[0], steps, strict=True)]))


def _repeat(c: Call) -> Kernel:
    old, new = c.types[0].shape, c.out[0].shape
    return c.view(tuple([s if n == m else 0 for s, n, m in zip(c.strides[0], old, new, strict=True)]))


def reshape(c: Call) -> Kernel:
    """A view if the entries lie so, else a copy."""
    strides = reshaped(c.types[0].shape, c.strides[0], c.out[0].shape)
    return c.contiguous() if strides is None else c.view(strides)


def elementwise(c: Call) -> Kernel:
    """A result whose axes lie in the order of the arguments'."""
    shape = c.out[0].shape
    return c.fresh(like(shape, [s for s, t in zip(c.strides, c.types, strict=True) if t.shape == shape]))


def part_of_complex(c: Call) -> Kernel | None:
    """The real or imaginary part: a view of every second number. None for another op."""
    if not isinstance(c.op, Unary) or c.op.kind not in ("real", "imag"):
        return None
    twice = 2 if c.types[0].dtype.is_complex else 1
    return c.view(tuple([twice * s for s in c.strides[0]]))


def bitcast(c: Call) -> Kernel:
    """The same bits with another meaning: a view where they lie row by row."""
    return c.view(c.strides[0]) if is_contiguous(c.types[0].shape, c.strides[0]) else c.contiguous()


def _ordered(c: Call) -> Kernel:
    """The same in numpy, which doesn't look at axes of size 1; a sum keeps the order of its argument too."""
    part, out = part_of_complex(c), c.out[0].shape
    if part is not None:
        return part
    strides = [tuple([s if n > 1 else 0 for s, n in zip(of, out, strict=True)]) for of in c.strides]
    return c.fresh(like(out, strides))


STRUCTURE: dict[str, Rule] = {
    Permute.name: _permute,
    Slice.name: _slice,
    Repeat.name: _repeat,
    Group.name: reshape,
    Ungroup.name: reshape,
}

#: What :func:`tdagger.interpret.run` holds. What a kernel of numpy holds inside isn't counted.
NUMPY = Backend(
    "numpy",
    {
        **STRUCTURE,
        Bitcast.name: bitcast,
        **dict.fromkeys([Unary.name, Binary.name, Where.name, Cast.name, Reduce.name], _ordered),
    },
)


# --- a run -------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A value of the graph (or, of an inlined composite, one of its body for it) and what its kernel does.

    ``held`` are the bytes of results held while it runs, its own among them, ``scratch`` what it needs besides.
    """

    value: Value
    held: int
    scratch: int


@dataclass(frozen=True)
class Trace:
    """What an execution holds: ``peak_bytes`` with scratch, ``held_bytes`` without, and every step."""

    steps: tuple[Step, ...]

    @property
    def peak_bytes(self) -> int:
        """The most bytes at once, of results and scratch; inputs, weights and constants apart."""
        return max([s.held + s.scratch for s in self.steps], default=0)

    @property
    def held_bytes(self) -> int:
        """The most bytes of results at once."""
        return max([s.held for s in self.steps], default=0)

    @property
    def peak_at(self) -> Value | None:
        """The first value that needs the most."""
        most = self.peak_bytes
        return next((s.value for s in self.steps if most and s.held + s.scratch == most), None)


def trace(graph: Graph, backend: Backend, order: Sequence[Value] = ()) -> Trace:
    """What ``backend`` holds while it runs a graph; linear in values. ``order`` is another order of the values."""
    run = _Run(backend)
    laid: dict[Value, _Laid] = {}
    run.walk(order or graph.values, laid, None)
    kept = [k for v in (*graph.outputs.values(), *graph.updates.values()) for k in laid[v].holds()]
    return Trace(tuple(run.steps(kept)))


class _Laid(NamedTuple):
    """Where the results of a value lie: for each the storage (None: the caller's) and the strides."""

    storages: tuple[int | None, ...]
    strides: tuple[Strides, ...]

    def holds(self) -> Iterable[int]:
        return [s for s in self.storages if s is not None]


class _Run:
    def __init__(self, backend: Backend, known: dict[Call, Kernel] | None = None) -> None:
        self.backend = backend
        self.known: dict[Call, Kernel] = {} if known is None else known
        self.sizes: list[int] = []  # of every storage
        self.log: list[tuple[Value, tuple[int, ...], int]] = []  # (value, storages made or used, scratch)

    def walk(self, values: Iterable[Value], laid: dict[Value, _Laid], outer: Value | None) -> None:
        """Run values whose leaves are held, or are in ``laid`` already; ``outer`` is the composite they stand for."""
        held = self.backend.held
        for value in values:
            if value in laid:
                continue
            op = value.op
            if isinstance(op, held):
                laid[value] = _Laid((None,), (contiguous(value.type.shape),))
            elif isinstance(op, Item):
                of = laid[value.args[0]]
                laid[value] = _Laid((of.storages[op.index],), (of.strides[op.index],))
            else:
                args = [laid[a] for a in value.args]
                if isinstance(op, Composite) and self.backend.inlines and op.name not in self.backend.rules:
                    body = op.body(*[a.type for a in value.args])
                    inner = dict(zip(body.inputs.values(), args, strict=True))
                    self.walk(body.values, inner, outer or value)
                    results = [inner[v] for v in body.outputs.values()]
                    laid[value] = _Laid(tuple([r.storages[0] for r in results]), tuple([r.strides[0] for r in results]))
                else:
                    laid[value] = self._made(value, args, outer or value)

    def _made(self, value: Value, args: list[_Laid], outer: Value) -> _Laid:
        types = tuple([a.type for a in value.args])
        learned = tuple([i for i, a in enumerate(value.args) if isinstance(a.op, Parameter)])
        call = Call(value.op, types, tuple([a.strides[0] for a in args]), result_types(value), learned)
        kernel = self._kernel(call)
        storages: list[int | None] = []
        for made in kernel.results:
            if made.view_of is not None:
                storages.append(args[made.view_of].storages[0])
            else:
                storages.append(len(self.sizes))
                self.sizes.append(made.size)
        laid = _Laid(tuple(storages), tuple([m.strides for m in kernel.results]))
        touched = dict.fromkeys([*laid.holds(), *[k for a in args for k in a.holds()]])
        self.log.append((outer, tuple(touched), kernel.scratch))
        return laid

    def _kernel(self, call: Call) -> Kernel:
        found = self.known.get(call)
        if found is None:
            rule = self.backend.rules.get(call.op.name)
            if rule is not None:
                found = rule(call)
            elif isinstance(call.op, Composite) and call.op.definition.numpy_rule is None:
                found = _inside(call, call.op, _Run(self.backend, self.known))
            else:
                found = call.contiguous()
            self.known[call] = found
        return found

    def steps(self, kept: Iterable[int]) -> Iterable[Step]:
        """The bytes held at every step: a storage from the step that makes it to the last that touches it."""
        last = {key: step for step, (_, touched, _) in enumerate(self.log) for key in touched}
        last.update(dict.fromkeys(kept, len(self.log)))
        alive: set[int] = set()
        held = 0
        for step, (value, touched, scratch) in enumerate(self.log):
            for key in touched:
                if key not in alive:
                    alive.add(key)
                    held += self.sizes[key]
            yield Step(value, held, scratch)
            for key in touched:
                if last[key] == step:
                    held -= self.sizes[key]


def _inside(call: Call, op: Composite, run: _Run) -> Kernel:
    """A composite run as its body, by itself; ``run`` is a new one."""
    body = op.body(*call.types)
    first = -len(call.types)  # the arguments' storages: told apart by negative numbers
    args = enumerate(zip(body.inputs.values(), call.strides, strict=True))
    laid = {v: _Laid((first + i,), (strides,)) for i, (v, strides) in args}
    run.walk(body.values, laid, None)
    results: list[Made] = []
    for value in body.outputs.values():
        storage, strides = laid[value].storages[0], laid[value].strides[0]
        if storage is not None and storage < 0:
            results.append(Made(strides, storage - first))
        else:
            results.append(Made(strides, None, 0 if storage is None else run.sizes[storage]))
    return Kernel(tuple(results))
