"""Every command takes a .tflite file as SOURCE, and one in a bundle."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("ai_edge_litert")

from tdagger.cli import main
from tests.cli.helpers import failed
from tests.frameworks.tflite.test_importer import counting, small

torch = pytest.importorskip("torch")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.tflite").write_bytes(small(signature=(-1, 4)).bytes())
    Path("frozen.tflite").write_bytes(small().bytes())
    Path("counting.tflite").write_bytes(counting())
    with zipfile.ZipFile("two.task", "w") as z:
        z.writestr("a.tflite", small().bytes())
        z.writestr("b.tflite", small().bytes())
    return tmp_path


def test_every_command_takes_a_file(net: Path, capsys: Any) -> None:
    assert main(["inspect", "net.tflite", "--batch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ops"]
    for command in (
        ["inspect", "net.tflite", "--shape", "x=2,4", "--axes"], ["cost", "frozen.tflite"],
        ["inspect", "two.task/b.tflite"],
        ["verify", "net.tflite", "--batch", "3", "--numpy"], ["verify", "frozen.tflite"], ["verify", "counting.tflite"],
        ["diff", "net.tflite", "frozen.tflite"], ["inspect", "frozen.tflite", "--unbatch"],
    ):  # fmt: skip
        assert main(command) == 0, command
        assert capsys.readouterr().out
    for command in (
        ["convert", "frozen.tflite", "eight.tdag", "--resize", "b=8"], ["convert", "net.tflite", "net.onnx"],
        ["diff", "net.onnx", "net.tflite"],
    ):  # fmt: skip
        assert main(command) == 0, command


@pytest.mark.parametrize(("source", "what"), [
    ("two.task", "bundle of 2 models: give one of them"), ("frozen.tflite --batch 2", "--batch can't change it"),
    ("net.tflite --meta", "--meta isn't for .tflite files"), ("none.tflite", "can't be read"),
    ("net.tflite --shape x=i64:2,4", "the file says the element types"),
])  # fmt: skip
def test_what_cant_be(net: Path, capsys: Any, source: str, what: str) -> None:
    assert what in failed(capsys, "inspect", *source.split())
