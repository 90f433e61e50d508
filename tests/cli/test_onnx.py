"""Every command takes an .onnx file as SOURCE, and convert writes one."""

import json

import numpy as np
import onnx
import pytest

from tdagger.cli import main
from tdagger.frameworks.onnx.source import OnnxSource
from tests.cli.helpers import failed
from tests.frameworks.onnx.small import floats, model, node

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("onnxruntime")


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors = {"fc.weight": floats(5, 12), "fc.bias": floats(5), "shape": np.array([0, -1])}
    made = model(
        [node("Reshape", "x shape", "flat"), node("Gemm", "flat fc.weight fc.bias", "z", "fc/Gemm", transB=1),
         node("Relu", "z", "y")],
        {"x": ("batch", 3, 4)}, [onnx.helper.make_tensor_value_info("y", 1, ["batch", 5])], tensors,
    )  # fmt: skip
    onnx.save(made, tmp_path / "net.onnx")
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(made, tmp_path / "frozen.onnx")
    return tmp_path / "net.onnx"


def test_every_command_takes_a_file(net, capsys):
    assert main(["inspect", "net.onnx", "--batch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ops"]
    for command in (
        ["inspect", "net.onnx", "--shape", "x=2,3,4", "--axes"], ["cost", "frozen.onnx"],
        ["verify", "net.onnx", "--batch", "3", "--numpy"], ["verify", "frozen.onnx", "--tolerance", "1e-6"],
        ["diff", "net.onnx", "frozen.onnx", "--batch", "1"], ["compare", "frozen.onnx", "--at-b", "b=8"],
        ["inspect", "net.onnx", "--batch", "1", "--resize", "batch=8", "--optimize"],
        ["inspect", "frozen.onnx", "--unbatch"],
    ):  # fmt: skip
        assert main(command) == 0, command
        assert capsys.readouterr().out


def test_to_and_fro(net, capsys):
    for target in ("a.pt2", "a.tdag", "a.py", "a.pt"):
        assert main(["convert", "net.onnx", target, "--batch", "2"]) == 0
    assert main(["convert", "frozen.onnx", "eight.tdag", "--resize", "b=8"]) == 0
    capsys.readouterr()
    assert main(["inspect", "eight.tdag", "--text", "--no-axes"]) == 0
    assert "f32[8 5]" in capsys.readouterr().out
    assert main(["diff", "a.pt2", "a.tdag"]) == 0
    assert main(["convert", "a.tdag", "b.onnx"]) == 0
    assert main(["diff", "b.onnx", "a.tdag"]) == 0


def test_axes_of_any_size_and_the_operator_set(net, capsys):
    assert main(["convert", "frozen.onnx", "any.onnx", "--dynamic", "b", "--opset", "18"]) == 0
    made = onnx.load("any.onnx")
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "b"
    assert [o.version for o in made.opset_import] == [18]
    assert main(["verify", "any.onnx", "--batch", "5"]) == 0
    capsys.readouterr()
    assert "--dynamic is for .onnx, .tflite, .mlpackage files" in failed(
        capsys, "convert", "frozen.onnx", "a.pt2", "--dynamic", "b"
    )
    told = failed(capsys, "convert", "frozen.onnx", "no.onnx", "--dynamic", "nosuch")
    assert "axis nosuch can't be of any size" in told


def test_large_weights_lie_in_a_file_beside_it(net, capsys, monkeypatch):
    (net.parent / "big.onnx.data").write_bytes(b"another's")
    told = failed(capsys, "convert", "frozen.onnx", "big.onnx")
    assert "big.onnx.data is there already; --force overwrites it" in told
    assert main(["convert", "frozen.onnx", "big.onnx", "--force"]) == 0  # it fits in one file
    assert "big.onnx.data" not in capsys.readouterr().err
    assert (net.parent / "big.onnx.data").read_bytes() == b"another's"
    monkeypatch.setattr("tdagger.frameworks.onnx.emit.save.LARGEST", 100)
    assert main(["convert", "frozen.onnx", "big.onnx", "--force"]) == 0
    assert "big.onnx.data (" in capsys.readouterr().err
    assert main(["convert", "frozen.onnx", "new.onnx"]) == 0
    told = capsys.readouterr().err
    assert "wrote new.onnx (" in told
    assert ", new.onnx.data (" in told
    assert "new.onnx is there already" in failed(capsys, "convert", "frozen.onnx", "new.onnx")


def test_what_is_said_where_it_cant_be_used(net, capsys):
    assert "leaves sizes of its inputs open (x [batch 3 4])" in failed(capsys, "inspect", "net.onnx")
    assert "--batch 1, --shape NAME=SIZES or, of commands that have it, --resize NAME=SIZE" in failed(
        capsys, "inspect", "net.onnx"
    )
    told = failed(capsys, "inspect", "frozen.onnx", "--batch", "2")
    assert "the first size of input x is 1 in the file, --batch can't change it (--resize can)" in told
    assert "--dtype isn't for .onnx files" in failed(capsys, "inspect", "net.onnx", "--dtype", "f16")
    assert "the file says the element types" in failed(capsys, "inspect", "net.onnx", "--shape", "x=f16:1,3,4")
    assert "no.onnx can't be read" in failed(capsys, "inspect", "no.onnx")
    net.write_bytes(net.read_bytes()[:-30])
    assert "is no ONNX model, or is damaged: at byte" in failed(capsys, "inspect", "net.onnx")


def test_a_size_that_the_file_leaves_open_is_given_by_its_name(net, capsys):
    assert main(["convert", "net.onnx", "eight.onnx", "--resize", "batch=8"]) == 0
    (x,) = onnx.load("eight.onnx").graph.input
    assert [d.dim_value for d in x.type.tensor_type.shape.dim] == [8, 3, 4]
    assert main(["cost", "net.onnx", "--at", "batch=5"]) == 0
    assert "x: f32[5 3 4]" in capsys.readouterr().out
    assert main(["inspect", "net.onnx", "--shape", "x=1,3,4", "--resize", "batch=2"]) == 0
    assert "x: f32[2 3 4]" in capsys.readouterr().out


@pytest.fixture
def unnamed(net):
    made = onnx.load("net.onnx")
    made.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    onnx.save(made, "unnamed.onnx")


def test_a_size_without_a_name_goes_by_what_is_asked_for(unnamed, capsys):
    assert "sizes={'x.0': ...}" in failed(capsys, "inspect", "unnamed.onnx")
    for command in (
        ["inspect", "unnamed.onnx", "--resize", "x.0=2"], ["cost", "unnamed.onnx", "--at", "x.0=2"],
        ["cost", "unnamed.onnx", "--at", "x.0=2", "--formula"], ["verify", "unnamed.onnx", "--at", "x.0=2"],
        ["convert", "unnamed.onnx", "two.tdag", "--resize", "x.0=2"], ["compare", "unnamed.onnx", "--at", "x.0=2"],
        ["prune", "unnamed.onnx", "--resize", "x.0=2", "--list"],
    ):  # fmt: skip
        assert main(command) == 0, command
    assert main(["inspect", "two.tdag", "--json"]) == 0
    capsys.readouterr()
    assert main(["inspect", "unnamed.onnx", "--resize", "x.0=2,b=3", "--text", "--no-axes"]) == 0
    assert "f32[3 5]" in capsys.readouterr().out
    assert "no axis is named 'nosuch'" in failed(capsys, "inspect", "unnamed.onnx", "--resize", "x.0=2,nosuch=3")
    told = failed(capsys, "verify", "unnamed.onnx", "--at", "x.0=2,b=3")
    assert "--at is for sizes that a file leaves open, and unnamed.onnx leaves none open called b" in told


def test_networks_that_are_compared_get_the_sizes_of_the_axes_that_they_have(unnamed, capsys):
    assert main(["convert", "net.onnx", "one.tdag", "--resize", "batch=1"]) == 0
    for other, sizes in (("net.onnx", "batch=1"), ("net.onnx", "batch=2"), ("unnamed.onnx", "x.0=1")):
        assert main(["diff", "one.tdag", other, "--resize", sizes]) == 0, sizes
    capsys.readouterr()
    told = failed(capsys, "diff", "one.tdag", "net.onnx", "--resize", "batch=1,nosuch=2")
    assert "no axis is named 'nosuch'" in told


def test_verify_without_onnxruntime(net, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert "is run by onnxruntime: pip install onnxruntime" in failed(capsys, "verify", "frozen.onnx")


def test_a_file_that_branches_on_data_is_a_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = """g (float[b,2] x, float limit) => (float[b,2] y) {
      t = ReduceSum<keepdims=0>(x) c = Less(t, limit)
      y = Loop("", c, x) <body = body (int64 i, bool go, float[1,2] s) => (bool again, float[1,2] o) {
        one = Constant<value_float=1.0>() o = Add(s, one) u = ReduceSum<keepdims=0>(o) again = Less(u, limit) }>
    }"""
    made = onnx.ModelProto(ir_version=9)
    made.graph.CopyFrom(onnx.parser.parse_graph(text))
    made.opset_import.add(domain="", version=17)
    onnx.save(made, "loop.onnx")
    assert main(["inspect", "loop.onnx", "--batch", "1"]) == 0
    assert "g: a program of 4 blocks" in capsys.readouterr().out
    assert main(["inspect", "loop.onnx", "--batch", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"]["body"]["loops"] == 1
    assert main(["inspect", "loop.onnx", "--batch", "1", "--text"]) == 0
    assert "if again: body, else: done" in capsys.readouterr().out
    assert main(["verify", "loop.onnx", "--batch", "1", "--numpy"]) == 0
    for target in ("again.onnx", "a.tdag", "a.ts"):
        assert main(["convert", "loop.onnx", target, "--batch", "1"]) == 0
    assert main(["verify", "again.onnx"]) == 0
    capsys.readouterr()
    assert "is a program, written as .tdag, .onnx" in failed(capsys, "convert", "loop.onnx", "a.py", "--batch", "1")
    assert "is a program, of 4 networks" in failed(capsys, "predict", "loop.onnx", "--batch", "1", "--device", "h100")


@pytest.mark.parametrize(
    ("kind", "steps", "told", "status"),
    [("bytes", 1, "same but for rounding", 0), ("bytes", 2, "not the same", 1), ("floats", 1, "not the same", 1)],
)
def test_a_quantized_file_agrees_by_steps(kind, steps, told, status, tmp_path, capsys, monkeypatch):
    """Beyond the tolerance by as little as rounding does is a verdict of its own, of networks that round only."""
    monkeypatch.chdir(tmp_path)
    tensors = {"w": floats(12, 5), "s": np.float32(0.25), "zero": np.uint8(100)}
    rounding = [node("QuantizeLinear", "z s zero", "q"), node("DequantizeLinear", "q s zero", "d")]
    plain = [node("Mul", "z s", "d")]
    nodes = [node("MatMul", "x w", "z"), *(rounding if kind == "bytes" else plain), node("Transpose", "d", "y")]
    onnx.save(model(nodes, {"x": (3, 12)}, ["y"], tensors), "net.onnx")
    before = OnnxSource.run_round_trip

    def off(self, dag, inputs):
        return [y + np.float32(0.25 * steps) for y in before(self, dag, inputs)]

    monkeypatch.setattr(OnnxSource, "run_round_trip", off)
    assert main(["verify", "net.onnx"]) == status
    out = capsys.readouterr().out
    assert told in out
    assert ("within 1 step of 0.25 on 99.9%" in out) == (told == "same but for rounding")


POSITIONS = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(2, 4), torch.nn.Embedding(16, 4)

    def forward(self, ids):
        return self.words(ids) + self.places(torch.arange(ids.shape[1]))

def build():
    return Net(), (torch.ones(1, 6, dtype=torch.int64),)
"""


def test_optimized_with_axes_of_any_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_positions.py").write_text(POSITIONS)
    assert main(["convert", "with_positions:build", "d.onnx", "--optimize", "--dynamic", "b,s"]) == 0
    (ids,) = onnx.load("d.onnx").graph.input
    assert [d.dim_param for d in ids.type.tensor_type.shape.dim] == ["b", "s"]
    assert main(["verify", "d.onnx", "--shape", "ids=3,9"]) == 0


@pytest.mark.parametrize("target", ["any.tflite", "any.mlpackage"])
def test_axes_of_any_size_in_other_forms(target, net, capsys):
    assert main(["convert", "net.onnx", target, "--resize", "batch=2", "--dynamic", "batch"]) == 0
    assert main(["inspect", target, "--shape", "x=5,3,4"]) == 0
    assert "x: f32[5 3 4]" in capsys.readouterr().out
