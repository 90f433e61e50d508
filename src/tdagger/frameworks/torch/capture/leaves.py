"""What a network begins and ends with: the names of its inputs, of its results, and its weights as leaves."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tdagger.frameworks.torch.aten.calls import type_of
from tdagger.frameworks.torch.capture.state import Flat
from tdagger.op import Value
from tdagger.ops.source import Buffer, Parameter
from tdagger.tensordag import Weight
from tdagger.tree import Tree


def state_of(
    module: nn.Module, kept: Collection[str] | None = None
) -> tuple[dict[str, Weight], dict[str, torch.Tensor]]:
    """Every tensor of a module's weights, and the tensors by name; tied ones point to the first name.

    ``kept``: the names in its ``state_dict()``, where these are known.
    """
    weights: dict[str, Weight] = {}
    tensors: dict[str, torch.Tensor] = {}
    first: dict[int, str] = {}
    kept = saved_names(module) if kept is None else kept
    for is_parameter, named in (
        (True, module.named_parameters(remove_duplicate=False)),
        (False, module.named_buffers(remove_duplicate=False)),
    ):
        for name, tensor in named:
            alias = first.setdefault(id(tensor), name)
            weights[name] = Weight(
                type_of(tensor),
                is_parameter,
                tensor.requires_grad,
                name in kept,
                "" if alias == name else alias,
            )
            tensors[name] = tensor
    ordered = [*(n for n in kept if n in weights), *(n for n in weights if n not in kept)]
    return {n: weights[n] for n in ordered}, tensors


def saved_names(module: nn.Module) -> dict[str, None]:
    """The names in a module's ``state_dict()``, in its order."""
    return dict.fromkeys(module.state_dict(keep_vars=True))


def weight_value(name: str, weight: Weight) -> Value:
    """The leaf of a weight; tied weights have one leaf."""
    kind = Parameter if weight.is_parameter else Buffer
    return kind(weight.alias_of or name, weight.type)()


def without_compile(model: Any) -> Any:
    """The module inside ``torch.compile(module)``, which is a way to run it and no part of its state's names."""
    while isinstance(model, nn.Module) and type(model).__name__ == "OptimizedModule":
        model = model._modules["_orig_mod"]
    return model


def input_names(forward: Any, tree: Tree) -> list[str]:
    """Names for the tensors of (args, kwargs): the parameter names of ``forward``, and keys inside them."""
    positional, keyword = tree.children
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for i, child in enumerate(positional.children):
        own = f"input{i}"
        if i < len(parameters) and parameters[i].kind is not inspect.Parameter.VAR_POSITIONAL:
            own = parameters[i].name
        names += child.names(own)
    for key, child in zip(keyword.keys, keyword.children, strict=True):
        names += child.names(str(key))
    return names


def output_names(tree: Tree) -> list[str]:
    """Names for the tensors of a result: their keys, ``out`` for a single tensor."""
    return ["out"] if tree.kind == "leaf" else tree.names("")


def with_holders(modules: Mapping[str, str], model: nn.Module, weights: Iterable[str]) -> dict[str, str]:
    """The classes of modules, with those of torch's own layers that are never called: others read their weights."""
    found = dict(modules)
    owners = {name.rpartition(".")[0] for name in weights} - {""}
    for path, module in model.named_modules(remove_duplicate=False):
        if path in owners and path not in found and _is_layer(type(module)):
            found[path] = type(module).__name__
    return found


def _is_layer(kind: type) -> bool:
    """Whether a class is a layer of torch: no container, and nothing that subclasses one."""
    return kind.__module__.startswith("torch.nn.modules.") and not kind.__module__.endswith(".container")


def state_and_held(flat: Flat) -> tuple[dict[str, Weight], dict[str, torch.Tensor]]:
    """The state of a module, and the tensors of its attributes that a capture has as weights."""
    found = flat.kept.attributes.found
    if "saved" not in found:
        found["saved"] = saved_names(flat.model)
    weights, tensors = state_of(flat.model, found["saved"])
    for name, (weight, tensor) in flat.weights().items():
        weights[name], tensors[name] = weight, tensor
    return weights, tensors
