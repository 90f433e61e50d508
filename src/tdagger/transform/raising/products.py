"""Guesses of products, convolutions, pools, attention and reshapes."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator
from typing import Any

from tdagger.composite import Composite, composites
from tdagger.graph import is_one, label
from tdagger.op import Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import Iota
from tdagger.ops.structure import Group, Pad, Permute, Reduce, Repeat, Unfold, Ungroup
from tdagger.transform.raising.bodies import composite_of, core_body, matched
from tdagger.transform.raising.cone import Cone, Guess, Guesses, guess
from tdagger.transform.rewrite.values import behind
from tdagger.types import TensorType

#: Of so many axes that are indexed together, each is tried as signed and as not; of more all are alike.
_FEW = 4

# --- products ----------------------------------------------------------------------------------------------


def _sums(cone: Cone) -> Iterator[Any]:
    """Nearby sums of products over one axis."""
    for v in cone.ops(Reduce, 2):
        if v.op.kind == "sum" and len(v.op.axes) == 1 and label(v.args[0].op) == "multiply":
            yield v


def linear(cone: Cone) -> Guesses:
    """Guesses of linear."""
    kind = cone.value.type
    for v in _sums(cone):
        product = v.args[0].type
        if v.op.axes != (product.rank - 1,) or not kind.rank or product.rank != kind.rank + 1:
            continue
        x = TensorType((*kind.shape[:-1], product.shape[-1]), kind.dtype)
        weight, bias = (
            TensorType((kind.shape[-1], product.shape[-1]), kind.dtype),
            TensorType(kind.shape[-1:], kind.dtype),
        )
        yield guess("linear", (x, weight))
        yield guess("linear", (x, weight, bias))


def matmul(cone: Cone) -> Guesses:
    """Guesses of matmul."""
    kind = cone.value.type
    for v in _sums(cone):
        product = v.args[0].type
        rank = product.rank
        if v.op.axes == (rank - 2,) and rank >= 3 and kind.rank == rank - 1:
            *batch, m, k, n = product.shape
            for left, right in ((batch, batch), (batch, []), ([], batch), *_own_batches(v.args[0], len(batch))):
                x, y = TensorType((*left, m, k), kind.dtype), TensorType((*right, k, n), kind.dtype)
                yield guess("matmul", (x, y))
                yield guess("addmm", (TensorType(kind.shape[-1:], kind.dtype), x, y))


def _own_batches(product: Value, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of both factors as they are before broadcasting."""
    sides = [behind(a)[-1].shape for a in product.args]
    yield tuple(list(s[: max(len(s) - 3, 0)]) for s in sides)  # type: ignore[misc]
    yield tuple(list(behind(a)[min(1, len(behind(a)) - 1)].shape[:count]) for a in product.args)  # type: ignore[misc]


def einsum(value: Value) -> Guesses:
    """Guesses of einsum of two operands, each with axes of its own: what is summed comes last in their product."""
    below, total = _below(value, Permute, Group, Cast)
    if not isinstance(total.op, Reduce) or total.op.kind != "sum" or label(total.args[0].op) != "multiply":
        return
    product = total.args[0]
    kept = product.rank - len(total.op.axes)
    if total.op.axes != tuple(range(kept, product.rank)) or value.rank != kept or kept > len(string.ascii_letters):
        return
    order = value.op.order if below and isinstance(value.op, Permute) else range(kept)
    for permuted in (True, False):
        terms, types = list[str](), list[TensorType]()
        for side in product.args:
            views, x = _below(side, Cast, Permute, Repeat, Ungroup)
            axes = [i for i, n in enumerate(side.shape) if all(v.shape[i] == n for v in views if v.rank == side.rank)]
            moves = [v.op.order for v in views if isinstance(v.op, Permute)]
            if len(moves) > 1 or len(axes) != x.rank or set(axes).issuperset(range(kept)):
                return
            shape = x.shape
            if moves and permuted:
                axes = [axes[moves[0].index(i)] for i in range(x.rank)]
            elif moves:
                shape = tuple([x.shape[i] for i in moves[0]])
            terms.append("".join([string.ascii_letters[i] for i in axes]))
            types.append(TensorType(shape, value.dtype))
        out = "".join([string.ascii_letters[i] for i in order])
        yield Guess(composites["einsum"], tuple(types), {"equation": f"{','.join(terms)}->{out}"}, ())


def embedding(cone: Cone) -> Guesses:
    """Guesses of embedding: its indices don't count from the end."""
    value = cone.value
    if value.op is Gather(0, 0) and value.args[0].rank == 2 and counted(value) is None:
        yield guess("embedding", tuple(a.type for a in value.args))


def counted(value: Value) -> tuple[Value, Composite, tuple[Value, ...]] | None:
    """The index of a gather or scatter that is a ``linear_index``, its op and arguments.

    It is found from here: its body doesn't read the tensor whose sizes it counts by.
    """
    if not isinstance(value.op, Gather | Scatter):
        return None
    x, index = value.args[:2]
    axis = value.op.axis
    counts = x.op.counts[axis] if isinstance(x.op, Group) else 1
    tensors = [(x, axis, 1)]
    if isinstance(x.op, Group) and counts > 1:
        tensors.insert(0, (x.args[0], sum(x.op.counts[:axis]), counts))
    views, last = _below(index, Permute, Repeat, Group, Ungroup, Cast)
    for total, (tensor, first, count) in itertools.product((*views, last), tensors):
        alike = [(True,) * count, (False,) * count]
        several = itertools.product((True, False), repeat=count) if count <= _FEW else alike
        for signed in several:
            types = (tensor.type, *(total.type,) * count)
            made = Guess(composites["linear_index"], types, {"axis": first, "signed": signed}, ())
            op = composite_of(made)
            body = core_body(op, types) if op is not None else None
            args = matched(body, total, given={0: tensor}) if body is not None else None
            if op is not None and args is not None:
                return total, op, args
    return None


def _below(value: Value, *kinds: type[Any]) -> tuple[list[Any], Any]:
    """The ops of some classes from a value down its first arguments, and the value below them."""
    found: list[Any] = []
    while isinstance(value.op, kinds):
        found.append(value)
        value = value.args[0]
    return found, value


def convolution(cone: Cone) -> Guesses:
    """Guesses of convolution."""
    out = cone.value.type
    for total in cone.ops(Reduce, 1):
        product = total.args[0]
        if total.op.kind != "sum" or label(product.op) != "multiply":
            continue
        for left, right in (product.args, product.args[::-1]):
            yield from _windows_of(out, behind(left)[:2], behind(right)[:2])


def _windows_of(out: TensorType, lefts: list[Any], rights: list[Any]) -> Guesses:
    """Convolutions whose windows are one factor, and whose weight the other."""
    for left, right in itertools.product(lefts, rights):
        if not isinstance(left.op, Ungroup) or not isinstance(right.op, Ungroup):
            continue
        unfolds, below = _below(left.args[0], Unfold)
        if not unfolds:
            continue
        weight = right.args[0]
        while label(weight.op) == "cast":
            weight = weight.args[0]
        unfolds.reverse()
        spatial = len(unfolds)
        lead: int = unfolds[0].op.axis - 1
        pads: list[tuple[int, int]] = [(0, 0)] * spatial
        for padded in (True, False):
            x = below
            if padded and isinstance(below.op, Pad):
                pads = [(0, 0) if w is None else (w[0], w[1]) for w in below.op.widths[lead + 1 :]]
                x = below.args[0]
            elif padded:
                continue
            else:
                pads = [(0, 0)] * spatial
            groups = left.op.sizes[lead][0] if len(left.op.sizes[lead]) == 3 else 1
            attributes: dict[str, Any] = {
                "stride": tuple(u.op.stride for u in unfolds), "dilation": tuple(u.op.dilation for u in unfolds),
                "padding": tuple(pads), "groups": groups,
            }  # fmt: skip
            kinds = [x.type.with_dtype(out.dtype), weight.type.with_dtype(out.dtype)]
            bias = TensorType((weight.shape[0],), out.dtype)
            yield guess("convolution", (*kinds, bias), **attributes)
            yield guess("convolution", tuple(kinds), **attributes)


# --- pools -------------------------------------------------------------------------------------------------


def pools(cone: Cone) -> Guesses:
    """Guesses of pools."""
    for v in cone.ops(Reduce, 1):
        ungrouped, _ = _below(v.args[0], Ungroup)
        unfolds, below = _below(ungrouped[-1].args[0] if ungrouped else v.args[0], Unfold)
        if unfolds:
            unfolds.reverse()
            kernel, stride, dilation = ([getattr(u.op, k) for u in unfolds] for k in ("kernel", "stride", "dilation"))
            spatial = len(unfolds)
            widths = below.op.widths[-spatial:] if isinstance(below.op, Pad) else (None,) * spatial
            padding = tuple(0 if w is None else w[0] for w in widths)
            x = below.args[0] if isinstance(below.op, Pad) else below
            own = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": padding}
            kind = x.type.with_dtype(cone.value.dtype)
            for ceil in (False, True):
                yield guess("max_pool", (kind,), **own, dilation=tuple(dilation), ceil=ceil)
                for counted in (True, False):
                    yield guess("avg_pool", (kind,), **own, ceil=ceil, count_include_pad=counted)


def adaptive(cone: Cone) -> Guesses:
    """Bins of the last axes: from what is split into them."""
    out = cone.value.type
    kinds = dict.fromkeys(v.args[0].type.with_dtype(out.dtype) for v in cone.ops(Ungroup, 6))
    for kind in kinds:
        if kind.rank != out.rank or kind is out:
            continue
        first = next(i for i, (a, b) in enumerate(zip(kind.shape, out.shape, strict=True)) if a != b)
        for axis in range(first, 0, -1):
            for name in ("adaptive_avg_pool", "adaptive_max_pool"):
                yield guess(name, (kind,), size=out.shape[axis:])


# --- attention ---------------------------------------------------------------------------------------------


def attention(cone: Cone) -> Guesses:
    """Guesses of attention."""
    out = cone.value.type
    sums = [v for v in cone.ops(Reduce, 12) if v.op.kind == "sum"]
    products = [v for v in sums if label(v.args[0].op) == "multiply" and v.op.axes == (v.args[0].rank - 2,)]
    if len(products) < 2 or out.rank < 2:
        return
    first, second = products[-1].args[0].shape, products[0].args[0].shape
    if len(first) < 3 or len(second) < 3:
        return
    (*batch, length, width, keys), value_width = first, second[-1]
    q = TensorType((*batch, length, width), out.dtype)
    repeats = any(v.rank == len(batch) + 3 and v.shape[-4:-3] != batch[-1:] for v in cone.ops(Repeat, 12))
    heads = [None, *(n for n in range(1, batch[-1]) if batch[-1] % n == 0)] if batch and repeats else [None]
    masked = (False, True) if cone.ops(Iota, 1) else (False,)
    scales = [None, 1.0, *(n for n in cone.numbers if n > 0 and math.isfinite(n))]
    masks: list[TensorType | None] = [None]
    whole = (*batch, length, keys)
    for v in cone.values:
        if not is_one(v) or not 2 <= v.rank <= len(whole) or v.shape[-2:] not in ((length, keys), (1, keys)):
            continue
        if all(a in (1, b) for a, b in zip(v.shape[::-1], whole[::-1], strict=False)):
            masks.append(v.type)
    for h, causal, mask, scale in itertools.product(heads, masked, dict.fromkeys(masks), scales):
        inner = batch if h is None else [*batch[:-1], h]
        k = TensorType((*inner, keys, width), out.dtype)
        v = TensorType((*inner, keys, value_width), out.dtype)
        yield guess("scaled_dot_product_attention", (q, k, v, mask), causal=causal, scale=scale, grouped=h is not None)


# --- moving entries ----------------------------------------------------------------------------------------


def reshape(cone: Cone) -> Guesses:
    """Guesses of reshape."""
    value = cone.value
    if isinstance(value.op, Ungroup) and isinstance(value.args[0].op, Group) and not _squeezed(value.args[0]):
        yield guess("reshape", (value.args[0].args[0].type,), shape=value.shape)


def _squeezed(value: Value) -> bool:
    """Whether a group drops what a reduction left: it belongs to the reduction."""
    return isinstance(value.args[0].op, Reduce)
