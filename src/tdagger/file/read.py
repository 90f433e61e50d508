"""The network of a document. It is a stranger's: everything is checked, nothing is imported or called by its name.

Types aren't taken from the file: those of each op on arguments of some types are inferred, once, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.doubts import LeftOut, OfSize
from tdagger.errors import FileError
from tdagger.file.checked import integer, keyed, listed
from tdagger.file.limits import Limits
from tdagger.file.rows import expanded, table
from tdagger.file.tables import Tables, Tensors, WeightRow
from tdagger.file.trees import Classes, Trees
from tdagger.file.write import IN_STATE, IS_PARAMETER, IS_PERSISTENT, IS_TRAINABLE, OF_PROGRAMS, OF_ROWS, VERSION
from tdagger.graph import Graph, bulk, topological
from tdagger.names import shown
from tdagger.network import Check, Origin, Pass, Signature, Weight
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.program.parts import Block, End, Goto, If, Raise, Return, Slot, Switch
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.types import ResultTypes, TensorType

_KEYS = {
    "format", "version", "strings", "paths", "types", "ops", "calls", "constants", "trees", "graphs", "networks",
}  # fmt: skip
_GRAPH = {"name", "inputs", "nodes", "size", "outputs", "updates"}
_NETWORK = {
    "name", "graph", "inputs", "outputs", "weights", "modules", "origins", "origin_kinds", "axes", "certain", "checks",
    "left_out",
}  # fmt: skip
_PROGRAM = {"name", "slots", "blocks", "inputs", "outputs", "takes", "gives", "axes"}


class Found(NamedTuple):
    """The network of a document, without data, and what it says of its weights."""

    dag: TensorDAG
    weights: list[WeightRow]
    constants: frozenset[str]
    program: Program | None = None


def read(document: Any, size: int, tensors: Tensors, limits: Limits, classes: Classes) -> Found:
    """The network of a document of ``size`` bytes; FileError says what can't be, and where in the JSON."""
    has_program = isinstance(document, dict) and cast(dict[str, Any], document).get("version") == OF_PROGRAMS
    said = keyed(document, _KEYS | {"program"} if has_program else _KEYS, "the document")
    reader = _Reader(said, size, tensors, limits, classes)
    try:
        return reader.found()
    finally:
        del reader.attributes  # they hold the reader: it would live, with the graph, until Python looks for cycles


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


class _Reader(Tables):
    """Makes the graphs and the network out of the tables."""

    def found(self) -> Found:
        networks = listed(self.document["networks"], "networks")
        if len(networks) != 1:
            raise FileError(f"networks: there is one, not {len(networks)}")
        self.rows = self.document["version"] == OF_ROWS
        said = keyed(networks[0], _NETWORK | {"rows"} if self.rows else _NETWORK, "networks[0]")
        if self.rows and said["rows"] is not True:
            raise FileError("networks[0].rows: is true, or the file is of another version")
        with bulk():
            self.constants = self._constants()
            self.weights = self._weights(said)
            rows = listed(self.document["graphs"], "graphs")
            if integer(said["graph"], "networks[0].graph", 0, max(len(rows), 1)) != len(rows) - 1:
                raise FileError("networks[0].graph: must be the last of the graphs")
            for i, row in enumerate(rows):
                self.making = i
                self.graphs.append(self._graph(row, f"graphs[{i}]", last=i == len(rows) - 1))
            found = self._network(said, "networks[0]")
            if "program" not in self.document:
                return found
            return found._replace(program=self._program(found.dag, "program"))

    # --- graphs --------------------------------------------------------------------------------------------

    def _graph(self, row: Any, where: str, last: bool) -> Graph:
        said = keyed(row, _GRAPH, where)
        inputs = [
            self._path(p, f"{where}.inputs") for (p,) in table(said["inputs"], 1, self.numbers, f"{where}.inputs")
        ]
        values = self._nodes(expanded(said["nodes"], self.numbers, f"{where}.nodes"), inputs, f"{where}.nodes")
        size = integer(said["size"], f"{where}.size", 0, len(values) + 1)
        self.extra = values[size:]
        if self.extra and not last:
            raise FileError(f"{where}.size: only the network's graph has values besides")
        own = values[:size]
        named: list[dict[str, Value]] = []
        for what in ("outputs", "updates"):
            rows = table(said[what], 2, self.numbers, f"{where}.{what}")
            pairs = [(self._path(p, f"{where}.{what}"), own[integer(v, f"{where}.{what}", 0, size)]) for p, v in rows]
            named.append(dict(pairs))
            if len(named[-1]) != len(pairs):
                raise FileError(f"{where}.{what}: a name is there twice")
        used = {*own[: len(inputs)], *named[0].values(), *named[1].values()}
        used.update(*[v.args for v in own])
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
                place = flat[k]
                call = calls.get(place)
                if call is None:
                    call = calls[place] = self._call(place, f"{where}: value {len(values)}")
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
                elif call.leaf is not None:
                    weight += flat[k]
                    if weight < 0:
                        raise IndexError
                    add(call.leaf(weights[weight].name, call.type))
                    k += 1
                elif call.kind == "input":
                    if len(values) != given:
                        raise FileError(f"{where}: the inputs must come first, and there are {len(inputs)}")
                    add(Input.of(inputs[given], call.type))
                    given += 1
                else:
                    value = constants[integer(flat[k], f"{where}: value {len(values)}")]
                    if value.type is not call.type:
                        raise FileError(
                            f"{where}: value {len(values)} is a constant of type {value.type}, not {call.type}"
                        )
                    add(value)
                    k += 1
        except IndexError:
            raise FileError(f"{where}: value {len(values)} refers to what isn't there, or not yet") from None
        if given != len(inputs):
            raise FileError(f"{where}: the inputs must come first, and there are {len(inputs)}")
        if len(set(values)) != len(values):
            raise FileError(f"{where}: a value is there twice")
        return values

    # --- a program -----------------------------------------------------------------------------------------

    def _program(self, dag: TensorDAG, where: str) -> Program:
        """The program whose blocks are in one network; what it must be besides, it checks itself."""
        said = self.document["program"]
        keys = _PROGRAM | ({"left_out"} if isinstance(said, dict) and "left_out" in said else set[str]())
        said = keyed(said, keys, where)
        rows = [listed(r, f"{where}.slots", 4) for r in listed(said["slots"], f"{where}.slots")]
        names = [self._text(r[0], f"{where}.slots") for r in rows]
        if len(set(names)) != len(names):
            raise FileError(f"{where}.slots: a name is there twice")

        def at(place: Any) -> str:
            return names[integer(place, where, 0, len(names))]

        slots: dict[str, Slot] = {}
        for name, type_, lengths, buffer in rows:
            pairs = [listed(p, f"{where}.slots", 2) for p in listed(lengths, f"{where}.slots")]
            told = tuple([(integer(i, f"{where}.slots"), at(n)) for i, n in pairs])
            slots[name] = Slot(self._type_at(type_, f"{where}.slots"), told, self._text(buffer, f"{where}.slots"))
        ends = self._ends(said["blocks"], at, f"{where}.blocks")
        outputs: list[dict[str, Value]] = [{} for _ in ends]
        for key, value in dag.graph.outputs.items():
            number, dot, slot = key.partition(".")
            if not dot or not number.isdecimal() or not number.isascii() or int(number[:9]) >= len(ends):
                raise FileError(f"{where}: output {shown(key)!r} is of no block")
            outputs[int(number[:9])][slot] = value
        values = {v: i for i, v in enumerate(dag.graph.values)}
        blocks: dict[str, Block] = {}
        for (name, end), own in zip(ends.items(), outputs, strict=True):
            order = sorted(topological(own.values()), key=values.__getitem__)
            reads = {v.op.leaf: v for v in order if isinstance(v.op, Input)}
            blocks[name] = Block(Graph(reads, own, name=name, order=order), end)
        trees = Trees(listed(self.document["trees"], "trees"), self.attributes.read, self.limits, self.classes)
        inputs, given = (tuple(map(at, listed(said[n], f"{where}.{n}"))) for n in ("inputs", "outputs"))
        takes, gives = (trees.at(said[n], f"{where}.{n}") for n in ("takes", "gives"))
        for tree, count, what in ((takes, len(inputs), "takes"), (gives, len(given), "gives")):
            if self.classes.strangers is None and tree.leaf_count() != count:
                raise FileError(f"{where}.{what}: has {tree.leaf_count()} tensors, the program {count}")
        axes = self._axes(said["axes"], Graph({n: Input(n, slots[n].type)() for n in inputs}, {}), f"{where}.axes")
        return Program(
            slots, blocks, inputs, given, {}, dag.state, Signature(takes, gives), dag.origins, dag.modules,
            self._text(said["name"], f"{where}.name"), axes,
            self._of_sizes(said.get("left_out", []), f"{where}.left_out"),
        )  # fmt: skip

    def _of_sizes(self, said: Any, where: str) -> tuple[OfSize, ...]:
        """What was left out of a program, by the sizes of dimensions."""
        found: list[OfSize] = []
        for entries, what, only, keeps in [listed(row, where, 4) for row in listed(said, where)]:
            if not isinstance(keeps, bool):
                raise FileError(f"{where}: says whether it keeps by true or false, not {keeps!r:.40}")
            of = None if only is None else integer(only, where)
            found.append(OfSize(integer(entries, where), self._text(what, where), of, keeps))
        return tuple(found)

    def _ends(self, said: Any, at: Callable[[Any], str], where: str) -> dict[str, End]:
        """How each block ends, by its name."""
        rows = [listed(r, where) for r in listed(said, where)]
        if any(len(r) < 2 for r in rows):
            raise FileError(f"{where}: a block has a name, and the kind of its end")
        names = [self._text(r[0], where) for r in rows]
        if len(set(names)) != len(names):
            raise FileError(f"{where}: a name is there twice")
        found: dict[str, End] = {}
        for name, (_, kind, *rest) in zip(names, rows, strict=True):
            if kind == "raise" and len(rest) == 1:
                found[name] = Raise(self._text(rest[0], where))
                continue
            asked = rest.pop(0) if kind in ("if", "switch") and rest else None
            targets = [names[integer(t, where, 0, len(names))] for t in rest]
            if (kind, len(targets)) == ("return", 0):
                found[name] = Return()
            elif (kind, len(targets)) == ("goto", 1):
                found[name] = Goto(targets[0])
            elif (kind, len(targets)) == ("if", 2):
                found[name] = If(at(asked), *targets)
            elif kind == "switch" and targets:
                found[name] = Switch(at(asked), tuple(targets))
            else:
                raise FileError(f"{where}: {shown(name)!r} ends with {kind!r:.40} and {len(targets)} blocks")
        return found

    # --- the network ---------------------------------------------------------------------------------------

    def _network(self, said: dict[str, Any], where: str) -> Found:
        graph = self.graphs[-1]
        values = [*graph.values, *self.extra]
        trees = Trees(listed(self.document["trees"], "trees"), self.attributes.read, self.limits, self.classes)
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
        checks = [self._check(c, values, f"{where}.checks[{i}]") for i, c in enumerate(listed(said["checks"], where))]
        used = {c.value for c in checks if c.value is not None}
        for value in self.extra:
            used.update(value.args)
        if not used.issuperset(self.extra):
            raise FileError(f"{where}.checks: values after the graph's own are for checks, which don't need one")
        left = [
            self._left(row, values, f"{where}.left_out[{i}]") for i, row in enumerate(listed(said["left_out"], where))
        ]
        certain = [listed(c, f"{where}.certain", 2) for c in listed(said["certain"], f"{where}.certain")]
        dag = TensorDAG(
            graph,
            {},
            signature,
            self._state(),
            self._origins(said, values, where),
            modules,
            self._text(said["name"], f"{where}.name"),
            self._axes(said["axes"], graph, f"{where}.axes"),
            certain_dimensions=frozenset([(self._text(n, where), integer(i, f"{where}.certain")) for n, i in certain]),
            checks=tuple(checks),
            left_out=left,
            rows=self.rows,
        )
        return Found(dag, self.weights, frozenset(self.constant_names))

    def _string(self, place: int, where: str) -> str:
        if not 0 <= place < len(self.strings):
            raise FileError(f"{where}: there is no string {place!r:.40}")
        return self.strings[place]

    def _state(self) -> dict[str, Weight]:
        rows = self.weights
        known: dict[tuple[TensorType, int, int], Weight] = {}  # what is said of most is said of others too
        found: dict[str, Weight] = {}
        for name, type_, flags, alias in rows:
            if flags & IN_STATE:
                weight = known.get((type_, flags, alias))
                if weight is None:
                    parameter, trained, kept = flags & IS_PARAMETER, flags & IS_TRAINABLE, flags & IS_PERSISTENT
                    tied = rows[alias - 1].name if alias else ""
                    weight = Weight(type_, bool(parameter), bool(trained), bool(kept), tied)
                    known[type_, flags, alias] = weight
                found[name] = weight
        return found

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
        for i, row in enumerate(listed(said["origin_kinds"], f"{where}.origin_kinds")):
            own = f"{where}.origin_kinds[{i}]"
            op, source, calls, passes = listed(row, own, 4)
            through = tuple([self._pass(p, own) for p in listed(passes, own)])
            texts = self._string(integer(op, own), own), self._string(integer(source, own), own)
            kinds.append((*texts, self._calls(calls, own), through))
        flat = expanded(said["origins"], self.numbers, f"{where}.origins")
        if len(flat) != 2 * len(values):
            raise FileError(f"{where}.origins: has {len(flat)} numbers for {len(values)} values")
        known: dict[tuple[int, int], Origin] = {}
        found: dict[Value, Origin] = {}
        module = 0
        steps = iter(flat)
        for value, step, kind in zip(values, steps, steps, strict=True):
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
        if not listed(calls, where):
            return ()
        pairs = [listed(c, where, 2) for c in calls]
        return tuple([(self._path(integer(p, where), where), integer(n, where)) for p, n in pairs])

    def _pass(self, row: Any, where: str) -> Pass:
        path, argument, of, calls, settings = listed(row, where, 5)
        pairs = [listed(s, where, 2) for s in listed(settings, where)]
        named = tuple([(self._string(integer(n, where), where), self.attributes.read(v, where)) for n, v in pairs])
        module, made_by = self._path(integer(path, where), where), self._string(integer(of, where), where)
        return Pass(module, integer(argument, where, -1), made_by, self._calls(calls, where), named)

    def _check(self, row: Any, values: Sequence[Value], where: str) -> Check:
        place, message, source = listed(row, where, 3)
        value = None if place is None else values[integer(place, where, 0, len(values))]
        if not isinstance(message, str) or not isinstance(source, str):
            raise FileError(f"{where}: a message and a source line are strings")
        return Check(value, message, source)

    def _left(self, row: Any, values: Sequence[Value], where: str) -> LeftOut:
        place, dimensions, what, only, *more = listed(row, where, 4 + self.rows)
        if more and not isinstance(more[0], bool):
            raise FileError(f"{where}: says whether it keeps by true or false, not {more[0]!r:.40}")
        value = values[integer(place, where, 0, len(values))]
        if isinstance(value.type, ResultTypes):
            raise FileError(f"{where}: value {place} has several results")
        found = tuple([integer(d, where, 0, value.rank) for d in listed(dimensions, where)])
        entries = None if only is None else integer(only, where)
        return LeftOut(value, found, self._text(what, where), entries, *more)
