"""Views and in-place writes turned into pure values.

A torch tensor may be a view of another, and writing to either changes both. Here a tensor is a
:class:`Ref`: a cell that holds the value of the base, and the structural ops that make the view of it. Reading
applies the ops to what the cell holds now; writing puts the new part back into the base.
"""

from __future__ import annotations

from tdagger.composite import Composite
from tdagger.errors import UnsupportedError
from tdagger.op import Op, Value
from tdagger.ops.elementwise import where
from tdagger.ops.source import const
from tdagger.ops.structure import Group, Permute, Repeat, Slice, Ungroup, broadcast_to, concat, slice_axis


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
    if isinstance(op, Permute | Group | Ungroup):
        return op.inverse(old.type)(new)
    if isinstance(op, Slice):
        return _put_slice(op, old, new)
    if isinstance(op, Composite) and op.definition.name == "reshape":
        return op.inverse(old.type)(new)
    if isinstance(op, Composite):
        return write_back(old, op.definition.function(old, **op.attributes), new)
    if isinstance(op, Repeat):
        raise UnsupportedError("can't write to an expanded tensor: several of its elements are one; clone it first")
    raise UnsupportedError(f"can't write through {op}")


def _put_slice(op: Slice, old: Value, new: Value) -> Value:
    cut = [(i, b) for i, b in enumerate(op.bounds) if b is not None]
    if len(cut) == 1 and cut[0][1][2] == 1:
        axis, (start, stop, _) = cut[0]
        pieces = (
            slice_axis(old, axis, 0, start),
            new,
            slice_axis(old, axis, max(start, stop), old.shape[axis]),
        )
        return concat([p for p in pieces if p.shape[axis]] or [old], axis)
    if not new.type.size:
        return old
    ones = broadcast_to(const(True), new.shape)
    spread = op.adjoint(old.type)
    mask_of = op.adjoint(old.type.with_dtype(ones.dtype))
    return where(mask_of(ones), spread(new), old)


#: Ops whose results share the memory of their argument in torch.
_VIEWS = frozenset({"permute", "group", "ungroup", "slice", "repeat", "reshape", "diagonal", "unfold", "stop_gradient"})


class Cell:
    """What a base tensor holds now; ``version`` counts the writes."""

    __slots__ = ("value", "version")

    def __init__(self, value: Value) -> None:
        self.value = value
        self.version = 0


class Ref:
    """A torch tensor: a cell, and the ops that make this view of it (none for the base itself)."""

    __slots__ = ("_value", "_version", "cell", "ops")

    def __init__(self, value: Value, cell: Cell | None = None, ops: tuple[Op, ...] = ()) -> None:
        self.cell = Cell(value) if cell is None else cell
        self.ops = ops
        self._value = value
        self._version = self.cell.version

    def read(self) -> Value:
        """The value now."""
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
        values = self._replay()
        for op, old in zip(reversed(self.ops), reversed(values[:-1]), strict=True):
            new = _put(op, old, new)
        self.cell.value = new
        self.cell.version += 1

    @property
    def is_contiguous(self) -> bool:
        """Whether the view lies in memory as a tensor of its own would."""
        return not any(op.name in ("permute", "slice", "repeat", "diagonal", "unfold") for op in self.ops)

    def view(self, value: Value) -> Ref:
        """A tensor that shares this one's memory, of which ``value`` was just made; its own memory if not."""
        chain = steps(self.read(), value)
        if chain is None or not all(v.op.name in _VIEWS for v in chain):
            return Ref(value)
        return Ref(value, self.cell, (*self.ops, *(v.op for v in chain)))
