"""Programs as SOURCE: loops and branches on data, whatever they come from, in every command."""

import json
from pathlib import Path

import pytest
import torch

import tdagger as td
from tdagger.cli import main
from tests.cli.helpers import failed

NETS = """
import torch
import tdagger as td
from torch._higher_order_ops.while_loop import while_loop

@td.program({"x": (3, 4), "n": td.TensorType((), "i64")})
def power(x, n):
    return td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, y * x), (0, x))[1]

def made():
    return power

class Loop(torch.nn.Module):
    def forward(self, x, n):
        return while_loop(lambda i, x: i < n, lambda i, x: (i + 1, x * 1.5 + i), (torch.zeros_like(n), x))[1]

def loop():
    return Loop(), (torch.ones(3), torch.tensor(3))

class Halved(torch.nn.Module):
    def forward(self, x):
        while x.norm() > 1:
            x = x / 2
        return x

def halved():
    return Halved(), torch.ones(3)
"""


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> td.Program:
    Path("nets_of_programs.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    found = importlib.reload(importlib.import_module("nets_of_programs")).power
    found.save("power.tdag")
    return found


def said(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> str:
    assert main([*args]) == status
    return capsys.readouterr().out


def test_what_is_shown(power, capsys):
    assert "power: a program of 4 blocks" in said(capsys, "inspect", "power.tdag")
    assert "%2  f32[b n]  y * x" in said(capsys, "inspect", "power.tdag", "--axes")
    assert said(capsys, "inspect", "power.tdag", "--text", "--no-axes") == f"{power}\n"
    assert "f32[8 4]" in said(capsys, "inspect", "power.tdag", "--resize", "b=8")
    assert "x: f32[4]" in said(capsys, "inspect", "power.tdag", "--unbatch")
    assert said(capsys, "cost", "power.tdag") == f"{power.cost()}\n"
    assert "loop + 29*body" in said(capsys, "cost", "power.tdag", "--at", "b=7")
    told = json.loads(said(capsys, "cost", "power.tdag", "--json"))
    assert told["formulas"]["total_flops"] == "loop + 13*body"
    assert told["blocks"]["body"]["total_flops"] == 13
    assert said(capsys, "cost", "power.tdag", "--csv").splitlines()[3].startswith("body,1,13,0,0,13,")


def test_what_is_for_one_network_is_refused_by_name(power, capsys):
    for command in ("compare", "prune --list", "predict --device h100", "profile", "quantize -o q.onnx"):
        told = failed(capsys, *command.split(), "power.tdag")
        assert "power is a program, of 4 networks with loops or branches between them" in told
        assert "inspect, view, cost, diff, verify and convert take programs" in told
    for option in (["--ranks"], ["--depth", "1"]):
        assert f"{option[0]} is for one network; power is a program" in failed(capsys, "inspect", "power.tdag", *option)
    for option in (["--sort", "flops"], ["--backward"], ["--formula"], ["--by", "op"]):
        assert f"{option[0]} is for one network; power is a program" in failed(capsys, "cost", "power.tdag", *option)
    told = failed(capsys, "convert", "power.tdag", "a.py")
    assert "a.py: power is a program, written as .tdag, .onnx, .tflite, .mlpackage, .pt2, .pt, .ts, not as" in told


def test_verified_converted_and_compared(power, capsys):
    assert "numpy" in said(capsys, "verify", "power.tdag", "--numpy")
    for target in ("a.onnx", "a.ts", "a.tflite", "a.mlpackage"):
        assert main(["convert", "power.tdag", target]) == 0
    assert "a: a program" in said(capsys, "inspect", "a.ts", "--shape", "x=3,4", "--shape", "n=i64:")
    for source in ("a.onnx", "a.tflite", "a.mlpackage", "nets_of_programs:power", "nets_of_programs:made"):
        assert "same: " in said(capsys, "verify", source)
    power.optimize().save("b.tdag")
    assert said(capsys, "diff", "power.tdag", "b.tdag").startswith("same\n")
    assert said(capsys, "diff", "power.tdag", "b.tdag", "--structure") == "one text\n"
    td.program({"x": (3, 4), "n": td.TensorType((), "i64")}, name="power")(lambda x, n: x + x).save("c.tdag")
    assert said(capsys, "diff", "power.tdag", "c.tdag", status=1).startswith("different\n")
    assert "-    if again: body, else: done" in said(capsys, "diff", "power.tdag", "c.tdag", "--structure", status=1)
    assert json.loads(said(capsys, "diff", "power.tdag", "a.onnx", "--json"))["outputs"]["y"]["error"] == 0


@pytest.mark.slow
def test_operators_of_higher_order(power, capsys):
    assert main(["convert", "power.tdag", "a.pt2"]) == 0
    for source in ("a.pt2", "nets_of_programs:loop"):
        assert "same: " in said(capsys, "verify", source)


def test_python_with_loops_is_told_what_to_do(power, capsys):
    assert main(["inspect", "nets_of_programs:halved"]) == 2
    told = capsys.readouterr().err
    assert "while x.norm() > 1" in told
    assert "Program.from_torchscript(torch.jit.script(model), inputs)" in told


class Stateful(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = torch.zeros(3)
        self.seen = 0

    def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
        while bool(x.norm() > 1):
            x = x / 2
        for _ in range(n):
            x = x + self.before
        self.before = x
        self.seen += 1
        return x


def test_a_script_with_state_and_a_setting(power, capsys):
    """A number is what --set says; each run begins with the state of the file."""
    torch.jit.script(Stateful()).save("s.pt")
    assert "a program of" in said(capsys, "inspect", "s.pt", "--shape", "x=3", "--set", "n=2")
    assert "same: 6 outputs" not in failed(capsys, "inspect", "s.pt", "--shape", "x=3")
    assert "same: 1 output, 3 random inputs" in said(
        capsys, "verify", "s.pt", "--shape", "x=3", "--set", "n=2", "--runs", "3", "--numpy"
    )
    assert main(["convert", "s.pt", "s.onnx", "--shape", "x=3", "--set", "n=2"]) == 0


def test_an_input_of_an_onnx_file_that_decides_is_set(power, capsys):
    rates = td.program({"x": (3,), "rate": td.TensorType((), "i64")}, name="rates")(
        lambda x, rate: td.if_(rate < 16000, lambda: td.exp(x), lambda: td.sin(x))
    )
    rates.to_onnx("rates.onnx")
    assert "rates: a program of 4 blocks" in said(capsys, "inspect", "rates.onnx")
    assert "sin" in said(capsys, "inspect", "rates.onnx", "--text", "--set", "rate=16000")
    assert "same: " in said(capsys, "verify", "rates.onnx", "--set", "rate=8000")
    assert "there is no input hertz" in failed(capsys, "verify", "rates.onnx", "--set", "hertz=8000")
