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


def processor() -> dict[int, float]:
    """Seconds of processor time of the browser's processes so far; they are descendants of this one."""
    found: dict[int, tuple[int, float]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = file.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended meanwhile
            continue
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12]) if name.startswith("chrom") else 0
        found[int(file.parent.name)] = (int(fields[1]), ticks / os.sysconf("SC_CLK_TCK"))

    def ours(process: int) -> bool:
        while process in found and process != os.getpid():
            process = found[process][0]
        return process == os.getpid()

    return {process: seconds for process, (_, seconds) in found.items() if ours(process)}


def since(before: dict[int, float]) -> float:
    """Seconds of processor time of the processes that there are, since then; some of then may have ended."""
    return sum(seconds - before.get(process, 0.0) for process, seconds in processor().items())


def load(browser: Any, address: str, selector: str, then: Callable[[Any], Any]) -> tuple[float, float, Any]:
    """Seconds until the selector is there, by the clock and of the browser's processors; and what ``then`` finds."""
    context = browser.new_context(viewport=SIZE)
    context.route(
        lambda url: not url.startswith(("file:", "blob:", "data:", "http://127.0.0.1", "http://localhost")),
        lambda route: route.abort(),
    )
    if address.startswith("http"):  # Netron asks once whether it may report usage
        context.add_cookies([{"name": "consent", "value": "0", "url": address}])
    page = context.new_page()
    start, used = time.perf_counter(), processor()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(selector, timeout=300_000)
    seconds, used = time.perf_counter() - start, since(used)
    found = then(page)
    context.close()
    return seconds, used, found


def opened(page: Any) -> tuple[int, float, float]:
    """Boxes of the first picture, and seconds from a click on a closed block until what it holds is there."""
    count = on_screen(page, ".box, .end")
    block = page.locator(".box[aria-expanded=false]").first
    path = block.get_attribute("data-path")
    start, used = time.perf_counter(), processor()
    block.dispatch_event("click")
    page.wait_for_selector(f'.box[data-path="{path}.0"]', state="attached")
    return count, time.perf_counter() - start, since(used)


def row(name: str, browser: Any, page: Path, netron: str | None = None, explorer: str | None = None) -> None:
    ours: list[tuple[float, float, tuple[int, float, float]]] = []
    theirs: list[tuple[float, float, tuple[int, int]]] = []
    explored: list[tuple[float, float, None]] = []
    counts = lambda page: (on_screen(page, "g.node"), page.locator("g.node").count())  # noqa: E731
    for _ in range(RUNS):
        ours.append(load(browser, page.as_uri(), ".canvas[data-ready] .box", opened))
        if netron:
            theirs.append(load(browser, netron, "body.default g.node", counts))
        if explorer:
            explored.append(load(browser, explorer, "webgl-renderer canvas", lambda page: None))
    middle = statistics.median
    text = f"{name:<28} {page.stat().st_size / 1e6:>7.2f}"
    text += f" {middle(o[0] for o in ours):>7.2f} {middle(o[1] for o in ours):>7.2f}"
    text += f" {middle(o[2][1] for o in ours):>7.2f} {middle(o[2][2] for o in ours):>7.2f} {ours[0][2][0]:>6}"
    if theirs:
        seen, of = theirs[0][2]
        text += f" {middle(t[0] for t in theirs):>8.2f} {middle(t[1] for t in theirs):>7.2f} {seen:>6} {of:>6}"
    if explored:
        text += f" {middle(e[0] for e in explored):>8.2f} {middle(e[1] for e in explored):>7.2f}"
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
    print(f"{'':<28} {'page MB':>7} {'first s':>7} {'cpu s':>7} {'open s':>7} {'cpu s':>7} {'boxes':>6}", end="")
    print(f" {'Netron s':>8} {'cpu s':>7} {'boxes':>6} {'of all':>6} {'Explorer':>8} {'cpu s':>7}")
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
