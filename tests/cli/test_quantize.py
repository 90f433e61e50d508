"""``tdagger quantize``: files, the table of layers, what is asked for."""

import json
from importlib.util import find_spec

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
        torch.nn.Conv2d(3, 16, 5, padding=2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    return net.eval(), torch.zeros(1, 3, 8, 8)
def data():
    torch.manual_seed(1)
    return [torch.randn(1, 3, 8, 8) for _ in range(3)]
def nothing(): return []
class Spoken(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.steps = torch.nn.Conv1d(8, 12, 1), torch.nn.GRU(12, 20, batch_first=True)
        self.last = torch.nn.Linear(20, 4)
    def forward(self, x):
        return self.last(self.steps(self.first(x).transpose(1, 2))[0])
def spoken():
    return Spoken().eval(), torch.zeros(2, 8, 9)
def outlying():
    torch.manual_seed(2)
    net = torch.nn.Sequential(
        torch.nn.Linear(32, 24), torch.nn.ReLU(), torch.nn.Linear(24, 16), torch.nn.Sigmoid(), torch.nn.Linear(16, 4))
    with torch.no_grad():
        net[0].weight[3] *= 20
    return net.eval(), torch.zeros(1, 32)
"""


@pytest.fixture(autouse=True)
def quantize_nets(tmp_path):
    (tmp_path / "quantize_nets.py").write_text(NETS)
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x)
    np.savez(tmp_path / "odd.npz", x[:, :2])
    rows = np.random.default_rng(1).normal(size=(16, 32)).astype(np.float32)
    rows[:, 5] *= 30
    np.savez(tmp_path / "outlying.npz", rows)


def test_table_and_file(capsys, tmp_path):
    given = ["quantize", "quantize_nets:build", "--data", "quantize_nets:data", "-o", "q.onnx"]
    assert main(given) == 0
    out = shown(capsys)
    assert "layer op SQNR" in out
    assert "2 ops quantized; weights" in out
    assert "SQNR of the results" in out
    small = td.from_onnx(tmp_path / "q.onnx")
    assert td.op_counts(small.values)["quantize"] >= 3


def test_weights_that_stay_in_float_are_named(capsys):
    assert main(["quantize", "quantize_nets:spoken", "--target", "gpu-weight-only"]) == 0
    assert "weights in float: steps (gru) 7.68 kB, first (convolution) 384 B" in shown(capsys)
    assert main(["quantize", "quantize_nets:spoken", "--target", "coreml-weight-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["float"] == [{"module": "steps", "op": "gru", "bytes": 7680}]
    assert main(["quantize", "quantize_nets:build", "--target", "coreml-weight-only"]) == 0
    assert "in float" not in shown(capsys)


def test_a_coreml_package(capsys, tmp_path):
    if find_spec("coremltools") is None:  # it isn't imported: its reader of weights can be loaded once
        pytest.skip("coremltools is not installed")
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


REPAIRS = {
    "equalize": {"equalize": True}, "smooth": {"smooth": True}, "split": {"split": True},
    "compensate": {"compensate": True}, "compensate --adaptive": {"compensate": "adaptive"},
    "no-correct": {"correct": False},
}  # fmt: skip


@pytest.mark.parametrize("repair", REPAIRS)
def test_repairs_are_those_of_the_function(repair, capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    import quantize_nets

    given = ["quantize", "quantize_nets:outlying", "--data", "outlying.npz", "--json", "-o", "q.tdag"]
    assert main([*given, *f"--{repair}".split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sqnr"] > 25
    x = np.load(tmp_path / "outlying.npz")["arr_0"]
    net = td.from_torch(*quantize_nets.outlying())
    plain = td.quantize(net, [*x[:, None]])
    wanted = td.quantize(net, [*x[:, None]], **REPAIRS[repair])
    small = td.load(tmp_path / "q.tdag")
    assert small.weights.keys() == wanted.weights.keys()
    assert all(np.array_equal(small.weights[n], w) for n, w in wanted.weights.items())
    changed = [
        n for n, w in wanted.weights.items() if n not in plain.weights or not np.array_equal(plain.weights[n], w)
    ]
    assert changed or repair == "no-correct"


def test_all_repairs_at_once_with_a_quality(capsys):
    given = ["quantize", "quantize_nets:outlying", "--data", "outlying.npz", "--sqnr", "48", "--json"]
    assert main([*given, "--equalize", "--smooth", "--split", "--compensate", "--adaptive"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sqnr"] >= 47
    assert 0 < len(found["kept"]) < 3


def test_sizes(capsys, tmp_path):
    given = ["quantize", "quantize_nets:build", "--data", "data.npz", "-o", "q.onnx"]
    assert main([*given, "--batch", "2"]) == 0
    assert td.from_onnx(tmp_path / "q.onnx").graph.inputs["input"].shape == (2, 3, 8, 8)
    assert main([*given, "--batch", "1", "--resize", "b=4", "--force"]) == 0
    assert td.from_onnx(tmp_path / "q.onnx").graph.inputs["input"].shape == (4, 3, 8, 8)
    np.savez(tmp_path / "wide.npz", np.ones((2, 3, 8, 12), "f"))
    assert main([*given[:3], "wide.npz", "--resize", "w=12", "--opset", "19", "-o", "q.onnx", "--force"]) == 0
    assert td.from_onnx(tmp_path / "q.onnx").graph.inputs["input"].shape == (1, 3, 8, 12)


def test_kept_layers(capsys):
    assert main(["quantize", "quantize_nets:build", "--data", "data.npz", "--keep", "linear", "--json"]) == 0
    assert [row["op"] for row in json.loads(capsys.readouterr().out)["layers"]] == ["convolution"]


@pytest.mark.parametrize(
    ("args", "why"),
    [([], "finds ranges of activations on data: give --data"), (["--sqnr", "30"], "give --data"),
     (["--target", "gpu-weight-only", "--smooth"], "--smooth goes by what data shows: give --data"),
     (["--target", "gpu-weight-only", "--split"], "--split goes by what data shows: give --data"),
     (["--data", "data.npz", "--adaptive"], "--adaptive says how --compensate rounds: give both"),
     (["--data", "data.npz", "--batch", "3"], "isn't batches of f32[3 3 8 8]"),
     (["--data", "odd.npz"], "isn't batches of f32[1 3 8 8]"), (["--data", "quantize_nets:nothing"], "gave no batches"),
     (["--data", "quantize_nets:none"], "'none' is not in quantize_nets"), (["--data", "x"], "give module:callable")],
)  # fmt: skip
def test_refused(capsys, args, why):
    assert why in failed(capsys, "quantize", "quantize_nets:build", *args)
