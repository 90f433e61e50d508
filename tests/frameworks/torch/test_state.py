"""Networks that keep something from one run to the next, by every entrance; and what captures leave in a network."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td


class _Inside(nn.Module):
    """A module that isn't the exported root."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


class _Ring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4, 3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = torch.cat([self.last[1:], x[:1]])
        return self.last.sum(0) * x


class _Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps = self.steps + 1
        return x / self.steps


class _Codebook(nn.Module):
    """A vector quantizer whose codes are moving averages."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.arange(12.0).reshape(4, 3) / 6)
        self.register_buffer("counts", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hot = nn.functional.one_hot(torch.cdist(x, self.codes).argmin(1), 4).to(x.dtype)
        self.counts = self.counts * 0.9 + hot.sum(0) * 0.1
        self.codes = (self.codes * 0.9 + hot.T @ x * 0.1) / self.counts[:, None].clamp(min=0.5)
        return hot @ self.codes


class _Recurrent(nn.Module):
    """Its state is a tuple of tensors in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 3)
        self.state = (torch.zeros(2, 3), torch.zeros(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.cell(x, self.state)
        return self.state[0]


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.total, self.count = torch.zeros(2, 3), torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total, self.count = self.total + x, self.count + 1
        return self.total / self.count


class _Written(nn.Module):
    """A plain tensor that is written in place, through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = torch.zeros(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache[:, 1:] += x[:, 1:]
        return self.cache * 2


class _Deque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.past = deque([torch.zeros(2, 3), torch.ones(2, 3)], maxlen=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x + self.past[0] * 2
        self.past.append(x)
        return out


@dataclass
class _Moments:
    mean: torch.Tensor
    steps: dict[str, torch.Tensor]


class _Objects(nn.Module):
    """Its state is in an object, and in a dict in that."""

    def __init__(self) -> None:
        super().__init__()
        self.moments = _Moments(torch.zeros(3), {"n": torch.zeros(())})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.moments.steps["n"] = self.moments.steps["n"] + 1
        self.moments.mean = self.moments.mean + (x.mean(0) - self.moments.mean) / self.moments.steps["n"]
        return x - self.moments.mean


class _Cache(nn.Module):
    """Keys written at the position that a counter says."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(8, 3))
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.keys.index_copy_(0, self.at, x[:1])
        self.at += 1
        return x @ self.keys.T


class _Alias(nn.Module):
    """A buffer written through a list."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))
        self.all = [self.count, self.count[1:]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.all[0].add_(1)
        self.all[1].mul_(2)
        return x * self.count


class _Shared(nn.Module):
    """One stateful module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _Steps()
        self.b = nn.Sequential(nn.Tanh(), self.a)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


class _Hidden(nn.Module):
    """A norm that trains, in a list that torch doesn't look into."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.BatchNorm1d(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.parts[0](x)
        return out + self.parts[0].running_mean


class _Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -0.05, -3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.w.clamp_(-0.1, 0.1)
        return x * self.w


class _Decay(nn.Module):
    """A parameter written through its data."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -0.5, -3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.w.sum()
        self.w.data.mul_(0.5)
        self.w.data[1:] += 1
        return x * self.w + before.detach()


class _Memo(nn.Module):
    """Caches: a table made once, a map kept to be looked at, and a counter that nothing depends on."""

    table: torch.Tensor | None = None
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        if self.table is None or len(self.table) != x.shape[1]:
            self.table = torch.arange(x.shape[1]) + 0.5
        if "three" not in self.kept:
            self.kept["three"] = torch.ones(1) * 3
        self.map = torch.softmax(x, -1)
        return self.map * self.table + self.kept["three"]


def _spectral() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(3, 3)).train()


STATEFUL: dict[str, Callable[[], nn.Module]] = {
    "ring": _Ring,
    "steps": _Steps,
    "codebook": _Codebook,
    "recurrent": _Recurrent,
    "two attributes": _Two,
    "written": _Written,
    "deque": _Deque,
    "objects": _Objects,
    "cache": _Cache,
    "alias": _Alias,
    "shared": _Shared,
    "hidden norm": _Hidden,
    "clip": _Clip,
    "decay": _Decay,
    "memo": _Memo,
    "spectral norm": _spectral,
    "cumulative norm": lambda: nn.BatchNorm1d(3, momentum=None),
}


def _pair(name: str, inside: bool) -> tuple[nn.Module, nn.Module]:
    made: list[nn.Module] = []
    for _ in range(2):
        torch.manual_seed(0)
        inner = STATEFUL[name]()
        made.append(_Inside(inner) if inside else inner)
    return made[0], made[1]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", STATEFUL)
def test_runs_one_after_another(name: str, via: Any, inside: bool) -> None:
    if name == "cumulative norm" and via == "trace":
        pytest.skip("a trace has the count of the example run in it")
    eager, model = _pair(name, inside)
    xs = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    dag = td.from_torch(model, xs[3], via=via)
    back = dag.to_torch(copy=True)
    script = dag.to_torchscript(copy=True)
    assert set(back.state_dict()) >= set(eager.state_dict())
    first = None
    for x in xs[:3]:
        want = eager(x)
        torch.testing.assert_close(back(x), want)
        torch.testing.assert_close(script(x), want)
        first = want if first is None else first
    np.testing.assert_allclose(dag.run(xs[0].numpy()), first.detach().numpy(), rtol=1e-5, atol=1e-5)
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value)


@pytest.mark.parametrize("name", ["clip", "decay"])
@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_parameter_written_keeps_its_gradient(name: str, via: Any, mode: bool) -> None:
    eager, model = _pair(name, False)
    eager.train(mode), model.train(mode)
    back = td.from_torch(model, torch.ones(2, 3), via=via).to_torch(copy=True)
    x = torch.randn(2, 3)
    for _ in range(2):
        for m in (eager, back):
            m.w.grad = None
            m(x).sum().backward()
        torch.testing.assert_close(back.w, eager.w)
        torch.testing.assert_close(back.w.grad, eager.w.grad)


# --- what isn't registered where it is used ----------------------------------------------------------------


class _Held(nn.Module):
    def __init__(self, hold: Callable[[nn.Parameter], Any]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        self.get = hold(self.w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.get()


class _Lookup:
    def __init__(self, w: torch.Tensor) -> None:
        self.table = {"w": [(w, 1)]}

    def __call__(self) -> torch.Tensor:
        return self.table["w"][0][0]


def _closure(w: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: w * 2


def _default(w: torch.Tensor) -> Callable[[], torch.Tensor]:
    def get(of: torch.Tensor = w) -> torch.Tensor:
        return of

    return get


HELD: dict[str, Callable[[nn.Parameter], Any]] = {
    "object": _Lookup,
    "closure": _closure,
    "default": _default,
    "partial": lambda w: functools.partial(torch.neg, w),
    "keyword": lambda w: functools.partial(torch.neg, input=w),
    "row": lambda w: _Lookup(w[1]),
    "transposed": lambda w: _closure(w.T[1:]),
    "data": lambda w: _Lookup(w.data),
    "detached": lambda w: _closure(w.detach()[0]),
}


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", HELD)
def test_a_parameter_reached_by_another_way_is_the_parameter(name: str, via: Any) -> None:
    model, x = _Held(HELD[name]), torch.randn(2, 1)
    dag = td.from_torch(model, x, via=via)
    assert list(dag.graph.parameters) == ["w"]
    assert sum(v.type.size for v in dag.graph.parameters.values()) == 6
    back = dag.to_torch()
    with torch.no_grad():
        model.w.mul_(-3)
    torch.testing.assert_close(back(x), model(x))
    if not model(x).requires_grad:
        assert not back(x).requires_grad or via == "trace"
        return
    (want,) = torch.autograd.grad(model(x).sum(), model.w)
    (got,) = torch.autograd.grad(back(x).sum(), back.w)
    torch.testing.assert_close(got, want)


class _Unregistered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Linear(3, 3, bias=False), nn.ParameterList([torch.ones(3)])]
        self.scale = torch.full((3,), 2.0, requires_grad=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[0](x) * self.scale + self.parts[1][0]


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_parameter_that_is_registered_nowhere_is_one_by_its_path(via: Any) -> None:
    model, x = _Unregistered(), torch.randn(2, 3)
    dag = td.from_torch(model, x, via=via)
    assert set(dag.graph.parameters) == {"parts.0.weight", "parts.1.0", "scale"}
    back = dag.to_torch()
    torch.testing.assert_close(back(x), model(x))
    (want,) = torch.autograd.grad(model(x).sum(), model.scale)
    (got,) = torch.autograd.grad(back(x).sum(), back.scale)
    torch.testing.assert_close(got, want)


# --- what can't be kept ------------------------------------------------------------------------------------


class _First(nn.Module):
    """None before the first run."""

    def __init__(self) -> None:
        super().__init__()
        self.prev: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x if self.prev is None else x - self.prev
        self.prev = x
        return out


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return x * self.steps


class _Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = torch.cat([self.seen, x])
        return self.seen.sum(0)


class _Remembers(nn.Module):
    """Keeps what it made of its first input."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "m" not in self.masks:
            self.masks["m"] = x > 0
        return x * self.masks["m"]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "first": (_First, r"inner\.prev \(was None, is float32\[2, 3\] after a run\)"),
    "counter": (_Counter, r"inner\.steps \(was 0, is 1 after a run\)"),
    "grows": (_Grows, r"inner\.seen \(was float32\[0, 3\], is float32\[2, 3\] after a run\)"),
    "remembers": (_Remembers, r"inner\.masks\.m \(was not there, is bool\[2, 3\] after a run\)"),
}


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_python_keeps_is_refused_by_name(name: str, via: Any) -> None:
    make, shown = REFUSED[name]
    with pytest.raises(td.UnsupportedError, match=f"(?s)does another thing the next time.*{shown}.*register it as a"):
        td.from_torch(_Inside(make()), torch.randn(2, 3), via=via)


def test_called_once_before_it_is_kept() -> None:
    model, eager = _First(), _First()
    x = torch.randn(3, 2, 3)
    model(x[0]), eager(x[0])
    back = td.from_torch(model, x[0]).to_torch(copy=True)
    for one in x[1:]:
        torch.testing.assert_close(back(one), eager(one))


def test_dropout_beside_a_cache_is_the_same_every_time() -> None:
    class Net(_Memo):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(super().forward(nn.functional.dropout(x)), 0.25)

    dag = td.from_torch(Net().train(), torch.randn(2, 3))
    assert [v.op.name for v in dag.graph.values].count("dropout_train") == 2


# --- what a capture leaves ---------------------------------------------------------------------------------

_MADE: dict[str, torch.Tensor] = {}


@functools.lru_cache
def _table(n: int) -> torch.Tensor:
    return torch.arange(n) * 1.0


class _Messy(nn.Module):
    """Changes all it can reach."""

    shared = torch.zeros(3)
    seen: list[torch.Tensor] = []  # noqa: RUF012

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.lin = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(()))
        self.past: deque[Any] = deque([1], maxlen=3)
        self.cache: dict[str, Any] = {"a": [1, 2]}
        self.gone = 5
        self.plain = torch.zeros(3)
        self.hidden = [nn.BatchNorm1d(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lin(x) + _table(3) + random.random() * 0 + np.random.rand() * 0 + torch.rand(()) * 0
        x = x + _MADE.setdefault("made", torch.ones(3))
        self.hidden[0](x)
        self.count += 1
        self.plain.add_(x.detach()[0])
        self.past.append(x)
        self.cache["a"].append(x)
        self.cache["b"] = x
        self.last = x
        self.gone = None
        type(self).shared = x.detach()
        self.seen.append(x)
        self.lin.weight.requires_grad_(False)
        self.training = not self.training
        if self.fails:
            raise ValueError("half-way")
        return x


def _wrapped(function: Any) -> Any:
    """A function that hides that it has a cache, as transformers' compile_compatible_method_lru_cache does."""
    cached = functools.lru_cache(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return cached(*args)

    return call


class _Anchors(nn.Module):
    """Keeps a table for each number of entries."""

    @_wrapped
    def table(self, n: int) -> torch.Tensor:
        return torch.arange(n) * 1.0

    @staticmethod
    @_wrapped
    def other(n: int) -> torch.Tensor:
        return torch.ones(n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table(x.shape[1]) + self.other(x.shape[1])


def test_no_cache_keeps_tensors_without_data() -> None:
    model = _Anchors()
    net = td.from_torch(model, torch.randn(2, 3)).to_torch()
    for n in range(1, 9):
        x = torch.randn(2, n)
        assert type(model(x)) is torch.Tensor
        torch.testing.assert_close(net(x), model(x))


def _all_of(model: Any) -> dict[str, Any]:
    found = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    return {
        **found,
        "past": list(model.past),
        "cache": {k: list(v) for k, v in model.cache.items()},
        "class": (_Messy.shared, list(_Messy.seen)),
        "weight": (model.lin.weight, model.lin.weight.requires_grad),
        "made": dict(_MADE),
        "modes": [m.training for m in model.modules()],
    }


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.filterwarnings("ignore:the network draws random numbers outside of torch")
def test_a_capture_leaves_the_network_as_it_was(via: Any, fails: bool) -> None:
    model, x = _Messy(fails), torch.randn(2, 3)
    inner = nn.Sequential(nn.ReLU(), model)
    before = _all_of(model)
    tensors = [t.clone() for t in (*inner.state_dict().values(), model.plain, *model.hidden[0].state_dict().values())]
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()
    with pytest.raises(td.UnsupportedError, match="half-way") if fails else nullcontext():
        td.from_torch(inner, x, via=via)
    after = _all_of(model)
    assert list(after) == list(before)
    assert all(after[k] == before[k] if k not in ("plain",) else after[k] is before[k] for k in before if k != "class")
    assert after["class"][0] is before["class"][0]
    assert after["class"][1] == []
    now = [*inner.state_dict().values(), model.plain, *model.hidden[0].state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(now, tensors, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), drawn[2], strict=True))
    assert type(_table(3)) is torch.Tensor
    _table.cache_clear()


class _Head(nn.Module):
    """Keeps tensors it computed in attributes whose defaults are on the class."""

    shape: Any = None
    anchors = torch.empty(0)

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c(x)
        if self.shape != x.shape:
            self.anchors = torch.arange(x.shape[-1]).float() + 0.5
            self.shape = x.shape
        return x - self.anchors


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_head_that_keeps_its_anchors(via: Any) -> None:
    model, x = nn.Sequential(_Head()).eval(), torch.rand(2, 3, 4, 8)
    dag = td.from_torch(model, x, via=via)
    assert not {"shape", "anchors"} & set(vars(model[0]))
    assert not dag.graph.updates
    torch.testing.assert_close(dag.to_torch()(x), model(x))
    assert model(torch.rand(2, 3, 4, 9)).shape == (2, 4, 4, 9)
    again = td.from_torch(model, x, via=via)  # now it has kept those of another size
    assert again.graph.outputs["out"] is dag.graph.outputs["out"]
