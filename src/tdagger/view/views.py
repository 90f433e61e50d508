"""What a network looks like: :class:`View`, drawn as a page, SVG, PNG, Mermaid, DOT or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from tdagger.analysis.time.profile import Profile
from tdagger.analysis.time.timing import Device, device_of
from tdagger.errors import AttributeValueError, FileError
from tdagger.names import shown
from tdagger.view.document import Measure, Said, Viewed, Wanted, document
from tdagger.view.picture.diagrams import dot, mermaid
from tdagger.view.picture.png import png
from tdagger.view.picture.reader import Node, Reader
from tdagger.view.picture.svg import svg

#: Where a page has its data, exactly once.
PLACE = '<script type="application/json" id="tdagger-data">null</script>'

#: How high a page is in a notebook.
_HEIGHT = 640


class View:
    """A picture of a network, or of two compared: ``to_html()``, ``to_svg()``, ``to_png()``, ``to_json()`` and so on.

    ``open`` names boxes that are open (``"layer3"``, ``"blocks.0-11"``), ``depth`` opens all that are less deep; unless
    told those that hold most of the work, as many as fit on a screen. ``device`` adds predicted times, ``profile``
    measured ones, ``histograms`` how weights are spread, which reads them. Of two networks ``weights`` says how far
    their numbers differ, where both have them; False leaves them unread. ``formulas`` says costs at other sizes.
    ``measures`` are more numbers to colour by and ``said`` texts of ops, as
    :mod:`tdagger.quantization.quality.picture` finds them.
    docs/view.md shows it, docs/view-json.md describes the JSON. Linear in the number of ops.

    >>> import tdagger as td
    >>> dag = td.network(lambda x: td.exp(td.sin(x)), {"x": (2, 3)})
    >>> print(dag.view().to_mermaid())
    flowchart TD
      n0["sin<br/>6"]
      n1["exp<br/>6"]
      in0(["x"])
      out0(["out"])
      in0 -->|"f32#91;b n#93;"| n0
      n0 -->|"f32#91;b n#93;"| n1
      n1 -->|"f32#91;b n#93;"| out0
    """

    def __init__(
        self,
        networks: Sequence[Viewed],
        *,
        open: str | Sequence[str] = (),
        depth: int | None = None,
        device: Device | str | Path | None = None,
        profiles: Sequence[Profile | None] = (),
        histograms: bool = False,
        formulas: bool = True,
        measures: Sequence[Measure] = (),
        weights: bool = True,
        said: Sequence[Said] = (),
    ) -> None:
        self.networks = tuple(networks)
        if depth is not None and depth < 0:
            raise AttributeValueError(f"view: depth is at least 0, got {depth}")
        self._open = (open,) if isinstance(open, str) else tuple(open)
        self._depth = depth
        on = None if device is None else device_of(device)
        self._wanted = Wanted(on, tuple(profiles), histograms, formulas, tuple(measures), weights, tuple(said))

    def __repr__(self) -> str:
        return f"<View of {' and '.join(shown(n.name) for n in self.networks)}>"

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON as Python data."""
        asked = bool(self._open) or self._depth is not None
        return self._made() | ({"asked": True} if asked else {})

    def _made(self) -> dict[str, Any]:
        return document(self.networks, self._wanted, self._opened)

    @cached_property
    def reader(self) -> Reader:
        """The JSON with sums of what boxes hold."""
        return Reader(self.document)

    def _opened(self, found: Mapping[str, Any]) -> list[list[int]]:
        reader = Reader(found)
        paths = reader.find(self._open)
        if self._depth is not None:
            paths += reader.to_depth(self._depth)
        elif not self._open:
            paths = reader.at_first()
        return [list(path) for path in paths]

    def seen(self) -> Node:
        """What is seen: the whole with the boxes open that are open at first."""
        return self.reader.seen(self.document["open"])

    # --- forms ---

    def to_json(self) -> str:
        """All of it as JSON, as docs/view-json.md describes it."""
        return json.dumps(self.document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """One page with all in it, which runs no code from elsewhere and reads no network.

        FileError if this is a source tree in which the page wasn't built (``make page``).
        """
        data = self.to_json()
        for character, code in (("<", "\\u003c"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
            data = data.replace(character, code)
        return page().replace(PLACE, PLACE.replace("null", data, 1), 1)

    def to_svg(self) -> str:
        """A picture that prints, with text that can be selected."""
        return svg(self.reader, self.document["open"])

    def to_png(self, scale: float = 2.0) -> bytes:
        """A picture of pixels, by what the machine has; UnsupportedError names what it could have.

        ``scale`` is how many pixels a point of the SVG has. See :mod:`tdagger.view.picture.png`.
        """
        return png(self.to_svg(), scale)

    def to_mermaid(self) -> str:
        """A flowchart as Mermaid's text."""
        return mermaid(self.reader, self.seen())

    def to_dot(self) -> str:
        """A graph as Graphviz's text, boxes as clusters."""
        return dot(self.reader, self.seen())

    def save(self, path: Path | str) -> Path:
        """Write a file; its suffix says the form: .html, .svg, .png, .mmd, .dot or .json. FileError for another."""
        target = Path(path)
        form = FORMS.get(target.suffix.lower())
        if form is None:
            raise FileError(f"{shown(target)}: the suffix must say the form: {', '.join(FORMS)}")
        made = form(self)
        target.write_bytes(made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass"))
        return target

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.to_html(), quote=True)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
        )


#: How a view is written, by the suffix of the file.
FORMS: dict[str, Callable[[View], str | bytes]] = {
    ".html": View.to_html,
    ".svg": View.to_svg,
    ".png": View.to_png,
    ".mmd": View.to_mermaid,
    ".dot": View.to_dot,
    ".json": View.to_json,
}


def page() -> str:
    """The page without data, as it was built; FileError if it wasn't."""
    file = resources.files("tdagger.view") / "page.html"
    if not file.is_file():
        raise FileError("the page isn't built in this source tree: run `make page`, which needs npm")
    found = file.read_text("utf-8")
    if found.count(PLACE) != 1:
        raise FileError(f"the page that was built has its data {found.count(PLACE)} times, not once: run `make page`")
    return found
