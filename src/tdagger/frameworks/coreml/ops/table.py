"""The one table of rules for MIL's ops, and what the rules are written with.

A rule is a function whose parameters are the op's inputs, by the names of its specification. What an input has to be is
said by its annotation: a value, values, or numbers that have to be known::

    @rule("softmax")
    def _softmax(x: Value, axis: Int = -1) -> Value: ...

    @rule("concat")
    def _concat(values: Values, axis: Int, interleave: Bool = False) -> Value: ...

A rule returns a value, or a tuple of as many as the op has outputs. Three parameters are keyword-only and no inputs:
``opset`` (15 to 18, of the function), ``dtypes`` (what the file declares of each result) and ``draw`` (makes the seed
of a random stream). An input that a rule doesn't have is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.op import Array, Value

#: Annotations of inputs that have to be known.
Ints: TypeAlias = tuple[int, ...]
Int: TypeAlias = int
Float: TypeAlias = float
Bool: TypeAlias = bool
Bools: TypeAlias = tuple[bool, ...]
Numbers: TypeAlias = Array
Str: TypeAlias = str
#: Several values, and a value that is a statistic rather than learned: a weight there is a buffer.
Values: TypeAlias = tuple[Value, ...]
Statistic: TypeAlias = Any

#: What is made of the array of an input with each annotation.
NUMBERS: dict[str, Callable[[Array], Any]] = {
    "Ints": lambda a: tuple([int(n) for n in a.reshape(-1)]),
    "Int": lambda a: int(a.reshape(-1)[0]),
    "Float": lambda a: float(np.asarray(a, np.float64).reshape(-1)[0]),
    "Bool": lambda a: bool(a.reshape(-1)[0]),
    "Bools": lambda a: tuple([bool(n) for n in a.reshape(-1)]),
    "Numbers": lambda a: a,
}
_OWN = ("opset", "dtypes", "draw")


class OpRule(NamedTuple):
    """A rule with what its signature says: the annotation of each input, which have to be there, which are its own."""

    function: Callable[..., Any]
    inputs: dict[str, str]
    needed: frozenset[str]
    own: tuple[str, ...]


RULES: dict[str, OpRule] = {}

#: Ops of MIL that have no rule, and why.
REASONS: dict[str, str] = {
    "non_maximum_suppression": "it keeps or drops boxes one after the other by data, in a loop",
    "conv_quantized": "it is an experiment of coremltools, which no file has: quantized weights are constexpr ops",
}


def why_not(name: str) -> str:
    """Why an op has no rule."""
    return REASONS.get(name, "there is no rule for it")


def rule(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the rule of ops."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        made = _read(function)
        for name in names:
            assert name not in RULES, f"{name} has two rules"
            RULES[name] = made
        return function

    return register


def _read(function: Callable[..., Any]) -> OpRule:
    inputs: dict[str, str] = {}
    needed: set[str] = set()
    own: list[str] = []
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            assert p.name in _OWN, f"{function.__name__}: {p.name}"
            own.append(p.name)
            continue
        inputs[p.name] = str(p.annotation).partition(" |")[0]
        if p.default is p.empty:
            needed.add(p.name)
    return OpRule(function, inputs, frozenset(needed), tuple(own))


def unsupported(why: str) -> UnsupportedError:
    """An error for what an op can't be imported with."""
    return UnsupportedError(why)
