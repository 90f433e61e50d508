"""safetensors files: written as that library does, read as a map of the file, checked before anything is used."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.errors import FileError
from tdagger.names import shown
from tdagger.network import Mapped
from tdagger.op import Array
from tdagger.types import DTYPES, DType, TensorType

#: The names that safetensors has for element types, in the order in which their tensors come in a file: those that are
#: aligned the most are first. It has none for c128, which is two f64 for each entry.
NAMES = {
    "u64": "U64", "i64": "I64", "f64": "F64", "c64": "C64", "f32": "F32", "u32": "U32", "i32": "I32", "bf16": "BF16",
    "f16": "F16", "u16": "U16", "i16": "I16", "f8e4m3": "F8_E4M3", "f8e5m2": "F8_E5M2", "i8": "I8", "u8": "U8",
    "bool": "BOOL",
}  # fmt: skip
_OF_NAME = {name: DType.of(own) for own, name in NAMES.items()}
_ORDER = {name: i for i, name in enumerate(_OF_NAME)}
assert {d.name for d in DTYPES} == {*NAMES, "c128"}

#: The key of the metadata that holds the document.
KEY = "tdag"


class Place(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def stored(self) -> tuple[str, tuple[int, ...]]:
        """Its element type and shape as the file has them."""
        return NAMES[self.dtype.name], self.shape


class Header(NamedTuple):
    """What a file says of itself: metadata, the places of tensors, the file in memory, and where its data begins."""

    metadata: dict[str, str]
    places: dict[str, Place]
    data: Any
    begin: int


def stored(type_: TensorType) -> tuple[str, tuple[int, ...]]:
    """How a tensor of a type is stored: the element type safetensors calls it by, and the shape."""
    return ("F64", (*type_.shape, 2)) if type_.dtype.name == "c128" else (NAMES[type_.dtype.name], type_.shape)


# --- reading -----------------------------------------------------------------------------------------------


def opened(path: Path, most: int) -> Header:
    """The header of a file, whose data is mapped and not read; FileError with the offset where it is damaged."""
    if not path.is_file():
        raise FileError(f"{shown(path)}: there is no such file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise FileError(f"at byte 0: the file has {size} bytes, and its header's length alone takes 8")
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise FileError(f"at byte 0: a header of {length} bytes, and the file has {size}")
        if not 2 <= length <= most:
            raise FileError(f"at byte 0: a header of {length} bytes; it has 2 to {most}")
        text = file.read(length)
        # private: who writes to a weight writes to memory, never to the file
        data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY))[8 + length :]
    raw = parsed(text, "the header")
    if not isinstance(raw, dict):
        raise FileError("at byte 8: the header must be an object")
    entries = cast(dict[str, Any], raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast(dict[str, Any], metadata).values()):
        raise FileError("__metadata__: must be strings by name")
    places = {name: _place(name, entry) for name, entry in entries.items()}
    _check_order(places, len(data))
    return Header(cast(dict[str, str], metadata), places, data, 8 + length)


def parsed(text: str | bytes, where: str) -> Any:
    """JSON, whose keys are each there once; FileError says where it isn't."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise FileError(f"{where}: is nested too deep") from None
    except UnicodeDecodeError as e:
        raise FileError(f"{where}: is not UTF-8 at byte {e.start}") from None
    except json.JSONDecodeError as e:
        raise FileError(f"{where}: is no JSON at character {e.pos}: {e.msg}") from None
    except ValueError as e:  # an integer of thousands of digits
        raise FileError(f"{where}: {e}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [k for k, _ in pairs]
        twice = next(k for k in keys if keys.count(k) > 1)
        raise FileError(f"the key {shown(twice)!r} is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise FileError(f"{name} is no JSON")


def is_size(n: Any) -> bool:
    """Whether it is a number of entries."""
    return type(n) is int and 0 <= n < 2**63


def _place(name: str, entry: Any) -> Place:
    """Where a tensor lies; the plain case is short, for there are thousands of them."""
    if entry.__class__ is not dict or entry.keys() != _FIELDS:
        raise _bad(name, "must have dtype, shape and data_offsets, and nothing else")
    shape, offsets = entry["shape"], entry["data_offsets"]
    dtype = _OF_NAME.get(entry["dtype"]) if entry["dtype"].__class__ is str else None
    if dtype is None:
        raise _bad(name, f"no element type is called {entry['dtype']!r:.60}; there are {', '.join(_OF_NAME)}")
    if shape.__class__ is not list or not all(map(is_size, shape)):
        raise _bad(name, f"a shape is a list of sizes, not {shape!r:.80}")
    if offsets.__class__ is not list or len(offsets) != 2 or not all(map(is_size, offsets)):
        raise _bad(name, f"data_offsets are two numbers of bytes, not {offsets!r:.80}")
    start, stop = offsets
    size = math.prod(shape) * dtype.bytes
    if stop - start != size:
        raise _bad(name, f"{entry['dtype']}{shape!r:.80} takes {size} bytes, it has {start} to {stop}")
    return Place(dtype, tuple(shape), start, stop)


_FIELDS = {"dtype", "shape", "data_offsets"}


def _bad(name: str, why: str) -> FileError:
    return FileError(f"tensor {shown(name)!r}: {why}")


def _check_order(places: Mapping[str, Place], size: int) -> None:
    """Tensors must lie one behind the other, and fill the file."""
    end = 0
    for name, place in sorted(places.items(), key=lambda one: (one[1].start, one[1].stop)):
        if place.start != end:
            raise FileError(
                f"tensor {shown(name)!r}: begins at byte {place.start} of the data, the one before ends at {end}"
            )
        end = place.stop
    if end != size:
        raise FileError(f"the data has {size} bytes, and its tensors end at {end}")


class FileWeights(Mapped):
    """The tensors of files, mapped: an array is made when it is asked for, and lies where the file does.

    ``names`` are those of the tensors by the names they are asked for by; several may be one.
    """

    def __init__(self, names: Mapping[str, tuple[Header, str, TensorType]]) -> None:
        self._names = dict(names)
        self._made: dict[tuple[int, str], Array] = {}

    def __getitem__(self, name: str) -> Array:
        header, own, type_ = self._names[name]
        key = (id(header), own)
        if key not in self._made:
            self._made[key] = array(header, own, type_)
        return self._made[key]

    def part(self, names: Iterable[str]) -> FileWeights:
        """Those of some names."""
        return FileWeights({n: self._names[n] for n in names})

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def array(header: Header, name: str, type_: TensorType) -> Array:
    """The array of a tensor, on the memory of the file."""
    place = header.places[name]
    data = header.data[place.start : place.stop]
    found = np.frombuffer(data, type_.dtype.numpy.newbyteorder("<") if type_.dtype.bytes > 1 else type_.dtype.numpy)
    return found.reshape(type_.shape)


# --- writing -----------------------------------------------------------------------------------------------


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, which appears whole, or what was there stays.

    It is the library's byte for byte. Here the room is taken first, which the library has no way to: a full disk is
    known before anything is written (what it takes: docs/benchmarks.md).
    """
    flat = {name: _flat(data) for name, data in tensors.items()}
    kinds = {name: NAMES[DType.of(data.dtype).name] for name, data in flat.items()}
    names = sorted(flat, key=lambda n: (_ORDER[kinds[n]], n))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        begin, end = end, end + flat[name].nbytes
        header[name] = {"dtype": kinds[name], "shape": list(flat[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write_to(to: str) -> None:
        with open(to, "wb") as file:
            _make_room(file.fileno(), 8 + len(text) + end)
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                file.write(flat[name].reshape(-1).view(np.uint8).data)

    whole(path, write_to)


def _flat(data: Array) -> Array:
    """An array as it lies in a file: row-major, little endian, c128 as pairs of f64."""
    flat = little(np.asarray(data, order="C"))
    if DType.of(data.dtype).name == "c128":
        return flat.reshape(-1).view("<f8").reshape(*flat.shape, 2)
    return flat


def _make_room(file: int, size: int) -> None:
    """Take so many bytes for a file that is still empty, where the system can."""
    if sys.platform == "linux":
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def little(array: Array) -> Array:
    """An array in the order of bytes that files have."""
    if array.dtype.itemsize == 1 or (sys.byteorder == "little" and array.dtype.byteorder in "=<|"):
        return array
    return array.astype(array.dtype.newbyteorder("<"))


def whole(path: Path, write_to: Callable[[str], Any]) -> None:
    """Write to a file beside ``path``, make sure it is on the disk, and put it in its place."""
    handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem[:40]}.", dir=path.parent)
    try:
        os.close(handle)
        write_to(name)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        handle = os.open(name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(name, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
