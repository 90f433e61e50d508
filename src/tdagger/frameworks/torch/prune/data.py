"""What data does to a network, measured with torch: statistics of layers' inputs, and gradients of a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from tdagger.errors import InputError
from tdagger.frameworks.torch.exporter import to_torch
from tdagger.frameworks.torch.runtime import to_numpy
from tdagger.interpreter import Interpreter
from tdagger.network import Origin
from tdagger.op import Array, Value
from tdagger.prune.methods.depth import Block, blocks
from tdagger.prune.statistics import RECURRENT, Applied, Layer, Statistics, applied, weight_of
from tdagger.tensordag import TensorDAG


def measure(dag: TensorDAG, batches: Iterable[Any], products: bool = False) -> Statistics:
    """Statistics of the inputs of layers on data; see :meth:`tdagger.TensorDAG.measure`."""
    recurrent = {v.op.name for v in dag.graph.values} & set(RECURRENT)
    meter = _Meter(dag.inline(*sorted(recurrent)) if recurrent else dag, products)
    count = 0
    with torch.no_grad():
        for batch in batches:
            args, kwargs = arguments(batch)
            meter.run(*args, **kwargs)
            count += 1
    if not count:
        raise InputError("measure: there are no batches")
    return meter.statistics()


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a network is called with a batch: one argument, a tuple of them, or a dict of arguments by name.

    >>> arguments(1), arguments((1, 2)), arguments({"x": 1})
    (((1,), {}), ((1, 2), {}), ((), {'x': 1}))
    """
    if isinstance(batch, Mapping):
        return (), dict(cast(Mapping[str, Any], batch))
    if isinstance(batch, tuple | list):
        return tuple(cast("list[Any]", batch)), {}
    return (batch,), {}


class _Meter(Interpreter):
    """Runs the network and adds up what layers get; a value lives as long as others need it."""

    def __init__(self, dag: TensorDAG, products: bool) -> None:
        super().__init__(dag, "torch")
        self.layers = {v: found for v in dag.graph.values if (found := applied(v)) is not None}
        self.products = products
        self.blocks = {b.output: b for b in blocks(dag)}
        self.entering: dict[Value, Any] = {}
        self.waiting = Counter(b.input for b in self.blocks.values())
        self.features = {b.path: self._features(b) for b in self.blocks.values()}
        self.sums: dict[str, tuple[Applied, Tensor, int, Tensor | None]] = {}
        #: Weights that are applied along different dimensions.
        self.unlike: set[str] = set()
        self.cosines: dict[str, tuple[float, int]] = {}

    def run_value(self, value: Value, args: list[Any]) -> Any:
        if value in self.layers:
            self._layer(value, args[self.layers[value].argument])
        out = super().run_value(value, args)
        if value in self.waiting:
            self.entering[value] = out
        if value in self.blocks:
            block = self.blocks[value]
            self._block(block, self.entering[block.input], out)
            self.waiting[block.input] -= 1
            if not self.waiting[block.input]:
                del self.entering[block.input]
        return out

    def _layer(self, value: Value, x: Tensor) -> None:
        how = self.layers[value]
        x = x.detach().double()
        own = [d for _, d in how.pairs]
        rows = x.movedim(own, list(range(-len(own), 0))).reshape(-1, *[x.shape[d] for d in own])
        products = None
        if self.products and weight_of(value) and how.groups == 1 and value.op.name != "convolution_transpose":
            spatial = value.args[1].rank - 2
            seen = rows if not spatial else _patches(value, x, spatial)
            products = seen.T @ seen / max(len(seen), 1) * len(rows)
        squares, seen_rows = rows.square().sum(0), len(rows)
        if how.weight in self.sums:
            first, before, count, old = self.sums[how.weight]
            if [i for i, _ in first.pairs] != [i for i, _ in how.pairs]:
                self.unlike.add(how.weight)
                return
            squares, seen_rows = squares + before, count + seen_rows
            products = None if products is None or old is None else products + old
        self.sums[how.weight] = (how, squares, seen_rows, products)

    def _features(self, block: Block) -> int:
        """Which dimension of a block's tensors holds features: what its first layer on such a rank takes."""
        for value in self.layers:
            origin = self._module(value)
            if value.args[0].rank == block.input.rank and f"{origin}.".startswith(f"{block.path}."):
                return self.layers[value].pairs[-1][1]
        return block.input.rank - 1

    def _module(self, value: Value) -> str:
        """The path of the module that a value came from."""
        return cast(TensorDAG, self.network).origins.get(value, Origin()).module

    def _block(self, block: Block, before: Tensor, after: Tensor) -> None:
        cosine = torch.nn.functional.cosine_similarity(before.double(), after.double(), self.features[block.path])
        total, count = self.cosines.get(block.path, (0.0, 0))
        self.cosines[block.path] = (total + float(cosine.sum()), count + cosine.numel())

    def statistics(self) -> Statistics:
        layers = {
            name: Layer(
                tuple(i for i, _ in how.pairs),
                how.groups,
                to_numpy(squares.cpu()) / count,
                count,
                _mean(products, count),
            )
            for name, (how, squares, count, products) in self.sums.items()
            if name not in self.unlike
        }
        return Statistics(layers, {p: total / max(count, 1) for p, (total, count) in self.cosines.items()})


def _mean(products: Tensor | None, count: int) -> Array | None:
    return None if products is None else to_numpy(products.cpu()) / count


def _patches(value: Value, x: Tensor, spatial: int) -> Tensor:
    """What a convolution's kernel is applied to at each place: ``[places, features * kernel]``."""
    how: Mapping[str, Any] = cast(Any, value.op).attributes
    kernel = value.args[1].shape[2:]
    pads = [int(n) for before, after in reversed(how["padding"]) for n in (before, after)]
    x = torch.nn.functional.pad(x.reshape(-1, *x.shape[x.ndim - spatial - 1 :]), pads)
    for i, (k, stride, dilation) in enumerate(zip(kernel, how["stride"], how["dilation"], strict=True)):
        x = x.unfold(2 + i, (k - 1) * dilation + 1, stride)[..., ::dilation]
    # [n, features, places.., kernel..] -> places first
    order = [0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial)]
    x = x.permute(order)
    return x.reshape(-1, int(value.args[1].shape[1]) * int(torch.tensor(kernel).prod()))


def gradients(
    dag: TensorDAG, batches: Iterable[Any], loss: Callable[[Any, Any], Tensor], squared: bool = False
) -> dict[str, Array]:
    """The mean gradient of a loss over batches by the name of the parameter, for importances: f32 of its shape.

    A batch is ``(input, target)``; ``input`` is what the network takes (one argument, a tuple or a dict of them), and
    ``loss(output, target)`` a number. ``squared``: the mean of squares of each batch's gradient, the usual estimate of
    the loss's curvature (batches of one example are the most exact). The network's weights and buffers stay as they
    are; it runs in the mode it was imported in. Parameters that don't train or that the loss doesn't depend on have
    gradients of 0. InputError without batches.

    >>> import torch, tdagger as td
    >>> dag = td.layers.linear(3, 1)
    >>> found = gradients(dag, [(torch.ones(1, 3), None)], lambda y, target: y.sum())
    >>> found["weight"].tolist()
    [[1.0, 1.0, 1.0]]
    """
    module = to_torch(dag, copy=True)
    named = dict(module.named_parameters())
    sums = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in named.items()}
    count = 0
    for given, target in batches:
        args, kwargs = arguments(given)
        module.zero_grad(set_to_none=True)
        loss(module(*args, **kwargs), target).backward()
        for name, parameter in named.items():
            if parameter.grad is not None:
                grad = parameter.grad.double()
                sums[name] += grad.square() if squared else grad
        count += 1
    if not count:
        raise InputError("gradients: there are no batches")
    return {n: to_numpy((s / count).float().cpu()) for n, s in sums.items()}
