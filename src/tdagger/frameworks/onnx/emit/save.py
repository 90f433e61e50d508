"""ModelProtos of nodes and tensors, and files of them: the data of tensors goes to the file one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx

from tdagger.errors import UnsupportedError
from tdagger.file.container import whole
from tdagger.file.write import place_in_package
from tdagger.frameworks.onnx.emit.writer import Branch, Node, Tensor
from tdagger.frameworks.onnx.file.tensors import BITS, ONNX_DTYPES
from tdagger.op import Array
from tdagger.types import Size, TensorType

#: A file holds at most so many bytes; with more, tensors lie in one beside it.
LARGEST = 2**31 - 1
#: Where tensors begin in a file of their own: small ones, and those that are mapped to memory.
_ALIGNED, _PAGE, _LARGE = 64, 4096, 1 << 20
#: Tensors of fewer bytes stay in the model's file.
_INLINE = 1024


def bits(array: Array) -> memoryview:
    """The bytes of an array as ONNX has them: little endian, row by row; not copied if they lie so."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data


def value_info(name: str, type_: TensorType, labels: Sequence[str | None] = ()) -> onnx.ValueInfoProto:
    """The type of an input or output; sizes without a number have the names ``labels``."""
    shape: list[Any] = []
    for i, n in enumerate(type_.shape):
        label = labels[i] if i < len(labels) else None
        shape.append(label if n.__class__ is Size or label else int(n))
    return onnx.helper.make_tensor_value_info(name, ONNX_DTYPES[type_.dtype], shape)


def node_proto(node: Node, metadata: bool = True) -> onnx.NodeProto:
    """A node; where it came from is in its metadata."""
    proto = onnx.NodeProto(op_type=node.op, name=node.name, domain=node.domain)
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    for key, value in node.attributes:
        proto.attribute.append(_attribute(key, value))
    if metadata and node.origin is not None:
        source = place_in_package(node.origin.source)
        for key, value in (("module", node.origin.module), ("op", node.origin.op), ("source", source)):
            if value:
                proto.metadata_props.add(key=f"tdagger.{key}", value=value)
    return proto


def _attribute(key: str, value: Any) -> onnx.AttributeProto:
    a = onnx.AttributeProto(name=key)
    if isinstance(value, bool | int):
        a.type, a.i = a.INT, int(value)
    elif isinstance(value, float):
        a.type, a.f = a.FLOAT, value
    elif isinstance(value, str):
        a.type, a.s = a.STRING, value.encode()
    elif isinstance(value, np.ndarray):
        a.type = a.TENSOR
        a.t.CopyFrom(tensor_proto("", Tensor(TensorType(value.shape, str(value.dtype)), lambda: value)))
    elif isinstance(value, Branch):
        a.type = a.GRAPH
        a.g.name = key
        a.g.input.extend(value_info(n, t) for n, t in value.inputs)
        a.g.node.extend(map(node_proto, value.nodes))
        a.g.output.extend(value_info(n, t) for n, t in zip(value.outputs, value.types, strict=True))
    elif isinstance(value, tuple):
        _listed(a, value)
    else:
        raise UnsupportedError(f"ONNX has no attribute of the kind {type(value).__name__}")
    return a


def _listed(a: onnx.AttributeProto, values: tuple[Any, ...]) -> None:
    if any(isinstance(v, str) for v in values):
        a.type = a.STRINGS
        a.strings.extend(v.encode() for v in values)
    elif any(isinstance(v, float) for v in values):
        a.type = a.FLOATS
        a.floats.extend(values)
    else:
        a.type = a.INTS
        a.ints.extend(map(int, values))


def tensor_proto(name: str, tensor: Tensor, data: bool = True) -> onnx.TensorProto:
    """A tensor, with its data or without."""
    proto = onnx.TensorProto(name=name, data_type=tensor.kind or ONNX_DTYPES[tensor.type.dtype])
    proto.dims.extend(map(int, tensor.type.shape))
    if data:
        proto.raw_data = bytes(_loaded(name, tensor))
    return proto


def _loaded(name: str, tensor: Tensor) -> memoryview:
    """The bytes of a tensor as the file has them."""
    array = tensor.load()
    if tuple(array.shape) != tuple(map(int, tensor.type.shape)) or array.dtype != tensor.type.dtype.numpy:
        raise UnsupportedError(f"the weight {name} is {array.dtype}{array.shape}, not {tensor.type}")
    return bits(packed(array, BITS[tensor.kind]) if tensor.kind else array)


def packed(array: Array, width: int) -> Array:
    """Integers of ``width`` bits several to a byte, the first in the lowest bits.

    >>> packed(np.int8([1, -1, 2]), 4).tolist()
    [241, 2]
    """
    each = 8 // width
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & (2**width - 1)
    flat = np.concatenate([flat, np.zeros(-len(flat) % each, np.uint8)]).reshape(-1, each)
    return np.bitwise_or.reduce(flat << (np.arange(each, dtype=np.uint8) * width), axis=1).astype(np.uint8)


# --- files -------------------------------------------------------------------------------------------------

# Fields of protobuf messages: a tag, a length, that many bytes.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, length: int) -> bytes:
    return _varint(number << 3 | 2) + _varint(length)


def write(model: onnx.ModelProto, tensors: Mapping[str, Tensor], path: Path, external: bool | None) -> None:
    """Write a model that has no tensors yet, and these; each file appears whole or not at all.

    ``external``: tensors lie in a file of their own beside it, ``<name>.data``; None leaves it to how large they are.
    """
    total = sum(t.bytes for t in tensors.values())
    if external is None:
        external = total + model.ByteSize() + 128 * len(tensors) > LARGEST
    if not external:
        _replaced(path, lambda to: _write_model(to, model, tensors))
        return
    beside = path.with_name(f"{path.name}.data")
    places: dict[str, tuple[int, int]] = {}
    _replaced(beside, lambda to: places.update(_write_data(to, tensors)))
    _replaced(path, lambda to: _write_model(to, model, tensors, places, beside.name))


def _write_data(to: BinaryIO, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Write the data of tensors, and say where each is."""
    at = 0
    found: list[tuple[str, tuple[int, int]]] = []
    for name, tensor in tensors.items():
        size = tensor.bytes
        if size < _INLINE:
            continue
        by = _PAGE if size >= _LARGE else _ALIGNED
        gap = -at % by
        to.write(b"\0" * gap)
        to.write(_loaded(name, tensor))
        found.append((name, (at + gap, size)))
        at += gap + size
    return iter(found)


def _write_model(
    to: BinaryIO,
    model: onnx.ModelProto,
    tensors: Mapping[str, Tensor],
    places: Mapping[str, tuple[int, int]] | None = None,
    beside: str = "",
) -> None:
    """Write a model with its graph last, whose tensors follow one by one."""
    graph = model.graph.SerializeToString()
    outer = onnx.ModelProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    heads: list[tuple[str, bytes, int]] = []
    for name, tensor in tensors.items():
        proto = tensor_proto(name, tensor, data=False)
        size = tensor.bytes
        place = (places or {}).get(name)
        if place is not None:
            proto.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", beside), ("offset", place[0]), ("length", place[1])):
                proto.external_data.add(key=key, value=str(value))
            size = -1
        heads.append((name, proto.SerializeToString(), size))
    bodies = [len(head) + (0 if size < 0 else len(_field(_RAW_DATA, size)) + size) for _, head, size in heads]
    length = len(graph) + sum(len(_field(_INITIALIZER, n)) + n for n in bodies)
    to.write(outer.SerializeToString())
    to.write(_field(_GRAPH, length))
    to.write(graph)
    for (name, head, size), body in zip(heads, bodies, strict=True):
        to.write(_field(_INITIALIZER, body))
        to.write(head)
        if size >= 0:
            to.write(_field(_RAW_DATA, size))
            to.write(_loaded(name, tensors[name]))


def _replaced(path: Path, write_to: Callable[[BinaryIO], Any]) -> None:
    """Write to a file that appears whole, or not at all."""

    def write_by_name(name: str) -> None:
        with open(name, "wb") as to:
            write_to(to)

    whole(path, write_by_name)
