"""What the table of samples can't say of products, convolutions and pools: flops, adjoints, inverses, errors."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

import tdagger as td
from tdagger import interpret
from tdagger.graph import flops
from tests.samples import numbers


def evaluate(value: td.Value, arrays: dict[str, np.ndarray]) -> np.ndarray:
    graph = td.Graph({k: td.input(k, a.shape, a.dtype.name) for k, a in arrays.items()}, {"out": value})
    return interpret.run(graph, arrays, {})[0]["out"]


def assert_adjoint(value: td.Value) -> None:
    """``sum(f(x) * y) = sum(x * g(y))`` with g the adjoint in the first argument, and f's others given."""
    arrays = {a.op.leaf: numbers(a.shape, "f32", seed=i) for i, a in enumerate(value.args)}
    for a in value.args:
        if a.dtype.is_int:
            arrays[a.op.leaf] = np.zeros(a.shape, np.int64)
    x, *others = value.args
    y = numbers(value.shape, "f32", seed=9)
    back = value.op.adjoint(*[a.type for a in value.args])(td.input("y", value.shape), *others)
    assert back.type is x.type
    rest = {k: v for k, v in arrays.items() if k != x.op.leaf}
    left = np.sum(evaluate(value, arrays).astype(np.float64) * y)
    right = np.sum(evaluate(back, {**rest, "y": y}).astype(np.float64) * arrays[x.op.leaf])
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


def inputs(*shapes: tuple[int, ...]) -> list[td.Value]:
    return [td.input(f"x{i}", s) for i, s in enumerate(shapes)]


def test_flops_of_products() -> None:
    x, y = inputs((2, 7), (7, 5))
    assert flops(td.matmul(x, y)) == 2 * 5 * (2 * 7 - 1)
    x, weight, bias = inputs((3, 7), (5, 7), (5,))
    assert flops(td.linear(x, weight)) == 3 * 5 * (2 * 7 - 1)
    assert flops(td.linear(x, weight, bias)) == 3 * 5 * 2 * 7
    x, weight = inputs((2, 6, 9, 8), (4, 3, 3, 2))
    out = td.convolution(x, weight, stride=2, groups=2)
    assert flops(out) == out.type.size * (2 * 3 * 3 * 2 - 1)
    q, k = inputs((2, 5, 3, 4), (2, 6, 3, 4))
    assert flops(td.einsum(q, k, equation="bqhd,bkhd->bhqk")) == 2 * 3 * 5 * 6 * (2 * 4 - 1)


def test_body_of_a_convolution_is_small() -> None:
    x, weight, bias = inputs((1, 64, 56, 56), (64, 64, 7, 7), (64,))
    out = td.convolution(x, weight, bias, padding=3)
    assert len(out.op.body(x.type, weight.type, bias.type)) <= 20


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("iij,ji->", [(3, 3, 4), (4, 3)]),
        ("...i->i", [(2, 4, 3)]),
        ("ij,jk->ik", [(2, 1), (3, 4)]),
        ("a,ab,b->", [(3,), (3, 4), (4,)]),
    ],
)
def test_adjoint_of_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    assert_adjoint(td.einsum(*inputs(*shapes), equation=equation))


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 5), (5, 4)],
        [(2, 3, 5), (5, 4)],
        [(3, 5), (2, 5, 4)],
        [(2, 1, 3, 5), (6, 5, 4)],
        [(5,), (2, 5, 4)],
        [(2, 3, 5), (5,)],
        [(5,), (5,)],
    ],
)
def test_adjoint_of_matmul(shapes: list[tuple[int, ...]]) -> None:
    assert_adjoint(td.matmul(*inputs(*shapes)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: td.linear(*inputs((2, 3, 5), (4, 5))),
        lambda: td.linear(*inputs((3, 5), (5,))),
        lambda: td.bilinear(*inputs((3, 4), (3, 5), (6, 4, 5))),
        lambda: td.embedding(td.input("w", (4, 5)), td.input("i", (2, 3), "i64")),
        lambda: td.avg_pool(*inputs((2, 3, 6, 7)), kernel=3, stride=2, padding=1, ceil=True, count_include_pad=False),
        lambda: td.adaptive_avg_pool(*inputs((2, 3, 6, 7)), size=(4, 7)),
        lambda: td.interpolate(*inputs((1, 2, 6, 7)), size=(9, 3), mode="linear"),
        lambda: td.interpolate(*inputs((1, 2, 6, 7)), size=(12, 3), mode="nearest"),
        lambda: td.interpolate(*inputs((1, 2, 6, 7)), size=(4, 3), mode="cubic", antialias=True),
    ],
)
def test_adjoint(build: Callable[[], td.Value]) -> None:
    assert_adjoint(build())


@given(st.data())
def test_adjoint_of_convolution(data: st.DataObject) -> None:
    """Any strides, dilation, groups and paddings, cropping ones among them; and the adjoint's adjoint."""
    rank = data.draw(st.integers(1, 2))
    small = st.integers(1, 3)
    each = st.tuples(*[small] * rank)
    stride, dilation, kernel, groups = (data.draw(s) for s in (each, each, each, st.integers(1, 2)))
    padding = data.draw(st.tuples(*[st.tuples(st.integers(-1, 3), st.integers(-1, 3))] * rank))
    sizes = data.draw(st.tuples(*[st.integers(3, 9)] * rank))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + a + b >= s for n, (a, b), s in zip(sizes, padding, spans, strict=True)))
    x, weight = inputs((2, 2 * groups, *sizes), (3 * groups, 2, *kernel))
    out = td.convolution(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert_adjoint(out)
    extra = data.draw(st.tuples(*[st.integers(0, 2)] * rank))
    x, weight = inputs((2, 2 * groups, *sizes), (2 * groups, 3, *kernel))
    assume(all((n - 1) * s + r + e > 2 for n, s, r, e in zip(sizes, stride, spans, extra, strict=True)))
    assert_adjoint(
        td.convolution_transpose(
            x, weight, stride=stride, padding=(1,) * rank, output_padding=extra, dilation=dilation, groups=groups
        )
    )


def test_inverse_of_batch_norm() -> None:
    x, mean, variance, weight, bias = (numbers(s, "f32", 0.5, 2, i) for i, s in enumerate([(2, 3, 4)] + [(3,)] * 4))
    values = inputs((2, 3, 4), (3,), (3,), (3,), (3,))
    out = td.batch_norm(*values)
    back = out.op.inverse()(td.input("y", out.shape), *values[1:])
    y = out.op.run(x, mean, variance, weight, bias)
    found = evaluate(back, {"y": y, "x1": mean, "x2": variance, "x3": weight, "x4": bias})
    np.testing.assert_allclose(found, x, rtol=1e-5)


def test_a_bias_has_no_adjoint() -> None:
    for out in (
        td.linear(*inputs((3, 5), (4, 5), (4,))),
        td.bilinear(*inputs((3, 4), (3, 5), (6, 4, 5), (6,))),
        td.convolution(*inputs((1, 2, 5), (3, 2, 2), (3,))),
    ):
        with pytest.raises(td.NoInverseError, match="bias"):
            out.op.adjoint(*[a.type for a in out.args])(td.input("y", out.shape), *out.args[1:])


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("ij,jk->iz", [(2, 3), (3, 4)], "letter 'z' of the result is in no operand\n  ij,jk->iz\n          ^"),
        ("ij,j$", [(2, 3), (3, 4)], "'$' is neither a letter nor an ellipsis\n  ij,j$\n      ^"),
        ("ij,jk,kl", [(2, 3), (3, 4)], "there are 3 terms for 2 operands\n  ij,jk,kl\n       ^"),
        ("ij,jk->ii", [(2, 3), (3, 4)], "letter 'i' is twice in the result\n  ij,jk->ii\n          ^"),
        ("ij,jk", [(2, 3), (4, 4)], "axis 0 of operand 1 (f32[4 4]) has size 4, not 3\n  ij,jk\n     ^"),
        ("ijk,jk", [(2, 3), (4, 4)], "term 0 names 3 axes, operand 0 has 2\n  ijk,jk\n  ^"),
        ("i......", [(2, 3)], "a second ellipsis in one term\n  i......\n      ^"),
        ("ii", [(2, 3)], "axis 1 of operand 0 (f32[2 3]) has size 3, not 2\n  ii\n  ^"),
    ],
)
def test_einsum_points_at_what_is_wrong(equation: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(td.AttributeValueError) as error:
        td.einsum(*inputs(*shapes), equation=equation)
    assert str(error.value) == f"einsum: {message}"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: td.matmul(*inputs((2, 3), (4, 5))), td.TypeMismatchError, r"differ in k .*f32\[2 3\] and f32\[4 5\]"),
        (lambda: td.linear(*inputs((2, 3), (4, 5))), td.TypeMismatchError, r"differ in i: f32\[2 3\] and f32\[4 5\]"),
        (lambda: td.convolution(*inputs((1, 3, 2, 2), (4, 3, 3, 3))), td.TypeMismatchError, "doesn't fit in"),
        (lambda: td.convolution(*inputs((1, 3, 4, 4), (4, 2, 3, 3))), td.TypeMismatchError, "takes 2 channels"),
        (lambda: td.convolution(*inputs((1, 3, 4), (4, 3, 3)), padding="sam"), td.AttributeValueError, "'sam'"),
        (
            lambda: td.convolution(*inputs((1, 3, 4), (4, 3, 3)), padding="same", stride=2),
            td.AttributeValueError,
            "strides of 1",
        ),
        (lambda: td.max_pool(*inputs((1, 3, 4)), kernel=2, padding=2), td.AttributeValueError, "half of the window"),
        (lambda: td.max_pool(*inputs((1, 3, 4)), kernel=6), td.TypeMismatchError, "don't fit"),
        (lambda: td.layer_norm(*inputs((2, 3)), rank=3), td.AttributeValueError, "rank 3 should be from 1 to 2"),
        (lambda: td.group_norm(*inputs((2, 3, 4)), groups=2), td.AttributeValueError, "into 2 groups"),
        (lambda: td.interpolate(*inputs((1, 2, 4)), size=3, mode="cubic"), td.TypeMismatchError, r"\[.. h w\]"),
        (lambda: td.lstm(*inputs((5, 2, 3), (1, 2, 4)), layers=1), td.TypeMismatchError, "lstm: takes x and 2 states"),
        (
            lambda: td.scaled_dot_product_attention(*inputs((1, 5, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), grouped=True),
            td.TypeMismatchError,
            "don't divide",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("ours", "torchs"), [(td.max_pool, F.max_pool1d), (td.avg_pool, F.avg_pool1d)])
def test_windows_are_as_many_as_in_torch_or_refused_as_there(
    ours: Callable[..., td.Value], torchs: Callable[..., torch.Tensor], ceil: bool
) -> None:
    for n, kernel, stride, padding in product((1, 2, 4), (1, 2, 3, 5, 8), (1, 2, 3, 5), (0, 1, 2)):
        x = numbers((1, 2, n), "f32")
        try:
            want = torchs(torch.from_numpy(x), kernel, stride, padding, ceil_mode=ceil)
        except RuntimeError:
            with pytest.raises(td.TDaggerError):
                ours(td.input("x", x.shape), kernel=kernel, stride=stride, padding=padding, ceil=ceil)
            continue
        value = ours(td.input("x", x.shape), kernel=kernel, stride=stride, padding=padding, ceil=ceil)
        np.testing.assert_allclose(evaluate(value, {"x": x}), want.numpy(), rtol=1e-6)
