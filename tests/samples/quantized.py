"""Numbers of few bits: by numpy as ONNX defines them, by torch's quantized_decomposed as that does."""

from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # pyright: ignore[reportUnusedImport]  # registers the ops

import tdagger as td
from tdagger.frameworks.torch.integers import integer_convolution, integer_linear
from tdagger.library.quantized import GRIDS
from tdagger.quantization.profile import Numbers
from tdagger.quantization.scales import affine
from tests.samples import Array, Sample, edges, numbers, to_numpy, to_torch

SAMPLES: list[Sample] = []
DECOMPOSED = torch.ops.quantized_decomposed


def _by_numpy(to: str, axis: int | None = None, block: int = 0) -> Any:
    grid = GRIDS[to]

    def expected(x: Array, scale: Array, zero: Array | None = None) -> Array:
        def each(v: Array) -> Array:
            if v.ndim == 0:
                return v
            if block:
                return np.repeat(v, block, axis)[:, : x.shape[1]]
            assert axis is not None
            return v.reshape(-1, *(1,) * (x.ndim - axis - 1))

        with np.errstate(all="ignore"):
            y = x / each(scale)
            if grid.is_float:
                return np.clip(y, grid.low, grid.high).astype(grid.dtype.numpy)
            y = np.round(y).astype(np.float64) + (0 if zero is None else each(zero).astype(np.float64))
            return np.where(np.isnan(y), grid.low, np.clip(y, grid.low, grid.high)).astype(grid.dtype.numpy)

    return expected


for _to, _grid in GRIDS.items():
    _zero = () if _grid.is_float else (np.asarray(1, _grid.dtype.numpy),)
    SAMPLES.append(
        Sample("quantize", f"edges to {_to}", lambda x, s, *z, to=_to: td.quantize(x, s, *z, to=to),
               (edges("f32"), np.float32(0.37), *_zero), _by_numpy(_to))
    )  # fmt: skip
_X, _SCALES = numbers((4, 7)), np.float32([0.05, 0.1, 0.02, 1.0])
_BLOCKS = np.float32(np.linspace(0.05, 0.5, 12).reshape(4, 3))
SAMPLES += [
    Sample("quantize", "axis", lambda x, s, z: td.quantize(x, s, z, to="i8", axis=0),
           (_X, _SCALES, np.int8([0, 1, -5, 9])), _by_numpy("i8", 0)),
    Sample("quantize", "blocks, the last one short", lambda x, s: td.quantize(x, s, to="i4", axis=1, block=3),
           (_X, _BLOCKS), _by_numpy("i4", 1, 3)),
]  # fmt: skip


def _decomposed(x: Array, scale: Array, zero: Array) -> Array:
    x_, s, z = map(to_torch, (x, scale, zero))
    if scale.ndim:
        return to_numpy(DECOMPOSED.quantize_per_channel(x_, s, z, 0, -127, 127, torch.int8))
    return to_numpy(DECOMPOSED.quantize_per_tensor(x_, s.item(), int(z), 3, 200, torch.uint8))


SAMPLES += [
    Sample("quantize", "as torch", lambda x, s, z: td.quantize(x, s, z, to="u8", low=3, high=200, like="torch"),
           (edges("f32"), np.asarray(0.37, np.float64), np.int64(7)), _decomposed),
    Sample("quantize", "as torch, axis",
           lambda x, s, z: td.quantize(x, s, z, to="i8", axis=0, low=-127, high=127, like="torch"),
           (_X, _SCALES, np.int64([0, 3, -5, 9])), _decomposed),
    Sample("quantize", "as torch, NaN", lambda x, s, z: td.quantize(x, s, z, to="u8", low=3, high=200, like="torch"),
           (np.float32([np.nan, 1]), np.asarray(0.1, np.float32), np.int32(7)), _decomposed),
]  # fmt: skip


def _back(x: Array, scale: Array, zero: Array | None = None) -> Array:
    z = np.int64(0) if zero is None else zero.astype(np.int64)
    if scale.ndim:
        scale, z = scale.reshape(-1, 1), z.reshape(-1, 1)
    return ((x.astype(np.int64) - z).astype(np.float32) * scale).astype(scale.dtype)


for _name in ("i8", "u8", "i16", "u16", "i32"):
    SAMPLES.append(
        Sample("dequantize", _name, td.dequantize, (edges(_name), np.float32(0.37), np.asarray(3, edges(_name).dtype)),
               _back)
    )  # fmt: skip
SAMPLES += [
    Sample("dequantize", "axis", lambda x, s, z: td.dequantize(x, s, z, axis=0),
           (numbers((4, 7), "i8", -100, 100), _SCALES, np.int8([0, 1, -5, 9])), _back),
    Sample("dequantize", "i4 in blocks", lambda x, s: td.dequantize(x, s, axis=1, block=3, of="i4"),
           (numbers((4, 7), "i8", -8, 7), _BLOCKS),
           lambda x, s: x.astype(np.float32) * np.repeat(s, 3, 1)[:, :7]),
    Sample("dequantize", "f8e4m3", td.dequantize, (edges("f8e4m3"), np.float32(0.5)),
           lambda x, s: x.astype(np.float32) * s),
    Sample("dequantize", "to f16", lambda x, s: td.dequantize(x, s, to="f16"),
           (edges("i8"), np.float32(0.5)), lambda x, s: (x.astype(np.float32) * s).astype(np.float16)),
]  # fmt: skip


def _fake(x: Array, scale: Array, zero: Array) -> Array:
    return to_numpy(torch.fake_quantize_per_tensor_affine(to_torch(x), float(scale), int(zero), 0, 255))


SAMPLES.append(
    Sample("fake_quantize", "as torch", lambda x, s, z: td.fake_quantize(x, s, z, to="u8", like="torch"),
           (edges("f32")[3:], np.asarray(0.37, np.float32), np.int32(7)), _fake)
)  # fmt: skip


def _dynamic(x: Array) -> Any:
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.clip(np.round(-low / scale), 0, 255)
    return np.clip(np.round(x / scale) + zero, 0, 255).astype(np.uint8), np.asarray(scale), np.uint8(zero)


SAMPLES += [
    Sample("quantize_dynamic", "numbers", td.quantize_dynamic, (_X,), _dynamic),
    Sample("quantize_dynamic", "zeros", td.quantize_dynamic, (0 * _X,), _dynamic),
]


def _range(low: Array, high: Array, to: str = "u8", symmetric: bool = False, narrow: bool = False) -> Any:
    found = affine(low, high, Numbers(to, symmetric, narrow=narrow))
    zero = np.zeros(low.shape, "i1") if found.zero_point is None else found.zero_point
    return found.scale, zero


_ENDS = (np.float32([-1, 0, 3, -1e-30, -5]), np.float32([2, 0, 4, 3e38, -1]))
SAMPLES += [
    Sample("quantization_range", "u8", lambda a, b: td.quantization_range(a, b, to="u8"), _ENDS, _range),
    Sample("quantization_range", "symmetric, narrow",
           lambda a, b: td.quantization_range(a, b, to="i4", symmetric=True, narrow=True), _ENDS,
           lambda a, b: _range(a, b, "i4", True, True)),
]  # fmt: skip


def _layer(name: str) -> Any:
    """By torch in f64. Scales are powers of two, so that results are exact, weights of 7 bits, whose sums fit."""

    def expected(x: Array, w: Array, each: Array, bias: Array | None = None, **how: Any) -> Array:
        def read(v: Array) -> Any:
            return torch.from_numpy(v.astype(np.float64))

        scales = each.astype(np.float64).reshape(-1, *(1,) * (w.ndim - 1))
        given = (read((x.astype(np.float64) - 3) * _READ["scale"]), read(w * scales))
        bias_ = None if bias is None else read(bias)
        return to_numpy(getattr(torch.nn.functional, name)(*given, bias_, **how)).astype(np.float32)

    return expected


def _codes(*shape: int) -> tuple[Array, ...]:
    rng = np.random.default_rng(len(shape))
    each = np.float32(2.0 ** -np.arange(5, 5 + shape[0]))
    return rng.integers(-63, 64, shape).astype("i1"), each, np.float32(rng.integers(-99, 99, shape[0]) / 64)


_BYTES = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 6)).astype("u1")
_READ: dict[str, Any] = {"scale": 2.0**-5, "zero": 3}
_CONV: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 1}
SAMPLES += [
    Sample("integer_linear", "bias", lambda x, w, s, b: integer_linear(x, w, s, b, **_READ),
           (_BYTES, *_codes(4, 6)), _layer("linear")),
    Sample("integer_linear", "moved", lambda x, w, s: integer_linear(x, w, s, **_READ, moved=True),
           (_BYTES, np.ascontiguousarray(_codes(4, 6)[0].T), _codes(4, 6)[1]),
           lambda x, w, s: _layer("linear")(x, np.ascontiguousarray(w.T), s)),
    Sample("integer_linear", "relu", lambda x, w, s: integer_linear(x, w, s, **_READ, relu=True),
           (_BYTES, *_codes(4, 6)[:2]), lambda x, w, s: np.maximum(_layer("linear")(x, w, s), 0)),
    Sample("integer_convolution", "bias", lambda x, w, s, b: integer_convolution(x, w, s, b, **_READ, **_CONV),
           (_BYTES, *_codes(4, 3, 3, 2)), lambda *a: _layer("conv2d")(*a, **_CONV)),
    Sample("integer_convolution", "rounded",
           lambda x, w, s: integer_convolution(x, w, s, **_READ, **_CONV, out_scale=0.125, out_zero=9),
           (_BYTES, *_codes(4, 3, 3, 2)[:2]),
           lambda *a: np.clip(np.round(_layer("conv2d")(*a, **_CONV) * 8) + 9, 0, 255).astype("u1")),
]  # fmt: skip
