"""Lists, tuples and dicts of tensors in TorchScript."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

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
