"""How much each quantized op changes: by itself, and which have to stay in float for a quality that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import AttributeValueError, InputError
from tdagger.graph import label
from tdagger.interpreter import Interpreter
from tdagger.op import Array, Value
from tdagger.quantization.prepare import Prepared, prepare, prepared_by, repaired
from tdagger.quantization.quality.local import floats, qualities
from tdagger.tensordag import TensorDAG

#: The options of a quantization that are those of :func:`tdagger.quantization.prepare.repaired`.
_OF_REPAIRS = ("keep", "framework", "activation", "weight", "least", "equalize", "smooth", "split")


class Found(NamedTuple):
    """What quantizing one op alone does: ``sqnr`` of its result in dB, ``noise`` over all data, relative to it."""

    value: Value
    op: str
    module: str
    sqnr: float
    bytes: int


def sensitivity(dag: TensorDAG, data: Iterable[Any], target: Any = "x86", **how: Any) -> list[Found]:
    """What quantizing each op alone does to its result; see :func:`tdagger.sensitivity`."""
    if iter(data) is data:
        raise InputError("sensitivity: data is read twice: give a list or what can be iterated over again")
    prepared = prepare(dag, target, **how)
    prepared.calibrate(data)
    return ranked(prepared, data)


def ranked(prepared: Prepared, data: Iterable[Any]) -> list[Found]:
    """The ops of a prepared network by what quantizing each alone does, the worst first."""
    found = prepared.compare(data)
    weights = prepared.placement.weights
    sizes = {v: plan.leaf.type.bytes for (v, _), plan in weights.items()}
    out: list[Found] = []
    for value, local in found.items():
        origin = prepared.dag.origins.get(value)
        module = "" if origin is None else origin.module
        out.append(Found(value, label(value.op), module, local.sqnr, sizes.get(value, 0)))
    return sorted(out, key=lambda f: f.sqnr)


def sqnr(prepared: Prepared, quantized: TensorDAG, data: Iterable[Any]) -> float:
    """The signal of the float network's results over what the quantized one's lack, in dB."""
    calls = prepared.calls(data)
    return qualities(prepared.dag, [quantized], calls, prepared.framework, prepared.call)[0]


class Quality:
    """What a quality asks for, and how far a network is from it.

    ``sqnr=dB``: of the results on the data. ``drop=part``: by how much ``metric`` (a function of a network, larger is
    better) may fall below the float network's; without one, how many choices (top 1) may differ from the float one's.
    """

    def __init__(self, target: Mapping[str, Any]) -> None:
        kinds = {"sqnr": {"sqnr"}, "drop": {"drop", "metric"}}
        kind = next((k for k in kinds if k in target), None)
        if kind is None or target.keys() - kinds[kind]:
            raise AttributeValueError(
                f"quantize: a quality is sqnr=dB, or drop=part with or without metric=function, not {dict(target)}"
            )
        self.kind, self.least = kind, float(target[kind])
        self.metric: Callable[[TensorDAG], Any] | None = target.get("metric")
        self.wanted: Any = None

    def reached(self, prepared: Prepared, quantized: TensorDAG, data: list[Any]) -> tuple[float, bool]:
        """What was measured (dB, or the drop), and whether it is enough."""
        if self.kind == "sqnr":
            found = sqnr(prepared, quantized, data)
            return found, found >= self.least
        if self.metric is not None:
            if self.wanted is None:
                self.wanted = self.metric(prepared.dag)
            drop = float(self.wanted - self.metric(quantized))
        else:
            if self.wanted is None:
                self.wanted = _choices(prepared, prepared.dag, data)
            wanted: Array = self.wanted
            drop = float((wanted != _choices(prepared, quantized, data)).mean())
        return drop, drop <= self.least

    def short(self, found: float) -> str:
        """In words: what was reached with the fewest ops quantized, and what was asked for."""
        if self.kind == "sqnr":
            return f"the SQNR is {found:.1f} dB, {self.least:g} were asked for"
        return f"the drop is {found:.4g}, at most {self.least:g} was asked for"


def _choices(prepared: Prepared, dag: TensorDAG, data: Iterable[Any]) -> Array:
    """What a network chooses for each row of its first result: the place of the largest number."""
    runner = Interpreter(dag, prepared.framework)
    found: list[Array] = []
    for call in prepared.calls(data):
        results = floats(runner, prepared.call(runner, call))
        if not results or not results[0].ndim:
            raise InputError("quantize: drop= without metric= counts choices along the last axis of the first result")
        found.append(results[0].argmax(-1).reshape(-1))
    return np.concatenate(found)


def with_quality(
    dag: TensorDAG, data: Iterable[Any], target: dict[str, Any], scheme: Any = "x86", **how: Any
) -> tuple[TensorDAG, list[Found]]:
    """The network with as few ops in float as a :class:`Quality` needs: ``sqnr=30``, or ``drop=0.01``.

    The ops that change most by themselves stay in float; how many is found by halving, each time measured. Gives the
    network and the ops that stay. AttributeValueError where all in float but one isn't enough.
    """
    quality = Quality(target)
    batches = list(data)
    # Repairs are made once: which ops stay is told by values.
    dag, kept = repaired(dag, batches, scheme, **{k: v for k, v in how.items() if k in _OF_REPAIRS})
    how = {k: v for k, v in how.items() if k not in ("keep", "equalize", "split")} | {"smooth": False}
    plain: dict[str, Any] = {**how, "correct": False}
    rows = ranked(prepared_by(dag, batches, scheme, keep=kept, **plain), batches)

    def made(count: int) -> tuple[float, bool, TensorDAG]:
        left = {r.value for r in rows[:count]}
        prepared = prepared_by(dag, batches, scheme, keep=[*kept, left.__contains__], **how)
        quantized = prepared.convert()
        return *quality.reached(prepared, quantized, batches), quantized

    found = made(0)
    if found[1]:
        return found[2], []
    low, high = 0, len(rows) - 1
    best: TensorDAG | None = None
    while high - low > 1:
        middle = (low + high) // 2
        _, enough, network = made(middle)
        if enough:
            high, best = middle, network
        else:
            low = middle
    if best is None:
        reached, enough, best = made(high) if high else found
        if not enough:
            raise AttributeValueError(f"quantize: with one op quantized {quality.short(reached)}")
    return best, rows[:high]
