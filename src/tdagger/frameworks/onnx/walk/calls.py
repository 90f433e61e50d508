"""How a node calls its rule: which inputs are values and which numbers, worked out once for all nodes alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.file.tensors import HELD, attribute
from tdagger.frameworks.onnx.ops.table import OpRule, Parameter
from tdagger.graph import topological
from tdagger.names import shown
from tdagger.op import Op, Value
from tdagger.ops.source import Const, Input, Leaf


class Template(NamedTuple):
    """What a rule makes of values of some types: ops on the numbers of the arguments, ``constants`` and each other."""

    constants: tuple[Value, ...]
    #: Each an op, its arguments (the place of the only one, or what takes them out of all values), and the type.
    steps: tuple[tuple[Op, int | Callable[[Sequence[Value]], tuple[Value, ...]], Any], ...]
    results: tuple[int, ...]
    #: The op and its type, where all that is made is one op on the arguments as they come.
    alone: tuple[Op, Any] | None

    def of(self, args: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """The results on some arguments, and all values that were made."""
        values = [*args, *self.constants]
        for op, places, type_ in self.steps:
            values.append(op.made(places(values) if callable(places) else (values[places],), type_))
        return [values[i] for i in self.results], values[len(args) + len(self.constants) :]


#: Ops that no function which makes values looks at in its arguments: what these give is known by its type.
OPAQUE = frozenset({
    "parameter", "buffer", "input", "unary", "binary", "where", "relu", "relu6", "sigmoid", "hardsigmoid", "hardswish",
    "leaky_relu", "elu", "gelu", "silu", "softplus", "softmax", "log_softmax", "matmul", "linear", "convolution",
    "convolution_transpose", "batch_norm", "layer_norm", "instance_norm", "group_norm", "max_pool", "avg_pool",
    "subtract", "divide", "square", "clamp",
})  # fmt: skip


def template_of(call: Call, args: Sequence[Value]) -> Template | None:
    """What a call makes of values of these types; None if it isn't the same on these very ones.

    Rules take values by their types, and some look at what made them. So it is worked out with inputs in the place of
    the arguments, and compared.
    """
    stands = [Input(f"argument {i}", a.type)() for i, a in enumerate(args)]
    results = call.function(*stands, **call.keywords)
    results = [results] if isinstance(results, Value) else list(results)
    if not all(isinstance(r, Value) for r in results):
        return None
    places: dict[Value, int] = {v: i for i, v in enumerate(stands)}
    made = [v for v in topological(results) if v not in places]
    constants = [v for v in made if isinstance(v.op, Const)]
    made = [v for v in made if not isinstance(v.op, Const)]
    if any(isinstance(v.op, Leaf) for v in made):
        return None
    for v in (*constants, *made):
        places[v] = len(places)
    steps = tuple([(v.op, _getter([places[a] for a in v.args]), v.type) for v in made])
    is_alone = not constants and len(made) == 1 and list(made[0].args) == stands and results == made
    alone = (made[0].op, made[0].type) if is_alone else None
    found = Template(tuple(constants), steps, tuple([places[r] for r in results]), alone)
    own = call.function(*args, **call.keywords)
    return found if found.of(args)[0] == ([own] if isinstance(own, Value) else list(own)) else None


def _getter(places: list[int]) -> Any:
    """What takes the arguments at some places, or the place of the only one."""
    if len(places) == 1:
        return places[0]
    return itemgetter(*places) if places else lambda values: ()


class Call(NamedTuple):
    """A rule as nodes of one kind call it: with which parameter each input is, None for those left out."""

    function: Callable[..., Any]
    parameters: tuple[Parameter | None, ...]
    keywords: dict[str, Any]
    #: Whether the rule asks which outputs are wanted.
    wanted: bool
    #: Whether the rule asks for the element types of inputs that are held in another one.
    types: bool
    #: Whether all inputs are values, and none is left out.
    plain: bool
    #: The element type that attributes give the results, if it is one held in another one; else 0.
    held: int
    #: What it makes, by the types of the arguments; None where it has to be called. No dict: it always has to.
    templates: dict[Any, Template | None] | None


def bind(
    rule: OpRule,
    inputs: Sequence[str],
    attributes: Sequence[Any],
    version: int,
    draw: Callable[[], Value],
    folder: Path | None,
) -> Call:
    """How nodes with such inputs and attributes call a rule; UnsupportedError if it doesn't take them."""
    given = {a.name: attribute(a, folder) for a in attributes}
    odd = [n for n in given if n not in rule.attributes]
    if odd:
        raise UnsupportedError(f"its attribute {', '.join(map(shown, odd))} isn't known to its rule")
    own = rule.inputs
    if len(inputs) > len(own) and rule.rest is None:
        more = [n for n in inputs[len(own) :] if n]
        if more:
            raise UnsupportedError(f"it has {len(inputs)} inputs, its rule takes {len(own)}")
        inputs = inputs[: len(own)]
    parameters: list[Parameter | None] = []
    for i, name in enumerate(inputs):
        p = own[i] if i < len(own) else rule.rest
        if not name and p is not None and p.name not in given and i < len(own) and not (p.optional or p.skipped):
            raise UnsupportedError(f"its input {p.name} is missing")
        parameters.append(p if name else None)
    while parameters and parameters[-1] is None:
        parameters.pop()
    keywords: dict[str, Any] = {}
    for i, p in enumerate(own):
        if p.name in given and (i >= len(parameters) or parameters[i] is None):
            assert p.number is not None
            keywords[p.name] = p.number(np.asarray(given.pop(p.name)))
        elif i >= len(parameters) and not p.optional:
            raise UnsupportedError(f"its input {p.name} is missing")
        elif p.name in given:
            raise UnsupportedError(f"it has {p.name} as an input and as an attribute")
    if keywords and any(p is None for p in parameters):  # what is left out would be given twice
        named = {p.name for p in own[: len(parameters)]} & keywords.keys()
        if named:
            parameters = parameters[: min(i for i, p in enumerate(own) if p.name in named)]
    keywords |= given
    if "version" in rule.own:
        keywords["version"] = version
    if "draw" in rule.own:
        keywords["draw"] = draw
    plain = all(p is not None and p.number is None and not p.statistic for p in parameters)
    stated = next((a.i for a in attributes if a.name in ("to", "output_dtype") and a.i in HELD), 0)
    own_ = "wanted" in rule.own, "types" in rule.own
    templates = {} if plain and not rule.own else None
    return Call(rule.function, tuple(parameters), keywords, *own_, plain, stated, templates)
