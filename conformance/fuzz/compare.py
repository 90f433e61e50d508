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
#: How many times the deviation under noise a difference may be.
FACTOR = 30.0

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


class Noise(TorchDispatchMode):
    """Every result of arithmetic is off by a rounding, equal numbers by equal ones."""

    def __init__(self, salt: int) -> None:
        super().__init__()
        self.salt = salt

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func._schema.is_mutable or name.startswith(_EXACT) or any(r.alias_info for r in func._schema.returns):
            return out
        if isinstance(out, tuple | list):
            return type(out)([self.off(t) for t in out])
        return self.off(out)

    def off(self, t: Any) -> Any:
        """A tensor with its rounding."""
        if not isinstance(t, Tensor) or not t.is_floating_point():
            return t
        wave = torch.sin(t.double() * 1e4 + self.salt).nan_to_num(0.0, 0.0, 0.0)
        noisy = t.double() * (1 + torch.finfo(t.dtype).eps * wave)
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
        allowed = max([distance(r[i], b) for r in runs if r[i] is not None] or [0.0])
        if error > FACTOR * allowed:
            return f"result {i}: {type_of(b)} is off by {error:.3g} of {scale:.3g} (noise {allowed:.1g})"
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
