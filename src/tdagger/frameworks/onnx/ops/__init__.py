"""The table of ONNX's operators: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.onnx.ops import (
    attention,
    casts,
    contrib,
    elementwise,
    indexing,
    losses,
    networks,
    norm,
    old,
    pool,
    quantized,
    random,
    recurrent,
    reduction,
    resize,
    signal,
    structure,
)
from tdagger.frameworks.onnx.ops.table import RULES, find

__all__ = [
    "RULES",
    "attention",
    "casts",
    "contrib",
    "elementwise",
    "find",
    "indexing",
    "losses",
    "networks",
    "norm",
    "old",
    "pool",
    "quantized",
    "random",
    "recurrent",
    "reduction",
    "resize",
    "signal",
    "structure",
]
