"""What a TFLite model keeps from call to call: resource variables and variable tensors, as buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.tflite.schema import DTYPES, Tensor
from tdagger.frameworks.tflite.tensors import Tensors
from tdagger.names import shown
from tdagger.network import Weight
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer
from tdagger.program.trace import Trace, is_tracing, tracing
from tdagger.types import DType, TensorType

#: A variable tensor has at most so many bytes, which are zeros at first and in no file.
_LARGEST = 1 << 28


class Resource(NamedTuple):
    """What a tensor of type RESOURCE refers to: a variable by its container and name."""

    container: str
    name: str


class Variables:
    """The variables of a model as it is walked: what they begin as, and what they are now."""

    def __init__(self, tensors: Tensors, state: dict[str, Weight]) -> None:
        self.tensors, self.state = tensors, state
        #: The name of the buffer of each variable.
        self.names: dict[Any, str] = {}
        self.now: dict[str, Value] = {}
        #: Assigned before they are initialised: they are what was assigned, and begin as nothing.
        self.unknown: dict[Any, Value] = {}
        self.changed = False

    def initialise(self, resource: Resource, array: Array) -> None:
        """What a variable begins as."""
        if resource not in self.names:
            self._begin(resource, resource.name or resource.container or "variable", array)

    def _begin(self, key: Any, name: str, array: Array) -> str:
        own = self.names[key] = self.tensors.named(name)
        self.tensors.held[own] = array
        type_ = TensorType(array.shape, DType.of(array.dtype))
        self.state[own] = Weight(type_, False)
        if is_tracing():
            trace = tracing()
            trace.weights = {**trace.weights, own: array}
            trace.declared[own] = self.state[own]
        return own

    def read(self, resource: Resource) -> Value:
        """What a variable is now."""
        if resource in self.names:
            return self._read(self.names[resource])
        if resource in self.unknown:
            return self.unknown[resource]
        raise UnsupportedError(f"variable {shown(resource.name)} is read before anything is assigned to it")

    def assign(self, resource: Resource, value: Value) -> None:
        """Give a variable a value."""
        if resource in self.names:
            self._assign(self.names[resource], value)
            return
        if is_tracing() and tracing().frames:
            raise UnsupportedError(f"variable {shown(resource.name)} is assigned in a loop and begins as nothing")
        self.unknown[resource] = value

    def _read(self, name: str) -> Value:
        if is_tracing():
            return tracing().state_of(name)
        found = self.now.get(name)
        return Buffer.of(name, self.state[name].type) if found is None else found

    def _assign(self, name: str, value: Value) -> None:
        type_ = self.state[name].type
        if value.type is not type_:
            raise UnsupportedError(f"variable {shown(name)} begins as {type_} and becomes {value.type}")
        self.changed = True
        if is_tracing():
            trace: Trace = tracing()
            trace.state_of(name)
            trace.state[name] = value
        else:
            self.now[name] = value

    # Variable tensors, which belong to a subgraph.

    def of_tensor(self, place: str, index: int, tensor: Tensor) -> Value:
        """What a variable tensor is now; at first it is zeros, of i8 its zero point."""
        return self._read(self._tensor(place, index, tensor))

    def set_tensor(self, place: str, index: int, tensor: Tensor, value: Value) -> None:
        """What an operator leaves in a variable tensor."""
        if not tensor.variable:
            raise UnsupportedError(f"it keeps its state in {shown(tensor.name)}, which is no variable tensor")
        self._assign(self._tensor(place, index, tensor), value)

    def _tensor(self, place: str, index: int, tensor: Tensor) -> str:
        key = place, index
        if key not in self.names:
            dtype = DTYPES.get(tensor.kind)
            if dtype is None or math.prod(tensor.shape) * dtype.bytes > _LARGEST:
                raise UnsupportedError(f"variable tensor {shown(tensor.name)} of {list(tensor.shape)} isn't imported")
            q = tensor.quantization
            first = int(q.zero_point[0]) if dtype.name == "i8" and q is not None and q.scale.size == 1 else 0
            self._begin(key, tensor.name, np.full(tensor.shape, first, dtype.numpy))
        return self.names[key]

    def updates(self) -> Mapping[str, Value]:
        """What buffers become, where it isn't what they are."""
        return {n: v for n, v in self.now.items() if not (isinstance(v.op, Buffer) and cast(Any, v.op).leaf == n)}
