"""From CoreML: a file becomes a TDAG, by the rules in :mod:`tdagger.frameworks.coreml.ops`."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tdagger.analysis.axes.doubts import LeftOut
from tdagger.errors import InputError, SourceError, TDaggerError, UnsupportedError, warn
from tdagger.frameworks.coreml.asked import Asked, features_of, function_of, known_inputs
from tdagger.frameworks.coreml.compressed import COMPRESSED
from tdagger.frameworks.coreml.flow import OWN, WRITES, inside, read_by
from tdagger.frameworks.coreml.inputs import Declared, declared, types_of
from tdagger.frameworks.coreml.layers.network import Layers
from tdagger.frameworks.coreml.left_out import FINDERS
from tdagger.frameworks.coreml.lists import Listed
from tdagger.frameworks.coreml.ops import RULES
from tdagger.frameworks.coreml.ops.table import why_not
from tdagger.frameworks.coreml.read import Model, read
from tdagger.frameworks.coreml.scope import Scope
from tdagger.frameworks.coreml.types import KINDS
from tdagger.frameworks.coreml.values import Constant, Tensors, dims_of
from tdagger.frameworks.importing import Problem
from tdagger.frameworks.known import array_of_constant
from tdagger.graph import Graph, bulk
from tdagger.names import shown
from tdagger.network import Weight, plain_signature
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, const
from tdagger.program.trace import is_tracing, tracing
from tdagger.tensordag import Origin, TensorDAG
from tdagger.types import TensorType

#: What is worked out on the way has no more entries.
_FEW = 64
#: Models of the older kind.
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
_OPSETS = {f"CoreML{n}": 10 + n for n in range(5, 12)}


def from_coreml(
    model: str | Path | bytes | Any,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None,
    function: str | None = None,
    external: bool = False,
    name: str = "",
) -> TensorDAG:
    """A TDAG of a CoreML model: the path of an ``.mlpackage`` or ``.mlmodel``, a file's bytes, or a protobuf Model.

    ``inputs`` has shapes of inputs by their names, where the file leaves sizes open; else they have the default shape
    that the file says. ``values`` makes inputs constants of the network: those that say how it is built
    (``{"begin": [0, 1]}`` of a slice). ``function`` is one of a file of several. With ``external``, ops without a rule
    are kept as external ones. Weights are read when they are asked for, by a map of the weight file. A model with open
    sizes stays at hand (``dag.source``): ``dag.resize`` imports it again at other sizes.

    UnsupportedError names all ops that can't be imported, with their places; SourceError what is wrong with the file;
    InputError shapes that the file doesn't allow.
    """
    return imported(read(model), Asked(inputs, function, external, name, values=values))


def imported(model: Model, asked: Asked) -> TensorDAG:
    """A model that was read, imported."""
    kind = model.spec.WhichOneof("Type")
    try:
        with bulk():
            if kind == "mlProgram":
                return Walk(model, asked).network()
            if kind in NETWORKS:
                layers = Layers(model, asked)
                return layers.network(Again(model, layers.own, asked))
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


class Walk(Scope):
    """One function of a program as it is imported."""

    def __init__(self, model: Model, asked: Asked) -> None:
        name, function = function_of(model, asked.function)
        super().__init__(model, asked.external, [i.name for i in function.inputs])
        self.asked = asked
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
        #: The inputs as the file declares them.
        self.own: list[Declared] = []
        self.updates: dict[str, Value] = {}
        #: Whether the blocks of a choice are walked that isn't a program's.
        self.choosing = False
        #: How many ops of turns of loops were written out.
        self.steps = 0
        self.failed: set[str] = set()
        self.failing: list[set[str]] = []
        #: What would have been written to states, and couldn't be imported.
        self.written: set[str] = set()
        self.left_out: list[LeftOut] = []
        self.told: list[str] = []

    def network(self) -> TensorDAG:
        """The function as a network."""
        given = self.begin()
        outputs = self.walked()
        signature = self.with_seed(given, plain_signature(len(given), len(outputs)))
        graph = Graph(given, outputs, self.updates, self.called_as, self.order)
        weights = Tensors({n: self.held[n] for n in self.state})
        source = Again(self.model, self.own, self.asked) if any(i.free for i in self.own) else None
        found = graph, weights, signature, self.state, self.origins, {}, self.called_as, {}, source
        return TensorDAG(*found, left_out=self.left_out, rows=True)

    @property
    def called_as(self) -> str:
        """What the network is called."""
        return self.asked.name or Path(self.model.name).stem or self.title

    def begin(self) -> dict[str, Value]:
        """The inputs by name; states and constants are known then."""
        features = features_of(self.model, self.title)
        states = [i for i in self.function.inputs if i.type.WhichOneof("type") == "stateType"]
        names = [i.name for i in self.function.inputs if i not in states]
        self.own = own = [self._renamed(declared(i.name, i.type, features.get(i.name))) for i in self.function.inputs
               if i not in states]  # fmt: skip
        there = {i.name for i in own}
        shapes = {n: np.shape(a) for n, a in (self.asked.values or {}).items() if n in there}
        types = types_of(own, {**shapes, **(self.asked.inputs or {})})
        known = known_inputs(self.asked, types)
        given = {n: Input(n, t)() for n, t in types.items() if n not in known}
        for i in states:
            self._hold_state(i)
        self.scope.update(zip(names, [known.get(n) or given[n] for n in types], strict=True))
        return given

    def walked(self) -> dict[str, Value]:
        """The outputs by name, after all ops; UnsupportedError names those that can't be imported."""
        for number, op in enumerate(self.block.operations):
            self._operation(number, op)
        outputs = self._outputs()
        if self.problems:
            raise self.error(what="ops")
        if self.told and not self.asked.quiet:
            warn(f"{self.model.name}: {'; '.join(self.told)}")
        return outputs

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
            outputs[str(told)] = self.value(name, found)
        if not outputs and not wanted:
            raise SourceError(f"{self.model.name} has no outputs")
        if self.problems:
            self._without_dead(wanted | self.written)
        return outputs

    def _without_dead(self, roots: set[str]) -> None:
        """Leave out the problems of ops that no output needs."""
        makers = {o.name: op for op in inside(self.block) for o in op.outputs}
        needed: set[str] = set()
        stack = list(roots)
        while stack:
            name = stack.pop()
            op = makers.get(name)
            if name in needed or op is None:
                continue
            needed.update(o.name for o in op.outputs)
            stack += read_by(op)
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
        own = str(self.called.get(i.name, i.name))
        self.held[own] = held
        self.state[own] = Weight(held.type, False)
        self.states[own] = Buffer.of(own, held.type)
        if is_tracing():
            trace = tracing()
            trace.weights, trace.declared[own] = {**trace.weights, own: held.read()}, self.state[own]

    def _renamed(self, i: Declared) -> Declared:
        return i._replace(name=self.called.get(i.name, i.name))

    # Ops.

    def _operation(self, number: int, op: Any) -> None:
        name = op.outputs[0].name if op.outputs else f"number {number}"
        try:
            if op.type == "const":
                self.constant(op)
                return
            if op.type in COMPRESSED:
                self.decompressed(op)
                return
            needed = read_by(op)
            if not self.failed.isdisjoint(needed):
                self.failed.update(o.name for o in op.outputs)
                if op.type in WRITES:
                    self.written.update(needed)
                return
            results = self._called(op, name)
            for out, result in zip(op.outputs, results, strict=True):
                self.bind(out.name, result)
        except SourceError as e:
            raise SourceError(f"{self.model.name}: op {shown(name)} ({shown(op.type)}): {e}") from e
        except UnicodeDecodeError:
            raise
        except InBlock:
            self.failed.update(o.name for o in op.outputs)
        except Exception as e:  # a rule meets sizes and numbers that nobody wrote it for
            why = str(e) if isinstance(e, TDaggerError | ValueError) else f"{type(e).__name__}: {e}"
            self.problems.append(Problem(op.type, why, shown(name)))
            self.failing.append({o.name for o in op.outputs} if not self.choosing else set())
            self.failed.update(o.name for o in op.outputs)

    def in_block(self, block: Any, args: Sequence[Any]) -> tuple[Any, ...]:
        """What a block inside an op gives; :class:`InBlock` if ops of it can't be imported, which are noted."""
        if len(block.inputs) != len(args):
            raise SourceError(f"a block of it takes {len(block.inputs)} values, and is given {len(args)}")
        before, self.scope = self.scope, ChainMap({}, self.scope)
        try:
            self.scope.update((i.name, v) for i, v in zip(block.inputs, args, strict=True))
            for number, op in enumerate(block.operations):
                self._operation(number, op)
            if not self.failed.isdisjoint(block.outputs):
                raise InBlock
            missing = [n for n in block.outputs if n not in self.scope]
            if missing:
                raise SourceError(f"the result {shown(missing[0])} of a block is made by nothing")
            found = [(n, self.scope[n]) for n in block.outputs]
            return tuple([v if isinstance(v, Listed) else self.value(n, v) for n, v in found])
        finally:
            self.scope = before

    def _called(self, op: Any, name: str) -> Sequence[Any]:
        own = OWN.get(op.type)
        if own is not None:
            results = own(self, op)
            self.note([r for r in results if isinstance(r, Value)], Origin("", op.type, name, (), ()))
            return results
        rule = RULES.get(op.type)
        if rule is None or op.blocks:
            return self._without_rule(op, name)
        given = self.arguments(op, rule)
        if "opset" in rule.own:
            given["opset"] = self.opset
        if "dtypes" in rule.own:
            given["dtypes"] = [KINDS[o.type.tensorType.dataType].dtype for o in op.outputs]
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
            bound = self.argument(op, n)
            if len(bound) == 1 and isinstance(bound[0][1], str):
                keywords.append((n, bound[0][1]))
                continue
            slots: list[Any] = []
            for own, what in bound:
                slots.append(Slot(len(tensors)))
                tensors.append(self.value(own, what))
            keywords.append((n, tuple(slots)))
        results = [t for t in types if t is not None]
        origin = Origin("", op.type, name, (), ())
        return self.stand_in("coreml", op.type, (), tuple(keywords), results, tensors, origin)


class InBlock(UnsupportedError):
    """An op whose block has ops that can't be imported, which are noted already."""


def _declared_type(out: Any) -> TensorType | None:
    """The type that a file says of a result, None where it leaves sizes open."""
    if out.type.WhichOneof("type") != "tensorType" or out.type.tensorType.dataType not in KINDS:
        return None
    dims = _dims(out)
    if dims is None or None in dims:
        return None
    return TensorType(tuple([n for n in dims if n is not None]), KINDS[out.type.tensorType.dataType].dtype)


def _dims(out: Any) -> tuple[int | None, ...] | None:
    """The sizes that a file says of a result, None for those that are open; None if the rank is."""
    tensor = out.type.tensorType
    if any(d.WhichOneof("dimension") == "unknown" and d.unknown.variadic for d in tensor.dimensions):
        return None
    return dims_of(tensor, shown(out.name))


def _check(out: Any, result: Value) -> None:
    """A result has the type that is declared: else its rule isn't what the file means."""
    tensor = out.type.tensorType
    if out.type.WhichOneof("type") != "tensorType" or tensor.dataType not in KINDS:
        raise UnsupportedError(f"its result {shown(out.name)} isn't a tensor of numbers")
    dims = _dims(out)
    kind = KINDS[tensor.dataType]
    same = dims is None or (
        len(dims) == result.rank and all(d is None or d == n for d, n in zip(dims, result.shape, strict=True))
    )
    if not same or kind.dtype is not result.dtype:
        told = f"{kind.name}[{' '.join('?' if d is None else str(d) for d in dims or ('..',))}]"
        raise UnsupportedError(f"its result {shown(out.name)} is declared as {told}, by its rule it is {result.type}")
