"""Pooling."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

import tdagger as td
from tests.samples import FLOATS, Sample, by_torch, numbers
from tests.samples.linear import INF, LEADS, NAN, sampled, special

SAMPLES: list[Sample] = []
_SHAPES = ((2, 3, 7), (1, 2, 6, 7), (1, 2, 5, 6, 4))


def _max(how: dict[str, Any], indices: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    torchs = {{"kernel": "kernel_size", "ceil": "ceil_mode"}.get(k, k): v for k, v in how.items()}
    op = td.max_pool_with_indices if indices else td.max_pool
    return (
        lambda x: op(x, **how),
        lambda x: getattr(F, f"max_pool{x.dim() - 2}d")(x, **torchs, return_indices=indices),
    )


for _x, _ceil, (_kernel, _stride, _padding, _dilation) in product(
    _SHAPES, (False, True), ((2, 2, 0, 1), (3, 2, 1, 1), (3, 3, 1, 1), (2, 3, 1, 2), (1, 2, 0, 1), (3, 1, 1, 1))
):
    _how = {"kernel": _kernel, "stride": _stride, "padding": _padding, "dilation": _dilation, "ceil": _ceil}
    _id = f"{list(_x)} {_kernel} {_stride} {_padding} {_dilation} {'ceil' if _ceil else 'floor'}"
    for _op, _indices in (("max_pool", False), ("max_pool_with_indices", True)):
        _array = special(_x, n5=NAN, n9=NAN, n20=-INF, n21=-INF, n22=-INF, n30=INF)
        SAMPLES.append(Sample(_op, _id, _max(_how, _indices)[0], (_array,), by_torch(_max(_how, _indices)[1])))
_how = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)}
for _op, _indices in (("max_pool", False), ("max_pool_with_indices", True)):
    _build, _function = _max(_how, _indices)
    SAMPLES += sampled(_op, "pairs", _build, [(2, 3, 6, 7)], _function, ulps=0, wide=False)
    SAMPLES += sampled(_op, "zero batch", _build, [(0, 3, 6, 7)], _function, ("f32",), ulps=0, wide=False)
    SAMPLES.append(Sample(_op, "equal entries", _build, (numbers((1, 2, 6, 7), "i64", 0, 2),), by_torch(_function)))
SAMPLES += sampled("max_pool", "stride of the kernel", lambda x: td.max_pool(x, kernel=3), [(1, 2, 7, 7)],
                   lambda x: F.max_pool2d(x, 3), ("f32",), ulps=0)  # fmt: skip


def _average(how: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    names = {"kernel": "kernel_size", "ceil": "ceil_mode", "divisor": "divisor_override"}
    torchs = {names.get(k, k): v for k, v in how.items()}
    return lambda x: td.avg_pool(x, **how), lambda x: getattr(F, f"avg_pool{x.dim() - 2}d")(x, **torchs)


for _x, _ceil, _padded, (_kernel, _stride, _padding) in product(
    _SHAPES, (False, True), (False, True), ((2, 2, 0), (3, 2, 1), (2, 3, 1), (1, 2, 0))
):
    _how = {"kernel": _kernel, "stride": _stride, "padding": _padding, "ceil": _ceil, "count_include_pad": _padded}
    _id = f"{list(_x)} {_kernel} {_stride} {_padding} {'ceil' if _ceil else 'floor'}{' padded' if _padded else ''}"
    SAMPLES += sampled("avg_pool", _id, _average(_how)[0], [_x], _average(_how)[1], ("f32",))
for _how in ({"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)}, {"kernel": 2, "divisor": 3}):
    SAMPLES += sampled("avg_pool", f"{_how}", _average(_how)[0], [(2, 3, 6, 7)], _average(_how)[1])
for _how in ({"kernel": 2000, "ceil": True}, {"kernel": (9, 2), "stride": (7, 2), "padding": 1, "ceil": True}):
    SAMPLES += sampled("avg_pool", f"beyond x {_how}", _average(_how)[0], [(2, 3, 6, 7)], _average(_how)[1], ("f32",))
_how = {"kernel": (2000, 2), "stride": (1999, 2), "padding": 0, "ceil": True}
SAMPLES += sampled("max_pool", "beyond x", _max(_how, False)[0], [(2, 3, 6, 7)], _max(_how, False)[1], ulps=0)
SAMPLES += sampled("avg_pool", "inf and nan", _average({"kernel": 2})[0], [special((1, 2, 6), n1=INF, n5=NAN, n9=-INF)],
                   _average({"kernel": 2})[1], ("f32",))  # fmt: skip

for _x, _size in product(_SHAPES, (1, 2, 3, 5, 7, 9)):
    _rank = len(_x) - 2
    _id = f"{list(_x)} to {_size}"
    _array = special(_x, n5=INF, n9=NAN, n30=-INF)
    for _op, _build, _function in (
        ("adaptive_avg_pool", td.adaptive_avg_pool, getattr(F, f"adaptive_avg_pool{_rank}d")),
        ("adaptive_max_pool", td.adaptive_max_pool, getattr(F, f"adaptive_max_pool{_rank}d")),
    ):
        SAMPLES += sampled(_op, _id, lambda x, of=_build, size=_size: of(x, size=size), [_array],
                           lambda x, of=_function, size=_size: of(x, size), ("f32",))  # fmt: skip
for _size in ((3, None), (None, 1), (4, 5)):
    SAMPLES += sampled("adaptive_avg_pool", f"{_size}", lambda x, s=_size: td.adaptive_avg_pool(x, size=s),
                       [(2, 3, 6, 7)], lambda x, s=_size: F.adaptive_avg_pool2d(x, s))  # fmt: skip
    SAMPLES += sampled("adaptive_max_pool", f"{_size}", lambda x, s=_size: td.adaptive_max_pool(x, size=s),
                       [(2, 3, 6, 7)], lambda x, s=_size: F.adaptive_max_pool2d(x, s), ulps=0)  # fmt: skip
    SAMPLES += sampled("adaptive_max_pool_with_indices", f"{_size}",
                       lambda x, s=_size: td.adaptive_max_pool_with_indices(x, size=s), [(2, 3, 6, 7)],
                       lambda x, s=_size: F.adaptive_max_pool2d(x, s, return_indices=True), ulps=0)  # fmt: skip

for _lead, (_channels, _x) in product(LEADS, (((3,), (7,)), ((2,), (6, 7)), ((), (6, 7)), ((1,), (5, 6, 4)))):
    _shape, _id = (*_lead, *_channels, *_x), f"{len(_lead)} leading {[*_channels, *_x]}"
    _how = {"kernel": (3,) * len(_x), "stride": (2,) * len(_x), "padding": (1,) * len(_x), "ceil": True}

    def _of(function: Any, shape: tuple[int, ...] = _shape, rank: int = len(_x)) -> Any:
        def over(x: torch.Tensor) -> Any:
            out = function(x.reshape(-1, 1, *shape[-rank:]))
            parts = [t.reshape(*shape[:-rank], *t.shape[2:]) for t in (out if isinstance(out, tuple) else (out,))]
            return tuple(parts) if isinstance(out, tuple) else parts[0]

        return over

    for _op, _indices in (("max_pool", False), ("max_pool_with_indices", True)):
        _array = special(_shape, n5=NAN, n9=INF, n20=-INF)
        SAMPLES.append(Sample(_op, _id, _max(_how, _indices)[0], (_array,), by_torch(_of(_max(_how, _indices)[1]))))
    # on the CPU torch averages no half precision in 3d
    SAMPLES += sampled("avg_pool", _id, _average(_how)[0], [_shape], _of(_average(_how)[1]),
                       ("f64", "f32") if len(_x) == 3 else FLOATS)  # fmt: skip
    for _size in (3, 4):
        _sizes = (_size, None, 2)[: len(_x)]
        for _op, _indices in (("avg", {}), ("max", {}), ("max", {"return_indices": True})):
            _name = f"adaptive_{_op}_pool{'_with_indices' if _indices else ''}"
            _function = getattr(F, f"adaptive_{_op}_pool{len(_x)}d")
            SAMPLES += sampled(_name, f"{_id} to {_sizes}", lambda x, o=_name, s=_sizes: getattr(td, o)(x, size=s),
                               [_shape], _of(lambda x, f=_function, s=_sizes, i=_indices: f(x, s, **i)),
                               ("f32",))  # fmt: skip
