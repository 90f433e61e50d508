"""The table of TFLite's operators: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.tflite.ops import (
    elementwise,
    indexing,
    networks,
    recurrent,
    reduction,
    resize,
    selection,
    signal,
    stablehlo,
    structure,
)
from tdagger.frameworks.tflite.ops.table import REASONS, RULES, WALKED, why_not

__all__ = [
    "REASONS",
    "RULES",
    "WALKED",
    "elementwise",
    "indexing",
    "networks",
    "recurrent",
    "reduction",
    "resize",
    "selection",
    "signal",
    "stablehlo",
    "structure",
    "why_not",
]
