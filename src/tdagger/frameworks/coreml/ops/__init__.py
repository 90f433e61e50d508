"""The rules for MIL's ops, a module for each kind; :mod:`table` is how they are written."""

from tdagger.frameworks.coreml.ops import (
    elementwise,
    indexing,
    networks,
    random,
    recurrent,
    reduction,
    resize,
    structure,
)
from tdagger.frameworks.coreml.ops.table import RULES

__all__ = ["RULES", "elementwise", "indexing", "networks", "random", "recurrent", "reduction", "resize", "structure"]
