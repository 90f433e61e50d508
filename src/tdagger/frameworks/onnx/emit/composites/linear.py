"""Products of matrices and convolutions as ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.frameworks.onnx.emit import quantized
from tdagger.frameworks.onnx.emit.composites.rule import Rule, alike, back, flattened, narrow, tensor
from tdagger.frameworks.onnx.emit.kernels import computed_in, takes
from tdagger.frameworks.onnx.emit.moves import moved
from tdagger.frameworks.onnx.emit.writer import Writer
from tdagger.frameworks.writing import Fields, permuted, unbroadcast
from tdagger.op import Value
from tdagger.ops.indexing import Gather
from tdagger.ops.structure import slice_axis
from tdagger.transform.legal import identities as special
from tdagger.types import DType, TensorType


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
    if leaf is not None and w.is_flipped(leaf):
        flipped = weight.type.with_shape(weight.shape[::-1])
        name = w.moved(leaf, "T", lambda a: np.ascontiguousarray(a.T), flipped)
        return w.cast(name, dtype, to)
    return w.cast(moved(w, "Transpose", dtype, [w.ref(base)], perm=tuple(turned)), dtype, to)


def _multiplies(f: Fields, types: Sequence[TensorType]) -> bool:
    return alike(f, types) and types[0].shape[-1] != 0 and types[0].dtype.name != "u64"


def _linear(w: Writer, v: Value, f: Fields) -> str:
    x, weight, bias = f["x"], f["weight"], tensor(v, f, "bias")
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
    fits = x.rank == y.rank == 2 and bias.rank <= 2 and _multiplies(f, types[1:]) and alike(f, types)
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
    return plain and alike(f, types) and types[0].dtype.is_float and all(len(s) == 1 for s in sizes.values()) and (
        not any(0 in t.shape for t in types)
    )  # fmt: skip


def _embedding(w: Writer, v: Value, f: Fields) -> Any:
    return Gather(0, 0)(f["weight"], f["index"])


def _convolution(w: Writer, v: Value, f: Fields) -> str:
    n = len(f["stride"])
    x: Value = f["x"]
    padding = f["padding"]
    for i, (low, high) in enumerate(padding, x.rank - n):  # what is negative crops
        if low < 0 or high < 0:
            x = slice_axis(x, i, max(-low, 0), min(high, 0) or None)
    pads = [max(low, 0) for low, _ in padding] + [max(high, 0) for _, high in padding]
    to = computed_in("Conv", v.dtype)
    name, _ = flattened(w, x, n + 1)
    inputs = [name, w.ref(f["weight"]), *([] if tensor(v, f, "bias") is None else [w.ref(f["bias"])])]
    out = w.node(
        "Conv", [w.cast(i, v.dtype, to) for i in inputs], strides=tuple(f["stride"]), pads=tuple(pads),
        dilations=tuple(f["dilation"]), group=f["groups"], kernel_shape=tuple(map(int, f["weight"].shape[2:])),
    )  # fmt: skip
    return back(w, w.cast(out, to, v.dtype), v.type, n + 1)


def _convolves(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[1].rank <= 5 and alike(f, types) and 0 not in (*types[0].shape, *types[1].shape)


def _convolution_transpose(w: Writer, v: Value, f: Fields) -> str:
    n = len(f["stride"])
    to = computed_in("ConvTranspose", v.dtype)
    name, _ = flattened(w, f["x"], n + 1)
    inputs = [name, w.ref(f["weight"]), *([] if tensor(v, f, "bias") is None else [w.ref(f["bias"])])]
    cut = tuple(f["padding"])
    added = [0 if e >= s else e for e, s in zip(f["output_padding"], f["stride"], strict=True)]  # else less is cut off
    ends = tuple([p - e + a for p, e, a in zip(cut, f["output_padding"], added, strict=True)])
    out = w.node(
        "ConvTranspose", [w.cast(i, v.dtype, to) for i in inputs], strides=tuple(f["stride"]), pads=cut + ends,
        dilations=tuple(f["dilation"]), group=f["groups"], output_padding=tuple(added),
        kernel_shape=tuple(map(int, f["weight"].shape[2:])),
    )  # fmt: skip
    return back(w, w.cast(out, to, v.dtype), v.type, n + 1)


def _convolves_back(f: Fields, types: Sequence[TensorType]) -> bool:
    """onnxruntime wants what is added at the end to be less than a stride."""
    extra = zip(f["output_padding"], f["stride"], f["padding"], strict=True)
    return _convolves(f, types) and all(0 <= e < s or e <= p for e, s, p in extra) and min(f["padding"]) >= 0


#: Of each composite its row.
LINEAR: dict[str, Rule] = {
    "linear": Rule(_linear, _multiplies),
    "matmul": Rule(_matmul, _multiplies),
    "addmm": Rule(_addmm, _matrices),
    "einsum": Rule(_einsum, _sums),
    "embedding": Rule(_embedding),
    "linear_index": Rule(lambda w, v, f: special.checked_index(v, turns=True) or w.body(v)),
    "convolution": Rule(_convolution, lambda f, t: _convolves(f, t) and narrow(f, t)),
    "convolution_transpose": Rule(_convolution_transpose, lambda f, t: _convolves_back(f, t) and narrow(f, t)),
}
