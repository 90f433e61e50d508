"""The examples of the first documents, verbatim but for the imports, with totals worked out by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tdagger import SafeDAG, TensorDAG

F32 = 4  # bytes


def test_names() -> None:
    assert SafeDAG is TensorDAG


def test_the_first_example(capsys) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x.permute(0, 2, 3, 1)) * 2.0

    model = Model()
    example_input = torch.rand((10, 20, 30, 40))

    traced_model = torch.jit.trace(model, example_input)
    safe_dag = SafeDAG.from_torchscript(traced_model)

    print(safe_dag.graph.total_bytes())
    print(safe_dag.graph.total_flops())
    print(safe_dag.graph.total_memory_reads())
    print(safe_dag.graph.total_memory_writes())

    reconstructed_model = safe_dag.to_torchscript()
    assert torch.allclose(traced_model(example_input), reconstructed_model(example_input))

    n = 10 * 20 * 30 * 40
    constant = F32  # the 2.0
    flops = n + n  # relu compares each element with 0, then each is multiplied
    reads = F32 * (n + n + n) + constant  # permute, relu, multiply
    writes = F32 * (n + n + n)
    assert capsys.readouterr().out.split() == [str(constant), str(flops), str(reads), str(writes)]


def test_the_second_example(capsys) -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()

            self.to_add = torch.nn.Parameter(torch.ones(1, dtype=torch.float32))
            self.register_buffer("my_buffer", torch.ones(48) * 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.to_add + self.my_buffer
            x = x - self.my_buffer
            x = x * self.my_buffer
            x = x / self.my_buffer
            x = F.unfold(x, kernel_size=(2, 2), stride=3, dilation=1, padding=1)
            x = F.fold(x, output_size=(30, 48), kernel_size=(2, 2), stride=3, dilation=1, padding=1)
            x = x[:, :10, 10:, 10:-10]
            x = torch.nn.functional.pad(x, (1, 1, 2, 0, 0, 2, 1, 1))
            x = x.permute(1, 2, 3, 0)
            x = torch.sum(x, dim=(0, -1))
            x = x.reshape(2, 11, 15, 2)
            x = x.unsqueeze(0)
            x = x.squeeze(0)
            x = -x
            x = torch.abs(x)
            x = torch.sin(x)
            x = torch.nn.functional.leaky_relu(x)

            return x

    model = Model()
    example_input = torch.rand((10, 20, 30, 48))

    traced_model = torch.jit.trace(model, example_input)
    safe_dag = SafeDAG.from_torchscript(traced_model)

    print(safe_dag.graph.total_bytes())
    print(safe_dag.graph.total_flops())
    print(safe_dag.graph.total_memory_reads())
    print(safe_dag.graph.total_memory_writes())

    reconstructed_model = safe_dag.to_torchscript()
    assert torch.allclose(traced_model(example_input), reconstructed_model(example_input))

    n = 10 * 20 * 30 * 48  # the input
    columns = 10 * (20 * 2 * 2) * (11 * 17)  # unfold: 11 x 17 windows of 2 x 2 over the padded 32 x 50
    sliced = [10 * 10 * 30 * 48, 10 * 10 * 20 * 48, 10 * 10 * 20 * 28]  # one axis after the other
    padded = 12 * 12 * 22 * 30
    small = 22 * 30  # what the sum leaves

    total_bytes = F32 * (1 + 48)  # to_add and my_buffer
    flops = (
        5 * n  # + + - * /
        + 0  # the windows are 2 wide and 3 apart: folding adds nothing up
        + (12 * 12 - 1) * small  # sums of 144 numbers
        + 3 * small  # neg, abs, sin
        + 3 * small  # leaky_relu: compare, multiply by the slope, choose
    )
    reads = F32 * (
        (n + 1)  # x + to_add: a broadcast argument is read once
        + 4 * (n + 48)  # + - * / with my_buffer
        + n  # unfold
        + columns  # fold
        + sum(sliced)  # a slice reads what it keeps
        + sliced[-1]  # pad
        + padded  # permute
        + padded  # sum
        + 3 * small  # neg, abs, sin; reshape, unsqueeze and squeeze only rename axes
        + small  # leaky_relu
    )
    writes = F32 * (5 * n + columns + n + sum(sliced) + padded + padded + small + 3 * small + small)
    printed = [int(line) for line in capsys.readouterr().out.split()]
    assert printed == [total_bytes, flops, reads, writes]
