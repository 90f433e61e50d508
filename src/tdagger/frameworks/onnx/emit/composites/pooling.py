"""Pools, resizing and sampling as ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tdagger.frameworks.onnx.emit.composites.rule import Rule, back, flattened, in_floats
from tdagger.frameworks.onnx.emit.kernels import computed_in, takes
from tdagger.frameworks.onnx.emit.moves import with_shape
from tdagger.frameworks.onnx.emit.writer import Writer, has_sizes
from tdagger.frameworks.writing import Fields
from tdagger.op import Value
from tdagger.types import TensorType, each_type, in_numbers


def _ends(x: TensorType, out: TensorType, f: Fields) -> tuple[tuple[int, ...], int]:
    """The padding on both sides, and whether to round up: with plain sizes the padding at the end says it as well.

    What hangs over doesn't count as padding does, so an average that counts padding keeps rounding up.
    """
    n = len(f["kernel"])
    padding = tuple(f["padding"])
    if not f["ceil"] or has_sizes(x.shape) or f.get("count_include_pad"):
        return padding * 2, int(f["ceil"])
    sizes = zip(x.shape[x.rank - n :], out.shape[out.rank - n :], f["kernel"], f["stride"], padding,
                f.get("dilation", (1,) * n), strict=True)  # fmt: skip
    ends = [max((w - 1) * s + (k - 1) * d + 1 - size - p, 0) for size, w, k, s, p, d in sizes]
    return (*padding, *ends), 0


def _max_pool(results: int) -> Callable[[Writer, Value, Fields], Any]:
    """MaxPool, whose kernel drops NaN; its Indices count over all planes, ours within one."""

    def write(w: Writer, v: Value, f: Fields) -> Any:
        x: Value = f["x"]
        n = len(f["kernel"])
        to = computed_in("MaxPool", x.dtype)
        types: Any = each_type(v.type)
        name = flattened(w, x, n + 1)[0] if x.rank > n else with_shape(w, w.ref(x), x.type, (1, 1, *x.shape))
        pads, ceil = _ends(x.type, types[0], f)
        out = w.node(
            "MaxPool", [w.cast(name, x.dtype, to)], results, kernel_shape=tuple(f["kernel"]),
            strides=tuple(f["stride"]), pads=pads, dilations=tuple(f["dilation"]), ceil_mode=ceil,
        )  # fmt: skip
        names: Any = out if results == 2 else (out,)
        found: list[str] = [w.cast(names[0], to, x.dtype)]
        if results == 2:
            plane = math.prod(x.shape[x.rank - n :])
            found.append(w.node("Mod", [names[1], w.size(plane)]))
        shaped = [_unflattened(w, a, t, n) for a, t in zip(found, types, strict=True)]
        return shaped[0] if results == 1 else tuple(shaped)

    return write


def _unflattened(w: Writer, name: str, out: TensorType, n: int) -> str:
    if out.rank > n:
        return back(w, name, out, n + 1)
    return with_shape(w, name, out.with_shape((1, 1, *out.shape)), out.shape)


def _pools(f: Fields, types: Sequence[TensorType]) -> bool:
    """One to three axes of floats with entries; what is padded at an end is less than a window."""
    x, n = types[0], len(f["kernel"])
    if n > 3 or 0 in x.shape or not x.dtype.is_float or has_sizes(f["kernel"]):
        return False
    return not f["ceil"] or all(s <= k - p for s, k, p in zip(f["stride"], f["kernel"], f["padding"], strict=True))


def _avg_pool(w: Writer, v: Value, f: Fields) -> str:
    x: Value = f["x"]
    n = len(f["kernel"])
    to = computed_in("AveragePool", x.dtype)
    name, _ = flattened(w, x, n + 1)
    divisor = f["divisor"]
    pads, ceil = _ends(x.type, v.type, f)
    out = w.node(
        "AveragePool", [w.cast(name, x.dtype, to)], kernel_shape=tuple(f["kernel"]), strides=tuple(f["stride"]),
        pads=pads, ceil_mode=ceil,
        count_include_pad=int(f["count_include_pad"] or divisor is not None),
    )  # fmt: skip
    if divisor is not None:
        out = w.node("Mul", [out, w.scalar(math.prod(f["kernel"]) / divisor, to)])
    return back(w, w.cast(out, to, x.dtype), v.type, n + 1)


def _averages(f: Fields, types: Sequence[TensorType]) -> bool:
    """As :func:`_pools`; of rounding up, what counts padding must not reach where ONNX drops no window."""
    x, n = types[0], len(f["kernel"])
    if x.dtype.name == "f64" or x.rank <= n or not _pools(f, types):
        return False
    if not f["ceil"]:
        return True
    if f["divisor"] is not None or has_sizes(x.shape):
        return False
    windows = zip(x.shape[x.rank - n :], f["kernel"], f["stride"], f["padding"], strict=True)
    return not f["count_include_pad"] or all(
        (-(-(size + 2 * p - k) // s)) * s < size + p for size, k, s, p in windows
    )  # fmt: skip


def _adaptive(w: Writer, v: Value, f: Fields) -> str:
    """The mean of whole axes, or windows that lie end to end."""
    x: Value = f["x"]
    n = len(f["size"])
    axes = [i for i, size in enumerate(f["size"], x.rank - n) if size == 1]
    if len(axes) == n:
        to = computed_in("ReduceMean", x.dtype)
        if n >= 1 and x.rank == n + 2 and takes("GlobalAveragePool", x.dtype):
            return w.node("GlobalAveragePool", [w.ref(x)])
        out = w.node("ReduceMean", [w.cast(w.ref(x), x.dtype, to), w.ints(axes)], keepdims=1)
        return w.cast(out, to, x.dtype)
    kernel = tuple([n // (n if s is None else s) for n, s in zip(x.shape[x.rank - n :], f["size"], strict=True)])
    to = computed_in("AveragePool", x.dtype)
    name, _ = flattened(w, x, n + 1)
    out = w.node("AveragePool", [w.cast(name, x.dtype, to)], kernel_shape=kernel, strides=kernel)
    return back(w, w.cast(out, to, x.dtype), v.type, n + 1)


def _evenly(f: Fields, types: Sequence[TensorType]) -> bool:
    x, n = types[0], len(f["size"])
    if not x.dtype.is_float or 0 in x.shape:
        return False
    if all(s == 1 for s in f["size"]):
        return True
    sizes = x.shape[x.rank - n :]
    whole = all(s is None or (s and not has_sizes(k) and k % s == 0) for k, s in zip(sizes, f["size"], strict=True))
    return whole and n <= 3 and x.rank > n and x.dtype.name != "f64" and not has_sizes(sizes)


_MODES = {"nearest": "nearest", "linear": "linear", "cubic": "cubic"}


def _interpolate(w: Writer, v: Value, f: Fields) -> str:
    """Resize to sizes, which says the scales by them; the conditions see to it that they are the same."""
    x: Value = f["x"]
    n = len(f["size"])
    to = computed_in("Resize", x.dtype)
    scales = f["scale"]
    how = "align_corners" if f["align_corners"] else "asymmetric" if f["mode"] == "nearest" else "half_pixel"
    options: dict[str, Any] = {"mode": _MODES[f["mode"]], "coordinate_transformation_mode": how}
    if f["mode"] == "nearest":
        options["nearest_mode"] = "floor"
    if f["mode"] == "cubic":
        options["cubic_coeff_a"] = -0.5 if f["antialias"] else -0.75
    if f["antialias"]:
        options |= {"antialias": 1, "exclude_outside": 1}
    name, flat = flattened(w, x, n + 1) if x.rank > n else (w.ref(x), x.type)
    if scales is not None or has_sizes(x.shape):
        factors = scales or [s / k for s, k in zip(f["size"], x.shape[x.rank - n :], strict=True)]
        where = ["", w.const(np.array([1.0] * (flat.rank - n) + list(factors), np.float32))]
    else:
        where = ["", "", w.ints([*map(int, flat.shape[: flat.rank - n]), *f["size"]])]
    out = w.node("Resize", [w.cast(name, x.dtype, to), *where], **options)
    return back(w, w.cast(out, to, x.dtype), v.type, n + 1) if x.rank > n else w.cast(out, to, x.dtype)


def _resizes(f: Fields, types: Sequence[TensorType]) -> bool:
    """Scales that mean exactly ours: none were given, or whole ones, or those that the sizes say.

    Nearest by a fraction rounds positions otherwise, and is gathered.
    """
    x, n = types[0], len(f["size"])
    if f["mode"] not in _MODES or not x.dtype.is_float or x.dtype.name == "f64" or 0 in (*x.shape, *f["size"]):
        return False
    sizes = in_numbers(x.shape[x.rank - n :])
    pairs = list(zip(sizes, in_numbers(f["size"]), f["scale"] or (None,) * n, strict=True))
    whole = all(s % k == 0 for k, s, _ in pairs)
    exact = all(c is None or c == s / k for k, s, c in pairs)
    if not exact or (has_sizes(x.shape) and not (whole and not f["align_corners"])):
        return False
    if f["mode"] == "nearest":
        return whole
    if f["antialias"]:
        return False  # onnxruntime's taps differ from torch's where entries are skipped by fractions
    return n == 2 if f["mode"] == "cubic" else n <= 3 and (f["mode"] == "linear") and x.rank > n


#: Ways to sample that are called otherwise since operator set 20.
_SAMPLES = {"bilinear": "linear", "bicubic": "cubic"}


def _grid_sample(w: Writer, v: Value, f: Fields) -> str:
    dims = f["grid"].shape[-1]
    to = computed_in("GridSample", v.dtype)
    x, _ = flattened(w, f["x"], dims + 1)
    grid, _ = flattened(w, f["grid"], dims + 1)
    mode: Any = f["mode"] if w.opset < 20 else _SAMPLES.get(f["mode"], f["mode"])
    out = w.node(
        "GridSample", [w.cast(x, v.dtype, to), w.cast(grid, v.dtype, to)], mode=mode,
        padding_mode=f["padding"], align_corners=int(f["align_corners"]),
    )  # fmt: skip
    return back(w, w.cast(out, to, v.dtype), v.type, dims + 1)


def _samples(f: Fields, types: Sequence[TensorType]) -> bool:
    """Of nearest positions between two entries ONNX reflects after rounding, torch before."""
    grid = types[1]
    ties = f["mode"] == "nearest" and f["padding"] == "reflection"
    return in_floats(f, types) and not ties and 0 not in grid.shape and grid.shape[-1] == 2


#: Of each composite its row.
POOLING: dict[str, Rule] = {
    "max_pool": Rule(_max_pool(1), _pools),
    "max_pool_with_indices": Rule(_max_pool(2), _pools),
    "avg_pool": Rule(_avg_pool, _averages),
    "adaptive_avg_pool": Rule(_adaptive, _evenly),
    "interpolate": Rule(_interpolate, _resizes),
    "grid_sample": Rule(_grid_sample, _samples),
}
