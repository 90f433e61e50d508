"""The forms of a view: pictures whose names are text, files by their suffix."""

import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as Tree
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.errors import AttributeValueError, FileError, UnsupportedError
from tdagger.network import Origin
from tdagger.view import views
from tdagger.view.picture import png as drawing
from tdagger.view.picture.layers import layered

#: Names that would be markup, code or the end of the place where they stand.
HOSTILE = (
    '<script>alert("a")</script>', "</script><img src=x onerror=alert(1)>", '"]; evil [label="', "]]> & <b>bold</b>",
    "`${alert(1)}`", "end\nsubgraph evil", 'click n0 "javascript:alert(1)"', "\\N\\", "{a|b}", "\u2028\u202e\x00",
    "--> evil", "%%{init: {}}%%", "é <ü>",
)  # fmt: skip

PAGE = f"<!doctype html><title>stub</title>{views.PLACE}"


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of nothing but its data: the one that is built has tests of its own."""
    monkeypatch.setattr(views, "page", lambda: PAGE)


def _hostile() -> td.TensorDAG:
    """Modules, classes, inputs, outputs, parameters and sources of such names."""
    x = td.input(HOSTILE[0], (2, 3))
    origins: dict[td.Value, Origin] = {}
    y, modules = x, {}
    for i, name in enumerate(HOSTILE):
        plain = name.replace(".", "")
        a = td.multiply(y, td.parameter(f"{plain}.{name}", (2, 3)))
        y = td.sin(a) + 1.0
        module = f"{plain}.inner"
        origins |= {a: Origin(module, name, name), y.args[0]: Origin(module, name, name), y: Origin(plain, name, name)}
        modules |= {plain: HOSTILE[i - 1], module: name}
    dag = td.TensorDAG.of_graph(td.Graph({HOSTILE[0]: x}, {HOSTILE[1]: y}))
    return replace(dag, origins=origins, modules=modules, name=HOSTILE[1])


def _all_open() -> views.View:
    return _hostile().view(depth=9)


def test_svg_has_names_as_text_only() -> None:
    root = Tree.fromstring(_all_open().to_svg())
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds == {"svg", "title", "defs", "marker", "path", "rect", "text", "g", "circle"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not {a for a in attributes if a.startswith("on") or "href" in a}
    said = "".join(root.itertext())
    assert '<script>alert("a")</script>' in said
    assert "\x00" not in said


def test_dot_has_names_as_strings_only(tmp_path: Path) -> None:
    text = _all_open().to_dot()
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    assert "evil" not in outside
    assert "alert" not in outside
    assert "<" not in outside
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tplain"], input=text.encode(), check=True, capture_output=True)


def test_mermaid_has_names_as_entities_only() -> None:
    text = _all_open().to_mermaid()
    assert not re.search(r"<(?!br/>)", text)
    for line in text.splitlines()[1:]:
        label = r'"[^"<>`\\{}\[\]|]*(?:<br/>[^"<>`\\{}\[\]|]*)*"'
        shapes = rf"(subgraph )?\w+(\[{label}\]|\(\[{label}\]\))|\w+ -->\|{label}\| \w+|end"
        assert re.fullmatch(shapes, line.strip()), line


def test_a_page_has_its_data_once_and_whole() -> None:
    view = _all_open()
    page = view.to_html()
    found = re.findall(r'<script type="application/json" id="tdagger-data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    assert "<" not in found[0]
    assert json.loads(found[0]) == json.loads(view.to_json())
    assert json.loads(found[0])["title"] == HOSTILE[1]


def test_a_notebook_shows_the_page_in_a_frame_of_its_own() -> None:
    view = _all_open()
    shown = view._repr_html_()
    frame = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts" style="[^"]*"></iframe>', shown)
    assert frame is not None
    assert unescape(frame[1]) == view.to_html()


def _plain() -> td.TensorDAG:
    return td.network(lambda x: td.exp(td.sin(x)), {"x": (2, 3)})


def test_files_are_of_the_form_that_their_suffix_says(tmp_path: Path) -> None:
    view = _plain().view()
    begins = {".html": "<!doctype", ".svg": "<svg", ".mmd": "flowchart", ".dot": "digraph", ".json": '{"schema"'}
    for suffix, start in begins.items():
        assert view.save(tmp_path / f"net{suffix}").read_text("utf-8").startswith(start)
    with pytest.raises(FileError, match=r"the suffix must say the form: \.html, \.svg"):
        view.save(tmp_path / "net.pdf")


def test_png_is_drawn_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    view = _plain().view()
    monkeypatch.setattr(drawing, "WAYS", (lambda svg, scale: None, lambda svg, scale: b"\x89PNG" + svg[:4].encode()))
    assert view.to_png() == b"\x89PNG<svg"
    monkeypatch.setattr(drawing, "WAYS", ())
    with pytest.raises(UnsupportedError, match="cairosvg"):
        view.to_png()
    with pytest.raises(AttributeValueError, match="scale"):
        view.to_png(0)


def test_png_of_a_real_program() -> None:
    try:
        made = _plain().view().to_png()
    except UnsupportedError as e:
        pytest.skip(str(e))
    assert made[:8] == b"\x89PNG\r\n\x1a\n"
    width = int.from_bytes(made[16:20], "big")
    svg = re.search(r'width="(\d+)"', _plain().view().to_svg())
    assert svg is not None
    assert width == 2 * int(svg[1])


def test_boxes_open_by_name_and_depth() -> None:
    dag = _hostile()
    names = [n.replace(".", "") for n in HOSTILE]
    view = dag.view(open=[names[2], f"{names[3]}.inner"])
    assert [len(path) for path in view.document["open"]] == [1, 2]
    assert dag.view(depth=0).document["open"] == []
    assert len(dag.view(depth=1).document["open"]) == len(HOSTILE)
    with pytest.raises(AttributeValueError, match="there is no box 'nothing'"):
        dag.view(open="nothing").to_json()
    with pytest.raises(AttributeValueError, match="depth"):
        dag.view(depth=-1)


def _random(count: int, seed: int = 0) -> td.TensorDAG:
    """A network of random structure: each op takes some of those not long before it."""
    random = np.random.default_rng(seed)
    values: list[td.Value] = [td.input("x", (4, 8))]
    for i in range(count):
        a, b = (values[-1 - min(int(n), len(values) - 1)] for n in random.exponential(20, 2))
        kind = random.integers(3)
        values.append(td.exp(a) if kind == 0 else td.linear(a, td.parameter(f"w{i}", (8, 8))) if kind == 1 else a + b)
    return td.TensorDAG.of_graph(td.Graph({"x": values[0]}, {f"y{i}": v for i, v in enumerate(values[-20:])}))


def test_random_structure_has_bounded_screens() -> None:
    view = _random(3000).view(formulas=False)
    assert 2 <= len(view.document["bodies"][view.document["root"]]["items"]) <= 40
    assert max(len(body["items"]) for body in view.document["bodies"]) <= 40
    assert sum(1 for _ in view.reader.nodes(view.seen())) <= 60


def test_what_skips_things_goes_beside_them() -> None:
    """Each of several in a row feeds all that follow: no line goes over a thing."""
    count = 9
    edges = [(i, j) for i in range(count) for j in range(i + 1, count)]
    sizes = [(60.0 + 20 * (i % 3), 40.0) for i in range(count)]
    found = layered(sizes, edges)
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(found.places, sizes, strict=True)]
    assert [j - i > 1 for i, j in edges] == found.lanes
    for way in found.ways:
        for (a, b), (c, d) in itertools.pairwise(way):
            for left, top, right, bottom in boxes:
                apart = max(a, c) <= left or min(a, c) >= right or max(b, d) <= top or min(b, d) >= bottom
                assert apart, (way, (left, top, right, bottom))
    assert all(x < found.size[0] for way in found.ways for x, _ in way)


def test_a_long_chain_folds() -> None:
    x = td.input("x", (2, 8))
    y = x
    for i in range(400):
        y = td.relu(td.linear(y, td.parameter(f"w{i}", (8, 8))))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    (box,) = dag.view().document["bodies"][-1]["items"]
    assert (box["kind"], box["times"]) == ("linear + activation", 400)


def test_blocks_are_called_what_they_are() -> None:
    def layer(x: td.Value, i: int) -> td.Value:
        def w(name: str, *shape: int) -> Any:
            return td.parameter(f"{name}{i}", shape)

        h = td.layer_norm(x, w("g", 16), w("h", 16))
        q, k, v = (td.reshape(td.linear(h, w(n, 16, 16)), shape=(1, 1, 6, 16)) for n in "qkv")
        x = x + td.reshape(td.scaled_dot_product_attention(q, k, v), shape=(1, 6, 16))
        h = td.layer_norm(x, w("m", 16), w("n", 16))
        return x + td.linear(td.gelu(td.linear(h, w("up", 64, 16))), w("down", 16, 64))

    x = td.input("x", (1, 6, 16))
    y = x
    for i in range(5):
        y = layer(y, i)
    document = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y})).view().document
    (box,) = document["bodies"][document["root"]]["items"]
    assert (box["kind"], box["times"]) == ("layer", 5)
    assert [i["kind"] for i in document["bodies"][box["body"]]["items"]] == ["attention", "MLP"]


def test_layers_have_no_overlaps() -> None:
    random = np.random.default_rng(0)
    sizes = [(float(w), float(h)) for w, h in random.integers(20, 120, (40, 2))]
    edges = sorted({(int(a), int(b)) for a, b in np.sort(random.integers(0, 40, (70, 2)), axis=1) if a != b})
    found = layered(sizes, edges)
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(found.places, sizes, strict=True)]
    for i, a in enumerate(boxes):
        assert 0 <= a[0] <= a[2] <= found.size[0] + 1e-6
        for b in boxes[:i]:
            assert a[2] <= b[0] + 1e-6 or b[2] <= a[0] + 1e-6 or a[3] <= b[1] + 1e-6 or b[3] <= a[1] + 1e-6
    for (a, b), way, lane in zip(edges, found.ways, found.lanes, strict=True):
        assert boxes[a][1] < boxes[b][1]
        if lane and way[-1][1] != boxes[b][1]:  # into its side
            assert way[-1] == (boxes[b][2], pytest.approx(boxes[b][1] + 0.3 * (boxes[b][3] - boxes[b][1])))
        else:
            assert way[-1][1] == boxes[b][1]
        assert lane or way[0][1] == boxes[a][3]


def test_an_op_between_two_parts_of_a_box_is_in_the_box() -> None:
    x = td.input("x", (2, 3))
    a = td.exp(x)
    b = td.sin(a)
    c = td.cos(b)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.relu(c)}))
    origins = {a: Origin("m.inner.a"), b: Origin(""), c: Origin("m.inner.c"), dag.graph.outputs["y"]: Origin("")}
    document = replace(dag, origins=origins).view().document
    items = document["bodies"][document["root"]]["items"]
    assert [(i.get("name"), i.get("text")) for i in items] == [("m.inner", None), (None, "relu(%0)")]
    assert [i["text"] for i in document["bodies"][items[0]["body"]]["items"]] == ["exp(in0)", "sin(%0)", "cos(%1)"]
