"""How each composite is written as MIL: one row each. A composite without a row is written as its body.

A row says by ``when`` for which values it holds: a sentence that says why not, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tdagger.frameworks.coreml.emit import quantized
from tdagger.frameworks.coreml.emit.core import reshape, two, with_shape
from tdagger.frameworks.coreml.emit.recurrent import LSTM, RNN
from tdagger.frameworks.coreml.emit.writer import Writer
from tdagger.frameworks.writing import Fields, unbroadcast
from tdagger.graph import result_types
from tdagger.op import Value
from tdagger.ops.structure import slice_axis, unsqueeze
from tdagger.types import DType, TensorType, bool_


class Rule(NamedTuple):
    """How a composite is written; element types of its tensors; what else must hold; the first operator set.

    ``final``: nothing stands for one that isn't written, its body neither.
    """

    write: Callable[[Writer, Value, Fields], Any]
    dtypes: str = "f32 f16"
    when: Callable[[Value, Fields], str | None] | None = None
    since: int = 15
    final: bool = False


def _one(op: str, **numbers: str) -> Callable[[Writer, Value, Fields], str]:
    """An op of one tensor whose further inputs are numbers of the composite: ``alpha="slope"``."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        more = {k: w.number(f[n], v.dtype) for k, n in numbers.items()}
        return w.op(op, w.type(v), x=w.ref(v.args[0]), **more)

    return write


def _two(op: str) -> Callable[[Writer, Value, Fields], str]:
    return lambda w, v, f: two(w, op, v)


def _flattened(w: Writer, x: Value, after: int) -> str:
    """``x`` with one axis before its last ``after``: the batch that ops want."""
    lead = x.rank - after
    return w.ref(x) if lead == 1 else with_shape(w, w.ref(x), w.type(x), _flat(x.type, after))


def _flat(t: TensorType, after: int) -> tuple[int, ...]:
    return (math.prod(t.shape[: t.rank - after]), *t.shape[t.rank - after :])


def _back(w: Writer, name: str, out: TensorType, after: int) -> str:
    """The result of an op on what :func:`_flattened` made, with the axes there were."""
    if out.rank - after == 1:
        return name
    return with_shape(w, name, w.type(out, _flat(out, after)), out.shape)


def _made(w: Writer, v: Value, after: int) -> TensorType:
    """The type of a result whose leading axes are one."""
    return w.type(v, _flat(v.type, after)) if v.rank - after != 1 else w.type(v)


def _full(v: Value, f: Fields) -> str | None:
    kinds = [t for x in (v, *v.args) for t in result_types(x)]
    return "there are no entries" if any(not t.size for t in kinds) else None


# --- linear ------------------------------------------------------------------------------------------------


def _linear(w: Writer, v: Value, f: Fields) -> str:
    """``linear`` where the weight is constant, else a product of matrices."""
    x, weight, bias = f["x"], f["weight"], f["bias"]
    vector = None if bias is None else unbroadcast(bias)
    constant = weight in w.static and (vector is None or (vector in w.static and vector.shape == (weight.shape[0],)))
    if constant and weight.rank == 2:
        more = {} if vector is None else {"bias": w.ref(vector)}
        return w.op("linear", w.type(v), x=w.ref(x), weight=w.ref(weight), **more)
    name = w.op("matmul", w.type(v), x=w.ref(x), y=w.ref(weight), transpose_x=w.flag(False), transpose_y=w.flag(True))
    return name if bias is None else w.op("add", w.type(v), x=name, y=w.ref(unbroadcast(bias)))


def _is_matrix(v: Value, f: Fields) -> str | None:
    if f["weight"].rank != 2 or f["x"].rank < 2:
        return "its weight is no matrix, or its input is a vector"
    return _full(v, f)


def _matmul(w: Writer, v: Value, f: Fields) -> str:
    (x, tx), (y, ty) = (_turned(a) for a in v.args)
    return w.op("matmul", w.type(v), x=w.ref(x), y=w.ref(y), transpose_x=w.flag(tx), transpose_y=w.flag(ty))


def _turned(x: Value) -> tuple[Value, bool]:
    """What a permutation of the last two axes is of, and that it is one."""
    order = tuple(range(x.rank))
    if x.op.name == "permute" and x.op.attributes["order"] == (*order[:-2], order[-1], order[-2]):
        return x.args[0], True
    return x, False


def _matrices(v: Value, f: Fields) -> str | None:
    if any(a.rank < 2 for a in v.args):
        return "one is a vector"
    return _full(v, f)


# --- convolution -------------------------------------------------------------------------------------------


def _convolution(w: Writer, v: Value, f: Fields) -> str:
    n = len(f["stride"])
    x: Value = f["x"]
    for i, (low, high) in enumerate(f["padding"], x.rank - n):  # what is negative crops
        if low < 0 or high < 0:
            x = slice_axis(x, i, max(-low, 0), min(high, 0) or None)
    pads = [max(p, 0) for pair in f["padding"] for p in pair]
    bias = {} if f["bias"] is None else {"bias": w.ref(f["bias"])}
    out = w.op(
        "conv", _made(w, v, n + 1), x=_flattened(w, x, n + 1), weight=w.ref(f["weight"]),
        strides=w.ints(f["stride"]), pad_type=w.text("custom" if any(pads) else "valid"),
        pad=w.ints(pads), dilations=w.ints(f["dilation"]), groups=w.int(f["groups"]), **bias,
    )  # fmt: skip
    return _back(w, out, v.type, n + 1)


def _convolves(v: Value, f: Fields) -> str | None:
    if not 1 <= len(f["stride"]) <= 3:
        return f"MIL has convolutions of 1 to 3 axes, not of {len(f['stride'])}"
    return _full(v, f)


def _convolution_transpose(w: Writer, v: Value, f: Fields) -> str:
    """With what is added at the end as padding that is less there."""
    n = len(f["stride"])
    pads = [p for low, more in zip(f["padding"], f["output_padding"], strict=True) for p in (low, low - more)]
    bias = {} if f["bias"] is None else {"bias": w.ref(f["bias"])}
    out = w.op(
        "conv_transpose", _made(w, v, n + 1), x=_flattened(w, f["x"], n + 1), weight=w.ref(f["weight"]),
        strides=w.ints(f["stride"]), pad_type=w.text("custom"), pad=w.ints(pads), dilations=w.ints(f["dilation"]),
        groups=w.int(f["groups"]), **bias,
    )  # fmt: skip
    return _back(w, out, v.type, n + 1)


def _convolves_back(v: Value, f: Fields) -> str | None:
    if any(low < more for low, more in zip(f["padding"], f["output_padding"], strict=True)):
        return "it adds more at the end than it cuts off"
    return _convolves(v, f)


# --- norms -------------------------------------------------------------------------------------------------


def _batch_norm(w: Writer, v: Value, f: Fields) -> str:
    after = v.rank - f["axis"]
    more = {n: w.ref(f[k]) for n, k in (("gamma", "weight"), ("beta", "bias")) if f[k] is not None}
    out = w.op(
        "batch_norm", _made(w, v, after), x=_flattened(w, f["x"], after), mean=w.ref(f["mean"]),
        variance=w.ref(f["variance"]), epsilon=w.number(f["eps"], v.dtype), **more,
    )  # fmt: skip
    return _back(w, out, v.type, after)


def _of_images(v: Value, f: Fields) -> str | None:
    after = v.rank - f["axis"]
    if not 2 <= after <= 4:
        return f"MIL has norms of channels with 1 to 3 axes after them, not {after - 1}"
    return _full(v, f)


def _instance_norm(w: Writer, v: Value, f: Fields) -> str:
    after = v.rank - f["axis"]
    more = {n: w.ref(f[k]) for n, k in (("gamma", "weight"), ("beta", "bias")) if f[k] is not None}
    out = w.op(
        "instance_norm", _made(w, v, after), x=_flattened(w, f["x"], after), epsilon=w.number(f["eps"], v.dtype), **more
    )
    return _back(w, out, v.type, after)


def _layer_norm(w: Writer, v: Value, f: Fields) -> str:
    axes = range(v.rank - f["rank"], v.rank)
    more = {n: w.ref(f[k]) for n, k in (("gamma", "weight"), ("beta", "bias")) if f[k] is not None}
    return w.op(
        "layer_norm", w.type(v), x=w.ref(f["x"]), axes=w.ints(axes), epsilon=w.number(f["eps"], v.dtype), **more
    )


# --- attention ---------------------------------------------------------------------------------------------


def _attention(w: Writer, v: Value, f: Fields) -> str:
    """Two products and a softmax; what causal attention doesn't see is the lowest number."""
    q, k, value = f["q"], f["k"], f["v"]
    usual = f["scale"] is None or math.isclose(f["scale"], 1 / math.sqrt(q.shape[-1]), rel_tol=1e-7)
    if w.opset >= 18 and not f["causal"] and usual and q.rank >= 3:
        return w.op("scaled_dot_product_attention", w.type(v), query=w.ref(q), key=w.ref(k), value=w.ref(value))
    scale = 1 / math.sqrt(q.shape[-1]) if f["scale"] is None else f["scale"]
    queries = w.op("mul", w.type(q), x=w.ref(q), y=w.number(scale, q.dtype))
    shape = (*v.shape[:-1], k.shape[-2])
    scores = w.type(v, shape)
    keys, turned = _turned(k)
    found = w.op("matmul", scores, x=queries, y=w.ref(keys), transpose_x=w.flag(False), transpose_y=w.flag(not turned))
    if f["causal"]:
        seen = _seen(w, *shape[-2:])
        found = w.op("select", scores, cond=seen, a=found, b=w.number(-math.inf, v.dtype))
    weights = w.op("softmax", scores, x=found, axis=w.int(-1))
    return w.op(
        "matmul", w.type(v), x=weights, y=w.ref(value), transpose_x=w.flag(False), transpose_y=w.flag(False)
    )  # fmt: skip


def _seen(w: Writer, rows: int, columns: int) -> str:
    """Which keys each query sees: no later ones. Sizes that are going to be others are counted to."""
    if rows not in w.varies and columns not in w.varies:
        return w.const(np.tri(rows, columns, dtype=np.bool_))
    i32, places = DType.of("i32"), list[str]()
    for n, axis in ((rows, 1), (columns, 0)):
        made = w.op("range_1d", TensorType((n,), i32), end=w.int(n), start=w.int(0), step=w.int(1))
        shape = (n, 1) if axis else (1, n)
        places.append(w.op("expand_dims", TensorType(shape, i32), x=made, axes=w.ints([axis])))
    return w.op("less_equal", TensorType((rows, columns), bool_), x=places[1], y=places[0])


def _attends(v: Value, f: Fields) -> str | None:
    q, k = f["q"], f["k"]
    if f["mask"] is not None or f["grouped"] or q.shape[:-2] != k.shape[:-2]:
        return "it has a mask (a query that sees no key gives 0), or heads that share keys"
    return _full(v, f)


# --- pools -------------------------------------------------------------------------------------------------


def _pool(op: str) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        n = len(f["kernel"])
        more = {}
        if op == "avg_pool":
            more["exclude_padding_from_average"] = w.flag(not f["count_include_pad"])
        out = w.op(
            op, _made(w, v, n + 1), x=_flattened(w, f["x"], n + 1), kernel_sizes=w.ints(f["kernel"]),
            strides=w.ints(f["stride"]), pad_type=w.text("custom"), pad=w.ints([p for p in f["padding"] for _ in "ab"]),
            ceil_mode=w.flag(f["ceil"]), **more,
        )  # fmt: skip
        return _back(w, out, v.type, n + 1)

    return write


def _pools(v: Value, f: Fields) -> str | None:
    n = len(f["kernel"])
    if not 1 <= n <= 3 or f["x"].rank < n + 1 or any(d != 1 for d in f.get("dilation", ())):
        return "MIL has pools of 1 to 3 axes without dilation"
    if f["ceil"] and (n > 2 or any(f["padding"]) or f.get("count_include_pad", False)):
        return "sizes are rounded up, which MIL has without padding and for 1 or 2 axes"
    if any(k > m + 2 * p for k, m, p in zip(f["kernel"], f["x"].shape[-n:], f["padding"], strict=True)):
        return "its one window is larger than what it is of"
    if f.get("divisor") is not None:
        return "its sum is divided by a number of its own"
    return _full(v, f)


def _adaptive(w: Writer, v: Value, f: Fields) -> str:
    x: Value = f["x"]
    axes = [i for i, size in enumerate(f["size"], x.rank - len(f["size"])) if size is not None]
    return w.op("reduce_mean", w.type(v), x=w.ref(x), axes=w.ints(axes), keep_dims=w.flag(True))


def _to_ones(v: Value, f: Fields) -> str | None:
    if any(size not in (1, None) for size in f["size"]) or all(size is None for size in f["size"]):
        return "it has bins of more than one place"
    return _full(v, f)


# --- resizing ----------------------------------------------------------------------------------------------


def _interpolate(w: Writer, v: Value, f: Fields) -> str:
    """By whole factors, where it is by some: those are the same at any size."""
    x: Value = f["x"]
    if len(f["size"]) == 1:  # one axis is a picture one entry high
        x = unsqueeze(x, (x.rank - 1,))
    high, wide = x.shape[-2:]
    height, width = (1, *f["size"])[-2:]
    inner, made = _flattened(w, x, 3), w.type(v, (math.prod(x.shape[:-3]), x.shape[-3], height, width))
    if height % high == width % wide == 0:
        factors = {"scale_factor_height": w.int(height // high), "scale_factor_width": w.int(width // wide)}
        linear = f["mode"] == "linear"
        corners = w.flag(f["align_corners"]) if linear else None
        op = "upsample_bilinear" if linear else "upsample_nearest_neighbor"
        found = w.op(op, made, x=inner, align_corners=corners, **factors)
    else:
        mode = w.text("STRICT_ALIGN_CORNERS" if f["align_corners"] else "UNALIGN_CORNERS")
        sizes = {"target_size_height": w.int(height), "target_size_width": w.int(width)}
        found = w.op("resize_bilinear", made, x=inner, sampling_mode=mode, **sizes)
    return with_shape(w, found, made, v.shape)


def _resizes(v: Value, f: Fields) -> str | None:
    x: Value = f["x"]
    n = len(f["size"])
    if n not in (1, 2) or x.rank < n + 1 or f["antialias"]:
        return "MIL resizes one or two axes, without antialiasing"
    pairs = list(zip(f["size"], x.shape[-n:], f["scale"] or (None,) * n, strict=True))
    if any(c is not None and c != a / b for a, b, c in pairs):
        return "its scale isn't the one that its sizes have"
    if f["mode"] == "nearest" and all(a % b == 0 for a, b, _ in pairs):
        return _full(v, f)
    return _full(v, f) if f["mode"] == "linear" else f"MIL has no {f['mode']} of these sizes"


# --- reductions, order -------------------------------------------------------------------------------------


def _over(op: str) -> Callable[[Writer, Value, Fields], Any]:
    def write(w: Writer, v: Value, f: Fields) -> Any:
        return w.op(op, w.type(v), x=w.ref(v.args[0]), axes=w.ints(f["axes"]), keep_dims=w.flag(f["keep"]))

    return write


def _has_axes(v: Value, f: Fields) -> str | None:
    if not f["axes"] or f.get("ord", 2.0) not in (1.0, 2.0):
        return "it is over no axes, or of another order than 1 and 2"
    return _full(v, f)


def _vector_norm(w: Writer, v: Value, f: Fields) -> Any:
    return _over("reduce_l2_norm" if f["ord"] == 2 else "reduce_l1_norm")(w, v, f)


def _arg(op: str) -> Callable[[Writer, Value, Fields], str]:
    return lambda w, v, f: w.op(op, w.type(v), x=w.ref(v.args[0]), axis=w.int(f["axis"]), keep_dims=w.flag(f["keep"]))


def _topk(w: Writer, v: Value, f: Fields) -> Any:
    types: Any = v.type
    return w.op(
        "topk", [w.type(t) for t in types], x=w.ref(v.args[0]), k=w.int(f["k"]), axis=w.int(f["axis"]),
        ascending=w.flag(not f["largest"]),
    )  # fmt: skip


# --- shape -------------------------------------------------------------------------------------------------


def _stack(w: Writer, v: Value, f: Fields) -> str:
    axis = f["axis"] % v.rank
    return w.op("stack", w.type(v), values=tuple([w.ref(a) for a in v.args]), axis=w.int(axis))


def _tile(w: Writer, v: Value, f: Fields) -> str:
    return w.op("tile", w.type(v), x=w.ref(v.args[0]), reps=w.ints(f["repeats"]))


def _tiles(v: Value, f: Fields) -> str | None:
    return "more repeats than axes" if len(f["repeats"]) != v.args[0].rank or 0 in f["repeats"] else _full(v, f)


def _mirrored(mode: str) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        sides = [n for pair in f["widths"] for n in pair]
        fill = w.number(0, v.dtype)
        return w.op(
            "pad", w.type(v), x=w.ref(v.args[0]), pad=w.ints(sides), mode=w.text(mode), constant_val=fill
        )  # fmt: skip

    return write


def _two_last(v: Value, f: Fields) -> str | None:
    padded = [i - len(f["widths"]) for i, pair in enumerate(f["widths"]) if any(pair)]
    if any(i < -2 for i in padded) or any(n < 0 for pair in f["widths"] for n in pair):
        return "MIL mirrors and repeats borders of the last two axes"
    return _full(v, f)


def _shuffle(op: str, name: str) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        out = w.op(op, _made(w, v, 3), x=_flattened(w, v.args[0], 3), **{name: w.int(f["factor"])})
        return _back(w, out, v.type, 3)

    return write


def _embedding(w: Writer, v: Value, f: Fields) -> Value:
    from tdagger.ops.indexing import Gather

    return Gather(0, 0)(f["weight"], f["index"])


def _gelu(w: Writer, v: Value, f: Fields) -> str:
    mode = "EXACT" if f["approximate"] == "none" else "TANH_APPROXIMATION"
    return w.op("gelu", w.type(v), x=w.ref(v.args[0]), mode=w.text(mode))


def _softmax(w: Writer, v: Value, f: Fields) -> str:
    return w.op("softmax", w.type(v), x=w.ref(v.args[0]), axis=w.int(f["axis"]))


def _hard_sigmoid(w: Writer, v: Value, f: Fields) -> str:
    return w.op(
        "sigmoid_hard", w.type(v), x=w.ref(v.args[0]), alpha=w.number(1 / 6, v.dtype), beta=w.number(0.5, v.dtype)
    )


def _hard_swish(w: Writer, v: Value, f: Fields) -> str:
    return w.op("mul", w.type(v), x=w.ref(v.args[0]), y=_hard_sigmoid(w, v, f))


def _clamp(w: Writer, v: Value, f: Fields) -> Any:
    low, high = (-math.inf if f["low"] is None else f["low"]), (math.inf if f["high"] is None else f["high"])
    if low == -math.inf and high == math.inf:
        return v.args[0]
    return w.op(
        "clip", w.type(v), x=w.ref(v.args[0]), alpha=w.number(low, v.dtype), beta=w.number(high, v.dtype)
    )  # fmt: skip


def _ordered(v: Value, f: Fields) -> str | None:
    low, high = f["low"], f["high"]
    return "its bounds cross" if low is not None and high is not None and low > high else None


def _softplus(v: Value, f: Fields) -> str | None:
    return None if f["beta"] == 1 and f["threshold"] >= 20 else "it has a beta or a threshold"


def _prelu(w: Writer, v: Value, f: Fields) -> str:
    return w.op("prelu", w.type(v), x=w.ref(f["x"]), alpha=w.ref(f["weight"]))


def _of_channels(v: Value, f: Fields) -> str | None:
    x, weight = f["x"], f["weight"]
    fits = f["axis"] == 1 and 3 <= x.rank <= 5 and weight.shape == (x.shape[1],)
    return None if fits else "MIL's prelu has a slope for each channel of axis 1"


def _rsqrt(w: Writer, v: Value, f: Fields) -> str:
    return w.op("rsqrt", w.type(v), x=w.ref(v.args[0]), epsilon=w.number(0, v.dtype))


def _lrn(w: Writer, v: Value, f: Fields) -> str:
    return w.op(
        "local_response_norm", w.type(v), x=w.ref(f["x"]), size=w.int(f["size"]), alpha=w.number(f["alpha"], v.dtype),
        beta=w.number(f["beta"], v.dtype), k=w.number(f["k"], v.dtype),
    )  # fmt: skip


def _neighbours(v: Value, f: Fields) -> str | None:
    fits = f["axis"] == 1 and v.rank == 4 and f["size"] % 2
    return None if fits else "its size is even, or its channels aren't followed by two axes"


_N = "f32 f16 i32 i64"
_BYTES = "f32 f16 i8 u8"

#: Composites by name.
COMPOSITES: dict[str, Rule] = {
    "lstm": Rule(LSTM[0], "f32", LSTM[1]),
    "rnn": Rule(RNN[0], "f32", RNN[1]),
    "relu": Rule(_one("relu")),
    "relu6": Rule(_one("relu6")),
    "sigmoid": Rule(_one("sigmoid")),
    "silu": Rule(_one("silu")),
    "softsign": Rule(_one("softsign")),
    "softplus": Rule(_one("softplus"), when=_softplus),
    "leaky_relu": Rule(_one("leaky_relu", alpha="slope")),
    "elu": Rule(_one("elu", alpha="alpha")),
    "gelu": Rule(_gelu),
    "hard_sigmoid": Rule(_hard_sigmoid),
    "hard_swish": Rule(_hard_swish),
    "prelu": Rule(_prelu, when=_of_channels),
    "clamp": Rule(_clamp, when=_ordered),
    "softmax": Rule(_softmax, when=_full),
    "square": Rule(_one("square"), dtypes=_N),
    "rsqrt": Rule(_rsqrt),
    "exp2": Rule(_one("exp2")),
    "subtract": Rule(_two("sub"), dtypes=_N),
    "divide": Rule(_two("real_div")),
    "linear": Rule(_linear, when=_is_matrix),
    "matmul": Rule(_matmul, when=_matrices),
    "convolution": Rule(_convolution, when=_convolves),
    "convolution_transpose": Rule(_convolution_transpose, when=_convolves_back),
    "batch_norm": Rule(_batch_norm, when=_of_images),
    "instance_norm": Rule(_instance_norm, when=_of_images),
    "layer_norm": Rule(_layer_norm, when=_full),
    "local_response_norm": Rule(_lrn, when=_neighbours),
    "scaled_dot_product_attention": Rule(_attention, when=_attends),
    "max_pool": Rule(_pool("max_pool"), when=_pools),
    "avg_pool": Rule(_pool("avg_pool"), when=_pools),
    "adaptive_avg_pool": Rule(_adaptive, when=_to_ones),
    "interpolate": Rule(_interpolate, when=_resizes),
    "mean": Rule(_over("reduce_mean"), when=_has_axes),
    "logsumexp": Rule(_over("reduce_log_sum_exp"), when=_has_axes),
    "vector_norm": Rule(_vector_norm, when=_has_axes),
    "argmax": Rule(_arg("reduce_argmax"), dtypes=_N, when=_full),
    "argmin": Rule(_arg("reduce_argmin"), dtypes=_N, when=_full),
    "topk": Rule(_topk, when=_full),
    "stack": Rule(_stack, dtypes=f"{_N} bool"),
    "tile": Rule(_tile, dtypes=f"{_N} bool", when=_tiles),
    "reshape": Rule(lambda w, v, f: reshape(w, v), dtypes=f"{_N} bool"),
    "reflect_pad": Rule(_mirrored("reflect"), when=_two_last),
    "replicate_pad": Rule(_mirrored("replicate"), when=_two_last),
    "pixel_shuffle": Rule(_shuffle("pixel_shuffle", "upscale_factor"), when=_full),
    "pixel_unshuffle": Rule(_shuffle("pixel_unshuffle", "downscale_factor"), when=_full, since=16),
    "embedding": Rule(_embedding, dtypes=f"{_N}", when=_full),
    "stop_gradient": Rule(lambda w, v, f: v.args[0], dtypes=f"{_N} bool"),
    "dropout": Rule(lambda w, v, f: v.args[0]),
    "quantize": Rule(quantized.quantize, _BYTES, quantized.rounds, quantized.ROUNDS, final=True),
    "dequantize": Rule(quantized.dequantize, _BYTES, quantized.reads_bytes, quantized.ROUNDS, final=True),
}
