"""The weights of a TFLite file as a mapping that reads when it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tdagger.frameworks.tflite.schema import DTYPES, Model, Tensor
from tdagger.network import Mapped
from tdagger.op import Array
from tdagger.types import DType, TensorType


class Tensors(Mapped):
    """Tensors by name: constant ones of a file, which stay where they lie, and arrays (state as it begins)."""

    def __init__(self, model: Model, held: Mapping[str, Tensor | Array] | None = None) -> None:
        self.model = model
        self.held: dict[str, Tensor | Array] = dict(held or {})

    def __getitem__(self, name: str) -> Array:
        held = self.held[name]
        return held if isinstance(held, np.ndarray) else self.model.array(held)

    def type(self, name: str) -> TensorType:
        """The type of a tensor, without reading it."""
        held = self.held[name]
        if isinstance(held, np.ndarray):
            return TensorType(held.shape, DType.of(held.dtype))
        return TensorType(held.shape, DTYPES[held.kind])

    def part(self, names: Iterable[str]) -> Tensors:
        """Those of some names."""
        return Tensors(self.model, {n: self.held[n] for n in names})

    def named(self, name: str) -> str:
        """A name that isn't taken yet."""
        own = name = name or "tensor"
        count = 1
        while own in self.held:
            count += 1
            own = f"{name}_{count}"
        return own

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)
