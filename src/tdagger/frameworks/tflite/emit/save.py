"""The flatbuffer of operators and tensors, and files of it: the data of tensors follows it, one after the other.

``flatbuffers`` builds from the end and copies all that it holds whenever it grows. So what is built is without the
data, each buffer with a mark where its place goes; then the data is written behind it, and the marks before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.errors import InputError, UnsupportedError
from tdagger.file.container import whole
from tdagger.frameworks.tflite.emit.writer import Operator, Part, Tensor
from tdagger.frameworks.tflite.schema import DTYPES, NARROW, Quantization
from tdagger.op import Array
from tdagger.types import DType

#: A flatbuffer holds at most so many bytes; with more, data lies behind it and has its place as an offset in the file.
LARGEST = 2**31 - 2**20
#: Where the data of a tensor begins: what kernels want of memory that is mapped.
ALIGNED = 16
#: The schema's number of each element type; of those held in fewer bits, that of the whole one.
_KINDS = {d: k for k, d in DTYPES.items() if k not in NARROW}


class Signature(NamedTuple):
    """How a model is called: names to numbers of tensors."""

    key: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def write(parts: Sequence[Part], signature: Signature, path: Path, name: str, largest: int = LARGEST) -> None:
    """Write a model of some subgraphs, the first of which is called; the file appears whole or not at all."""

    def write_by_name(where: str) -> None:
        with open(where, "wb") as to:
            _write(to, parts, signature, name, largest)

    whole(path, write_by_name)


def serialized(parts: Sequence[Part], signature: Signature, name: str) -> bytes:
    """The same as bytes."""
    import io

    to = io.BytesIO()
    _write(to, parts, signature, name, LARGEST)
    return to.getvalue()


def _write(to: BinaryIO, parts: Sequence[Part], signature: Signature, name: str, largest: int) -> None:
    stored = [*_stored(parts).values()]
    total = sum(t.type.bytes + ALIGNED for t in stored)
    inside = total < largest
    head, marks = _Head(parts, signature, name, inside).build()
    if inside and len(head) + total >= 2**31:
        raise InputError(f"{name}: {len(head)} bytes of operators and {total} of weights are more than a file holds")
    at = len(head)
    places: list[tuple[int, Tensor]] = []
    for mark, tensor in zip(marks, stored, strict=True):
        size = tensor.type.bytes
        length = 4 if inside else 0  # a vector has its length before it
        start = at + length + -(at + length) % ALIGNED
        if inside:
            struct.pack_into("<I", head, mark, start - 4 - mark)
        else:
            struct.pack_into("<QQ", head, mark - 8, size, start)
        places.append((start, tensor))
        at = start + size
    to.write(head)
    at = len(head)
    for start, tensor in places:
        data = _bits(_loaded(tensor))
        before = b"\0" * (start - at - (4 if inside else 0))
        to.write(before + (struct.pack("<I", len(data)) if inside else b""))
        to.write(data)
        at = start + len(data)


def _stored(parts: Sequence[Part]) -> dict[Any, Tensor]:
    """The constants of all subgraphs by what says that they are the same."""
    found: dict[Any, Tensor] = {}
    for i, part in enumerate(parts):
        for number, tensor in enumerate(part.tensors):
            if tensor.load is not None:
                found.setdefault(_key(i, number, tensor), tensor)
    return found


def _key(part: int, number: int, tensor: Tensor) -> Any:
    return (part, number) if tensor.key is None or tensor.steps is not None else (tensor.key, tensor.type)


def _loaded(tensor: Tensor) -> Array:
    assert tensor.load is not None
    array = np.asarray(tensor.load())
    if tuple(array.shape) != tensor.type.shape or array.dtype != tensor.type.dtype.numpy:
        raise InputError(f"the weight {tensor.name} is {array.dtype}{array.shape}, not {tensor.type}")
    return array


def _bits(array: Array) -> memoryview:
    """The bytes of an array, row by row; not copied if they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def kind_of(dtype: DType) -> int:
    """The schema's number of an element type; UnsupportedError if it has none."""
    found = _KINDS.get(dtype)
    if found is None:
        raise UnsupportedError(f"TFLite has no tensors of {dtype}")
    return found


class _Head:
    """The flatbuffer without the data of tensors."""

    def __init__(self, parts: Sequence[Part], signature: Signature, name: str, inside: bool) -> None:
        self.parts, self.signature, self.name, self.inside = parts, signature, name, inside
        #: The number of the buffer of each constant.
        self.buffers: dict[Any, int] = {}
        self.b: Any = flatbuffers.Builder(1 << 16)
        self.marks: list[int] = []

    def build(self) -> tuple[bytearray, list[int]]:
        """Its bytes, and where in them the place of each tensor's data goes."""
        b = self.b
        description = b.CreateString("tdagger")
        buffers = self._buffers()
        codes, numbers = self._codes()
        graphs = self._table_vector([self._subgraph(i, p, numbers) for i, p in enumerate(self.parts)])
        signatures = self._signatures()
        s.ModelStart(b)
        s.ModelAddVersion(b, 3)
        s.ModelAddOperatorCodes(b, codes)
        s.ModelAddSubgraphs(b, graphs)
        s.ModelAddDescription(b, description)
        s.ModelAddBuffers(b, buffers)
        s.ModelAddSignatureDefs(b, signatures)
        b.Finish(s.ModelEnd(b), file_identifier=b"TFL3")
        head = bytearray(b.Output())
        return head, [len(head) - m for m in self.marks]

    def _subgraph(self, index: int, part: Part, numbers: Mapping[tuple[str, int], int]) -> int:
        b = self.b
        tensors = self._tensors(index, part)
        operators = self._table_vector([self._operator(o, numbers) for o in part.operators])
        inputs, outputs = self._ints(part.inputs), self._ints(part.outputs)
        name = b.CreateString(part.name or self.name)
        s.SubGraphStart(b)
        s.SubGraphAddTensors(b, tensors)
        s.SubGraphAddInputs(b, inputs)
        s.SubGraphAddOutputs(b, outputs)
        s.SubGraphAddOperators(b, operators)
        s.SubGraphAddName(b, name)
        return s.SubGraphEnd(b)

    def _buffers(self) -> int:
        """The first has no data, as the format wants it; then one for each constant."""
        b = self.b
        made: list[int] = []
        s.BufferStart(b)
        made.append(s.BufferEnd(b))
        b.StartVector(1, 0, ALIGNED)
        nothing = b.EndVector()
        for key in _stored(self.parts):
            self.buffers[key] = len(made)
            s.BufferStart(b)
            if self.inside:
                s.BufferAddData(b, nothing)
                self.marks.append(b.Offset())
            else:
                s.BufferAddOffset(b, 2)
                self.marks.append(b.Offset())
                s.BufferAddSize(b, 1)
            made.append(s.BufferEnd(b))
        return self._table_vector(made)

    def _codes(self) -> tuple[int, dict[tuple[str, int], int]]:
        """The kinds of operators, and the number of each."""
        b = self.b
        numbers: dict[tuple[str, int], int] = {}
        for o in [o for p in self.parts for o in p.operators]:
            numbers.setdefault((o.name, o.version), len(numbers))
        made: list[int] = []
        for name, version in numbers:
            code = getattr(s.BuiltinOperator, name)
            s.OperatorCodeStart(b)
            s.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
            s.OperatorCodeAddVersion(b, version)
            s.OperatorCodeAddBuiltinCode(b, code)
            made.append(s.OperatorCodeEnd(b))
        return self._table_vector(made), numbers

    def _tensors(self, index: int, part: Part) -> int:
        b = self.b
        made: list[int] = []
        for number, tensor in enumerate(part.tensors):
            name, shape = b.CreateString(tensor.name), self._ints(tensor.type.shape)
            steps = None if tensor.steps is None else self._steps(tensor.steps)
            signature = self._ints(tensor.signature) if tensor.signature else 0
            s.TensorStart(b)
            s.TensorAddShape(b, shape)
            s.TensorAddType(b, kind_of(tensor.type.dtype) if tensor.kind is None else tensor.kind)
            if tensor.load is not None:
                s.TensorAddBuffer(b, self.buffers[_key(index, number, tensor)])
            s.TensorAddName(b, name)
            if steps is not None:
                s.TensorAddQuantization(b, steps)
            if signature:
                s.TensorAddShapeSignature(b, signature)
            s.TensorAddHasRank(b, True)
            made.append(s.TensorEnd(b))
        return self._table_vector(made)

    def _steps(self, q: Quantization) -> int:
        """The scales and zero points of a tensor of integers."""
        b = self.b
        scale, zero = b.CreateNumpyVector(q.scale), b.CreateNumpyVector(q.zero_point)
        s.QuantizationParametersStart(b)
        s.QuantizationParametersAddScale(b, scale)
        s.QuantizationParametersAddZeroPoint(b, zero)
        s.QuantizationParametersAddQuantizedDimension(b, q.axis)
        return s.QuantizationParametersEnd(b)

    def _operator(self, o: Operator, numbers: Mapping[tuple[str, int], int]) -> int:
        b = self.b
        inputs, outputs = self._ints(o.inputs), self._ints(o.outputs)
        options = None if o.options is None else o.options.Pack(b)
        kind = 0 if o.options is None else getattr(s.BuiltinOptions, type(o.options).__name__.removesuffix("T"), 0)
        kind2 = 0 if o.options is None or kind else getattr(s.BuiltinOptions2, type(o.options).__name__[:-1])
        s.OperatorStart(b)
        s.OperatorAddOpcodeIndex(b, numbers[o.name, o.version])
        s.OperatorAddInputs(b, inputs)
        s.OperatorAddOutputs(b, outputs)
        if kind:
            s.OperatorAddBuiltinOptionsType(b, kind)
            s.OperatorAddBuiltinOptions(b, options)
        elif kind2:
            s.OperatorAddBuiltinOptions2Type(b, kind2)
            s.OperatorAddBuiltinOptions2(b, options)
        return s.OperatorEnd(b)

    def _signatures(self) -> int:
        b = self.b
        key = b.CreateString(self.signature.key)
        maps: list[int] = []
        for named in (self.signature.inputs, self.signature.outputs):
            made: list[int] = []
            for name, number in named.items():
                told = b.CreateString(name)
                s.TensorMapStart(b)
                s.TensorMapAddName(b, told)
                s.TensorMapAddTensorIndex(b, number)
                made.append(s.TensorMapEnd(b))
            maps.append(self._table_vector(made))
        s.SignatureDefStart(b)
        s.SignatureDefAddInputs(b, maps[0])
        s.SignatureDefAddOutputs(b, maps[1])
        s.SignatureDefAddSignatureKey(b, key)
        return self._table_vector([s.SignatureDefEnd(b)])

    def _ints(self, numbers: Sequence[int]) -> int:
        if not numbers:
            return self._table_vector([])
        return self.b.CreateNumpyVector(np.array([int(n) for n in numbers], np.int32))

    def _table_vector(self, offsets: Sequence[int]) -> int:
        self.b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.b.PrependUOffsetTRelative(offset)
        return self.b.EndVector()
