"""Element types of MIL, of weight files and of this library, and numbers of less than a byte."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.op import Array
from tdagger.types import DType


class Kind(NamedTuple):
    """An element type: its name as MIL writes it, what holds it here, how many bits an entry takes in a file."""

    name: str
    dtype: DType
    bits: int


def _kind(name: str, dtype: str, bits: int = 0) -> Kind:
    own = DType.of(dtype)
    return Kind(name, own, bits or 8 * own.bytes)


#: MIL's numbers of element types (``MIL.proto``, DataType). Those of less than a byte are held in 8 bits.
KINDS: dict[int, Kind] = {
    1: _kind("bool", "bool"), 10: _kind("fp16", "f16"), 11: _kind("fp32", "f32"), 12: _kind("fp64", "f64"),
    13: _kind("bf16", "bf16"), 21: _kind("int8", "i8"), 22: _kind("int16", "i16"), 23: _kind("int32", "i32"),
    24: _kind("int64", "i64"), 25: _kind("int4", "i8", 4), 31: _kind("uint8", "u8"), 32: _kind("uint16", "u16"),
    33: _kind("uint32", "u32"), 34: _kind("uint64", "u64"), 35: _kind("uint4", "u8", 4), 36: _kind("uint2", "u8", 2),
    37: _kind("uint1", "u8", 1), 38: _kind("uint6", "u8", 6), 39: _kind("uint3", "u8", 3),
    40: _kind("fp8e4m3", "f8e4m3"), 41: _kind("fp8e5m2", "f8e5m2"),
}  # fmt: skip
STRING = 2

#: The numbers that weight files have for element types (``StorageFormat.hpp`` of coremltools) to MIL's.
BLOBS = {
    1: 10, 2: 11, 3: 31, 4: 21, 5: 13, 6: 22, 7: 32, 8: 25, 9: 37, 10: 36, 11: 35, 12: 39, 13: 38, 14: 23, 15: 33,
    16: 40, 17: 41,
}  # fmt: skip

#: MIL's number of each element type that is written.
NUMBERS: dict[DType, int] = {k.dtype: n for n, k in KINDS.items() if k.bits == 8 * k.dtype.bytes}

#: Element types by the names that ``cast`` and ``output_dtype`` have.
BY_NAME: dict[str, DType] = {k.name: k.dtype for k in KINDS.values()}


def unpacked(data: Array, count: int, kind: Kind) -> Array:
    """Numbers of less than a byte from bytes, the lowest bits first, each in 8 bits."""
    bits = np.unpackbits(data.view(np.uint8), bitorder="little")[: count * kind.bits].reshape(count, kind.bits)
    numbers = (bits << np.arange(kind.bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
    if kind.dtype.is_signed:
        high = 1 << (kind.bits - 1)
        return ((numbers ^ high).astype(np.int16) - high).astype(np.int8)
    return numbers


def bytes_in(data: Array, kind: Kind) -> Array:
    """Entries as the bytes that a file has: those of less than a byte one after the other, the lowest bits first.

    >>> bytes_in(np.array([1, -1, 2], np.int8), KINDS[25]).tolist()
    [241, 2]
    """
    if not data.size:
        return np.zeros(0, np.uint8)
    flat = np.ascontiguousarray(data).reshape(-1)
    if kind.bits == 8 * flat.itemsize:
        return flat.view(np.uint8)
    low, high = (
        (-(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1) if kind.dtype.is_signed else (0, (1 << kind.bits) - 1)
    )
    if flat.min() < low or flat.max() > high:
        raise UnsupportedError(f"the numbers {flat.min()} to {flat.max()} aren't all of {kind.name}")
    bits = np.unpackbits(flat.view(np.uint8)[:, None], axis=1, bitorder="little")[:, : kind.bits]
    return np.packbits(bits.reshape(-1), bitorder="little")


def bytes_of(count: int, kind: Kind) -> int:
    """How many bytes so many entries take."""
    return -(-count * kind.bits // 8)


def as_array(data: Array, count: int, kind: Kind) -> Array:
    """Bytes as ``count`` entries of an element type."""
    if kind.bits < 8:
        return unpacked(data, count, kind)
    return data.view(kind.dtype.numpy)
