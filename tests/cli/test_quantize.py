"""``tdagger quantize``: files, the table of layers, what is asked for."""

import json

import numpy as np
import pytest

import tdagger as td
from tdagger.cli import main
from tests.cli.helpers import failed, shown

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("onnx")

NETS = """
import torch
def build():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    return net.eval(), torch.zeros(1, 3, 8, 8)
def data():
    torch.manual_seed(1)
    return [torch.randn(1, 3, 8, 8) for _ in range(3)]
def nothing(): return []
"""


@pytest.fixture(autouse=True)
def quantize_nets(tmp_path):
    (tmp_path / "quantize_nets.py").write_text(NETS)
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x)
    np.savez(tmp_path / "odd.npz", x[:, :2])


def test_table_and_file(capsys, tmp_path):
    given = ["quantize", "quantize_nets:build", "--data", "quantize_nets:data", "-o", "q.onnx"]
    assert main(given) == 0
    out = shown(capsys)
    assert "layer op SQNR" in out
    assert "2 ops quantized; weights" in out
    assert "SQNR of the results" in out
    small = td.from_onnx(tmp_path / "q.onnx")
    assert td.op_counts(small.values)["quantize"] >= 3


def test_a_coreml_package(capsys, tmp_path):
    pytest.importorskip("coremltools")
    given = ["quantize", "quantize_nets:build", "--target", "coreml", "--data", "quantize_nets:data"]
    assert main([*given, "-o", "q.mlpackage", "--minimum-target", "iOS18", "--precision", "f16"]) == 0
    small = td.from_coreml(tmp_path / "q.mlpackage")
    assert td.op_counts(small.values)["quantize"] >= 3
    assert {w.dtype.name for n, w in small.weights.items() if n.endswith(".weight")} == {"int8"}
    capsys.readouterr()
    assert main([*given, "-o", "old.mlpackage", "--minimum-target", "iOS16"]) == 2
    assert "MIL has it since iOS17" in capsys.readouterr().err


def test_json(capsys):
    assert main(["quantize", "quantize_nets:build", "--data", "data.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["op"] for row in found["layers"]] == ["convolution", "linear"]
    assert found["sqnr"] > 25
    assert found["layers"][0]["seen"][0] < found["layers"][0]["range"][0] + 1
    assert found["layers"][1]["bytes"] == {"before": 320, "after": 100}
    assert main(["quantize", "quantize_nets:build", "--target", "gpu-weight-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sqnr"] is None


def test_predicted_times_and_what_saturates(capsys):
    given = ["quantize", "quantize_nets:build", "--data", "data.npz", "--device"]
    assert main([*given, "h100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"]["before"] > 0 < found["seconds"]["after"]
    for row in found["layers"]:
        assert 0 < row["seconds"]["after"] <= row["seconds"]["before"]
        assert 0 <= row["saturated"] < 0.1
    assert found["layers"][0]["saturated"] > 0  # the largest number at least
    assert main([*given, "h100"]) == 0
    assert "predicted time" in shown(capsys)
    assert "says nothing of products of i8: give a device file" in failed(capsys, *given, "raspberry-pi-5")
    assert main(["quantize", "quantize_nets:build", "--target", "gpu-weight-only", "--device", "raspberry-pi-5"]) == 0


def test_quality(capsys):
    assert main(["quantize", "quantize_nets:build", "--data", "data.npz", "--sqnr", "55", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sqnr"] >= 54
    assert found["kept"]
    assert main(["quantize", "quantize_nets:build", "--data", "data.npz", "--drop", "1", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["kept"]


def test_repairs(capsys):
    given = ["quantize", "quantize_nets:build", "--data", "data.npz", "--smooth", "--compensate", "--json"]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["sqnr"] > 25
    assert main([*given, "--sqnr", "55"]) == 0
    assert json.loads(capsys.readouterr().out)["sqnr"] >= 54


@pytest.mark.parametrize(
    ("args", "why"),
    [([], "finds ranges of activations on data: give --data"), (["--sqnr", "30"], "give --data"),
     (["--target", "gpu-weight-only", "--smooth"], "go by what data shows: give --data"),
     (["--data", "odd.npz"], "isn't batches of f32[1 3 8 8]"), (["--data", "quantize_nets:nothing"], "gave no batches"),
     (["--data", "quantize_nets:none"], "'none' is not in quantize_nets"), (["--data", "x"], "give module:callable")],
)  # fmt: skip
def test_refused(capsys, args, why):
    assert why in failed(capsys, "quantize", "quantize_nets:build", *args)
