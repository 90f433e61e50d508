"""item: one result of an op that has several."""

from __future__ import annotations

from typing import Any

from tdagger.op import (
    Array,
    Op,
    Value,
    patterned,
)
from tdagger.types import ResultTypes, TensorType, ValueType


class Item(Op, core=True):
    """One result of an op that has several."""

    name = "item"
    is_view = True
    index: int

    def infer(self, x: Any) -> ValueType:
        if not isinstance(x, ResultTypes) or not 0 <= self.index < len(x):
            raise self.mismatch(f"there is no result {self.index}", x)
        return x[self.index]

    def run(self, x: Any) -> Array:
        return x[self.index]

    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        return (0,)


@patterned
def item(x: Value, index: int) -> Value:
    """One result of an op that has several."""
    return Item(index)(x)


def items(x: Value) -> tuple[Value, ...]:
    """All results of an op that has several."""
    types: Any = x.type
    return tuple(Item(i)(x) for i in range(len(types)))
