"""Normalisation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import FLOATS, Sample, by_torch, dtype_of, numbers
from tests.samples.linear import INF, LEADS, NAN, batched, sampled, special

SAMPLES: list[Sample] = []
_C = (4,)
_VARIANCE = np.array([0.5, 0.001, 2.0, 100.0], np.float32)


def _with(function: Callable[..., Any], **attributes: Any) -> Callable[..., Any]:
    return lambda *xs: function(*xs, **attributes)


for _name, _x in (("images", (2, 4, 3, 5)), ("vectors", (3, 4)), ("sequence", (2, 4, 5)), ("zero batch", (0, 4, 3))):
    for _dtype in FLOATS:
        _stats = [numbers(_C, _dtype, seed=1), numbers(_C, _dtype, 0.1, 3)]
        SAMPLES += sampled("batch_norm", _name, td.batch_norm, [_x, *_stats, _C, _C], F.batch_norm, (_dtype,))
SAMPLES += sampled("batch_norm", "bare", _with(td.batch_norm, eps=0.1), [(2, 4, 3), numbers(_C), _VARIANCE],
                   _with(F.batch_norm, eps=0.1), ("f32",))  # fmt: skip
SAMPLES += sampled("batch_norm", "f32 statistics", td.batch_norm,
                   [(2, 4, 3), numbers(_C), _VARIANCE, numbers(_C, seed=2), numbers(_C, seed=3)], F.batch_norm,
                   ("f16", "bf16"))  # fmt: skip


def _train(momentum: float, eps: float) -> Callable[..., Any]:
    def function(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, *rest: torch.Tensor) -> Any:
        mean, variance = mean.clone(), variance.clone()
        out = F.batch_norm(x, mean, variance, *rest, training=True, momentum=momentum, eps=eps)
        return out, mean, variance

    return function


for _name, _x in (("images", (2, 4, 3, 5)), ("vectors", (3, 4))):
    for _dtype in FLOATS:
        _stats = [numbers(_C, _dtype, seed=1), numbers(_C, _dtype, 0.1, 3)]
        SAMPLES += sampled("batch_norm_train", _name, _with(td.batch_norm_train, momentum=0.3, eps=1e-3),
                           [_x, *_stats, _C, _C], _train(0.3, 1e-3), (_dtype,))  # fmt: skip
SAMPLES += sampled(
    "batch_norm_train", "no running statistics", td.batch_norm_train, [(2, 4, 3)],
    lambda x: (F.batch_norm(x, None, None, training=True), x.mean((0, 2)), x.var((0, 2))), ("f64", "f32"),
)  # fmt: skip


def _layer(*xs: torch.Tensor, rank: int = 1, eps: float = 1e-5) -> torch.Tensor:
    return F.layer_norm(xs[0], xs[0].shape[-rank:], *xs[1:], eps=eps)


for _rank, _x in ((1, (2, 3, 8)), (2, (2, 3, 8)), (3, (2, 3, 8)), (1, (0, 8)), (1, (5, 1))):
    _w = _x[-_rank:]
    for _name, _more in (("", []), (" weight", [_w]), (" bias", [_w, _w])):
        _id = f"{_rank} of {list(_x)}{_name}"
        SAMPLES += sampled("layer_norm", _id, _with(td.layer_norm, rank=_rank), [_x, *_more], _with(_layer, rank=_rank))
SAMPLES += sampled("layer_norm", "far from 0", td.layer_norm, [numbers((3, 16)) + np.float32(1000)], _layer, ("f32",),
                   ulps=2048)  # fmt: skip
SAMPLES.append(
    Sample("layer_norm", "inf and nan", td.layer_norm, (special((4, 3), n0=INF, n4=NAN),), by_torch(_layer), 64, True)
)


def _rms(*xs: torch.Tensor, rank: int = 1, eps: float = 1e-6) -> torch.Tensor:
    return F.rms_norm(xs[0], xs[0].shape[-rank:], *xs[1:], eps=eps)


for _rank, _x in ((1, (2, 3, 8)), (2, (2, 3, 8))):
    for _name, _more in (("", []), (" weight", [_x[-_rank:]])):
        SAMPLES += sampled("rms_norm", f"{_rank} of {list(_x)}{_name}", _with(td.rms_norm, rank=_rank, eps=1e-6),
                           [_x, *_more], _with(_rms, rank=_rank))  # fmt: skip
for _dtype in FLOATS:  # no eps: that of the type it is computed in
    _small = (numbers((2, 4), "f64") * 2.0**-10).astype(dtype_of(_dtype))
    SAMPLES += sampled("rms_norm", "default eps", td.rms_norm, [_small], lambda x: F.rms_norm(x, (4,)), (_dtype,),
                       ulps=64 if _dtype in ("f64", "f32") else 1, wide=False)  # fmt: skip


def _grouped(groups: int) -> Callable[..., Any]:
    return lambda x, *rest: F.group_norm(x, groups, *rest)


for _groups in (1, 2, 4):
    for _x in ((2, 4, 3, 5), (3, 4, 2)):
        SAMPLES += sampled("group_norm", f"{_groups} of {list(_x)}", _with(td.group_norm, groups=_groups), [_x, _C, _C],
                           _grouped(_groups))  # fmt: skip
SAMPLES += sampled("group_norm", "bare", _with(td.group_norm, groups=2), [(2, 4, 3)], _grouped(2))


def _instance(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    return F.instance_norm(x, None, None, *rest)


SAMPLES += sampled("instance_norm", "weight and bias", td.instance_norm, [(2, 4, 3, 5), _C, _C], _instance)
SAMPLES += sampled("instance_norm", "bare", td.instance_norm, [(2, 4, 5)], _instance)


def _train_instances(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, *rest: torch.Tensor) -> Any:
    mean, variance = mean.clone(), variance.clone()
    return F.instance_norm(x, mean, variance, *rest, momentum=0.3), mean, variance


for _dtype in FLOATS:
    _stats = [numbers(_C, _dtype, seed=1), numbers(_C, _dtype, 0.1, 3)]
    for _name, _rest in (("weight and bias", [_C, _C]), ("bare", [])):
        SAMPLES += sampled("instance_norm_train", _name, _with(td.instance_norm_train, momentum=0.3),
                           [(2, 4, 3, 5), *_stats, *_rest], _train_instances, (_dtype,))  # fmt: skip
for _size in (1, 2, 3, 5):
    SAMPLES += sampled(
        "local_response_norm", f"{_size}",
        _with(td.local_response_norm, size=_size, alpha=0.5, beta=0.75, k=1.5), [(2, 4, 3, 3)],
        _with(F.local_response_norm, size=_size, alpha=0.5, beta=0.75, k=1.5),
    )  # fmt: skip


def _only_first(function: Callable[..., Any], lead: int) -> Callable[..., Any]:
    """:func:`batched` where the results after the first have no batch."""

    def over(x: torch.Tensor, *rest: torch.Tensor) -> Any:
        out, *others = function(x.reshape(-1, *x.shape[lead:]), *rest)
        return (out.reshape(x.shape), *others)

    return over


for _lead in LEADS:
    _n = len(_lead)
    _id = f"channels at {_n}"
    for _more in ((3, 5), ()):
        for _dtype in FLOATS:
            _stats = [numbers(_C, _dtype, seed=1), numbers(_C, _dtype, 0.1, 3)]
            SAMPLES += sampled("batch_norm", f"{_id} {_more}", _with(td.batch_norm, axis=_n),
                               [(*_lead, 4, *_more), *_stats, _C, _C], batched(F.batch_norm, _n),
                               (_dtype,))  # fmt: skip
            if _more or _lead:
                SAMPLES += sampled(
                    "batch_norm_train", f"{_id} {_more}", _with(td.batch_norm_train, momentum=0.3, eps=1e-3, axis=_n),
                    [(*_lead, 4, *_more), *_stats, _C, _C], _only_first(_train(0.3, 1e-3), _n), (_dtype,),
                )  # fmt: skip
            if _more:
                SAMPLES += sampled("instance_norm_train", _id, _with(td.instance_norm_train, momentum=0.3, axis=_n),
                                   [(*_lead, 4, 3, 5), *_stats, _C, _C], _only_first(_train_instances, _n),
                                   (_dtype,))  # fmt: skip
    SAMPLES += sampled(
        "batch_norm_train", f"{_id}, no running statistics", _with(td.batch_norm_train, axis=_n), [(*_lead, 4, 3)],
        _only_first(lambda x: (F.batch_norm(x, None, None, training=True), x.mean((0, 2)), x.var((0, 2))), _n),
        ("f64", "f32"),
    )  # fmt: skip
    for _groups, _x in ((1, (4, 3, 5)), (2, (4, 3)), (1, (4,))):
        SAMPLES += sampled("group_norm", f"{_id} {_groups} of {_x}", _with(td.group_norm, groups=_groups, axis=_n),
                           [(*_lead, *_x), _C, _C], batched(_grouped(_groups), _n))  # fmt: skip
    SAMPLES += sampled("instance_norm", _id, _with(td.instance_norm, axis=_n), [(*_lead, 4, 3, 5), _C, _C],
                       batched(_instance, _n))  # fmt: skip
    SAMPLES += sampled(
        "local_response_norm", _id, _with(td.local_response_norm, size=3, alpha=0.5, axis=_n), [(*_lead, 4, 3, 3)],
        batched(_with(F.local_response_norm, size=3, alpha=0.5), _n),
    )  # fmt: skip
