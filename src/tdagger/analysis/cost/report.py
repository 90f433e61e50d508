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
from typing import Any

from tdagger.analysis.attention.finder import Macs, attention
from tdagger.analysis.cost.backward import BackwardWork, summed
from tdagger.analysis.cost.counter import Counter
from tdagger.analysis.cost.traffic import MODELS, Moved, moved
from tdagger.analysis.memory.activations import Memory, memory
from tdagger.errors import AttributeValueError
from tdagger.graph import Graph, Traffic, Unit, bulk, label
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.pickling import HoldsValues

# --- what is reported --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What is counted of one value or of many; ``docs/counting.md`` defines each number.

    ``macs`` multiply-adds of contractions, ``contraction_flops`` 2 for each, of which ``attention_flops`` are of
    attention's two products and ``attention_flops_causal`` of the pairs that its mask lets through;
    ``elementwise_flops`` all that isn't a contraction, of which ``transcendental`` are exp, log, sin, tanh, erf, pow,
    sqrt and their like; ``total_flops`` as the graph's. Bytes (and elements) read and written if every core op
    (``materialised``), every composite (``composite``), or only what can't be fused (``fused``) goes through memory.
    """

    macs: int
    contraction_flops: int
    attention_flops: int
    attention_flops_causal: int
    elementwise_flops: int
    transcendental: int
    total_flops: int
    materialised: Traffic
    composite: Traffic
    fused: Traffic
    materialised_elements: Traffic
    composite_elements: Traffic
    fused_elements: Traffic
    backward: BackwardWork | None = field(default=None, kw_only=True)

    @property
    def backward_macs(self) -> int:
        """Multiply-adds of the contractions that give gradients; AttributeValueError if they weren't asked for."""
        return self._backward.macs

    @property
    def backward_contraction_flops(self) -> int:
        """2 for each of ``backward_macs``."""
        return 2 * self._backward.macs

    @property
    def recomputed_flops(self) -> int:
        """2 for each multiply-add that torch's fused attention has in its backward pass besides ``backward_macs``."""
        return 2 * self._backward.recomputed

    @property
    def _backward(self) -> BackwardWork:
        if self.backward is None:
            raise AttributeValueError("the backward pass wasn't counted: ask for it with cost(backward=True)")
        return self.backward

    @property
    def reads(self) -> int:
        """Bytes read, at the boundaries of composites."""
        return self.composite.reads

    @property
    def writes(self) -> int:
        """Bytes written, at the boundaries of composites."""
        return self.composite.writes

    def traffic(self, model: str = "composite", unit: Unit = "bytes") -> Traffic:
        """Read and written under a model (materialised, composite or fused), in bytes or elements.

        AttributeValueError for another model or unit.
        """
        if model not in MODELS:
            raise AttributeValueError(f"no model of traffic is called {model!r}; there are {', '.join(MODELS)}")
        if unit not in ("bytes", "elements"):
            raise AttributeValueError(f"traffic is counted in bytes or elements, not in {unit!r}")
        return getattr(self, model if unit == "bytes" else f"{model}_elements")

    def intensity(self, model: str = "composite") -> float:
        """Arithmetic intensity: total flops for each byte read or written; 0 without flops, inf without bytes."""
        moved = sum(self.traffic(model))
        return self.total_flops / moved if moved else math.inf if self.total_flops else 0.0


_COUNTED = tuple(f.name for f in fields(Count) if f.name != "backward")
_NUMBERS = tuple(name for name in _COUNTED if not name.startswith(tuple(MODELS)))


@dataclass(frozen=True)
class Row(HoldsValues, Count):
    """The counts of one value, of an op's values, or of a module's: its ``name``, and how many ops it stands for.

    A value's row has that value and the module it is from.
    """

    name: str = ""
    ops: int = 1
    module: str = ""
    value: Value | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Cost(HoldsValues, Count):
    """What a network costs in all, and ``by_op``, ``by_module`` (inner modules included) and ``by_value``.

    ``peak_bytes`` are the most bytes of activations alive at once, in the graph's order; ``memory`` has all about it.
    ``partial`` names what isn't counted, with how often it occurs: if there is any, the numbers are lower bounds.
    ``unknown_masks`` names what masks of attention depend on that the graph doesn't know (inputs, weights), with the
    number of attentions: what such a mask leaves out is counted in ``attention_flops_causal``.
    ``at_most`` names what chooses by data between branches that cost differently: the one with the most flops counts.
    """

    memory: Memory
    partial: Mapping[str, int]
    unknown_masks: Mapping[str, int]
    at_most: Mapping[str, int]
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
        lines = [f"{name:22} {getattr(self, name):>18,}" for name in _NUMBERS]
        if self.backward is not None:
            names = ("backward_macs", "backward_contraction_flops", "recomputed_flops")
            lines += ["", *(f"{name:26} {getattr(self, name):>14,}" for name in names)]
        lines += [""] + [
            f"{name:13} reads {t.reads:>20,} B   writes {t.writes:>20,} B   {self.intensity(name):>9.2f} flops/B"
            for name, t in ((name, self.traffic(name)) for name in MODELS)
        ]
        lines += ["", f"{'peak_bytes':18} {m.peak_bytes:>22,}   of activations, inputs {m.input_bytes:,} apart"]
        weights = f"parameters {m.parameter_bytes:,}, buffers {m.buffer_bytes:,}, constants {m.constant_bytes:,}"
        lines += [f"{'weight_bytes':18} {m.weight_bytes:>22,}   {weights}", ""]
        lines += [f"{'op':28} {'ops':>6} {'macs':>18} {'total_flops':>18} {'reads':>16} {'writes':>16}"]
        lines += [
            f"{shown(r.name)[:28]:28} {r.ops:>6} {r.macs:>18,} {r.total_flops:>18,} {r.reads:>16,} {r.writes:>16,}"
            for r in self.by_op
        ]
        if self.partial:
            names = ", ".join(f"{shown(name)} ({n} times)" for name, n in self.partial.items())
            lines += ["", f"PARTIAL: not counted, so that every number is a lower bound: {names}"]
        if self.unknown_masks:
            names = ", ".join(f"{shown(name)} ({n} times)" for name, n in self.unknown_masks.items())
            lines += ["", f"UNKNOWN MASKS: attention_flops_causal counts what these may mask too: {names}"]
        if self.at_most:
            names = ", ".join(f"{shown(name)} ({n} times)" for name, n in self.at_most.items())
            lines += ["", f"AT MOST: data decide what is run, and the branch with the most flops is counted: {names}"]
        return "\n".join(lines)


# --- counting ----------------------------------------------------------------------------------------------


def cost_of(
    graph: Graph,
    origins: Mapping[Value, Any] | None = None,
    aliases: Mapping[str, str] | None = None,
    backward: Mapping[Value, BackwardWork] | None = None,
) -> Cost:
    """What a graph costs. Reads no weights; linear in values and arguments.

    ``origins`` tells the module a value is from (an object with a ``module``), ``aliases`` which weights are tied,
    ``backward`` what the backward pass of values costs (:func:`tdagger.analysis.cost.backward.backward`).
    """
    with bulk():
        return _cost(graph, origins or {}, aliases or {}, backward)


def _cost(
    graph: Graph,
    origins: Mapping[Value, Any],
    aliases: Mapping[str, str],
    backward: Mapping[Value, BackwardWork] | None,
) -> Cost:
    counter = Counter()
    work = counter.graph(graph)
    attended = attention(graph, counter.products)
    models = list(moved(graph).values())
    rows: list[Row] = []
    for value in graph.values:
        if isinstance(value.op, Leaf | Const):
            continue
        macs, contracted, transcendental, total = work[value]
        origin = origins.get(value)
        module = origin.module if origin is not None else ""
        full, causal = attended.macs.get(value, _NO_ATTENTION)
        numbers = (macs, 2 * macs, 2 * full, 2 * causal, total - contracted, transcendental, total)
        counts = (*numbers, *_traffic([model[value] for model in models]))
        back = None if backward is None else backward.get(value, BackwardWork())
        rows.append(Row(*counts, name=label(value.op), module=module, value=value, backward=back))
    modules = _grouped([(r.module, r) for r in rows], by_size=False)  # each alone first: many values have one path
    return Cost(
        *_sum(rows),
        backward=None if backward is None else summed(backward.values()),
        memory=memory(graph, aliases),
        partial=dict(graph.external),
        unknown_masks=dict(attended.unknown),
        at_most=dict(counter.uneven(graph)),
        by_op=_grouped([(r.name, r) for r in rows]),
        by_module=_grouped([(path, r) for r in modules for path in outward(r.name)], by_size=False),
        by_value=tuple(rows),
    )


_NO_ATTENTION = Macs(0, 0)


def _traffic(models: list[Moved]) -> tuple[Traffic, ...]:
    """Bytes under each model, then elements."""
    return (*[Traffic(m[0], m[1]) for m in models], *[Traffic(m[2], m[3]) for m in models])


def outward(path: str) -> list[str]:
    """A module path and all it is inside of, the whole network ("") first.

    >>> outward("layers.0.attn")
    ['', 'layers', 'layers.0', 'layers.0.attn']
    """
    parts = path.split(".") if path else []
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]


def _grouped(named: Iterable[tuple[str, Row]], by_size: bool = True) -> tuple[Row, ...]:
    """A row for every name, the sum of its rows; the most flops (then traffic) first, or as they come."""
    groups: dict[str, list[Row]] = {}
    for name, row in named:
        groups.setdefault(name, []).append(row)
    found = [
        Row(*_sum(of), name=name, ops=sum(r.ops for r in of), backward=_backward_sum(of)) for name, of in groups.items()
    ]
    return tuple(sorted(found, key=lambda r: (-r.total_flops, -r.reads - r.writes)) if by_size else found)


def _backward_sum(rows: Iterable[Row]) -> BackwardWork | None:
    counted = [row.backward for row in rows if row.backward is not None]
    return summed(counted) if counted else None


_columns = attrgetter(*_COUNTED)


def _sum(rows: Iterable[Row]) -> tuple[Any, ...]:
    """The sum of every column."""
    columns = list(zip(*map(_columns, rows), strict=True))
    n = len(_NUMBERS)
    if not columns:
        return (*[0] * n, *[Traffic(0, 0)] * (len(_COUNTED) - n))
    return (*map(sum, columns[:n]), *[Traffic(*map(sum, zip(*c, strict=True))) for c in columns[n:]])
