"""The reference of integer kernels: products of quantized values summed in i32, with numpy.

Where a layer takes quantized integers, it is computed on these: differences from the zero points, exact sums that wrap
around as i32, the bias in i32, and one factor, the product of the scales. Everything else is computed in float between
the roundings, as a runtime does that has no integer kernel of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tdagger.interpreter import Interpreter
from tdagger.library.quantized import spread_array
from tdagger.op import Array, Value
from tdagger.tensordag import TensorDAG

#: Layers by their two factors and their bias, and the dimension of the second factor that has channels.
_LAYERS: dict[str, tuple[int, int, int | None]] = {
    "convolution": (0, 1, 2), "linear": (0, 1, 2), "matmul": (0, 1, None), "addmm": (1, 2, 0),
}  # fmt: skip


class Codes(NamedTuple):
    """A quantized tensor: whole numbers less their zero points, and scales that broadcast with them."""

    numbers: Array
    scale: Array


class Integers(Interpreter):
    """Runs a quantized network, its layers on integers."""

    def __init__(self, dag: TensorDAG) -> None:
        super().__init__(dag)
        self.codes: dict[Value, Codes] = {}
        #: How many layers were computed on integers.
        self.count = 0

    def run_value(self, value: Value, args: list[Any]) -> Any:
        if value.op.name == "dequantize":
            self._read(value, args)
        elif value.op.name == "permute" and value.args[0] in self.codes:
            numbers, scale = self.codes[value.args[0]]
            order = value.op.attributes["order"]
            self.codes[value] = Codes(numbers.transpose(order), scale.transpose(order) if scale.ndim else scale)
        elif value.op.name in _LAYERS:
            found = self._layer(value, args)
            if found is not None:
                self.count += 1
                return found
        return super().run_value(value, args)

    def _read(self, value: Value, args: list[Any]) -> None:
        """Keep what a value was before it was read as floats."""
        x, scale, *zero = args
        f = value.op.attributes
        if x.dtype.kind not in "iu" or f["block"]:
            return
        numbers = x.astype(np.int64)
        if zero:
            numbers = numbers - spread_array(zero[0], x.shape, f["axis"]).astype(np.int64)
        each = spread_array(scale, x.shape, f["axis"])
        self.codes[value] = Codes(
            numbers, each.reshape((1,) * (x.ndim - each.ndim) + each.shape) if each.ndim else each
        )

    def _layer(self, value: Value, args: list[Any]) -> Array | None:
        """A layer on integers; None if what it takes isn't, or its scales differ within a sum."""
        first, second, bias = _LAYERS[value.op.name]
        x, w = (self.codes.get(value.args[i]) for i in (first, second))
        if x is None or w is None or x.scale.size > 1 or not _is_scaled(value):
            return None
        per = _of_channels(value, w.scale)
        if per is None:
            return None
        total = _products(value, x.numbers, w.numbers)
        scale = x.scale.reshape(()).astype(np.float32) * per
        given = None if bias is None or bias >= len(value.args) else value.args[bias]
        if given is None or (value.op.name == "addmm" and value.op.attributes["beta"] == 0):
            return total.astype(np.float32) * scale
        codes = self.codes.get(given)
        at = value.args[bias or 0]
        shape = (-1, *(1,) * (value.args[1].rank - 2)) if value.op.name == "convolution" else at.shape
        if codes is not None:
            total = (total.astype(np.int64) + codes.numbers.reshape(shape)).astype(np.int32)
            return total.astype(np.float32) * scale
        return total.astype(np.float32) * scale + args[bias or 0].reshape(shape)


def _is_scaled(value: Value) -> bool:
    f = value.op.attributes
    return value.op.name != "addmm" or (f["alpha"] == 1 and f["beta"] in (0, 1))


def _of_channels(value: Value, scale: Array) -> Array | None:
    """The scales of a second factor as they are of the result; None if they differ along what is summed."""
    if scale.size == 1:
        return scale.reshape(()).astype(np.float32)
    if value.op.name == "convolution":
        return scale.reshape(-1, *(1,) * (scale.ndim - 2)) if scale.shape[0] == scale.size else None
    if value.op.name == "linear":
        return scale.reshape(-1) if scale.shape[0] == scale.size else None
    return scale.reshape(-1) if scale.shape[-1] == scale.size else None


def _products(value: Value, x: Array, w: Array) -> Array:
    """The sums of products as i32: f64 holds them exactly."""
    a, b = x.astype(np.float64), w.astype(np.float64)
    if value.op.name in ("matmul", "addmm"):
        total = np.matmul(a, b)
    elif value.op.name == "linear":
        total = np.matmul(a, b.T)
    else:
        op: Any = value.op
        total = type(op)(*op.attributes.values(), (True, True, False)).run(a, b)
    return total.astype(np.int64).astype(np.int32)


def run_integers(dag: TensorDAG, *args: Any, **kwargs: Any) -> Any:
    """What a quantized network gives if its layers are computed on integers; see the module.

    >>> import numpy as np, tdagger as td
    >>> small = td.quantize(td.layers.linear(4, 3), [np.ones((1, 4), "f")])
    >>> run_integers(small, np.ones((1, 4), "f")).shape
    (1, 3)
    """
    return Integers(dag).run(*args, **kwargs)
