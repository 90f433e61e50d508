"""What is below a value, and what its ops say: what guesses are made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tdagger.composite import CompositeFunction, composites
from tdagger.op import Value
from tdagger.ops.source import Const
from tdagger.types import TensorType

#: So many values below one are looked at.
CONE = 96
#: What is below ops of more arguments (concat) says nothing of a body above.
_WIDE = 4


class Guess(NamedTuple):
    """A composite on tensors of some types; ``given`` says which optional ones there are.

    ``result`` is which of its results the value may be, None if it has one.
    """

    definition: CompositeFunction[Any, Any]
    types: tuple[TensorType, ...]
    attributes: Mapping[str, Any]
    given: tuple[bool, ...]
    result: int | None = None


Guesses = Iterator[Guess]


def guess(name: str, types: tuple[TensorType | None, ...], **attributes: Any) -> Guess:
    """A guess by the name of a composite; optional tensors that aren't there are None."""
    definition = composites[name]
    missing = len(definition.tensors) - len(types)
    every = (*types, *(None,) * missing)
    return Guess(definition, tuple(t for t in every if t is not None), attributes, tuple(t is not None for t in every))


class Cone:
    """What is below a value, nearest first, and what its ops say."""

    def __init__(self, value: Value) -> None:
        self.value = value
        found: dict[Value, None] = {value: None}
        for v in itertools.islice(_nearest(value, found), CONE):
            found[v] = None
        self.values = list(found)

    def ops(self, kind: type[Any], count: int = 3) -> list[Any]:
        """The nearest values of a class of op."""
        return list(itertools.islice((v for v in self.values if isinstance(v.op, kind)), count))

    @property
    def numbers(self) -> list[float]:
        """The numbers of float constants, as short as they can be written."""
        found: dict[float, None] = {}
        for v in self.values:
            if isinstance(v.op, Const) and v.op.data.size == 1 and v.dtype.is_float and v.dtype.bytes >= 4:
                data = v.op.data.reshape(())[()]
                found[float(str(data))] = None
                found[float(data)] = None
        return list(found)


def _nearest(value: Value, seen: dict[Value, None]) -> Iterator[Value]:
    level = [value]
    while level:
        further: list[Value] = []
        for v in level:
            for a in v.args if len(v.args) <= _WIDE else ():
                if a not in seen:
                    yield a
                    further.append(a)
        level = further
