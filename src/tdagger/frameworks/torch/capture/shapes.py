"""What ops give on tensors without data: torch works most of it out in Python, so calls of one kind are made once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tdagger.frameworks.torch.aten import aliases


class Shape(NamedTuple):
    """What is to be known of a result: its data has a place of its own."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def shape_of(tensor: Tensor) -> Shape:
    """How a tensor lies."""
    return Shape(tuple(tensor.shape), tensor.stride(), tensor.dtype)


class Shapes:
    """The results of ops on tensors of the meta device, by what their arguments are."""

    def __init__(self) -> None:
        self._known: dict[Any, Shape | None] = {}

    def of(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """What an op gives; it isn't called again where it gave a tensor of its own for such arguments."""
        if _gives_arguments(func):
            return func(*args, **kwargs)
        key = func, _key(args), _key(kwargs)
        shape = self._known.get(key)
        if shape is not None:
            return torch.empty_strided(shape.size, shape.stride, dtype=shape.dtype, device="meta")
        out = func(*args, **kwargs)
        if key not in self._known:
            self._known[key] = _own_shape(out, args)
        return out


class ShapesAlone(TorchDispatchMode):
    """What is called inside is run for the shapes it gives: on the meta device calls of one kind are made once."""

    def __init__(self) -> None:
        super().__init__()
        self._shapes = Shapes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, OpOverload):
            return self._shapes.of(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@lru_cache(1024)
def _gives_arguments(func: OpOverload) -> bool:
    """Whether an op may give what it took, or a view of it, or write to it."""
    return any(a.alias_info is not None for a in func._schema.arguments)


def _key(x: Any) -> Any:
    """What tells arguments apart as far as shapes go."""
    kind = type(x)
    if kind is tuple or kind is list:
        return tuple([_key(e) for e in x])
    if kind is dict:
        return tuple([(k, _key(e)) for k, e in x.items()])
    if isinstance(x, Tensor):
        if x.layout is not torch.strided:
            return object()
        return x.shape, x.stride(), x.dtype, x.device
    return kind, x


def _own_shape(out: Any, args: Any) -> Shape | None:
    """What is to be known of a result; None where it is no tensor without data that has a place of its own."""
    if not isinstance(out, Tensor) or out.layout is not torch.strided or out.device.type != "meta":
        return None
    if type(out) is not Tensor or out.storage_offset() or out.is_conj() or out.is_neg() or out.is_quantized:
        return None
    given = {aliases.storage_of(t) for t in pytree.tree_leaves(args) if isinstance(t, Tensor)}
    return None if aliases.storage_of(out) in given else shape_of(out)
