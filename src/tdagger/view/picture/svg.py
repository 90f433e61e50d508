"""A view as SVG: boxes in boxes, text that can be selected, colours that print."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tdagger.names import shown
from tdagger.view.picture.layers import GAP, layered
from tdagger.view.picture.reader import Node, Reader
from tdagger.view.picture.words import HUES, Words, cut, type_of, words

_SANS = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

#: How wide a character is at most on average, of the font's size.
_WIDE, _WIDE_MONO = 0.58, 0.61
#: Inside an open box: room at the sides, above (its name) and below.
_SIDE, _TOP, _BOTTOM = 16.0, 40.0, 18.0
_CARDS = 4.0


@dataclass(eq=False)
class _Shape:
    """A thing with its size, and, if it is open, what is drawn in it."""

    node: Node | None
    words: Words
    width: float
    height: float
    inner: list[_Shape] = field(default_factory=list["_Shape"])
    places: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    ways: list[_Way] = field(default_factory=list["_Way"])
    dots: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    enters: float | None = None
    leaves: float | None = None
    type: str = ""
    room: float = 0.0


@dataclass(eq=False)
class _Way:
    points: list[tuple[float, float]]
    count: int
    side: str
    text: str = ""
    place: tuple[float, float] = (0.0, 0.0)
    square: bool = False


def svg(reader: Reader, opened: Sequence[Sequence[int]], title: str = "") -> str:
    """The picture with some boxes open; all names in it are text."""
    root = reader.seen(opened)
    shape = _open(reader, root, whole=True)
    width, height = shape.width, shape.height + 34
    name = escape(shown(title or reader.document["title"]))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_SANS}" role="img">',
        f"<title>{name}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" '
        'markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0.8 L7.4 4 L0 7.2 z" fill="#59636f"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        _text(_SIDE, 22, name, 15, bold=True) + _text(width - _SIDE, 22, escape(_summary(reader)), 11, end=True),
        *_drawn(reader, shape, 0.0, 34.0, frame=False),
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _summary(reader: Reader) -> str:
    from_quantity = words(reader, Node((), reader.root(), "", "", 0, 0)).cost
    return f"{from_quantity} FLOPs" if from_quantity else ""


# --- sizes -------------------------------------------------------------------------------------------------


def _shape(reader: Reader, node: Node) -> _Shape:
    if node.inner:
        return _open(reader, node)
    told = words(reader, node)
    count = f"× {node.times}" if node.times > 1 else ""
    top = _wide(told.name, 12) + (_wide(count, 12) + 12 if count else 0)
    below = _wide(told.detail, 10) + (_wide(told.cost, 10) + 14 if told.cost else 0)
    return _Shape(node, told, max(top, below, 56) + 20, 40 if told.detail or told.cost else 28)


def _pill(name: str, type_: str) -> _Shape:
    told = Words(cut(name, 28), "", "", 0.0, "port")
    return _Shape(None, told, max(_wide(told.name, 11), 20) + 22, 24, type=type_)


def _open(reader: Reader, node: Node, whole: bool = False) -> _Shape:
    """An open box: what is in it laid out, its inputs at the top and its outputs at the bottom."""
    assert node.inner is not None
    if node.flow:
        return _program(reader, node)
    inner = [_shape(reader, n) for n in node.inner]
    body = reader.bodies[node.item["body"]]
    named = whole or "writes" in node.item  # the network, or a block of a program: what goes in and out has names
    starts, things, edges = _ends(reader, node, body, inner, named)
    labels = _labels(reader, edges)
    for i, thing in enumerate(things):
        thing.type = thing.type or labels.get(i, "")
        thing.room = (
            max(thing.width, 2 * (_wide(thing.type, 9, mono=True) + 8 - GAP / 2)) if thing.type else thing.width
        )
    first = 0 if named else starts
    last = 0 if named else len(things) - starts - len(inner)
    found = layered([(t.room, t.height) for t in things], [(e[0], e[1]) for e in edges], first, last)
    told = words(reader, node)
    head = 0.0 if whole else _wide(told.name, 12) + _wide(told.detail, 10) + _wide(told.cost, 10) + 90
    width = max(found.size[0] + 2 * _SIDE, head)
    left = (width - found.size[0]) / 2
    top = 8.0 if whole else _TOP
    shape = _Shape(node, told, width, found.size[1] + top + _BOTTOM, things)
    shape.places = [
        (x + left + (t.room - t.width) / 2, y + top) for (x, y), t in zip(found.places, things, strict=True)
    ]
    for way, lane, (a, b, _, count, side) in zip(found.ways, found.lanes, edges, strict=True):
        points = [(x + left, y + top) for x, y in way]
        if lane:
            points = _at_sides(shape, a, b, points)
        else:
            points[0] = (_across(shape, a, out=True), points[0][1] + _cards(things[a]))
            points[-1] = (_across(shape, b, out=False), points[-1][1])
        shape.ways.append(_Way(points, count, side, square=lane))
    shape.dots = [(x + left, y + top) for x, y in found.dots]
    for i, thing in enumerate(things):
        if thing.node is None and not thing.words.name:
            if i < starts:
                shape.enters = shape.places[i][0] + thing.width / 2
            else:
                shape.leaves = shape.places[i][0] + thing.width / 2
    return shape


def _program(reader: Reader, node: Node) -> _Shape:
    """The blocks of a program, and the control flow between them with its words."""
    blocks = [_shape(reader, n) for n in node.inner or ()]
    ports = reader.bodies[node.item["body"]]
    takes, gives = (", ".join([shown(port["name"]) for port in ports[sort]]) for sort in ("inputs", "outputs"))
    returns = any(f.stop == -2 for f in node.flow)
    things = [_pill(takes or "begin", ""), *blocks, *([_pill(f"return {gives}", "")] if returns else [])]
    ends = [(f.start + 1, f.stop + 1 if f.stop >= 0 else len(things) - 1) for f in node.flow]
    forks = Counter(start for start, _ in ends)
    told = [(start if forks[start] == 1 else stop) for start, stop in ends]  # what the words of a way stand beside
    for thing in things:
        thing.room = thing.width
    for beside, flow in zip(told, node.flow, strict=True):
        things[beside].room = max(things[beside].room, _wide(flow.text, 9, mono=True) + 8)
    found = layered([(t.room, t.height) for t in things], ends, 1, int(returns))
    shape = _Shape(node, words(reader, node), found.size[0] + 2 * _SIDE, found.size[1] + 8.0 + _BOTTOM, things)
    shape.places = [
        (x + _SIDE + (t.room - t.width) / 2, y + 8.0) for (x, y), t in zip(found.places, things, strict=True)
    ]
    for way, (a, b), flow in zip(found.ways, ends, node.flow, strict=True):
        aside = -0.3 * min(things[a].width, things[b].width) if b <= a else 0.0  # back beside the way there
        points = [(x + _SIDE + aside, y + 8.0) for x, y in way]
        x, y = points[0] if forks[a] == 1 else points[-1]
        above = (b <= a) == (forks[a] == 1)
        shape.ways.append(_Way(points, 2, flow.side, flow.text, (x, y - 10 if above else y + 14)))
    return shape


def _ends(
    reader: Reader, node: Node, body: Any, inner: list[_Shape], named: bool
) -> tuple[int, list[_Shape], list[tuple[int, int, str, int, str]]]:
    """How many things stand for inputs, all things, edges between them: (from, to, type, how many, side)."""
    if not named:
        bare = Words("", "", "", 0.0, "port")
        first = [_Shape(None, bare, 10, 0)] if any(e[0] == -1 for e in node.edges) else []
        last = [_Shape(None, bare, 10, 0)] if any(e[1] == -2 for e in node.edges) else []
        n = len(first)
        ends = {-1: 0, -2: n + len(inner)}
        edges = [
            (ends.get(a, a + n), ends.get(b, b + n), type_of(reader, t), count, side)
            for a, b, t, count, side in node.edges
        ]
        return n, [*first, *inner, *last], edges
    pills: dict[tuple[int, int], _Shape] = {}
    counts: dict[tuple[int, int], int] = {}
    raw: list[tuple[Any, Any, int, int, str]] = []
    for e in body["edges"]:
        count, side = (e[5] if len(e) > 5 else 1), (e[6] if len(e) > 6 else "")
        start: Any = (-1, e[1]) if e[0] == -1 else e[0]
        stop: Any = (-2, e[0]) if e[2] == -2 else e[2]
        for key, ports, number in ((start, "inputs", e[1]), (stop, "outputs", e[3])):
            if not isinstance(key, int):
                pills.setdefault(key, _pill(body[ports][number].get("name", ports[:-1]), ""))
                counts[key] = counts.get(key, 0) + count
        raw.append((start, stop, e[4], count, side))
    for key, pill in pills.items():
        if key[0] == -2 and counts[key] > 1:
            pill.words = pill.words._replace(name=f"{pill.words.name} … ({counts[key]})")
            pill.width = _wide(pill.words.name, 11) + 22
    first_keys = [k for k in pills if k[0] == -1]
    last_keys = [k for k in pills if k[0] == -2]
    place: dict[Any, int] = {k: i for i, k in enumerate(first_keys)}
    place |= {i: i + len(first_keys) for i in range(len(inner))}
    place |= {k: i + len(first_keys) + len(inner) for i, k in enumerate(last_keys)}
    joined: dict[tuple[int, int, str], tuple[int, int]] = {}
    for a, b, t, count, side in raw:
        key = (place[a], place[b], side)
        joined[key] = (t, joined.get(key, (0, 0))[1] + count)
    edges = [(a, b, type_of(reader, t), n, side) for (a, b, side), (t, n) in joined.items()]
    things = [*[pills[k] for k in first_keys], *inner, *[pills[k] for k in last_keys]]
    return len(first_keys), things, edges


def _labels(reader: Reader, edges: Sequence[tuple[int, int, str, int, str]]) -> dict[int, str]:
    """What is written where edges leave a thing: the type, and how many values if there are several."""
    found: dict[int, str] = {}
    for a, _, type_, count, _ in edges:
        found.setdefault(a, f"{type_} × {count}" if count > 1 else type_)
    return found


def _across(shape: _Shape, i: int, out: bool) -> float:
    """Where edges meet a thing: in the middle, of an open box where they go on inside."""
    thing = shape.inner[i]
    inside = thing.leaves if out else thing.enters
    return shape.places[i][0] + (thing.width / 2 if inside is None else inside)


def _at_sides(shape: _Shape, a: int, b: int, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A way down a lane from side to side: things may be narrower than the room they have."""
    if points[0][1] == points[1][1]:
        points[0] = (shape.places[a][0] + shape.inner[a].width + _cards(shape.inner[a]), points[0][1])
    if points[-1][1] == points[-2][1]:
        points[-1] = (shape.places[b][0] + shape.inner[b].width + _cards(shape.inner[b]), points[-1][1])
    return points


def _cards(thing: _Shape) -> float:
    return 2 * _CARDS if thing.node is not None and thing.node.times > 1 else 0.0


def _wide(text: str, size: float, mono: bool = False) -> float:
    wide = sum(1.9 if ord(c) > 0x2E7F else 1.0 for c in text)
    return wide * size * (_WIDE_MONO if mono else _WIDE)


# --- drawing -----------------------------------------------------------------------------------------------


def _drawn(reader: Reader, shape: _Shape, x: float, y: float, frame: bool = True) -> list[str]:
    out: list[str] = []
    if frame:
        out += _frame(reader, shape, x, y)
    for across, down in ((shape.enters, _TOP), (shape.leaves, shape.height - _BOTTOM)):
        if across is not None:
            out.append(f'<circle cx="{x + across:.1f}" cy="{y + down:.1f}" r="2.2" fill="#59636f"/>')
    out += [_edge(way, x, y) for way in shape.ways]
    out += [f'<circle cx="{x + a:.1f}" cy="{y + b:.1f}" r="2.4" fill="#59636f"/>' for a, b in shape.dots]
    out += [_text(x + w.place[0], y + w.place[1], escape(w.text), 9, mono=True, middle=True) for w in shape.ways]
    for thing, (left, top) in zip(shape.inner, shape.places, strict=True):
        if thing.node is not None and thing.node.inner is not None:
            out += [f'<g id="{thing.node.id}">', *_drawn(reader, thing, x + left, y + top), "</g>"]
        elif thing.words.name:
            out += _closed(reader, thing, x + left, y + top)
    for i, thing in enumerate(shape.inner):
        if thing.type and (thing.node is not None or thing.words.name):
            at = x + _across(shape, i, out=True) + 5
            out.append(
                _text(at, y + shape.places[i][1] + thing.height + _cards(thing) + 13, escape(thing.type), 9, mono=True)
            )
    return out


def _rect(x: float, y: float, w: float, h: float, hue: str, radius: float, dashed: bool = False) -> str:
    fill, line = HUES[hue]
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{radius:g}" fill="{fill}" '
        f'stroke="{line}" stroke-width="1.2"{dash}/>'
    )


def _stacked(node: Node | None, x: float, y: float, w: float, h: float, hue: str) -> list[str]:
    """The edges of more cards behind, for what is repeated."""
    if node is None or node.times < 2:
        return []
    return [_rect(x + d, y + d, w, h, hue, 6) for d in (2 * _CARDS, _CARDS)]


def _frame(reader: Reader, shape: _Shape, x: float, y: float) -> list[str]:
    assert shape.node is not None
    told, node = shape.words, shape.node
    fill = "box" if told.hue not in ("a", "b", "changed", "same") else told.hue
    out = _stacked(node, x, y, shape.width, shape.height, fill)
    out.append(_rect(x, y, shape.width, shape.height, fill, 8, dashed=node.state in ("a", "b")))
    out.append(_tip(reader, node))
    out.append(_text(x + 10, y + 18, escape(told.name), 12, bold=True))
    out.append(_text(x + 18 + _wide(told.name, 12), y + 18, escape(told.detail), 10, grey=True))
    right = f"× {node.times}" if node.times > 1 else ""
    out.append(_text(x + shape.width - 10, y + 18, escape("   ".join(filter(None, [told.cost, right]))), 10, end=True))
    return out


def _closed(reader: Reader, shape: _Shape, x: float, y: float) -> list[str]:
    told, node = shape.words, shape.node
    if node is None:
        return [
            _rect(x, y, shape.width, shape.height, "port", 12),
            _text(x + shape.width / 2, y + 16, escape(told.name), 11, middle=True),
        ]
    is_box = "body" in node.item
    out = [f'<g id="{node.id}">', _tip(reader, node)]
    out += _stacked(node, x, y, shape.width, shape.height, told.hue)
    out.append(_rect(x, y, shape.width, shape.height, told.hue, 6, dashed=node.state in ("a", "b")))
    out.append(_text(x + 10, y + 18, escape(told.name), 12, bold=is_box))
    if node.times > 1:
        out.append(_text(x + shape.width - 10, y + 18, f"× {node.times}", 12, bold=True, end=True))
    if told.detail:
        out.append(_text(x + 10, y + 32, escape(told.detail), 10, grey=True))
    if told.cost:
        out.append(_text(x + shape.width - 10, y + 32, escape(told.cost), 10, end=True))
    if told.share >= 0.005:
        line = HUES[told.hue][1]
        length = (shape.width - 12) * min(told.share, 1.0)
        out.append(
            f'<rect x="{x + 6:.1f}" y="{y + shape.height - 4:.1f}" width="{length:.1f}" height="2.4" fill="{line}"/>'
        )
    return [*out, "</g>"]


def _tip(reader: Reader, node: Node) -> str:
    """What a pointer over a thing tells: all of its name, its text, what changed."""
    item = node.item
    lines = [node.name, node.kind if node.kind != node.name else "", item.get("text", ""), *item.get("changes", ())]
    if node.times > 1:
        lines.append(f"{node.times} times" + (", each feeds the next" if item["chain"] else ""))
    if "differs" in item:
        lines += item["differs"]["what"]
    return f"<title>{escape(' | '.join(shown(line) for line in lines if line))}</title>"


def _edge(way: _Way, x: float, y: float) -> str:
    points = [(a + x, b + y) for a, b in way.points]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    if way.square:
        path += _corners(points)
    for (a, b), (c, d) in itertools.pairwise(points) if not way.square else ():
        middle = (b + d) / 2
        path += (
            f" L{c:.1f} {d:.1f}" if abs(a - c) < 0.5 else f" C{a:.1f} {middle:.1f} {c:.1f} {middle:.1f} {c:.1f} {d:.1f}"
        )
    colour = {"a": HUES["a"][1], "b": HUES["b"][1]}.get(way.side, "#59636f")
    width = 1.2 if way.count == 1 else 2.2
    dash = ' stroke-dasharray="5 3"' if way.side else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash} marker-end="url(#arrow)"/>'


def _corners(points: Sequence[tuple[float, float]]) -> str:
    """Straight lines with round corners."""
    out = ""
    for before, (x, y), after in zip(points, points[1:], points[2:], strict=False):
        ends: list[str] = []
        for a, b in (before, after):
            length = max(abs(a - x) + abs(b - y), 1e-9)
            r = min(6.0, length / 2) / length
            ends.append(f"{x + (a - x) * r:.1f} {y + (b - y) * r:.1f}")
        out += f" L{ends[0]} Q{x:.1f} {y:.1f} {ends[1]}"
    return f"{out} L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    bold: bool = False,
    grey: bool = False,
    mono: bool = False,
    end: bool = False,
    middle: bool = False,
) -> str:
    if not text:
        return ""
    own = ' font-weight="600"' if bold else ""
    own += f' font-family="{_MONO}"' if mono else ""
    own += ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    own += ' paint-order="stroke" stroke="#ffffff" stroke-width="3" stroke-linejoin="round"' if mono else ""
    colour = "#5b6572" if grey or mono else "#1c232c"
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"{own}>{text}</text>'
