"""Matrix products, einsum and embedding; also how the samples of products are made."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import FLOATS, Sample, by_torch, dtype_of, numbers

#: What sums of products may be off, in units of the largest element: narrow floats are rounded once.
ULPS = {"f64": 64.0, "f32": 64.0, "f16": 1.0, "bf16": 1.0}


def sampled(
    op: str,
    name: str,
    build: Callable[..., Any],
    shapes: Sequence[Any],
    function: Callable[..., Any],
    dtypes: Iterable[str] = FLOATS,
    ulps: float | None = None,
    wide: bool = True,
) -> list[Sample]:
    """A sample for each element type: of random floats of ``shapes``, arrays that are given stay as they are.

    The truth is torch's ``function`` in float64, rounded once, or (not ``wide``) in the element type itself.
    """
    found: list[Sample] = []
    for dtype in dtypes:
        arrays = tuple(
            s if isinstance(s, np.ndarray) else numbers(s, dtype, -2, 2, seed=i) for i, s in enumerate(shapes)
        )
        allowed = ULPS[dtype] if ulps is None else ulps
        found.append(Sample(op, f"{name}-{dtype}", build, arrays, by_torch(function, wide), allowed, True))
    return found


def batched(function: Callable[..., Any], lead: int, tensors: int = 1) -> Callable[..., Any]:
    """torch's ``function`` of tensors with one batch axis (the first ``tensors``) as one of those with ``lead``."""

    def over(*xs: torch.Tensor) -> Any:
        first = [x.reshape(-1, *x.shape[lead:]) for x in xs[:tensors]]
        out = function(*first, *xs[tensors:])
        ahead = xs[0].shape[:lead]
        parts = out if isinstance(out, tuple) else (out,)
        found = tuple(t.reshape(*ahead, *t.shape[1:]) for t in parts)
        return found if isinstance(out, tuple) else found[0]

    return over


#: What stands before the channels where it isn't one batch axis.
LEADS = ((), (2, 3), (2, 1, 2))


def special(shape: Sequence[int], dtype: str = "f32", **at: Any) -> np.ndarray:
    """Random floats with the values ``at`` (n5=nan puts NaN at flat place 5)."""
    array = numbers(shape, "f64", -2, 2)
    for place, value in at.items():
        array.flat[int(place[1:])] = value
    return array.astype(dtype_of(dtype))


INF, NAN = np.inf, np.nan
SAMPLES: list[Sample] = []

for _name, _shapes in {
    "matrix": [(3, 5), (4, 5), (4,)],
    "no bias": [(3, 5), (4, 5)],
    "batch": [(2, 3, 5), (4, 5), (4,)],
    "vector": [(5,), (4, 5), (4,)],
    "one output": [(2, 3, 5), (5,)],
    "zero batch": [(0, 5), (4, 5), (4,)],
    "no inputs": [(3, 0), (4, 0), (4,)],
    "long": [(2, 700), (3, 700), (3,)],
}.items():
    SAMPLES += sampled("linear", _name, td.linear, _shapes, F.linear)

SAMPLES.append(
    Sample("linear", "inf and nan", td.linear, (special((3, 4), n0=INF, n5=NAN, n9=-INF), special((2, 4), n3=0.0)),
           by_torch(F.linear), 64, True)
)  # fmt: skip

for _name, _shapes in {
    "matrices": [(3, 5), (5, 4)],
    "batch": [(2, 3, 5), (2, 5, 4)],
    "broadcast": [(2, 1, 3, 5), (6, 5, 4)],
    "vector matrix": [(5,), (2, 5, 4)],
    "matrix vector": [(2, 3, 5), (5,)],
    "vectors": [(5,), (5,)],
    "vector and one matrix": [(5,), (5, 4)],
    "one matrix and vector": [(3, 5), (5,)],
    "no rows": [(0, 5), (5, 4)],
    "nothing summed": [(3, 0), (0, 4)],
}.items():
    SAMPLES += sampled("matmul", _name, td.matmul, _shapes, torch.matmul)

for _dtype in ("i8", "i32", "i64", "u8"):
    SAMPLES.append(
        Sample("matmul", f"whole-{_dtype}", td.matmul, (numbers((3, 5), _dtype), numbers((5, 4), _dtype, seed=1)),
               by_torch(torch.matmul))
    )  # fmt: skip


def _scaled(of: Callable[..., Any], beta: float, alpha: float) -> Callable[..., Any]:
    return lambda *xs: of(*xs, beta=beta, alpha=alpha)


for _beta, _alpha in ((1.0, 1.0), (0.5, -2.0), (0.0, 1.5)):
    _name = f"{_beta} {_alpha}"
    for _bias in ((4,), (3, 4), (1, 1)):
        SAMPLES += sampled("addmm", f"{_name} {len(_bias)} {_bias[0]}", _scaled(td.addmm, _beta, _alpha),
                           [_bias, (3, 5), (5, 4)], _scaled(torch.addmm, _beta, _alpha))  # fmt: skip
    SAMPLES += sampled("baddbmm", _name, _scaled(td.baddbmm, _beta, _alpha), [(2, 1, 4), (2, 3, 5), (2, 5, 4)],
                       _scaled(torch.baddbmm, _beta, _alpha))  # fmt: skip
    for _op, _bias, _x, _y in (
        ("addmm", (4,), (5,), (5, 4)),
        ("addmm", (1,), (2, 3, 5), (5, 4)),
        ("addmm", (2, 1, 4), (2, 3, 5), (2, 5, 4)),
        ("baddbmm", (3, 4), (3, 5), (5, 4)),
        ("baddbmm", (4,), (3, 5), (5, 4)),
        ("baddbmm", (2, 1, 3, 4), (2, 3, 3, 5), (3, 5, 4)),
        ("baddbmm", (), (5,), (5,)),
    ):
        SAMPLES += sampled(_op, f"{_name} {list(_bias)} {list(_x)} {list(_y)}",
                           _scaled(getattr(td, _op), _beta, _alpha), [_bias, _x, _y],
                           lambda c, x, y, b=_beta, a=_alpha: b * c + a * (x @ y))  # fmt: skip
SAMPLES.append(
    Sample("addmm", "beta 0 ignores nan", _scaled(td.addmm, 0.0, 1.0),
           (special((4,), n1=NAN), special((3, 5)), special((5, 4))), by_torch(_scaled(torch.addmm, 0.0, 1.0)), 64,
           True)
)  # fmt: skip


def _grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    starts = [0, *ends.tolist()]
    parts = [x[i:j] @ w for i, j, w in zip(starts, starts[1:], weight, strict=False)]
    return torch.cat([*parts, torch.zeros(x.shape[0] - starts[-1], weight.shape[2], dtype=x.dtype)])


for _ends in ([2, 2, 5], [0, 6, 6], [1, 3, 4], [0, 0, 0]):
    for _width in (8, 3):
        SAMPLES += sampled("grouped_matmul", f"{_ends} {_width}", td.grouped_matmul,
                           [(6, 8), (3, 8, _width), np.array(_ends, np.int32)], _grouped)  # fmt: skip

SAMPLES += sampled("bilinear", "bias", td.bilinear, [(2, 3, 4), (2, 3, 5), (6, 4, 5), (6,)], F.bilinear)
SAMPLES += sampled("bilinear", "no bias", td.bilinear, [(3, 4), (3, 5), (6, 4, 5)], F.bilinear)
SAMPLES += sampled("bilinear", "vectors", td.bilinear, [(4,), (5,), (6, 4, 5), (6,)], F.bilinear)
SAMPLES += sampled("bilinear", "many axes", td.bilinear, [(2, 3, 2, 4), (2, 3, 2, 5), (6, 4, 5)], F.bilinear)

_index = np.array([[1, 0, 3], [3, 3, 1]])
for _ids in (_index, _index.astype(np.int32), np.zeros((0, 2), np.int64), np.array(2)):
    SAMPLES += sampled("embedding", f"{_ids.dtype}{list(_ids.shape)}", td.embedding, [(4, 5), _ids],
                       lambda w, i: F.embedding(i, w), ulps=0)  # fmt: skip


def _einsum(equation: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return lambda *xs: td.einsum(*xs, equation=equation), lambda *xs: torch.einsum(equation, *xs)


for _equation, *_shapes in (
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("bA,aB", (2, 3), (3, 2)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("i...,...j->ij...", (2, 3), (3, 4)),
    ("...i->i", (2, 4, 3)),
    ("...,...", (2, 3), (3,)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iii->i", (3, 3, 3)),
    ("...ii->...i", (2, 3, 3)),
    ("iij,ji->", (3, 3, 4), (4, 3)),
    ("ij,kj->ik", (2, 1), (3, 4)),
    ("ij->ji", (2, 3)),
    ("i,j->ij", (2,), (3,)),
    ("i,i", (3,), (3,)),
    (",i->i", (), (3,)),
    ("b i , b j -> b j i", (2, 3), (2, 4)),
    ("ab,c->b", (2, 3), (0,)),
):
    SAMPLES += sampled("einsum", _equation, _einsum(_equation)[0], _shapes, _einsum(_equation)[1])
for _equation, *_shapes in (
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("a,ab,b->", (3,), (3, 4), (4,)),
    ("bi,bj,bk,ijk->b", (2, 2), (2, 3), (2, 4), (2, 3, 4)),
):  # narrow floats are rounded after each product, as torch does
    SAMPLES += sampled("einsum", _equation, _einsum(_equation)[0], _shapes, _einsum(_equation)[1], ("f64", "f32"))
    SAMPLES += sampled("einsum", _equation, _einsum(_equation)[0], _shapes, _einsum(_equation)[1],
                       ("f16", "bf16"), ulps=4)  # fmt: skip
