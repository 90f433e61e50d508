"""Samples of the ops that index: gather, scatter, argsort, scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import tdagger as td
from tests.samples import FLOATS, INTS, Array, Sample, by_torch, dtype_of, edges, numbers

DTYPES = (*FLOATS, "f8e4m3", *INTS, "bool", "c64")


def _index(shape: tuple[int, ...], below: int, dtype: str = "i64", seed: int = 5) -> Array:
    return np.random.default_rng([seed, *shape]).integers(0, max(below, 1), shape).astype(dtype_of(dtype))


def _gathered(x: Array, index: Array, axis: int, batch: int) -> Array:
    """By the definition, entry by entry: out[b a.. i.. c..] = x[b a.. index[b i..] c..]."""
    inner = index.ndim - batch
    out = np.empty((*x.shape[:axis], *index.shape[batch:], *x.shape[axis + 1 :]), x.dtype)
    for at in np.ndindex(*out.shape):
        i = index[(*at[:batch], *at[axis : axis + inner])]
        out[at] = x[(*at[:axis], i, *at[axis + inner :])]
    return out


def _scattered(x: Array, index: Array, updates: Array, axis: int, batch: int, kind: str) -> Array:
    inner = index.ndim - batch
    wide = x.astype(np.float64) if x.dtype.kind in "fV" else x.copy()
    meet: dict[str, Callable[..., Any]] = {
        "set": lambda a, b: b, "add": np.add, "multiply": np.multiply, "max": np.maximum, "min": np.minimum
    }  # fmt: skip
    for at in np.ndindex(*updates.shape):
        place = (*at[:axis], index[(*at[:batch], *at[axis : axis + inner])], *at[axis + inner :])
        wide[place] = meet[kind](wide[place], updates[at].astype(wide.dtype))
    return wide.astype(x.dtype)


# shape of x, shape of the index, axis, batch
_PLACES = [
    ((5, 3), (4,), 0, 0),
    ((5, 3), (2, 2), 0, 0),
    ((2, 3, 4), (2, 3, 2), 2, 2),
    ((2, 5, 3), (2, 4), 1, 1),
    ((2, 3, 5), (2, 4), 2, 1),
    ((5,), (), 0, 0),
    ((3, 4), (0,), 0, 0),
    ((0, 3), (0,), 0, 0),
    ((2, 4, 0), (3,), 1, 0),
    ((2, 3, 4, 2, 2), (2, 1, 3), 2, 1),
]


def _gathers() -> list[Sample]:
    found: list[Sample] = []
    for shape, indices, axis, batch in _PLACES:
        arrays = (numbers(shape), _index(indices, shape[axis]))
        found.append(
            Sample(
                "gather",
                f"{shape} {indices} {axis} {batch}",
                lambda x, i, a=axis, b=batch: td.gather(x, i, a, b),
                arrays,
                lambda x, i, a=axis, b=batch: _gathered(x, i, a, b),
            )
        )
    found += [
        Sample("gather", d, lambda x, i: td.gather(x, i), (numbers((5, 2), d), _index((3,), 5)), lambda x, i: x[i])
        for d in DTYPES
    ]
    found += [
        Sample(
            "gather", f"by {d}", lambda x, i: td.gather(x, i), (numbers((5, 2)), _index((3,), 5, d)), lambda x, i: x[i]
        )
        for d in ("i8", "u8", "i32", "u64")
    ]
    found.append(
        Sample(
            "gather",
            "take_along",
            lambda x, i: td.take_along(x, i, 1),
            (numbers((2, 5, 3)), _index((2, 4, 3), 5)),
            lambda x, i: np.take_along_axis(x, i, 1),
        )
    )
    return found


def _scatters() -> list[Sample]:
    found: list[Sample] = []
    for kind in ("set", "add", "multiply", "max", "min"):
        options: Any = {} if kind in ("set", "max", "min") else {"ulps": 4, "of_largest": True}
        for shape, indices, axis, batch in _PLACES:
            index = _index(indices, shape[axis])
            updates = numbers((*shape[:axis], *indices[batch:], *shape[axis + 1 :]), seed=3)
            found.append(
                Sample(
                    f"scatter {kind}",
                    f"{shape} {indices} {axis} {batch}",
                    lambda x, i, u, a=axis, b=batch, k=kind: td.scatter(x, i, u, a, b, k),
                    (numbers(shape), index, updates),
                    lambda x, i, u, a=axis, b=batch, k=kind: _scattered(x, i, u, a, b, k),
                    **options,
                )
            )
        for d in (*FLOATS, *INTS):
            arrays = (numbers((4, 2), d), _index((7,), 4), numbers((7, 2), d, seed=2))
            found.append(
                Sample(
                    f"scatter {kind}",
                    d,
                    lambda x, i, u, k=kind: td.scatter(x, i, u, kind=k),
                    arrays,
                    lambda x, i, u, k=kind: _scattered(x, i, u, 0, 0, k),
                    **options,
                )
            )
        nan = (np.zeros(3, "f4"), np.array([0, 0, 1]), np.array([np.nan, 1, -np.inf], "f4"))
        found.append(
            Sample(
                f"scatter {kind}",
                "edges",
                lambda x, i, u, k=kind: td.scatter(x, i, u, kind=k),
                nan,
                lambda x, i, u, k=kind: _scattered(x, i, u, 0, 0, k),
            )
        )
    found.append(
        Sample(
            "scatter set",
            "bool",
            lambda x, i, u: td.scatter(x, i, u),
            (numbers((4,), "bool"), _index((3,), 4), numbers((3,), "bool")),
            lambda x, i, u: _scattered(x, i, u, 0, 0, "set"),
        )
    )
    found.append(
        Sample(
            "scatter add",
            "put_along",
            lambda x, i, u: td.put_along(x, i, u, 0, "add"),
            (numbers((4, 3)), _index((6, 3), 4), numbers((6, 3))),
            by_torch(lambda x, i, u: x.scatter_add(0, i, u)),
            ulps=4,
            of_largest=True,
        )
    )
    return found


def _argsorts() -> list[Sample]:
    found: list[Sample] = []
    for descending in (False, True):
        expected = [
            by_torch(lambda x, a=a, d=descending: torch.argsort(x, dim=a, descending=d, stable=True)) for a in (0, -1)
        ]
        for d in ("f64", "f32", "f16", "bf16", *INTS):
            ties = np.concatenate([edges(d), edges(d)[::-1], numbers((5,), d, -2, 2)])
            found.append(
                Sample(
                    "argsort", f"{d} {descending}", lambda x, d=descending: td.argsort(x, 0, d), (ties,), expected[0]
                )
            )
        for s in [(0,), (1,), (2, 0, 3), (3, 2), (2, 3, 4), (1, 2, 1, 2, 3)]:
            found.append(
                Sample(
                    "argsort",
                    f"{s} {descending}",
                    lambda x, d=descending: td.argsort(x, -1, d),
                    (numbers(s),),
                    expected[1],
                )
            )
        found.append(
            Sample(
                "argsort",
                f"bool {descending}",
                lambda x, d=descending: td.argsort(x, 0, d),
                (numbers((9,), "bool"),),
                by_torch(lambda x, d=descending: torch.argsort(x.byte(), dim=0, descending=d, stable=True)),
            )
        )
    return found


_SCANS = {"sum": torch.cumsum, "prod": torch.cumprod, "max": torch.cummax, "min": torch.cummin}


def _scan_truth(kind: str, axis: int, reverse: bool) -> Callable[..., Any]:
    def scanned(x: torch.Tensor) -> torch.Tensor:
        wide = x if not x.is_floating_point() else x.double()
        wide = wide.flip(axis) if reverse else wide
        out = _SCANS[kind](wide, axis)
        out = out if kind in ("sum", "prod") else out[0]
        return (out.flip(axis) if reverse else out).to(x.dtype)

    return by_torch(scanned)


def _scans() -> list[Sample]:
    found: list[Sample] = []
    for kind in _SCANS:
        options: Any = {"signless_zero": True} if kind in ("max", "min") else {"ulps": 4, "of_largest": True}
        for reverse in (False, True):
            for s, axis in [((5,), 0), ((0, 3), 0), ((2, 0), 0), ((1, 3), 0), ((2, 3, 4), -2), ((1, 2, 1, 3, 2), 3)]:
                found.append(
                    Sample(
                        f"scan {kind}",
                        f"{s} {axis} {reverse}",
                        lambda x, k=kind, a=axis, r=reverse: td.scan(x, k, a, r),
                        (numbers(s),),
                        _scan_truth(kind, axis, reverse),
                        **options,
                    )
                )
            for d in (*FLOATS, *INTS):
                found.append(
                    Sample(
                        f"scan {kind}",
                        f"{d} {reverse}",
                        lambda x, k=kind, r=reverse: td.scan(x, k, 0, r),
                        (numbers((9, 2), d),),
                        _scan_truth(kind, 0, reverse),
                        **options,
                    )
                )
            x = np.array([[1, np.inf, 2, -1], [np.nan, 1, 0, -np.inf], [3, -np.inf, -0.0, 5]], "f4")
            found.append(
                Sample(
                    f"scan {kind}",
                    f"edges {reverse}",
                    lambda x, k=kind, r=reverse: td.scan(x, k, 0, r),
                    (x,),
                    _scan_truth(kind, 0, reverse),
                    **options,
                )
            )
    for kind in ("max", "min"):
        found.append(
            Sample(
                f"scan {kind}",
                "bool",
                lambda x, k=kind: td.scan(x, k, 0),
                (numbers((6,), "bool"),),
                {"max": np.maximum, "min": np.minimum}[kind].accumulate,
            )
        )
    return found


SAMPLES = [*_gathers(), *_scatters(), *_argsorts(), *_scans()]
