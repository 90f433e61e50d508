"""What is asked of a model, and what a file says of its functions and names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.errors import InputError
from tdagger.frameworks.coreml.inputs import declared
from tdagger.frameworks.coreml.read import Model
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import const
from tdagger.types import TensorType

#: The key of the metadata with the names that CoreML doesn't take.
NAMES = "tdagger.names"


class Asked(NamedTuple):
    """What :func:`from_coreml` is asked for besides the model; ``quiet``: what there is to say was said before."""

    inputs: Mapping[str, Sequence[int]] | None = None
    function: str | None = None
    external: bool = False
    name: str = ""
    quiet: bool = False
    values: Mapping[str, Any] | None = None


def known_inputs(asked: Asked, types: Mapping[str, TensorType]) -> dict[str, Value]:
    """The inputs that are constants, ``asked.values``; InputError for those there aren't, or of another shape."""
    found: dict[str, Value] = {}
    for name, given in (asked.values or {}).items():
        type_ = types.get(name)
        if type_ is None:
            raise InputError(f"values: there is no input {shown(name)}; there are {', '.join(map(shown, types))}")
        array = np.asarray(given)
        if array.shape != type_.shape:
            raise InputError(f"values: input {shown(name)} is {type_}, not of shape {list(array.shape)}")
        found[name] = const(array.astype(type_.dtype.numpy), type_.dtype)
    return found


def function_of(model: Model, asked: str | None) -> tuple[str, Any]:
    """The function of a program that is meant."""
    functions = model.spec.mlProgram.functions
    name = asked or model.spec.description.defaultFunctionName or "main"
    if asked is None and name not in functions and len(functions) == 1:
        name = next(iter(functions))
    if name not in functions:
        there = ", ".join(map(shown, sorted(functions))) or "none"
        raise InputError(f"{model.name} has no function {shown(name)}: give function=, one of {there}")
    return name, functions[name]


def names_of(model: Model) -> dict[str, str]:
    """What inputs, outputs and weights were called in the network that :func:`to_coreml` wrote, where that is noted.

    A note of names that aren't each once is none.
    """
    told = model.spec.description.metadata.userDefined
    if NAMES not in told:
        return {}
    try:
        found: Any = json.loads(told[NAMES])
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    names = {str(k): v for k, v in cast(dict[Any, Any], found).items() if isinstance(v, str) and v}
    return names if len(set(names.values())) == len(names) and not names.keys() & set(names.values()) else {}


def inputs_of(model: Model, function: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shapes that inputs have unless others are asked for, by their names."""
    if model.spec.WhichOneof("Type") != "mlProgram":
        return {}
    name, found = function_of(model, function)
    features = features_of(model, name)
    own = [declared(i.name, i.type, features.get(i.name)) for i in found.inputs
           if i.type.WhichOneof("type") == "tensorType"]  # fmt: skip
    return {i.name: i.type(None).shape for i in own}


def features_of(model: Model, function: str) -> dict[str, Any]:
    """The descriptions of a function's inputs by their names."""
    description = model.spec.description
    own = [f for f in description.functions if f.name == function]
    return {f.name: f for f in (own[0].input if own else description.input)}
