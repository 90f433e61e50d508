"""Models of one node, for the tests of the rules: made, imported, run, and compared with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tdagger.frameworks.onnx.importer import from_onnx

#: The oldest IR version that has all that the tests use.
IR = 10


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Random floats, around 0."""
    return rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def model(
    op: str,
    inputs: Sequence[np.ndarray | None],
    opset: int,
    /,
    *,
    held: Sequence[int] = (),
    outputs: Sequence[bool] = (True,),
    domain: str = "",
    kinds: Sequence[int] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; inputs whose number is in ``held`` are initializers, None is one that isn't given.

    ``outputs`` says which outputs the node names, ``kinds`` the element types they have (float where not said).
    """
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    given = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    initial = [numpy_helper.from_array(np.asarray(given[f"x{i}"]), f"x{i}") for i in held]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
        if int(n[1:]) not in held
    ]
    results = [f"y{i}" if w else "" for i, w in enumerate(outputs)]
    types = [*kinds, *[TensorProto.FLOAT] * (len(results) - len(kinds))]
    node = helper.make_node(op, names, results, name="the node", domain=domain, **attributes)
    outs = [helper.make_tensor_value_info(n, t, None) for n, t in zip(results, types, strict=True) if n]
    graph = helper.make_graph([node], "one", infos, outs, initial)
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = min(made.ir_version, IR)
    return made


def arguments(inputs: Sequence[np.ndarray | None], held: Sequence[int] = ()) -> list[np.ndarray]:
    """What the model is called with."""
    return [np.asarray(a) for i, a in enumerate(inputs) if a is not None and i not in held]


def ours(made: onnx.ModelProto, args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the imported network gives, run by numpy."""
    out = from_onnx(made).run(*args)
    return list(out) if isinstance(out, tuple | list) else [out]


def in_torch(made: onnx.ModelProto, args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the imported network gives as a torch module."""
    import torch

    module = from_onnx(made).to_torch()
    with torch.no_grad():
        out = module(*[torch.from_numpy(np.array(a)) for a in args])
    return [np.asarray(o) for o in (out if isinstance(out, tuple | list) else [out])]


def theirs(made: onnx.ModelProto, args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime gives."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # else sums saturate on some processors
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: a for i, a in zip(session.get_inputs(), args, strict=True)})


def agree(
    op: str,
    inputs: Sequence[np.ndarray | None],
    opset: int,
    /,
    *,
    tolerance: float = 1e-5,
    steps: int = 0,
    torch: bool = True,
    expected: Sequence[Any] | None = None,
    **more: Any,
) -> None:
    """Assert that numpy and torch give what onnxruntime gives, or ``expected``; integers to ``steps``."""
    made = model(op, inputs, opset, **more)
    args = arguments(inputs, more.get("held", ()))
    wanted = theirs(made, args) if expected is None else [np.asarray(e) for e in expected]
    runs = {"numpy": ours(made, args), **({"torch": in_torch(made, args)} if torch else {})}
    for name, got in runs.items():
        assert len(got) == len(wanted), name
        for i, (g, w) in enumerate(zip(got, wanted, strict=True)):
            assert g.shape == w.shape, f"{name}, output {i}: {g.shape} is not {w.shape}"
            assert g.dtype == w.dtype, f"{name}, output {i}: {g.dtype} is not {w.dtype}"
            if w.dtype.kind in "iub":
                worst = np.abs(g.astype(np.int64) - w.astype(np.int64)).max(initial=0)
                assert worst <= steps, f"{name}, output {i}: {worst} steps apart"
            else:
                np.testing.assert_allclose(
                    g.astype(np.float64), w.astype(np.float64), tolerance, tolerance, err_msg=f"{name}, output {i}"
                )
