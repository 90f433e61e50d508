"""What the rule of an operator is called with: its options, and its inputs as numbers, integers or real numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.tflite.ops.elementwise import ACTIVATIONS
from tdagger.frameworks.tflite.ops.table import WITHOUT_MEANING, Call, OpRule
from tdagger.frameworks.tflite.quantized import dequantized, on_the_fly
from tdagger.frameworks.tflite.schema import DTYPES, Node, Quantization, Subgraph, Tensor, choice, is_quantized
from tdagger.names import shown
from tdagger.op import Value

if TYPE_CHECKING:
    from tdagger.frameworks.tflite.importer import Frame, Walk

#: Where an operator has its input, weight and bias: the bias's step is the product of theirs, whatever it says.
_BIASED = {
    **dict.fromkeys(("BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (0, 1, 2)),
    **dict.fromkeys(("CONV_3D_TRANSPOSE", "TRANSPOSE_CONV"), (2, 1, 3)),
}


#: Operators whose kernels take u8 weights beside floats for i8, as converters of 2018 wrote them.
_SIGNED = frozenset({
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED",
    "LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
})  # fmt: skip


def call_of(graph: Subgraph, node: Node) -> Call:
    """A node as its rule is told of it."""
    inputs = [graph.tensors[i] if i >= 0 else None for i in node.inputs]
    outputs = [graph.tensors[i] for i in node.outputs]
    between = [graph.tensors[i] for i in node.intermediates if i >= 0]
    return Call(node, inputs, outputs, [dtype_of(t) for t in outputs], between)


def dtype_of(tensor: Tensor) -> Any:
    """The element type of a tensor; UnsupportedError if there is none here."""
    found = DTYPES.get(tensor.kind)
    if found is None:
        told = choice(schema.TensorType, tensor.kind)
        raise UnsupportedError(f"{shown(tensor.name)} is a tensor of {told}: there is no such element type here")
    return found


def options(node: Node, rule: OpRule) -> tuple[dict[str, Any], str]:
    """The options that a rule takes, and the activation that is fused."""
    keywords: dict[str, Any] = {}
    activation = "NONE"
    for name, value in node.options.items():
        if name in rule.options:
            if value is not None:
                keywords[name] = value
        elif name == "fused_activation_function":
            activation = choice(schema.ActivationFunctionType, value)
        elif value and name not in WITHOUT_MEANING:
            raise UnsupportedError(f"its option {name} is {shown(value)}, which isn't known to its rule")
    if activation not in ACTIVATIONS:
        raise UnsupportedError(
            f"its fused activation is {activation}, which the schema allows and every runtime leaves out without a "
            "word: what the file means isn't certain"
        )
    return keywords, activation


def arguments(walk: Walk, frame: Frame, node: Node, rule: OpRule, call: Call) -> list[Any]:
    """What a rule is called with: numbers, integers as they are, or real numbers."""
    if len(node.inputs) > len(rule.inputs) and not rule.rest:
        raise UnsupportedError(f"it has {len(node.inputs)} inputs, its rule takes {len(rule.inputs)}")
    for p in rule.inputs[len(node.inputs) :]:
        if not p.optional:
            raise UnsupportedError(f"its input {p.name} is missing")
    args: list[Any] = []
    for i, index in enumerate(node.inputs):
        p = rule.inputs[i] if i < len(rule.inputs) else None
        if index < 0:
            if p is not None and not (p.optional or p.skipped):
                raise UnsupportedError(f"its input {p.name} is missing")
            args.append(None)
        elif p is not None and p.number is not None:
            args.append(walk.numbers(frame, p, index))
        else:
            found = walk.find(frame, index)
            if not isinstance(found, Value):
                told = shown(frame.graph.tensors[index].name)
                raise SourceError(f"its input {told} is {'no tensor' if found is not None else 'made by nothing'}")
            args.append(found)
    floats = not any(t is not None and is_quantized(t) for t in (*call.inputs[:1], *call.outputs))
    if node.op in _SIGNED and floats:
        args = [_signed(walk, a, t) for a, t in zip(args, call.inputs, strict=True)]
    if rule.raw:
        _same_scales(node, call, args)
        return args
    return _real_arguments(walk, frame, node, call, args)


def _signed(walk: Walk, arg: Any, tensor: Tensor | None) -> Any:
    """A constant of u8 that a hybrid kernel takes as i8, to the same bits."""
    if tensor is None or tensor.kind != schema.TensorType.UINT8 or not is_quantized(tensor):
        return arg
    if tensor.quantization is None or tensor.quantization.zero_point.any() or not walk.model.is_constant(tensor):
        raise UnsupportedError(
            f"{shown(tensor.name)} is u8 beside floats, which kernels take for i8 without a zero point"
        )
    return walk.leaf(tensor._replace(kind=schema.TensorType.INT8))


def _same_scales(node: Node, call: Call, args: list[Any]) -> None:
    """What is laid side by side has one scale."""
    if node.op not in ("CONCATENATION", "PACK"):
        return
    found = [t.quantization for t in (*call.inputs, *call.outputs) if t is not None and is_quantized(t)]
    first = found[0] if found else None
    for q in found[1:]:
        assert q is not None
        assert first is not None
        if q.scale[0] != first.scale[0] or q.zero_point[0] != first.zero_point[0]:
            raise UnsupportedError(
                f"it joins integers of different scales ({first.scale[0]:.6g} and {q.scale[0]:.6g}), which "
                "runtimes refuse"
            )


def _real_arguments(walk: Walk, frame: Frame, node: Node, call: Call, args: list[Any]) -> list[Any]:
    places = _BIASED.get(node.op)
    real = list(args)
    for i, (arg, tensor) in enumerate(zip(args, call.inputs, strict=True)):
        if isinstance(arg, Value) and tensor is not None:
            real[i] = walk.real(frame, arg, tensor)
    if places is None or len(args) <= places[1]:
        return real
    x, w = (call.inputs[p] for p in places[:2])
    if x is None or w is None or not is_quantized(w):
        return real
    bias = args[places[2]] if len(args) > places[2] else None
    if is_quantized(x) and isinstance(bias, Value) and bias.dtype.is_int:
        assert x.quantization is not None
        assert w.quantization is not None
        step = (x.quantization.scale * w.quantization.scale).astype(np.float32)
        real[places[2]] = dequantized(bias, Quantization(step, np.zeros(step.size, np.int64), 0))
    elif not is_quantized(x) and real[places[0]].dtype.is_float:
        several = w.quantization is not None and w.quantization.scale.size > 1
        real[places[0]] = _hybrid(node, real[places[0]], real[places[1]], several)
    return real


def _hybrid(node: Node, x: Value, weight: Value, several: bool) -> Value:
    """A float input beside quantized weights is rounded to 8 bits: by rows of a product, else by the batch.

    A convolution with scales for its channels does that with a zero point.
    """
    asymmetric = bool(node.options.get("asymmetric_quantize_inputs"))
    if node.op == "FULLY_CONNECTED":
        if x.rank and x.shape[-1] == weight.shape[1]:
            return on_the_fly(x, (x.rank - 1,), asymmetric)
        told = f"{x.type} isn't rows of {weight.shape[1]} entries"
        raise UnsupportedError(f"{told}, each of which is rounded by itself where weights are quantized")
    if node.op == "BATCH_MATMUL":
        return on_the_fly(x, (x.rank - (2 if node.options.get("adj_x") else 1),), asymmetric)
    return on_the_fly(x, tuple(range(1, x.rank)), several)
