"""FLOP counters: each as its documentation calls it, with the settings that count contractions best.

A counter is ``count(module, args, kwargs) -> Counted``. One that gives multiply-adds is taken times 2, one that tells
ops apart for those that are contractions alone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn


class Counted(NamedTuple):
    """Flops of contractions, the number the counter prints (times 2 if multiply-adds), what it says is left out."""

    flops: int
    headline: int
    missed: tuple[str, ...] = ()


class Counter(NamedTuple):
    """``package`` is what must be importable, ``unit`` what it counts in, ``reading`` how it is called.

    ``more`` are modules that it loads when called.
    """

    package: str
    unit: str
    reading: str
    count: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Counted]
    more: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """What to import before its time is taken."""
        return (self.package, *self.more)


class Positional(nn.Module):
    """A module called with all its arguments by position, giving a tuple of tensors: what tracers take."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, tuple(names)

    def forward(self, *tensors: Any) -> tuple[torch.Tensor, ...]:
        at = len(tensors) - len(self.names)
        return tuple(_tensors(self.module(*tensors[:at], **dict(zip(self.names, tensors[at:], strict=True)))))


class Named(nn.Module):
    """A module called with all its arguments by name: what ptflops takes if there are several."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.module, self.count = module, count

    def forward(self, **named: Any) -> Any:
        args = [named.pop(f"_{i}") for i in range(self.count)]
        return self.module(*args, **named)


def _tensors(x: Any) -> Iterable[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, dict):
        for value in x.values():
            yield from _tensors(value)
    elif isinstance(x, tuple | list):
        for value in x:
            yield from _tensors(value)


def _positional(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[nn.Module, tuple[Any, ...]]:
    return Positional(module, tuple(kwargs)).eval(), (*args, *kwargs.values())


# --- the counters ------------------------------------------------------------------------------------------


def _tdagger(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    import tdagger as td

    cost = td.from_torch(module, args, kwargs, external=True).cost()
    return Counted(cost.contraction_flops, cost.contraction_flops, tuple(cost.partial))


def _torch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(*args, **kwargs)
    total = counter.get_total_flops()
    return Counted(total, total)


def _torch_math(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        return _torch(module, args, kwargs)


_FVCORE = {"addmm", "bmm", "conv", "einsum", "matmul", "mm", "linear"}


def _fvcore(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    from fvcore.nn import FlopCountAnalysis

    found = FlopCountAnalysis(*_positional(module, args, kwargs))
    found.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    contractions = sum(n for op, n in found.by_operator().items() if op in _FVCORE)
    left_out = tuple(f"{op} x {n}" for op, n in found.unsupported_ops().items() if op in _CONTRACTIONS)
    return Counted(int(2 * contractions), int(2 * found.total()), left_out)


_CONTRACTIONS = {f"aten::{name}" for name in (
    "scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "lstm_cell", "gru_cell", "rnn_tanh_cell", "einsum",
    "addmm", "addmv", "bmm", "baddbmm", "addbmm", "linear", "matmul", "mm", "mv", "dot", "vdot", "inner", "tensordot",
    "bilinear", "_convolution", "convolution", "conv_tbc", "cdist", "multi_dot", "linalg_multi_dot", "_grouped_mm",
    "_int_mm", "_scaled_mm", "_weight_int8pack_mm", "_native_multi_head_attention", "_transformer_encoder_layer_fwd",
    "_convolution_mode", "_scaled_dot_product_flash_attention_for_cpu", "linalg_vecdot",
    "matrix_power", "linalg_matrix_power", "cosine_similarity",
)}  # fmt: skip


def _torchprofile(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    from torchprofile import profile_macs

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = profile_macs(*_positional(module, args, kwargs), reduction=None)
    assert isinstance(found, dict)
    contractions = sum(n for node, n in found.items() if node.operator in _CONTRACTIONS)
    said = [str(w.message).partition('"')[2].partition('"')[0] for w in caught if "No handlers" in str(w.message)]
    return Counted(
        2 * contractions, 2 * sum(found.values()), tuple(dict.fromkeys(s for s in said if s in _CONTRACTIONS))
    )


def _ptflops(backend: str) -> Callable[..., Counted]:
    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
        from ptflops import get_model_complexity_info

        if len(args) == 1 and not kwargs:
            target, given = module, args[0]
        else:
            target = Named(module, len(args)).eval()
            given = {**{f"_{i}": a for i, a in enumerate(args)}, **kwargs}
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            macs, _ = get_model_complexity_info(
                target, (1,), print_per_layer_stat=False, as_strings=False, backend=backend,
                input_constructor=lambda _: given,
            )  # fmt: skip
        if macs is None:
            raise RuntimeError(said.getvalue().strip().splitlines()[-1])
        return Counted(2 * int(macs), 2 * int(macs))

    return count


def _calflops(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    from calflops import calculate_flops

    flops, macs, _ = calculate_flops(
        module, args=list(args), kwargs=dict(kwargs), print_results=False, output_as_string=False
    )
    return Counted(2 * int(macs), int(flops))


def _deepspeed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    from deepspeed.profiling.flops_profiler import get_model_profile

    flops, macs, _ = get_model_profile(
        module, args=list(args), kwargs=kwargs, print_profile=False, as_string=False, warm_up=0
    )
    return Counted(2 * int(macs), int(flops))


def _torchinfo(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    import torchinfo

    # What isn't by position goes by name; a list is taken for several arguments.
    total = torchinfo.summary(module, input_data=list(args) or kwargs, verbose=0).total_mult_adds
    return Counted(2 * int(total), 2 * int(total))


def _thop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Counted:
    """Norms, activations and pools are told apart by hooks that count nothing for them."""
    from thop.profile import register_hooks, zero_ops

    def macs(custom: dict[Any, Any]) -> int:
        profile: Any = importlib.import_module("thop").profile
        return int(profile(*_positional(module, args, kwargs), custom_ops=custom, verbose=False)[0])

    kept = ("Conv", "Linear", "RNN", "GRU", "LSTM")
    others = {kind: zero_ops for kind in register_hooks if not kind.__name__.startswith(kept)}
    return Counted(2 * macs(others), 2 * macs({}))


#: In the order of the tables.
COUNTERS: dict[str, Counter] = {
    "tdagger": Counter(
        "tdagger",
        "flops",
        "`td.from_torch(...).cost().contraction_flops`",
        _tdagger,
        ("tdagger.frameworks.torch.importer", "torch._dynamo", "torch.export._trace", "torch._export"),
    ),
    "torch": Counter("torch", "flops", "`FlopCounterMode`", _torch),
    "torch, math": Counter(
        "torch", "flops", "the same, attention's and `nn.MultiheadAttention`'s fast paths off", _torch_math
    ),
    "deepspeed": Counter(
        "deepspeed", "macs", "`get_model_profile`, its macs", _deepspeed, ("deepspeed.profiling.flops_profiler",)
    ),
    "calflops": Counter("calflops", "macs", "`calculate_flops`, its macs", _calflops),
    "fvcore": Counter(
        "fvcore", "macs", "`FlopCountAnalysis.by_operator()`, contractions alone", _fvcore, ("fvcore.nn",)
    ),
    "torchprofile": Counter(
        "torchprofile", "macs", "`profile_macs(reduction=None)`, contractions alone", _torchprofile
    ),
    "ptflops": Counter("ptflops", "macs", "`get_model_complexity_info(backend='pytorch')`", _ptflops("pytorch")),
    "ptflops, aten": Counter("ptflops", "macs", "the same, `backend='aten'`", _ptflops("aten")),
    "thop": Counter("thop", "macs", "`profile`, norms, activations and pools set to zero", _thop, ("thop.profile",)),
    "torchinfo": Counter("torchinfo", "macs", "`summary().total_mult_adds`", _torchinfo),
}
