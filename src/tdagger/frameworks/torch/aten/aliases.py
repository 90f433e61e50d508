"""Which tensors share memory: decided from the storages of the tensors without data that stand for them in torch.

A schema says that ``reshape`` or ``contiguous`` may give a view, and says nothing of ``dropout`` in eval mode, which
gives its argument. What they do depends on strides, and a tensor without data has those; of some ops others than the
CPU's kernels give (``findings/view_of_transposed_batch_norm.sh``), so these are run on numbers where it matters.
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
    """What stands for the tensors of a program where what torch recorded isn't enough; None if it is.

    Sizes made of a constant's entries are symbols there, and whether a reshape of them is a view is left open; import
    has their numbers. And results of some ops may lie otherwise than was recorded.
    """
    nodes = [n for m in graphs.modules() if isinstance(m, torch.fx.GraphModule) for n in m.graph.nodes]
    enough = all(_in_numbers(t) for n in nodes for t in _tensors(n.meta.get("val")))
    return None if enough and not any(map(_lies_otherwise, nodes)) else Standing()


#: Of these one argument may be a number.
_OF_TWO = (
    *("div", "divide", "true_divide", "floor_divide", "copysign", "ldexp", "heaviside", "logaddexp", "logaddexp2"),
    *("logical_and", "logical_or", "logical_xor", "xlogy", "special_xlogy", "special_xlog1py"),
)
#: Ops whose results have other strides without data than with, found by running torch's samples of its ops on tensors
#: that are transposed, channels last or have gaps; composites that are made of them. And what their integers may be.
_OTHERWISE = {
    **dict.fromkeys(("max_unpool2d", "max_unpool3d", "nll_loss", "nll_loss2d", "nll_loss_nd", "cross_entropy_loss"), 0),
    **dict.fromkeys(("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "instance_norm"), 1),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "_batch_norm_with_update", "log_sigmoid"), 1),
    **dict.fromkeys(("log_sigmoid_forward", "channel_shuffle", "pad", "reflection_pad3d", "replication_pad3d"), 1),
    **dict.fromkeys(("normal", "native_dropout_backward", *_OF_TWO), 1),
}


def may_lie_otherwise(target: OpOverload, given: Sequence[Tensor]) -> bool:
    """Whether results of an op on these tensors may have other strides than without data: they don't lie row by row.

    Of the functions of two numbers one that is Python's makes no difference.
    """
    name = name_of(target)
    if name not in _OTHERWISE or (name in _OF_TWO and len(given) < 2):
        return False
    return any(t.layout is torch.strided and not t.is_contiguous() for t in given)


def _lies_otherwise(node: torch.fx.Node) -> bool:
    given = [t for n in node.all_input_nodes for t in _tensors(n.meta.get("val"))]
    return isinstance(node.target, OpOverload) and may_lie_otherwise(node.target, given)


def _as_computed(target: OpOverload, args: Any, kwargs: Any) -> Any:
    """The results of an op on tensors that lie as these do and have numbers, which are all the same."""
    fill = _OTHERWISE[name_of(target)]

    def numbers(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).fill_(fill)

    return target(*pytree.tree_map_only(Tensor, numbers, args), **pytree.tree_map_only(Tensor, numbers, kwargs))


def name_of(target: OpOverload) -> str:
    """What an op is called, without the library that it is of."""
    return target._schema.name.removeprefix("aten::")


def _in_numbers(tensor: Tensor) -> bool:
    """Whether the sizes of a tensor without data are all numbers, and with them its strides."""
    if tensor.layout is not torch.strided:
        return True
    return not any(isinstance(n, torch.SymInt) for n in (*tensor.shape, *tensor.stride()))


#: Ops that give their argument itself unless they train; without data torch makes a copy of it.
_ITSELF = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


def stands_for(target: OpOverload, args: Sequence[Any], recorded: Any, first: Any) -> Any:
    """The tensors that stand for the results of an op: what was recorded, or what stands for its ``first`` argument."""
    return first if name_of(target) in _ITSELF and not (args[1] and args[2]) else recorded


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
            if not target._schema.is_mutable and may_lie_otherwise(target, _tensors((fake_args, fake_kwargs))):
                with torch.no_grad():
                    computed = _tensors(_as_computed(target, fake_args, fake_kwargs))
                with self._mode:
                    stands = _lying_as(stands, computed)
        except Exception:  # whatever torch raises where it needs the data
            return result
        if not target._schema.is_mutable:
            told: list[LeftOut] = []
            if refs and args[0] is refs[0]:
                told = undecided(name_of(target), stands, self._of[refs[0]], refs[0].read())
            result = settled(result, stands, [(r, self._of[r]) for r in refs])
            self.undecided += Undecided.of(told, *refs[:1], result)
        for ref, tensor in zip(_refs(result), _tensors(stands), strict=False):
            self._of[ref] = tensor
        return result


def _lying_as(stands: Any, computed: Sequence[Tensor]) -> Any:
    """Tensors without data, each with the strides of the one that was computed."""
    leaves, spec = pytree.tree_flatten(stands)
    strides = iter(computed)
    made = [
        torch.empty_strided(t.shape, next(strides).stride(), dtype=t.dtype) if isinstance(t, Tensor) else t
        for t in leaves
    ]
    return pytree.tree_unflatten(made, spec)


def _refs(x: Any) -> list[Ref]:
    return [r for r in pytree.tree_leaves(x) if isinstance(r, Ref)]


def _tensors(x: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(x) if isinstance(t, Tensor)]
