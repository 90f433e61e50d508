"""Composites: ops defined by a Python function over other ops.

>>> import tdagger as td
>>> @composite
... def halve(x, *, times=1):
...     for _ in range(times):
...         x = x * 0.5
...     return x
>>> y = halve(td.input("x", (4,)), times=2)
>>> y.op, y.type, len(y.op.body(y.args[0].type))
(halve(times=2), f32[4], 6)

Calling it makes one node. Its body is the function retraced at the argument types, once for each; from the
body follow type inference, reference execution, flops and traffic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast, overload

import numpy as np

from tdagger.depth import nested
from tdagger.errors import AttributeValueError, GraphError, NoInverseError
from tdagger.graph import Graph, flops, is_view, result_types
from tdagger.interpret import run
from tdagger.op import Array, Op, Value, ValueFunction, functions, normal_axis, symbolic
from tdagger.ops.source import Input
from tdagger.ops.structure import items
from tdagger.types import ResultTypes, TensorType, ValueType, each_type, least

P = ParamSpec("P")
R = TypeVar("R")

#: Every composite, by name.
composites: dict[str, CompositeFunction[Any, Any]] = {}


class Composite(Op):
    """The op of a composite: its keyword-only parameters are the attributes.

    ``given`` says which tensor parameters got a tensor (optional ones may have none). Subclasses are made by
    :func:`composite`, one for each.
    """

    definition: ClassVar[CompositeFunction[Any, Any]]
    given: tuple[bool, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls, *args, **kwargs)
        self.__dict__.setdefault("_bodies", {})
        self.__dict__.setdefault("_found", {})
        return self

    @property
    def found(self) -> dict[Any, Any]:
        """What others worked out of the op, by all it depends on: kept as long as the op, and no longer."""
        return self.__dict__["_found"]

    @property
    def attributes(self) -> dict[str, Any]:
        return {f: getattr(self, f) for f in self.fields if f != "given"}

    def __reduce__(self) -> Any:
        # by name: the class was made at run time, so pickle would not find it
        return (_composite_op, (self.name, *[getattr(self, f) for f in self.fields]))

    @nested
    def body(self, *types: TensorType) -> Graph:
        """The definition traced at argument types: a graph whose inputs are the tensor parameters."""
        bodies: dict[Any, Graph] = self.__dict__["_bodies"]
        graph = bodies.get(types)
        if graph is None:
            graph = bodies[types] = self._trace(types)
        return graph

    def _trace(self, types: tuple[TensorType, ...]) -> Graph:
        d = self.definition
        names = d.argument_names(self.given, len(types))
        if len(names) != len(types):
            raise self.mismatch(f"takes {len(names)} tensors ({', '.join(names)})", *types)
        inputs = {n: Input(n, t)() for n, t in zip(names, types, strict=True)}
        self._check_axes(types)
        if d.variadic:
            out: Any = d.function(*inputs.values(), **self.attributes)
        else:
            tensors = iter(inputs.values())
            out = d.function(*[next(tensors) if g else None for g in self.given], **self.attributes)
        results = cast(tuple[Value, ...], out if isinstance(out, tuple) else (out,))
        names = ["out"] if len(results) == 1 else [str(i) for i in range(len(results))]
        return Graph(inputs, dict(zip(names, results, strict=True)), name=self.name)

    def _check_axes(self, types: tuple[TensorType, ...]) -> None:
        """TypeMismatchError if the first tensor doesn't have the axes that the attributes name."""
        if not types or not self.definition.normal_axes:
            return
        named: list[Any] = [self.attributes.get("axis"), *(self.attributes.get("axes") or ())]
        rank = max(types[0].rank, 1)
        if any(isinstance(a, int) and not 0 <= a < rank for a in named):
            raise self.mismatch(f"{types[0]} has no such axis", *types)

    def infer(self, *types: TensorType) -> ValueType:
        rule = self.definition.types_rule
        found = None if rule is None else rule(self, *types)
        if found is not None:
            return found
        outputs = list(self.body(*types).outputs.values())
        return outputs[0].type if len(outputs) == 1 else ResultTypes(v.type for v in outputs)

    def run(self, *arrays: Array) -> Any:
        """The numpy rule registered with ``.numpy``, else the body."""
        if self.definition.numpy_rule is not None:
            return self.definition.numpy_rule(*self.spread(arrays), **self.attributes)
        return self.run_body(*arrays)

    @nested
    def run_body(self, *arrays: Array) -> Any:
        """The body, with numpy."""
        body = self.body(*[TensorType(a.shape, a.dtype.name) for a in arrays])
        out, _ = run(body, dict(zip(body.inputs, arrays, strict=True)), {})
        results = tuple(out.values())
        return results[0] if len(results) == 1 else results

    def spread(self, tensors: tuple[Any, ...]) -> list[Any]:
        """The tensors at their parameters' places, None where an optional one was not given."""
        if self.definition.variadic:
            return list(tensors)
        rest = iter(tensors)
        return [next(rest) if g else None for g in self.given]

    def branches(self, *types: TensorType) -> tuple[Graph, ...]:
        """The graphs of which one is run, each on all arguments; none for nearly every composite."""
        rule = self.definition.branches_rule
        return () if rule is None else rule(self, *types)

    def inside(self, *types: TensorType) -> tuple[Graph, ...]:
        return self.branches(*types) if self.has_branches else (self.body(*types),)

    @nested
    def counted(self, *types: TensorType) -> Graph:
        """The graph whose costs are the composite's: its body, or the branch with the most flops."""
        if not self.has_branches:
            return self.body(*types)
        return max(self.branches(*types), key=lambda branch: sum(map(flops, branch.values)))

    @nested
    def flops(self, out: TensorType, *types: TensorType) -> int:
        """Counted on the body, unless the definition says it executes as itself (subtract is 1, not 2)."""
        each = self.definition.flops_each
        return sum(map(flops, self.counted(*types).values)) if each is None else each * out.size

    @nested
    def moves_nothing(self, *types: TensorType) -> bool:
        """Whether the body only renames axes."""

        def make() -> bool:
            values = self.body(*types).values
            return all(isinstance(v.op, Input) or v.op.moves_nothing(*[a.type for a in v.args]) for v in values)

        return _once(self, ("moves_nothing", types), make)

    @nested
    def reads(self, out: TensorType, *types: TensorType) -> tuple[int, ...]:
        """Elements of each argument that the body's ops read, each counted at most once."""
        return _once(self, ("reads", types), lambda: _reads(self.counted(*types)))

    def inverse(self, *types: TensorType) -> ValueFunction:
        return self._other_way("inverse", types)

    def adjoint(self, *types: TensorType) -> ValueFunction:
        return self._other_way("adjoint", types)

    def _other_way(self, what: str, types: tuple[TensorType, ...]) -> ValueFunction:
        rule = self.definition.ways.get(what)
        if rule is None:
            raise NoInverseError(f"{self} has no {what}")
        return rule(self, *types)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.attributes.items() if self.definition.is_shown(k, v))
        return f"{self.name}({shown})" if shown else self.name


def _composite_op(name: str, *attributes: Any) -> Composite:
    """The op that :meth:`Composite.__reduce__` took apart."""
    if name not in composites:
        raise GraphError(f"there is no composite called {name!r}; import the module that defines it first")
    return composites[name].op(*attributes)


class CompositeFunction(Generic[P, R]):
    """What :func:`composite` makes of a function: call it on values to make a node."""

    def __init__(
        self,
        function: Callable[P, R],
        prepare: Callable[..., Any] | None,
        flops_each: int | None,
        normal_axes: bool,
        own_gradient: bool,
    ) -> None:
        self.function = function
        self.prepare = prepare
        self.flops_each = flops_each
        self.normal_axes = normal_axes
        self.__name__ = self.name = function.__name__.removesuffix("_")
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function
        parameters = inspect.signature(function).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.tensors = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.numpy_rule: Callable[..., Any] | None = None
        self.axis_rule: Callable[..., Any] | None = None
        self.adapt_rule: Callable[..., Any] | None = None
        self.types_rule: Callable[..., TensorType | None] | None = None
        self.branches_rule: Callable[..., tuple[Graph, ...]] | None = None
        self.ways: dict[str, Callable[..., ValueFunction]] = {}
        annotations = {**dict.fromkeys(self.defaults, "Any"), "given": "tuple[bool, ...]"}
        members = {"name": self.name, "definition": self, "__annotations__": annotations, "own_gradient": own_gradient}
        self.op = cast(type[Composite], type(self.name, (Composite,), members))
        self.op.fields = (*self.defaults, "given")
        composites[self.name] = self
        functions[self.name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """One node on the tensor arguments; a tuple of values if the definition returns several."""
        found = symbolic(*args)
        if found is not None:
            return found.noted(self, args, kwargs)
        if self.prepare is not None:
            args, kwargs = self.prepare(*args, **kwargs)
        attributes: dict[str, Any] = {**self.defaults, **kwargs}
        tensors: list[Any] = list(args)
        if not self.variadic:
            for name in self.tensors[len(tensors) :]:
                tensors.append(attributes.pop(name, None))
        if len(attributes) != len(self.defaults) or (len(tensors) != len(self.tensors) and not self.variadic):
            signature = inspect.signature(self.function)
            raise AttributeValueError(f"{self.name} takes {signature}, got {args} {kwargs}")
        present = [t for t in tensors if t is not None]
        for name, value in attributes.items():
            if value.__class__ is int and self.defaults[name].__class__ is float:
                attributes[name] = float(value)
            elif value is inspect.Parameter.empty:
                raise AttributeValueError(f"{self.name} needs the attribute {name}")
            if name == "axis" and isinstance(value, int) and self.normal_axes:
                attributes[name] = normal_axis(value, max(present[0].rank, 1))
            elif name == "axes" and isinstance(value, tuple | list):
                rank = max(present[0].rank, 1)
                axes = sorted(normal_axis(a, rank) for a in cast(tuple[int, ...], value))
                if len(set(axes)) != len(axes):
                    raise AttributeValueError(f"{self.name}: an axis is named twice in axes={value}")
                attributes[name] = tuple(axes)
            elif isinstance(value, list):
                attributes[name] = tuple(cast(list[Any], value))
        given = () if self.variadic else tuple([t is not None for t in tensors])
        op = cast(Op, cast(Any, self.op)(*attributes.values(), given))
        out = op(*present)
        return cast(R, out if out.type.__class__ is TensorType else items(out))

    def argument_names(self, given: tuple[bool, ...], count: int) -> list[str]:
        """Names of the tensors an op of this definition takes."""
        if self.variadic:
            return [f"{self.tensors[0]}{i}" for i in range(count)]
        return [n for n, g in zip(self.tensors, given, strict=True) if g]

    def is_shown(self, name: str, value: Any) -> bool:
        """Whether an attribute differs from its default, so that printing should show it."""
        return value is not self.defaults[name] and value != self.defaults[name]

    def numpy(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Register a faster numpy execution than the body's; it must agree with the body."""
        self.numpy_rule = rule
        return rule

    def types(self, rule: Callable[..., TensorType | None]) -> Callable[..., TensorType | None]:
        """Register ``rule(op, *types)``: the result's type, found sooner than by the body; None leaves it to the body.

        It answers in plain cases only, and then as the body does, which a test holds it to.
        """
        self.types_rule = rule
        return rule

    def axes(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Register ``rule(op, rules, out, *terms)``, an axis rule that says more than the body's would."""
        self.axis_rule = rule
        return rule

    def adapt(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Register ``rule(op, args, *plans)``: the result (a tuple of several) where dimensions went, came or changed.

        None if it can't say, which leaves it to the body.
        """
        self.adapt_rule = rule
        return rule

    def branches(self, rule: Callable[..., tuple[Graph, ...]]) -> Callable[..., tuple[Graph, ...]]:
        """Register ``rule(op, *types)``: graphs on all arguments, of which a run executes one."""
        self.branches_rule = rule
        self.op.has_branches = True
        return rule

    def inverse(self, rule: Callable[..., ValueFunction]) -> Callable[..., ValueFunction]:
        """Register ``rule(op, *types)``, the inverse or pseudo-inverse as a function of values."""
        self.ways["inverse"] = rule
        return rule

    def adjoint(self, rule: Callable[..., ValueFunction]) -> Callable[..., ValueFunction]:
        """Register ``rule(op, *types)``, the adjoint as a function of values."""
        self.ways["adjoint"] = rule
        return rule

    def __repr__(self) -> str:
        return f"<composite {self.name}{inspect.signature(self.function)}>"


@overload
def composite(function: Callable[P, R], /) -> CompositeFunction[P, R]: ...
@overload
def composite(
    *,
    prepare: Callable[..., Any] | None = None,
    flops_each: int | None = None,
    normal_axes: bool = True,
    own_gradient: bool = False,
) -> Callable[[Callable[P, R]], CompositeFunction[..., R]]: ...
def composite(
    function: Callable[P, R] | None = None,
    /,
    *,
    prepare: Callable[..., Any] | None = None,
    flops_each: int | None = None,
    normal_axes: bool = True,
    own_gradient: bool = False,
) -> Any:
    """Make an op of a function over values: positional parameters are tensors, keyword-only ones attributes.

    A tensor parameter with default None is optional; ``*xs`` takes any number. Attributes must be hashable
    and must not repeat what the types say (no kernel size, no feature count). Attributes called ``axis`` and
    ``axes`` are normalised against the first tensor. ``prepare(*args, **attributes)`` may change what the
    caller wrote (broadcast, fill in) and returns ``(args, attributes)``. ``flops_each`` is for definitions
    that execute as themselves: operations per element of the result, instead of the body's count.
    ``normal_axes=False`` leaves ``axis`` to ``prepare`` (an axis of the result, not of the first tensor).
    ``own_gradient`` is for what computes what its body does but has another gradient: the body stands for it only where
    it is named.
    """

    def make(f: Callable[P, R]) -> CompositeFunction[P, R]:
        return CompositeFunction(f, prepare, flops_each, normal_axes, own_gradient)

    return make if function is None else make(function)


def may_broadcast(value: Value) -> bool:
    """Whether an op is a composite some argument of which has another shape than the result: it may spread entries."""

    def shapes(v: Value) -> list[tuple[int, ...]]:
        return [t.shape for t in result_types(v)]

    return isinstance(value.op, Composite) and any(shapes(a) != shapes(value) for a in value.args)


def shapes_given(op: Op, types: tuple[TensorType, ...]) -> list[tuple[int, ...]] | None:
    """The shapes of an op's results, None if it doesn't take these arguments (its attributes may be a guess)."""
    try:
        with np.errstate(all="ignore"):
            return [t.shape for t in each_type(op.infer(*types))]
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None


def _once(op: Any, key: Any, make: Callable[[], R]) -> R:
    """What is worked out once for a composite; each time for what only stands for one, where sizes are formulas."""
    if not isinstance(op, Composite):
        return make()
    if key not in op.found:
        op.found[key] = make()
    return op.found[key]


def _reads(body: Graph) -> tuple[int, ...]:
    """Elements of each input that the ops of a body read."""
    read = dict.fromkeys(body.values, 0)
    for value in reversed(body.values):
        if is_view(value):
            for arg in value.args:
                read[arg] += least(read[value], sum(t.size for t in result_types(arg)))
            continue
        own = value.op.reads(value.type, *[a.type for a in value.args])
        for arg, n in zip(value.args, own, strict=True):
            read[arg] += n
    outputs = set(body.outputs.values())
    return tuple(v.type.size if v in outputs else least(read[v], v.type.size) for v in body.inputs.values())
