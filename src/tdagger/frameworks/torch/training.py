"""The module of a network that is quantized while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from tdagger.errors import InputError
from tdagger.frameworks.torch.exporter import to_torch
from tdagger.frameworks.torch.runtime import tensor_of, to_numpy
from tdagger.op import Array
from tdagger.quantization.training.network import RATE, RATE_NAME
from tdagger.tensordag import TensorDAG

if TYPE_CHECKING:
    from tdagger.quantization.training.prepared import Trainable


class QuantizedTraining(nn.Module):
    """What ``to_torch()`` of :class:`tdagger.quantization.training.prepared.Trainable` gives; ``network`` is generated.

    In training ranges follow the data, in eval mode they stay. Those that no data was seen of begin with the first
    batch of training.
    """

    def __init__(self, prepared: Trainable, network: TensorDAG) -> None:
        super().__init__()
        self.network = cast(nn.Module, to_torch(network, copy=True))
        self._begins: Trainable | None = None if prepared.batches or not prepared.observers else prepared
        self.register_load_state_dict_post_hook(_loaded)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives, quantized."""
        if self._begins is not None:
            self._begin(args, kwargs)
        return self.network(*args, **kwargs)

    @torch.no_grad()
    def _begin(self, args: Any, kwargs: Any) -> None:
        assert self._begins is not None
        if not self.training:
            raise InputError(
                "no data was seen that ranges could be known by: train the module first, or calibrate the prepared "
                "network before to_torch()"
            )
        held = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        for name, array in self._begins.began(args, kwargs).items():
            held[name].copy_(tensor_of(array))
        self._begins = None

    def train(self, mode: bool = True) -> QuantizedTraining:
        """As of every module; ranges follow the data in training."""
        super().train(mode)
        rate = dict(self.network.named_buffers()).get(RATE_NAME)
        if rate is not None:
            rate.fill_(RATE if mode else 0.0)
        return self


def _loaded(module: QuantizedTraining, keys: Any) -> None:
    """What was saved has ranges; the rate is that of the mode the module is in."""
    del keys
    module._begins = None
    module.train(module.training)


def state_of(module: nn.Module) -> dict[str, Array]:
    """The tensors of a module by name, as arrays of their own."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {n: to_numpy(t.detach().clone()) for n, t in held.items()}
