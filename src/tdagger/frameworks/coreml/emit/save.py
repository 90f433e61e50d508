"""Writing ops and constants as a CoreML model: a protobuf, and an ``.mlpackage`` with a weight file."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tdagger.errors import SourceError
from tdagger.frameworks.coreml import proto
from tdagger.frameworks.coreml.emit.writer import Op, Tensor, reads
from tdagger.frameworks.coreml.types import BLOBS, KINDS, NUMBERS, STRING, bytes_in
from tdagger.names import shown
from tdagger.op import Array
from tdagger.types import TensorType

#: Constants of at least so many entries go to the weight file, as coremltools does it.
FEW = 10
_BLOB_TYPES = {number: blob for blob, number in BLOBS.items()}
_FILE = "@model_path/weights/weight.bin"
_SENTINEL = 0xDEADBEEF


class Weights:
    """A weight file as it is written: a header, and for each tensor a description and its data, 64 bytes aligned."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.count = 0
        file.write(bytes(64))

    def add(self, data: Array, number: int) -> int:
        """Write a tensor; where its description is."""
        self._align()
        at = self.file.tell()
        raw = bytes_in(data, KINDS[number])
        unused = 8 * raw.nbytes - KINDS[number].bits * data.size
        head = struct.pack("<IIQQQ", _SENTINEL, _BLOB_TYPES[number], raw.nbytes, at + 64, unused)
        self.file.write(head.ljust(64, b"\0"))
        self.file.write(raw.data)
        self.count += 1
        return at

    def _align(self) -> None:
        self.file.write(bytes(-self.file.tell() % 64))

    def close(self) -> None:
        """Write the header: how many tensors there are, and the version of the format."""
        self.file.seek(0)
        self.file.write(struct.pack("<II", self.count, 2).ljust(64, b"\0"))


def set_type(made: Any, type_: TensorType, shape: Sequence[int | None] | None = None, number: int = 0) -> None:
    """Fill in MIL's type of a tensor; of another ``shape``, None for sizes that are open, or another ``number``."""
    tensor = made.tensorType
    tensor.dataType = number or NUMBERS[type_.dtype]
    tensor.rank = type_.rank
    for n in type_.shape if shape is None else shape:
        if n is None:
            tensor.dimensions.add().unknown.variadic = False
        else:
            tensor.dimensions.add().constant.size = int(n)


def set_text(made: Any, text: str) -> None:
    """Fill in a literal of text."""
    made.type.tensorType.dataType = STRING
    made.immediateValue.tensor.strings.values.append(text)


#: MIL's numbers of element types that weight files have since iOS15: floats, and integers of 4 and 8 bits.
_IN_FILE = frozenset({10, 11, 21, 25, 31, 35})
_FIELDS = {"bool": "bools", "f32": "floats", "i32": "ints"}


def set_value(made: Any, tensor: Tensor | str, weights: Weights | None) -> None:
    """Fill in the value of a constant: in the model where it is small, else in the weight file."""
    if isinstance(tensor, str):
        set_text(made, tensor)
        return
    number, data = tensor.number or NUMBERS[tensor.type.dtype], tensor.load()
    set_type(made.type, tensor.type, number=number)
    assert data.shape == tensor.type.shape, (data.shape, tensor.type)
    if weights is not None and data.size >= FEW and number in _BLOB_TYPES and number in _IN_FILE:
        made.blobFileValue.fileName = _FILE
        made.blobFileValue.offset = weights.add(data, number)
        return
    into = made.immediateValue.tensor
    field = _FIELDS.get(tensor.type.dtype.name)
    if field is None:
        into.bytes.values = bytes_in(data, KINDS[number]).tobytes()
        return
    into_field = getattr(into, field)
    into_field.SetInParent()
    into_field.values.extend(data.reshape(-1).tolist())


def add_const(block: Any, name: str, tensor: Tensor | str, weights: Weights | None) -> None:
    """A constant as an op; one of few bits as the op that reads it."""
    packed = None if isinstance(tensor, str) else tensor.packed
    op = block.operations.add(type="const" if packed is None else packed.op)
    out = op.outputs.add(name=name)
    set_text(op.attributes["name"], name)
    if packed is not None and not isinstance(tensor, str):
        for key, part in packed.parts.items():  # attributes before iOS18, as coremltools has it
            made = op.attributes[key] if packed.since < 18 else op.inputs[key].arguments.add().value
            set_value(made, part, weights)
        set_type(out.type, tensor.type)
        return
    set_value(op.attributes["val"], tensor, weights)
    out.type.CopyFrom(op.attributes["val"].type)


Shapes = Mapping[str, Sequence[int | None]]


def add_op(block: Any, op: Op, shapes: Shapes) -> None:
    """An op with its inputs by names."""
    made = block.operations.add(type=op.op)
    for key, given in op.inputs:
        for name in given if isinstance(given, tuple) else (given,):
            made.inputs[key].arguments.add().name = name
    for inside in op.blocks:
        inner = made.blocks.add()
        for name, type_ in inside.inputs:
            set_type(inner.inputs.add(name=name).type, type_)
        for one in inside.ops:
            add_op(inner, one, shapes)
        inner.outputs.extend(inside.outputs)
    for name, type_ in zip(op.outputs, op.types, strict=True):
        set_type(made.outputs.add(name=name).type, type_, shapes.get(name))
    set_text(made.attributes["name"], op.name)


def fill(
    block: Any, ops: Sequence[Op], constants: Mapping[str, Tensor | str], weights: Weights | None, shapes: Shapes
) -> None:
    """The ops of a block, each constant right before its first use; ``shapes`` of results that have open sizes."""
    done: set[str] = set()

    def need(name: str) -> None:
        if name in constants and name not in done:
            done.add(name)
            add_const(block, name, constants[name], weights)

    for op in ops:
        for name in reads(op):
            need(name)
        add_op(block, op, shapes)


_MODEL = "com.apple.CoreML/model.mlmodel"
_FOLDER = "com.apple.CoreML/weights"


def write_package(path: Path, make: Any) -> None:
    """An ``.mlpackage`` at ``path``, of the model that ``make(weights)`` gives; what was there is replaced."""
    if path.exists() and not (path.is_dir() and ((path / "Manifest.json").is_file() or not any(path.iterdir()))):
        raise SourceError(f"{shown(path)} is there, and is no .mlpackage")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as e:
        raise SourceError(f"{shown(path)} can't be written: {e.strerror}") from e
    try:
        inner = folder / "Data" / "com.apple.CoreML"
        (inner / "weights").mkdir(parents=True)
        with (inner / "weights" / "weight.bin").open("wb") as file:
            weights = Weights(file)
            model = make(weights)
            weights.close()
        (inner / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
        (folder / "Manifest.json").write_text(json.dumps(_manifest(path.stem), indent=4))
        for at, _, _ in os.walk(folder):
            Path(at).chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _manifest(name: str) -> dict[str, Any]:
    """Which files of a package are what; the identifiers say nothing, and are the same for the same name."""
    model, weights = (str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{p}")).upper() for p in (_MODEL, _FOLDER))
    author = "com.apple.CoreML"
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            model: {
                "author": author,
                "description": "CoreML Model Specification",
                "name": "model.mlmodel",
                "path": _MODEL,
            },
            weights: {"author": author, "description": "CoreML Model Weights", "name": "weights", "path": _FOLDER},
        },
        "rootModelIdentifier": model,
    }


def empty(version: int) -> Any:
    """A model of a version of the specification."""
    model = proto.model()
    model.specificationVersion = version
    return model
