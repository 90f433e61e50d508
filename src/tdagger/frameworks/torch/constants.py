"""Constants of torch by their names, for ops that a file has as external ones: a closed set."""

from __future__ import annotations

import re
from typing import Any

import torch

from tdagger.errors import FileError
from tdagger.names import shown

_DEVICE = re.compile(r"(cpu|cuda|mps|meta|xpu)(:\d{1,3})?")
_KINDS: dict[str, type] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def constant(kind: str, name: str) -> Any:
    """The constant that ``str`` gives the name of; FileError if torch has none of that kind.

    >>> constant("dtype", "torch.float32"), constant("device", "cpu")
    (torch.float32, device(type='cpu'))
    """
    if kind == "device" and _DEVICE.fullmatch(name):
        return torch.device(name)
    wanted = _KINDS.get(kind)
    found = vars(torch).get(name.removeprefix("torch.")) if wanted is not None else None
    if wanted is None or not isinstance(found, wanted):
        raise FileError(f"torch has no {shown(kind)} called {shown(name)}")
    return found
