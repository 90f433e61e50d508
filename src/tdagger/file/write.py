"""A network as the document of a file: JSON in one form, in which what is equal is stored once (docs/format.md)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import FileError, UnsupportedError
from tdagger.file.container import little
from tdagger.file.rows import LARGEST, Row, packed, steps
from tdagger.graph import Graph, bulk, topological
from tdagger.network import Origin, Pass, Weight
from tdagger.op import Array, Op, Value
from tdagger.ops.external import Slot
from tdagger.ops.source import Const, Input, Leaf
from tdagger.program.parts import Raise
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree
from tdagger.types import DType, Sized, TensorType, each_type

#: The last version of the schema. Written is the first that can say it: 1 of a network, 2 of a program, 3 of a network
#: that comes from a file with fixed sizes.
VERSION, OF_PROGRAMS, OF_ROWS = 3, 2, 3
#: Constants of at most so many bytes are in the document, larger ones are tensors of the file.
INLINE = 64

#: What a weight's number of flags has.
IS_PARAMETER, IS_TRAINABLE, IS_PERSISTENT, IN_STATE, HAS_DATA = 1, 2, 4, 8, 16

#: Constants of torch in the arguments of external ops.
TORCH = frozenset({"dtype", "device", "layout", "memory_format"})


class Document(NamedTuple):
    """The document of a network, and the tensors that go beside it: constants that are large, and weights."""

    text: str
    constants: dict[str, Array]
    weights: tuple[str, ...]


@bulk()
def written(dag: TensorDAG, weights: bool = True, exact: bool = False, program: Program | None = None) -> Document:
    """The document of a network; ``exact`` keeps source lines with the folders of this machine.

    Of a ``program`` the network is all blocks in one (:func:`tdagger.program.whole.joined`).

    UnsupportedError names an attribute that no file can hold.

    >>> import tdagger as td
    >>> written(td.network(lambda x: td.exp(x), {"x": (2,)})).text[:44]
    '{"calls":[[0,0],[1,0,0]],"constants":[],"for'
    """
    writer = _Writer(exact)
    if program is not None:
        dag = replace(dag, rows=False)
    network, named = writer.network(dag, weights)
    said = {} if program is None else {"program": _program(writer, program)}
    document = {
        "format": "tdag",
        "version": OF_PROGRAMS if program is not None else OF_ROWS if dag.rows else 1,
        "strings": list(writer.strings),
        "paths": packed(writer.paths.rows),
        "types": [[t.dtype.name, *t.shape] for t in writer.types],
        "ops": writer.ops,
        "calls": writer.calls,
        "constants": writer.constants,
        "trees": writer.trees,
        "graphs": writer.graphs,
        "networks": [network],
        **said,
    }
    return Document(canonical(document), writer.tensors, tuple(named))


def _program(writer: _Writer, program: Program) -> dict[str, Any]:
    """What is said of a program besides its graphs."""
    place = {n: i for i, n in enumerate(program.slots)}
    blocks = {n: i for i, n in enumerate(program.blocks)}
    ends: list[list[Any]] = []
    for name, block in program.blocks.items():
        end = block.end
        asked = [] if block.asks is None else [place[block.asks]]
        told = [end.message] if isinstance(end, Raise) else [blocks[t] for t in end.targets]
        ends.append([name, type(end).__name__.lower(), *asked, *told])
    return {
        "name": program.name,
        "slots": [
            [n, writer.type(s.type), [[i, place[length]] for i, length in s.lengths], s.buffer]
            for n, s in program.slots.items()
        ],
        "blocks": ends,
        "inputs": [place[n] for n in program.inputs],
        "outputs": [place[n] for n in program.outputs],
        "takes": writer.tree(program.called.inputs),
        "gives": writer.tree(program.called.outputs),
        "axes": dict(program.axis_names),
        **({"left_out": [list(one) for one in program.left_out]} if program.left_out else {}),
    }


def canonical(document: Any) -> str:
    r"""JSON in its one form: keys sorted, no spaces, ASCII.

    >>> canonical({"b": [1.5, True], "a": None})
    '{"a":null,"b":[1.5,true]}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class _Paths:
    """Dotted names as a tree: each is the one it begins with and a last name, number 0 is no name."""

    def __init__(self, string: Any) -> None:
        self.string = string
        self.places: dict[tuple[int, str], int] = {}
        self.next: dict[int, int] = {}
        self.rows: list[Row] = [((0,), (0,))]
        self.known: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        found = self.known.get(name)
        if found is None:
            head, dot, last = name.rpartition(".")
            parent = self(head) if dot and len(name) < 4096 else 0
            found = self.known[name] = self._place(parent, last if parent else name)
        return found

    def _place(self, parent: int, last: str) -> int:
        number = self.next.get(parent, 0)
        if last == str(number):
            self.next[parent] = number + 1
            self.rows.append((_COUNTED, (parent,)))
        else:
            self.rows.append(((self.string(last) + 1,), (parent,)))
        return len(self.rows) - 1


#: The number of a last name that is how many such names there are before.
_COUNTED = (0,)


class _Writer:
    """The tables of a document, filled as they are needed."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.strings: dict[str, int] = {}
        self.paths = _Paths(self.string)
        self.types: dict[TensorType, int] = {}
        self.ops: list[Any] = []
        self.calls: list[list[Any]] = []
        self.constants: list[list[Any]] = []
        self.trees: list[list[Any]] = []
        self.graphs: list[dict[str, Any]] = []
        self.tensors: dict[str, Array] = {}
        self.op_places: dict[Any, int] = {}
        self.call_places: dict[Any, int] = {}
        self.constant_places: dict[Const, int] = {}
        self.tree_places: dict[str, int] = {}
        self.graph_places: dict[int, int] = {}
        self.weights: dict[str, int] = {}
        self.leaves: dict[str, Leaf] = {}
        self.taken: frozenset[str] = frozenset()

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def type(self, type_: TensorType) -> int:
        return self.types.setdefault(type_, len(self.types))

    # --- attributes ----------------------------------------------------------------------------------------

    def attribute(self, value: Any, where: str) -> Any:
        """An attribute as JSON: what JSON doesn't have is an object with one key, which says what it is."""
        kind = value.__class__
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if -LARGEST < value < LARGEST else {"int": str(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is tuple:
            return [self.attribute(v, where) for v in value]
        if kind is Sized:
            number, offsets, divisor, plus, parts = value.key[1:]
            return {"sized": [number, list(offsets), divisor, plus, None if parts is None else list(parts)]}
        if isinstance(value, np.generic):
            return self.attribute(value.item(), where)
        return self._object(value, kind, where)

    def _object(self, value: Any, kind: Any, where: str) -> dict[str, Any]:
        if kind is DType:
            return {"dtype": value.name}
        if kind is TensorType:
            return {"type": self.type(value)}
        if kind is Graph:
            return {"graph": self.graph(value)}
        if kind is Slot:
            return {"slot": value.index}
        if kind is complex:
            return {"complex": [repr(value.real), repr(value.imag)]}
        if kind is bytes:
            return {"bytes": value.hex()}
        if value is Ellipsis:
            return {"ellipsis": True}
        if kind.__module__ == "torch" and kind.__name__ in TORCH:
            return {"torch": [kind.__name__, str(value)]}
        raise UnsupportedError(f"{where} has a {kind.__module__}.{kind.__qualname__}, which a file can't hold")

    # --- graphs --------------------------------------------------------------------------------------------

    def op(self, op: Op) -> int:
        key: Any = op.name if isinstance(op, Leaf | Const) else op
        place = self.op_places.get(key)
        if place is None:
            if isinstance(op, Leaf | Const):
                row: list[Any] = [op.name]
            else:
                row = [op.name, {f: self.attribute(getattr(op, f), f"{op.name}.{f}") for f in op.fields}]
            place = self.op_places[key] = len(self.ops)
            self.ops.append(row)
        return place

    def call(self, value: Value) -> int:
        """The place of an op on arguments of some types, with the types of its results."""
        op = value.op
        key = (op.__class__, value.type) if isinstance(op, Leaf | Const) else (op, *[a.type for a in value.args])
        place = self.call_places.get(key)
        if place is None:
            types = [each_type(a.type) if isinstance(a.type, tuple) else a.type for a in (value, *value.args)]
            row = [[self.type(t) for t in t_] if isinstance(t_, tuple) else self.type(t_) for t_ in types]
            own = self.op(op)
            place = self.call_places[key] = len(self.calls)
            self.calls.append([own, *row])
        return place

    def constant(self, op: Const) -> int:
        place = self.constant_places.get(op)
        if place is None:
            type_ = self.type(TensorType(op.shape, op.dtype))
            data = np.asarray(op.data, order="C")
            if data.nbytes <= INLINE:
                row: list[Any] = [type_, little(data).tobytes().hex()]
            else:
                name = f"constant:{len(self.tensors)}"
                while name in self.taken:
                    name = f":{name}"
                self.tensors[name] = data
                row = [type_, None, name]
            place = self.constant_places[op] = len(self.constants)
            self.constants.append(row)
        return place

    def rows(self, values: Sequence[Value]) -> list[Row]:
        place: dict[Value, int] = {}
        rows: list[Row] = []
        last = 0
        for i, value in enumerate(values):
            op, call = value.op, self.call(value)
            if isinstance(op, Leaf) and not isinstance(op, Input):
                own = self.weight(op)
                rows.append(((call, own - last), ()))
                last = own
            elif isinstance(op, Const):
                rows.append(((call, self.constant(op)), ()))
            else:
                rows.append(((call,), tuple([place[a] for a in value.args])))
            place[value] = i
        return rows

    def weight(self, op: Leaf) -> int:
        self.leaves.setdefault(op.leaf, op)
        return self.weights.setdefault(op.leaf, len(self.weights))

    def graph(self, graph: Graph, more: Sequence[Value] = ()) -> int:
        """The place of a graph; of the same object the same. ``more`` are values after its own."""
        found = self.graph_places.get(id(graph))
        if found is not None:
            return found
        values = graph.values
        place = {v: i for i, v in enumerate(values)}
        inputs = steps([(self.paths(n),) for n in graph.inputs])
        nodes = packed(self.rows([*values, *more]))
        named = [steps([(self.paths(n), place[v]) for n, v in d.items()]) for d in (graph.outputs, graph.updates)]
        self.graph_places[id(graph)] = len(self.graphs)
        self.graphs.append(
            {
                "name": graph.name,
                "inputs": packed(inputs),
                "nodes": nodes,
                "size": len(values),
                "outputs": packed(named[0]),
                "updates": packed(named[1]),
            }
        )
        return len(self.graphs) - 1

    # --- what is beside ------------------------------------------------------------------------------------

    def tree(self, tree: Tree) -> int:
        """The place of a structure; equal ones are one."""
        children = [self.tree(child) for child in tree.children]
        keys: Any = [self.attribute(k, "a key of the signature") for k in tree.keys]
        row: list[Any] = [tree.kind]
        if tree.kind == "constant":
            row += [self.attribute(tree.constant, "a constant of the signature")]
        elif tree.kind != "leaf":
            counted = all(type(k) is int and k == i for i, k in enumerate(tree.keys))
            row += [children, None if counted else keys, str(tree.type)]
        key = canonical(row)
        place = self.tree_places.get(key)
        if place is None:
            place = self.tree_places[key] = len(self.trees)
            self.trees.append(row)
        return place

    def network(self, dag: TensorDAG, weights: bool) -> tuple[dict[str, Any], list[str]]:
        """What is said of a network, and the names of the weights that go beside it."""
        rest: dict[str, int] = {n: i for i, n in enumerate(dag.state)}
        for name in [*dag.graph.parameters, *dag.graph.buffers, *(dag.weights if weights else ())]:
            rest.setdefault(name, len(rest))
        self.weights = rest
        self.taken = frozenset(rest)
        modules = [(self.paths(p), self.string(c)) for p, c in dag.modules.items()]
        extra = _needed(dag)
        values = [*dag.graph.values, *extra]
        place = {v: i for i, v in enumerate(values)}
        graph = self.graph(dag.graph, extra)
        named: list[str] = []
        weight_rows = self._weights(dag, weights, named)
        checks = [[None if c.value is None else place[c.value], c.message, self._source(c.source)] for c in dag.checks]
        left = [
            [place[v], list(dims), what, only, *([keeps] if dag.rows else [])]
            for v, dims, what, only, keeps in dag.left_out
            if v in place
        ]
        return {
            "name": dag.name,
            "graph": graph,
            "inputs": self.tree(dag.signature.inputs),
            "outputs": self.tree(dag.signature.outputs),
            "weights": packed(weight_rows),
            "modules": packed(steps(modules)),
            **self._origins(values, dag.origins),
            "axes": dict(dag.axis_names),
            "certain": sorted([n, i] for n, i in dag.certain_dimensions),
            "checks": checks,
            "left_out": left,
            **({"rows": True} if dag.rows else {}),
        }, named

    def _weights(self, dag: TensorDAG, weights: bool, named: list[str]) -> list[Row]:
        """A row for each weight: its path, type, flags, and the one it is tied to (1 more than its place)."""
        columns: list[tuple[int, ...]] = []
        for name in self.weights:
            said = dag.state.get(name)
            tied = said.alias_of if said is not None else ""
            if tied and tied not in self.weights:
                raise FileError(f"{dag.name}: {name!r} is tied to {tied!r}, which its state doesn't have")
            if said is None:
                leaf = self.leaves.get(name)
                type_ = _type_of(dag.weights[name]) if leaf is None else leaf.type
                said = Weight(type_, leaf is not None and leaf.name == "parameter")
                flags = 0
            else:
                flags = IN_STATE
            flags |= IS_PARAMETER * said.is_parameter | IS_TRAINABLE * said.trainable
            flags |= IS_PERSISTENT * said.persistent
            if weights and not tied and name in dag.weights:
                flags |= HAS_DATA
                named.append(name)
            alias = self.weights[tied] + 1 if tied else 0
            columns.append((self.paths(name), self.type(said.type), flags, alias))
        return steps(columns)

    def _origins(self, values: Sequence[Value], origins: Mapping[Value, Origin]) -> dict[str, Any]:
        whats: dict[Any, int] = {}
        known: dict[Any, int] = {}  # what origins say but for the module, which is said of many
        columns: list[tuple[int, ...]] = []
        module = 0
        for value in values:
            origin = origins.get(value)
            if origin is None:
                columns.append((module, 0))
                continue
            passes = tuple(map(self._pass, origin.passes))
            own = origin.op, origin.source, origin.calls, passes
            kind = known.get(own)
            if kind is None:
                op, source = self.string(origin.op), self.string(self._source(origin.source))
                what = op, source, self._calls(origin.calls), passes
                kind = known[own] = whats.setdefault(what, len(whats)) + 1
            module = self.paths(origin.module)
            columns.append((module, kind))
        listed = [[op, text, list(map(list, c)), list(map(json.loads, passes))] for op, text, c, passes in whats]
        # the module as a step, what as it is: rows of one layer are those of the next
        rows: list[Row] = [
            ((m - before, w), ()) for (m, w), (before, _) in zip(columns, [(0, 0), *columns], strict=False)
        ]
        return {"origins": packed(rows), "origin_kinds": listed}

    def _calls(self, calls: Iterable[tuple[str, int]]) -> tuple[tuple[int, int], ...]:
        return tuple([(self.paths(m), n) for m, n in calls])

    def _pass(self, said: Pass) -> str:
        """What an argument was read through, as JSON text, by which equal ones are found."""
        settings: list[Any] = [[self.string(n), self.attribute(v, said.module)] for n, v in said.settings]
        row: list[Any] = [
            self.paths(said.module),
            said.argument,
            self.string(said.of),
            self._calls(said.calls),
            settings,
        ]
        return json.dumps(row)

    def _source(self, source: str) -> str:
        return source if self.exact else place_in_package(source)


def _type_of(array: Array) -> TensorType:
    return TensorType(array.shape, DType.of(array.dtype))


def _needed(dag: TensorDAG) -> list[Value]:
    """The values that only checks need, arguments first."""
    known = set(dag.graph.values)
    return [v for v in topological([c.value for c in dag.checks if c.value is not None]) if v not in known]


_PACKAGES = re.compile(r"^.*[/\\](?:site|dist)-packages[/\\]")


def place_in_package(source: str) -> str:
    """A source line without the folders of this machine: what is below site-packages, or the file alone.

    >>> place_in_package("/usr/lib/python3/site-packages/torch/nn/modules/conv.py:565")
    'torch/nn/modules/conv.py:565'
    """
    short = _PACKAGES.sub("", source)
    if short != source or (not source.startswith("/") and not re.match(r"^[A-Za-z]:[/\\]", source)):
        return short
    return re.split(r"[/\\]", source)[-1]
