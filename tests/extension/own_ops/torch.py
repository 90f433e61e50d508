"""What the ops are in PyTorch: an op of torch's library read, and how torch computes each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from own_ops import Clip, Sorted, own_sorted, own_spread
from tdagger.frameworks.torch.aten.extend import reads, writes
from tdagger.op import Value


@torch.library.custom_op("own_ops::sorted", mutates_args=())
def sorted_(x: Tensor, axis: int) -> Tensor:
    """An op of torch's library, as a package with kernels of its own has it."""
    return torch.sort(x, axis).values


@sorted_.register_fake
def _(x: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x)


@reads("own_ops.sorted")
def _sorted(x: Value, axis: int) -> Value:
    return own_sorted(x, axis)


def clip(x: Tensor, *, low: float, high: float) -> Tensor:
    """How torch computes :class:`own_ops.Clip`: any function of tensors."""
    return x.clamp(low, high)


def spread(x: Tensor, weight: Tensor | None, *, axis: int) -> Tensor:
    """How torch computes :func:`own_ops.own_spread`."""
    out = x - x.amin(axis, keepdim=True)
    return out if weight is None else out * weight


writes(Sorted, "torch.sort({x}, {axis}).values")
writes(Clip, clip)
writes(own_spread, spread, takes="f")
