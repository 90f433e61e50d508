"""The cheap graph of a network at other sizes is the one that a capture gives, or there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td


class Of(nn.Module):
    """A network of a function, with a layer, a buffer that is written, and one that isn't."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(4, 4)
        self.other = [nn.Linear(4, 4)]
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.plain = torch.arange(4.0)
        self.last = torch.zeros(4)
        self.tables: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def no_gradients(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = m.linear(x).sigmoid()
        written = torch.zeros_like(x)
        written[:, 0] = x[:, 1]
    return m.linear(x) * scale + written


def turned_off_twice(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        a = m.linear(x)
        with torch.enable_grad():
            b = m.linear(a)
        c = m.linear(b)
    return a + b + c


def updated(m: Any, x: Tensor) -> Tensor:
    m.count.add_(1)
    m.count = m.count + x.shape[0]
    return m.linear(x) / m.count


def kept(m: Any, x: Tensor) -> Tensor:
    m.last = x.mean(0)
    return m.linear(x)


def views(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    y[:, :2] += 1
    y.t()[0].mul_(m.scale[0])
    return y.reshape(-1)[::2].contiguous() + y.view(-1)[1::2]


def constants(m: Any, x: Tensor) -> Tensor:
    made = torch.tensor([1.0, 0.0, 2.0, 0.0]) * m.plain
    return x * made + torch.arange(x.shape[0], device=x.device)[:, None] + torch.full_like(x, 0.5)


def several(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    a, b = x.chunk(2, -1)
    values, indices = torch.cat([b, a], -1).topk(2)
    return values, indices, m.linear.weight, m.plain


def again(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Calls of one kind, which are worked out once, and others that look alike."""
    out = []
    for i in range(3):
        y = x.transpose(0, 1) * (0.0 if i else -0.0)
        y = y.contiguous().view(-1).view_as(x)
        y = torch.cat([y[:, 1:], y[:, :1]], 1) + torch.maximum(x, y) ** 2
        part = y.split(2, 1)[i % 2]
        part.mul_(2)  # y has it too, and what was made of it
        part = torch.cat([y.detach()[:, :2], y[:, 2:]], 1)
        out.append(F.dropout(part, 0.5, m.training) + (y > 1) + y.sum(1, keepdim=True) + F.dropout(y, 0.0))
        with torch.no_grad():
            x = x + y.mean() if i else x
    return (*out, x.expand(2, *x.shape)[1] * torch.zeros_like(x))


def elsewhere(m: Any, x: Tensor) -> Tensor:
    return m.other[0](x)


def by_device(m: Any, x: Tensor) -> Tensor:
    return m.linear(x) if x.device.type == "cpu" and x.is_cpu and not x.is_meta else x


def by_gradient(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    return y.exp() if y.requires_grad and not y.detach().requires_grad else y


def shaped(m: Any, x: Tensor) -> Tensor:
    return F.pad(m.linear(x), (0, x.shape[0] % 2)) if x.shape[0] > 3 else x[: x.shape[0] // 2]


def tabled(m: Any, x: Tensor) -> Tensor:
    """Keeps what it makes of its weights, by size: a change of what isn't a tensor."""
    if len(x) not in m.tables:
        m.tables[len(x)] = m.linear.weight[:, torch.arange(4) % len(x)]
    return x @ m.tables[len(x)] + torch.rand_like(x)


def dropped(m: Any, x: Tensor) -> Tensor:
    return F.dropout(m.linear(x), 0.5, True) + torch.rand_like(x)


def checkpointed(m: Any, x: Tensor) -> Any:
    return torch.utils.checkpoint.checkpoint(m.linear, x, use_reentrant=False)


def cast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.linear(x)


def mapped(m: Any, x: Tensor) -> Tensor:
    return torch.func.vmap(m.linear)(x)


def decided(m: Any, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def counted(m: Any, x: Tensor) -> Tensor:
    return x * (2 if m.scale.sum() > 5 else 3)


FOLLOWED = [no_gradients, turned_off_twice, updated, kept, views, constants, several, again, elsewhere, by_device,
            by_gradient, shaped, tabled, dropped]  # fmt: skip
NOT_FOLLOWED = [cast, mapped, decided, counted]


@pytest.mark.filterwarnings("ignore:the network decides by values")
@pytest.mark.parametrize("function", [*FOLLOWED, checkpointed, *NOT_FOLLOWED])
def test_a_sketch_is_the_graph_of_a_capture(function: Any) -> None:
    network = Of(function).eval()
    state = {n: t.clone() for n, t in network.state_dict().items()}
    dag = td.from_torch(network, torch.rand(3, 4))
    for rows in (3, 8):
        sketch = dag.source.sketch_at({"x": (rows, 4)})
        graph = dag.source.at({"x": (rows, 4)}).graph
        assert sketch is None or sketch == graph
        assert sketch is not None or function is not again
        assert (sketch is not None) == (function in FOLLOWED) or function is checkpointed
    assert all(torch.equal(t, state[n]) for n, t in network.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Dropout2d(), nn.AdaptiveAvgPool2d(1)),
    ],
)
def test_a_network_in_train_mode(network: nn.Module) -> None:
    dag = td.from_torch(network.train(), torch.rand(2, 3, 8, 8))
    shapes = {"input": (5, 3, 12, 8)}
    assert dag.source.sketch_at(shapes) == dag.source.at(shapes).graph


def test_what_is_the_same_is_captured_once() -> None:
    dag = td.from_torch(Of(no_gradients).eval(), torch.rand(3, 4))
    assert dag.resize(x=(7, 4)).graph == dag.source.at({"x": (7, 4)}).graph
    assert dag.resizable_axes().free == ("b",)
