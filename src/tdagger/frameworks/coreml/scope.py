"""What the names of a program stand for: values, constants, and the leaves that these become.

Which leaf a constant of the program becomes:

- a parameter: floats of rank 1 and more, of more than one entry or where an op takes them as its weight or bias;
- a buffer: where an op takes it as a statistic; integers of 8 bits of rank 2 and more; integers of more than 65,536
  entries; the states of a program, which are zeros at first;
- a constant: single numbers, and all other integers and bools.

Where a rule wants numbers they are read, whatever holds them. Of compressed constants (:mod:`.compressed`) those of
integers with scales are quantized values: ``dequantize`` of buffers, the integers called as the constant and the scales
beside them. Others are weights of the type that they are decompressed to, worked out when they are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Any

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.coreml.asked import names_of
from tdagger.frameworks.coreml.compressed import COMPRESSED
from tdagger.frameworks.coreml.ops.table import NUMBERS, OpRule
from tdagger.frameworks.coreml.quantized import quantized
from tdagger.frameworks.coreml.read import Model
from tdagger.frameworks.coreml.types import KINDS
from tdagger.frameworks.coreml.values import Constant, dims_of, literal
from tdagger.frameworks.importing import Importing
from tdagger.frameworks.known import array_of_constant
from tdagger.library.quantized import dequantize
from tdagger.names import shown, untaken
from tdagger.network import Weight
from tdagger.op import Value
from tdagger.ops.source import Buffer, const
from tdagger.ops.source import Parameter as Learned

#: Integers of more entries are a buffer.
_MANY = 1 << 16
#: Inputs that are weights whatever size they have.
_WEIGHTS = frozenset({"weight", "bias", "gamma", "beta", "alpha"})


class Scope(Importing):
    """The names of a program as it is imported."""

    def __init__(self, model: Model, external: bool, taken: Collection[str]) -> None:
        super().__init__(external, taken)
        self.model = model
        #: What names stand for: values, constants, strings, tuples.
        self.scope: MutableMapping[str, Any] = {}
        self.leaves: dict[Constant, Value] = {}
        self.state: dict[str, Weight] = {}
        self.held: dict[str, Constant] = {}
        #: States by their names, as they are at this place of the program.
        self.states: dict[str, Value] = {}
        self.called = names_of(model)
        #: Constants that were read, by their places in the file: those of a loop's turns are one.
        self.literals: dict[int, tuple[Any, Any]] = {}

    def value(self, name: str, found: Any, statistic: bool = False, weight: bool = False) -> Value:
        """What a name stands for as a value: a constant becomes a leaf when it is first asked for."""
        if isinstance(found, Value):
            return found
        if not isinstance(found, Constant):
            raise UnsupportedError(f"its input {shown(name)} is no tensor")
        known = self.leaves.get(found)
        if known is None:
            make = self._leaf if found.quantized is None else self._quantized
            known = self.leaves[found] = make(name, found, statistic, weight)
        return known

    def _leaf(self, name: str, found: Constant, statistic: bool, weight: bool) -> Value:
        kind = found.type
        dtype = kind.dtype
        learned = dtype.is_float and kind.rank > 0 and (kind.size > 1 or weight or statistic)
        if not learned and kind.size <= _MANY and not (dtype.is_int and dtype.bytes == 1 and kind.rank > 1):
            return const(found.read(), dtype)
        return self._kept(self.called.get(name, name), found, learned and not statistic)

    def _kept(self, name: str, found: Constant, is_learned: bool) -> Value:
        """A weight of the network."""
        name = untaken(name, self.held)  # a block beside this one may have a constant of that name
        self.held[name] = found
        self.state[name] = Weight(found.type, is_learned)
        return (Learned if is_learned else Buffer).of(name, found.type)

    def _quantized(self, name: str, found: Constant, statistic: bool, weight: bool) -> Value:
        """A constant as the integers that it is made of."""
        name = self.called.get(name, name)
        codes, scale, zero, axis, block, of = found.quantized
        parts = [self._kept(name, codes, False)]
        for one, what in ((scale, "scale"), (zero, "zero_point")):
            if one is not None:
                own = f"{name}_{what}"
                parts.append(self._kept(own, one, False) if one.shape else const(one.read(), one.type.dtype))
        return dequantize(*parts, axis=axis, block=block, of=of)

    # What ops are given.

    def bind(self, name: str, result: Any) -> None:
        if not name or name in self.scope:
            raise SourceError(f"{shown(name)} is made twice" if name else "a result has no name")
        self.scope[name] = result

    def constant(self, op: Any) -> None:
        if len(op.outputs) != 1 or ("val" not in op.attributes and "val" not in op.inputs):
            raise SourceError("a constant has one output and a val")
        given = op.attributes["val"] if "val" in op.attributes else op.inputs["val"].arguments[0].value
        self.bind(op.outputs[0].name, self._literal(given, "val"))

    def _literal(self, given: Any, what: str) -> Any:
        """A literal of the file, the same one whenever it is read."""
        known = self.literals.get(id(given))
        if known is None:
            known = self.literals[id(given)] = given, literal(given, self.model, what)
        return known[1]

    def decompressed(self, op: Any) -> None:
        """A constant, or two, worked out when it is asked for; its type is the one that is declared."""
        known = self.literals.get(id(op))
        if known is None:
            known = self.literals[id(op)] = op, self._decompressed(op)
        for out, made in zip(op.outputs, known[1], strict=True):
            self.bind(out.name, made)

    def _decompressed(self, op: Any) -> list[Constant]:
        given: dict[str, Any] = {n: literal(v, self.model, n) for n, v in op.attributes.items() if n != "name"}
        for n in op.inputs:
            found = self.argument(op, n)
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

        results: list[Constant] = []
        for index, (t, shape) in enumerate(zip(types, shapes, strict=True)):
            whole: Any = shape
            made = Constant(t.dataType, whole, lambda index=index: load(index))
            found = quantized(op.type, given)
            if found is not None and (found.codes.shape, found.scale.kind) == (made.shape, made.kind):
                made.quantized = found
            results.append(made)
        return results

    def argument(self, op: Any, name: str) -> list[tuple[str, Any]]:
        """What an input of an op is: names, and what they stand for."""
        found: list[tuple[str, Any]] = []
        for a in op.inputs[name].arguments:
            which = a.WhichOneof("binding")
            if which == "name":
                if a.name not in self.scope and a.name not in self.states:
                    raise SourceError(f"its input {shown(name)} is {shown(a.name)}, which is made by nothing before it")
                found.append((a.name, self.scope.get(a.name)))
            elif which == "value":
                inner = self._literal(a.value, name)
                found.append((f"{op.outputs[0].name}.{name}" if op.outputs else name, inner))
            else:
                raise SourceError(f"its input {shown(name)} is given neither by name nor as a value")
        return found

    def arguments(self, op: Any, rule: OpRule) -> dict[str, Any]:
        """What a rule is called with."""
        found: dict[str, Any] = {}
        for name in op.inputs:
            kind = rule.inputs.get(name)
            if kind is None:
                raise UnsupportedError(f"its input {shown(name)} isn't known to its rule")
            bound = self.argument(op, name)
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
            return tuple([self.value(n, v) for n, v in bound])
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
        return self.value(own, what, kind == "Statistic", name in _WEIGHTS)
