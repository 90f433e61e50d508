"""Nodes without a rule kept as external ops: what their results' types are, and how they are written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import defs, shape_inference

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.file.tensors import DTYPES, attribute
from tdagger.frameworks.onnx.walk.functions import type_proto
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.external import Slot
from tdagger.types import TensorType


def types_of_results(
    node: Any,
    domain: str,
    version: int,
    arguments: Sequence[Value | None],
    declared: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> list[TensorType]:
    """The types of the results of a node: by ONNX's inference where it knows the op, else as the file declares them.

    UnsupportedError where neither says them.
    """
    inferred: Mapping[str, Any] = {}
    try:
        schema = defs.get_schema(node.op_type, version, domain)
        given = {n: type_proto(a) for n, a in zip(node.input, arguments, strict=True) if a is not None}
        opset = [onnx.helper.make_opsetid(domain, version)]
        inferred = shape_inference.infer_node_outputs(schema, node, given, opset_imports=opset)
    except (defs.SchemaError, shape_inference.InferenceError, RuntimeError, ValueError):
        inferred = {}  # the op isn't ONNX's, or its inference takes no such inputs
    found: list[TensorType] = []
    for name in node.output:
        type_ = next((t for t in (_whole(inferred.get(name), sizes), _whole(declared.get(name), sizes)) if t), None)
        if type_ is None:
            raise UnsupportedError("there is no rule for it, and the types of its results aren't known")
        found.append(type_)
    return found


def _whole(proto: Any, sizes: Mapping[str, int]) -> TensorType | None:
    """A type whose sizes are all known."""
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    shape: list[int] = []
    for d in proto.tensor_type.shape.dim:
        n = d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, -1)
        if n < 0:
            return None
        shape.append(n)
    dtype = DTYPES.get(proto.tensor_type.elem_type)
    return None if dtype is None else TensorType(tuple(shape), dtype)


def written(
    node: Any, domain: str, arguments: Sequence[Value | None]
) -> tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...], list[Value]]:
    """A node as an external op has it: its name, the places of its arguments, attributes, and the tensors."""
    tensors: list[Value] = []
    places: list[Any] = []
    for a in arguments:
        places.append(None if a is None else Slot(len(tensors)))
        tensors += [] if a is None else [a]
    keywords: list[tuple[str, Any]] = []
    for a in node.attribute:
        if a.type in (a.TENSOR, a.GRAPH, a.GRAPHS):
            raise UnsupportedError(f"there is no rule for it, and no external op holds its attribute {shown(a.name)}")
        keywords.append((a.name, attribute(a)))
    return f"{domain}::{node.op_type}" if domain else node.op_type, tuple(places), tuple(keywords), tensors
