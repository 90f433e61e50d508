"""Quantized layers on integers by torch: oneDNN's kernels of u8 times i8, where the processor adds them up exactly.

``to_torch(integers=True)`` puts a composite where a linear layer or a convolution takes integers of one scale and a
weight of one scale for each channel. Its body is what was there: rounded numbers read as floats, and the layer of them.
The kernels are of processors with VNNI; on others their sums of two products are held in 16 bits, which is too few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tdagger.composite import composite
from tdagger.errors import warn
from tdagger.frameworks.torch.aten.extend import writes
from tdagger.graph import label
from tdagger.library import convolution, dequantize, linear, quantize
from tdagger.library import relu as relu_
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, const
from tdagger.ops.structure import Permute, permute
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.edit import Edit, finished

Ints = tuple[int, ...]


@composite
def integer_linear(
    x: Value, weight: Value, weight_scale: Value, bias: Value | None = None, *, scale: float, zero: int,
    relu: bool = False, out_scale: float = 0.0, out_zero: int = 0, moved: bool = False,
) -> Value:  # fmt: skip
    """A linear layer of x ``u8[.. i]`` read with one scale and zero point, and weight ``i8[o i]`` with one each.

    ``moved``: the weight is ``i8[i o]``. ``relu`` comes after it; with an ``out_scale`` the result is rounded to u8.
    """
    read = dequantize(weight, weight_scale, axis=1 if moved else 0)
    out = linear(_read(x, scale, zero), permute(read, (1, 0)) if moved else read, bias)
    return _given(out, relu, out_scale, out_zero)


@composite
def integer_convolution(
    x: Value, weight: Value, weight_scale: Value, bias: Value | None = None, *, scale: float, zero: int, stride: Ints,
    padding: Ints, dilation: Ints, groups: int, relu: bool = False, out_scale: float = 0.0, out_zero: int = 0,
) -> Value:  # fmt: skip
    """A convolution of x ``u8[b i h w]`` and weight ``i8[o i/groups k l]``, as :func:`integer_linear` is one."""
    around = tuple((p, p) for p in padding)
    how: Any = {"stride": stride, "padding": around, "dilation": dilation, "groups": groups}
    out = convolution(_read(x, scale, zero), dequantize(weight, weight_scale, axis=0), bias, **how)
    return _given(out, relu, out_scale, out_zero)


def _read(x: Value, scale: float, zero: int) -> Value:
    return dequantize(x, const(scale, "f32"), const(zero, x.dtype))


def _given(out: Value, relu: bool, scale: float, zero: int) -> Value:
    out = relu_(out) if relu else out
    return quantize(out, const(scale, "f32"), const(zero, "u8"), to="u8") if scale else out


# --- run by torch ---

#: Weights as the kernels want them, and of which state of the tensor and for what they are.
_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _weight(weight: Tensor, key: tuple[Any, ...], pack: Callable[[], Tensor]) -> Tensor:
    """A weight packed once, and again when it was changed or is for something else."""
    key = (weight._version, *key)
    found = _packed.get(weight)
    if found is None or found[0] != key:
        found = _packed[weight] = key, pack()
    return found[1]


def linear_of_integers(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, *, scale: float, zero: int,
    moved: bool, **given: Any,
) -> Tensor:  # fmt: skip
    """:func:`integer_linear`, summed in i32."""
    packed = _weight(
        weight, (moved,),
        lambda: torch.ops.onednn.qlinear_prepack(weight.t().contiguous() if moved else weight, None),
    )  # fmt: skip
    return torch.ops.onednn.qlinear_pointwise(
        x, scale, zero, packed, weight_scale, _no_zeros(weight_scale), bias, *_ends(**given)
    )


def convolution_of_integers(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None, *, scale: float, zero: int,
    stride: Ints, padding: Ints, dilation: Ints, groups: int, **given: Any,
) -> Tensor:  # fmt: skip
    """:func:`integer_convolution`, summed in i32."""
    how: Any = (stride, padding, dilation, groups)
    packed = _weight(
        weight, (tuple(x.shape), scale, zero),
        lambda: torch.ops.onednn.qconv_prepack(weight, weight_scale, scale, zero, *how, list(x.shape)),
    )  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    return torch.ops.onednn.qconv_pointwise(
        x, scale, zero, packed, weight_scale, _no_zeros(weight_scale), bias, *how, *_ends(**given)
    )


def _ends(relu: bool, out_scale: float, out_zero: int) -> tuple[Any, ...]:
    """What the kernels are told of their results."""
    to = (out_scale, out_zero, torch.uint8) if out_scale else (1.0, 0, torch.float32)
    return (*to, "relu" if relu else "none", [], "")


def _no_zeros(scale: Tensor) -> Tensor:
    return torch.zeros(len(scale), dtype=torch.int64)


writes(integer_linear, linear_of_integers)
writes(integer_convolution, convolution_of_integers)


# --- the network ---


def are_exact() -> bool:
    """Whether the processor's sums of u8 times i8 are exact: it has VNNI."""
    return torch.cpu._is_vnni_supported()  # pyright: ignore[reportPrivateUsage]


def with_integers(dag: TensorDAG) -> TensorDAG:
    """The network with quantized layers on integers; a UserWarning names those that aren't, and why."""
    if not are_exact():
        warn(f"{shown(dag.name)}: this processor has no VNNI, without which torch's sums of integers aren't exact: "
             "layers are computed in float")  # fmt: skip
        return dag
    made, left, _ = on_integers(dag)
    if left:
        warn(f"{shown(dag.name)}: computed in float: {'; '.join(left)}")
    return made


def layers_on_integers(dag: TensorDAG) -> tuple[TensorDAG, Mapping[Value, Any]]:
    """The network with layers on integers that give floats, and what became of its values."""
    made, _, new = on_integers(dag, rounding=False)
    return made, new


def on_integers(dag: TensorDAG, rounding: bool = True) -> tuple[TensorDAG, list[str], Mapping[Value, Any]]:
    """The network with quantized layers as composites of integers, why each of the others isn't one, and its values.

    ``rounding``: relus and the roundings of results are the kernels' too.

    >>> import numpy as np, tdagger as td
    >>> small = td.quantize(td.layers.linear(4, 3), [np.ones((1, 4), "f")], "x86")
    >>> made, left, _ = on_integers(small)
    >>> [v.op.name for v in made.values if v.args], left
    (['quantize', 'dequantize', 'integer_linear'], [])
    """
    left: list[str] = []

    def rule(value: Value, args: Sequence[Any]) -> Value | None:
        if value.op.name == "quantize":
            return _rounded(dag, value, args) if rounding else None
        if value.op.name not in ("linear", "convolution") or _unmoved(args[1]).op.name != "dequantize":
            return None
        why = _refused(value, args)
        if why:
            origin = dag.origins.get(value)
            left.append(f"{origin.module if origin is not None and origin.module else value.op.name}: {why}")
            return None
        x, scale, zero = args[0].args
        weight, weight_scale = _unmoved(args[1]).args
        how: dict[str, Any] = {"scale": float(scale.op.data), "zero": int(zero.op.data)}
        bias = args[2] if len(args) > 2 else None
        if value.op.name == "linear":
            return integer_linear(x, weight, weight_scale, bias, **how, moved=args[1].op.name == "permute")
        f = value.op.attributes
        how |= {k: f[k] for k in ("stride", "dilation", "groups")}
        return integer_convolution(x, weight, weight_scale, bias, **how, padding=tuple([p for p, _ in f["padding"]]))

    edit = Edit(dag).run(rule)
    return finished(dag, edit.graph(), edit.origins), left, edit.new


def _rounded(dag: TensorDAG, value: Value, args: Sequence[Value]) -> Value | None:
    """A layer with the rounding of its result, of which nobody reads more, and a relu between."""
    f, users = value.op.attributes, dag.graph.users
    before, made, relu = value.args[0], args[0], False
    ends = {*dag.graph.outputs.values(), *dag.graph.updates.values()}
    if label(before.op) == "relu" and len(users[before]) == 1 and before not in ends:
        before, made, relu = before.args[0], made.args[0], True
    if made.op.name not in (integer_linear.name, integer_convolution.name) or len(users[before]) != 1 or before in ends:
        return None
    known = len(args) == 3 and all(isinstance(a.op, Const) and a.type.size == 1 for a in args[1:])
    whole = f["low"] is f["high"] is None and (f["to"], f["like"], f["precision"]) == ("u8", "onnx", "")
    if not known or not whole:
        return None
    scale, zero = (np.asarray(a.op.attributes["data"]) for a in args[1:])
    op: Any = made.op
    changed = op.attributes | {"relu": relu, "out_scale": float(scale), "out_zero": int(zero)}
    return type(op)(*changed.values(), op.given)(*made.args)


def _has_tiles() -> bool:
    """Whether the processor has AMX, for which oneDNN 3.12 has wrong kernels: findings/amx_integers_in_groups.sh."""
    return torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]


def _unmoved(value: Value) -> Value:
    while isinstance(value.op, Permute):
        value = value.args[0]
    return value


def _refused(value: Value, args: Sequence[Value]) -> str:
    """Why a layer with a quantized weight isn't computed on integers; empty if it is."""
    read, weight = args[0], _unmoved(args[1])
    moved = weight is not args[1]
    if read.op.name != "dequantize" or len(read.args) != 3 or read.args[0].dtype.name != "u8":
        return "what it takes isn't read from u8 with a zero point"
    if not all(isinstance(a.op, Const) and a.type.size == 1 for a in read.args[1:]):
        return "its scale isn't one that is known"
    if moved and (value.op.name != "linear" or args[1].args[0] is not weight):
        return "its weight is moved once it is read"
    f = weight.op.attributes
    if len(weight.args) != 2 or weight.args[0].dtype.name != "i8" or f["of"] or f["axis"] != moved or f["block"]:
        return "its weight isn't i8 with one scale for each channel"
    if not all(isinstance(a.op, Buffer) for a in weight.args):
        return "its weight is computed"
    if any(a.dtype.name != "f32" for a in (read, weight, value)):
        return "it isn't of f32"
    if value.op.name == "linear":
        return "" if value.rank > 1 else "a vector has no rows"
    if value.args[1].rank != 4 or value.rank != 4:
        return "it isn't a convolution of images"
    groups = value.op.attributes["groups"]
    if groups > 1 and not weight.shape[0] == groups == groups * weight.shape[1] and _has_tiles():
        return "oneDNN's kernels for AMX sum convolutions in groups wrong"
    return (
        ""
        if all(a == b >= 0 for a, b in value.op.attributes["padding"])
        else "its padding isn't the same on both sides"
    )
