"""Small models for tests of the importer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None


def info(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """What a file says of a value."""
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; its inputs and outputs by names with blanks between, ``-`` for one that isn't given."""
    names = [["" if n == "-" else n for n in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name=name or f"{op} {outputs}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str | onnx.ValueInfoProto] = ("y",),
    tensors: Mapping[str, Any] | None = None,
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    """A model of some nodes; ``tensors`` are its initializers."""
    graph = helper.make_graph(
        nodes,
        "small",
        [v if isinstance(v, onnx.ValueInfoProto) else info(n, v) for n, v in inputs.items()],
        [o if isinstance(o, onnx.ValueInfoProto) else info(o, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (tensors or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)
    made.ir_version = min(made.ir_version, 10)
    return made


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Random floats, around 0."""
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)
