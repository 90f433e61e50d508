"""Taking a network into another at some place: its weights, modules, updates and random numbers under new names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from tdagger.composite import CompositeFunction
from tdagger.errors import GraphError, TDaggerError, TypeMismatchError
from tdagger.graph import Graph
from tdagger.library.random import SEED, stream
from tdagger.names import shown
from tdagger.network import Check, Network, Origin, Signature, Weight, Weights, declared
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, Parameter
from tdagger.transform.surgery.edit import Edit, each
from tdagger.transform.surgery.select import described, results
from tdagger.tree import Tree
from tdagger.types import TensorType

#: Makes a network of a framework's module: of the module, the types of its arguments, and whether it is to train.
Importer = Callable[[Any, Sequence[TensorType], bool], Network]

#: What only a network in training has.
_TRAINING = ("batch_norm_train", "instance_norm_train", "dropout_train", "alpha_dropout_train")


@dataclass(frozen=True)
class Bare:
    """A graph without anything else, as a network: its parameters have no data yet."""

    graph: Graph
    weights: Mapping[str, Array] = field(default_factory=dict[str, Array])
    signature: Signature = field(default=Signature(Tree("tuple"), Tree("leaf")))
    state: Mapping[str, Weight] = field(default_factory=dict[str, Weight])
    origins: Mapping[Value, Origin] = field(default_factory=dict[Value, Origin])
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = "graph"
    axis_names: Mapping[str, str] = field(default_factory=dict[str, str])
    source: Any = None
    certain_dimensions: frozenset[tuple[str, int]] = frozenset()
    checks: Sequence[Check] = ()
    left_out: Sequence[Any] = ()


def trains(graph: Graph) -> bool:
    """Whether a network was imported in training."""
    return any(v.op.name in _TRAINING for v in graph.values)


def is_seed(name: str, value: Value) -> bool:
    """Whether an input is the seed of all random numbers."""
    return name.rstrip("_") == SEED and value.type == TensorType((), "u64")


def seed_of(graph: Graph) -> Value | None:
    """The input that all random numbers come from, if there is one."""
    return next((v for n, v in graph.inputs.items() if is_seed(n, v)), None)


def streams_of(graph: Graph) -> list[int]:
    """The numbers of the random streams that are drawn."""
    return [v.op.attributes["number"] for v in graph.values if v.op.name == stream.name]


def shifted(value: Value, args: Sequence[Any], by: int) -> Any:
    """A random stream with another number, so that nothing else draws from it; None for other values."""
    is_stream = bool(by) and value.op.name == stream.name
    return stream(args[0], number=value.op.attributes["number"] + by) if is_stream else None


def is_network(given: Any) -> bool:
    """Whether something is a network or a graph."""
    return isinstance(given, Graph) or (hasattr(given, "graph") and hasattr(given, "weights"))


def is_module(given: Any) -> bool:
    """Whether something is a framework's module."""
    return hasattr(given, "forward") and hasattr(given, "state_dict") and not inspect.isclass(given)


class Adoption:
    """What networks that are taken into the one of ``edit`` bring with them, under their new names.

    ``taken`` are names of weights that stay as they are, which no new one may have.
    """

    def __init__(self, edit: Edit, taken: set[str], importer: Importer | None = None) -> None:
        self.dag = dag = edit.dag
        self.origins = edit.origins
        self.taken = taken
        self.importer = importer
        self.trains = trains(dag.graph)
        self.weights = Weights({})
        self.state: dict[str, Weight] = {}
        self.modules: dict[str, str] = {}
        self.updates: dict[str, Value] = {}
        self.seed = seed_of(dag.graph)
        self.streams = max(streams_of(dag.graph), default=0)
        self._known: dict[int, tuple[Any, str]] = {}

    def results(
        self, by: Any, args: Sequence[Value], path: Callable[[], str], attributes: Mapping[str, Any] | None = None
    ) -> Any:
        """What ``by`` gives on some values: a function of values, a graph, a network, a module, or a function of one.

        A network's weights get names below ``path()``. ``attributes`` go to a function's keyword arguments of their
        names.
        """
        if is_network(by) or is_module(by):
            return self._put(by, args, path())
        if not callable(by):
            raise GraphError(f"what is new: give a function of values, a graph, a network or a module, not {by!r}")
        try:
            given = by(*args, **_wanted(by, attributes or {}))
        except TDaggerError:
            raise
        except TypeError as e:  # other arguments, or a function of a framework's tensors
            what = getattr(by, "__name__", None) or repr(by)
            types = ", ".join([str(a.type) if isinstance(a, Value) else repr(a) for a in cast(Sequence[Any], args)])
            raise GraphError(
                f"{shown(what)} can't be called on the values it would stand for, ({types}): {e}; "
                "give a function of values (td.tanh), a graph, a network or a module"
            ) from e
        if is_network(given) or is_module(given):
            return self._put(given, [a for a in args if a is not None], path())  # type: ignore[redundant-expr]
        found = results(given)
        return found[0] if len(found) == 1 else found

    def _put(self, given: Any, args: Sequence[Value], path: str) -> Any:
        part = self._network(given, args, path)
        found = self.put(part, args, path)
        return found[0] if len(found) == 1 else tuple(found)

    def _network(self, given: Any, args: Sequence[Value], path: str) -> Network:
        """A network of what was given; GraphError where one with weights of its own comes at two places."""
        known = self._known.get(id(given))
        if known is not None and known[1] != path:
            where = known[1]
            raise GraphError(
                f"the same {type(given).__name__} would stand at {shown(where)} and at {shown(path)}, with "
                "weights of its own at each: give a function that makes a new one"
            )
        if isinstance(given, Graph):
            part: Network = Bare(given, name=given.name)
        elif is_module(given):
            if self.importer is None:
                raise GraphError(f"{path}: no framework is here to import a {type(given).__name__}")
            part = self.importer(given, [a.type for a in args], self.trains)
        else:
            part = cast(Network, given)
        if part.state or part.graph.parameters or part.graph.buffers:
            self._known[id(given)] = (given, path)
        return part

    def put(self, part: Network, args: Sequence[Value], path: str) -> list[Value]:
        """The results of a network on some values, its weights under ``path``."""
        named = {n: v for n, v in part.graph.inputs.items() if not is_seed(n, v)}
        wanted, given = [v.type for v in named.values()], [a.type for a in args]
        if wanted != given:
            places = ", ".join(described(self.dag, a) for a in args) or "nothing"
            raise TypeMismatchError(
                f"{shown(part.name)} takes ({', '.join(f'{n}: {v.type}' for n, v in named.items())}), "
                f"and at {shown(path or 'the place')!r} it would get {places}"
            )
        renamed = self._renamed(part, path)
        start = dict(zip(named.values(), args, strict=True)) | renamed
        for name, value in part.graph.inputs.items():
            if is_seed(name, value):
                self.seed = value if self.seed is None else self.seed
                start[value] = self.seed
        shift = self.streams
        edit = Edit(part, start).run(lambda value, given: shifted(value, given, shift))
        self.streams += max(streams_of(part.graph), default=0)
        for value, made in edit.new.items():
            own = part.origins.get(value)
            for v in each(made):
                if v not in args and not isinstance(v.op, Input | Parameter | Buffer):
                    self.origins.setdefault(v, _below(path, own))
        for name, value in part.graph.updates.items():
            full = _join(path, name)
            if full in self.updates:
                raise GraphError(
                    f"{shown(path)} stands at several calls of one module, and changes its buffer {name!r} in each: "
                    "import it in eval mode"
                )
            self.updates[full] = edit.new[value]
        return [edit.new[v] for v in part.graph.outputs.values()]

    def _renamed(self, part: Network, path: str) -> dict[Value, Value]:
        """The leaves of a part under their names below ``path``, which are added to the state."""
        state = dict(part.state) or declared(part.graph)
        for name, weight in state.items():
            full = _join(path, name)
            if full in self.taken:
                raise GraphError(
                    f"the weight {full!r} that {shown(part.name)} brings is there already, and something else uses it: "
                    f"rename({{{full!r}: ...}}) first"
                )
            alias = _join(path, weight.alias_of) if weight.alias_of else ""
            self.state[full] = Weight(weight.type, weight.is_parameter, weight.trainable, weight.persistent, alias)
        self.weights.places.update(Weights.of(part.weights, {_join(path, n): n for n in state}).places)
        self.modules |= {_join(path, p): kind for p, kind in part.modules.items()}
        if path and path not in self.modules:
            self.modules[path] = part.name
        leaves = {**part.graph.parameters, **part.graph.buffers}
        return {v: type(v.op)(_join(path, n), v.type)() for n, v in leaves.items()}

    def merged(self, state: Mapping[str, Weight], at: int | None = None) -> dict[str, Weight]:
        """A state with what is new, at a place in its order; unless told, behind what is in the module around it."""
        pairs = list(state.items())
        if at is not None:
            return dict([*pairs[:at], *self.state.items(), *pairs[at:]])
        last: dict[str, int] = {"": len(pairs)}
        for i, name in enumerate(state):
            while name := name.rpartition(".")[0]:
                last[name] = i + 1
        new: dict[int, list[tuple[str, Weight]]] = {}
        for name, weight in self.state.items():
            around = name
            while around not in last:
                around = around.rpartition(".")[0]
            new.setdefault(last[around], []).append((name, weight))
        return dict([p for i in range(len(pairs) + 1) for p in (*new.get(i, ()), *pairs[i : i + 1])])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _below(path: str, origin: Origin | None) -> Origin:
    if origin is None:
        return Origin(path)
    return origin.renamed(lambda p: _join(path, p))


def _wanted(by: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that a function takes as keyword arguments."""
    if isinstance(by, CompositeFunction):
        return {n: v for n, v in attributes.items() if n in cast(Mapping[str, Any], by.defaults)}
    try:
        parameters = inspect.signature(by).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return {}
    return {p.name: attributes[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in attributes}


def module_name(by: Any) -> str:
    """What a new module is called unless told: as what makes it is."""
    name = getattr(by, "name", None) or getattr(by, "__name__", None) or type(by).__name__
    plain = "".join(c if c.isalnum() else "_" for c in str(name)).strip("_").lower()
    return "new" if plain in ("lambda", "") else plain
