"""Networks through files, and by hand as files have them: a fault is told where it is, and once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tests.networks import perturb
from tests.transform import diff_cases


class Attention(nn.Module):
    """Two blocks of attention; as files have it, queries are scaled instead of scores and products aren't layers."""

    def __init__(self, file: bool = False, eps: float = 1e-5, scale: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList([nn.LayerNorm(4, eps=eps if i == 0 else 1e-5) for i in range(2)])
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.file, self.scale = file, scale
        perturb(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y = norm(x)
            by, after = (self.scale, 1.0) if self.file else (1.0, self.scale)
            y = ((y * by) @ y.transpose(-2, -1) * after).softmax(-1) @ y
            x = x + (y @ layer.weight.T + layer.bias if self.file else layer(y))
        return x


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_what_is_scaled_elsewhere_isnt_blamed_for_a_fault_before_it() -> None:
    right = Attention()
    assert td.diff(right, Attention(file=True), X).verdict == "rounding"
    for fault in (1e-3, 3e-5):  # the second one is small
        diff = td.diff(right, Attention(file=True, eps=fault), X)
        assert [diff.module(d) for d in diff.differences] == ["norms.0"], str(diff)
    diff = td.diff(right, Attention(file=True, scale=0.51), X)
    assert diff.verdict == "different"


def test_a_square_matrix_that_lies_otherwise_in_two_files_is_no_difference() -> None:
    """One holds ``w`` and the other its transpose, under the same name and of the same shape."""
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)

    def one(w: Any, x: Any) -> Any:
        return td.linear(x, w)

    def other(w: Any, x: Any) -> Any:
        return td.matmul(x, w)

    def as_network(layer: Callable[[Any, Any], Any], held: Any) -> td.TensorDAG:
        x = td.input("x", (3, 4))
        return td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": layer(td.parameter("w", (4, 4)), x)}), {"w": held})

    a, b = as_network(one, weight), as_network(other, np.ascontiguousarray(weight.T))
    assert td.diff(a, b, X[0, :3].numpy()).verdict == "rounding"
    assert td.diff(a, as_network(other, weight), X[0, :3].numpy()).verdict == "different"


class Images(nn.Module):
    """Convolutions with norms, which files fold."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.two(torch.relu(self.bn1(self.one(x)))))).mean((2, 3))


def _other_eps(eps: float) -> Callable[[Any], None]:
    return lambda m: setattr(m.bn1 if eps < 1e-3 else m.bn2, "eps", eps)


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        (_other_eps(1e-4), "bn1"),
        (_other_eps(1e-2), "bn2"),
        (lambda m: m.bn1.bias.data.mul_(1.1), "bn1"),
        (lambda m: m.bn2.running_mean.data.add_(0.01), "bn2"),
        (lambda m: m.one.weight.data[0].copy_(m.one.weight.data[0].flip(1)), "one"),
        (lambda m: m.two.weight.data.copy_(m.two.weight.data.flip(1)), "two"),
    ],
)
def test_a_fault_in_a_folded_norm_or_its_layer_is_told_at_that(
    fault: Callable[[Any], Any], at: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = Images().eval().requires_grad_(False)
    perturb(net)
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    dag = td.from_torch(net, x)

    def as_file(module: nn.Module) -> td.TensorDAG:
        td.from_torch(module, x).to_tflite(tmp_path / "net.tflite")
        return td.from_tflite(tmp_path / "net.tflite")

    wrong = copy.deepcopy(net)
    fault(wrong)
    diff = td.diff(dag, as_file(wrong), x)
    assert [diff.module(d) for d in diff.differences] == [at], str(diff)


def test_a_pair_of_other_shapes_is_compared(tmp_path: Path) -> None:
    """ONNX scatters by an index for each number, torch by one for each row: these are a pair."""

    class Graphs(nn.Module):
        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]).sum(1)

    edges = torch.randint(0, 5, (2, 9), generator=torch.Generator().manual_seed(0))
    dag = td.from_torch(Graphs(), (X[0], edges))
    dag.to_onnx(tmp_path / "net.onnx")
    assert td.diff(dag, td.from_onnx(tmp_path / "net.onnx"), (X[0], edges)).verdict == "rounding"


class Block(nn.Module):
    """Layers of square matrices behind a norm; what they give is small beside what it is added to."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(4, eps=eps)
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4, bias=False) for _ in range(4))
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)
        for layer in (self.o, self.second):
            layer.weight.data *= 1e-3
            nn.init.zeros_(self.second.bias)
        self.narrow = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(x * 3.0)
        y = self.norm(x)
        x = x + self.o((self.q(y) @ self.k(y).transpose(-2, -1)).softmax(-1) @ self.v(y))
        y = self.norm(x)
        return x + self.second(torch.relu(self.first(y.bfloat16().float() if self.narrow else y)))


def _swapped(net: Block) -> None:
    net.v, net.o = net.o, net.v


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        (lambda net: setattr(net.norm, "eps", 3e-5), ["norm"]),
        (lambda net: setattr(net.norm, "eps", 1.001e-5), ["norm"]),  # what it does fades behind it
        (_swapped, ["v", "o"]),
        (lambda net: setattr(net, "narrow", True), ["Cast"]),
    ],
)
def test_a_fault_before_or_in_products_that_lie_otherwise_is_told_there_alone(
    fault: Callable[[Any], Any], at: list[str], tmp_path: Path
) -> None:
    net = Block().eval().requires_grad_(False)
    dag = td.from_torch(net, X)

    def as_file(module: nn.Module) -> td.TensorDAG:
        td.from_torch(module, X).to_onnx(tmp_path / "net.onnx")
        return td.from_onnx(tmp_path / "net.onnx")

    assert td.diff(dag, as_file(net), X).verdict == "rounding"
    wrong = copy.deepcopy(net)
    fault(wrong)
    diff = td.diff(dag, as_file(wrong), X)
    assert diff.verdict == "different"
    told = [diff.module(d) if d.a is not None else d.b.op.name.title() for d in diff.differences]
    assert list(dict.fromkeys(told)) == at, str(diff)


@pytest.mark.parametrize("behind", ["layer_norm", "linear"])
def test_a_fault_in_tokens_of_images_that_lie_otherwise_is_told_there(behind: str, tmp_path: Path) -> None:
    """Behind a norm the class token of a ViT is off, while the rows of the patches let all of the sum be further apart.

    Behind a layer the sum has channels last as in PyTorch, though the image before it hasn't.
    """
    module, args = diff_cases.built("ViT")
    dag = td.from_torch(module, args)
    inserted = [(f, f.places[0][1].args[0]) for f in diff_cases.casts(dag)]
    fault = next(f for f, v in inserted if v.op.name == behind and v.shape == (2, 17, 16))
    fault.network.to_tflite(tmp_path / "net.tflite")
    first, *others = td.diff(dag, td.from_tflite(tmp_path / "net.tflite"), args).differences
    assert first.a is None
    assert str(first.b).startswith("<cast")
    assert not any(d.matters for d in others)


class Windows(nn.Module):
    """Windows of an image through layers: rows and columns change places where ``order`` has them so."""

    def __init__(self, order: tuple[int, ...] = (0, 2, 3, 1)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.conv, self.norm, self.up, self.down = (
            nn.Conv2d(3, 6, 2, 2),
            nn.LayerNorm(6),
            nn.Linear(6, 9),
            nn.Linear(9, 6),
        )
        perturb(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).permute(self.order)
        windows = self.norm(x).reshape(-1, 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 6)
        return self.down(torch.relu(self.up(windows))) + windows


def test_what_is_put_at_other_places_is_told_once(tmp_path: Path) -> None:
    """Layers behind it, whose weights lie otherwise in files, aren't told too."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    td.from_torch(Windows((0, 3, 2, 1)), x).to_onnx(tmp_path / "net.onnx")
    differences = td.diff(Windows(), td.from_onnx(tmp_path / "net.onnx"), x).differences
    assert [d.a.op.name for d in differences if d.a is not None] == ["permute"]
