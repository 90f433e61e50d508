"""What a trace of generated code can't hold as it is written there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Functions whose schemas in TorchScript have no bool where they take a number.
_OF_NUMBERS = frozenset({
    "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor", "and",
    "or", "xor", "rand", "ror", "rxor", "logical_and", "logical_or", "logical_xor", "mul", "add", "maximum", "minimum",
})  # fmt: skip


class Literals(TorchFunctionMode):
    """Bools and -0.0 given where a number belongs are tensors inside: traces crash on the ones, lose the other."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "").strip("_")
        if name == "full" and len(args) > 1 and isinstance(args[1], bool):
            args = (args[0], int(args[1]), *args[2:])
            kwargs.setdefault("dtype", torch.bool)
        elif name in _OF_NUMBERS and any(map(_is_lost, args)):
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
            device = next((t.device for t in tensors), None)
            args = tuple([_tensor(a, like.dtype, device) if _is_lost(a) else a for a in args])
        return func(*args, **kwargs)


def _is_lost(x: Any) -> bool:
    """Whether a literal isn't kept: a bool, and -0.0, which TorchScript takes for the same constant as 0.0."""
    return isinstance(x, bool) or (isinstance(x, float) and abs(x) <= 0 and math.copysign(1, x) < 0)


def _tensor(x: Any, dtype: torch.dtype, device: torch.device | None) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.bool if isinstance(x, bool) else dtype, device=device)
