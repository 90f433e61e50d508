"""ATen rules of the backward ops in core ATen that torch doesn't decompose, and of bags of embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.torch.aten.table import RULES, rule, tuple_of, unsupported
from tdagger.graph import topological
from tdagger.interpret import computed
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, put_along, scatter
from tdagger.ops.source import Const, Iota, const, iota


def _reached(op_result: Value, grad: Value) -> Value:
    """What ``grad`` at the result of a pooling composite, made of a value, is at that value."""
    return op_result.op.adjoint(*[a.type for a in op_result.args])(grad)


def _with_batch(x: Value, spatial: int) -> Value:
    return x if x.rank == spatial + 2 else s.unsqueeze(x, (0,))


@rule("avg_pool2d_backward", "avg_pool3d_backward")
def _avg_pool_backward(
    grad_output: Value, self: Value, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Value:  # fmt: skip
    n = 3 if len(kernel_size) == 3 else 2
    pooled = lib.avg_pool(
        _with_batch(self, n), kernel=tuple_of(kernel_size, n), stride=tuple_of(stride or kernel_size, n),
        padding=tuple_of(padding, n), ceil=ceil_mode, count_include_pad=count_include_pad, divisor=divisor_override,
    )  # fmt: skip
    return lib.reshape(_reached(pooled, _with_batch(grad_output, n)), shape=self.shape)


@rule("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward")
def _adaptive_avg_pool_backward(grad_output: Value, self: Value) -> Value:
    n = 3 if self.rank == 5 else 2
    n = n if self.rank in (n + 1, n + 2) else 3
    pooled = lib.adaptive_avg_pool(_with_batch(self, n), size=grad_output.shape[-n:])
    return lib.reshape(_reached(pooled, _with_batch(grad_output, n)), shape=self.shape)


@rule("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward")
def _max_pool_backward(
    grad_output: Value, self: Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    indices: Value,
) -> Value:  # fmt: skip
    n = len(kernel_size) if len(kernel_size) == 3 else 2
    lead = self.shape[: self.rank - n]
    flat, places, grads = (lib.reshape(v, shape=(*lead, -1 if v.type.size else 0)) for v in
                           (e.zeros_like(self), indices, grad_output))  # fmt: skip
    return lib.reshape(put_along(flat, places, grads, len(lead), "add"), shape=self.shape)


@rule("convolution_backward")
def _convolution_backward(
    grad_output: Value, input: Value, weight: Value, bias_sizes: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, output_mask: Sequence[bool],
) -> Any:  # fmt: skip
    n = weight.rank - 2
    stride, padding, dilation = (tuple_of(v, n) for v in (stride, padding, dilation))
    forward = RULES["convolution"](input, weight, None, stride, padding, dilation, transposed, output_padding, groups)
    into_x = forward.op.adjoint(*[a.type for a in forward.args])(grad_output, weight) if output_mask[0] else None
    # the weight's gradient: windows of the larger tensor times the entries of the smaller one
    large, small = (grad_output, input) if transposed else (input, grad_output)
    into_weight = _weight_gradient(large, small, weight, stride, padding, dilation, groups) if output_mask[1] else None
    axes = [0, *range(2, grad_output.rank)]
    into_bias = s.reduce(grad_output, "sum", axes, keep=False) if output_mask[2] else None
    return into_x, into_weight, into_bias


def _weight_gradient(
    large: Value, small: Value, weight: Value, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int,
) -> Value:  # fmt: skip
    """``[o i/groups k..]``: a convolution with batch and channels exchanged, and stride and dilation."""
    kernel = weight.shape[2:]
    spatial = range(2, large.rank)

    def exchanged(x: Value) -> Value:  # [b (g c) s..] -> [c (g b) s..]
        split = s.ungroup(x, 1, (groups, x.shape[1] // groups))
        moved = s.permute(split, [2, 1, 0, *range(3, split.rank)])
        return s.group(moved, [1, 2, *(1,) * len(spatial)])

    rows = exchanged(large)
    each = s.ungroup(small, 1, (groups, small.shape[1] // groups))  # [b g o s..] -> [(g o) b s..]
    taps = s.group(s.permute(each, [1, 2, 0, *range(3, each.rank)]), [2, 1, *(1,) * len(spatial)])
    out = lib.convolution(
        rows, taps, stride=tuple(dilation), padding=tuple((p, p) for p in padding), dilation=tuple(stride),
        groups=groups,
    )  # fmt: skip
    for axis, k in enumerate(kernel, 2):  # what no window reached is left out
        out = s.slice_axis(out, axis, 0, k)
    return s.permute(out, [1, 0, *range(2, out.rank)])


@rule("_embedding_bag", "_embedding_bag_forward_only", "embedding_bag", "embedding_bag.padding_idx")
def _embedding_bag(
    weight: Value, indices: Value, offsets: Value, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: Value | None = None, include_last_offset: bool = False,
    padding_idx: int | None = -1,
) -> Any:  # fmt: skip
    """Bags are runs of indices: each row is added to its bag; the other results are notes for the gradient."""
    length = _even(offsets, indices.shape[0])
    if length and not include_last_offset and per_sample_weights is None and padding_idx in (None, -1):
        rows = gather(weight, lib.reshape(e.cast(indices, "i64"), shape=(offsets.shape[0], length)))
        out = lib.mean(rows, axes=(1,)) if mode == 1 else s.reduce(rows, ("sum", "", "max")[mode], (1,), keep=False)
        return out, None, None, None
    bags = offsets.shape[0] - include_last_offset
    count = indices.shape[0]
    ends = e.greater_equal(*e.align(s.unsqueeze(iota(count), (1,)), s.unsqueeze(e.cast(offsets, "i64"), (0,))))
    bag = s.reduce(e.cast(ends, "i64"), "sum", (1,), keep=False) - 1
    rows = gather(weight, e.cast(indices, "i64"))
    kept = const(True)
    padding = -1 if padding_idx is None else padding_idx
    if padding != -1:
        kept = e.not_equal(indices, padding % weight.shape[0])
    kept = s.broadcast_to(kept, (count,))
    if include_last_offset:
        kept = kept & e.less(bag, bags)
        bag = e.minimum(bag, max(bags - 1, 0))
    inside = s.unsqueeze(kept, (1,))
    sizes = scatter(s.broadcast_to(const(0, "i64"), (bags,)), bag, e.cast(kept, "i64"), 0, 0, "add")
    if per_sample_weights is not None:
        rows = rows * s.unsqueeze(per_sample_weights, (1,))
    zero = s.broadcast_to(const(0.0, weight.dtype), (bags, weight.shape[1]))
    if mode == 2:
        low = e.full_like(zero, -math.inf)
        out = scatter(low, bag, e.where(inside, rows, -math.inf), 0, 0, "max")
        out = e.where(e.equal(s.unsqueeze(sizes, (1,)), 0), 0.0, out)
    else:
        out = scatter(zero, bag, e.where(inside, rows, 0.0), 0, 0, "add")
        if mode == 1:
            out = out / e.cast(s.unsqueeze(e.maximum(sizes, 1), (1,)), out.dtype)
    return out, None, None, None


def _even(offsets: Value, count: int) -> int:
    """The length of bags if torch made them of the rows of a matrix; 0 for others."""
    leaves = [v for v in topological([offsets]) if not v.args]
    if not any(isinstance(v.op, Iota) for v in leaves) or not all(isinstance(v.op, Iota | Const) for v in leaves):
        return 0
    starts = computed(offsets)
    length = count // max(len(starts), 1)
    return length if length * len(starts) == count and (starts == np.arange(len(starts)) * length).all() else 0


@rule("resize")
def _resize(self: Value, size: Sequence[int]) -> Value:
    count = math.prod(size)
    if count > self.type.size:
        raise unsupported(f"resize_ to {list(size)} grows {self.type}: what is added isn't defined")
    return lib.reshape(s.slice_axis(lib.reshape(self, shape=(-1,)), 0, 0, count), shape=tuple(size))


@rule("resize_as")
def _resize_as(self: Value, the_template: Value) -> Value:
    return _resize(self, the_template.shape)


@rule("sym_size", "sym_size.int")
def _sym_size(self: Value, dim: int | None = None) -> Any:
    return self.shape if dim is None else self.shape[dim]


@rule("sym_numel")
def _sym_numel(self: Value) -> int:
    return self.type.size
