"""Samples of the structural core ops, and of the sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import tdagger as td
from tests.samples import FLOATS, INTS, UNSIGNED, Array, Sample, dtype_of, edges, numbers

DTYPES = (*FLOATS, "f8e4m3", "f8e5m2", *INTS, *UNSIGNED, "bool", "c64", "c128")


def _moves(
    op: str, build: Callable[..., Any], shape: Sequence[int], expected: Callable[..., Any], id_: str
) -> list[Sample]:
    """A movement of entries, the same for every element type."""
    found = [Sample(op, f"{id_} {shape} {d}", build, (numbers(shape, d),), expected) for d in DTYPES]
    return found if id_ == "" else found[1:2]


def _axes() -> list[Sample]:
    found = _moves("permute", lambda x: td.permute(x, (2, 0, 1)), (2, 3, 4), lambda x: x.transpose(2, 0, 1), "")
    for shape, order in [
        ((), ()),
        ((3,), (0,)),
        ((2, 0), (1, 0)),
        ((1, 2, 3, 1, 2), (4, 2, 0, 1, 3)),
        ((2, 3), (-1, 0)),
    ]:
        found += _moves(
            "permute", lambda x, o=order: td.permute(x, o), shape, lambda x, o=order: x.transpose(o), f"{order}"
        )
    found += _moves("group", lambda x: td.group(x, (1, 2)), (2, 3, 4), lambda x: x.reshape(2, 12), "")
    for shape, counts in [
        ((), (0, 0)),
        ((2, 3), (2,)),
        ((2, 0, 3), (1, 2)),
        ((2, 3, 1, 4, 5), (2, 0, 3)),
        ((0,), (0, 1)),
    ]:
        out = _grouped(shape, counts)
        found += _moves("group", lambda x, c=counts: td.group(x, c), shape, lambda x, o=out: x.reshape(o), f"{counts}")
    found += _moves("ungroup", lambda x: td.ungroup(x, 1, (3, -1)), (2, 12), lambda x: x.reshape(2, 3, 4), "")
    for shape, axis, sizes in [
        ((6,), 0, (2, 3)),
        ((0, 4), 0, (0, 5)),
        ((4,), 0, (1, 4, 1)),
        ((1, 3), 0, ()),
        ((2, 6), -1, (-1, 2)),
    ]:
        at = axis % len(shape)
        full = tuple(n if n != -1 else shape[at] // abs(math.prod(sizes)) for n in sizes)
        out = (*shape[:at], *full, *shape[at + 1 :])
        found += _moves(
            "ungroup", lambda x, a=axis, s=sizes: td.ungroup(x, a, s), shape, lambda x, o=out: x.reshape(o), f"{sizes}"
        )
    for shape, axes in [((1, 3, 1), (0, 2)), ((1, 1), (0, 1)), ((2, 1, 3), (-2,)), ((0, 1), (1,)), ((2, 3, 1), (2,))]:
        found += _moves(
            "group" if 3 in shape or 0 in shape else "ungroup",
            lambda x, a=axes: td.squeeze(x, a),
            shape,
            lambda x, a=axes: x.squeeze(a),
            f"squeeze {axes}",
        )
    for shape, axes in [((), (0,)), ((3,), (0, -1)), ((2, 3), (1,)), ((0, 2), (0, 2, 4))]:
        found += _moves(
            "ungroup" if shape else "group",
            lambda x, a=axes: td.unsqueeze(x, a),
            shape,
            lambda x, a=axes: np.expand_dims(x, a),
            f"unsqueeze {axes}",
        )
    return found


def _grouped(shape: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    ends = np.cumsum([0, *counts])
    return tuple(math.prod(shape[a:b]) for a, b in pairwise(ends))


def _slices() -> list[Sample]:
    found = _moves("slice", lambda x: td.slice_axis(x, 1, 1, None, 2), (2, 6), lambda x: x[:, 1::2], "")
    for a, b, c in [
        (0, 2, 1),
        (None, None, -1),
        (5, 1, -2),
        (-3, None, 1),
        (3, 1, 1),
        (10, 20, 1),
        (1, None, 4),
        (4, None, -4),
    ]:
        found += _moves(
            "slice",
            lambda x, s=(a, b, c): td.slice_axis(x, -1, *s),
            (2, 5),
            lambda x, s=slice(a, b, c): x[:, s],
            f"{(a, b, c)}",
        )
    found += _moves("slice", lambda x: td.flip(x, (0, 2)), (2, 3, 4), lambda x: x[::-1, :, ::-1], "flip")
    found += _moves("slice", lambda x: td.select(x, 1, -1), (2, 3, 4), lambda x: x[:, -1], "select")
    found += _moves("slice", lambda x: td.stride(x, 0, 3), (7, 2), lambda x: x[::3], "stride")
    found += _moves(
        "slice", lambda x: td.split(x, (1, 0, 4), 1), (2, 5), lambda x: (x[:, :1], x[:, 1:1], x[:, 1:]), "split"
    )
    found += _moves("slice", lambda x: td.slice_axis(x, 0, 0, 5), (0, 2), lambda x: x, "nothing there")
    return found


def _pads() -> list[Sample]:
    def padded(x: Array, widths: Any, value: Any) -> Array:
        shape = [a + n + max(n - 1, 0) * i + b for n, (a, b, i) in zip(x.shape, widths, strict=True)]
        out = np.full(shape, value, x.dtype)
        for at in np.ndindex(*x.shape):
            out[tuple(w[0] + p * (w[2] + 1) for p, w in zip(at, widths, strict=True))] = x[at]
        return out

    found = _moves(
        "pad", lambda x: td.pad(x, (None, (1, 2)), 1), (2, 3), lambda x: padded(x, ((0, 0, 0), (1, 2, 0)), 1), ""
    )
    for shape, widths, value in [
        ((2, 3), ((1, 0, 2), (0, 1, 1)), -math.inf), ((0, 2), ((1, 2, 3), (0, 0, 1)), 7), ((), (), 1),
        ((1,), ((0, 0, 5),), 1),
        ((3,), ((2, 2, 0),), math.nan), ((1, 2, 1, 2, 1), ((0, 1, 0),) * 5, -0.0),
    ]:  # fmt: skip
        found += _moves(
            "pad",
            lambda x, w=widths, v=value: td.pad(x, w, v),
            shape,
            lambda x, w=widths, v=value: padded(x, w, v),
            f"{widths} {value}",
        )
    found += _moves(
        "pad",
        lambda x: td.pad(x, ((-1, 2), (3, -2)), 5),
        (3, 4),
        lambda x: np.pad(x[1:, :2], ((0, 2), (3, 0)), constant_values=5),
        "negative",
    )
    found += _moves(
        "pad", lambda x: td.interleave(x, 0, 2, 9), (3,), lambda x: padded(x, ((0, 0, 2),), 9), "interleave"
    )
    return found


def _joins() -> list[Sample]:
    found: list[Sample] = []
    for d in DTYPES:
        arrays = (numbers((2, 3), d), numbers((2, 1), d, seed=1), numbers((2, 0), d))
        found.append(Sample("concat", d, lambda *xs: td.concat(xs, -1), arrays, lambda *xs: np.concatenate(xs, 1)))
    for shapes, axis in [([(3,)], 0), ([(1, 2, 3, 1, 2)] * 3, 2), ([(0, 2), (0, 2)], 0)]:
        arrays = tuple(numbers(s, seed=i) for i, s in enumerate(shapes))
        found.append(
            Sample(
                "concat",
                f"{shapes}",
                lambda *xs, a=axis: td.concat(xs, a),
                arrays,
                lambda *xs, a=axis: np.concatenate(xs, a),
            )
        )
    found += _moves("repeat", lambda x: td.repeat(x, (None, 3)), (2, 1), lambda x: x.repeat(3, 1), "")
    for shape, sizes in [
        ((), ()),
        ((1,), (0,)),
        ((1, 2, 1), (4, None, 2)),
        ((1, 0), (3, None)),
        ((1,) * 5, (2, 1, 3, None, 2)),
    ]:
        out = [n if s is None else s for n, s in zip(shape, sizes, strict=True)]
        found += _moves(
            "repeat", lambda x, s=sizes: td.repeat(x, s), shape, lambda x, o=out: np.broadcast_to(x, o), f"{sizes}"
        )
    found += _moves(
        "repeat", lambda x: td.broadcast_to(x, (4, 2, 3)), (2, 1), lambda x: np.broadcast_to(x, (4, 2, 3)), "broadcast"
    )
    return found


# --- reduce ------------------------------------------------------------------------------------------------

_REDUCTIONS = ("sum", "prod", "max", "min", "any", "all")
_REDUCED = [
    ((2, 3, 4, 5), (1,)),
    ((2, 3), (0, 1)),
    ((3,), (0,)),
    ((2, 3, 4), ()),
    ((2, 3, 0), (0,)),
    ((1, 2, 1, 3, 2), (1, 3, 4)),
]


def _truth(kind: str, axes: Sequence[int]) -> Callable[..., Any]:
    """In float64 (integers in their own type, as they wrap), rounded once."""
    function = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min, "any": np.any, "all": np.all}[kind]

    def expected(x: Array) -> Array:
        wide = x.astype(np.float64) if x.dtype.kind in "fV" else x
        return np.asarray(function(wide, axis=tuple(axes), keepdims=True)).astype(x.dtype)

    return expected


def _reductions() -> list[Sample]:
    found: list[Sample] = []
    for kind in _REDUCTIONS:
        dtypes = ("bool",) if kind in ("any", "all") else (*FLOATS, "f8e5m2", *INTS)
        dtypes = (*dtypes, "bool") if kind in ("max", "min") else dtypes
        adds = kind in ("sum", "prod")
        options = {"ulps": 4} if adds else {"signless_zero": True}
        name = f"reduce {kind}"
        for d in dtypes:
            for shape, axes in _REDUCED:
                build = lambda x, k=kind, a=axes: td.reduce(x, k, a)  # noqa: E731
                found.append(
                    Sample(
                        name,
                        f"{d} {shape} {axes}",
                        build,
                        (numbers(shape, d, 0.3 if adds else -3),),
                        _truth(kind, axes),
                        **options,
                    )
                )
        if kind not in ("any", "all"):
            x = edges("f32")[: 5 if adds else None]  # sums and products of huge numbers depend on their order
            x = np.stack([np.append(x, 2).astype("f4"), np.append(np.roll(x, 2), 3).astype("f4")])
            found.append(
                Sample(name, "edges", lambda x, k=kind: td.reduce(x, k, (0,)), (x,), _truth(kind, (0,)), **options)
            )
        found.append(
            Sample(
                name,
                "without axes kept",
                lambda x, k=kind: td.reduce(x, k, (-1, 0), keep=False),
                (numbers((2, 3, 4), dtypes[0], 0.3 if adds else -3),),
                lambda x, k=kind: _truth(k, (0, 2))(x)[0, :, 0],
                **options,
            )
        )
    identity = {"sum": 0, "prod": 1, "max": -math.inf, "min": math.inf, "any": False, "all": True}
    for kind, value in identity.items():
        x = np.zeros((2, 0), "bool" if kind in ("any", "all") else "f4")
        found.append(
            Sample(
                f"reduce {kind}",
                "of none",
                lambda x, k=kind: td.reduce(x, k, (1,)),
                (x,),
                lambda x, v=value: np.full((2, 1), v, x.dtype),
            )
        )
    for kind, value in (("max", -128), ("min", 127)):
        found.append(
            Sample(
                f"reduce {kind}",
                "of no i8",
                lambda x, k=kind: td.reduce(x, k, (0,)),
                (np.zeros(0, np.int8),),
                lambda x, v=value: np.full(1, v, np.int8),
            )
        )
    for d in ("f16", "bf16"):  # a running sum in d itself would stop at 2048 and 256, or overflow
        found.append(
            Sample(
                "reduce sum",
                f"{d} of many",
                lambda x: td.reduce(x, "sum"),
                (np.ones(5000, dtype_of(d)),),
                lambda x: np.array([5000]).astype(x.dtype),
            )
        )
        back = np.array([60000, 60000, -60000, -60000, 1]).astype(dtype_of(d))
        found.append(
            Sample(
                "reduce sum",
                f"{d} there and back",
                lambda x: td.reduce(x, "sum"),
                (back,),
                lambda x: np.ones(1).astype(x.dtype),
            )
        )
    found.append(
        Sample(
            "reduce sum",
            "c64",
            lambda x: td.reduce(x, "sum", (0,)),
            (numbers((3, 2), "c64"),),
            lambda x: x.sum(0, keepdims=True),
            ulps=4,
            of_largest=True,
        )
    )
    return found


# --- windows -----------------------------------------------------------------------------------------------


def _unfolded(x: Array, axis: int, kernel: int, stride: int, dilation: int) -> Array:
    moved = np.moveaxis(x, axis, 0)
    span = (kernel - 1) * dilation + 1
    starts = range(0, len(moved) - span + 1, stride)
    rows = [moved[s + k * dilation] for s in starts for k in range(kernel)]
    return np.moveaxis(np.array(rows, x.dtype).reshape((len(rows), *moved.shape[1:])), 0, axis)


def _folded(x: Array, axis: int, kernel: int, stride: int, dilation: int) -> Array:
    moved = np.moveaxis(x, axis, 0)
    windows = len(moved) // kernel
    n = (windows - 1) * stride + (kernel - 1) * dilation + 1 if windows else 0
    out = np.zeros((n, *moved.shape[1:]), np.float64 if x.dtype.kind in "fV" else x.dtype)
    for w in range(windows):
        for k in range(kernel):
            out[w * stride + k * dilation] += moved[w * kernel + k].astype(out.dtype)
    return np.moveaxis(out.astype(x.dtype), 0, axis)


_WINDOWS = [
    ((7,), 0, 3, 1, 1),
    ((2, 9), 1, 3, 2, 2),
    ((2, 3), 1, 5, 1, 1),
    ((0, 2), 0, 2, 1, 1),
    ((6, 2), 0, 2, 3, 1),
    ((2, 8, 3), 1, 2, 4, 3),
    ((5, 0), 0, 2, 1, 1),
    ((1, 2, 1, 6, 2), 3, 4, 1, 1),
]


def _windows() -> list[Sample]:
    args = (1, 3, 2, 1)
    found = _moves("unfold", lambda x: td.unfold(x, *args), (2, 8), lambda x: _unfolded(x, *args), "")
    for shape, *args_ in _WINDOWS:
        own = tuple(args_)
        found += _moves("unfold", lambda x, a=own: td.unfold(x, *a), shape, lambda x, a=own: _unfolded(x, *a), f"{own}")
        folded = list(shape)
        folded[own[0]] = max((shape[own[0]] - (own[1] - 1) * own[3] - 1) // own[2] + 1, 0) * own[1]
        found.append(
            Sample(
                "fold",
                f"{folded} {own}",
                lambda x, a=own: td.fold(x, *a),
                (numbers(folded),),
                lambda x, a=own: _folded(x, *a),
                ulps=2,
                of_largest=True,
            )
        )
    for d in (*FLOATS, *INTS):
        found.append(
            Sample("fold", d, lambda x: td.fold(x, *args), (numbers((2, 9), d),), lambda x: _folded(x, *args), 1, True)
        )
    return found


# --- sources and item --------------------------------------------------------------------------------------


def _sources() -> list[Sample]:
    found: list[Sample] = []
    for d in DTYPES:
        array = numbers((2, 3), d)
        found.append(Sample("const", d, lambda a=array: td.const(a), (), lambda a=array: a))
    for value, dtype in [
        (2.5, "f32"),
        (3, "i64"),
        (True, "bool"),
        (1.5, "bf16"),
        ([[1, 2]], "u8"),
        (np.zeros((0, 2), "f4"), "f32"),
    ]:
        found.append(
            Sample(
                "const",
                f"{value!r} {dtype}",
                lambda v=value, d=dtype: td.const(v, d),
                (),
                lambda v=value, d=dtype: np.array(v).astype(dtype_of(d)),
            )
        )
    found += [Sample("const", f"edges {d}", lambda d=d: td.const(edges(d)), (), lambda d=d: edges(d)) for d in FLOATS]
    for n, d in [(5, "i64"), (0, "i32"), (128, "i8"), (3, "f32"), (256, "bf16"), (7, "u8"), (2, "bool")]:
        found.append(
            Sample(
                "iota",
                f"{n} {d}",
                lambda n=n, d=d: td.iota(n, d),
                (),
                lambda n=n, d=d: np.arange(n).astype(dtype_of(d)),
            )
        )
    # Random123's own test vectors: key, and the words for counter 0, and what threefry2x32 of 20 rounds gives
    seed = np.array(0, np.uint64)
    found.append(
        Sample(
            "random",
            "known answer",
            lambda s: td.random_bits(s, (1,)),
            (seed,),
            lambda s: np.array([0x6B20015999BA4EFE], np.uint64),
        )
    )
    found.append(
        Sample("random", "no bits", lambda s: td.random_bits(s, (2, 0)), (seed,), lambda s: np.zeros((2, 0), np.uint64))
    )
    found.append(
        Sample("item", "both", lambda x: td.sort(x, axis=0), (numbers((5,)),), lambda x: (np.sort(x), np.argsort(x)))
    )
    for kind, make in (
        ("input", lambda x: x),
        ("parameter", lambda: td.parameter("w", (2, 3), "f16")),
        ("buffer", lambda: td.buffer("b", (0,), "i8")),
    ):
        arrays = (numbers((2,)),) if kind == "input" else ()
        given = {
            "input": lambda x: x,
            "parameter": lambda: numbers((2, 3), "f16"),
            "buffer": lambda: np.zeros(0, np.int8),
        }
        found.append(Sample(kind, "as given", make, arrays, given[kind]))
    return found


#: The data of the parameters and buffers of the samples.
WEIGHTS = {"w": numbers((2, 3), "f16"), "b": np.zeros(0, np.int8)}

SAMPLES = [*_axes(), *_slices(), *_pads(), *_joins(), *_reductions(), *_windows(), *_sources()]
