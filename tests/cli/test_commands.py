"""The commands: what they print, what they write, and how they fail."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tdagger.cli import main
from tdagger.cli.measure import difference, differences
from tests.cli.helpers import failed, shown

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
torch.set_num_threads(1)


def test_inspect(capsys):
    assert main(["inspect", "cli_nets:build"]) == 0
    out = shown(capsys)
    assert "inputs x: f32[2 4]" in out
    assert "outputs logits: f32[2 3], hidden: f32[2 8]" in out
    assert "parameters 67 67" in out  # (4 * 8 + 8) + (8 * 3 + 3)
    assert re.search(r"module class params FLOPs share reads writes body Sequential 40 ", out)
    assert "body.0 Linear 40" in out
    assert "head Linear 27" in out


def test_meta(capsys):
    assert main(["inspect", "cli_nets:build"]) == 0
    plain = shown(capsys)
    assert main(["inspect", "cli_nets:build", "--meta"]) == 0
    assert shown(capsys) == plain


def test_depth(capsys):
    assert main(["inspect", "cli_nets:build", "--depth", "1"]) == 0
    out = shown(capsys)
    assert "body Sequential" in out
    assert "body.0" not in out
    assert main(["inspect", "cli_nets:build", "--depth", "0"]) == 0
    assert "Sequential" not in shown(capsys)


def test_json(capsys):
    assert main(["inspect", "cli_nets:build", "--json", "--batch", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        *["source", "name", "inputs", "outputs", "updates", "totals", "ops", "external", "modules"],
    ]
    assert found["inputs"] == [{"name": "x", "dtype": "f32", "shape": [5, 4]}]
    totals = found["totals"]
    assert list(totals) == [
        *["parameters", "parameter_bytes", "bytes", "flops", "memory_reads", "memory_writes", "values", "ops"],
    ]
    assert (totals["parameters"], totals["parameter_bytes"]) == (67, 268)
    # a multiply-add is 2 and the first product of a sum needs no add; the bias is one add
    linear = 5 * 8 * (4 + 3 + 1) + 5 * 3 * (8 + 7 + 1)
    relu = 5 * 8
    assert totals["flops"] == linear + relu
    assert found["ops"]["linear"] == {"count": 2, "flops": linear}
    assert [m["path"] for m in found["modules"]] == ["body", "body.0", "body.1", "head"]
    assert found["modules"][0]["flops"] == 5 * 8 * 8 + relu
    assert sum(m["flops"] for m in found["modules"] if "." not in m["path"]) == totals["flops"]


def test_text(capsys):
    assert main(["inspect", "cli_nets:build", "--text"]) == 0
    out = shown(capsys)
    assert "linear(x, body.0.weight, body.0.bias)" in out
    assert "return {logits: %3, hidden: %2}" in out


def test_axes(capsys):
    assert main(["inspect", "cli_nets:build", "--axes"]) == 0
    out = shown(capsys)
    assert "x: f32[b=2 c=4]" in out
    assert "%3 f32[b c3]" in out
    assert out.endswith("every axis is known ")
    assert main(["inspect", "cli_nets:build", "--text", "--no-axes"]) == 0
    out = shown(capsys)
    assert "x: f32[2 4]" in out
    assert "%3 f32[2 3]" in out


def test_axes_that_are_not_known(capsys):
    assert main(["inspect", "cli_nets:windows", "--axes"]) == 0
    out = shown(capsys)
    assert "not known (1 place)" in out
    assert "cli_nets.py:" in out
    assert "are two views of 56 entries" in out


def test_other_sizes(capsys, tmp_path):
    assert main(["inspect", "cli_nets:build", "--text", "--no-axes", "--unbatch"]) == 0
    assert "x: f32[4]" in shown(capsys)
    target = tmp_path / "bigger.pt2"
    assert main(["convert", "cli_nets:build", str(target), "--resize", "b=7"]) == 0
    assert main(["inspect", str(target), "--text", "--no-axes"]) == 0
    assert "x: f32[7 4]" in shown(capsys)


def test_ranks(capsys):
    assert main(["inspect", "cli_nets:inserted", "--ranks"]) == 0
    out = shown(capsys)
    assert "largest rank 3" in out
    assert "2 with a left-over dimension of size 1, 2 of them the first" in out
    assert re.search(r"1 x exp \[1 2 4\] in \(\S*cli_nets.py:\d+\)", out)
    assert main(["inspect", "cli_nets:inserted", "--ranks", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["ranks"]
    assert (found["largest"], found["leftover"], found["leading"]) == (3, 2, 2)
    assert found["ranks"] == {"2": 1, "3": 3}
    assert [p["shape"] for p in found["places"]] == [[1, 2, 4]] * 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--json", "--axes"], "--json and --axes exclude each other"),
        (["--ranks", "--text"], "--ranks goes with --json, not with --text or --axes"),
        (["--no-axes"], "--no-axes is for --text"),
    ],
)
def test_options_that_exclude_each_other(capsys, options, why):
    assert why in failed(capsys, "inspect", "cli_nets:build", *options)


def test_verify(capsys):
    assert main(["verify", "cli_nets:build", "--numpy", "--runs", "3"]) == 0
    out = shown(capsys)
    assert re.search(r"logits f32\[2 3\] round trip \S+ \S+ ok", out)
    assert re.search(r"hidden f32\[2 8\] numpy \S+ \S+ ok", out)
    assert "same: 2 outputs, 3 random inputs" in out


def test_verify_runs_both_from_the_same_state(capsys):
    assert main(["verify", "cli_nets:counting", "--runs", "3"]) == 0
    assert "same: 1 output, 3 random inputs, largest error 0.00e+00 absolute" in shown(capsys)


def test_verify_finds_a_difference(capsys, monkeypatch):
    from tdagger.frameworks.torch.source.named import TorchSource

    original = TorchSource.run_round_trip

    def wrong(self, dag, inputs):
        logits, hidden = original(self, dag, inputs)
        return [logits + np.float32(0.5), hidden]

    monkeypatch.setattr(TorchSource, "run_round_trip", wrong)
    assert main(["verify", "cli_nets:build"]) == 1
    out = shown(capsys)
    assert re.search(r"logits f32\[2 3\] round trip 5.00e-01 \S+ differs", out)
    assert "not the same" in out
    assert main(["verify", "cli_nets:build", "--tolerance", "1000"]) == 0


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".ts"])
def test_convert(capsys, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    assert main(["convert", "cli_nets:build", str(target)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["cli_nets.py", f"out{suffix}"]
    capsys.readouterr()
    assert main(["verify", str(target)]) == 0
    capsys.readouterr()
    assert "is there already; --force overwrites it" in failed(capsys, "convert", "cli_nets:build", str(target))
    assert main(["convert", "cli_nets:build", str(target), "--force"]) == 0


def test_convert_an_optimized_network(capsys, tmp_path):
    (tmp_path / "normed.py").write_text(
        "import torch\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())\n"
        "    return net.eval(), torch.ones(1, 3, 8, 8)\n"
    )
    target = tmp_path / "out.pt2"
    assert main(["convert", "normed:build", str(target), "--optimize"]) == 0
    program = torch.export.load(target)
    assert {"0.bias", "0.weight"} <= program.state_dict.keys()
    assert "1.weight" not in program.state_dict
    net, x = __import__("normed").build()
    torch.testing.assert_close(program.module()(x), net(x))
    sys.modules.pop("normed")
    capsys.readouterr()
    assert main(["inspect", str(target), "--optimize", "--text"]) == 0
    assert "batch_norm" not in capsys.readouterr().out


def test_convert_to_python(capsys, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    target = tmp_path / "written.py"
    assert main(["convert", "cli_nets:build", str(target)]) == 0
    assert target.with_suffix(".safetensors").exists()
    monkeypatch.syspath_prepend(str(tmp_path))
    written, net = __import__("written").load(), __import__("cli_nets").build
    torch.manual_seed(0)
    original, _ = net()
    x = torch.randn(2, 4)
    assert list(written.state_dict()) == list(original.state_dict())
    assert torch.allclose(written(x)["logits"], original(x)["logits"])
    assert written.head.weight.requires_grad
    sys.modules.pop("written")
    target.unlink()
    capsys.readouterr()
    assert "written.safetensors is there already" in failed(capsys, "convert", "cli_nets:build", str(target))


def test_failed_conversion_leaves_nothing(capsys, tmp_path, monkeypatch):
    def full(module, path):
        raise OSError("no space left")

    monkeypatch.setattr(torch.jit.ScriptModule, "save", full)
    monkeypatch.setattr(torch.jit.RecursiveScriptModule, "save", full)
    assert "no space left" in failed(capsys, "convert", "cli_nets:build", str(tmp_path / "out.pt"))
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["cli_nets.py"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["inspect"], "Missing argument"),
        (["frobnicate"], "No such command"),
        (["inspect", "cli_nets:build", "--nope"], "No such option"),
        (["inspect", "cli_nets:build", "--batch", "0"], "--batch"),
        (["inspect", "cli_nets:build", "--json", "--text"], "--json and --text exclude each other"),
        (["inspect", "cli_nets:build", "--set", "a"], "--set takes key=value"),
        (["inspect", "cli_nets:build", "--shape", "x"], "--shape takes name=1,3,224,224"),
        (["inspect", "cli_nets:build", "--dtype", "i32"], "--dtype is for weights"),
        (["inspect", "cli_nets:build", "--dtype", "f33"], "no element type is called 'f33'"),
        (["verify", "nothing"], "is not a SOURCE"),
        (["inspect", "cli_nets:buidl"], "did you mean build?"),
        (["convert", "cli_nets:build", "out.other"], "the suffix must say the form: .tdag"),
        (["convert", "cli_nets:build", "nowhere/out.pt"], "nowhere: there is no such folder"),
        (["inspect", "missing.pt"], "there is no such file"),
    ],
)
def test_errors(capsys, args, message):
    assert message in failed(capsys, *args)


def test_unsupported_network(capsys):
    assert main(["inspect", "cli_nets:strange"]) == 2
    assert "bincount" in capsys.readouterr().err


def test_debug_shows_the_trace(capsys):
    assert main(["inspect", "missing.pt", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("tdagger: missing.pt")


def test_mistakes_of_ours_are_a_line_too(capsys, monkeypatch):
    import tdagger.cli.common

    def broken(*args):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(tdagger.cli.common, "load", broken)
    assert failed(capsys, "inspect", "x", status=3) == "tdagger: ZeroDivisionError: oh (--debug shows where)\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_cli_packages(capsys, monkeypatch, package):
    for name in [n for n in sys.modules if n.startswith("tdagger.cli.") or n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = failed(capsys, "inspect", "x")
    assert message == f"tdagger: the command line needs {package}: pip install 'tdagger[cli]'\n"


def test_help_and_version(capsys):
    assert main([]) == 0
    assert "tdagger verify timm:vit_base_patch16_224" in capsys.readouterr().out
    for command in ("inspect", "cost", "verify", "convert"):
        assert main([command, "--help"]) == 0
        assert "--shape" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert re.fullmatch(r"tdagger \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_it_is_run_by_python_too():
    done = subprocess.run([sys.executable, "-m", "tdagger", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tdagger ")
    failed = subprocess.run([sys.executable, "-m", "tdagger", "inspect", "no.onnx"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "no.onnx" in failed.stderr


def test_help_imports_no_framework():
    code = "import sys; from tdagger.cli import main; main(['--help']); print(*{'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


# --- differences -------------------------------------------------------------------------------------------

A = np.array([1.0, -4.0, np.inf, np.nan], np.float32)


def test_difference():
    assert difference(A, A)[:3] == (0, 0, "")
    near = np.array([1.5, -4.0, np.inf, np.nan], np.float32)
    assert difference(A, near)[:2] == (0.5, 0.125)
    for other in (A[::-1], np.array([1.0, -4.0, -np.inf, np.nan], np.float32), np.nan * A, A[:3]):
        assert difference(A, other).relative == np.inf
    assert difference(A, A.astype(np.float64)).why == "float32[4] became float64[4]"
    assert difference(np.zeros(2), np.full(2, 0.25))[:2] == (0.25, 0.25)
    assert difference(np.zeros(0), np.zeros(0))[:2] == (0, 0)
    assert difference(np.array([True]), np.array([False]))[:2] == (1, 1)
    assert difference(np.array([1j]), np.array([-1j]))[:2] == (2, 2)
    assert [d.relative for d in differences([A, A], [A])] == [np.inf, np.inf]
