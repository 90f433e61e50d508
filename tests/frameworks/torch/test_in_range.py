"""Numbers that the integers of a call can't hold: their last bits are taken, or they are refused, as eager does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td

FORMS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "clamp": lambda x, n: x.clamp(n, 9),
    "clamp in place": lambda x, n: x.clone().clamp_(max=n),
    "clamp_min": torch.clamp_min,
    "where": lambda x, n: torch.where(x > 1, x, n),
    "number first": lambda x, n: torch.where(x > 1, n, x),
    "masked_fill": lambda x, n: x.masked_fill(x > 1, n),
    "fill": lambda x, n: x.clone().fill_(n),
    "full_like": lambda x, n: torch.full_like(x, n),
    "full": lambda x, n: torch.full((2,), n, dtype=x.dtype),
    "scalar_tensor": lambda x, n: torch.scalar_tensor(n, dtype=x.dtype),
    "less": lambda x, n: x < n,
    "not equal": lambda x, n: x != n,
    "add": lambda x, n: x + n,
    "times": lambda x, n: torch.add(x, x, alpha=n),
    "from a number": lambda x, n: n - x,
    "multiply": lambda x, n: x * n,
    "floor_divide": lambda x, n: x // n,
    "remainder": lambda x, n: x % n,
    "divide": lambda x, n: x / n,
    "copysign": lambda x, n: torch.copysign(x, torch.tensor(n)),
    "and": lambda x, n: x & n,
    "shift": lambda x, n: x >> n,
    "pow": lambda x, n: x**n,
    "base": lambda x, n: n**x,
    "pad": lambda x, n: F.pad(x, (1, 1), value=n),
    "threshold": lambda x, n: F.threshold(x, 1, n),
    "addcmul": lambda x, n: torch.addcmul(x, x, x, value=n),
    "index_fill": lambda x, n: x.index_fill(0, torch.tensor([0]), n),
    "scatter": lambda x, n: x.scatter(0, torch.tensor([0]), n),
    "logical_and": lambda x, n: torch.logical_and(x, torch.tensor(n)),
    "float result": lambda x, n: torch.xlogy(x, n),
}


Same = Callable[[Any, Any], None]


def as_in_eager(form: str, dtype: torch.dtype, n: float, same: Same, refused: tuple[type[Exception], ...]) -> None:
    """A call with a number gives what eager gives, by torch and by numpy; what eager refuses is refused by name."""
    x = torch.tensor([0, 1, 2, 3, 100, 0, 1], dtype=dtype)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return FORMS[form](x, n)

    try:
        wanted = Net()(x)
    except refused:
        with pytest.raises(td.TDaggerError):
            td.from_torch(Net(), (x,))
        return
    dag = td.from_torch(Net(), (x,), sizes="alone")
    for found in (dag.to_torch(fixed=True)(x), torch.tensor(dag.run(x.numpy()))):
        assert found.dtype == wanted.dtype
        same(found.numpy(), wanted.numpy())


@pytest.mark.parametrize("form", FORMS)
def test_numbers_beyond_an_integer_type_are_as_in_eager(form: str) -> None:
    for dtype, n in ((torch.uint8, -9), (torch.uint8, 256 + 44), (torch.int8, -200), (torch.int32, 2**40 + 3)):
        as_in_eager(form, dtype, n, np.testing.assert_array_equal, (RuntimeError,))


@pytest.mark.parametrize("form", FORMS)
def test_fractions_beside_integers_are_as_in_eager(form: str) -> None:
    """They are cut where they become integers (``full_like``, ``addcmul``), and compared as they are elsewhere."""
    near = partial(np.testing.assert_allclose, rtol=1e-6)
    for dtype, n in ((torch.uint8, 2.7), (torch.int8, -2.7), (torch.int64, -0.5), (torch.uint8, -2.7)):
        as_in_eager(form, dtype, n, near, (RuntimeError, TypeError))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (10, 3), (3, 3, 3)])
def test_diagonals_are_filled(shape: tuple[int, ...], wrap: bool) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.clone().fill_diagonal_(2.5, wrap=wrap), x.int().fill_diagonal_(-3.5, wrap=wrap)

    x = torch.rand(shape) * 9
    for wanted, found in zip(Net()(x), td.from_torch(Net(), (x,)).to_torch()(x), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def test_what_eager_refuses_is_refused_in_its_words() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(max=300)

    with pytest.raises(td.TDaggerError, match=r"eager can't: value cannot be converted to type uint8_t"):
        td.from_torch(Net(), (torch.zeros(3, dtype=torch.uint8),))
