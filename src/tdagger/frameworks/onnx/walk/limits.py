"""How much of a stranger's file is written out: numbers for every entry of an axis, steps of a recurrent network.

Types may be as large as a file says, they take no memory. What a rule works out as numbers does, so it is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tdagger.errors import UnsupportedError
from tdagger.op import Value

#: Entries that are written out, and steps that are unrolled.
ENTRIES, STEPS = 1 << 22, 1 << 14

#: Operators whose rules write out something for every entry of a dimension, or for every one that a number asks for.
_WRITTEN = frozenset({
    "AffineGrid", "BlackmanWindow", "CenterCropPad", "DFT", "DeformConv", "EyeLike", "HammingWindow", "HannWindow",
    "Inverse", "LpPool", "MaxRoiPool", "MaxUnpool", "Pad", "Resize", "RoiAlign", "STFT", "Upsample",
})  # fmt: skip
#: Those that write out a table: the product of their numbers counts.
_TABLES = frozenset({"AveragePool", "MelWeightMatrix", "Det"})
#: Those that have a step for every entry of their first dimension, or second.
_STEPS = frozenset({"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"})

#: All that are looked at.
BOUNDED = _WRITTEN | _TABLES | _STEPS


def check(op: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """UnsupportedError for a node of :data:`BOUNDED` that would write out more than a file may make one do."""
    shapes = [a.shape for a in args if isinstance(a, Value)]
    numbers = [float(n) for a in (*args, *keywords.values()) for n in _numbers(a)]
    longest = max((n for s in shapes for n in s), default=0)
    if op in _STEPS:
        steps = max((n for n in shapes[0][:2]), default=0) if shapes else 0
        if steps > STEPS:
            raise UnsupportedError(f"it has {steps} steps, more than {STEPS} aren't written out")
        return
    entries: float
    if op in _TABLES:
        entries = longest * max(numbers, default=0.0) / 16 if op == "AveragePool" else math.prod(numbers or [0.0])
    else:
        scales: float = max((n for n in numbers if not n.is_integer() or n < ENTRIES), default=1)
        entries = max([longest, *numbers, *([longest * scales] if op in ("Resize", "Upsample") else [])])
    if not entries <= ENTRIES:
        raise UnsupportedError(f"it would write out {entries:.0f} entries, more than {ENTRIES}")


def _numbers(arg: Any) -> Iterable[Any]:
    """The numbers in what a rule is given."""
    if isinstance(arg, bool | str) or arg is None:
        return ()
    if isinstance(arg, int | float):
        return (arg,)
    if isinstance(arg, tuple):
        return [n for n in arg if isinstance(n, int | float)]
    if hasattr(arg, "reshape") and not isinstance(arg, Value) and arg.size <= ENTRIES and arg.dtype.kind in "iuf":
        return arg.reshape(-1).tolist()
    return ()
