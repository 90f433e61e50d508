"""Quantized numbers as MIL has them: weights as ``constexpr`` constants, what is computed as quantize and dequantize.

Since iOS16 MIL has weights of 8 bits with one scale or one for each entry of an axis (``constexpr_affine_dequantize``),
since iOS17 it rounds what is computed to i8 and u8, since iOS18 it has weights of 4 and 8 bits with a scale for each
block (``constexpr_blockwise_shift_scale``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.coreml.emit.core import as_type
from tdagger.frameworks.coreml.emit.writer import SMALL, Packed, Tensor, Writer
from tdagger.frameworks.coreml.types import KINDS
from tdagger.frameworks.writing import SAME, Fields, is_reshape
from tdagger.graph import Graph
from tdagger.library.quantized import grid_of
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf
from tdagger.ops.structure import Permute
from tdagger.types import DType, TensorType

Shape = tuple[int, ...]

#: Operator sets from which MIL has quantize and dequantize, weights of 8 bits, and weights of 4 bits and in blocks.
ROUNDS, BYTES, BLOCKS = 17, 16, 18
#: MIL's numbers of element types of 8 and of 4 bits.
_KINDS = {("i8", 8): 21, ("u8", 8): 31, ("i8", 4): 25, ("u8", 4): 35}
#: Why what is found as the network runs is refused.
FOUND = "its scale depends on data, MIL's are constants: quantize with scales of calibration (target='coreml')"
_TEXTS = {"i8": "int8", "u8": "uint8"}

# --- weights -----------------------------------------------------------------------------------------------


class _Weight(NamedTuple):
    """A weight of few bits: its numbers, and of as many axes a scale and a zero point for each block of entries."""

    source: Value
    codes: Callable[[], Array]
    shape: Shape
    bits: int
    blocks: Shape
    scale: Callable[[], Array]
    zero: Callable[[], Array] | None


def weight_of(value: Value) -> Value | None:
    """The dequantize of 8 bits and less that a static value is, but for permutes and reshapes; None for others."""
    while isinstance(value.op, Permute) or is_reshape(value) or value.op.name in SAME:
        value = value.args[0]
    return value if value.op.name == "dequantize" and value.args[0].dtype.name in _TEXTS else None


def needed_opset(graph: Graph) -> int:
    """The first operator set, of iOS16 and later, that has what a network's quantized numbers need.

    It is iOS18 where weights are of 4 bits or in blocks, iOS17 where what is computed is quantized.
    """
    least = BYTES
    for value in graph.values:
        op = value.op
        if op.name in ("quantize", "fake_quantize"):
            least = max(least, ROUNDS)
        elif op.name == "dequantize" and isinstance(value.args[0].op, Leaf):
            of, block = op.attributes["of"], op.attributes["block"]
            least = BLOCKS if block or (of and grid_of(of).bits < 8) else least
    return least


def packed(w: Writer, value: Value) -> Packed | None:
    """A static value as a compressed constant; None for what is none.

    What the operator set doesn't have is None too, and noted in ``w.floats`` unless it is small.
    """
    found = weight_of(value)
    if found is None:
        return None
    weight = _moved(w, value, found)
    why = _why_not(w, value, weight)
    op = found.args[0].op
    leaf = op.leaf if isinstance(op, Leaf) else None
    if why is not None or weight is None:
        if value.type.bytes > SMALL:
            w.floats[leaf or str(found.type)] = why or ""
        return None
    return (_blockwise if w.opset >= BLOCKS else _affine)(weight, found.dtype)._replace(leaf=leaf)


def _why_not(w: Writer, value: Value, weight: _Weight | None) -> str | None:
    """Why a weight isn't written in few bits."""
    if w.opset < BYTES:
        return "MIL has weights of few bits since iOS16"
    if value.dtype.name not in ("f32", "f16"):
        return f"MIL makes no {value.dtype} of them"
    if weight is None:
        return "its scales aren't for blocks of one size in the shape it has"
    split = [(b, n) for b, n in zip(weight.blocks, weight.shape, strict=True) if b != 1]
    if w.opset < BLOCKS and (len(split) > 1 or any(b != n for b, n in split)):
        return "MIL has scales for blocks since iOS18"
    taken = math.prod(weight.shape) * (weight.bits if w.opset >= BLOCKS else 8) // 8
    if taken + math.prod(weight.blocks) * value.dtype.bytes >= value.type.bytes:
        return "it has as many scales as that takes no less"
    return None


def _moved(w: Writer, value: Value, found: Value) -> _Weight | None:
    """A weight after the permutes and reshapes between ``found`` and ``value``; None if scales don't fit then."""
    moves: list[Value] = []
    at = value
    while at is not found:
        moves.append(at)
        at = at.args[0]
    weight = _read(w, found)
    for move in reversed(moves):
        if weight is None:
            return None
        if isinstance(move.op, Permute):
            weight = _permuted(weight, move.op.order)
        elif is_reshape(move):
            weight = _reshaped(weight, move.shape)
    return weight


def _read(w: Writer, v: Value) -> _Weight | None:
    """The weight that a dequantize is."""
    x, scale, *zero = v.args
    axis, block, of = (v.op.attributes[n] for n in ("axis", "block", "of"))
    each = [_blocks(a, x.shape, axis, block) for a in (scale, *zero)]
    blocks = tuple([max(n) for n in zip(*[b for b, _ in each], strict=True)])
    if any(n not in (1, m) for b, _ in each for n, m in zip(b, blocks, strict=True)):
        return None

    def numbers(of: Value, laid: Callable[[Array], Array]) -> Callable[[], Array]:
        return lambda: np.broadcast_to(laid(w.worked_out(of)), blocks)

    bits = 4 if of and grid_of(of).bits < 8 else 8
    offset = numbers(zero[0], each[1][1]) if zero else None
    return _Weight(x, lambda: w.worked_out(x), x.shape, bits, blocks, numbers(scale, each[0][1]), offset)


def _blocks(v: Value, shape: Shape, axis: int | None, block: int) -> tuple[Shape, Callable[[Array], Array]]:
    """How many blocks scales of a dequantize are for along each axis, and what lays them out so.

    Where the last block is short, blocks are of the largest size that divides both.
    """
    rank = len(shape)
    if v.type.size == 1:
        return (1,) * rank, lambda a: a.reshape((1,) * rank)
    if axis is None:
        return v.shape, lambda a: a
    axis %= rank
    if not block:
        blocks = tuple([n if i == axis else 1 for i, n in enumerate(shape)])
        return blocks, lambda a: a.reshape(blocks)
    n = shape[axis]
    if n % block == 0 or v.shape[axis] == 1:
        return v.shape, lambda a: a
    step = math.gcd(n, block)
    own = np.arange(n // step) * step // block
    return (*shape[:axis], n // step, *shape[axis + 1 :]), lambda a: np.take(a, own, axis)


def _each(weight: _Weight, shape: Shape, blocks: Shape, move: Callable[[Array, Shape], Array]) -> _Weight:
    """A weight whose numbers and scales are moved alike."""
    codes, scale, zero = weight.codes, weight.scale, weight.zero
    return weight._replace(
        codes=lambda: move(codes(), shape), scale=lambda: move(scale(), blocks), shape=shape, blocks=blocks,
        zero=None if zero is None else lambda: move(zero(), blocks),
    )  # fmt: skip


def _permuted(weight: _Weight, order: Sequence[int]) -> _Weight:
    shape, blocks = (tuple([s[i] for i in order]) for s in (weight.shape, weight.blocks))
    return _each(weight, shape, blocks, lambda a, _: a.transpose(order))


def _reshaped(weight: _Weight, shape: Shape) -> _Weight | None:
    """A weight in another shape, where every axis that has several scales is still one axis."""
    blocks = [1] * len(shape)
    places = {(n, math.prod(shape[:i])): i for i, n in enumerate(shape) if n > 1}
    for i, (n, b) in enumerate(zip(weight.shape, weight.blocks, strict=True)):
        if b == 1:
            continue
        place = places.get((n, math.prod(weight.shape[:i])))
        if place is None:
            return None
        blocks[place] = b
    return _each(weight, shape, tuple(blocks), lambda a, s: a.reshape(s))


def _part(shape: Shape, dtype: DType, load: Callable[[], Array], number: int = 0) -> Tensor:
    return Tensor(TensorType(shape, dtype), lambda: load().reshape(shape), number=number)


def _blockwise(weight: _Weight, dtype: DType) -> Packed:
    own = weight.source.dtype
    number = _KINDS[own.name, weight.bits]
    parts = {
        "data": _part(weight.shape, own, weight.codes, number),
        "scale": _part(weight.blocks, dtype, lambda: weight.scale().astype(dtype.numpy)),
    }
    if weight.zero is not None:
        parts["offset"] = _part(weight.blocks, own, weight.zero, number)
    return Packed("constexpr_blockwise_shift_scale", parts, BLOCKS)


def _affine(weight: _Weight, dtype: DType) -> Packed:
    own = weight.source.dtype
    axis = next((i for i, n in enumerate(weight.blocks) if n != 1), None)
    shape = () if axis is None else (weight.blocks[axis],)
    zero = weight.zero or (lambda: np.zeros(shape, own.numpy))
    parts = {
        "quantized_data": _part(weight.shape, own, weight.codes),
        "zero_point": _part(shape, own, zero),
        "scale": _part(shape, dtype, lambda: weight.scale().astype(dtype.numpy)),
        "axis": _part((), DType.of("i32"), lambda: np.array(axis or 0)),
    }
    return Packed("constexpr_affine_dequantize", parts, BYTES)


# --- what is computed --------------------------------------------------------------------------------------


def _scales(w: Writer, f: Fields, x: Value, dtype: DType) -> dict[str, str | None]:
    """The inputs that say how numbers are read: a scale and a zero point, of one axis or of all entries."""
    scale, zero = w.array(f["scale"]), f["zero_point"] and w.array(f["zero_point"])
    if scale is None or (zero is None and f["zero_point"] is not None):
        raise UnsupportedError(FOUND)
    scale = scale.astype(dtype.numpy)
    if not np.isfinite(scale).all() or (scale <= 0).any():
        raise UnsupportedError(f"its scales are {scale.min()} to {scale.max()} in {dtype}, MIL's are above 0")
    one = scale.size == 1 and (zero is None or zero.size == 1)
    shape = () if one else (x.shape[f["axis"]],)
    made: dict[str, str | None] = {
        "scale": w.const(np.broadcast_to(scale.reshape(() if scale.size == 1 else -1), shape).copy())
    }
    if zero is not None:
        made["zero_point"] = w.const(np.broadcast_to(zero.reshape(() if zero.size == 1 else -1), shape).copy())
    return made | ({} if one else {"axis": w.int(f["axis"] % x.rank)})


def quantize(w: Writer, v: Value, f: Fields) -> str:
    """``quantize``, after a clip where the bounds are narrower than the element type's."""
    x, scale, grid = f["x"], f["scale"], grid_of(f["to"])
    dtype = DType.of(f["precision"]) if f["precision"] else scale.dtype
    more = _scales(w, f, x, dtype)
    name = as_type(w, w.ref(x), w.type(x), dtype)
    low, high = (grid.low if f["low"] is None else f["low"]), (grid.high if f["high"] is None else f["high"])
    if (low, high) != (grid.low, grid.high):
        name = _clipped(w, w.type(x).with_dtype(dtype), name, f, (low, high))
    return w.op("quantize", w.type(v), input=name, output_dtype=w.text(_TEXTS[grid.dtype.name]), **more)


def _clipped(w: Writer, t: TensorType, name: str, f: Fields, bounds: tuple[float, float]) -> str:
    """What is quantized, within what the bounds stand for."""
    scale, zero = w.worked_out(f["scale"]), f["zero_point"] and w.worked_out(f["zero_point"])
    if scale.size > 1 or (zero is not None and zero.size > 1):
        raise UnsupportedError(
            f"it is within {bounds[0]} to {bounds[1]} with several scales: MIL's quantize is within its type's bounds"
        )
    low, high = ((b - (0 if zero is None else float(zero.reshape(())))) * float(scale.reshape(())) for b in bounds)
    return w.op("clip", t, x=name, alpha=w.number(low, t.dtype), beta=w.number(high, t.dtype))


def dequantize(w: Writer, v: Value, f: Fields) -> str:
    """``dequantize``, of the scale's element type, and a cast where another one is asked for."""
    x, dtype = f["x"], f["scale"].dtype
    made = w.op("dequantize", w.type(v).with_dtype(dtype), input=w.ref(x), **_scales(w, f, x, dtype))
    return as_type(w, made, w.type(v).with_dtype(dtype), v.dtype)


def _of_one_axis(v: Value, f: Fields) -> str | None:
    if not v.rank:
        return "MIL's takes no number without axes"
    sizes = [a.type.size for a in (f["scale"], f["zero_point"]) if a is not None]
    if f["block"] and max(sizes) > 1:
        return "MIL has scales in blocks for weights alone: give what is computed one scale, or one for each channel"
    return (
        "its scales are for entries of several axes, MIL's are of one" if f["axis"] is None and max(sizes) > 1 else None
    )


def rounds(v: Value, f: Fields) -> str | None:
    """Why a quantize can't be had."""
    if f["to"] not in _TEXTS:
        return f"MIL rounds what is computed to i8 and u8, not {f['to']}: quantize activations to i8 (target='coreml')"
    if any(a.dtype.name not in ("f32", "f16") for a in (f["x"], f["scale"])):
        return f"MIL rounds f32 and f16 with scales of these, not {f['x'].dtype} with {f['scale'].dtype}"
    return _of_one_axis(v, f)


def reads_bytes(v: Value, f: Fields) -> str | None:
    """Why a dequantize of what is computed can't be had."""
    if f["x"].dtype.name not in _TEXTS or any(t not in ("f32", "f16") for t in (f["scale"].dtype.name, v.dtype.name)):
        return f"MIL reads i8 and u8 as f32 and f16, not {f['x'].dtype} as {v.dtype}"
    return _of_one_axis(v, f)


def told(floats: dict[str, str]) -> str | None:
    """What is said of weights of few bits that are written as floats; None if there are none."""
    if not floats:
        return None
    by: dict[str, list[str]] = {}
    for name, why in floats.items():
        by.setdefault(why, []).append(name)
    parts = [f"{', '.join(n[:3])}{f' and {len(n) - 3} more' if len(n) > 3 else ''} ({why})" for why, n in by.items()]
    return f"quantized weights are written as floats: {'; '.join(parts)}; minimum_target='iOS18' has the most forms"


assert all(KINDS[n].dtype.name == name and KINDS[n].bits == bits for (name, bits), n in _KINDS.items())
