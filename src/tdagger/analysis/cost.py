"""What a network costs, counted: multiply-adds, flops of each kind, traffic under three models, memory.

Every number is found on core ops, so there is no rule per layer: a *contraction* is a product of two tensors that is
then summed, wherever it stands. ``docs/counting.md`` defines each number.

>>> import tdagger as td
>>> x, w = td.input("x", (2, 7, 3)), td.parameter("w", (5, 3))
>>> cost = cost_of(td.Graph({"x": x}, {"y": td.softmax(td.linear(x, w), axis=2)}))
>>> cost.macs, cost.contraction_flops, cost.elementwise_flops, cost.transcendental, cost.total_flops
(210, 420, 322, 70, 672)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, NamedTuple

from tdagger.analysis.memory import Memory, memory
from tdagger.analysis.traffic import MODELS
from tdagger.composite import Composite
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, Traffic, bulk, flops, label
from tdagger.op import Op, Value
from tdagger.ops.elementwise import BINARY, UNARY, Binary, Cast, Unary
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Group, Permute, Reduce, Ungroup
from tdagger.types import TensorType

# --- contractions ------------------------------------------------------------------------------------------


def contractions(graph: Graph) -> dict[Value, Value]:
    """The products of a graph that are only taken by sums, each with its (first) sum; those inside composites left out.

    Between a product and its sums there may be permute, group, ungroup and casts. Both factors come from an input or
    a weight (what is made of constants alone weighs, it isn't data), and aren't one value (that is a norm's square).
    """
    kept = {*graph.outputs.values(), *graph.updates.values()}
    data: set[Value] = set()
    found: dict[Value, Value] = {}
    for value in graph.values:
        if isinstance(value.op, Leaf) or any(a in data for a in value.args):
            data.add(value)
        if isinstance(value.op, Binary) and value.op.kind == "multiply":
            x, y = value.args
            total = _sum_of(graph, value, kept) if x is not y and x in data and y in data else None
            if total is not None:
                found[value] = total
    return found


def _sum_of(graph: Graph, product: Value, kept: set[Value]) -> Value | None:
    """The first sum that takes a product; None if anything but sums does."""
    sums: list[Value] = []
    stack = [product]
    while stack:
        value = stack.pop()
        if value in kept:
            return None
        for user in graph.users[value]:
            if isinstance(user.op, Reduce) and user.op.kind == "sum":
                sums.append(user)
            elif _only_moves(user):
                stack.append(user)
            else:
                return None
    return sums[0] if sums else None


def _only_moves(value: Value) -> bool:
    op = value.op
    if isinstance(op, Permute | Group | Ungroup | Cast):
        return True
    return isinstance(op, Composite) and len(value.args) == 1 and op.moves_nothing(value.args[0].type)


class _Work(NamedTuple):
    """Work of one value or of several: ``contracted`` are the flops of products and their sums among ``flops``."""

    macs: int
    contracted: int
    transcendental: int
    flops: int


class _Counter:
    """Counts the work of values, that of a composite once for each op and types of arguments."""

    def __init__(self) -> None:
        self._known: dict[tuple[Op, tuple[TensorType, ...]], _Work] = {}

    def graph(self, graph: Graph) -> dict[Value, _Work]:
        """The work of every value."""
        products = contractions(graph)
        sums = set(products.values())
        return {v: self._value(v, v in products, v in sums) for v in graph.values}

    def _value(self, value: Value, is_product: bool, is_sum: bool) -> _Work:
        if isinstance(value.op, Composite):
            return self._composite(value, value.op)
        own = flops(value)
        macs = value.type.size if is_product else 0
        return _Work(macs, own if is_product or is_sum else 0, own if _is_transcendental(value.op) else 0, own)

    def _composite(self, value: Value, op: Composite) -> _Work:
        key = (op, tuple([a.type for a in value.args]))
        work = self._known.get(key)
        if work is None:
            if op.definition.flops_each is not None:
                work = _Work(0, 0, 0, flops(value))
            else:
                each = self.graph(op.body(*key[1])).values()
                work = _Work(*map(sum, zip(*each, strict=True)))
            self._known[key] = work
        return work


def _is_transcendental(op: Op) -> bool:
    if isinstance(op, Unary):
        return UNARY[op.kind].transcendental
    return isinstance(op, Binary) and BINARY[op.kind].transcendental


# --- what is reported --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What is counted of one value or of many; ``docs/counting.md`` defines each number.

    ``macs`` multiply-adds of contractions, ``contraction_flops`` 2 for each; ``elementwise_flops`` all that isn't a
    contraction, of which ``transcendental`` are exp, log, sin, tanh, erf, pow, sqrt and their like; ``total_flops`` as
    the graph's. Bytes read and written if every core op (``materialised``), every composite (``composite``), or only
    what can't be fused (``fused``) goes through memory.
    """

    macs: int
    contraction_flops: int
    elementwise_flops: int
    transcendental: int
    total_flops: int
    materialised: Traffic
    composite: Traffic
    fused: Traffic

    @property
    def reads(self) -> int:
        """Bytes read, at the boundaries of composites."""
        return self.composite.reads

    @property
    def writes(self) -> int:
        """Bytes written, at the boundaries of composites."""
        return self.composite.writes

    def traffic(self, model: str = "composite") -> Traffic:
        """Bytes read and written under a model: materialised, composite or fused; AttributeValueError for another."""
        if model not in MODELS:
            raise AttributeValueError(f"no model of traffic is called {model!r}; there are {', '.join(MODELS)}")
        return getattr(self, model)

    def intensity(self, model: str = "composite") -> float:
        """Arithmetic intensity: total flops for each byte read or written; 0 without flops, inf without bytes."""
        moved = sum(self.traffic(model))
        return self.total_flops / moved if moved else math.inf if self.total_flops else 0.0


_COUNTED = tuple(f.name for f in fields(Count))


@dataclass(frozen=True)
class Row(Count):
    """The counts of one value, of an op's values, or of a module's: its ``name``, and how many ops it stands for.

    A value's row has that value and the module it is from.
    """

    name: str = ""
    ops: int = 1
    module: str = ""
    value: Value | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Cost(Count):
    """What a network costs in all, and ``by_op``, ``by_module`` (inner modules included) and ``by_value``.

    ``peak_bytes`` are the most bytes of activations alive at once, in the graph's order; ``memory`` has all about it.
    ``partial`` names what isn't counted, with how often it occurs: if there is any, the numbers are lower bounds.
    """

    memory: Memory
    partial: Mapping[str, int]
    by_op: tuple[Row, ...] = field(repr=False)
    by_module: tuple[Row, ...] = field(repr=False)
    by_value: tuple[Row, ...] = field(repr=False)

    @property
    def peak_bytes(self) -> int:
        """The most bytes of activations alive at once, in the graph's order."""
        return self.memory.peak_bytes

    @property
    def is_partial(self) -> bool:
        """Whether anything is not counted."""
        return bool(self.partial)

    def __str__(self) -> str:
        m = self.memory
        lines = [f"{name:18} {getattr(self, name):>22,}" for name in _COUNTED[:5]]
        lines += [""] + [
            f"{name:13} reads {t.reads:>20,} B   writes {t.writes:>20,} B   {self.intensity(name):>9.2f} flops/B"
            for name, t in ((name, self.traffic(name)) for name in MODELS)
        ]
        lines += ["", f"{'peak_bytes':18} {m.peak_bytes:>22,}   of activations, inputs {m.input_bytes:,} apart"]
        weights = f"parameters {m.parameter_bytes:,}, buffers {m.buffer_bytes:,}, constants {m.constant_bytes:,}"
        lines += [f"{'weight_bytes':18} {m.weight_bytes:>22,}   {weights}", ""]
        lines += [f"{'op':28} {'ops':>6} {'macs':>18} {'total_flops':>18} {'reads':>16} {'writes':>16}"]
        lines += [
            f"{r.name[:28]:28} {r.ops:>6} {r.macs:>18,} {r.total_flops:>18,} {r.reads:>16,} {r.writes:>16,}"
            for r in self.by_op
        ]
        if self.partial:
            names = ", ".join(f"{name} ({n} times)" for name, n in self.partial.items())
            lines += ["", f"PARTIAL: not counted, so that every number is a lower bound: {names}"]
        return "\n".join(lines)


# --- counting ----------------------------------------------------------------------------------------------


def cost_of(graph: Graph, origins: Mapping[Value, Any] | None = None, aliases: Mapping[str, str] | None = None) -> Cost:
    """What a graph costs. Reads no weights; linear in values and arguments.

    ``origins`` tells the module a value is from (an object with a ``module``), ``aliases`` which weights are tied.
    """
    with bulk():
        return _cost(graph, origins or {}, aliases or {})


def _cost(graph: Graph, origins: Mapping[Value, Any], aliases: Mapping[str, str]) -> Cost:
    work = _Counter().graph(graph)
    models = [model(graph) for model in MODELS.values()]
    rows: list[Row] = []
    for value in graph.values:
        if isinstance(value.op, Leaf | Const):
            continue
        macs, contracted, transcendental, total = work[value]
        origin = origins.get(value)
        module = origin.module if origin is not None else ""
        counts = (macs, 2 * macs, total - contracted, transcendental, total, *(model[value] for model in models))
        rows.append(Row(*counts, name=label(value.op), module=module, value=value))
    return Cost(
        *_sum(rows),
        memory=memory(graph, aliases),
        partial=dict(graph.external),
        by_op=_grouped([(r.name, r) for r in rows]),
        by_module=_grouped([(path, r) for r in rows for path in _outward(r.module)], by_size=False),
        by_value=tuple(rows),
    )


def _outward(path: str) -> list[str]:
    """A module path and all it is inside of, the whole network ("") first."""
    parts = path.split(".") if path else []
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]


def _grouped(named: Iterable[tuple[str, Row]], by_size: bool = True) -> tuple[Row, ...]:
    """A row for every name, the sum of its rows; the most flops (then traffic) first, or as they come."""
    groups: dict[str, list[Row]] = {}
    for name, row in named:
        groups.setdefault(name, []).append(row)
    found = [Row(*_sum(of), name=name, ops=len(of)) for name, of in groups.items()]
    return tuple(sorted(found, key=lambda r: (-r.total_flops, -r.reads - r.writes)) if by_size else found)


_columns = attrgetter(*_COUNTED)


def _sum(rows: Iterable[Row]) -> tuple[Any, ...]:
    """The sum of every column."""
    columns = list(zip(*map(_columns, rows), strict=True))
    if not columns:
        return (*[0] * 5, *[Traffic(0, 0)] * 3)
    numbers = map(sum, columns[:5])
    return (*numbers, *[Traffic(sum(t.reads for t in c), sum(t.writes for t in c)) for c in columns[5:]])
