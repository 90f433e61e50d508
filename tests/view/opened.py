"""A reader of a view's JSON that knows of it only what docs/view-json.md says: everything opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tdagger.view.fold.repeats import moved


class Op(NamedTuple):
    """An op of the opened tree: its item, the module path, and the first of its slots in each network."""

    item: dict[str, Any]
    path: str
    slots: list[int]


def opened(document: dict[str, Any]) -> list[Op]:
    """Every op of the opened tree, in order."""
    return list(_of(document, document["root"], "", 0, [0] * len(document["networks"])))


def _of(document: dict[str, Any], number: int, path: str, shift: int, slots: list[int]) -> Iterator[Op]:
    sides = range(len(document["networks"]))
    for item in document["bodies"][number]["items"]:
        if "body" not in item:
            yield Op(item, _joined(path, moved(item.get("name", ""), shift)), list(slots))
            for k in sides:
                slots[k] += slots_of(item, k)
            continue
        names = item.get("names", [item["name"]])
        for k, name in enumerate(names):
            inner = _joined(path, moved(name, shift)) if item["module"] else path
            yield from _of(document, item["body"], inner, shift + k * item.get("step", 0), slots)


def slots_of(item: dict[str, Any], side: int) -> int:
    """How many slots an op has in a network."""
    if item.get("state") == "ba"[side]:
        return 0
    return len((item.get("b", {}) if side and "weights" in item.get("b", {}) else item).get("weights", []))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def totals(document: dict[str, Any], side: int = 0) -> dict[str, int]:
    """The sum of every column of the costs over the opened tree."""
    out = dict.fromkeys(document["cost_columns"], 0)
    for op in opened(document):
        if op.item.get("state") == "ba"[side]:
            continue
        own = op.item.get("b", {}) if side else {}
        cost = own["cost"] if "cost" in own else op.item["cost"]
        for name, formula in zip(out, document["costs"][cost] if cost is not None else [], strict=False):
            out[name] += document["formulas"][formula]["value"]
    return out


def evaluated(document: dict[str, Any], formula: int, sizes: dict[str, int]) -> int | None:
    """A formula at other sizes; None if nobody knows."""
    entry = document["formulas"][formula]
    if entry.get("unknown"):
        return None
    if "terms" not in entry:
        return entry["value"]
    total = 0
    for coefficient, *powers in entry["terms"]:
        for symbol, power in zip(powers[::2], powers[1::2], strict=True):
            coefficient *= _symbol(document, symbol, sizes) ** power
        total += coefficient
    return total


_FUNCTIONS = {"floor": int.__floordiv__, "min": min, "max": max, "bits": int.bit_length}


def _symbol(document: dict[str, Any], number: int, sizes: dict[str, int]) -> int:
    symbol = document["symbols"][number]
    if "axis" in symbol:
        return sizes.get(symbol["name"], symbol["size"])
    args = [evaluated(document, f, sizes) for f in symbol["of"]]
    return _FUNCTIONS[symbol["function"]](*args)


def flops_at(document: dict[str, Any], sizes: dict[str, int]) -> int:
    """All FLOPs at other sizes, by the formulas."""
    found = [document["costs"][op.item["cost"]][0] for op in opened(document)]
    return sum(evaluated(document, f, sizes) or 0 for f in found)


def live(document: dict[str, Any], side: int = 0) -> list[int]:
    """Bytes alive at every step, from the lists of activations."""
    memory = document["networks"][side]["memory"]
    order = memory.get("order") or list(range(document["bodies"][document["root"]]["ops"]))
    step = {op: i for i, op in enumerate(order)}
    out = [0] * len(order)
    for op, until, formula in zip(memory["op"], memory["until"], memory["bytes"], strict=True):
        for i in range(step[op], min(until + 1, len(order))):
            out[i] += document["formulas"][formula]["value"]
    return out


def check(document: dict[str, Any]) -> None:
    """What must hold of any view: numbers of tables are there, edges end at items, texts are texts."""
    for body in document["bodies"]:
        for a, port, b, to, type_, *rest in body["edges"]:
            assert -1 <= a < len(body["items"])
            assert b == -2 or 0 <= b < len(body["items"])
            assert a != -1 or port < len(body["inputs"])
            assert b != -2 or to < len(body["outputs"])
            assert type_ < len(document["types"])
            assert rest == [] or rest[0] >= 1
        for item in body["items"]:
            if "body" in item:
                inner = document["bodies"][item["body"]]
                ports = [p for _, p in item.get("chain", [])] + item.get("shared", []) + item.get("each", [])
                assert sorted(ports) == (list(range(len(inner["inputs"]))) if "times" in item else [])
                assert len(item.get("names", [0] * item.get("times", 1))) == item.get("times", 1)
            else:
                assert item["out"]
                assert item["op"] < len(document["ops"])
                assert isinstance(item["text"], str)
    root = document["bodies"][document["root"]]
    assert len(opened(document)) == root["ops"]
    assert [len(n["slots"]) for n in document["networks"]] == root["slots"]
