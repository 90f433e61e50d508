r"""A view as text of other tools: Graphviz's DOT and Mermaid. Names in it are text, whatever is in them.

>>> print(quoted('say "a"'), entities('say "<b>"'))
"say \"a\"" say #34;#60;b#62;#34;
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tdagger.names import shown
from tdagger.view.picture.reader import Node, Reader
from tdagger.view.picture.words import HUES, type_of, words


class _Arrow(NamedTuple):
    """From one thing to another, by their ids; ``text`` is that of control flow, which has no type."""

    start: str
    stop: str
    type: int = -1
    times: int = 1
    side: str = ""
    text: str = ""
    back: bool = False


class _Pill(NamedTuple):
    """An input or output with a name: of the whole, or of a block of a program (``owner`` is its id)."""

    name: str
    owner: str = ""


def quoted(text: str) -> str:
    """A text as a string of DOT."""
    return '"' + shown(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


_PLAIN = re.compile(r"[^\w .,:;+\-/*=×…]", re.ASCII)


def entities(text: str) -> str:
    """A text for between quotes in Mermaid: what could mean something there is written by its number."""
    return _PLAIN.sub(lambda m: m[0] if m[0] in "×…" else f"#{ord(m[0])};", shown(text))


def dot(reader: Reader, root: Node) -> str:
    """The boxes as clusters; edges go between the innermost things that are seen."""
    pills, arrows = _flat(reader, root)
    out = [
        "digraph network {",
        '  graph [rankdir=TB, fontname="Helvetica", compound=true]',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, fillcolor="#ffffff"]',
        '  edge [fontname="monospace", fontsize=9, color="#59636f"]',
        *_clusters(reader, root, pills, "  "),
        *_ovals(pills, "", "  "),
    ]
    inside = {node.id: _first(node) for node in reader.nodes(root) if node.inner}
    for a in arrows:
        own = ", style=dashed" if a.side else ", penwidth=1.6" if a.text else ""
        own += f", ltail=cluster_{a.start}" if a.start in inside else ""
        own += f", lhead=cluster_{a.stop}" if a.stop in inside else ""
        own += ", constraint=false" if a.back else ""
        start, stop = inside.get(a.start, a.start), inside.get(a.stop, a.stop)
        out.append(f"  {start} -> {stop} [label={quoted(_said(reader, a))}{own}]")
    return "\n".join([*out, "}"]) + "\n"


def _ovals(pills: Mapping[str, _Pill], owner: str, indent: str) -> list[str]:
    own = {id_: pill.name for id_, pill in pills.items() if pill.owner == owner}
    return [f"{indent}{id_} [shape=oval, label={quoted(name)}]" for id_, name in own.items()]


def _first(node: Node) -> str:
    """Something in an open box, for edges that end at the box."""
    while node.inner:
        node = node.inner[0]
    return node.id


def _clusters(reader: Reader, node: Node, pills: Mapping[str, _Pill], indent: str) -> Iterator[str]:
    for inner in node.inner or ():
        fill, line = HUES[words(reader, inner).hue]
        if not inner.inner:
            colours = f'fillcolor="{fill}", color="{line}"'
            yield f"{indent}{inner.id} [label={quoted_lines(_lines(reader, inner))}, {colours}]"
        else:
            yield f"{indent}subgraph cluster_{inner.id} {{"
            yield f'{indent}  label={quoted(" ".join(_lines(reader, inner)))}; style=rounded; color="{line}"'
            yield from _ovals(pills, inner.id, indent + "  ")
            yield from _clusters(reader, inner, pills, indent + "  ")
            yield f"{indent}}}"


def quoted_lines(lines: list[str]) -> str:
    """Several lines as one string of DOT."""
    return '"' + "\\n".join(quoted(line)[1:-1] for line in lines) + '"'


def _lines(reader: Reader, node: Node) -> list[str]:
    told = words(reader, node)
    times = f" × {node.times}" if node.times > 1 else ""
    state = {"a": "only in A", "b": "only in B", "changed": "changed"}.get(node.state, "")
    state = f"layout of {node.state.upper()}" if node.item.get("moves") else state
    below = "  ".join(filter(None, [told.detail, told.cost, state]))
    return [told.name + times, *([below] if below else [])]


def mermaid(reader: Reader, root: Node) -> str:
    """The boxes as subgraphs of a flowchart."""
    pills, arrows = _flat(reader, root)
    out = ["flowchart TD", *_subgraphs(reader, root, pills, "  "), *_stadiums(pills, "", "  ")]
    for a in arrows:
        line = "-.->" if a.side else "==>" if a.text else "-->"
        out.append(f'  {a.start} {line}|"{entities(_said(reader, a))}"| {a.stop}')
    return "\n".join(out)


def _stadiums(pills: Mapping[str, _Pill], owner: str, indent: str) -> list[str]:
    own = {id_: pill.name for id_, pill in pills.items() if pill.owner == owner}
    return [f'{indent}{id_}(["{entities(name)}"])' for id_, name in own.items()]


def _subgraphs(reader: Reader, node: Node, pills: Mapping[str, _Pill], indent: str) -> Iterator[str]:
    for inner in node.inner or ():
        said = [entities(line) for line in _lines(reader, inner)]
        if not inner.inner:
            yield f'{indent}{inner.id}["{"<br/>".join(said)}"]'
        else:
            yield f'{indent}subgraph {inner.id}["{" ".join(said)}"]'
            yield from _stadiums(pills, inner.id, indent + "  ")
            yield from _subgraphs(reader, inner, pills, indent + "  ")
            yield f"{indent}end"


def _said(reader: Reader, arrow: _Arrow) -> str:
    return arrow.text or type_of(reader, arrow.type) + (f" × {arrow.times}" if arrow.times > 1 else "")


# --- edges between the innermost things --------------------------------------------------------------------


def _flat(reader: Reader, root: Node) -> tuple[dict[str, _Pill], list[_Arrow]]:
    """The inputs and outputs that have names by id, and the arrows between ids."""
    pills, flow = _control(reader, root)
    found: dict[tuple[str, str, str], _Arrow] = {}
    for node in [root, *reader.nodes(root)]:
        body = reader.bodies[node.item["body"]] if node.inner is not None else None
        named = node is root or "writes" in node.item
        owner = "" if node is root else node.id
        for e in body["edges"] if body else ():
            if not named and (e[0] == -1 or e[2] == -2):
                continue
            starts = _sources(reader, node, e[0], e[1]) if e[0] >= 0 else [f"{owner}in{e[1]}"]
            stops = _targets(reader, node, e[2], e[3]) if e[2] >= 0 else [f"{owner}out{e[3]}"]
            for sort, number, ids in (("inputs", e[1], starts), ("outputs", e[3], stops)):
                if e[0 if sort == "inputs" else 2] < 0 and body:
                    pills |= {i: _Pill(body[sort][number].get("name", sort[:-1]), owner) for i in ids}
            count, side = (e[5] if len(e) > 5 else 1), (e[6] if len(e) > 6 else "")
            for start, stop in itertools.product(starts, stops):
                known = found.get((start, stop, side))
                found[start, stop, side] = _Arrow(start, stop, e[4], count + (known.times if known else 0), side)
    return pills, [*flow, *found.values()]


def _control(reader: Reader, root: Node) -> tuple[dict[str, _Pill], list[_Arrow]]:
    """Where a program begins and ends, and the control flow between its blocks."""
    pills: dict[str, _Pill] = {}
    for end, id_, sort in ((-1, "in0", "inputs"), (-2, "out0", "outputs")):
        if any(end in (f.start, f.stop) for f in root.flow):
            names = ", ".join([shown(port["name"]) for port in reader.bodies[root.item["body"]][sort]])
            pills[id_] = _Pill(names or "begin" if end == -1 else f"return {names}")
    ids = {-1: "in0", -2: "out0"} | {i: node.id for i, node in enumerate(root.inner or ())}
    return pills, [
        _Arrow(ids[f.start], ids[f.stop], text=f.text, side=f.side, back=0 <= f.stop <= f.start) for f in root.flow
    ]


def _sources(reader: Reader, node: Node, item: int, port: int) -> list[str]:
    """The innermost things that make an output of an item."""
    assert node.inner is not None
    inner = node.inner[item]
    if inner.inner is None:
        return [inner.id]
    edges = reader.bodies[inner.item["body"]]["edges"]
    ends = [(e[0], e[1]) for e in edges if e[2] == -2 and e[3] == port and e[0] >= 0]
    return [id_ for a, p in ends for id_ in _sources(reader, inner, a, p)]


def _targets(reader: Reader, node: Node, item: int, port: int) -> list[str]:
    """The innermost things that take an input of an item."""
    assert node.inner is not None
    inner = node.inner[item]
    if inner.inner is None:
        return [inner.id]
    edges = reader.bodies[inner.item["body"]]["edges"]
    ends = [(e[2], e[3]) for e in edges if e[0] == -1 and e[1] == port and e[2] >= 0]
    return [id_ for b, p in ends for id_ in _targets(reader, inner, b, p)]
