"""How a network is called, from a file: classes are those the reader of the file names, or plain ones of their kind."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from tdagger.errors import FileError, InputError
from tdagger.file.limits import Limits
from tdagger.names import is_identifier, shown
from tdagger.tree import LocalName, Tree

_KINDS = frozenset({"tuple", "list", "dict", "namedtuple", "dataclass", "object", "named"})


class FileName(LocalName):
    """The name of a class as a file has it, with the class that stands for it: nothing is imported by its name."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _stranger, (str(self), getattr(self, "fields", None), self.kind)

    kind: str
    fields: tuple[Any, ...]


class Missing:
    """Stands for a class that has to be made again as it was, and isn't known here."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise InputError(f"{cls.__doc__}: give the class, td.load(path, classes=[...])")


def _stranger(name: str, fields: tuple[Any, ...], kind: str) -> FileName:
    """A name whose class is a plain one of its kind."""
    found = FileName(name)
    found.kind, found.fields = kind, fields
    last = name.rpartition(".")[2].rpartition(":")[2]
    if kind == "dict":
        found.found = dict
    elif kind == "dataclass":
        found.found = SimpleNamespace
    elif kind == "namedtuple" and all(isinstance(f, str) and is_identifier(f) and f[0] != "_" for f in fields):
        found.found = cast(Any, collections).namedtuple(last if is_identifier(last) else "Result", fields)
    else:
        found.found = type("Missing", (Missing,), {"__doc__": f"the network takes a {shown(name)}"})
    return found


class Classes(NamedTuple):
    """The classes a signature may name, by ``module:qualname``, and the names that may not be imported.

    None is all of them: the document is a stranger's.
    """

    known: Mapping[str, type]
    strangers: frozenset[str] | None = None


class Trees:
    """The structures of a document, each made once."""

    def __init__(
        self,
        rows: list[Any],
        attribute: Callable[[Any, str], Any],
        limits: Limits,
        classes: Classes,
    ) -> None:
        self.attribute, self.limits, self.classes = attribute, limits, classes
        self.made: list[Tree] = []
        self.sizes: list[tuple[int, int]] = []  # how many structures are in each, and how deep
        for i, row in enumerate(rows):
            self.made.append(self._tree(row, f"trees[{i}]"))

    def at(self, place: Any, where: str) -> Tree:
        """The structure at a place."""
        if type(place) is not int or not 0 <= place < len(self.made):
            raise FileError(f"{where}: there is no structure {place!r:.40}")
        return self.made[place]

    def _tree(self, row: Any, where: str) -> Tree:
        if not isinstance(row, list) or not row:
            raise FileError(f"{where}: must be a list that begins with a kind")
        kind, *rest = cast(list[Any], row)
        if kind == "leaf" and not rest:
            self.sizes.append((1, 1))
            return Tree("leaf")
        if kind == "constant" and len(rest) == 1:
            constant = self.attribute(rest[0], where)
            if not (constant is None or isinstance(constant, bool | int | float | complex | str | bytes)):
                raise FileError(f"{where}: a constant is a number, a string or null")
            self.sizes.append((1, 1))
            return Tree("constant", constant=constant)
        if (
            not isinstance(kind, str)
            or kind not in _KINDS
            or len(rest) != 3
            or not isinstance(rest[0], list)
            or not isinstance(rest[2], str)
        ):
            raise FileError(f"{where}: must be [kind, children, keys, type], a leaf or a constant; not {row!r:.80}")
        places, said, name = cast(tuple[list[Any], Any, str], tuple(rest))
        children = tuple([self.at(p, where) for p in places])
        inside: list[tuple[int, int]] = [self.sizes[p] for p in places]
        size, depth = sum([s for s, _ in inside], 1), max([d for _, d in inside], default=0) + 1
        if depth > self.limits.depth or size > self.limits.nodes_free:
            raise FileError(f"{where}: {size} structures, nested {depth} deep, are more than a call has")
        self.sizes.append((size, depth))
        keys = tuple(range(len(children))) if said is None else self.attribute(said, where)
        if not isinstance(keys, tuple) or len(cast(Any, keys)) != len(children):
            raise FileError(f"{where}: {len(children)} children need as many keys")
        keys = cast(tuple[Any, ...], keys)
        if len(set(keys)) != len(keys):
            raise FileError(f"{where}: a key is there twice")
        if kind in ("dataclass", "namedtuple", "object") and not all(isinstance(k, str) for k in keys):
            raise FileError(f"{where}: the fields of a {kind} are called by strings")
        if bool(name) != (kind not in ("tuple", "list")) and not (kind == "dict" and not name):
            raise FileError(f"{where}: a {kind} has {'a' if not name else 'no'} type")
        if len(name) > self.limits.name:
            raise FileError(f"{where}: a name of {len(name)} characters")
        return Tree(kind, keys, children, self._type(kind, keys, name))

    def _type(self, kind: str, keys: tuple[Any, ...], name: str) -> str:
        known, strangers = self.classes
        if not name or (strangers is not None and name not in strangers):
            return name
        found = _stranger(name, keys, kind)
        if name in known:
            found.found = known[name]
        return found
