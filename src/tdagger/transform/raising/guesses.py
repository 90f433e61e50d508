"""Which composites may end at a value, on arguments of which types, with which attributes: a table by the op there.

A guess costs a body that is traced once for its types, and need not be right: :mod:`tdagger.transform.raising.lift`.
To raise one more composite, add a function to :data:`TABLE`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tdagger.composite import CompositeFunction, composites
from tdagger.graph import is_one, label
from tdagger.op import Value
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Const
from tdagger.ops.structure import Group, Pad, Reduce, Slice, Unfold, Ungroup
from tdagger.transform.rewrite.values import behind
from tdagger.types import TensorType

#: So many values below one are looked at.
CONE = 96
#: What is below ops of more arguments (concat) says nothing of a body above.
_WIDE = 4


class Guess(NamedTuple):
    """A composite on tensors of some types; ``given`` says which optional ones there are."""

    definition: CompositeFunction[Any, Any]
    types: tuple[TensorType, ...]
    attributes: Mapping[str, Any]
    given: tuple[bool, ...]


Guesses = Iterator[Guess]


def _guess(name: str, types: tuple[TensorType | None, ...], **attributes: Any) -> Guess:
    definition = composites[name]
    missing = len(definition.tensors) - len(types)
    every = (*types, *(None,) * missing)
    return Guess(definition, tuple(t for t in every if t is not None), attributes, tuple(t is not None for t in every))


class Cone:
    """What is below a value, nearest first, and what its ops say."""

    def __init__(self, value: Value) -> None:
        self.value = value
        found: dict[Value, None] = {value: None}
        for v in itertools.islice(_nearest(value, found), CONE):
            found[v] = None
        self.values = list(found)

    def ops(self, kind: type[Any], count: int = 3) -> list[Any]:
        """The nearest values of a class of op."""
        return list(itertools.islice((v for v in self.values if isinstance(v.op, kind)), count))

    @property
    def numbers(self) -> list[float]:
        """The numbers of float constants, as short as they can be written."""
        found: dict[float, None] = {}
        for v in self.values:
            if isinstance(v.op, Const) and v.op.data.size == 1 and v.dtype.is_float and v.dtype.bytes >= 4:
                data = v.op.data.reshape(())[()]
                found[float(str(data))] = None
                found[float(data)] = None
        return list(found)


def _nearest(value: Value, seen: dict[Value, None]) -> Iterator[Value]:
    level = [value]
    while level:
        further: list[Value] = []
        for v in level:
            for a in v.args if len(v.args) <= _WIDE else ():
                if a not in seen:
                    yield a
                    further.append(a)
        level = further


def guesses(value: Value) -> Guesses:
    """All guesses at a value."""
    if not is_one(value) or not value.args:
        return
    name = label(value.op)
    makers = [m for labels, m in TABLE if name in labels or (name == "cast" and "cast" not in labels)]
    if makers:
        cone = Cone(value)
        for maker in makers:
            yield from maker(cone)


# --- element by element ------------------------------------------------------------------------------------


def _elementwise(*names: str, arguments: int = 1) -> Callable[[Cone], Guesses]:
    """Composites of arguments of the result's type, whose attributes are defaults or numbers that are there."""

    def make(cone: Cone) -> Guesses:
        kind = cone.value.type
        for name in names:
            floats = [k for k, v in composites[name].defaults.items() if v is None or isinstance(v, float)]
            yield _guess(name, (kind,) * arguments)
            if 1 <= len(floats) <= 2:
                near = [n for n in cone.numbers if not math.isnan(n)][:4]
                for chosen in itertools.product(near, repeat=len(floats)):
                    yield _guess(name, (kind,) * arguments, **dict(zip(floats, chosen, strict=True)))

    return make


def _gelu(cone: Cone) -> Guesses:
    for how in ("none", "tanh"):
        yield _guess("gelu", (cone.value.type,), approximate=how)


def _limits(cone: Cone) -> Guesses:
    near = cone.numbers[:2]
    for name, low, high in (("hardtanh", "low", "high"), ("clamp", "low", "high")):
        for a, b in itertools.permutations([*near, *([None] if name == "clamp" else [])], 2):
            yield _guess(name, (cone.value.type,), **{low: a, high: b})


# --- along axes --------------------------------------------------------------------------------------------


def _reduced(cone: Cone) -> Iterator[tuple[TensorType, tuple[int, ...]]]:
    """The types that a nearby reduction takes, in the element type of the result too, and its axes."""
    for v in cone.ops(Reduce):
        kind = v.args[0].type
        for k in dict.fromkeys((kind, kind.with_dtype(cone.value.dtype))):
            yield k, v.op.axes


def _reduction(*names: str) -> Callable[[Cone], Guesses]:
    def make(cone: Cone) -> Guesses:
        for kind, axes in _reduced(cone):
            for name in names:
                for keep in (True, False):
                    yield _guess(name, (kind,), axes=axes, keep=keep)
                    if name in ("variance", "std"):
                        yield _guess(name, (kind,), axes=axes, keep=keep, correction=0.0)
                    if name == "vector_norm":
                        for ord_ in (1.0, math.inf):
                            yield _guess(name, (kind,), axes=axes, keep=keep, ord=ord_)

    return make


def _along(*names: str) -> Callable[[Cone], Guesses]:
    def make(cone: Cone) -> Guesses:
        for _, axes in _reduced(cone):
            if len(axes) == 1:
                for name in names:
                    yield _guess(name, (cone.value.type,), axis=axes[0])

    return make


def _glu(cone: Cone) -> Guesses:
    for v in cone.ops(Slice, 1):
        kind = v.args[0].type.with_dtype(cone.value.dtype)
        for axis, bounds in enumerate(v.op.bounds):
            if bounds is not None:
                yield _guess("glu", (kind,), axis=axis)


def _normalize(cone: Cone) -> Guesses:
    for _, axes in _reduced(cone):
        for eps in cone.numbers:
            yield _guess("normalize", (cone.value.type,), axes=axes, eps=eps)


# --- norms -------------------------------------------------------------------------------------------------

_AFFINE = ((True, True), (True, False), (False, True), (False, False))


def _last_axes(cone: Cone) -> Guesses:
    """layer_norm and rms_norm: their reductions say how many axes."""
    kind = cone.value.type
    for _, axes in _reduced(cone):
        rank = len(axes)
        if axes != tuple(range(kind.rank - rank, kind.rank)):
            continue
        weight = TensorType(kind.shape[kind.rank - rank :], kind.dtype)
        for eps in _eps(cone):
            for w, b in _AFFINE:
                yield _guess("layer_norm", (kind, weight if w else None, weight if b else None), rank=rank, eps=eps)
            for w in (True, False):
                yield _guess("rms_norm", (kind, weight if w else None), rank=rank, eps=eps)


def _eps(cone: Cone) -> list[float | None]:
    return [n for n in cone.numbers if 0 < n < 0.1]


def _channels(cone: Cone) -> Guesses:
    """batch_norm, group_norm and instance_norm: vectors along axis 1."""
    kind = cone.value.type
    if kind.rank < 2:
        return
    for axis in dict.fromkeys((1, kind.rank - 1)):
        vector = TensorType((kind.shape[axis],), kind.dtype)
        for eps in _eps(cone):
            for w, b in _AFFINE:
                affine = (vector if w else None, vector if b else None)
                yield _guess("batch_norm", (kind, vector, vector, *affine), eps=eps, axis=axis)
                if axis != 1:
                    continue
                yield _guess("instance_norm", (kind, *affine), eps=eps)
                for v in cone.ops(Ungroup, 6):
                    if len(v.op.sizes) > 1 and len(v.op.sizes[1]) == 2:
                        yield _guess("group_norm", (kind, *affine), eps=eps, groups=v.op.sizes[1][0])


# --- products ----------------------------------------------------------------------------------------------


def _sums(cone: Cone) -> Iterator[Any]:
    """Nearby sums of products over one axis."""
    for v in cone.ops(Reduce, 2):
        if v.op.kind == "sum" and len(v.op.axes) == 1 and label(v.args[0].op) == "multiply":
            yield v


def _linear(cone: Cone) -> Guesses:
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
        yield _guess("linear", (x, weight))
        yield _guess("linear", (x, weight, bias))


def _matmul(cone: Cone) -> Guesses:
    kind = cone.value.type
    for v in _sums(cone):
        product = v.args[0].type
        rank = product.rank
        if v.op.axes == (rank - 2,) and rank >= 3 and kind.rank == rank - 1:
            *batch, m, k, n = product.shape
            for left, right in ((batch, batch), (batch, []), ([], batch), *_own_batches(v.args[0], len(batch))):
                x, y = TensorType((*left, m, k), kind.dtype), TensorType((*right, k, n), kind.dtype)
                yield _guess("matmul", (x, y))
                yield _guess("addmm", (TensorType(kind.shape[-1:], kind.dtype), x, y))


def _own_batches(product: Value, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of both factors as they are before broadcasting."""
    sides = [behind(a)[-1].shape for a in product.args]
    yield tuple(list(s[: max(len(s) - 3, 0)]) for s in sides)  # type: ignore[misc]
    yield tuple(list(behind(a)[min(1, len(behind(a)) - 1)].shape[:count]) for a in product.args)  # type: ignore[misc]


def _embedding(cone: Cone) -> Guesses:
    value = cone.value
    if value.op is Gather(0, 0) and value.args[0].rank == 2:
        yield _guess("embedding", tuple(a.type for a in value.args))


def _below(value: Value, *kinds: type[Any]) -> tuple[list[Any], Any]:
    """The ops of some classes from a value down its first arguments, and the value below them."""
    found: list[Any] = []
    while isinstance(value.op, kinds):
        found.append(value)
        value = value.args[0]
    return found, value


def _convolution(cone: Cone) -> Guesses:
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
            yield _guess("convolution", (*kinds, bias), **attributes)
            yield _guess("convolution", tuple(kinds), **attributes)


# --- pools -------------------------------------------------------------------------------------------------


def _pools(cone: Cone) -> Guesses:
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
                yield _guess("max_pool", (kind,), **own, dilation=tuple(dilation), ceil=ceil)
                for counted in (True, False):
                    yield _guess("avg_pool", (kind,), **own, ceil=ceil, count_include_pad=counted)


def _adaptive(cone: Cone) -> Guesses:
    """Bins of the last axes: from what is split into them."""
    out = cone.value.type
    kinds = dict.fromkeys(v.args[0].type.with_dtype(out.dtype) for v in cone.ops(Ungroup, 6))
    for kind in kinds:
        if kind.rank != out.rank or kind is out:
            continue
        first = next(i for i, (a, b) in enumerate(zip(kind.shape, out.shape, strict=True)) if a != b)
        for axis in range(first, 0, -1):
            for name in ("adaptive_avg_pool", "adaptive_max_pool"):
                yield _guess(name, (kind,), size=out.shape[axis:])


# --- attention ---------------------------------------------------------------------------------------------


def _attention(cone: Cone) -> Guesses:
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
    heads = [None, *(n for n in range(1, batch[-1]) if batch[-1] % n == 0)] if batch else [None]
    scales = [None, 1.0, *(n for n in cone.numbers if n > 0 and math.isfinite(n))]
    masks: list[TensorType | None] = [None]
    whole = (*batch, length, keys)
    for v in cone.values:
        if not is_one(v) or not 2 <= v.rank <= len(whole) or v.shape[-2:] not in ((length, keys), (1, keys)):
            continue
        if all(a in (1, b) for a, b in zip(v.shape[::-1], whole[::-1], strict=False)):
            masks.append(v.type)
    for h, causal, mask, scale in itertools.product(heads, (False, True), dict.fromkeys(masks), scales):
        inner = batch if h is None else [*batch[:-1], h]
        k = TensorType((*inner, keys, width), out.dtype)
        v = TensorType((*inner, keys, value_width), out.dtype)
        yield _guess("scaled_dot_product_attention", (q, k, v, mask), causal=causal, scale=scale, grouped=h is not None)


# --- moving entries ----------------------------------------------------------------------------------------


def _reshape(cone: Cone) -> Guesses:
    value = cone.value
    if isinstance(value.op, Ungroup) and isinstance(value.args[0].op, Group) and not _squeezed(value.args[0]):
        yield _guess("reshape", (value.args[0].args[0].type,), shape=value.shape)


def _squeezed(value: Value) -> bool:
    """Whether a group drops what a reduction left: it belongs to the reduction."""
    return isinstance(value.args[0].op, Reduce)


#: By the labels of the ops that a body may end with in f32; all end with a cast for narrower floats.
TABLE: tuple[tuple[tuple[str, ...], Callable[[Cone], Guesses]], ...] = (
    (("max", "min"), _elementwise("relu", "relu6")),
    (("max", "min"), _limits),
    (("multiply",), _elementwise("silu", "mish", "selu", "hard_swish", "square")),
    (("multiply",), _gelu),
    (("multiply",), _elementwise("divide", arguments=2)),
    (("multiply",), _elementwise("hard_sigmoid", "log2", "log10", "softsign")),
    (("reciprocal",), _elementwise("sigmoid", "rsqrt")),
    (("where",), _elementwise("leaky_relu", "elu", "celu", "softplus")),
    (("add",), _elementwise("subtract", arguments=2)),
    (("add",), _elementwise("log_sigmoid", "tanh_shrink")),
    (("exp",), _elementwise("gaussian")),
    (("multiply", "group", "ungroup"), _reduction("mean", "variance")),
    (("sqrt",), _reduction("std", "vector_norm")),
    (("add", "reduce"), _reduction("logsumexp")),
    (("reduce", "group", "ungroup"), _reduction("vector_norm", "logsumexp")),
    (("multiply", "add"), _along("softmax", "log_softmax")),
    (("multiply",), _glu),
    (("multiply",), _normalize),
    (("multiply", "add"), _last_axes),
    (("add", "multiply", "group"), _channels),
    (("add", "group", "ungroup"), _linear),
    (("group", "ungroup", "add"), _matmul),
    (("gather",), _embedding),
    (("add", "group"), _convolution),
    (("group", "multiply", "reduce"), _pools),
    (("group", "multiply"), _adaptive),
    (("group", "ungroup"), _attention),
    (("ungroup",), _reshape),
)
