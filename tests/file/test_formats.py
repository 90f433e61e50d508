"""Networks and programs from other formats, saved, pickled and written as text: all that they hold comes back."""

import itertools
import pickle
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import tdagger as td
from tdagger.quantization.profiles import PROFILES
from tests.file.test_store import reloaded, same


def from_onnx() -> Iterator[tuple[str, td.TensorDAG]]:
    """Quantized operators, integers of four bits, floats of eight and operators of onnxruntime's own."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.frameworks.onnx.one_node import model
    from tests.frameworks.onnx.test_quantized import CASES

    for op, inputs, opset, options in CASES:
        yield op, td.from_onnx(model(op, inputs, opset, **options))


def from_tflite() -> Iterator[tuple[str, td.TensorDAG]]:
    """A case of every builtin, quantized ones among them."""
    pytest.importorskip("ai_edge_litert")
    from tests.frameworks.tflite.cases import CASES

    for i, (name, make) in enumerate(itertools.islice(CASES.items(), 0, None, 6)):
        try:
            yield name, td.from_tflite(make(np.random.default_rng(i)).model)
        except td.UnsupportedError:  # by these random attributes; test_operators.py says which
            continue


def from_coreml() -> Iterator[tuple[str, td.TensorDAG]]:
    """Weights in few bits, and an older network's."""
    if find_spec("coremltools") is None:  # it isn't imported: its reader of weights can be loaded once
        pytest.skip("coremltools is not installed")
    from tests.frameworks.coreml.programs import one

    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    yield "relu", one("relu", x, ("float32", (3, 4)))
    yield "softmax", one("softmax", x, ("float32", (3, 4)), axis=np.int32(-1))
    yield "cast", one("cast", x, ("float16", (3, 4)), dtype="fp16")


def quantized() -> Iterator[tuple[str, td.TensorDAG]]:
    """What `td.quantize` makes, for every target that it has."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((8, 4)).astype("f"), rng.standard_normal(8).astype("f")
    x = td.input("x", (2, 4))
    y = td.relu(td.linear(x, td.parameter("fc.weight", (8, 4)), td.parameter("fc.bias", (8,))))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), {"fc.weight": w, "fc.bias": b})
    data = [rng.standard_normal((2, 4)).astype("f") for _ in range(2)]
    for target in PROFILES:
        yield target, td.quantize(dag, data, target)


def made() -> Iterator[tuple[str, td.TensorDAG]]:
    """Networks whose weights are made of others when they are asked for: pruned, and layers in two of a lower rank."""
    rng = np.random.default_rng(0)
    x = value = td.input("x", (2, 8))
    weights: dict[str, np.ndarray] = {}
    for i in range(2):
        name = f"{i}.weight"
        weights[name] = rng.standard_normal((8, 8)).astype("f")
        value = td.relu(td.linear(value, td.parameter(name, (8, 8))))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": value}), weights)
    yield "pruned", dag.prune(flops=0.7)
    yield "low rank", dag.low_rank(flops=0.7)


@pytest.mark.parametrize("networks", [from_onnx, from_tflite, from_coreml, quantized, made])
def test_networks(networks: Callable[[], Iterator[tuple[str, td.TensorDAG]]], tmp_path: Path) -> None:
    count = 0
    for name, dag in networks():
        found = reloaded(dag, tmp_path / "m.tdag")
        same(dag, found)
        assert found.rows == dag.rows, name
        assert found.hash(weights=True) == dag.hash(weights=True), name
        by_text = td.parse(dag.text())
        assert by_text.values == dag.values, name
        assert by_text.hash() == dag.hash(), name
        pickled = pickle.loads(pickle.dumps(dag))
        same(dag, pickled)
        assert pickled.hash(weights=True) == dag.hash(weights=True), name
        count += 1
    assert count > 1
