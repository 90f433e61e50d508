"""What generated modules call where torch has no function of that meaning. No state, no tdagger types."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdagger.errors import InputError
from tdagger.tree import Tree, flatten

#: tdagger's element types in torch.
DTYPES: dict[str, torch.dtype] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64,
    "bool": torch.bool, "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip

# Element types numpy doesn't have of its own, by the integers that hold their bits.
_BITS = {torch.bfloat16: np.int16, torch.float8_e4m3fn: np.uint8, torch.float8_e5m2: np.uint8}


def from_numpy(array: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    """The tensor that shares memory with ``array`` (a copy if the array can't be written to)."""
    if not array.flags.writeable or any(s < 0 for s in array.strides):
        array = array.copy()
    bits = _BITS.get(dtype)
    return torch.from_numpy(array) if bits is None else torch.from_numpy(array.view(bits)).view(dtype)


def wrong_input(name: str, expected: str, got: Any) -> InputError:
    """The error for an input of another type than the module was made for."""
    shown = f"{got.dtype}{list(got.shape)}" if isinstance(got, Tensor) else repr(got)
    return InputError(f"input {name!r} must be {expected}, got {shown}; the code is for fixed shapes")


def wrong_constant(name: str, expected: Any, got: Any) -> InputError:
    """The error for an argument whose value was fixed when the network was imported."""
    return InputError(f"argument {name!r} was {expected!r} when the network was imported, got {got!r}")


def unpack(name: str, value: Any, structure: Tree) -> list[Tensor]:
    """The tensors in a nested argument; InputError if it is nested otherwise than ``structure``."""
    leaves, tree = flatten(value, lambda v: isinstance(v, Tensor), name)
    if tree != structure:
        raise InputError(f"argument {name!r} must be nested like {structure}, got {tree}")
    return leaves


def pad(x: Tensor, widths: tuple[tuple[int, int, int], ...], value: Any) -> Tensor:
    """``value`` before, after and between the entries of every axis: widths (before, after, between)."""
    shape = [a + n + max(n - 1, 0) * gap + b for n, (a, b, gap) in zip(x.shape, widths, strict=True)]
    inner = [
        slice(a, a + max(n - 1, 0) * (gap + 1) + min(n, 1), gap + 1)
        for n, (a, _, gap) in zip(x.shape, widths, strict=True)
    ]
    out = torch.full(shape, value, dtype=x.dtype, device=x.device)
    out[tuple(inner)] = x
    return out


def unfold(x: Tensor, axis: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Windows along an axis, laid end to end."""
    span = (kernel - 1) * dilation + 1
    if x.shape[axis] < span:
        return x.narrow(axis, 0, 0)
    return x.unfold(axis, span, stride)[..., ::dilation].movedim(-1, axis + 1).flatten(axis, axis + 1)


def fold(x: Tensor, axis: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Overlap-add of windows laid end to end along an axis; half precision is summed in float32."""
    windows = x.shape[axis] // kernel
    span = (kernel - 1) * dilation + 1
    shape = list(x.shape)
    shape[axis] = (windows - 1) * stride + span if windows else 0
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    out = torch.zeros(shape, dtype=torch.float32 if narrow else x.dtype, device=x.device)
    starts = torch.arange(windows, device=x.device) * stride
    index = (starts[:, None] + torch.arange(kernel, device=x.device) * dilation).reshape(-1)
    return out.index_add(axis, index, x.to(out.dtype)).to(x.dtype)


def _flat_index(x: Tensor, index: Tensor, axis: int, batch: int) -> tuple[Tensor, Tensor, list[int]]:
    """x as ``[batch n rest]``, the index as ``[batch i rest]``, and the order of x's axes for that."""
    order = [*range(batch), axis, *range(batch, axis), *range(axis + 1, x.ndim)]
    lead = math.prod(x.shape[:batch])
    moved = x.permute(order)
    rest = math.prod(moved.shape[batch + 1 :])
    flat = index.reshape(lead, math.prod(index.shape[batch:]), 1).long().expand(-1, -1, rest)
    return moved.reshape(lead, x.shape[axis], rest), flat, order


def gather(x: Tensor, index: Tensor, axis: int, batch: int) -> Tensor:
    """Entries of ``axis`` at ``index``; the first ``batch`` axes are shared. See tdagger's Gather."""
    flat, flat_index, order = _flat_index(x, index, axis, batch)
    out = flat.gather(1, flat_index)
    inner = index.ndim - batch
    out = out.reshape(*index.shape, *[x.shape[a] for a in order[batch + 1 :]])
    between = axis - batch  # the axes of x between the batch and the axis stand before the index's
    places = [*range(batch), *range(batch + inner, batch + inner + between), *range(batch, batch + inner)]
    return out.permute([*places, *range(batch + inner + between, out.ndim)])


_SCATTERS = {"multiply": "prod", "max": "amax", "min": "amin"}


def scatter(x: Tensor, index: Tensor, updates: Tensor, axis: int, batch: int, kind: str) -> Tensor:
    """x with updates put at ``index`` of ``axis``; see tdagger's Scatter."""
    flat, flat_index, order = _flat_index(x, index, axis, batch)
    inner, between = index.ndim - batch, axis - batch
    places = [*range(batch), *range(axis, axis + inner), *range(batch, axis)]
    moved = updates.permute([*places, *range(batch + between + inner, updates.ndim)]).reshape(flat_index.shape)
    if kind in ("set", "add"):
        out = flat.scatter(1, flat_index, moved) if kind == "set" else flat.scatter_add(1, flat_index, moved)
    else:
        out = flat.scatter_reduce(1, flat_index, moved, _SCATTERS[kind])
    back = [order.index(a) for a in range(x.ndim)]
    return out.reshape([x.shape[a] for a in order]).permute(back)


def batch_norm_train(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with the statistics of the batch, and the new running statistics; nothing is changed."""
    mean, variance = mean.detach().clone(), variance.detach().clone()
    out = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, True, momentum, eps)
    return out, mean, variance


def shift_right(x: Tensor, by: Tensor | int) -> Tensor:
    """A logical shift of 64 bits held in int64 (0 for shifts of 64 and more)."""
    by = torch.as_tensor(by, device=x.device)
    mask = ~(torch.full_like(by, -1) << (64 - by.clamp(1, 64)))  # 64 - by ones
    shifted = (x >> by.clamp(0, 63)) & torch.where(by >= 64, 0, mask)
    return torch.where(by == 0, x, shifted)


_LOW = 0xFFFFFFFF
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def random_bits(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for each place (uint64), by Threefry-2x32; bit for bit as tdagger's Random."""
    key = seed.view(torch.int64)
    k0, k1 = (key >> 32) & _LOW, key & _LOW
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    counter = torch.arange(math.prod(shape), device=seed.device)
    a = ((counter >> 32) + keys[0]) & _LOW
    b = (counter + keys[1]) & _LOW
    for round_ in range(5):
        for r in _ROTATIONS[round_ % 2]:
            a = (a + b) & _LOW
            b = (((b << r) | (b >> (32 - r))) & _LOW) ^ a
        a = (a + keys[(round_ + 1) % 3]) & _LOW
        b = (b + keys[(round_ + 2) % 3] + round_ + 1) & _LOW
    return ((a << 32) | b).view(torch.uint64).reshape(shape)
