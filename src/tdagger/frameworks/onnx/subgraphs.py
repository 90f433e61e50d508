"""The graphs in the attributes of nodes: what they read from around them, and their nodes in a scope inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.onnx.file.tensors import name_of
from tdagger.frameworks.onnx.things import Thing
from tdagger.names import shown

if TYPE_CHECKING:
    from tdagger.frameworks.onnx.walk.nodes import Nodes as Walk
    from tdagger.frameworks.onnx.walk.scope import Scope

#: The operators whose attributes are graphs that are imported.
CONTROL = frozenset({"If", "Loop", "Scan"})
#: Graphs are nested no deeper.
_DEEPEST = 64


class Subgraph:
    """A graph inside a node; ``captured`` are the names that it reads and doesn't make.

    ``kept`` is what its tensors became. It is made once for a node, however often the node is imported (the turns of a
    loop that is written out).
    """

    def __init__(self, graph: Any, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise SourceError(f"graphs are nested more than {_DEEPEST} deep")
        self.graph = graph
        self.nodes: list[Any] = list(graph.node)
        self.inputs: list[str] = [i.name for i in graph.input]
        self.outputs: list[str] = [o.name for o in graph.output]
        self.kept: dict[str, str] = {}
        self.inner: dict[int, dict[str, Subgraph]] = {}
        tensors = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
        made = {*self.inputs, *tensors, *[o for n in self.nodes for o in n.output]}
        read: dict[str, None] = {}
        for node in self.nodes:
            read.update(dict.fromkeys(n for n in node.input if n))
            own = subgraphs_of(node, depth + 1)
            if own:
                self.inner[id(node)] = own
                read.update(dict.fromkeys(n for g in own.values() for n in g.captured))
        read.update(dict.fromkeys(self.outputs))
        self.captured = [n for n in read if n not in made]


def subgraphs_of(node: Any, depth: int = 0) -> dict[str, Subgraph]:
    """The graphs of a node by the names of their attributes."""
    return {a.name: Subgraph(a.g, depth) for a in node.attribute if a.type == a.GRAPH and not a.ref_attr_name}


def captured(graphs: Mapping[str, Subgraph]) -> list[str]:
    """What graphs of a node read from around it."""
    return list(dict.fromkeys(n for g in graphs.values() for n in g.captured))


def constants_in(graph: Subgraph) -> Iterator[tuple[str, Any]]:
    """The small constants of a graph: Constant nodes and initializers."""
    for tensor in graph.graph.initializer:
        yield tensor.name, tensor
    for node in graph.nodes:
        if (
            node.op_type == "Constant"
            and len(node.attribute) == 1
            and node.attribute[0].type == node.attribute[0].TENSOR
        ):
            yield node.output[0], node.attribute[0].t


def run(walk: Walk, scope: Scope, node: Any, graph: Subgraph, given: Sequence[Thing]) -> list[Thing]:
    """What a graph inside a node gives on some arguments; problems inside it are noted, and InBody is raised."""
    place = f"{scope.place}{node.name or next((o for o in node.output if o), node.op_type)}/"
    inner = walk.scope([], place, scope.module, scope.attributes, scope.versions)
    inner.kept = graph.kept
    inner.graphs = graph.inner
    for name in graph.captured:
        _take(inner, name, scope, name)
    if len(given) != len(graph.inputs):
        raise UnsupportedError(f"its graph takes {len(graph.inputs)} inputs, and gets {len(given)}")
    for name, thing in zip(graph.inputs, given, strict=True):
        inner.bind(name, thing)
    for proto in graph.graph.initializer:
        walk.hold(inner, proto.name, proto)
    for proto in graph.graph.sparse_initializer:
        walk.hold(inner, proto.values.name, proto)
    walk.inside_of(node, inner, graph.nodes)
    found: list[Thing] = []
    for name in graph.outputs:
        if name in inner.held:
            raise UnsupportedError(
                f"its graph gives {shown(name)} of {name_of(inner.held[name])}, which isn't taken here"
            )
        thing = walk.thing(inner, name)
        if thing is None:
            raise SourceError(f"the output {shown(name)} of its graph is made by nothing")
        found.append(thing)
    return found


def _take(inner: Scope, name: str, scope: Scope, outer: str) -> None:
    """Let a name stand for what a name of the scope around it does."""
    if outer in scope.tensors:
        inner.tensors[name] = scope.tensors[outer]
    if outer in scope.values:
        inner.values[name] = scope.values[outer]
    if outer in scope.odd:
        inner.odd[name] = scope.odd[outer]
    if outer in scope.held:
        inner.held[name] = scope.held[outer]
    if outer in scope.missing:
        inner.missing.add(name)
    if outer in scope.failed:
        inner.failed.add(name)
