"""A quantized or repaired network at other sizes: it is known of it what is known of the float network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tdagger.errors import AxisError
from tdagger.tensordag import TensorDAG
from tdagger.transform.axes.same import same
from tdagger.transform.axes.sources import Changed, OtherWeights, Source, SourceRaises
from tdagger.transform.networks import asking

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Resized:
    """A network as a source: at other sizes it is what it is resized to, of which it asks its own source."""

    network: TensorDAG

    def at(self, shapes: Shapes) -> TensorDAG:
        try:
            return self.network.resize(dict(shapes))
        except AxisError as e:  # who asks says of which sizes
            raise type(e)(str(e).removeprefix(f"{asking(shapes)}: ")) from e


@dataclass(frozen=True)
class OfFloat:
    """Who is asked of a quantized or repaired network at other sizes: the network that was given, and its own source.

    ``change`` makes ``float``, which is quantized or repaired, of ``given``. Where it makes at other sizes what the
    axes of ``float`` say, of the same weights, ``made`` is there what its own axes say: scales, and factors of
    channels, don't follow sizes.
    """

    given: TensorDAG
    change: Callable[[TensorDAG], TensorDAG]
    float: TensorDAG
    made: TensorDAG

    @property
    def source(self) -> Source | None:
        """Who is asked in the end."""
        return self.given.source

    def at(self, shapes: Shapes) -> TensorDAG:
        """What is made of it, with inputs of these shapes; OtherWeights where the float network is another there."""
        try:
            there = Changed(_Resized(self.given), self.change, self.float).at(shapes)
        except (OtherWeights, SourceRaises):
            raise
        except AxisError as e:  # what is made may have nothing left that says so
            raise OtherWeights(str(e)) from e
        if not same(there.graph, self.float.resize(dict(shapes), assume=True).graph):
            raise OtherWeights("the float network is another at these sizes: resize it first, and quantize that")
        return self.made.resize(dict(shapes), assume=True)
