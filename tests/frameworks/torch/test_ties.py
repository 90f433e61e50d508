"""Gradients among equal entries: what picks one of them gives it to the one torch picks, what shares it shares it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tdagger as td
from tests.networks import Fn

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "smallest": lambda x: x.kthvalue(1, 1)[0],
    "third": lambda x: x.kthvalue(3, 1)[0],
    "third along 0": lambda x: x.kthvalue(3, 0)[0],
    "mode": lambda x: x.mode(1)[0],
    "mode kept": lambda x: x.mode(0, keepdim=True)[0],
    "median": lambda x: x.median(1)[0],
    "median of all": lambda x: x.median(),
    "nanmedian of all": lambda x: x.nanmedian(),
    "largest of all": lambda x: x.max(),
    "largest": lambda x: x.max(1)[0],
}
INPUTS = {
    "ties": torch.tensor([[3.0, 1, 1, 3, 2, 1], [2, 2, 2, 2, 2, 2], [5, 0, 5, 0, 5, 0]]),
    "equal": torch.zeros(3, 6),
    "many": torch.arange(3 * 41).reshape(3, 41).remainder(7).remainder(4).float(),
    "nan": torch.tensor([[3.0, torch.nan, 1], [2, 2, 2], [torch.nan, 0, 0]]),
    "infinite": torch.tensor([[torch.inf, -torch.inf, -torch.inf], [-torch.inf, -torch.inf, 1], [2, 2, torch.inf]]),
}


def _gradient(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_(True)
    y = net(x)
    y.backward(torch.arange(1.0, 1 + y.numel()).reshape(y.shape))
    assert x.grad is not None
    return y.detach(), x.grad


#: What isn't as torch's.
DIFFER = {
    ("mode kept", "nan"): "which NaN counts as most frequent depends on where torch's sort leaves them",
    ("largest of all", "nan"): "max() shares the gradient among NaN, amax(), which it is imported as, gives NaN",
}


@pytest.mark.parametrize("given", list(INPUTS))
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_gradients_among_ties(name: str, given: str, request: pytest.FixtureRequest) -> None:
    if (name, given) in DIFFER:
        request.applymarker(pytest.mark.xfail(reason=DIFFER[name, given], strict=True))
    net, x = Fn(FUNCTIONS[name]), INPUTS[given]
    dag = td.from_torch(net, x)
    torch.testing.assert_close(_gradient(dag.to_torch(), x), _gradient(net, x), equal_nan=True)
    torch.testing.assert_close(torch.from_numpy(dag.run(x.numpy())), net(x), equal_nan=True)
