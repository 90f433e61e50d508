"""Pictures of programs: blocks as boxes, and the control flow between them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.cli import main
from tdagger.program.parts import Block, Goto, Return, Slot, Switch
from tests.view.opened import check, live, totals


def branching() -> td.Program:
    """A loop with a branch in it; each block but one has ops."""

    @td.program({"x": (4, 16), "n": td.TensorType((), "i64")})
    def branching(x: Any, n: Any) -> Any:
        def body(k: Any, y: Any) -> Any:
            return k + 1, td.if_(td.equal(k % 2, 0), lambda y: td.exp(y), td.sin, y)

        return td.while_loop(lambda k, y: k < n, body, (0, x))[1]

    return branching


def root_of(document: Any) -> Any:
    return document["bodies"][document["root"]]


def test_blocks_are_boxes_and_flow_says_when_and_what_is_carried() -> None:
    document = json.loads(branching().view().to_json())
    root = root_of(document)
    names = [item["name"] for item in root["items"]]
    assert names == list(branching().blocks)
    slots = [slot["name"] for slot in document["program"]["slots"]]
    told = {
        (names[f["from"]] if f["from"] >= 0 else "", f["when"]): (
            names[f["to"]] if f["to"] >= 0 else "",
            {slots[n] for n in f["carries"]},
        )
        for f in root["flow"]
    }
    assert told["", ""] == ("begin", {"x", "n"})
    assert told["loop", "if again"] == ("body", {"k", "n", "y"})
    assert told["loop", "else"] == ("done", {"y"})
    assert told["done", "return"] == ("", {"y"})
    begin = root["items"][0]
    assert [(slots[n], text) for n, text in begin["writes"]] == [("k", "0"), ("y", "x")]
    assert [slots[n] for n in begin["reads"]] == ["x"]


def test_costs_by_turns_are_those_of_a_run() -> None:
    program = branching()
    runner = program.runner()
    runner(np.ones((4, 16), "f"), np.int64(5))
    document = program.view().document
    reader, root = program.view().reader, root_of(document)
    symbols = document["symbols"]
    turns = {item["name"]: symbols[item["runs"]] for item in root["items"] if "runs" in item}
    assert all(s["runs"] and s["size"] == 1 for s in turns.values())
    assert "done" not in turns  # it has no ops
    counted = sum(runner.counts[item["name"]] * reader.total(item, "flops") for item in root["items"])
    assert counted == program.cost().total(runner.counts)
    assert document["networks"][0]["totals"]["flops"] == reader.body_total(document["root"], "flops")
    assert document["networks"][0]["memory"]["peak"] == program.cost().peak_bytes


def test_weights_of_a_block_in_the_middle_are_told() -> None:
    def layers(x: Any, **weights: Any) -> Any:
        for w in weights.values():
            x = td.tanh(td.linear(x, w))
        return x

    weights = {f"layers.{i}.w": np.full((2, 2), i + 1.0, "f") for i in range(4)}
    document = td.network(layers, {"x": (1, 2)}, weights).roll().view(histograms=True).document
    (parameter,) = [p for p in document["parameters"] if p["kind"] == "parameter"]
    assert parameter["name"] == "layers.all.w"
    assert parameter["histogram"]["high"] == 4.0
    assert document["networks"][0]["totals"]["parameters"] == 16


def switching(names: tuple[str, str] = ("first", "second")) -> td.Program:
    i, x = td.input("i", (), "i64"), td.input("x", (3,))
    empty = td.Graph({}, {})
    blocks = {
        "begin": Block(td.Graph({}, {}), Switch("i", (*names, "last"))),
        names[0]: Block(td.Graph({"x": x}, {"x": td.exp(x)}), Goto("last")),
        names[1]: Block(td.Graph({"x": x}, {"x": td.sin(x)}), Goto("last")),
        "last": Block(empty, Return()),
    }
    return td.Program({"x": Slot(x.type), "i": Slot(i.type)}, blocks, ("x", "i"), ("x",))


def _longer() -> td.Program:
    """Like :func:`branching`, but it begins at 1, one branch computes more, and one more comes after the loop."""

    @td.program({"x": (4, 16), "n": td.TensorType((), "i64")})
    def longer(x: Any, n: Any) -> Any:
        def body(k: Any, y: Any) -> Any:
            return k + 1, td.if_(td.equal(k % 2, 0), lambda y: td.exp(td.exp(y)), td.sin, y)

        y = td.while_loop(lambda k, y: k < n, body, (1, x))[1]
        return td.if_(td.equal(n, 3), lambda y: td.relu(y), td.cos, y)

    return longer


def test_two_programs_are_one_picture_of_what_changed() -> None:
    a, b = branching(), _longer()
    document = a.view(b).document
    check(document)
    root = root_of(document)
    items = {item["name"]: item for item in root["items"]}
    states = {name: item.get("state", "same") for name, item in items.items()}
    assert [n for n, state in states.items() if state == "same"] == ["loop", "otherwise", "after"]
    assert [n for n, state in states.items() if state == "b"] == ["then_2", "otherwise_2", "after_2"]
    assert "writes: k ← 0, y ← x -> k ← 1, y ← x" in items["begin"]["changes"]
    names = [*items, "return"]
    ways = {
        (names[w["from"]], w["when"], names[w["to"]] if w["to"] >= 0 else "", w.get("side", "")) for w in root["flow"]
    }
    assert {("done", "return", "", "a"), ("after_2", "return", "", "b"), ("loop", "if again", "body", "")} <= ways
    for k, program in enumerate((a, b)):
        told = document["networks"][k]["totals"]
        assert totals(document, k)["flops"] == told["flops"] == program.cost().total(dict.fromkeys(program.blocks, 1))
        assert told["peak_bytes"] == program.cost().peak_bytes
        memory = document["networks"][k]["memory"]
        assert max(live(document, k)) == memory["peak"] == live(document, k)[memory["at"]]
    assert all("state" not in item for item in root_of(a.view(branching()).document)["items"])
    assert "only in B" in a.view(b).to_dot()


def test_every_form_has_blocks_and_flow(tmp_path: Path) -> None:
    view = switching().view(open="first")
    mermaid, dot, svg = view.to_mermaid(), view.to_dot(), view.to_svg()
    for text in (mermaid, dot, svg):
        for words in ("i = 0: x", "i = 1: x", "else: x", "return x", "goto: x"):
            assert words in (text.replace("#58;", ":").replace("#61;", "="))
    assert 'subgraph n1["first 3"]' in mermaid
    assert "n0 ==>" in mermaid
    assert "ltail=cluster_n1" in dot
    assert view.save(tmp_path / "net.html").stat().st_size > 10_000


def test_names_of_blocks_and_slots_are_text() -> None:
    hostile = '</script><b>&"\u202e'
    view = switching((hostile, "second")).view()
    assert "<b>" not in view.to_svg()
    assert "<b>" not in view.to_mermaid()
    assert "</script><b>" not in view.to_html()
    assert "\u202e" not in view.to_svg() + view.to_dot() + view.to_mermaid()


def test_commands_draw_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = branching()
    file = tmp_path / "branching.tdag"
    program.save(file)
    assert main(["view", str(file), "-o", str(tmp_path / "net.json")]) == 0
    assert json.loads((tmp_path / "net.json").read_text())["title"] == "branching"
    capsys.readouterr()
    assert main(["inspect", str(file), "--tree"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"loop .*if again: body, else: done", told)
    assert "one run of each block" in told
    assert main(["view", str(file), "--optimize-b", "-o", str(tmp_path / "both.json")]) == 0
    assert json.loads((tmp_path / "both.json").read_text())["title"] == "branching | branching"
    network = td.network(lambda x: td.exp(x), {"x": (2,)})
    network.save(tmp_path / "net.tdag")
    assert main(["view", str(file), str(tmp_path / "net.tdag"), "-o", str(tmp_path / "two.json")]) == 2
    assert "a program is compared with a program" in capsys.readouterr().err
    assert main(["view", str(file), "--profile", "-o", str(tmp_path / "two.json")]) == 2
    assert "--profile is for one network" in capsys.readouterr().err
