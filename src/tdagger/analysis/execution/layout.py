"""How a tensor lies in memory: its strides, counted in elements, and what views and kernels make of them.

>>> contiguous((2, 3, 4)), reshaped((2, 3, 4), (12, 1, 3), (2, 12)), reshaped((2, 3, 4), (12, 4, 1), (6, 4))
((12, 4, 1), None, (4, 1))
"""

from __future__ import annotations

from collections.abc import Sequence

#: How far apart, in elements, neighbours along each axis lie; 0 along a repeated one.
Strides = tuple[int, ...]
Shape = tuple[int, ...]


def contiguous(shape: Shape) -> Strides:
    """Row by row, the last axis innermost."""
    out: list[int] = []
    step = 1
    for n in reversed(shape):
        out.append(step)
        step *= max(n, 1)
    return tuple(reversed(out))


def is_contiguous(shape: Shape, strides: Strides) -> bool:
    """Whether a tensor lies row by row without gaps; axes of size 1 may have any stride."""
    step = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and s != step:
            return False
        step *= n
    return True


def is_dense(shape: Shape, strides: Strides) -> bool:
    """Whether a tensor fills its memory without gaps and repeats, in whatever order of axes."""
    step = 1
    for s, n in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n != 1):
        if s != step:
            return False
        step *= n
    return True


def reshaped(shape: Shape, strides: Strides, new: Shape) -> Strides | None:
    """The strides of a view of other sizes, None if the entries don't lie so that there is one."""
    if 0 in shape:
        return contiguous(new)
    runs: list[tuple[int, int]] = []  # (entries, innermost stride) of axes that lie as one, outermost first
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * s:
            runs[-1] = runs[-1][0] * n, s
        else:
            runs.append((n, s))
    out: list[int] = []
    left, step = runs.pop() if runs else (1, 1)
    for n in reversed(new):
        if n == 1:
            out.append(step)
            continue
        if left == 1 and runs:
            left, step = runs.pop()
        if left % n:
            return None
        out.append(step)
        left, step = left // n, step * n
    return tuple(reversed(out))


def like(shape: Shape, operands: Sequence[Strides]) -> Strides:
    """Strides of what an elementwise kernel makes: dense, the axes in the order they have in the operands.

    The first operand that tells two axes apart decides; that is torch's TensorIterator, and numpy's order "K".
    """
    order = list(range(len(shape) - 1, -1, -1))  # innermost first
    for i in range(1, len(order)):
        at = i
        for j in range(i - 1, -1, -1):
            swap = _outside(shape, operands, order[j], order[at])
            if swap > 0:
                order[j], order[at] = order[at], order[j]
                at = j
            elif swap < 0:
                break
    out = [1] * len(shape)
    step = 1
    for axis in order:
        out[axis] = step
        step *= max(shape[axis], 1)
    return tuple(out)


def _outside(shape: Shape, operands: Sequence[Strides], a: int, b: int) -> int:
    """1 if axis ``a`` is to lie outside of ``b``, -1 if inside, 0 if nothing tells."""
    for strides in operands:
        x, y = strides[a], strides[b]
        if not x or not y:
            continue
        if x != y:
            return 1 if x > y else -1
        if shape[a] > shape[b]:
            return 1
    return 0


def channels_last(shape: Shape) -> Strides:
    """Strides of (batch, channels, ...) with the channels innermost."""
    batch, channels, *spatial = shape
    outer, *inner = contiguous((batch, *spatial, channels))
    return (outer, 1, *inner[:-1])


def is_channels_last(shape: Shape, strides: Strides) -> bool:
    """Whether torch takes a tensor of rank 4 or 5 for one whose channels are innermost; never if that is open."""
    if len(shape) not in (4, 5) or not strides[1]:
        return False
    least = 0
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        if strides[axis] < least or not shape[axis] or (axis == 0 and least == strides[1]):
            return False
        least = strides[axis] * shape[axis] if shape[axis] > 1 else strides[axis]
    return True
