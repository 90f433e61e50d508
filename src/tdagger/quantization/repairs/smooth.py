"""Channels made alike before they are rounded: a factor for each, moved from a layer's input into its weight.

``x @ w.T`` is ``(x / s) @ (w * s).T``. Where one channel is far larger than others, a step for all of them is too wide
for the others; its factor makes it small and its weights large (SmoothQuant); weights alone in few bits are finest for
the channels that are large (AWQ). What ``x`` is divided by is worked into what makes it: the weight and bias of a norm
or of the layer before, through ops that a positive factor passes (cross-layer equalization). Where nothing takes it, a
product is put there, if it is worth one. In float the network is the same but for rounding.

Xiao et al. 2022 (arXiv:2211.10438), Lin et al. 2023 (arXiv:2306.00978), Nagel et al. 2019 (arXiv:1906.04721).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from dataclasses import replace as having
from typing import TYPE_CHECKING, Any

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import Graph, is_one, label
from tdagger.op import Array, Value
from tdagger.ops.elementwise import multiply
from tdagger.ops.source import Buffer, Const, Parameter, const
from tdagger.ops.structure import Permute, permute
from tdagger.quantization.observers import observer_of
from tdagger.quantization.placement import Plan
from tdagger.quantization.profile import Numbers
from tdagger.quantization.quality.local import Watching
from tdagger.quantization.scales import affine
from tdagger.tensordag import TensorDAG
from tdagger.transform.passes import fold_weights, keeping_open
from tdagger.transform.surgery.edit import Edit, finished
from tdagger.types import DType

if TYPE_CHECKING:
    from tdagger.quantization.prepare import Prepared

#: Which arguments of an op are multiplied by a factor for each channel of its result, and at which of their axes.
TAKES: dict[str, tuple[tuple[int, int], ...]] = {
    "linear": ((1, 0), (2, 0)), "matmul": ((1, -1),), "addmm": ((0, -1), (2, -1)), "convolution": ((1, 0), (2, 0)),
    "layer_norm": ((1, -1), (2, -1)), "rms_norm": ((1, -1),),
}  # fmt: skip
#: Ops of one argument through which a positive factor passes: f(s x) = s f(x), of each channel by itself.
PASSES = frozenset({"relu", "leaky_relu"})
#: Pools, through which it passes along their other axes; the attribute that has a number for each axis of windows.
POOLS = {"max_pool": "kernel", "avg_pool": "kernel", "adaptive_avg_pool": "size"}
#: How far channels are made alike: 0 leaves them, 1 makes them all as large.
POWERS = (0.25, 0.4, 0.5, 0.6, 0.75)
#: The rows of a layer's input on which factors are tried.
_ROWS = 256
#: Factors are worth it if they leave so much of the error: where others take them in, and where they cost a product.
_FREE, _PRODUCT = 0.95, 0.75
_MOST = 2.0**10
_F32 = DType.of("f32")


@dataclass
class Inputs:
    """A value that layers take in, and what was seen of it: the largest and mean sizes of channels, and a few rows."""

    value: Value
    layers: list[Value]
    #: The arguments that take the factors in, with their axes; None: nothing does.
    takes: list[tuple[Value, int, int]] | None
    #: The axis of the channels, from the end.
    axis: int = -1
    largest: Array = field(default_factory=lambda: np.zeros(()))
    total: Array = field(default_factory=lambda: np.zeros(()))
    rows: list[Array] = field(default_factory=list[Array])
    count: int = 0

    def see(self, x: Array) -> None:
        x = x.reshape(-1, x.shape[-1])
        size = np.abs(x)
        self.largest = np.maximum(self.largest, size.max(0, initial=0))
        self.total = self.total + size.sum(0, dtype=np.float64)
        left = _ROWS - sum(map(len, self.rows))
        self.count += len(x)
        if left > 0:
            self.rows.append(x[np.linspace(0, len(x), min(left, len(x)), endpoint=False).astype(int)])


def smoothed(prepared: Prepared, data: Iterable[Any], products: bool = True) -> TensorDAG:
    """The float network of a prepared one with channels made alike; see :func:`tdagger.quantization.prepare.smooth`."""
    found = seen_by(prepared, data, "smooth")
    factors = [(f, s) for f in found if (s := chosen(prepared, f, products)) is not None]
    return scaled(prepared, factors)


def seen_by(prepared: Prepared, data: Iterable[Any], what: str) -> list[Inputs]:
    """What linear layers take in, as it is on data; InputError if there is none."""
    found = {f.value: f for f in inputs(prepared)}

    def see(value: Value, x: Array) -> None:
        found[value].see(x)

    runner = Watching(prepared.dag, prepared.framework, found, see)
    for call in prepared.calls(data):
        prepared.call(runner, call)
    if found and not any(f.count for f in found.values()):
        raise InputError(f"{what}: there is no data to see the channels on")
    return list(found.values())


def inputs(prepared: Prepared) -> list[Inputs]:
    """What linear layers take in, each with all of the layers that take it, if their weights are theirs alone."""
    placement, graph = prepared.placement, prepared.dag.graph
    layers: dict[Value, list[Value]] = {}
    for (value, place), plan in placement.weights.items():
        row = placement.rows[value]
        data = [value.args[i] for i in row.inputs if i != place and i < len(value.args)]
        is_linear = label(value.op) in ("linear", "matmul", "addmm") and plan.leaf.rank == 2
        if is_linear and len(data) == 1 and is_one(data[0]) and is_alone(graph, value.args[place]):
            layers.setdefault(data[0], []).append(value)
    ends = _ends(graph)
    found: list[Inputs] = []
    for value, users in layers.items():
        whole = value not in ends and set(graph.users[value]) == set(users)
        takes = taking(graph, value, -1) if whole else None
        found.append(Inputs(value, users, takes))
    return found


def _ends(graph: Graph) -> set[Value]:
    return {*graph.outputs.values(), *graph.updates.values()}


def input_axis(layer: Value, plan: Plan) -> int | None:
    """The axis of a layer's weight, as it takes that, that its input's channels lie along; None where none does.

    A convolution of groups has it if each channel is a group of its own: several entries may be of one channel.
    """
    name = label(layer.op)
    if name in ("linear", "matmul", "addmm"):
        return (-2 if name != "linear" else 1) if plan.leaf.rank == 2 else None
    if name != "convolution" or plan.order != tuple(range(plan.leaf.rank)):
        return None
    groups = layer.op.attributes["groups"]
    return 1 if groups == 1 else 0 if plan.leaf.shape[1] == 1 else None


def is_alone(graph: Graph, value: Value) -> bool:
    """Whether a weight, as it is taken, is read by nobody else."""
    while isinstance(value.op, Permute) and len(graph.users[value]) == 1:
        value = value.args[0]
    leaf = isinstance(value.op, Parameter | Buffer | Const)
    changes = isinstance(value.op, Buffer) and value.op.leaf in graph.updates
    return leaf and not changes and value not in _ends(graph) and len(graph.users[value]) == 1


def taking(graph: Graph, value: Value, axis: int) -> list[tuple[Value, int, int]] | None:
    """What of a value's makers a factor for each entry of an axis (from the end) goes into; None if nothing takes it.

    Each is an op, the place of its argument and the argument's axis. All on the way is read by nobody else.
    """
    name = label(value.op)
    if name in TAKES:
        if axis != (1 - value.args[1].rank if name == "convolution" else -1) or value.op.attributes.get("rank", 1) != 1:
            return None
        given = [(value, i, at) for i, at in TAKES[name] if i < len(value.args)]
        if not any(i == TAKES[name][-1 if name == "addmm" else 0][0] for _, i, _ in given):
            return None
        fits = all(_fits(value.args[i], at, value.shape[axis]) and is_alone(graph, value.args[i]) for _, i, at in given)
        return given if fits else None
    if name == "multiply" and len(value.args) == 2 and value.args[0] is not value.args[1]:
        sides = [a for a in reversed(value.args) if a.type == value.type]
        tried = (_through(graph, a, axis) for a in sides)
        return next((t for t in tried if t is not None), None)
    if name in PASSES and len(value.args) == 1:
        return _through(graph, value.args[0], axis)
    if name in POOLS and axis % value.rank < value.rank - len(value.op.attributes[POOLS[name]]):
        return _through(graph, value.args[0], axis)
    if isinstance(value.op, Permute):
        at = value.op.order[axis % value.rank] - value.rank
        return _through(graph, value.args[0], at)
    return None


def _fits(weight: Value, axis: int, size: int) -> bool:
    """Whether a weight has an entry for each channel along an axis."""
    return weight.dtype is _F32 and -weight.rank <= axis < weight.rank and weight.shape[axis] == size


def _through(graph: Graph, value: Value, axis: int) -> list[tuple[Value, int, int]] | None:
    alone = is_one(value) and len(graph.users[value]) == 1 and value not in _ends(graph)
    return taking(graph, value, axis) if alone else None


# Which factors.


def chosen(prepared: Prepared, seen: Inputs, products: bool) -> Array | None:
    """The best factors of those tried: what channels are divided by; None where they aren't worth it."""
    if (seen.takes is None and not products) or not seen.count:
        return None
    plans = [_plan(prepared, v) for v in seen.layers]
    x = np.concatenate(seen.rows)
    weights = [leaf_data(prepared, p)[1] for p in plans]
    wanted = [x @ w.T for w in weights]
    numbers = [having(p.how.numbers, observer="minmax") for p in plans]
    hows = [p.how._replace(numbers=n, channel=0, summed=1) for p, n in zip(plans, numbers, strict=True)]
    activation = _activation(prepared, seen.value)

    def error(s: Array) -> float:
        noise = 0.0
        given = x / s if activation is None else _as_rounded(x / s, activation)
        for w, y, how in zip(weights, wanted, hows, strict=True):
            scaled = w * s
            read = how.read(how.rounded(scaled, scales := how.scales(scaled)), scales)
            noise += float(np.square(given @ read.T - y).sum()) / max(float(np.square(y).sum()), 1e-30)
        return noise

    most = np.max([np.abs(w).max(0) for w in weights], 0)
    tried = [_factors(seen, most, power, activation is None) for power in POWERS]
    errors = [error(s) for s in tried]
    best = int(np.argmin(errors))
    enough = _PRODUCT if seen.takes is None else _FREE
    return tried[best] if errors[best] < enough * error(np.ones_like(tried[best])) else None


def _factors(seen: Inputs, most: Array, power: float, weights_alone: bool) -> Array:
    """Factors of one power: by the sizes of channels, and of what they are multiplied by; the median's is 1.

    None is less: a channel that was small on a few examples and isn't on others would be made larger than all.
    """
    size = seen.total / seen.count if weights_alone else seen.largest.astype(np.float64)
    usable = (size > 0) & (most > 0)
    logs = power * np.log(np.where(usable, size, 1))
    if not weights_alone:
        logs -= (1 - power) * np.log(np.where(usable, most, 1))
    logs -= np.median(logs[usable]) if usable.any() else 0
    return np.where(usable, np.exp(np.clip(logs, 0, np.log(_MOST))), 1).astype(np.float32)


def _activation(prepared: Prepared, value: Value) -> Numbers | None:
    p = prepared.placement
    return p.numbers[p.root(value)] if value in p.points else None


def _as_rounded(x: Array, numbers: Numbers) -> Array:
    """Numbers as they are once they were rounded, by the range that they have."""
    observer = observer_of(numbers.observer)
    observer.update(x)
    scale, zero = affine(*observer.range(numbers), numbers)
    if numbers.grid.is_float:
        raise InputError(f"smooth: activations of {numbers.dtype} aren't tried")
    middle = 0.0 if zero is None else float(zero)
    return ((np.clip(np.rint(x / scale) + middle, *numbers.bounds) - middle) * scale).astype(np.float32)


def _plan(prepared: Prepared, value: Value) -> Plan:
    return prepared.placement.weights[value, prepared.placement.rows[value].weight or 0]


def leaf_data(prepared: Prepared, plan: Plan) -> tuple[str, Array]:
    """The name of a weight, and it as ``[o i]``."""
    op = plan.leaf.op
    name = "constant" if isinstance(op, Const) else op.attributes["leaf"]
    array = op.data if isinstance(op, Const) else prepared.dag.weights[name]
    return name, np.moveaxis(np.asarray(array, np.float32), plan.how.channel, 0)


# The network.


def scaled(prepared: Prepared, factors: Iterable[tuple[Inputs, Array]]) -> TensorDAG:
    """The network with what layers take in divided by factors, and their weights multiplied; itself without any."""
    factors = list(factors)
    if not factors:
        return prepared.asking(prepared.dag)
    changes: dict[tuple[Value, int], list[tuple[int, Array]]] = {}
    divided: dict[tuple[Value, int], Array] = {}
    for seen, s in factors:
        for op, place, axis in seen.takes or ():
            changes.setdefault((op, place), []).append((axis, 1 / s))
        for layer in seen.layers:
            row = prepared.placement.rows[layer]
            at = row.weight or 0
            axis = input_axis(layer, prepared.placement.weights[layer, at])
            changes.setdefault((layer, at), []).append((row.summed if axis is None else axis, s))
            if seen.takes is None:
                divided[layer, next(i for i in row.inputs if i != at)] = 1 / s

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        given = list(args)
        for i, arg in enumerate(value.args):
            for axis, s in changes.get((value, i), ()):
                given[i] = _times(given[i], axis, s)
            if (value, i) in divided:
                given[i] = multiply(args[i], const(divided[value, i], "f32"))
            assert given[i].type == arg.type
        return value.op(*given) if tuple(given) != args else None

    dag = prepared.dag
    edit = Edit(dag).run(rule)
    return prepared.asking(keeping_open(fold_weights)(finished(dag, edit.graph(), edit.origins)))


def _times(weight: Value, axis: int, s: Array) -> Value:
    """A weight times a factor for each entry of an axis, before it is permuted."""
    if isinstance(weight.op, Permute):
        return permute(_times(weight.args[0], weight.op.order[axis % weight.rank], s), weight.op.order)
    shape = [1] * weight.rank
    shape[axis] = weight.shape[axis]  # several entries may be of one channel
    return multiply(weight, const(np.repeat(s, weight.shape[axis] // len(s)).reshape(shape), "f32"))
