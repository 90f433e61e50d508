"""A file that leaves sizes of its inputs open, imported again at others: what a resize asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdagger.frameworks.sizes import Declared
from tdagger.tensordag import TensorDAG


@dataclass(frozen=True, repr=False)
class Again:
    """A model that was read and what it says of its inputs. ``count`` is how often it was asked.

    ``importing`` imports it with inputs of some shapes.
    """

    model: Any
    inputs: Sequence[Declared]
    importing: Callable[[Mapping[str, tuple[int, ...]]], TensorDAG]
    count: list[int] = field(default_factory=lambda: [0])

    def at(self, shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
        """The network with inputs of these shapes; InputError for what the file fixes, and has otherwise."""
        self.count[0] += 1
        own = {i.name: shapes[i.name] for i in self.inputs if i.name in shapes}
        return self.importing(own)
