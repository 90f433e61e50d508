"""What stands beside a network's class: looked through, and put back, where its code can get at it, and only there.

The globals here are those of a notebook: a data set, tensors, and what the networks themselves write to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tdagger as td
from tdagger.frameworks.torch.capture.attributes import Attributes

#: Nothing that a network names: more than a few, so that somebody asks who does.
SAMPLES = [[i, {"label": i % 10}] for i in range(1000)]
IMAGES = torch.zeros(1000, 3)
SCALE = torch.tensor(2.0)
WRITTEN: list[Any] = []


def write(x: Tensor) -> None:
    WRITTEN.append(x)


TABLE: dict[str, Callable[[Tensor], None]] = {"write": write}


def around(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapped(self: nn.Module, x: Tensor) -> Tensor:
        return function(self, x) * SCALE

    return wrapped


def hook(module: nn.Module, args: Any, out: Tensor) -> None:
    write(out)


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Direct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        WRITTEN.append(x)
        return x + 1


class ByTable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        TABLE["write"](x)
        return x + 1


class Inherited(ByTable):
    pass


class ByEval(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        eval("WRITTEN").append(x)
        return x + 1


class Wrapped(nn.Module):
    @around
    def forward(self, x: Tensor) -> Tensor:
        write(x)
        return x + 1


class Helper:
    def __call__(self, x: Tensor) -> None:
        write(x)


class ByObject(nn.Module):
    def __init__(self, helper: Any) -> None:
        super().__init__()
        self.helper = helper

    def forward(self, x: Tensor) -> Tensor:
        self.helper(x)
        return x + 1


class Property(nn.Module):
    @property
    def written(self) -> list[Any]:
        return WRITTEN

    def forward(self, x: Tensor) -> Tensor:
        self.written.append(x)
        return x + 1


def hooked() -> nn.Module:
    module = Plain()
    module.register_forward_hook(hook)
    return module


#: Networks that write to a global, each by another way.
WRITERS: dict[str, Callable[[], nn.Module]] = {
    "direct": Direct, "by a table": ByTable, "inherited": Inherited, "by eval": ByEval, "wrapped": Wrapped,
    "by an object": lambda: ByObject(Helper()), "by a function": lambda: ByObject(write),
    "by a partial": lambda: ByObject(functools.partial(write)), "by a lambda": lambda: ByObject(lambda x: write(x)),
    "by a method": lambda: ByObject(Helper().__call__), "by a property": Property, "by a hook": hooked,
    "inside another": lambda: nn.Sequential(nn.Identity(), Direct()),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_network_writes_to_is_put_back(name: str) -> None:
    before = len(WRITTEN)
    td.from_torch(WRITERS[name](), torch.randn(2, 3))
    assert len(WRITTEN) == before


def test_by_a_hook_of_all_modules() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(hook)
    try:
        before = len(WRITTEN)
        td.from_torch(Plain(), torch.randn(2, 3))
        assert len(WRITTEN) == before
    finally:
        handle.remove()


def test_data_beside_a_network_is_not_looked_through() -> None:
    """Neither is it copied, as what a network may change is."""
    found = Attributes(Plain())
    assert not found.tensors
    assert len(found.boxes) < 100
    wrapped = Attributes(Wrapped())
    assert [t is SCALE for _, t in wrapped.tensors] == [True]
    assert not any(box.of is SAMPLES for box in wrapped.boxes)
    everything = Attributes(ByEval())
    assert any(t is IMAGES for _, t in everything.tensors)


def test_a_tensor_beside_a_network_is_a_constant_of_it() -> None:
    x = torch.randn(2, 3)
    module = td.from_torch(Wrapped(), x).to_torch()
    torch.testing.assert_close(module(x), (x + 1) * 2)
