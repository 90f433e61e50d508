"""Biases changed so that the means of channels are those of the float network: a repair of what rounding shifts.

The float run that finds the ranges keeps the means of the channels of each layer, the quantized network then runs on
the same data, and each layer is corrected by what its means lack, before the next one sees it: layers after it are
corrected for what is left. Neither holds more than one network's values. What is kept of batches is no
larger after a thousand of them than after 32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tdagger.interpreter import Executor
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.quantization.placement import Placement
from tdagger.quantization.repeated import Repeated
from tdagger.tensordag import TensorDAG

#: The examples of a batch, and their positions, are kept as at most so many means.
_PARTS = 8
#: The means of the float network are kept for at most so many parts of examples of all batches.
_KEPT = 32
#: How many standard errors of a mean are taken for chance.
_ERRORS = 2.0
#: Corrections are settled after so many groups of batches, where on average so much of a layer's may be chance.
_GROUPS, _SETTLED = 3, 1 / 32


def corrected(placement: Placement) -> set[Value]:
    """The layers whose bias can be changed: they have a quantized weight, and no bias or one that is a weight."""
    found: set[Value] = set()
    for value, row in placement.rows.items():
        if row.bias is None or (value, row.weight or 0) not in placement.weights:
            continue
        bias = value.args[row.bias] if row.bias < len(value.args) else None
        f = value.op.attributes
        if (f.get("alpha", 1), f.get("beta", 1)) != (1, 1):
            continue
        if bias is None or (isinstance(bias.op, Leaf | Const) and bias.op.name != "input" and bias.rank == 1):
            found.add(value)
    return found


def axis_of(value: Value) -> int:
    """The dimension of the channels of a layer's result, counted from the end."""
    return 1 - value.args[1].rank if value.op.name in ("convolution", "convolution_transpose") else -1


def means(x: Array, axis: int) -> Array:
    """The means of channels over parts of the examples and parts of the positions: f64 ``[parts parts channels]``.

    The first dimension is that of examples; what is neither that nor the channels are positions.

    >>> means(np.float32([[[1, 2], [3, 4]]]), -1)
    array([[[1., 2.],
            [3., 4.]]])
    """
    x = x.reshape(1, *x.shape) if x.ndim < 2 else x
    if axis < -1 and x.ndim + axis == 1:  # channels before all positions, which are summed up where they are
        return _parts(_of_positions(x.reshape(*x.shape[:2], -1)).swapaxes(1, 2), 0)
    x = np.moveaxis(x, axis, -1)
    return _parts(_parts(x.reshape(len(x), -1, x.shape[-1]), 1), 0)


def _of_positions(x: Array) -> Array:
    """Means along the last axis, of as many entries beside each other as parts can have that are all as long.

    One product with ones does it, in f32, wherever channels lie: numpy's sums of parts take several times as long.
    """
    size = x.shape[-1]
    count = next(n for n in range(min(size, _PARTS), 0, -1) if not size % n) if size else 1
    if x.dtype != np.float32 or 2 * count < min(size, _PARTS):
        return _parts(x, 2)
    length = size // count
    ones = np.ones(length, np.float32)
    if x.strides[1] < x.strides[2]:  # channels lie beside each other
        last = x.swapaxes(1, 2)
        sums = (ones @ last.reshape(len(x), count, length, -1)).swapaxes(1, 2)
    else:
        sums = np.ascontiguousarray(x).reshape(-1, length) @ ones
    return sums.reshape(*x.shape[:2], count).astype(np.float64) / length


def _parts(x: Array, axis: int) -> Array:
    """At most so many means along an axis, of entries beside each other."""
    size = x.shape[axis]
    count = min(size, _PARTS)
    starts = [i * size // count for i in range(count)]
    counts = np.array([b - a for a, b in pairwise([*starts, size])])
    sums = np.add.reduceat(x, starts, axis, dtype=np.float64)
    return sums / counts.reshape(-1, *(1,) * (x.ndim - axis - 1))


class Means:
    """The means of a layer's channels in each batch; where these are many, of so many batches beside each other.

    >>> wanted = Means()
    >>> for n in range(100):
    ...     wanted.add(np.float64([[[n]]]))
    >>> len(wanted.groups), wanted.size, wanted.groups[1].tolist()
    (25, 4, [[[5.5]]])
    """

    def __init__(self) -> None:
        #: How many batches a group is the mean of, how many there were.
        self.size: int = 1
        self.batches: int = 0
        #: In one array for all: small ones between what a run holds would keep memory from being used again.
        self._held: Array = np.zeros(0)
        self._count: int = 0

    @property
    def groups(self) -> Array:
        """The means of each group: ``[groups examples positions channels]``."""
        return self._held[: self._count]

    def add(self, parts: Array) -> None:
        """Take in a batch: ``[examples positions channels]``, as :func:`means` gives them."""
        if not self.batches:
            self._held = np.zeros((max(2, _KEPT // len(parts) // 2 * 2), *parts.shape))
        at = self.batches % self.size
        if not at and self._count == len(self._held):
            self._count //= 2
            self.size *= 2
            for i in range(self._count):
                self._held[i] = (self._held[2 * i] + self._held[2 * i + 1]) / 2
        if at:
            self._held[self._count - 1] += (parts - self._held[self._count - 1]) / (at + 1)
        else:
            self._held[self._count] = parts
            self._count += 1
        self.batches += 1


@dataclass(frozen=True)
class Lacking:
    """What the means of a layer's channels lack, over all batches so far.

    >>> batches = np.float64([[[1, 1]], [[1, -1]]]), np.float64([[[1, 2]], [[1, -2]]])
    >>> Lacking().and_(batches[0]).and_(batches[1]).certain()
    array([1., 0.])
    """

    examples: int = 0
    #: Sums over examples: of each position and channel, and of the squares of the means of an example's positions.
    sums: Array | float = 0.0
    squares: Array | float = 0.0

    def and_(self, parts: Array) -> Lacking:
        """With what a batch lacks: ``[examples positions channels]``, as :func:`means` gives them."""
        squares = np.square(parts.mean(1)).sum(0)
        return Lacking(self.examples + len(parts), self.sums + parts.sum(0), self.squares + squares)

    def certain(self) -> Array:
        """What each channel lacks, less the part of it that may be chance: a mean within two standard errors is 0."""
        mean, variance = self._moments()
        square = np.square(mean)
        share = 1 - _ERRORS**2 * variance / np.where(square > 0, square, 1)
        return np.asarray(np.maximum(share, 0) * mean)

    def chance(self) -> float:
        """Of what is corrected, the share that may be chance: energies over all channels; 1.0 where nothing is.

        >>> Lacking().and_(np.float64([[[1, 1]], [[1, 0]]])).chance()
        0.0
        """
        mean, variance = self._moments()
        square = np.square(mean)
        certain = square > _ERRORS**2 * variance
        return float(variance[certain].sum() / square[certain].sum()) if certain.any() else 1.0

    def _moments(self) -> tuple[Array, Array]:
        """The mean of each channel, and its variance: that among examples and that among positions, each over how many.

        What a few positions have (the padding of sentences) isn't what a bias can repair.
        """
        each = np.asarray(self.sums / self.examples)
        mean, positions = each.mean(0), len(each)
        variance = np.zeros_like(mean)
        if self.examples > 1:
            variance += np.maximum(self.squares / self.examples - np.square(mean), 0) / (self.examples - 1)
        if positions > 1:
            variance += each.var(0, ddof=1) / positions
        return mean, variance


class Correcting(Repeated):
    """Runs the quantized network and corrects its layers on the way.

    ``layers`` are those of the quantized network by the float network's, of which ``wanted`` has the means.
    """

    def __init__(
        self, layers: Mapping[Value, Value], quantized: TensorDAG, framework: str | Executor,
        wanted: Mapping[Value, Means], tensor: Callable[[Array], Any],
    ) -> None:  # fmt: skip
        super().__init__(quantized, framework)
        self.layers = {made: v for v, made in layers.items()}
        self.wanted, self.tensor = wanted, tensor
        self.lacking = {v: Lacking() for v in wanted}
        #: Of the group of batches that is run: what was lacking before it, and the means so far.
        self.before: dict[Value, Lacking] = {}
        self.found: dict[Value, Array] = {}
        self.batch = 0
        #: Whether corrections stay as they are.
        self.settled = False

    def run_value(self, value: Value, args: list[Any]) -> Any:
        out = super().run_value(value, args)
        layer = self.layers.get(value)
        if layer is None:
            return out
        axis = axis_of(layer)
        if not self.settled:
            self._see(layer, means(self.framework.array(out), axis))
        out += self.tensor(self.correction(layer).reshape(-1, *(1,) * (-1 - axis)))  # its own: nobody has it yet
        return out

    def _see(self, layer: Value, parts: Array) -> None:
        """Take in the means of a layer in a batch: of its group, those so far are compared with the float network's."""
        wanted = self.wanted[layer]
        group, at = divmod(self.batch, wanted.size)
        if at:
            parts = self.found[layer] + (parts - self.found[layer]) / (at + 1)
        else:
            self.before[layer] = self.lacking[layer]
        self.found[layer] = parts
        self.lacking[layer] = self.before[layer].and_(wanted.groups[group] - parts)

    def is_settled(self) -> bool:
        """Whether more data would change corrections little: little of them is chance, by several groups of batches."""
        size = next(iter(self.wanted.values())).size
        if self.batch % size or self.batch < _GROUPS * size:
            return False
        chances = [c for c in (each.chance() for each in self.lacking.values()) if c < 1]
        return bool(chances) and float(np.mean(chances)) < _SETTLED

    def correction(self, layer: Value) -> Array:
        """What is to be added to a layer's bias by what was seen so far: f32."""
        return self.lacking[layer].certain().astype(np.float32)
