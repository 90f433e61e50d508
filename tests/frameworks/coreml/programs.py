"""Programs of one op, written by hand as protobufs: what the importer reads, without the exporter."""

from __future__ import annotations

from typing import Any

import numpy as np

import tdagger as td
from tdagger.frameworks.coreml import proto

NUMBERS = {"bool": 1, "float16": 10, "float32": 11, "int8": 21, "int16": 22, "int32": 23, "uint8": 31, "uint16": 32}


def set_type(made: Any, dtype: str, shape: tuple[int | None, ...]) -> None:
    """MIL's type of a tensor."""
    made.tensorType.dataType = NUMBERS[dtype]
    made.tensorType.rank = len(shape)
    for n in shape:
        d = made.tensorType.dimensions.add()
        if n is None:
            d.unknown.variadic = False
        else:
            d.constant.size = n


def set_value(made: Any, value: Any, kind: int | None = None) -> None:
    """A literal: text, or an array of numbers; ``kind`` is another element type for its bytes."""
    if isinstance(value, str):
        made.type.tensorType.dataType = 2
        made.immediateValue.tensor.strings.values.append(value)
        return
    array = np.asarray(value)
    array = array.astype(np.int32) if array.dtype == np.int64 else array
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    set_type(made.type, str(array.dtype), array.shape)
    if kind is not None:
        made.type.tensorType.dataType = kind
    tensor = made.immediateValue.tensor
    field = {"bool": "bools", "float32": "floats", "int32": "ints"}.get(str(array.dtype))
    if field is None or kind is not None:
        tensor.bytes.values = array.tobytes()
    else:
        getattr(tensor, field).SetInParent()
        getattr(tensor, field).values.extend(array.reshape(-1).tolist())


def program(
    inputs: dict[str, tuple[str, tuple[int | None, ...]]],
    ops: list[Any],
    outputs: list[str],
    opset: int = 15,
) -> Any:
    """A model: inputs by name, ops as (type, inputs, results); an input of an op is a name, ``"=x"``, or a literal."""
    model = proto.model()
    model.specificationVersion = opset - 9
    function = model.mlProgram.functions["main"]
    function.opset = f"CoreML{opset - 10}"
    for name, (dtype, shape) in inputs.items():
        set_type(function.inputs.add(name=name).type, dtype, shape)
        feature = model.description.input.add(name=name)
        feature.type.multiArrayType.dataType = 65568
        feature.type.multiArrayType.shape.extend([3 if n is None else n for n in shape])
    fill(function.block_specializations[function.opset], ops, outputs)
    return model


def fill(block: Any, ops: list[Any], outputs: list[str]) -> None:
    """The ops of a block; an op may have a fourth part, its own blocks as (inputs, ops, outputs)."""
    for kind, given, results, *blocks in ops:
        made = block.operations.add(type=kind)
        for key, value in given.items():
            for one in value if isinstance(value, list) and value and str(value[0]).startswith("=") else [value]:
                argument = made.inputs[key].arguments.add()
                if isinstance(one, str) and one.startswith("="):
                    argument.name = one[1:]
                else:
                    set_value(argument.value, one)
        for inputs, inside, given_back in blocks[0] if blocks else ():
            inner = made.blocks.add()
            for name, (dtype, shape) in inputs.items():
                set_type(inner.inputs.add(name=name).type, dtype, shape)
            fill(inner, inside, given_back)
        for name, dtype, shape in results:
            set_type(made.outputs.add(name=name).type, dtype, shape)
    block.outputs.extend(outputs)


def one(op: str, x: Any, result: tuple[str, tuple[int | None, ...]], opset: int = 15, **given: Any) -> td.TensorDAG:
    """The network of one op of x; ``result`` is what is declared of it."""
    array = np.asarray(x)
    inputs = {"x": (str(array.dtype), array.shape)}
    model = program(inputs, [(op, {"x": "=x", **given}, [("y", *result)])], ["y"], opset)
    return td.from_coreml(model)


def run(op: str, x: Any, result: tuple[str, tuple[int | None, ...]], opset: int = 15, **given: Any) -> np.ndarray:
    """What one op gives."""
    return np.asarray(one(op, x, result, opset, **given).run(np.asarray(x)))
