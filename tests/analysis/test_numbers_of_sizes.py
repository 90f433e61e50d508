"""Numbers that Python made of a size and gave to an op: of a program alone it isn't known what becomes of them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td

#: Of x of 5 x 7 and the size of one of its axes.
FORMS: dict[str, Callable[[Tensor, int], object]] = {
    "counts": lambda x, n: torch.bincount(torch.tensor([0, 1, 1]), minlength=n),
    "counts that are summed": lambda x, n: x * torch.bincount(torch.tensor([0, 1, 1]), minlength=n).sum(),
    "squares": lambda x, n: torch.tensor([i * i for i in range(n)]),
    "squares by data": lambda x, n: torch.tensor([i * i for i in range(n)])[(x > 0).long()],
    "a norm's order": lambda x, n: x.norm(p=n, dim=0),
    "distances": lambda x, n: torch.cdist(x, x, p=float(n)),
    "threshold": lambda x, n: F.threshold(x, 1.0 / n, n),
    "slope": lambda x, n: F.leaky_relu(x, 1 / n),
    "eps": lambda x, n: F.layer_norm(x, x.shape[1:], eps=1.0 / n),
    "logit": lambda x, n: torch.logit(x.sigmoid(), 1 / (2 * n)),
    "quantile": lambda x, n: torch.quantile(x, 1 / n),
    "all but one": lambda x, n: x * (1 - 1 / n),
    "window": lambda x, n: F.avg_pool1d(x.flatten()[None], n),
    "stride": lambda x, n: F.avg_pool1d(x.flatten()[None], 2, n),
    "dilation": lambda x, n: F.conv1d(x.flatten()[None, None], torch.ones(1, 1, 2), dilation=n),
    "padding": lambda x, n: F.conv1d(x.flatten()[None, None], torch.ones(1, 1, 2), padding=n),
    "windows": lambda x, n: x.flatten().unfold(0, n, 1),
    "windows apart": lambda x, n: x.flatten().unfold(0, 2, n),
    "cut off": lambda x, n: F.pad(x.flatten(), (0, -n)),
    "parts": lambda x, n: x.flatten().tensor_split(n)[0],
    "chunks": lambda x, n: x.flatten().chunk(n)[0],
    "stacked": lambda x, n: torch.stack([x[0]] * n),
    "strided": lambda x, n: x.as_strided((n, 2), (1, 1)),
}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_a_number_made_of_a_size_is_not_silently_kept(form: str, axis: int) -> None:
    """What isn't refused is what the source gives."""
    function = FORMS[form]

    class Net(nn.Module):
        def forward(self, x: Tensor) -> object:
            return function(x, x.shape[axis])

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(5, 7),)))
    refused = 0
    for shape in ((8, 7), (10, 7), (5, 9), (5, 14)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            resized = dag.resize({"x": shape})
        except td.AxisError:
            refused += 1
            continue
        torch.testing.assert_close(torch.tensor(resized.run(x.numpy())), Net()(x), atol=1e-4, rtol=1e-4)
    assert refused


def test_numbers_that_are_as_good_as_any_leave_no_doubt() -> None:
    """A head's scale is that of its entries, whatever the batch; a kernel of three is no part of the picture."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x.reshape(x.shape[0], -1, 2, 64).transpose(1, 2)
            out = F.scaled_dot_product_attention(heads, heads, heads, scale=0.125)
            return F.max_pool2d(out, 3, 2, 1)

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(8, 6, 128),)))
    assert "b" in dag.resizable_axes().free
