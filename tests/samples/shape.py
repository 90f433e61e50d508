"""Samples of the composites that only move entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tdagger.composite import composites
from tests.samples import FLOATS, INTS, Array, Sample, by_torch, numbers
from tests.samples.linear import LEADS, batched

DTYPES = (*FLOATS, *INTS, "bool", "c64")
Function = Callable[..., Any]


def _moves(
    op: str, id_: str, build: Function, shape: Sequence[int], expected: Function, dtypes: Sequence[str] = ("f32",)
) -> list[Sample]:
    return [Sample(op, f"{id_} {tuple(shape)} {d}", build, (numbers(shape, d),), expected) for d in dtypes]


# --- reshape -----------------------------------------------------------------------------------------------

RESHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((2, 3, 4), (2, 2, 6)), ((6,), (2, 3)), ((2, 3), (6,)), ((), (1, 1)), ((1, 1), ()),
    ((1,), ()), ((), ()), ((4, 6), (8, 3)), ((4, 6), (3, 8)), ((2, 1, 3), (2, 3)),
    ((2, 3), (1, 2, 1, 3, 1)), ((1, 6, 1), (2, 1, 3)), ((0, 3), (3, 0)), ((0,), (2, 0, 5)), ((2, 0, 5), (0,)),
    ((0, 3), (0, 5)), ((2, 0, 3), (2, 5, 0)), ((2, 3, 4, 5), (-1, 20)), ((2, 12), (2, 3, -1)), ((3, 2), (-1, 3)),
    ((2, 2, 2, 2, 2), (4, 4, 2)), ((1, 5), (5, 1)),
]  # fmt: skip


def _reshapes() -> list[Sample]:
    found: list[Sample] = []
    for shape, new in RESHAPES:
        for id_, build in (("function", td.reshape), ("composite", composites["reshape"])):
            found += _moves(
                "reshape", f"{id_} {new}", lambda x, n=new, b=build: b(x, shape=n), shape, lambda x, n=new: x.reshape(n)
            )
    found += _moves(
        "reshape", "", lambda x: td.reshape(x, shape=(4, 3, 2)), (2, 3, 4), lambda x: x.reshape(4, 3, 2), DTYPES
    )
    return found


# --- copies and orders -------------------------------------------------------------------------------------


def _copies() -> list[Sample]:
    found: list[Sample] = []
    for axis in (0, 1, 2, -1, -3):
        arrays = tuple(numbers((2, 3), seed=i) for i in range(3))
        found.append(
            Sample(
                "stack",
                f"{axis}",
                lambda *xs, a=axis: td.stack(*xs, axis=a),
                arrays,
                lambda *xs, a=axis: np.stack(xs, a),
            )
        )
    for d in DTYPES:
        found.append(
            Sample("stack", d, td.stack, (numbers((2,), d), numbers((2,), d, seed=1)), lambda *xs: np.stack(xs))
        )
    for s in [(), (0,), (1, 2, 1, 2)]:
        found.append(
            Sample(
                "stack",
                f"{s}",
                lambda *xs: td.stack(*xs, axis=-1),
                (numbers(s), numbers(s, seed=1)),
                lambda *xs: np.stack(xs, -1),
            )
        )
    found.append(Sample("stack", "of one", td.stack, (numbers((2,)),), lambda x: x[None]))
    for shape, repeats in [
        ((2, 3), (2, 1)),
        ((2,), (3, 2)),
        ((), (2, 2)),
        ((2, 3), (0, 2)),
        ((0, 2), (3, 2)),
        ((2, 3), (1, 1)),
        ((1, 2, 1, 2, 1), (2,) * 5),
    ]:
        found += _moves(
            "tile", f"{repeats}", lambda x, r=repeats: td.tile(x, repeats=r), shape, lambda x, r=repeats: np.tile(x, r)
        )
    found += _moves("tile", "", lambda x: td.tile(x, repeats=(2, 3)), (2, 3), lambda x: np.tile(x, (2, 3)), DTYPES)
    for shape, repeats, axis in [
        ((2, 3), 2, 0),
        ((2, 3), 3, -1),
        ((3,), 0, 0),
        ((0, 2), 2, 0),
        ((1, 2, 1, 2, 3), 2, 3),
        ((2,), 1, 0),
    ]:
        found += _moves(
            "repeat_interleave",
            f"{repeats} {axis}",
            lambda x, r=repeats, a=axis: td.repeat_interleave(x, repeats=r, axis=a),
            shape,
            lambda x, r=repeats, a=axis: x.repeat(r, a),
        )
    found += _moves(
        "repeat_interleave",
        "",
        lambda x: td.repeat_interleave(x, repeats=2, axis=1),
        (2, 3),
        lambda x: x.repeat(2, 1),
        DTYPES,
    )
    return found


def _orders() -> list[Sample]:
    found: list[Sample] = []
    for shape, shifts, axes in [
        ((5,), (2,), (0,)),
        ((5,), (-7,), (0,)),
        ((2, 3, 4), (1, -1), (2, 0)),
        ((3, 3), (1, 1), (0, -2)),
        ((0, 2), (3,), (0,)),
        ((2, 3), (0,), (1,)),
        ((1, 2, 1, 3, 2), (1, 2), (1, 3)),
        ((4,), 1, 0),
    ]:
        found += _moves(
            "roll",
            f"{shifts} {axes}",
            lambda x, s=shifts, a=axes: td.roll(x, shifts=s, axes=a),
            shape,
            lambda x, s=shifts, a=axes: np.roll(x, s, a),
        )
    found += _moves("roll", "", lambda x: td.roll(x, shifts=1, axes=1), (2, 3), lambda x: np.roll(x, 1, 1), DTYPES)
    for shape, factor in [((1, 8, 2, 3), 2), ((9, 1, 1), 3), ((2, 2, 4, 3, 2), 2), ((0, 4, 2, 2), 2), ((2, 3, 2), 1)]:
        shuffled = (*shape[:-3], shape[-3] // factor**2, shape[-2] * factor, shape[-1] * factor)
        for op, of, to, function in (
            ("pixel_shuffle", shape, shuffled, F.pixel_shuffle),
            ("pixel_unshuffle", shuffled, shape, F.pixel_unshuffle),
        ):
            # torch's pixel_unshuffle leaves an empty tensor as it is
            expected = by_torch(lambda x, g=function, f=factor, t=to: g(x, f) if x.numel() else x.reshape(t))
            found += _moves(
                op, f"{factor}", lambda x, o=op, f=factor: getattr(td, o)(x, factor=f), of, expected, ("f32", "i32")
            )
    for shape, groups in [((1, 6, 2), 2), ((2, 6, 2, 3), 3), ((0, 4, 2, 2), 2), ((2, 3, 2, 1, 2), 3), ((2, 4), 2)]:

        def shuffled_(x: Array, g: int = groups) -> Array:
            return x.reshape(len(x), g, x.shape[1] // g, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)

        found += _moves(
            "channel_shuffle",
            f"{groups}",
            lambda x, g=groups: td.channel_shuffle(x, groups=g),
            shape,
            shuffled_,
            ("f32", "u8"),
        )
    return found


def _shuffles_of_any_axis() -> list[Sample]:
    found: list[Sample] = []
    for shape, groups, axis in [((6,), 2, 0), ((6, 2), 3, 0), ((2, 3, 4, 2), 2, 2), ((2, 3, 4), 2, -1)]:

        def shuffled(x: Array, g: int = groups, a: int = axis % len(shape)) -> Array:
            parts = x.reshape(*x.shape[:a], g, x.shape[a] // g, *x.shape[a + 1 :])
            return parts.swapaxes(a, a + 1).reshape(x.shape)

        found += _moves(
            "channel_shuffle",
            f"{groups} axis {axis}",
            lambda x, g=groups, a=axis: td.channel_shuffle(x, groups=g, axis=a),
            shape,
            shuffled,
        )
    return found


def _diagonals() -> list[Sample]:
    found: list[Sample] = []
    for offset in (-4, -1, 0, 1, 2, 9):
        for shape, a, b in [
            ((3, 4), 0, 1),
            ((4, 2), 0, 1),
            ((2, 3, 4), 2, 0),
            ((2, 3, 4), -2, -1),
            ((0, 3), 0, 1),
            ((1, 2, 3, 1, 2), 1, 4),
        ]:
            found += _moves(
                "diagonal",
                f"{offset} {a} {b}",
                lambda x, o=offset, a=a, b=b: td.diagonal(x, offset=o, axis0=a, axis1=b),
                shape,
                lambda x, o=offset, a=a, b=b: np.diagonal(x, o, a, b),
            )
        for shape in [(3, 4), (4, 2), (2, 3, 3), (0, 3), (2, 0), (1, 2, 1, 3, 2)]:
            for op, function in (("tril", torch.tril), ("triu", torch.triu)):
                found += _moves(
                    op,
                    f"{offset}",
                    lambda x, o=offset, p=op: getattr(td, p)(x, diagonal=o),
                    shape,
                    by_torch(lambda x, f=function, o=offset: f(x, o)),
                )
    for op, function in (("tril", torch.tril), ("triu", torch.triu)):
        found += _moves(op, "", getattr(td, op), (3, 3), by_torch(function), DTYPES)
        bad = np.full((2, 2), np.nan, "f4")  # a mask by multiplication would keep these
        found.append(Sample(op, "nan", getattr(td, op), (bad,), by_torch(function)))
    found += _moves("diagonal", "", td.diagonal, (3, 3), np.diagonal, DTYPES)
    for d in INTS:
        index = numbers((2, 3), d, 0, 4)
        found.append(
            Sample("one_hot", d, lambda x: td.one_hot(x, classes=5), (index,), lambda x: np.eye(5, dtype=np.int64)[x])
        )
    found.append(
        Sample("one_hot", "rank 0", lambda x: td.one_hot(x, classes=3), (np.array(2),), lambda x: np.array([0, 0, 1]))
    )
    found.append(
        Sample(
            "one_hot",
            "none",
            lambda x: td.one_hot(x, classes=3),
            (np.zeros((0, 2), "i8"),),
            lambda x: np.zeros((0, 2, 3), "i8"),
        )
    )
    found.append(
        Sample(
            "one_hot",
            "more classes than u8 holds",
            lambda x: td.one_hot(x, classes=300),
            (np.array([0, 255], "u1"),),
            lambda x: np.eye(300, dtype=np.int64)[x],
        )
    )
    for d in INTS[:4]:
        x, i, j = numbers((2, 3, 4), "f32", 0, 9), numbers((5,), d, -3, 2), numbers((5,), d, 0, 3)
        found.append(
            Sample(
                "linear_index",
                d,
                lambda x, i, j: td.linear_index(x, i, j, axis=1, signed=(True, False)),
                (x, i, j),
                lambda x, i, j: np.ravel_multi_index((i % 3, j), (3, 4)).astype(i.dtype),
            )
        )
    return found


# --- windows and pads --------------------------------------------------------------------------------------

_WINDOWS: list[tuple[tuple[int, ...], dict[str, tuple[int, ...]]]] = [
    ((2, 3, 6, 7), {"kernel": (3, 2), "stride": (1, 2), "padding": (0, 1), "dilation": (1, 1)}),
    ((1, 2, 8, 8), {"kernel": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (3, 2)}),
    ((1, 1, 3, 3), {"kernel": (3, 3), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}),
    ((2, 1, 7, 7), {"kernel": (2, 2), "stride": (3, 4), "padding": (0, 0), "dilation": (1, 1)}),
]


def _torch_windows(options: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"kernel_size": options["kernel"], **{k: v for k, v in options.items() if k != "kernel"}}


def _windows() -> list[Sample]:
    found: list[Sample] = []
    for i, (shape, options) in enumerate(_WINDOWS):
        theirs = _torch_windows(options)
        unfold = by_torch(lambda x, o=theirs: F.unfold(x, **o))
        found += _moves("im2col", f"{i}", lambda x, o=options: td.im2col(x, **o), shape, unfold, ("f32", "f64", "f16"))
        columns = unfold(numbers(shape)).shape
        fold = by_torch(lambda x, o=theirs, n=shape[2:]: F.fold(x, n, **o), wide=True)
        for d in FLOATS:
            found.append(
                Sample(
                    "col2im",
                    f"{i} {d}",
                    lambda x, o=options, n=shape[2:]: td.col2im(x, output=n, **o),
                    (numbers(columns, d, 0.1),),
                    fold,
                    8,
                )
            )
    for lead, (shape, options) in product(LEADS, _WINDOWS[:2]):
        theirs = _torch_windows(options)
        unfold = batched(lambda x, o=theirs: F.unfold(x, **o), len(lead))
        whole, name = (*lead, *shape[1:]), f"{len(lead)} leading {shape[1]}"
        found += _moves("im2col", name, lambda x, o=options: td.im2col(x, **o), whole, by_torch(unfold))
        fold = batched(lambda x, o=theirs, n=shape[2:]: F.fold(x, n, **o), len(lead))
        columns = numbers(by_torch(unfold)(numbers(whole)).shape, low=0.1)
        found.append(
            Sample("col2im", name, lambda x, o=options, n=shape[2:]: td.col2im(x, output=n, **o), (columns,),
                   by_torch(fold, wide=True), 8)
        )  # fmt: skip
    line = {"kernel": (3,), "stride": (2,), "padding": (1,), "dilation": (1,)}
    flat = {"kernel": (1, 3), "stride": (1, 2), "padding": (0, 1), "dilation": (1, 1)}
    found += _moves(
        "im2col",
        "1d",
        lambda x: td.im2col(x, **line),
        (2, 3, 9),
        by_torch(lambda x: F.unfold(x[:, :, None], **_torch_windows(flat))),
    )
    return found


def _padded(op: str, mode: str) -> list[Sample]:
    found: list[Sample] = []
    for shape, widths in [
        ((5,), ((2, 1),)),
        ((2, 3, 4), ((0, 0), (1, 2), (3, 0))),
        ((3, 3), ((0, 0), (0, 0))),
        ((2, 0, 3), ((1, 1), (0, 0), (0, 2))),
        ((2, 2, 2, 2, 2), ((0, 1), (1, 0), (1, 1), (0, 0), (1, 1))),
        ((1, 2, 2, 2, 3, 3), ((0, 0), (0, 0), (0, 0), (0, 0), (1, 1), (2, 0))),
        ((3, 3), ((1, 0), (1, 2))),
        ((2, 3), ((1, 0), (0, 0))),
        ((), ()),
    ]:
        found += _moves(op, f"{widths}", lambda x, w=widths: getattr(td, op)(x, widths=w), shape,
                        lambda x, w=widths: np.pad(x, w, mode) if w else x)  # type: ignore[call-overload] # fmt: skip
    found += _moves(
        op,
        "",
        lambda x: getattr(td, op)(x, widths=((0, 0), (2, 2))),
        (2, 3),
        lambda x: np.pad(x, ((0, 0), (2, 2)), mode),
        DTYPES,
    )
    return found


SAMPLES = [
    *_reshapes(), *_copies(), *_orders(), *_shuffles_of_any_axis(), *_diagonals(), *_windows(),
    *_padded("reflect_pad", "reflect"), *_padded("replicate_pad", "edge"), *_padded("circular_pad", "wrap"),
]  # fmt: skip
