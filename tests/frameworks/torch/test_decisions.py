"""What Python takes out of tensors while a network is captured: told, answered by what is held, or refused."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tdagger as td
from tests.networks import Fn

X = torch.arange(12.0).reshape(2, 6)
HOLDS = "the network decides by values that it holds"
DATA = "the network decides by its data"
CHECKS = "the network checks its data"


class Held(nn.Module):
    """A network that holds flags and numbers, and computes a function of itself and its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("n", torch.tensor(3))
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("v", torch.tensor([1, 2, 3]))
        self.gate = nn.Parameter(torch.tensor(2.0))
        self.plain = torch.tensor([2, 1])
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def _counted(m: Any, x: torch.Tensor) -> torch.Tensor:
    for _ in range(int(m.n)):
        x = x * 2
    return x


def _turns(m: Any, x: torch.Tensor) -> torch.Tensor:
    for _ in range(m.n):
        x = x + 1
    return x


def _copied(m: Any, x: torch.Tensor) -> torch.Tensor:
    own = m.v.clone()
    own[0] = 7  # a write that a look at the ops behind own[0] alone doesn't see
    return x * 2 if own[0] > 5 else x


def _set_up(m: Any, x: torch.Tensor) -> torch.Tensor:
    if not m.flag:
        m.scale.copy_(x.mean())
        m.flag.copy_(torch.ones_like(m.flag))
    return x * m.scale


#: What a network does by what it holds, the names of that.
BY_STATE: dict[str, tuple[Callable[..., Any], str]] = {
    "flag": (lambda m, x: x * 2 if m.flag else x, "'flag' (True now)"),
    "not": (lambda m, x: x * 2 if not m.flag else x, "'flag' (True now)"),
    "compared": (lambda m, x: x * 2 if m.n > 2 else x, "'n' (3 now)"),
    "item": (lambda m, x: x * 2 if m.n.item() > 2 else x, "'n' (3 now)"),
    "number": (lambda m, x: x * m.scale.item(), "'scale' (0.5 now)"),
    "float": (lambda m, x: x * float(m.scale), "'scale' (0.5 now)"),
    "turns of int": (_counted, "'n' (3 now)"),
    "turns": (_turns, "'n' (3 now)"),
    "list": (lambda m, x: torch.cat([t * i for i, t in enumerate(x.split(m.v.tolist(), 1))], 1), "'v'"),
    "array": (lambda m, x: x * float(m.v.numpy().sum()), "'v'"),
    "plain attribute": (lambda m, x: x * 2 if m.plain[0] > m.plain[1] else x, "'plain'"),
    "parameter": (lambda m, x: x * 2 if m.gate > 0 else x, "'gate' (2.0 now)"),
    "size": (lambda m, x: x.new_zeros(int(m.v.max())) + x[:, :3], "'v'"),
    "key": (lambda m, x: x * {3: 2.0}[m.n.item()], "'n' (3 now)"),
    "index of a list": (lambda m, x: x * [1.0, 2.0, 3.0, 4.0][m.n], "'n' (3 now)"),
    "equal": (lambda m, x: x * 2 if torch.equal(m.v, torch.tensor([1, 2, 3])) else x, "'v'"),
    "with a size": (lambda m, x: x * 2 if m.n + x.shape[0] > 4 else x, "'n' (3 now)"),
    "written copy": (_copied, "'v'"),
    "set up": (_set_up, "'flag' (True now)"),
}


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("name", list(BY_STATE))
def test_what_it_holds_decides_and_that_is_told(name: str, via: Any) -> None:
    function, names = BY_STATE[name]
    net = Held(function).eval()
    with pytest.warns(UserWarning, match=HOLDS) as told:
        dag = td.from_torch(net, X, via=via)
    (warning,) = told
    assert names in str(warning.message)
    assert "test_decisions.py:" in str(warning.message)
    with torch.no_grad():
        torch.testing.assert_close(dag.to_torch(fixed=True)(X), net(X))


def _counts(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.n += 1
    return x * 2 if m.n > 10 else x


def _counts_after(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2 if m.n > 10 else x
    m.n.add_(1)
    return y


def _turns_around(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2 if m.flag else x
    m.flag = ~m.flag
    return y


def _writes_a_part(m: Any, x: torch.Tensor) -> torch.Tensor:
    m.v[0:1].add_(1)
    return x * 2 if m.v[0] > 5 else x


def _changes_a_plain_one(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = x * 2 if m.plain[0] > 5 else x
    m.plain = m.plain + 1
    return y


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize("function", [_counts, _counts_after, _turns_around, _writes_a_part, _changes_a_plain_one])
def test_what_it_changes_itself_decides_nothing(function: Any, via: Any) -> None:
    with pytest.raises(td.UnsupportedError, match=r"decides by '\w+'.*, which it changes when it runs \(at .*test_dec"):
        td.from_torch(Held(function).eval(), X, via=via)


def test_one_that_sets_itself_up_is_to_be_called_first() -> None:
    net = Held(_set_up).eval()
    net.flag.fill_(False)
    with pytest.raises(td.UnsupportedError, match=r"'flag' \(False now\).*call the network before it is imported"):
        td.from_torch(net, X)
    assert not net.flag
    net(X)
    with pytest.warns(UserWarning, match=HOLDS):
        dag = td.from_torch(net, X)
    torch.testing.assert_close(dag.to_torch()(2 * X), net(2 * X))


def test_a_parameter_that_is_trained_decides_nothing() -> None:
    net = Held(BY_STATE["parameter"][0])
    with pytest.raises(td.UnsupportedError, match="asks for the value of 'gate', which training changes"):
        td.from_torch(net, X)
    net.gate.requires_grad_(False)
    with pytest.warns(UserWarning, match=HOLDS):
        dag = td.from_torch(net, X)
    torch.testing.assert_close(dag.to_torch()(X), net(X))


def test_a_capture_that_fails_later_says_how_it_came_there() -> None:
    def tried(m: Any, x: torch.Tensor) -> Any:
        return x[x > x.mean()].tolist() if m.flag else x

    with pytest.raises(td.UnsupportedError, match=r"On the way it decided by what it holds: 'flag' \(True now\) at "):
        td.from_torch(Held(tried).eval(), X)


def _until(x: torch.Tensor) -> torch.Tensor:
    while x.sum() < 100:
        x = x * 2
    return x


def _written(x: torch.Tensor) -> torch.Tensor:
    made = torch.zeros(3)
    made[1:].copy_(x[0, :2])
    return x * 2 if made.sum() > 0 else x


BY_DATA: dict[str, Callable[..., Any]] = {
    "if": lambda x: x * 2 if x.sum() > 0 else x,
    "while": _until,
    "random": lambda x: x * 2 if torch.rand(1) < 2 else x,
    "random in place": lambda x: x * 2 if torch.empty(1).uniform_() < 2 else x,
    "item": lambda x: x * x.max().item(),
    "list": lambda x: x * max(x.flatten().tolist()),
    "array": lambda x: x * float(x.numpy().max()),
    "key": lambda x: {"k11": x}[f"k{int(x.max())}"],
    "index": lambda x: x[:, int(x[0].argmax())],
    "of a list": lambda x: [x, x * 2][(x.sum() > 0).long()],
    "count": lambda x: x * 2 if (x > 0).nonzero().shape[0] > 2 else x,
    "masked": lambda x: x * len(x[x > 0]),
    "written": _written,
    "equal": lambda x: x * 2 if torch.equal(x, x.abs()) else x,
    "allclose": lambda x: x * 2 if x.allclose(x.abs()) else x,
    "contains": lambda x: x * 2 if 3.0 in x else x,
    "nonzero": lambda x: x * 2 if torch.is_nonzero(x.sum()) else x,
    "sorted": lambda x: torch.stack(sorted(x.flatten(), key=lambda t: -t)),
}


@pytest.mark.parametrize("name", list(BY_DATA))
def test_a_trace_tells_what_data_decided(name: str) -> None:
    net = Fn(BY_DATA[name])
    with pytest.warns(UserWarning, match=DATA) as told:
        dag = td.from_torch(net, X, via="trace")
    (warning,) = told
    assert "test_decisions.py:" in str(warning.message)
    torch.testing.assert_close(dag.to_torch()(X), net(X))


def _sized(x: torch.Tensor) -> torch.Tensor:
    b, n = x.shape
    if n > 2 and b == x.size(0):
        x = x.reshape(b, n // 2, 2)
    for i in range(x.shape[1]):
        x = x + i
    return x[:, : x.shape[1] - 1]


NOT_DATA: dict[str, Callable[..., Any]] = {
    "sizes": _sized,
    "constants": lambda x: x * 2 if torch.ones(2).sum() > 1 else x,
    "of a cat": lambda x: x * 2 if torch.cat([x, x], 1).shape[1] > 3 else x,
    "repeated": lambda x: x * 2 if x.repeat_interleave(2, 0).shape[0] > 3 else x,
    "one hot": lambda x: F.one_hot(x.long(), 12) if F.one_hot(x.long(), 12).shape[-1] == 12 else x,
    "a size as a tensor": lambda x: x * torch.tensor(x.shape[0]).item(),
    "group norm": lambda x: F.group_norm(x.reshape(2, 3, 2), 3),
}


@pytest.mark.parametrize("name", list(NOT_DATA))
def test_a_trace_is_silent_of_sizes_and_constants(name: str) -> None:
    net = Fn(NOT_DATA[name])
    torch.testing.assert_close(td.from_torch(net, X, via="trace").to_torch()(X), net(X))


def _asserted(x: torch.Tensor) -> torch.Tensor:
    assert not x.isnan().any()
    return x * 2


def _raising(x: torch.Tensor) -> torch.Tensor:
    if x.abs().max().item() > 100:
        raise ValueError("too large")
    return x * 2


def _warning(x: torch.Tensor) -> torch.Tensor:
    if x.max() > 1000:
        warnings.warn("large", stacklevel=1)
    return x * 2


@pytest.mark.parametrize("function", [_asserted, _raising, _warning])
def test_a_trace_tells_its_checks_apart(function: Any) -> None:
    with pytest.warns(UserWarning, match=CHECKS) as told:
        dag = td.from_torch(Fn(function), X, via="trace")
    assert len(told) == 1
    torch.testing.assert_close(dag.to_torch()(X), X * 2)


def test_a_trace_names_the_checks_that_it_loses() -> None:
    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Fn(_raising), X, via="trace")
    with pytest.warns(UserWarning, match="can't be kept: ValueError: too large"):
        dag.to_torch(checks=True)


def test_what_is_only_printed_decides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def printing(x: torch.Tensor) -> torch.Tensor:
        print(x.mean().item())
        return x * 2

    dag = td.from_torch(Fn(printing), X, via="trace")
    assert capsys.readouterr().out == "5.5\n"
    torch.testing.assert_close(dag.to_torch()(X), X * 2)


# --- writes that a trace loses -----------------------------------------------------------------------------

LOST: dict[str, Callable[..., Any]] = {
    "atleast_1d": lambda x: torch.atleast_1d(x[0, 0]),
    "atleast_2d": lambda x: torch.atleast_2d(x[0]),
    "atleast_3d": lambda x: torch.atleast_3d(x),
    "einsum": lambda x: torch.einsum("ij->ji", x),
    "a part": lambda x: torch.atleast_3d(x)[0],
}


@pytest.mark.parametrize("name", list(LOST))
def test_a_write_that_a_trace_would_lose_is_refused(name: str) -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        own = x.clone()
        LOST[name](own).add_(1)
        return own

    with pytest.raises(
        td.UnsupportedError, match=r"torch.jit.trace loses what is written.*\(.*test_decisions.py:\d+: "
    ):
        td.from_torch(Fn(written), X, via="trace")


def test_a_write_to_what_is_used_is_kept_by_a_trace() -> None:
    def used(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = x.clone()
        wide = torch.atleast_3d(own)
        wide[0].add_(1)
        torch.zeros(3)[0].add_(1)  # lost, and nobody would see it
        return own, wide

    for got, want in zip(td.from_torch(Fn(used), X, via="trace").to_torch()(X), used(X), strict=True):
        torch.testing.assert_close(got, want)
