"""From the older neural networks: a ``neuralNetwork`` (classifier, regressor) becomes a TDAG, layer by layer.

Arrays that go in are floats of the shape that the file describes. Where it says so (by default, before version 4), they
become blobs of five axes inside: sequence, batch, channels, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.errors import InputError, SourceError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.coreml.asked import known_inputs
from tdagger.frameworks.coreml.inputs import Declared, described
from tdagger.frameworks.coreml.layers import control, recurrent, rules, structure
from tdagger.frameworks.coreml.layers.table import LAYERS, REASONS
from tdagger.frameworks.coreml.read import Model
from tdagger.frameworks.coreml.values import Constant, Tensors
from tdagger.frameworks.importing import Importing, Problem
from tdagger.frameworks.known import Known
from tdagger.graph import Graph
from tdagger.library import reshape
from tdagger.names import shown, untaken
from tdagger.network import Weight, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, const
from tdagger.ops.source import Parameter as Learned
from tdagger.tensordag import Origin, TensorDAG

#: Element types of arrays by MIL's numbers; f64 are held as f32.
_ARRAYS = {65568: 11, 131104: 23, 65600: 11, 65552: 10}


#: Every layer's rule; the modules of rules fill the table when they are imported.
_RULES = LAYERS if (rules, structure, recurrent) else {}


class Layers(Importing):
    """One network as it is imported."""

    def __init__(self, model: Model, asked: Any) -> None:
        super().__init__(asked.external, [i.name for i in model.spec.description.input])
        self.model, self.asked = model, asked
        self.net = getattr(model.spec, model.spec.WhichOneof("Type"))
        #: Whether arrays are as they are described, and not five axes.
        self.exact = bool(self.net.arrayInputShapeMapping)
        #: What layers made so far, by name; and what :mod:`.control` keeps beside them.
        self.blobs: control.Blobs = {}
        self.held: dict[str, Constant] = {}
        self.state: dict[str, Weight] = {}
        #: What sizes and places are worked out of, constants of layers among it.
        self.known = Known(Tensors(self.held))
        self.failed: set[str] = set()
        #: The inputs as the file describes them.
        self.own: list[Declared] = []
        self.left_out: list[LeftOut] = []
        #: What the weights of a layer are called by, and its place; weights by places and names, for turns of a loop.
        self.at, self.place = "", ""
        self.leaves: dict[tuple[str, str], Value] = {}
        #: How often blobs are read, and how many layers of turns were written out.
        self.reads = control.reads(self.net.layers)
        self.steps = 0

    @property
    def called_as(self) -> str:
        """What the network is called."""
        return self.asked.name or Path(self.model.name).stem

    def network(self, source: Any) -> TensorDAG:
        """The network; ``source`` is asked for other sizes of what the file leaves open."""
        given = self.begin()
        outputs = self.walked()
        title = self.called_as
        signature = self.with_seed(given, plain_signature(len(given), len(outputs)))
        graph = Graph(given, outputs, {}, title, self.order)
        weights = Tensors({n: self.held[n] for n in self.state})
        source = source if any(i.free for i in self.own) else None
        return TensorDAG(graph, weights, signature, self.state, self.origins, {}, title, {}, source, rows=True)

    def begin(self) -> dict[str, Value]:
        """The inputs by name."""
        own = {f.name: self._input(f) for f in self.model.spec.description.input}
        odd = [n for n in (*(self.asked.inputs or ()), *(self.asked.values or ())) if n not in own]
        if odd:
            raise InputError(f"inputs: there is no input {', '.join(map(shown, odd))}; there are {', '.join(own)}")
        return {n: v for n, v in own.items() if isinstance(v.op, Input)}

    def walked(self) -> dict[str, Value]:
        """The outputs by name, after all layers; UnsupportedError names those that can't be imported."""
        self.reads.update(f.name for f in self.model.spec.description.output)
        control.run(self, self.net.layers)
        outputs = self._outputs()
        if self.problems:
            raise self.error(what="layers")
        return outputs

    def kept(self) -> Callable[[], None]:
        """What brings the network back to what it is now, for layers that are tried."""
        names = ("blobs", "held", "state", "origins", "order", "problems", "failed", "leaves")
        own = {n: copy(getattr(self, n)) for n in names}
        seed, streams = self.seed, self.streams

        def restore() -> None:
            for n in names:
                found = getattr(self, n)
                found.clear()
                found.extend(own[n]) if isinstance(found, list) else found.update(own[n])
            self.seed, self.streams = seed, streams

        return restore

    def _input(self, feature: Any) -> Value:
        own = self._declared(feature)
        self.own.append(own)
        type_ = own.type((self.asked.inputs or {}).get(feature.name))
        known = {n: a for n, a in (self.asked.values or {}).items() if n == feature.name}
        value = known_inputs(self.asked._replace(values=known), {feature.name: type_}).get(feature.name)
        value = Input(feature.name, type_)() if value is None else value
        is_image = feature.type.WhichOneof("Type") == "imageType"
        self.blobs[feature.name] = self._prepared(feature.name, self._inside(value, is_image))
        return value

    def _declared(self, feature: Any) -> Declared:
        """An input as it is described; one of which no shape is said has the one that is asked for."""
        which, name = feature.type.WhichOneof("Type"), feature.name
        if which not in ("imageType", "multiArrayType"):
            raise UnsupportedError(f"input {shown(name)} is a {which}, not an array or an image")
        rank = 4 if self.net.imageInputShapeMapping else 3
        usual, ranges, shapes = described(feature, rank if which == "imageType" else 0)
        sizes = [{n} for n in usual or (self.asked.inputs or {}).get(name, ())]
        if ranges:
            sizes = [{low, high} for low, high in ranges]
        elif shapes:
            sizes = [set(n) for n in zip(*shapes, strict=len({len(s) for s in shapes}) == 1)]
        elif not usual and name not in (self.asked.inputs or {}):
            raise InputError(f"input {shown(name)} has open sizes: give inputs={{{name!r}: shape}}")
        dims = tuple([n.pop() if len(n) == 1 else None for n in sizes])
        kind = 11 if which == "imageType" else _ARRAYS.get(feature.type.multiArrayType.dataType, 11)
        return Declared(name, kind, dims, usual, ranges, shapes)

    def _inside(self, x: Value, image: bool) -> Value:
        """An array as the layers have it."""
        if self.exact or (image and self.net.imageInputShapeMapping):
            return x
        if x.rank == 1:
            return reshape(x, shape=(1, 1, x.shape[0], 1, 1))
        if x.rank == 3:
            return reshape(x, shape=(1, 1, *x.shape))
        if x.rank == 5:
            return x
        raise UnsupportedError(f"an input {x.type} has no place in five axes: 1, 3 or 5 have")

    def _prepared(self, name: str, x: Value) -> Value:
        """What is done to an image before the first layer: a scale and a bias for each channel."""
        for p in self.net.preprocessing:
            if p.featureName not in ("", name):
                continue
            if p.WhichOneof("preprocessor") != "scaler":
                raise UnsupportedError(f"input {shown(name)}: a mean image isn't imported")
            scaler = p.scaler
            channels = x.shape[-3]
            biases = [scaler.grayBias] if channels == 1 else [scaler.redBias, scaler.greenBias, scaler.blueBias]
            scale = scaler.channelScale or 1.0
            x = x if scale == 1 else x * scale
            if any(biases):
                x = x + const(np.array(biases, np.float32).reshape(-1, 1, 1))
        return x

    def _outputs(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        told: list[str] = []
        for f in self.model.spec.description.output:
            which = f.type.WhichOneof("Type")
            name = f.name
            if which == "dictionaryType":
                name = getattr(self.net, "labelProbabilityLayerName", "") or self.net.layers[-1].output[0]
            if which == "stringType" or (which == "int64Type" and name not in self.blobs):
                told.append(shown(f.name))
                continue
            if name in self.failed:
                continue
            if name not in self.blobs:
                raise SourceError(f"the output {shown(f.name)} of {self.model.name} is made by nothing")
            found[f.name] = self._outside(control.blob(self, name), f)
        if told and not self.asked.quiet:
            warn(f"{self.model.name}: {', '.join(told)} is a label, which isn't given")
        if not found and not self.problems:
            raise SourceError(f"{self.model.name} has no outputs")
        return found

    def _outside(self, x: Value, feature: Any) -> Value:
        """A blob as the array that is described."""
        array = feature.type.multiArrayType if feature.type.WhichOneof("Type") == "multiArrayType" else None
        shape = tuple([int(n) for n in array.shape]) if array is not None else ()
        if shape and np.prod(shape) == x.type.size:
            return reshape(x, shape=shape)
        if self.exact or x.rank != 5 or x.shape[:2] != (1, 1):
            return x
        return reshape(x, shape=x.shape[2:3] if x.shape[3:] == (1, 1) else x.shape[2:])

    def layer(self, number: int, item: Any, path: str) -> None:
        """One layer; ``path`` is where the network stands that it is in."""
        name = item.name or f"number {number}"
        kind = item.WhichOneof("layer") or "nothing"
        self.at, self.place = item.name or f"layer{number}", f"{path}{number}"
        try:
            if not self.failed.isdisjoint(item.input):
                raise control.Failing("an input of it can't be imported")
            inputs = [control.blob(self, n) for n in item.input]
            results = self._called(kind, getattr(item, kind, None), inputs)
            if kind in control.LAYERS:
                return
            if kind == "split" or len(results) >= len(item.output):
                self.note(results, Origin("", kind, name, (), ()))
            else:
                raise UnsupportedError(f"it has {len(item.output)} outputs, its rule makes {len(results)}")
            for own, result in zip(item.output, results, strict=False):
                control.bind(self, own, result)  # a blob may be made anew
        except SourceError as e:
            raise SourceError(f"{self.model.name}: layer {shown(name)} ({kind}): {e}") from e
        except UnicodeDecodeError:
            raise
        except control.Failing:
            self.failed.update(control.written([item]))
        except Exception as e:  # a rule meets sizes that nobody wrote it for
            why = str(e) if isinstance(e, TDaggerError | ValueError) else f"{type(e).__name__}: {e}"
            self.problems.append(Problem(kind, why, shown(name)))
            self.failed.update(control.written([item]))

    def _called(self, kind: str, params: Any, inputs: Sequence[Value]) -> tuple[Value, ...]:
        if kind in control.LAYERS:
            control.LAYERS[kind](self, kind, params, inputs, f"{self.place}/")
            return ()
        rule = _RULES.get(kind)
        if rule is None:
            raise UnsupportedError(REASONS.get(kind, "there is no rule for it"))
        results = rule(self, params, *inputs)
        return (results,) if isinstance(results, Value) else tuple(results)

    # What rules ask.

    def ints(self, value: Value) -> tuple[int, ...]:
        """Whole numbers that have to be known."""
        return tuple([int(n) for n in self.numbers(value).reshape(-1)])

    def numbers(self, value: Value) -> Array:
        """Numbers that have to be known."""
        leaf = value.op
        if isinstance(leaf, Learned | Buffer) and leaf.leaf in self.held:
            return self.held[leaf.leaf].read()
        found = self.known.array(value)
        if found is None:
            raise UnsupportedError("a size or index of it depends on data, and has to be known here")
        return found

    def weight(
        self, name: str, params: Any, shape: Sequence[int] | None, statistic: bool = False, axis: int = 0
    ) -> Value:
        """A weight of the layer that is read now, of a shape, or a vector of as many as there are.

        One that is quantized has one scale, or one for each entry of an axis.
        """
        count = None if shape is None else int(np.prod([int(n) for n in shape]))
        load, found = _loader(params, count, None if shape is None else tuple(map(int, shape)), axis)
        if count is not None and found != count:
            raise SourceError(f"its {name} has {found} numbers, where a shape of {list(shape or ())} takes {count}")
        own = tuple([int(n) for n in shape]) if shape is not None else (found,)
        place = (self.place, name)
        if place in self.leaves:
            return self.leaves[place]
        path = untaken(f"{self.at}.{name}", self.held)
        held = Constant(11, own, lambda: load().reshape(own))
        if held.type.size == 1 and name in ("data", "alpha", "scale"):
            return const(held.read(), "f32")
        self.held[path] = held
        self.state[path] = Weight(held.type, not statistic)
        leaf = self.leaves[place] = (Buffer if statistic else Learned).of(path, held.type)
        return leaf


def _loader(params: Any, count: int | None, shape: tuple[int, ...] | None, axis: int) -> tuple[Any, int]:
    """What reads the numbers of a weight, and how many there are."""
    if params.floatValue:
        return lambda: np.asarray(params.floatValue, np.float32), len(params.floatValue)
    if params.float16Value:
        raw = params.float16Value
        if len(raw) % 2:
            raise SourceError(f"{len(raw)} bytes aren't numbers of f16")
        return lambda: np.frombuffer(raw, np.float16).astype(np.float32), len(raw) // 2
    raw, q = params.rawValue or params.int8RawValue, params.quantization
    if not raw:
        return lambda: np.zeros(0, np.float32), 0
    bits = int(q.numberOfBits) or 8
    if params.int8RawValue:
        raise UnsupportedError("a layer that quantizes its input as it runs isn't imported")
    if bits > 8:
        raise SourceError(f"weights of {bits} bits are quantized, which have 8 at most")
    total = count if count is not None else 8 * len(raw) // bits
    if -(-total * bits // 8) != len(raw):
        raise SourceError(f"{len(raw)} bytes aren't {total} numbers of {bits} bits")
    linear = [np.asarray(getattr(q.linearQuantization, n), np.float32) for n in ("scale", "bias")]
    along = [1] if shape is None else [shape[axis] if i == axis else 1 for i in range(len(shape))]
    fits = bool(linear[0].size) and all(n.size in (0, 1, math.prod(along)) for n in linear)
    if not fits and q.WhichOneof("QuantizationType") != "lookupTableQuantization":
        sizes = " scales and ".join(str(n.size) for n in linear)
        raise SourceError(f"{sizes} biases aren't for {math.prod(along)} channels")

    def load() -> Array:
        numbers = _numbers(np.frombuffer(raw, np.uint8), total, bits)
        if q.WhichOneof("QuantizationType") == "lookupTableQuantization":
            table = np.asarray(q.lookupTableQuantization.floatValue, np.float32)
            if numbers.size and numbers.max() >= len(table):
                raise SourceError(f"an index of {int(numbers.max())} is beyond its table of {len(table)} entries")
            return table[numbers]
        scale, bias = (n.reshape(along) if n.size > 1 else n for n in linear)
        out = numbers.astype(np.float32).reshape(shape or (total,)) * scale
        return (out + bias if bias.size else out).reshape(-1)

    return load, total


def _numbers(data: Array, count: int, bits: int) -> Array:
    """Numbers of a few bits that lie one after the other, the highest bit first: not as weights of ML programs do.

    >>> _numbers(np.array([0x12, 0x34], np.uint8), 4, 4).tolist()
    [1, 2, 3, 4]
    """
    if bits == 8:
        return data[:count]
    apart = np.unpackbits(data)[: count * bits].reshape(count, bits)
    return (apart << np.arange(bits - 1, -1, -1, dtype=np.uint8)).sum(1, dtype=np.uint8)
