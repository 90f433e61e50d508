"""The integer reference against onnxruntime's kernels, for every op that the profile of it quantizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.quantization.integers import Integers
from tests.quantization.test_networks import session

Case = tuple[Callable[..., td.Value], dict[str, tuple[int, ...]], tuple[int, ...], str]


def _conv(**options: Any) -> Callable[..., td.Value]:
    return lambda x, w, b=None: td.relu(td.convolution(x, w, b, **options))


CASES: dict[str, Case] = {
    "convolution": (_conv(padding=1), {"w": (8, 6, 3, 3), "b": (8,)}, (2, 6, 9, 9), "QLinearConv"),
    "strided": (_conv(stride=2), {"w": (8, 6, 3, 3)}, (2, 6, 9, 9), "QLinearConv"),
    "depthwise": (_conv(groups=6, padding=1), {"w": (6, 1, 3, 3), "b": (6,)}, (2, 6, 9, 9), "QLinearConv"),
    "dilated 1d": (_conv(dilation=2), {"w": (8, 6, 3), "b": (8,)}, (2, 6, 20), "QLinearConv"),
    "linear": (td.linear, {"w": (16, 12), "b": (16,)}, (5, 12), "QGemm"),
    "linear of sequences": (td.linear, {"w": (16, 12), "b": (16,)}, (2, 5, 12), "QGemm"),
    "linear without bias": (td.linear, {"w": (16, 12)}, (2, 5, 12), "MatMulIntegerToFloat"),
    "matmul": (td.matmul, {"w": (12, 16)}, (2, 5, 12), "MatMulIntegerToFloat"),
    "product and bias": (lambda x, w, b: td.matmul(x, w) + b, {"w": (12, 16), "b": (16,)}, (2, 5, 12), "QGemm"),
    "addmm": (lambda x, w, b: td.addmm(b, x, w), {"w": (12, 16), "b": (16,)}, (5, 12), "QGemm"),
    "products of data": (lambda x: td.matmul(x, td.permute(x, (0, 2, 1))), {}, (2, 5, 12), "MatMulIntegerToFloat"),
    "residual": (
        lambda x, w, v: td.relu(td.convolution(x, w, padding=1) + td.convolution(x, v)),
        {"w": (8, 6, 3, 3), "v": (8, 6, 1, 1)}, (2, 6, 9, 9), "QLinearAdd",
    ),
    "pooled": (
        lambda x, w, v: td.convolution(td.max_pool(td.convolution(x, w), kernel=2), v),
        {"w": (8, 6, 3, 3), "v": (4, 8, 1, 1)}, (2, 6, 10, 10), "QLinearConv",
    ),
}  # fmt: skip


def made(case: Case, seed: int = 0) -> tuple[td.TensorDAG, list[Any]]:
    function, weights, shape, _ = case
    rng = np.random.default_rng(seed)
    arrays = {n: (rng.normal(size=s) * 0.2).astype(np.float32) for n, s in weights.items()}
    x = td.input("x", shape)
    out = function(x, *[td.parameter(n, a.shape) for n, a in arrays.items()])
    data = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    return td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays), data


def agree(small: td.TensorDAG, data: list[Any], exact: bool) -> None:
    """That the reference's results are onnxruntime's within one step, but for one in a thousand."""
    run, runner = session(small, exact=exact), Integers(small)
    for x in data:
        a, b = runner.run(x), run.run(None, {"x": x})[0]
        step = next((float(v.op.data) for v in reversed(small.graph.constants) if v.dtype.name == "f32"), 0.0)
        if small.graph.outputs["y"].op.name != "dequantize":  # floats come out: no steps but those of f32
            step = float(np.abs(b).max()) * 1e-4
        away = np.abs(a - b)
        assert np.mean(away <= 1.001 * step) >= 0.999, (away.max(), step)
    layers = sum(v.op.name in ("convolution", "linear", "matmul", "addmm") for v in small.values)
    assert runner.count == len(data) * layers


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", ["onnxruntime", "x86-avx2"])
def test_is_onnxruntimes(name: str, target: str) -> None:
    dag, data = made(CASES[name])
    agree(td.quantize(dag, data, target, correct=False, least=0), data, exact=target != "x86-avx2")


def _dead(w: Any) -> None:
    w[1], w[2] = 0, w[2] * 1e-20


def _nothing(w: Any) -> None:
    del w


Edge = tuple[Callable[[Any], Any], Callable[[Any], None]]
#: What calibrates, of normal numbers, and what is done to the weight.
EDGES: dict[str, Edge] = {
    "nothing but zeros": (lambda x: 0 * x, _nothing),
    "all negative": (lambda x: -np.abs(x) - 0.1, lambda w: np.abs(w, out=w)),  # the zero points are 255
    "all positive": (lambda x: np.abs(x) + 0.1, lambda w: np.abs(w, out=w)),  # they are 0
    "all one number": (lambda x: 0 * x + 3, _nothing),
    "one outlier": (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, 1e4, x), _nothing),
    "tiny": (lambda x: x * 1e-30, _nothing),
    "huge": (lambda x: x * 1e30, _nothing),
    "dead channels": (lambda x: x, _dead),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", ["convolution", "linear", "matmul"])
@pytest.mark.parametrize("target", ["onnxruntime", "x86-avx2"])
def test_at_the_edges(name: str, edge: str, target: str) -> None:
    """Also on what calibration didn't see: numbers beyond all ranges, infinities, NaN."""
    dag, data = made(CASES[name])
    shown, change = EDGES[edge]
    arrays = {n: np.array(a) for n, a in dag.weights.items()}
    change(arrays["w"] if name != "matmul" else arrays["w"].T)
    dag = td.TensorDAG.of_graph(dag.graph, arrays)
    data = [shown(x).astype(np.float32) for x in data]
    small = td.quantize(dag, data, target, correct=False, least=0)
    odd = np.array(data[0])
    odd.reshape(-1)[:6] = [np.nan, np.inf, -np.inf, 3e38, -3e38, -0.0]
    agree(small, [*data, odd], exact=target != "x86-avx2")


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_has_a_kernel(name: str, tmp_path: Any) -> None:
    import onnx
    import onnxruntime as ort

    dag, data = made(CASES[name])
    small = td.quantize(dag, data, "onnxruntime", correct=False, least=0)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(small.to_onnx().SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = {n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert CASES[name][3] in ops, ops
