"""Example inputs: made up for a network that came without any, reshaped as asked, and filled at random."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tdagger.errors import SourceError
from tdagger.frameworks.source import InputSpec, Options
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.tree import Tree, flatten

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: Integer inputs that stay as they are: which entries count is not a thing to choose at random.
_KEPT = ("mask", "position", "token_type", "cache")


def parameters_of(forward: Callable[..., Any]) -> list[str]:
    """The names of the arguments of a forward function, ``*args`` and ``**kwargs`` left out."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in inspect.signature(forward).parameters.values() if p.kind not in kinds]


def names_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], parameters: list[str]) -> list[str]:
    """A name for every tensor of (args, kwargs)."""
    _, tree = _split((args, dict(kwargs)))
    own = [parameters[i] if i < len(parameters) else f"input{i}" for i in range(len(args))]
    names = [n for name, child in zip(own, tree.children[0].children, strict=True) for n in child.names(name)]
    keyword = tree.children[1]
    return names + [n for k, c in zip(keyword.keys, keyword.children, strict=True) for n in c.names(str(k))]


def _split(arguments: Arguments) -> tuple[list[Tensor], Tree]:
    return flatten(arguments, lambda v: isinstance(v, Tensor))


def described(spec: InputSpec, name: str, default: torch.dtype) -> Tensor:
    """A tensor as ``--shape`` describes it: of ones if it is called a mask, else of zeros."""
    dtype = DTYPES[spec.dtype.name] if spec.dtype is not None else default
    return torch.full(spec.shape, int("mask" in name), dtype=dtype)


def reshaped(source: str, arguments: Arguments, parameters: list[str], options: Options) -> Arguments:
    """The arguments as ``--batch``, ``--shape`` and ``--dtype`` want them, with those only they name."""
    floats = DTYPES[options.dtype.name] if options.dtype is not None else None
    names = names_of(*arguments, parameters)
    leaves, tree = _split(arguments)
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if name in options.shapes:
            leaf = described(options.shapes[name], name, leaf.dtype)
        if options.batch is not None and leaf.ndim:
            leaf = leaf[:1].repeat(options.batch, *[1] * (leaf.ndim - 1))
        leaves[i] = leaf.to(floats) if floats is not None and leaf.is_floating_point() else leaf
    args, kwargs = tree.unflatten(leaves)
    for name in [n for n in options.shapes if n not in names]:
        if name not in parameters:
            raise SourceError(f"{source}: --shape names {name!r}, the inputs are {', '.join(parameters)}")
        spec = options.shapes[name]
        shape = spec.shape if options.batch is None else (options.batch, *spec.shape[1:])
        whole = name.endswith("ids") or "mask" in name
        default = torch.int64 if whole else floats or torch.float32
        kwargs[name] = described(InputSpec(shape, spec.dtype), name, default)
    return _positional(args, kwargs, parameters)


def _positional(args: tuple[Any, ...], kwargs: dict[str, Any], parameters: list[str]) -> Arguments:
    """Keyword arguments that come right after the positional ones are passed by position."""
    rest = parameters[len(args) :]
    if not args and kwargs and set(rest[: len(kwargs)]) == set(kwargs):
        return tuple(kwargs[n] for n in rest[: len(kwargs)]), {}
    return args, kwargs


def random(arguments: Arguments, names: list[str], vocabulary: Mapping[str, int], seed: int) -> Arguments:
    """Arguments of the same types: floats normal, integers below their vocabulary or the largest example."""
    generator = torch.Generator().manual_seed(seed)
    leaves, tree = _split(arguments)
    drawn = [_draw(leaf, n, vocabulary.get(n), generator) for leaf, n in zip(leaves, names, strict=True)]
    return tree.unflatten(drawn)


def _draw(example: Tensor, name: str, vocabulary: int | None, generator: torch.Generator) -> Tensor:
    if any(word in name for word in _KEPT) and not example.is_floating_point():
        return example
    if example.is_floating_point() or example.is_complex():
        wide = torch.complex64 if example.is_complex() else torch.float32
        return torch.randn(example.shape, generator=generator, dtype=wide).to(example.dtype)
    if example.dtype == torch.bool:
        return torch.rand(example.shape, generator=generator) < 0.5
    if vocabulary is None:
        if not example.numel() or example.min() < 0:
            return example
        vocabulary = max(int(example.max()) + 1, 2)
    return torch.randint(0, vocabulary, tuple(example.shape), generator=generator).to(example.dtype)


def in_own_types(networks: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Arguments]:
    """The arguments for each of several networks, floats in the type of its weights where not all have one type."""
    own = [_float_types(network) for network in networks]
    if len(set(own)) < 2:
        return [(args, kwargs)] * len(networks)
    found: list[Arguments] = []
    for types in own:
        leaves, tree = _split((args, kwargs))
        if len(types) == 1:
            (dtype,) = types
            leaves = [x.to(dtype) if x.is_floating_point() else x for x in leaves]
        found.append(tree.unflatten(leaves))
    return found


def _float_types(network: Any) -> frozenset[torch.dtype]:
    """The types of the parameters of a module that are floats; none for what isn't a module."""
    if not isinstance(network, torch.nn.Module):
        return frozenset()
    return frozenset(p.dtype for p in network.parameters() if p.is_floating_point())
