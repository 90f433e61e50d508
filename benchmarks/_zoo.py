"""What the benchmarks over networks share: the list of networks, arguments, quiet libraries, processor time."""

from __future__ import annotations

import argparse
import contextlib
import gc
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
import tests.networks

#: timm networks at their own sizes: convolutional, attention, both; what most people use and what is odd.
NETWORKS = (
    "resnet50", "vgg11", "densenet121", "inception_v3", "mobilenetv3_large_100", "efficientnet_b0", "regnety_002",
    "repvgg_a0", "ghostnet_100", "res2net50_26w_4s", "hrnet_w18_small", "convnext_tiny", "poolformer_s12",
    "vit_base_patch16_224", "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224", "mixer_b16_224", "mobilevit_s",
    "xcit_nano_12_p16_224", "levit_128s",
)  # fmt: skip


def network(name: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """A timm network in eval mode with random weights, none of them all zero, and an input."""
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():  # a head that starts at zero gives zeros, which can't be compared
                parameter.normal_(0, 0.05)
    channels, *sides = timm.data.resolve_model_data_config(module)["input_size"]
    return module, torch.randn(batch, channels, *sides)


#: The networks of tests/networks.py that are not timm's: transformers and recurrent ones, small.
OTHERS = tuple(name for name, other in tests.networks.NETWORKS.items() if not other.vision)


def any_network(name: str, batch: int) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A network of either list with its arguments; without a cache, on which torch.export alone fails."""
    if name not in OTHERS:
        module, x = network(name, batch)
        return module, (x,), {}
    module, args, kwargs = tests.networks.NETWORKS[name](batch=batch)
    takes = "use_cache" in inspect.signature(module.forward).parameters
    return module, args, {**kwargs, "use_cache": False} if takes else kwargs


def chosen(description: str | None, runs: int, networks: Sequence[str] = NETWORKS) -> tuple[list[str], int]:
    """The networks and the number of runs that the command line asks for; all of them by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="a name of timm")
    parser.add_argument("--runs", type=int, default=runs, help=f"of each network; {runs} by default")
    options = parser.parse_args()
    return options.networks or list(networks), options.runs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, no gradients, and no warnings of other libraries about each other."""
    torch.set_num_threads(1)
    for library in ("timm", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def seconds(function: Callable[..., Any], *args: Any, calls: int = 1, **kwargs: Any) -> float:
    """Processor time of one call, the mean of several; what else the machine does is not counted."""
    gc.collect()
    start = time.process_time()
    for _ in range(calls):
        function(*args, **kwargs)
    return (time.process_time() - start) / calls


def at_depth(depth: int, function: Callable[..., Any], *args: Any) -> Any:
    """The result of a call made ``depth`` frames deeper.

    CPython keeps frames in chunks, and a hot call that happens to cross from one chunk to the next allocates it anew
    each time: the same work can take 2.5 times as long at one depth as at another (seen with the thousands of small
    calls of an LSTM's export). Who compares two functions that call from different depths must vary the depth.
    """
    return function(*args) if not depth else at_depth(depth - 1, function, *args)
