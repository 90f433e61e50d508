"""Files with sizes that are left open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tests.frameworks.open_sizes import CASES, axis_of
from tests.frameworks.tflite.litert import DEFAULT, PLAIN, interpreter

pytest.importorskip("tdagger.frameworks.tflite.exporter")


class Tokens(nn.Module):
    """What takes a size from an input: a token that is repeated, a transposed convolution, reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(torch.relu(self.conv(x))).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(x.softmax(-1))[:, :3]


def at(model: bytes, x: np.ndarray, kernels: Any) -> np.ndarray:
    """What a file gives of an input of another size than it says."""
    made = interpreter.Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=kernels)
    place = made.get_input_details()[0]["index"]
    made.resize_tensor_input(place, x.shape, strict=True)  # only sizes that are open
    made.allocate_tensors()
    made.set_tensor(place, x)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


@pytest.mark.parametrize("kernels", [DEFAULT, PLAIN], ids=["default", "plain"])
def test_any_batch(kernels: Any) -> None:
    module = Tokens().eval()
    dag = td.from_torch(module, torch.rand(2, 3, 8, 8))
    model = dag.to_tflite(dynamic=("b",))
    for b in (1, 2, 5):
        x = torch.rand(b, 3, 8, 8)
        np.testing.assert_allclose(at(model, x.numpy(), kernels), module(x).detach().numpy(), rtol=1e-4, atol=1e-6)


class Expanded(nn.Module):
    """What repeats constants over the batch: states, positions, queries, masks, places that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.table, self.up = nn.GRU(8, 8, batch_first=True), nn.Embedding(5, 8), nn.Linear(8, 8)
        self.query, self.attend = nn.Parameter(torch.randn(3, 8)), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = x.shape[0]
        places = torch.arange(5).expand(b, -1)
        x = self.gru(x)[0] + self.up(self.table(places))
        x = x.masked_fill(places[..., None].expand(b, 5, 8) > 3, 0.5)
        x = x + x.gather(1, (places * 2 % 5)[..., None].expand(b, 5, 8))
        x = torch.cat([x, torch.zeros(b, 1, 8), torch.stack([x[:, 0], torch.ones_like(x[:, 0])], 1)], 1)
        return self.attend(self.query.expand(b, -1, -1), x, x)[0]


class Warped(nn.Module):
    """A picture read at places that are the same for all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = torch.linspace(-1, 1, 6)
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).expand(x.shape[0], -1, -1, -1)
        return nn.functional.grid_sample(x, grid * 0.7, align_corners=False)


@pytest.mark.parametrize(("module", "shape"), [(Expanded(), (5, 8)), (Warped(), (2, 6, 6)), (
    nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (4, 5, 5))], ids=["expanded", "warped", "grouped"])  # fmt: skip
def test_constants_repeated_over_the_batch_follow_it(module: nn.Module, shape: tuple[int, ...]) -> None:
    model = td.from_torch(module.eval(), torch.rand(2, *shape)).to_tflite(dynamic=("b",))
    for b in (1, 2, 7):
        x = torch.rand(b, *shape)
        np.testing.assert_allclose(at(model, x.numpy(), DEFAULT), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_open_is_said_and_read_again() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)).eval()
    model = td.from_torch(module, torch.rand(1, 3, 8, 6)).to_tflite(dynamic=("b", "h", "w"))
    details = interpreter.Interpreter(model_content=model).get_input_details()[0]
    assert details["shape"].tolist() == [1, 3, 8, 6]
    assert details["shape_signature"].tolist() == [-1, 3, -1, -1]
    x = torch.rand(2, 3, 12, 10)
    np.testing.assert_allclose(at(model, x.numpy(), PLAIN), module(x).detach().numpy(), rtol=1e-4, atol=1e-6)
    back = td.from_tflite(model)
    (name,) = back.graph.inputs
    again = td.from_tflite(model, inputs={name: x.shape})
    np.testing.assert_allclose(again.run(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_what_cannot_be_open_is_named() -> None:
    flat = td.from_torch(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval(), torch.rand(2, 3, 4))
    with pytest.raises(td.AxisError, match="can't be of any size"):
        flat.to_tflite(dynamic=("c",))
    odd = td.network(lambda x: td.gather(x, td.const([0, 2, 1]), 1) * td.const(np.ones((1, 3), "f")), {"x": (2, 3)})
    with pytest.raises(td.AxisError, match=r"can't be of any size"):
        odd.to_tflite(dynamic=("n",))


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_follow_from_a_size(name: str) -> None:
    """Rounded down, counted to, and sizes of what windows give."""
    case = CASES[name]
    module = case.module.eval()
    dag = td.from_torch(module, torch.rand(case.shape))
    model = dag.to_tflite(dynamic=(axis_of(dag, case),))
    for n in case.sizes:
        x = case.at(n)
        np.testing.assert_allclose(at(model, x.numpy(), DEFAULT), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
