"""Numbers that the integers of a call can't hold: torch takes their last bits, or refuses them, as the op has it.

``x < 300`` of bytes is ``x < 44`` in torch, ``x.clamp(-9, 9)`` takes -9 for 247, and ``x.clamp(max=300)`` raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from tdagger.frameworks.torch.aten.table import DTYPES, TORCH_DTYPES, promoted, unsupported
from tdagger.op import Value
from tdagger.types import DType, TensorType

#: Arguments whose element type says nothing of a call's numbers.
_APART = frozenset({"index", "mask", "condition"})


def in_range(
    target: OpOverload,
    arguments: Sequence[str],
    numbers: frozenset[str],
    given: list[Any],
    named: dict[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call with what torch makes of numbers that its integers can't hold.

    ``arguments`` are the names of the op's arguments, ``numbers`` those that may be numbers of any type.
    UnsupportedError where torch raises: it is asked, with a call of these types.
    """
    if not any(map(_may_be_beyond, given)) and not any(map(_may_be_beyond, named.values())):
        return given, named
    own = {**dict(zip(arguments, given, strict=False)), **named}
    wide = {n: v for n, v in own.items() if n in numbers and _may_be_beyond(v)}
    dtype = _computed_with(own) if wide else None
    if dtype is None or not dtype.is_int:
        return given, named
    info = np.iinfo(dtype.numpy)
    held = {n: _wrapped(int(v), info) for n, v in wide.items() if not info.min <= int(v) <= info.max}
    if not held:
        return given, named
    if not _takes(target, given, named):
        return given, named
    given = [held.get(n, v) for n, v in zip(arguments, given, strict=False)]
    return given, {n: held.get(n, v) for n, v in named.items()}


def _is_whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _may_be_beyond(x: Any) -> bool:
    """Whether a thing is an integer that some type can't hold."""
    return x.__class__ is int and not 0 <= x <= 127


def _wrapped(number: int, info: np.iinfo[Any]) -> int:
    """A number's last bits, as an integer type reads them."""
    return (number - int(info.min)) % (1 << info.bits) + int(info.min)


def _computed_with(own: Mapping[str, Any]) -> DType | None:
    """The element type that a call computes with; None if no argument says so."""
    if own.get("dtype") is not None:
        return DTYPES[own["dtype"]]
    told = [v for n, v in own.items() if isinstance(v, Value) and n not in _APART]
    numbers = [v for v in own.values() if _is_whole(v)]
    return promoted(*told, *numbers[:1]) if told else None


def _takes(target: OpOverload, given: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether torch takes the numbers of a call to integers, as it doesn't where it computes with floats."""
    try:
        out = target(*map(_ones, given), **{k: _ones(v) for k, v in named.items()})
    except RuntimeError as e:
        raise unsupported(f"eager can't: {str(e).splitlines()[0]}") from e
    return not (isinstance(out, torch.Tensor) and out.is_floating_point())


def _ones(x: Any) -> Any:
    """Ones for a value."""
    if not isinstance(x, Value):
        return x
    assert isinstance(x.type, TensorType)
    return torch.ones(x.type.shape, dtype=TORCH_DTYPES[x.type.dtype])
