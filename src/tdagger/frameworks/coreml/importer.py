"""From CoreML: a file becomes a TDAG, by the rules in :mod:`tdagger.frameworks.coreml.ops`.

Which leaf a constant of the program becomes:

- a parameter: floats of rank 1 and more, of more than one entry or where an op takes them as its weight or bias;
- a buffer: where an op takes it as a statistic; integers of 8 bits of rank 2 and more; integers of more than 65,536
  entries; the states of a program, which are zeros at first;
- a constant: single numbers, and all other integers and bools.

Where a rule wants numbers they are read, whatever holds them. Compressed constants (:mod:`.compressed`) are weights of
the type that they are decompressed to, worked out when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.errors import InputError, SourceError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.coreml.compressed import COMPRESSED
from tdagger.frameworks.coreml.inputs import Declared, declared, types_of
from tdagger.frameworks.coreml.layers.network import Layers
from tdagger.frameworks.coreml.left_out import FINDERS
from tdagger.frameworks.coreml.ops import RULES
from tdagger.frameworks.coreml.ops.table import NUMBERS, OpRule, why_not
from tdagger.frameworks.coreml.read import Model, read
from tdagger.frameworks.coreml.types import KINDS
from tdagger.frameworks.coreml.values import Constant, Tensors, dims_of, literal
from tdagger.frameworks.importing import Importing, Problem
from tdagger.frameworks.known import array_of_constant
from tdagger.graph import Graph, bulk
from tdagger.names import shown
from tdagger.network import Weight, plain_signature
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, const
from tdagger.ops.source import Parameter as Learned
from tdagger.tensordag import Origin, TensorDAG
from tdagger.types import TensorType

#: Integers of more entries are a buffer; what is worked out on the way has no more than so few.
_MANY, _FEW = 1 << 16, 64
#: The key of the metadata with the names that CoreML doesn't take.
NAMES = "tdagger.names"
#: Models of the older kind.
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
#: Inputs that are weights whatever size they have.
_WEIGHTS = frozenset({"weight", "bias", "gamma", "beta", "alpha"})
_OPSETS = {f"CoreML{n}": 10 + n for n in range(5, 12)}


class Asked(NamedTuple):
    """What :func:`from_coreml` is asked for besides the model; ``quiet``: what there is to say was said before."""

    inputs: Mapping[str, Sequence[int]] | None = None
    function: str | None = None
    external: bool = False
    name: str = ""
    quiet: bool = False


def from_coreml(
    model: str | Path | bytes | Any,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    function: str | None = None,
    external: bool = False,
    name: str = "",
) -> TensorDAG:
    """A TDAG of a CoreML model: the path of an ``.mlpackage`` or ``.mlmodel``, a file's bytes, or a protobuf Model.

    ``inputs`` has shapes of inputs by their names, where the file leaves sizes open; else they have the default shape
    that the file says. ``function`` is one of a file of several. With ``external``, ops without a rule are kept as
    external ones. Weights are read when they are asked for, by a map of the weight file. A model with open sizes stays
    at hand (``dag.source``): ``dag.resize`` imports it again at other sizes.

    UnsupportedError names all ops that can't be imported, with their places; SourceError what is wrong with the file;
    InputError shapes that the file doesn't allow.
    """
    return imported(read(model), Asked(inputs, function, external, name))


def imported(model: Model, asked: Asked) -> TensorDAG:
    """A model that was read, imported."""
    kind = model.spec.WhichOneof("Type")
    try:
        with bulk():
            if kind == "mlProgram":
                return Walk(model, asked).network()
            if kind in NETWORKS:
                return Layers(model, asked).network()
    except (InputError, SourceError, UnsupportedError):
        raise
    except UnicodeDecodeError as e:
        raise SourceError(f"{model.name}: a name in it isn't UTF-8") from e
    raise UnsupportedError(f"{model.name} is a {kind}: mlProgram and neuralNetwork are imported, no others")


@dataclass(frozen=True, repr=False)
class Again:
    """A model that leaves sizes of its inputs open, imported again at others: what a resize asks."""

    model: Model
    inputs: Sequence[Declared]
    asked: Asked
    count: list[int] = field(default_factory=lambda: [0])

    def at(self, shapes: Mapping[str, tuple[int, ...]]) -> TensorDAG:
        """The network with inputs of these shapes; InputError for what the file doesn't allow."""
        self.count[0] += 1
        own = {i.name: shapes[i.name] for i in self.inputs if i.name in shapes}
        return imported(self.model, self.asked._replace(inputs=own, quiet=True))


def function_of(model: Model, asked: str | None) -> tuple[str, Any]:
    """The function of a program that is meant."""
    functions = model.spec.mlProgram.functions
    name = asked or model.spec.description.defaultFunctionName or "main"
    if asked is None and name not in functions and len(functions) == 1:
        name = next(iter(functions))
    if name not in functions:
        there = ", ".join(map(shown, sorted(functions))) or "none"
        raise InputError(f"{model.name} has no function {shown(name)}: give function=, one of {there}")
    return name, functions[name]


def names_of(model: Model) -> dict[str, str]:
    """What inputs, outputs and weights were called in the network that :func:`to_coreml` wrote, where that is noted.

    A note of names that aren't each once is none.
    """
    told = model.spec.description.metadata.userDefined
    if NAMES not in told:
        return {}
    try:
        found: Any = json.loads(told[NAMES])
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    names = {str(k): v for k, v in cast(dict[Any, Any], found).items() if isinstance(v, str) and v}
    return names if len(set(names.values())) == len(names) and not names.keys() & set(names.values()) else {}


def inputs_of(model: Model, function: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes that inputs have unless others are asked for, by their names."""
    if model.spec.WhichOneof("Type") != "mlProgram":
        return {}
    name, found = function_of(model, function)
    features = features_of(model, name)
    own = [declared(i.name, i.type, features.get(i.name)) for i in found.inputs
           if i.type.WhichOneof("type") == "tensorType"]  # fmt: skip
    return {i.name: i.type(None).shape for i in own}


def features_of(model: Model, function: str) -> dict[str, Any]:
    """The descriptions of a function's inputs by their names."""
    description = model.spec.description
    own = [f for f in description.functions if f.name == function]
    return {f.name: f for f in (own[0].input if own else description.input)}


class Walk(Importing):
    """One function of a program as it is imported."""

    def __init__(self, model: Model, asked: Asked) -> None:
        name, function = function_of(model, asked.function)
        super().__init__(asked.external, [i.name for i in function.inputs])
        self.model, self.asked = model, asked
        self.title, self.function = name, function
        opset = _OPSETS.get(function.opset)
        if opset is None or function.opset not in function.block_specializations:
            there = ", ".join(function.block_specializations) or "none"
            raise SourceError(
                f"{model.name}: function {shown(name)} is of the operator set {shown(function.opset)}, which there is "
                f"none of here, or no block of ({there})"
            )
        self.opset = min(opset, 18)
        self.block = function.block_specializations[function.opset]
        #: What names stand for: values, constants, strings, tuples.
        self.scope: dict[str, Any] = {}
        self.leaves: dict[str, Value] = {}
        self.state: dict[str, Weight] = {}
        self.held: dict[str, Constant] = {}
        #: States by their names, as they are at this place of the program.
        self.states: dict[str, Value] = {}
        self.updates: dict[str, Value] = {}
        self.failed: set[str] = set()
        self.failing: list[set[str]] = []
        #: What would have been written to states, and couldn't be imported.
        self.written: set[str] = set()
        self.left_out: list[LeftOut] = []
        self.told: list[str] = []
        self.called = names_of(model)

    def network(self) -> TensorDAG:
        features = features_of(self.model, self.title)
        own = [
            declared(i.name, i.type, features.get(i.name)) for i in self.function.inputs
            if i.type.WhichOneof("type") != "stateType"
        ]  # fmt: skip
        types = types_of([self._renamed(i) for i in own], self.asked.inputs)
        given = {n: Input(n, t)() for n, t in types.items()}
        for i in self.function.inputs:
            if i.type.WhichOneof("type") == "stateType":
                self._hold_state(i)
        self.scope.update((i.name, v) for i, v in zip(own, given.values(), strict=True))
        for number, op in enumerate(self.block.operations):
            self._operation(number, op)
        outputs = self._outputs()
        if self.problems:
            raise self.error(what="ops")
        if self.told and not self.asked.quiet:
            warn(f"{self.model.name}: {'; '.join(self.told)}")
        signature = self.with_seed(given, plain_signature(len(given), len(outputs)))
        title = self.asked.name or Path(self.model.name).stem or self.title
        graph = Graph(given, outputs, self.updates, title, self.order)
        weights = Tensors({n: self.held[n] for n in self.state})
        source = Again(self.model, [self._renamed(i) for i in own], self.asked) if any(i.free for i in own) else None
        return TensorDAG(
            graph,
            weights,
            signature,
            self.state,
            self.origins,
            {},
            title,
            {},
            source,
            left_out=self.left_out,
            rows=True,
        )

    def _outputs(self) -> dict[str, Value]:
        outputs: dict[str, Value] = {}
        wanted: set[str] = set()
        for name in self.block.outputs:
            told = self.called.get(name, name)
            while told in outputs:
                told += "_"
            if name in self.failed:
                wanted.add(name)
                continue
            found = self.scope.get(name)
            if found is None:
                raise SourceError(f"the output {shown(name)} of {self.model.name} is made by nothing")
            if not isinstance(found, Value | Constant):
                raise UnsupportedError(f"the output {shown(name)} of {self.model.name} isn't a tensor of numbers")
            outputs[str(told)] = self._value(name, found)
        if not outputs and not wanted:
            raise SourceError(f"{self.model.name} has no outputs")
        if self.problems:
            self._without_dead(wanted | self.written)
        return outputs

    def _without_dead(self, roots: set[str]) -> None:
        """Leave out the problems of ops that no output needs."""
        makers = {o.name: op for op in self.block.operations for o in op.outputs}
        needed: set[str] = set()
        stack = list(roots)
        while stack:
            name = stack.pop()
            op = makers.get(name)
            if name in needed or op is None:
                continue
            needed.update(o.name for o in op.outputs)
            stack += _read_by(op)
        self.problems = [p for p, out in zip(self.problems, self.failing, strict=True) if not out or out & needed]

    def _hold_state(self, i: Any) -> None:
        wrapped = i.type.stateType.wrappedType
        if wrapped.WhichOneof("type") != "tensorType":
            raise SourceError(f"state {shown(i.name)} is no tensor")
        dims = dims_of(wrapped.tensorType, f"state {shown(i.name)}")
        if None in dims or wrapped.tensorType.dataType not in KINDS:
            raise UnsupportedError(f"state {shown(i.name)} has a size that is left open, or no numbers")
        number = wrapped.tensorType.dataType
        shape = tuple([n for n in dims if n is not None])
        held = Constant(number, shape, lambda: np.zeros(shape, KINDS[number].dtype.numpy))
        self.held[i.name] = held
        self.states[i.name] = Buffer.of(i.name, held.type)
        self.state[i.name] = Weight(held.type, False)

    def _renamed(self, i: Declared) -> Declared:
        return i._replace(name=self.called.get(i.name, i.name))

    # Leaves.

    def _value(self, name: str, found: Any, statistic: bool = False, weight: bool = False) -> Value:
        """What a name stands for as a value: a constant becomes a leaf when it is first asked for."""
        if isinstance(found, Value):
            return found
        if not isinstance(found, Constant):
            raise UnsupportedError(f"its input {shown(name)} is no tensor")
        known = self.leaves.get(name)
        if known is None:
            known = self.leaves[name] = self._leaf(name, found, statistic, weight)
        return known

    def _leaf(self, name: str, found: Constant, statistic: bool, weight: bool) -> Value:
        kind = found.type
        dtype = kind.dtype
        learned = dtype.is_float and kind.rank > 0 and (kind.size > 1 or weight or statistic)
        if not learned and kind.size <= _MANY and not (dtype.is_int and dtype.bytes == 1 and kind.rank > 1):
            return const(found.read(), dtype)
        name = self.called.get(name, name)
        self.held[name] = found
        is_learned = learned and not statistic
        self.state[name] = Weight(kind, is_learned)
        return (Learned if is_learned else Buffer).of(name, kind)

    # Ops.

    def _operation(self, number: int, op: Any) -> None:
        name = op.outputs[0].name if op.outputs else f"number {number}"
        try:
            if op.type == "const":
                self._const(op)
                return
            if op.type in COMPRESSED:
                self._compressed(op)
                return
            needed = _read_by(op)
            if not self.failed.isdisjoint(needed):
                self.failed.update(o.name for o in op.outputs)
                if op.type in WRITES:
                    self.written.update(needed)
                return
            results = self._called(op, name)
            for out, result in zip(op.outputs, results, strict=True):
                self._name(out.name, result)
        except SourceError as e:
            raise SourceError(f"{self.model.name}: op {shown(name)} ({shown(op.type)}): {e}") from e
        except UnicodeDecodeError:
            raise
        except Exception as e:  # a rule meets sizes and numbers that nobody wrote it for
            why = str(e) if isinstance(e, TDaggerError | ValueError) else f"{type(e).__name__}: {e}"
            self.problems.append(Problem(op.type, why, shown(name)))
            self.failing.append({o.name for o in op.outputs})
            self.failed.update(o.name for o in op.outputs)

    def _name(self, name: str, result: Any) -> None:
        if not name or name in self.scope:
            raise SourceError(f"{shown(name)} is made twice" if name else "a result has no name")
        self.scope[name] = result

    def _const(self, op: Any) -> None:
        if len(op.outputs) != 1 or ("val" not in op.attributes and "val" not in op.inputs):
            raise SourceError("a constant has one output and a val")
        given = op.attributes["val"] if "val" in op.attributes else op.inputs["val"].arguments[0].value
        self._name(op.outputs[0].name, literal(given, self.model, "val"))

    def _compressed(self, op: Any) -> None:
        """A constant, or two, worked out when it is asked for; its type is the one that is declared."""
        given: dict[str, Any] = {n: literal(v, self.model, n) for n, v in op.attributes.items() if n != "name"}
        for n in op.inputs:
            found = self._argument(op, n)
            if len(found) != 1 or not isinstance(found[0][1], Constant | str):
                raise SourceError(f"its input {shown(n)} is no constant")
            given[n] = found[0][1]
        types = [out.type.tensorType for out in op.outputs]
        shapes = [dims_of(t, "a result") for t in types]
        if any(None in s for s in shapes) or any(t.dataType not in KINDS for t in types):
            raise SourceError("a constant has a size that is left open, or no numbers")
        function = COMPRESSED[op.type]
        last: Any = shapes[-1]

        def load(index: int) -> Any:
            arrays = {n: v.read() if isinstance(v, Constant) else v for n, v in given.items()}
            try:
                return function(arrays, last)[index]
            except (KeyError, ValueError, IndexError, TypeError) as e:
                raise SourceError(f"{self.model.name}: {shown(op.outputs[0].name)} ({op.type}): {e}") from e

        for index, (out, t, shape) in enumerate(zip(op.outputs, types, shapes, strict=True)):
            whole: Any = shape
            self._name(out.name, Constant(t.dataType, whole, lambda index=index: load(index)))

    def _argument(self, op: Any, name: str) -> list[tuple[str, Any]]:
        """What an input of an op is: names, and what they stand for."""
        found: list[tuple[str, Any]] = []
        for a in op.inputs[name].arguments:
            which = a.WhichOneof("binding")
            if which == "name":
                if a.name not in self.scope and a.name not in self.states:
                    raise SourceError(f"its input {shown(name)} is {shown(a.name)}, which is made by nothing before it")
                found.append((a.name, self.scope.get(a.name)))
            elif which == "value":
                inner = literal(a.value, self.model, name)
                found.append((f"{op.outputs[0].name}.{name}" if op.outputs else name, inner))
            else:
                raise SourceError(f"its input {shown(name)} is given neither by name nor as a value")
        return found

    def _called(self, op: Any, name: str) -> Sequence[Any]:
        own = _OWN.get(op.type)
        if own is not None:
            return own(self, op)
        rule = RULES.get(op.type)
        if rule is None or op.blocks:
            return self._without_rule(op, name)
        given = self._given(op, rule)
        types = [_declared_type(o) for o in op.outputs]
        if "opset" in rule.own:
            given["opset"] = self.opset
        if "types" in rule.own:
            given["types"] = types
        if "draw" in rule.own:
            given["draw"] = self.draw
        results = rule.function(**given)
        results = (results,) if isinstance(results, Value) else tuple(results)
        if len(results) != len(op.outputs):
            raise UnsupportedError(f"it has {len(op.outputs)} results, its rule makes {len(results)}")
        self.note(results, Origin("", op.type, name, (), ()))
        results = self._folded(results, given)
        for out, result in zip(op.outputs, results, strict=True):
            _check(out, result)
        if op.type in FINDERS:
            self.left_out += [found for found in FINDERS[op.type](results[0], **given) if found is not None]
        return results

    def _given(self, op: Any, rule: OpRule) -> dict[str, Any]:
        """What a rule is called with."""
        found: dict[str, Any] = {}
        for name in op.inputs:
            kind = rule.inputs.get(name)
            if kind is None:
                raise UnsupportedError(f"its input {shown(name)} isn't known to its rule")
            bound = self._argument(op, name)
            if not bound:
                continue
            found[name] = self._as(kind, name, bound)
        missing = rule.needed - found.keys()
        if missing:
            raise UnsupportedError(f"its input {', '.join(sorted(missing))} is missing")
        return found

    def _as(self, kind: str, name: str, bound: list[tuple[str, Any]]) -> Any:
        if kind == "Values":
            if len(bound) == 1 and isinstance(bound[0][1], tuple):
                bound = [(f"{bound[0][0]}.{i}", v) for i, v in enumerate(bound[0][1])]
            return tuple([self._value(n, v) for n, v in bound])
        if len(bound) != 1:
            if kind not in ("Ints", "Bools"):
                raise UnsupportedError(f"its input {name} is {len(bound)} tensors, where it should be one")
            return tuple([self._as("Int" if kind == "Ints" else "Bool", name, [b]) for b in bound])
        own, what = bound[0]
        if kind == "Str":
            if not isinstance(what, str):
                raise UnsupportedError(f"its input {name} is no text")
            return what
        if kind in NUMBERS:
            array = what.read() if isinstance(what, Constant) else None
            if isinstance(what, Value):
                array = array_of_constant(what)
            if array is None:
                raise UnsupportedError(f"its input {name} depends on data ({shown(own)}), and has to be known here")
            if array.size != 1 and kind in ("Int", "Float", "Bool"):
                raise UnsupportedError(f"its input {name} is {array.size} numbers, where it should be one")
            return NUMBERS[kind](array)
        return self._value(own, what, kind == "Statistic", name in _WEIGHTS)

    def _folded(self, results: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Results that are a few numbers worked out of constants, as constants: chains of sizes stay short."""
        values = [v for a in given.values() for v in (a if isinstance(a, tuple) else (a,)) if isinstance(v, Value)]
        if not values or not all(isinstance(v.op, Const) and v.type.size <= _FEW for v in values):
            return results
        if not all(isinstance(r.type, TensorType) and r.type.size <= _FEW for r in results):
            return results
        arrays = [array_of_constant(r) for r in results]
        if any(a is None for a in arrays):
            return results
        return tuple([const(a, r.dtype) for a, r in zip(arrays, results, strict=True)])

    def _without_rule(self, op: Any, name: str) -> Sequence[Any]:
        why = why_not(op.type)
        types = [_declared_type(o) for o in op.outputs]
        if not self.external or op.blocks or None in types:
            raise UnsupportedError(why)
        tensors: list[Value] = []
        keywords: list[tuple[str, Any]] = []
        from tdagger.ops.external import Slot

        for n in sorted(op.inputs):
            bound = self._argument(op, n)
            if len(bound) == 1 and isinstance(bound[0][1], str):
                keywords.append((n, bound[0][1]))
                continue
            slots: list[Any] = []
            for own, what in bound:
                slots.append(Slot(len(tensors)))
                tensors.append(self._value(own, what))
            keywords.append((n, tuple(slots)))
        results = [t for t in types if t is not None]
        origin = Origin("", op.type, name, (), ())
        return self.stand_in("coreml", op.type, (), tuple(keywords), results, tensors, origin)

    # Ops that look at the program.

    def state_of(self, op: Any, name: str) -> str:
        """The state that an input names."""
        found = [a.name for a in op.inputs[name].arguments]
        if len(found) != 1 or found[0] not in self.states:
            raise SourceError(f"its input {shown(name)} is no state")
        return found[0]


def _read_state(walk: Walk, op: Any) -> Sequence[Any]:
    return [walk.states[walk.state_of(op, "input")]]


def _write_state(walk: Walk, op: Any) -> Sequence[Any]:
    """A state's next value, which is what is read from here on."""
    name = walk.state_of(op, "input" if "input" in op.inputs else "state")
    key = "data" if "data" in op.inputs else "value"
    ((own, what),) = walk._argument(op, key)  # pyright: ignore[reportPrivateUsage]
    value = walk._value(own, what)  # pyright: ignore[reportPrivateUsage]
    if value.type is not walk.states[name].type:
        raise UnsupportedError(f"state {shown(name)} is {walk.states[name].type}, and gets {value.type}")
    walk.states[name] = walk.updates[name] = value
    return [value] * len(op.outputs)


def _classify(walk: Walk, op: Any) -> Sequence[Any]:
    """The label of the most probable class and a table of probabilities: both as the probabilities."""
    ((own, what),) = walk._argument(op, "probabilities")  # pyright: ignore[reportPrivateUsage]
    value = walk._value(own, what)  # pyright: ignore[reportPrivateUsage]
    names = ", ".join(shown(o.name) for o in op.outputs)
    walk.told.append(f"{names} (a label, and the classes' probabilities by their labels) are given as probabilities")
    return [value] * len(op.outputs)


#: Ops that change a state.
WRITES = ("write_state", "coreml_update_state")
#: Ops that read or change what the walk knows.
_OWN: dict[str, Any] = {
    "read_state": _read_state,
    "write_state": _write_state,
    "coreml_update_state": _write_state,
    "classify": _classify,
}


def _read_by(op: Any) -> list[str]:
    """The names that an op reads, graphs inside it too."""
    found: list[str] = []
    stack = [op]
    while stack:
        at = stack.pop()
        found += [a.name for i in at.inputs.values() for a in i.arguments if a.WhichOneof("binding") == "name"]
        for block in at.blocks:
            found += block.outputs
            stack += block.operations
    return found


def _declared_type(out: Any) -> TensorType | None:
    """The type that a file says of a result, None where it leaves sizes open."""
    if out.type.WhichOneof("type") != "tensorType" or out.type.tensorType.dataType not in KINDS:
        return None
    dims = dims_of(out.type.tensorType, shown(out.name))
    if None in dims:
        return None
    return TensorType(tuple([n for n in dims if n is not None]), KINDS[out.type.tensorType.dataType].dtype)


def _check(out: Any, result: Value) -> None:
    """A result has the type that is declared: else its rule isn't what the file means."""
    tensor = out.type.tensorType
    if out.type.WhichOneof("type") != "tensorType" or tensor.dataType not in KINDS:
        raise UnsupportedError(f"its result {shown(out.name)} isn't a tensor of numbers")
    dims = dims_of(tensor, shown(out.name))
    kind = KINDS[tensor.dataType]
    same = len(dims) == result.rank and all(d is None or d == n for d, n in zip(dims, result.shape, strict=True))
    if not same or kind.dtype is not result.dtype:
        told = f"{kind.name}[{' '.join('?' if d is None else str(d) for d in dims)}]"
        raise UnsupportedError(f"its result {shown(out.name)} is declared as {told}, by its rule it is {result.type}")
