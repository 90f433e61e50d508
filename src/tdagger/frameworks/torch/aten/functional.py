"""Views and in-place writes turned into pure values.

A torch tensor may be a view of another, and writing to either changes both. Here a tensor is a
:class:`Ref`: a cell that holds the value of the base, and the structural ops that make the view of it. Reading
applies the ops to what the cell holds now; writing puts the new part back into the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from tdagger.composite import Composite
from tdagger.errors import InputError, UnsupportedError, warn
from tdagger.frameworks.indices import put_slice
from tdagger.library import stop_gradient, straight_through
from tdagger.names import shown
from tdagger.op import Op, Value
from tdagger.ops.elementwise import Bitcast, Unary, cast, complex_, imag, real
from tdagger.ops.source import Parameter
from tdagger.ops.structure import Group, Permute, Repeat, Slice, Ungroup, unsqueeze


def steps(whole: Value, part: Value) -> list[Value] | None:
    """The values from ``whole`` (left out) to ``part``, each made of the one before; None if it wasn't."""
    chain: list[Value] = []
    while part is not whole:
        if len(part.args) != 1:
            return None
        chain.append(part)
        part = part.args[0]
    return chain[::-1]


def write_back(whole: Value, part: Value, new: Value) -> Value:
    """``whole`` with ``new`` where ``part`` was taken from it; UnsupportedError if part is no view of it."""
    chain = steps(whole, part)
    if chain is None:
        raise UnsupportedError(f"can't write through {part!r}: it is not a view of {whole!r}")
    for value in reversed(chain):
        new = _put(value.op, value.args[0], new)
    return new


def _put(op: Op, old: Value, new: Value) -> Value:
    """``old`` with ``new`` in the place of ``op(old)``."""
    if isinstance(op, Group) and isinstance(old.op, Slice):  # one entry was selected: of several 1s it tells which
        taken = [i for i, bounds in enumerate(old.op.bounds) if bounds is not None and old.shape[i] == 1]
        if len(taken) == old.rank - new.rank:
            return unsqueeze(new, taken)
    if isinstance(op, Permute | Group | Ungroup):
        return op.inverse(old.type)(new)
    if isinstance(op, Slice):
        return put_slice(op, old, new)
    if op.name in _OWN_INVERSE or (isinstance(op, Unary) and op.kind in _OWN_INVERSE):
        return op(new)
    if isinstance(op, Bitcast):
        return op.inverse(old.type)(new)
    if isinstance(op, Unary) and op.kind in ("real", "imag"):
        return complex_of(new, imag(old)) if op.kind == "real" else complex_of(real(old), new)
    if isinstance(op, Composite) and op.definition.name == "reshape":
        return op.inverse(old.type)(new)
    if isinstance(op, Composite):
        return write_back(old, op.definition.function(old, **op.attributes), new)
    if isinstance(op, Repeat):
        raise UnsupportedError("can't write to an expanded tensor: several of its elements are one; clone it first")
    raise UnsupportedError(f"can't write through {op}")


def complex_of(re: Value, im: Value) -> Value:
    """The complex numbers of two tensors of floats."""
    to = "f64" if re.dtype.name == "f64" else "f32"
    return complex_(cast(re, to), cast(im, to))


#: Ops that undo themselves.
_OWN_INVERSE = frozenset({"conj", "neg"})

#: Ops whose results share the memory of their argument in torch.
_VIEWS = frozenset({
    "permute", "group", "ungroup", "slice", "repeat", "reshape", "diagonal", "unfold", "stop_gradient", "bitcast",
})  # fmt: skip


def _is_view(value: Value) -> bool:
    op = value.op
    return op.name in _VIEWS or (isinstance(op, Unary) and op.kind in ("real", "imag", "conj", "neg"))


def _unseen(old: Value, new: Value) -> Value:
    """What a tensor is after a write through a detached one: ``new``, whose gradients go on to ``old``."""
    return straight_through(old, new) if old.dtype.is_float or old.dtype.is_complex else new


class Cell:
    """What a base tensor holds now; ``version`` counts the writes.

    A detached tensor has a cell of its own with the tensor it was detached ``of``: they share memory, so a write
    to one is a write to both; autograd sees none of what is written to the detached one.
    """

    __slots__ = ("_leaf", "_seen", "of", "stale", "value", "version")

    def __init__(self, value: Value, of: Ref | None = None) -> None:
        self.value = value
        #: Why it can't be read any more: it was written through what no ops here are the view of.
        self.stale = ""
        self._leaf = value if isinstance(value.op, Parameter) else None
        self.version = 0
        self.of = of
        self._seen = 0 if of is None else of.cell.version

    def sync(self) -> None:
        """Take over what was written to the tensor this was detached of."""
        if self.of is None:
            return
        self.of.cell.sync()
        if self.of.cell.version != self._seen:
            self._seen = self.of.cell.version
            self.value = stop_gradient(self.of.read())
            self.version += 1

    def put(self, new: Value) -> None:
        """Write ``new`` in the place of the whole; a parameter is written without gradients, and keeps its own."""
        self.value = new if self._leaf is None else straight_through(self._leaf, new)
        self.version += 1
        if self.of is not None:
            self.of.write(_unseen(self.of.read(), new))
            self._seen = self.of.cell.version


@dataclass
class Apart:
    """A cell, and its version when views were made of it that no ops here are: once it changes, they can't be read.

    Written through one of them, it is the cell that can't be read any more, and they go on.
    """

    cell: Cell
    version: int


class Ref:
    """A torch tensor: a cell, and the ops that make this view of it (none for the base itself)."""

    __slots__ = ("_value", "_version", "apart", "cell", "ops", "passed")

    def __init__(self, value: Value, cell: Cell | None = None, ops: tuple[Op, ...] = ()) -> None:
        self.cell = Cell(value) if cell is None else cell
        self.ops = ops
        self._value = value
        self._version = self.cell.version
        #: What this is a view of in torch though no ops say how.
        self.apart: Apart | None = None
        #: A value that was read, and the calls of modules that gave it back as it is.
        self.passed: tuple[Value, tuple[Any, ...]] | None = None

    def read(self) -> Value:
        """The value now; UnsupportedError if it is a view that can't follow a write."""
        if self.apart is not None and self.apart.cell.version != self.apart.version:
            raise UnsupportedError(f"{self._value.op} is a view of what was written to since: clone it first")
        if self.cell.stale:
            raise UnsupportedError(self.cell.stale)
        self.cell.sync()
        if self._version != self.cell.version:
            self._value = self._replay()[-1]
            self._version = self.cell.version
        return self._value

    def _replay(self) -> list[Value]:
        values = [self.cell.value]
        for op in self.ops:
            values.append(op(values[-1]))
        return values

    def write(self, new: Value) -> None:
        """Put ``new`` in the place of this view, in the cell: every view of the cell sees it."""
        if self.apart is not None:
            base = self.apart.cell
            base.stale = (
                f"{base.value.op} was written through {self._value.op}, a view of it in torch, and is read after that: "
                "clone it first"
            )
            base.version += 1
            self.apart.version = base.version
        self.cell.sync()
        values = self._replay()
        for op, old in zip(reversed(self.ops), reversed(values[:-1]), strict=True):
            new = _put(op, old, new)
        self.cell.put(new)

    def become(self, value: Value) -> Ref:
        """Turn this very tensor into a view of itself, of which ``value`` was just made (``x.squeeze_()``)."""
        other = self.view(value)
        self.cell, self.ops, self._value, self._version = other.cell, other.ops, other._value, other._version
        return self

    @property
    def is_contiguous(self) -> bool:
        """Whether the view lies in memory as a tensor of its own would."""
        scattered = any(op.name in ("permute", "slice", "repeat", "diagonal", "unfold") for op in self.ops)
        return not scattered and (self.cell.of is None or self.cell.of.is_contiguous)

    def view(self, value: Value, always: bool = False) -> Ref:
        """A tensor that shares this one's memory, of which ``value`` was just made; its own memory if not.

        ``always``: it does share memory in torch, also if no ops here say how.
        """
        chain = steps(self.read(), value)
        if chain is None or not all(map(_is_view, chain)):
            ref = Ref(value)
            ref.apart = self.apart or (Apart(self.cell, self.cell.version) if always else None)
            return ref
        cell, ops = self.cell, self.ops
        for link in chain:
            if link.op.name == "stop_gradient":
                cell, ops = Cell(link, Ref(link.args[0], cell, ops)), ()
            else:
                ops = (*ops, link.op)
        ref = Ref(value, cell, ops)
        ref.apart = self.apart
        return ref


def warn_of_writes(names: Sequence[str]) -> None:
    """Warn that the network writes to these inputs, which no TDAG does."""
    if names:
        warn(
            f"the network writes to its inputs in place ({', '.join(map(shown, names))}); "
            "the imported one gives the same outputs, but leaves its inputs as they are"
        )


def refuse_shared_writes(written: Sequence[str], inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """InputError if two tensors of the inputs and the state share memory, and one of the two is ``written``.

    Such a network reads what it wrote under another name; in a TDAG every leaf is a tensor of its own.
    """
    if not written:
        return
    lying: dict[int, dict[int, tuple[str, str, Tensor]]] = {}
    for kind, tensors in (("input", inputs), ("weight", state)):
        for name, tensor in tensors.items():
            if tensor.layout is torch.strided and tensor.numel():
                found = lying.setdefault(tensor.untyped_storage()._cdata, {})
                found.setdefault(id(tensor), (kind, name, tensor))  # tied weights are one leaf
    for together in lying.values():
        for (a_kind, a_name, a), (b_kind, b_name, b) in combinations(together.values(), 2):
            if (a_name in written or b_name in written) and _overlap(a, b):
                raise InputError(
                    f"{a_kind} {a_name!r} and {b_kind} {b_name!r} share memory, and the network writes to "
                    f"{a_name if a_name in written else b_name!r} in place, which changes both; the imported network "
                    f"takes each as a tensor of its own: make one of them a clone()"
                )


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors in one storage have an element in common; also True where that isn't easily said."""
    size = a.itemsize
    if b.itemsize != size:
        return True
    ends = [t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in (a, b)]
    if ends[0] < b.storage_offset() or ends[1] < a.storage_offset():
        return False
    places = torch.zeros(max(ends) + 1, dtype=torch.bool)
    places.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(places.as_strided(b.shape, b.stride(), b.storage_offset()).any())
