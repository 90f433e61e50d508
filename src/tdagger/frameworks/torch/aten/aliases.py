"""Which tensors share memory: decided from the storages of the tensors without data that stand for them in torch.

A schema says that ``reshape`` or ``contiguous`` may give a view, and says nothing of ``dropout`` in eval mode, which
gives its argument. What they do depends on strides, and a tensor without data has those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from tdagger.analysis.axes.doubts import BY_CHANCE, LeftOut
from tdagger.frameworks.torch.aten.functional import Cell, Ref
from tdagger.library.shape import runs
from tdagger.op import Value

#: What refs are in torch: pairs of a ref and the tensor that stands for it.
Pairs = Sequence[tuple[Ref, Tensor]]


def writes(graphs: torch.fx.GraphModule) -> bool:
    """Whether a program writes to any tensor: only then it matters what shares memory."""
    modules = [m for m in graphs.modules() if isinstance(m, torch.fx.GraphModule)]
    targets = {n.target for m in modules for n in m.graph.nodes if isinstance(n.target, OpOverload)}
    return any(t._schema.is_mutable for t in targets)


def standing(graphs: torch.fx.GraphModule) -> Standing | None:
    """What stands for the tensors of a program in which torch takes sizes for data; None if it has the numbers of all.

    Sizes made of a constant's entries are symbols there, and whether a reshape of them is a view is left open; import
    has their numbers.
    """
    modules = [m for m in graphs.modules() if isinstance(m, torch.fx.GraphModule)]
    recorded = [t for m in modules for n in m.graph.nodes for t in _tensors(n.meta.get("val"))]
    return None if all(map(_in_numbers, recorded)) else Standing()


def _in_numbers(tensor: Tensor) -> bool:
    """Whether the sizes of a tensor without data are all numbers, and with them its strides."""
    if tensor.layout is not torch.strided:
        return True
    return not any(isinstance(n, torch.SymInt) for n in (*tensor.shape, *tensor.stride()))


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


#: Ops that give a view where the strides allow it, and a copy where they don't.
MAYBE_VIEWS = frozenset({"contiguous", "reshape", "reshape_as", "flatten"})


def undecided(name: str, stands: Any, first: Any, x: Value) -> list[LeftOut]:
    """What the sizes leave open of an op that gives a view or a copy: in a network that writes it is another result.

    A dimension of 1 entry fits any strides. So what is copied here may be a view where one has 1 entry; and a view of
    what has such a dimension out of its order may be a copy where that has more. Where several dimensions become
    several others (``(h, c)`` to ``(c, h)``) a copy may be a view where their sizes are equal. ``first`` is the tensor
    without data that stands for the argument ``x``.
    """
    if name not in MAYBE_VIEWS or storage_of(first) is None or storage_of(stands) is None:
        return []
    shape = tuple(first.shape)
    if storage_of(first) != storage_of(stands):
        several = tuple([i for i, n in enumerate(shape) if n != 1])
        found = [LeftOut(x, several, "is copied here, and shares memory where it has 1 entry, to which is written", 1)]
        mixed = _mixed(shape, tuple(stands.shape))
        what = f"is copied here, and may share memory {BY_CHANCE}, to which is written"
        return [*found, LeftOut(x, mixed, what)] if mixed else found
    order = [prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape))]
    ones = tuple([i for i, n in enumerate(shape) if n == 1]) if tuple(first.stride()) != tuple(order) else ()
    what = "has 1 entry and shares memory here, to which is written, and may be copied where it has more"
    return [LeftOut(x, ones, what)] if ones else []


def _mixed(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of more than 1 entry of which several together become several of another shape."""
    found: list[int] = []
    i = j = 0
    for before, after in runs(tuple(old), tuple(new)) if prod(old) else ():
        several = [k for k in range(i, i + before) if old[k] != 1]
        if len(several) > 1 and sum(n != 1 for n in new[j : j + after]) > 1:
            found += several
        i, j = i + before, j + after
    return tuple(found)


@dataclass(frozen=True)
class Undecided:
    """What the sizes leave open of a view or a copy, and how often the memory of both was written to until then.

    Only a write from then on tells the one from the other.
    """

    told: LeftOut
    cells: tuple[tuple[Cell, int], ...]

    @staticmethod
    def of(told: Sequence[LeftOut], *refs: Any) -> list[Undecided]:
        """What was told of some refs, as they are now."""
        cells = [c for r in refs if isinstance(r, Ref) for c in _memory(r)]
        return [Undecided(t, tuple([(c, c.version) for c in cells])) for t in told]

    @property
    def matters(self) -> bool:
        """Whether anything was written since."""
        return any(cell.version != version for cell, version in self.cells)


def _memory(ref: Ref) -> list[Cell]:
    """The cells of the memory of a ref: its own, those it was detached of, and what it is a view of."""
    found: list[Cell] = []
    refs = [ref]
    for one in refs:
        own = [one.cell] if one.apart is None else [one.cell, one.apart.cell]
        found += own
        refs += [cell.of for cell in own if cell.of is not None]
    return found


def _root(ref: Ref) -> Cell:
    """The cell of the memory of a ref, behind all that it was detached of."""
    cell = ref.cell
    while cell.of is not None:
        cell = cell.of.cell
    return cell


class Standing:
    """Tensors without data for the refs of what has none, or none with numbers: each op is run on them."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._of: dict[Ref, Tensor] = {}
        self.undecided: list[Undecided] = []

    @property
    def left_out(self) -> list[LeftOut]:
        """What may be a view or a copy at other sizes, whether or not it was written to."""
        return [u.told for u in self.undecided]

    def put(self, ref: Ref, like: Tensor) -> None:
        """Let ``ref`` lie in memory as ``like`` does."""
        with self._mode:
            self._of[ref] = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)

    def meet(self, ref: Ref, recorded: Tensor) -> None:
        """Let a ref that no op gave, a weight or a constant, lie in memory as it was recorded."""
        if ref not in self._of and recorded.layout is torch.strided and _in_numbers(recorded):
            self.put(ref, recorded)

    def alike(self, old: Any, new: Any) -> None:
        """Let the refs in ``new`` lie in memory as those in ``old`` do, nested alike."""
        for given, made in zip(_refs(old), _refs(new), strict=True):
            if given in self._of:
                self._of[made] = self._of[given]

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
            told: list[LeftOut] = []
            if refs and args[0] is refs[0]:
                name = target._schema.name.removeprefix("aten::")
                told = undecided(name, stands, self._of[refs[0]], refs[0].read())
            result = settled(result, stands, [(r, self._of[r]) for r in refs])
            self.undecided += Undecided.of(told, *refs[:1], result)
        for ref, tensor in zip(_refs(result), _tensors(stands), strict=False):
            self._of[ref] = tensor
        return result


def _refs(x: Any) -> list[Ref]:
    return [r for r in pytree.tree_leaves(x) if isinstance(r, Ref)]


def _tensors(x: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(x) if isinstance(t, Tensor)]
