"""Gradients of what ``to_torch`` gives against eager torch's, where functions have kinks, ends and ties."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tdagger as td

Function = Callable[..., Any]
inf, nan = math.inf, math.nan

#: Zeros, ties with bounds, saturated, huge and tiny numbers, infinities, NaN.
POINTS = torch.tensor(
    [
        0.0,
        -0.0,
        1,
        -1,
        0.5,
        -0.5,
        0.25,
        0.75,
        1.5,
        2,
        -2,
        3,
        -3,
        6,
        20,
        -20,
        100,
        -100,
        1e4,
        -1e4,
        1e-30,
        inf,
        -inf,
        nan,
    ]
)


class _All(nn.Module):
    """Every function of a table, on the same arguments."""

    def __init__(self, table: dict[str, Function]) -> None:
        super().__init__()
        self.table = table

    def forward(self, *args: Tensor) -> list[Tensor]:
        return [f(*args) for f in self.table.values()]


def _gradients(out: Tensor, args: list[Tensor]) -> list[Tensor]:
    """Zeros for an argument that isn't reached, as torch's optimisers take it."""
    weights = torch.linspace(0.5, 1.5, out.numel()).to(out.dtype).reshape(out.shape)
    if not out.requires_grad:
        return [torch.zeros_like(a) for a in args]
    found = torch.autograd.grad(out, args, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(found, args, strict=True)]


def _compare(table: dict[str, Function], args: tuple[Tensor, ...], dtype: torch.dtype, inlined: bool = False) -> None:
    given = [a.to(dtype) if a.is_floating_point() else a for a in args]
    dag = td.from_torch(_All(table), tuple(given))
    back = (dag.inline() if inlined else dag).to_torch(fixed=True)
    own, theirs = ([a.clone().requires_grad_(a.is_floating_point()) for a in given] for _ in range(2))
    wrong: list[str] = []
    for name, got, want in zip(table, back(*own), _All(table)(*theirs), strict=True):
        if got.requires_grad != want.requires_grad:
            wrong.append(f"{name}: requires_grad is {got.requires_grad}, not {want.requires_grad}")
        floats = [[a for a in xs if a.requires_grad] for xs in (own, theirs)]
        pairs = zip(("value", *map(str, range(9))), [got, *_gradients(got, floats[0])],
                    [want, *_gradients(want, floats[1])], strict=False)  # fmt: skip
        for what, g, w in pairs:
            close = torch.isclose(g, w, rtol=1e-4, atol=1e-5, equal_nan=True)
            if not bool(close.all()):
                i = tuple((~close).nonzero()[0].tolist())
                wrong.append(f"{name}: {what} at {i} is {g[i].item()}, not {w[i].item()}")
    assert not wrong, "\n".join(wrong)


types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])

# --- of one number -----------------------------------------------------------------------------------------


def _like(x: Tensor, value: float) -> Tensor:
    return torch.tensor(value, dtype=x.dtype)


ONE: dict[str, Function] = {
    **{n: getattr(torch, n) for n in (
        "abs", "sqrt", "rsqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sign", "sgn",
        "floor", "ceil", "round", "trunc", "frac", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
        "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "sigmoid", "logit", "sinc", "square",
        "nan_to_num", "relu", "deg2rad", "angle", "positive", "i0",
    )},
    **{n: getattr(torch.special, n) for n in ("entr", "erfcx", "log_ndtr", "ndtr", "ndtri", "i0e", "i1", "i1e")},
    **{n: getattr(F, n) for n in (
        "relu6", "hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink", "elu", "selu", "celu",
        "leaky_relu", "silu", "mish", "gelu", "logsigmoid", "softplus", "softsign", "tanhshrink",
    )},
    **{f"power {p}": lambda x, p=p: x**p for p in (0, 1, 2, 3, -1, -2, 0.0, 0.5, 1.5)},
    **{f"{b} to the power": lambda x, b=b: b**x for b in (0.0, 1.0, 2.0)},
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "threshold": lambda x: F.threshold(x, 0.5, 3.0),
    "clamp": lambda x: x.clamp(-1, 2),
    "clamp min": lambda x: x.clamp(min=0.0),
    "clamp max": lambda x: x.clamp(max=2.0),
    "clamp crossed": lambda x: x.clamp(2, -1),
    "clamp by tensors": lambda x: torch.clamp(x, _like(x, -1), _like(x, 2)),
    "clamp by itself": lambda x: torch.clamp(x, x * 0.5, x * 2),
    "maximum": lambda x: torch.maximum(x, x.abs()),
    "rounded to a tenth": lambda x: torch.round(x, decimals=1),
    "divided, floor": lambda x: torch.div(x, 2.0, rounding_mode="floor"),
    "divided, trunc": lambda x: torch.div(x, 2.0, rounding_mode="trunc"),
    "divisor, floor": lambda x: torch.div(_like(x, 3), x, rounding_mode="floor"),
    "distance from floor": lambda x: x - torch.div(x, x.abs() + 1, rounding_mode="floor"),
    "remainder": lambda x: x % 2.0,
    "remainder of a negative": lambda x: torch.remainder(x, -1.5),
    "fmod": lambda x: torch.fmod(x, 2.0),
    "x log x": lambda x: torch.xlogy(x, x),
    "x log1p x": lambda x: torch.special.xlog1py(x, x),
    "copysign": lambda x: torch.copysign(x, -1.0),
    "where": lambda x: torch.where(x > 0, x.sqrt(), x * 0),
    "masked": lambda x: x.masked_fill(x < 0, 0).sqrt(),
    "step": lambda x: (x > 0).to(x.dtype) * x,
    "straight through": lambda x: x + (x.round() - x).detach(),
    "fraction": lambda x: torch.frexp(x).mantissa,
    "bucket": lambda x: torch.bucketize(x, torch.tensor([0.0, 1.0], dtype=x.dtype)) + x,
    "cumulative max": lambda x: torch.cummax(x, 0).values,
    "logaddexp": lambda x: torch.logaddexp(x, x),
    "hypot": lambda x: torch.hypot(x, x),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "huber": lambda x: F.huber_loss(x, x * 0, reduction="none"),
}  # fmt: skip


@types
def test_functions_of_one_number(dtype: torch.dtype) -> None:
    _compare(ONE, (POINTS,), dtype)


# --- of two numbers ----------------------------------------------------------------------------------------

TWO: dict[str, Function] = {
    **{n: getattr(torch, n) for n in (
        "atan2", "hypot", "xlogy", "maximum", "minimum", "fmax", "fmin", "logaddexp", "copysign", "add", "mul", "div",
        "clamp_min", "clamp_max",
    )},
    "xlog1py": torch.special.xlog1py,
    "power": lambda x, y: x.abs() ** y,
    "divided, floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "divided, trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "clamped between": lambda x, y: torch.clamp(x, y, y + 1),
    "mse": lambda x, y: F.mse_loss(x, y, reduction="none"),
    "l1": lambda x, y: F.l1_loss(x, y, reduction="none"),
    "huber": lambda x, y: F.huber_loss(x, y, reduction="none"),
    "huber 2": lambda x, y: F.huber_loss(x, y, reduction="none", delta=2.0),
    "smooth l1": lambda x, y: F.smooth_l1_loss(x, y, reduction="none"),
    "smooth l1 of no width": lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=0.0),
    "bce with logits": lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
    "kl": lambda x, y: F.kl_div(x, y, reduction="none"),
    "kl of logarithms": lambda x, y: F.kl_div(x, y, reduction="none", log_target=True),
    "hinge": lambda x, y: F.hinge_embedding_loss(x, y.sign().detach(), reduction="none"),
    "poisson": lambda x, y: F.poisson_nll_loss(x, y, reduction="none"),
    "spectrum": lambda x, y: torch.view_as_real(torch.polar(x.abs(), y)),
}  # fmt: skip
SOME = torch.tensor([0.0, -0.0, 1, -1, 0.5, 2, 20, -20, 100])


@types
def test_functions_of_two_numbers(dtype: torch.dtype) -> None:
    x, y = (t.reshape(-1) for t in torch.meshgrid(SOME, SOME, indexing="ij"))
    _compare(TWO, (x, y), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_losses_far_away(dtype: torch.dtype) -> None:
    x, y = (
        t.reshape(-1) for t in torch.meshgrid(torch.tensor([0.0, 1, inf]), torch.tensor([0.0, -inf]), indexing="ij")
    )
    _compare({n: TWO[n] for n in ("huber", "huber 2", "smooth l1", "l1")}, (x, y), dtype)


PROBABLE: dict[str, Function] = {
    **{r: lambda p, t, r=r: F.binary_cross_entropy(p, t, reduction=r) for r in ("none", "mean", "sum")},
    "weighted": lambda p, t: F.binary_cross_entropy(p, t, weight=t.detach() + 0.5),
    "after a sigmoid": lambda p, t: F.binary_cross_entropy((p * 400 - 200).sigmoid(), t),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sure", [True, False])
def test_cross_entropy_of_what_is_sure(sure: bool, dtype: torch.dtype) -> None:
    p, t = torch.tensor([0, 1, 0.5, 1e-30, 0.25, 1, 0]), torch.tensor([0, 1, 0.5, 1, 0.25, 0, 1])
    table = {n: lambda p, t, f=f: f(p, (t > 0.5).to(p.dtype) if sure else t.detach()) for n, f in PROBABLE.items()}
    _compare(table, (p, t), dtype)


# --- along an axis -----------------------------------------------------------------------------------------

ROWS: dict[str, Tensor] = {
    "ties": torch.tensor([[1, 1, 0, 1], [2, 2, 2, 2], [-0.0, 0, -1, 3]]),
    "zeros": torch.zeros(3, 4),
    "infinite": torch.tensor([[inf, inf, 1, 2], [-inf, -inf, -inf, -inf], [-inf, 0, 1, 0]]),
    "huge": torch.tensor([[1e20, -3e19, 2e19, 1], [1e19, 1e20, 0, 1e-20], [-1e20, 2, -2e20, 3e18]]),
    "one": torch.ones(1, 1),
    "empty": torch.zeros(0, 4),
}
ALONG: dict[str, Function] = {
    "amax": lambda x: x.amax(1), "amin": lambda x: x.amin(1), "max": lambda x: x.max(1).values,
    "min": lambda x: x.min(1, keepdim=True).values, "max and where": lambda x: x.max(1).values * x.max(1).indices,
    "max over the last": lambda x: torch.max(x, -1)[0], "sort": lambda x: x.sort(1).values,
    "sort down": lambda x: x.sort(1, descending=True).values, "topk": lambda x: x.topk(1, 1).values,
    "median": lambda x: x.median(1).values, "aminmax": lambda x: torch.aminmax(x, dim=1).max,
    "cummax": lambda x: x.cummax(1).values, "cummin": lambda x: x.cummin(1).values, "cumsum": lambda x: x.cumsum(1),
    "prod": lambda x: x.prod(1), "cumprod": lambda x: x.cumprod(1), "logsumexp": lambda x: x.logsumexp(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1), "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1), "softmin": lambda x: F.softmin(x, 1),
    "norm": lambda x: x.norm(dim=1), "norm 1": lambda x: x.norm(1, dim=1),
    "norm inf": lambda x: torch.linalg.vector_norm(x, inf, 1), "norm 0": lambda x: torch.linalg.vector_norm(x, 0, 1),
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3, 1), "norm of all": lambda x: x.norm(),
    "deviation of the whole": lambda x: x.std(1, correction=0), "normalize": lambda x: F.normalize(x, dim=1),
    "normalize by sizes": lambda x: F.normalize(x, p=1, dim=1),
    "cosine": lambda x: F.cosine_similarity(x, x.roll(1, 0), 1),
    "cosine of itself": lambda x: F.cosine_similarity(x, x),
    "distance": lambda x: F.pairwise_distance(x, x), "cdist": lambda x: torch.cdist(x, x),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]), "rms norm": lambda x: F.rms_norm(x, x.shape[1:]),
    "cross entropy": lambda x: F.cross_entropy(x, x.new_zeros(x.shape[0], dtype=torch.long), reduction="none"),
    "smoothed": lambda x: F.cross_entropy(
        x, x.new_zeros(x.shape[0], dtype=torch.long), label_smoothing=0.1, reduction="none"
    ),
    "triplet": lambda x: F.triplet_margin_loss(x, x.roll(1, 0), x.roll(2, 0), reduction="none"),
    "margin": lambda x: F.margin_ranking_loss(x, x.roll(1, 0), torch.ones_like(x), reduction="none"),
    "pooled": lambda x: F.adaptive_max_pool1d(x, 1) if x.numel() else x,
    "the largest's": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "largest of a group": lambda x: torch.zeros_like(x).scatter_reduce(1, x.argsort(1) * 0, x, "amax"),
}  # fmt: skip


@types
@pytest.mark.filterwarnings("ignore:std\\(\\)")  # torch's, of no entries
@pytest.mark.parametrize("rows", ROWS)
def test_reductions(rows: str, dtype: torch.dtype) -> None:
    _compare(ALONG, (ROWS[rows],), dtype)


@types
def test_windows_with_ties(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0, 1, 1], [0, 2, 1, 1], [-0.0, 0, 0, 5], [5, 5, -1, -1]])[None]
    table: dict[str, Function] = {
        "overlapping": lambda x: F.max_pool2d(x, 2, 1),
        "padded": lambda x: F.max_pool2d(x, 3, 2, 1),
        "all": lambda x: F.adaptive_max_pool2d(x, 1),
        "powers": lambda x: F.lp_pool2d(x.abs(), 2, 2),
        "global": lambda x: x.flatten(1).max(1).values,
        "unpooled": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    }
    _compare(table, (x,), dtype)


@types
def test_margins_that_are_just_kept(dtype: torch.dtype) -> None:
    x, target = torch.tensor([[1.0, 0, 0.5], [0, 1, 2], [nan, 1, 0]]), torch.tensor([0, 2, 1])
    weight = torch.tensor([1.0, 2, 0.5])
    table: dict[str, Function] = {
        **{r: lambda x, t, r=r: F.multi_margin_loss(x, t, reduction=r) for r in ("none", "mean", "sum")},
        "squared": lambda x, t: F.multi_margin_loss(x, t, p=2, margin=0.5, reduction="none"),
        "weighted": lambda x, t: F.multi_margin_loss(x, t, weight=weight.to(x.dtype), reduction="none"),
        "of one": lambda x, t: F.multi_margin_loss(x[0], t[0]),
    }
    _compare(table, (x, target), dtype)


# --- in core ops -------------------------------------------------------------------------------------------

#: Functions of which a body has another gradient than torch's, as :meth:`TensorDAG.inline` says, and where.
FORMULAS = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "softshrink"), "at limits"),
    **dict.fromkeys(("clamp", "clamp min", "clamp max", "clamp crossed", "hinge"), "at limits"),
    **dict.fromkeys(("topk", "pooled", "margin"), "where two are equal"),
    **dict.fromkeys(("elu", "selu", "celu"), "of NaN"),
    "layer norm": "where torch's squares overflow: the body is finite",
}


def _of_bodies(table: dict[str, Function]) -> dict[str, Function]:
    return {n: f for n, f in table.items() if n not in FORMULAS}


def test_functions_of_one_number_in_core_ops() -> None:
    table = _of_bodies(ONE)
    gelu = {"gelu": table.pop("gelu")}  # with AVX-512 torch's makes NaN of infinity among 16 numbers, not of it alone
    _compare(table, (POINTS,), torch.float32, inlined=True)
    _compare(gelu, (POINTS[POINTS.isfinite()],), torch.float32, inlined=True)


def test_functions_of_two_numbers_in_core_ops() -> None:
    x, y = (t.reshape(-1) for t in torch.meshgrid(SOME, SOME, indexing="ij"))
    _compare(_of_bodies(TWO), (x, y), torch.float32, inlined=True)


@pytest.mark.filterwarnings("ignore:std\\(\\)")  # torch's, of no entries
@pytest.mark.parametrize("rows", ROWS)
def test_reductions_in_core_ops(rows: str) -> None:
    _compare(_of_bodies(ALONG), (ROWS[rows],), torch.float32, inlined=True)
