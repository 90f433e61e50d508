"""A network in another element type of floats, with what needs more precision left as it is."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.graph import Graph, bulk, is_one, result_types
from tdagger.names import shown
from tdagger.network import N, Network, Origin, Weights
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.elementwise import cast as cast_to
from tdagger.ops.external import External
from tdagger.ops.source import Const, Input, Iota, Leaf, const
from tdagger.transform.surgery.edit import each, finished, state_of, with_checks
from tdagger.transform.surgery.select import near, op_names
from tdagger.types import DType, c64, c128, f32, f64


def convert_dtype(
    dag: N, dtype: DType | str, keep: Collection[str] = (), source: DType | str = "f32", inputs: bool = False
) -> N:
    """The network with values of ``source`` (f32) as ``dtype``: weights, constants and all that is computed.

    Complex numbers with parts of ``source`` become those with parts of ``dtype``, where there are such (c64, c128).
    ``keep`` names ops (``"softmax"``) and module paths that stay: their arguments are cast to ``source`` and what they
    give back. Inputs and outputs keep their types unless ``inputs``: then both are of ``dtype``. Composites compute
    narrow floats in f32 inside, as ever. AttributeValueError unless both are floats, and for a name in ``keep`` that is
    neither an op's nor a module's; TypeMismatchError names an op that can't take ``dtype``.

    >>> import tdagger as td
    >>> dag = convert_dtype(td.network(lambda x: td.softmax(td.exp(x), axis=0), {"x": (2,)}), "bf16", keep=["softmax"])
    >>> [str(v.type) for v in dag.values]
    ['f32[2]', 'bf16[2]', 'bf16[2]', 'f32[2]', 'f32[2]']
    """
    old, new = DType.of(source), DType.of(dtype)
    if not (old.is_float and new.is_float):
        raise AttributeValueError(f"convert_dtype: takes types of floats, got {old} and {new}")
    _check_names(dag, keep)
    if old is new:
        return dag
    return _Conversion(dag, old, new, frozenset(keep), inputs).run(dag)


#: The complex numbers with such parts.
_COMPLEX = {f32: c64, f64: c128}


def _check_names(dag: Network, keep: Collection[str]) -> None:
    """AttributeValueError for what names neither an op nor a module."""
    if not keep:
        return
    ops = op_names() | {v.op.name for v in dag.graph.values}
    modules = {*dag.modules, *[o.module for o in dag.origins.values()]}
    for name in keep:
        if name not in ops and not any(m == name or m.startswith(f"{name}.") for m in modules):
            there = [*modules, *ops]
            raise AttributeValueError(
                f"convert_dtype: {shown(dag.name)} has no op or module {name!r}{near(name, there)}"
            )


class _Conversion:
    """The walk that gives every value its new type."""

    def __init__(self, dag: Any, old: DType, new: DType, keep: frozenset[str], inputs: bool) -> None:
        self.dag, self.new, self.keep, self.inputs = dag, new, keep, inputs
        #: What becomes of element types; others stay.
        self.types = {old: new}
        if old in _COMPLEX and new in _COMPLEX:
            self.types[_COMPLEX[old]] = _COMPLEX[new]
        self.made: dict[Value, Any] = {}
        self.origins: dict[Value, Origin] = {}
        # a weight that something kept takes stays, and so does a buffer that a run changes
        self.fixed = {a for v in dag.graph.values if self._is_kept(v) for a in v.args if isinstance(a.op, Leaf)} | {
            v for n, v in dag.graph.buffers.items() if n in dag.graph.updates
        }

    def _is_kept(self, value: Value) -> bool:
        origin: Origin | None = self.dag.origins.get(value)
        path = origin.module if origin else ""
        names = {value.op.name, getattr(value.op, "kind", "")}
        return not self.keep.isdisjoint(names) or any(path == k or path.startswith(f"{k}.") for k in self.keep)

    def run(self, dag: N) -> N:
        graph = with_checks(dag)
        with bulk():
            for value in graph.values:
                self.made[value] = made = self._visit(value)
                origin = dag.origins.get(value)
                if origin is not None:
                    for v in each(made):
                        self.origins.setdefault(v, origin)
        outputs = {n: self._as(v, self._type(v.dtype) if self.inputs else v.dtype) for n, v in graph.outputs.items()}
        updates = {n: self._as(v, v.dtype) for n, v in graph.updates.items()}
        ins = {n: self._input(v) for n, v in graph.inputs.items()}
        order = [v for made in self.made.values() for v in each(made)]
        after = Graph(ins, outputs, updates, graph.name, order)
        state, given = state_of(dag), dict[str, Array]()
        for name, leaf in {**after.parameters, **after.buffers}.items():
            if state[name].type is not leaf.type:
                with np.errstate(all="ignore"):
                    given[name] = np.asarray(dag.weights[name]).astype(leaf.dtype.numpy)
                for n, w in state.items():
                    if n == name or w.alias_of == name:
                        state[n] = type(w)(leaf.type, w.is_parameter, w.trainable, w.persistent, w.alias_of)
        kept = Weights.of(dag.weights, {n: n for n in dag.weights if n not in given})
        return finished(dag, after, self.origins, weights=kept | Weights.of(given, {n: n for n in given}), state=state)

    def _type(self, dtype: DType) -> DType:
        """What becomes of an element type."""
        return self.types.get(dtype, dtype)

    def _input(self, value: Value) -> Value:
        made = self.made[value]
        return made.args[0] if isinstance(made.op, Cast) else made

    def _as(self, value: Value, dtype: DType) -> Value:
        """What became of a value, in an element type."""
        return cast_to(cast(Value, self.made[value]), dtype)

    def _visit(self, value: Value) -> Any:
        op = value.op
        if isinstance(op, Input):
            return self._leaf_input(value, op)
        if isinstance(op, Leaf):
            narrow = value.dtype in self.types and value not in self.fixed
            return type(op)(op.leaf, value.type.with_dtype(self._type(value.dtype)))() if narrow else value
        if isinstance(op, Const):
            return self._constant(value, op)
        if isinstance(op, Cast):
            arg = value.args[0]
            wider = op.dtype in self.types and arg.dtype is self._type(op.dtype)  # on purpose: what is kept takes it
            return self._as(arg, op.dtype if wider else self._type(op.dtype))
        if self._is_kept(value) or isinstance(op, External):
            return op(*[self._as(a, a.dtype) if is_one(a) else self.made[a] for a in value.args])
        if all(self.made[a] is a and not (is_one(a) and a.dtype in self.types) for a in value.args) and value.args:
            return value
        return self._changed(value, self._of_type(op))

    def _leaf_input(self, value: Value, op: Input) -> Value:
        if value.dtype not in self.types:
            return value
        if self.inputs:
            return Input(op.leaf, value.type.with_dtype(self._type(value.dtype)))()
        return cast_to(value, self._type(value.dtype))

    def _constant(self, value: Value, op: Const) -> Value:
        new = self._type(value.dtype)
        if new is value.dtype:
            return value
        with np.errstate(all="ignore"):
            return const(op.data.astype(new.numpy), new)

    def _of_type(self, op: Op) -> Op:
        """The op with its attribute of an element type changed."""
        if isinstance(op, Iota) and op.dtype in self.types:
            return Iota(op.size, self._type(op.dtype))
        if isinstance(op, Composite) and (dtype := op.attributes.get("dtype")) in self.types:
            fields = {f: getattr(op, f) for f in op.fields} | {"dtype": self.types[dtype]}
            return cast(Any, type(op))(*fields.values())
        if isinstance(op, Composite) and any(isinstance(v, Graph) for v in op.attributes.values()):
            inside = [self._inside(v) if isinstance(v, Graph) else v for v in op.attributes.values()]
            return cast(Any, type(op))(*inside, op.given)
        return op

    def _inside(self, graph: Graph) -> Graph:
        """A branch, or the graph of a block, whose arguments come in the new type."""
        inner = copy.copy(self)
        inner.made, inner.inputs = {}, True
        for value in graph.values:
            inner.made[value] = inner._visit(value)
        ins = {n: inner._input(v) for n, v in graph.inputs.items()}
        return Graph(ins, {n: cast(Value, inner.made[v]) for n, v in graph.outputs.items()}, name=graph.name)

    def _changed(self, value: Value, op: Op) -> Any:
        args = [cast(Value, self.made[a]) for a in value.args]
        args = [cast_to(a, self._type(a.dtype)) if is_one(a) else a for a in args]  # what was kept
        try:
            made = op(*args)
        except (TypeMismatchError, AttributeValueError) as e:
            raise TypeMismatchError(
                f"{shown(self.dag.name)}: {value!r} can't be computed in {self.new}: {e}; keep it: "
                f"keep=[{value.op.name!r}]"
            ) from e
        old = [t.shape for t in result_types(value)]
        if [t.shape for t in result_types(made)] != old:
            raise TypeMismatchError(f"{value!r} has another shape in {self.new}: {made!r}")
        return made
