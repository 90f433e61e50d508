"""Two graphs brought to one spelling: channels first, norms in the layers before them where the other has them so.

Composites that one has more of than the other are written out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from tdagger.composite import Composite
from tdagger.graph import Graph
from tdagger.op import Array, Value
from tdagger.ops.structure import Item, Permute
from tdagger.transform.passes.layers import NORMS
from tdagger.transform.passes.layout import IMAGES, with_channels_first
from tdagger.transform.rewrite.sweeps import swept

_NORM = "batch_norm"


#: The axes of an image.
_IMAGE = 4


class Spelled(NamedTuple):
    """A graph in another spelling; ``owner`` has for each of its values that of the graph it was made for."""

    graph: Graph
    owner: Mapping[Value, Value]


def spelled_alike(a: Any, b: Any) -> tuple[Spelled, Spelled]:
    """The graphs of two networks in one spelling. Linear."""
    one, other = map(_with_channels_first, (a, b))
    counts = [_composites(s.graph)[_NORM] for s in (one, other)]
    if counts[0] > counts[1]:
        one = _with_norms_in_layers(one, a.weights, counts[1])
    elif counts[0] < counts[1]:
        other = _with_norms_in_layers(other, b.weights, counts[0])
    while True:
        counts = _composites(one.graph), _composites(other.graph)
        names = {n for n in counts[0] | counts[1] if counts[0][n] != counts[1][n]}
        if not names:
            return one, other
        one, other = (_written_out(s, names) for s in (one, other))


def _with_channels_first(network: Any) -> Spelled:
    """The graph as it is, unless fewer images are transposed for an op if channels come first: files have them last.

    What images become (tokens) may have them last again, if that takes fewer transposes.
    """
    graph: Graph = network.graph
    found = Spelled(graph, {v: v for v in graph.values})
    if not _transposes(graph):
        return found
    turned = [Spelled(*with_channels_first(network, smallest)) for smallest in (0, _IMAGE)]
    best = min(turned, key=lambda s: (_transposes(s.graph), _moves(s.graph)))
    return best if _transposes(best.graph) < _transposes(graph) else found


def _moves(graph: Graph) -> int:
    return sum(isinstance(v.op, Permute) for v in graph.values)


def _with_norms_in_layers(spelled: Spelled, weights: Mapping[str, Array], count: int) -> Spelled:
    """The graph with batch norms as what they make of the weights of the layers before them; as it is, if no closer.

    ``count`` is how many the other network has. A layer is its own layer's, what its weights are made of the norm's.
    """
    graph, made_for, _ = swept(spelled.graph, NORMS, weights)
    if abs(_composites(graph)[_NORM] - count) >= abs(_composites(spelled.graph)[_NORM] - count):
        return spelled
    owner: dict[Value, Value] = {}
    for value, old in made_for.items():
        of = old
        if old.op.name == _NORM:
            before = [*old.args[:1], *old.args[0].args[:1]]  # the other axes may be made one in between
            of = next((v for v in before if v.op.name == value.op.name), old)
        owner[value] = spelled.owner.get(of, of)
    return Spelled(graph, owner)


def _transposes(graph: Graph) -> int:
    return sum(v.op.name in IMAGES and isinstance(v.args[0].op, Permute) for v in graph.values)


def _composites(graph: Graph) -> Counter[str]:
    return Counter(v.op.name for v in graph.values if isinstance(v.op, Composite) and not v.op.has_branches)


def _written_out(spelled: Spelled, names: set[str]) -> Spelled:
    """The graph with the bodies of composites of these names in their places."""
    graph = spelled.graph
    new: dict[Value, Any] = {}
    owner: dict[Value, Value] = {}
    for value in graph.values:
        args = [new[x] for x in value.args]
        if isinstance(value.op, Composite) and value.op.name in names and not value.op.has_branches:
            body = value.op.body(*[x.type for x in args])
            inner: dict[Value, Any] = dict(zip(body.inputs.values(), args, strict=True))
            for v in body.values:
                if v not in inner:
                    inner[v] = v.op(*[inner[x] for x in v.args])
                    owner.setdefault(inner[v], spelled.owner.get(value, value))
            results = tuple([inner[v] for v in body.outputs.values()])
            new[value] = results[0] if len(results) == 1 else results
            continue
        if isinstance(value.op, Item) and isinstance(args[0], tuple):
            new[value] = args[0][value.op.index]
            continue
        new[value] = value.op(*args)
        owner[new[value]] = spelled.owner.get(value, value)
    outputs = {k: new[v] for k, v in graph.outputs.items()}
    updates = {k: new[v] for k, v in graph.updates.items()}
    found = Graph({k: new[v] for k, v in graph.inputs.items()}, outputs, updates, graph.name, list(owner))
    return Spelled(found, owner)
