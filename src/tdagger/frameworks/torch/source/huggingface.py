"""Networks of transformers: from a configuration alone, with inputs for a whole text or for one more step of it.

A network on the meta device has shapes but no data, so a configuration of any size can be looked at. ``past`` tokens
seen before come in as the cache that the network itself makes of them: keys and values of every layer are inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tdagger.errors import AttributeValueError, SourceError, TDaggerError
from tdagger.frameworks.source import InputSpec, Options, require
from tdagger.frameworks.torch import importer
from tdagger.frameworks.torch.capture.locking import one_at_a_time
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.frameworks.torch.source.example import described, parameters_of, reshaped
from tdagger.tensordag import TensorDAG
from tdagger.tree import flatten
from tdagger.types import DType

#: Tokens of a text given to a language model, and of what a decoder starts from.
TOKENS, DECODER_TOKENS = 16, 8

#: Inputs that have one entry for each token of a text.
_TEXT = ("input_ids", "attention_mask", "decoder_input_ids")

#: What a forward function calls what it keeps of the tokens before.
_KEPT = ("past_key_values", "cache_params")


@one_at_a_time
def from_transformers(
    network: Any,
    *,
    batch: int = 1,
    seq: int | None = None,
    past: int = 0,
    dtype: str = "bf16",
    mask: bool = False,
    start: int | None = None,
    source: int | None = None,
    **settings: Any,
) -> TensorDAG:
    """A TDAG of a transformers configuration, or of a model; see :func:`tdagger.from_transformers`."""
    model = network if isinstance(network, torch.nn.Module) else on_meta(network, dtype, **settings)
    if model is network and settings:
        raise AttributeValueError(f"{', '.join(settings)}: settings build a model, this one is there already")
    model = model.eval()
    inputs, _ = inputs_for(model, {}, seq, past, source)
    if start is not None and "decoder_input_ids" in inputs and not past:
        inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:, :1].repeat(1, start)
    elif start is not None:
        raise SourceError(f"{type(model).__name__} has no decoder that begins with {start} tokens")
    if mask and past:
        inputs |= _masks(model, inputs, past + (seq or 1))
    parameters = parameters_of(model.forward)
    args, kwargs = reshaped(type(model).__name__, ((), inputs), parameters, Options(batch=batch))
    return importer.from_torch(model, args, kwargs)


def _masks(model: Any, inputs: Mapping[str, Any], count: int) -> dict[str, Tensor]:
    """What says which of ``count`` tokens count; of a network with an encoder of a text, which of that's too."""
    ones = torch.ones(1, count, dtype=torch.int64)
    if "decoder_input_ids" not in inputs:
        return {"attention_mask": ones}
    masks = {"decoder_attention_mask": ones}
    if model.main_input_name == "input_ids":
        source = inputs["encoder_outputs"].last_hidden_state
        masks["attention_mask"] = torch.ones(source.shape[:2], dtype=torch.int64)
    return masks


def on_meta(config: Any, dtype: str = "bf16", **settings: Any) -> torch.nn.Module:
    """The model of a configuration without weights: the language model if there is one, else the bare model.

    ``settings`` are for ``from_config``: ``attn_implementation``, ``experts_implementation``. SourceError if
    transformers has no model for the configuration or can't build it.
    """
    transformers = require("transformers")
    decoders, both = ("CausalLM", "ImageTextToText"), ("Seq2SeqLM", "SpeechSeq2Seq")
    for name in (*both, *decoders, "") if config.is_encoder_decoder else (*decoders, *both, ""):
        auto = getattr(transformers, f"AutoModelFor{name}" if name else "AutoModel")
        if type(config) in auto._model_mapping:
            with explained(type(config).__name__), torch.device("meta"):
                return auto.from_config(config, dtype=DTYPES[DType.of(dtype).name], **settings)
    raise SourceError(f"transformers has no model for a {type(config).__module__}.{type(config).__name__}")


@contextlib.contextmanager
def explained(name: str) -> Any:
    """What goes wrong in a library's or user's own code is told as the SOURCE's fault, in one line."""
    try:
        yield
    except TDaggerError:
        raise
    except Exception as e:
        first = (str(e).strip().splitlines() or [""])[0]
        raise SourceError(f"{name} can't be built: {type(e).__name__}: {first}") from e


def inputs_for(
    model: Any,
    shapes: Mapping[str, InputSpec],
    seq: int | None = None,
    past: int = 0,
    source: int | None = None,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Keyword arguments for a transformers model by what its forward takes, and the sizes of vocabularies.

    They fit the ``shapes`` asked for. ``seq`` is the number of tokens of every text; after ``past`` tokens it is that
    of the new ones, 1 unless told, and the others come as the model's cache of them; ``source`` is that of a text that
    an encoder reads. SourceError if nothing is known of its main input, there is no text, or no cache.
    """
    text = _part(model.config, "text_config", "vocab_size")
    vocabulary = int(getattr(text, "vocab_size", 2))
    weight = next(model.parameters())
    inputs = {
        n: t.to(weight.device, weight.dtype if t.is_floating_point() else t.dtype)
        for n, t in _fitting(_whole(model), shapes).items()
    }
    if source is not None:
        inputs = _with_tokens(model, inputs, ("input_ids", "attention_mask"), source)
    if past:
        inputs = _after(model, inputs, past, seq or 1)
    elif seq is not None:
        inputs = _with_tokens(model, inputs, _TEXT, seq)
    return inputs, {"input_ids": vocabulary, "decoder_input_ids": vocabulary}


def _whole(model: Any) -> dict[str, Tensor]:
    """Inputs for the whole of a text, an image, a sound."""
    takes = set(parameters_of(model.forward))
    config = model.config
    inputs: dict[str, Tensor] = {}
    main = model.main_input_name
    more = [n for n in ("input_ids", "pixel_values") if n in takes and hasattr(config, "text_config")]
    for name in [main, *more]:
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
    return inputs


def _with_tokens(model: Any, inputs: dict[str, Tensor], names: Sequence[str], count: int) -> dict[str, Tensor]:
    """The inputs, some of them with so many tokens."""
    if not any(n in inputs for n in names):
        raise SourceError(f"{type(model).__name__} takes no tokens, so none can be counted: {', '.join(inputs)}")
    return {n: t[:, :1].repeat(1, count) if n in names and t.ndim == 2 else t for n, t in inputs.items()}


def _after(model: Any, inputs: dict[str, Tensor], past: int, new: int) -> dict[str, Any]:
    """Inputs for ``new`` tokens after ``past`` others: the cache is what the model keeps of these, run on them.

    Without a mask: every sequence has all its tokens. Positions are an input where the model takes them, so that the
    graph holds none.
    """
    takes = set(parameters_of(model.forward))
    kept = next((n for n in _KEPT if n in takes), None)
    decodes = "decoder_input_ids" in inputs
    tokens = "decoder_input_ids" if decodes else "input_ids"
    if kept is None or tokens not in inputs:
        raise SourceError(f"{type(model).__name__} keeps nothing of past tokens: it takes {', '.join(sorted(takes))}")
    before = {n: t for n, t in inputs.items() if n != "attention_mask" and (decodes or n == tokens)}
    before = _with_tokens(model, before, [tokens], past)
    with torch.no_grad(), explained(f"the cache of {type(model).__name__}"), FakeTensorMode(allow_non_fake_inputs=True):
        result = model(**before, use_cache=True)
    cache = getattr(result, kept, None)
    if cache is None:
        raise SourceError(f"{type(model).__name__} gives no {kept}: is its config's use_cache or is_decoder off?")
    step: dict[str, Any] = {tokens: inputs[tokens][:, :1].repeat(1, new), kept: _zeros(cache)}
    if decodes:
        outputs = require("transformers").modeling_outputs.BaseModelOutput
        step["encoder_outputs"] = outputs(last_hidden_state=_zeros(result.encoder_last_hidden_state))
    positions = "decoder_position_ids" if decodes else "position_ids"
    if positions in takes and not hasattr(model.config, "text_config"):
        batch, device = len(inputs[tokens]), inputs[tokens].device
        step[positions] = torch.arange(past, past + new, device=device).repeat(batch, 1)
    return step


def _zeros(structure: Any) -> Any:
    """The same with zeros in the place of tensors that are shapes only."""
    leaves, tree = flatten(structure, lambda v: isinstance(v, Tensor))
    return tree.unflatten([torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in leaves])


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
            fitting[name] = tensor if shape is None else described(InputSpec(shape), name, tensor.dtype)
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
