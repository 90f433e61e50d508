"""What a script holds while it is read, as one graph of objects that can be copied, compared and put together.

A walk goes through lists, dicts, tensors and the memory they are views of, always in the same order. What it meets is
told as marks (what must be the same for two states to be of one kind) and leaves (values and numbers that may differ).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten.calls import constant
from tdagger.frameworks.torch.aten.functional import Apart, Cell, Ref
from tdagger.frameworks.torch.script.numbers import Number, kind_of, value_of
from tdagger.library.training import stop_gradient
from tdagger.op import Value
from tdagger.ops.elementwise import where
from tdagger.ops.indexing import gather, scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import broadcast_to, concat
from tdagger.types import TensorType

#: Where something stands: the way from the root to it.
Trail = tuple[Any, ...]


class Leaf(NamedTuple):
    """A value, a tensor or a number, and where it stands."""

    trail: Trail
    x: Any

    @property
    def type(self) -> TensorType:
        """Its type as a slot."""
        return self.value.type

    @property
    def value(self) -> Value:
        """It as a value."""
        if isinstance(self.x, Value):
            return self.x
        return constant(self.x) if isinstance(self.x, torch.Tensor) else value_of(self.x)


class Entry(Ref):
    """The entry of a tensor that the data decides, or several from it on; writing there writes to the tensor."""

    __slots__ = ("base", "dim", "index", "seen")

    def __init__(self, base: Ref, dim: int, index: Value, count: int | None = None) -> None:
        whole = base.read()
        self.base, self.dim = base, dim % whole.rank
        size = const(whole.shape[self.dim], "i64")
        negative = index < const(0, "i64")
        if count is None:
            self.index = where(negative, index + size, index)
        else:  # which counts from the end only if all do; else it is beyond the end, and refused
            zero, shifted = const(0, "i64"), index + size
            behind = where(shifted < zero, size, shifted)
            first = where(index + const(count, "i64") < zero, behind, where(negative, size, index))
            self.index = broadcast_to(first, (count,)) + iota(count)
        self.seen = base.cell.version
        super().__init__(gather(whole, self.index, self.dim))

    def read(self) -> Value:
        """The entry as the tensor has it now."""
        whole = self.base.read()
        if self.base.cell.version != self.seen:
            self.seen = self.base.cell.version
            self._value = gather(whole, self.index, self.dim)
        return self._value

    def write(self, new: Value) -> None:
        """Put the entry into the tensor."""
        self.base.write(scatter(self.base.read(), self.index, new, self.dim))

    def view(self, value: Value, always: bool = False) -> Ref:
        """A tensor made of the entry; it can't be read any more once the tensor is written."""
        ref = Ref(value)
        ref.apart = Apart(self.base.cell, self.base.cell.version)
        return ref


class Given(Cell):
    """The memory of an input; ``written`` gets its name once anything is written there."""

    __slots__ = ("name", "written")

    def __init__(self, value: Value, name: str, written: set[str]) -> None:
        super().__init__(value)
        self.name, self.written = name, written

    def put(self, new: Value) -> None:
        """Write ``new`` in the place of the whole."""
        self.written.add(self.name)
        super().put(new)


class Growing:
    """A list that grows in a loop on data: a tensor of as many entries as it may have, and how many it has."""

    def __init__(self, buffer: Value, length: Any, kind: str, checked: bool = False) -> None:
        self.buffer, self.length = buffer, length
        #: Whether it may come to have more, so that each new entry is checked.
        self.checked = checked
        #: The type of numbers in it; "" if they are tensors.
        self.kind = kind

    @property
    def bound(self) -> int:
        """The most entries."""
        return self.buffer.shape[0]


class Varying(Ref):
    """A tensor of which only so many entries of the first axis count."""

    __slots__ = ("length",)

    def __init__(self, value: Value, length: Value) -> None:
        super().__init__(value)
        self.length = length


class Uninitialised:
    """What a script has under a name that is never read before it is given."""

    path = "nothing yet"


class Union:
    """An attribute that is of one of several kinds: ``tag`` says which, ``kinds`` are what it is then."""

    def __init__(self, tag: Any, kinds: list[Any]) -> None:
        self.tag, self.kinds = tag, kinds


class Walk:
    """One walk through objects, which makes them anew with ``leaf(leaf)`` in the place of each leaf."""

    def __init__(
        self, leaf: Callable[[Leaf], Any] = lambda found: found.x, instead: Callable[[Trail, Any], Any] | None = None,
        copied: Callable[[Ref, Ref], None] | None = None, aliased: bool = True,
    ) -> None:  # fmt: skip
        #: Whether it matters which tensors share memory: something is written.
        self.aliased = aliased
        self.leaf, self.instead, self.copied = leaf, instead, copied
        self.marks: list[tuple[Trail, Any]] = []
        self.leaves: list[Leaf] = []
        self._made: dict[int, tuple[int, Any, Any]] = {}
        self._views: list[tuple[Ref, Ref]] = []

    def all(self, roots: Iterable[tuple[Trail, Any]]) -> list[Any]:
        """The roots anew."""
        found = [self.one(trail, x) for trail, x in roots]
        for old, new in self._views:
            if self.copied is not None:
                self.copied(old, new)
        return found

    def _leaf(self, trail: Trail, x: Any, mark: Any) -> Any:
        found = Leaf(trail, x)
        self.marks.append((trail, mark))
        self.leaves.append(found)
        return self.leaf(found)

    def one(self, trail: Trail, x: Any) -> Any:
        """One object anew."""
        if self.instead is not None and isinstance(x, list | Uninitialised):
            x = self.instead(trail, x)
        if isinstance(x, Number | bool | int | float):
            return self._leaf(trail, x, ("number", kind_of(x)))
        if isinstance(x, torch.Tensor):
            value = constant(x)
            self.marks += [(trail, ("ref", (), value.type)), (trail, ("cell", "", None, False))]
            new = self._leaf(trail, value, value.type)
            return x if new is value else Ref(new)
        if isinstance(x, tuple):
            self.marks.append((trail, ("tuple", len(x))))
            return tuple([self.one((*trail, i), v) for i, v in enumerate(x)])
        if not isinstance(x, list | dict | Ref | Cell | Growing | Union):
            told = x if isinstance(x, str | torch.device | None) else getattr(x, "path", id(x))
            self.marks.append((trail, ("is", told)))
            return x
        if id(x) in self._made:
            place, _, new = self._made[id(x)]
            self.marks.append((trail, ("same", place)))
            return new
        return self._mutable(trail, x)

    def _keep(self, x: Any, new: Any) -> Any:
        if not self.aliased and isinstance(x, Ref | Cell):
            return new
        self._made[id(x)] = (len(self._made), x, new)
        return new

    def _mutable(self, trail: Trail, x: Any) -> Any:
        if isinstance(x, Ref):
            return self._ref(trail, x)
        if isinstance(x, Cell):
            return self._cell(trail, x)
        if isinstance(x, list):
            self.marks.append((trail, ("list", len(x))))
            out: list[Any] = self._keep(x, [])
            out += [self.one((*trail, i), v) for i, v in enumerate(x)]
            return out
        if isinstance(x, dict):
            self.marks.append((trail, ("dict", *x)))
            found: dict[Any, Any] = self._keep(x, {})
            for key, v in x.items():
                found[key] = self.one((*trail, key), v)
            return found
        if isinstance(x, Growing):
            self.marks.append((trail, ("growing", x.kind)))
            grown = self._keep(x, Growing(x.buffer, x.length, x.kind, x.checked))
            grown.buffer = self._leaf((*trail, "entries"), x.buffer, x.buffer.type)
            grown.length = self.one((*trail, "length"), x.length)
            return grown
        self.marks.append((trail, ("union", len(x.kinds))))
        union = self._keep(x, Union(None, []))
        union.tag = self.one((*trail, "kind"), x.tag)
        union.kinds = [self.one((*trail, i), v) for i, v in enumerate(x.kinds)]
        return union

    def _ref(self, trail: Trail, x: Ref) -> Ref:
        if isinstance(x, Entry):
            self.marks.append((trail, ("entry", x.dim)))
            value = x.read()
            new: Ref = self._keep(x, Entry.__new__(Entry))
            Ref.__init__(new, value)
            assert isinstance(new, Entry)
            new.base, new.dim = self.one((*trail, "base"), x.base), x.dim
            new.index = self._leaf((*trail, "index"), x.index, x.index.type)
            new.seen = -1
            return new
        if isinstance(x, Varying):
            self.marks.append((trail, ("varying",)))
            length = self._leaf((*trail, "length"), x.length, x.length.type)
            return self._keep(x, Varying(self._leaf(trail, x.read(), x.read().type), length))
        try:
            value = x.read()
        except UnsupportedError as e:
            self.marks.append((trail, ("stale", str(e))))
            return self._keep(x, x)
        ops = x.ops
        self.marks.append((trail, ("ref", ops, value.type)))
        new = self._keep(x, Ref(value))
        new.cell = self.one(trail, x.cell)
        new.ops = ops
        same = new.cell.value is x.cell.value
        new._value = value if same else new._replay()[-1]
        new._version = new.cell.version
        if x.apart is not None:
            new.apart = Apart(self.one((*trail, "whole"), x.apart.cell), 0)
            new.apart.version = new.apart.cell.version
        self._views.append((x, new))
        return new

    def _cell(self, trail: Trail, x: Cell) -> Cell:
        if x.of is not None:
            x.sync()
        new: Cell = Given(x.value, x.name, x.written) if isinstance(x, Given) else Cell(x.value)
        self._keep(x, new)
        new._leaf = x._leaf
        self.marks.append((trail, ("cell", x.stale, x._leaf, x.of is not None)))
        new.stale, new.version = x.stale, x.version
        if x.of is None:
            new.value = self._leaf(trail, x.value, x.value.type)
            return new
        new.of = self.one((*trail, "of"), x.of)
        same = new.of.read() is x.of.read()
        new.value = x.value if same else stop_gradient(new.of.read())
        new._seen = new.of.cell.version
        return new


def described(roots: Iterable[tuple[Trail, Any]], aliased: bool = True) -> Walk:
    """A walk that only looks."""
    walk = Walk(aliased=aliased)
    walk.all(roots)
    return walk


def owned(x: Any) -> Any:
    """The same with tensors that are views of none: what a script keeps until its next run."""
    if isinstance(x, list | tuple):
        return type(x)([owned(v) for v in x])
    if isinstance(x, dict):
        return {k: owned(v) for k, v in x.items()}
    return Ref(x.read()) if isinstance(x, Ref) and not isinstance(x, Varying) else x


def cells(x: Any) -> list[Cell]:
    """The memory behind the tensors of something."""
    if isinstance(x, Ref):
        return [x.cell]
    parts = x if isinstance(x, list | tuple) else x.values() if isinstance(x, dict) else ()
    return [c for v in parts for c in cells(v)]


def filled(value: Value, bound: int) -> Value:
    """Entries ``[n ...]`` with zeros behind them: ``[bound ...]``."""
    nothing = broadcast_to(const(0, value.dtype), (bound - value.shape[0], *value.shape[1:]))
    return concat([value, nothing], 0) if bound > value.shape[0] else value
