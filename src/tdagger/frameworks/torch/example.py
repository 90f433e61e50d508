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


def _described(spec: InputSpec, name: str, default: torch.dtype) -> Tensor:
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
            leaf = _described(options.shapes[name], name, leaf.dtype)
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
        kwargs[name] = _described(InputSpec(shape, spec.dtype), name, default)
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


# --- transformers ------------------------------------------------------------------------------------------

#: Tokens of a text given to a language model, and of what a decoder starts from.
TOKENS, DECODER_TOKENS = 16, 8


def for_transformers(model: Any, shapes: Mapping[str, InputSpec]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Keyword arguments for a transformers model by what its forward takes, and the sizes of vocabularies.

    They fit the ``shapes`` asked for. SourceError if nothing is known of its main input.
    """
    takes = set(parameters_of(model.forward))
    config = model.config
    inputs: dict[str, Tensor] = {}
    main = model.main_input_name
    for name in [
        main,
        *(n for n in ("input_ids", "pixel_values") if n in takes and hasattr(config, "text_config")),
    ]:
        made = _MAKERS[name](config) if name in takes and name in _MAKERS else None
        if made is not None:
            inputs[name] = made
    if not inputs:
        inputs = {k: v for k, v in _dummies(model).items() if k in takes}
    if not inputs:
        raise SourceError(f"transformers:{type(model).__name__} takes {main!r}; give its shape: --shape {main}=1,...")
    if "input_ids" in inputs and "attention_mask" in takes:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "decoder_input_ids" in takes:
        inputs["decoder_input_ids"] = torch.zeros(1, DECODER_TOKENS, dtype=torch.int64)
    text = _part(config, "text_config", "vocab_size")
    vocabulary = int(getattr(text, "vocab_size", 2))
    return _fitting(inputs, shapes), {"input_ids": vocabulary, "decoder_input_ids": vocabulary}


def _fitting(inputs: Mapping[str, Tensor], shapes: Mapping[str, InputSpec]) -> dict[str, Tensor]:
    """The inputs with the batch of those whose ``shapes`` are asked for, and their shape where it was the same.

    Embedded tokens that are asked for stand in the place of the tokens.
    """
    asked = {n: s.shape for n, s in shapes.items()}
    embedded = {n.replace("inputs_embeds", "input_ids"): s[:-1] for n, s in asked.items() if "inputs_embeds" in n}
    asked = {**embedded, **asked}
    alike = {inputs[n].shape: asked[n] for n in reversed(asked) if n in inputs}
    batch = next((shape[0] for shape in asked.values() if shape), None)
    fitting: dict[str, Tensor] = {}
    for name, tensor in inputs.items():
        if name in embedded and name not in shapes:
            continue
        shape = alike.get(tensor.shape) if name not in shapes else None
        if shape is None and batch is not None and tensor.ndim and name not in shapes:
            fitting[name] = tensor[:1].repeat(batch, *[1] * (tensor.ndim - 1))
        else:
            fitting[name] = tensor if shape is None else _described(InputSpec(shape), name, tensor.dtype)
    return fitting


def _dummies(model: Any) -> dict[str, Tensor]:
    try:
        found: Mapping[str, Any] = model.dummy_inputs
    except Exception:  # what a class offers here may need what this model lacks; then it isn't usable
        return {}
    return {k: v for k, v in found.items() if isinstance(v, Tensor)}


def _part(config: Any, part: str, attribute: str) -> Any:
    """The config itself if it has the attribute, else the part of a composed config that should."""
    return config if hasattr(config, attribute) else getattr(config, part, config)


def _tokens(config: Any) -> Tensor | None:
    text = _part(config, "text_config", "vocab_size")
    return torch.zeros(1, TOKENS, dtype=torch.int64) if hasattr(text, "vocab_size") else None


def _pixels(config: Any) -> Tensor | None:
    vision = _part(config, "vision_config", "image_size")
    size = getattr(vision, "image_size", 224)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return torch.zeros(1, getattr(vision, "num_channels", 3), *sides)


def _features(config: Any) -> Tensor | None:
    audio = _part(config, "audio_config", "num_mel_bins")
    if not hasattr(audio, "num_mel_bins") or not hasattr(audio, "max_source_positions"):
        return None
    return torch.zeros(1, audio.num_mel_bins, 2 * audio.max_source_positions)


def _samples(config: Any) -> Tensor | None:
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return torch.zeros(1, config.max_length, config.num_mel_bins)
    return torch.zeros(1, 16000)


_MAKERS: dict[str, Callable[[Any], Tensor | None]] = {
    "input_ids": _tokens,
    "pixel_values": _pixels,
    "input_features": _features,
    "input_values": _samples,
}
