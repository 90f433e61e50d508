"""What convolutions and pools share: attributes with a number per spatial axis, padding, windows written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.frameworks.onnx.ops.table import unsupported
from tdagger.op import Value
from tdagger.ops.structure import Ungroup, pad, unfold

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def short(number: float) -> float:
    """A 32 bit float of a file by its shortest digits: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


#: Loops that are written out have no more steps, and tables made while importing no more entries.
_STEPS, _ENTRIES = 1 << 13, 1 << 25


def check_steps(steps: int) -> None:
    """UnsupportedError for a loop that would be too long to write out."""
    if steps > _STEPS:
        raise unsupported(f"its {steps} steps are written out one by one, of which there may be {_STEPS}")


def check_entries(count: int) -> None:
    """UnsupportedError for a table that would be too large to make."""
    if count > _ENTRIES:
        raise unsupported(f"it needs a table of {count} entries, of which there may be {_ENTRIES}")


def per_axis(given: Sequence[int] | None, count: int, what: str, default: int = 1) -> Ints:
    """A number for each spatial axis; an empty list counts as not given."""
    found = (default,) * count if not given else tuple(given)
    if len(found) != count:
        raise unsupported(f"its {what} {list(found)} should have {count} entries, one per spatial axis")
    return found


def spans(kernel: Sequence[int], dilations: Sequence[int]) -> Ints:
    """Entries from the first to the last of one window, along each axis."""
    return tuple([(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)])


def halves(total: int, auto_pad: str) -> tuple[int, int]:
    """Padding divided between both ends: the odd one goes to the end for SAME_UPPER, else to the start."""
    less, more = total // 2, total - total // 2
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def padding(
    auto_pad: str, pads: Sequence[int] | None, sizes: Sequence[int], span: Sequence[int], strides: Sequence[int]
) -> Pairs:
    """The padding (low, high) of each spatial axis.

    With SAME_* there are ``ceil(size / stride)`` windows, whatever the dilation: onnxruntime's convolutions refuse
    dilated ones, its pools count without the dilation. The first window starts at the first entry or before, as in
    TensorFlow; in onnxruntime's AveragePool and LpPool it starts later where strides are larger than windows.
    """
    count = len(sizes)
    if auto_pad in ("", "NOTSET"):
        each = per_axis(pads, 2 * count, "pads", 0)
        return tuple(zip(each[:count], each[count:], strict=True))
    if auto_pad == "VALID":
        return ((0, 0),) * count
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise unsupported(f"its auto_pad {auto_pad} is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    if any(pads or ()):
        raise unsupported(f"it has both pads and auto_pad {auto_pad}")
    totals = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(sizes, span, strides, strict=True)]
    return tuple([halves(total, auto_pad) for total in totals])


def counts(sizes: Sequence[int], span: Sequence[int], strides: Sequence[int], pads: Pairs, ceil: bool) -> Ints:
    """How many windows there are along each axis; one that would start in the padding at the end is left out."""
    found: list[int] = []
    for n, w, s, (low, high) in zip(sizes, span, strides, pads, strict=True):
        free = n + low + high - w
        count = (-(-free // s) if ceil else free // s) + 1
        count -= ceil and (count - 1) * s >= n + low
        if count < 1:
            raise unsupported(f"its windows of {w} entries don't fit in {n} padded by {(low, high)}")
        found.append(count)
    return tuple(found)


def windows(
    x: Value, kernel: Ints, strides: Ints, dilations: Ints, pads: Pairs, number: Ints, fill: Any
) -> tuple[Value, Ints]:
    """The entries of x ``[.. n ..]`` as ``[.. w k w k ..]``, and which axes the k are; ``number`` windows an axis."""
    lead = x.rank - len(kernel)
    span = spans(kernel, dilations)
    widths: list[tuple[int, int] | None] = [None] * lead
    for n, w, s, m, (low, _) in zip(x.shape[lead:], span, strides, number, pads, strict=True):
        widths.append((low, (m - 1) * s + w - n - low))  # negative: what no window reaches is cut off
    y = pad(x, widths, fill)
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True), lead):
        y = unfold(y, i, k, s, d)
    y = Ungroup((*((n,) for n in x.shape[:lead]), *zip(number, kernel, strict=True)))(y)
    return y, tuple(range(lead + 1, y.rank, 2))
