"""Programs whose inputs have open sizes: the ops of a network at several sizes, and what is different of them.

The ops are written at several sizes of the open axes. They have to be the same ones, but for whole numbers in the
constants, each of which has to be a multiple of a product of the axes' sizes, or one size and a number more, at all
points. In the program such a number is left to the op (``-1`` in a reshape, the mask of a slice), or worked out of the
shape of an input; so is a float that is a count, as a sum is divided by. Whatever can't be said so is refused, with
the op that it is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import AxisError
from tdagger.frameworks.coreml.emit.writer import Op, Tensor
from tdagger.frameworks.opening import Number, Open, Worked, halves_of, number_of
from tdagger.frameworks.writing import Names
from tdagger.names import shown
from tdagger.op import Array
from tdagger.types import DType, TensorType

F16, F32, I32 = DType.of("f16"), DType.of("f32"), DType.of("i32")

#: Inputs of ops that have to be constant: numbers there may not be open.
_MAY_VARY = {
    ("range_1d", "end"),
    ("reshape", "shape"),
    ("tile", "reps"),
    ("slice_by_index", "begin"),
    ("slice_by_index", "end"),
}
#: Ops that may take a count, which is worked out in i32 and cast.
_COUNTS = frozenset({
    "add", "equal", "floor_div", "greater", "greater_equal", "less", "less_equal", "maximum", "minimum", "mod", "mul",
    "not_equal", "real_div", "sub",
})  # fmt: skip


class Point(NamedTuple):
    """What was written at some sizes of the open axes."""

    sizes: Mapping[str, int]
    ops: Sequence[Op]
    constants: Mapping[str, Tensor | str]
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]


class Opened(NamedTuple):
    """A program with open sizes: dimensions that are open are None in ``shapes``, by the names of results."""

    ops: list[Op]
    constants: dict[str, Tensor | str]
    shapes: dict[str, tuple[int | None, ...]]
    #: The dimensions of inputs and outputs as numbers made of the axes' sizes.
    dims: dict[str, tuple[Number | int, ...]]


def opened(points: Sequence[Point], open_: Open) -> Opened:
    """The program that is all of the points; AxisError says what no program can be."""
    return _Opening(points, open_).program()


class _Opening(Worked[str]):
    def __init__(self, points: Sequence[Point], open_: Open) -> None:
        self.points, self.formulas = points, open_.formulas
        self.base = points[0]
        self.ops: list[Op] = []
        self.constants: dict[str, Tensor | str] = dict(self.base.constants)
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        taken = {*self.constants, *self.base.inputs, *(n for op in self.base.ops for n in op.outputs)}
        self.names = Names(taken)
        self.made: dict[Any, str] = {}
        self.compared: set[tuple[str, ...]] = set()
        #: Counts beside numbers of f16, which has none beyond 65504: the op is one of f32.
        self.wide: set[str] = set()

    def program(self) -> Opened:
        self.dims = self._ends([p.inputs for p in self.points])
        results = self._ends([p.outputs for p in self.points])
        if len({len(p.ops) for p in self.points}) > 1:
            raise AxisError("the ops are others at other sizes")
        for same in zip(*[p.ops for p in self.points], strict=True):
            self._op(same)
        return Opened(self.ops, self.constants, self.shapes, self.dims | results)

    def _ends(self, at_points: Sequence[Mapping[str, TensorType]]) -> dict[str, tuple[Number | int, ...]]:
        """The dimensions of inputs or outputs, of which the types are there at each point."""
        found: dict[str, tuple[Number | int, ...]] = {}
        for name, type_ in at_points[0].items():
            types = [p[name] for p in at_points]
            found[name] = tuple([self._number([t.shape[i] for t in types], name) for i in range(type_.rank)])
            self._note(name, types)
        return found

    def _note(self, name: str, types: Sequence[TensorType]) -> None:
        sizes = list(zip(*[t.shape for t in types], strict=True))
        self.shapes[name] = tuple([n[0] if len(set(n)) == 1 else None for n in sizes])

    def _op(self, same: Sequence[Op]) -> None:
        """One op at all points."""
        first = same[0]
        alike = all((o.op, [k for k, _ in o.inputs], len(o.outputs)) == (
            first.op, [k for k, _ in first.inputs], len(first.outputs)) for o in same)  # fmt: skip
        if not alike or any(len({t[i].rank for t in [o.types for o in same]}) > 1 for i in range(len(first.types))):
            raise AxisError(f"op {shown(first.name)} ({first.op}) is another at other sizes")
        for i, name in enumerate(first.outputs):
            self._note(name, [o.types[i] for o in same])
        inputs = [(key, self._input(first, key, [dict(o.inputs)[key] for o in same])) for key, _ in first.inputs]
        made = first._replace(inputs=tuple(inputs))
        if self.wide.isdisjoint([n for _, n in inputs if isinstance(n, str)]):
            self.ops.append(made)
        else:
            self._in_f32(made)

    def _in_f32(self, op: Op) -> None:
        """An op of two numbers of f16, one of them a count, between casts."""
        inputs = tuple([(k, n if n in self.wide else self._cast(n, self.names.new(n), op.types[0], F32))
                        for k, n in op.inputs if isinstance(n, str)])  # fmt: skip
        (out,), (type_,) = op.outputs, op.types
        if type_.dtype is not F16:
            self.ops.append(op._replace(inputs=inputs))
            return
        name = self.names.new(out)
        self.shapes[name] = self.shapes[out]
        self.ops.append(op._replace(inputs=inputs, outputs=(name,), types=(type_.with_dtype(F32),), name=name))
        self._cast(name, out, type_, F16)

    def _cast(self, name: str, to: str, type_: TensorType, dtype: DType) -> str:
        kind = self._text({F16: "fp16", F32: "fp32"}[dtype])
        self.shapes[to] = self.shapes[name]
        self.ops.append(Op("cast", (("dtype", kind), ("x", name)), (to,), (type_.with_dtype(dtype),), to))
        return to

    def _input(self, op: Op, key: str, names: Sequence[Any]) -> Any:
        if isinstance(names[0], tuple):
            if len({len(n) for n in names}) > 1:
                raise AxisError(f"op {shown(op.name)} ({op.op}) takes more or fewer tensors at other sizes")
            return tuple([self._input(op, key, [n[i] for n in names]) for i in range(len(names[0]))])
        held = [p.constants.get(n) for p, n in zip(self.points, names, strict=True)]
        if all(h is None for h in held):
            if len({*names}) > 1 and len({self._place(p, n) for p, n in zip(self.points, names, strict=True)}) > 1:
                raise AxisError(f"op {shown(op.name)} ({op.op}) takes other results at other sizes")
            return names[0]
        if any(h is None for h in held):
            raise AxisError(f"op {shown(op.name)} ({op.op}) takes a constant at some sizes only")
        if tuple(names) in self.compared:
            return names[0]
        if any(isinstance(h, str) for h in held):
            if len(set(map(str, held))) > 1:
                raise AxisError(f"op {shown(op.name)} ({op.op}) has another setting at other sizes")
            return names[0]
        arrays = [h.load() for h in held if isinstance(h, Tensor)]
        if len({a.shape for a in arrays}) == 1 and all(np.array_equal(a, arrays[0], equal_nan=a.dtype.kind == "f")
                                                     for a in arrays):  # fmt: skip
            self.compared.add(tuple(names))
            return names[0]
        return self._varying(op, key, arrays)

    def _place(self, point: Point, name: str) -> Any:
        return next(((i, op.outputs.index(name)) for i, op in enumerate(point.ops) if name in op.outputs), name)

    # Numbers that vary.

    def _varying(self, op: Op, key: str, arrays: Sequence[Array]) -> str:
        what = f"{key} of op {shown(op.name)} ({op.op})"
        if op.op in _COUNTS and all(a.size == 1 and a.dtype.kind in "fi" for a in arrays):
            found = self._count(arrays, what)
            if found is not None:
                return found
        vector = len({a.shape for a in arrays}) == 1 and arrays[0].dtype == np.int32 and arrays[0].ndim <= 1
        if not vector or (op.op, key) not in _MAY_VARY:
            raise AxisError(f"{what} is other numbers at other sizes")
        rows = list(zip(*[a.reshape(-1).tolist() for a in arrays], strict=True))
        numbers = [self._number(row, what) for row in rows]
        if not arrays[0].ndim:
            return self._made("squeeze", 0, x=self.vector(numbers), axes=self.constant([0]))
        if op.op == "slice_by_index":
            mask = dict(op.inputs)["begin_mask" if key == "begin" else "end_mask"]
            held = self.constants[mask]  # pyright: ignore[reportArgumentType]
            free = held.load() if isinstance(held, Tensor) else np.zeros(len(rows), np.bool_)
            numbers = [0 if m and isinstance(n, Number) else n for n, m in zip(numbers, free, strict=True)]
        open_ = [i for i, n in enumerate(numbers) if isinstance(n, Number)]
        if op.op == "reshape" and len(open_) == 1:
            numbers[open_[0]] = -1
        return self.vector(numbers)

    def _count(self, arrays: Sequence[Array], what: str) -> str | None:
        """One number that varies, whole or in halves, as f32 or i32; None if it is no count."""
        halves = halves_of([a.item() for a in arrays])
        if halves is None:
            return None
        whole = all(h % 2 == 0 for h in halves)
        found, of = self.vector([self._number([h // 2 for h in halves] if whole else halves, what)]), I32
        if arrays[0].dtype != np.int32:
            found, of = self._made("cast", 1, F32, x=found, dtype=self._text("fp32")), F32
        if not whole:
            found = self._made("mul", 1, of, x=found, y=self._const(np.full(1, 0.5, np.float32)))
        shape = arrays[0].shape
        if not shape:
            found = self._made("squeeze", 0, of, x=found, axes=self.constant([0]))
        elif len(shape) > 1:
            found = self._made("reshape", shape, of, x=found, shape=self.constant(shape))
        if arrays[0].dtype == np.float16:
            self.wide.add(found)
        return found

    def _number(self, values: Sequence[int], what: str) -> Number | int:
        return number_of(values, [p.sizes for p in self.points], what, self.formulas)

    def _const(self, array: Array) -> str:
        key = ("const", array.dtype.str, array.shape, array.tobytes())
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = self._new("size")
            self.constants[found] = Tensor(TensorType(array.shape, DType.of(array.dtype)), lambda: array)
            self.compared.add((found,) * len(self.points))
        return found

    def _new(self, name: str) -> str:
        return self.names.new(name)

    def _text(self, text: str) -> str:
        found = self.made.get(text)
        if found is None:
            found = self.made[text] = self._new("size")
            self.constants[found] = text
            self.compared.add((found,) * len(self.points))
        return found

    def _made(self, op: str, size: int | tuple[int, ...], of: DType = I32, **inputs: Any) -> str:
        key = (op, tuple(sorted(inputs.items())))
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = self._new(f"size_{op}")
            type_ = TensorType(size if isinstance(size, tuple) else (size,) if size else (), of)
            self.ops.append(Op(op, tuple(sorted(inputs.items())), (found,), (type_,), found))
            self.shapes[found] = type_.shape
        return found

    def constant(self, numbers: Sequence[int]) -> str:
        return self._const(np.array(numbers, np.int32))

    def dimension(self, name: str, i: int) -> str:
        shape = self._made("shape", self.base.inputs[name].rank, x=name)
        zero = self._const(np.zeros((), np.int32))
        return self._made("gather", 1, x=shape, indices=self.constant([i]), axis=zero)

    def product(self, a: str, b: str) -> str:
        return self._made("mul", 1, x=a, y=b)

    def total(self, a: str, b: str) -> str:
        return self._made("add", 1, x=a, y=b)

    def two(self, function: str, a: str, b: str) -> str:
        return self._made({"floor": "floor_div", "min": "minimum", "max": "maximum"}[function], 1, x=a, y=b)

    def end_to_end(self, parts: Sequence[str], count: int) -> str:
        zero, no = self._const(np.zeros((), np.int32)), self._const(np.zeros((), np.bool_))
        return self._made("concat", count, values=tuple(parts), axis=zero, interleave=no)
