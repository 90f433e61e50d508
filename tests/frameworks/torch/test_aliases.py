"""What shares memory with what, by every entrance: writes to a result, to its base, and through views of views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tdagger as td

#: Ops that give a view, a copy or their argument, by schema, strides and flags.
RESULTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "reshape": lambda v: v.reshape(8, 2),
    "reshape of a row": lambda v: v[1].reshape(2, 2),
    "reshape of columns": lambda v: v[:, 1:3].reshape(-1),
    "reshape of every other": lambda v: v[::2].reshape(-1),
    "reshape of a transpose": lambda v: v.T.reshape(-1),
    "flatten of a column": lambda v: v.select(1, -1).flatten(),
    "ravel": lambda v: v.ravel(),
    "view": lambda v: v[1:3].view(2, 2, 2),
    "unflatten": lambda v: v.unflatten(1, (2, 2)),
    "contiguous": lambda v: v.contiguous(),
    "contiguous of a transpose": lambda v: v.T.contiguous(),
    "channels last": lambda v: v[None, None].contiguous(memory_format=torch.channels_last),
    "to itself": lambda v: v.to(torch.float32),
    "type_as": lambda v: v.type_as(v),
    "feature dropout in eval": lambda v: F.dropout1d(v, training=False),
    "alpha dropout in eval": lambda v: F.alpha_dropout(v, training=False),
    "positive": lambda v: torch.positive(v),
    "real": lambda v: torch.real(v),
    "conj": lambda v: torch.conj(v),
    "resolve_conj": lambda v: v.resolve_conj(),
    "atleast_3d": lambda v: torch.atleast_3d(v),
    "broadcast_to": lambda v: torch.broadcast_to(v, (4, 4)),
    "tensor_split": lambda v: v.tensor_split(3, 1)[1],
    "split": lambda v: v.split([1, 3])[1],
    "chunk": lambda v: v.chunk(2, 1)[1],
    "unbind": lambda v: v.unbind(1)[2],
    "hsplit": lambda v: v.hsplit(2)[1],
    "diagonal": lambda v: v[:3, :3].diagonal(),
    "rot90 by nothing": lambda v: v.rot90(0),
    "roll by nothing": lambda v: v.roll(0, 0),
    "flip of nothing": lambda v: v.flip(()),
    "tile once": lambda v: v.tile(1),
    "pad by nothing": lambda v: F.pad(v, (0, 0)),
    "cat of one": lambda v: torch.cat([v]),
    "cartesian_prod of one": lambda v: torch.cartesian_prod(v[0]),
    "mT": lambda v: v.mT,
    "H": lambda v: v.H,
    "moveaxis": lambda v: v.moveaxis(0, 1),
    "squeeze": lambda v: v[:1].squeeze(),
    "narrow": lambda v: v.narrow(0, 1, 2),
    "index by a list": lambda v: v[[0, 1]],
    "index by an ellipsis": lambda v: v[..., 1],
    "detach": lambda v: v.detach(),
    "clone": lambda v: v.clone(),
    "expand": lambda v: v.expand(4, 4),
    "expand_as": lambda v: v.expand_as(v),
    "interpolate by 1": lambda v: F.interpolate(v[None], size=4)[0],
    "identity": lambda v: nn.Identity()(v),
    "bits": lambda v: v.view(torch.int32),
}


#: Of these torch.jit.trace drops the write, as their schemas say nothing of a view, or fails.
_LOST = {"atleast_3d", "cartesian_prod of one", "bits", "feature dropout in eval"}


class _Writes(nn.Module):
    """Writes to a result, and returns its base; or the other way round."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], base: bool) -> None:
        super().__init__()
        self.function, self.base = function, base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = x * 1
        u = self.function(v)
        if self.base:
            v.mul_(3)
            return u * 1
        u.zero_()
        return v


def _same(module: nn.Module, x: torch.Tensor, via: Any) -> None:
    want = module(x.clone())
    dag = td.from_torch(module, x, via=via)
    assert torch.equal(dag.to_torch(fixed=True)(x.clone()), want)


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_shares_memory_as_in_torch(name: str, base: bool, via: Any) -> None:
    if via == "trace" and name in _LOST:
        pytest.skip("torch.jit.trace doesn't record the write, or fails")
    _same(_Writes(RESULTS[name], base), torch.rand(4, 4) + 1, via)


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.to(memory_format=torch.channels_last)


#: Writes through views of views; in channels_last the same call may be the other of view and copy.
WRITES: dict[str, tuple[Callable[[torch.Tensor], Any], tuple[int, ...], bool]] = {
    "flatten": (lambda v: v.flatten(1).add_(5), (2, 3, 4, 4), False),
    "flatten of channels_last": (lambda v: v.flatten(1).add_(5), (2, 3, 4, 4), True),
    "contiguous of channels_last": (lambda v: v.contiguous().add_(5), (2, 3, 4, 4), True),
    "channels_last of channels_last": (
        lambda v: v.contiguous(memory_format=torch.channels_last).add_(5), (2, 3, 4, 4), True,
    ),
    "permuted to rows": (lambda v: v.permute(0, 2, 3, 1).reshape(2, 16, 3).add_(5), (2, 3, 4, 4), True),
    "every other": (lambda v: v[:, :, ::2].flatten(1).mul_(0), (2, 3, 4), False),
    "a column": (lambda v: v[..., :1].flatten(-2).zero_(), (2, 3, 4), False),
    "a transpose": (lambda v: v.transpose(1, 2).reshape(2, -1).zero_(), (2, 3, 4), False),
    "chunks": (lambda v: [c.add_(i) for i, c in enumerate(v.chunk(3, -1))], (2, 3, 6), False),
    "a diagonal": (lambda v: v.diagonal(0, 1, 2)[:, 1:].fill_(7), (2, 3, 3), False),
    "rows of rows": (lambda v: v[0][1].view(2, 2)[1].fill_(9), (2, 3, 4), False),
    "numbers": (lambda v: v.T.reshape(4, 3)[0].copy_(torch.arange(3.0)), (4, 3), False),
}  # fmt: skip


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors")
def test_writes_through_views(name: str, via: Any) -> None:
    write, shape, last = WRITES[name]

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            v = x.relu()
            write(v)
            return v

    x = torch.randn(shape)
    _same(Net(), _last(x) if last else x, via)


class _Scripted(nn.Module):
    def forward(self, x: torch.Tensor, training: bool = False) -> torch.Tensor:
        v = x * 1
        v[0].reshape(-1).zero_()
        v.t().reshape(-1).mul_(0)
        u = F.dropout(v, 0.5, training)
        u[1:].add_(2)
        return u


def test_a_script_shares_memory_as_in_torch() -> None:
    script, x = torch.jit.script(_Scripted()), torch.randn(3, 4)
    assert torch.equal(td.from_torch(script, (x,)).to_torch()(x), script(x))


#: Views in torch, of which no op here says how a write comes back.
REFUSED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "dropout in eval": (
        lambda v: F.dropout(v, training=False),
        r"multiply was written through dropout\(p=0.5\), a view",
    ),
    "einsum": (lambda v: torch.einsum("ij->ji", v), "multiply was written through einsum"),
    "meshgrid": (lambda v: torch.meshgrid(v[0], v[1], indexing="ij")[0], "can't write to an expanded tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_write_that_does_not_come_back_is_refused(name: str) -> None:
    function, why = REFUSED[name]
    with pytest.raises(td.UnsupportedError, match=why):
        td.from_torch(_Writes(function, False), torch.rand(4, 4))


def test_a_write_to_what_nobody_else_reads_is_none_to_a_view() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.dropout(x * 2, training=self.training)
            y += x
            return y

    _same(Net().eval(), torch.rand(4, 4), "export")


@pytest.mark.parametrize("part", ["conj", "real", "imag"])
@pytest.mark.parametrize("via", ["export", "trace"])
def test_parts_of_complex_numbers_are_views(part: str, via: Any) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            v = torch.complex(x, x + 1)
            getattr(torch, part)(v)[:, :1].add_(4)
            return torch.view_as_real(v)

    _same(Net(), torch.randn(2, 3), via)


def test_writing_to_windows_is_refused() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            v = x * 1
            v.unfold(1, 2, 1).zero_()
            return v

    with pytest.raises(td.UnsupportedError, match="can't write through unfold"):
        td.from_torch(Net(), torch.randn(2, 4))


#: Ops that give a view or a copy as the sizes are.
OF_SIZES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flatten": lambda v: v.flatten(1, 2),
    "flatten of a transpose": lambda v: v.transpose(1, 2).flatten(1, 2),
    "contiguous": lambda v: v.transpose(1, 2).contiguous(),
    "reshape": lambda v: v.permute(0, 3, 1, 2).reshape(2, 4, -1),
    "without a gradient": torch.no_grad()(lambda v: v.permute(0, 3, 1, 2).reshape(2, 4, -1)),
}


@pytest.mark.parametrize("name", OF_SIZES)
@pytest.mark.parametrize("sizes", [(3, 4), (1, 4), (3, 1)])
def test_sizes_that_torch_takes_for_data(name: str, sizes: tuple[int, int]) -> None:
    """torch.export has symbols for entries of a constant, and leaves open what is a view of such sizes."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h, w = [n.item() for n in torch.tensor(sizes)]
            rows, columns = torch.arange(h), torch.arange(w)
            v = x[:, None, None] * (rows[:, None] + columns)[None, :, :, None]
            z = OF_SIZES[name](v)
            z.add_(1)
            return v, z

    module, x = Net(), torch.randn(2, 4)
    back = td.from_torch(module, x).to_torch()
    torch.testing.assert_close(back(x), module(x))


#: Ops of transposed tensors whose results lie in memory otherwise than those without data.
OTHERWISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "batch norm": lambda x: F.batch_norm(x.transpose(0, -1), torch.zeros(3), torch.ones(3)).abs() + 1,
    "instance norm": lambda x: F.instance_norm(x.transpose(0, -1)),
    "log sigmoid": lambda x: F.logsigmoid(x.transpose(0, -1)),
    "logical and": lambda x: torch.logical_and(x[:, :1].mT, x[0].mT) * 2.0,
    "logaddexp": lambda x: torch.logaddexp(x[:, :1].mT, x[0].mT),
    "heaviside": lambda x: torch.heaviside(x[:, :1].mT, x[0].mT),
    "xlogy": lambda x: torch.xlogy(x.mT.exp(), x[:1, 0].exp().mT),
    "divided by a tensor": lambda x: x.transpose(0, -1) / (x[0, 0, 0].abs() + 1),
    "padded": lambda x: F.pad(
        x[None, :, None].to(memory_format=torch.channels_last_3d), (1, 1, 0, 0, 0, 0), "replicate"
    ),
    "shuffled": lambda x: torch.channel_shuffle(x.repeat(2, 1, 1)[None].to(memory_format=torch.channels_last), 2),
    "a product": lambda x: x.transpose(0, -1) * 2.0,
}


@pytest.mark.parametrize("via", ["export", "trace", "torchscript"])
@pytest.mark.parametrize("name", OTHERWISE)
def test_results_that_lie_otherwise_than_without_data(name: str, via: str) -> None:
    """Whether flatten gives a view of them was decided from strides that the CPU's kernels don't give."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = OTHERWISE[name](x)
            flat = y.flatten(0, 1)
            y[:, 1:] = -1
            return flat, y

    module, x = Net(), torch.randn(2, 3, 5)
    if via == "torchscript":
        dag = td.from_torch(torch.jit.trace(module, x, check_trace=False), x)
    else:
        dag = td.from_torch(module, x, via=via)
    torch.testing.assert_close(dag.to_torch()(x), module(x))
    if via == "export":
        more = torch.randn(4, 3, 5)
        torch.testing.assert_close(dag.resize({"x": (4, 3, 5)}).to_torch()(more), module(more))
