"""How each composite is written as ONNX: one row each. A composite without a row is written as its body.

A row is the name of an operator that takes the composite's tensors, or a function of (writer, value, tensors and
attributes by name). A condition says for which arguments the row holds; else the body is written. A row gives what
rows of core ops give: a name, or a value that stands for the composite.
"""

from __future__ import annotations

from typing import Any

from tdagger.composite import Composite
from tdagger.frameworks.onnx.emit import quantized
from tdagger.frameworks.onnx.emit.composites.activations import ACTIVATIONS
from tdagger.frameworks.onnx.emit.composites.arithmetic import ARITHMETIC
from tdagger.frameworks.onnx.emit.composites.attention import ATTENTION
from tdagger.frameworks.onnx.emit.composites.linear import LINEAR
from tdagger.frameworks.onnx.emit.composites.norms import NORMS
from tdagger.frameworks.onnx.emit.composites.pooling import POOLING
from tdagger.frameworks.onnx.emit.composites.rule import F32, Rule
from tdagger.frameworks.onnx.emit.composites.shapes import SHAPES
from tdagger.frameworks.onnx.emit.recurrent import is_network, network
from tdagger.frameworks.onnx.emit.writer import Row, Writer
from tdagger.frameworks.writing import SAME, Fields, fields
from tdagger.op import Value

COMPOSITES: dict[str, Rule] = {
    **ARITHMETIC,
    **ACTIVATIONS,
    **LINEAR,
    **NORMS,
    **ATTENTION,
    **POOLING,
    **SHAPES,
    # recurrent
    "lstm": Rule(network, is_network),
    "gru": Rule(network, is_network),
    "rnn": Rule(network, is_network),
    # numbers of few bits
    "quantize": Rule(quantized.quantize),
    "dequantize": Rule(quantized.dequantize),
    "quantize_dynamic": Rule(quantized.quantize_dynamic, lambda f, t: t[0].dtype is F32),
    **{name: Rule(lambda w, v, f: v.args[0]) for name in SAME},
}


#: Those whose condition asks for the operator set too.
_BY_OPSET = {"quantize": quantized.writes_quantize, "dequantize": quantized.writes_dequantize}


def composite_row(value: Value, opset: int) -> Row | None:
    """The row of a composite for arguments of these types; None if its body is to be written."""
    op = value.op
    assert isinstance(op, Composite)
    rule = COMPOSITES.get(op.name)
    types = [a.type for a in value.args]
    if rule is None or (rule.when is not None and not rule.when({**_missing(op), **op.attributes}, types)):
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
