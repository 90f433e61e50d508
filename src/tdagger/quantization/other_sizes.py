"""A quantized network at other sizes: it is known of it what is known of the float network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tdagger.errors import AxisError
from tdagger.tensordag import TensorDAG
from tdagger.transform.axes.same import same


@dataclass(frozen=True)
class OfFloat:
    """Who is asked of a quantized network at other sizes: the float network, and through it the model it came from.

    ``change`` makes of the network that was given the one that is quantized. Where it makes of that at other sizes what
    the axes say, the quantized network is at these sizes what its own axes say: scales don't follow sizes.
    """

    source: TensorDAG
    change: Callable[[TensorDAG], TensorDAG]
    quantized: TensorDAG

    def at(self, shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
        """The quantized network with inputs of these shapes; AxisError where the float network has no such sizes."""
        there = self.change(self.source.resize(dict(shapes)))
        ours = self.change(self.source).resize(dict(shapes), assume=True)
        if not same(there.graph, ours.graph):
            raise AxisError("the float network is another at these sizes: resize it first, and quantize that")
        return self.quantized.resize(dict(shapes), assume=True)
