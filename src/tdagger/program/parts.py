"""What a program is made of: slots, blocks, and how a block ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tdagger.graph import Graph
from tdagger.types import TensorType


class Slot(NamedTuple):
    """A named tensor that blocks read and write.

    ``lengths`` are pairs of a dimension and a slot (i64, rank 0): the type then says the most entries that it can have,
    and that slot how many count; what is behind them is padding. ``buffer`` is the buffer that it begins as, and that
    has its value after a run.
    """

    type: TensorType
    lengths: tuple[tuple[int, str], ...] = ()
    buffer: str = ""

    def __repr__(self) -> str:
        named = dict(self.lengths)
        shape = " ".join([f"{named[i]}<={n}" if i in named else str(n) for i, n in enumerate(self.type.shape)])
        return f"{self.type.dtype}[{shape}]{f' = buffer {self.buffer}' if self.buffer else ''}"


class Goto(NamedTuple):
    """Go on with a block."""

    to: str

    @property
    def targets(self) -> tuple[str, ...]:
        """The blocks that may be next."""
        return (self.to,)

    def renamed(self, names: Mapping[str, str]) -> Goto:
        """The same with other names of blocks."""
        return Goto(names.get(self.to, self.to))


class If(NamedTuple):
    """Go on by a slot, a bool of rank 0."""

    slot: str
    then: str
    otherwise: str

    @property
    def targets(self) -> tuple[str, ...]:
        """The blocks that may be next."""
        return (self.then, self.otherwise)

    def renamed(self, names: Mapping[str, str]) -> If:
        """The same with other names of blocks."""
        return If(self.slot, names.get(self.then, self.then), names.get(self.otherwise, self.otherwise))


class Switch(NamedTuple):
    """Go on with the block whose place is in a slot, an integer of rank 0; with the last one if there is no such."""

    slot: str
    to: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The blocks that may be next."""
        return self.to

    def renamed(self, names: Mapping[str, str]) -> Switch:
        """The same with other names of blocks."""
        return Switch(self.slot, tuple([names.get(t, t) for t in self.to]))


class Return(NamedTuple):
    """The program is done: its outputs are what their slots hold."""

    @property
    def targets(self) -> tuple[str, ...]:
        """None."""
        return ()

    def renamed(self, names: Mapping[str, str]) -> Return:
        """The same."""
        return self


class Raise(NamedTuple):
    """The program refuses what it was given: InputError with a message, wherever it runs."""

    message: str

    @property
    def targets(self) -> tuple[str, ...]:
        """None."""
        return ()

    def renamed(self, names: Mapping[str, str]) -> Raise:
        """The same."""
        return self


#: How a block ends.
End = Goto | If | Switch | Return | Raise


@dataclass(frozen=True)
class Block:
    """A graph whose inputs are the slots that it reads and whose outputs are those it writes, all at its end.

    How it ends is decided by what slots hold then.
    """

    graph: Graph
    end: End

    @property
    def reads(self) -> list[str]:
        """The slots that its graph reads."""
        return list(self.graph.inputs)

    @property
    def writes(self) -> list[str]:
        """The slots that it writes."""
        return list(self.graph.outputs)

    @property
    def asks(self) -> str | None:
        """The slot that says which block is next."""
        return self.end.slot if isinstance(self.end, If | Switch) else None


def edges(blocks: Mapping[str, Block]) -> Iterator[tuple[str, str]]:
    """Every pair of a block and one that may be next, once."""
    for name, block in blocks.items():
        for target in dict.fromkeys(block.end.targets):
            yield name, target
