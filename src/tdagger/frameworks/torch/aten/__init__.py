"""The ATen table: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.known import number_of
from tdagger.frameworks.torch.aten import (
    backward,
    elementwise,
    fourier,
    fused,
    losses,
    memory,
    networks,
    order,
    quantized,
    random,
    special,
    structure,
)
from tdagger.frameworks.torch.aten.memory import Memory, memory_of
from tdagger.frameworks.torch.aten.table import DRAWS, DTYPES, RULES, TORCH_DTYPES, Changed

__all__ = [
    "DRAWS",
    "DTYPES",
    "RULES",
    "TORCH_DTYPES",
    "Changed",
    "Memory",
    "backward",
    "elementwise",
    "fourier",
    "fused",
    "losses",
    "memory",
    "memory_of",
    "networks",
    "number_of",
    "order",
    "quantized",
    "random",
    "special",
    "structure",
]
