"""Each quantized op beside its float self, on the same numbers: what quantizing it alone changes, in one run of data.

The float network runs; where an op is quantized, what it takes is rounded as the quantized network would round it, and
the quantized op is computed too, with what is computed with it before its result is rounded, where that is. No value is
kept longer than the float run needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import topological
from tdagger.interpreter import Interpreter
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Input
from tdagger.quantization.convert import Conversion, dynamic, rounded
from tdagger.quantization.scales import ends
from tdagger.tensordag import TensorDAG
from tdagger.tree import flatten

#: So many bytes of weights are held once more, as the kernels of layers want them.
_PACKED = 1 << 27


@dataclass
class Local:
    """What quantizing an op alone changed of its result, over all data so far: sums of squares of both.

    ``taken`` numbers went in to be rounded, ``saturated`` of them became an end of the range other than 0.
    """

    signal: float = 0.0
    noise: float = 0.0
    taken: int = 0
    saturated: int = 0

    @property
    def sqnr(self) -> float:
        """The signal over the noise, in dB."""
        return decibels(self.signal, self.noise)

    def add(self, x: Array, quantized: Array) -> None:
        away = np.subtract(x, quantized, dtype=np.float32)
        self.signal += float(np.vdot(x, x))
        self.noise += float(np.vdot(away, away))

    def add_all(self, wanted: Sequence[Array], found: Sequence[Array]) -> None:
        for a, b in zip(wanted, found, strict=True):
            self.add(a, b)


def decibels(signal: float, noise: float) -> float:
    """A ratio of energies in dB: infinite without noise.

    >>> decibels(100.0, 1.0)
    20.0
    """
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


class Watching(Interpreter):
    """Runs a network again and again, and shows observers what they are for."""

    def __init__(self, dag: TensorDAG, framework: str, see: Container[Value], report: Callable[..., None]) -> None:
        super().__init__(dag, framework)
        self.see, self.report = see, report
        self.forget()

    def forget(self) -> None:
        """Let go of what is held of weights, as layers want them."""
        self.packed: dict[Value, Callable[[Any], Any] | None] = {}
        self.room = _PACKED

    def run_op(self, value: Value, args: list[Any]) -> Any:
        if value not in self.packed and len(args) > 1:
            kept = value.args[1:]
            weighs = sum(a.type.bytes for a in kept)
            fits = weighs <= self.room and all(a.op.name == "parameter" for a in kept)
            self.packed[value] = self.framework.packed(value, args) if fits else None
            self.room -= weighs if self.packed[value] else 0
        layer = self.packed.get(value)
        return super().run_op(value, args) if layer is None else layer(args[0])

    def run_value(self, value: Value, args: list[Any]) -> Any:
        out = super().run_value(value, args)
        if value in self.see:
            self.report(value, self.framework.array(out))
        return out


def qualities(
    dag: TensorDAG, others: Sequence[TensorDAG], data: Iterable[Any], framework: str, call: Callable[..., Any]
) -> list[float]:
    """The signal of a network's results over what each of some others' lack, in dB, on the arguments of ``data``."""
    runners = [Interpreter(d, framework) for d in (dag, *others)]
    sums = [Local() for _ in others]
    for batch in data:
        wanted, *found = [floats(runner, call(runner, batch)) for runner in runners]
        for total, arrays in zip(sums, found, strict=True):
            total.add_all(wanted, arrays)
    return [s.sqnr for s in sums]


def floats(runner: Interpreter, result: Any, most: int | None = None) -> list[Array]:
    """The tensors of floats of what a run gave, as f64 arrays; of one with more than ``most`` numbers, some of them.

    Which of them goes by their number alone: results of one shape can be compared.
    """
    leaves, _ = flatten(result, runner.framework.is_tensor, "the result", result=True)
    arrays = [a for a in map(runner.framework.array, leaves) if a.dtype.kind in "fV"]
    if most is not None:
        arrays = [a.reshape(-1)[_places(a.size, most)] if a.size > most else a for a in arrays]
    return [a.astype(np.float64) for a in arrays]


def _places(size: int, count: int) -> Array:
    """So many places of a tensor by chance, the same ones for each size."""
    return np.random.default_rng(0).integers(size, size=count)


class Beside(Interpreter):
    """Runs the float network, and each quantized op on what it takes."""

    def __init__(
        self, conversion: Conversion, quantized: TensorDAG, framework: str, read: Mapping[Value, Callable[..., Array]]
    ) -> None:
        super().__init__(conversion.dag, framework)
        self.conversion, self.read = conversion, read
        self.other = Interpreter(quantized, framework)
        self.other.weights = _Kept(quantized.weights)
        rows = conversion.placement.rows
        self.found = {v: Local() for v in rows if v.type.size}
        #: Quantized ops whose result is still to be rounded, and it so far, by the last op computed with them.
        self.pending: dict[Value, tuple[Value, Any]] = {}
        self.roundings: dict[Any, list[Value]] = {}
        self.constants: dict[Value, Any] = {}

    def run_value(self, value: Value, args: list[Any]) -> Any:
        out = super().run_value(value, args)
        if value in self.found:
            self._result(value, value, out, self._quantized(value, args))
        elif value.args and value.args[0] in self.pending:  # of the op before: nobody else reads that
            row, other = self.pending.pop(value.args[0])
            self._result(row, value, out, super().run_value(value, [other]))
        return out

    def _result(self, row: Value, value: Value, out: Any, other: Any) -> None:
        """Compare what an op gives, with what is computed with it so far, if that is all of it."""
        placement = self.conversion.placement
        end = placement.ends.get(row, row)
        if value is not end:
            self.pending[value] = row, other
            return
        other = self._rounded(value, other) if value in placement.given else other
        arrays = self.framework.array(out), self.framework.array(other)
        read = self.read.get(value)
        self.found[row].add(*(arrays if read is None else map(read, arrays)))

    def _quantized(self, value: Value, args: list[Any]) -> Any:
        placement, op = self.conversion.placement, self.conversion.ops[value]
        given: list[Any] = []
        for i, arg in enumerate(op.args):
            if i < len(value.args) and placement.is_quantized(value, i):
                given.append(self._rounded(value.args[i], args[i]))
                self._count(self.found[value], value.args[i], given[-1])
            elif i < len(args) and arg is value.args[i]:
                given.append(args[i])
            else:
                given.append(self._static(arg, args[i] if i < len(args) else None))
        return self.other.run_value(op, given)

    def _count(self, found: Local, value: Value, rounded: Any) -> None:
        """Count the numbers that are at the ends of the range they were rounded to."""
        conversion, root = self.conversion, self.conversion.placement.root(value)
        numbers = conversion.placement.numbers[root]
        if conversion.placement.profile.dynamic or numbers.grid.is_float:
            return
        array = self.framework.array(rounded)
        found.taken += array.size
        for end in ends(*conversion.scales[root], numbers):
            found.saturated += int(np.count_nonzero(array == np.float32(end))) if end else 0

    def _rounded(self, value: Value, x: Any) -> Any:
        """What a value is once it is rounded to the numbers it is given in."""
        placement = self.conversion.placement
        root = placement.root(value)
        key = (root, value.type)
        steps = self.roundings.get(key)
        if steps is None:
            made = self._rounding(root, Input("x", value.type)())
            steps = self.roundings[key] = _cone(made)
        return self._run(steps, x)

    def _rounding(self, root: Value, x: Value) -> Value:
        conversion, numbers = self.conversion, self.conversion.placement.numbers[root]
        if conversion.placement.profile.dynamic:
            return dynamic(x, numbers)
        return rounded(x, conversion.scale_values(root), numbers, None, 0, False)

    def _run(self, steps: list[Value], x: Any) -> Any:
        results: dict[Value, Any] = {}
        for step in steps:
            if isinstance(step.op, Input):
                results[step] = x
            elif isinstance(step.op, Const):
                if step not in self.constants:
                    self.constants[step] = self.other.run_value(step, [])
                results[step] = self.constants[step]
            else:
                results[step] = self.other.run_value(step, [results[a] for a in step.args])
        return results[steps[-1]]

    def _static(self, value: Value, otherwise: Any) -> Any:
        """A weight of the quantized network; what isn't one is what the float network has."""
        steps = _cone(value)
        if any(isinstance(s.op, Input) for s in steps):
            return otherwise
        results: dict[Value, Any] = {}
        for step in steps:
            results[step] = self.other.run_value(step, [results[a] for a in step.args])
        return results[value]


class _Kept(Mapping[str, Array]):
    """Weights in few bits, kept once they were made."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self.kept:
            self.kept[name] = self.weights[name]
        return self.kept[name]

    def __iter__(self) -> Any:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _cone(value: Value) -> list[Value]:
    return topological([value])


def compare(
    conversion: Conversion, quantized: TensorDAG, data: Iterable[Any], framework: str, call: Callable[..., Any],
    read: Mapping[Value, Callable[..., Array]],
) -> dict[Value, Local]:  # fmt: skip
    """What quantizing each op alone changes on data; InputError if there is none.

    ``read``: of values that are read as a function of their numbers alone, that function: its results are compared.
    """
    beside = Beside(conversion, quantized, framework, read)
    batches = 0
    for batch in data:
        call(beside, batch)
        batches += 1
    if not batches:
        raise InputError("there is no data to compare the quantized network with the float one on")
    return beside.found
