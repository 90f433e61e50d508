"""From a float network to a quantized one: prepared, shown data, converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

from tdagger.errors import AttributeValueError, InputError
from tdagger.graph import label
from tdagger.interpreter import Interpreter
from tdagger.later import later
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf
from tdagger.ops.structure import Permute
from tdagger.quantization.convert import Conversion
from tdagger.quantization.layers import as_layers
from tdagger.quantization.observers import Observer, ReadError, ends_of, observer_of, refused
from tdagger.quantization.other_sizes import OfFloat
from tdagger.quantization.placement import Placement, place
from tdagger.quantization.profile import Profile
from tdagger.quantization.profiles import profile_of
from tdagger.quantization.quality.local import Local, Watching, compare, floats
from tdagger.quantization.reading import read_as, told_apart
from tdagger.quantization.repairs.bias import Correcting, Means, axis_of, corrected, means
from tdagger.quantization.repairs.compensate import BUDGET, compensate
from tdagger.quantization.repairs.equalize import equalized
from tdagger.quantization.repairs.outliers import split as split_outliers
from tdagger.quantization.repairs.smooth import smoothed
from tdagger.quantization.repeated import KEPT, Repeated
from tdagger.quantization.scales import Affine, Weights, affine
from tdagger.quantization.weights import Kept as KeptNumbers
from tdagger.quantization.weights import Rounding, nearest
from tdagger.tensordag import TensorDAG
from tdagger.transform import passes
from tdagger.transform.networks import place as place_of

#: What is done to a float network before it is quantized: repairs are passes too, and stand here.
FLOAT_PASSES: tuple[Callable[[TensorDAG], TensorDAG], ...] = (
    passes.simplify, passes.drop_unused_results, passes.fold_batch_norm, passes.keeping_open(passes.fold_weights),
    as_layers,
)  # fmt: skip


#: On so many batches it is looked whether the results got better by a correction, on fewer where that makes so many dB
#: times batches; at so many numbers of a result. Results of so many first batches are kept, besides those of the last.
_CHECKED, _PLAIN, _NUMBERS, _FIRST = 8, 3.0, 1 << 16, 32

#: So many dB worse is no clear loss: what is looked at is corrected by a part of the data.
_WORSE = 0.5


class Kept:
    """Which ops stay in float: by their names, their modules' or weights' (with wildcards), or functions of values."""

    def __init__(self, dag: TensorDAG, keep: Any) -> None:
        self.dag = dag
        self.rules: list[Any] = [keep] if isinstance(keep, str) or callable(keep) else list(keep)
        self.used: set[int] = set()

    def __call__(self, value: Value) -> bool:
        hits = [i for i, rule in enumerate(self.rules) if self._fits(rule, value)]
        self.used.update(hits)
        return bool(hits)

    def _fits(self, rule: Any, value: Value) -> bool:
        if callable(rule):
            return bool(rule(value))
        origin = self.dag.origins.get(value)
        leaves = [_unmoved(a) for a in value.args]
        names = [a.op.leaf for a in leaves if isinstance(a.op, Leaf)]
        names += [] if origin is None else [origin.module]
        return rule == label(value.op) or any(fnmatchcase(n, rule) or n.startswith(f"{rule}.") for n in names)

    def check(self) -> None:
        """AttributeValueError for names that nothing has that would be quantized."""
        odd = [r for i, r in enumerate(self.rules) if i not in self.used and not callable(r)]
        if odd:
            raise AttributeValueError(f"keep: nothing that would be quantized is called {', '.join(map(repr, odd))}")


def _unmoved(value: Value) -> Value:
    """A value before it was transposed."""
    while isinstance(value.op, Permute):
        value = value.args[0]
    return value


class Prepared:
    """A network with observers: call it on data as the network is called, then :meth:`convert`.

    ``dag`` is the float network that is quantized (norms folded), ``placement`` what is quantized of it, ``observers``
    the range of each value that has a scale of its own.
    """

    def __init__(
        self, dag: TensorDAG, profile: Profile, keep: Iterable[Any] = (), framework: str | None = None
    ) -> None:
        self.source = dag
        self.profile = profile
        self.dag = self.as_float(dag)
        keeps = Kept(self.dag, keep)
        self.placement: Placement = place(self.dag.graph, profile, keeps)
        keeps.check()
        if not self.placement.rows:
            there = ", ".join(profile.rows)
            few = f", of layers those of {profile.least} products and more (least=)" if profile.least else ""
            raise InputError(f"{shown(dag.name)}: {profile.name} quantizes nothing of it; it quantizes {there}{few}")
        self.watched = {} if profile.dynamic or profile.activation is None else self.placement.observed
        self.observers: dict[Value, Observer] = {}
        for root in self.watched.values():
            if root not in self.observers:
                self.observers[root] = observer_of(self.placement.numbers[root].observer)
        times = Counter(self.watched.values())
        #: Of values that are read as a function of their numbers alone, that function.
        self.read: dict[Value, Callable[[Array], Array]] = {}
        for value, root in self.watched.items():
            read = read_as(self.dag.graph, value) if times[root] == 1 else None
            if read is not None:
                self.read[root] = read
                if isinstance(observer := self.observers[root], ReadError):
                    observer.read = read
        self.batches = 0
        self.corrections: dict[Value, Array] = {}
        self.rounding: Rounding = nearest
        #: Scales that weights have for what they are multiplied with, where that was looked at.
        self.weight_scales: dict[tuple[str, Weights], Affine] = {}
        self.framework = framework or _framework()
        #: The means of channels of layers whose biases can be changed.
        self.means = {v: Means() for v in corrected(self.placement)}
        #: What the float network gave for the first and the last batches, or some numbers of it.
        self.results: dict[int, list[Array]] = {}
        self._ranges: dict[Value, tuple[Any, tuple[float, float]]] = {}
        #: A rounding, and the numbers of weights that were made by it to correct biases.
        self._numbers: tuple[Rounding, KeptNumbers] = self.rounding, KeptNumbers()
        self._runner = Watching(self.dag, self.framework, {*self.watched, *self.means}, self._see)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the float network on data that the observers see; gives what the network gives."""
        self.batches += 1
        result = self.call(self._runner, (args, kwargs))
        if self.means:
            self.results[self.batches - 1] = floats(self._runner, result, _NUMBERS)
            if self.batches > _FIRST + _CHECKED:
                del self.results[self.batches - 1 - _CHECKED]
        return result

    def calls(self, data: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The arguments of each batch, as tensors of the framework."""
        return (arguments(batch, self.framework) for batch in data)

    def _see(self, value: Value, x: Array) -> None:
        if value in self.means:
            self.means[value].add(means(x, axis_of(value)))
        if value in self.watched:
            self.observe(value, x)

    def observe(self, value: Value, x: Array) -> None:
        """Show an observer what a value is in a batch; InputError if it isn't finite."""
        ends = ends_of(x)
        why = refused(ends)
        if why:
            where = place_of(self.dag.origins)(value)
            raise InputError(
                f"calibration: {value!r}{where} has {why} in batch {self.batches}; leave the batch out, or keep the "
                "op in float: keep="
            )
        self.observers[self.watched[value]].update(x, ends)

    def calibrate(self, data: Iterable[Any], progress: Callable[[int], None] | None = None) -> Prepared:
        """Run on batches: each one argument of the network, a tuple of arguments or a dict of them by name."""
        for args, kwargs in self.calls(data):
            self(*args, **kwargs)
            if progress is not None:
                progress(self.batches)
        return self

    def scales(self) -> dict[Value, Affine]:
        """The scale and zero point of every value that has its own; InputError where no data was seen."""
        if self.observers and not self.batches:
            raise InputError("convert: no data was seen; call the prepared network on data first")
        numbers = self.placement.numbers
        ranges = {root: numbers[root].fixed or self.range(root) for root in self.observers}
        return {root: affine(*found, numbers[root]) for root, found in ranges.items()}

    def range(self, root: Value) -> tuple[float, float]:
        """From where to where the numbers of a value are told apart, found once for what was seen so far."""
        observer = self.observers[root]
        seen = observer.count, observer.low, observer.high
        if root not in self._ranges or self._ranges[root][0] != seen:
            self._ranges[root] = seen, self._told_apart(root)
        return self._ranges[root][1]

    def _told_apart(self, root: Value) -> tuple[float, float]:
        numbers, read = self.placement.numbers[root], self.read.get(root)
        low, high = self.observers[root].range(numbers)
        if read is None or numbers.grid.is_float or not np.isfinite((low, high)).all():
            return low, high
        return told_apart(read, min(low, 0.0), max(high, 0.0), int(numbers.bounds[1] - numbers.bounds[0]))

    def convert(self, rounding: Rounding | None = None) -> TensorDAG:
        """The quantized network."""
        return self.finished(self.conversion(rounding))

    def finished(self, conversion: Conversion) -> TensorDAG:
        """The network of a conversion, which other sizes can be asked of."""
        return self.asking(conversion.run())

    def asking(self, made: TensorDAG) -> TensorDAG:
        """A network that does what :attr:`dag` does, with what is known of that at other sizes."""
        return replace(made, source=OfFloat(self.source, self.as_float, self.dag, made))

    def as_float(self, dag: TensorDAG, folded: bool = True) -> TensorDAG:
        """The network, or it at other sizes, as it is quantized: norms folded, computed weights worked out.

        ``folded=False``: as it is before norms are folded into the layers before them.
        """
        dag = passes.decompose(dag, *self.profile.opened) if self.profile.opened else dag
        for step in FLOAT_PASSES:
            if step is passes.fold_batch_norm and not folded:
                break
            dag = step(dag)
        return dag

    def conversion(self, rounding: Rounding | None = None, in_graph: bool = False) -> Conversion:
        """How the network is converted; weights are rounded as :attr:`rounding` says unless another is told."""
        how, given = rounding or self.rounding, self.weight_scales
        self._runner.forget()
        kept = self._numbers[1] if how is self._numbers[0] else None
        return Conversion(
            self.dag, self.placement, self.scales(), how, self.corrections, given=given, in_graph=in_graph, kept=kept
        )

    def compare(self, data: Iterable[Any], rounding: Rounding | None = None) -> dict[Value, Local]:
        """What quantizing each op alone changes on data: by the op of the float network."""
        conversion = self.conversion(rounding)
        return compare(conversion, conversion.run(), self.calls(data), self.framework, self.call, self.read)

    def correct(self, data: Iterable[Any], rounding: Rounding | None = None) -> Prepared:
        """Change the biases of layers so that the means of their channels are those of the float network.

        Data is run by the quantized network, corrected by what was seen so far, until corrections would change little
        by more of it. They are left out where its results on the last of these batches (at most half of all) get
        clearly further from the float network's by them: a mean over positions that don't matter (padding) may be
        further from those that do. ``data`` are the batches that the network was prepared with, in the same order;
        InputError for more or fewer, as far as they are run.
        """
        self.corrections = {}
        quantized, layers = self._to_correct(rounding)
        runner = Correcting(layers, quantized, self._runner.framework, self.means, self._tensor)
        plain = Repeated(quantized, runner.framework, like=runner)
        before, after = Local(), Local()
        first = self.batches - min(_CHECKED, (self.batches + 1) // 2)
        checked = 0
        for call in self.calls(data):
            if runner.batch == self.batches:
                raise InputError(f"correct: the network was prepared with {self.batches} batches, there are more")
            wanted = self.results.get(runner.batch)
            result = self.call(runner, call)
            runner.batch += 1
            runner.settled = runner.settled or runner.is_settled()
            if wanted is None or not (runner.settled or runner.batch > first):
                continue
            after.add_all(wanted, floats(runner, result, _NUMBERS))
            before.add_all(wanted, floats(plain, self.call(plain, call), _NUMBERS))
            checked += 1
            if runner.settled and (checked == _CHECKED or abs(after.sqnr - before.sqnr) * checked > _PLAIN):
                break
        else:
            if runner.batch != self.batches or not self.batches:
                raise InputError(
                    f"correct: the network was prepared with {self.batches} batches, there are {runner.batch}"
                )
        if after.sqnr > before.sqnr - _WORSE:
            self.corrections = {v: runner.correction(v) for v in self.means}
        return self

    def _to_correct(self, rounding: Rounding | None) -> tuple[TensorDAG, dict[Value, Value]]:
        """The quantized network as it is run here, and the layers in it that stand for those of :attr:`means`."""
        if self.framework == "torch" and later("torch.are_exact")():
            self._numbers = rounding or self.rounding, KeptNumbers(KEPT)
            conversion = self.conversion(rounding)
            made, new = later("torch.layers_on_integers")(conversion.run())
            return made, {v: new[conversion.ops[v]] for v in self.means}
        conversion = self.conversion(rounding, in_graph=True)
        return conversion.run(), {v: conversion.ops[v] for v in self.means}

    def compensate(self, data: Iterable[Any], budget: int = BUDGET, adaptive: bool = False) -> Prepared:
        """Round weights of linear layers and convolutions so that each one's error is made up for by others (GPTQ).

        What layers take in on ``data`` says which errors matter: the sums of its products are at most ``budget`` bytes
        at a time, and ``data`` is run as often as that takes. Other weights are rounded to the nearest. ``adaptive``:
        each number is then moved to where the error is the least with all others as they are (AdaRound's objective).
        """
        rounding = compensate(self, data, budget, adaptive)
        self.rounding, self.weight_scales = rounding, rounding.scales
        return self

    def _tensor(self, x: Array) -> Any:
        return _as(x, self.framework)

    def call(self, runner: Interpreter, call: tuple[Any, Any]) -> Any:
        """What a run of a network gives, without gradients."""
        args, kwargs = call
        self._check(args, kwargs, runner)
        if self.framework == "numpy":
            return runner.run(*args, **kwargs)
        with later("torch.no_grad")():
            return runner.run(*args, **kwargs)

    def _check(self, args: Any, kwargs: Any, runner: Interpreter) -> None:
        """InputError for arguments of other sizes or types than the network's."""
        for name, x in self.dag.bind(args, kwargs, runner.framework.is_tensor).items():
            wanted, array = self.dag.graph.inputs[name].type, runner.framework.array(x)
            if array.shape != wanted.shape or array.dtype != wanted.dtype.numpy:
                sizes = " ".join(map(str, array.shape))
                raise InputError(
                    f"{shown(self.dag.name)}: input {name!r} is {wanted}, data has {array.dtype}[{sizes}] for it; give "
                    "batches as the network takes them, or resize it to theirs"
                )


def _framework() -> str:
    """What data is run by: torch where it is installed, as it is faster."""
    return "numpy" if find_spec("torch") is None else "torch"


def arguments(batch: Any, framework: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a network is called with a batch, whose tensors are a framework's."""
    if isinstance(batch, Mapping):
        named = cast(Mapping[str, Any], batch)
        return (), {k: _as(v, framework) for k, v in named.items()}
    args = cast(tuple[Any, ...], tuple(batch)) if isinstance(batch, tuple | list) else (batch,)  # pyright: ignore
    return tuple([_as(a, framework) for a in args]), {}


def _as(x: Any, framework: str) -> Any:
    """A tensor of a framework; what isn't a tensor stays."""
    is_array = isinstance(x, np.ndarray | np.generic)
    if framework == "torch":
        return later("torch.tensor")(x) if is_array else x
    return later("torch.array")(x) if hasattr(x, "detach") else x


def prepare(
    dag: TensorDAG,
    scheme: str | Profile = "x86",
    *,
    keep: Iterable[Any] = (),
    framework: str | None = None,
    train: bool = False,
    learn_scales: bool = False,
    **changes: Any,
) -> Prepared:
    """A network with observers where a target quantizes it; see :func:`tdagger.prepare`."""
    profile = profile_of(scheme).having(**changes)
    if train:
        return later("trainable")(dag, profile, keep, framework, learn_scales)
    if learn_scales:
        raise AttributeValueError("prepare: scales are learned in training: train=True")
    return Prepared(dag, profile, keep, framework)


def smooth(
    dag: TensorDAG, data: Iterable[Any], target: str | Profile = "x86", *, products: bool = True, **how: Any
) -> TensorDAG:
    """The network, in float, with channels of what its linear layers take in made alike where that helps a target.

    Factors are tried on rows of ``data`` that layers take in, with the numbers of the target; the best are kept if the
    error of the layers' results gets less. A norm or a layer before takes them in; elsewhere they are a product of
    their own, unless ``products`` is False. Norms are folded first. ``how`` are options of :func:`tdagger.prepare`.

    >>> import tdagger as td
    >>> small = smooth(td.layers.linear(4, 3), [np.ones((1, 4), "f")])  # alike already
    >>> [v.op.name for v in small.values]
    ['input', 'parameter', 'parameter', 'linear']
    """
    return smoothed(prepare(dag, target, **how), data, products)


def equalize(dag: TensorDAG, target: str | Profile = "x86", **how: Any) -> TensorDAG:
    """The network, in float, with weights made alike across layers that follow one another; no data is needed.

    For each channel a factor goes from a layer into the next, wherever that is exact; norms are folded first. It helps
    where a weight has one scale. ``how`` are options of :func:`tdagger.prepare`.
    """
    return equalized(prepare(dag, target, **how))


def quantize(
    dag: TensorDAG,
    data: Iterable[Any] | None = None,
    target: str | Profile | dict[str, Any] = "x86",
    **how: Any,
) -> TensorDAG:
    """A network in numbers of few bits; see :func:`tdagger.quantization`."""
    if isinstance(target, dict):
        if data is None:
            raise InputError("quantize: a quality is measured on data; give some")
        return later("with_quality")(dag, data, target, **how)[0]
    return prepared_by(dag, data, target, **how).convert()


def repaired(
    dag: TensorDAG, data: Iterable[Any], target: str | Profile, *, equalize: bool = False, smooth: bool = False,
    split: bool = False, keep: Any = (), **how: Any,
) -> tuple[TensorDAG, list[Any]]:  # fmt: skip
    """The float network with the repairs of channels that are asked for, and all that stays in float of it."""
    kept: list[Any] = [keep] if isinstance(keep, str) or callable(keep) else list(keep)
    if equalize:
        dag = equalized(prepare(dag, target, keep=kept, **how))
    if smooth:
        dag = smoothed(prepare(dag, target, keep=kept, **how), data)
    if split:
        apart = split_outliers(prepare(dag, target, keep=kept, **how), data)
        dag, kept = apart.dag, [*kept, *apart.keep]
    return dag, kept


def prepared_by(
    dag: TensorDAG,
    data: Iterable[Any] | None,
    target: str | Profile,
    *,
    rounding: Rounding = nearest,
    correct: bool = True,
    equalize: bool = False,
    smooth: bool | None = None,
    split: bool = False,
    compensate: bool | str = False,
    progress: Callable[[int], None] | None = None,
    **how: Any,
) -> Prepared:
    """A network prepared with data and repaired as it is told: all but the conversion.

    ``smooth`` is the default where scales are found at run time and data can be read twice.
    """
    if compensate not in (False, True, "adaptive"):
        raise AttributeValueError(f'quantize: compensate is True, "adaptive" or False, not {compensate!r}')
    prepared = prepare(dag, target, **how)
    if prepared.observers and data is None:
        raise InputError(
            f"quantize: {prepared.profile.name} quantizes activations by what data shows of them; give data, or a "
            "target that needs none (coreml-weight-only, gpu-weight-only, x86-dynamic)"
        )
    again = data is not None and iter(data) is not data
    smooth = prepared.profile.dynamic and again if smooth is None else smooth
    by_data = {"smooth": smooth, "split": split, "compensate": compensate}
    if data is None and any(by_data.values()):
        raise InputError(
            f"quantize: {next(n for n, d in by_data.items() if d)}=True goes by what data shows; give data"
        )
    if data is not None and (correct or any(by_data.values())) and not again:
        raise InputError(
            "quantize: data is read twice, for ranges and then for biases: give a list or what can be iterated over "
            "again, or correct=False"
        )
    if equalize or smooth or split:
        dag, how["keep"] = repaired(
            dag, () if data is None else data, target, equalize=equalize, smooth=smooth, split=split, **how
        )
        prepared = prepare(dag, target, **how)
    prepared.rounding = rounding
    if data is None:
        return prepared
    prepared.calibrate(data, progress)
    if compensate:
        prepared.compensate(data, adaptive=compensate == "adaptive")
    if correct and prepared.means:
        prepared.correct(data)
    return prepared
