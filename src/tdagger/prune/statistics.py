"""What data does to a network: how large the inputs of its layers are, and importances made of that.

Statistics are of a weight that something is multiplied with and summed over: a linear layer's ``[o i]``, a
convolution's ``[o i/groups kernel..]``, a transposed one's ``[i o/groups kernel..]``, those of products of matrices and
of einsum (experts' ``[e i o]``); whatever framework measures them (:meth:`tdagger.TensorDAG.measure`). Recurrent layers
are linear ones, a step after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, InputError
from tdagger.library.contraction import parse_equation
from tdagger.op import Array, Value
from tdagger.ops.source import Parameter
from tdagger.ops.structure import Permute
from tdagger.prune.importance import Importance, Weighed


@dataclass(frozen=True)
class Layer:
    """The inputs that a weight was applied to.

    ``squares`` is the mean square of each input feature, over all examples and places: f64 ``[i]``; ``axes`` the
    weight's dimensions that the input has too, the features and before them those that both have one by one (experts:
    ``squares`` is ``[e i]``); ``groups`` into how many parts features are divided. ``products`` (f64 ``[n n]``) are
    the means of products of every two numbers that a row of the weight is applied to, features and kernel together;
    None unless asked for. ``count`` is how many rows of numbers were seen.
    """

    axes: tuple[int, ...]
    groups: int
    squares: Array
    count: int
    products: Array | None = field(default=None, repr=False)

    def along(self, axis: int, size: int) -> Array | None:
        """The root mean square of each of ``size`` entries of a weight's dimension; None if the input hasn't it."""
        if self.groups > 1:
            found = np.sqrt(self.squares)
            if axis != self.axes[0] and not self.groups == len(found) == size:
                return None
            return found if len(found) == size else found.reshape(self.groups, -1).mean(0)  # shared by rows of groups
        if axis not in self.axes:
            return None
        others = tuple(i for i, a in enumerate(self.axes) if a != axis)
        return np.sqrt(self.squares.mean(others))

    def by_entry(self, shape: Sequence[int]) -> Array:
        """The root mean square that each entry of the weight is applied to, for broadcasting with it.

        >>> Layer((1,), 2, np.array([1.0, 4, 9, 16]), 1).by_entry((2, 2))
        array([[1., 2.],
               [3., 4.]])
        """
        size = np.sqrt(self.squares)
        if self.groups == 1 or self.axes == (0,):
            order = sorted(range(len(self.axes)), key=lambda i: self.axes[i])
            return size.transpose(order).reshape([n if i in self.axes else 1 for i, n in enumerate(shape)])
        rows = size.reshape(self.groups, -1).repeat(shape[0] // self.groups, 0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


@dataclass(frozen=True)
class Statistics:
    """What was measured: ``layers`` by the name of the weight, ``similarity`` by the path of the block.

    A weight that is applied along different dimensions (``x @ w`` and ``y @ w.T``) has none. ``similarity`` is the mean
    cosine of what goes into a block and what comes out (:mod:`tdagger.prune.methods.depth`).
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
#: Composites whose bodies are linear layers, one for each step.
RECURRENT = ("lstm", "gru", "rnn")


class Applied(NamedTuple):
    """A weight, which of a value's arguments is what it is applied to, and dimensions that both have.

    ``pairs`` are the weight's and the other's, those of features last. ``groups``: into how many parts a convolution's
    features are divided.
    """

    weight: str
    argument: int
    pairs: tuple[tuple[int, int], ...]
    groups: int = 1


def applied(value: Value) -> Applied | None:
    """What is measured of a value: a product of a weight with what isn't one, summed over features; None if it is none.

    >>> import tdagger as td
    >>> x, w = td.input("x", (2, 5, 3)), td.parameter("experts", (4, 3, 6))
    >>> applied(td.einsum(x, w, equation="bti,eio->beto"))
    Applied(weight='experts', argument=0, pairs=((1, 2),), groups=1)
    >>> applied(td.matmul(x, td.parameter("w", (3, 6))))
    Applied(weight='w', argument=0, pairs=((0, 2),), groups=1)
    """
    op = value.op
    layer = weight_of(value)
    if layer is not None:
        name, axis, groups = layer
        return Applied(name, 0, ((axis, value.args[0].rank + 1 - value.args[1].rank),), groups)
    if not isinstance(op, Composite) or op.name not in _PRODUCTS:
        return None
    first = _PRODUCTS[op.name]
    both = value.args[first : first + 2]
    known = [_weight(v) for v in both]
    if sum(k is not None for k in known) != 1 or (op.name == "einsum" and len(value.args) != 2):
        return None
    w = 1 if known[0] is None else 0
    name, order = cast("tuple[str, tuple[int, ...]]", known[w])
    labels, out = _labels(op, [v.rank for v in both])
    mine, other = labels[w], labels[1 - w]
    if len(set(mine)) < len(mine) or len(set(other)) < len(other):
        return None
    pairs = [(mine.index(n), i, n) for i, n in enumerate(other) if n in mine]
    pairs = [p for p in pairs if both[w].shape[p[0]] == both[1 - w].shape[p[1]]]  # others are repeated
    if all(n in out for _, _, n in pairs):
        return None
    pairs.sort(key=lambda p: p[2] not in out)
    return Applied(name, first + 1 - w, tuple((order[i], j) for i, j, _ in pairs))


def _weight(value: Value) -> tuple[str, tuple[int, ...]] | None:
    """The name of a weight, transposed or not, and which of its dimensions each one is."""
    order = tuple(range(value.rank))
    if isinstance(value.op, Permute):
        order, (value,) = value.op.order, value.args
    return (value.op.leaf, order) if isinstance(value.op, Parameter) and value.rank > 1 else None


#: Products of two arguments, and the first of them.
_PRODUCTS = {"linear": 0, "einsum": 0, "matmul": 0, "addmm": 1, "baddbmm": 1, "grouped_matmul": 0}
#: What those that have no equation of their own sum over.
_EQUATIONS = {"linear": "...i,oi->...o", "grouped_matmul": "ti,gio->to"}


def _labels(op: Composite, ranks: list[int]) -> tuple[tuple[tuple[Any, ...], ...], tuple[Any, ...]]:
    """A label for each dimension of the two arguments and of the result; labels of both are equal."""
    equation = op.attributes.get("equation", _EQUATIONS.get(op.name, "...ij,...jk->...ik"))
    return parse_equation(equation, ranks)


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
            size = None if layer is None else layer.along(member.axis, member.unit.shape[1])
            if size is None:
                continue
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
