"""What torch.autocast does to a call, asked of torch itself: no list of ops is kept here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def _without_onednn() -> Generator[None, None, None]:
    # torch.backends.mkldnn.flags(enabled=False) warns of a setting that is only for Intel's GPUs
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class Region(NamedTuple):
    """Where autocast is on: for tensors on ``device`` (cpu, cuda ...), to ``dtype``."""

    device: str
    dtype: torch.dtype

    def __call__(self) -> Any:
        """The context manager."""
        return torch.autocast(self.device, self.dtype, cache_enabled=False)

    @contextmanager
    def inside(self) -> Generator[None, None, None]:
        """The region without oneDNN."""
        with self(), _without_onednn():
            yield


def surrounding(tensors: Sequence[torch.Tensor]) -> Region | None:
    """The region that the present code runs in, as far as these tensors are concerned."""
    for device in {t.device.type for t in tensors}:
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            return Region(device, torch.get_autocast_dtype(device))
    return None


class _Casts(TorchDispatchMode):
    """Writes down which tensors are cast, and to what."""

    def __init__(self) -> None:
        super().__init__()
        self.casts: list[tuple[torch.Tensor, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is not None:
            self.casts.append((args[0], kwargs["dtype"]))
        return func(*args, **kwargs)


def has_kernel(target: OpOverload, region: Region) -> bool:
    """Whether autocast casts the arguments of an op (and not only those of ops inside it)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), f"Autocast{region.device.upper()}")


def may_cast(target: OpOverload, region: Region) -> bool:
    """Whether autocast may change a call: it casts the arguments of the op, or those of ops inside it."""
    inside = torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")
    return inside or has_kernel(target, region)


TensorTypeOf = Callable[[Any], tuple[tuple[int, ...], torch.dtype] | None]


def casts_of(
    target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], region: Region, type_of: TensorTypeOf
) -> dict[int, torch.dtype]:
    """What autocast casts the arguments of an op with a kernel to, by their places, counted flat.

    ``type_of`` gives shape and element type of an argument that stands for a tensor, None for others.
    """
    types = [type_of(leaf) for leaf in pytree.tree_leaves((tuple(args), kwargs))]
    narrow = {i: t[1] for i, t in enumerate(types) if t is not None and t[1].is_floating_point and t[1].itemsize < 8}
    policy = _policies.get((target, region))
    if policy is None:
        policy = _policies[target, region] = _policy(target, args, kwargs, region, type_of)
    to = region.dtype if policy == "lower" or torch.float32 not in narrow.values() else torch.float32
    to = torch.float32 if policy == "wide" else to
    return {i: to for i, dtype in narrow.items() if dtype is not to}


_policies: dict[tuple[OpOverload, Region], str] = {}


def _policy(
    target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], region: Region, type_of: TensorTypeOf
) -> str:
    """What autocast does with an op: lower (all to its own type), wide (to float32), or widest (of the arguments)."""
    for dtype, to, policy in ((torch.float32, region.dtype, "lower"), (region.dtype, torch.float32, "wide")):
        with FakeTensorMode():
            tensors, (filled, named) = _filled(args, kwargs, region, type_of, dtype)
            with region(), _Casts() as seen:
                target(*filled, **named)
        if any(cast is tensor and into is to for cast, into in seen.casts for tensor in tensors):
            return policy
    return "widest"


def casts_inside(
    target: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], region: Region, type_of: TensorTypeOf
) -> bool:
    """Whether autocast casts the arguments of ops inside an op that has no kernel of its own.

    oneDNN is left out, as torch.export leaves it out: it has an LSTM of its own, which autocast treats otherwise.
    """
    counts: list[int] = []
    with FakeTensorMode():
        _, (filled, named) = _filled(args, kwargs, region, type_of, None)
        with region.inside(), _Casts() as seen:
            target(*filled, **named)
        with (
            _without_onednn(),
            torch.autocast(region.device, enabled=False),
            _Casts() as plain,
        ):
            try:
                target(*filled, **named)
                counts.append(len(plain.casts))
            except RuntimeError:  # what torch raises where element types differ
                counts.append(-1)
    return counts != [len(seen.casts)]


def _filled(
    args: Sequence[Any], kwargs: dict[str, Any], region: Region, type_of: TensorTypeOf, dtype: torch.dtype | None
) -> tuple[list[torch.Tensor], Any]:
    """Arguments with tensors without data, their floats of ``dtype`` if one is given; and those tensors."""
    leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
    tensors: list[torch.Tensor] = []
    for i, leaf in enumerate(leaves):
        found = type_of(leaf)
        if found is not None:
            own = dtype if dtype is not None and found[1].is_floating_point else found[1]
            leaves[i] = torch.empty(found[0], dtype=own, device=region.device)
            tensors.append(leaves[i])
    return tensors, pytree.tree_unflatten(leaves, spec)
