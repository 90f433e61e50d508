"""The table of ONNX's operators: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.onnx.ops import (
    casts,
    elementwise,
    indexing,
    ngrams,
    old,
    random,
    reduction,
    signal,
    structure,
)
from tdagger.frameworks.onnx.ops.contrib import attention as contrib_attention
from tdagger.frameworks.onnx.ops.contrib import experts, older, packed
from tdagger.frameworks.onnx.ops.contrib import fused as contrib_fused
from tdagger.frameworks.onnx.ops.contrib import quantized as contrib_quantized
from tdagger.frameworks.onnx.ops.layers import (
    attention,
    losses,
    networks,
    norm,
    pool,
    quantized,
    recurrent,
    resize,
)
from tdagger.frameworks.onnx.ops.table import RULES, find

__all__ = [
    "RULES",
    "attention",
    "casts",
    "contrib_attention",
    "contrib_fused",
    "contrib_quantized",
    "elementwise",
    "experts",
    "find",
    "indexing",
    "losses",
    "networks",
    "ngrams",
    "norm",
    "old",
    "older",
    "packed",
    "pool",
    "quantized",
    "random",
    "recurrent",
    "reduction",
    "resize",
    "signal",
    "structure",
]
