"""Small networks that surgery is tested on, and the same change made in torch to compare with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from tests.networks import NETWORKS, perturb


class Block(nn.Module):
    """A residual block; not every convolution has a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act2(x + self.conv2(self.act1(self.bn1(self.conv1(x)))))


class ResNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.layers = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layers(self.act(self.stem(x))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, (h, _) = self.lstm(x)
        return self.head(y), h


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A module with random weights, its norms moved away from nothing, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build()
        perturb(module)
    return module.eval()


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """A module with its network and an input: ``edited`` is a copy of the module to change."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs or {}
        self.dag = td.from_torch(module, args, self.kwargs)

    @property
    def edited(self) -> Any:
        return copy.deepcopy(self.module)

    def outputs(self, module: Any) -> Any:
        with torch.no_grad():
            return module(*self.args, **self.kwargs)

    def assert_like(self, dag: td.TensorDAG, module: nn.Module) -> None:
        """The network, exported, gives what the module gives; numpy does too."""
        want, got = self.outputs(module), self.outputs(dag.to_torch())
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="session")
def resnet() -> Case:
    return Case(seeded(ResNet), (random(2, 3, 8, 8),))


@pytest.fixture(scope="session")
def recurrent() -> Case:
    return Case(seeded(Recurrent), (random(2, 5, 6),))


@pytest.fixture(scope="session")
def vit() -> Case:
    import timm

    module = seeded(lambda: timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=10))
    return Case(module, (random(2, 3, 32, 32),))


@pytest.fixture(scope="session")
def gpt2() -> Case:
    network = NETWORKS["GPT2LMHeadModel"](small=True)
    kwargs = {"input_ids": network.kwargs["input_ids"], "use_cache": False, "return_dict": False}
    return Case(network.module, (), kwargs)
