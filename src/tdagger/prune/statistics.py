"""What data does to a network: how large the inputs of its layers are, and importances made of that.

Statistics are of a layer's weight: a linear layer's ``[o i]``, a convolution's ``[o i/groups kernel..]``, a transposed
one's ``[i o/groups kernel..]``; whatever framework measures them (:meth:`tdagger.TensorDAG.measure`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, InputError
from tdagger.op import Array, Value
from tdagger.ops.source import Parameter
from tdagger.prune.importance import Importance, Weighed


@dataclass(frozen=True)
class Layer:
    """The inputs that a weight was applied to.

    ``squares`` is the mean square of each input feature, over all examples and places: f64 ``[i]``; ``axis`` the
    weight's dimension of features, ``groups`` into how many parts they are divided. ``products`` (f64 ``[n n]``) are
    the means of products of every two numbers that a row of the weight is applied to, features and kernel together;
    None unless asked for. ``count`` is how many rows of numbers were seen.
    """

    axis: int
    groups: int
    squares: Array
    count: int
    products: Array | None = field(default=None, repr=False)

    def by_entry(self, shape: Sequence[int]) -> Array:
        """The root mean square that each entry of the weight is applied to, for broadcasting with it.

        >>> Layer(1, 2, np.array([1.0, 4, 9, 16]), 1).by_entry((2, 2))
        array([[1., 2.],
               [3., 4.]])
        """
        size = np.sqrt(self.squares)
        if self.groups == 1 or self.axis == 0:
            return size.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])
        rows = size.reshape(self.groups, -1).repeat(shape[0] // self.groups, 0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


@dataclass(frozen=True)
class Statistics:
    """What was measured: ``layers`` by the name of the weight, ``similarity`` by the path of the block.

    ``similarity`` is the mean cosine of what goes into a block and what comes out (:mod:`tdagger.prune.methods.depth`).
    """

    layers: Mapping[str, Layer]
    similarity: Mapping[str, float]

    def least_needed(self, count: int) -> list[str]:
        """The ``count`` blocks that change the least of what goes through them, in the network's order.

        >>> Statistics({}, {"blocks.0": 0.2, "blocks.1": 0.9, "blocks.2": 0.7}).least_needed(2)
        ['blocks.1', 'blocks.2']
        """
        if not 0 <= count <= len(self.similarity):
            raise AttributeValueError(
                f"{count} blocks of {len(self.similarity)}: {', '.join(self.similarity) or 'none'}"
            )
        by = sorted(self.similarity, key=lambda p: -self.similarity[p])[:count]
        return [p for p in self.similarity if p in by]


def weight_of(value: Value) -> tuple[str, int, int] | None:
    """Of a layer with a weight: the weight's name, its dimension of input features, and groups; None of anything else.

    >>> import tdagger as td
    >>> weight_of(td.linear(td.input("x", (2, 3)), td.parameter("fc.weight", (4, 3))))
    ('fc.weight', 1, 1)
    """
    op = value.op
    if not isinstance(op, Composite) or op.name not in _LAYERS or not isinstance(value.args[1].op, Parameter):
        return None
    if value.args[1].rank < 2:
        return None
    return value.args[1].op.leaf, _LAYERS[op.name], int(op.attributes.get("groups", 1))


#: Layers with a weight as the second argument, and the weight's dimension of input features.
_LAYERS = {"linear": 1, "convolution": 1, "convolution_transpose": 0}


def wanda(statistics: Statistics) -> Importance:
    """``|weight| * root mean square of what it is applied to``, over all that a unit holds of layers: arXiv:2306.11695.

    Parameters that are applied to nothing measured (biases, norms) don't count. InputError for a group that has no
    other.
    """

    def importance(group: Weighed) -> Array:
        _refuse(statistics, group)

        def each(name: str, w: Array) -> Array:
            layer = statistics.layers.get(name)
            return np.zeros_like(w) if layer is None else np.abs(w) * layer.by_entry(w.shape)

        return group.sums(each)

    return importance


def activations(statistics: Statistics) -> Importance:
    """The root mean square of a unit's entries where layers take them in, each layer divided by its mean.

    InputError for a group whose entries no measured layer takes in.
    """

    def importance(group: Weighed) -> Array:
        out, found = np.zeros(group.size), False
        for member in group.group.members:
            layer = statistics.layers.get(member.name)
            if layer is None or not (
                member.axis == layer.axis or layer.groups == len(layer.squares) == member.unit.shape[1]
            ):
                continue
            size = np.sqrt(layer.squares)
            if len(size) != member.unit.shape[1]:  # groups of features share what a row is applied to
                size = size.reshape(layer.groups, -1).mean(0)
            for row in member.unit:
                taken = row >= 0
                out += np.bincount(row[taken], size[taken] / (size.mean() or 1.0), group.size)
                found = True
        if not found:
            _refuse(statistics, group, "takes them in")
        return out

    return importance


def _refuse(statistics: Statistics, group: Weighed, how: str = "holds them") -> None:
    members = group.group.members
    if how != "holds them" or not any(m.name in statistics.layers for m in members):
        raise InputError(
            f"importance: no layer that was measured {how} of the group {group.group.name!r} "
            f"({', '.join(map(str, members[:4]))}); keep it: keep=[{group.group.name!r}]"
        )
