"""A quantized network at other sizes: it is known of it what is known of the float network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tdagger.errors import AxisError
from tdagger.tensordag import TensorDAG
from tdagger.transform.axes.certain import Changed
from tdagger.transform.axes.same import same

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Resized:
    """A network as a source: at other sizes it is what it is resized to, of which it asks its own source."""

    network: TensorDAG

    def at(self, shapes: Shapes) -> TensorDAG:
        return self.network.resize(dict(shapes))


@dataclass(frozen=True)
class OfFloat:
    """Who is asked of a quantized network at other sizes: the network that was given, and through it its own source.

    ``change`` makes ``float``, which is quantized, of ``given``. Where it makes at other sizes what the axes of
    ``float`` say, of the same weights, the quantized network is there what its own axes say: scales don't follow sizes.
    """

    given: TensorDAG
    change: Callable[[TensorDAG], TensorDAG]
    float: TensorDAG
    quantized: TensorDAG

    def at(self, shapes: Shapes) -> TensorDAG:
        """The quantized network with inputs of these shapes; AxisError where the float network has no such sizes."""
        there = Changed(_Resized(self.given), self.change, self.float).at(shapes)
        if not same(there.graph, self.float.resize(dict(shapes), assume=True).graph):
            raise AxisError("the float network is another at these sizes: resize it first, and quantize that")
        return self.quantized.resize(dict(shapes), assume=True)
