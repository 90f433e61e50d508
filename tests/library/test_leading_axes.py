"""Composites of channels and spatial axes take any number of axes before them: what the table of samples can't say."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger import interpret
from tdagger.composite import Composite, composites
from tdagger.graph import Graph, flops
from tdagger.ops.structure import Group, Item, Permute, Repeat, Ungroup
from tests.frameworks.torch.test_exporter import dag_of
from tests.library.test_products import assert_adjoint
from tests.rounding import assert_rounded_alike
from tests.samples import numbers, to_numpy, to_torch

Shape = tuple[int, ...]


class Case(NamedTuple):
    """A composite of ``lead`` axes and others: how it is made, and the shapes of its arguments.

    ``at`` is where the leading axes of each argument stand (None: it has none).
    """

    build: Callable[[int], Callable[..., Any]]
    shapes: tuple[Shape, ...]
    at: tuple[int | None, ...] = (0,)

    def arguments(self, lead: Shape) -> list[td.Value]:
        return [td.input(f"x{i}", s) for i, s in enumerate(self.full(lead))]

    def full(self, lead: Shape) -> list[Shape]:
        places = (*self.at, *(None,) * (len(self.shapes) - len(self.at)))
        return [s if a is None else (*s[:a], *lead, *s[a:]) for s, a in zip(self.shapes, places, strict=True)]

    def value(self, lead: Shape) -> td.Value:
        """The node itself, also where it has several results."""
        out = self.build(len(lead))(*self.arguments(lead))
        first = out[0] if isinstance(out, tuple) else out
        return first.args[0] if isinstance(first.op, Item) else first


_X, _C = (4, 6, 7), (4,)
_RNN = ((12, 5), (12, 4), (12,), (12,))

CASES: dict[str, Case] = {
    "convolution": Case(lambda n: lambda *x: td.convolution(*x, stride=2, padding=1, groups=2),
                        (_X, (6, 2, 3, 3), (6,))),
    "convolution_transpose": Case(lambda n: lambda *x: td.convolution_transpose(*x, stride=2, padding=1),
                                  (_X, (4, 5, 3, 3), (5,))),
    "batch_norm": Case(lambda n: lambda *x: td.batch_norm(*x, axis=n), (_X, _C, _C, _C, _C)),
    "batch_norm_train": Case(lambda n: lambda *x: td.batch_norm_train(*x, axis=n), (_X, _C, _C, _C, _C)),
    "group_norm": Case(lambda n: lambda *x: td.group_norm(*x, groups=2, axis=n), (_X, _C, _C)),
    "instance_norm": Case(lambda n: lambda *x: td.instance_norm(*x, axis=n), (_X, _C, _C)),
    "instance_norm_train": Case(lambda n: lambda *x: td.instance_norm_train(*x, axis=n), (_X, _C, _C)),
    "local_response_norm": Case(lambda n: lambda x: td.local_response_norm(x, size=3, axis=n), (_X,)),
    "prelu": Case(lambda n: lambda *x: td.prelu(*x, axis=n), (_X, _C)),
    "prelu of one weight": Case(lambda n: lambda *x: td.prelu(*x), (_X, (1,))),
    "channel_shuffle": Case(lambda n: lambda x: td.channel_shuffle(x, groups=2, axis=n), (_X,)),
    "max_pool": Case(lambda n: lambda x: td.max_pool(x, kernel=(3, 2), padding=(1, 0)), (_X,)),
    "max_pool_with_indices": Case(lambda n: lambda x: td.max_pool_with_indices(x, kernel=(3, 2)), (_X,)),
    "avg_pool": Case(lambda n: lambda x: td.avg_pool(x, kernel=(3, 2), stride=1, ceil=True), (_X,)),
    "adaptive_avg_pool": Case(lambda n: lambda x: td.adaptive_avg_pool(x, size=(4, 7)), (_X,)),
    "adaptive_max_pool": Case(lambda n: lambda x: td.adaptive_max_pool(x, size=(4, 1)), (_X,)),
    "adaptive_max_pool_with_indices": Case(lambda n: lambda x: td.adaptive_max_pool_with_indices(x, size=(4, 1)),
                                           (_X,)),
    "interpolate": Case(lambda n: lambda x: td.interpolate(x, size=(9, 5), mode="linear"), (_X,)),
    "interpolate nearest": Case(lambda n: lambda x: td.interpolate(x, size=(12, 5), mode="nearest"), (_X,)),
    "interpolate area": Case(lambda n: lambda x: td.interpolate(x, size=(3, 5), mode="area"), (_X,)),
    "grid_sample": Case(lambda n: lambda *x: td.grid_sample(*x), (_X, (3, 2, 2)), (0, 0)),
    "im2col": Case(lambda n: lambda x: td.im2col(x, kernel=(3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2)),
                   (_X,)),
    "col2im": Case(lambda n: lambda x: td.col2im(x, output=(4, 4), kernel=(3, 3), stride=(1, 1), padding=(0, 0),
                                                 dilation=(1, 1)), ((18, 4),)),
    "linear": Case(lambda n: lambda *x: td.linear(*x), ((5,), (4, 5), (4,))),
    "matmul": Case(lambda n: lambda *x: td.matmul(*x), ((3, 5), (5, 4)), (0, 0)),
    "rows of matmul": Case(lambda n: lambda *x: td.matmul(*x), ((5,), (5, 4))),
    "addmm": Case(lambda n: lambda *x: td.addmm(*x, beta=0.5), ((4,), (5,), (5, 4)), (None, 0)),
    "baddbmm": Case(lambda n: lambda *x: td.baddbmm(*x, alpha=2.0), ((3, 4), (3, 5), (5, 4)), (0, 0, 0)),
    "bilinear": Case(lambda n: lambda *x: td.bilinear(*x), ((4,), (5,), (6, 4, 5), (6,)), (0, 0)),
    "einsum": Case(lambda n: lambda *x: td.einsum(*x, equation="...qd,kd->...qk"), ((3, 5), (4, 5))),
    "gru": Case(lambda n: lambda *x: td.gru(*x, layers=1), ((3, 5), (1, 4), *_RNN), (1, 1)),
    "lstm": Case(lambda n: lambda *x: td.lstm(*x, layers=1, batch_first=True),
                 ((3, 5), (1, 3), (1, 3), *_RNN[:1], (12, 3), *_RNN[2:]), (0, 1, 1)),
}  # fmt: skip


def _core(body: Graph) -> list[str]:
    """The core ops of a body and of those in it, but those that only rename, reorder or repeat axes."""
    found: list[str] = []
    for v in body.values:
        if isinstance(v.op, Composite):
            found += _core(v.op.body(*[a.type for a in v.args]))
        elif not isinstance(v.op, Group | Ungroup | Repeat | Permute):
            found.append(f"{v.op.name} {getattr(v.op, 'kind', '')}")
    return sorted(found)


def _body(value: td.Value) -> Graph:
    assert isinstance(value.op, Composite)
    return value.op.body(*[a.type for a in value.args])


# what averages over the batch sums once more if there is one
@pytest.mark.parametrize("name", [n for n in CASES if n != "instance_norm_train"])
def test_body_is_the_same_computation_for_any_number_of_leading_axes(name: str) -> None:
    case = CASES[name]
    bare = _core(_body(case.value(())))
    for lead in ((1,), (3,), (2, 3)):
        assert _core(_body(case.value(lead))) == bare, f"{name} with leading axes {lead}"


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_of_the_entries(name: str) -> None:
    case = CASES[name]
    assert flops(case.value((1,))) == flops(case.value(())) == flops(case.value((1, 1)))


MIXING = {"batch_norm_train", "instance_norm_train"}


@pytest.mark.parametrize("name", [n for n in CASES if n not in MIXING])
def test_every_entry_of_the_batch_is_what_it_is_alone(name: str) -> None:
    case, lead = CASES[name], (2, 3)
    places = (*case.at, *(None,) * (len(case.shapes) - len(case.at)))
    arrays = [np.abs(numbers(s, "f32", 0.1, 2, i)) for i, s in enumerate(case.full(lead))]
    whole = case.value(lead).op.run(*arrays)
    alone = case.value(()).op
    for index in np.ndindex(*lead):
        own = [a if p is None else a[(*(slice(None),) * p, *index)] for a, p in zip(arrays, places, strict=True)]
        parts = alone.run(*own)
        first, part = (whole[0], parts[0]) if isinstance(whole, tuple) else (whole, parts)
        at = 1 if name == "gru" else 0
        np.testing.assert_allclose(first[(*(slice(None),) * at, *index)], part, rtol=1e-5, atol=1e-5)


def _exported(case: Case, lead: Shape, arrays: list[np.ndarray]) -> list[np.ndarray]:
    inputs = case.arguments(lead)
    module = dag_of(case.build(len(lead))(*inputs), inputs=inputs).to_torch()
    with torch.no_grad():
        out = module(*map(to_torch, arrays))
    return [to_numpy(t) for t in (out if isinstance(out, tuple) else (out,))]


@pytest.mark.parametrize("name", CASES)
def test_exports_to_the_same_kernel_without_a_batch(name: str) -> None:
    """Nothing differs but the rounding from what the batch of one gives."""
    case = CASES[name]
    arrays = [np.abs(numbers(s, "f32", 0.1, 2, i)) for i, s in enumerate(case.shapes)]
    ones = [a.reshape(s) for a, s in zip(arrays, case.full((1,)), strict=True)]
    for a, b in zip(_exported(case, (), arrays), _exported(case, (1,), ones), strict=True):
        assert a.size == b.size
        assert_rounded_alike(a.reshape(-1), b.reshape(-1), what=name)


@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize(
    "name", ["convolution", "convolution_transpose", "avg_pool", "adaptive_avg_pool", "interpolate", "im2col",
             "col2im", "linear", "matmul", "rows of matmul", "bilinear", "einsum", "channel_shuffle"],
)  # fmt: skip
def test_adjoint(name: str, lead: Shape) -> None:
    case = CASES[name]
    biased = name in ("convolution", "convolution_transpose", "linear", "bilinear")
    assert_adjoint((case._replace(shapes=case.shapes[:-1]) if biased else case).value(lead))


@pytest.mark.parametrize("axis", [0, 2])
def test_inverse_of_batch_norm_at_any_axis(axis: int) -> None:
    lead = (2, 3)[:axis]
    arrays = [np.abs(numbers(s, "f32", 0.5, 2, i)) for i, s in enumerate([(*lead, 4, 5), _C, _C, _C, _C])]
    inputs = [td.input(f"x{i}", a.shape) for i, a in enumerate(arrays)]
    out = td.batch_norm(*inputs, axis=axis)
    back = out.op.inverse()(td.input("y", out.shape), *inputs[1:])
    graph = td.Graph({"y": td.input("y", out.shape), **{f"x{i}": v for i, v in enumerate(inputs) if i}}, {"x": back})
    given = {"y": out.op.run(*arrays), **{f"x{i}": a for i, a in enumerate(arrays) if i}}
    np.testing.assert_allclose(interpret.run(graph, given, {})[0]["x"], arrays[0], rtol=1e-5)


def test_channels_at_axis_1_go_without_saying() -> None:
    x = td.input("x", (2, 4, 5))
    assert str(td.group_norm(x, groups=2).op) == "group_norm(groups=2)"
    assert str(td.group_norm(x, groups=5, axis=-1).op) == "group_norm(groups=5, axis=2)"
    weight = td.input("w", (1,))
    assert td.prelu(x, weight, axis=2) is td.prelu(x, weight)  # one weight: there is no axis
    seed = td.input("s", (), "u64")
    assert td.dropout_train(x, seed, p=0.5, axis=2) is td.dropout_train(x, seed, p=0.5)


@pytest.mark.parametrize(
    ("op", "rank", "message"),
    [
        (CASES["batch_norm"].value((2,)).op, 1, "no such axis"),
        (td.group_norm(td.input("x", (2, 3, 4)), groups=2, axis=2).op, 2, "no such axis"),
        (td.softmax(td.input("x", (2, 3, 4)), axis=2).op, 2, "no such axis"),
        (td.mean(td.input("x", (2, 3, 4)), axes=(0, 2)).op, 2, "no such axis"),
        (td.max_pool(td.input("x", (2, 3, 4)), kernel=(2, 2)).op, 1, r"pooling: \(2, 2\) is for 2 axes"),
        (td.adaptive_avg_pool(td.input("x", (2, 3, 4)), size=(2, 2)).op, 1, r"pooling: \(2, 2\) is for 2 axes"),
        (td.interpolate(td.input("x", (2, 3, 4)), size=(2, 2), mode="nearest").op, 1, r"\(2, 2\) is for 2 axes"),
        (td.diagonal(td.input("x", (2, 3, 4)), axis0=1, axis1=2).op, 2, "diagonal: .* has no axes 1 and 2"),
        (composites["reshape"](td.input("x", (2, 3)), shape=(3, 2)).op, 1, "the shape .* doesn't"),
    ],
)  # fmt: skip
def test_an_op_on_a_tensor_it_does_not_fit_says_so(op: Any, rank: int, message: str) -> None:
    types = [td.TensorType((4,) * rank, "f32"), *[td.TensorType(_C, "f32")] * (sum(getattr(op, "given", (True,))) - 1)]
    with pytest.raises(td.TypeMismatchError, match=message):
        op.infer(*types)
