"""ONNX's tensors and attributes as arrays and Python values; the tensors of a model as a lazy mapping.

A tensor is checked before it is used, and read when it is asked for: its shape against the bytes that are there,
and external data against its file, which is mapped into memory. External data lies in the model's folder or below;
paths that leave it, links, and offsets beyond a file's end are refused, as they would read what isn't the model's.

What has an element type that there is none of here is held in one that has all its numbers (:data:`HELD`); what is
done to such tensors is refused where that isn't the same (:mod:`tdagger.frameworks.onnx.walk.held`).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import numpy_helper

from tdagger.errors import SourceError, UnsupportedError
from tdagger.names import shown
from tdagger.network import Mapped
from tdagger.op import Array
from tdagger.types import DType, TensorType


def name_of(kind: int) -> str:
    """What ONNX calls an element type."""
    return {v: k for k, v in onnx.TensorProto.DataType.items()}.get(kind, f"number {kind}")


class _Types(dict[int, DType]):
    """A table of element types that refuses those it lacks."""

    def __missing__(self, kind: int) -> DType:
        raise UnsupportedError(f"tensors of {name_of(kind)} aren't imported: there is no such element type here")


_T = onnx.TensorProto
#: ONNX's element types to ours.
DTYPES: dict[int, DType] = _Types({
    _T.FLOAT: DType.of("f32"),
    _T.DOUBLE: DType.of("f64"),
    _T.FLOAT16: DType.of("f16"),
    _T.BFLOAT16: DType.of("bf16"),
    _T.FLOAT8E4M3FN: DType.of("f8e4m3"),
    _T.FLOAT8E5M2: DType.of("f8e5m2"),
    _T.INT8: DType.of("i8"),
    _T.INT16: DType.of("i16"),
    _T.INT32: DType.of("i32"),
    _T.INT64: DType.of("i64"),
    _T.UINT8: DType.of("u8"),
    _T.UINT16: DType.of("u16"),
    _T.UINT32: DType.of("u32"),
    _T.UINT64: DType.of("u64"),
    _T.BOOL: DType.of("bool"),
    _T.COMPLEX64: DType.of("c64"),
    _T.COMPLEX128: DType.of("c128"),
})  # fmt: skip
#: Ours to ONNX's.
ONNX_DTYPES: dict[DType, int] = {ours: theirs for theirs, ours in DTYPES.items()}
#: Element types that there are none of here, each held in one that has all its numbers: an int4 is an i8 of -8 to 7.
HELD: dict[int, DType] = {
    _T.INT2: DType.of("i8"),
    _T.INT4: DType.of("i8"),
    _T.UINT2: DType.of("u8"),
    _T.UINT4: DType.of("u8"),
    _T.FLOAT4E2M1: DType.of("f32"),
    _T.FLOAT8E4M3FNUZ: DType.of("f32"),
    _T.FLOAT8E5M2FNUZ: DType.of("f32"),
    _T.FLOAT8E8M0: DType.of("f32"),
}
#: The bits of each of these: those of less than 8 are packed.
BITS: dict[int, int] = {
    **dict.fromkeys((_T.INT2, _T.UINT2), 2),
    **dict.fromkeys((_T.INT4, _T.UINT4, _T.FLOAT4E2M1), 4),
    **dict.fromkeys((_T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2FNUZ, _T.FLOAT8E8M0), 8),
}
_RAW: dict[int, np.dtype[Any]] = {k: d.numpy.newbyteorder("<") for k, d in DTYPES.items()}
DTYPES.update(HELD)

#: Which field holds the entries of each element type that isn't in ``raw_data``, and how many of it an entry is.
_FIELDS: dict[int, tuple[str, int]] = {
    **dict.fromkeys(
        (_T.INT32, _T.INT16, _T.INT8, _T.UINT16, _T.UINT8, _T.BOOL, _T.FLOAT16, _T.BFLOAT16, _T.FLOAT8E4M3FN,
         _T.FLOAT8E5M2),
        ("int32_data", 1),
    ),
    _T.FLOAT: ("float_data", 1), _T.COMPLEX64: ("float_data", 2), _T.INT64: ("int64_data", 1),
    _T.DOUBLE: ("double_data", 1), _T.COMPLEX128: ("double_data", 2), _T.UINT32: ("uint64_data", 1),
    _T.UINT64: ("uint64_data", 1),
}  # fmt: skip

#: A sparse tensor is written out up to so many bytes.
_DENSE = 1 << 30
_RANK = 64


#: Types with their bytes, by element type and sizes, as tensors of them were checked; at most so many.
_SIZES: dict[tuple[int, ...], tuple[TensorType, int]] = {}
_KEPT = 1 << 12


class Tensors(Mapped):
    """The tensors of a model by name, read when they are asked for.

    ``held``: a TensorProto, a SparseTensorProto or an array for each name. ``folder`` is where external data lies.
    """

    def __init__(self, held: Mapping[str, Any] | None = None, folder: Path | None = None) -> None:
        self.held: dict[str, Any] = {} if held is None else dict(held)
        self.folder = folder
        self.types: dict[str, TensorType] = {}
        self.files: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Array:
        self.type(name)
        held = self.held[name]
        if isinstance(held, np.ndarray):
            return cast(Array, held)
        if isinstance(held, onnx.SparseTensorProto):
            return self._dense(held, name)
        return self._array(held, name)

    def type(self, name: str) -> TensorType:
        """The type of a tensor, without reading it; SourceError if its data isn't of that type."""
        found = self.types.get(name)
        if found is None:
            held = self.held[name]
            if isinstance(held, np.ndarray):
                found = TensorType(held.shape, DType.of(held.dtype))
            elif isinstance(held, onnx.SparseTensorProto):
                found = self._check_sparse(held, name)
            else:  # most have raw data that is as long as those of this type before
                known = _SIZES.get((held.data_type, *held.dims[:]))
                if known and len(held.raw_data) == known[1] and not (held.data_location or held.HasField("segment")):
                    found = known[0]
                else:
                    found = self._check(held, name)
            self.types[name] = found
        return found

    def kind(self, name: str) -> int:
        """The number of a tensor's element type, if it is one of :data:`HELD`; else 0."""
        held = self.held[name]
        kind = 0 if isinstance(held, np.ndarray) else _kind(held)
        return kind if kind in HELD else 0

    def part(self, names: Iterable[str]) -> Tensors:
        """Those of some names."""
        found = Tensors(folder=self.folder)
        found.held = {n: self.held[n] for n in names}
        found.types, found.files = self.types, self.files
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    # Dense tensors.

    def _check(self, proto: Any, name: str) -> TensorType:
        kind = proto.data_type
        shape = _shape(proto.dims, name)
        if kind in HELD:
            dtype = HELD[kind]
            bytes_ = -(-math.prod(shape) * BITS[kind] // 8)
            wanted, field = bytes_, "int32_data"
        else:
            dtype = _dtype(kind, name)
            bytes_ = math.prod(shape) * dtype.bytes
            field, each = _FIELDS[kind]
            wanted = math.prod(shape) * each
        if proto.HasField("segment"):
            raise UnsupportedError(f"tensor {shown(name)} is one of several segments, which aren't imported")
        if proto.data_location == _T.EXTERNAL:
            self._place(proto, name, bytes_)
        elif proto.HasField("raw_data"):
            _same(len(proto.raw_data), bytes_, name, shape, dtype, "bytes")
            if bytes_ and len(_SIZES) < _KEPT:
                _SIZES[kind, *shape] = TensorType(shape, dtype), bytes_
        else:
            _same(len(getattr(proto, field)), wanted, name, shape, dtype, f"entries of {field}")
        return TensorType(shape, dtype)

    def _array(self, proto: Any, name: str) -> Array:
        shape = tuple(proto.dims)
        kind = proto.data_type
        if proto.data_location == _T.EXTERNAL:
            start, file = self._place(proto, name, -1)
            type_ = self.types[name]
            if kind in HELD:
                raw = np.frombuffer(file, np.uint8, -(-type_.size * BITS[kind] // 8), start)
                return _held(_T(dims=shape, data_type=kind, raw_data=raw.tobytes()))
            count = type_.size
            return np.frombuffer(file, _RAW[kind], count, start).reshape(shape) if count else _empty(type_)
        if kind in HELD:
            return _held(proto)
        if proto.HasField("raw_data"):
            return np.frombuffer(proto.raw_data, _RAW[kind]).reshape(shape)
        return numpy_helper.to_array(proto)

    # External data.

    def _place(self, proto: Any, name: str, bytes_: int) -> tuple[int, Any]:
        """Where external data begins, and the file in memory; SourceError if it isn't ``bytes_`` there (-1: any)."""
        told = {e.key: e.value for e in proto.external_data}
        where = f"the external data of tensor {shown(name)}"
        location = told.get("location", "")
        offset, length = (_number(told.get(k), where, k) for k in ("offset", "length"))
        start = offset or 0
        if length is not None and bytes_ >= 0 and length != bytes_:
            raise SourceError(f"{where} has {length} bytes, its shape {tuple(proto.dims)} takes {bytes_}")
        file = self._file(location, where)
        if start + max(bytes_, 0) > len(file):
            raise SourceError(
                f"{where} is said to be at {start} to {start + bytes_} of {shown(location)}, which has {len(file)}"
            )
        return start, file

    def _file(self, location: str, where: str) -> Any:
        found = self.files.get(location)
        if found is None:
            found = self.files[location] = _mapped(self.folder, location, where)
        return found

    # Sparse tensors.

    def _check_sparse(self, proto: Any, name: str) -> TensorType:
        shape = _shape(proto.dims, name)
        values = self._check(proto.values, name)
        indices = self._check(proto.indices, name)
        found = TensorType(shape, values.dtype)
        count = values.size
        if values.rank != 1 or indices.dtype.name != "i64" or indices.shape not in ((count,), (count, len(shape))):
            raise SourceError(f"sparse tensor {shown(name)} has values {values} at indices {indices} of {shape}")
        if found.bytes > _DENSE:
            raise UnsupportedError(f"sparse tensor {shown(name)} of {shape} takes {found.bytes} bytes written out")
        at = self._array(proto.indices, name)
        ends = np.array(shape, np.int64) if at.ndim == 2 else np.int64(found.size)
        if bool(((at < 0) | (at >= ends)).any()):
            raise SourceError(f"sparse tensor {shown(name)} has an index beyond its shape {shape}")
        return found

    def _dense(self, proto: Any, name: str) -> Array:
        type_ = self.types[name]
        out = np.zeros(type_.size, type_.dtype.numpy)
        at = self._array(proto.indices, name)
        if at.ndim == 2:
            at = np.ravel_multi_index(tuple(at.T), type_.shape) if type_.rank else np.zeros(len(at), np.int64)
        out[at] = self._array(proto.values, name)
        return out.reshape(type_.shape)


def _kind(held: Any) -> int:
    return held.values.data_type if isinstance(held, onnx.SparseTensorProto) else held.data_type


def _held(proto: Any) -> Array:
    return numpy_helper.to_array(proto).astype(HELD[proto.data_type].numpy)


def _empty(type_: TensorType) -> Array:
    return np.zeros(type_.shape, type_.dtype.numpy)


def _dtype(kind: int, name: str) -> DType:
    found = DTYPES.get(kind)
    if found is None:
        raise UnsupportedError(f"{shown(name)} is a tensor of {name_of(kind)}: there is no such element type here")
    return found


def _shape(dims: Iterable[int], name: str) -> tuple[int, ...]:
    shape = tuple(dims)
    if len(shape) > _RANK or any(n < 0 for n in shape) or math.prod(shape) >= 2**48:
        raise SourceError(f"tensor {shown(name)} has the shape {shown(shape)}, which no tensor has")
    return shape


def _same(found: int, wanted: int, name: str, shape: tuple[int, ...], dtype: DType, what: str) -> None:
    if found != wanted:
        raise SourceError(f"tensor {shown(name)}, {dtype}{list(shape)}, has {found} {what}; it takes {wanted}")


def _number(text: str | None, where: str, key: str) -> int | None:
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise SourceError(f"{where} has the {key} {shown(text)}")
    return int(text)


def _mapped(folder: Path | None, location: str, where: str) -> Any:
    """A file of external data in memory; SourceError if it isn't a plain one in the model's folder."""
    if folder is None:
        raise SourceError(f"{where} lies beside the model's file ({shown(location)}): import it by its path")
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or parts[0] == "" or ":" in parts[0] or ".." in parts:
        raise SourceError(f"{where} lies at {shown(location)}: that leaves the model's folder, and isn't read")
    path = folder
    try:
        for part in parts:
            path = path / part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise SourceError(f"{where}: {shown(path)} is a link, which isn't followed; put the file there")
        if not stat.S_ISREG(path.lstat().st_mode):
            raise SourceError(f"{where}: {shown(path)} is no file")
        if not os.path.getsize(path):
            return b""
        return np.memmap(path, np.uint8, "r")
    except OSError as e:
        raise SourceError(f"{where} can't be read: {shown(path)}: {e.strerror or e}") from e


# --- attributes --------------------------------------------------------------------------------------------


def array_of(proto: Any, what: str, folder: Path | None = None) -> Array:
    """The array of a tensor that stands alone: an attribute."""
    return Tensors({what: proto}, folder)[what]


def attribute(a: Any, folder: Path | None = None) -> Any:
    """An attribute as a Python value: numbers, strings, tuples of them, tensors as arrays."""
    kind = a.type
    if kind == a.INT:
        return a.i
    if kind == a.INTS:
        return tuple(a.ints)
    if kind == a.FLOAT:
        return a.f
    if kind == a.FLOATS:
        return tuple(a.floats)
    if kind == a.STRING:
        return _text(a.s, a)
    if kind == a.STRINGS:
        return tuple([_text(s, a) for s in a.strings])
    if kind == a.TENSOR:
        return array_of(a.t, f"attribute {a.name}", folder)
    names = {v: k for k, v in onnx.AttributeProto.AttributeType.items()}
    raise UnsupportedError(f"its attribute {shown(a.name)} is of a kind that isn't imported ({names.get(kind, kind)})")


def _text(data: bytes, a: Any) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceError(f"its attribute {shown(a.name)} isn't UTF-8") from None


#: The attributes that a Constant node may have, and what they hold.
_PLAIN: dict[str, Any] = {
    "value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32,
}  # fmt: skip


def constant_of(node: Any) -> Any:
    """What a Constant node holds, as :class:`Tensors` has it."""
    if len(node.attribute) != 1:
        raise SourceError(f"it is a Constant with {len(node.attribute)} attributes, not one")
    (a,) = node.attribute
    if a.name == "value" and a.type == a.TENSOR:
        return a.t
    if a.name == "sparse_value" and a.type == a.SPARSE_TENSOR:
        return a.sparse_tensor
    if a.name in _PLAIN:
        wanted = {"value_int": a.INT, "value_ints": a.INTS, "value_float": a.FLOAT, "value_floats": a.FLOATS}[a.name]
        if a.type == wanted:
            found = np.asarray(attribute(a), _PLAIN[a.name])
            found.flags.writeable = False
            return found
    if a.name in ("value_string", "value_strings"):
        raise UnsupportedError("strings aren't imported: there is no such element type here")
    raise SourceError(f"its attribute {shown(a.name)} isn't one that a Constant has")
