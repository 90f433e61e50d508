"""The ATen table: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.torch.aten import (
    backward,
    elementwise,
    fourier,
    fused,
    networks,
    order,
    random,
    special,
    structure,
)
from tdagger.frameworks.torch.aten.table import DRAWS, DTYPES, RULES, TORCH_DTYPES, Changed

__all__ = [
    "DRAWS",
    "DTYPES",
    "RULES",
    "TORCH_DTYPES",
    "Changed",
    "backward",
    "elementwise",
    "fourier",
    "fused",
    "networks",
    "order",
    "random",
    "special",
    "structure",
]
