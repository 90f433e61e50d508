"""Time to the first picture and to open a block of ``tdagger view``'s page, beside Netron in the same browser.

Each network is written as a page and as an ONNX file, loaded in turns in headless Chromium on one core, from the
start of the load until boxes are on the screen. Netron is served from a local folder (the package ``netron`` of PyPI
has its page, or ``--netron FOLDER``); it draws every node of the file and folds none, so there is nothing to open.
Model Explorer needs its server (``model-explorer --extensions=model_explorer_onnx --no_open_in_browser``), which
``--model-explorer http://localhost:8080`` names; it draws on a canvas, so its boxes aren't counted. Both are given the
file with its weights, as they need it; a page holds none.
Random graphs show how the page grows with the ops. Goal: first picture and opening < 2 s for 10,000 ops, pages < 5 MB.

Usage: ``python benchmarks/bench_view.py [NETWORK ...] [--ops 1000,10000,100000] [--netron FOLDER]
[--model-explorer ADDRESS]``
"""

from __future__ import annotations

import argparse
import functools
import http.server
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from _zoo import network, quiet

import tdagger as td
from tests.view.documents import flat
from tests.view.test_page import BROWSERS, filled

RUNS = 3
SIZE = {"width": 1400, "height": 900}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def served(folder: Path) -> str:
    """The address of a folder on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def on_screen(page: Any, selector: str) -> int:
    boxes = [one.bounding_box() for one in page.locator(selector).all()]
    inside = [b for b in boxes if b and -b["width"] < b["x"] < SIZE["width"] and -b["height"] < b["y"] < SIZE["height"]]
    return len(inside)


def load(browser: Any, address: str, selector: str, then: Callable[[Any], Any]) -> tuple[float, Any]:
    """Seconds until the selector is there, and what ``then`` finds."""
    context = browser.new_context(viewport=SIZE)
    context.route(
        lambda url: not url.startswith(("file:", "blob:", "data:", "http://127.0.0.1", "http://localhost")),
        lambda route: route.abort(),
    )
    if address.startswith("http"):  # Netron asks once whether it may report usage
        context.add_cookies([{"name": "consent", "value": "0", "url": address}])
    page = context.new_page()
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(selector, timeout=300_000)
    seconds = time.perf_counter() - start
    found = then(page)
    context.close()
    return seconds, found


def opened(page: Any) -> tuple[int, float]:
    """Boxes of the first picture, and seconds from the click on a closed block until what it holds is there."""
    count = on_screen(page, ".box, .end")
    block = page.locator(".box[aria-expanded=false]").first
    path = block.get_attribute("data-path")
    start = time.perf_counter()
    block.dispatch_event("click")
    page.wait_for_selector(f'.box[data-path="{path}.0"]', state="attached")
    return count, time.perf_counter() - start


def row(name: str, browser: Any, page: Path, netron: str | None = None, explorer: str | None = None) -> None:
    ours: list[tuple[float, tuple[int, float]]] = []
    theirs: list[tuple[float, tuple[int, int]]] = []
    for _ in range(RUNS):
        ours.append(load(browser, page.as_uri(), ".canvas[data-ready] .box", opened))
        if netron:
            counts = lambda page: (on_screen(page, "g.node"), page.locator("g.node").count())  # noqa: E731
            theirs.append(load(browser, netron, "body.default g.node", counts))
    runs = RUNS if explorer else 0
    explored = [load(browser, explorer or "", "webgl-renderer canvas", lambda page: None) for _ in range(runs)]
    first, click = (statistics.median(values) for values in ([o[0] for o in ours], [o[1][1] for o in ours]))
    text = f"{name:<28} {page.stat().st_size / 1e6:>8.2f} {first:>8.2f} {click:>8.2f} {ours[0][1][0]:>7}"
    if theirs:
        seen, all_ = theirs[0][1]
        text += f" {statistics.median(t[0] for t in theirs):>10.2f} {seen:>8} {all_:>8}"
    if explored:
        text += f" {statistics.median(seconds for seconds, _ in explored):>10.2f}"
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", default=["resnet50", "vit_base_patch16_224", "swin_tiny_patch4_window7_224"]
    )
    parser.add_argument("--ops", default="1000,10000,100000")
    parser.add_argument("--netron", type=Path, help="folder of Netron's page")
    parser.add_argument("--model-explorer", metavar="ADDRESS", help="of its server")
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    found = importlib.util.find_spec("netron")
    folder: Path | None = chosen.netron or (Path(found.origin).parent if found and found.origin else None)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the browser's processes inherit it
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    columns = ("page MB", "first s", "open s", "boxes", "Netron s", "boxes", "of all", "Explorer s")
    print(
        " " * 28
        + "".join(f"{name:>{size + 1}}" for name, size in zip(columns, (8, 8, 8, 7, 10, 8, 8, 10), strict=True))
    )
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*flags, "--enable-unsafe-swiftshader"])
        work = Path(scratch)
        if folder:
            shutil.copytree(folder, work / "netron")
        address = served(work)
        for name in chosen.networks:
            with quiet():
                module, x = network(name, 1)
                dag = td.from_torch(module, x)
                dag.to_onnx(str(work / f"{name}.onnx"))
                dag.view().save(work / f"{name}.html")
            netron = f"{address}/netron/index.html?url={address}/{name}.onnx" if folder else None
            explorer = None
            if chosen.model_explorer:
                models = json.dumps({"models": [{"url": str(work / f"{name}.onnx")}]})
                explorer = f"{chosen.model_explorer}/?data={quote(models)}"
            row(name, browser, work / f"{name}.html", netron, explorer)
        for ops in map(int, filter(None, chosen.ops.split(","))):
            page = work / "random.html"
            page.write_text(filled(flat(ops)), "utf8")
            row(f"random, {ops:,} ops", browser, page)
        browser.close()


if __name__ == "__main__":
    main()
