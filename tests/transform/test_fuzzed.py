"""What random programs found wrong at other sizes and with a batch more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tdagger as td


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x.mean().detach())
        return x + self.seen


class _Chunks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum((t.mean() for t in x.chunk(3, -1)), torch.zeros(()))


class _Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, _ = torch.split(x, (x.size(1) + 1) // 2, 1)
        return a


def test_a_batch_that_a_buffer_would_get_is_refused() -> None:
    dag = td.from_torch(_Counting(), (torch.randn(3, 2),))
    with pytest.raises(td.AxisError, match=r"buffer 'seen', f32\[\], is given .*test_fuzzed.py:18.* in every run"):
        dag.batch(2)


def test_a_formula_of_uneven_chunks_is_what_is_counted_or_refused() -> None:
    dag = td.from_torch(_Chunks(), (torch.randn(2, 8),))
    formula = dag.cost_formula("flops")
    (name,) = [n for n, size in formula.names.items() if size == 8]
    for n in (9, 15, 18):
        assert formula(**{name: n}) == dag.resize(x=(2, n)).graph.total_flops()
    with pytest.raises(td.AxisError, match="the last of chunks"):
        formula(**{name: 16})  # 6, 6 and 4: not a third, rounded down


def test_a_formula_of_two_axes_of_one_size_tells_them_apart() -> None:
    """What was counted for one of them, of which no formula holds, isn't given for the other."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.nn.functional.adaptive_avg_pool1d(x[..., -1], 2), x @ x.transpose(-1, -2)

    dag = td.from_torch(Net(), torch.randn(3, 4, 6, 6))
    formula = dag.cost_formula("flops")
    _, _, h, w = dag.axes().show(dag.graph.inputs["x"]).split("[")[1].rstrip("]").split()
    for sizes in ((7, 6), (12, 6), (6, 7), (6, 12), (7, 12)):
        resized = dag.resize({"x": (3, 4, *sizes)})
        assert formula(**dict(zip((h, w), sizes, strict=True))) == resized.graph.total_flops()


def test_a_script_that_fails_at_other_sizes_is_no_source_for_them() -> None:
    x = torch.randn(3, 2)
    dag = td.from_torch(torch.jit.trace(_Halves(), x), (x,))
    found = dag.resizable_axes()
    assert len(found.free) == len(found.fixed) == 1
