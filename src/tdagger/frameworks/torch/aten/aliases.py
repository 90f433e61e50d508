"""Which tensors share memory: decided from the storages of the tensors without data that stand for them in torch.

A schema says that ``reshape`` or ``contiguous`` may give a view, and says nothing of ``dropout`` in eval mode, which
gives its argument. What they do depends on strides, and a tensor without data has those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from tdagger.frameworks.torch.aten.functional import Cell, Ref

#: What refs are in torch: pairs of a ref and the tensor that stands for it.
Pairs = Sequence[tuple[Ref, Tensor]]


def writes(graphs: torch.fx.GraphModule) -> bool:
    """Whether a program writes to any tensor: only then it matters what shares memory."""
    modules = [m for m in graphs.modules() if isinstance(m, torch.fx.GraphModule)]
    targets = {n.target for m in modules for n in m.graph.nodes if isinstance(n.target, OpOverload)}
    return any(t._schema.is_mutable for t in targets)


#: Ops that give their argument itself unless they train; without data torch makes a copy of it.
_ITSELF = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


def stands_for(target: OpOverload, args: Sequence[Any], recorded: Any, first: Any) -> Any:
    """The tensors that stand for the results of an op: what was recorded, or what stands for its ``first`` argument."""
    name = target._schema.name.removeprefix("aten::")
    return first if name in _ITSELF and not (args[1] and args[2]) else recorded


def storage_of(x: Any) -> int | None:
    """Which memory a tensor has; None if it has no place there."""
    if not isinstance(x, Tensor) or x.layout is not torch.strided or x.is_nested:
        return None
    return x.untyped_storage()._cdata


def settled(result: Any, stands: Any, arguments: Pairs) -> Any:
    """The refs that an op returns, each a view of the argument it shares memory with in torch, or of none.

    ``stands`` are the tensors that stand for the results, nested alike.
    """
    if isinstance(result, tuple | list):
        if not isinstance(stands, tuple | list) or len(stands) != len(result):
            return result
        return type(result)([settled(r, s, arguments) for r, s in zip(result, stands, strict=True)])
    storage = storage_of(stands)
    if not isinstance(result, Ref) or storage is None:
        return result
    for ref, tensor in arguments:
        if storage_of(tensor) == storage:
            if result is ref or _root(ref) is _root(result):
                return result
            return ref.view(result.read(), always=True)
    if any(_root(ref) is _root(result) for ref, _ in arguments):
        return Ref(result.read())
    return result


def _root(ref: Ref) -> Cell:
    """The cell of the memory of a ref, behind all that it was detached of."""
    cell = ref.cell
    while cell.of is not None:
        cell = cell.of.cell
    return cell


class Standing:
    """Tensors without data for the refs of a script, which has none: each op is run on them."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._of: dict[Ref, Tensor] = {}

    def put(self, ref: Ref, like: Tensor) -> None:
        """Let ``ref`` lie in memory as ``like`` does."""
        with self._mode:
            self._of[ref] = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)

    def alike(self, old: Ref, new: Ref) -> None:
        """Let ``new`` lie in memory as ``old`` does."""
        if old in self._of:
            self._of[new] = self._of[old]

    def called(self, target: OpOverload, args: Any, kwargs: Any, result: Any) -> Any:
        """The results of an op as :func:`settled` has them; as they are where torch can't run it without data."""
        refs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Ref)]
        if not all(r in self._of for r in refs):
            return result
        fake_args, fake_kwargs = pytree.tree_map_only(Ref, self._of.__getitem__, (tuple(args), kwargs))
        try:
            with self._mode, torch.no_grad():
                stands = stands_for(
                    target, args, target(*fake_args, **fake_kwargs), fake_args[0] if fake_args else None
                )
        except Exception:  # whatever torch raises where it needs the data
            return result
        if not target._schema.is_mutable:
            result = settled(result, stands, [(r, self._of[r]) for r in refs])
        for ref, tensor in zip(_refs(result), _tensors(stands), strict=False):
            self._of[ref] = tensor
        return result


def _refs(x: Any) -> list[Ref]:
    return [r for r in pytree.tree_leaves(x) if isinstance(r, Ref)]


def _tensors(x: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(x) if isinstance(t, Tensor)]
