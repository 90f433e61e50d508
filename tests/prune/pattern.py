"""Networks of one pattern each, and what pruning has to find in them: the table that test_patterns.py goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


class Net(nn.Module):
    """Some parts, and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


@dataclass(frozen=True)
class Pattern:
    """A network with inputs of a batch of 2, and what is expected of it.

    ``groups`` are the groups there are and how many units each has (those of one module together); ``verdict`` how
    a network without some is one with zeros: exact, norms (but for norms), told (but for other ops that are named),
    none (nothing goes); ``says`` is found in what stops dimensions or in why a plan isn't exact.
    """

    build: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]
    groups: Mapping[str, int | list[int]]
    verdict: str
    says: str
    train: bool

    def made(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """The module, with its norms moved away from the identity, and the inputs."""
        from tests.networks import perturb

        torch.manual_seed(0)
        module, args = self.build()
        perturb(module)
        return module.train(self.train), args


#: By name.
PATTERNS: dict[str, Pattern] = {}


def pattern(
    groups: Mapping[str, int | list[int]], verdict: str = "exact", says: str = "", train: bool = False
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Put a function that builds a network into the table, under its name."""

    def add(build: Callable[[], Any]) -> Callable[[], Any]:
        PATTERNS[build.__name__] = Pattern(build, groups, verdict, says, train)
        return build

    return add


def image(channels: int = 3, side: int = 8, batch: int = 2) -> torch.Tensor:
    """A batch of random images."""
    return torch.randn(batch, channels, side, side)
