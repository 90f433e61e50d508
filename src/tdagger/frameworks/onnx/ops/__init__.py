"""The table of ONNX's operators: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.onnx.ops import (
    casts,
    elementwise,
    indexing,
    networks,
    norm,
    pool,
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
    "casts",
    "elementwise",
    "find",
    "indexing",
    "networks",
    "norm",
    "pool",
    "random",
    "recurrent",
    "reduction",
    "resize",
    "signal",
    "structure",
]
