"""Whether two results are the same: types exactly, values within rounding, which is measured where it is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Relative to the largest entry; where it is more, the program is run with noise.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
#: How many times the deviation under noise a difference may be: many while it is rounding, up to SMALL of the largest
#: entry; not where noise decides between numbers that are far apart.
FACTOR, FEW, SMALL = 30.0, 2.0, 1e-3

#: Ops that move numbers as they are, or make them of nothing: no rounding.
_EXACT = (
    *("clone", "copy", "cat", "stack", "index", "gather", "where", "pad", "repeat", "roll", "flip", "select", "slice"),
    *(
        "scatter",
        "take",
        "zeros",
        "ones",
        "full",
        "empty",
        "arange",
        "eye",
        "scalar",
        "fill",
        "sort",
        "max",
        "min",
        "relu",
    ),
    *("neg", "abs", "sign", "tril", "triu", "lift", "detach", "alias", "new", "unbind", "split", "embedding", "view"),
    *("median", "topk"),
)


#: Ops that choose among entries: which of equal ones is left open, so that another kernel may take another.
_CHOICES = ("topk", "sort", "argsort", "argmax", "argmin", "max", "min", "kthvalue", "median", "nanmedian", "mode")


#: Ops whose rounding is that of the largest of their results: each is counted from numbers that large.
_OF_THE_LARGEST = ("linspace", "_fft")


#: Ops that divide by how far entries are apart: what is left of equal ones is their rounding, made larger.
_CENTERED = ("native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm")


#: Those that torch itself doesn't promise an order of: it keeps that of the entries for few of them only.
_UNSTABLE = ("sort", "argsort")


class Noise(TorchDispatchMode):
    """Every result of arithmetic is off by a rounding, equal numbers by equal ones.

    ``ties`` are broken at random, those of sorting that isn't asked to be stable always.
    """

    def __init__(self, salt: int, ties: bool = False) -> None:
        super().__init__()
        self.salt = salt
        self.ties = ties

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        left_open = self.ties or (name in _UNSTABLE and not (kwargs or {}).get("stable"))
        if left_open and name in _CHOICES and args and isinstance(args[0], Tensor) and args[0].dim():
            found = func(self.untied(args[0]), *args[1:], **(kwargs or {}))
            back = [t.to(args[0].dtype) if t.is_floating_point() else t for t in listed(found)]
            return type(found)(back) if isinstance(found, tuple | list) else back[0]
        if name.startswith(_CENTERED):
            args = (self.apart(args[0]), *args[1:])
        out = func(*args, **(kwargs or {}))
        if func._schema.is_mutable or name.startswith(_EXACT) or any(r.alias_info for r in func._schema.returns):
            return out
        if isinstance(out, tuple | list):
            return type(out)([self.off(t) for t in out])
        if not name.startswith(_OF_THE_LARGEST):
            return self.off(out)
        real = torch.view_as_real(out) if out.is_complex() else out
        noisy = self.apart(real, largest(real))
        return torch.view_as_complex(noisy) if out.is_complex() else noisy

    def untied(self, t: Tensor) -> Tensor:
        """The same order, but no two entries are equal; in float64, as only a choice is made of it.

        One salt and the next turn the order of equal ones around.
        """
        if t.dtype == torch.bool:
            return t
        g = torch.Generator().manual_seed(self.salt // 2)
        more = 1e-7 * torch.rand(t.shape, generator=g, dtype=torch.float64)
        return t.double() + (-more if self.salt % 2 else more)

    def apart(self, t: Tensor, scale: float = 0.0) -> Tensor:
        """Every entry off by a rounding of its own, equal ones too.

        With a ``scale`` by that of numbers so large, as what is counted to 0 has.
        """
        g = torch.Generator().manual_seed(self.salt)
        wave = 2 * torch.rand(t.shape, generator=g, dtype=torch.float64) - 1
        noisy = t.double() + torch.finfo(t.dtype).eps * wave * (scale or t.double())
        return torch.where(t.isfinite(), noisy, t.double()).to(t.dtype)

    def off(self, t: Any) -> Any:
        """A tensor with its rounding."""
        if not isinstance(t, Tensor) or not t.is_floating_point():
            return t
        wave = torch.sin(t.double() * 1e4 + self.salt).nan_to_num(0.0, 0.0, 0.0)
        noisy = t.double() + torch.finfo(t.dtype).eps * wave * t.double()
        return torch.where(t.isfinite(), noisy, t.double()).to(t.dtype)


def listed(out: Any) -> list[Any]:
    """The results of a network, one after the other."""
    if isinstance(out, Mapping):
        return [t for o in out.values() for t in listed(o)]
    if isinstance(out, tuple | list):
        return [t for o in out for t in listed(o)]
    return [out]


def difference(ours: Sequence[Any], eager: Sequence[Any], noisy: Callable[[], list[list[Any]]]) -> str:
    """What differs, or nothing; ``noisy`` runs eager with noise, some times, and is called where values differ."""
    if len(ours) != len(eager):
        return f"{len(ours)} results for {len(eager)}"
    runs: list[list[Any]] | None = None
    for i, (a, b) in enumerate(zip(ours, eager, strict=True)):
        if a is None or b is None:
            if (a is None) != (b is None) and bool((b if a is None else a).any()):
                return f"result {i}: {'none' if a is None else 'a value'}, eager {'none' if b is None else 'a value'}"
            continue
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"result {i}: {type_of(a)}, eager {type_of(b)}"
        error = distance(a, b)
        scale = max(1.0, largest(b))
        if error <= TOLERANCE.get(b.dtype, 0.0) * scale:
            continue
        runs = noisy() if runs is None else runs
        moved = max([distance(r[i], b) for r in runs if r[i] is not None] or [0.0])
        if error > max(min(FACTOR * moved, SMALL * scale), FEW * moved):
            return f"result {i}: {type_of(b)} is off by {error:.3g} of {scale:.3g} (noise {moved:.1g})"
    return ""


def type_of(t: Tensor) -> str:
    """As in ``float32(2, 3)``."""
    return f"{str(t.dtype).removeprefix('torch.')}{tuple(t.shape)}"


def largest(t: Tensor) -> float:
    """The largest finite magnitude."""
    if not t.numel() or t.dtype == torch.bool:
        return 0.0
    return float(t.double().nan_to_num(0.0, 0.0, 0.0).abs().max())


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite where one isn't finite and the other is something else."""
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(same, 0.0, (a - b).abs()).max()
    return math.inf if math.isnan(float(error)) else float(error)
