"""A module of torch as a part of a network: imported on the types of the values that it gets there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.importer import from_torch
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType


def part_of(module: nn.Module, types: Sequence[TensorType], trains: bool) -> TensorDAG:
    """The network of ``module`` on tensors of these types: in eval mode, or as it is where ``trains``.

    Parameters share memory with the module's. UnsupportedError, with the module's name, if it can't be imported.
    """
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    device = None if first is None else first.device
    args = tuple(torch.zeros(t.shape, dtype=DTYPES[t.dtype.name], device=device) for t in types)
    modes = [(m, m.training) for m in module.modules()]
    try:
        if not trains:
            module.eval()
        return from_torch(module, args, sizes="alone")
    except (RuntimeError, ValueError, TypeError) as e:
        told = ", ".join(map(str, types))
        raise UnsupportedError(f"a {type(module).__name__} can't be put where it gets ({told}): {e}") from e
    finally:
        for m, mode in modes:
            m.training = mode
