r"""A view as text of other tools: Graphviz's DOT and Mermaid. Names in it are text, whatever is in them.

>>> print(quoted('say "a"'), entities('say "<b>"'))
"say \"a\"" say #34;#60;b#62;#34;
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tdagger.names import shown
from tdagger.view.picture.reader import Node, Reader
from tdagger.view.picture.words import HUES, type_of, words


class _Arrow(NamedTuple):
    start: str
    stop: str
    type: int
    times: int
    side: str


def quoted(text: str) -> str:
    """A text as a string of DOT."""
    return '"' + shown(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


_PLAIN = re.compile(r"[^\w .,:;+\-/*=×…]", re.ASCII)


def entities(text: str) -> str:
    """A text for between quotes in Mermaid: what could mean something there is written by its number."""
    return _PLAIN.sub(lambda m: m[0] if m[0] in "×…" else f"#{ord(m[0])};", shown(text))


def dot(reader: Reader, root: Node) -> str:
    """The boxes as clusters; edges go between the innermost things that are seen."""
    out = [
        "digraph network {",
        '  graph [rankdir=TB, fontname="Helvetica", compound=true]',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, fillcolor="#ffffff"]',
        '  edge [fontname="monospace", fontsize=9, color="#59636f"]',
        *_clusters(reader, root, "  "),
    ]
    ports, arrows = _flat(reader, root)
    out += [f"  {id_} [shape=oval, label={quoted(name)}]" for id_, name in ports.items()]
    for a in arrows:
        dash = ", style=dashed" if a.side else ""
        out.append(f"  {a.start} -> {a.stop} [label={quoted(_said(reader, a))}{dash}]")
    return "\n".join([*out, "}"]) + "\n"


def _clusters(reader: Reader, node: Node, indent: str) -> Iterator[str]:
    for inner in node.inner or ():
        fill, line = HUES[words(reader, inner).hue]
        if inner.inner is None:
            colours = f'fillcolor="{fill}", color="{line}"'
            yield f"{indent}{inner.id} [label={quoted_lines(_lines(reader, inner))}, {colours}]"
        else:
            yield f"{indent}subgraph cluster_{inner.id} {{"
            yield f'{indent}  label={quoted(" ".join(_lines(reader, inner)))}; style=rounded; color="{line}"'
            yield from _clusters(reader, inner, indent + "  ")
            yield f"{indent}}}"


def quoted_lines(lines: list[str]) -> str:
    """Several lines as one string of DOT."""
    return '"' + "\\n".join(quoted(line)[1:-1] for line in lines) + '"'


def _lines(reader: Reader, node: Node) -> list[str]:
    told = words(reader, node)
    times = f" × {node.times}" if node.times > 1 else ""
    state = {"a": "only in A", "b": "only in B", "changed": "changed"}.get(node.state, "")
    below = "  ".join(filter(None, [told.detail, told.cost, state]))
    return [told.name + times, *([below] if below else [])]


def mermaid(reader: Reader, root: Node) -> str:
    """The boxes as subgraphs of a flowchart."""
    out = ["flowchart TD", *_subgraphs(reader, root, "  ")]
    ports, arrows = _flat(reader, root)
    out += [f'  {id_}(["{entities(name)}"])' for id_, name in ports.items()]
    for a in arrows:
        line = "-.->" if a.side else "-->"
        out.append(f'  {a.start} {line}|"{entities(_said(reader, a))}"| {a.stop}')
    return "\n".join(out)


def _subgraphs(reader: Reader, node: Node, indent: str) -> Iterator[str]:
    for inner in node.inner or ():
        said = [entities(line) for line in _lines(reader, inner)]
        if inner.inner is None:
            yield f'{indent}{inner.id}["{"<br/>".join(said)}"]'
        else:
            yield f'{indent}subgraph {inner.id}["{" ".join(said)}"]'
            yield from _subgraphs(reader, inner, indent + "  ")
            yield f"{indent}end"


def _said(reader: Reader, arrow: _Arrow) -> str:
    return type_of(reader, arrow.type) + (f" × {arrow.times}" if arrow.times > 1 else "")


# --- edges between the innermost things --------------------------------------------------------------------


def _flat(reader: Reader, root: Node) -> tuple[dict[str, str], list[_Arrow]]:
    """The inputs and outputs of the whole by id, and the arrows between ids."""
    ports: dict[str, str] = {}
    found: dict[tuple[str, str, str], _Arrow] = {}
    body = reader.bodies[root.item["body"]]
    for node in [root, *reader.nodes(root)]:
        for e in reader.bodies[node.item["body"]]["edges"] if node.inner is not None else ():
            if node is not root and (e[0] == -1 or e[2] == -2):
                continue
            starts = _sources(reader, node, e[0], e[1]) if e[0] >= 0 else [f"in{e[1]}"]
            stops = _targets(reader, node, e[2], e[3]) if e[2] >= 0 else [f"out{e[3]}"]
            for sort, number, ids in (("inputs", e[1], starts), ("outputs", e[3], stops)):
                if e[0 if sort == "inputs" else 2] < 0:
                    ports.update({i: body[sort][number].get("name", sort[:-1]) for i in ids})
            count, side = (e[5] if len(e) > 5 else 1), (e[6] if len(e) > 6 else "")
            for start in starts:
                for stop in stops:
                    known = found.get((start, stop, side))
                    more = count + (known.times if known else 0)
                    found[start, stop, side] = _Arrow(start, stop, e[4], more, side)
    return ports, list(found.values())


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
