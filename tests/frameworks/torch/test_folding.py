"""Constants that a forward makes for itself: computed while importing, whatever op makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten import folding


class Call(nn.Module):
    """A function of tensors as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: torch.Tensor) -> Any:
        return self.function(*x)


CONSTANTS: dict[str, Callable[[], torch.Tensor]] = {
    "hann_window": lambda: torch.hann_window(8),
    "hann_window of a dtype": lambda: torch.hann_window(8, periodic=False, dtype=torch.float64),
    "hamming_window": lambda: torch.hamming_window(8, False, 0.6, 0.4),
    "blackman_window": lambda: torch.blackman_window(8),
    "bartlett_window": lambda: torch.bartlett_window(8, periodic=False),
    "kaiser_window": lambda: torch.kaiser_window(8, False, beta=7.0),
    "fftfreq": lambda: torch.fft.fftfreq(8, 0.1),
    "rfftfreq": lambda: torch.fft.rfftfreq(14),
    "logspace": lambda: torch.logspace(0, 1, 8),
    "polar": lambda: torch.polar(torch.ones(8), torch.arange(8.0)).imag,
    "inverse": lambda: torch.linalg.inv(torch.eye(8) * 2 + 0.1)[0],
    "solve": lambda: torch.linalg.solve(torch.eye(8) + 0.1, torch.arange(8.0)),
    "eigenvalues": lambda: torch.linalg.eigvalsh(torch.eye(8) + 0.1),
    "svd": lambda: torch.linalg.svd(torch.arange(64.0).reshape(8, 8))[1],
    "nonzero": lambda: (torch.arange(16) % 2).nonzero()[:, 0].float(),
    "where of one argument": lambda: torch.where(torch.arange(16) % 2 == 0)[0].float(),
    "bool index": lambda: torch.arange(16.0)[torch.arange(16) % 2 == 0],
    "masked_select": lambda: torch.arange(16.0).masked_select(torch.arange(16) < 8),
    "unique": lambda: torch.unique(torch.arange(24) // 3).float(),
    "unique, all its results": lambda: torch.unique(torch.arange(24) // 3, return_counts=True)[1].float(),
    "repeat_interleave": lambda: torch.repeat_interleave(torch.arange(4.0), torch.tensor([3, 1, 2, 2])),
    "bincount": lambda: torch.bincount(torch.arange(8) * 2 % 8, minlength=8).float(),
    "gcd": lambda: torch.gcd(torch.arange(8), torch.tensor(6)).float(),
    "histc": lambda: torch.histc(torch.arange(30.0), 8, 0, 30),
    "half precision": lambda: torch.linspace(0, 1, 16).bfloat16()[torch.arange(16) % 2 == 0],
}  # fmt: skip


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", list(CONSTANTS))
def test_constants_of_no_rule(name: str, via: Any) -> None:
    net = Call(lambda x: x * CONSTANTS[name]())
    x = torch.arange(16.0).reshape(2, 8)
    dag = td.from_torch(net, x, via=via)
    np.testing.assert_allclose(dag.run(x.numpy()), net(x).numpy(), rtol=1e-6, atol=1e-6)
    assert torch.allclose(dag.to_torch(fixed=True)(x), net(x), atol=1e-6)
    assert not dag.graph.external


def test_they_are_computed_in_scripts_too() -> None:
    class Windowed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            window = torch.hamming_window(x.size(1))
            odd = (torch.arange(x.size(1)) % 2).nonzero()[:, 0]
            return (x * window)[:, odd]

    x = torch.arange(16.0).reshape(2, 8)
    dag = td.from_torch(torch.jit.script(Windowed()), x)
    assert torch.equal(dag.to_torch()(x), Windowed()(x))


def test_writes_to_constants_are_computed() -> None:
    def wanted(x: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(8)
        table[torch.arange(8) % 3 == 0] = 2.0
        table.put_(torch.tensor([1, 4]), torch.tensor([5.0, 6.0]))
        return x + table

    x = torch.arange(16.0).reshape(2, 8)
    dag = td.from_torch(Call(wanted), x)
    assert torch.equal(dag.to_torch()(x), wanted(x))


def test_external_ops_stay_for_what_depends_on_inputs() -> None:
    dag = td.from_torch(
        Call(lambda x: torch.linalg.inv(x) @ torch.linalg.inv(torch.eye(3) * 2)), torch.eye(3), external=True
    )
    assert sum(dag.graph.external.values()) == 1
    with pytest.raises(UnsupportedError, match="linalg_inv"):
        td.from_torch(Call(torch.linalg.inv), torch.eye(3))


def test_random_numbers_are_no_constants() -> None:
    with pytest.raises(UnsupportedError, match="poisson: no rule draws random numbers"):
        td.from_torch(Call(lambda x: x + torch.poisson(torch.ones(2))), torch.ones(2))


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "ELEMENTS", 7)
    with pytest.raises(
        UnsupportedError, match="depends on no input, but gives 8 elements, too many to work out on import"
    ):
        td.from_torch(Call(lambda x: x * torch.hann_window(8)), torch.ones(8))


def test_what_torch_refuses_on_the_constants_is_told() -> None:
    with pytest.raises(UnsupportedError, match=r"on these constants torch says .*singular"):
        td.from_torch(Call(lambda x: x @ torch.linalg.inv(torch.zeros(3, 3))), torch.eye(3))


# --- Fourier transforms in frames --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The length of signal is shorter", "ignore:A window was not provided")
@pytest.mark.parametrize(
    ("options", "windowed", "length"),
    [
        ({}, True, None),
        ({}, True, 50),
        ({"win_length": 12}, True, 70),
        ({"center": False}, True, None),
        ({"center": False}, True, 50),
        ({"normalized": True}, True, None),
        ({"onesided": False}, True, 70),
        ({"onesided": False, "normalized": True, "center": False}, False, None),
        ({"onesided": False, "normalized": True, "center": False}, False, 70),
    ],
)
def test_istft(options: dict[str, Any], windowed: bool, length: int | None) -> None:
    window = torch.hamming_window(options.get("win_length", 16)) if windowed else None
    signal = torch.sin(torch.arange(128.0) ** 1.3).reshape(2, 64)
    for x in (signal, signal[0]) if not options else (signal,):
        frames = torch.stft(x, 16, 4, window=window if windowed else torch.ones(16), return_complex=True, **options)
        net = Call(lambda z: torch.istft(z * 0.5, 16, 4, window=window, length=length, **options))
        dag = td.from_torch(net, frames)
        assert torch.allclose(dag.to_torch()(frames), net(frames), atol=1e-5)
        np.testing.assert_allclose(dag.run(frames.numpy()), net(frames).numpy(), atol=1e-5)


def test_istft_of_complex_signals_and_by_trace() -> None:
    frames = torch.fft.fft(torch.arange(432.0).reshape(3, 16, 9) % 7)
    net = Call(lambda z: torch.istft(z, 16, 4, window=torch.hann_window(16) + 0.1, onesided=False, return_complex=True))
    for via in ("export", "trace"):
        dag = td.from_torch(net, frames, via=via)
        assert torch.allclose(dag.to_torch()(frames), net(frames), atol=1e-5)


def test_istft_where_windows_leave_gaps_is_refused() -> None:
    net = Call(lambda z: torch.istft(z, 16, 16, window=torch.hann_window(16), center=False))
    with pytest.raises(UnsupportedError, match="windows don't overlap everywhere"):
        td.from_torch(net, torch.ones(1, 9, 4, dtype=torch.complex64))


# --- reductions over no dimensions --------------------------------------------------------------------------


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.sum(x, ()),
        lambda x: torch.mean(x, ()),
        lambda x: torch.amax(x, ()),
        lambda x: torch.var(x, ()),
        lambda x: torch.std_mean(x, ())[1],
        lambda x: torch.linalg.vector_norm(x, 2, ()),
        lambda x: torch.norm(x, dim=()),
        lambda x: torch.count_nonzero(x, ()),
        lambda x: x.sum((), keepdim=True),
        lambda x: x.logsumexp((), keepdim=True),
        lambda x: torch.any(x > 0, ()),
        lambda x: torch.all(x, (), keepdim=True),
        lambda x: torch.flip(x, ()),
        lambda x: torch.any(x.to(torch.uint8), ()),
        lambda x: x[0, 0].logsumexp(()),
    ],
)
def test_reductions_over_no_dimensions(function: Callable[..., Any], via: Any) -> None:
    x = torch.tensor([[1.0, 2.0, 0.0], [4.0, 5.0, 6.0]])
    dag = td.from_torch(Call(function), x, via=via)
    want = function(x)
    for got in (dag.to_torch()(x), torch.as_tensor(dag.run(x.numpy()))):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert torch.allclose(got.double(), want.double())


@pytest.mark.parametrize("function", [lambda x: torch.nansum(x, ()), lambda x: torch.logsumexp(x, ())])
def test_where_torch_disagrees_with_itself_it_says_so(function: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"over no dimensions: torch.export says .* isn't what torch computes"):
        td.from_torch(Call(function), torch.ones(2, 3))
