"""Writing a graph as MIL ops: an op's row (:mod:`core`, :mod:`composites`) makes the ops of a value.

Values are written in the graph's order (:class:`~tdagger.frameworks.writing.Walk`), and each op once: the same op on
the same arguments is the same one. What no input is behind is worked out and is one constant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import AttributeValueError, TypeMismatchError, UnsupportedError
from tdagger.frameworks.writing import Names, Walk, reshaped, unbroadcast, weight_behind
from tdagger.graph import Graph, result_types
from tdagger.network import Origin
from tdagger.op import Array, Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.source import Buffer, Const, Input, Parameter
from tdagger.ops.structure import Item, Repeat
from tdagger.transform.axes.same import is_spread
from tdagger.transform.legal.legalize import is_static
from tdagger.transform.legal.target import label
from tdagger.types import DType, TensorType, broadcast_shapes

#: A row makes the ops of a value. It gives the name of the result (or a tuple of them), or another value that stands
#: for it.
Row = Callable[["Writer", Value], Any]

#: How a constant is written in few bits; None for others.
Pack = Callable[["Writer", Value], "Packed | None"]

#: Constants of at most so many bytes are always written out.
SMALL = 64
#: What is worked out once more for every user where it is larger.
_KEPT = 1 << 22


class Inside(NamedTuple):
    """A block inside an op, which sees what is around it: its own inputs with types, its ops, and what it gives."""

    inputs: tuple[tuple[str, TensorType], ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]


class Op(NamedTuple):
    """An op as it is going to be written; an input is a name, or several."""

    op: str
    inputs: tuple[tuple[str, str | tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    types: tuple[TensorType, ...]
    name: str
    blocks: tuple[Inside, ...] = ()


class Packed(NamedTuple):
    """A constant of few bits: the op that reads it, the constants that this takes, its first operator set.

    ``leaf`` is the name of the weight that its numbers are, if they are one.
    """

    op: str
    parts: Mapping[str, Tensor]
    since: int
    leaf: str | None = None


class Tensor(NamedTuple):
    """A constant: its type, and where its data comes from when it is written.

    ``packed`` is how it is written in few bits; ``number`` is MIL's element type where it isn't that of ``type``.
    """

    type: TensorType
    load: Callable[[], Array]
    packed: Packed | None = None
    number: int = 0


def _repeats(value: Value, open_: bool) -> bool:
    """Whether a constant is one repeated, which takes less room as that, or has the sizes that are open."""
    return is_spread(value) if open_ else isinstance(reshaped(value).op, Repeat) and value.type.bytes > SMALL


class Called:
    """Names as MIL takes them: letters, digits and ``_``, not a digit first, each once."""

    def __init__(self) -> None:
        self._names = Names(("state", "program", "func", "block", "tensor", "const", "main"))
        #: What those are called in the network that have another name here.
        self.changed: dict[str, str] = {}

    def new(self, name: str, kept: bool = False) -> str:
        """A name like ``name`` that isn't taken; ``kept``: note what it stands for where it differs."""
        found = re.sub(r"[^A-Za-z0-9_]", "_", name) or "_"
        own = self._names.new(f"_{found}" if found[0].isdigit() else found)
        if kept and own != name:
            self.changed[own] = name
        return own


class Writer(Walk):
    """Writes the ops of one graph. Rows call :meth:`ref`, :meth:`operands` and :meth:`op`."""

    def __init__(
        self,
        graph: Graph,
        row_of: Callable[[Value], Row],
        origins: Mapping[Value, Origin],
        weights: Mapping[str, Array],
        held: Mapping[str, str],
        opset: int,
        pack: Pack,
        open_: bool = False,
        varies: Collection[int] = (),
    ) -> None:
        super().__init__(graph, origins, weights)
        self.opset, self._pack, self.open = opset, pack, open_
        #: Quantized weights that are written as floats, and why.
        self.floats: dict[str, str] = {}
        self.held = {DType.of(a): DType.of(b) for a, b in held.items()}
        self.ops: list[Op] = []
        self.constants: dict[str, Tensor | str] = {}
        self.names = Called()
        self.arrays: dict[Value, Array] = {}
        self._row_of = row_of
        self._made: dict[Any, Any] = {}
        self._numbers: dict[Any, str] = {}
        self.changing, self.varies = set(graph.updates), varies
        for value in graph.values:
            if is_static(value, self.static, self.changing, varies):
                self.static.add(value)

    # What rows call.

    def operands(self, values: Sequence[Value]) -> list[str]:
        """Names of values of one shape that broadcast to that shape."""
        shape = values[0].type.shape
        narrow = [unbroadcast(v) for v in values]
        if broadcast_shapes(*[v.type.shape for v in narrow]) != shape or all(v in self.static for v in narrow):
            narrow[0] = values[0]
        return [self.ref(v) for v in narrow]

    def dtype(self, dtype: DType) -> DType:
        """The element type that one is held in."""
        return self.held.get(dtype, dtype)

    def type(self, value: Value | TensorType, shape: Sequence[int] | None = None) -> TensorType:
        """The type of a value as the file has it, or of another shape."""
        t = value if isinstance(value, TensorType) else value.type
        return TensorType(t.shape if shape is None else tuple(shape), self.dtype(t.dtype))

    def op(self, op: str, types: TensorType | Sequence[TensorType], **inputs: Any) -> Any:
        """An op; the name of its result, or of each. Inputs that are None are left out."""
        kept = tuple(sorted([(k, v) for k, v in inputs.items() if v is not None]))
        each = (types,) if isinstance(types, TensorType) else tuple(types)
        key = (op, kept, each)
        found = self._made.get(key)
        if found is not None:
            return found
        name = self._op_name(op)
        outputs = tuple([self.names.new(name if i == 0 else f"{name}_{i}") for i in range(len(each))])
        self.ops.append(Op(op, kept, outputs, each, outputs[0]))
        made = self._made[key] = outputs[0] if isinstance(types, TensorType) else outputs
        return made

    def with_blocks(self, op: str, types: Sequence[TensorType], blocks: Sequence[Inside], **inputs: Any) -> Any:
        """An op that has blocks; the names of its results."""
        name = self._op_name(op)
        outputs = tuple([self.names.new(name if i == 0 else f"{name}_{i}") for i in range(len(types))])
        self.ops.append(Op(op, tuple(sorted(inputs.items())), outputs, tuple(types), outputs[0], tuple(blocks)))
        return outputs

    def within(self, graph: Graph, found: Mapping[Value, str]) -> Writer:
        """A writer of another graph of the program, whose inputs have names; constants and names are those of all."""
        inner = Writer(graph, self._row_of, self.origins, self.weights, {}, self.opset, self._pack, self.open)
        inner.held, inner.names, inner.problems = self.held, self.names, self.problems
        inner.constants, inner._numbers, inner.floats = self.constants, self._numbers, self.floats
        inner.found.update(found)
        return inner

    def const(self, array: Any, dtype: DType | str | None = None, name: str = "const") -> str:
        """The name of a constant."""
        data = np.asarray(array, None if dtype is None else DType.of(dtype).numpy)
        if data.dtype == np.int64:
            data = self._narrowed(data)
        kind = TensorType(data.shape, DType.of(data.dtype))
        key = (kind, data.tobytes()) if data.nbytes <= _KEPT else (kind, id(array))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = self.names.new(name)
            self.constants[found] = Tensor(kind, lambda: data)
        return found

    def _narrowed(self, data: Array) -> Array:
        info = np.iinfo(np.int32)
        if data.size and (data.min() < info.min or data.max() > info.max):
            raise UnsupportedError(f"the numbers {int(data.min())} to {int(data.max())} aren't all of i32")
        return data.astype(np.int32)

    def ints(self, numbers: Iterable[int]) -> str:
        """A vector of whole numbers."""
        return self.const(np.array([int(n) for n in numbers], np.int32))

    def int(self, number: int) -> str:
        return self.const(np.int32(number))

    def flag(self, value: bool) -> str:
        return self.const(np.bool_(value))

    def flags(self, values: Iterable[bool]) -> str:
        return self.const(np.array(list(values), np.bool_))

    def number(self, number: Any, dtype: DType) -> str:
        """A number of rank 0 of an element type."""
        return self.const(np.asarray(number).astype(self.dtype(dtype).numpy))

    def text(self, text: str) -> str:
        """A constant of text."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = self.names.new(f"text_{text}")
            self.constants[found] = text
        return found

    def array(self, value: Value) -> Array | None:
        """The data of a value that no input is behind; None for others."""
        return self.worked_out(value) if value in self.static else None

    # The walk.

    def _result(self, value: Value) -> Any:
        op = value.op
        if isinstance(op, Item):
            return self.ref(value.args[0])[op.index]
        if value in self.static and not isinstance(value.type, tuple) and not _repeats(value, self.open):
            return self._constant(value)
        if isinstance(op, Buffer):  # one that changes is what it was, its new value an output
            return self._constant(value)
        return self._row_of(value)(self, value)

    def _constant(self, value: Value) -> str:
        op = value.op
        base = value.args[0] if isinstance(op, Cast) else value
        leaf = (base.args[0] if base.op.name == "dequantize" else base).op  # numbers are called as what they stand for
        own = leaf.leaf if isinstance(leaf, Parameter | Buffer) else None
        to = self.dtype(value.dtype).numpy
        if own is None and (value.type.bytes <= SMALL or isinstance(op, Const)):
            return self.const(self.worked_out(value), self.dtype(value.dtype))
        packed = self._pack(self, value)
        own = own or (packed and packed.leaf)
        behind = None if own else weight_behind(value)
        own = f"{behind}.{label(value).split()[-1]}" if behind else own
        name = self.names.new(own, kept=True) if own else self.names.new(self._op_name("constant"))
        self.constants[name] = Tensor(self.type(value), lambda: self.worked_out(value).astype(to, copy=False), packed)
        return name

    def worked_out(self, value: Value) -> Array:
        """The data of what no input is behind; what is small is kept."""
        found = self.arrays.get(value)
        if found is not None:
            return found
        done: dict[Value, Any] = {}
        stack = [value]
        while stack:
            v = stack[-1]
            if v in done or v in self.arrays:
                stack.pop()
                continue
            if not isinstance(v.type, tuple) and not v.type.size:  # whatever is behind it
                done[v] = np.zeros(v.type.shape, v.type.dtype.numpy)
                continue
            wait = [a for a in v.args if a not in done and a not in self.arrays]
            if wait:
                stack += wait
                continue
            stack.pop()
            op = v.op
            if isinstance(op, Parameter | Buffer):
                done[v] = np.asarray(self.weights[op.leaf])
            elif isinstance(op, Input):
                raise UnsupportedError("an input is behind what should be constant")
            else:
                args = [done[a] if a in done else self.arrays[a] for a in v.args]
                try:
                    with np.errstate(all="ignore"):
                        done[v] = _each(op.run(*args), len(result_types(v)))
                except (AttributeValueError, TypeMismatchError, IndexError) as e:
                    raise UnsupportedError(f"can't be worked out: {e}") from e
            if not isinstance(done[v], tuple) and done[v].nbytes <= 1 << 16:
                self.arrays[v] = done[v]
        return done.get(value, self.arrays.get(value))  # pyright: ignore[reportReturnType]

    def _op_name(self, op: str) -> str:
        origin = self._origin
        if origin is None or not origin.module:
            return op
        return f"{origin.module}_{op}"


def _each(found: Any, count: int) -> Any:
    return tuple(np.asarray(a) for a in found) if count > 1 else np.asarray(found)


def reads(op: Op) -> Iterable[str]:
    """The names that an op takes, those that blocks inside it read among them."""
    for _, name in op.inputs:
        if isinstance(name, tuple):
            yield from name
        else:
            yield name
    for block in op.blocks:
        yield from block.outputs
        for inner in block.ops:
            yield from reads(inner)
