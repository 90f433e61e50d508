"""Calls on constants alone, computed by torch while importing: what has no rule, or a shape that depends on the data.

No input and no weight is behind their arguments, so that what they give is as fixed as the constants are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten import DTYPES, TORCH_DTYPES
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.graph import result_types, topological
from tdagger.interpret import computed
from tdagger.op import Array, Value
from tdagger.ops.external import External
from tdagger.ops.source import Leaf

#: At most so many elements are worked out for one call, and at most so many does it give.
ELEMENTS = 1 << 24


def fold(
    target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Any, list[Any], dict[str, Any]] | None:
    """What a call gives, and its arguments after it: torch's tensors in the place of refs.

    None if an input, a weight, a random number or an external op is behind an argument, or the op itself draws random
    numbers. UnsupportedError if it takes or gives more than :data:`ELEMENTS` elements.
    """
    if torch.Tag.nondeterministic_seeded in target.tags or "generator" in kwargs:
        return None
    leaves, spec = pytree.tree_flatten((list(args), kwargs))
    values = [leaf.read() for leaf in leaves if isinstance(leaf, Ref)]
    behind = topological(values)
    if any(isinstance(v.op, Leaf | External) for v in behind):
        return None
    _refuse_large(sum(t.size for v in behind for t in result_types(v)), "takes")
    known: dict[Value, torch.Tensor] = {}
    filled = [_own(leaf, known) for leaf in leaves]
    own_args, own_kwargs = pytree.tree_unflatten(filled, spec)
    with torch.device("cpu"), torch.no_grad():
        result = target(*own_args, **own_kwargs)
    tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
    if any(t.layout is not torch.strided or t.dtype not in DTYPES for t in tensors):
        return None
    _refuse_large(sum(t.numel() for t in tensors), "gives")
    return result, own_args, own_kwargs


def _refuse_large(elements: int, what: str) -> None:
    if elements > ELEMENTS:
        raise UnsupportedError(
            f"it depends on no input, but {what} {elements:,} elements, too many to work out on import (the limit is "
            f"{ELEMENTS:,}): compute it in __init__ and register it as a buffer"
        )


def _own(leaf: Any, known: dict[Value, torch.Tensor]) -> Any:
    """A tensor that the call may write, for a ref or a tensor; ``known`` are the values worked out before."""
    if isinstance(leaf, torch.Tensor):
        return leaf.clone()
    if not isinstance(leaf, Ref):
        return leaf
    value = leaf.read()
    if value not in known:
        known[value] = _of_array(computed(value))
    return known[value].clone()


def _of_array(array: Array) -> torch.Tensor:
    """A tensor with an array's data; element types that numpy only has from ml_dtypes go by their bits."""
    dtype = next(theirs for ours, theirs in TORCH_DTYPES.items() if ours.numpy == array.dtype)
    data = torch.frombuffer(bytearray(array.tobytes()), dtype=dtype) if array.size else torch.empty(0, dtype=dtype)
    return data.reshape(array.shape)
