"""Rules: what is looked for, on which conditions, and what stands for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

from tdagger.errors import AttributeValueError, TDaggerError, TypeMismatchError
from tdagger.graph import label
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import as_value
from tdagger.ops.structure import broadcast_to
from tdagger.transform.rewrite.arguments import ABSENT, Bindings, Miss, Test, holding
from tdagger.transform.rewrite.heads import ELEMENTWISE, any_argument, argument_labels, labels
from tdagger.transform.rewrite.matcher import Compiler, check
from tdagger.transform.rewrite.pattern import Pattern, Var, depths
from tdagger.transform.rewrite.values import around


class Context:
    """What a condition may ask of the graph around a match: it is the argument called ``graph``.

    ``weights`` maps names to arrays where the caller allows it, else TDaggerError.
    """

    def users(self, value: Value) -> list[Value]:
        """The values that used ``value``, or what became it, before this rewrite."""
        raise NotImplementedError

    def axes(self, value: Value) -> Any:
        """The dimensions of ``value`` as terms over axes, as they were before this rewrite; None of a new value."""
        raise NotImplementedError

    @property
    def weights(self) -> Mapping[str, Array]:
        """The data of parameters and buffers by name."""
        raise NotImplementedError


class Refused(NamedTuple):
    """Why a rule doesn't apply where its pattern matches."""

    why: str


def no(why: str) -> Any:
    """What ``.when`` and ``.to`` return where a rule shouldn't apply, with the reason."""
    return Refused(why)


class _Call:
    """A condition or replacement, called with the wildcards and what else it names."""

    def __init__(self, function: Callable[..., Any], slots: Mapping[str, int], rule: str) -> None:
        self.function = function
        names = list(inspect.signature(function).parameters)
        unknown = [n for n in names if n not in slots and n not in ("graph", "root")]
        if unknown:
            raise AttributeValueError(
                f"rule {rule}: {unknown[0]!r} is no wildcard of its pattern; there are {', '.join(slots)}, and graph "
                "and root"
            )
        self.asks_graph = "graph" in names
        self.places: list[Any] = [slots.get(n, n) for n in names]

    def __call__(self, bound: Bindings, root: Value, graph: Context | None) -> Any:
        args = [bound[p] if p.__class__ is int else (graph if p == "graph" else root) for p in self.places]
        return self.function(*args)


class Rule:
    """A pattern and what stands for it; made by :func:`rule`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name: str = function.__name__
        self.__doc__ = function.__doc__
        self.__name__, self.__module__, self.__wrapped__ = self.name, function.__module__, function
        parameters = inspect.signature(function).parameters.values()
        self.variables = {p.name: Var(p.name, p.default is None) for p in parameters}
        made = function(**cast(Any, self.variables))
        self.patterns: tuple[Any, ...] = made if isinstance(made, tuple) else (made,)
        for pattern in self.patterns:
            found = labels(pattern) if isinstance(pattern, Pattern) else None
            if found is None:
                raise AttributeValueError(f"rule {self.name}: a pattern starts at an op, not at {pattern!r}")
        held = check(self.patterns)
        strange = [n for n, v in self.variables.items() if n not in held and not v.optional]
        if strange:
            raise AttributeValueError(f"rule {self.name}: the wildcard {strange[0]!r} is nowhere in its pattern")
        self.slots = {name: i for i, name in enumerate(self.variables)}
        self.optional = [self.slots[n] for n, v in self.variables.items() if v.optional]
        self.labels = cast(frozenset[str], labels(self.patterns[0]))
        self.arguments = argument_labels(self.patterns[0])
        self.conditions: list[_Call] = []
        self.replacement: _Call | None = None

    # Compiled when it is first asked for: most programs use few of the rules that there are.

    @cached_property
    def _compiled(self) -> tuple[Test, Compiler]:
        return self._compile(lambda *_: False)

    @cached_property
    def test(self) -> Test:
        """The test of the first root."""
        return self._compiled[0]

    @cached_property
    def size(self) -> int:
        """How many slots the bindings have."""
        return self._compiled[1].size

    @cached_property
    def nodes(self) -> list[int]:
        """The slots of ops."""
        return self._compiled[1].nodes

    @cached_property
    def only(self) -> list[int]:
        """The slots of values that should have no users but the match."""
        return self._compiled[1].only

    def _compile(self, miss: Miss) -> tuple[Test, Compiler]:
        """The test of the first root, which goes on with the others. They are looked for around a shared wildcard."""
        compiler = Compiler(self.variables, miss)
        self.roots = [compiler.slot() for _ in self.patterns]
        self.users = compiler.slot()
        then: Callable[[Bindings], bool] = _done
        for i in range(len(self.patterns) - 1, 0, -1):
            test = compiler.test(self.patterns[i], then)
            then = self._further(i, test, compiler.slots)
        return compiler.test(self.patterns[0], then), compiler

    def _further(self, i: int, test: Test, slots: Mapping[str, int]) -> Callable[[Bindings], bool]:
        """Tries what is around as root number i."""
        earlier = {n for p in self.patterns[:i] for n, _ in depths(p)}
        shared = [(depth, n) for n, depth in depths(self.patterns[i]) if n in earlier]
        wanted = labels(self.patterns[i])
        if not shared or wanted is None:
            raise AttributeValueError(f"rule {self.name}: output {i} has no wildcard in common with those before it")
        depth, name = min(shared)
        root, users, place = self.roots[i], self.users, slots[name]
        held = holding(root, lambda bound: test(bound[root], bound))

        def further(bound: Bindings) -> bool:
            if bound[users] is None:
                raise TDaggerError(f"rule {self.name} has several outputs: it is matched in a graph, by rewrite")
            known, taken, first = bound[users]
            before = [first, *(bound[r] for r in self.roots[1:i])]
            for value in around(bound[place], known, depth + 2, wanted):
                if value not in taken and value not in before and held(value, bound):
                    return True
            return False

        return further

    # What the author adds.

    def when(self, condition: Callable[..., Any]) -> Callable[..., Any]:
        """Register a condition: a function of wildcards by name, ``root`` and ``graph``.

        The rule doesn't apply where it returns something falsy, or ``no(why)``.
        """
        self.conditions.append(_Call(condition, self.slots, self.name))
        return condition

    def to(self, replacement: Callable[..., Any]) -> Callable[..., Any]:
        """Register what stands for a match: a function as of ``when``.

        It returns a value of the root's type (a tuple for several outputs), a number for all its entries, or
        ``no(why)``.
        """
        self.replacement = _Call(replacement, self.slots, self.name)
        return replacement

    # What the driver asks.

    def may_match(self, op: Op) -> bool:
        """Whether the pattern can match at values of an op."""
        return label(op) in self.labels or ELEMENTWISE in self.labels

    def may_take(self, found: tuple[str, ...]) -> bool:
        """Whether the pattern can match where the arguments' ops have these labels."""
        return any_argument(self.arguments, found)

    def roots_of(self, value: Value, bound: Bindings) -> tuple[Value, ...]:
        """All roots of a match that starts at ``value``."""
        return (value, *(bound[r] for r in self.roots[1:]))

    def apply_all(self, roots: tuple[Value, ...], bound: Bindings, graph: Context) -> tuple[Value, ...] | Refused:
        """What stands for the roots; TypeMismatchError if one has another type."""
        made = None if self.replacement is None else self.replacement(bound, roots[0], graph)
        if made is None or isinstance(made, Refused):
            return made or Refused("the replacement gave nothing")
        if not isinstance(made, tuple) or [getattr(m, "type", None) for m in cast(Any, made)] != [
            r.type for r in roots
        ]:
            raise TypeMismatchError(f"what stands for {roots!r} must have their types, it is {made!r}")
        return cast(tuple[Value, ...], made)

    def match(
        self, value: Value, graph: Context | None = None, used: Any = None, around: Any = None
    ) -> Bindings | Refused | None:
        """What the wildcards stand for where the rule applies at ``value``, in the order of ``slots``.

        ``used(rule, value, bound)`` is asked where values should have no other users. A rule of several outputs needs
        ``around``: the users of every value, and values that can't be further roots.
        """
        bound: Bindings = [None] * self.size
        if around is not None:
            bound[self.users] = (*around, value)
        if not self.test(value, bound):
            return None
        for i in self.optional:
            if bound[i] is ABSENT:
                bound[i] = None
        if self.only and used is not None and not used(self, value, bound):
            return Refused("a value that should be used by the match alone has other users")
        for condition in self.conditions:
            holds = condition(bound, value, graph)
            if not holds or isinstance(holds, Refused):
                return holds if isinstance(holds, Refused) else Refused(f"{condition.function.__name__} doesn't hold")
        return bound

    def apply(self, value: Value, bound: Bindings, graph: Context | None = None) -> Value | Refused:
        """What stands for ``value``; TypeMismatchError if it has another type."""
        if self.replacement is None:
            raise TDaggerError(f"rule {self.name} has no replacement: give it one with @{self.name}.to")
        made = self.replacement(bound, value, graph)
        if made.__class__ is Value:
            if made.type is value.type:
                return made
        elif made is None or isinstance(made, Refused):
            return made or Refused("the replacement gave nothing")
        elif isinstance(made, bool | int | float | complex):
            return broadcast_to(as_value(made, value), value.shape)
        shown = getattr(made, "type", made)
        raise TypeMismatchError(f"what stands for {value!r} must be {value.type}, it is {shown}")

    def matches(self, value: Value) -> dict[str, Any] | None:
        """What each wildcard stands for where the pattern and the conditions match at a value, else None."""
        found = self.match(value)
        return {n: found[i] for n, i in self.slots.items()} if isinstance(found, list) else None

    def why_not(self, value: Value) -> str | None:
        """Why the rule doesn't apply at a value, and at which value inside the match fails; None if it applies.

        >>> import tdagger as td
        >>> @rule
        ... def double(x): return td.neg(td.neg(x))
        >>> double.why_not(td.neg(td.exp(td.input("x", (2,)))))
        "double: <exp(f32[2]) -> f32[2]> isn't neg"
        """
        found = self.match(value)
        if isinstance(found, Refused):
            return f"{self.name}: {found.why}"
        if found is not None:
            return None
        furthest: list[Any] = [-1, "", None]

        def miss(bound: Bindings, at: Value, why: str, *of: Any) -> bool:
            known = sum(b is not None for b in bound)
            if known > furthest[0]:
                furthest[:] = [known, why.format(*of), at]
            return False

        test, compiler = self._compile(miss)
        test(value, [None] * compiler.size)
        return f"{self.name}: {furthest[2]!r} {furthest[1]}"

    def __repr__(self) -> str:
        return f"<rule {self.name}: {', '.join(map(repr, self.patterns))}>"


def _done(bound: Bindings) -> bool:
    del bound
    return True


def rule(function: Callable[..., Any]) -> Rule:
    """Make a rule of a function over ops: its parameters are wildcards, what it returns is the pattern.

    What stands for a match is registered with ``.to``, conditions with ``.when``; both name the wildcards they need.
    A parameter with default None may stand for a tensor that wasn't given.

    >>> import tdagger as td
    >>> @rule
    ... def relu_to_gelu(x): return td.relu(x)
    >>> @relu_to_gelu.to
    ... def _(x): return td.gelu(x)
    >>> relu_to_gelu
    <rule relu_to_gelu: relu(x)>
    """
    return Rule(function)


def rule_of(name: str, pattern: Callable[..., Any], to: Callable[..., Any], *conditions: Callable[..., Any]) -> Rule:
    """A rule by its name, of a pattern, what stands for it and conditions: for tables of rules."""
    made = rule(pattern)
    made.name = name
    made.to(to)
    for condition in conditions:
        made.when(condition)
    return made
