"""Reading ``.mlpackage`` folders, ``.mlmodel`` files and weight files, checked before anything is made of them.

An ``.mlpackage`` is a folder: ``Manifest.json`` says which file in ``Data`` is the model, a protobuf ``Model``, and
``weights/weight.bin`` beside it has the large constants. A weight file is a header of 64 bytes and, for each tensor, 64
bytes that say its element type, its length and where its data is.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.coreml import proto
from tdagger.frameworks.coreml.types import BLOBS, KINDS, Kind, as_array, bytes_of
from tdagger.names import shown
from tdagger.op import Array

#: What begins each tensor's description in a weight file, and how long the description is.
_SENTINEL, _LENGTH = 0xDEADBEEF, 64
#: How the model's own folder is called in the names of weight files.
_FOLDER = "@model_path/"


@dataclass(frozen=True)
class Model:
    """A model that was read: its protobuf, what it is called in errors, and the folder of its weight files."""

    spec: Any
    name: str
    folder: Path | None

    @cached_property
    def files(self) -> dict[str, Array]:
        """Weight files that were mapped, by the names that the model has for them."""
        return {}

    def blob(self, file: str, offset: int, number: int, shape: tuple[int, ...]) -> Array:
        """A tensor of a weight file; SourceError where the file isn't what the model says."""
        data = self._mapped(file)
        at = f"{shown(file)} of {self.name}, byte {offset}"
        if offset < 64 or offset % 64 or offset + _LENGTH > data.size:
            raise SourceError(f"{at}: no tensor can be there in a file of {data.size} bytes")
        sentinel, type_, length, start = struct.unpack("<IIQQ", data[offset : offset + 24].tobytes())
        kind = KINDS[number]
        count = 1
        for n in shape:
            count *= n
        if sentinel != _SENTINEL:
            raise SourceError(f"{at}: no tensor begins there")
        if BLOBS.get(type_) != number and not (number == 1 and type_ in (3, 4)):
            held = KINDS[BLOBS[type_]].name if type_ in BLOBS else f"type {type_}"
            raise SourceError(f"{at}: holds {held}, where the model says {kind.name}")
        wanted = bytes_of(count, kind)
        if length != wanted:
            raise SourceError(f"{at}: {length} bytes, where {kind.name} of shape {list(shape)} takes {wanted}")
        if start > data.size or length > data.size - start:
            raise SourceError(f"{at}: its data ends at byte {start + length}, after the file's {data.size}")
        return as_array(data[start : start + length], count, kind).reshape(shape)

    def _mapped(self, file: str) -> Array:
        found = self.files.get(file)
        if found is None:
            path = self._path(file)
            try:
                found = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
            except OSError as e:
                raise SourceError(f"{self.name}: can't read its weight file {shown(file)}: {e.strerror}") from e
            self.files[file] = found
        return found

    def _path(self, file: str) -> Path:
        inner = file.removeprefix(_FOLDER)
        if self.folder is None:
            raise SourceError(f"{self.name} has weights in {shown(file)}, which a model in memory is without")
        return inside(self.folder, inner, self.name)


def inside(folder: Path, name: str, who: str) -> Path:
    """A file of a folder; SourceError if a name leads out of it."""
    if not name or "\0" in name or Path(name).is_absolute():
        raise SourceError(f"{who}: {shown(name)} isn't a file in it")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise SourceError(f"{who}: {shown(name)} leads out of it")
    return path


def read(source: Any) -> Model:
    """A model from the path of an ``.mlpackage`` or ``.mlmodel``, a file's bytes, or a protobuf ``Model``."""
    if isinstance(source, bytes):
        return Model(parsed(source, "the model"), "the model", None)
    if not isinstance(source, str | Path):
        if type(source).__name__ == "Model" and hasattr(source, "specificationVersion"):
            return Model(source, "the model", None)
        raise SourceError(f"from_coreml takes a path, bytes or a protobuf Model, not {type(source).__name__}")
    path = Path(source)
    name = shown(path)
    file = _model_of(path, name) if path.is_dir() else path
    try:
        data = file.read_bytes()
    except OSError as e:
        raise SourceError(f"{name}: can't be read: {e.strerror or e}") from e
    return Model(parsed(data, name), name, file.parent)


def parsed(data: bytes, name: str) -> Any:
    """A protobuf ``Model`` of bytes."""
    model = proto.model()
    try:
        model.ParseFromString(data)
        kind = model.WhichOneof("Type")
    except Exception as e:  # protobuf's own error, or one of text that isn't UTF-8
        raise SourceError(f"{name} isn't a CoreML model: {type(e).__name__} after {len(data)} bytes") from e
    if kind is None or not 1 <= model.specificationVersion < 100:
        raise SourceError(f"{name} isn't a CoreML model: its {len(data)} bytes name no kind of model and version")
    return model


def _model_of(folder: Path, name: str) -> Path:
    """The file with the model of an ``.mlpackage``."""
    try:
        manifest = json.loads((folder / "Manifest.json").read_bytes())
        items: Any = manifest["itemInfoEntries"]
        entry: Any = items[manifest["rootModelIdentifier"]]["path"]
    except OSError as e:
        raise SourceError(f"{name} is a folder without a Manifest.json, so no .mlpackage: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise SourceError(f"{name}: its Manifest.json doesn't say which file the model is ({type(e).__name__})") from e
    if not isinstance(entry, str):
        raise SourceError(f"{name}: its Manifest.json doesn't say which file the model is (no path)")
    return inside(folder / "Data", entry, name)


def kind_of(number: int, what: str) -> Kind:
    """An element type by MIL's number; SourceError if there is no such one of tensors."""
    found = KINDS.get(number)
    if found is None:
        raise SourceError(f"{what}: there is no element type {number} of tensors")
    return found
