"""The network of a document. It is a stranger's: everything is checked, nothing is imported or called by its name.

Types aren't taken from the file: those of each op on arguments of some types are inferred, once, and compared.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.composite import composites
from tdagger.errors import FileError
from tdagger.file.container import Header, array, is_size, stored
from tdagger.file.limits import Limits, check_body, check_type
from tdagger.file.rows import LARGEST, expanded, table
from tdagger.file.trees import Classes, Trees
from tdagger.file.write import HAS_DATA, IN_STATE, IS_PARAMETER, IS_PERSISTENT, IS_TRAINABLE, VERSION
from tdagger.graph import Graph, bulk
from tdagger.later import later
from tdagger.names import shown
from tdagger.network import Check, Origin, Pass, Signature, Weight
from tdagger.op import Op, Value, core_ops
from tdagger.ops.external import Slot
from tdagger.ops.source import Buffer, Input, Leaf, Parameter, const
from tdagger.tensordag import TensorDAG
from tdagger.types import DTYPES, DType, ResultTypes, Sized, TensorType, sized_of

_KEYS = {
    "format", "version", "strings", "paths", "types", "ops", "calls", "constants", "trees", "graphs", "networks",
}  # fmt: skip
_GRAPH = {"name", "inputs", "nodes", "size", "outputs", "updates"}
_NETWORK = {
    "name", "graph", "inputs", "outputs", "weights", "modules", "origins", "origin_kinds", "axes", "certain", "checks",
    "left_out",
}  # fmt: skip
_DTYPES = {d.name: d for d in DTYPES}
_LEAVES: dict[str, type[Leaf]] = {"input": Input, "parameter": Parameter, "buffer": Buffer}
#: Ops that are no rows of "ops" with attributes.
_BARE = frozenset({*_LEAVES, "const"})


class WeightRow(NamedTuple):
    """What a document says of a weight."""

    name: str
    type: TensorType
    flags: int
    alias: int


class Found(NamedTuple):
    """The network of a document, without data, and what it says of its weights."""

    dag: TensorDAG
    weights: list[WeightRow]
    constants: frozenset[str]


#: What gives the data of a large constant: by its name, its type, and the place that asks.
Tensors = Callable[[str, TensorType, str], Any]


def read(document: Any, size: int, tensors: Tensors, limits: Limits, classes: Classes) -> Found:
    """The network of a document of ``size`` bytes; FileError says what can't be, and where in the JSON."""
    return _Reader(_keys(document, _KEYS, "the document"), size, tensors, limits, classes).found()


def of_header(header: Header) -> Tensors:
    """The tensors of a file."""

    def tensor(name: str, type_: TensorType, where: str) -> Any:
        if name not in header.places:
            raise FileError(f"{where}: the file has no tensor {shown(name)!r}")
        check_stored(header, name, type_, where)
        return array(header, name, type_)

    return tensor


def check_version(document: Any) -> None:
    """FileError unless it is a document of a version that is known."""
    said = cast(dict[str, Any], document) if isinstance(document, dict) else {}
    if said.get("format") != "tdag":
        raise FileError("format: this is no document of tdagger")
    if type(said.get("version")) is not int or not 1 <= said["version"] <= VERSION:
        raise FileError(
            f"version: the file has schema version {said.get('version')!r:.40}, this tdagger reads up to {VERSION}; "
            "a newer tdagger reads it"
        )


def _keys(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    """An object with exactly these keys."""
    if not isinstance(value, dict):
        raise FileError(f"{where}: must be an object")
    found = cast(dict[str, Any], value)
    if set(found) != keys:
        missing, unknown = sorted(keys - set(found)), sorted(set(found) - keys)
        told = [f"lacks {', '.join(missing)}"] if missing else []
        told += [f"has unknown keys {', '.join(map(shown, unknown[:5]))}"] if unknown else []
        raise FileError(f"{where}: {' and '.join(told)}")
    return found


def _list(value: Any, where: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(cast(list[Any], value)) != length):
        raise FileError(f"{where}: must be a list{'' if length is None else f' of {length}'}, not {value!r:.60}")
    return cast(list[Any], value)


def _int(value: Any, where: str, least: int = 0, below: int = 2**53) -> int:
    if type(value) is not int or not least <= value < below:
        raise FileError(f"{where}: must be an integer from {least} to {below - 1}, not {value!r:.60}")
    return value


class _Call:
    """A row of "calls": an op on arguments of some types; a leaf or constant has no op of its own."""

    __slots__ = ("count", "kind", "made", "type", "types")

    def __init__(self, kind: str, type_: Any, types: list[Any], op: Op | None) -> None:
        self.kind, self.type, self.types, self.count = kind, type_, types, len(types)
        self.made = None if op is None else op.made


class _Reader:
    """The tables of a document as they are read, each before what refers to it."""

    def __init__(
        self,
        document: dict[str, Any],
        size: int,
        tensors: Tensors,
        limits: Limits,
        classes: Classes,
    ) -> None:
        self.document, self.tensors, self.limits, self.classes = document, tensors, limits, classes
        self.numbers = limits.numbers(size)
        self.strings = self._strings()
        self.paths = self._paths()
        self.types = [self._type(t, f"types[{i}]") for i, t in enumerate(_list(document["types"], "types"))]
        if len(set(self.types)) != len(self.types):
            raise FileError("types: one is there twice")
        self.op_rows = _list(document["ops"], "ops")
        self.ops: dict[int, Op | str] = {}
        self.call_rows = _list(document["calls"], "calls")
        self.calls: dict[int, _Call] = {}
        self.constants: list[Value] = []
        self.constant_names: list[str] = []
        self.weights: list[WeightRow] = []
        self.graphs: list[Graph] = []
        self.extra: list[Value] = []
        self.making = 0  # graphs may hold those before them only

    def found(self) -> Found:
        networks = _list(self.document["networks"], "networks")
        if len(networks) != 1:
            raise FileError(f"networks: version {VERSION} has one, not {len(networks)}")
        said = _keys(networks[0], _NETWORK, "networks[0]")
        with bulk():
            self.constants = self._constants()
            self.weights = self._weights(said)
            rows = _list(self.document["graphs"], "graphs")
            if _int(said["graph"], "networks[0].graph", 0, max(len(rows), 1)) != len(rows) - 1:
                raise FileError("networks[0].graph: must be the last of the graphs")
            for i, row in enumerate(rows):
                self.making = i
                self.graphs.append(self._graph(row, f"graphs[{i}]", last=i == len(rows) - 1))
            return self._network(said, "networks[0]")

    # --- tables --------------------------------------------------------------------------------------------

    def _strings(self) -> list[str]:
        found = _list(self.document["strings"], "strings")
        for i, text in enumerate(found):
            self._text(text, f"strings[{i}]")
        if len(set(found)) != len(found):
            raise FileError("strings: one is there twice")
        return found

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise FileError(f"{where}: must be a string")
        if len(value) > self.limits.name:
            raise FileError(f"{where}: a name of {len(value)} characters, more than {self.limits.name}")
        return value

    def _paths(self) -> list[str]:
        flat = expanded(self.document["paths"], self.numbers, "paths")
        if flat[:2] != [0, 0]:
            raise FileError("paths: row 0 must be 0, 0, the path of no name")
        if len(flat) % 2:
            raise FileError("paths: has an odd number of numbers")
        found = [""]
        after: dict[int, int] = {}
        left, longest = 64 * self.numbers, self.limits.name
        strings, count = self.strings, len(self.strings)
        for row, (name, ref) in enumerate(zip(flat[2::2], flat[3::2], strict=True), 1):
            parent = ref if ref >= 0 else row + ref
            if not 0 <= parent < row or not 0 <= name <= count:
                raise FileError(f"paths: row {row} refers to what isn't there")
            if name:
                last = strings[name - 1]
            else:
                number = after.get(parent, 0)
                last, after[parent] = str(number), number + 1
            path = f"{found[parent]}.{last}" if parent else last
            left -= len(path)
            if len(path) > longest or left < 0:
                raise FileError(f"paths: row {row} is a name of {len(path)} characters")
            found.append(path)
        return found

    def _type(self, row: Any, where: str) -> TensorType:
        name, *shape = _list(row, where) or [None]
        dtype = _DTYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            raise FileError(f"{where}: no element type is called {name!r:.60}")
        if len(shape) > self.limits.rank:
            raise FileError(f"{where}: rank {len(shape)}, more than {self.limits.rank}")
        if not all(map(is_size, shape)):
            raise FileError(f"{where}: a shape is a list of sizes, not {shape!r:.80}")
        found = TensorType(tuple(shape), dtype)
        check_type(found, self.limits, where)
        return found

    def _type_at(self, place: Any, where: str) -> TensorType:
        return self.types[_int(place, where, 0, len(self.types))]

    def _types_at(self, place: Any, where: str) -> Any:
        """One type, or those of several results."""
        if isinstance(place, list):
            return ResultTypes([self._type_at(p, where) for p in cast(list[Any], place)])
        return self._type_at(place, where)

    def _constants(self) -> list[Value]:
        return [
            self._constant(row, f"constants[{i}]")
            for i, row in enumerate(_list(self.document["constants"], "constants"))
        ]

    def _constant(self, row: Any, where: str) -> Value:
        place, data, *name = _list(row, where) if len(_list(row, where)) >= 2 else [None, None]
        type_ = self._type_at(place, where)
        if isinstance(data, str) and not name:
            try:
                raw = bytes.fromhex(data)
            except ValueError:
                raise FileError(f"{where}: its data are no hexadecimal digits") from None
            if len(raw) != type_.bytes:
                raise FileError(f"{where}: {type_} takes {type_.bytes} bytes, it has {len(raw)}")
            found = np.frombuffer(raw, _little(type_.dtype)).reshape(type_.shape)
        elif data is None and len(name) == 1:
            own = self._text(name[0], where)
            found = self.tensors(own, type_, where)
            self.constant_names.append(own)
        else:
            raise FileError(f"{where}: must be [type, digits] or [type, null, name of a tensor]")
        if type_.dtype.name == "bool" and found.size and found.view(np.uint8).max() > 1:
            raise FileError(f"{where}: a bool is 0 or 1")
        return const(found.astype(type_.dtype.numpy, copy=False), type_.dtype)

    def _weights(self, said: dict[str, Any]) -> list[WeightRow]:
        where = "networks[0].weights"
        found: list[WeightRow] = []
        paths, types = self.paths, self.types
        for path, type_, flags, alias in table(said["weights"], 4, self.numbers, where):
            if not (0 <= path < len(paths) and 0 <= type_ < len(types) and 0 <= flags < 32):
                raise FileError(
                    f"{where}: row {len(found)}: there is no path {path}, no type {type_} or no flags {flags}"
                )
            found.append(WeightRow(paths[path], types[type_], flags, alias))
        for i, row in enumerate(found):
            if not row.alias:
                continue
            _int(row.alias, f"{where}: row {i}", 0, len(found) + 1)
            if found[row.alias - 1].alias or row.flags & HAS_DATA:
                raise FileError(f"{where}: row {i} is tied to one that is tied itself, or has data of its own")
            if found[row.alias - 1].type is not row.type:
                raise FileError(f"{where}: row {i} is tied to a tensor of another type")
        if len({row.name for row in found}) != len(found):
            raise FileError(f"{where}: a name is there twice")
        return found

    def _path(self, place: int, where: str) -> str:
        if not 0 <= place < len(self.paths):
            raise FileError(f"{where}: there is no path {place}")
        return self.paths[place]

    # --- ops -----------------------------------------------------------------------------------------------

    def _attribute(self, value: Any, where: str, depth: int = 0) -> Any:
        kind = value.__class__
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return _int(value, where, -LARGEST + 1, LARGEST)
        if kind is float:
            if not math.isfinite(value):
                raise FileError(f"{where}: a number that isn't finite is written as an object")
            return value
        if depth > self.limits.depth:
            raise FileError(f"{where}: is nested more than {self.limits.depth} deep")
        if kind is list:
            return tuple([self._attribute(v, where, depth + 1) for v in value])
        if kind is not dict or len(value) != 1:
            raise FileError(f"{where}: must be a value of JSON, or an object with one key")
        ((what, content),) = value.items()
        rule = _OBJECTS.get(what)
        if rule is None:
            raise FileError(f"{where}: nothing is written as {shown(what)!r}; there are {', '.join(_OBJECTS)}")
        try:
            return rule(self, content, where)
        except (ValueError, TypeError, KeyError, OverflowError) as e:
            if isinstance(e, FileError):
                raise
            raise FileError(f"{where}: {content!r:.80} is no {what}") from None

    def graph_at(self, place: Any, where: str) -> Graph:
        """A graph before the one that is made."""
        return self.graphs[_int(place, where, 0, self.making)]

    def type_at(self, place: Any, where: str) -> TensorType:
        """A type of the table."""
        return self._type_at(place, where)

    def _op(self, place: Any, where: str) -> Op | str:
        place = _int(place, where, 0, len(self.op_rows))
        found = self.ops.get(place)
        if found is None:
            found = self.ops[place] = self._new_op(self.op_rows[place], f"ops[{place}]")
        return found

    def _new_op(self, row: Any, where: str) -> Op | str:
        name, *rest = _list(row, where) or [None]
        if not isinstance(name, str):
            raise FileError(f"{where}: must begin with the name of an op")
        if name in _BARE and not rest:
            return name
        kind: Any = None if name in _BARE else core_ops.get(name)
        if kind is None and name in composites:
            kind = composites[name].op
        if kind is None:
            raise FileError(f"{where}: no op is called {shown(name)!r}; import the module that defines it first")
        if len(rest) != 1:
            raise FileError(f"{where}: must be a name and attributes")
        said = _keys(rest[0], set(kind.fields), where)
        given = {f: self._attribute(said[f], f"{where}.{f}") for f in kind.fields}
        hints = _hints(kind)
        for field, value in given.items():
            if not _fits(value, hints.get(field, Any)):
                raise FileError(f"{where}.{field}: {value!r:.80} isn't what {name} takes")
        return _guarded(lambda: kind(**given), where)

    def _call(self, place: int, where: str) -> _Call:
        if not 0 <= place < len(self.call_rows):
            raise FileError(f"{where}: there is no call {place}")
        row, own = self.call_rows[place], f"calls[{place}]"
        if len(_list(row, own)) < 2:
            raise FileError(f"{own}: must be an op, the type of its result and those of its arguments")
        op = self._op(row[0], own)
        type_, *types = [self._types_at(t, own) for t in row[1:]]
        if isinstance(op, str):
            if types or isinstance(type_, ResultTypes):
                raise FileError(f"{own}: {op} takes no arguments, and has one type")
            return _Call(op, type_, [], None)
        key = tuple(types)
        inferred = op.inferred.get(key)
        if inferred is None:
            check_body(op, key, type_, self.limits, own)
            inferred = _guarded(lambda: op.infer(*key), own)
            for one in inferred if isinstance(inferred, ResultTypes) else (inferred,):
                check_type(one, self.limits, own)
        if inferred != type_:
            raise FileError(f"{own}: {op.name} gives {inferred}, the file says {type_}")
        op.inferred[key] = inferred
        return _Call(op.name, inferred, types, op)

    # --- graphs --------------------------------------------------------------------------------------------

    def _graph(self, row: Any, where: str, last: bool) -> Graph:
        said = _keys(row, _GRAPH, where)
        inputs = [
            self._path(p, f"{where}.inputs") for (p,) in table(said["inputs"], 1, self.numbers, f"{where}.inputs")
        ]
        values = self._nodes(expanded(said["nodes"], self.numbers, f"{where}.nodes"), inputs, f"{where}.nodes")
        size = _int(said["size"], f"{where}.size", 0, len(values) + 1)
        self.extra = values[size:]
        if self.extra and not last:
            raise FileError(f"{where}.size: only the network's graph has values besides")
        own = values[:size]
        named: list[dict[str, Value]] = []
        for what in ("outputs", "updates"):
            rows = table(said[what], 2, self.numbers, f"{where}.{what}")
            pairs = [(self._path(p, f"{where}.{what}"), own[_int(v, f"{where}.{what}", 0, size)]) for p, v in rows]
            named.append(dict(pairs))
            if len(named[-1]) != len(pairs):
                raise FileError(f"{where}.{what}: a name is there twice")
        used = {*own[: len(inputs)], *named[0].values(), *named[1].values()}
        for value in own:
            used.update(value.args)
        if len(used) != size:
            unused = next((i for i, v in enumerate(own) if v not in used), None)
            told = "a value is there twice" if unused is None else f"nothing uses value {unused}"
            raise FileError(f"{where}.nodes: {told}")
        name = self._text(said["name"], f"{where}.name")
        return Graph.ordered(dict(zip(inputs, own, strict=False)), named[0], named[1], name, own)

    def _nodes(self, flat: list[int], inputs: list[str], where: str) -> list[Value]:
        values: list[Value] = []
        calls, weights, constants = self.calls, self.weights, self.constants
        add = values.append
        weight = k = given = 0
        n = len(flat)
        types: Any
        try:
            while k < n:
                call = calls.get(flat[k])
                if call is None:
                    call = calls[flat[k]] = self._call(flat[k], f"{where}: value {len(values)}")
                k += 1
                if call.made is not None:
                    stop = k + call.count
                    args = tuple([values[r] for r in flat[k:stop]])
                    types = [a.type for a in args]
                    if types != call.types or stop > n:
                        told = ", ".join(map(str, types))
                        raise FileError(f"{where}: value {len(values)} is {call.kind} of other types: {told}")
                    add(call.made(args, call.type))
                    k = stop
                elif call.kind == "input":
                    if len(values) != given:
                        raise FileError(f"{where}: the inputs must come first, and there are {len(inputs)}")
                    add(Input.of(inputs[given], call.type))
                    given += 1
                elif call.kind == "const":
                    value = constants[_int(flat[k], f"{where}: value {len(values)}")]
                    if value.type is not call.type:
                        raise FileError(
                            f"{where}: value {len(values)} is a constant of type {value.type}, not {call.type}"
                        )
                    add(value)
                    k += 1
                else:
                    weight += flat[k]
                    if weight < 0:
                        raise IndexError
                    add(_LEAVES[call.kind].of(weights[weight].name, call.type))
                    k += 1
        except IndexError:
            raise FileError(f"{where}: value {len(values)} refers to what isn't there, or not yet") from None
        if given != len(inputs):
            raise FileError(f"{where}: the inputs must come first, and there are {len(inputs)}")
        if len(set(values)) != len(values):
            raise FileError(f"{where}: a value is there twice")
        return values

    # --- the network ---------------------------------------------------------------------------------------

    def _network(self, said: dict[str, Any], where: str) -> Found:
        graph = self.graphs[-1]
        values = [*graph.values, *self.extra]
        trees = Trees(_list(self.document["trees"], "trees"), self._attribute, self.limits, self.classes)
        signature = Signature(
            trees.at(said["inputs"], f"{where}.inputs"), trees.at(said["outputs"], f"{where}.outputs")
        )
        for tree, named, what in (
            (signature.inputs, graph.inputs, "inputs"),
            (signature.outputs, graph.outputs, "outputs"),
        ):
            if self.classes.strangers is None and tree.leaf_count() != len(named):
                raise FileError(f"{where}.{what}: has {tree.leaf_count()} tensors, the graph {len(named)}")
        pairs = table(said["modules"], 2, self.numbers, f"{where}.modules")
        modules = {self._path(p, f"{where}.modules"): self._string(c, f"{where}.modules") for p, c in pairs}
        checks = [self._check(c, values, f"{where}.checks[{i}]") for i, c in enumerate(_list(said["checks"], where))]
        used = {c.value for c in checks if c.value is not None}
        for value in self.extra:
            used.update(value.args)
        if not used.issuperset(self.extra):
            raise FileError(f"{where}.checks: values after the graph's own are for checks, which don't need one")
        left = [
            self._left(row, values, f"{where}.left_out[{i}]") for i, row in enumerate(_list(said["left_out"], where))
        ]
        certain = [_list(c, f"{where}.certain", 2) for c in _list(said["certain"], f"{where}.certain")]
        dag = TensorDAG(
            graph,
            {},
            signature,
            self._state(),
            self._origins(said, values, where),
            modules,
            self._text(said["name"], f"{where}.name"),
            self._axes(said["axes"], graph, f"{where}.axes"),
            certain_dimensions=frozenset([(self._text(n, where), _int(i, f"{where}.certain")) for n, i in certain]),
            checks=tuple(checks),
            left_out=left,
        )
        return Found(dag, self.weights, frozenset(self.constant_names))

    def _string(self, place: int, where: str) -> str:
        if not 0 <= place < len(self.strings):
            raise FileError(f"{where}: there is no string {place!r:.40}")
        return self.strings[place]

    def _state(self) -> dict[str, Weight]:
        rows = self.weights
        return {
            row.name: Weight(
                row.type,
                bool(row.flags & IS_PARAMETER),
                bool(row.flags & IS_TRAINABLE),
                bool(row.flags & IS_PERSISTENT),
                rows[row.alias - 1].name if row.alias else "",
            )
            for row in rows
            if row.flags & IN_STATE
        }

    def _axes(self, said: Any, graph: Graph, where: str) -> dict[str, str]:
        if not isinstance(said, dict):
            raise FileError(f"{where}: must be an object")
        found = cast(dict[str, Any], said)
        for name, pattern in found.items():
            if name not in graph.inputs:
                raise FileError(f"{where}: the graph has no input {shown(name)!r}")
            self._text(pattern, where)
        return dict(found)

    def _origins(self, said: dict[str, Any], values: Sequence[Value], where: str) -> dict[Value, Origin]:
        kinds: list[tuple[str, str, tuple[tuple[str, int], ...], tuple[Pass, ...]]] = []
        for i, row in enumerate(_list(said["origin_kinds"], f"{where}.origin_kinds")):
            own = f"{where}.origin_kinds[{i}]"
            op, source, calls, passes = _list(row, own, 4)
            through = tuple([self._pass(p, own) for p in _list(passes, own)])
            texts = self._string(_int(op, own), own), self._string(_int(source, own), own)
            kinds.append((*texts, self._calls(calls, own), through))
        flat = expanded(said["origins"], self.numbers, f"{where}.origins")
        if len(flat) != 2 * len(values):
            raise FileError(f"{where}.origins: has {len(flat)} numbers for {len(values)} values")
        known: dict[tuple[int, int], Origin] = {}
        found: dict[Value, Origin] = {}
        module = 0
        for value, step, kind in zip(values, flat[::2], flat[1::2], strict=True):
            module += step
            if kind:
                origin = known.get((module, kind))
                if origin is None:
                    if not 0 < kind <= len(kinds):
                        raise FileError(f"{where}.origins: there is no kind {kind}")
                    path = self._path(module, f"{where}.origins")
                    origin = known[module, kind] = Origin(path, *kinds[kind - 1])
                found[value] = origin
        return found

    def _calls(self, calls: Any, where: str) -> tuple[tuple[str, int], ...]:
        pairs = [_list(c, where, 2) for c in _list(calls, where)]
        return tuple([(self._path(_int(p, where), where), _int(n, where)) for p, n in pairs])

    def _pass(self, row: Any, where: str) -> Pass:
        path, argument, of, calls, settings = _list(row, where, 5)
        pairs = [_list(s, where, 2) for s in _list(settings, where)]
        named = tuple([(self._string(_int(n, where), where), self._attribute(v, where)) for n, v in pairs])
        module, made_by = self._path(_int(path, where), where), self._string(_int(of, where), where)
        return Pass(module, _int(argument, where, -1), made_by, self._calls(calls, where), named)

    def _check(self, row: Any, values: Sequence[Value], where: str) -> Check:
        place, message, source = _list(row, where, 3)
        value = None if place is None else values[_int(place, where, 0, len(values))]
        if not isinstance(message, str) or not isinstance(source, str):
            raise FileError(f"{where}: a message and a source line are strings")
        return Check(value, message, source)

    def _left(self, row: Any, values: Sequence[Value], where: str) -> LeftOut:
        place, dimensions, what, only = _list(row, where, 4)
        value = values[_int(place, where, 0, len(values))]
        if isinstance(value.type, ResultTypes):
            raise FileError(f"{where}: value {place} has several results")
        found = tuple([_int(d, where, 0, value.rank) for d in _list(dimensions, where)])
        return LeftOut(value, found, self._text(what, where), None if only is None else _int(only, where))


def check_stored(header: Header, name: str, type_: TensorType, where: str) -> None:
    """FileError unless a tensor is stored as a type says, at a place where its entries can be used."""
    place, wanted = header.places[name], stored(type_)
    if place.stored != wanted:
        own = place.stored
        raise FileError(
            f"{where}: {shown(name)!r} is {own[0]}{list(own[1])!r:.80}, not {wanted[0]}{list(wanted[1])!r:.80}"
        )
    if (header.begin + place.start) % type_.dtype.bytes and place.stop > place.start:
        raise FileError(f"{where}: {shown(name)!r} begins at byte {header.begin + place.start}, which isn't aligned")


def _little(dtype: DType) -> Any:
    return dtype.numpy if dtype.bytes == 1 else dtype.numpy.newbyteorder("<")


def _guarded(make: Callable[[], Any], where: str) -> Any:
    """What an op's own rules say of a stranger's attributes and types; whatever they fail with is told as one error."""
    try:
        return make()
    except FileError:
        raise
    except (Exception, RecursionError) as e:
        raise FileError(f"{where}: {str(e) or type(e).__name__}") from e


_KNOWN_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: type[Op]) -> dict[str, Any]:
    """The types of a core op's attributes; a composite's are told by inference."""
    if kind.name not in core_ops or core_ops[kind.name] is not kind:
        return {}
    if kind not in _KNOWN_HINTS:
        _KNOWN_HINTS[kind] = typing.get_type_hints(kind)
    return _KNOWN_HINTS[kind]


def _fits(value: Any, hint: Any) -> bool:
    """Whether an attribute is of the type that its op declares."""
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is UnionType or origin is typing.Union:
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = cast(tuple[Any, ...], value)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(v, inner[0]) for v in items)
        return len(items) == len(inner) and all(_fits(v, one) for v, one in zip(items, inner, strict=True))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


# --- what JSON has no form for -----------------------------------------------------------------------------


def _float(reader: Any, content: Any, where: str) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]


def _complex(reader: Any, content: Any, where: str) -> complex:
    real, imag = _list(content, where, 2)
    if not isinstance(real, str) or not isinstance(imag, str) or len(real) + len(imag) > 80:
        raise ValueError
    return complex(float(real), float(imag))


def _wide(reader: Any, content: Any, where: str) -> int:
    if not isinstance(content, str) or len(content) > 40:
        raise ValueError
    found = int(content)
    if str(found) != content or -LARGEST < found < LARGEST:
        raise ValueError
    return found


def _sized(reader: Any, content: Any, where: str) -> Sized:
    number, offsets, divisor, plus, parts = _list(content, where, 5)
    small = {"least": -LARGEST + 1, "below": LARGEST}
    rule = (
        tuple([_int(o, where, **small) for o in _list(offsets, where)]),
        _int(divisor, where, 1),
        _int(plus, where, **small),
    )
    if parts is not None:
        how, by, count = _list(parts, where, 3)
        if how not in ("split", "chunk", "tensor_split", "squeeze"):
            raise ValueError
        parts = (how, _int(by, where), _int(count, where))
    return sized_of(_int(number, where, **small), *rule, parts)


def _torch(reader: Any, content: Any, where: str) -> Any:
    kind, name = _list(content, where, 2)
    if not isinstance(kind, str) or not isinstance(name, str):
        raise ValueError
    try:
        constant = later("torch.constant")
    except ModuleNotFoundError as e:
        raise FileError(f"{where}: an op of torch has the constant {shown(name)}; install torch to load it") from e
    return constant(kind, name)


def _ellipsis(reader: Any, content: Any, where: str) -> Any:
    if content is not True:
        raise ValueError
    return Ellipsis


#: What an object with one key stands for.
_OBJECTS: dict[str, Callable[[Any, Any, str], Any]] = {
    "float": _float,
    "complex": _complex,
    "int": _wide,
    "sized": _sized,
    "dtype": lambda reader, content, where: _DTYPES[content],
    "type": lambda reader, content, where: reader.type_at(content, where),
    "graph": lambda reader, content, where: reader.graph_at(content, where),
    "slot": lambda reader, content, where: Slot(_int(content, where, 0, 2**16)),
    "bytes": lambda reader, content, where: bytes.fromhex(content),
    "ellipsis": _ellipsis,
    "torch": _torch,
}
