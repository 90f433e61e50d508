"""What is kept beside a graph: where values came from, what a state says of weights, how a network is called.

:class:`Network` is what transforms take and give, a TensorDAG; they stand to its left, so they know it by what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from tdagger.graph import Graph
from tdagger.op import Array, Value
from tdagger.tree import Tree
from tdagger.types import TensorType


class Pass(NamedTuple):
    """A call of a module that gives back what it takes, so that no value is its: what is read through it.

    A value with this in its origin reads ``argument``, made by the op ``of``, through the module. If ``argument`` is
    -1, the value itself is given through it as the output called ``of``. ``settings`` are those of the module.
    """

    module: str
    argument: int
    of: str
    calls: tuple[tuple[str, int], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()


class Origin(NamedTuple):
    """Where a value came from: module path, the framework's op, and source line (``file:line``).

    ``calls`` has the modules on the way that were called before, and how often: ``(("block", 1),)`` for the second
    call. ``passes``: what arguments were read through, one after the other.
    """

    module: str = ""
    op: str = ""
    source: str = ""
    calls: tuple[tuple[str, int], ...] = ()
    passes: tuple[Pass, ...] = ()

    def renamed(self, new: Callable[[str], str]) -> Origin:
        """The same with other paths of modules."""
        calls = tuple([(new(p), n) for p, n in self.calls])
        passes = [p._replace(module=new(p.module), calls=tuple([(new(q), n) for q, n in p.calls])) for p in self.passes]
        return self._replace(module=new(self.module), calls=calls, passes=tuple(passes))

    def through(self, argument: int, of: str) -> list[Pass]:
        """What an argument is read through if ``of`` made it."""
        return [p for p in self.passes if p.argument == argument and p.of == of]


def maker(value: Value, origins: Mapping[Value, Origin]) -> str:
    """The framework's op that made a value, as :class:`Pass` has it."""
    origin = origins.get(value)
    return origin.op if origin is not None else value.op.name


class Check(NamedTuple):
    """What a network asserts of its data: ``value`` is true, or ``message`` is raised, ``ValueError: too large``.

    ``value`` is None where it can't be computed here.
    """

    value: Value | None
    message: str
    source: str = ""


@dataclass(frozen=True)
class Weight:
    """What a network's state says of one tensor, whether or not the graph uses it.

    ``alias_of`` is the name of the weight this one is tied to: one tensor under two names.
    """

    type: TensorType
    is_parameter: bool
    trainable: bool = True
    persistent: bool = True
    alias_of: str = ""


@dataclass(frozen=True)
class Signature:
    """How a network is called: the nesting of its arguments (args, kwargs) and of its result."""

    inputs: Tree
    outputs: Tree


def plain_signature(inputs: int, outputs: int, seeds: Sequence[str] = ()) -> Signature:
    """Tensors by place, seeds by their names; the result a tensor, or a tuple of several.

    >>> plain_signature(1, 2).outputs.what()
    'a tuple of 2'
    """
    leaf = Tree("leaf")
    args = Tree("tuple", tuple(range(inputs)), (leaf,) * inputs)
    named = Tree("dict", tuple(seeds), (leaf,) * len(seeds))
    result = leaf if outputs == 1 else Tree("tuple", tuple(range(outputs)), (leaf,) * outputs)
    return Signature(Tree("tuple", (0, 1), (args, named)), result)


def with_seed(signature: Signature, name: str) -> Signature:
    """The signature with a seed as the last keyword argument.

    >>> with_seed(plain_signature(1, 1), "seed").inputs.children[1].keys
    ('seed',)
    """
    args, kwargs = signature.inputs.children
    named = kwargs._replace(keys=(*kwargs.keys, name), children=(*kwargs.children, Tree("leaf")))
    return Signature(signature.inputs._replace(children=(args, named)), signature.outputs)


class Network(Protocol):
    """What transforms need of a network: a :class:`tdagger.TensorDAG`, which says what each of these is."""

    @property
    def graph(self) -> Graph: ...
    @property
    def weights(self) -> Mapping[str, Array]: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def state(self) -> Mapping[str, Weight]: ...
    @property
    def origins(self) -> Mapping[Value, Origin]: ...
    @property
    def modules(self) -> Mapping[str, str]: ...
    @property
    def name(self) -> str: ...
    @property
    def axis_names(self) -> Mapping[str, str]: ...
    @property
    def source(self) -> Any: ...
    @property
    def certain_dimensions(self) -> frozenset[tuple[str, int]]: ...
    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def left_out(self) -> Sequence[Any]: ...


N = TypeVar("N", bound=Network)


def with_parts(network: N, **parts: Any) -> N:
    """The network with other parts, by their names."""
    return cast(N, replace(cast(Any, network), **parts))


def declared(graph: Graph) -> dict[str, Weight]:
    """The state of a graph that no framework gave one."""
    found = {n: Weight(v.type, True) for n, v in graph.parameters.items()}
    found |= {n: Weight(v.type, False) for n, v in graph.buffers.items()}
    return found | {n: Weight(v.type, False) for n, v in graph.updates.items() if n not in found}


def modules_of(modules: Mapping[str, str], origins: Iterable[Origin]) -> dict[str, str]:
    """Of ``modules`` those that values came from, and those around them.

    >>> list(modules_of({"": "Net", "a": "A", "a.b": "B", "c": "C"}, [Origin("a.b")]))
    ['', 'a', 'a.b']
    """
    paths: dict[str, None] = {"": None}
    for origin in origins:
        for path in (origin.module, *[p.module for p in origin.passes]):
            new = list[str]()
            while path not in paths:
                new.append(path)
                path = path.rpartition(".")[0]
            paths |= dict.fromkeys(reversed(new))
    return {p: modules[p] for p in paths if p in modules}


class Lazy(Mapping[str, Array]):
    """Arrays by name, each read or made when it is asked for.

    Pickled and copied deeply as arrays, those on the same memory once: what they are read from or made of stays behind.
    """

    def __reduce__(self) -> Any:
        arrays = {n: self[n] for n in self}  # all held, so that no two have an address one after the other
        made: dict[Any, Array] = {}
        for name, array in arrays.items():
            arrays[name] = made.setdefault((array.ctypes.data, array.shape, array.strides, array.dtype), array)
        return dict, (arrays,)


class Mapped(Lazy):
    """Tensors of a file, each read where it lies."""

    #: Arrays may lie at addresses that aren't aligned.
    mapped = True


class Weights(Mapping[str, Array]):
    """Weights of several networks under names of one's own; each is read from where it lies when asked for.

    >>> import numpy as np
    >>> both = Weights.of({"a": np.zeros(2)}, {"fc.a": "a"}) | Weights.of({"a": np.ones(2)}, {"a": "a"})
    >>> list(both), float(both["a"].sum())
    (['fc.a', 'a'], 2.0)
    """

    def __init__(self, places: Mapping[str, tuple[Mapping[str, Array], str]]) -> None:
        self.places = dict(places)

    @classmethod
    def of(cls, weights: Mapping[str, Array], names: Mapping[str, str]) -> Weights:
        """Of ``weights`` those that ``names`` has, by their new names; what isn't there is left out."""
        found = {new: old for new, old in names.items() if old in weights}
        if isinstance(weights, Weights):
            return cls({new: weights.places[old] for new, old in found.items()})
        part: Callable[[Iterable[str]], Mapping[str, Array]] | None = getattr(weights, "part", None)
        kept = {n: weights[n] for n in found.values()} if part is None else part(found.values())
        return cls({new: (kept, old) for new, old in found.items()})

    def __or__(self, other: Weights) -> Weights:
        return Weights({**self.places, **other.places})

    def __getitem__(self, name: str) -> Array:
        weights, own = self.places[name]
        return weights[own]

    def tensor(self, name: str) -> Any:
        """The framework's own tensor; None where it is an array."""
        weights, own = self.places[name]
        found: Callable[[str], Any] | None = getattr(weights, "tensor", None)
        return None if found is None else found(own)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
