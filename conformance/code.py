"""The code that ``to_torch()`` writes for four networks: docs/generated-code.md.

python -m conformance.code
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

import tdagger as td
from conformance.models import ROOT

PAGE = ROOT / "docs" / "generated-code.md"


def timm_model(name: str) -> td.TensorDAG:
    """A model of timm with an image of its size, without memory for its weights."""
    import timm

    with torch.device("meta"):
        module = timm.create_model(name, pretrained=False).eval()
        return td.from_torch(module, torch.zeros(2, *module.default_cfg["input_size"]))


def gpt2() -> td.TensorDAG:
    """GPT-2 as published, without a cache."""
    from transformers import GPT2Config, GPT2Model

    with torch.device("meta"):
        module = GPT2Model(GPT2Config(use_cache=False)).eval()
        return td.from_torch(module, torch.zeros(2, 64, dtype=torch.long))


def whisper() -> td.TensorDAG:
    """Whisper tiny as published: its encoder and decoder, without a cache."""
    from transformers import WhisperConfig, WhisperModel

    sizes: dict[str, Any] = {"d_model": 384, "encoder_layers": 4, "decoder_layers": 4}
    sizes |= {"encoder_attention_heads": 6, "decoder_attention_heads": 6}
    sizes |= {"encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536}
    with torch.device("meta"):
        module = WhisperModel(WhisperConfig(**sizes, use_cache=False)).eval()
        inputs = {"input_features": torch.zeros(2, 80, 3000), "decoder_input_ids": torch.zeros(2, 16, dtype=torch.long)}
        return td.from_torch(module, (), inputs)


#: What a module of a class that subclasses a layer of torch is.
SUBCLASSES = """
## Classes that subclass torch's

A module is an instance of a layer of torch where it computes what that layer does: it is that layer then. A class
that subclasses one and computes more or another thing (timm's `BatchNormAct2d` is an `nn.BatchNorm2d` with an
activation, its `LayerNorm2d` an `nn.LayerNorm` of channels first) is a generated class of its name, which is no
instance of torch's. What asks by `isinstance` takes the module to compute what torch's does and to go by its
attributes (`fuse_conv_bn_eval`, `SyncBatchNorm.convert_sync_batchnorm`, `norm.momentum = 0.01`); generated code has
its settings as numbers, and a TDAG has the names of classes, not what they derive from. Such modules are found by
those names:

```python
import timm
import torch
from torch import nn

import tdagger as td

source = timm.create_model("test_efficientnet").eval()
module = td.from_torch(source, torch.zeros(2, 3, 64, 64)).to_torch()
norms = {type(m).__name__ for m in source.modules() if isinstance(m, nn.BatchNorm2d)}
for m in module.modules():
    if type(m).__name__ in norms:
        m.eval()  # its running statistics stay
```

`train`, `eval` and `requires_grad_` do to them what they do to the source's.

Layers of other libraries are generated classes of their names too. What knows such a layer by its class (`peft`'s LoRA
knows `Conv1D` of transformers, of which GPT-2 is made) is given one, which is called from then on:

```python
import torch
from transformers import GPT2Config, GPT2Model
from transformers.pytorch_utils import Conv1D

import tdagger as td

source = GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100)).eval()
module = td.from_torch(source, (), {"input_ids": torch.zeros(2, 9, dtype=torch.long), "use_cache": False}).to_torch()
for name, m in list(module.named_modules()):
    if type(m).__name__ == "Conv1D":
        new = Conv1D(m.weight.shape[1], m.weight.shape[0])
        new.weight, new.bias = m.weight, m.bias
        module.set_submodule(name, new)
```

## One module under two names

A module that the source has under two names (`self.b = self.a`) comes back as two, one at each name, whose parameters
are the same: the state_dict, gradients and outputs are those of the source. A TDAG has the weights that are tied, not
whether modules are. A hook on `a` is called for the calls of `a` alone, and `named_modules()` has both. To have one
again, `module.b = module.a`.

## Another element type

Sizes are open, element types aren't. A cast that changes nothing leaves no op, so of the norms of a Llama, which
compute in f32 whatever they are given, a network in f32 has no casts. After `.half()` or `.bfloat16()` its module
computes in that type where the source goes to f32 and back, or torch refuses an op on tensors of two types. Import a
network in the type it is to run in: `td.from_torch(model.bfloat16(), ...)` has the casts."""

NETWORKS: dict[str, Callable[[], td.TensorDAG]] = {
    "resnet18": lambda: timm_model("resnet18"),
    "vit_tiny_patch16_224": lambda: timm_model("vit_tiny_patch16_224"),
    "GPT-2": gpt2,
    "Whisper tiny": whisper,
}


def page() -> str:
    """The code of all of them."""
    lines = [
        "# What `to_torch()` writes",
        "",
        "Made by `make conformance-code` (`conformance/code.py`); don't edit it by hand. `print(module.code)` of four",
        "networks: one class for each structure, named as the source's; torch's own layers aren't listed.",
        "`tdagger convert SOURCE m.py` writes the same classes.",
        SUBCLASSES,
    ]
    for name, make in NETWORKS.items():
        module = make().to_torch()
        fixed = ", ".join(module.fixed_axes)
        lines += ["", f"## {name}", "", "```text", module.code.rstrip(), "```", ""]
        lines += [f"Fixed axes: {fixed}." if fixed else "All axes of its inputs are free."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    warnings.simplefilter("ignore")
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
