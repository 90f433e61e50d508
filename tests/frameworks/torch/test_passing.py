"""Modules that give back what they take come back where they were: hooks see them, and replacing them has an effect."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tdagger as td
from tdagger.network import Pass


class DropPath(nn.Module):
    """As timm's: what it takes, unless it trains."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if self.training else x


class Branches(nn.Module):
    """A residual branch, a shortcut, a chain of two, one called twice on two shapes, one on the way out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.shortcut = nn.Identity()
        self.scale = nn.Identity()
        self.path = DropPath()
        self.drop = nn.Dropout(0.0)
        self.spatial = nn.Dropout2d(0.25)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.spatial(self.conv(x)))
        y = self.shortcut(x) + self.path(self.scale(self.drop(y)))
        y = self.path(y.mean((2, 3)))
        return self.last(y)


def calls_of(module: nn.Module, *args: Any) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """What hooks on all modules without modules see."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(path: str, own: nn.Module) -> Any:
        def hook(_: nn.Module, given: Any, out: Any) -> None:
            found.setdefault(path, []).append((given[0].clone(), out.clone()))

        return own.register_forward_hook(hook)

    handles = [watch(p, m) for p, m in module.named_modules() if p and not list(m.children())]
    with torch.no_grad():
        module(*args)
    for handle in handles:
        handle.remove()
    return found


def same_calls(back: nn.Module, net: nn.Module, *args: Any) -> None:
    got, want = calls_of(back, *args), calls_of(net, *args)
    assert {p: len(c) for p, c in got.items()} == {p: len(c) for p, c in want.items()}
    for path, calls in want.items():
        for (x, y), (own_x, own_y) in zip(calls, got[path], strict=True):
            if path != "act":  # writes in place what it was given
                torch.testing.assert_close(own_x, x, rtol=0, atol=0)
            torch.testing.assert_close(own_y, y, rtol=0, atol=0)


def test_each_is_called_where_it_was() -> None:
    net, x = Branches().eval(), torch.randn(2, 4, 3, 3)
    back = td.from_torch(net, x).to_torch()
    same_calls(back, net, x)
    for path in ("shortcut", "scale", "drop", "spatial", "last"):
        assert type(back.get_submodule(path)) is type(net.get_submodule(path))
    assert (back.drop.p, back.spatial.p) == (0.0, 0.25)
    assert type(back.path).__name__ == "DropPath"


def test_what_they_leave_in_the_graph_is_nothing() -> None:
    net, x = Branches().eval(), torch.randn(2, 4, 3, 3)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = net.conv

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.conv(x).relu()).mean((2, 3))

    assert td.from_torch(net, x).graph.outputs == td.from_torch(Bare(), x).graph.outputs


@pytest.mark.parametrize("path", ["shortcut", "scale", "path", "drop", "spatial", "last"])
def test_one_that_is_replaced_has_an_effect(path: str) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2.0

    net, x = Branches().eval(), torch.randn(2, 4, 3, 3)
    back = td.from_torch(net, x).to_torch()
    for module in (net, back):
        setattr(module, path, Twice())
    torch.testing.assert_close(back(x), net(x), rtol=0, atol=0)


def test_a_dropout_that_did_nothing_drops_when_it_trains() -> None:
    net, x = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout2d(0.5)).eval(), torch.randn(2, 4, 3, 3)
    back = td.from_torch(net, x).to_torch().train()
    net.train()
    torch.manual_seed(0)
    want = net(x)
    torch.manual_seed(0)
    assert torch.equal(back(x), want)


def test_one_in_eval_mode_stays_so_in_a_network_that_trains() -> None:
    net, x = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(0.5)).train(), torch.randn(2, 4, 3, 3)
    net[2].eval()
    back = td.from_torch(net, x).to_torch()
    assert torch.equal(back(x), net(x))
    assert not isinstance(back[2], nn.Dropout2d)


# --- who reads what ----------------------------------------------------------------------------------------


class Both(nn.Module):
    """``kind`` says who reads what."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.own = nn.Identity()
        self.other = nn.Identity()

    def forward(self, x: Tensor) -> Any:
        x = x + 1.0
        y = self.own(x)
        match self.kind:
            case "one argument of two":
                return x - y
            case "two ops":
                return x.exp() - y.sin()
            case "the same tensor":
                return x.exp() - x.to(x.dtype).sin() * y.flatten()
            case "one of two equal ops":
                return x.exp(), y.exp()
            case "one of two equal ops, the other later":
                return y.exp(), x.exp()
            case "each another":
                return y.exp(), self.other(x).exp()
            case "written after":
                x.mul_(2.0)
                return y * 3.0
            case "without gradients":
                with torch.no_grad():
                    return self.other(x) * 3.0
            case "both outputs":
                return x, y
            case _:
                return _which(self, x)


def _which(module: Both, x: Tensor) -> Tensor:
    y = module.own(x)
    return y if y is x else x * 100.0


#: Who reads what, and the modules that can be called.
KINDS: dict[str, set[str]] = {
    "two ops": {"own"},
    "the same tensor": {"own"},
    "one argument of two": set(),
    "one of two equal ops": set(),
    "one of two equal ops, the other later": set(),
    "each another": set(),
    "written after": set(),
    "without gradients": set(),
    "asks which": set(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_told_apart_is_named(kind: str) -> None:
    """The result is right, a module that is called sees what it saw, and one that isn't is named."""
    net, x = Both(kind).eval(), torch.randn(3)
    back = td.from_torch(net, x).to_torch()
    got, want = (torch.utils._pytree.tree_leaves(m(x)) for m in (back, net))
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    called, wanted = calls_of(back, x), calls_of(net, x)
    for path in wanted:
        if path in called:
            same_calls(back.get_submodule(path), net.get_submodule(path), x)
        else:
            assert f"# {path} (Identity): not called" in back.code
    assert set(called) == KINDS[kind]


def test_a_network_that_gives_a_tensor_twice() -> None:
    net, x = Both("both outputs").eval(), torch.randn(3)
    back = td.from_torch(net, x).to_torch()
    back.own = nn.ReLU()
    x1, y1 = back(x)
    assert torch.equal(x1, x + 1.0)
    assert torch.equal(y1, (x + 1.0).relu())


# --- what is kept ------------------------------------------------------------------------------------------


def test_origins_note_them() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.Identity(), nn.ReLU()).eval(), torch.randn(2, 3)
    dag = td.from_torch(net, x)
    out = dag.graph.outputs["out"]
    assert dag.origins[out].passes == (
        Pass("1", 0, "aten.linear.default", (), (("p", 0.0),)),
        Pass("2", 0, "aten.linear.default"),
    )
    assert list(dag.modules) == ["", "0", "1", "2", "3"]


def test_they_are_kept_by_what_keeps_origins() -> None:
    net, x = Branches().eval(), torch.randn(2, 4, 3, 3)
    dag = td.from_torch(net, x)
    wide = torch.randn(5, 4, 6, 6)
    same_calls(dag.resize({"b": 5, "h": 6, "w": 6}).to_torch(), net, wide)
    same_calls(pickle.loads(pickle.dumps(dag)).to_torch(), net, x)
    same_calls(copy.deepcopy(dag).to_torch(), net, x)
    assert calls_of(dag.unbatch().to_torch(), x[0])["path"][1][0].shape == (4,)


def test_in_another_network_they_have_its_paths() -> None:
    inner = td.from_torch(nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.ReLU()).eval(), torch.randn(2, 3))
    outer = td.from_torch(nn.Sequential(nn.Linear(3, 3), nn.Tanh()).eval(), torch.randn(2, 3))
    back = outer.replace_module("1", inner).to_torch()
    assert isinstance(back.get_submodule("1.1"), nn.Identity)
    assert len(calls_of(back, torch.randn(2, 3))["1.1"]) == 1


class Norm(nn.Module):
    """As the norms of transformers: what it casts is what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()
        self.drop = nn.Dropout2d(0.1)
        self.flat = nn.Flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sin()
        x = x + self.norm(x)
        x = x + self.drop(x)
        return x * self.flat(x)


def test_who_reads_the_same_tensor_reads_no_result() -> None:
    """torch gives the very tensor that such calls took: who reads that later doesn't read it through them."""
    net, x = Residual().eval(), torch.randn(2, 4, 3, 4)
    back = td.from_torch(net, x).to_torch()
    same_calls(back.norm, net.norm, x)
    got, want = calls_of(back, x), calls_of(net, x)
    assert {p: len(c) for p, c in got.items()} == {"norm": 1}
    assert torch.equal(got["norm"][0][1], want["norm"][0][1])
    assert all(f"# {p} (" in back.code for p in ("drop", "flat"))
