"""Samples of the composites that hold what their arguments' sizes say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tdagger.types import DType
from tests.samples import INTS, Array, Sample, by_torch, numbers


def _counts() -> list[Sample]:
    found: list[Sample] = []
    for shape, axes in [((2, 3), (1,)), ((2, 3, 4), (0, 2))]:
        count = float(np.prod([shape[a] for a in axes]))
        for root in (False, True):
            by = count**0.5 if root else count
            found.append(
                Sample(
                    "over_count",
                    f"{shape} {axes} {root}",
                    lambda x, a=axes, r=root: td.over_count(x, axes=a, root=r),
                    (numbers(shape, "f64"),),
                    lambda x, b=by: x / b,
                    1,
                )
            )
    for dtype in ("f32", "f16", "i64", "bool"):
        to = DType.of(dtype)
        value = True if dtype == "bool" else 3 if dtype == "i64" else 0.5
        found.append(
            Sample(
                "filled",
                dtype,
                lambda x, v=value, t=to: td.filled(x, value=v, dtype=t),
                (numbers((2, 3), "f32"),),
                lambda x, v=value, t=to: np.full(x.shape, v, t.numpy),
            )
        )
    for dtype, real in (("f32", torch.float32), ("f64", torch.float64)):
        for start, end, steps in [(0.0, 1.0, 7), (-1.0, 1.0, 8), (2.0, -3.0, 2), (4.0, 9.0, 1)]:
            found.append(
                Sample(
                    "linspace",
                    f"{start} {end} {steps} {dtype}",
                    lambda s=start, e=end, n=steps, t=dtype: td.linspace(start=s, end=e, steps=n, dtype=DType.of(t)),
                    (),
                    lambda s=start, e=end, n=steps, t=real: torch.linspace(s, e, n, dtype=t).numpy(),
                    2,
                    of_largest=True,
                )
            )
    return found


def _with_nan(shape: tuple[int, ...], dtype: str) -> Array:
    x = numbers(shape, dtype)
    if DType.of(dtype).is_float:
        x.reshape(-1)[3] = np.nan
    return x


def _orders() -> list[Sample]:
    found: list[Sample] = []
    for axis, skip_nan in [(0, False), (1, False), (1, True)]:
        function: Any = torch.nanmedian if skip_nan else torch.median
        for dtype in ("f32", "f64", *INTS):
            found.append(
                Sample(
                    "median",
                    f"{axis} {skip_nan} {dtype}",
                    lambda x, a=axis, s=skip_nan: td.median(x, axis=a, skip_nan=s),
                    (_with_nan((3, 4), dtype),),
                    by_torch(lambda x, f=function, a=axis: tuple(f(x, a, keepdim=True))),
                )
            )
    for axis, k, dtype in [(0, 1, "f32"), (1, 3, "f64"), (1, 4, "f32"), (0, 2, "i64")]:
        found.append(
            Sample(
                "kthvalue",
                f"{axis} {k} {dtype}",
                lambda x, a=axis, n=k: td.kthvalue(x, axis=a, k=n),
                (_with_nan((3, 4), dtype),),
                by_torch(lambda x, a=axis, n=k: tuple(torch.kthvalue(x, n, a, keepdim=True))),
            )
        )
    for axis, dtype in [(0, "f32"), (1, "f64"), (1, "i64")]:
        found.append(
            Sample(
                "mode",
                f"{axis} {dtype}",
                lambda x, a=axis: td.mode(x, axis=a),
                ((np.round(numbers((4, 5), dtype)) + 0).astype(DType.of(dtype).numpy),),  # of 0 and -0 either is
                by_torch(lambda x, a=axis: tuple(torch.mode(x, a, keepdim=True))),
            )
        )
    for interpolation in ("linear", "lower", "higher", "midpoint", "nearest"):
        for q, dtype in [(0.0, "f32"), (0.3, "f32"), (0.3, "f64"), (1.0, "f32")]:
            found.append(
                Sample(
                    "quantile",
                    f"{q} {interpolation} {dtype}",
                    lambda x, q=q, i=interpolation: td.quantile(x, q=q, axis=1, interpolation=i),
                    (_with_nan((3, 4), dtype),),
                    by_torch(lambda x, q=q, i=interpolation: x.quantile(q, 1, True, interpolation=i)),
                    2,
                )
            )
    for n, p in [(4, 2.0), (3, 1.0), (1, 2.0), (2, float("inf"))]:
        found.append(
            Sample(
                "pdist",
                f"{n} {p}",
                lambda x, p=p: td.pdist(x, ord=p),
                (numbers((n, 3), "f32"),),
                by_torch(lambda x, p=p: F.pdist(x, p)),
                4,
            )
        )
    return found


def _unpooled() -> list[Sample]:
    x = numbers((2, 3, 2, 3), "f32")
    index = np.arange(6, dtype=np.int64).reshape(1, 1, 2, 3) * 3 + np.zeros((2, 3, 1, 1), np.int64)
    return [
        Sample(
            "max_unpool",
            f"{size}",
            lambda x, i, s=size: td.max_unpool(x, i, size=s),
            (x, index),
            by_torch(lambda x, i, s=size: F.max_unpool2d(x, i, 2, output_size=s)),
        )
        for size in ((4, 6), (5, 7))
    ]


SAMPLES = [*_counts(), *_orders(), *_unpooled()]
