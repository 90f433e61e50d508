"""Running a model by ai-edge-litert, by numpy, and by the module that it becomes."""

import os
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import tdagger as td

#: Default kernels with XNNPACK, without any delegate, and the reference kernels.
ENGINES = {
    "DEF": OpResolverType.AUTO, "NOX": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "REF": OpResolverType.BUILTIN_REF,
}  # fmt: skip


def interpreter(model: Any, shapes: Any = (), engine: str = "NOX") -> Any:
    """The model in a runtime, with inputs of some shapes."""
    given = {"model_content": bytes(model)} if not isinstance(model, str | os.PathLike) else {"model_path": str(model)}
    found = Interpreter(**given, num_threads=1, experimental_op_resolver_type=ENGINES[engine])
    for detail, shape in zip(found.get_input_details(), shapes, strict=False):
        found.resize_tensor_input(detail["index"], shape)
    found.allocate_tensors()
    return found


def invoked(runner: Any, *inputs: Any) -> list[np.ndarray]:
    """What a runtime gives."""
    for detail, array in zip(runner.get_input_details(), inputs, strict=True):
        runner.set_tensor(detail["index"], np.asarray(array))
    runner.invoke()
    return [np.array(runner.get_tensor(d["index"])) for d in runner.get_output_details()]


def by_runtime(model: Any, *inputs: Any, engine: str = "NOX") -> list[np.ndarray]:
    """What the runtime gives of a model with fresh state."""
    return invoked(interpreter(model, [np.shape(x) for x in inputs], engine), *inputs)


def as_list(found: Any) -> list[Any]:
    """The results of a network as a list."""
    return [*found] if isinstance(found, tuple | list) else [found]


def by_numpy(model: Any, *inputs: Any, **options: Any) -> list[np.ndarray]:
    """What the imported network gives by numpy."""
    return as_list(td.from_tflite(model, **options).run(*inputs))


def by_torch(dag: Any, *inputs: Any) -> list[np.ndarray]:
    """What the module gives that a network becomes."""
    import torch

    with torch.no_grad():
        return [np.asarray(y) for y in as_list(dag.to_torch().eval()(*[torch.from_numpy(np.array(x)) for x in inputs]))]


def distance(own: Any, wanted: Any) -> float:
    """The largest difference beside the largest entry; infinite where types or shapes differ."""
    if own.shape != wanted.shape or own.dtype != wanted.dtype:
        return np.inf
    if not wanted.size or np.array_equal(own, wanted, equal_nan=wanted.dtype.kind in "fc"):
        return 0.0
    if wanted.dtype.kind not in "fc":
        return float(np.abs(own.astype(np.float64) - wanted.astype(np.float64)).max())
    same = (own == wanted) | (np.isnan(own) & np.isnan(wanted))
    apart = np.where(same, 0, np.abs(own.astype(np.complex128) - wanted))
    size = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30)
    return float(np.nan_to_num(apart, nan=np.inf).max() / max(size, 1.0))
