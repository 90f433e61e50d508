"""The bodies of operators: functions of the model, and those that ONNX defines operators by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import defs

from tdagger.frameworks.onnx.file.tensors import ONNX_DTYPES
from tdagger.op import Value
from tdagger.types import TensorType


def key_of(function: Any) -> tuple[str, str, str]:
    """What a node calls a function by: domain, name, overload."""
    return plain(function.domain), function.name, function.overload


def plain(domain: str) -> str:
    """The domain of ONNX itself has two names."""
    return "" if domain == "ai.onnx" else domain


def body_of(
    node: Any, domain: str, version: int, arguments: Sequence[Value | TensorType | tuple[TensorType, ...] | None]
) -> Any:
    """The function that defines an operator of ONNX, made for arguments of these types; None if nothing does."""
    try:
        schema: Any = defs.get_schema(node.op_type, version, domain)
    except defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    if schema.has_function:
        found = _newest(schema.function_opset_versions, version)
        text: Any = schema.get_function_with_opset_version(found) if found else None
        return onnx.FunctionProto.FromString(text) if text else None
    if schema.has_context_dependent_function:
        found = _newest(schema.context_dependent_function_opset_versions, version)
        if not found:
            return None
        types = [type_proto(a).SerializeToString() for a in arguments]
        make: Callable[..., bytes] = schema.get_context_dependent_function_with_opset_version
        text = make(found, node.SerializeToString(), types)
        return onnx.FunctionProto.FromString(text) if text else None
    return None


def _newest(versions: Sequence[int], version: int) -> int:
    """The highest version that isn't above one; 0 if there is none."""
    return max([v for v in versions if v <= version], default=0)


def type_proto(argument: Value | TensorType | tuple[TensorType, ...] | None) -> Any:
    """A type as ONNX writes it; an empty one of what isn't given. Several types are a sequence's."""
    if argument is None:
        return onnx.TypeProto()
    if isinstance(argument, tuple):
        if not argument:
            return onnx.TypeProto()
        shapes = [None if len({t.shape for t in argument}) > 1 else argument[0].shape]
        inner = onnx.helper.make_tensor_type_proto(ONNX_DTYPES[argument[0].dtype], shapes[0])
        return onnx.helper.make_sequence_type_proto(inner)
    type_ = argument.type if isinstance(argument, Value) else argument
    return onnx.helper.make_tensor_type_proto(ONNX_DTYPES[type_.dtype], type_.shape)


def with_attributes(node: Any, given: Mapping[str, Any]) -> Any:
    """A node of a function with the attributes of its call in the places where it refers to them."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    made = type(node)()
    made.CopyFrom(node)
    del made.attribute[:]
    for a in node.attribute:
        if not a.ref_attr_name:
            made.attribute.append(a)
        elif a.ref_attr_name in given:
            made.attribute.append(given[a.ref_attr_name])
            made.attribute[-1].name = a.name
    return made
