"""Every command takes a .tdag as SOURCE, and convert writes one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tdagger as td
from tdagger.cli import main
from tdagger.file import store
from tests.cli.helpers import failed

torch = pytest.importorskip("torch")
pytest.importorskip("typer")


@pytest.fixture
def net(tmp_path, capsys):
    assert main(["convert", "cli_nets:build", "net.tdag"]) == 0
    assert "wrote net.tdag (" in " ".join(capsys.readouterr().err.split())
    return tmp_path / "net.tdag"


def test_every_command_takes_a_file(net, capsys):
    assert main(["inspect", "cli_nets:build", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    assert main(["inspect", "net.tdag", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {k: v for k, v in found.items() if k != "source"} == {k: v for k, v in wanted.items() if k != "source"}
    for command in (
        *(["cost", "net.tdag"], ["verify", "net.tdag", "--numpy"], ["diff", "net.tdag", "cli_nets:build"]),
        *(["compare", "net.tdag", "cli_nets:build"], ["profile", "net.tdag"], ["inspect", "net.tdag", "--axes"]),
    ):
        assert main(command) == 0, command
        assert capsys.readouterr().out


def test_to_and_fro(net, capsys):
    assert main(["convert", "net.tdag", "again.tdag"]) == 0
    assert (net.parent / "again.tdag").read_bytes() == net.read_bytes()
    assert main(["convert", "net.tdag", "net.pt2"]) == 0
    assert main(["diff", "net.pt2", "net.tdag"]) == 0
    capsys.readouterr()
    assert "is there already; --force overwrites it" in failed(capsys, "convert", "cli_nets:build", "net.tdag")


def test_weights_in_several_files(net, capsys, monkeypatch):
    index = net.parent / "many.safetensors.index.json"
    index.write_text("{}")
    assert main(["convert", "net.tdag", "many.tdag"]) == 0  # one file: the index isn't touched
    assert "index" not in capsys.readouterr().err
    monkeypatch.setattr("tdagger.file.store.SHARD", 16)
    monkeypatch.setitem(store.save.__kwdefaults__, "shard", 16)
    (net.parent / "many.tdag").unlink()
    told = failed(capsys, "convert", "net.tdag", "many.tdag")
    assert "many.safetensors.index.json is there already; --force overwrites it" in told
    assert main(["convert", "net.tdag", "many.tdag", "--force"]) == 0
    told = "".join(capsys.readouterr().err.split())
    written = sorted(p.name for p in net.parent.glob("many*"))
    assert len(written) > 3
    assert all(f"{name}(" in told for name in written)


def test_weights_beside(net, capsys):
    import safetensors.numpy

    data = safetensors.numpy.load_file(net)
    safetensors.numpy.save_file({n: 2 * a for n, a in data.items()}, "w.safetensors")
    assert main(["diff", "net.tdag", "net.tdag", "--weights", "w.safetensors"]) == 0
    capsys.readouterr()
    assert main(["convert", "net.tdag", "twice.tdag", "--weights", "w.safetensors"]) == 0
    assert np.array_equal(safetensors.numpy.load_file("twice.tdag")["head.bias"], 2 * data["head.bias"])
    assert main(["diff", "net.tdag", "twice.tdag"]) == 1
    capsys.readouterr()
    safetensors.numpy.save_file({"head.bias": data["head.bias"], "b": data["head.bias"]}, "w.safetensors")
    told = "w.safetensors: missing are body.0.bias, body.0.weight, head.weight; too much are b"
    assert told in failed(capsys, "inspect", "net.tdag", "--weights", "w.safetensors")
    assert "--weights is for .tdag files" in failed(capsys, "inspect", "cli_nets:build", "--weights", "w.safetensors")


def test_structure_alone(net, capsys):
    assert main(["convert", "net.tdag", "s.tdag", "--meta"]) == 0
    assert main(["convert", "cli_nets:build", "built.tdag", "--meta"]) == 0
    assert not td.load("s.tdag").weights
    assert td.load("built.tdag").hash() == td.load("s.tdag").hash() == td.load(net).hash()
    assert main(["convert", "s.tdag", "whole.tdag", "--weights", "net.tdag"]) == 0
    assert Path("whole.tdag").read_bytes() == Path(net).read_bytes()
    capsys.readouterr()
    assert "--meta is for .tdag files" in failed(capsys, "convert", "net.tdag", "n.onnx", "--meta")


def test_what_cannot_change_a_file(net, capsys):
    assert "is as it was saved, --batch can't change it" in failed(capsys, "inspect", "net.tdag", "--batch", "2")
    assert "no.tdag: there is no such file" in failed(capsys, "inspect", "no.tdag")
    (net.parent / "bad.tdag").write_bytes(net.read_bytes()[:-3])
    assert "the data has" in failed(capsys, "inspect", "bad.tdag")


def test_no_framework_is_loaded(net):
    code = (
        "import sys; from tdagger.cli import main\n"
        "assert main(['inspect', 'net.tdag']) == 0 and main(['cost', 'net.tdag']) == 0\n"
        "assert not {'torch', 'timm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=net.parent)
