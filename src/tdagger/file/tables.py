"""The tables of a document: strings, paths, types, constants, weights, ops and calls, each before what refers to it.

They are a stranger's: an op is looked up by name in the two closed tables, and its type on arguments is inferred anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import composites
from tdagger.errors import FileError
from tdagger.file.attributes import DTYPE_OF, Attributes, fits, hints_of
from tdagger.file.checked import integer, keyed, listed
from tdagger.file.container import Header, array, is_size, stored
from tdagger.file.limits import Limits, check_body, check_type
from tdagger.file.rows import expanded, table
from tdagger.file.trees import Classes
from tdagger.file.write import HAS_DATA
from tdagger.graph import Graph
from tdagger.names import shown
from tdagger.op import Op, Value, core_ops
from tdagger.ops.source import Buffer, Input, Leaf, Parameter, const
from tdagger.types import DType, ResultTypes, TensorType

LEAVES: dict[str, type[Leaf]] = {"input": Input, "parameter": Parameter, "buffer": Buffer}
#: Ops that are no rows of "ops" with attributes.
_BARE = frozenset({*LEAVES, "const"})


class WeightRow(NamedTuple):
    """What a document says of a weight."""

    name: str
    type: TensorType
    flags: int
    alias: int


#: What gives the data of a large constant: by its name, its type, and the place that asks.
Tensors = Callable[[str, TensorType, str], Any]


def of_header(header: Header) -> Tensors:
    """The tensors of a file."""

    def tensor(name: str, type_: TensorType, where: str) -> Any:
        if name not in header.places:
            raise FileError(f"{where}: the file has no tensor {shown(name)!r}")
        check_stored(header, name, type_, where)
        return array(header, name, type_)

    return tensor


class Call:
    """A row of "calls": an op on arguments of some types; a leaf or constant has no op of its own."""

    __slots__ = ("count", "kind", "leaf", "made", "type", "types")

    def __init__(self, kind: str, type_: Any, types: list[Any], op: Op | None) -> None:
        self.kind, self.type, self.types, self.count = kind, type_, types, len(types)
        self.made = None if op is None else op.made
        #: What makes a parameter or buffer of a name.
        self.leaf = LEAVES[kind].of if kind in ("parameter", "buffer") and op is None else None


class Tables:
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
        self.attributes = Attributes(limits.depth, self._type_at, self._graph_at)
        self.strings = self._strings()
        self.paths = self._paths()
        self.types = [self._type(t, f"types[{i}]") for i, t in enumerate(listed(document["types"], "types"))]
        self.type_count = len(self.types)
        if len(set(self.types)) != self.type_count:
            raise FileError("types: one is there twice")
        self.op_rows = listed(document["ops"], "ops")
        self.ops: dict[int, Op | str] = {}
        self.call_rows = listed(document["calls"], "calls")
        self.calls: dict[int, Call] = {}
        self.constants: list[Value] = []
        self.constant_names: list[str] = []
        self.weights: list[WeightRow] = []
        self.graphs: list[Graph] = []
        self.extra: list[Value] = []
        self.making = 0  # graphs may hold those before them only

    def _strings(self) -> list[str]:
        found = listed(self.document["strings"], "strings")
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
            size = len(path)
            left -= size
            if size > longest or left < 0:
                raise FileError(f"paths: row {row} is a name of {size} characters")
            found.append(path)
        return found

    def _type(self, row: Any, where: str) -> TensorType:
        name, *shape = listed(row, where) or [None]
        dtype = DTYPE_OF.get(name) if isinstance(name, str) else None
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
        return self.types[integer(place, where, 0, len(self.types))]

    def _types_at(self, place: Any, where: str) -> Any:
        """One type, or those of several results."""
        if isinstance(place, list):
            return ResultTypes([self._type_at(p, where) for p in cast(list[Any], place)])
        return self.types[place] if type(place) is int and 0 <= place < self.type_count else self._type_at(place, where)

    def _constants(self) -> list[Value]:
        return [
            self._constant(row, f"constants[{i}]")
            for i, row in enumerate(listed(self.document["constants"], "constants"))
        ]

    def _constant(self, row: Any, where: str) -> Value:
        place, data, *name = listed(row, where) if len(listed(row, where)) >= 2 else [None, None]
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
            integer(row.alias, f"{where}: row {i}", 0, len(found) + 1)
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

    def _graph_at(self, place: Any, where: str) -> Graph:
        """A graph before the one that is made."""
        return self.graphs[integer(place, where, 0, self.making)]

    def _op(self, place: Any, where: str) -> Op | str:
        place = integer(place, where, 0, len(self.op_rows))
        found = self.ops.get(place)
        if found is None:
            found = self.ops[place] = self._new_op(self.op_rows[place], f"ops[{place}]")
        return found

    def _new_op(self, row: Any, where: str) -> Op | str:
        name, *rest = listed(row, where) or [None]
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
        said = keyed(rest[0], set(kind.fields), where)
        given = {f: self.attributes.read(said[f], f"{where}.{f}") for f in kind.fields}
        hints = hints_of(kind)
        for field, value in given.items():
            if not fits(value, hints.get(field, Any)):
                raise FileError(f"{where}.{field}: {value!r:.80} isn't what {name} takes")
        return _guarded(lambda: kind(**given), where)

    def _call(self, place: int, where: str) -> Call:
        if not 0 <= place < len(self.call_rows):
            raise FileError(f"{where}: there is no call {place}")
        row, own = self.call_rows[place], f"calls[{place}]"
        if row.__class__ is not list or len(row) < 2:
            raise FileError(f"{own}: must be an op, the type of its result and those of its arguments")
        op = self._op(row[0], own)
        type_, *types = [self._types_at(t, own) for t in row[1:]]
        if isinstance(op, str):
            if types or isinstance(type_, ResultTypes):
                raise FileError(f"{own}: {op} takes no arguments, and has one type")
            return Call(op, type_, [], None)
        key = tuple(types)
        inferred = op.inferred.get(key)
        if inferred is None:
            check_body(op, key, type_, self.limits, own)
            inferred = _guarded(lambda: op.infer(*key), own)
        if inferred != type_:
            for one in inferred if isinstance(inferred, ResultTypes) else (inferred,):
                check_type(one, self.limits, own)
            raise FileError(f"{own}: {op.name} gives {inferred}, the file says {type_}")
        op.inferred[key] = inferred
        return Call(op.name, inferred, types, op)


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
