"""Running what was exported with onnxruntime, bfloat16 and float8 by their bits."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tdagger.frameworks.onnx.file.tensors import DTYPES, ONNX_DTYPES
from tdagger.types import DType

#: Element types that numpy doesn't have.
_BITS = {"bf16": np.uint16, "f8e4m3": np.uint8, "f8e5m2": np.uint8}


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, which the checker and strict shape inference take."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def session(model: Any) -> ort.InferenceSession:
    """A session of a model, its bytes or a file, on one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: Any, arrays: Sequence[Any]) -> list[Any]:
    """The outputs for inputs in order."""
    s = session(model)
    binding = s.io_binding()
    values = [_value(np.asarray(a)) for a in arrays]
    for given, value in zip(s.get_inputs(), values, strict=True):
        binding.bind_ortvalue_input(given.name, value)
    for out in s.get_outputs():
        binding.bind_output(out.name, "cpu")
    s.run_with_iobinding(binding)
    return [_array(v) for v in binding.get_outputs()]


def _value(array: Any) -> Any:
    dtype = DType.of(array.dtype)
    if dtype.name in _BITS:
        bits = np.ascontiguousarray(array).view(_BITS[dtype.name]).reshape(array.shape)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, ONNX_DTYPES[dtype])
    return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"))


def _array(value: Any) -> Any:
    dtype = DTYPES[value.element_type()]
    if dtype.name not in _BITS:
        return value.numpy()
    size = int(np.prod(value.shape())) * dtype.bytes
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, dtype.numpy).reshape(value.shape())
