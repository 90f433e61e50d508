"""What feeds what, op by op, in one network or in two that were set side by side."""

from __future__ import annotations

from typing import NamedTuple

from tdagger.network import Network
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Parameter
from tdagger.view.fold.boxes import Box, Facts, Leaf, source


class Port:
    """An input of the whole network: its values in the networks that have it."""

    __slots__ = ("name", "values")

    def __init__(self, name: str, a: Value | None, b: Value | None = None) -> None:
        self.name, self.values = name, (a, b)

    @property
    def value(self) -> Value:
        """Its value in the first network that has it."""
        found = self.values[0] or self.values[1]
        assert found is not None
        return found


#: A tensor: what makes it, and which of its results it is.
End = tuple[Leaf | Port, int]


class Source(NamedTuple):
    """An argument of an op: its place, the tensor, and in which networks (1 the first, 2 the second, 3 both)."""

    argument: int
    end: End
    networks: int


class Wires:
    """The arguments of every op: ``sources`` those that other ops make, ``slots`` weights, for each network.

    ``outputs`` are (name, tensor, networks) of what the networks give, buffer updates among them.
    """

    def __init__(self, networks: list[Network], facts: list[Facts], root: Box) -> None:
        self.inputs = _ports(networks)
        self.facts = facts
        self._makers: list[dict[Value, Leaf | Port]] = [{} for _ in networks]
        for port in self.inputs:
            self._note(port)
        leaves = list(root.leaves())
        for leaf in leaves:
            self._note(leaf)
        self.sources = {leaf: self._sources(leaf) for leaf in leaves}
        self.slots = {leaf: tuple([self._weights(leaf, k) for k in range(len(networks))]) for leaf in leaves}
        self.outputs: list[tuple[str, End, int]] = []
        for name in dict.fromkeys([n for net in networks for n in (*net.graph.outputs, *net.graph.updates)]):
            ends: dict[End, int] = {}
            for k, network in enumerate(networks):
                value = network.graph.outputs.get(name, network.graph.updates.get(name))
                end = None if value is None else self.end(value, k)
                if end is not None:
                    ends[end] = ends.get(end, 0) | 1 << k
            self.outputs += [(name, end, mask) for end, mask in ends.items()]

    def _note(self, item: Leaf | Port) -> None:
        for k, value in enumerate(item.values[: len(self._makers)]):
            if value is not None:
                self._makers[k][value] = item

    def end(self, value: Value, k: int) -> End | None:
        """The tensor that a value is in network ``k``; None for weights and numbers, which nothing makes."""
        made, result = source(value)
        found = self._makers[k].get(made)
        return None if found is None else (found, result)

    def _sources(self, leaf: Leaf) -> list[Source]:
        found: dict[tuple[int, End], int] = {}
        for k, value in enumerate(leaf.values):
            for i, arg in enumerate(value.args if value is not None else ()):
                end = self.end(arg, k)
                if end is not None:
                    found[i, end] = found.get((i, end), 0) | 1 << k
        return [Source(i, end, mask) for (i, end), mask in found.items()]

    def _weights(self, leaf: Leaf, k: int) -> list[tuple[int, Value]]:
        value = leaf.values[k]
        held = Parameter | Buffer | Const
        inline = self.facts[k].inline
        args = value.args if value is not None else ()
        return [(i, a) for i, a in enumerate(args) if isinstance(a.op, held) and a not in inline]


def _ports(networks: list[Network]) -> list[Port]:
    of = [n.graph.inputs for n in networks]
    names = dict.fromkeys([n for inputs in of for n in inputs])
    return [Port(n, of[0].get(n), of[1].get(n) if len(of) > 1 else None) for n in names]


def is_input(value: Value) -> bool:
    """Whether a value is an input of the network."""
    return isinstance(value.op, Input)
