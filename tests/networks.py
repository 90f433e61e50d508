"""The networks that tests and benchmarks convert, with random weights: the one list of them.

>>> module, args, kwargs = NETWORKS["LSTM"](small=True)
>>> type(module).__name__, [tuple(a.shape) for a in args]
('LSTM', [(2, 5, 8)])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn


class Network(NamedTuple):
    """A module in eval mode and example inputs for it: ``module(*args, **kwargs)``."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


# build(batch, small): the network with inputs of that batch size; small means sizes that the numpy reference
# takes seconds for, not minutes.
Build = Callable[[int, bool], Network]


def perturb(module: nn.Module) -> None:
    """Move norms away from the identity that they start as, so that no error in them can hide."""
    with torch.no_grad():
        for m in module.modules():
            for name, tensor in [*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)]:
                if name == "running_var":
                    tensor.uniform_(0.5, 1.5)
                elif name == "running_mean":
                    tensor.normal_(0, 0.1)
                elif tensor.dim() == 1 and tensor.is_floating_point() and isinstance(tensor, nn.Parameter):
                    tensor.add_(torch.empty_like(tensor).normal_(0, 0.05))
                elif isinstance(tensor, nn.Parameter) and not tensor.any():  # a head that starts at zero
                    tensor.normal_(0, 0.05)


class _Network:
    """A builder that seeds torch, builds, perturbs the norms and sets eval mode."""

    def __init__(self, build: Build, vision: bool = False) -> None:
        self.build = build
        self.vision = vision

    def __call__(self, small: bool = False, batch: int = 2, seed: int = 0) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.build(batch, small)
            perturb(network.module)
        network.module.eval()
        return network


# --- timm --------------------------------------------------------------------------------------------------


def _timm(name: str, size: int = 224, small: int = 64, **small_options: Any) -> _Network:
    """A timm network at ``size`` pixels, or at ``small`` pixels with ``small_options``."""

    def build(batch: int, is_small: bool) -> Network:
        import timm

        module = timm.create_model(name, pretrained=False, **(small_options if is_small else {}))
        pixels = small if is_small else size
        return Network(module, (torch.randn(batch, 3, pixels, pixels),), {})

    return _Network(build, vision=True)


# --- transformers ------------------------------------------------------------------------------------------

_VOCABULARY = 97


def _tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, _VOCABULARY, (batch, length))


def _transformer(name: str, config: str, inputs: Callable[[int, int], dict[str, Any]], **options: Any) -> _Network:
    """A transformers network of class ``name``; ``inputs(batch, sequence length)`` makes its arguments."""

    def build(batch: int, is_small: bool) -> Network:
        import transformers

        module = getattr(transformers, name)(getattr(transformers, config)(**options))
        return Network(module, (), inputs(batch, 8 if is_small else 64))

    return _Network(build)


def _text(batch: int, length: int) -> dict[str, Any]:
    return {"input_ids": _tokens(batch, length), "attention_mask": _mask(batch, length)}


def _mask(batch: int, length: int) -> torch.Tensor:
    """Everything is seen but the last two tokens of the last sequence."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, -2:] = 0
    return mask


def _t5() -> _Network:
    def build(batch: int, is_small: bool) -> Network:
        import transformers

        config = transformers.T5Config(
            vocab_size=_VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1
        )
        return Network(transformers.T5EncoderModel(config), (), _text(batch, 8 if is_small else 64))

    return _Network(build)


def _whisper() -> _Network:
    def build(batch: int, is_small: bool) -> Network:
        import transformers

        positions = 16 if is_small else 128
        config = transformers.WhisperConfig(
            vocab_size=_VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=8,
            max_source_positions=positions, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
        )  # fmt: skip
        module = transformers.WhisperModel(config).get_encoder()
        return Network(module, (), {"input_features": torch.randn(batch, 8, 2 * positions)})

    return _Network(build)


def _clip() -> _Network:
    def build(batch: int, is_small: bool) -> Network:
        import transformers

        layers = {
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
        }
        config = transformers.CLIPConfig(
            text_config={**layers, "vocab_size": _VOCABULARY, "bos_token_id": 0, "pad_token_id": 1,
                         "eos_token_id": _VOCABULARY - 1},
            vision_config={**layers, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )  # fmt: skip
        text = _text(batch, 8 if is_small else 64)
        return Network(transformers.CLIPModel(config), (), {**text, "pixel_values": torch.randn(batch, 3, 32, 32)})

    return _Network(build)


# --- torch.nn ----------------------------------------------------------------------------------------------


def _recurrent(kind: Callable[..., nn.Module]) -> _Network:
    def build(batch: int, is_small: bool) -> Network:
        width, length = (8, 5) if is_small else (64, 32)
        module = kind(width, width, num_layers=2, bidirectional=True, batch_first=True)
        return Network(module, (torch.randn(batch, length, width),), {})

    return _Network(build)


def _encoder() -> _Network:
    def build(batch: int, is_small: bool) -> Network:
        width, length = (16, 5) if is_small else (64, 32)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return Network(module, (torch.randn(batch, length, width),), {})

    return _Network(build)


#: Name -> builder: ``module, args, kwargs = NETWORKS[name](small=True, batch=2)``.
NETWORKS: dict[str, _Network] = {
    "resnet50": _timm("resnet50", layers=(2, 2, 1, 1)),
    "mobilenetv3_large_100": _timm("mobilenetv3_large_100"),
    "efficientnet_b0": _timm("efficientnet_b0"),
    "convnext_tiny": _timm("convnext_tiny", depths=(2, 1, 2, 1)),
    "vit_base_patch16_224": _timm("vit_base_patch16_224", img_size=64, depth=3),
    "swin_tiny_patch4_window7_224": _timm("swin_tiny_patch4_window7_224", img_size=64, depths=(2, 2, 2, 2)),
    "densenet121": _timm("densenet121", block_config=(2, 3, 4, 2)),
    "regnety_002": _timm("regnety_002"),
    "maxvit_tiny_tf_224": _timm("maxvit_tiny_tf_224", img_size=64),
    "mixer_b16_224": _timm("mixer_b16_224", img_size=64),
    "BertModel": _transformer(
        "BertModel", "BertConfig", _text, vocab_size=_VOCABULARY, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
    ),
    "GPT2LMHeadModel": _transformer(
        "GPT2LMHeadModel", "GPT2Config", _text, vocab_size=_VOCABULARY, n_embd=32, n_layer=2, n_head=4,
        n_positions=64, bos_token_id=0, eos_token_id=1,
    ),
    "LlamaForCausalLM": _transformer(
        "LlamaForCausalLM", "LlamaConfig", _text, vocab_size=_VOCABULARY, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64,
    ),
    "T5EncoderModel": _t5(),
    "WhisperEncoder": _whisper(),
    "CLIPModel": _clip(),
    "MambaForCausalLM": _transformer(
        "MambaForCausalLM", "MambaConfig", lambda b, n: {"input_ids": _tokens(b, n)}, vocab_size=_VOCABULARY,
        hidden_size=32, num_hidden_layers=2, state_size=8,
    ),
    "LSTM": _recurrent(nn.LSTM),
    "GRU": _recurrent(nn.GRU),
    "TransformerEncoder": _encoder(),
}  # fmt: skip

#: The networks that take one image, which torch.jit.trace takes too.
VISION = [name for name, network in NETWORKS.items() if network.vision]
