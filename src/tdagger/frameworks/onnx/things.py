"""What names of a model stand for that are no tensors of one type: sequences, what is left out, lengths by data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tdagger.errors import InputError, UnsupportedError
from tdagger.frameworks.onnx.file.tensors import DTYPES
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops import structure as s
from tdagger.ops.elementwise import where
from tdagger.ops.source import iota
from tdagger.tree import Tree
from tdagger.types import DType, TensorType


class Listed(NamedTuple):
    """A sequence of tensors, of which it is known how many there are."""

    items: tuple[Value, ...]
    dtype: DType


class Absent(NamedTuple):
    """An optional tensor or sequence that isn't there."""


class Varying(NamedTuple):
    """A tensor of which so many entries count, by dimension; what is behind them says nothing."""

    value: Value
    lengths: Mapping[int, Value]


#: A tensor, or one of those.
Thing = Value | Listed | Absent | Varying
#: What a value holds, if that is known.
Read = Callable[[Value], Array | None]


def what(thing: Thing) -> str:
    """What something is, for an error."""
    if isinstance(thing, Listed):
        return f"a sequence of {len(thing.items)} tensors"
    if isinstance(thing, Absent):
        return "an optional one that isn't there"
    if isinstance(thing, Varying):
        shape = [f"<={n}" if i in thing.lengths else str(n) for i, n in enumerate(thing.value.shape)]
        return f"{thing.value.dtype}[{' '.join(shape)}], whose length depends on data"
    return str(thing.type)


def plain_of(thing: Thing, name: str) -> Value:
    """A tensor; UnsupportedError for what isn't one."""
    if not isinstance(thing, Value):
        raise UnsupportedError(f"{name} is {what(thing)}: it takes a tensor of one type")
    return thing


def blanked(thing: Thing, name: str, by: int = 0) -> Value:
    """A tensor, with zeros (or another number) behind the entries that count; UnsupportedError for what isn't one."""
    if not isinstance(thing, Varying):
        return plain_of(thing, name)
    x = thing.value
    for axis, count in thing.lengths.items():
        counts = s.unsqueeze(iota(x.shape[axis]) < count, [i for i in range(x.rank) if i != axis])
        x = where(counts, x, by)
    return x


def kinds_of(thing: Thing) -> list[TensorType]:
    """The types of the tensors in something."""
    if isinstance(thing, Listed):
        return [v.type for v in thing.items]
    if isinstance(thing, Absent):
        return []
    return [thing.value.type if isinstance(thing, Varying) else thing.type]


def type_of(thing: Thing) -> TensorType | tuple[TensorType, ...] | None:
    """The type of a tensor, those of a sequence's tensors, None for what isn't there."""
    if isinstance(thing, Listed):
        return tuple([v.type for v in thing.items])
    return None if isinstance(thing, Absent) else kinds_of(thing)[0]


# --- inputs ------------------------------------------------------------------------------------------------


class Nested(NamedTuple):
    """The inputs of a model that are sequences or optional.

    ``lists`` are the names of the tensors of each sequence, None for an optional one that isn't there; ``declared`` are
    what stands for the inputs, in their order; ``parts`` all of the tensors' names.
    """

    lists: Mapping[str, list[str] | None]
    declared: Mapping[str, list[Any]]
    dtypes: Mapping[str, DType]

    @property
    def parts(self) -> set[str]:
        """The names of tensors of sequences."""
        return {n for names in self.lists.values() for n in names or ()}

    def things(self, given: Mapping[str, Value]) -> dict[str, Thing]:
        """What the inputs stand for."""
        return {
            n: Absent() if names is None else Listed(tuple([given[p] for p in names]), self.dtypes[n])
            for n, names in self.lists.items()
        }

    def arguments(self, names: Sequence[str]) -> Tree:
        """How the network is called: with a list for a sequence, None for what isn't there."""
        own = [Tree("leaf") if n not in self.lists else _tree_of(self.lists[n]) for n in names]
        args = Tree("tuple", tuple(range(len(own))), tuple(own))
        return Tree("tuple", (0, 1), (args, Tree("dict")))


def _tree_of(names: list[str] | None) -> Tree:
    return Tree("constant") if names is None else list_of(len(names))


def list_of(count: int) -> Tree:
    """A list of tensors."""
    return Tree("list", tuple(range(count)), (Tree("leaf"),) * count)


def apart(graph: Any, shapes: Mapping[str, Any]) -> tuple[Nested, dict[str, Any]]:
    """The inputs that are sequences or optional, of the shapes that the caller says, and all shapes by tensors' names.

    InputError asks for shapes of those that have none.
    """
    told, lists, declared, dtypes = dict(shapes), dict[str, Any](), dict[str, list[Any]](), dict[str, DType]()
    for info in graph.input:
        kind, name = info.type, info.name
        optional = kind.WhichOneof("value") == "optional_type"
        kind = kind.optional_type.elem_type if optional else kind
        which = kind.WhichOneof("value")
        if which == "sequence_type":
            kind = kind.sequence_type.elem_type
        if (which != "sequence_type" and not optional) or kind.WhichOneof("value") != "tensor_type":
            continue
        if kind.tensor_type.elem_type not in DTYPES:
            continue
        if name not in told:
            what_ = "a shape for each of its tensors" if which == "sequence_type" else "its shape"
            more = ", or None if it isn't there" if optional else ""
            raise InputError(f"input {shown(name)} is {which if not optional else 'optional'}: give {what_}{more}, "
                             f"inputs={{{shown(name)!r}: ...}}")  # fmt: skip
        given = told.pop(name)
        dtypes[name] = DTYPES[kind.tensor_type.elem_type]
        if given is None and optional:
            lists[name], declared[name] = None, []
        elif which == "sequence_type":
            if given is None:
                raise InputError(f"input {shown(name)} is a sequence and can't be left out")
            names = lists[name] = [f"{name}.{i}" for i in range(len(given))]
            told |= dict(zip(names, given, strict=True))
            declared[name] = names
        else:
            told[name] = given
            declared[name] = [name]
    return Nested(lists, declared, dtypes), told
