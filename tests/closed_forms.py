"""What networks' contractions cost, as formulas written by hand from their architecture; no counter is behind them.

Each network has a function that builds it and one that adds up its products, both at the same sizes; published sizes
are the defaults. A product is given by its sizes: ``matmul(rows, inner, columns)`` is ``2 * rows * inner * columns``
flops (2 for each multiply-add). Biases, norms, activations, softmax, rotary embeddings' sines and lookups are no
contractions.

>>> gpt2 = CLOSED["gpt2"]
>>> gpt2.flops, gpt2.attention_flops, gpt2.attention_flops_causal
(32228179968, 603979776, 304349184)
>>> gpt2.at(layers=2, length=16).flops
1689673728
>>> module, args, kwargs = gpt2.at(layers=2).build(attention="eager", device="meta")
>>> type(module).__name__, kwargs["input_ids"].shape
('GPT2LMHeadModel', torch.Size([1, 128]))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.networks import Network

# --- the pieces --------------------------------------------------------------------------------------------


def matmul(rows: int, inner: int, columns: int) -> int:
    """Flops of a product of matrices (rows, inner) and (inner, columns), or of a linear layer on ``rows`` rows."""
    return 2 * rows * inner * columns


def conv(into: int, out: int, kernel: int, positions: int, groups: int = 1) -> int:
    """Flops of a convolution: ``positions`` results for each of ``out`` channels, each the sum of ``kernel`` entries
    (the product of the kernel's sides) of ``into / groups`` channels."""
    return 2 * positions * out * kernel * (into // groups)


def halved(size: int, times: int = 1) -> int:
    """A side after convolutions or pools of stride 2 that pad by half their kernel."""
    return halved(-(-size // 2), times - 1) if times else size


class Attention(NamedTuple):
    """``calls`` attentions: every head of each takes ``queries`` x ``keys`` scores of ``width`` products, and as many
    products for its result. ``causal``: query i may see the first i + 1 keys (and those before it)."""

    calls: int
    heads: int
    queries: int
    keys: int
    width: int
    causal: bool = False

    def flops(self) -> int:
        return self.calls * self.heads * 2 * matmul(self.queries, self.width, self.keys)

    def causal_flops(self) -> int:
        """Of the pairs that the mask leaves, all if there is none."""
        pairs = self.queries * self.keys
        if self.causal:  # queries are the last of the keys
            pairs = sum(self.keys - self.queries + i + 1 for i in range(self.queries))
        return self.calls * self.heads * 2 * 2 * pairs * self.width


class Work(NamedTuple):
    """The contractions of a network: flops of all that isn't attention, and its attentions."""

    products: int
    attention: tuple[Attention, ...] = ()


@dataclass(frozen=True)
class Closed:
    """A network at given sizes, and what its contractions cost.

    ``make(attention, device, **sizes)`` builds it, ``work(**sizes)`` is the formula; ``sizes`` differ from the
    functions' defaults, which are the published ones.
    """

    make: Callable[..., Network]
    work: Callable[..., Work]
    sizes: dict[str, Any]

    def at(self, **sizes: Any) -> Closed:
        """The same network at other sizes."""
        return replace(self, sizes={**self.sizes, **sizes})

    def build(self, attention: str = "sdpa", device: str = "meta") -> Network:
        """``module, args, kwargs``: in eval mode, with random weights; attention is "eager" or "sdpa" (fused)."""
        torch.manual_seed(0)
        return self.make(attention, device, **self.sizes)

    @property
    def flops(self) -> int:
        """Flops of contractions, 2 for each multiply-add."""
        work = self.work(**self.sizes)
        return work.products + sum(a.flops() for a in work.attention)

    @property
    def attention_flops(self) -> int:
        """Of these, attention's: scores, and products with values; everything computed, masked or not."""
        return sum(a.flops() for a in self.work(**self.sizes).attention)

    @property
    def attention_flops_causal(self) -> int:
        """The same of the pairs that causal masks leave."""
        return sum(a.causal_flops() for a in self.work(**self.sizes).attention)


def _timm(name: str, attention: str, device: str, batch: int, pixels: int, **options: Any) -> Network:
    import timm

    with torch.device(device):
        module = timm.create_model(name, pretrained=False, **options).eval()
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = attention == "sdpa"
    return Network(module, (torch.randn(batch, 3, pixels, pixels, device=device),), {})


def _transformer(name: str, config: Any, attention: str, device: str, kwargs: dict[str, Any]) -> Network:
    import transformers

    kind = getattr(transformers, name)
    if kind._supports_sdpa:
        config._attn_implementation = attention
    config.use_cache = False
    with torch.device(device):
        module = kind(config).eval()
    return Network(module, (), kwargs)


def _tokens(batch: int, length: int, device: str) -> torch.Tensor:
    return torch.zeros(batch, length, dtype=torch.int64, device=device)


# --- ResNet-50 ---------------------------------------------------------------------------------------------


def resnet(attention: str, device: str, batch: int = 1, pixels: int = 224, layers: tuple[int, ...] = (3, 4, 6, 3),
           classes: int = 1000) -> Network:  # fmt: skip
    return _timm("resnet50", attention, device, batch, pixels, layers=layers, num_classes=classes)


def resnet_work(batch: int = 1, pixels: int = 224, layers: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> Work:
    side = halved(pixels)
    total = conv(3, 64, 7 * 7, side**2)  # the stem, stride 2
    side = halved(side)  # max pool
    into = 64
    for stage, blocks in enumerate(layers):
        inner = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            before, side = side, halved(side) if stride == 2 else side
            total += conv(into, inner, 1, before**2)  # reduce
            total += conv(inner, inner, 3 * 3, side**2)  # has the stride
            total += conv(inner, 4 * inner, 1, side**2)  # expand
            if block == 0:
                total += conv(into, 4 * inner, 1, side**2)  # the shortcut, which changes the size
            into = 4 * inner
    total += matmul(1, into, classes)  # after the mean over all positions
    return Work(batch * total)


# --- ViT-B/16 ----------------------------------------------------------------------------------------------


def vit(attention: str, device: str, batch: int = 1, pixels: int = 224, patch: int = 16, width: int = 768,
        layers: int = 12, heads: int = 12, classes: int = 1000) -> Network:  # fmt: skip
    return _timm(
        "vit_base_patch16_224", attention, device, batch, pixels, img_size=pixels, patch_size=patch, embed_dim=width,
        depth=layers, num_heads=heads, num_classes=classes,
    )  # fmt: skip


def vit_work(batch: int = 1, pixels: int = 224, patch: int = 16, width: int = 768, layers: int = 12, heads: int = 12,
             classes: int = 1000) -> Work:  # fmt: skip
    patches = (pixels // patch) ** 2
    rows = batch * (patches + 1)  # and the class token
    total = conv(3, width, patch * patch, batch * patches)
    total += layers * matmul(rows, width, 3 * width)  # q, k, v
    total += layers * matmul(rows, width, width)  # the projection
    total += layers * 2 * matmul(rows, width, 4 * width)  # there and back
    total += matmul(batch, width, classes)  # the class token alone
    return Work(total, (Attention(batch * layers, heads, patches + 1, patches + 1, width // heads),))


# --- GPT-2 small -------------------------------------------------------------------------------------------


def gpt2(attention: str, device: str, batch: int = 1, length: int = 128, width: int = 768, layers: int = 12,
         heads: int = 12, vocabulary: int = 50257) -> Network:  # fmt: skip
    import transformers

    config = transformers.GPT2Config(
        n_embd=width, n_layer=layers, n_head=heads, vocab_size=vocabulary, n_positions=max(length, 1024),
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return _transformer("GPT2LMHeadModel", config, attention, device, {"input_ids": _tokens(batch, length, device)})


def gpt2_work(batch: int = 1, length: int = 128, width: int = 768, layers: int = 12, heads: int = 12,
              vocabulary: int = 50257) -> Work:  # fmt: skip
    rows = batch * length
    total = layers * matmul(rows, width, 3 * width)  # q, k, v
    total += layers * matmul(rows, width, width)  # the projection
    total += layers * 2 * matmul(rows, width, 4 * width)  # there and back
    total += matmul(rows, width, vocabulary)  # logits, with the embedding's weight
    return Work(total, (Attention(batch * layers, heads, length, length, width // heads, causal=True),))


# --- BERT base ---------------------------------------------------------------------------------------------


def bert(attention: str, device: str, batch: int = 1, length: int = 128, width: int = 768, layers: int = 12,
         heads: int = 12, inner: int = 3072) -> Network:  # fmt: skip
    import transformers

    config = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
        max_position_embeddings=max(length, 512),
    )  # fmt: skip
    return _transformer("BertModel", config, attention, device, {"input_ids": _tokens(batch, length, device)})


def bert_work(batch: int = 1, length: int = 128, width: int = 768, layers: int = 12, heads: int = 12,
              inner: int = 3072) -> Work:  # fmt: skip
    rows = batch * length
    total = layers * 4 * matmul(rows, width, width)  # q, k, v, and the projection
    total += layers * 2 * matmul(rows, width, inner)  # there and back
    total += matmul(batch, width, width)  # the pooler, on the first token
    return Work(total, (Attention(batch * layers, heads, length, length, width // heads),))


# --- Llama (the sizes of Llama-3.2-1B) ---------------------------------------------------------------------


def llama(attention: str, device: str, batch: int = 1, length: int = 512, width: int = 2048, layers: int = 16,
          heads: int = 32, kv_heads: int = 8, inner: int = 8192, vocabulary: int = 128256) -> Network:  # fmt: skip
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=inner, vocab_size=vocabulary, max_position_embeddings=max(length, 2048),
    )  # fmt: skip
    return _transformer("LlamaForCausalLM", config, attention, device, {"input_ids": _tokens(batch, length, device)})


def llama_work(batch: int = 1, length: int = 512, width: int = 2048, layers: int = 16, heads: int = 32,
               kv_heads: int = 8, inner: int = 8192, vocabulary: int = 128256) -> Work:  # fmt: skip
    rows, head = batch * length, width // heads
    total = layers * matmul(rows, width, heads * head)  # q
    total += layers * 2 * matmul(rows, width, kv_heads * head)  # k, v
    total += layers * matmul(rows, heads * head, width)  # the projection
    total += layers * 3 * matmul(rows, width, inner)  # gate, up, down
    total += matmul(rows, width, vocabulary)  # logits
    # Every head of q has products of its own, whether or not it shares k and v.
    return Work(total, (Attention(batch * layers, heads, length, length, head, causal=True),))


# --- T5 small ----------------------------------------------------------------------------------------------


def t5(attention: str, device: str, batch: int = 1, length: int = 128, target: int = 64, width: int = 512,
       layers: int = 6, heads: int = 8, head: int = 64, inner: int = 2048,
       vocabulary: int = 32128) -> Network:  # fmt: skip
    import transformers

    config = transformers.T5Config(
        d_model=width, num_layers=layers, num_heads=heads, d_kv=head, d_ff=inner, vocab_size=vocabulary
    )
    tokens = {"input_ids": length, "decoder_input_ids": target}
    kwargs = {name: _tokens(batch, n, device) for name, n in tokens.items()}
    return _transformer("T5ForConditionalGeneration", config, attention, device, kwargs)


def t5_work(batch: int = 1, length: int = 128, target: int = 64, width: int = 512, layers: int = 6, heads: int = 8,
            head: int = 64, inner: int = 2048, vocabulary: int = 32128) -> Work:  # fmt: skip
    source, rows = batch * length, batch * target
    total = layers * 4 * matmul(source, width, heads * head)  # the encoder's q, k, v, projection
    total += layers * 2 * matmul(source, width, inner)  # there and back
    total += layers * 4 * matmul(rows, width, heads * head)  # the decoder's on itself
    total += layers * 2 * matmul(rows, width, heads * head)  # q and projection of its attention to the source
    total += layers * 2 * matmul(source, width, heads * head)  # k, v of the source, in every layer anew
    total += layers * 2 * matmul(rows, width, inner)  # there and back
    total += matmul(rows, width, vocabulary)  # logits
    attention = (
        Attention(batch * layers, heads, length, length, head),
        Attention(batch * layers, heads, target, target, head, causal=True),
        Attention(batch * layers, heads, target, length, head),
    )
    return Work(total, attention)


# --- Whisper tiny ------------------------------------------------------------------------------------------


def whisper(attention: str, device: str, batch: int = 1, frames: int = 3000, target: int = 64, width: int = 384,
            layers: int = 4, heads: int = 6, mels: int = 80, vocabulary: int = 51865) -> Network:  # fmt: skip
    import transformers

    config = transformers.WhisperConfig(
        d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, num_mel_bins=mels,
        vocab_size=vocabulary, max_source_positions=frames // 2, max_target_positions=max(target, 448),
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    kwargs = {
        "input_features": torch.randn(batch, mels, frames, device=device),
        "decoder_input_ids": _tokens(batch, target, device),
    }
    return _transformer("WhisperForConditionalGeneration", config, attention, device, kwargs)


def whisper_work(batch: int = 1, frames: int = 3000, target: int = 64, width: int = 384, layers: int = 4,
                 heads: int = 6, mels: int = 80, vocabulary: int = 51865) -> Work:  # fmt: skip
    length = frames // 2
    source, rows = batch * length, batch * target
    total = conv(mels, width, 3, batch * frames)  # along time
    total += conv(width, width, 3, source)  # stride 2
    total += layers * 4 * matmul(source, width, width)  # the encoder's q, k, v, projection
    total += layers * 2 * matmul(source, width, 4 * width)  # there and back
    total += layers * 4 * matmul(rows, width, width)  # the decoder's on itself
    total += layers * 2 * matmul(rows, width, width)  # q and projection of its attention to the source
    total += layers * 2 * matmul(source, width, width)  # k, v of the source, in every layer anew
    total += layers * 2 * matmul(rows, width, 4 * width)  # there and back
    total += matmul(rows, width, vocabulary)  # logits
    attention = (
        Attention(batch * layers, heads, length, length, width // heads),
        Attention(batch * layers, heads, target, target, width // heads, causal=True),
        Attention(batch * layers, heads, target, length, width // heads),
    )
    return Work(total, attention)


# --- CLIP ViT-B/32 -----------------------------------------------------------------------------------------


def clip(attention: str, device: str, texts: int = 1, images: int = 1, length: int = 77, pixels: int = 224,
         patch: int = 32, width: int = 768, heads: int = 12, text_width: int = 512, text_heads: int = 8,
         layers: int = 12, projection: int = 512, vocabulary: int = 49408) -> Network:  # fmt: skip
    import transformers

    config = transformers.CLIPConfig(
        text_config={"hidden_size": text_width, "intermediate_size": 4 * text_width, "num_hidden_layers": layers,
                     "num_attention_heads": text_heads, "vocab_size": vocabulary, "bos_token_id": 0,
                     "pad_token_id": 1, "eos_token_id": vocabulary - 1,
                     "max_position_embeddings": max(length, 77)},
        vision_config={"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
                       "num_attention_heads": heads, "image_size": pixels, "patch_size": patch},
        projection_dim=projection,
    )  # fmt: skip
    kwargs = {
        "input_ids": _tokens(texts, length, device),
        "pixel_values": torch.randn(images, 3, pixels, pixels, device=device),
    }
    return _transformer("CLIPModel", config, attention, device, kwargs)


def clip_work(texts: int = 1, images: int = 1, length: int = 77, pixels: int = 224, patch: int = 32, width: int = 768,
              heads: int = 12, text_width: int = 512, text_heads: int = 8, layers: int = 12,
              projection: int = 512, vocabulary: int = 49408) -> Work:  # fmt: skip
    del vocabulary  # is only looked up
    patches = (pixels // patch) ** 2
    total = conv(3, width, patch * patch, images * patches)
    for rows, d in ((images * (patches + 1), width), (texts * length, text_width)):
        total += layers * 4 * matmul(rows, d, d)  # q, k, v, projection
        total += layers * 2 * matmul(rows, d, 4 * d)  # there and back
    total += matmul(images, width, projection) + matmul(texts, text_width, projection)
    total += matmul(texts, projection, images)  # every text with every image
    attention = (
        Attention(images * layers, heads, patches + 1, patches + 1, width // heads),
        Attention(texts * layers, text_heads, length, length, text_width // text_heads, causal=True),
    )
    return Work(total, attention)


# --- MobileNetV3 large: depthwise convolutions, squeeze and excite -----------------------------------------

#: Blocks: kernel, expanded channels, channels out, squeeze and excite or not, stride (table 1 of the paper).
_MOBILENET = (
    (3, 16, 16, False, 1),
    (3, 64, 24, False, 2), (3, 72, 24, False, 1),
    (5, 72, 40, True, 2), (5, 120, 40, True, 1), (5, 120, 40, True, 1),
    (3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1),
    (3, 480, 112, True, 1), (3, 672, 112, True, 1),
    (5, 672, 160, True, 2), (5, 960, 160, True, 1), (5, 960, 160, True, 1),
)  # fmt: skip


def mobilenet(attention: str, device: str, batch: int = 1, pixels: int = 224, classes: int = 1000) -> Network:
    return _timm("mobilenetv3_large_100", attention, device, batch, pixels, num_classes=classes)


def mobilenet_work(batch: int = 1, pixels: int = 224, classes: int = 1000) -> Work:
    side = halved(pixels)
    total = conv(3, 16, 3 * 3, side**2)  # the stem, stride 2
    into = 16
    for kernel, inner, out, squeezes, stride in _MOBILENET:
        if inner != into:
            total += conv(into, inner, 1, side**2)  # expand
        side = halved(side) if stride == 2 else side
        total += conv(inner, inner, kernel**2, side**2, groups=inner)  # depthwise, has the stride
        if squeezes:  # a quarter of the channels, to the nearest 8 that isn't less by a tenth; on the mean, so 1 row
            squeezed = (inner // 4 + 4) // 8 * 8
            squeezed += 8 if 10 * squeezed < 9 * (inner // 4) else 0
            total += matmul(1, inner, squeezed) + matmul(1, squeezed, inner)
        total += conv(inner, out, 1, side**2)  # reduce
        into = out
    total += conv(160, 960, 1, side**2)
    total += matmul(1, 960, 1280) + matmul(1, 1280, classes)  # after the mean over all positions
    return Work(batch * total)


# --- ConvNeXt tiny -----------------------------------------------------------------------------------------


def convnext(attention: str, device: str, batch: int = 1, pixels: int = 224, layers: tuple[int, ...] = (3, 3, 9, 3),
             width: int = 96, classes: int = 1000) -> Network:  # fmt: skip
    widths = [width * 2**stage for stage in range(len(layers))]
    options = {"depths": layers, "dims": widths, "num_classes": classes}
    return _timm("convnext_tiny", attention, device, batch, pixels, **options)


def convnext_work(batch: int = 1, pixels: int = 224, layers: tuple[int, ...] = (3, 3, 9, 3), width: int = 96,
                  classes: int = 1000) -> Work:  # fmt: skip
    side, into = pixels // 4, width
    total = conv(3, width, 4 * 4, side**2)  # patches
    for stage, blocks in enumerate(layers):
        d = width * 2**stage
        if stage > 0:
            side //= 2
            total += conv(into, d, 2 * 2, side**2)  # stride 2
        total += blocks * conv(d, d, 7 * 7, side**2, groups=d)  # depthwise
        total += blocks * 2 * matmul(side**2, d, 4 * d)  # there and back
        into = d
    total += matmul(1, into, classes)
    return Work(batch * total)


# --- Swin tiny: attention in windows -----------------------------------------------------------------------


def swin(attention: str, device: str, batch: int = 1, pixels: int = 224, width: int = 96, window: int = 7,
         layers: tuple[int, ...] = (2, 2, 6, 2), heads: int = 3, classes: int = 1000) -> Network:  # fmt: skip
    return _timm(
        "swin_tiny_patch4_window7_224", attention, device, batch, pixels, img_size=pixels, embed_dim=width,
        window_size=window, depths=layers, num_heads=[heads * 2**stage for stage in range(len(layers))],
        num_classes=classes,
    )  # fmt: skip


def swin_work(batch: int = 1, pixels: int = 224, width: int = 96, window: int = 7,
              layers: tuple[int, ...] = (2, 2, 6, 2), heads: int = 3, classes: int = 1000) -> Work:  # fmt: skip
    side = pixels // 4
    total = conv(3, width, 4 * 4, batch * side**2)  # patches
    attention: list[Attention] = []
    for stage, blocks in enumerate(layers):
        d = width * 2**stage
        if stage > 0:
            side //= 2
            total += matmul(batch * side**2, 2 * d, d)  # four neighbours of d / 2 channels become one of d
        inside = min(window, side)
        windows = batch * (-(-side // inside)) ** 2  # padded to whole windows
        rows = windows * inside**2
        total += blocks * (matmul(rows, d, 3 * d) + matmul(rows, d, d))  # q, k, v; the projection
        total += blocks * 2 * matmul(batch * side**2, d, 4 * d)  # there and back
        attention.append(Attention(blocks * windows, heads * 2**stage, inside**2, inside**2, width // heads))
    total += matmul(batch, width * 2 ** (len(layers) - 1), classes)
    return Work(total, tuple(attention))


# --- Mixtral 8x7B: a mixture of experts --------------------------------------------------------------------


def mixtral(attention: str, device: str, batch: int = 1, length: int = 128, width: int = 4096, layers: int = 32,
            heads: int = 32, kv_heads: int = 8, inner: int = 14336, experts: int = 8, chosen: int = 2,
            vocabulary: int = 32000, experts_by: str = "grouped_mm") -> Network:  # fmt: skip
    import transformers

    config = transformers.MixtralConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=inner, num_local_experts=experts, num_experts_per_tok=chosen, vocab_size=vocabulary,
        max_position_embeddings=max(length, 4096),
    )  # fmt: skip
    config._experts_implementation = experts_by
    return _transformer("MixtralForCausalLM", config, attention, device, {"input_ids": _tokens(batch, length, device)})


def mixtral_work(batch: int = 1, length: int = 128, width: int = 4096, layers: int = 32, heads: int = 32,
                 kv_heads: int = 8, inner: int = 14336, experts: int = 8, chosen: int = 2, vocabulary: int = 32000,
                 experts_by: str = "grouped_mm") -> Work:  # fmt: skip
    rows, head = batch * length, width // heads
    total = layers * matmul(rows, width, heads * head)  # q
    total += layers * 2 * matmul(rows, width, kv_heads * head)  # k, v
    total += layers * matmul(rows, heads * head, width)  # the projection
    total += layers * matmul(rows, width, experts)  # the router
    total += layers * 3 * matmul(rows * chosen, width, inner)  # gate, up, down of the chosen experts
    if experts_by == "batched_mm":
        total += layers * matmul(rows * width, chosen, 1)  # their results, weighted and summed
    # grouped_mm weights them, puts the rows back in order by an index, and sums: elementwise.
    total += matmul(rows, width, vocabulary)  # logits
    return Work(total, (Attention(batch * layers, heads, length, length, head, causal=True),))


# --- Deep Speech 2: convolutions, then recurrent layers in two directions ----------------------------------


class DeepSpeech(nn.Module):
    """The network of the paper: two convolutions over (frequency, time), recurrent layers whose two directions are
    added up, a linear layer for every frame. Takes (batch, 1, bins, frames)."""

    def __init__(self, bins: int, hidden: int, layers: int, cell: str, classes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), (2, 2), (20, 5)), nn.BatchNorm2d(32), nn.Hardtanh(0, 20),
            nn.Conv2d(32, 32, (21, 11), (2, 1), (10, 5)), nn.BatchNorm2d(32), nn.Hardtanh(0, 20),
        )  # fmt: skip
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        widths = [32 * halved(bins, 2)] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(kind(into, hidden, bidirectional=True, batch_first=True) for into in widths)
        self.classes = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).flatten(1, 2).transpose(1, 2)
        for layer in self.layers:
            forth, back = layer(x)[0].chunk(2, dim=2)
            x = forth + back
        return self.classes(x)


def deepspeech(attention: str, device: str, batch: int = 1, bins: int = 161, frames: int = 64, hidden: int = 800,
               layers: int = 5, cell: str = "gru", classes: int = 29) -> Network:  # fmt: skip
    with torch.device(device):
        module = DeepSpeech(bins, hidden, layers, cell, classes).eval()
    return Network(module, (torch.randn(batch, 1, bins, frames, device=device),), {})


def deepspeech_work(batch: int = 1, bins: int = 161, frames: int = 64, hidden: int = 800, layers: int = 5,
                    cell: str = "gru", classes: int = 29) -> Work:  # fmt: skip
    gates = {"gru": 3, "lstm": 4}[cell]
    steps = halved(frames)
    total = conv(1, 32, 41 * 11, halved(bins) * steps)  # stride 2 in both
    total += conv(32, 32, 21 * 11, halved(bins, 2) * steps)  # stride 2 in frequency
    into = 32 * halved(bins, 2)
    for _ in range(layers):
        total += 2 * matmul(steps, into + hidden, gates * hidden)  # of what comes in and of the state, each way
        into = hidden
    total += matmul(steps, hidden, classes)
    return Work(batch * total)


# --- Mamba 130M: a state space model -----------------------------------------------------------------------


def mamba(attention: str, device: str, batch: int = 1, length: int = 8, width: int = 768, layers: int = 24,
          state: int = 16, kernel: int = 4, vocabulary: int = 50280) -> Network:  # fmt: skip
    import transformers

    config = transformers.MambaConfig(
        hidden_size=width, num_hidden_layers=layers, state_size=state, conv_kernel=kernel, vocab_size=vocabulary
    )
    return _transformer("MambaForCausalLM", config, attention, device, {"input_ids": _tokens(batch, length, device)})


def mamba_work(batch: int = 1, length: int = 8, width: int = 768, layers: int = 24, state: int = 16, kernel: int = 4,
               vocabulary: int = 50280) -> Work:  # fmt: skip
    rows, inner, rank = batch * length, 2 * width, -(-width // 16)
    total = matmul(rows, width, 2 * inner)  # x and gate
    # Along time, depthwise: padded on both sides, and what is computed past the end is cut off.
    total += conv(inner, inner, kernel, batch * (length + kernel - 1), groups=inner)
    total += matmul(rows, inner, rank + 2 * state)  # what gives dt; B, C
    total += matmul(rows, rank, inner)  # dt
    total += matmul(rows * inner, state, 1)  # the state with C; its update isn't a sum of products, but elementwise
    total += matmul(rows, inner, width)  # the projection
    return Work(layers * total + matmul(rows, width, vocabulary))


# --- U-Net: convolutions and transposed convolutions -------------------------------------------------------


class UNet(nn.Module):
    """The network of the paper: unpadded convolutions, half the size ``depth`` times and back by transposed ones.
    Takes (batch, 1, pixels, pixels)."""

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = list(zip([1, *widths], widths, strict=False))
        self.down = nn.ModuleList(self._two(into, out) for into, out in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * d, d, 2, stride=2) for d in widths[:-1])
        self.join = nn.ModuleList(self._two(2 * d, d) for d in widths[:-1])
        self.pool, self.classes = nn.MaxPool2d(2), nn.Conv2d(width, classes, 1)

    @staticmethod
    def _two(into: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(into, out, 3), nn.ReLU(), nn.Conv2d(out, out, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for down in self.down:
            kept.append(down(self.pool(kept[-1]) if kept else x))
        x = kept.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x, other = up(x), kept.pop()
            edge = (other.shape[2] - x.shape[2]) // 2
            x = join(torch.cat([other[:, :, edge : edge + x.shape[2], edge : edge + x.shape[3]], x], dim=1))
        return self.classes(x)


def unet(attention: str, device: str, batch: int = 1, pixels: int = 572, width: int = 64, depth: int = 4,
         classes: int = 2) -> Network:  # fmt: skip
    with torch.device(device):
        module = UNet(width, depth, classes).eval()
    return Network(module, (torch.randn(batch, 1, pixels, pixels, device=device),), {})


def unet_work(batch: int = 1, pixels: int = 572, width: int = 64, depth: int = 4, classes: int = 2) -> Work:
    def two(into: int, out: int, side: int) -> int:  # each loses a pixel on every side
        return conv(into, out, 3 * 3, (side - 2) ** 2) + conv(out, out, 3 * 3, (side - 4) ** 2)

    side, total = pixels, two(1, width, pixels)
    for level in range(1, depth + 1):
        side = (side - 4) // 2
        d = width * 2**level
        total += two(d // 2, d, side)
    side -= 4
    for level in reversed(range(depth)):
        d = width * 2**level
        total += 2 * side**2 * 2 * d * d * 2 * 2  # every pixel of 2 d channels times kernels of 2 x 2 for d channels
        side *= 2
        total += two(2 * d, d, side)
        side -= 4
    total += conv(width, classes, 1, side**2)
    return Work(batch * total)


# --- all of them -------------------------------------------------------------------------------------------

#: Name -> network: ``CLOSED[name].build(attention, device)`` and ``.flops``, at published sizes.
CLOSED: dict[str, Closed] = {
    "resnet50": Closed(resnet, resnet_work, {}),
    "vit_b16": Closed(vit, vit_work, {}),
    "gpt2": Closed(gpt2, gpt2_work, {}),
    "bert": Closed(bert, bert_work, {}),
    "llama": Closed(llama, llama_work, {}),
    "t5_small": Closed(t5, t5_work, {}),
    "whisper_tiny": Closed(whisper, whisper_work, {}),
    "clip_b32": Closed(clip, clip_work, {}),
    "mobilenetv3_large": Closed(mobilenet, mobilenet_work, {}),
    "convnext_tiny": Closed(convnext, convnext_work, {}),
    "swin_tiny": Closed(swin, swin_work, {}),
    "mixtral_8x7b": Closed(mixtral, mixtral_work, {}),
    "deepspeech2": Closed(deepspeech, deepspeech_work, {}),
    "mamba_130m": Closed(mamba, mamba_work, {}),
    "unet": Closed(unet, unet_work, {}),
}
