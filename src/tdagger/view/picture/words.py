"""What is written on the things of a picture, and in which colour they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tdagger.analysis.numbers import quantity
from tdagger.names import shown
from tdagger.view.fold.names import is_norm
from tdagger.view.picture.reader import Node, Reader

#: How many characters are written of a name, and of attributes.
_NAME, _DETAIL = 40, 38


class Words(NamedTuple):
    """The lines on a thing: its name, what it is, what it costs; ``hue`` is one of :data:`HUES`."""

    name: str
    detail: str
    cost: str
    share: float
    hue: str


#: Fill and line for each sort of thing, and for what is only in one of two networks or changed.
HUES = {
    "attention": ("#efe6fb", "#7b4fc9"),
    "linear": ("#e3eefc", "#3b73c4"),
    "convolution": ("#e2f4e8", "#2f8f57"),
    "recurrent": ("#fdeee0", "#c4712b"),
    "embedding": ("#fdf3dc", "#b08419"),
    "norm": ("#f0f0f3", "#7d7d8c"),
    "activation": ("#fce9ee", "#c2476c"),
    "box": ("#f7f8fa", "#6a7484"),
    "other": ("#ffffff", "#98a1ae"),
    "port": ("#eef1f4", "#5b6572"),
    "a": ("#fdecea", "#c2372b"),
    "b": ("#e6f5e9", "#23863f"),
    "changed": ("#fff4d9", "#b07a00"),
    "same": ("#fbfbfc", "#b9bfc8"),
}

_SORTS = {
    "attention": ("attention", "attn"),
    "convolution": ("conv",),
    "recurrent": ("lstm", "gru", "rnn"),
    "embedding": ("embed",),
    "linear": ("linear", "matmul", "einsum", "mlp", "feedforward", "addmm"),
    "activation": ("relu", "gelu", "silu", "sigmoid", "tanh", "softmax", "swish", "elu"),
}


def cut(text: str, most: int) -> str:
    """A text of one line, its end left out if it is long.

    >>> cut("a b", 10), cut("abcdefgh", 5)
    ('a b', 'abcd…')
    """
    line = shown(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def words(reader: Reader, node: Node) -> Words:
    """What is written on a node."""
    whole = max(reader.body_total(reader.document["root"], "flops"), 1)
    side = 1 if node.state == "b" else 0
    flops = reader.total(node.item, "flops", side)
    marks = "" if not reader.is_partial(node.item) else "not all counted" if flops else "not counted"
    cost = "  ".join(filter(None, [quantity(flops) if flops else "", marks, *reader.marks(node)]))
    return Words(cut(node.name, _NAME), _detail(reader, node), cost, flops / whole, _hue(reader, node))


def _detail(reader: Reader, node: Node) -> str:
    if "writes" in node.item:
        return cut(_block(reader, node.item), _DETAIL)
    if "op" not in node.item:
        kind = node.kind if node.kind != node.name else f"{reader.bodies[node.item['body']]['ops']} ops"
        return cut(kind, _DETAIL)
    entry = reader.document["ops"][node.item["op"]]
    name = reader.op_name(node.item)
    own = [
        f"{k}={v}" for k, v in entry["attributes"].items() if k not in ("kind", "sizes", "counts", "bounds", "given")
    ]
    return cut(" ".join([*([name] if name != node.name else []), *own]), _DETAIL)


def _block(reader: Reader, item: Mapping[str, Any]) -> str:
    """Of a block of a program: what it sets to something that is known, what it refuses."""
    slots = reader.document["program"]["slots"]
    known = [f"{slots[n]['name']} <- {text}" for n, text in item["writes"] if text]
    return f"raises {item['raises']}" if "raises" in item else ", ".join(known)


def _hue(reader: Reader, node: Node) -> str:
    if len(reader.document["networks"]) == 2:
        return "same" if node.item.get("moves") else node.state
    op = reader.op_name(node.item) if "op" in node.item else ""
    for text in (op, node.kind.lower(), node.name.lower()) if not op else (op,):
        found = [sort for sort, parts in _SORTS.items() if any(part in text for part in parts)]
        if is_norm(text) or (text.endswith("norm") and "+" not in text):
            return "norm"
        if found:
            return found[0]
    return "other" if op else "box"


def type_of(reader: Reader, number: int) -> str:
    """A type as a picture has it: by the names of axes."""
    return cut(reader.types[number]["axes"], 44)
