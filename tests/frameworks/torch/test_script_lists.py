"""Lists, tuples and dicts of tensors in TorchScript."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import tdagger as td


def sliced(x: Tensor) -> Tensor:
    out = [x]
    for _ in range(x.size(1)):
        out.append(out[-1] * 2)
    return torch.stack(out[1:], 1) - torch.stack(out[:-1], 1) + torch.stack(out[::2], 1)[:, :1] + out[-2].unsqueeze(1)


def changed(x: Tensor) -> Tensor:
    out = [x, x * 2, x * 3]
    out.insert(0, x * 5)
    last = out.pop()
    first = out.pop(0)
    out.extend([x + 7])
    out += [x + 8]
    del out[0]
    out.reverse()
    return torch.stack(out + [last] * 2 + [first], 0)


def nested(x: Tensor) -> Tensor:
    rows = [[x, x + 1], [x + 2]]
    rows[1].append(x + 3)
    pairs = (x, x * 2, x * 3)
    named = {"a": x, "b": x * 4}
    named["c"] = x * 5
    rest = pairs[1:]
    total = rows[0][1] + rows[-1][-1] + rest[0] + rest[1]
    if "c" in named:
        total = total + named["c"] + named.pop("b")
    if 3 in [1, 2, 3]:
        total = total * len(named)
    return total


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("function", [sliced, changed, nested])
def test_lists_of_tensors(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    dag = td.from_torch(torch.jit.script(function), x)
    assert torch.equal(dag.to_torch()(x), function(x))


class EndsBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.unbind(-1)[:: x.shape[-1] - 1]
        return a - b


class EntryOfMany(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * len(x.unbind(-1)[3:]) + x.unbind(-1)[2].sum()


class DividedBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (12 // (x.shape[-1] - 1))


class PoppedTwice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = list(x.unbind(-1))
        return rows.pop() - rows.pop()


@pytest.mark.parametrize(("made", "least"), [(EndsBySize, 2), (EntryOfMany, 3), (DividedBySize, 2), (PoppedTwice, 2)])
def test_what_a_script_raises_of_numbers_and_lists_is_its_own(made: type[nn.Module], least: int) -> None:
    """With so few entries Python's own errors come up: a step of 0, a division by 0, an entry that isn't there."""
    script = torch.jit.script(made())
    x = torch.randn(2, 5)
    dag = td.from_torchscript(script, (x,))
    torch.testing.assert_close(dag.to_torch()(x), script(x))
    few = torch.randn(2, least - 1)
    with pytest.raises(td.InputError, match=r"aten::\w+ at .*test_script_lists.*: with inputs of these sizes"):
        td.from_torchscript(script, (few,))
    with pytest.raises(td.TDaggerError, match="the source itself raises"):
        dag.resize(n=least - 1)
    enough = torch.randn(2, least)
    torch.testing.assert_close(dag.resize(n=least).to_torch()(enough), script(enough))
