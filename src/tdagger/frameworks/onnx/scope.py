"""The names of a graph or of a function's body while it is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tdagger.errors import SourceError
from tdagger.names import shown
from tdagger.op import Value


class Scope:
    """What the names of one graph stand for.

    ``values`` are those made so far, ``tensors`` what the model's tensors are called here, ``missing`` inputs of a
    function that its call doesn't give, ``failed`` what couldn't be imported. ``attributes`` are those of the call of
    a function, None where there is no call. A graph inside a node (a branch, a loop's body) would be a scope whose
    names are also those of the scope around it.
    """

    __slots__ = (
        "attributes",
        "calls",
        "failed",
        "held",
        "missing",
        "module",
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
        #: The numbers of element types that are held in another one, by the names of what has them.
        self.held: dict[str, int] = {}

    def knows(self, name: str) -> bool:
        """Whether something is called ``name`` already."""
        return name in self.values or name in self.tensors or name in self.failed


def in_order(nodes: Sequence[Any], known: Iterable[str]) -> list[Any]:
    """Nodes such that each comes after those it needs; SourceError names those that need one another.

    The order of the file is kept where it is one.
    """
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name:
                maker.setdefault(name, i)
    given = set(known)
    needs = [{maker[n] for n in node.input if n in maker and n not in given} for node in nodes]
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
