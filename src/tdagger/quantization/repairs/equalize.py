"""Weights made alike across layers before they are rounded, without data: cross-layer equalization.

What a layer gives may be divided by a positive factor for each channel, and the weights that take it in multiplied by
it, wherever the factor passes what lies between exactly: relu, leaky relu, pools, transposes; not relu6, whose bound
would have to move. With ``sqrt(a / b)`` both sides have channels of one size, a of what makes and b of what takes. A
channel belongs to the layer before and the one after, so all are gone through until nothing changes. In float the
network is the same but for rounding.

Nagel et al. 2019 (arXiv:1906.04721).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.graph import label
from tdagger.op import Array, Value
from tdagger.ops.source import Const
from tdagger.ops.structure import Permute
from tdagger.quantization.repairs.smooth import Inputs, input_axis, is_alone, scaled, taking
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.quantization.prepare import Prepared

#: So often all layers are gone through, at most, and the change of a factor that is none.
_ROUNDS, _SAME = 20, 1e-3
#: Layers that make channels, whose weights' sizes count; norms take factors in without having any.
_MAKERS = frozenset({"convolution", "linear", "matmul", "addmm"})


class _Side(NamedTuple):
    """A weight and the axis of it along which the channels lie."""

    leaf: Value
    axis: int


def equalized(prepared: Prepared) -> TensorDAG:
    """The float network of a prepared one with weights made alike across layers; itself where there are no pairs.

    >>> import tdagger as td
    >>> x, v, w = td.input("x", (2, 2)), td.parameter("v", (2, 2)), td.parameter("w", (1, 2))
    >>> arrays = {"v": np.float32([[64, 0], [0, 1]]), "w": np.float32([[1, 1]])}
    >>> out = td.linear(td.relu(td.linear(x, v)), w)
    >>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)
    >>> small = equalized(td.prepare(dag, "gpu-weight-only"))
    >>> small.weights["v"].tolist(), small.weights["w"].tolist()
    ([[8.0, 0.0], [0.0, 1.0]], [[8.0, 1.0]])
    """
    pairs = [p for p in edges(prepared) if any(label(op.op) in _MAKERS for op, _, _ in p.takes or ())]
    arrays: dict[Value, Array] = {}
    sides = [(_makers(p), _takers(prepared, p)) for p in pairs]
    for makers, takers in sides:
        for leaf, _ in (*makers, *takers):
            arrays.setdefault(leaf, np.abs(_data(prepared, leaf)))
    factors = [np.ones(p.value.shape[p.axis], np.float32) for p in pairs]
    for _ in range(_ROUNDS):
        most = 0.0
        for i, (makers, takers) in enumerate(sides):
            s = _alike(_sizes(arrays, makers, len(factors[i])), _sizes(arrays, takers, len(factors[i])))
            most = max(most, float(np.abs(np.log(s)).max()))
            factors[i] = factors[i] * s
            for side, by in ((makers, 1 / s), (takers, s)):
                for leaf, axis in side:
                    arrays[leaf] = arrays[leaf] * along(by, arrays[leaf].shape, axis)
        if most < _SAME:
            break
    chosen = [(p, s) for p, s in zip(pairs, factors, strict=True) if (s != 1).any()]
    return scaled(prepared, chosen)


def edges(prepared: Prepared) -> list[Inputs]:
    """What layers take in, each with all that read it, where a factor goes into what makes it."""
    placement, graph = prepared.placement, prepared.dag.graph
    layers: dict[Value, dict[Value, int]] = {}
    for (value, place), plan in placement.weights.items():
        axis = input_axis(value, plan)
        data = [value.args[i] for i in placement.rows[value].inputs if i != place and i < len(value.args)]
        if axis is not None and len(data) == 1 and is_alone(graph, value.args[place]):
            layers.setdefault(data[0], {})[value] = 1 - plan.leaf.rank if label(value.op) == "convolution" else -1
    ends = {*graph.outputs.values(), *graph.updates.values()}
    found: list[Inputs] = []
    for value, users in layers.items():
        axes = set(users.values())
        if value in ends or set(graph.users[value]) != set(users) or len(axes) > 1:
            continue
        axis = axes.pop()
        takes = taking(graph, value, axis)
        if takes is not None:
            found.append(Inputs(value, list(users), takes, axis))
    return found


def _makers(pair: Inputs) -> list[_Side]:
    """The weights whose results' channels are those of a pair; biases and norms aside."""
    found: list[_Side] = []
    for op, place, axis in pair.takes or ():
        if label(op.op) in _MAKERS and op.args[place].rank > 1:
            found.append(_leaf(op.args[place], axis))
    return found


def _takers(prepared: Prepared, pair: Inputs) -> list[_Side]:
    placement = prepared.placement
    found: list[_Side] = []
    for layer in pair.layers:
        plan = placement.weights[layer, placement.rows[layer].weight or 0]
        axis = input_axis(layer, plan)
        assert axis is not None
        found.append(_leaf(layer.args[placement.rows[layer].weight or 0], axis))
    return found


def _leaf(value: Value, axis: int) -> _Side:
    """The leaf of a weight that may be transposed, with the axis as the leaf has it."""
    while isinstance(value.op, Permute):
        axis = value.op.order[axis % value.rank]
        value = value.args[0]
    return _Side(value, axis % value.rank)


def _data(prepared: Prepared, leaf: Value) -> Array:
    op = leaf.op
    return np.asarray(op.data if isinstance(op, Const) else prepared.dag.weights[op.attributes["leaf"]], np.float32)


def _sizes(arrays: dict[Value, Array], sides: list[_Side], count: int) -> Array:
    """The largest number of each channel in some weights."""
    found = np.zeros(count)
    for leaf, axis in sides:
        moved = np.moveaxis(arrays[leaf], axis, 0)
        found = np.maximum(found, moved.reshape(count, -1).max(1))
    return found


def _alike(makers: Array, takers: Array) -> Array:
    """What channels are divided by; 1 where one side has nothing but 0."""
    there = (makers > 0) & (takers > 0)
    return np.where(there, np.sqrt(np.where(there, makers, 1) / np.where(there, takers, 1)), 1).astype(np.float32)


def along(s: Array, shape: tuple[int, ...], axis: int) -> Array:
    """A number for each channel in a shape that broadcasts: several entries of an axis may be of one channel."""
    each: Any = np.repeat(s, shape[axis] // len(s))
    return each.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
