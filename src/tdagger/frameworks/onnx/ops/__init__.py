"""The table of ONNX's operators: :data:`RULES`, filled by the modules of this package."""

from tdagger.frameworks.onnx.ops import elementwise, networks, norm, pool, recurrent, resize, structure
from tdagger.frameworks.onnx.ops.table import RULES, find

__all__ = ["RULES", "elementwise", "find", "networks", "norm", "pool", "recurrent", "resize", "structure"]
