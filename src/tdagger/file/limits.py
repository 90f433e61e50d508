"""What a file may hold: bounds that are checked before anything is made of it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tdagger.composite import Composite
from tdagger.errors import FileError
from tdagger.op import Op
from tdagger.types import TensorType, each_type


class Limits(NamedTuple):
    """The most that a file is read of; ``td.load(path, limits=Limits(nodes=10**8))`` for larger ones.

    ``nodes`` values in all graphs, and of ``nodes_per_byte`` for each byte of the document besides the first
    ``nodes_free``; ``header`` bytes of the header, ``rank`` dimensions of ``size`` entries, a tensor of ``elements``,
    names of ``name`` characters, structures nested ``depth`` deep. ``unrolled`` and ``steps`` bound what the definition
    of a composite writes out for every entry of an axis.

    >>> Limits().rank
    64
    """

    nodes: int = 2**24
    nodes_free: int = 2**16
    nodes_per_byte: int = 2
    header: int = 100_000_000
    rank: int = 64
    size: int = 2**53
    elements: int = 2**63
    name: int = 4096
    depth: int = 64
    unrolled: int = 2**27
    steps: int = 2**14

    def numbers(self, document: int) -> int:
        """How many numbers a stream may have, in a document of so many bytes."""
        return 4 * min(self.nodes, self.nodes_free + self.nodes_per_byte * document)


#: Modules of composites whose bodies hold numbers for every entry of an axis, or steps.
_WRITTEN_OUT = frozenset(
    f"tdagger.library.{m}" for m in ("pool", "resize", "counts", "window", "fourier", "contraction")
)
_STEPS = "tdagger.library.recurrent"


def check_type(type_: TensorType, limits: Limits, where: str) -> None:
    """FileError for a type that no tensor could have."""
    if type_.rank > limits.rank:
        raise FileError(f"{where}: rank {type_.rank}, more than {limits.rank}")
    if max(type_.shape, default=0) >= limits.size or type_.bytes >= limits.elements:
        power = type_.size.bit_length() - 1  # of numbers that no float holds too
        raise FileError(f"{where}: {type_.dtype}[...] of 2**{power} elements or more is more than any tensor has")


def check_body(op: Op, types: tuple[Any, ...], result: Any, limits: Limits, where: str) -> None:
    """FileError for a composite whose types can't be found without writing out more than a file may make one do."""
    if not isinstance(op, Composite):
        return
    module = op.definition.__module__
    if module == _STEPS:
        longest = max((n for t in types[:1] for n in t.shape[:2]), default=0)
        if longest > limits.steps:
            raise FileError(f"{where}: {op.name} of {longest} steps, more than {limits.steps}")
        return
    if module in _WRITTEN_OUT or not module.startswith("tdagger."):
        inner = [math.prod(t.shape[-3:]) for t in (*types, *each_type(result)) if isinstance(t, TensorType)]
        if max(inner, default=0) > limits.unrolled:
            raise FileError(f"{where}: {op.name} of {max(inner)} entries, more than {limits.unrolled}")
