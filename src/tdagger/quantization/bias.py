"""Biases changed so that the means of channels are those of the float network: a repair of what rounding shifts.

The float run that finds the ranges keeps the means of the channels of each layer, the quantized network then runs on
the same data, and each layer is corrected by what its means lack, before the next one sees it: layers after it are
corrected for what is left. Neither holds more than one network's values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger.interpreter import Interpreter
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.quantization.convert import Conversion
from tdagger.quantization.placement import Placement
from tdagger.tensordag import TensorDAG

#: The examples of a batch are kept as at most so many means.
_ROWS = 8


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
    """The means of channels, of a few parts of the examples along the first dimension: f64 ``[parts channels]``.

    >>> means(np.float32([[[1, 2], [3, 4]]]), -1)
    array([[2., 3.]])
    """
    x = np.moveaxis(x, axis, -1)
    x = x.reshape(1 if x.ndim < 2 else x.shape[0], -1, x.shape[-1])
    each = x.mean(1, dtype=np.float64)
    if len(each) <= _ROWS:
        return each
    return np.stack([part.mean(0) for part in np.array_split(each, _ROWS)])


def part_of_chance(rows: Array) -> float:
    """How much of the mean of some rows is more than chance: 1 minus the part that so few would have of themselves."""
    if len(rows) < 2:
        return 1.0
    mean = rows.mean(0)
    size, chance = float(np.square(mean).sum()), float(rows.var(0, ddof=1).sum()) / len(rows)
    return max(1 - chance / size, 0.0) if size else 0.0


class Correcting(Interpreter):
    """Runs the quantized network and corrects its layers on the way; ``wanted`` are the float network's means."""

    def __init__(
        self, conversion: Conversion, quantized: TensorDAG, framework: str, wanted: Mapping[Value, list[Array]],
        tensor: Callable[[Array], Any],
    ) -> None:  # fmt: skip
        super().__init__(quantized, framework)
        self.layers = {conversion.ops[v]: v for v in wanted}
        self.wanted, self.tensor = wanted, tensor
        self.lacking: dict[Value, list[Array]] = {v: [] for v in wanted}
        self.batch = 0

    def run_value(self, value: Value, args: list[Any]) -> Any:
        out = super().run_value(value, args)
        layer = self.layers.get(value)
        if layer is None:
            return out
        axis = axis_of(layer)
        self.lacking[layer].append(self.wanted[layer][self.batch] - means(self.framework.array(out), axis))
        change = self.correction(layer).reshape(-1, *(1,) * (-1 - axis))
        return out + self.tensor(change)

    def correction(self, layer: Value) -> Array:
        """What is to be added to a layer's bias by what was seen so far: f32."""
        rows = np.concatenate(self.lacking[layer])
        return (part_of_chance(rows) * rows.mean(0)).astype(np.float32)
