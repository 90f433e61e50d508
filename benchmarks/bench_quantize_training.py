"""Training in few bits: i4 weights and i8 activations, beside the float network and quantization after training.

The tasks are those of ``bench_prune_accuracy.py``: MNIST-1D (package ``mnist1d``, made offline) and scikit-learn's
digits, each learned by a small residual network with batch norms, for each of some seeds. Every row begins with that
network; those that train go on with the same batches, the float network too (``float, trained on``). Accuracies are
those of the converted network, as integers and their scales; the last column is how far the worst seed is below the
float network that was trained on.

Needs ``pip install -r benchmarks/pruning.txt`` for MNIST-1D.

Usage: ``python benchmarks/bench_quantize_training.py [--tasks NAME,..] [--seeds N]``
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _zoo import quiet
from bench_prune_accuracy import TASKS, Task, accuracy, learn
from torch import nn

import tdagger as td
from tdagger.quantization.profile import Numbers

WEIGHT = Numbers("i4", symmetric=True, per="channel", narrow=True, observer="mse")
#: Examples whose ranges are looked at first, and the rate that training goes on with.
SEEN, RATE = 200, 5e-3


def after(module: nn.Module, task: Task, seed: int, **how: Any) -> nn.Module:
    """Quantized as it is."""
    data = task.train[0][:SEEN].split(50)
    dag = td.from_torch(module.eval(), data[0])
    return td.quantize(dag, data, "xnnpack", weight=WEIGHT, **how).to_torch()


def trained(module: nn.Module, task: Task, seed: int, learned: bool) -> nn.Module:
    data = task.train[0][:SEEN].split(50)
    dag = td.from_torch(module.eval(), data[0])
    prepared = td.prepare(dag, "xnnpack", weight=WEIGHT, train=True, learn_scales=learned).calibrate(data)
    training = prepared.to_torch()
    learn(training, task, task.epochs, RATE, seed)
    return prepared.convert().to_torch()


def in_float(module: nn.Module, task: Task, seed: int) -> nn.Module:
    module = copy.deepcopy(module)
    learn(module, task, task.epochs, RATE, seed)
    return module


METHODS: dict[str, Callable[[nn.Module, Task, int], nn.Module]] = {
    "float": lambda m, t, s: m,
    "float, trained on": in_float,
    "after training": after,
    "in training, scales that follow": lambda m, t, s: trained(m, t, s, False),
    "in training, learned scales": lambda m, t, s: trained(m, t, s, True),
}


def measure(name: str, seeds: int) -> None:
    task = TASKS[name]()
    found: dict[str, list[float]] = {m: [] for m in METHODS}
    for seed in range(seeds):
        torch.manual_seed(seed)
        module = task.network()
        learn(module, task, task.epochs, 1e-2, seed)
        for method, function in METHODS.items():
            found[method].append(accuracy(function(copy.deepcopy(module), task, seed), task))
    wanted = np.array(found["float, trained on"])
    for method, accuracies in found.items():
        cells = [f"{100 * a:.1f}" for a in accuracies]
        mean, worst = 100 * np.mean(accuracies), 100 * np.max(wanted - np.array(accuracies))
        print(f"| {name} | {method} | {' '.join(cells)} | {mean:.1f} | {worst:+.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| task | network | accuracy of each seed, % | mean | the worst below float |\n|---|---|---|---:|---:|")
    with quiet():
        for name in options.tasks.split(","):
            measure(name, options.seeds)


if __name__ == "__main__":
    main()
