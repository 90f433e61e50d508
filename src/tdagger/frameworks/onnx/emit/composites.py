"""How each composite is written as ONNX: one row each. A composite without a row is written as its body.

A row is the name of an operator that takes the composite's tensors, or a function of (writer, value, tensors and
attributes by name). A condition says for which arguments the row holds; else the body is written. A row gives what
rows of core ops give: a name, or a value that stands for the composite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.composite import Composite
from tdagger.frameworks.onnx.emit import core, elementwise, quantized
from tdagger.frameworks.onnx.emit.core import every_axis
from tdagger.frameworks.onnx.emit.kernels import computed_in, takes
from tdagger.frameworks.onnx.emit.moves import moved, with_shape
from tdagger.frameworks.onnx.emit.recurrent import is_network, network
from tdagger.frameworks.onnx.emit.writer import Row, Writer, has_sizes
from tdagger.frameworks.writing import SAME, Fields, fields, permuted, unbroadcast
from tdagger.op import Value
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Parameter
from tdagger.ops.structure import slice_axis, squeeze, unsqueeze
from tdagger.transform.legal import identities as special
from tdagger.types import DType, Size, TensorType, bool_, each_type, i64, in_numbers

#: Whether the row holds, given the composite's attributes, the types of its arguments, and the operator set.
Condition = Callable[[Fields, Sequence[TensorType]], bool]

F32 = DType.of("f32")


class Rule(NamedTuple):
    """An operator or function, what else must hold, the first operator set that has it.

    ``kernel`` is the operator whose kernel must take the element type as it is (an operator is its own); else the body
    is written.
    """

    write: str | Callable[[Writer, Value, Fields], Any]
    when: Condition | None = None
    since: int = 18
    kernel: str = ""


# --- helpers for rows --------------------------------------------------------------------------------------


def _is(v: Value, f: Fields, name: str) -> Value | None:
    """A tensor of the composite by its name; None if it wasn't given."""
    found = f[name]
    return found if isinstance(found, Value) else None


def _elementwise(op: str, **options: Any) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        return w.typed(op, v.dtype, w.operands(v.args), **options)

    return write


def _with(op: str, **names: str) -> Callable[[Writer, Value, Fields], str]:
    """An operator of one tensor whose attributes are the composite's: ``alpha="slope"``."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        options: dict[str, Any] = {k: float(f[n]) for k, n in names.items()}
        return w.typed(op, v.dtype, [w.ref(v.args[0])], **options)

    return write


def _clip(w: Writer, x: Value, low: Any, high: Any) -> str:
    """Clip, in the element type its kernel takes; numbers that the type can't hold say nothing."""
    to = computed_in("Clip", x.dtype)
    if to.is_float:  # without a bound it takes the largest number, and not infinity
        low, high = -math.inf if low is None else low, math.inf if high is None else high
    bounds = ["" if b is None else w.scalar(b, to) for b in (low, high)]
    name = w.cast(w.ref(x), x.dtype, to)
    return w.cast(w.node("Clip", [name, *bounds] if bounds[1] else [name, bounds[0]]), to, x.dtype)


def _clamp(w: Writer, v: Value, f: Fields) -> Any:
    if f["low"] is None and f["high"] is None:
        return v.args[0]
    return _clip(w, v.args[0], f["low"], f["high"])


def _has_bounds(f: Fields, types: Sequence[TensorType]) -> bool:
    """Bounds that the element type holds: those of the body are of it too."""
    return not types[0].dtype.is_complex and types[0].dtype is not bool_


def _over_axes(op: str) -> Callable[[Writer, Value, Fields], str]:
    """A reduction with ``axes`` and ``keep``."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        return w.typed(op, v.dtype, [w.ref(v.args[0]), w.ints(f["axes"])], keepdims=int(f["keep"])) if (
            takes(op, v.dtype)
        ) else w.cast(
            w.node(op, [w.cast(w.ref(v.args[0]), v.dtype, F32), w.ints(f["axes"])], keepdims=int(f["keep"])),
            F32, v.dtype,
        )  # fmt: skip

    return write


def _float_axes(f: Fields, types: Sequence[TensorType]) -> bool:
    """Over some axes, of floats, with entries (of none onnxruntime says 0 where it should be NaN)."""
    return types[0].dtype.is_float and len(f["axes"]) > 0 and 0 not in types[0].shape


def _spread(root: bool) -> Callable[[Writer, Value, Fields], str]:
    """The variance over axes some of which have no number: the count is worked out of the shapes."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x = v.args[0]
        to = computed_in("ReduceMean", x.dtype)
        name, axes = w.cast(w.ref(x), x.dtype, to), w.ints(f["axes"])
        away = w.node("Sub", [name, w.node("ReduceMean", [name, axes], keepdims=1)])
        total = w.node("ReduceSum", [w.node("Mul", [away, away]), axes], keepdims=int(f["keep"]))
        count = w.node("Sub", [w.size(math.prod([x.shape[a] for a in f["axes"]]), to), w.scalar(f["correction"], to)])
        out = w.node("Div", [total, w.node("Max", [count, w.scalar(0, to)])])
        return w.cast(w.node("Sqrt", [out]) if root else out, to, x.dtype)

    return write


def _counts_sizes(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.is_float and has_sizes(tuple([types[0].shape[a] for a in f["axes"]]))


def _arg(op: str) -> Callable[[Writer, Value, Fields], str]:
    """The first of equals; where NaN is, onnxruntime says nothing of the order."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x = v.args[0]
        to = computed_in(op, x.dtype)
        return w.node(op, [w.cast(w.ref(x), x.dtype, to)], axis=f["axis"], keepdims=int(f["keep"]))

    return write


def _orders(f: Fields, types: Sequence[TensorType]) -> bool:
    return not types[0].dtype.is_complex and types[0].dtype.name != "u64" and 0 not in types[0].shape


def _topk(w: Writer, v: Value, f: Fields) -> tuple[str, str]:
    """Values and places; where NaN is, onnxruntime says nothing of the order."""
    x = v.args[0]
    to = computed_in("TopK", x.dtype)
    found = w.node("TopK", [w.cast(w.ref(x), x.dtype, to), w.ints([f["k"]])], 2, axis=f["axis"],
                   largest=int(f["largest"]), sorted=1)  # fmt: skip
    return w.cast(found[0], to, x.dtype), found[1]


def _along(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.is_float and types[0].rank > 0


def _axis(op: str) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        return w.typed(op, v.dtype, [w.ref(v.args[0])], axis=f["axis"])

    return write


def _flattened(w: Writer, x: Value, after: int) -> tuple[str, TensorType]:
    """``x`` with one axis before its last ``after``: the batch that operators want."""
    lead = x.rank - after
    if lead == 1:
        return w.ref(x), x.type
    shape = (math.prod(x.shape[:lead]), *x.shape[lead:])
    return with_shape(w, w.ref(x), x.type, shape), x.type.with_shape(shape)


def _back(w: Writer, name: str, out: TensorType, after: int) -> str:
    """The result of an operator on what :func:`_flattened` made, with the axes there were."""
    lead = out.rank - after
    if lead == 1:
        return name
    flat = out.with_shape((math.prod(out.shape[:lead]), *out.shape[lead:]))
    return with_shape(w, name, flat, out.shape)


# --- linear ------------------------------------------------------------------------------------------------


def transposed(w: Writer, weight: Value, dtype: DType, to: DType) -> str:
    """A matrix with its last two axes exchanged; a weight that only linear layers use lies so in the file."""
    base, order = permuted(weight)
    turned = list(order)
    turned[-1], turned[-2] = turned[-2], turned[-1]
    if turned == list(range(weight.rank)):
        return w.cast(w.ref(base), dtype, to)
    quantized_matrix = quantized.transposed(w, weight)
    if quantized_matrix is not None:
        return w.cast(quantized_matrix, dtype, to)
    leaf = w.weight(weight)
    if leaf is not None and all(u.op.name == "linear" and u.args[0] is not leaf for u in w.users.get(leaf, ())):
        flipped = weight.type.with_shape(weight.shape[::-1])
        name = w.moved(leaf, "T", lambda a: np.ascontiguousarray(a.T), flipped)
        return w.cast(name, dtype, to)
    return w.cast(moved(w, "Transpose", dtype, [w.ref(base)], perm=tuple(turned)), dtype, to)


def _alike(f: Fields, types: Sequence[TensorType]) -> bool:
    """Numbers of one element type, and something to sum over."""
    x = types[0]
    return len({t.dtype for t in types}) == 1 and not x.dtype.is_complex and x.dtype is not bool_


def _multiplies(f: Fields, types: Sequence[TensorType]) -> bool:
    return _alike(f, types) and types[0].shape[-1] != 0 and types[0].dtype.name != "u64"


def _linear(w: Writer, v: Value, f: Fields) -> str:
    x, weight, bias = f["x"], f["weight"], _is(v, f, "bias")
    dtype = v.dtype
    to = computed_in("MatMul", dtype, moves=True)
    given = w.cast(w.ref(x), dtype, to)
    added = None if bias is None else w.cast(w.ref(unbroadcast(bias)), dtype, to)
    if x.rank == weight.rank == 2 and takes("Gemm", to):
        matrix = w.cast(w.ref(weight), dtype, to)
        inputs = [given, matrix] if added is None else [given, matrix, added]
        return w.cast(w.node("Gemm", inputs, transB=1), to, dtype)
    matrix = w.cast(w.ref(weight), dtype, to) if weight.rank == 1 else transposed(w, weight, dtype, to)
    out = w.node("MatMul", [given, matrix])
    return w.cast(out if added is None else w.node("Add", [out, added]), to, dtype)


def _matmul(w: Writer, v: Value, f: Fields) -> str:
    return w.typed("MatMul", v.dtype, [w.ref(a) for a in v.args], moves=True)


def _addmm(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("Gemm", v.dtype)
    bias, x, y = [w.cast(w.ref(a), v.dtype, to) for a in (unbroadcast(v.args[0]), *v.args[1:])]
    inputs = [x, y] if f["beta"] == 0 else [x, y, bias]
    return w.cast(w.node("Gemm", inputs, alpha=float(f["alpha"]), beta=float(f["beta"])), to, v.dtype)


def _matrices(f: Fields, types: Sequence[TensorType]) -> bool:
    bias, x, y = types
    fits = x.rank == y.rank == 2 and bias.rank <= 2 and _multiplies(f, types[1:]) and _alike(f, types)
    return fits and x.dtype.is_float and 0 not in (*x.shape, *y.shape)


def _einsum(w: Writer, v: Value, f: Fields) -> str:
    return w.typed("Einsum", v.dtype, [w.ref(a) for a in v.args], equation=f["equation"])


def _sums(f: Fields, types: Sequence[TensorType]) -> bool:
    """Operands of floats whose axes are all there: onnxruntime takes no letters twice and none that broadcast."""
    equation = f["equation"]
    terms = equation.replace("...", "").split("->")[0].split(",")
    sizes: dict[str, set[Any]] = {}
    for term, t in zip(terms, types, strict=False):
        for letter, n in zip(term, t.shape, strict=False):
            sizes.setdefault(letter, set()).add(n)
    plain = "..." not in equation and "->" in equation and all(len(set(t)) == len(t) for t in terms)
    return plain and _alike(f, types) and types[0].dtype.is_float and all(len(s) == 1 for s in sizes.values()) and (
        not any(0 in t.shape for t in types)
    )  # fmt: skip


def _embedding(w: Writer, v: Value, f: Fields) -> Any:
    return Gather(0, 0)(f["weight"], f["index"])


# --- convolution -------------------------------------------------------------------------------------------


def _convolution(w: Writer, v: Value, f: Fields) -> str:
    n = len(f["stride"])
    x: Value = f["x"]
    padding = f["padding"]
    for i, (low, high) in enumerate(padding, x.rank - n):  # what is negative crops
        if low < 0 or high < 0:
            x = slice_axis(x, i, max(-low, 0), min(high, 0) or None)
    pads = [max(low, 0) for low, _ in padding] + [max(high, 0) for _, high in padding]
    to = computed_in("Conv", v.dtype)
    name, _ = _flattened(w, x, n + 1)
    inputs = [name, w.ref(f["weight"]), *([] if _is(v, f, "bias") is None else [w.ref(f["bias"])])]
    out = w.node(
        "Conv", [w.cast(i, v.dtype, to) for i in inputs], strides=tuple(f["stride"]), pads=tuple(pads),
        dilations=tuple(f["dilation"]), group=f["groups"], kernel_shape=tuple(map(int, f["weight"].shape[2:])),
    )  # fmt: skip
    return _back(w, w.cast(out, to, v.dtype), v.type, n + 1)


def _convolves(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[1].rank <= 5 and _alike(f, types) and 0 not in (*types[0].shape, *types[1].shape)


def _convolution_transpose(w: Writer, v: Value, f: Fields) -> str:
    n = len(f["stride"])
    to = computed_in("ConvTranspose", v.dtype)
    name, _ = _flattened(w, f["x"], n + 1)
    inputs = [name, w.ref(f["weight"]), *([] if _is(v, f, "bias") is None else [w.ref(f["bias"])])]
    cut = tuple(f["padding"])
    added = [0 if e >= s else e for e, s in zip(f["output_padding"], f["stride"], strict=True)]  # else less is cut off
    ends = tuple([p - e + a for p, e, a in zip(cut, f["output_padding"], added, strict=True)])
    out = w.node(
        "ConvTranspose", [w.cast(i, v.dtype, to) for i in inputs], strides=tuple(f["stride"]), pads=cut + ends,
        dilations=tuple(f["dilation"]), group=f["groups"], output_padding=tuple(added),
        kernel_shape=tuple(map(int, f["weight"].shape[2:])),
    )  # fmt: skip
    return _back(w, w.cast(out, to, v.dtype), v.type, n + 1)


def _convolves_back(f: Fields, types: Sequence[TensorType]) -> bool:
    """onnxruntime wants what is added at the end to be less than a stride."""
    extra = zip(f["output_padding"], f["stride"], f["padding"], strict=True)
    return _convolves(f, types) and all(0 <= e < s or e <= p for e, s, p in extra) and min(f["padding"]) >= 0


# --- norms -------------------------------------------------------------------------------------------------


def _vector(w: Writer, v: Value | None, number: float, size: int, dtype: DType) -> str:
    """A weight, or a vector of one number where there is none."""
    if v is not None:
        return w.ref(v)
    if size.__class__ is Size:
        return w.node("Expand", [w.scalar(number, dtype), w.ints([size])])
    return w.const(np.full(int(size), number, dtype.numpy))


def _channel_norm(op: str, *statistics: str) -> Callable[[Writer, Value, Fields], str]:
    """A norm that scales and shifts channels, with further inputs."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x: Value = f["x"]
        after = x.rank - f["axis"]
        to = computed_in(op, v.dtype)
        name, _ = _flattened(w, x, after)
        size = x.shape[f["axis"]]
        weight, bias = (_vector(w, _is(v, f, n), d, size, v.dtype) for n, d in (("weight", 1), ("bias", 0)))
        inputs = [name, weight, bias, *[w.ref(f[n]) for n in statistics]]
        out = w.node(op, [w.cast(i, v.dtype, to) for i in inputs], epsilon=float(f["eps"]))
        return _back(w, w.cast(out, to, v.dtype), v.type, after)

    return write


def _normalises(f: Fields, types: Sequence[TensorType]) -> bool:
    """Of floats of one element type, computed in that or in f32."""
    return _alike(f, types) and types[0].dtype.is_float and 0 not in types[0].shape


def _of_f32(f: Fields, types: Sequence[TensorType]) -> bool:
    """What onnxruntime computes in f32, which is too little for f64."""
    return _normalises(f, types) and types[0].dtype.name != "f64"


def _group_norm(w: Writer, v: Value, f: Fields) -> str:
    """InstanceNormalization of the groups as channels; onnxruntime has no kernel of GroupNormalization."""
    x: Value = f["x"]
    axis, groups, dtype = f["axis"], f["groups"], v.dtype
    to = computed_in("InstanceNormalization", dtype)
    shape = (math.prod(x.shape[:axis]), groups, -1)
    target = w.ints([0 if axis == 1 else shape[0], groups, -1])
    name = w.node("Reshape", [w.cast(w.ref(x), dtype, to), target])
    ones, zeros = (_vector(w, None, n, groups, to) for n in (1, 0))
    out = w.node("InstanceNormalization", [name, ones, zeros], epsilon=float(f["eps"]))
    three = x.type.with_shape((shape[0], groups, math.prod(x.shape[axis:]) // groups)).with_dtype(to)
    out = with_shape(w, out, three, x.shape)
    for op, part in (("Mul", "weight"), ("Add", "bias")):
        value = _is(v, f, part)
        if value is not None:
            spread = w.ref(spread_over(value, x.rank - axis - 1))
            out = w.node(op, [out, w.cast(spread, dtype, to)])
    return w.cast(out, to, dtype)


def spread_over(vector: Value, axes: int) -> Value:
    """A vector with axes of size 1 after it."""
    return unsqueeze(vector, range(1, 1 + axes))


def _has_groups(f: Fields, types: Sequence[TensorType]) -> bool:
    return _of_f32(f, types)


def _layer_norm(w: Writer, v: Value, f: Fields) -> str:
    x: Value = f["x"]
    to = computed_in("LayerNormalization", v.dtype)
    weight, bias = _is(v, f, "weight"), _is(v, f, "bias")
    shape = x.shape[x.rank - f["rank"] :]
    scale = w.const(np.ones(shape, v.dtype.numpy)) if weight is None else w.ref(unbroadcast(weight))
    inputs = [w.ref(x), scale, *([] if bias is None else [w.ref(unbroadcast(bias))])]
    out = w.node("LayerNormalization", [w.cast(i, v.dtype, to) for i in inputs], axis=-f["rank"],
                 epsilon=float(f["eps"]))  # fmt: skip
    return w.cast(out, to, v.dtype)


def _has_shape(f: Fields, types: Sequence[TensorType]) -> bool:
    x = types[0]
    return _of_f32(f, types) and not has_sizes(x.shape[x.rank - f["rank"] :])


def _rms_norm(w: Writer, v: Value, f: Fields) -> str:
    """RMSNormalization, or before it the nodes that onnxruntime makes one of (SimplifiedLayerNormalization)."""
    x: Value = f["x"]
    dtype, weight = v.dtype, _is(v, f, "weight")
    to = F32 if dtype.bytes < 4 else dtype
    eps = f["eps"] if f["eps"] is not None else 2.0**-52 if to.bytes == 8 else 2.0**-23
    name = w.cast(w.ref(x), dtype, to)
    scale = None if weight is None else w.cast(w.ref(unbroadcast(weight)), dtype, to)
    if w.opset >= 23 and not has_sizes(x.shape[x.rank - f["rank"] :]):
        scale = scale or w.const(np.ones(x.shape[x.rank - f["rank"] :], to.numpy))
        out = w.node("RMSNormalization", [name, scale], axis=-f["rank"], epsilon=float(eps))
        return w.cast(out, to, dtype)
    squares = w.node("Pow", [name, w.scalar(2, to)])
    mean = w.node("ReduceMean", [squares, w.ints(range(-f["rank"], 0))], keepdims=1)
    root = w.node("Sqrt", [w.node("Add", [mean, w.scalar(eps, to)])])
    out = w.node("Div", [name, root])
    out = out if scale is None else w.node("Mul", [out, scale])
    return w.cast(out, to, dtype)


def _lrn(w: Writer, v: Value, f: Fields) -> str:
    return w.typed("LRN", v.dtype, [w.ref(v.args[0])], alpha=float(f["alpha"]), beta=float(f["beta"]),
                   bias=float(f["k"]), size=f["size"])  # fmt: skip


def _odd_neighbours(f: Fields, types: Sequence[TensorType]) -> bool:
    """onnxruntime takes images, and refuses even sizes (where ONNX and torch differ)."""
    return _of_f32(f, types) and f["axis"] == 1 and types[0].rank == 4 and f["size"] % 2 == 1


# --- attention ---------------------------------------------------------------------------------------------


#: What is added to the scores of keys that aren't seen, where that may be all keys of a query: its weights are numbers.
_UNSEEN = -1e38


def _attention(w: Writer, v: Value, f: Fields) -> Any:
    """MatMul, Softmax, MatMul; a query that sees no key gives 0, which is seen to only where it may be.

    Masks are added, which takes runtimes a fifth of the time of a Where on the scores; what it takes to make one of
    bools is written once for all layers that share it.
    """
    from tdagger.library.attention import _heads  # pyright: ignore[reportPrivateUsage]

    q, k, value, mask = f["q"], f["k"], f["v"], _is(v, f, "mask")
    k, value = _heads(q, k, value, f["grouped"])
    dtype = v.dtype
    to = F32 if dtype.bytes < 4 else dtype
    scale = 1 / math.sqrt(q.shape[-1]) if f["scale"] is None else f["scale"]
    queries = w.cast(w.ref(q), dtype, to)
    keys = transposed(w, k, dtype, to)
    if scale != 1.0:  # on the queries, which have fewer entries than the scores
        queries = w.node("Mul", [queries, w.scalar(scale, to)])
    scores = w.node("MatMul", [queries, keys])
    added, some = _mask(w, mask, (q.shape[-2], k.shape[-2]) if f["causal"] else None, to)
    if added is not None:
        scores = w.node("Add", [scores, added])
    out = w.node("MatMul", [w.node("Softmax", [scores], axis=-1), w.cast(w.ref(value), value.dtype, to)])
    if some is not None and mask is not None and mask.dtype is bool_:
        out = w.node("Mul", [out, w.cast(some, bool_, to)])
    elif some is not None:  # the weights of a query that sees no key may be NaN, in its own row
        out = w.node("Where", [some, out, w.scalar(0, to)])
    return w.cast(out, to, dtype)


def _mask(w: Writer, mask: Value | None, causal: tuple[int, int] | None, to: DType) -> tuple[str | None, str | None]:
    """What is added to scores, and which queries see a key, where one may not: a column."""
    lowest = w.scalar(-math.inf, to)
    if mask is None:
        return None if causal is None else _below(w, *causal, to), None
    given = w.ref(unbroadcast(mask))
    certain = _sees(w, mask, causal is not None)
    if mask.dtype is bool_:
        if causal is not None:
            given = w.node("And", [given, _causal(w, *causal)])
        added = w.node("Where", [given, w.scalar(0, to), lowest if certain else w.scalar(_UNSEEN, to)])
        if certain:
            return added, None
        if not unbroadcast(mask).rank:
            return added, given
        kind = bool_ if w.opset >= 20 else DType.of("i32")  # which has ReduceMax of bools
        some = w.node("ReduceMax", [w.cast(given, bool_, kind), w.ints([-1])], keepdims=1)
        return added, w.cast(some, kind, bool_)
    given = w.cast(given, mask.dtype, to)
    if causal is not None:
        given = w.node("Where", [_causal(w, *causal), given, lowest])
    if certain:
        return given, None
    top = given if unbroadcast(mask).rank == 0 else w.node("ReduceMax", [given, w.ints([-1])], keepdims=1)
    return given, w.node("Greater", [top, lowest])


def _below(w: Writer, rows: int, columns: int, to: DType) -> str:
    """What is added to the scores of a causal attention."""
    if not has_sizes((rows, columns)) and rows * columns <= 1 << 16:
        return w.const(np.where(np.tri(int(rows), int(columns), dtype=np.bool_), 0, -np.inf).astype(to.numpy))
    return w.node("Where", [_causal(w, rows, columns), w.scalar(0, to), w.scalar(-math.inf, to)])


def _causal(w: Writer, rows: int, columns: int) -> str:
    """Where a query sees a key: at its own place and before."""
    if not has_sizes((rows, columns)) and rows * columns <= 1 << 16:
        return w.const(np.tri(int(rows), int(columns), dtype=np.bool_))
    row, column = (w.node("Range", [w.scalar(0, i64), w.size(n), w.scalar(1, i64)]) for n in (rows, columns))
    return w.node("GreaterOrEqual", [w.node("Unsqueeze", [row, w.ints([1])]), column])


def _sees(w: Writer, mask: Value, causal: bool) -> bool:
    """Whether it is certain that no query is masked from every key."""
    if causal:
        return False
    mask = unbroadcast(mask)
    data = w.array(mask)
    if data is not None:
        whole = data if data.dtype == np.bool_ else data != -math.inf
        return bool(whole.any(-1).all()) if whole.ndim else bool(whole)
    return mask.dtype is not bool_ and _is_finite(w, mask, 0)


def _is_finite(w: Writer, x: Value, depth: int) -> bool:
    """Whether no entry is -inf, as far as that is plain: weights, and choices, casts and moves of such numbers."""
    if depth > 16:
        return False
    x = unbroadcast(x)
    data = w.array(x)
    if data is not None:
        return bool((data != -math.inf).all())
    if isinstance(x.op, Parameter):
        return True  # a learned number
    if x.op.name == "where":
        return all(_is_finite(w, a, depth + 1) for a in x.args[1:])
    if x.op.name == "cast" and (not x.args[0].dtype.is_float or x.dtype.bytes >= x.args[0].dtype.bytes):
        return not x.args[0].dtype.is_float or _is_finite(w, x.args[0], depth + 1)
    if x.op.name in ("group", "ungroup", "reshape", "permute", "slice", "concat", "gather", "embedding"):
        tables = x.args[:1] if x.op.name in ("gather", "embedding") else x.args
        return all(_is_finite(w, a, depth + 1) for a in tables)
    return False


def _attends(f: Fields, types: Sequence[TensorType]) -> bool:
    q, k, v = types[:3]
    fits = len({q.dtype, k.dtype, v.dtype}) == 1 and q.dtype.is_float
    return fits and q.shape[-1] != 0 and 0 not in (*q.shape, *k.shape, *v.shape) and not has_sizes(q.shape[-1])


# --- pooling -----------------------------------------------------------------------------------------------


def _ends(x: TensorType, out: TensorType, f: Fields) -> tuple[tuple[int, ...], int]:
    """The padding on both sides, and whether to round up: with plain sizes the padding at the end says it as well.

    What hangs over doesn't count as padding does, so an average that counts padding keeps rounding up.
    """
    n = len(f["kernel"])
    padding = tuple(f["padding"])
    if not f["ceil"] or has_sizes(x.shape) or f.get("count_include_pad"):
        return padding * 2, int(f["ceil"])
    sizes = zip(x.shape[x.rank - n :], out.shape[out.rank - n :], f["kernel"], f["stride"], padding,
                f.get("dilation", (1,) * n), strict=True)  # fmt: skip
    ends = [max((w - 1) * s + (k - 1) * d + 1 - size - p, 0) for size, w, k, s, p, d in sizes]
    return (*padding, *ends), 0


def _max_pool(results: int) -> Callable[[Writer, Value, Fields], Any]:
    """MaxPool, whose kernel drops NaN; its Indices count over all planes, ours within one."""

    def write(w: Writer, v: Value, f: Fields) -> Any:
        x: Value = f["x"]
        n = len(f["kernel"])
        to = computed_in("MaxPool", x.dtype)
        types: Any = each_type(v.type)
        name = _flattened(w, x, n + 1)[0] if x.rank > n else with_shape(w, w.ref(x), x.type, (1, 1, *x.shape))
        pads, ceil = _ends(x.type, types[0], f)
        out = w.node(
            "MaxPool", [w.cast(name, x.dtype, to)], results, kernel_shape=tuple(f["kernel"]),
            strides=tuple(f["stride"]), pads=pads, dilations=tuple(f["dilation"]), ceil_mode=ceil,
        )  # fmt: skip
        names: Any = out if results == 2 else (out,)
        found: list[str] = [w.cast(names[0], to, x.dtype)]
        if results == 2:
            plane = math.prod(x.shape[x.rank - n :])
            found.append(w.node("Mod", [names[1], w.size(plane)]))
        shaped = [_unflattened(w, a, t, n) for a, t in zip(found, types, strict=True)]
        return shaped[0] if results == 1 else tuple(shaped)

    return write


def _unflattened(w: Writer, name: str, out: TensorType, n: int) -> str:
    if out.rank > n:
        return _back(w, name, out, n + 1)
    return with_shape(w, name, out.with_shape((1, 1, *out.shape)), out.shape)


def _pools(f: Fields, types: Sequence[TensorType]) -> bool:
    """One to three axes of floats with entries; what is padded at an end is less than a window."""
    x, n = types[0], len(f["kernel"])
    if n > 3 or 0 in x.shape or not x.dtype.is_float or has_sizes(f["kernel"]):
        return False
    return not f["ceil"] or all(s <= k - p for s, k, p in zip(f["stride"], f["kernel"], f["padding"], strict=True))


def _avg_pool(w: Writer, v: Value, f: Fields) -> str:
    x: Value = f["x"]
    n = len(f["kernel"])
    to = computed_in("AveragePool", x.dtype)
    name, _ = _flattened(w, x, n + 1)
    divisor = f["divisor"]
    pads, ceil = _ends(x.type, v.type, f)
    out = w.node(
        "AveragePool", [w.cast(name, x.dtype, to)], kernel_shape=tuple(f["kernel"]), strides=tuple(f["stride"]),
        pads=pads, ceil_mode=ceil,
        count_include_pad=int(f["count_include_pad"] or divisor is not None),
    )  # fmt: skip
    if divisor is not None:
        out = w.node("Mul", [out, w.scalar(math.prod(f["kernel"]) / divisor, to)])
    return _back(w, w.cast(out, to, x.dtype), v.type, n + 1)


def _averages(f: Fields, types: Sequence[TensorType]) -> bool:
    """As :func:`_pools`; of rounding up, what counts padding must not reach where ONNX drops no window."""
    x, n = types[0], len(f["kernel"])
    if x.dtype.name == "f64" or x.rank <= n or not _pools(f, types):
        return False
    if not f["ceil"]:
        return True
    if f["divisor"] is not None or has_sizes(x.shape):
        return False
    windows = zip(x.shape[x.rank - n :], f["kernel"], f["stride"], f["padding"], strict=True)
    return not f["count_include_pad"] or all(
        (-(-(size + 2 * p - k) // s)) * s < size + p for size, k, s, p in windows
    )  # fmt: skip


def _adaptive(w: Writer, v: Value, f: Fields) -> str:
    """The mean of whole axes, or windows that lie end to end."""
    x: Value = f["x"]
    n = len(f["size"])
    axes = [i for i, size in enumerate(f["size"], x.rank - n) if size == 1]
    if len(axes) == n:
        to = computed_in("ReduceMean", x.dtype)
        if n >= 1 and x.rank == n + 2 and takes("GlobalAveragePool", x.dtype):
            return w.node("GlobalAveragePool", [w.ref(x)])
        out = w.node("ReduceMean", [w.cast(w.ref(x), x.dtype, to), w.ints(axes)], keepdims=1)
        return w.cast(out, to, x.dtype)
    kernel = tuple([n // (n if s is None else s) for n, s in zip(x.shape[x.rank - n :], f["size"], strict=True)])
    to = computed_in("AveragePool", x.dtype)
    name, _ = _flattened(w, x, n + 1)
    out = w.node("AveragePool", [w.cast(name, x.dtype, to)], kernel_shape=kernel, strides=kernel)
    return _back(w, w.cast(out, to, x.dtype), v.type, n + 1)


def _evenly(f: Fields, types: Sequence[TensorType]) -> bool:
    x, n = types[0], len(f["size"])
    if not x.dtype.is_float or 0 in x.shape:
        return False
    if all(s == 1 for s in f["size"]):
        return True
    sizes = x.shape[x.rank - n :]
    whole = all(s is None or (s and not has_sizes(k) and k % s == 0) for k, s in zip(sizes, f["size"], strict=True))
    return whole and n <= 3 and x.rank > n and x.dtype.name != "f64" and not has_sizes(sizes)


# --- resizing ----------------------------------------------------------------------------------------------

_MODES = {"nearest": "nearest", "linear": "linear", "cubic": "cubic"}


def _interpolate(w: Writer, v: Value, f: Fields) -> str:
    """Resize to sizes, which says the scales by them; the conditions see to it that they are the same."""
    x: Value = f["x"]
    n = len(f["size"])
    to = computed_in("Resize", x.dtype)
    scales = f["scale"]
    how = "align_corners" if f["align_corners"] else "asymmetric" if f["mode"] == "nearest" else "half_pixel"
    options: dict[str, Any] = {"mode": _MODES[f["mode"]], "coordinate_transformation_mode": how}
    if f["mode"] == "nearest":
        options["nearest_mode"] = "floor"
    if f["mode"] == "cubic":
        options["cubic_coeff_a"] = -0.5 if f["antialias"] else -0.75
    if f["antialias"]:
        options |= {"antialias": 1, "exclude_outside": 1}
    name, flat = _flattened(w, x, n + 1) if x.rank > n else (w.ref(x), x.type)
    if scales is not None or has_sizes(x.shape):
        factors = scales or [s / k for s, k in zip(f["size"], x.shape[x.rank - n :], strict=True)]
        where = ["", w.const(np.array([1.0] * (flat.rank - n) + list(factors), np.float32))]
    else:
        where = ["", "", w.ints([*map(int, flat.shape[: flat.rank - n]), *f["size"]])]
    out = w.node("Resize", [w.cast(name, x.dtype, to), *where], **options)
    return _back(w, w.cast(out, to, x.dtype), v.type, n + 1) if x.rank > n else w.cast(out, to, x.dtype)


def _resizes(f: Fields, types: Sequence[TensorType]) -> bool:
    """Scales that mean exactly ours: none were given, or whole ones, or those that the sizes say.

    Nearest by a fraction rounds positions otherwise, and is gathered.
    """
    x, n = types[0], len(f["size"])
    if f["mode"] not in _MODES or not x.dtype.is_float or x.dtype.name == "f64" or 0 in (*x.shape, *f["size"]):
        return False
    sizes = in_numbers(x.shape[x.rank - n :])
    pairs = list(zip(sizes, in_numbers(f["size"]), f["scale"] or (None,) * n, strict=True))
    whole = all(s % k == 0 for k, s, _ in pairs)
    exact = all(c is None or c == s / k for k, s, c in pairs)
    if not exact or (has_sizes(x.shape) and not (whole and not f["align_corners"])):
        return False
    if f["mode"] == "nearest":
        return whole
    if f["antialias"]:
        return False  # onnxruntime's taps differ from torch's where entries are skipped by fractions
    return n == 2 if f["mode"] == "cubic" else n <= 3 and (f["mode"] == "linear") and x.rank > n


#: Ways to sample that are called otherwise since operator set 20.
_SAMPLES = {"bilinear": "linear", "bicubic": "cubic"}


def _grid_sample(w: Writer, v: Value, f: Fields) -> str:
    dims = f["grid"].shape[-1]
    to = computed_in("GridSample", v.dtype)
    x, _ = _flattened(w, f["x"], dims + 1)
    grid, _ = _flattened(w, f["grid"], dims + 1)
    mode: Any = f["mode"] if w.opset < 20 else _SAMPLES.get(f["mode"], f["mode"])
    out = w.node(
        "GridSample", [w.cast(x, v.dtype, to), w.cast(grid, v.dtype, to)], mode=mode,
        padding_mode=f["padding"], align_corners=int(f["align_corners"]),
    )  # fmt: skip
    return _back(w, w.cast(out, to, v.dtype), v.type, dims + 1)


def _samples(f: Fields, types: Sequence[TensorType]) -> bool:
    """Of nearest positions between two entries ONNX reflects after rounding, torch before."""
    grid = types[1]
    ties = f["mode"] == "nearest" and f["padding"] == "reflection"
    return _normalises(f, types) and not ties and 0 not in grid.shape and grid.shape[-1] == 2


# --- shape -------------------------------------------------------------------------------------------------


def _pad_mode(mode: str) -> Rule:
    def write(w: Writer, v: Value, f: Fields) -> str:
        if not any(map(any, f["widths"])):
            return w.ref(v.args[0])
        to = computed_in("Pad", v.dtype, moves=True)
        pads = w.ints(every_axis([*[None] * (v.rank - len(f["widths"])), *f["widths"]]))
        return w.cast(w.node("Pad", [w.cast(w.ref(v.args[0]), v.dtype, to), pads], mode=mode), to, v.dtype)

    def when(f: Fields, types: Sequence[TensorType]) -> bool:
        plain = all(n >= 0 for p in f["widths"] for n in p)
        return plain and 0 not in types[0].shape and not types[0].dtype.is_complex and types[0].dtype is not bool_

    return Rule(write, when)


def _pixel_shuffle(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("DepthToSpace", v.dtype)
    name, _ = _flattened(w, v.args[0], 3)
    out = w.node("DepthToSpace", [w.cast(name, v.dtype, to)], blocksize=f["factor"], mode="CRD")
    return _back(w, w.cast(out, to, v.dtype), v.type, 3)


def _shuffles(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.name in ("f32", "f16", "bf16", "f64", "i8", "u8") and 0 not in types[0].shape


def _trilu(upper: int) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        return moved(w, "Trilu", v.dtype, [w.ref(v.args[0])], [w.scalar(f["diagonal"], i64)], upper=upper)

    return write


def _planes(f: Fields, types: Sequence[TensorType]) -> bool:
    return not types[0].dtype.is_complex and types[0].rank >= 2 and 0 not in types[0].shape


def _tile(w: Writer, v: Value, f: Fields) -> str:
    x = v.args[0]
    new = len(f["repeats"]) - x.rank
    name = with_shape(w, w.ref(x), x.type, (*[1] * new, *x.shape))
    return moved(w, "Tile", v.dtype, [name], [w.ints(f["repeats"])])


def _tiles(f: Fields, types: Sequence[TensorType]) -> bool:
    return not types[0].dtype.is_complex and 0 not in (*types[0].shape, *f["repeats"]) and types[0].rank > 0


def _over_count(w: Writer, v: Value, f: Fields) -> str:
    """Divided by a number of entries, which may be that of an axis without a number."""
    x = v.args[0]
    to = computed_in("Div", x.dtype)
    count = math.prod([x.shape[a] for a in f["axes"]])
    if count.__class__ is Size:
        number = w.size(count, to)
        number = w.node("Sqrt", [number]) if f["root"] else number
    else:
        number = w.scalar(math.sqrt(count) if f["root"] else float(count), to)
    return w.cast(w.node("Div", [w.cast(w.ref(x), x.dtype, to), number]), to, x.dtype)


def _first(w: Writer, v: Value, f: Fields) -> Value:
    return v.args[0]


# --- activations -------------------------------------------------------------------------------------------


def _silu(w: Writer, v: Value, f: Fields) -> str:
    """``x * sigmoid(x)``: the two nodes that onnxruntime makes one of."""
    to = computed_in("Sigmoid", v.dtype)
    x = w.cast(w.ref(v.args[0]), v.dtype, to)
    return w.cast(w.node("Mul", [x, w.node("Sigmoid", [x])]), to, v.dtype)


def _mish(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("Softplus", v.dtype)
    x = w.cast(w.ref(v.args[0]), v.dtype, to)
    return w.cast(w.node("Mul", [x, w.node("Tanh", [w.node("Softplus", [x])])]), to, v.dtype)


def _gelu(w: Writer, v: Value, f: Fields) -> Any:
    if w.opset < 20 and f["approximate"] != "none":
        return w.body(v)
    to = computed_in("Gelu", v.dtype)
    x = w.cast(w.ref(v.args[0]), v.dtype, to)
    if w.opset >= 20:
        return w.cast(w.node("Gelu", [x], approximate=None if f["approximate"] == "none" else "tanh"), to, v.dtype)
    inner = w.node("Erf", [w.node("Div", [x, w.scalar(math.sqrt(2), to)])])
    out = w.node("Mul", [x, w.node("Add", [inner, w.scalar(1, to)])])
    return w.cast(w.node("Mul", [out, w.scalar(0.5, to)]), to, v.dtype)


def _narrow(f: Fields, types: Sequence[TensorType]) -> bool:
    """Floats that f32 holds."""
    return all(t.dtype.is_float and t.dtype.name != "f64" for t in types)


def _prelu(w: Writer, v: Value, f: Fields) -> str:
    weight: Value = f["weight"]
    to = computed_in("PRelu", v.dtype)
    shape = (
        (1,)
        if weight.shape == (1,) and v.rank
        else ()
        if not v.rank
        else (*weight.shape, *[1] * (v.rank - f["axis"] - 1))
    )
    spread = w.ref(spread_over(weight, len(shape) - 1) if len(shape) else squeeze(weight, (0,)))
    return w.cast(w.node("PRelu", [w.cast(w.ref(f["x"]), v.dtype, to), w.cast(spread, v.dtype, to)]), to, v.dtype)


def _plain_softplus(f: Fields, types: Sequence[TensorType]) -> bool:
    """Beyond the threshold it is x itself, which f32 can't tell apart."""
    return _narrow(f, types) and f["beta"] == 1 and f["threshold"] >= 20


def _trunc_divide(w: Writer, v: Value, f: Fields) -> str:
    x, y = v.args
    a, b = w.operands(v.args)
    negated = ""
    known = w.array(unbroadcast(y))
    safe = known is not None and not ((known == 0) | ((known == -1) & v.dtype.is_signed)).any()
    if not safe:
        b, negated = elementwise.kept_apart(w, b, v.dtype)
    out = elementwise.quotient(w, x, a, b)
    if negated:
        other = w.typed("Neg", v.dtype, [a])
        out = elementwise.choose(w, negated, other, out, v.dtype)
    return out


# --- choosing by data --------------------------------------------------------------------------------------


def _cond(w: Writer, v: Value, f: Fields) -> Any:
    """If, whose branches read what is around them."""
    predicate, *operands = v.args
    count = len(v.type) if isinstance(v.type, tuple) else 1
    branches: dict[str, Any] = {
        n: w.branch(f[k], operands) for n, k in (("then_branch", "then"), ("else_branch", "otherwise"))
    }
    return w.node("If", [w.ref(predicate)], count, **branches)


def _square(w: Writer, v: Value, f: Fields) -> str:
    x = w.ref(v.args[0])
    return w.typed("Mul", v.dtype, [x, x])


def _real_number(f: Fields, types: Sequence[TensorType]) -> bool:
    return all(not t.dtype.is_complex and t.dtype is not bool_ for t in types)


def _exp2(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("Pow", v.dtype)
    return w.cast(w.node("Pow", [w.scalar(2, to), w.cast(w.ref(v.args[0]), v.dtype, to)]), to, v.dtype)


def _floats(f: Fields, types: Sequence[TensorType]) -> bool:
    return all(t.dtype.is_float for t in types)


_NORMS = {1: "ReduceL1", 2: "ReduceL2"}


def _vector_norm(w: Writer, v: Value, f: Fields) -> str:
    return _over_axes(_NORMS[f["ord"]])(w, v, f)


COMPOSITES: dict[str, Rule] = {
    # arithmetic
    "subtract": Rule(_elementwise("Sub"), _real_number),
    "divide": Rule(_elementwise("Div"), _floats),
    "square": Rule(_square, _real_number),
    "exp2": Rule(_exp2, _floats),
    "mean": Rule(_over_axes("ReduceMean"), _float_axes),
    "variance": Rule(_spread(False), _counts_sizes),
    "std": Rule(_spread(True), _counts_sizes),
    "over_count": Rule(_over_count, _floats),
    "argmax": Rule(_arg("ArgMax"), _orders),
    "argmin": Rule(_arg("ArgMin"), _orders),
    "vector_norm": Rule(_vector_norm, lambda f, t: _float_axes(f, t) and f["ord"] in _NORMS),
    "logsumexp": Rule(_over_axes("ReduceLogSumExp"), _float_axes),
    "trunc_divide": Rule(_trunc_divide, lambda f, t: t[0].dtype.is_int),
    "clamp": Rule(_clamp, _has_bounds),
    "topk": Rule(_topk, lambda f, t: _orders(f, t)),
    # activations
    "relu": Rule("Relu", _real_number),
    "relu6": Rule(lambda w, v, f: _clip(w, v.args[0], 0, 6), _floats),
    "hardtanh": Rule(lambda w, v, f: _clip(w, v.args[0], f["low"], f["high"]), _floats),
    "leaky_relu": Rule(_with("LeakyRelu", alpha="slope"), _narrow),
    "elu": Rule(_with("Elu", alpha="alpha"), _narrow),
    "selu": Rule("Selu", _narrow),
    "celu": Rule(_with("Celu", alpha="alpha"), _narrow),
    "prelu": Rule(_prelu, _narrow),
    "gelu": Rule(_gelu, _narrow),
    "silu": Rule(_silu, _floats),
    "mish": Rule(_mish, _narrow),
    "sigmoid": Rule("Sigmoid", _floats),
    "hard_sigmoid": Rule(
        lambda w, v, f: w.typed("HardSigmoid", v.dtype, [w.ref(v.args[0])], alpha=1 / 6, beta=0.5), _narrow
    ),
    "hard_swish": Rule("HardSwish", _narrow),
    "softplus": Rule("Softplus", _plain_softplus),
    "softsign": Rule("Softsign", _narrow),
    "softmax": Rule(_axis("Softmax"), _along),
    "log_softmax": Rule(_axis("LogSoftmax"), _along),
    "straight_through": Rule(lambda w, v, f: v.args[1]),
    # shape
    "reshape": Rule(lambda w, v, f: core.reshape(w, v)),
    "pixel_shuffle": Rule(_pixel_shuffle, _shuffles),
    "tile": Rule(_tile, _tiles),
    "tril": Rule(_trilu(0), _planes),
    "triu": Rule(_trilu(1), _planes),
    "reflect_pad": _pad_mode("reflect"),
    "replicate_pad": _pad_mode("edge"),
    # linear
    "linear": Rule(_linear, _multiplies),
    "matmul": Rule(_matmul, _multiplies),
    "addmm": Rule(_addmm, _matrices),
    "einsum": Rule(_einsum, _sums),
    "embedding": Rule(_embedding),
    "linear_index": Rule(lambda w, v, f: special.checked_index(v, turns=True) or w.body(v)),
    # convolution
    "convolution": Rule(_convolution, lambda f, t: _convolves(f, t) and _narrow(f, t)),
    "convolution_transpose": Rule(_convolution_transpose, lambda f, t: _convolves_back(f, t) and _narrow(f, t)),
    # norms
    "batch_norm": Rule(_channel_norm("BatchNormalization", "mean", "variance"), _of_f32),
    "instance_norm": Rule(_channel_norm("InstanceNormalization"), _of_f32),
    "layer_norm": Rule(_layer_norm, _has_shape),
    "rms_norm": Rule(_rms_norm, _normalises),
    "group_norm": Rule(_group_norm, _has_groups),
    "local_response_norm": Rule(_lrn, _odd_neighbours),
    # attention
    "scaled_dot_product_attention": Rule(_attention, _attends),
    # pooling
    "max_pool": Rule(_max_pool(1), _pools),
    "max_pool_with_indices": Rule(_max_pool(2), _pools),
    "avg_pool": Rule(_avg_pool, _averages),
    "adaptive_avg_pool": Rule(_adaptive, _evenly),
    # choosing by data
    "cond": Rule(_cond),
    # recurrent
    "lstm": Rule(network, is_network),
    "gru": Rule(network, is_network),
    "rnn": Rule(network, is_network),
    # resizing
    "interpolate": Rule(_interpolate, _resizes),
    "grid_sample": Rule(_grid_sample, _samples),
    # numbers of few bits
    "quantize": Rule(quantized.quantize),
    "dequantize": Rule(quantized.dequantize),
    "quantize_dynamic": Rule(quantized.quantize_dynamic, lambda f, t: t[0].dtype is F32),
    **{name: Rule(_first) for name in SAME},
}
#: Those whose condition asks for the operator set too.
_BY_OPSET = {"quantize": quantized.writes_quantize, "dequantize": quantized.writes_dequantize}


def composite_row(value: Value, opset: int) -> Row | None:
    """The row of a composite for arguments of these types; None if its body is to be written."""
    op = value.op
    assert isinstance(op, Composite)
    rule = COMPOSITES.get(op.name)
    types = [a.type for a in value.args]
    if rule is None or opset < rule.since:
        return None
    if rule.when is not None and not rule.when({**_missing(op), **op.attributes}, types):
        return None
    by_opset = _BY_OPSET.get(op.name)
    if by_opset is not None and not by_opset(op.attributes, types, opset):
        return None

    def row(w: Writer, v: Value) -> Any:
        if isinstance(rule.write, str):
            return w.typed(rule.write, v.dtype, [w.ref(a) for a in v.args])
        return rule.write(w, v, fields(v))

    return row


def _missing(op: Composite) -> Fields:
    if op.definition.variadic:
        return {}
    return {n: True if g else None for n, g in zip(op.definition.tensors, op.given, strict=True)}
