"""What a view's JSON says, put together: what a box costs in all, which boxes are open, what is seen then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tdagger.errors import AttributeValueError
from tdagger.names import shown

#: So many slots are written at control flow.
_CARRIED = 4
#: So many things are to be seen at first.
_SEEN = 24

Path = tuple[int, ...]


class Flow(NamedTuple):
    """Control flow from a block of a program to one that may be next: when, and the slots that are needed then.

    ``side`` is ``a`` or ``b`` if only one of two programs goes that way.
    """

    start: int
    stop: int
    text: str
    side: str = ""


@dataclass(eq=False)
class Node:
    """An op or a box as it is seen: ``inner`` is None unless it is open.

    ``edges`` are (from, to, type, how many, side) between the inner ones by their numbers, -1 and -2 its own inputs
    and outputs; ``flow`` is what there is between blocks of a program instead. ``op`` is the number of its first op in
    the opened tree, ``slot`` that of its first weight.
    """

    path: Path
    item: Mapping[str, Any]
    name: str
    kind: str
    op: int
    slot: int
    inner: list[Node] | None = None
    edges: list[tuple[int, int, int, int, str]] = field(default_factory=list[tuple[int, int, int, int, str]])
    flow: list[Flow] = field(default_factory=list["Flow"])

    @property
    def times(self) -> int:
        """How often it is repeated."""
        return self.item.get("times", 1)

    @property
    def state(self) -> str:
        """In comparisons: same, changed, a or b."""
        return self.item.get("state", "same")

    @property
    def id(self) -> str:
        """A name for it that no other has."""
        return "n" + "_".join(map(str, self.path))


class Reader:
    """A view's JSON, with sums of what boxes hold."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.bodies: Sequence[Any] = document["bodies"]
        self.types: Sequence[Any] = document["types"]
        self._columns = {name: i for i, name in enumerate(document["cost_columns"])}
        self._totals: dict[tuple[int, str, int], int] = {}
        self._partial: dict[int, bool] = {}
        for number in _inner_first(self.bodies, document["root"]):
            self._partial[number] = any(self._is_partial(i) for i in self.bodies[number]["items"])

    def total(self, item: Mapping[str, Any], column: str, side: int = 0) -> int:
        """What is counted of an item, repetitions too: ``column`` is one of ``cost_columns``."""
        if "body" in item:
            return item.get("times", 1) * self.body_total(item["body"], column, side)
        if item.get("state", "same") == "ba"[side]:
            return 0
        cost = item["b"]["cost"] if side and "cost" in item.get("b", {}) else item["cost"]
        return 0 if cost is None else self.value(self.document["costs"][cost][self._columns[column]])

    def body_total(self, body: int, column: str, side: int = 0) -> int:
        """What is counted of all that a body holds."""
        key = (body, column, side)
        if key not in self._totals:
            for inner in _inner_first(self.bodies, body):
                items = self.bodies[inner]["items"]
                self._totals[inner, column, side] = sum(self.total(i, column, side) for i in items)
        return self._totals[key]

    def value(self, formula: int) -> int:
        """A formula at the network's own sizes."""
        return self.document["formulas"][formula]["value"]

    def is_partial(self, item: Mapping[str, Any]) -> bool:
        """Whether something in it isn't counted."""
        return self._is_partial(item)

    def _is_partial(self, item: Mapping[str, Any]) -> bool:
        return self._partial[item["body"]] if "body" in item else item["cost"] is None

    def parameters(self, node: Node, side: int = 0) -> int:
        """Parameters in a node, each once."""
        slots = self.document["networks"][side]["slots"]
        found = set(slots[node.slot : node.slot + self.slots(node.item, side)])
        table = self.document["parameters"]
        kept = [table[n] for n in found if table[n]["kind"] == "parameter" and "tied" not in table[n]]
        return sum(self._size(p["type"]) for p in kept)

    def _size(self, type_: int) -> int:
        size = 1
        for n in self.types[type_]["shape"]:
            size *= self.value(n)
        return size

    def slots(self, item: Mapping[str, Any], side: int = 0) -> int:
        """How many places of weights it has."""
        if "body" in item:
            return item.get("times", 1) * self.bodies[item["body"]]["slots"][side]
        return 0 if item.get("state") == "ba"[side] else len(item.get("weights", ()))

    def ops(self, item: Mapping[str, Any]) -> int:
        """How many ops it has, repetitions too."""
        return item.get("times", 1) * self.bodies[item["body"]]["ops"] if "body" in item else 1

    def marks(self, node: Node) -> list[str]:
        """What a node is marked with, of all its repetitions: by how much its weights differ, of two networks."""
        found: list[str] = []
        for measure in self.document["networks"][0].get("measures", ()):
            each = measure["each"][node.op : node.op + self.ops(node.item)] if "mark" in measure else ()
            most = max([n for n in each if n is not None], default=0)
            if most:
                found.append(f"{measure['mark']} {100 * most:.3g} %")
        return found

    # --- what is seen ---

    def root(self) -> Mapping[str, Any]:
        """The whole network as an item."""
        return {"body": self.document["root"], "name": self.document["title"], "kind": ""}

    def seen(self, opened: Iterable[Sequence[int]]) -> Node:
        """The whole with some boxes open; those around them are too."""
        wanted = {tuple(path[: i + 1]) for path in opened for i in range(len(path))}
        return self._node(self.root(), (), {(), *wanted}, 0, 0)

    def _node(self, item: Mapping[str, Any], path: Path, opened: set[Path], op: int, slot: int) -> Node:
        name = item.get("name") or (self.op_name(item) if "op" in item else item["kind"])
        node = Node(path, item, name, item.get("kind", ""), op, slot)
        if path not in opened or "body" not in item:
            return node
        body = self.bodies[item["body"]]
        node.inner = []
        for i, inner in enumerate(body["items"]):
            node.inner.append(self._node(inner, (*path, i), opened, op, slot))
            op += self.ops(inner)
            slot += self.slots(inner)
        node.edges = _joined(body["edges"])
        node.flow = [Flow(f["from"], f["to"], self._carried(f), f.get("side", "")) for f in body.get("flow", ())]
        return node

    def blocks(self) -> Sequence[Mapping[str, Any]]:
        """The blocks of a program; of a network there are none."""
        return self.bodies[self.document["root"]]["items"] if "program" in self.document else ()

    def next_of(self, node: Node) -> str:
        """What follows a block of a program: ``if again: body, else: done``; empty for what isn't one."""
        if "writes" not in node.item:
            return ""
        names = [item["name"] for item in self.blocks()]
        ways = [f for f in self.bodies[self.document["root"]]["flow"] if f["from"] == node.path[0]]
        return ", ".join([f["when"] + (f": {names[f['to']]}" if f["to"] >= 0 else "") for f in ways])

    def _carried(self, flow: Mapping[str, Any]) -> str:
        """When control goes that way, and the slots that are needed there."""
        slots = self.document["program"]["slots"]
        names = [shown(slots[n]["name"]) for n in flow["carries"]]
        if len(names) > _CARRIED:
            names = [*names[: _CARRIED - 1], f"{len(names) - _CARRIED + 1} more"]
        return ": ".join(filter(None, [shown(flow["when"]), ", ".join(names)]))

    def op_name(self, item: Mapping[str, Any]) -> str:
        """What an op is called: the function of unary and binary ones."""
        entry = self.document["ops"][item["op"]]
        own = entry["attributes"].get("kind") if entry["op"] in ("unary", "binary", "reduce") else None
        return own or entry["op"]

    def nodes(self, node: Node) -> Iterator[Node]:
        """All that is seen inside of a node."""
        for inner in node.inner or ():
            yield inner
            yield from self.nodes(inner)

    def find(self, names: Iterable[str]) -> list[Path]:
        """The places of boxes by their module paths, ``layer1.0``; AttributeValueError for one that there isn't."""
        out: list[Path] = []
        for name in names:
            found = self._find(self.document["root"], (), name)
            if found is None:
                known = [i["name"] for i in self.bodies[self.document["root"]]["items"] if "body" in i]
                raise AttributeValueError(
                    f"there is no box {name!r}; there are {', '.join(map(shown, known[:12]))} ..."
                )
            out.append(found)
        return out

    def _find(self, body: int, path: Path, name: str) -> Path | None:
        for i, item in enumerate(self.bodies[body]["items"]):
            if "body" not in item:
                continue
            for own in {item["name"], *item.get("names", ())}:
                if own == name:
                    return (*path, i)
                inner = name[len(own) + 1 :] if item["module"] and name.startswith(f"{own}.") else name
                if inner != name or not item["module"]:
                    found = self._find(item["body"], (*path, i), inner)
                    if found is not None:
                        return found
        return None

    def to_depth(self, depth: int) -> list[Path]:
        """The boxes that are less deep than that."""
        out: list[Path] = []
        todo: list[tuple[int, Path]] = [(self.document["root"], ())]
        while todo:
            body, path = todo.pop()
            for i, item in enumerate(self.bodies[body]["items"]):
                if "body" in item and len(path) < depth:
                    out.append((*path, i))
                    todo.append((item["body"], (*path, i)))
        return sorted(out)

    def at_first(self) -> list[Path]:
        """Which boxes are open at first: those that hold most of the work, while all fits on a screen.

        In comparisons those that changed.
        """
        compared = len(self.document["networks"]) == 2
        seen, out = len(self.bodies[self.document["root"]]["items"]), list[Path]()
        whole = max(self.body_total(self.document["root"], "flops"), 1)
        todo: list[tuple[float, int, Path, int]] = []

        def add(body: int, path: Path) -> None:
            for i, item in enumerate(self.bodies[body]["items"]):
                if "body" not in item:
                    continue
                changed = item.get("state", "same") == "changed"
                weight = (2.0 * changed if compared else 0.0) + self.total(item, "flops") / whole
                if weight >= 0.3 and (not compared or changed):
                    todo.append((weight, -len(todo), (*path, i), item["body"]))

        add(self.document["root"], ())
        while todo:
            todo.sort()
            _, _, path, body = todo.pop()
            count = len(self.bodies[body]["items"])
            if seen + count > _SEEN:
                continue
            seen += count
            out.append(path)
            add(body, path)
        return out


def _joined(edges: Sequence[Sequence[Any]]) -> list[tuple[int, int, int, int, str]]:
    """Edges between the same two as one."""
    found: dict[tuple[int, int, str], tuple[int, int]] = {}
    for e in edges:
        key = (e[0], e[2], e[6] if len(e) > 6 else "")
        known = found.get(key)
        found[key] = (e[4], (known[1] if known else 0) + (e[5] if len(e) > 5 else 1))
    return [(a, b, type_, n, side) for (a, b, side), (type_, n) in found.items()]


def _inner_first(bodies: Sequence[Any], root: int) -> Iterator[int]:
    """A body and all inside of it, each once, inner ones first."""
    done: set[int] = set()
    todo = [(root, False)]
    while todo:
        number, ready = todo.pop()
        if ready:
            yield number
        elif number not in done:
            done.add(number)
            todo.append((number, True))
            todo += [(i["body"], False) for i in bodies[number]["items"] if "body" in i]
