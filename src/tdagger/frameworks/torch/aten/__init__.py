"""The ATen table: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.torch.aten import elementwise, networks, structure
from tdagger.frameworks.torch.aten.table import DTYPES, RULES, TORCH_DTYPES

__all__ = ["DTYPES", "RULES", "TORCH_DTYPES", "elementwise", "networks", "structure"]
