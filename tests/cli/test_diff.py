"""``tdagger diff``: do two networks compute the same, and where do they part?"""

import json

import pytest

from tdagger.cli import main
from tests.cli.helpers import failed

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
torch.set_num_threads(1)

DEEP = "cli_nets:deep"


def test_same(capsys):
    assert main(["diff", DEEP, DEEP]) == 0
    assert capsys.readouterr().out.startswith(f"same: A is {DEEP}, B is {DEEP}; ")


def test_different(capsys):
    assert main(["diff", DEEP, DEEP, "--set-b", "layers=3", "--listing"]) == 1
    out = capsys.readouterr().out
    assert "at layers.3.norm" in out
    assert "B  has no such op" in out
    assert "\n@@ layers.3.fc @@\n" in out


def test_structure(capsys):
    assert main(["diff", DEEP, DEEP, "--structure"]) == 0
    assert "ops, all written alike" in capsys.readouterr().out
    assert main(["diff", DEEP, DEEP, "--structure", "--set-b", "wide=5"]) == 1
    out = capsys.readouterr().out
    assert "- output out: f32[2 5 3]" in out
    assert "+ output out: f32[2 5 5]" in out


def test_json(capsys):
    assert main(["diff", DEEP, DEEP, "--set-b", "layers=3", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "different"
    assert [d["a"]["module"] for d in found["differences"]] == ["layers.3.norm", "head"]
    assert found["differences"][0]["b"] is None
    assert found["outputs"]["out"]["error"] > found["outputs"]["out"]["bound"]


def test_what_cant_be_compared(capsys):
    assert "other outputs A: out: f32[2 5 3] B: out: f32[2 5 5]" in " ".join(
        run_and_read(capsys, "diff", DEEP, DEEP, "--set-b", "wide=5").split()
    )
    assert "without --json" in failed(capsys, "diff", DEEP, DEEP, "--structure", "--json")


def run_and_read(capsys, *args: str) -> str:
    assert main(list(args)) == 2
    return capsys.readouterr().err
