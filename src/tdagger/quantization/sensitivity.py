"""How much each quantized op changes: by itself, and which have to stay in float for a quality that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tdagger.errors import AttributeValueError, InputError
from tdagger.graph import label
from tdagger.op import Value
from tdagger.quantization.local import qualities
from tdagger.quantization.prepare import Prepared, prepare, prepared_by
from tdagger.quantization.prepare import smooth as with_smooth
from tdagger.tensordag import TensorDAG

#: The options of a quantization that are those of :func:`tdagger.prepare`.
_OF_PREPARE = ("keep", "framework", "activation", "weight")


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


def with_quality(
    dag: TensorDAG, data: Iterable[Any], target: dict[str, Any], scheme: Any = "x86", *, smooth: bool = False,
    **how: Any,
) -> tuple[TensorDAG, list[Found]]:  # fmt: skip
    """The network with as few ops in float as a quality needs: ``sqnr=30`` (dB, of its results on the data).

    The ops that change most by themselves stay in float; how many is found by halving, each time measured. Gives the
    network and the ops that stay. AttributeValueError where all in float isn't enough.
    """
    odd = target.keys() - {"sqnr"}
    if odd or not target:
        raise AttributeValueError(f"quantize: a quality is sqnr=dB, not {target}")
    batches = list(data)
    if smooth:  # once: which ops stay is told by values
        dag = with_smooth(dag, batches, scheme, **{k: v for k, v in how.items() if k in _OF_PREPARE})
    plain: dict[str, Any] = {**how, "correct": False}
    rows = ranked(prepared_by(dag, batches, scheme, **plain), batches)
    keep = how.pop("keep", ())
    kept: list[Any] = [keep] if isinstance(keep, str) or callable(keep) else list(keep)

    def made(count: int) -> tuple[float, TensorDAG]:
        left = {r.value for r in rows[:count]}
        prepared = prepared_by(dag, batches, scheme, keep=[*kept, left.__contains__], **how)
        quantized = prepared.convert()
        return sqnr(prepared, quantized, batches), quantized

    low, high = -1, len(rows) - 1
    best: dict[int, TensorDAG] = {}
    found = made(0)
    if found[0] >= target["sqnr"]:
        return found[1], []
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        found = made(middle)
        if found[0] >= target["sqnr"]:
            high, best[middle] = middle, found[1]
        else:
            low = middle
    if high not in best:
        quality, quantized = made(high)
        if quality < target["sqnr"]:
            raise AttributeValueError(
                f"quantize: with one op quantized the SQNR is {quality:.1f} dB, {target['sqnr']} were asked for"
            )
        best[high] = quantized
    return best[high], rows[:high]
