"""Files of other formats: a network is written, run by what runs such files, and read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

import tdagger as td
from conformance import coreml_export, mil, tflite_export
from conformance.fuzz.compare import listed


class Format(NamedTuple):
    """How a file is called, written, run (inputs in the order of the network) and read."""

    suffix: str
    write: Callable[[td.TensorDAG, Path], Any]
    run: Callable[[Path, Sequence[Tensor]], list[Tensor]]
    read: Callable[[Path], td.TensorDAG]


def _by_onnxruntime(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Without its optimisations, which change numbers (findings/integer_reciprocal_fused.sh)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {i.name: t.detach().numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.array(a, order="C")) for a in session.run(None, feeds)]


FORMATS = {
    "onnx": Format(".onnx", td.TensorDAG.to_onnx, _by_onnxruntime, td.from_onnx),
    "tflite": Format(".tflite", td.TensorDAG.to_tflite, tflite_export.run, td.from_tflite),
    "coreml": Format(
        ".mlpackage", td.TensorDAG.to_coreml, lambda path, x: coreml_export.run(mil.Program(path), x), td.from_coreml
    ),
}


def results(
    dag: td.TensorDAG, form: Format, inputs: Sequence[Tensor], folder: str
) -> dict[str, Callable[[], list[Tensor]]]:
    """What gives the results of the file, by who gives them; the file is written to a folder before.

    Raises:
        UnsupportedError: the format can't have it.
    """
    path = Path(folder) / f"model{form.suffix}"
    form.write(dag, path)

    def again() -> list[Tensor]:
        read = form.read(path)
        kinds = [v.type.dtype.numpy for v in read.graph.inputs.values()]
        arrays = [t.detach().numpy().astype(k, copy=False) for t, k in zip(inputs, kinds, strict=True)]
        out = listed(read.run(*arrays))
        return [torch.from_numpy(np.array(a, order="C")) for a in out]

    return {"its runtime": lambda: form.run(path, inputs), "read again": again}
