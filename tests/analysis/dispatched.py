"""What torch really dispatches: multiply-adds of every product in a forward or backward pass, from its shapes."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


def _matrices(x: Tensor, y: Tensor, *_: Any) -> int:
    """Of ``[.. m k] @ [.. k n]``."""
    return x.numel() * y.shape[-1]


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, _bias: Any, _stride: Any, _padding: Any, _dilation: Any,
    transposed: bool, _output_padding: Any, _groups: int, mask: list[bool],
) -> int:  # fmt: skip
    """A product for x and one for the weight, each as large as the convolution, if they are wanted."""
    places = x if transposed else grad
    return (mask[0] + mask[1]) * places.numel() * math.prod(weight.shape[1:])


def _attention_backward(_grad: Tensor, q: Tensor, k: Tensor, *_: Any) -> int:
    """The scores again, and the gradients of the weights, of q, k and v."""
    return 5 * q.numel() * k.shape[-2]


def _convolution(
    x: Tensor, weight: Tensor, _bias: Any, _stride: Any, _padding: Any, _dilation: Any,
    transposed: bool, *_: Any, out: Tensor,
) -> int:  # fmt: skip
    return (x if transposed else out).numel() * math.prod(weight.shape[1:])


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, out: Any) -> int:
    """The scores, and what they weight."""
    return math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


#: Multiply-adds of the ops with products in them. Products of vectors are left out: their gradients are no products.
PRODUCTS: dict[str, Callable[..., int]] = {
    "aten::mm": _matrices,
    "aten::bmm": _matrices,
    "aten::addmm": lambda _, x, y: _matrices(x, y),
    "aten::baddbmm": lambda _, x, y: _matrices(x, y),
    "aten::_grouped_mm": _matrices,
    "aten::mv": lambda x, _: x.numel(),
    "aten::dot": lambda x, _: x.numel(),
    "aten::convolution_backward": _convolution_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
#: The same of a forward pass, from arguments and result.
FORWARD: dict[str, Callable[..., int]] = {
    **{n: lambda *args, out, f=f: f(*args) for n, f in PRODUCTS.items() if "backward" not in n},
    "aten::vdot": lambda x, _, out: x.numel(),
    "aten::addmv": lambda _, x, y, out: x.numel(),
    "aten::addbmm": lambda _, x, y, out: _matrices(x, y),
    "aten::_int_mm": lambda x, y, out: _matrices(x, y),
    "aten::_addmm_activation": lambda _, x, y, out: _matrices(x, y),
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,  # of TorchScript
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "transformers::grouped_mm_fallback": lambda x, weight, *_, out: _matrices(x, weight),
}
#: What would hide products from this recorder.
_HIDDEN = ("mkldnn_rnn", "_trilinear", "efficient_attention", "linear_backward", "_euclidean")


class Dispatched(TorchDispatchMode):
    """Adds up, by op, the multiply-adds of all that is dispatched while it is on."""

    def __init__(self, forward: bool = False) -> None:
        super().__init__()
        self.forward = forward
        self.macs: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        assert not any(h in name for h in _HIDDEN), f"{name} has products of its own"
        result = func(*args, **(kwargs or {}))
        if self.forward and name in FORWARD:
            self.macs[name.removeprefix("aten::")] += FORWARD[name](*args, out=result)
        elif not self.forward and name in PRODUCTS:
            self.macs[name.removeprefix("aten::")] += PRODUCTS[name](*args)
        return result


def _loss(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).sum()


def backward_products(
    module: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> Counter[str]:
    """Multiply-adds by op of the backward pass of the sum of all outputs of floats."""
    # Without oneDNN recurrent networks are products that can be seen; torch warns of a setting whenever that changes.
    with warnings.catch_warnings(action="ignore", category=UserWarning), torch.backends.mkldnn.flags(enabled=False):
        outputs = pytree.tree_leaves(module(*args, **(kwargs or {})))
        losses = [_loss(t) for t in outputs if isinstance(t, Tensor) and t.requires_grad]
        with Dispatched() as recorder:
            if losses:
                sum(losses[1:], losses[0]).backward()
    return recorder.macs


def forward_products(
    module: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> Counter[str]:
    """Multiply-adds by op of a forward pass without gradients."""
    fast_attention = torch.backends.mha.get_fastpath_enabled()  # one op for a whole layer of attention
    recurrent = any(isinstance(m, nn.RNNBase) for m in module.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            flags = torch.backends.mkldnn.flags(enabled=not recurrent)
            with torch.no_grad(), flags, Dispatched(forward=True) as recorder:
                module(*args, **(kwargs or {}))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return recorder.macs
