"""``tdagger view`` and ``tdagger inspect --tree``."""

import json
from pathlib import Path

import pytest

from tdagger.cli import main
from tdagger.view import views
from tests.cli.helpers import failed, shown

pytest.importorskip("torch")
pytest.importorskip("typer")

DEEP = "cli_nets:deep"


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(views, "page", lambda: f"<!doctype html>{views.PLACE}")
    monkeypatch.chdir(tmp_path)


def _document(*args: str) -> dict:
    assert main(["view", *args, "-o", "net.json", "--force"]) == 0
    return json.loads(Path("net.json").read_text("utf-8"))


def test_a_page_is_written_and_named(capsys):
    assert main(["view", DEEP]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("wrote deep.html (")
    assert '"tdagger.view"' in Path("deep.html").read_text("utf-8")


def test_forms(capsys):
    for suffix, start in ((".svg", "<svg"), (".mmd", "flowchart TD"), (".dot", "digraph")):
        assert main(["view", DEEP, "-o", f"net{suffix}"]) == 0
        assert Path(f"net{suffix}").read_text("utf-8").startswith(start)


def test_repeated_layers_are_one_box():
    document = _document(DEEP)
    items = document["bodies"][document["root"]]["items"]
    assert [(i["name"], i.get("times", 1)) for i in items] == [("stem", 1), ("layers.0-3", 4), ("head", 1)]


def test_what_is_open():
    assert _document(DEEP, "--depth", "0")["open"] == []
    assert _document(DEEP, "--open", "layers.2")["open"] == [[1]]


def test_two_networks():
    document = _document(DEEP, "--set-b", "layers=3")
    states = {i.get("name"): i.get("state") for b in document["bodies"] for i in b["items"]}
    assert len(document["networks"]) == 2
    assert states["layers.3"] == "a"
    assert len(_document(DEEP, DEEP)["networks"]) == 2
    assert len(_document(DEEP, "--optimize-b")["networks"]) == 2


def test_times():
    network = _document(DEEP, "--device", "h100", "--profile")["networks"][0]
    assert network["predicted"]["device"] == "h100"
    assert network["measured"]["seconds"] > 0


def test_what_cant_be_drawn(capsys):
    Path("there.svg").write_text("", "utf-8")
    assert "is there already; --force overwrites it" in failed(capsys, "view", DEEP, "-o", "there.svg")
    assert "the suffix must say the form: .html, .svg" in failed(capsys, "view", DEEP, "-o", "net.pdf")
    assert "there is no such folder" in failed(capsys, "view", DEEP, "-o", "no/net.svg")
    assert "there is no box 'nothing'" in failed(capsys, "view", DEEP, "-o", "net.svg", "--open", "nothing")
    assert "--profile runs the network" in failed(capsys, "view", DEEP, "--profile", "--meta")


def test_tree(capsys):
    assert main(["inspect", DEEP, "--tree", "--depth", "1"]) == 0
    out = shown(capsys)
    assert "layers.0-3 ×4" in out
    assert "norm" in out
    assert main(["inspect", DEEP, "--tree", "--depth", "0"]) == 0
    assert "norm" not in shown(capsys)
    assert "--tree goes with none of" in failed(capsys, "inspect", DEEP, "--tree", "--json")


def test_tree_marks_what_is_not_counted(capsys):
    assert main(["inspect", "cli_nets:unknown", "--tree"]) == 2
    assert main(["view", "cli_nets:unknown", "-o", "net.svg"]) == 0
    assert "not counted" in Path("net.svg").read_text("utf-8")
