"""The page of a view, in a browser: what a person sees and does, by mouse and by keyboard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest

import tdagger as td
from tests.view import documents
from tests.view.test_program import branching

sync_api = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "src/tdagger/view/page.html"
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
EMPTY = '<script type="application/json" id="tdagger-data">null</script>'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FIREFOX = ("firefox", "firefox-esr")
#: With TDAGGER_BROWSER=firefox these tests run in the machine's Firefox, which playwright drives by WebDriver BiDi.
IN_FIREFOX = os.environ.get("TDAGGER_BROWSER") == "firefox"
NEEDED = bool(os.environ.get("TDAGGER_NEED_BROWSER"))


def missing(what: str) -> None:
    if NEEDED:
        pytest.fail(what)
    pytest.skip(what)


def filled(data: Any) -> str:
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return PAGE.read_text("utf8").replace(EMPTY, EMPTY.replace("null", text))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = FIREFOX if IN_FIREFOX else BROWSERS
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        missing(f"no browser: none of {', '.join(names)} is on the path")
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        if IN_FIREFOX:
            browser = playwright.firefox.launch(executable_path=executable, channel="moz-firefox")
        else:
            browser = playwright.chromium.launch(executable_path=executable, args=flags)
        yield browser
        browser.close()


class Opened:
    """A page that is open, what it printed, and all that it asked the network for."""

    def __init__(self, page: Any, file: Path):
        self.page = page
        self.file = file
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, address: str = "") -> Any:
        self.page.goto("about:blank")
        self.page.goto(f"file://{self.file}{address}")
        self.page.wait_for_selector("[data-ready]")
        return self.page

    def box(self, path: str) -> Any:
        return self.page.locator(f'.box[data-path="{path}"]')


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    contexts: list[Any] = []
    pages: list[Opened] = []

    def make(data: Any, *, width: int = 1300, height: int = 850, dark: bool = False, address: str = "") -> Opened:
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(filled(data), "utf8")
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = Opened(context.new_page(), file)
        page.page.set_default_timeout(15_000)
        pages.append(page)
        page.go(address)
        return page

    yield make
    said = [
        (one.said, [url for url in one.asked if not url.startswith(("file:", "blob:", "data:", "about:"))])
        for one in pages
    ]
    for context in contexts:
        context.close()
    assert said == [([], [])] * len(pages), "a page printed something, or asked for something"


def wait(page: Any, script: str, argument: Any = None) -> None:
    """Until the function of JavaScript says yes. The page's policy forbids what playwright waits for functions by."""
    for _ in range(300):
        if page.evaluate(script, argument):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never came true: {script}")


def enter(field: Any, text: str) -> None:
    """Types as a person does: Firefox tells of no change where a script set the field."""
    field.focus()
    field.press("ControlOrMeta+a")
    field.press_sequentially(text)
    field.press("Enter")


def titles(page: Any) -> list[str]:
    return page.locator(".box .title").evaluate_all("all => all.map(one => one.firstChild.textContent)")


def test_page_is_one_file_with_a_place_for_the_data():
    text = PAGE.read_text("utf8")
    assert text.count(EMPTY) == 1
    assert PAGE.stat().st_size < 2_000_000
    for library in ("@dagrejs/dagre", "@dagrejs/graphlib", "d3-hierarchy"):
        assert f"{library} " in text.split("It holds these libraries")[1]
    policy = text.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_first_picture(opened):
    page = opened(documents.small()).page
    assert titles(page) == ["stem", "layers.0-11", "mystery", "linear"]
    assert page.locator(".edge text", has_text="f32[b s d]").count() == 5
    assert page.locator(".box .badge").all_text_contents() == ["× 12"]
    assert page.locator(".uncounted").count() == 1  # mystery
    assert "lower bounds: mystery (1)" in page.locator(".panel").inner_text()
    inside = page.locator(".diagram").bounding_box()
    for box in page.locator(".box, .end").all():
        bounds = box.bounding_box()
        assert bounds["y"] >= inside["y"]
        assert bounds["y"] + bounds["height"] <= inside["y"] + inside["height"]


def test_click_opens_in_place_and_keeps_the_rest(opened):
    view = opened(documents.small())
    page = view.page
    before = {path: view.box(path).bounding_box() for path in ("0", "1")}
    view.box("1").click()
    page.wait_for_selector('.box[data-path="1.0"]')
    after = {path: view.box(path).bounding_box() for path in ("0", "1")}
    assert titles(page).count("layer_norm") == 2
    assert after["1"]["y"] == pytest.approx(before["1"]["y"], abs=1)  # what was clicked stays under the mouse
    assert after["0"]["y"] == pytest.approx(before["0"]["y"], abs=1)
    assert abs(after["0"]["x"] - before["0"]["x"]) < 850
    view.box("1.1").click()
    page.wait_for_selector('.box[data-path="1.1.1"]')
    view.box("1.1.1").click()
    panel = page.locator(".panel").inner_text()
    assert "body of a composite" in panel
    assert page.locator(".crumbs li").all_text_contents() == ["small", "layers.0-11", "attn", "attention"]
    view.box("1").click(position={"x": 30, "y": 12})  # its head closes it
    page.wait_for_selector('.box[data-path="1.0"]', state="detached")


def test_panel_tells_what_is_known_of_an_op(opened):
    page = opened(documents.small(), address="#open=1.1&at=1.1.0").page
    panel = page.locator(".panel").inner_text()
    shown = ("linear", "f32[b s d]", "f32[2 16 64]", "8.19 kB", "262 kFLOPs", "model.py:17", "layers.0.attn")
    for part in (*shown, "aten.linear.default", "layers.2.weight"):
        assert part in panel, part
    assert page.locator(".panel .histogram").count() == 1
    page.locator(".crumbs button", has_text="layers.0-11").click()
    page.locator("#nth").select_option("3")
    page.locator('.box[data-path="1.1.0"]').click()
    assert "layers.3.attn" in page.locator(".panel").inner_text()


@pytest.mark.parametrize("query", ["gelu", "f32[2 16 64] gelu", "layers.3 gelu", "b s d gelu"])
def test_search_opens_what_was_found(opened, query):
    view = opened(documents.small())
    page = view.page
    page.keyboard.press("/")
    page.keyboard.type(query)
    page.wait_for_selector("#found li[aria-selected=true]")
    page.keyboard.press("Enter")
    page.wait_for_selector('.box.on[data-path="1.4.1"]')
    assert page.evaluate("document.activeElement.dataset.path") == "1.4.1"


def test_sliders_recompute_costs_by_the_formulas(opened):
    data = documents.small()
    data["conditions"] = [{"formula": len(data["formulas"]), "is": "positive", "why": "s is at most 40 here"}]
    data["formulas"].append({"value": 24, "terms": [[40], [-1, 1, 1]]})
    view = opened(data)
    page = view.page
    page.locator("#tab-sizes").click()
    batch, sequence = page.locator(".slider input[type=number]").all()
    # A layer: nine ops of 8192 b s, attention of 128 b s s; three more ops outside.
    formula = lambda b, s: 12 * (9 * 8192 * b * s + 128 * b * s * s) + 3 * 8192 * b * s  # noqa: E731
    assert formula(2, 16) == 29_884_416
    assert page.locator(".sums").inner_text().startswith("29.9 MFLOPs")
    enter(batch, "4")
    assert page.locator(".sums").inner_text().startswith("59.8 MFLOPs")
    enter(sequence, "41")
    assert page.locator(".sums").inner_text().startswith(f"{formula(4, 41) / 1e6:.0f} MFLOPs")
    assert "s is at most 40 here" in page.locator(".sliders .warning").inner_text()
    page.locator(".slider input[type=range]").first.press("ArrowRight")
    assert batch.input_value() == "5"
    wait(page, "() => location.hash.includes('size=0:5&size=1:41')")
    page.get_by_text("Own sizes").click()
    assert page.locator(".sums").inner_text().startswith("29.9 MFLOPs")
    wait(page, "() => !location.hash.includes('size=')")


def test_a_link_to_a_place_works(opened):
    view = opened(documents.small())
    page = view.page
    view.box("1").click()
    page.wait_for_selector('.box[data-path="1.4"]')
    page.locator("#fit").click()
    view.box("1.4").click()
    page.wait_for_selector('.box[data-path="1.4.2"]')
    page.locator("#fit").click()
    view.box("1.4.2").click()
    page.locator("#heat").select_option("bytes")
    page.locator("#tab-table").click()
    wait(page, "() => location.hash.includes('tab=table')")
    address = page.url.split("#")[1]
    other = opened(documents.small(), address=f"#{address}")
    other.page.wait_for_selector('.box.on[data-path="1.4.2"]')
    assert other.page.locator("#heat").input_value() == "bytes"
    assert other.page.locator("#pane-table").is_visible()
    wait(other.page, "address => location.hash === `#${address}`", address)
    broken = opened(documents.small(), address="#open=9.9,1&at=5.5.5&heat=nothing&size=9:9&nth=1:99")
    broken.page.wait_for_selector('.box[data-path="1.0"]')  # what there is of it is opened, the rest left out
    assert broken.page.locator(".box.on").count() == 0


def test_all_plots_are_linked(opened):
    view = opened(documents.small())
    page = view.page
    page.locator("#tab-memory").click()
    assert "peak 24.6 kB" in page.locator(".timeline svg").text_content()
    page.locator(".timeline .list button").first.click()
    page.wait_for_selector(".box.on")
    page.locator("#tab-treemap").click()
    cell = page.locator(".cell.leaf", has_text="attention: ").first
    cell.click()
    page.wait_for_selector('.box.on[data-path="1.1.1"]')
    assert page.locator(".cell.on").count() == 1
    page.locator("#tab-roofline").click()
    assert page.locator(".roof").count() == 1
    assert page.locator(".point.on").count() == 1
    page.locator("#tab-table").click()
    page.locator("#rows").select_option("ops")
    assert page.locator(".scroll tr.on").count() == 1
    page.locator('[data-sort="flops"]').click()
    page.locator('[data-sort="flops"]').click()
    numbers = page.locator(".scroll tbody tr").evaluate_all("rows => rows.map(row => row.children[2]?.textContent)")
    assert numbers[:2] == ["262 kFLOPs", "262 kFLOPs"]
    page.locator(".scroll button.link").nth(-1).click()
    assert page.locator(".box.on").count() == 1


def test_heat_colours_by_every_measure(opened):
    page = opened(documents.small()).page
    choices = page.locator("#heat option").evaluate_all("all => all.map(one => one.value)")
    assert choices == ["kind", "flops", "bytes", "fused", "parameters", "peak", "predicted", "intensity"]
    colours = set()
    for choice in choices:
        page.locator("#heat").select_option(choice)
        wait(page, "metric => document.querySelectorAll('.box.heated').length === (metric === 'kind' ? 0 : 4)", choice)
        colours.add(page.locator('.box[data-path="1"] .body').evaluate("one => getComputedStyle(one).fill"))
    assert len(colours) > 1
    page.locator("#heat").select_option("flops")
    small = page.locator('.box[data-path="0"] .body').bounding_box()["height"]
    page.locator("#sized").check()
    wait(
        page,
        "height => document.querySelector('.box[data-path=\"1\"]').getBoundingClientRect().height > height * 1.3",
        small,
    )


def test_measures_of_ops_are_colours_and_a_box_has_the_worst(opened):
    data = documents.small()
    (net,) = data["networks"]
    count = data["bodies"][data["root"]]["ops"]
    each = [None, *[50.0 + i % 5 for i in range(count - 1)]]
    each[7] = 12.5  # in the first of the layers
    net["measures"] = [
        {"name": "SQNR", "unit": "dB", "worst": "low", "each": each},
        {"name": "clipped", "unit": "", "worst": "high", "each": [n and n / 1000 for n in each]},
    ]
    spread = {"low": -2.0, "high": 2.0, "counts": [1, 5, 4, 2], "mean": 0.1, "std": 0.7, "zeros": 3, "nonfinite": 0}
    net["said"] = [
        {"name": "range told apart", "each": ["-1 … 1", *[None] * (count - 1)]},
        {"name": "what it takes", "each": [spread | {"range": [-1.0, 2.0]}, *[None] * (count - 1)]},
    ]
    data["parameters"][0]["codes"] = {"low": -0.5, "high": 0.25, "ends": 0.125}
    view = opened(data, address="#open=0&at=0.0")
    page = view.page
    panel = page.locator(".panel").inner_text()
    assert "range told apart" in panel
    assert "-1 … 1" in panel
    assert "-2.00 … 2.00 · mean 0.100 · std 0.700 · 3 zeros" in panel
    assert page.locator(".panel .histogram line").evaluate_all("all => all.map((one) => +one.getAttribute('x1'))") == [
        6
    ]
    assert "codes for -0.500 … 0.250 · 13 % at an end" in panel
    page.locator("#heat").select_option("measure-SQNR")
    page.wait_for_selector(".box.heated")
    layers = page.locator('.box[data-path="1"]')
    assert "12.5 dB" in layers.text_content()
    assert layers.evaluate("one => one.style.getPropertyValue('--heat')") == "100.0%"
    page.locator("#heat").select_option("measure-clipped")
    wait(page, "() => document.querySelector('.box[data-path=\"1\"]').textContent.includes('5.40 %')")


def test_comparing_two_networks(opened):
    view = opened(documents.compared())
    page = view.page
    assert page.locator("#heat").input_value() == "difference-flops"
    classes = {path: view.box(path).get_attribute("class").split() for path in "0123"}
    assert "st-changed" in classes["0"]
    assert "equal" in classes["1"]
    assert "st-a" in classes["2"]
    assert "st-changed" in classes["3"]
    view.box("2").click()
    assert "Only in A" in page.locator(".panel").inner_text()
    view.box("3").click()
    assert "attributes.bias: True -> False" in page.locator(".panel").inner_text()
    view.box("0").click()
    page.wait_for_selector('.box.st-b[data-path="0.1"]')
    row = page.locator(".panel tbody tr", has_text="FLOPs").first.inner_text().split("\t")
    assert row == ["FLOPs", "262 kFLOPs", "524 kFLOPs"]
    assert "+262 kFLOPs" in page.locator('.box[data-path="0.1"]').text_content()


def test_weights_that_differ_are_marked(opened):
    data = documents.compared()
    (first, _) = data["networks"]
    ops = data["bodies"][data["root"]]["ops"]
    each = [0.031 if i == 9 else 0.0 for i in range(ops)]
    first["measures"] = [
        {"name": "change of weights", "unit": "", "worst": "high", "each": each, "mark": "weights differ"}
    ]
    data["parameters"][0] |= {"b": 1, "change": 0.031}
    view = opened(data)
    page = view.page
    layers = view.box("1")
    assert "weights differ 3.10 %" in layers.text_content()
    assert "marked" in layers.get_attribute("class").split()
    assert "weights differ" not in view.box("3").text_content()
    layers.click()
    page.wait_for_selector('.box[data-path="1.0"]')
    panel = page.locator(".panel").inner_text()
    assert "The same but for numbers in weights" in panel
    assert "weights differ 3.10 % at most" in panel
    assert "B layers.1.weight differs by 3.1 % of the norm" in panel
    page.locator("#heat").select_option("measure-change of weights")
    page.wait_for_selector(".box.heated")
    page.locator("#search").fill("state:weights")
    page.wait_for_selector("#found li")


def test_a_program_is_blocks_with_control_flow_between_them(opened):
    view = opened(branching().view(depth=0).document)
    page = view.page
    assert titles(page) == ["begin", "loop", "body", "then", "otherwise", "after", "done"]
    flow = page.locator(".edge.flow text").evaluate_all("all => all.map(one => one.lastChild.textContent)")
    assert {"if again: n, k, y", "else: y", "return: y", "goto: n, k, out"} <= set(flow)
    assert page.locator(".end text").all_text_contents() == ["x, n", "return y"]
    assert "k ← 0, y ← x" in view.box("0").text_content()
    view.box("2").click()
    page.wait_for_selector('.box[data-path="2.0"]')
    panel = page.locator(".panel").inner_text()
    assert "if again_2: then" in panel
    assert "else: otherwise" in panel
    page.locator("#fit").click()
    view.box("3").click()
    page.wait_for_selector('.box[data-path="3.0"]')
    assert page.locator(".end text").all_text_contents().count("out") == 1  # what it writes, by the slot's name
    page.locator("#tab-sizes").click()
    runs = page.locator(".slider", has_text="runs of then").locator("input[type=number]")
    enter(runs, "0")
    assert page.locator(".sums").inner_text().startswith("68 FLOPs")
    enter(runs, "10")
    assert page.locator(".sums").inner_text().startswith("708 FLOPs")
    assert "640 FLOPs" in view.box("3").locator("title").first.text_content()


def test_names_are_text_never_markup(opened):
    view = opened(documents.hostile())
    page = view.page
    page.locator("#all").click()
    wait(page, "() => document.querySelectorAll('.box').length > 10")
    for box in page.locator(".box").all()[:8]:
        box.focus()
        page.keyboard.press("ArrowDown")
    for tab in ("memory", "treemap", "roofline", "table", "sizes"):
        page.locator(f"#tab-{tab}").click()
    page.locator("#search").fill("img")
    page.wait_for_selector("#found li")
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    assert page.locator("#found li").first.inner_text().startswith("</script><script>")


def test_everything_by_keyboard(opened):
    view = opened(documents.small(), height=900)
    page = view.page
    active = lambda: page.evaluate("document.activeElement.dataset.path ?? null")  # noqa: E731
    for _ in range(40):
        page.keyboard.press("Tab")
        if active() is not None:
            break
    assert active() == "0"
    page.keyboard.press("ArrowDown")
    assert active() == "1"
    page.keyboard.press("Enter")
    page.wait_for_selector('.box[data-path="1.0"]')
    assert active() == "1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert active() == "1.1"
    assert page.locator(".panel h2").inner_text().strip() == "attn"
    page.keyboard.press("Backspace")
    assert active() == "1"
    page.keyboard.press("Enter")
    page.wait_for_selector('.box[data-path="1.0"]', state="detached")
    before = page.locator(".diagram > g").get_attribute("transform")
    page.keyboard.press("+")
    page.keyboard.press("Shift+ArrowLeft")
    wait(page, "before => document.querySelector('.diagram > g').getAttribute('transform') !== before", before)
    page.keyboard.press("1")
    slider = page.locator("[role=slider]")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_selector('.box.on[data-path="3"]')
    page.keyboard.press("Escape")
    assert page.locator(".drawer").is_hidden()
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()


@pytest.mark.parametrize(("width", "height"), [(400, 700), (3840, 2160)])
def test_narrow_and_large_screens(opened, width, height):
    view = opened(documents.small(), width=width, height=height)
    page = view.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    view.box("2").click()
    panel = page.locator(".panel")
    assert panel.is_visible()
    assert panel.bounding_box()["width"] <= width
    page.locator("#panel-switch").click()
    assert panel.is_hidden()
    view.box("1").click()
    page.wait_for_selector('.box[data-path="1.0"]')
    assert panel.is_hidden()  # a narrow screen belongs to what was opened
    for tab in ("memory", "treemap", "roofline", "table", "sizes"):
        page.locator(f"#tab-{tab}").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_in_a_frame_of_a_notebook(browser, tmp_path):
    """A frame with an origin of its own, as notebooks have: no address to keep, and perhaps no worker."""
    file = tmp_path / "notebook.html"
    sandbox = '<iframe sandbox="allow-scripts" width="900" height="640" srcdoc="{}"></iframe>'
    file.write_text(sandbox.format(escape(filled(documents.small()), quote=True)), "utf8")
    page = browser.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"file://{file}")
    frame = page.frame_locator("iframe")
    frame.locator('.box[data-path="1"]').click()
    frame.locator('.box[data-path="1.0"]').wait_for()
    page.close()
    assert said == []


def test_a_long_chain_stands_in_columns(opened):
    data = documents.small()
    root = data["bodies"][data["root"]]
    (*_, last) = root["items"]
    root["items"] += [last] * 12
    x = root["edges"][0][4]
    root["edges"] = [[i - 1, 0, i, 0, x] for i in range(16)] + [[15, 0, -2, 0, x]]
    root["ops"] += 12
    root["slots"] = [root["slots"][0] + 12]
    (net,) = data["networks"]
    net["slots"] += [0] * 12
    net["predicted"]["each"] += [None] * 12
    view = opened(data)
    page = view.page
    places = [box.bounding_box() for box in page.locator(".box").all()]
    columns = {round(place["x"] + place["width"] / 2) for place in places}
    assert 2 <= len(columns) <= 4
    assert min(place["height"] for place in places) > 30  # as large as it can be read
    inside = page.locator(".diagram").bounding_box()
    assert all(place["y"] + place["height"] < inside["y"] + inside["height"] for place in places)
    before = view.box("15").bounding_box()
    view.box("15").click()
    assert view.box("15").bounding_box() == pytest.approx(before, abs=2)  # its border is wider now
    view.box("1").click()
    page.wait_for_selector('.box[data-path="1.0"]')
    assert view.box("1").bounding_box()["y"] == pytest.approx(places[1]["y"], abs=2)


@pytest.mark.parametrize("across", [False, True])
def test_what_skips_boxes_goes_beside_them(opened, across):
    """Each of several in a row feeds all that follow: no line goes over a box."""
    data = documents.small()
    root = data["bodies"][data["root"]]
    (*_, last) = root["items"]
    root["items"] += [last] * 6
    x = root["edges"][0][4]
    pairs = [(i, j) for i in range(10) for j in range(i + 1, 10)]
    root["edges"] = [[-1, 0, 0, 0, x], *[[i, 0, j, 0, x] for i, j in pairs], [9, 0, -2, 0, x]]
    root["ops"] += 6
    root["slots"] = [root["slots"][0] + 6]
    (net,) = data["networks"]
    net["slots"] += [0] * 6
    net["predicted"]["each"] += [None] * 6
    page = opened(data, address="#across=1" if across else "").page
    page.locator("#fit").click()
    page.wait_for_timeout(300)
    over = """() => {
      const boxes = [...document.querySelectorAll('.box .body')].map((one) => one.getBoundingClientRect());
      const inside = (p, b) => p.x > b.left + 2 && p.x < b.right - 2 && p.y > b.top + 2 && p.y < b.bottom - 2;
      const lines = [...document.querySelectorAll('.edge path')];
      const part = (line, i) => line.getPointAtLength((line.getTotalLength() * i) / 199);
      const at = (line, i) => part(line, i).matrixTransform(line.getScreenCTM());
      const points = (line) => Array.from({ length: 200 }, (_, i) => at(line, i));
      return [lines.length, lines.filter((line) => points(line).some((p) => boxes.some((b) => inside(p, b)))).length,
        document.querySelectorAll('.edge circle').length];
    }"""
    lines, crossing, branches = page.evaluate(over)
    assert lines == len(pairs) + 2
    assert crossing == 0
    assert branches == sum(range(1, 8))  # the first's lane has eight ends, the next's seven ...


def test_costs_at_other_sizes_are_those_of_the_network(opened):
    """What the page works out from formulas is what the network costs after it was resized, to the last digit."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())  # noqa: E731
    module = nn.Sequential(block(3, 8), block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    dag = td.from_torch(module, torch.rand(2, 3, 32, 48))
    data = dag.view(histograms=True, device="h100").document
    view = opened(data)
    page = view.page
    page.locator("#tab-sizes").click()
    sizes = {"b": 3, "h": 64, "w": 96}
    for name, size in sizes.items():
        field = page.locator(f'.slider input[type=number][aria-label="{name}"]')
        enter(field, str(size))
    rows = page.locator(".panel tbody tr").all()
    found = {row.locator("th").inner_text(): row.locator("td").first.get_attribute("title") for row in rows}
    resized = dag.resize(**sizes)
    cost = resized.cost()
    moved = resized.graph.total_memory_reads() + resized.graph.total_memory_writes()
    assert found["FLOPs"] == f"{cost.total_flops:,}"
    assert found["bytes moved"] == f"{moved:,}"
    assert found["peak memory"] == f"{cost.peak_bytes:,}"
    assert found["parameters"] == f"{sum(p.numel() for p in module.parameters()):,}"
    assert page.locator(".warning").all_inner_texts() == [""]


def test_network_without_an_op(opened):
    w = documents.Writer("nothing", {"b": 2})
    x = w.type("f32[2]", "f32[b]", w.formula(4, "b"))
    root = w.body([], [[-1, 0, -2, 0, x]], [{"type": x, "name": "x"}], [{"type": x, "name": "y"}])
    page = opened(w.finish(root)).page
    assert page.locator(".end").all_text_contents() == ["x", "y"]
    for tab in ("memory", "treemap", "roofline", "table", "sizes"):
        page.locator(f"#tab-{tab}").click()
    assert "nothing is counted" in page.locator("#pane-treemap").text_content()


def test_dark_and_light(opened):
    page = opened(documents.small(), dark=True).page
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = ground()
    page.locator("#theme").click()
    assert ground() != dark
    page.locator("#theme").click()
    assert ground() == dark


def test_ten_thousand_ops_open_part_by_part(opened):
    view = opened(documents.flat(10_000))
    page = view.page
    assert view.file.stat().st_size < 5_000_000
    assert page.locator(".box").count() < 60
    view.box("0").click()
    page.wait_for_selector('.box[data-path="0.0"]')
    view.page.locator("#fit").click()
    view.box("0.0").click()
    page.wait_for_selector('.box[data-path="0.0.0"]')
    assert page.locator(".box").count() < 200
    page.locator("#search").fill("softmax")
    page.wait_for_selector("#found li[aria-selected=true]")
    assert "found; the first 50" in page.locator("#found").inner_text()


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_serious_for_axe(opened, dark):
    if not AXE.exists():
        missing("no axe-core: `npm ci` in web/ gets it")
    view = opened(documents.small(), dark=dark)
    page = view.page
    page.evaluate(AXE.read_text("utf8"))
    page.locator("#all").click()
    wait(page, "() => document.querySelectorAll('.box').length > 10")
    found: list[str] = []
    for tab in ("", "table") if dark else ("", "memory", "treemap", "roofline", "table", "sizes"):
        if tab:
            page.locator(f"#tab-{tab}").click()
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            f"{tab} {one['id']}: {node['html'][:200]}"
            for one in result["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
    assert found == []


def test_what_is_no_view_is_refused_by_name(browser, tmp_path):
    for data, why in (
        (None, "this page holds no network"),
        ({"schema": "x"}, "isn't the JSON of a view"),
        (documents.small() | {"version": 2}, "not version 2"),
    ):
        file = tmp_path / "x.html"
        file.write_text(filled(data), "utf8")
        page = browser.new_page()
        page.goto(f"file://{file}")
        assert why in page.locator("[role=alert]").inner_text()
        page.close()
