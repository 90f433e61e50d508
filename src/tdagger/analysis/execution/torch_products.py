"""What torch's kernels for products make and hold on the CPU: convolutions, matrix products, attention, recurrent ones.

Rows of the table in :mod:`tdagger.analysis.execution.torch_cpu`.
"""

from __future__ import annotations

import math
from typing import Any

from tdagger.analysis.execution.layout import (
    Strides,
    channels_last,
    contiguous,
    is_channels_last,
    is_contiguous,
    is_dense,
    like,
    reshaped,
)
from tdagger.analysis.execution.tracing import Call, Kernel
from tdagger.composite import Composite
from tdagger.types import TensorType

#: Floats in a vector of the processor, and so channels in a block of oneDNN's layouts.
LANES = 16
#: A convolution of a batch of fewer images with no more entries than this isn't worth oneDNN's reorders to torch.
_FEW = 20480
_PAGE = 4096


def copy_of(c: Call, i: int = 0) -> int:
    """Bytes of the contiguous copy that a kernel makes of an argument that isn't contiguous."""
    return 0 if is_contiguous(c.types[i].shape, c.strides[i]) else c.types[i].bytes


def attribute(c: Call, name: str) -> Any:
    """An attribute of the op."""
    return getattr(c.op, name)


def _tensors(c: Call) -> dict[str, int]:
    """The number of each tensor that a composite was given, by name."""
    assert isinstance(c.op, Composite)
    names = [n for n, given in zip(c.op.definition.tensors, c.op.given, strict=True) if given]
    return {name: i for i, name in enumerate(names)}


# --- convolutions ------------------------------------------------------------------------------------------


def _blocked(channels: int) -> int:
    return -(-channels // LANES) * LANES


def convolution(c: Call) -> Kernel:
    """One to three spatial axes, as torch chooses between oneDNN and windows times weights."""
    x, weight, out = c.types[0], c.types[1], c.out[0]
    kernel, count = weight.shape[2:], weight.rank - 2
    groups: int = attribute(c, "groups")
    stride, dilation, padding = (attribute(c, n) for n in ("stride", "dilation", "padding"))
    last = x.rank == 4 and (is_channels_last(x.shape, c.strides[0]) or is_channels_last(weight.shape, c.strides[1]))
    strides = channels_last(out.shape) if last else contiguous(out.shape)
    copied = 0 if last else copy_of(c) + copy_of(c, 1)
    if any(low != high for low, high in padding):  # padded by itself before
        image = [n + sum(p) for n, p in zip(x.shape[-count:], padding, strict=True)]
        x = x.with_shape((*x.shape[:-count], *image))
        copied += x.bytes
    batch = math.prod(x.shape[: -count - 1])
    moves = {1} != {*stride, *dilation, *kernel} or batch >= 16
    first = batch * math.prod(x.shape[-count - 1 :][:3])  # torch looks at four axes
    large = groups > 1 or batch > 1 or first > _FEW or (count > 1 and min(kernel[-2:]) > 3)
    if not (moves and large and x.dtype.bytes <= 4):
        return c.fresh(strides, copied + _windowed(c, batch, last))
    if last:  # the weights with channels last, then in blocks
        padded = _blocked(weight.shape[0]) * math.prod(weight.shape[1:]) * weight.dtype.bytes
        return c.fresh(strides, copied + weight.bytes + padded + 2 * _PAGE)
    return c.fresh(strides, copied + _reordered(c, x, batch))


def _windowed(c: Call, batch: int, last: bool) -> int:
    """torch's own: all windows laid out, unless they are the pixels; one result for each group, joined at the end."""
    weight, out = c.types[1], c.out[0]
    groups: int = attribute(c, "groups")
    pointwise = {1} == {*weight.shape[2:], *attribute(c, "stride")}
    image = out.shape[2 - weight.rank :]
    windows = 0 if pointwise else batch * math.prod((*weight.shape[1:], *image)) * weight.dtype.bytes
    if groups == 1:
        return windows + (weight.bytes if last and not pointwise else 0)
    part = c.types[0].bytes // groups if batch > 1 else 0
    return max(out.bytes, out.bytes * (groups - 1) // groups + windows + part)


def _reordered(c: Call, x: TensorType, batch: int) -> int:
    """oneDNN's: argument and weight in blocks of channels, the result in blocks, then as torch has it."""
    weight, out = c.types[1], c.out[0]
    groups, each = int(attribute(c, "groups")), weight.dtype.bytes
    into, onto = weight.shape[1], weight.shape[0] // groups
    kernel, count = math.prod(weight.shape[2:]), weight.rank - 2
    before, after = math.prod(x.shape[-count:]), math.prod(out.shape[-count:])
    wide_in, wide_out = into * groups, onto * groups
    if groups == 1 and into < LANES:  # an image: as it is
        wide_out = _blocked(onto)
        given, weights = 0, into * wide_out * kernel
    elif groups == 1:
        wide_in, wide_out = _blocked(into), _blocked(onto)
        given, weights = batch * wide_in * before, wide_in * wide_out * kernel
        if kernel == 1 and {1} != set(attribute(c, "stride")):
            given += wide_in * after  # the pixels it takes, side by side
    elif into == onto == 1:
        wide_in = wide_out = _blocked(groups)
        given, weights = batch * wide_in * before, wide_in * kernel
    elif into % 4 == onto % 4 == 0:
        given, weights = batch * wide_in * before, weight.size
    else:  # windows of one group at a time, times its weights
        given, weights = 0, into * kernel * after
    result = batch * wide_out * after
    return max((given + weights + result) * each - out.bytes, result * each)


def transposed_convolution(c: Call) -> Kernel:
    """oneDNN's: the result in blocks, then as torch has it, then once more."""
    x, weight, out = c.types[0], c.types[1], c.out[0]
    return c.contiguous(copy_of(c) + max(x.bytes + weight.bytes, 2 * out.bytes))


# --- products ----------------------------------------------------------------------------------------------


def _turned(x: tuple[int, ...]) -> tuple[int, ...]:
    return (*x[:-2], x[-1], x[-2])


def _folds(shape: tuple[int, ...], strides: Strides) -> bool:
    """Whether torch multiplies all rows at once: all axes but the last lie as one."""
    return all(strides[i] == strides[i + 1] * shape[i + 1] for i in range(len(shape) - 2))


def linear(c: Call) -> Kernel:
    """All rows at once if they lie so, else a product of batches."""
    x = c.types[0]
    if x.rank < 3 or _folds(x.shape, c.strides[0]):
        return c.contiguous()
    return c.contiguous(_as_batch(x.shape, c.strides[0], x, len(x.shape) - 2))


def _as_batch(shape: Any, strides: Any, t: TensorType, lead: int) -> int:
    """Bytes of the copy that makes a batch of matrices of a tensor with ``lead`` axes before, if it takes one."""
    one = (math.prod(shape[:lead]), *shape[lead:])
    return 0 if reshaped(shape, strides, one) is not None else math.prod(shape) * t.dtype.bytes


def matmul(c: Call) -> Kernel:
    """One product if all rows lie as one, else a batch of products, of copies if the batch does not lie as one."""
    x, y = c.types
    if x.rank <= 2 and y.rank <= 2:
        return c.contiguous()
    if y.rank <= 2 and _folds(x.shape, c.strides[0]):
        return c.contiguous()
    if x.rank == 2 and 0 in c.parameters:  # (y^T x^T)^T, laid out anew at the end: better for gradients of x
        folded = _folds(_turned(y.shape), _turned(c.strides[1]))
        return c.contiguous(c.out[0].bytes + (0 if folded else y.bytes))
    lead = c.out[0].shape[: max(x.rank, y.rank) - 2]
    scratch = 0
    for t, strides in zip(c.types, c.strides, strict=True):
        own = t.shape[-2:] if t.rank > 1 else (t.shape[0], 1)
        missing = len(lead) - max(t.rank - 2, 0)
        tail = strides if t.rank > 1 else (*strides, 1)
        wide = tuple(
            [0] * missing + [s if n == m else 0 for s, n, m in zip(tail, t.shape[:-2], lead[missing:], strict=False)]
        )
        scratch += _as_batch((*lead, *own), (*wide, *tail[-2:]), t, len(lead))
    return c.contiguous(scratch)


def attention(c: Call) -> Kernel:
    """torch's flash kernel: blocks of scores, the logarithm of every row's sum; else scores of everything."""
    tensors = _tensors(c)
    q, k, v = c.types[:3]
    at = tensors.get("mask")
    mask = None if at is None else c.types[at]
    scratch = 0
    flash = q.rank == k.rank == v.rank == 4 and q.shape[-1] == k.shape[-1] == v.shape[-1]
    flash = flash and (mask is None or mask.rank in (2, 4))
    if mask is not None and at is not None:
        if mask.dtype.name == "bool":  # 0 and -inf instead
            scratch += mask.size * q.dtype.bytes
        elif flash and c.strides[at][-1] not in (0, 1):
            scratch += mask.bytes
    rows = math.prod(q.shape[:-1])
    if flash:
        queries, keys = q.shape[-2], k.shape[-2]
        block = 256 if queries >= 768 else 64 if queries >= 192 else 32
        block, width = min(block, queries), min(512, keys)
        work = block * (width + 2 + q.shape[-1])
        dense = is_dense(q.shape, c.strides[0])
        strides = c.strides[0] if dense else like(q.shape, [c.strides[0]])
        return c.fresh(strides, scratch + 4 * (rows + work))
    return c.contiguous(scratch + _all_scores(c) - c.out[0].bytes)


def _all_scores(c: Call) -> int:
    """The most that attention without blocks holds: scaled queries and keys, then scores, twice for their softmax."""
    (q, k, v), each = c.types[:3], c.types[0].dtype.bytes
    repeats = q.shape[-3] // k.shape[-3] if attribute(c, "grouped") else 1
    longer = (k.bytes + v.bytes) * repeats if repeats > 1 else 0
    rows = math.prod(q.shape[:-1])
    size = rows * k.shape[-2]
    ordered = [like(t.shape, [s]) for t, s in zip((q, k), c.strides[:2], strict=True)]
    copied = [_as_batch(t.shape, s, t, t.rank - 2) for t, s in zip((q, k, v), (*ordered, c.strides[2]), strict=True)]
    first = k.bytes * repeats + copied[0] + (copied[1] if repeats == 1 else 0) + size * each
    second = 2 * size * each + size + rows
    third = size * each + (copied[2] if repeats == 1 else 0) + c.out[0].bytes
    return longer + q.bytes + max(first, second, third)


def einsum(c: Call) -> Kernel:
    """Of two tensors a batched product: axes of both, of one, summed, each merged; the result is a view of it."""
    left, _, result = attribute(c, "equation").replace(" ", "").partition("->")
    names = left.split(",")
    if len(names) != 2 or any(len(set(n)) != len(n) for n in [*names, result]):
        return c.contiguous()
    sizes = [dict(zip(n, t.shape, strict=True)) for n, t in zip(names, c.types, strict=True)]
    wide = [{a for a, n in s.items() if n != 1} for s in sizes]
    order = [*result, *dict.fromkeys(a for n in names for a in n if a not in result)]
    both, summed = wide[0] & wide[1] & set(result), (wide[0] & wide[1]) - set(result)
    if not summed:
        return c.contiguous()
    scratch = 0
    merged: list[str] = [a for a in order if a in both]
    for i, t in enumerate(c.types):
        stride = dict(zip(names[i], c.strides[i], strict=True))
        own = [a for a in order if a in wide[i] - both - summed]
        inner = [a for a in order if a in summed]
        groups = (
            [[a for a in order if a in both], own, inner] if i == 0 else [[a for a in order if a in both], inner, own]
        )
        shape = tuple([sizes[i][a] for g in groups for a in g])
        strides = tuple([stride[a] for g in groups for a in g])
        new = tuple([math.prod([sizes[i][a] for a in g]) for g in groups])
        scratch += 0 if reshaped(shape, strides, new) is not None else t.bytes
        merged += own
    made = dict(zip(merged, contiguous(tuple([max(s.get(a, 1) for s in sizes) for a in merged])), strict=True))
    return c.fresh(tuple([made.get(a, 1) for a in result]), scratch)


# --- recurrent ---------------------------------------------------------------------------------------------


def _states(c: Call) -> tuple[int, int, int, int]:
    """Of a recurrent network: steps, batch (of all axes), entries of a state, directions."""
    x, h = c.types[0], c.types[1]
    steps = x.shape[-2] if attribute(c, "batch_first") else x.shape[0]
    return steps, x.size // (steps * x.shape[-1] or 1), h.shape[-1], 1 + attribute(c, "bidirectional")


def recurrent(c: Call) -> Kernel:
    """GRU and simple ones: the products with all inputs of a layer, each step's state, then these joined.

    Of two directions the first one's result waits for the second's.
    """
    steps, batch, entries, directions = _states(c)
    each = c.out[0].dtype.bytes
    row = batch * entries * each
    gates = 3 if c.op.name == "gru" else 1
    layers = attribute(c, "layers")
    before = steps * row * directions if layers > 1 else 0
    states = (layers - 1) * directions * row
    most = steps * row * (gates + 2 if directions == 1 else 3 + gates + 3)
    first = c.types[0].bytes if attribute(c, "batch_first") and batch > 1 and layers == 1 else 0
    return c.contiguous(before + first + states + most - sum(t.bytes for t in c.out))


def lstm(c: Call) -> Kernel:
    """oneDNN's: for each layer and direction the weights in its layout, and gates of every step."""
    steps, batch, entries, directions = _states(c)
    each = c.out[0].dtype.bytes
    x, row = c.types[0], batch * entries * each
    held = x.bytes if attribute(c, "batch_first") else 0
    held += sum(t.bytes for t, s in zip(c.types[1:3], c.strides[1:3], strict=True) if not is_contiguous(t.shape, s))
    most = 0
    for layer in range(attribute(c, "layers")):
        taken = x.shape[-1] if layer == 0 else entries * directions
        weights = 4 * entries * (taken + entries) * each
        weights *= 1 if attribute(c, "biases") else 2  # copied then, and zeros for the biases
        work = 4 * steps * row + 9 * batch * max(taken, entries) * each + 4 * _PAGE  # gates of all steps, states of one
        if batch == 1:  # a simpler kernel, with the states of all steps
            work += 3 * steps * (max(taken, entries) + LANES) * each
        elif taken > entries:
            work += steps * batch * taken * each
        made = directions * (steps * row + 2 * row)
        most = max(most, held + made + 4 * entries * each + weights + work)
        joined = held + made + (steps * row * directions if directions > 1 else 0)
        most = max(most, joined)
        held += 2 * row * directions + steps * row * directions
        if layer:
            held -= steps * row * directions  # what the layer before made
    return c.contiguous(most - sum(t.bytes for t in c.out))
