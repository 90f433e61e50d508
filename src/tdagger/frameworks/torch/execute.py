"""One value run by torch: what ``to_torch`` would write for it, compiled once for each op and types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tdagger.composite import Composite
from tdagger.frameworks.torch.aten.extend import FUNCTIONS
from tdagger.frameworks.torch.exporter import module_of
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy, quantized_and_read, to_numpy
from tdagger.graph import Graph, is_one
from tdagger.library.quantized import GRIDS
from tdagger.network import Signature, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Input, Leaf
from tdagger.ops.structure import items
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree


class Executor:
    """See :class:`tdagger.interpreter.Executor`."""

    def __init__(self) -> None:
        self._modules: dict[Any, Any] = {}

    def is_tensor(self, x: Any) -> bool:
        return isinstance(x, Tensor)

    def weight(self, weights: Mapping[str, Array], value: Value) -> Tensor:
        assert isinstance(value.op, Leaf)
        lazy = getattr(weights, "tensor", None)
        found = None if lazy is None else lazy(value.op.leaf)
        return from_numpy(weights[value.op.leaf], DTYPES[value.dtype.name]) if found is None else found

    def run(self, value: Value, args: list[Any]) -> Any:
        if not value.args:
            op: Any = value.op
            return from_numpy(op.run(), DTYPES[value.dtype.name])
        function = FUNCTIONS.get(value.op.name)
        if function is not None and isinstance(value.op, Composite):
            return function(*value.op.spread(tuple(args)), **value.op.attributes)
        key = (value.op, tuple([a.type for a in value.args]))
        module = self._modules.get(key)
        if module is None:
            module = self._modules[key] = _module(value)
        return module(*args)

    def read_again(self, rounded: Value, value: Value, args: list[Any]) -> Tensor:
        """Rounded and read in f32, which has the numbers of 16 bits and fewer, in place."""
        f, (x, scale, *zeros) = rounded.op.attributes, args
        grid = GRIDS[f["to"]]
        whole = not grid.is_float and grid.bits <= 16 and (f["like"], f["precision"]) == ("onnx", "")
        if not whole or not x.dtype == scale.dtype == torch.float32 or value.dtype.name != "f32":
            return self.run(value, [self.run(rounded, args), *args[1:]])
        low, high = (getattr(grid, end) if f[end] is None else f[end] for end in ("low", "high"))
        zero = zeros[0] if zeros else None
        return quantized_and_read(x, scale, zero, low, high, f["axis"], f["block"])

    def packed(self, value: Value, args: list[Any]) -> Callable[[Tensor], Tensor] | None:
        """A convolution of images by oneDNN, its weight laid out for it once: torch's own does that in each run."""
        f = value.op.attributes
        if value.op.name != "convolution" or value.rank != 4 or any(a.dtype != torch.float32 for a in args):
            return None
        if not torch.backends.mkldnn.is_available() or any(a != b or a < 0 for a, b in f["padding"]):
            return None
        x, weight, bias, *_ = *args, None
        how: Any = ([a for a, _ in f["padding"]], f["stride"], f["dilation"], f["groups"])
        lying = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, list(x.shape))
        return lambda x: torch.ops.mkldnn._convolution_pointwise(x, lying, bias, *how, "none", [], "")

    def array(self, tensor: Any) -> Array:
        return to_numpy(tensor)


def _module(value: Value) -> Any:
    """A module of one op: called with its arguments, it gives its results."""
    inputs = {f"a{i}": Input(f"a{i}", a.type)() for i, a in enumerate(value.args)}
    out = value.op(*inputs.values())
    results = [out] if is_one(out) else list(items(out))
    graph = Graph(inputs, {f"y{i}": v for i, v in enumerate(results)}, name=value.op.name)
    signature = plain_signature(len(inputs), len(results))
    if not is_one(out) and len(results) == 1:
        signature = Signature(signature.inputs, Tree("tuple", (0,), (Tree("leaf"),)))
    return module_of(TensorDAG(graph, {}, signature), copy=False, plain=True)  # whose arguments need no checks
