"""Files whose inputs have open sizes: the operators of a network at several sizes, and what is different of them.

They have to be the same ones at all sizes, but for whole numbers in shapes and bounds. Such a number is left to the
operator (-1 in a RESHAPE, in the size of a SLICE), or worked out of the SHAPE of an input when the file is run. What
can't be said so is refused, with the operator that it is of. So is a float that is a count, as a sum is divided by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.errors import AxisError
from tdagger.frameworks.opening import Number, Open, Worked, halves_of, number_of
from tdagger.frameworks.tflite.emit.writer import Operator, Part, Tensor
from tdagger.names import shown
from tdagger.op import Array
from tdagger.types import DType, TensorType

_F32, _I32 = DType.of("f32"), DType.of("i32")
#: The inputs of operators that may be worked out when a file is run.
_MAY_VARY = {
    "BROADCAST_TO": (1,), "FILL": (0,), "PAD": (1,), "PADV2": (1,), "RANGE": (1,), "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "SLICE": (1, 2), "STRIDED_SLICE": (1, 2), "TILE": (1,),
    "TOPK_V2": (1,), "TRANSPOSE_CONV": (0,),
}  # fmt: skip
#: Operators that may take a count, which is worked out in i32 and cast.
_COUNTS = frozenset({
    "ADD", "DIV", "EQUAL", "FLOOR_DIV", "FLOOR_MOD", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "MAXIMUM",
    "MINIMUM", "MUL", "NOT_EQUAL", "SUB",
})  # fmt: skip
#: What counts are.
_COUNTED = {_F32: s.TensorType.FLOAT32, _I32: s.TensorType.INT32, DType.of("i64"): s.TensorType.INT64}


class Point(NamedTuple):
    """What was written at some sizes of the open axes; inputs are numbers of tensors, ``shapes`` those of all."""

    sizes: Mapping[str, int]
    part: Part
    inputs: Mapping[str, int]
    shapes: Sequence[tuple[int, ...]]


def point_of(sizes: Mapping[str, int], part: Part, inputs: Mapping[str, int]) -> Point:
    """What was written at some sizes."""
    return Point(sizes, part, inputs, [t.type.shape for t in part.tensors])


def opened(points: Sequence[Point], open_: Open) -> Part:
    """The first of the points with open sizes; AxisError says what no file can be."""
    return _Opening(points, open_).part()


class _Opening(Worked[int]):
    def __init__(self, points: Sequence[Point], open_: Open) -> None:
        self.points, self.usual, self.formulas = points, open_.usual, open_.formulas
        self.sizes = [p.sizes for p in points]
        self.base = points[0].part
        self.operators: list[Operator] = []
        self.compared: set[tuple[int, ...]] = set()
        self.made: dict[Any, int] = {}
        #: Of each point what makes a tensor: an input, a place among the results of an operator.
        self.makers = [self._made_by(p) for p in points]
        #: The dimensions of inputs.
        self.dims = {n: self._dims([p.part.tensors[p.inputs[n]].type for p in points], n) for n in points[0].inputs}

    @staticmethod
    def _made_by(point: Point) -> dict[int, Any]:
        found: dict[int, Any] = {n: name for name, n in point.inputs.items()}
        for i, o in enumerate(point.part.operators):
            found.update((n, (i, k)) for k, n in enumerate(o.outputs))
        return found

    def part(self) -> Part:
        """The operators and tensors with open sizes."""
        parts = [p.part for p in self.points]
        if len({len(p.operators) for p in parts}) > 1:
            raise AxisError("the operators are others at other sizes")
        for number, name in [(n, name) for name, n in self.points[0].inputs.items()]:
            self._set(number, self.dims[name])
        for same in zip(*[p.operators for p in parts], strict=True):
            self._operator(same)
        self.base.operators = self.operators
        return self.base

    def _dims(self, types: Sequence[TensorType], what: str) -> tuple[Number | int, ...]:
        if len({t.rank for t in types}) > 1:
            raise AxisError(f"{what} has more or fewer axes at other sizes")
        return tuple(
            [number_of([t.shape[i] for t in types], self.sizes, what, self.formulas) for i in range(types[0].rank)]
        )

    def _set(self, number: int, dims: Sequence[Number | int]) -> None:
        """Give a tensor its usual shape, and say which sizes are open."""
        if not any(isinstance(d, Number) for d in dims):
            return
        tensor = self.base.tensors[number]
        shape = tuple([d.at(self.usual) if isinstance(d, Number) else d for d in dims])
        signature = tuple([-1 if isinstance(d, Number) else d for d in dims])
        self.base.tensors[number] = tensor._replace(type=tensor.type.with_shape(shape), signature=signature)

    def _operator(self, same: Sequence[Operator]) -> None:
        """One operator at all points."""
        first = same[0]
        told = f"operator {shown(self._name(first))} ({first.name})"
        if len({(o.name, o.version, len(o.inputs), len(o.outputs)) for o in same}) > 1:
            raise AxisError(f"{told} is another at other sizes")
        options = [_told(o.options) for o in same]
        if first.name == "RESHAPE":
            first.options = None if any(o != options[0] for o in options) else first.options
        elif any(o != options[0] for o in options):
            raise AxisError(f"{told} has other options at other sizes")
        dims = [
            self._dims([p.part.tensors[o.outputs[k]].type for p, o in zip(self.points, same, strict=True)], told)
            for k in range(len(first.outputs))
        ]
        first.inputs = [self._input(same, told, i) for i in range(len(first.inputs))]
        for number, own in zip(first.outputs, dims, strict=True):
            self._set(number, own)
        self.operators.append(first)

    def _name(self, operator: Operator) -> str:
        return self.base.tensors[operator.outputs[0]].name if operator.outputs else operator.name

    def _input(self, same: Sequence[Operator], told: str, place: int) -> int:
        numbers = [o.inputs[place] for o in same]
        op, first = same[0], numbers[0]
        if any(n < 0 for n in numbers) or tuple(numbers) in self.compared:
            return first
        tensors = [p.part.tensors[n] for p, n in zip(self.points, numbers, strict=True)]
        if all(t.load is None for t in tensors):
            if len({m.get(n) for m, n in zip(self.makers, numbers, strict=True)}) > 1:
                raise AxisError(f"{told} takes other results at other sizes")
            return first
        if any(t.load is None for t in tensors):
            raise AxisError(f"{told} takes a constant at some sizes only")
        if _alike(tensors):
            self.compared.add(tuple(numbers))
            return first
        arrays = [_loaded(t) for t in tensors]
        if all(t.type is tensors[0].type for t in tensors):
            if tensors[0].type.dtype is _I32 and place in _MAY_VARY.get(op.name, ()):
                return self._varying(same, told, place, arrays)
            if op.name in _COUNTS and tensors[0].type.dtype in _COUNTED and tensors[0].type.size == 1:
                found = self._count(tensors[0].type, [a.item() for a in arrays], f"input {place} of {told}")
                if found is not None:
                    return found
        raise AxisError(f"input {place} of {told} is other numbers at other sizes")

    # Numbers that vary.

    def _varying(self, same: Sequence[Operator], told: str, place: int, arrays: Sequence[Array]) -> int:
        op = same[0]
        shape = arrays[0].shape
        rows = zip(*[a.reshape(-1).tolist() for a in arrays], strict=True)
        numbers = [number_of(row, self.sizes, f"input {place} of {told}", self.formulas) for row in rows]
        open_ = [i for i, n in enumerate(numbers) if isinstance(n, Number)]
        if op.name == "RESHAPE" and len(open_) == 1:
            numbers[open_[0]] = -1
        if op.name == "SLICE" and place == 2:
            numbers = [-1 if i in open_ and self._reaches_end(same, i) else n for i, n in enumerate(numbers)]
        vector = self.vector(numbers)
        return vector if len(shape) == 1 else self._op("RESHAPE", [vector, self.constant(shape)], shape)

    def _count(self, type_: TensorType, values: Sequence[float], what: str) -> int | None:
        """One number that varies, whole or in halves, in an element type and a shape; None if it is no count."""
        halves = halves_of(values)
        if halves is None:
            return None
        whole = all(h % 2 == 0 for h in halves)
        counts = [h // 2 for h in halves] if whole else halves
        found, dtype = self.vector([number_of(counts, self.sizes, what, self.formulas)]), type_.dtype
        if dtype is not _I32:
            options: Any = s.CastOptionsT()
            options.inDataType, options.outDataType = s.TensorType.INT32, _COUNTED[dtype]
            found = self._op("CAST", [found], (1,), options, dtype)
        if not whole:
            half = self._tensor("half", "half", (), lambda: np.float32(0.5), dtype)
            found = self._op("MUL", [found, half], (1,), s.MulOptionsT(), dtype)
        if type_.rank == 1:
            return found
        return self._op("RESHAPE", [found, self.constant(type_.shape)], type_.shape, dtype=dtype)

    def _reaches_end(self, same: Sequence[Operator], axis: int) -> bool:
        """Whether a SLICE takes an axis from a known place to its end, at all sizes."""
        found: set[int] = set()
        for point, o in zip(self.points, same, strict=True):
            begin, size = (point.part.tensors[n] for n in o.inputs[1:])
            if begin.load is None or size.load is None:
                return False
            start = int(_loaded(begin)[axis])
            found.add(start)
            if start + int(_loaded(size)[axis]) != point.shapes[o.inputs[0]][axis]:
                return False
        return len(found) == 1

    def _tensor(self, key: Any, name: str, shape: Sequence[int], load: Any = None, dtype: DType = _I32) -> int:
        if key not in self.made:
            self.made[key] = len(self.base.tensors)
            told = f"open/{name}_{self.made[key]}"
            self.base.tensors.append(Tensor(told, TensorType(tuple(shape), dtype), load))
        return self.made[key]

    def _op(self, name: str, inputs: list[int], shape: Sequence[int], options: Any = None, dtype: DType = _I32) -> int:
        key = (name, *inputs, dtype)
        if key in self.made:
            return self.made[key]
        out = self._tensor(key, name.lower(), shape, dtype=dtype)
        self.operators.append(Operator(name, inputs, [out], options))
        return out

    def constant(self, numbers: Sequence[int]) -> int:
        data = np.array([int(n) for n in numbers], np.int32)
        return self._tensor(("const", *data.tolist()), "size", data.shape, lambda: data)

    def dimension(self, name: str, i: int) -> int:
        made: Any = s.ShapeOptionsT()
        made.outType = s.TensorType.INT32
        shape = self._op("SHAPE", [self.points[0].inputs[name]], (len(self.dims[name]),), made)
        return self._op("GATHER", [shape, self.constant([i])], (1,), s.GatherOptionsT())

    def product(self, a: int, b: int) -> int:
        return self._op("MUL", [a, b], (1,), s.MulOptionsT())

    def total(self, a: int, b: int) -> int:
        return self._op("ADD", [a, b], (1,), s.AddOptionsT())

    def two(self, function: str, a: int, b: int) -> int:
        name, made = {"floor": ("FLOOR_DIV", s.FloorDivOptionsT), "min": ("MINIMUM", s.MaximumMinimumOptionsT),
                      "max": ("MAXIMUM", s.MaximumMinimumOptionsT)}[function]  # fmt: skip
        return self._op(name, [a, b], (1,), made())

    def end_to_end(self, parts: Sequence[int], count: int) -> int:
        options: Any = s.ConcatenationOptionsT()
        options.axis = 0
        return self._op("CONCATENATION", [*parts], (count,), options)


def _told(options: Any) -> Any:
    """Options as what they hold."""
    if options is None:
        return None
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(options).items()}


def _loaded(tensor: Tensor) -> Array:
    assert tensor.load is not None
    return np.asarray(tensor.load())


def _alike(tensors: Sequence[Tensor]) -> bool:
    """Whether constants are one: laid out of one value in one way, or of the same numbers."""
    first = tensors[0]
    if any(t.type is not first.type for t in tensors):
        return False
    if first.source is not None and all(t.source is first.source and t.name == first.name for t in tensors):
        return True
    data = _loaded(first)
    return all(np.array_equal(_loaded(t), data, equal_nan=data.dtype.kind == "f") for t in tensors[1:])
