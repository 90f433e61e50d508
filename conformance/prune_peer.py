"""The same networks pruned by Torch-Pruning, for the sweep of :mod:`conformance.prune`.

It is called as the example for timm in its repository calls it: group norms, 30 % of the channels of every layer, the
classifier ignored, and the number of heads given for each layer named ``qkv``. It says nothing of what was equal before
and after, so what is left is compared here with the network that has zeros for all entries of parameters that went:
both in double precision, and once more with norms that count only what is left (:func:`norms_of_rest`).
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from conformance import timm_models
from conformance.axes import outputs, short
from conformance.check import output_error
from conformance.sweep import Row
from tests.networks import perturb

#: The part of channels that goes, and outputs that differ by no more than this of the largest are equal.
RATIO, EQUAL = 0.3, 1e-9


def work(name: str, report: Callable[..., None]) -> None:
    """What is done with one network of timm."""
    import timm

    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    timm.layers.set_fused_attn(False)
    module, (x,), _ = timm_models.build(name)
    perturb(module)
    module.eval().double()
    x = x.double()
    with torch.no_grad():
        for p in module.parameters():  # so that every number is told from every other
            p.add_(torch.randn_like(p), alpha=1e-7)
    original = copy.deepcopy(module)
    before = flops(original, x)
    report(stage="prune")
    prune(module, x)
    report(stage="run")
    given = outputs(module, (x,), {})
    report(stage="compare", cut=1 - flops(module, x) / before)
    mask(original, module)
    expected = outputs(original, (x,), {})
    if [a.shape for a in expected] != [a.shape for a in given]:
        report(verdict="other outputs")
        return
    error = output_error(expected, given)
    with norms_of_rest():
        helped = output_error(outputs(original, (x,), {}), given)
    report(verdict="exact" if error <= EQUAL else "norms" if helped <= EQUAL else "unlike", off=min(error, helped))


def verdict(row: Row) -> str:
    """Of a network: what was found, or why nothing was."""
    return row.get("verdict") or row.get("status", "?")


def lines(rows: dict[str, Row], ours: dict[str, tuple[str, str]], whole: int) -> list[str]:
    """The section of the page; ``ours`` has verdict and part of FLOPs cut of the same networks, by name."""
    count = Counter(map(verdict, rows.values()))
    limited = count["timeout"] + count["memory"]
    ran = [r for r in rows.values() if r.get("verdict")]
    right = count["exact"] + count["norms"]
    also = Counter(ours[n][0] for n in rows if n in ours)
    cells = [
        (
            n,
            verdict(r),
            f"{r['cut']:.0%}" if "cut" in r else "",
            *ours.get(n, ("", "")),
            short(r.get("error", ""))[:120],
        )
        for n, r in rows.items()
    ]
    return [
        "",
        "## timm, by Torch-Pruning 1.6.1",
        "",
        f"{RATIO:.0%} of the channels of every layer by group norms, called as its example for timm does, on the same",
        "networks with images of the same size. What it gives is compared here: *exact* and *norms* are as above,",
        "*unlike* is other than the masked network in more than norms, *other outputs* have another shape. *timeout*",
        "and *memory* are limits of this sweep, and say nothing of the package.",
        "",
        f"- networks: {len(rows)} of {whole}, {limited} of them stopped by the sweep's limits",
        f"- Torch-Pruning: {len(ran)} of {len(rows) - limited} run after it, {right} of them right "
        f"({', '.join(f'{n} {k}' for k, n in count.most_common() if k not in ('timeout', 'memory'))})",
        f"- tdagger on these {len(rows)}, above: {', '.join(f'{n} {k}' for k, n in also.most_common())}",
        "- torch-dag 0.1.3 asks for torch 2.1 and wasn't run here; beside that torch 57 of 98 ran, 53 exact (and of",
        "  Torch-Pruning 45 ran, 43 exact)",
        "",
        "| network | Torch-Pruning | cut | tdagger | cut | what it says |",
        "|---|---|--:|---|--:|---|",
        *[f"| {' | '.join(c)} |" for c in cells],
    ]


def prune(module: nn.Module, x: Tensor) -> None:
    """30 % of all channels, in place."""
    import torch_pruning as tp

    classes = getattr(module, "num_classes", None)
    ignored = [m for m in module.modules() if classes in (getattr(m, n, 0) for n in ("out_features", "out_channels"))]
    heads = {m.qkv: m.num_heads for m in module.modules() if hasattr(m, "num_heads") and hasattr(m, "qkv")}
    with torch.enable_grad():
        tp.pruner.BasePruner(
            module, x, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=RATIO,
            num_heads=heads, ignored_layers=ignored,
        ).step()  # fmt: skip
    for m in module.modules():
        if hasattr(m, "num_heads") and hasattr(m, "qkv"):
            m.num_heads = heads[m.qkv]
            m.head_dim = m.qkv.out_features // (3 * m.num_heads)
            if hasattr(m, "attn_dim"):
                m.attn_dim = m.num_heads * m.head_dim


def flops(module: nn.Module, x: Tensor) -> int:
    """Those of convolutions and products in a run."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


def mask(original: nn.Module, pruned: nn.Module) -> None:
    """Zeros in the place of every number of a parameter that isn't in the pruned network's parameter of that name."""
    left = dict(pruned.named_parameters())
    with torch.no_grad():
        for name, p in original.named_parameters():
            rest = left[name].detach().flatten().sort().values
            places = torch.searchsorted(rest, p.detach().flatten()).clamp(max=len(rest) - 1)
            there = rest[places] == p.detach().flatten()
            if int(there.sum()) != len(rest):
                raise ValueError(f"{name} has {len(rest)} numbers left, {int(there.sum())} of them as they were")
            p.mul_(there.reshape(p.shape))


@contextlib.contextmanager
def norms_of_rest() -> Iterator[None]:
    """Layer, group and RMS norms that count only channels whose scale isn't 0."""

    def layer(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        rest = _there(weight, x)
        dims = list(range(-len(shape), 0))
        mean = (x * rest).sum(dims, keepdim=True) / rest.sum()
        variance = ((x - mean).square() * rest).sum(dims, keepdim=True) / rest.sum()
        return _scaled((x - mean) * (variance + eps).rsqrt(), weight, bias)

    def rms(x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
        rest = _there(weight, x)
        square = (x.square() * rest).sum(list(range(-len(shape), 0)), keepdim=True) / rest.sum()
        return _scaled(x * (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt(), weight, None)

    def group(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        by = (x.shape[0], groups, -1)
        rest = (torch.ones_like(x) * _over(_there(weight, x), x)).reshape(by)
        y, count = x.reshape(by), rest.sum(2, keepdim=True).clamp(min=1)
        mean = (y * rest).sum(2, keepdim=True) / count
        variance = ((y - mean).square() * rest).sum(2, keepdim=True) / count
        normed = ((y - mean) * (variance + eps).rsqrt()).reshape(x.shape)
        return _scaled(normed, *[None if w is None else _over(w, x) for w in (weight, bias)])

    def rms_2d(x: Tensor, shape: Any, weight: Any = None, eps: float = 1e-5) -> Tensor:
        return rms(x.movedim(1, -1), shape, weight, eps).movedim(-1, 1)

    def simple(x: Tensor, shape: Any, weight: Any = None, eps: float = 1e-5) -> Tensor:
        rest, dims = _there(weight, x), list(range(-len(shape), 0))
        mean = (x * rest).sum(dims, keepdim=True) / rest.sum()
        variance = ((x - mean).square() * rest).sum(dims, keepdim=True) / (rest.sum() - 1)
        return _scaled(x * (variance + eps).rsqrt(), weight, None)

    from timm.layers import norm

    own: list[tuple[Any, str, Any]] = [
        (functional, "layer_norm", layer), (functional, "rms_norm", rms), (functional, "group_norm", group),
        (norm, "rms_norm2d", rms_2d), (norm, "fast_rms_norm2d", rms_2d), (norm, "rms_norm", rms),
        (norm, "fast_rms_norm", rms), (norm, "simple_norm", simple), (norm, "fast_simple_norm", simple),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for place, name, function in own:
            stack.enter_context(mock.patch.object(place, name, function))
        yield


def _there(weight: Tensor | None, x: Tensor) -> Tensor:
    return x.new_ones(()) if weight is None else (weight != 0).to(x)


def _over(weight: Tensor, x: Tensor) -> Tensor:
    return weight.reshape([-1 if i == 1 else 1 for i in range(x.ndim)]) if weight.ndim else weight


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
