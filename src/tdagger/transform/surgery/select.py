"""Saying what is meant: ops by name, function or predicate; values by module path, name or predicate."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from tdagger.composite import Composite, CompositeFunction, composites
from tdagger.errors import GraphError
from tdagger.graph import Graph, is_one, label
from tdagger.names import shown
from tdagger.network import Network
from tdagger.op import Op, Value, core_ops
from tdagger.ops.elementwise import BINARY, UNARY
from tdagger.ops.source import Buffer, Const, Leaf, Parameter
from tdagger.transform.networks import place
from tdagger.view.text import called

#: Which values are meant: the name of an op or its function (``"relu"``, ``td.relu``), a class of op, a value, a
#: function that says so of a value, or several of these.
What = Any


def near(name: str, names: Iterable[str]) -> str:
    """``; did you mean ...`` with the names most like ``name``; those there are if none is.

    >>> near("layer2.conv", ["layer1.conv", "layer2.conv1", "fc"])
    '; did you mean layer2.conv1, layer1.conv?'
    """
    there = [n for n in dict.fromkeys(names) if n]
    close = difflib.get_close_matches(name, there, n=4, cutoff=0.6)
    if close:
        return f"; did you mean {', '.join(map(shown, close))}?"
    some = ", ".join(map(shown, there[:12])) or "none"
    return f"; there are {some}{f' and {len(there) - 12} more' if len(there) > 12 else ''}"


def described(dag: Network, value: Value) -> str:
    """A value for a message: what it is and where it came from."""
    return f"{value!r}{place(dag.origins)(value)}"


# --- ops ---------------------------------------------------------------------------------------------------


def chooser(what: What) -> Callable[[Value], bool]:
    """Whether a value is meant, as a function. GraphError for what names no op."""
    given = cast(object, what)
    if isinstance(given, str):
        return _named(given)
    if isinstance(given, Value):
        return lambda v: v is given
    if isinstance(given, type) and issubclass(given, Op):
        kind: type[Op] = given
        return lambda v: isinstance(v.op, kind)
    if isinstance(given, Op):
        return lambda v: v.op is given
    if isinstance(given, CompositeFunction):
        return _named(given.name)
    if isinstance(given, list | tuple | set | frozenset):
        each = [chooser(w) for w in cast(Iterable[Any], given)]
        return lambda v: any(c(v) for c in each)
    if callable(what):
        if getattr(what, "__module__", "").startswith("tdagger.ops."):  # td.exp and its like are plain functions
            return _named(what.__name__)
        return _predicate(what)
    raise GraphError(f"values are chosen by the name of an op, its function, a value or a predicate, not by {what!r}")


def _predicate(function: Callable[[Value], Any]) -> Callable[[Value], bool]:
    """A function of values that says yes or no; GraphError if it gives something else: it is no predicate."""

    def says(value: Value) -> bool:
        said = function(value)
        if said is not True and said is not False:
            raise GraphError(f"a predicate of values gives True or False; {function!r} gave {said!r}")
        return said

    return says


def op_names() -> set[str]:
    """The names that ops go by, in whatever network."""
    return {*core_ops, *composites, *UNARY, *BINARY}


def _named(name: str) -> Callable[[Value], bool]:
    plain = name.removesuffix("_")
    known = op_names()
    if name not in known and plain not in known:
        raise GraphError(f"there is no op called {name!r}{near(name, known)}")
    return lambda v: label(v.op) == plain or v.op.name == plain


def _titled(title: str) -> Callable[[Value], bool]:
    return lambda v: label(v.op) == title


def chosen(dag: Network, what: What, within: str = "") -> list[Value]:
    """The values of the graph that are meant, of module ``within`` only; GraphError if there are none."""
    titles = {label(v.op) for v in dag.graph.values if v.op.name == "block"}
    is_meant = _titled(what) if isinstance(what, str) and what in titles else chooser(what)
    found = [v for v in dag.graph.values if is_meant(v) and is_within(dag, v, within)]
    if not found:
        ops = [label(v.op) for v in dag.graph.values if not isinstance(v.op, Leaf | Const)]
        inside = f" in {within}" if within else ""
        name = what if isinstance(what, str) else getattr(what, "name", getattr(what, "__name__", repr(what)))
        raise GraphError(f"{shown(dag.name)} has no {name}{inside}{near(str(name), ops)}")
    return found


def is_within(dag: Network, value: Value, path: str) -> bool:
    """Whether a value came from a module or one inside it."""
    if not path:
        return True
    origin = dag.origins.get(value)
    return origin is not None and (origin.module == path or origin.module.startswith(f"{path}."))


# --- modules -----------------------------------------------------------------------------------------------


class Part:
    """The values that one call of a module computes: what comes in from outside and what goes out.

    What no input of the network is behind (masks, positions, weights that are cast) is neither.
    """

    def __init__(self, graph: Graph, values: Iterable[Value], fed: set[Value]) -> None:
        self.values = list(values)
        self.own = set(self.values)
        args = dict.fromkeys(a for v in self.values for a in v.args if a not in self.own)
        self.inputs = [a for a in args if a in fed]
        returned = set(graph.outputs.values())
        single = [v for v in self.values if v in fed and is_one(v)]
        used = [v for v in single if any(u not in self.own for u in graph.users[v])]
        # what only the network returns (the keys of a cache) comes after what goes on to others
        self.outputs = list(dict.fromkeys([*used, *(v for v in single if v in returned)]))


def fed(graph: Graph) -> set[Value]:
    """The values that depend on an input."""
    found = set(graph.inputs.values())
    for value in graph.values:
        if value not in found and any(a in found for a in value.args):
            found.add(value)
    return found


def module_values(dag: Network, path: str) -> list[Value]:
    """The values that module ``path`` computes; GraphError with the paths most like it if there are none."""
    values = [v for v in dag.graph.values if is_within(dag, v, path) and not isinstance(v.op, Parameter | Buffer)]
    if not path or not values:
        raise GraphError(f"{shown(dag.name)}: nothing came from module {path!r}{near(path, _paths(dag))}")
    return values


def _paths(dag: Network) -> list[str]:
    found: dict[str, None] = {}
    for value in dag.graph.values:
        origin = dag.origins.get(value)
        path = origin.module if origin else ""
        while path:
            found.setdefault(path)
            path = path.rpartition(".")[0]
    return list(found)


def calls(dag: Network, path: str) -> list[Part]:
    """The parts of the graph that calls of module ``path`` are, in their order; GraphError if there are none."""
    grouped: dict[int, list[Value]] = {}
    for value in module_values(dag, path):
        origin = dag.origins[value]
        number = next((n for p, n in origin.calls if p == path), 0)
        grouped.setdefault(number, []).append(value)
    is_fed = fed(dag.graph)
    return [Part(dag.graph, grouped[n], is_fed) for n in sorted(grouped)]


# --- values ------------------------------------------------------------------------------------------------


def found(dag: Network, what: Any) -> dict[str, Value]:
    """Values by names: what ``what`` says, one or several.

    ``what`` is a module path (what the module gives), the name of an output or input, the name under which ``print``
    shows a value (``%12``), a value, or what :data:`What` says of ops. GraphError if nothing is meant.
    """
    if isinstance(what, Value):
        if what not in set(dag.graph.values):
            raise GraphError(f"{shown(dag.name)} doesn't compute {what!r}")
        return {name_of(dag, what): what}
    if isinstance(what, str):
        return _by_name(dag, what)
    if isinstance(what, list | tuple):
        each = [found(dag, w) for w in cast(Iterable[Any], what)]
        return unique((n, v) for names in each for n, v in names.items())
    if isinstance(what, Mapping):
        named = {n: found(dag, w) for n, w in cast(Mapping[str, Any], what).items()}
        return unique((n, v) for n, values in named.items() for v in values.values())
    if not callable(what) and not inspect.isclass(what):
        raise GraphError(f"a value is named by a module path, a name, a value or a predicate, not by {what!r}")
    return unique((name_of(dag, v), v) for v in chosen(dag, what) if is_one(v))


def _by_name(dag: Network, name: str) -> dict[str, Value]:
    graph = dag.graph
    if name in graph.outputs or name in graph.inputs:
        return {name: graph.outputs.get(name, graph.inputs.get(name, cast(Value, None)))}
    if name.startswith("%"):
        value = called(graph).get(name)
        if value is not None and is_one(value):
            return {name.removeprefix("%"): value}
    paths = _paths(dag)
    if name in paths:
        given = [v for part in calls(dag, name) for v in part.outputs]
        if not given:
            raise GraphError(f"{shown(dag.name)}: module {name!r} computes nothing that depends on an input")
        return unique((name, v) for v in given)
    raise GraphError(
        f"{shown(dag.name)} has no module, input or output {name!r}"
        f"{near(name, [*graph.outputs, *graph.inputs, *paths])}"
    )


class Names:
    """Names that are taken; the same one again and again takes constant time.

    >>> names = Names(["a"])
    >>> names.new("a"), names.new("b"), names.new("a"), "b" in names
    ('a_1', 'b', 'a_2', True)
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._numbers = dict.fromkeys(taken, 0)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def new(self, name: str) -> str:
        """``name``, or with the next number that isn't taken; it is taken then."""
        found = name
        while found in self._numbers:
            self._numbers[name] += 1
            found = f"{name}_{self._numbers[name]}"
        self._numbers[found] = 0
        return found


def unique(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values by their names; the second of one name is ``name_1``, and a value comes once.

    >>> import tdagger as td
    >>> x, y = td.input("x", (2,)), td.input("y", (2,))
    >>> list(unique([("a", x), ("a", y), ("b", x)]))
    ['a', 'a_1']
    """
    names = Names()
    first: dict[Value, str] = {}
    for name, value in pairs:
        if value not in first:
            first[value] = names.new(name)
    return {name: value for value, name in first.items()}


def name_of(dag: Network, value: Value) -> str:
    """A name for a value: its leaf's, the module it came from, else its op."""
    if isinstance(value.op, Leaf):
        return value.op.leaf
    origin = dag.origins.get(value)
    return origin.module if origin and origin.module else label(value.op)


def results(given: Any) -> tuple[Value, ...]:
    """The values that a function of values gave: one or several. GraphError for anything else."""
    several = tuple(cast("list[Any]", given)) if isinstance(given, list | tuple) else (given,)
    if not several or not all(isinstance(v, Value) for v in several):
        raise GraphError(f"what stands for a value must be a value or a tuple of them, got {given!r}")
    return several


def tensors_of(value: Value, args: Iterable[Any]) -> list[Any]:
    """The arguments of a value's op at the places of its function's parameters, None where there is none."""
    given = list(args)
    op = value.op
    return op.spread(tuple(given)) if isinstance(op, Composite) else given
