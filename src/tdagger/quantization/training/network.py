"""Networks that are trained in numbers of few bits: the float network with fake-quantized values, as a network.

Weights are parameters as they were; each is rounded where a layer takes it, by scales that follow it or that are
learned (LSQ). Values between layers are rounded by ranges that follow the data, a moving mean of each batch's ends in
buffers, or by learned scales. Biases stay in float. What comes of training goes into the float network's weights and
scales, which are converted as after calibration.

A batch norm is folded with the running statistics, as it will be in the end, and what the layer gives is divided by
that scale again before the norm, which in training has the statistics of the batch: the weight that is rounded doesn't
change from batch to batch as these do, and the result is that of the norm (Krishnamoorthi 2018, arXiv:1806.08342,
3.2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tdagger import library as lib
from tdagger.errors import InputError
from tdagger.graph import Graph, is_one, label
from tdagger.names import shown
from tdagger.network import Origin, Weight
from tdagger.network import Weights as Weighed
from tdagger.op import Array, Value
from tdagger.ops.elementwise import equal, exp, maximum, minimum, where
from tdagger.ops.source import Buffer, Leaf, Parameter, const
from tdagger.ops.structure import pad, permute, reduce, unsqueeze
from tdagger.quantization.convert import Conversion, rounded
from tdagger.quantization.placement import Placement, Plan
from tdagger.quantization.profile import Numbers
from tdagger.quantization.scales import LEAST, Affine, Weights, affine
from tdagger.tensordag import TensorDAG
from tdagger.transform.passes.layers import LAYERS
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.types import TensorType

#: How far ranges go to those of each batch.
RATE = 0.05
#: The name of the buffer that holds this while the network trains, else 0.
RATE_NAME = "quantization_rate"
#: What a learned scale is made of: what it was at first, the logarithm of what it became of that, the zero point.
LEARNED = ("scale", "growth", "zero_point")


class Norm(NamedTuple):
    """A batch norm that is folded: the bias of the layer before, the norm's other arguments, its op.

    ``origins``: where the layer and the norm came from, that each is in its own module.
    """

    bias: Value | None
    args: tuple[Value, ...]
    op: Any
    origins: tuple[Origin, Origin]

    @property
    def given(self) -> dict[str, Value]:
        """Its arguments by name."""
        names = self.op.definition.argument_names(self.op.given, len(self.args) + 1)
        return dict(zip(names[1:], self.args, strict=True))

    def scale(self) -> Value:
        """What the weight is multiplied with, for each channel; no gradient goes through it."""
        given = self.given
        scale = lib.rsqrt(given["variance"] + self.op.eps)
        return lib.stop_gradient(scale * given["weight"] if "weight" in given else scale)

    def folded(self, data: Callable[[Value], Array], weight: Array) -> tuple[Array, Array]:
        """A weight and a bias with the norm in them."""
        given = {n: data(v) for n, v in self.given.items()}
        scale = (1 / np.sqrt(given["variance"] + np.float32(self.op.eps))).astype(np.float32)
        scale = scale * given["weight"] if "weight" in given else scale
        shift = ((0 if self.bias is None else data(self.bias)) - given["mean"]) * scale
        shift = shift + given["bias"] if "bias" in given else shift
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), np.asarray(shift, np.float32)


def norms(before: TensorDAG, dag: TensorDAG) -> dict[Value, Norm]:
    """The layers of a network whose weights have norms in them that stood apart ``before``.

    They are told by the names of weights, which folding keeps; a weight of several layers isn't among them.
    """
    layers = {op.name: axis for op, (_, axis) in LAYERS.items() if op is not lib.convolution_transpose}
    apart: dict[Value, Norm] = {}
    for value in before.graph.values:
        if value.op.name != "batch_norm" or value.args[0].op.name not in layers:
            continue
        layer, *rest = value.args
        weight, *biases = layer.args[1:]
        leaves = [weight, *biases, *rest]
        whole = all(isinstance(v.op, Parameter | Buffer) for v in leaves)
        alone = len(before.graph.users[weight]) == 1 and len(before.graph.users[layer]) == 1
        if whole and alone:
            origins = (before.origins.get(layer, Origin()), before.origins.get(value, Origin()))
            apart[weight] = Norm(next(iter(biases), None), tuple(rest), value.op, origins)
    there = {v.op.leaf for v in dag.values if isinstance(v.op, Leaf)}
    found: dict[Value, Norm] = {}
    for value in dag.graph.values:
        if label(value.op) not in layers or not value.args[2:]:
            continue
        _, weight, bias = value.args
        norm = apart.get(weight)
        if norm is None or any(_leaf(v) in there for v in norm.args):
            continue
        if len(dag.graph.users[weight]) == 1 and isinstance(bias.op, Leaf):
            found[value] = norm
    return found


def _leaf(value: Value) -> str:
    assert isinstance(value.op, Leaf)
    return value.op.leaf


class Training(Conversion):
    """The conversion of a float network to one that trains; ``before``: the network with norms apart."""

    def __init__(
        self, before: TensorDAG, dag: TensorDAG, placement: Placement, scales: Mapping[Value, Affine],
        ranges: Mapping[Value, tuple[float, float]], learned: bool,
    ) -> None:  # fmt: skip
        super().__init__(dag, placement, scales, fake=True)
        self.before, self.ranges, self.learned = before, ranges, learned
        self.norms = norms(before, dag)
        self.of_weight = {v.args[1]: n for v, n in self.norms.items()}
        self.taken |= set(state_of(before))
        #: New tensors of the state: what each is at first, and whether it is learned.
        self.given: dict[str, Array] = {}
        self.parameters: set[str] = set()
        #: The names of the two tensors that say the scale of a root: its ends, or its scale and zero point.
        self.roots: dict[Value, tuple[Value, ...]] = {}
        self.of_plan: dict[tuple[str, Weights], tuple[Value, ...]] = {}
        self.seen: dict[Value, list[Value]] = {}
        self.of_norms: dict[Value, Origin] = {}

    # The network.

    def run(self) -> TensorDAG:
        """The network that trains."""
        of_layers = {v: n.origins[0] for v, n in self.norms.items()}
        edit = Edit(replace(self.dag, origins={**self.dag.origins, **of_layers})).run(self._rule)
        edit.origins |= self.of_norms
        graph = edit.graph()
        graph = Graph(graph.inputs, graph.outputs, {**graph.updates, **self._updates()}, graph.name)
        mine = {_leaf(v) for n in self.norms.values() for v in (*n.args, *([n.bias] if n.bias is not None else []))}
        mine |= {_leaf(w) for w in self.of_weight}
        state = dict(state_of(self.before))
        state |= {n: w for n, w in state_of(self.dag).items() if n not in mine}
        used = {v.op.leaf for v in graph.values if isinstance(v.op, Leaf)}
        unused = set(state) - {v.op.leaf for v in self.before.values if isinstance(v.op, Leaf)}
        state = {n: w for n, w in state.items() if n in used or (n in unused and n in state_of(self.before))}
        for name, array in self.given.items():
            state[name] = Weight(TensorType(array.shape, "f32"), name in self.parameters)
        theirs = [n for n in state if n in mine or (n not in self.dag.weights and n in self.before.weights)]
        weights = Weighed.of(self.before.weights, {n: n for n in theirs})
        weights |= Weighed.of(self.dag.weights, {n: n for n in state if n not in theirs and n in self.dag.weights})
        weights |= Weighed.of(self.given, {n: n for n in self.given})
        return finished(self.dag, graph, edit.origins, weights=weights, state=state)

    def applied(self, value: Value, op: Any, args: list[Value]) -> Value:
        norm = self.norms.get(value)
        if norm is None:
            return super().applied(value, op, args)
        weight = args[1]
        scale = _not_zero(norm.scale())
        if (value, 1) not in self.placement.weights:
            weight = _along(weight, scale)
        given = list(op.given)
        given[op.definition.tensors.index("bias")] = False
        made = type(op)(*op.attributes.values(), tuple(given))(args[0], weight)
        channels = norm.op.axis
        made = made / unsqueeze(scale, range(1, made.rank - channels))
        if norm.bias is not None:
            made = made + unsqueeze(norm.bias, range(1, made.rank - channels))
        made = norm.op(made, *norm.args)
        self.of_norms[made] = norm.origins[1]
        return made

    def bias(self, value: Value, at: int) -> Value | None:
        return None

    # Scales.

    def activation(self, x: Value, root: Value, numbers: Numbers) -> Value:
        if self.placement.profile.dynamic:
            data = lib.stop_gradient(x)
            scales = in_graph(_least(data), _largest(data), numbers)
        else:
            scales = self.scale_values(root)
            self.seen.setdefault(root, []).append(lib.stop_gradient(x))
        return rounded(x, scales, numbers, None, 0, True)

    def scale_values(self, root: Value) -> list[Value]:
        numbers = self.placement.numbers[root]
        if numbers.fixed is not None:
            return super().scale_values(root)
        made = self.roots.get(root)
        if made is None:
            names = LEARNED if self.learned else ("low", "high")
            made = self.roots[root] = self._states(f"{self._prefix(root)}activation", names, self.start(root))
        if not self.learned:
            return in_graph(made[0], made[1], numbers)
        return learned(made, numbers, _entries(root))

    def start(self, root: Value) -> tuple[Array, ...]:
        """What says the scale of a root at first: ends, or :func:`as_learned`; of what no data was seen 0 and 1."""
        numbers = self.placement.numbers[root]
        if not self.learned:
            return tuple([np.asarray(e, np.float32) for e in self.ranges.get(root, (0.0, 0.0))])
        found = self.scales.get(root) or affine(0.0, 0.0, numbers)
        return as_learned(found, numbers)

    def _prefix(self, value: Value) -> str:
        origin = self.dag.origins.get(value)
        if origin is not None:
            return f"{origin.module}." if origin.module else ""
        return f"{value.op.leaf}_" if isinstance(value.op, Leaf) else ""

    def _states(self, prefix: str, names: Iterable[str], start: tuple[Array, ...]) -> tuple[Value, ...]:
        """New tensors of the state: buffers, and parameters where they are learned."""
        found: list[Value] = []
        for name, array in zip(names, start, strict=False):
            own = self.fresh(f"{prefix}_{name}")
            self.given[own] = np.asarray(array, np.float32)
            if name in ("growth", "zero_point"):
                self.parameters.add(own)
            found.append((Parameter if own in self.parameters else Buffer)(own, TensorType(array.shape, "f32"))())
        return tuple(found)

    def _updates(self) -> dict[str, Value]:
        """The ranges that follow the data: of all values that share one."""
        if self.learned or not self.seen:
            return {}
        self.given[RATE_NAME] = np.zeros((), np.float32)
        rate = Buffer(RATE_NAME, TensorType((), "f32"))()
        found: dict[str, Value] = {}
        for root, (low, high) in self.roots.items():
            observed = self.seen[root]
            for end, ends, choose in ((low, [_least(x) for x in observed], minimum),
                                      (high, [_largest(x) for x in observed], maximum)):  # fmt: skip
                now = ends[0]
                for other in ends[1:]:
                    now = choose(now, other)
                found[_leaf(end)] = end + rate * (now - end)
        return found

    def weight(self, plan: Plan) -> Value:
        leaf, order, how = plan
        norm = self.of_weight.get(leaf)
        w = leaf if norm is None else _along(leaf, _not_zero(norm.scale()))
        numbers = how.numbers
        if self.learned:
            made = self.of_plan.get((self.name(leaf), how))
            if made is None:
                name = self.name(leaf)
                start = as_learned(how.scales(self.source.data(name, leaf)), numbers)
                made = self.of_plan[name, how] = self._states(name, LEARNED, start)
            scales = learned(made, numbers, leaf.type.size // made[0].type.size)
        else:
            still = lib.stop_gradient(w)
            scales = in_graph(*_extremes(still, how), numbers)
        out = rounded(w, scales, numbers, how.axis, how.block, True)
        return out if order == tuple(range(out.rank)) else permute(out, order)


def _not_zero(scale: Value) -> Value:
    """A scale to divide by: a norm that gives nothing of a channel gives nothing of it whatever it was scaled by."""
    return where(equal(scale, 0.0), 1.0, scale)


def _along(weight: Value, scale: Value) -> Value:
    """A weight times a number for each channel of its results."""
    return weight * unsqueeze(scale, range(1, weight.rank))


def _least(x: Value) -> Value:
    return reduce(x, "min", keep=False)


def _largest(x: Value) -> Value:
    return reduce(x, "max", keep=False)


def _entries(root: Value) -> int:
    """How many numbers of one example a scale is for."""
    return max(math.prod(root.shape[1:]), 1)


def _extremes(w: Value, how: Weights) -> tuple[Value, Value]:
    """The ends of each part of a weight that has a scale of its own, in a graph."""
    if how.numbers.per == "block":
        at, size = how.summed, how.block
        blocks = -(-w.shape[at] // size)
        edges = [(0, blocks * size - w.shape[at] if i == at else 0) for i in range(w.rank)]
        w = pad(w, edges)  # with 0, which every range has
        w = lib.reshape(w, shape=(*w.shape[:at], blocks, size, *w.shape[at + 1 :]))
        return reduce(w, "min", (at + 1,), keep=False), reduce(w, "max", (at + 1,), keep=False)
    axes = [i for i in range(w.rank) if how.axis is None or i != how.axis]
    return reduce(w, "min", axes, keep=False), reduce(w, "max", axes, keep=False)


def is_middle(numbers: Numbers) -> bool:
    """Whether the zero point is known whatever the range is."""
    return numbers.symmetric or numbers.grid.is_float


def in_graph(low: Value, high: Value, numbers: Numbers) -> list[Value]:
    """The scale and zero point of a range: :func:`tdagger.quantization.scales.affine` in a graph."""
    how: dict[str, Any] = {"symmetric": numbers.symmetric, "narrow": numbers.narrow}
    scale, zero = lib.quantization_range(low, high, to=numbers.dtype, **how)
    return [scale] if is_middle(numbers) and numbers.grid.low != 0 else [scale, zero]


def learned(made: tuple[Value, ...], numbers: Numbers, entries: int) -> list[Value]:
    """A scale and a zero point that are learned, as they are used.

    The scale is what it was at first times ``exp(growth)``: it stays positive, and the steps of an optimizer are parts
    of it. Its gradient, a sum over entries, is made smaller as LSQ has it: ``1 / sqrt(entries * last)``.
    """
    factor = 1 / math.sqrt(entries * max(numbers.bounds[1], 1))
    start, growth, *zero = made
    grown = exp(lib.straight_through(growth / start * factor, growth))
    scale = maximum(start * grown, float(LEAST))
    if zero:
        return [scale, lib.straight_through(zero[0] * factor, zero[0])]
    middle = middle_of(numbers)
    return [scale] if middle is None else [scale, const(np.full(start.shape, middle), numbers.grid.dtype)]


def middle_of(numbers: Numbers) -> Array | None:
    """The zero point of a symmetric range; None for 0."""
    return affine(0.0, 0.0, numbers).zero_point if is_middle(numbers) else None


def as_learned(found: Affine, numbers: Numbers) -> tuple[Array, ...]:
    """What is learned of a scale and of a zero point that isn't known, as it begins: :data:`LEARNED`."""
    scale = np.asarray(found.scale, np.float32)
    if is_middle(numbers):
        return scale, np.zeros_like(scale)
    zero = np.zeros(()) if found.zero_point is None else found.zero_point
    return scale, np.zeros_like(scale), np.broadcast_to(zero, scale.shape).astype(np.float32)


def as_used(state: tuple[Array, ...], numbers: Numbers) -> Affine:
    """What a learned scale and zero point are in the end: those that :func:`learned` rounds with."""
    start, growth, *zero = state
    scale = np.maximum(start * np.exp(growth, dtype=np.float32), LEAST)
    if zero:
        return Affine(scale, np.clip(np.rint(zero[0]), *numbers.bounds).astype(numbers.grid.dtype.numpy))
    middle = middle_of(numbers)
    return Affine(scale, None if middle is None else np.full(scale.shape, middle))


def refuse_training(dag: TensorDAG) -> None:
    """InputError for a network whose norms have the statistics of batches in the graph."""
    odd = next((v for v in dag.values if v.op.name in ("batch_norm_train", "instance_norm_train")), None)
    if odd is not None and is_one(odd.args[0]):
        raise InputError(
            f"{shown(dag.name)}: {odd!r} was imported in train mode: import the network in eval mode, the module that "
            "prepare(train=True).to_torch() gives has train()"
        )


def for_training(numbers: Numbers) -> Numbers:
    """Numbers of weights whose ranges follow them."""
    return replace(numbers, observer="minmax")
