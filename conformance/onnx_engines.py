"""Other engines on the cases of onnx's backend suite: what each takes a case for is found as for tdagger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from conformance.onnx_cases import Arrays, Case, difference, is_random, numbers
from conformance.onnx_rounding import is_lost, is_nearer

Report = Callable[..., None]
#: What runs a model on inputs by name: outputs in order.
Engine = Callable[[onnx.ModelProto, dict[str, Any]], Arrays]


def onnxruntime(model: onnx.ModelProto, inputs: dict[str, Any]) -> Arrays:
    """onnxruntime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    found = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, inputs)
    kinds = [o.type.tensor_type.elem_type for o in model.graph.output]
    return [_as_float8(a, k) if k in _FLOAT8 else a for a, k in zip(found, kinds, strict=True)]


_FLOAT8 = {k for n, k in onnx.TensorProto.DataType.items() if n.startswith("FLOAT8")}


def _as_float8(a: Any, kind: int) -> Any:
    """Its float8, which it gives as bytes."""
    return a.view(onnx.helper.tensor_dtype_to_np_dtype(kind)) if a.dtype == np.uint8 else a


def onnx2torch(model: onnx.ModelProto, inputs: dict[str, Any]) -> Arrays:
    """onnx2torch, which isn't installed with the project: a module of torch, in inference."""
    import torch
    from onnx2torch import convert

    module = convert(model).eval()
    with torch.no_grad():
        found = module(*[torch.from_numpy(np.array(a)) for a in inputs.values()])
    return [t.numpy() for t in (found if isinstance(found, tuple | list) else [found])]


def tinygrad(model: onnx.ModelProto, inputs: dict[str, Any]) -> Arrays:
    """tinygrad's frontend, which isn't installed with the project, on the device that DEV names."""
    from tinygrad import Tensor
    from tinygrad.nn.onnx import OnnxRunner

    runner = OnnxRunner(Tensor(model.SerializeToString()))
    found = runner({n: Tensor(a) for n, a in inputs.items()})
    return [t.numpy() for t in (found[o.name] for o in model.graph.output)]


ENGINES: dict[str, Engine] = {"onnxruntime": onnxruntime, "onnx2torch": onnx2torch, "tinygrad": tinygrad}


def checked(engine: Engine) -> Callable[[Case, Report], None]:
    """Run a case's model by an engine and compare its outputs with the suite's."""

    def check(case: Case, report: Report) -> None:
        try:
            found = [engine(case.model, dict(inputs)) for inputs, _ in case.data]
        except Exception as e:  # each kind of an engine's errors is a class of its own
            report(status="unsupported", error=f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")
            return
        for got, (inputs, want) in zip(found, case.data, strict=True):
            why = difference(case, got, want, not is_random(case), ours=False)
            if " differs: " in why and is_nearer(case, inputs, got, want):
                report(nearer=True)
            elif " differs: " in why and is_lost(case, inputs, numbers(case), want):
                report(lost=True)
            elif why:
                report(status="wrong", error=why)
                return

    return check
