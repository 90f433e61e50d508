"""A picture of pixels from SVG, by what the machine has: cairosvg, rsvg-convert, Inkscape, or a Chromium or Chrome."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tdagger.errors import AttributeValueError, UnsupportedError

_SECONDS = 120
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def png(svg: str, scale: float) -> bytes:
    """The picture as a PNG file's bytes; UnsupportedError if the machine has nothing that draws one."""
    if scale <= 0:
        raise AttributeValueError(f"png: scale must be positive, got {scale}")
    for way in WAYS:
        made = way(svg, scale)
        if made is not None:
            return made
    raise UnsupportedError(
        "nothing here draws PNG from SVG: install the package cairosvg, or the program rsvg-convert (librsvg), "
        "Inkscape or Chromium; or write .svg or .html"
    )


def _cairosvg(svg: str, scale: float) -> bytes | None:
    try:
        module: Any = importlib.import_module("cairosvg")
    except (ImportError, OSError):  # not there, or without the cairo library
        return None
    return module.svg2png(bytestring=svg.encode(), scale=scale)


def _rsvg(svg: str, scale: float) -> bytes | None:
    return _program("rsvg-convert", svg, lambda source, target: ["--zoom", f"{scale:g}", "-o", target, source])


def _inkscape(svg: str, scale: float) -> bytes | None:
    def arguments(source: str, target: str) -> list[str]:
        return [source, "--export-type=png", f"--export-dpi={96 * scale:g}", f"--export-filename={target}"]

    return _program("inkscape", svg, arguments)


def _chromium(svg: str, scale: float) -> bytes | None:
    name = next((n for n in _BROWSERS if shutil.which(n)), "")
    size = re.search(r'width="(\d+)" height="(\d+)"', svg)
    if not name or size is None:
        return None

    def arguments(source: str, target: str) -> list[str]:
        alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # it refuses root with one
        return [
            "--headless", "--disable-gpu", "--hide-scrollbars", *alone, f"--force-device-scale-factor={scale:g}",
            f"--user-data-dir={Path(target).parent / 'profile'}", f"--window-size={size[1]},{size[2]}",
            f"--screenshot={target}", Path(source).as_uri(),
        ]  # fmt: skip

    return _program(name, svg, arguments)


WAYS: tuple[Callable[[str, float], bytes | None], ...] = (_cairosvg, _rsvg, _inkscape, _chromium)


def _program(name: str, svg: str, arguments: Callable[[str, str], list[str]]) -> bytes | None:
    """What a program draws; None if the machine hasn't got it, UnsupportedError with its words if it fails."""
    program = shutil.which(name)
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "net.svg", Path(folder) / "net.png"
        source.write_text(svg, "utf-8")
        done = subprocess.run(
            [program, *arguments(str(source), str(target))], capture_output=True, timeout=_SECONDS, check=False
        )
        if done.returncode or not target.is_file():
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise UnsupportedError(f"{name} couldn't draw the picture (status {done.returncode}): {said}")
        return target.read_bytes()
