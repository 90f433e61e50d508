"""Whether torch's decomposition of an op gives what the op gives: compared once for each kind of call.

torch's decompositions are written beside its kernels, by hand, and not all are right: that of weight norm adds up the
whole of a weight of one axis, whose kernel takes each entry by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

#: Calls with more elements are compared on fewer, where the op takes them.
_MANY = 1 << 16
#: Sizes are cut to this.
_FEW = 5
#: Calls with more elements, of ops that don't take fewer, aren't compared.
_TOO_MANY = 1 << 24

#: What a call looks like to its decomposition, and what is wrong with that ("" for nothing).
_found: dict[Any, str] = {}


class Spec:
    """A tensor to be made: its shape and element type."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype

    def key(self) -> Any:
        """What tells it from others to a decomposition: rank and element type, and which axes have no or one entry."""
        return self.dtype, tuple(min(n, 2) for n in self.shape)


def disagreement(target: OpOverload, args: Any, kwargs: Any, table: Mapping[Any, Callable[..., Any]]) -> str:
    """How the decomposition of a call by ``table`` differs from the op itself on a few random values, "" if it doesn't.

    ``args`` and ``kwargs`` have a :class:`Spec` in the place of every tensor. The answer is kept for calls whose
    tensors have the same ranks and element types. What can't be compared (an op that draws random numbers, that
    refuses these values, or that leaves memory as it is) is taken as right.
    """
    if torch.Tag.nondeterministic_seeded in target.tags or "empty" in target._schema.name:
        return ""
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    key = (target, spec, tuple((leaf.key() if isinstance(leaf, Spec) else repr(leaf)) for leaf in leaves))
    if key not in _found:
        with torch.device("cpu"):  # wherever the network is made: there are values to compare
            _found[key] = _compared(target, leaves, spec, table)
    return _found[key]


def _compared(target: OpOverload, leaves: list[Any], spec: Any, table: Mapping[Any, Callable[..., Any]]) -> str:
    count = sum(math.prod(leaf.shape) for leaf in leaves if isinstance(leaf, Spec))
    attempts = [leaves]
    if count > _MANY:
        small = [Spec([min(n, _FEW) for n in x.shape], x.dtype) if isinstance(x, Spec) else x for x in leaves]
        attempts = [small, *([leaves] if count <= _TOO_MANY else [])]
    for attempt in attempts:
        ran = False
        for draw in (_spread, _between):
            tensors = _drawn(attempt, draw)
            try:
                want = _call(target, tensors, spec)
            except (RuntimeError, IndexError, ValueError, NotImplementedError):
                continue  # the kernel refuses these values, or these sizes
            ran = True
            try:
                with _Decomposing(table):
                    got = _call(target, tensors, spec)
            except Exception as e:  # whatever torch's Python raises where its kernel doesn't
                return f"torch's decomposition of it fails ({type(e).__name__}: {str(e).splitlines()[0]})"
            if not _same(got, want):
                return "torch's decomposition of it gives other values than torch itself"
        if ran:
            return ""
    return ""


class _Decomposing(TorchDispatchMode):
    """Runs the decomposition of every op that has one in a table."""

    def __init__(self, table: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.table = table

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = self.table.get(func)
        if own is None:
            return func(*args, **(kwargs or {}))
        with self:
            return own(*args, **(kwargs or {}))


def _call(target: OpOverload, leaves: list[Any], spec: Any) -> Any:
    args, kwargs = pytree.tree_unflatten([x.clone() if isinstance(x, Tensor) else x for x in leaves], spec)
    with torch.no_grad():
        return target(*args, **kwargs)


def _drawn(leaves: list[Any], draw: Callable[..., Tensor]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    sizes = [n for x in leaves if isinstance(x, Spec) for n in x.shape if n]
    return [draw(x, max(min(sizes, default=1), 1), generator) if isinstance(x, Spec) else x for x in leaves]


def _spread(x: Spec, below: int, generator: torch.Generator) -> Tensor:
    """Floats on both sides of 0, whole numbers that are indices into any axis."""
    if x.dtype is torch.bool:
        return torch.rand(x.shape, generator=generator) < 0.5
    if x.dtype.is_floating_point or x.dtype.is_complex:
        wide = torch.complex128 if x.dtype.is_complex else torch.float64
        return (torch.randn(x.shape, dtype=wide, generator=generator) * 1.5).to(x.dtype)
    return torch.randint(0, below, x.shape, generator=generator).to(x.dtype)


def _between(x: Spec, below: int, generator: torch.Generator) -> Tensor:
    """Floats between 0 and 1, whole numbers 0 and 1 as far as those are indices."""
    if x.dtype.is_floating_point:
        return torch.rand(x.shape, dtype=torch.float64, generator=generator).to(x.dtype)
    return _spread(x, min(below, 2), generator)


def _same(got: Any, want: Any) -> bool:
    pairs = list(zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=False))
    for g, w in pairs:
        if not isinstance(w, Tensor) or not isinstance(g, Tensor):
            continue
        if g.shape != w.shape or g.dtype != w.dtype:
            return False
        narrow = w.is_floating_point() and w.itemsize < 4
        rtol, atol = (5e-2, 5e-2) if narrow else (1e-3, 1e-4)
        if not torch.allclose(g.to(_wide(g)), w.to(_wide(w)), rtol=rtol, atol=atol, equal_nan=True):
            return False
    return True


def _wide(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64
