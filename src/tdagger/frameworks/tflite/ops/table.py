"""The one table of rules for TFLite's operators, and what the rules are written with.

A rule is a function whose positional parameters are the operator's inputs in its order, and whose keyword-only ones are
options by the names of the schema's table (``stride_w`` for ``strideW``). An input that isn't given is None. Inputs
arrive as values; those that have to be numbers say so by their annotation (:data:`Ints` and the like)::

    @rule("TRANSPOSE", raw=True)
    def transpose(x: Value, perm: Ints) -> Value: ...

    @rule("SOFTMAX")
    def softmax(x: Value, *, beta: float = 1.0) -> Value: ...

**Quantized tensors.** A rule computes with real numbers: what is quantized is dequantized before it, and its results
are quantized as the file says. With ``raw`` it takes the integers as they are, and gives them: operators that move
entries.

A fused activation is no rule's, unless it has it as an option: the walk applies it. Two keyword-only parameters are no
options: ``node`` (the :class:`Call`) and ``draw`` (makes the seed of a random stream). An option that a rule doesn't
have is refused by name where it isn't at its default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.tflite.schema import Node, Tensor
from tdagger.op import Array, Value
from tdagger.types import DType

#: Annotations of inputs that have to be numbers: of any count, one integer, one number, an array.
Ints: TypeAlias = tuple[int, ...]
Int: TypeAlias = int
Float: TypeAlias = float
Numbers: TypeAlias = Array
#: What makes the seed of a random stream.
Draw: TypeAlias = Callable[[], Value]

#: What is made of the array of an input with each annotation.
_CONVERSIONS: dict[str, Callable[[Array], Any]] = {
    "Ints": lambda a: tuple([int(n) for n in a.reshape(-1)]),
    "Int": lambda a: int(a.reshape(-1)[0]),
    "Float": lambda a: float(np.asarray(a, np.float64).reshape(-1)[0]),
    "Numbers": lambda a: a,
}
_OWN = ("node", "draw")
#: Options that change no result: how a kernel computes, and what types and shapes say as well.
WITHOUT_MEANING = frozenset({
    "asymmetric_quantize_inputs", "pot_scale_int16", "precision_config", "quantized_bias_type",
})  # fmt: skip


class Call(NamedTuple):
    """The node that a rule is called for, as the file has it."""

    node: Node
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    #: The element types of the results.
    dtypes: Sequence[DType]
    #: Tensors without data that say what a kernel rounds to on the way.
    between: Sequence[Tensor] = ()


class Stateful(NamedTuple):
    """The results of an operator with variable tensors, and what these become, by the places of the inputs."""

    results: tuple[Value | None, ...]
    states: dict[int, Value]


class Parameter(NamedTuple):
    """An input of a rule: its name, and how numbers are made of it (None: it is a value)."""

    name: str
    number: Callable[[Array], Any] | None
    optional: bool
    #: Whether it may be left out though others come after it that may not.
    skipped: bool


class OpRule(NamedTuple):
    """A rule with what its signature says."""

    function: Callable[..., Any]
    inputs: tuple[Parameter, ...]
    #: Whether more inputs go to ``*args``.
    rest: bool
    #: The options it takes, with their defaults.
    options: dict[str, Any]
    own: tuple[str, ...]
    raw: bool


#: The rules by the operator's name; custom ones are called ``custom:Name``.
RULES: dict[str, OpRule] = {}

_STRINGS = "it works on strings or on tables of them, and tensors here hold numbers"
_OLD = "it has no kernel in today's runtimes, so there is nothing that says what it means"
_STABLEHLO = "it is an operator of StableHLO, of which few are imported"
_HIGHER = "it takes subgraphs, as IF does, which is imported"
#: Builtin operators that have no rule, and why.
REASONS: dict[str, str] = {
    **dict.fromkeys((
        "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_LOOKUP", "HASHTABLE_SIZE", "LSH_PROJECTION",
        "SKIP_GRAM",
    ), _STRINGS),
    **dict.fromkeys(("CALL", "CONCAT_EMBEDDINGS", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"), _OLD),
    "EMBEDDING_LOOKUP_SPARSE": "its sparse tensors of ids have as many entries as the data says",
    "STABLEHLO_CASE": _HIGHER,
    "STABLEHLO_CUSTOM_CALL": "what it calls isn't in the file",
    "STABLEHLO_RNG_BIT_GENERATOR": "its random bits are of an algorithm that isn't imported",
    **dict.fromkeys((
        "STABLEHLO_CONVOLUTION", "STABLEHLO_DYNAMIC_SLICE", "STABLEHLO_DYNAMIC_UPDATE_SLICE", "STABLEHLO_GATHER",
        "STABLEHLO_REDUCE", "STABLEHLO_REDUCE_WINDOW", "STABLEHLO_SCATTER", "STABLEHLO_SORT", "STABLEHLO_WHILE",
    ), _STABLEHLO),
}  # fmt: skip

#: What the walk itself does, without a rule: control flow and state.
WALKED = frozenset(
    {"ASSIGN_VARIABLE", "CALL_ONCE", "IF", "READ_VARIABLE", "STABLEHLO_COMPOSITE", "VAR_HANDLE", "WHILE"}
)


def why_not(op: str) -> str:
    """Why an operator has no rule."""
    if op.startswith("custom:"):
        return "it is a custom operator, of which only its own program knows what it computes"
    return REASONS.get(op, "there is no rule for it")


def rule(*names: str, raw: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the rule of operators."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        made = _read(function, raw)
        for name in names:
            assert name not in RULES, f"{name} has two rules"
            RULES[name] = made
        return function

    return register


def _read(function: Callable[..., Any], raw: bool) -> OpRule:
    inputs: list[Parameter] = []
    rest, options, own = False, dict[str, Any](), list[str]()
    for p in inspect.signature(function).parameters.values():
        kind = str(p.annotation).partition(" |")[0]
        if p.kind is p.KEYWORD_ONLY:
            if p.name in _OWN:
                own.append(p.name)
            else:
                options[p.name] = p.default
        elif p.kind is p.VAR_POSITIONAL:
            rest = True
        else:
            skipped = "| None" in str(p.annotation)
            inputs.append(Parameter(p.name, _CONVERSIONS.get(kind), p.default is not p.empty, skipped))
    return OpRule(function, tuple(inputs), rest, options, tuple(own), raw)


def unsupported(why: str) -> UnsupportedError:
    """An error for what an operator can't be imported with."""
    return UnsupportedError(why)


def unary(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """A rule of one value."""

    def apply(x: Value) -> Value:
        return function(x)

    return apply


def binary(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    """A rule of two values."""

    def apply(x: Value, y: Value) -> Value:
        return function(x, y)

    return apply
