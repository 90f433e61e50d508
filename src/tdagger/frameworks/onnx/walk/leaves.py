"""The tensors of a model as leaves of the graph, and its state.

Which leaf a tensor of the model becomes (an initializer, a sparse one, a Constant node):

- a parameter: floats and complex numbers of rank 1 and more, but for one number in a Constant node;
- a buffer: where an operator takes it as a statistic (the annotation ``Statistic`` of its rule); integers of 8 bits
  and less of rank 2 and more, which are quantized weights; integers of more than 65,536 entries;
- a constant: single numbers, and all other integers and bools, which are shapes, indices, masks, zero points.

Where a rule wants numbers (``Ints`` and the like) they are read, whatever holds them. The state has all parameters and
buffers by the names of the file, in its order, and initializers that nothing uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import onnx

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.importing import Importing
from tdagger.frameworks.known import Known
from tdagger.frameworks.onnx.file.read import Model
from tdagger.frameworks.onnx.file.tensors import HELD, Tensors
from tdagger.frameworks.onnx.things import Thing
from tdagger.frameworks.onnx.walk.scope import Scope
from tdagger.names import shown, untaken
from tdagger.network import Weight
from tdagger.op import Value
from tdagger.ops.source import Buffer, Parameter, const
from tdagger.types import TensorType

#: Integers of more entries are a buffer.
_MANY = 1 << 16
UNNAMED = "an input or a tensor has no name"


class Leaves(Importing):
    """The tensors that a model holds: what each is called, which leaf it becomes when it is first asked for."""

    def __init__(self, model: Model, external: bool) -> None:
        graph = model.proto.graph
        super().__init__(external, [i.name for i in graph.input])
        self.model, self.graph = model, graph
        self.tensors = Tensors(folder=model.folder)
        #: By what a tensor is called: as a weight, and where an operator takes it as a statistic.
        self.leaves: tuple[dict[str, Value], dict[str, Value]] = {}, {}
        #: What the state says of the tensors that are leaves; which tensors were read at all.
        self.state: dict[str, Weight] = {}
        self.used: set[str] = set()
        #: The tensors that stand in Constant nodes.
        self.constants: set[str] = set()
        self.known = Known(self.tensors)

    def hold(self, scope: Scope, name: str, held: Any) -> None:
        """Take a tensor in: what it is called in a scope is what it is called in the model, if that isn't taken."""
        if not name or scope.knows(name):
            raise SourceError(f"{self.model.name} has two tensors called {shown(name)}" if name else UNNAMED)
        kept = scope.kept
        own = name if not scope.place or kept is not None else f"{scope.place}{name}"
        if kept is not None and name in kept:
            own = kept[name]
        else:
            own = untaken(own, self.tensors.held)
            self.tensors.held[own] = held
            if kept is not None:
                kept[name] = own
        scope.tensors[name] = own
        if not isinstance(held, onnx.TensorProto) or held.data_type in HELD:
            kind = self.tensors.kind(own)
            if kind:
                scope.held[name] = kind

    def hold_all(self, scope: Scope, protos: Sequence[Any]) -> None:
        """Take the tensors of a model in; a third of the time of one by one, where there is nothing to be told."""
        named = {p.name: p for p in protos}
        is_first = not (scope.place or scope.tensors or scope.values or scope.odd or scope.failed or self.tensors.held)
        if not is_first or scope.kept is not None or len(named) < len(protos) or "" in named:
            for proto in protos:
                self.hold(scope, proto.name, proto)
            return
        self.tensors.held.update(named)
        scope.tensors.update(zip(named, named, strict=True))
        scope.held.update((n, p.data_type) for n, p in named.items() if p.data_type in HELD)

    def find(self, scope: Scope, name: str, statistic: bool = False) -> Value | None:
        """The value that a scope calls ``name``; a tensor becomes a leaf when it is first asked for."""
        found = scope.values.get(name)
        if not statistic and found is not None:
            return found
        own = scope.tensors.get(name)
        if statistic:
            if own is not None:
                return self._leaf(own, True)
            if found is not None and isinstance(found.op, Parameter):  # behind an Identity
                return self._leaf(found.op.leaf, True, name)
        elif own is not None:
            found = scope.values[name] = self._leaf(own, False)
        return found

    def thing(self, scope: Scope, name: str) -> Thing | None:
        """What a name stands for, also where that is no tensor of one type."""
        return scope.odd[name] if name in scope.odd else self.find(scope, name)

    def _leaf(self, name: str, statistic: bool, here: str = "") -> Value:
        leaves, others = self.leaves[statistic], self.leaves[not statistic]
        found = leaves.get(name)
        if found is not None:
            return found
        kind = self.tensors.type(name)
        self.used.add(name)
        learned = _is_learned(kind) and not (kind.size == 1 and name in self.constants)
        own = self._apart(name, statistic, here) if name in others and (learned or statistic) else name
        dtype = kind.dtype
        if learned and not statistic:
            found = Parameter.of(own, kind)
            self.state[own] = _weight(kind, True)
        elif learned or kind.size > _MANY or (dtype.is_int and dtype.bytes == 1 and kind.rank > 1):
            found = Buffer.of(own, kind)
            self.state[own] = _weight(kind, False)
        else:
            found = const(self.tensors[name], dtype)
        leaves[name] = found
        return found

    def _apart(self, name: str, statistic: bool, here: str) -> str:
        """What a tensor is called as a weight or as a statistic, if it is the other one already: as it is ``here``.

        Exporters write equal tensors once: a mean of zeros and a bias of zeros. They don't change alike in training.
        """
        if not isinstance(self.leaves[not statistic][name].op, Parameter | Buffer):
            return name
        own = untaken(here or f"{name}_{'statistic' if statistic else 'weight'}", self.tensors.held)
        self.tensors.held[own] = self.tensors.held[name]
        return own

    def whole_state(self) -> dict[str, Weight]:
        """All weights in the order of the file; initializers that nothing uses with them."""
        state, used = self.state, self.used
        if len(state) == len(self.tensors.held):
            return {n: state[n] for n in self.tensors.held}
        found: dict[str, Weight] = {}
        initial = {t.name for t in self.graph.initializer} | {t.values.name for t in self.graph.sparse_initializer}
        for name in self.tensors.held:
            weight = state.get(name)
            if weight is None and name in initial and name not in used:
                try:
                    kind = self.tensors.type(name)
                except UnsupportedError:
                    continue  # nothing uses it, and there is no type for it
                weight = Weight(kind, _is_learned(kind))
            if weight is not None:
                found[name] = weight
        return found


@lru_cache(maxsize=1 << 12)
def _weight(kind: TensorType, learned: bool) -> Weight:
    return Weight(kind, learned)


@lru_cache(maxsize=1 << 12)
def _is_learned(kind: TensorType) -> bool:
    return bool(kind.rank) and (kind.dtype.is_float or kind.dtype.is_complex)
