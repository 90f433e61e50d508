"""Constants that a file has compressed (``constexpr_*``): quantized, palettized, sparse. They are worked out when read.

Those of integers with scales are quantized values (:mod:`.quantized`). A weight of another such constant is a weight of
floats here; what it was compressed by isn't kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger.errors import SourceError
from tdagger.frameworks.coreml.types import BY_NAME, KINDS, unpacked
from tdagger.op import Array

#: The inputs of an op by name: arrays, strings; and the shape that is declared of the last result.
Inputs = Mapping[str, Any]


def _checked(count: int, wanted: int, what: str) -> None:
    if count != wanted:
        raise SourceError(f"its {what} has {count} entries, where its shape takes {wanted}")


def _along(numbers: Array, rank: int, axis: int) -> Array:
    return numbers if numbers.ndim == 0 else numbers.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _affine(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    data, scale, zero = given["quantized_data"], given["scale"], given["zero_point"]
    axis = int(given["axis"].reshape(-1)[0])
    wide = data.astype(np.float32) - _along(zero.astype(np.float32), data.ndim, axis)
    return ((wide * _along(scale.astype(np.float32), data.ndim, axis)).astype(scale.dtype),)


def _blockwise(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return (_shifted(given["data"], given["scale"], given.get("offset")),)


def _shifted(data: Array, scale: Array, offset: Array | None) -> Array:
    """``scale * (data - offset)``, each scale for a block."""
    if scale.ndim != data.ndim or any(s == 0 or d % s for d, s in zip(data.shape, scale.shape, strict=True)):
        raise SourceError(f"scales of shape {list(scale.shape)} aren't for blocks of {list(data.shape)}")
    out = data.astype(scale.dtype)
    if offset is not None:
        out = out - _spread(offset, data.shape).astype(scale.dtype)
    return _spread(scale, data.shape) * out


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Each entry for all of its block."""
    for axis, (n, b) in enumerate(zip(shape, blocks.shape, strict=True)):
        if n != b:
            blocks = np.repeat(blocks, n // b, axis)
    return blocks


def _lut(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    lut, indices = given["lut"], given["indices"]
    if "shape" in given:  # of iOS16: packed bits
        bits = math.ceil(math.log2(lut.size)) if lut.size else 0
        count = math.prod(shape)
        _checked(indices.size, -(-bits * count // 8), "indices")
        kind = next((k for k in KINDS.values() if k.bits == bits and k.dtype.name == "u8"), None)
        if kind is None or lut.size != 1 << bits:
            raise SourceError(f"a table of {lut.size} entries isn't one of 1, 2, 3, 4, 6 or 8 bits")
        return (lut[unpacked(indices, count, kind) if bits < 8 else indices[:count]].reshape(shape),)
    return (_looked_up(indices, lut, given.get("vector_axis")),)


def _looked_up(indices: Array, lut: Array, vector_axis: Any) -> Array:
    """Entries of tables, of which there is one for each block of indices: ``lut`` is ``[blocks.. entry vector]``."""
    blocks = lut.shape[:-2]
    if len(blocks) != indices.ndim or any(b == 0 or n % b for n, b in zip(indices.shape, blocks, strict=True)):
        raise SourceError(f"tables of shape {list(lut.shape)} aren't for blocks of {list(indices.shape)}")
    if indices.size and int(indices.max()) >= lut.shape[-2]:
        raise SourceError(f"an index of {int(indices.max())} is beyond its table of {lut.shape[-2]} entries")
    table = np.zeros((), np.int64)
    for axis, (n, b) in enumerate(zip(indices.shape, blocks, strict=True)):
        own = np.arange(n) // (n // b)
        table = table * b + own.reshape([-1 if i == axis else 1 for i in range(indices.ndim)])
    out = lut.reshape(-1, *lut.shape[-2:])[table, indices]
    if lut.shape[-1] == 1:
        return out[..., 0]
    if vector_axis is None:
        raise SourceError("its tables have vectors, and it doesn't say along which axis")
    axis = int(vector_axis.reshape(-1)[0]) % indices.ndim
    out = np.moveaxis(out, -1, axis + 1)
    return out.reshape(*indices.shape[:axis], -1, *indices.shape[axis + 1 :])


def _sparse(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    mask = given["mask"]
    if "shape" in given:  # of iOS16: packed bits
        count = math.prod(shape)
        _checked(mask.size, -(-count // 8), "mask")
        mask = np.unpackbits(mask.view(np.uint8), bitorder="little")[:count].reshape(shape)
    return (_dense(given["nonzero_data"], mask),)


def _dense(data: Array, mask: Array) -> Array:
    _checked(data.size, int(np.count_nonzero(mask)), "nonzero_data")
    out = np.zeros(mask.shape, data.dtype)
    out[mask != 0] = data
    return out


def _lut_sparse(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    mask, lut, axis = given["indices_mask"], given["lut"], given.get("vector_axis")
    out = _looked_up(_dense(given["indices_nonzero_data"], mask), lut, axis)
    if axis is not None:
        mask = np.repeat(mask, lut.shape[-1], int(axis.reshape(-1)[0]))
    return mask, out[mask != 0]


def _shifted_sparse(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    mask = given["data_mask"]
    out = _shifted(_dense(given["nonzero_data"], mask), given["scale"], given.get("offset"))
    return mask, out[mask != 0]


def _cast(given: Inputs, shape: tuple[int, ...]) -> tuple[Array, ...]:
    to = BY_NAME.get(given["output_dtype"])
    if to is None:
        raise SourceError(f"there is no element type {given['output_dtype']} here")
    return (given["source_val"].astype(to.numpy),)


#: What each op makes of its inputs: an array for each result.
COMPRESSED: dict[str, Callable[[Inputs, tuple[int, ...]], tuple[Array, ...]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_lut_to_dense": _lut,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_lut_to_sparse": _lut_sparse,
    "constexpr_sparse_blockwise_shift_scale": _shifted_sparse,
    "constexpr_cast": _cast,
}
