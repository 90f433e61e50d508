"""The integer kernels of a quantized network, between DEQUANTIZE and QUANTIZE.

:func:`in_integers` makes an operator of integers of each whose inputs are all read from integers and whose result is
only rounded to some. What moves entries is done on integers wherever these are read: the numbers are the same. What is
left is computed in float.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.tflite.emit.integers import same
from tdagger.frameworks.tflite.emit.writer import Operator, Tensor, Writer
from tdagger.frameworks.tflite.schema import Quantization
from tdagger.frameworks.writing import fields
from tdagger.names import shown
from tdagger.op import Array
from tdagger.ops.structure import Permute
from tdagger.transform.legal import label
from tdagger.types import DType

I8, U8, I16 = DType.of("i8"), DType.of("u8"), DType.of("i16")
_I32, _I64 = DType.of("i32"), DType.of("i64")
#: What kernels compute in, and from where on its numbers begin.
_LOWEST = {I8: -128, U8: 0, I16: -(2**15)}


class Kernel(NamedTuple):
    """An operator that there is of i8, of u8 unless it is ``signed``, and since version ``wide`` of i16.

    Weights beside i16 are i8, and biases i64.

    ``data``: places of what is read from integers (None: all of them). ``weight``: the place of the weight, whose
    scales are along ``axis``, and that of ``bias``. ``shares``: the result has the scale of what is taken; ``fixed``:
    it has this scale and zero point, counted from the lowest number (of i16 always 2 ** -15 and 0).
    """

    data: Sequence[int] | None = (0,)
    weight: int | None = None
    axis: int = 0
    bias: int = 2
    version: int = 2
    shares: bool = False
    fixed: tuple[float, int] | None = None
    signed: bool = False
    wide: int = 0


#: HARD_SWISH isn't here: XNNPACK has none of i8, and to leave it costs more than to compute that in float.
KERNELS: dict[str, Kernel] = {
    "CONV_2D": Kernel(weight=1, version=3, wide=4),
    "DEPTHWISE_CONV_2D": Kernel(weight=1, axis=3, version=3, wide=5),
    "FULLY_CONNECTED": Kernel(weight=1, version=5, wide=7),
    "TRANSPOSE_CONV": Kernel((2,), weight=1, bias=3, version=3, wide=4),
    "ADD": Kernel((0, 1), wide=3),
    "SUB": Kernel((0, 1), wide=5),
    "MUL": Kernel((0, 1), wide=4),
    "BATCH_MATMUL": Kernel((0, 1), signed=True, wide=3),
    "MEAN": Kernel(wide=3),
    **dict.fromkeys(("LEAKY_RELU", "RELU", "RELU6", "GELU"), Kernel()),
    "AVERAGE_POOL_2D": Kernel(shares=True, wide=3),
    "RESIZE_BILINEAR": Kernel(shares=True),
    "SOFTMAX": Kernel(fixed=(1 / 256, 0), wide=3),
    "LOGISTIC": Kernel(fixed=(1 / 256, 0), wide=3),
    "TANH": Kernel(fixed=(1 / 128, 128), wide=3),
}
#: Operators that move or choose entries, and the places of what they take of these.
MOVES: dict[str, Sequence[int] | None] = {
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "PAD", "MAX_POOL_2D", "REVERSE_V2", "GATHER",
                     "RESIZE_NEAREST_NEIGHBOR"), (0,)),
    "CONCATENATION": None,
    "PADV2": (0,),
}  # fmt: skip


def in_integers(writer: Writer, outputs: Collection[int]) -> None:
    """Make integer kernels of what lies between DEQUANTIZE and QUANTIZE; ``outputs`` are tensors that are kept."""
    _Pass(writer, outputs).run()


class _Pass:
    def __init__(self, writer: Writer, outputs: Collection[int]) -> None:
        self.writer, self.part, self.outputs = writer, writer.part, outputs
        #: Of floats that are read from integers, these.
        self.codes: dict[int, int] = {}
        #: What takes the place of a tensor.
        self.instead: dict[int, int] = {}
        self.users: dict[int, list[Operator]] = {}
        for o in self.part.operators:
            for i in {*o.inputs}:
                self.users.setdefault(i, []).append(o)
        self.constants: dict[Any, int] = {}
        self.done: list[Operator] = []

    def run(self) -> None:
        self._round_before()
        before, self.part.operators = self.part.operators, self.done
        for o in before:
            o.inputs = [self.instead.get(i, i) for i in o.inputs]
            if not (self._reads(o) or self._rounds(o) or self._moves(o) or self._computes(o)):
                o.inputs = [self._weight_only(o, at, i) for at, i in enumerate(o.inputs)]
                self._keep_steps(o)
                self.done.append(o)

    def _keep_steps(self, o: Operator) -> None:
        """Integers that are moved as such are read as before."""
        places = MOVES.get(o.name, ())
        found = range(len(o.inputs)) if places is None else places
        known = [q for q in (self.tensor(o.inputs[at]).steps for at in found) if q is not None]
        if not known:
            return
        if not all(same(q, known[0]) for q in known):
            where = "" if o.origin is None else f" at {shown(o.origin.module or o.origin.source)}"
            raise UnsupportedError(f"TFLite has no {o.name} of integers of different scales{where}; dequantize them")
        for at in found:
            tensor = self.tensor(o.inputs[at])
            if tensor.steps is None and tensor.load is not None:  # a constant may be read otherwise elsewhere
                o.inputs[at] = self.writer.new(tensor.name, tensor.type, tensor.load, known[0])
            elif tensor.steps is None:
                self.part.tensors[o.inputs[at]] = tensor._replace(steps=known[0])
        (y,) = o.outputs
        self.part.tensors[y] = self.tensor(y)._replace(steps=known[0])

    def tensor(self, number: int) -> Tensor:
        return self.part.tensors[number]

    def _steps(self, number: int) -> Quantization | None:
        """The steps of the integers that a float tensor is read from."""
        return self.tensor(self.codes[number]).steps if number in self.codes else None

    def _reads(self, o: Operator) -> bool:
        if o.name == "DEQUANTIZE" and self.tensor(o.inputs[0]).steps is not None:
            self.codes[o.outputs[0]] = o.inputs[0]
            self.done.append(o)
            return True
        return False

    def _rounds(self, o: Operator) -> bool:
        """What was integers: the same ones, or others of them."""
        if o.name != "QUANTIZE" or o.inputs[0] not in self.codes:
            return False
        (x,), (y,) = o.inputs, o.outputs
        if self.codes[x] == y:  # the kernel's own result
            return True
        mine, theirs = self.tensor(self.codes[x]), self.tensor(y)
        if same(mine.steps, theirs.steps) and mine.type.dtype is theirs.type.dtype and y not in self.outputs:
            self.instead[y] = self.codes[x]
        else:
            o.inputs, o.version = [self.codes[x]], 2
            self.done.append(o)
        return True

    def _data(self, o: Operator, places: Sequence[int] | None) -> list[int] | None:
        """The places of what an operator takes of integers, all of which are there as i8, or as u8; else None."""
        found = list(range(len(o.inputs)) if places is None else places)
        kinds = {self._codes(o.inputs[i]).type.dtype if o.inputs[i] in self.codes else None for i in found}
        return found if len(kinds) == 1 and kinds <= _LOWEST.keys() else None

    def _codes(self, number: int) -> Tensor:
        return self.tensor(self.codes[number])

    def _moves(self, o: Operator) -> bool:
        """On the integers, which are read afterwards."""
        places = self._data(o, MOVES[o.name]) if o.name in MOVES else None
        if places is None or _activated(o):
            return False
        steps = self._steps(o.inputs[places[0]])
        if steps is None or not all(same(steps, self._steps(o.inputs[i])) for i in places):
            return False
        (y,) = o.outputs
        kind = self._codes(o.inputs[places[0]]).type.dtype
        chosen = [self.codes[i] if at in places else i for at, i in enumerate(o.inputs)]
        if o.name == "PADV2":
            filled = self._fill(o, steps, kind)
            if filled is None:
                return False
            chosen[2] = filled
        type_ = self.tensor(y).type
        moved = self.writer.new(f"{self.tensor(y).name}_{kind.name}", type_.with_dtype(kind), steps=steps)
        self.done.append(Operator(o.name, chosen, [moved], o.options, _version(o, kind), o.origin))
        self.done.append(Operator("DEQUANTIZE", [moved], [y], None, 2, o.origin))
        self.codes[y] = moved
        return True

    def _fill(self, o: Operator, steps: Quantization, kind: DType) -> int | None:
        """What is padded with, if an integer is exactly that."""
        load = self.tensor(o.inputs[2]).load
        if load is None:
            return None
        value = np.float32(np.asarray(load()).reshape(()))
        scale, zero, low = steps.scale[0], int(steps.zero_point[0]), _LOWEST[kind]
        code = np.clip(np.rint(value / scale) + zero, low, np.iinfo(kind.numpy).max)
        return self._constant(o.inputs[2], steps, kind) if np.float32(code - zero) * scale == value else None

    def _computes(self, o: Operator) -> bool:
        kernel = KERNELS.get(o.name)
        places = None if kernel is None else self._data(o, kernel.data)
        if kernel is None or places is None or len(o.outputs) != 1:
            return False
        kind = self._codes(o.inputs[places[0]]).type.dtype
        if (kernel.signed and kind is U8) or (kind is I16 and not kernel.wide):
            return False
        made = self._result(o, kernel, self._steps(o.inputs[places[0]]), kind)
        if made is None:
            return False
        chosen = [self.codes[i] if at in places else i for at, i in enumerate(o.inputs)]
        if kernel.weight is not None:
            layer = self._layer(o, kernel, places[0], kind)
            if layer is None:
                return False
            chosen[kernel.weight] = layer[0]
            chosen[kernel.bias :] = layer[1:]
        elif kernel.data is not None and any(self.tensor(o.inputs[i]).type.dtype.is_float for i in range(len(chosen))
                                             if i not in places):  # fmt: skip
            return False
        self.codes[o.outputs[0]] = made
        version = kernel.wide if kind is I16 else kernel.version
        if hasattr(o.options, "potScaleInt16"):
            o.options.potScaleInt16 = False  # scales are any numbers, not powers of two
        self.done.append(Operator(o.name, chosen, [made], o.options, max(o.version, version), o.origin))
        return True

    def _result(self, o: Operator, kernel: Kernel, steps: Quantization | None, kind: DType) -> int | None:
        """The tensor of integers that all takes a result as: the others are left out."""
        first = self._all_rounded(o.outputs[0])
        if first is None or self.tensor(first).type.dtype is not kind:
            return None
        own = self.tensor(first)
        assert own.steps is not None
        if kernel.shares and not same(own.steps, steps):
            return None
        wanted = (2.0**-15, 2**15) if kernel.fixed is not None and kind is I16 else kernel.fixed
        if wanted is not None and (own.steps.scale[0], own.steps.zero_point[0] - _LOWEST[kind]) != wanted:
            return None
        return first

    def _all_rounded(self, y: int) -> int | None:
        """The integers that all which takes a tensor rounds it to; None if something takes it otherwise."""
        users = self.users.get(y, [])
        if y in self.outputs or not users or any(u.name != "QUANTIZE" for u in users):
            return None
        first, *rest = [self.tensor(u.outputs[0]) for u in users]
        kind = first.type.dtype
        if kind not in _LOWEST or any(t.type.dtype is not kind or not same(t.steps, first.steps) for t in rest):
            return None
        if any(u.outputs[0] in self.outputs for u in users[1:]):
            return None
        return users[0].outputs[0]

    def _round_before(self) -> None:
        """What is rounded after it was moved is rounded before: the numbers are the same.

        From the last operator to the first, so that it goes back to what computes something.
        """
        after: list[Operator] = []
        gone: set[int] = set()
        before = {id(o) for o in self.part.operators}
        for o in reversed(self.part.operators):
            after.append(o)
            before.discard(id(o))
            rounded = self._all_rounded(o.outputs[0]) if o.name in MOVES else None
            fill = None if o.name != "PADV2" else self.tensor(o.inputs[2]).load
            if rounded is None or _activated(o) or (o.name == "PADV2" and fill is None):
                continue
            first, *rest = self.users[o.outputs[0]]
            steps, kind = self.tensor(rounded).steps, self.tensor(rounded).type.dtype
            assert steps is not None
            chosen, places = list(o.inputs), MOVES[o.name]
            for at in range(len(o.inputs)) if places is None else places:
                chosen[at] = self._rounding(o, o.inputs[at], (steps, kind), after, before, gone)
            if fill is not None:
                chosen[2] = self._constant(o.inputs[2], steps, kind)
            self.instead |= {u.outputs[0]: rounded for u in rest}
            gone |= {id(u) for u in (first, *rest)}
            o.inputs, o.outputs, o.version = chosen, [rounded], _version(o, kind)
        self.part.operators = [o for o in reversed(after) if id(o) not in gone]

    def _rounding(
        self, o: Operator, x: int, how: tuple[Quantization, DType], after: list[Operator], before: set[int],
        gone: set[int],
    ) -> int:  # fmt: skip
        """A tensor rounded before an operator that took it: by what does so before that, or else right before it."""
        steps, kind = how
        if self.tensor(x).load is not None:
            return self._constant(x, steps, kind)
        users = [u for u in self.users[x] if u is not o]
        there = [u for u in users if u.name == "QUANTIZE" and same(self.tensor(u.outputs[0]).steps, steps)
                 and self.tensor(u.outputs[0]).type.dtype is kind]  # fmt: skip
        first = next((u for u in there if id(u) in before), None)
        if first is not None:
            self.users[x] = users
            return first.outputs[0]
        if there:
            users.remove(there[0])
            gone.add(id(there[0]))
            out = there[0].outputs[0]
        else:
            own = self.tensor(x)
            out = self.writer.new(f"{own.name}_{kind.name}", own.type.with_dtype(kind), steps=steps)
        made = Operator("QUANTIZE", [x], [out], None, 1, o.origin)
        self.users[x] = [*users, made]
        after.append(made)
        return out

    def _constant(self, number: int, steps: Quantization, kind: DType) -> int:
        """A constant rounded."""
        tensor, low = self.tensor(number), _LOWEST[kind]
        key = ("rounded", number, steps.scale.tobytes(), steps.zero_point.tobytes(), kind)
        load = tensor.load
        assert load is not None
        if key not in self.constants:

            def codes() -> Array:
                found = np.rint(np.asarray(load()) / steps.scale[0]) + steps.zero_point[0]
                return np.clip(np.where(np.isnan(found), low, found), low, np.iinfo(kind.numpy).max).astype(kind.numpy)

            type_ = tensor.type.with_dtype(kind)
            self.constants[key] = self.writer.new(f"{tensor.name}_{kind.name}", type_, codes, steps)
        return self.constants[key]

    # Weights.

    def _layer(self, o: Operator, kernel: Kernel, data: int, kind: DType) -> list[int] | None:
        """The weight as integers, and the bias as those of the products."""
        assert kernel.weight is not None
        weight, steps = self.tensor(o.inputs[kernel.weight]), self._steps(o.inputs[data])
        grid = None if weight.load is None else self._grid(weight, kernel.axis)
        if grid is None or steps is None or grid[1] is not (I8 if kind is I16 else kind):
            return None
        number, scale = self._weight(o.inputs[kernel.weight], *grid, kernel.axis), grid[0].scale
        at = o.inputs[kernel.bias] if kernel.bias < len(o.inputs) else -1
        if at < 0:
            return [number, *o.inputs[kernel.bias :]]
        bias = self.tensor(at)
        if bias.load is None:
            return None
        each = np.broadcast_to(scale, bias.type.shape).astype(np.float64) * np.float64(steps.scale[0])
        whole = _I64 if kind is I16 else _I32
        load, key = bias.load, ("bias", at, each.tobytes(), whole)

        def codes() -> Array:
            found = np.rint(np.asarray(load(), np.float64) / each)
            most = 2.0**62 if whole is _I64 else 2.0**31 - 1
            return np.clip(found, -most, most).astype(whole.numpy)

        if key not in self.constants:
            own = Quantization((scale * steps.scale[0]).astype(np.float32), np.zeros(scale.size, np.int64), 0)
            self.constants[key] = self.writer.new(bias.name, bias.type.with_dtype(whole), codes, own)
        return [number, self.constants[key]]

    def _grid(self, weight: Tensor, axis: int) -> tuple[Quantization, DType] | None:
        """The steps that a weight of the file was read with, and of what; None if it wasn't, or no kernel takes it.

        i8 has scales along an axis without a zero point, u8 one scale and one zero point.
        """
        value = weight.source
        while value is not None and (isinstance(value.op, Permute) or label(value) == "reshape"):
            value = value.args[0]
        if value is None or value.op.name != "dequantize":
            return None
        f = fields(value)
        kind = f["x"].dtype
        if kind not in (I8, U8) or f["block"] or f["scale"].dtype.name != "f32":
            return None
        zero = np.zeros(1) if f["zero_point"] is None else self.writer.array(f["zero_point"])
        scale = self.writer.array(f["scale"])
        if scale is None or zero is None or not (scale > 0).all():
            return None
        scale, zero = scale.reshape(-1), np.asarray(zero).reshape(-1).astype(np.int64)
        sizes = (1, weight.type.shape[axis]) if kind is I8 else (1,)
        if scale.size not in sizes or (zero.any() if kind is I8 else zero.size != 1):
            return None
        along = axis if scale.size > 1 else 0
        return Quantization(scale, np.zeros(scale.size, np.int64) if kind is I8 else zero, along), kind

    def _weight(self, number: int, steps: Quantization, kind: DType, axis: int) -> int:
        key = ("weight", number, axis)
        if key in self.constants:
            return self.constants[key]
        tensor = self.tensor(number)
        load = _codes(tensor, steps, kind)
        self.constants[key] = self.writer.new(tensor.name, tensor.type.with_dtype(kind), load, steps)
        return self.constants[key]

    def _weight_only(self, o: Operator, at: int, number: int) -> int:
        """A weight of integers that is multiplied in float: stored as integers, read once."""
        kernel = KERNELS.get(o.name)
        if number < 0 or self.tensor(number).source is None:
            return number
        tensor = self.tensor(number)
        axis = kernel.axis if kernel is not None and kernel.weight == at else _own_axis(tensor)
        grid = None if axis is None else self._grid(tensor, axis)
        if axis is None or grid is None:
            return number
        key = ("read", number, axis)
        if key not in self.constants:
            codes = self._weight(number, *grid, axis)
            out = self.writer.new(f"{tensor.name}_read", tensor.type)
            version = 5 if grid[0].scale.size > 1 else 2
            self.done.append(Operator("DEQUANTIZE", [codes], [out], None, version, o.origin))
            self.constants[key] = out
        return self.constants[key]


def _activated(o: Operator) -> bool:
    """Whether an operator has an activation."""
    return bool(getattr(o.options, "fusedActivationFunction", 0))


def _version(o: Operator, kind: DType) -> int:
    """The version of an operator that moves i8, or i16."""
    return 1 if o.name == "RESHAPE" else max(o.version, 3 if kind is I16 else 2)


def _own_axis(tensor: Tensor) -> int | None:
    """The axis that a constant which is as it was read has scales along; None for others."""
    value = tensor.source
    if value is None or value.op.name != "dequantize" or value.type is not tensor.type:
        return None
    return int(value.op.attributes["axis"] or 0) % max(value.rank, 1)


def _codes(tensor: Tensor, steps: Quantization, kind: DType) -> Callable[[], Array]:
    """The integers of a weight that was read: its numbers are multiples of its scales."""
    load = tensor.load
    assert load is not None
    shape = [1] * len(tensor.type.shape)
    if steps.scale.size > 1:
        shape[steps.axis] = steps.scale.size

    def codes() -> Array:
        quotient = np.asarray(load()) / steps.scale.reshape(shape)
        found = np.rint(quotient)
        assert np.abs(quotient - found).max(initial=0) < 1e-3, f"{tensor.name} isn't of integers along {steps.axis}"
        return (found + steps.zero_point.reshape(shape)).astype(kind.numpy)

    return codes
