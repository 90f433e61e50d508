"""The sizes of a model's inputs in an ONNX file (:mod:`tdagger.frameworks.sizes`), and types that it declares wrongly.

A dimension of an input has a number, a name (``dim_param``), or nothing. Nothing, a negative number, and a 0 in a
model that has weights are placeholders; they go by the input and the place: ``x.0``.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.onnx.file.tensors import DTYPES, name_of
from tdagger.frameworks.sizes import Declared
from tdagger.names import shown
from tdagger.op import Value
from tdagger.types import DType

#: The element types of weights: float, half, double, bfloat16.
_FLOATS = frozenset({1, 10, 11, 16})


def declared(info: Any, zero_is_open: bool) -> Declared:
    """What a file says of an input; UnsupportedError if it is no tensor of a type there is here."""
    which = info.type.WhichOneof("value")
    if which != "tensor_type":
        raise UnsupportedError(
            f"input {shown(info.name)} is {'of no type' if which is None else which}, not a tensor: sequences, "
            "optionals, maps and sparse tensors aren't imported"
        )
    tensor = info.type.tensor_type
    if tensor.elem_type not in DTYPES:
        raise UnsupportedError(
            f"input {shown(info.name)} is a tensor of {name_of(tensor.elem_type)}: there is no such element type here"
        )
    dtype = DTYPES[tensor.elem_type]
    if not tensor.HasField("shape"):
        return Declared(info.name, dtype, None)
    dims: list[int | str] = []
    for i, d in enumerate(tensor.shape.dim):
        which = d.WhichOneof("value")
        if which == "dim_value" and (d.dim_value > 0 or (d.dim_value == 0 and not zero_is_open)):
            dims.append(d.dim_value)
        else:
            if isinstance(d.dim_param, bytes):
                raise SourceError(f"a size of input {shown(info.name)} has a name that isn't UTF-8")
            named = d.dim_param if any(c.isalpha() for c in d.dim_param) else ""  # some write "?" or "-1"
            dims.append(named or f"{info.name}.{i}")
    return Declared(info.name, dtype, tuple(dims))


def inputs_of(
    graph: Any, tensors: Container[str] | None = None, nested: Mapping[str, Sequence[str]] | None = None
) -> list[Declared]:
    """What a file says of the inputs of its graph, but for those that are its own ``tensors``.

    ``nested`` are names of the tensors in those that are sequences or optional. SourceError where two have one name, or
    one has none.
    """
    if tensors is None:
        tensors = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    zero_is_open = any(t.data_type in _FLOATS and len(t.dims) for t in graph.initializer)
    found: dict[str, Declared] = {}
    for info in graph.input:
        name = info.name
        if name in tensors:
            continue
        if not name or name in found:
            raise SourceError(f"the model has two inputs called {shown(name)}" if name else "an input has no name")
        if nested is not None and name in nested:
            found |= {n: Declared(n, _dtype_inside(info.type), None) for n in nested[name]}
        else:
            found[name] = declared(info, zero_is_open)
    return list(found.values())


def _dtype_inside(kind: Any) -> DType:
    """The element type of the tensors in a sequence, or of an optional tensor."""
    while (which := kind.WhichOneof("value")) != "tensor_type":
        kind = getattr(kind, which).elem_type
    return DTYPES[kind.tensor_type.elem_type]


# --- lies ----------------------------------------------------------------------------------------------------


def lie(info: Any, value: Value, sizes: Mapping[str, int]) -> str:
    """What a file says of a value that isn't so, and what is; nothing if it is."""
    kind = info.type.tensor_type
    type_ = value.type
    if kind.elem_type and kind.elem_type in DTYPES and DTYPES[kind.elem_type] is not type_.dtype:
        return f"{shown(info.name)} is {type_}, not {name_of(kind.elem_type)}"
    if not kind.HasField("shape"):
        return ""
    dims = kind.shape.dim
    wrong = len(dims) != type_.rank
    if not wrong:
        for d, n in zip(dims, type_.shape, strict=True):
            told = d.dim_value or (sizes.get(d.dim_param) if d.dim_param else None) or 0
            if told > 0 and told != n:
                wrong = True
                break
    if not wrong:
        return ""
    said = " ".join(shown(d.dim_param or (d.dim_value if d.HasField("dim_value") else "?")) for d in dims)
    return f"{shown(info.name)} is {type_}, not [{said}]"
