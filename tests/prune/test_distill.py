"""Distillation: losses of outputs, taps and blocks, gradients only to the student."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import AttributeValueError


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("stem", nn.Linear(6, 8))
    net.add_module("a", nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 8)))
    net.add_module("b", nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8)))
    net.add_module("head", nn.Linear(8, 4))
    return net.train()


@pytest.fixture
def x() -> Any:
    torch.manual_seed(9)
    return torch.randn(16, 6)


@pytest.fixture
def pair(x: Any) -> Any:
    return td.from_torch(network(6, 1), x), td.from_torch(network(12, 2), x)


def test_losses_and_gradients(pair: Any, x: Any) -> None:
    student, teacher = pair
    both = td.distill(student, teacher, taps={"a": "a", "b.1": "b.1"}, blocks=["a", "b"])
    losses = both(x)
    assert list(losses) == ["output", "a", "b.1", "block a", "block b"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for n, p in both.named_parameters() if not n.startswith("student.stem"))
    assert all(p.grad is None for p in both.teacher.parameters())
    assert {n.split(".")[0] for n in both.state_dict()} == {"student", "adapters"}
    assert not both.train().teacher.training


def test_output_is_the_divergence_of_softmaxes(pair: Any, x: Any) -> None:
    student, teacher = pair
    both = td.distill(student, teacher, temperature=3.0).eval()
    own, other = student.to_torch().eval()(x), teacher.to_torch().eval()(x)
    expected = nn.functional.kl_div(
        (own / 3).log_softmax(-1), (other / 3).softmax(-1), reduction="batchmean"
    ) * 9  # fmt: skip
    torch.testing.assert_close(both(x)["output"], expected)


def test_a_block_is_trained_on_the_teachers_inputs(pair: Any, x: Any) -> None:
    student, teacher = pair
    both = td.distill(student, teacher, blocks=["b"], output="none").eval()
    (loss,) = both(x).values()
    own, other = student.to_torch().eval(), teacher.to_torch().eval()
    given = other.a(other.stem(x))
    wanted = other.b(given)
    torch.testing.assert_close(loss, (own.b(given) - wanted).square().mean() / wanted.square().mean())


def test_blockwise_training_brings_the_student_to_the_teacher(pair: Any, x: Any) -> None:
    student, teacher = pair
    both = td.distill(student, teacher, blocks=["stem", "a", "b", "head"], output="none")
    opt = torch.optim.Adam(both.parameters(), 0.02)
    first = sum(both(x).values()).item()
    for _ in range(150):
        opt.zero_grad()
        sum(both(x).values()).backward()
        opt.step()
    assert sum(both(x).values()).item() < 0.2 * first
    trained = both.trained()
    assert trained.graph == student.graph
    wanted, own, before = (d.to_torch().eval()(x) for d in (teacher, trained, student))
    assert (own - wanted).norm() < 0.6 * (before - wanted).norm()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": "l3"}, "one of kl, mse, none"),
        ({"taps": {"stem": "head"}, "blocks": {"a": "head"}}, "takes and gives"),
    ],
)
def test_refusals(pair: Any, options: Any, says: str) -> None:
    with pytest.raises(AttributeValueError, match=says):
        td.distill(*pair, **options)
