"""CoreML files as SOURCE and TARGET of commands, and by CoreML itself where it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import tdagger as td
from tdagger.cli.target import Target
from tdagger.errors import SourceError
from tdagger.frameworks.source import InputSpec, Options, load


def small(path: Path, **options: object) -> td.TensorDAG:
    x, w = td.input("x", (2, 3)), td.parameter("w", (4, 3))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(x, w)}), {"w": np.ones((4, 3), np.float32)})
    dag.to_coreml(path, **options)
    return dag


def test_a_package_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    dag = small(path, dynamic=("b",))
    assert load(str(path)).dag().graph.inputs["x"].shape == (2, 3)
    five = load(str(path), Options(batch=5))
    inputs = five.random_inputs(0)
    (found,) = five.run_reference(five.dag(), inputs)
    assert np.allclose(found, dag.resize(b=5).run(*inputs[0]))
    assert load(str(path), Options(shapes={"x": InputSpec((7, 3))})).dag().graph.inputs["x"].shape == (7, 3)
    with pytest.raises(SourceError, match="--seq isn't for CoreML files"):
        load(str(path), Options(seq=3))
    with pytest.raises(SourceError, match="has the shape"):
        load(str(path), Options(shapes={"x": InputSpec((7, 4))})).dag()


def test_a_package_is_a_target(tmp_path: Path) -> None:
    dag = small(tmp_path / "a.mlpackage")
    to = Target(tmp_path / "b.mlpackage", options={"precision": "f16", "minimum_target": "iOS17"})
    to.write(dag)
    assert td.from_coreml(tmp_path / "b.mlpackage").weights["w"].dtype == np.float16
    with pytest.raises(SourceError, match=r"--precision is for \.mlpackage files"):
        Target(tmp_path / "b.onnx", options={"precision": "f16"})
    with pytest.raises(SourceError, match="is there already"):
        Target(tmp_path / "b.mlpackage")


@pytest.mark.skipif(sys.platform != "darwin", reason="CoreML runs on macOS only")
def test_coreml_itself_gives_the_same(tmp_path: Path) -> None:
    dag = small(tmp_path / "a.mlpackage")
    source = load(str(tmp_path / "a.mlpackage"))
    inputs = source.random_inputs(0)
    assert np.allclose(source.run(inputs)[0], dag.run(*inputs[0]), atol=1e-4)
