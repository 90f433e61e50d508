"""A network as text that is all of what it computes: a line for each value, to be reviewed, changed and parsed again.

The text is the document of a file (docs/format.md) with names in the place of numbers, and :func:`parsed` makes a
document of it, which is then checked as a file's is. Values are called by their module and op, so that a change in one
place changes few lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tdagger.errors import FileError
from tdagger.file.container import little
from tdagger.file.limits import Limits
from tdagger.file.read import read
from tdagger.file.rows import expanded, table
from tdagger.file.trees import Classes
from tdagger.file.write import IN_STATE, IS_PARAMETER, IS_PERSISTENT, IS_TRAINABLE, written
from tdagger.op import Array
from tdagger.tensordag import TensorDAG

_FLAGS = {
    "parameter": IS_PARAMETER, "trained": IS_TRAINABLE, "persistent": IS_PERSISTENT, "state": IN_STATE,
}  # fmt: skip
_MOST = 2**31
_LEAVES = ("parameter", "buffer")


def text_of(dag: TensorDAG) -> str:
    """The network as text; see :meth:`tdagger.TensorDAG.text`."""
    plain = replace(
        dag, origins={}, modules={}, left_out=(), certain_dimensions=frozenset[tuple[str, int]](), rows=False
    )
    document = written(plain, weights=False)
    modules = [o.module if (o := dag.origins.get(v)) else "" for v in dag.graph.values]
    return _Shown(json.loads(document.text), document.constants, modules).text()


def _quoted(text: str) -> str:
    return json.dumps(text)


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class _Shown:
    """The lines of a document."""

    def __init__(self, document: dict[str, Any], constants: Mapping[str, Array], modules: Sequence[str]) -> None:
        self.document, self.constants, self.modules = document, constants, modules
        self.types = [f"{name}[{' '.join(map(str, shape))}]" for name, *shape in document["types"]]
        self.paths = self._paths()
        self.network = document["networks"][0]
        self.weights = table(self.network["weights"], 4, _MOST, "weights")

    def _paths(self) -> list[str]:
        flat, found, after = expanded(self.document["paths"], _MOST, "paths"), [""], dict[int, int]()
        for i in range(2, len(flat), 2):
            name, parent = flat[i], flat[i + 1] if flat[i + 1] >= 0 else len(found) + flat[i + 1]
            last = self.document["strings"][name - 1] if name else str(after.get(parent, 0))
            after[parent] = after.get(parent, 0) + (not name)
            found.append(f"{found[parent]}.{last}" if parent else last)
        return found

    def text(self) -> str:
        said = self.network
        lines = [f"tdag 1 {_quoted(said['name'])}"]
        for path, type_, flags, tied in self.weights:
            own = [n for n, bit in _FLAGS.items() if flags & bit]
            own += [f"tied {_quoted(self.paths[self.weights[tied - 1][0]])}"] if tied else []
            lines.append(" ".join([f"weight {_quoted(self.paths[path])} {self.types[type_]}", *own]))
        graphs = self.document["graphs"]
        for i, graph in enumerate(graphs):
            last = i == len(graphs) - 1
            own = self._graph(graph, self.modules if last else (), self._checks if last else None)
            lines += ["", f"graph {_quoted(graph['name'])}", *own]
        lines += ["", f"takes {_plain(self._tree(said['inputs']))}", f"gives {_plain(self._tree(said['outputs']))}"]
        lines += [f"axes {_quoted(n)} {_quoted(p)}" for n, p in said["axes"].items()]
        return "\n".join([*lines, ""])

    def _tree(self, place: int) -> Any:
        kind, *rest = self.document["trees"][place]
        if kind in ("leaf", "constant"):
            return [kind, *rest]
        children, keys, name = rest
        return [kind, [self._tree(c) for c in children], keys, name]

    def _checks(self, names: Sequence[str]) -> list[str]:
        return [
            f"  check {'-' if place is None else names[place]} {_quoted(message)} {_quoted(source)}"
            for place, message, source in self.network["checks"]
        ]

    def _graph(
        self, graph: dict[str, Any], modules: Sequence[str], checks: Callable[[Sequence[str]], list[str]] | None
    ) -> list[str]:
        inputs = [self.paths[p] for (p,) in table(graph["inputs"], 1, _MOST, "inputs")]
        flat = expanded(graph["nodes"], _MOST, "nodes")
        lines: list[str] = []
        names: list[str] = []
        counts: dict[str, int] = {}
        weight = at = 0
        while at < len(flat):
            op, result, *types = self.document["calls"][flat[at]]
            name, *attributes = self.document["ops"][op]
            stop = at + 1 + len(types)
            if name == "input":
                told = [_quoted(inputs[len(names)])]
            elif name in _LEAVES:
                weight += flat[at + 1]
                told, stop = [_quoted(self.paths[self.weights[weight][0]])], at + 2
            elif name == "const":
                told, stop = [self._constant(flat[at + 1])], at + 2
            else:
                told = [_plain(self._attributes(attributes[0])), *[names[r] for r in flat[at + 1 : stop]]]
            module = modules[len(names)] if len(names) < len(modules) else ""
            label = re.sub(r"[^\w.]", "_", module)
            called = f"{label}.{name}" if label else name
            counts[called] = counts.get(called, 0) + 1
            names.append(f"%{called}" if counts[called] == 1 else f"%{called}~{counts[called]}")
            lines.append(f"  {names[-1]}: {self._result(result)} = {' '.join([name, *told])}")
            if len(names) == graph["size"]:
                for what in ("outputs", "updates"):
                    for path, place in table(graph[what], 2, _MOST, what):
                        lines.append(f"  {what[:-1]} {_quoted(self.paths[path])} {names[place]}")
            at = stop
        return [*lines, *(checks(names) if checks else [])]

    def _result(self, place: Any) -> str:
        places = cast(list[int], place) if isinstance(place, list) else [cast(int, place)]
        return ", ".join([self.types[p] for p in places])

    def _constant(self, place: int) -> str:
        _, digits, *name = self.document["constants"][place]
        return little(self.constants[name[0]]).tobytes().hex() if name else digits or '""'

    def _attributes(self, value: Any) -> Any:
        """Attributes with types written out."""
        if isinstance(value, list):
            return [self._attributes(v) for v in cast(list[Any], value)]
        if isinstance(value, dict):
            said = cast(dict[str, Any], value)
            if set(said) == {"type"} and isinstance(said["type"], int):
                return {"type": self.types[said["type"]]}
            return {k: self._attributes(v) for k, v in said.items()}
        return value


# --- parsing -----------------------------------------------------------------------------------------------

_STRING = r'"(?:[^"\\]|\\.)*"'
_TYPE = r"\w+\[[\d ]*\]"
_VALUE = re.compile(rf"  (%\S+): ({_TYPE}(?:, {_TYPE})*) = (\w+)(?: (.*))?")
_LINE = re.compile(rf"  (output|update) ({_STRING}) (%\S+)|  (check) (%\S+|-) ({_STRING}) ({_STRING})")
_WEIGHT = re.compile(rf"weight ({_STRING}) ({_TYPE})((?: (?:{'|'.join(_FLAGS)}))*)(?: tied ({_STRING}))?")
_AXES = re.compile(rf"axes ({_STRING}) ({_STRING})")


def parsed(text: str, *, limits: Limits | None = None, classes: Sequence[type] = ()) -> TensorDAG:
    """The network that a text shows; see :func:`tdagger.parse`."""
    maker = _Parsed()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            maker.line(line)
        except FileError as e:
            raise FileError(f"line {number}: {e}") from None
        except (ValueError, KeyError, IndexError, RecursionError) as e:
            raise FileError(f"line {number}: can't be read: {line!r:.100}") from e
    known = Classes({f"{c.__module__}:{c.__qualname__}": c for c in classes})
    return read(maker.document(), len(text), _no_tensor, limits or Limits(), known).dag


def _no_tensor(name: str, type_: Any, where: str) -> Any:
    raise FileError(f"{where}: a text has no tensor {name!r:.60}")


class _Parsed:
    """The tables of a document, filled line by line."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.strings: dict[str, int] = {}
        self.types: dict[str, int] = {}
        self.ops: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.constants: dict[str, int] = {}
        self.weights: dict[str, list[int]] = {}
        self.places: dict[str, int] = {}
        self.graphs: list[dict[str, Any]] = []
        self.names: dict[str, int] = {}
        self.results: list[Any] = []
        self.last = 0
        self.trees: list[Any] = []
        self.called: dict[str, int] = {}
        self.axes: dict[str, str] = {}
        self.checks: list[Any] = []

    def line(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if self.name is None:
            if not line.startswith("tdag 1 "):
                raise FileError('a text begins with tdag 1 "NAME", as dag.text() writes it; str(dag) is for people')
            self.name = json.loads(rest[2:])
        elif found := _VALUE.fullmatch(line):
            self._value(*found.groups())
        elif found := _LINE.fullmatch(line):
            self._named(*found.groups())
        elif found := _WEIGHT.fullmatch(line):
            self._weight(*found.groups())
        elif word == "graph":
            graph: dict[str, Any] = {
                "name": json.loads(rest),
                "inputs": [],
                "nodes": [],
                "size": 0,
                "outputs": [],
                "updates": [],
            }
            self.graphs.append(graph)
            self.names, self.results, self.last = {}, [], 0
        elif word in ("takes", "gives"):
            self.called[word] = self._tree(json.loads(rest))
        elif found := _AXES.fullmatch(line):
            self.axes[json.loads(found[1])] = json.loads(found[2])
        else:
            raise FileError(f"can't be read: {line!r:.100}")

    def _path(self, name: str) -> int:
        return self.strings.setdefault(name, len(self.strings)) + 1

    def _type(self, text: str) -> int:
        return self.types.setdefault(text, len(self.types))

    def _weight(self, name: str, type_: str, flags: str, tied: str | None) -> None:
        own = json.loads(name)
        if own in self.weights:
            raise FileError(f"the weight {name} is there twice")
        bits = sum(_FLAGS[f] for f in flags.split())
        self.places[own] = len(self.weights)
        self.weights[own] = [self._path(own), self._type(type_), bits, 0]
        if tied is not None:
            self.weights[own].append(json.loads(tied))

    def _value(self, name: str, result: str, op: str, rest: str | None) -> None:
        graph = self.graphs[-1]
        if name in self.names:
            raise FileError(f"{name} is there twice")
        types = [self._type(t) for t in result.split(", ")]
        own: Any = types[0] if len(types) == 1 else types
        said = rest or ""
        row: list[Any] = [op]
        numbers: list[int] = []
        if op == "input":
            graph["inputs"].append(self._path(json.loads(said)))
        elif op in _LEAVES:
            place = self.places[json.loads(said)]
            numbers = [place - self.last]
            self.last = place
        elif op == "const":
            key = _plain([own, "" if said == '""' else said])
            numbers = [self.constants.setdefault(key, len(self.constants))]
        else:
            attributes, end = json.JSONDecoder().raw_decode(said)
            row.append(self._attributes(attributes))
            numbers = [self.names[a] for a in said[end:].split()]
        call = [self.ops.setdefault(_plain(row), len(self.ops)), own]
        if len(row) > 1:
            call += [self.results[n] for n in numbers]
        graph["nodes"] += [self.calls.setdefault(_plain(call), len(self.calls)), *numbers]
        self.names[name] = len(self.results)
        self.results.append(own)
        if not graph["outputs"] and not graph["updates"]:
            graph["size"] += 1

    def _attributes(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._attributes(v) for v in cast(list[Any], value)]
        if isinstance(value, dict):
            said = cast(dict[str, Any], value)
            if set(said) == {"type"} and isinstance(said["type"], str):
                return {"type": self._type(said["type"])}
            return {k: self._attributes(v) for k, v in said.items()}
        return value

    def _named(self, what: Any, name: str, value: str, check: Any, place: str, message: str, source: str) -> None:
        if check:
            number = None if place == "-" else self.names[place]
            self.checks.append([number, json.loads(message), json.loads(source)])
        else:
            self.graphs[-1][f"{what}s"].append([self._path(json.loads(name)), self.names[value]])

    def _tree(self, said: Any) -> int:
        if isinstance(said, list) and len(cast(list[Any], said)) == 4 and isinstance(said[1], list):
            kind, children, keys, name = cast(list[Any], said)
            said = [kind, [self._tree(c) for c in children], keys, name]
        self.trees.append(said)
        return len(self.trees) - 1

    def document(self) -> dict[str, Any]:
        """The document; FileError if a line is missing."""
        if self.name is None or not self.graphs or set(self.called) != {"takes", "gives"}:
            raise FileError("a text has a first line, graphs, and what the network takes and gives")
        for row in self.weights.values():
            if len(cast(list[Any], row)) == 5:
                tied: Any = row.pop()
                if tied not in self.places:
                    raise FileError(f"a weight is tied to {tied!r:.60}, which isn't there")
                row[3] = self.places[tied] + 1
        for graph in self.graphs:
            graph["inputs"] = [_stepped([[p] for p in graph["inputs"]])]
            graph["nodes"] = [graph["nodes"]]
            graph["outputs"], graph["updates"] = [_stepped(graph["outputs"])], [_stepped(graph["updates"])]
        types = [[t.partition("[")[0], *map(int, t.partition("[")[2][:-1].split())] for t in self.types]
        count = sum(len(self.results) for _ in self.graphs[-1:])
        return {
            "format": "tdag", "version": 1, "strings": list(self.strings),
            "paths": [[0, 0, *[n for i in range(len(self.strings)) for n in (i + 1, 0)]]],
            "types": types, "ops": [json.loads(o) for o in self.ops], "calls": [json.loads(c) for c in self.calls],
            "constants": [json.loads(c) for c in self.constants], "trees": self.trees, "graphs": self.graphs,
            "networks": [{
                "name": self.name, "graph": len(self.graphs) - 1, "inputs": self.called["takes"],
                "outputs": self.called["gives"], "weights": [_stepped(list(self.weights.values()))], "modules": [[]],
                "origins": [[0] * 2 * count], "origin_kinds": [], "axes": self.axes, "certain": [],
                "checks": self.checks, "left_out": [],
            }],
        }  # fmt: skip


def _stepped(rows: Sequence[Sequence[int]]) -> list[int]:
    above: Sequence[int] = [0] * (len(rows[0]) if rows else 0)
    found: list[int] = []
    for row in rows:
        found += [n - a for n, a in zip(row, above, strict=True)]
        above = row
    return found
