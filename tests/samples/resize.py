"""Interpolation and sampling at a grid."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import Sample, by_torch, numbers
from tests.samples.linear import INF, LEADS, NAN, batched, sampled, special

SAMPLES: list[Sample] = []
_SHAPES = ((2, 2, 7), (1, 2, 6, 9), (1, 1, 4, 5, 3))
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _resize(
    rank: int, mode: str, size: Any = None, scale: Any = None, **how: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What builds the value, and what torch does; torch rounds the size down when given a scale."""
    torchs = {"linear": _LINEAR[rank], "cubic": "bicubic"}.get(mode, mode)

    def function(x: torch.Tensor) -> torch.Tensor:
        align = {"align_corners": how["align_corners"]} if "align_corners" in how else {}
        return F.interpolate(x, size, scale, torchs, antialias=how.get("antialias", False), **align)

    def build(x: td.Value) -> td.Value:
        sizes = size if scale is None else tuple(int(n * scale) for n in x.shape[2:])
        return td.interpolate(x, size=sizes, mode=mode, scale=scale, **how)

    return build, function


# Weights are computed in f32 as torch does, but not in its order of operations.
_ULPS = 256

for _x, _to in product(_SHAPES, ({"size": 1}, {"size": 3}, {"size": 7}, {"size": 14}, {"scale": 0.5}, {"scale": 0.7},
                                 {"scale": 1.3}, {"scale": 2.3})):  # fmt: skip
    _rank = len(_x) - 2
    _ways: list[dict[str, Any]] = [{"mode": "nearest"}, {"mode": "nearest-exact"}, {"mode": "linear"}]
    _ways += [{"mode": "linear", "align_corners": True}] if "size" in _to else []
    _ways += [{"mode": "area"}] if "size" in _to else []
    if _rank == 2:
        _ways += [{"mode": "cubic"}, {"mode": "linear", "antialias": True}, {"mode": "cubic", "antialias": True}]
        _ways += [{"mode": "cubic", "align_corners": True}] if "size" in _to else []
    for _how in _ways:
        _id = " ".join(f"{k}={v}" for k, v in {**_how, **_to}.items())
        _build, _function = _resize(_rank, **_how, **_to)
        _ulps = 0 if _how["mode"].startswith("nearest") else _ULPS
        SAMPLES += sampled("interpolate", f"{list(_x)} {_id}", _build, [_x], _function, ("f32",), _ulps, wide=False)

for _how in ({"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic"}, {"mode": "area"},
             {"mode": "linear", "antialias": True}):  # fmt: skip
    _build, _function = _resize(2, **_how, size=(9, 4))
    _id = " ".join(f"{k}={v}" for k, v in _how.items())
    SAMPLES += sampled("interpolate", _id, _build, [(2, 3, 6, 7)], _function, ("f64", "f16", "bf16"))
    SAMPLES += sampled("interpolate", f"same size {_id}", _resize(2, **_how, size=(6, 7))[0], [(1, 2, 6, 7)],
                       _resize(2, **_how, size=(6, 7))[1], ("f32",))  # fmt: skip
    if _how["mode"] != "area":
        SAMPLES += sampled("interpolate", f"same size, scale {_id}", _resize(2, **_how, scale=1.1)[0], [(1, 2, 3, 4)],
                           _resize(2, **_how, scale=1.1)[1], ("f32",), _ULPS, wide=False)  # fmt: skip
_build, _function = _resize(2, "linear", size=(12, 3))
SAMPLES.append(
    Sample(
        "interpolate", "inf and nan", _build, (special((1, 2, 6, 6), n7=INF, n40=NAN),), by_torch(_function), 64, True
    )
)
_build, _function = _resize(2, "nearest", size=(12, 3))
SAMPLES.append(Sample("interpolate", "bytes", _build, (numbers((1, 2, 6, 6), "u8", 0, 200),), by_torch(_function)))


def _sample(**how: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    torchs = {{"padding": "padding_mode"}.get(k, k): v for k, v in how.items()}
    return lambda x, grid: td.grid_sample(x, grid, **how), lambda x, grid: F.grid_sample(x, grid, **torchs)


_GRID = numbers((2, 4, 7, 2), "f32", -1.8, 1.8)
_GRID[0, 0, :3] = [[-1, 1], [1, -1], [0, 0]]
for _mode, _padding, _corners in product(
    ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
):
    _build, _function = _sample(mode=_mode, padding=_padding, align_corners=_corners)
    _id = f"{_mode} {_padding}{' corners' if _corners else ''}"
    SAMPLES += sampled("grid_sample", _id, _build, [(2, 3, 5, 6), _GRID], _function, ("f32",), _ULPS, wide=False)
    SAMPLES += sampled("grid_sample", _id, _build, [(2, 3, 5, 6), _GRID.astype(np.float64)], _function, ("f64",))
    if _mode != "bicubic":
        SAMPLES += sampled("grid_sample", f"3d {_id}", _build,
                           [(1, 2, 5, 6, 4), numbers((1, 4, 3, 2, 3), "f32", -1.5, 1.5)], _function, ("f32",), _ULPS,
                           wide=False)  # fmt: skip
_FAR = _GRID.copy()
_FAR[0, 1, :4] = [[INF, 0], [0, -INF], [1e30, 0.1], [-3e9, 3e9]]
for _padding in ("zeros", "border"):
    _build, _function = _sample(mode="nearest", padding=_padding, align_corners=False)
    SAMPLES += sampled("grid_sample", f"far away {_padding}", _build, [(2, 3, 5, 6), _FAR], _function, ("f32",), 0,
                       wide=False)  # fmt: skip

for _lead, (_size, _how) in product(
    LEADS, (((9, 4), {"mode": "nearest"}), ((9, 4), {"mode": "linear", "align_corners": True}),
            ((9, 4), {"mode": "cubic"}), ((4, 9), {"mode": "area"}), ((4, 5), {"mode": "linear", "antialias": True}),
            ((3,), {"mode": "linear"}), ((3, 4, 2), {"mode": "linear"}), ((12, 14), {"mode": "nearest"})),
):  # fmt: skip
    _id = f"{len(_lead)} leading {_size} " + " ".join(f"{k}={v}" for k, v in _how.items())
    _build, _function = _resize(len(_size), size=_size, **_how)
    _x = (6, 7, 5)[: len(_size)]
    SAMPLES += sampled("interpolate", _id, _build, [(*_lead, 2, *_x)], batched(_function, len(_lead)), ("f32",), _ULPS,
                       wide=False)  # fmt: skip
SAMPLES += sampled("interpolate", "of one axis", lambda x: td.interpolate(x, size=(9,), mode="linear"), [(6,)],
                   lambda x: F.interpolate(x[None, None], 9, mode="linear")[0, 0], ("f32", "bf16"))  # fmt: skip
SAMPLES += sampled(
    "interpolate", "scale, no batch", lambda x: td.interpolate(x, size=(4, 9), scale=(0.7, 1.3), mode="linear"),
    [(2, 6, 7)], lambda x: F.interpolate(x[None], scale_factor=(0.7, 1.3), mode="bilinear")[0], ("f32",), _ULPS,
    wide=False,
)  # fmt: skip
for _lead, _mode in product(LEADS, ("bilinear", "nearest", "bicubic")):
    _build, _function = _sample(mode=_mode, padding="reflection", align_corners=False)
    _function = batched(_function, len(_lead), 2)
    SAMPLES += sampled("grid_sample", f"{len(_lead)} leading {_mode}", _build,
                       [(*_lead, 3, 5, 6), numbers((*_lead, 4, 7, 2), "f32", -1.8, 1.8)], _function, ("f32",), _ULPS,
                       wide=False)  # fmt: skip
    if _mode != "bicubic":
        SAMPLES += sampled("grid_sample", f"3d {len(_lead)} leading {_mode}", _build,
                           [(*_lead, 2, 5, 6, 4), numbers((*_lead, 4, 3, 2, 3), "f32", -1.5, 1.5)], _function,
                           ("f32",), _ULPS, wide=False)  # fmt: skip
