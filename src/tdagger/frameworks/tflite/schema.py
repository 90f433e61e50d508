"""What is in a TFLite file: its subgraphs, tensors, operators, signatures and buffers (:mod:`.read` reads them).

The data of buffers is never copied: it is a view of the file in memory. Beyond 2 GB a buffer lies behind the
flatbuffer, at an offset that its table has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.tflite.sparse import Sparsity, dense
from tdagger.names import shown
from tdagger.op import Array
from tdagger.types import DType

#: Element types by their number in the schema. Those of fewer than 8 bits are held in the next wider one.
DTYPES: dict[int, DType] = {
    getattr(s.TensorType, name): DType.of(own)
    for name, own in {
        "FLOAT64": "f64", "FLOAT32": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "INT64": "i64", "INT32": "i32",
        "INT16": "i16", "INT8": "i8", "INT4": "i8", "INT2": "i8", "UINT64": "u64", "UINT32": "u32", "UINT16": "u16",
        "UINT8": "u8", "UINT4": "u8", "BOOL": "bool", "COMPLEX64": "c64", "COMPLEX128": "c128",
    }.items()
    if hasattr(s.TensorType, name)
}  # fmt: skip
#: A sparse tensor takes at most so many times the file's length.
_WRITTEN_OUT = 64
#: Bits of an element in the file, and whether it has a sign, where they are fewer than 8.
NARROW: dict[int, tuple[int, bool]] = {
    getattr(s.TensorType, name): own
    for name, own in {"INT4": (4, True), "INT2": (2, True), "UINT4": (4, False)}.items()
    if hasattr(s.TensorType, name)
}


@cache
def named_by(which: Any) -> dict[int, str]:
    """The names of an enumeration by their numbers."""
    return {v: k for k, v in vars(which).items() if not k.startswith("_")}


def type_name(kind: int) -> str:
    """What the schema calls an element type.

    >>> type_name(0), type_name(99)
    ('FLOAT32', 'type 99')
    """
    return named_by(s.TensorType).get(kind, f"type {kind}")


def choice(which: Any, number: int) -> str:
    """What an enumeration of the schema calls a number: ``choice(schema.Padding, 0)`` is ``"SAME"``."""
    found = named_by(which).get(number)
    if found is None:
        raise UnsupportedError(f"{number} is none of {which.__name__} ({', '.join(named_by(which).values())})")
    return found


class Quantization(NamedTuple):
    """Real numbers are ``(q - zero_point) * scale``, each one number or one for every entry of ``axis``.

    ``block`` isn't 0 where blocks of that many entries along the axis have one scale each (``scale`` is then as the
    tensor, but for that axis).
    """

    scale: Array
    zero_point: Array
    axis: int
    block: int = 0


class Tensor(NamedTuple):
    """A tensor of a subgraph; ``signature`` has -1 for sizes that the file leaves open.

    ``buffer`` has its data if it is constant. ``variable``: it keeps what an operator leaves in it, zeros at first.
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    kind: int
    buffer: int
    quantization: Quantization | None
    variable: bool
    has_rank: bool
    #: How its data leaves out zeros.
    sparse: Sparsity | None
    #: The tensor with the scales of each block (its index), and how long a block is.
    blocks: tuple[int, int, int] | None


class Node(NamedTuple):
    """An operator: inputs and outputs are indices of tensors, -1 for an input that isn't given."""

    op: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    custom: bytes = b""
    intermediates: tuple[int, ...] = ()


class Subgraph(NamedTuple):
    """Tensors, and the operators in the order in which they are run."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    nodes: tuple[Node, ...]


class SignatureDef(NamedTuple):
    """A way to call the model: names of tensors that a subgraph takes and gives."""

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


class Model(NamedTuple):
    """A file that was read; ``name`` is for errors."""

    name: str
    data: memoryview
    description: str
    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[SignatureDef, ...]
    #: The index of the buffer with each entry of the metadata.
    metadata: Mapping[str, int]
    #: Where each buffer lies: its first byte and its length, 0 for one without data.
    buffers: tuple[tuple[int, int], ...]

    def buffer(self, index: int) -> memoryview:
        """The bytes of a buffer, in place."""
        start, length = self.buffers[index]
        return self.data[start : start + length]

    def array(self, tensor: Tensor) -> Array:
        """The data of a constant tensor, in place but for elements of fewer than 8 bits."""
        dtype = _dtype(tensor)
        raw = self.buffer(tensor.buffer)
        if tensor.sparse is not None:
            return dense(np.frombuffer(raw, dtype.numpy), tensor.shape, tensor.sparse)
        if tensor.kind in NARROW:
            return unpacked(np.frombuffer(raw, np.uint8), math.prod(tensor.shape), *NARROW[tensor.kind]).reshape(
                tensor.shape
            )
        count = math.prod(tensor.shape)
        found = np.frombuffer(raw, dtype.numpy, count) if count else np.zeros(0, dtype.numpy)
        return found.reshape(tensor.shape)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor has data in the file; SourceError if it isn't as much as its type takes.

        One without entries has all of its data, unless an operator makes it, which whoever asks knows.
        """
        length = self.buffers[tensor.buffer][1] if tensor.buffer < len(self.buffers) else 0
        if tensor.variable:
            return False
        if not length:
            return tensor.kind in DTYPES and bool(tensor.shape) and not math.prod(tensor.shape)
        dtype = _dtype(tensor)
        if tensor.sparse is not None:
            self._check_sparse(tensor, dtype)
            return True
        bits = NARROW[tensor.kind][0] if tensor.kind in NARROW else dtype.bytes * 8
        wanted = -(-math.prod(tensor.shape) * bits // 8)
        if length != wanted:
            raise SourceError(
                f"tensor {shown(tensor.name)}, {dtype}{list(tensor.shape)}, has {length} bytes of data; it takes "
                f"{wanted}"
            )
        return True

    def _check_sparse(self, tensor: Tensor, dtype: DType) -> None:
        """Sparse data is of whole elements, and isn't a long tensor in a short file."""
        length, size = self.buffers[tensor.buffer][1], math.prod(tensor.shape) * dtype.bytes
        if tensor.kind in NARROW or length % dtype.bytes:
            raise UnsupportedError(f"sparse tensor {shown(tensor.name)} has {length} bytes of {dtype}")
        if size > _WRITTEN_OUT * len(self.data):
            raise UnsupportedError(f"sparse tensor {shown(tensor.name)} takes {size} bytes written out")


def unpacked(raw: Array, count: int, bits: int, signed: bool) -> Array:
    """Elements of fewer than 8 bits, one byte each; the first of a byte is in its lowest bits.

    >>> unpacked(np.array([0x2F], np.uint8), 2, 4, True)
    array([-1,  2], dtype=int8)
    """
    per = 8 // bits
    shifts = np.arange(per, dtype=np.uint8) * bits
    each = ((raw[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    if not signed:
        return each
    return ((each ^ (1 << (bits - 1))).astype(np.int8) - np.int8(1 << (bits - 1))).astype(np.int8)


def _dtype(tensor: Tensor) -> DType:
    found = DTYPES.get(tensor.kind)
    if found is None:
        raise UnsupportedError(
            f"{shown(tensor.name)} is a tensor of {type_name(tensor.kind)}: there is no such element type here"
        )
    return found


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor is integers that stand for real numbers: those of 16 bits and less with a scale."""
    dtype = DTYPES.get(tensor.kind)
    if dtype is None or not dtype.is_int or dtype.bytes > 2:
        return False
    return tensor.blocks is not None or tensor.quantization is not None
