"""From the older neural networks: a ``neuralNetwork`` (classifier, regressor) becomes a TDAG, layer by layer.

Arrays that go in are floats of the shape that the file describes. Where it says so (by default, before version 4), they
become blobs of five axes inside: sequence, batch, channels, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tdagger.errors import InputError, SourceError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.coreml.asked import known_inputs
from tdagger.frameworks.coreml.inputs import described
from tdagger.frameworks.coreml.layers import recurrent, rules, structure
from tdagger.frameworks.coreml.layers.table import LAYERS, REASONS
from tdagger.frameworks.coreml.read import Model
from tdagger.frameworks.coreml.values import Constant, Tensors
from tdagger.frameworks.importing import Importing, Problem
from tdagger.frameworks.known import Known
from tdagger.graph import Graph
from tdagger.library import reshape
from tdagger.names import shown
from tdagger.network import Weight, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, const
from tdagger.ops.source import Parameter as Learned
from tdagger.tensordag import Origin, TensorDAG
from tdagger.types import DType, TensorType

_ARRAYS = {65568: "f32", 131104: "i32", 65600: "f64", 65552: "f16"}


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
        self.blobs: dict[str, Value] = {}
        self.held: dict[str, Constant] = {}
        self.state: dict[str, Weight] = {}
        #: What sizes and places are worked out of, constants of layers among it.
        self.known = Known(Tensors(self.held))
        self.failed: set[str] = set()
        self.at = ""

    def network(self) -> TensorDAG:
        """The network."""
        own = {f.name: self._input(f) for f in self.model.spec.description.input}
        given = {n: v for n, v in own.items() if isinstance(v.op, Input)}
        odd = [n for n in (*(self.asked.inputs or ()), *(self.asked.values or ())) if n not in own]
        if odd:
            raise InputError(f"inputs: there is no input {', '.join(map(shown, odd))}; there are {', '.join(own)}")
        for number, item in enumerate(self.net.layers):
            self._layer(number, item)
        outputs = self._outputs()
        if self.problems:
            raise self.error(what="layers")
        title = self.asked.name or Path(self.model.name).stem
        signature = self.with_seed(given, plain_signature(len(given), len(outputs)))
        graph = Graph(given, outputs, {}, title, self.order)
        weights = Tensors({n: self.held[n] for n in self.state})
        return TensorDAG(graph, weights, signature, self.state, self.origins, {}, title, {}, None, rows=True)

    def _input(self, feature: Any) -> Value:
        which = feature.type.WhichOneof("Type")
        asked = (self.asked.inputs or {}).get(feature.name)
        if which == "imageType":
            rank = 4 if self.net.imageInputShapeMapping else 3
            shape, dtype = described(feature, rank)[0], "f32"
        elif which == "multiArrayType":
            shape, dtype = described(feature, 0)[0], _ARRAYS.get(feature.type.multiArrayType.dataType, "f32")
        else:
            raise UnsupportedError(f"input {shown(feature.name)} is a {which}, not an array or an image")
        if shape is None and asked is None:
            raise InputError(f"input {shown(feature.name)} has open sizes: give inputs={{{feature.name!r}: shape}}")
        found: tuple[int, ...] = tuple(shape or ()) if asked is None else tuple(asked)
        if any(not 0 <= n <= 2**31 for n in found):
            raise SourceError(f"input {shown(feature.name)}: there is no shape {list(found)}")
        type_ = TensorType(found, DType.of("f32" if dtype == "f64" else dtype))
        known = {n: a for n, a in (self.asked.values or {}).items() if n == feature.name}
        value = known_inputs(self.asked._replace(values=known), {feature.name: type_}).get(feature.name)
        value = Input(feature.name, type_)() if value is None else value
        self.blobs[feature.name] = self._prepared(feature.name, self._inside(value, which == "imageType"))
        return value

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
            found[f.name] = self._outside(self.blobs[name], f)
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

    def _layer(self, number: int, item: Any) -> None:
        name = item.name or f"number {number}"
        kind = item.WhichOneof("layer") or "nothing"
        self.at = item.name or f"layer{number}"
        try:
            if not self.failed.isdisjoint(item.input):
                self.failed.update(_written(item))
                return
            missing = [n for n in item.input if n not in self.blobs]
            if missing:
                raise SourceError(f"its input {', '.join(map(shown, missing))} is made by nothing before it")
            rule = _RULES.get(kind)
            if rule is None:
                raise UnsupportedError(REASONS.get(kind, "there is no rule for it"))
            results = rule(self, getattr(item, kind), *[self.blobs[n] for n in item.input])
            results = (results,) if isinstance(results, Value) else tuple(results)
            if kind == "split" or len(results) >= len(item.output):
                self.note(results, Origin("", kind, name, (), ()))
            else:
                raise UnsupportedError(f"it has {len(item.output)} outputs, its rule makes {len(results)}")
            self.blobs.update(zip(item.output, results, strict=False))  # a blob may be made anew
        except SourceError as e:
            raise SourceError(f"{self.model.name}: layer {shown(name)} ({kind}): {e}") from e
        except UnicodeDecodeError:
            raise
        except Exception as e:  # a rule meets sizes that nobody wrote it for
            why = str(e) if isinstance(e, TDaggerError | ValueError) else f"{type(e).__name__}: {e}"
            self.problems.append(Problem(kind, why, shown(name)))
            self.failed.update(_written(item))

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
        path = f"{self.at}.{name}"
        while path in self.held:
            path += "_"
        held = Constant(11, own, lambda: load().reshape(own))
        if held.type.size == 1 and name in ("data", "alpha", "scale"):
            return const(held.read(), "f32")
        self.held[path] = held
        self.state[path] = Weight(held.type, not statistic)
        return (Buffer if statistic else Learned).of(path, held.type)


def _written(item: Any) -> Iterator[str]:
    """The blobs that a layer makes, and those that networks inside of it do."""
    yield from item.output
    kind = item.WhichOneof("layer")
    for _, inner in getattr(item, kind).ListFields() if kind else ():
        for own in getattr(inner, "layers", ()):
            yield from _written(own)


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
