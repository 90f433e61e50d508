"""The names of a graph or of a function's body while it is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tdagger.errors import SourceError
from tdagger.frameworks.onnx.subgraphs import CONTROL, Subgraph, captured, subgraphs_of
from tdagger.frameworks.onnx.things import Thing
from tdagger.names import shown
from tdagger.op import Value


class Scope:
    """What the names of one graph stand for.

    ``values`` are those made so far, ``tensors`` what the model's tensors are called here, ``missing`` inputs of a
    function that its call doesn't give, ``failed`` what couldn't be imported. ``attributes`` are those of the call of
    a function, None where there is no call. ``odd`` are sequences and whatever else is no tensor of one type. A graph
    inside a node (a branch, a loop's body) is a scope of its own, in which names that it reads from around it stand for
    the same; ``kept`` says what its tensors became when it was imported before, ``graphs`` what is inside its nodes.
    """

    __slots__ = (
        "attributes",
        "calls",
        "failed",
        "graphs",
        "held",
        "kept",
        "missing",
        "module",
        "nodes",
        "odd",
        "place",
        "quick",
        "tensors",
        "values",
        "versions",
    )

    def __init__(
        self,
        versions: Mapping[str, int],
        place: str = "",
        module: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.versions = versions
        self.place = place
        self.module = module
        self.attributes = attributes
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, str] = {}
        self.missing: set[str] = set()
        self.failed: set[str] = set()
        #: How nodes of each kind call their rule, or why they have none.
        self.calls: dict[Any, Any] = {}
        #: Of kinds of nodes, what their rules make of values by types.
        self.quick: dict[Any, Any] = {}
        self.nodes: list[Any] = []
        self.odd: dict[str, Thing] = {}
        self.kept: dict[str, str] | None = None
        self.graphs: dict[int, dict[str, Subgraph]] = {}
        #: The numbers of element types that are held in another one, by the names of what has them.
        self.held: dict[str, int] = {}

    def knows(self, name: str) -> bool:
        """Whether something is called ``name`` already."""
        return name in self.values or name in self.tensors or name in self.failed or name in self.odd

    def bind(self, name: str, thing: Thing) -> None:
        """Let a name stand for something."""
        if isinstance(thing, Value):
            self.values[name] = thing
        else:
            self.odd[name] = thing

    def inside(self, node: Any) -> dict[str, Subgraph]:
        """The graphs in a node's attributes, made once."""
        found = self.graphs.get(id(node))
        if found is None:
            found = self.graphs[id(node)] = subgraphs_of(node)
            self.nodes.append(node)  # so that nothing else gets its number
        return found

    def reads(self, node: Any) -> list[str]:
        """The names that a node needs, those that graphs inside it read among them."""
        own = [n for n in node.input if n]
        return [*own, *captured(self.inside(node))] if node.op_type in CONTROL else own


def in_order(nodes: Sequence[Any], known: Iterable[str], reads: Callable[[Any], list[str]]) -> list[Any]:
    """Nodes such that each comes after those it needs; SourceError names those that need one another.

    The order of the file is kept where it is one. ``reads`` says what a node needs.
    """
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name:
                maker.setdefault(name, i)
    given = set(known)
    needs = [{maker[n] for n in reads(node) if n in maker and n not in given} for node in nodes]
    done: list[int] = []
    state = [0] * len(nodes)  # not seen, waiting for its arguments, done
    for first in range(len(nodes)):
        stack = [first]
        while stack:
            at = stack[-1]
            if state[at] == 0:
                state[at] = 1
                for need in needs[at]:
                    if state[need] == 1:
                        raise SourceError(
                            f"node {place_of(nodes[at], at)} needs what node {place_of(nodes[need], need)} makes, "
                            "which needs what it makes itself: a model has no cycles"
                        )
                    if state[need] == 0:
                        stack.append(need)
            else:
                stack.pop()
                if state[at] == 1:
                    state[at] = 2
                    done.append(at)
    return [nodes[i] for i in done]


def place_of(node: Any, number: int = -1) -> str:
    """A node for an error: its name, or what it makes."""
    if node.name:
        return f"{shown(node.name)} ({shown(node.op_type)})"
    if node.output:
        return f"{shown(node.op_type)} that makes {shown(node.output[0])}"
    return f"{shown(node.op_type)}" + (f" number {number}" if number >= 0 else "")
