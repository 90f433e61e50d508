"""Constants that are integers with scales: the quantized values that they are.

``constexpr_affine_dequantize`` has one scale, or one for each entry of an axis; ``constexpr_blockwise_shift_scale`` has
scales of as many axes as the integers, each for a block of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.frameworks.coreml.values import Constant


class Quantized(NamedTuple):
    """A constant as integers and how they are read: arguments of :func:`tdagger.library.quantized.dequantize`."""

    codes: Constant
    scale: Constant
    zero_point: Constant | None
    axis: int | None
    block: int
    of: str


#: MIL's numbers of integers that are quantized, and what is said of those that bytes hold.
_OF = {21: "", 31: "", 25: "i4", 35: "u4", 36: "u2"}


def quantized(op: str, given: Mapping[str, Any]) -> Quantized | None:
    """The quantized value that a constant is; None for others: tables, zero points of floats, blocks of several axes.

    None too where shapes don't fit, which is refused when the constant is worked out.
    """
    names = _NAMES.get(op)
    codes, scale, zero = (given.get(n) for n in names or ("", "", ""))
    if not isinstance(codes, Constant) or not isinstance(scale, Constant) or codes.kind not in _OF:
        return None
    each = [scale, *([zero] if isinstance(zero, Constant) else [])]
    if not scale.type.dtype.is_float or any(a.type.dtype is not codes.type.dtype for a in each[1:]):
        return None
    return _in_blocks(codes, each) if op == "constexpr_blockwise_shift_scale" else _affine(codes, each, given)


_NAMES = {
    "constexpr_affine_dequantize": ("quantized_data", "scale", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "scale", "offset"),
}


def _affine(codes: Constant, each: Sequence[Constant], given: Mapping[str, Any]) -> Quantized | None:
    if all(a.type.size == 1 for a in each):
        return Quantized(codes, *_shaped(each, lambda a: ()), None, 0, _OF[codes.kind])
    found = given.get("axis")
    axis = int(found.read().reshape(-1)[0]) if isinstance(found, Constant) and found.type.size else len(codes.shape)
    if not -len(codes.shape) <= axis < len(codes.shape):
        return None
    own = (codes.shape[axis],)
    if any(a.shape not in ((), (1,), own) for a in each):
        return None
    shaped = _shaped(each, lambda a: own if a.shape == own else ())
    return Quantized(codes, *shaped, axis % len(codes.shape), 0, _OF[codes.kind])


def _in_blocks(codes: Constant, each: Sequence[Constant]) -> Quantized | None:
    shape, blocks, of = codes.shape, each[0].shape, _OF[codes.kind]
    if any(a.shape != blocks for a in each) or len(blocks) != len(shape):
        return None
    if any(b == 0 or n % b for n, b in zip(shape, blocks, strict=True)):
        return None
    split = [i for i, (n, b) in enumerate(zip(shape, blocks, strict=True)) if b not in (1, n)]
    several = [i for i, b in enumerate(blocks) if b != 1]
    if split:
        axis = split[0]
        whole = tuple([b if i == axis else n for i, (n, b) in enumerate(zip(shape, blocks, strict=True))])
        size = shape[axis] // blocks[axis]
        return None if len(split) > 1 else Quantized(codes, *_shaped(each, lambda a: whole), axis, size, of)
    if len(several) > 1:
        return Quantized(codes, *_shaped(each, lambda a: blocks), None, 0, of)
    flat = tuple([blocks[i] for i in several])
    return Quantized(codes, *_shaped(each, lambda a: flat), several[0] if several else None, 0, of)


def _shaped(each: Sequence[Constant], shape: Callable[[Constant], tuple[int, ...]]) -> tuple[Constant, Constant | None]:
    """The scale and the zero point, if there is one, in other shapes, repeated along axes of one block."""

    def made(a: Constant) -> Constant:
        to = shape(a)
        if len(to) == len(a.shape):
            return Constant(a.kind, to, lambda: np.broadcast_to(a.read(), to).copy())
        return Constant(a.kind, to, lambda: a.read().reshape(to))

    return made(each[0]), made(each[1]) if len(each) > 1 else None
