"""Channels that are far larger than all others, taken out of what is rounded: a small product of their own, in float.

``x @ w.T`` is ``x' @ w.T + x[:, o] @ w[:, o].T``, where x' has 0 for the channels o. The range of x' is that of the
other channels, so its steps are as fine as they need; what is added costs as many products as there are outliers.

Dettmers et al. 2022 (arXiv:2208.07339).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.graph import label
from tdagger.names import untaken
from tdagger.network import Weight
from tdagger.network import Weights as Weighed
from tdagger.op import Array, Value
from tdagger.ops.elementwise import add, multiply
from tdagger.ops.indexing import gather
from tdagger.ops.source import Parameter, const
from tdagger.ops.structure import permute
from tdagger.quantization.repairs.smooth import leaf_data, seen_by
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.types import TensorType

if TYPE_CHECKING:
    from tdagger.quantization.prepare import Prepared

#: An outlier is so much larger than the median channel, and at most one channel in so many is one.
_RATIO, _SHARE = 6.0, 16


class Split(NamedTuple):
    """A float network with outliers apart, and the names of the weights that have to stay in float."""

    dag: TensorDAG
    keep: tuple[str, ...]


def split(prepared: Prepared, data: Iterable[Any]) -> Split:
    """The float network of a prepared one with outlying channels of linear layers' inputs in products of their own."""
    found = seen_by(prepared, data, "split")
    chosen = {f.value: (f, places) for f in found if len(places := outliers(f.largest))}
    if not chosen or prepared.profile.activation is None:
        return Split(prepared.asking(prepared.dag), ())
    taken, made = set(state_of(prepared.dag)), dict[str, Array]()
    layers = {layer: f.value for f, _ in chosen.values() for layer in f.layers if label(layer.op) != "addmm"}

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in layers:
            return None
        seen, places = chosen[layers[value]]
        mask = np.ones(seen.value.shape[-1], np.float32)
        mask[places] = 0
        plan = prepared.placement.weights[value, 1]
        name, weight = leaf_data(prepared, plan)
        own = untaken(f"{name}_outliers", taken)
        taken.add(own)
        made[own] = np.ascontiguousarray(weight[:, places])
        small = Parameter(own, TensorType(made[own].shape, "f32"))()
        small = small if label(value.op) == "linear" else permute(small, (1, 0))
        rest = value.op(multiply(args[0], const(mask, "f32")), *args[1:])
        apart = gather(args[0], const(places.astype(np.int64), "i64"), -1)
        given = list(getattr(value.op, "given", ()))
        op: Any = value.op
        if label(value.op) == "linear" and given[-1]:
            op = type(op)(*op.attributes.values(), (*given[:-1], False))
        return add(rest, op(apart, small))

    edit = Edit(prepared.dag).run(rule)
    state = {**state_of(prepared.dag), **{n: Weight(TensorType(a.shape, "f32"), True) for n, a in made.items()}}
    weights = Weighed.of(prepared.dag.weights, {n: n for n in prepared.dag.weights})
    weights |= Weighed.of(made, {n: n for n in made})
    apart = finished(prepared.dag, edit.graph(), edit.origins, weights=weights, state=state)
    return Split(prepared.asking(apart), tuple(made))


def outliers(largest: Array) -> Array:
    """The places of outlying channels, the largest first to go; none where nothing is far from the median.

    >>> outliers(np.float32([1, 1, 90, 1.5]))
    array([2])
    """
    usual = float(np.median(largest[largest > 0])) if (largest > 0).any() else 0.0
    most = max(len(largest) // _SHARE, 1)
    order = np.argsort(-largest, kind="stable")[:most]
    return np.sort(order[largest[order] > _RATIO * usual])
