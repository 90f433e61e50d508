"""How a network's inputs and outputs nest: tuples, lists, dicts, named tuples and dataclasses of tensors.

>>> leaves, tree = flatten({"a": 1.5, "b": (2.5, None)}, lambda v: isinstance(v, float))
>>> leaves, tree.names("out"), tree.unflatten([10, 20])
([1.5, 2.5], ['out.a', 'out.b.0'], {'a': 10, 'b': (20, None)})
"""

from __future__ import annotations

import dataclasses
import importlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from tdagger.errors import InputError

#: Containers of other libraries, as results: type name -> function that gives what to flatten instead (a transformers
#: Cache becomes nested tuples). Importers add to it; a name is ``module.qualname`` of the type or a base.
converters: dict[str, Callable[[Any], Any]] = {}

#: Objects of other libraries that a network takes, and so must be made again: type name -> function that adds what
#: isn't kept. Kept are the attributes that are tensors, containers, constants or classes; no tensors in ``_names``.
objects: dict[str, Callable[[Any], None]] = {}


class Fields(dict[str, Any]):
    """What a converter gives for an object whose parts have names: it comes back as a tuple."""


class Tree(NamedTuple):
    """A nested structure without its tensors.

    ``kind`` is leaf, constant, tuple, list, dict, namedtuple, dataclass, object (one of :data:`objects`) or named (a
    class, found by its name); ``type`` is the container's type as ``module:qualname`` where it isn't a builtin,
    ``constant`` the value of a constant.
    """

    kind: str
    keys: tuple[Any, ...] = ()
    children: tuple[Tree, ...] = ()
    type: str = ""
    constant: Any = None

    def names(self, prefix: str) -> list[str]:
        """A name for each leaf: the prefix and the keys on the way, joined by dots."""
        if self.kind == "leaf":
            return [prefix]
        if self.kind == "object":  # the only list of an object is named as the object is
            holding = [child for child in self.children if child.leaf_count()]
            if len(holding) == 1 and holding[0].kind == "list":
                return holding[0].names(prefix)
        return [
            name
            for key, child in zip(self.keys, self.children, strict=True)
            for name in child.names(f"{prefix}.{key}" if prefix else str(key))
        ]

    def leaf_count(self) -> int:
        """How many leaves there are."""
        return 1 if self.kind == "leaf" else sum([child.leaf_count() for child in self.children])

    def what(self) -> str:
        """What it is, in words: ``a tensor``, ``a tuple of 2``, ``a dict of 'a', 'b'``."""
        match self.kind:
            case "leaf":
                return "a tensor"
            case "constant":
                return repr(self.constant)
            case "tuple" | "list":
                return f"a {self.kind} of {len(self.keys)}"
            case "dict":
                own = self.type.rpartition(":")[2] or "dict"
                return f"a {own} of {', '.join(map(repr, self.keys)) or 'nothing'}"
            case _:
                return f"a {self.type.rpartition(':')[2]}"

    def unflatten(self, leaves: list[Any]) -> Any:
        """The structure with ``leaves`` in it; InputError if there are too few or too many."""
        if len(leaves) != self.leaf_count():
            raise InputError(f"a {self.kind} takes {self.leaf_count()} tensors, got {len(leaves)}")
        return self._fill(iter(leaves))

    def _fill(self, leaves: Iterator[Any]) -> Any:
        match self.kind:
            case "leaf":
                return next(leaves)
            case "constant":
                return self.constant
            case "named":
                return self._container()
            case _:
                return self._build([c._fill(leaves) for c in self.children])

    def _build(self, items: list[Any]) -> Any:
        match self.kind:
            case "tuple":
                return tuple(items)
            case "list":
                return items
            case "namedtuple":
                return self._container()._make(items)
            case "dataclass":
                return self._container()(**dict(zip(self.keys, items, strict=True)))
            case "object":
                return self._remake(dict(zip(self.keys, items, strict=True)))
            case _:
                pairs = dict(zip(self.keys, items, strict=True))
                return self._container()(pairs) if self.type else pairs

    def _remake(self, attributes: dict[str, Any]) -> Any:
        kind = self._container()
        new = kind.__new__(kind)
        new.__dict__.update(attributes)
        finish = _found(objects, new)
        if finish is not None:
            finish(new)
        return new

    def plain(self) -> Tree:
        """The same with dicts of what has tensors in the place of objects."""
        pairs = [(k, c.plain()) for k, c in zip(self.keys, self.children, strict=True)]
        if self.kind == "object":
            pairs = [(k, c) for k, c in pairs if c.leaf_count()]
            return Tree("dict", tuple(k for k, _ in pairs), tuple(c for _, c in pairs))
        return self._replace(children=tuple(c for _, c in pairs))

    def _container(self) -> Any:
        return container_of(self)


def container_of(tree: Tree) -> Any:
    """The class of a structure's container; InputError if it can't be found."""
    return tree.type.found if isinstance(tree.type, LocalName) else named(tree.type)


class LocalName(str):
    """The name of a class that can't be found by it, one made inside a function: it has the class itself."""

    found: type

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def named(name: str) -> Any:
    """The class that ``module:qualname`` names; InputError if there is none."""
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as e:
        raise InputError(f"the class {name} can't be found ({e}): define it at the top of an importable module") from e
    return found


def _type_name(value: Any) -> str:
    kind = cast(type[Any], type(value))
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        if named(name) is kind:
            return name
    except InputError:  # made inside a function, or deleted since
        pass
    local = LocalName(name)
    local.found = kind
    return local


def _children(value: Any) -> tuple[str, str, tuple[Any, ...], list[Any]] | None:
    """Kind, type, keys and items of a container; None if it isn't one."""
    if isinstance(value, tuple | list):
        items = list(cast(Iterable[Any], value))
        fields: tuple[str, ...] | None = getattr(cast(object, value), "_fields", None)
        if fields is not None:
            return "namedtuple", _type_name(value), fields, items
        return "tuple" if isinstance(value, tuple) else "list", "", tuple(range(len(items))), items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(
            f.name for f in dataclasses.fields(value) if getattr(value, f.name) is not None or f.default is not None
        )
        made = [f.name for f in dataclasses.fields(value) if not f.init and f.name in names]
        if made:
            raise InputError(
                f"a {type(value).__qualname__} can't be made again: {', '.join(made)} is no argument of its class; "
                "give the field init=True, or return a tuple or dict"
            )
        return "dataclass", _type_name(value), names, [getattr(value, n) for n in names]
    if isinstance(value, Fields):
        return "tuple", "", tuple(value), list(value.values())
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value)
        plain = type(pairs) in (dict, defaultdict)  # what one gives for other keys is no part of a result
        return "dict", "" if plain else _type_name(pairs), tuple(pairs), list(pairs.values())
    return None


def aligned(expected: Tree, given: Tree, leaves: Sequence[Any], where: str) -> list[Any]:
    """The leaves of ``given`` in the order of ``expected``: the entries of dicts are matched by their keys.

    InputError names, by their place, keys that are missing or too many, and what is nested otherwise.
    """
    if expected.kind != given.kind or expected.type != given.type:
        raise InputError(f"{where} must be {expected.what()}, got {given.what()}")
    if expected.kind == "constant" and (
        type(expected.constant) is not type(given.constant) or repr(expected.constant) != repr(given.constant)
    ):
        raise InputError(f"{where} was {expected.constant!r} when the network was imported, got {given.constant!r}")
    if expected.kind == "leaf":
        return list(leaves)
    if expected.kind in ("tuple", "list") and len(expected.keys) != len(given.keys):
        raise InputError(f"{where} must be {expected.what()}, got {given.what()}")
    missing = [k for k in expected.keys if k not in given.keys]
    unknown = [k for k in given.keys if k not in expected.keys]
    if missing or unknown:
        said = [f"{what} {', '.join(map(repr, keys))}" for what, keys in (("lacks", missing), ("has", unknown)) if keys]
        raise InputError(f"{where} {' and '.join(said)}: its keys must be {', '.join(map(repr, expected.keys))}")
    parts: dict[Any, tuple[Tree, Sequence[Any]]] = {}
    at = 0
    for key, child in zip(given.keys, given.children, strict=True):
        count = child.leaf_count()
        parts[key] = child, leaves[at : at + count]
        at += count
    out: list[Any] = []
    for key, child in zip(expected.keys, expected.children, strict=True):
        out += aligned(child, *parts[key], f"{where}.{key}")
    return out


def _found(table: Mapping[str, Any], value: Any) -> Any:
    """What a table has for a value's type or the nearest base of it; None if nothing."""
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__]
    return next((table[n] for n in names if n in table), None)


def flatten(
    value: Any, is_leaf: Callable[[Any], bool], where: str = "inputs", result: bool = False
) -> tuple[list[Any], Tree]:
    """The leaves of a nested structure in order, and the structure. Numbers, strings and None are constants.

    A ``result`` need not be made again by its class: it has no :data:`objects`, only what converters give for them.
    InputError names what is neither a leaf, a container nor a constant, and where it is.
    """
    if is_leaf(value):
        return [value], Tree("leaf")
    if not result and _found(objects, value) is not None:
        return _attributes(value, is_leaf, where)
    convert = _found(converters, value)
    if convert is not None:
        return flatten(convert(value), is_leaf, where, result)
    found = _children(value)
    if found is None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return [], Tree("constant", constant=value)
        what = f"{type(value).__module__}.{type(value).__qualname__}"
        takes = "give tensors, numbers, or tuples, lists, dicts and dataclasses of them"
        raise InputError(f"{where}: can't take a {what}; {takes}")
    kind, type_, keys, items = found
    leaves: list[Any] = []
    children: list[Tree] = []
    for key, item in zip(keys, items, strict=True):
        own, child = flatten(item, is_leaf, f"{where}.{key}", result)
        leaves += own
        children.append(child)
    return leaves, Tree(kind, keys, tuple(children), type_)


def _attributes(value: Any, is_leaf: Callable[[Any], bool], where: str) -> tuple[list[Any], Tree]:
    """The leaves of an object of :data:`objects`, and what of its attributes is kept."""
    leaves: list[Any] = []
    kept: dict[str, Tree] = {}
    attributes = cast(dict[str, Any], vars(value))
    for name, item in attributes.items():
        if isinstance(item, type):
            kept[name] = Tree("named", type=f"{item.__module__}:{item.__qualname__}")
            continue
        try:
            own, tree = flatten(item, is_leaf, f"{where}.{name}")
        except InputError:  # a device, a stream: not kept, see objects
            continue
        if not (own and name.startswith("_")):
            leaves += own
            kept[name] = tree
    return leaves, Tree("object", tuple(kept), tuple(kept.values()), _type_name(value))
