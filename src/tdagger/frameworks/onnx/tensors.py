"""ONNX's tensors and attributes as arrays and Python values; the tensors of a model as a lazy mapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import numpy_helper

from tdagger.errors import UnsupportedError
from tdagger.op import Array
from tdagger.types import DType, TensorType


class _Types(dict[int, DType]):
    """A table of element types that refuses those it lacks."""

    def __missing__(self, kind: int) -> DType:
        names = {v: k for k, v in onnx.TensorProto.DataType.items()}
        raise UnsupportedError(
            f"tensors of {names.get(kind, kind)} aren't imported: there is no such element type here"
        )


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
DTYPES.update(HELD)


class Tensors(Mapping[str, Array]):
    """The tensors of a model by name, read when they are asked for."""

    def __init__(self, protos: Iterable[Any] = ()) -> None:
        self.protos: dict[str, Any] = {p.name: p for p in protos}

    def __getitem__(self, name: str) -> Array:
        return _held(self.protos[name])

    def type(self, name: str) -> TensorType:
        """The type of a tensor, without reading it."""
        proto = self.protos[name]
        return TensorType(tuple(proto.dims), DTYPES[proto.data_type])

    def part(self, names: Iterable[str]) -> Tensors:
        """Those of some names."""
        return Tensors([self.protos[n] for n in names])

    def __contains__(self, name: object) -> bool:
        return name in self.protos

    def __iter__(self) -> Iterator[str]:
        return iter(self.protos)

    def __len__(self) -> int:
        return len(self.protos)

    def add_constant(self, node: onnx.NodeProto) -> None:
        """The tensor of a Constant node, by the name of its output."""
        value = node.attribute[0]
        proto = value.t if value.name == "value" else numpy_helper.from_array(_as_array(value))
        self.protos[node.output[0]] = _named(proto, node.output[0])


def _held(proto: Any) -> Array:
    array = numpy_helper.to_array(proto)
    return array.astype(HELD[proto.data_type].numpy) if proto.data_type in HELD else array


def _named(proto: Any, name: str) -> Any:
    proto.name = name
    return proto


def _as_array(value: onnx.AttributeProto) -> Array:
    import numpy as np

    of = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return np.asarray(attribute(value), of[value.name])


def attribute(a: onnx.AttributeProto) -> Any:
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
        return a.s.decode("utf-8")
    if kind == a.STRINGS:
        return tuple([s.decode("utf-8") for s in a.strings])
    if kind == a.TENSOR:
        return _held(a.t)
    raise UnsupportedError(f"its attribute {a.name} is of a kind that isn't imported")
