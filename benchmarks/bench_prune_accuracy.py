"""Accuracy after pruning and fine-tuning, beside Torch-Pruning, on two tasks that are trained here from scratch.

The tasks are MNIST-1D (package ``mnist1d``, made offline) and scikit-learn's digits, each learned by a small residual
network with batch norms. For each of some seeds the network is trained once; every method prunes that same network to
70, 50 and 30 % of its FLOPs (counted by tdagger for all, so that budgets are one) and what is left is trained on for
the same number of steps with the same batches. A method is a row of ``METHODS``: a function of a trained network and
the part of FLOPs that stays, which gives a smaller module.

"Folded" is ``constants="fold"``. Taylor's gradients are those of the same 6 training batches for both. Torch-Pruning is
asked for a ratio, not for FLOPs: the ratio is found by bisection, and tdagger is asked for the FLOPs that it came to,
where it is installed, so that what is compared has one budget. Learned masks begin with Taylor's importances and
train gates and weights together for the first half of the epochs that others train on for. Needs ``pip install -r
benchmarks/pruning.txt``; what isn't installed is named and left out.

Usage: ``python benchmarks/bench_prune_accuracy.py [--tasks NAME,..] [--methods NAME;..] [--seeds N,..] [--plot FILE]``
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _zoo import quiet
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import tdagger as td
from tdagger.frameworks.torch.prune.masks import Schedule
from tdagger.prune.importance import taylor

#: The parts of FLOPs that stay.
LEFT = (0.7, 0.5, 0.3)
BATCH = 200
#: Batches whose gradients Taylor's importances are made of.
GRADIENTS = 6


# --- what is learned ---------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, conv: Any, norm: Any, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(width, inner, 3, padding=1, bias=False), norm(inner)
        self.conv2, self.bn2 = conv(inner, width, 3, padding=1, bias=False), norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Residual(nn.Module):
    """A stem, two stages of two blocks with a stride between, the mean over places, a linear layer."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.stem, self.bn = conv(1, width, 3, padding=1, bias=False), norm(width)
        self.stage1 = nn.Sequential(*[Block(conv, norm, width, width) for _ in range(2)])
        self.down, self.bn_down = conv(width, 2 * width, 3, stride=2, padding=1, bias=False), norm(2 * width)
        self.stage2 = nn.Sequential(*[Block(conv, norm, 2 * width, 2 * width) for _ in range(2)])
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage1(torch.relu(self.bn(self.stem(x))))
        x = self.stage2(torch.relu(self.bn_down(self.down(x))))
        return self.head(x.flatten(2).mean(2))


class Task(NamedTuple):
    """Data, standardised, the network that learns them, and how many epochs it is trained and trained on."""

    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    network: Callable[[], nn.Module]
    epochs: int
    more: int


def mnist1d() -> Task:
    from mnist1d.data import get_dataset_args, make_dataset

    data = make_dataset(get_dataset_args())
    return _task("mnist1d", data["x"][:, None], data["y"], data["x_test"][:, None], data["y_test"], 1, 10, (15, 5))


def digits() -> Task:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = images.reshape(-1, 1, 8, 8)[order], labels[order]
    return _task("digits", x[:1200], y[:1200], x[1200:], y[1200:], 2, 6, (40, 12))


def _task(name: str, x: Any, y: Any, x_test: Any, y_test: Any, dims: int, width: int, epochs: tuple[int, int]) -> Task:
    mean, deviation = x.mean(), x.std()
    train, test = (
        (torch.tensor((a - mean) / deviation, dtype=torch.float32), torch.tensor(b))
        for a, b in ((x, y), (x_test, y_test))
    )
    return Task(name, train, test, lambda: Residual(dims, width), *epochs)


TASKS: dict[str, Callable[[], Task]] = {"mnist1d": mnist1d, "digits": digits}


def batches(task: Task, epochs: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x, y = task.train
    for _ in range(epochs):
        for places in torch.randperm(len(x), generator=generator).split(BATCH):
            yield x[places], y[places]


def learn(module: nn.Module, task: Task, epochs: int, rate: float, seed: int) -> None:
    """Train in place: AdamW, a rate that falls to nothing as a cosine does."""
    steps = epochs * -(-len(task.train[0]) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    with torch.enable_grad():
        for x, y in batches(task, epochs, seed):
            optimizer.zero_grad()
            cross_entropy(module(x), y).backward()
            optimizer.step()
            schedule.step()


def accuracy(module: nn.Module, task: Task) -> float:
    x, y = task.test
    return float((module.eval()(x).argmax(1) == y).float().mean())


def flops(module: nn.Module, task: Task) -> int:
    return td.from_torch(module.eval(), task.test[0][:1]).graph.total_flops()


# --- methods -----------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A trained network, its task, and the gradients of some batches by the name of the parameter."""

    module: nn.Module
    task: Task
    gradients: list[dict[str, torch.Tensor]]


def gradients(module: nn.Module, task: Task, seed: int) -> list[dict[str, torch.Tensor]]:
    module = copy.deepcopy(module).eval()
    found: list[dict[str, torch.Tensor]] = []
    with torch.enable_grad():
        for _, (x, y) in zip(range(GRADIENTS), batches(task, 2, seed), strict=False):
            module.zero_grad()
            cross_entropy(module(x), y).backward()
            found.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
    return found


def by_tdagger(
    importance: Callable[[Trained], Any], trained: Trained, left: float, constants: str = "zero"
) -> nn.Module:
    """Planned for inference, whose FLOPs count; applied as it is imported for training, whose batch norms learn.

    A copy: weights of which nothing went would be those of the trained network, which others prune after this.
    """
    plan = td.from_torch(trained.module.eval(), trained.task.test[0][:1]).prune_plan(
        flops=left, importance=importance(trained)
    )
    dag = td.from_torch(trained.module.train(), trained.task.train[0][:2])
    return dag.prune(entries=plan.units, constants=constants).to_torch(copy=True)


def of_loss(trained: Trained) -> Any:
    """Taylor's importance of the gradients."""
    return taylor([{n: g.numpy() for n, g in one.items()} for one in trained.gradients])


def by_torch_pruning(importance: str, trained: Trained, left: float) -> nn.Module:
    """Torch-Pruning with its group importances, compared over all layers; the ratio that comes nearest."""
    import torch_pruning as tp

    whole, best = _contractions(trained.module, trained.task), (np.inf, trained.module)
    low, high = 0.0, 1.0
    for _ in range(8):
        ratio = (low + high) / 2
        module = copy.deepcopy(trained.module).eval()
        for name, parameter in module.named_parameters():
            parameter.grad = torch.stack([g[name] for g in trained.gradients]).sum(0)
        with torch.enable_grad():
            tp.pruner.BasePruner(
                module, trained.task.train[0][:1], importance=getattr(tp.importance, importance)(),
                pruning_ratio=ratio, global_pruning=True, ignored_layers=[module.head],
            ).step()  # fmt: skip
        off = _contractions(module, trained.task) / whole - left
        low, high = (ratio, high) if off > 0 else (low, ratio)
        best = min(best, (abs(off), module), key=lambda b: b[0])
    return best[1]


def _contractions(module: nn.Module, task: Task) -> int:
    """FLOPs of convolutions and products, counted in a run, which is quicker than an import."""
    with FlopCounterMode(display=False) as counter:
        module.eval()(task.test[0][:1])
    return counter.get_total_flops()


def by_learned_masks(trained: Trained, left: float) -> nn.Module:
    """Gates trained with the weights for half of the epochs that others train on for."""
    task, epochs = trained.task, trained.task.more // 2
    dag = td.from_torch(trained.module.train(), task.train[0][:2])
    steps = epochs * -(-len(task.train[0]) // BATCH)
    learned = dag.learned_masks(seed=0, schedule=Schedule(steps), importance=of_loss(trained))
    gates = [learned.logits]
    weights = [p for p in learned.parameters() if p is not learned.logits]
    optimizer = torch.optim.AdamW([{"params": weights, "lr": 3e-3}, {"params": gates, "lr": 0.1, "weight_decay": 0}])
    learned.train()
    with torch.enable_grad():
        for x, y in batches(task, epochs, 3000):
            optimizer.zero_grad()
            (cross_entropy(learned(x), y) + 2 * learned.penalty(flops=left)).backward()
            optimizer.step()
            learned.advance()
    whole, asked, module = flops(trained.module, task), left, trained.module
    for _ in range(3):  # what the plan counts has the statistics of training in it, the budget hasn't
        module = learned.plan(flops=asked).apply().to_torch(copy=True)
        met = flops(module, task) / whole
        asked *= left / met
    return module


class Method(NamedTuple):
    """What prunes, the package it needs, the part of training on that it uses up, and whose FLOPs it is asked for."""

    prune: Callable[[Trained, float], nn.Module]
    package: str = "tdagger"
    uses: float = 0
    beside: str = ""


#: What is compared, whoever sets a budget before those beside it; one more method is one more row.
METHODS = {
    "Torch-Pruning l2": Method(partial(by_torch_pruning, "GroupMagnitudeImportance"), "torch_pruning"),
    "tdagger l2": Method(partial(by_tdagger, lambda _: "l2"), beside="Torch-Pruning l2"),
    "tdagger l2, folded": Method(partial(by_tdagger, lambda _: "l2", constants="fold"), beside="Torch-Pruning l2"),
    "Torch-Pruning Taylor": Method(partial(by_torch_pruning, "GroupTaylorImportance"), "torch_pruning"),
    "tdagger Taylor": Method(partial(by_tdagger, of_loss), beside="Torch-Pruning Taylor"),
    "tdagger Taylor, folded": Method(partial(by_tdagger, of_loss, constants="fold"), beside="Torch-Pruning Taylor"),
    "tdagger learned": Method(by_learned_masks, uses=0.5, beside="Torch-Pruning Taylor"),
}


# --- measured ----------------------------------------------------------------------------------------------


def measure(task: Task, methods: list[str], seed: int, known: dict[str, Any]) -> None:
    """Accuracies of one seed, by method and part of FLOPs, and the part that was met: those that aren't ``known``."""
    if set(methods) <= set(known):
        return
    torch.manual_seed(seed)
    module = task.network()
    learn(module, task, task.epochs, 1e-2, seed)
    known["whole"] = accuracy(module, task)
    trained = Trained(module, task, gradients(module, task, 1000 + seed))
    whole = flops(module, task)
    for method in [m for m in methods if m not in known]:
        found: dict[str, Any] = {}
        for left in LEFT:
            small = METHODS[method].prune(trained, _budget(method, left, known))
            met = flops(small, task) / whole
            before = accuracy(small, task)
            more = task.more - int(METHODS[method].uses * task.more)
            learn(small, task, more, 3e-3, 2000 + seed)
            found[str(left)] = {"flops": met, "before": before, "after": accuracy(small, task)}
            print(f"{task.name} seed {seed} {method} {left}: {found[str(left)]}", file=sys.stderr, flush=True)
        known[method] = found


def _budget(method: str, left: float, known: dict[str, Any]) -> float:
    """The part of FLOPs that a method is asked for: what the one beside it came to, where that was measured."""
    peer = known.get(METHODS[method].beside)
    return peer[str(left)]["flops"] if peer else left


def table(task: str, found: dict[str, Any], methods: list[str]) -> None:
    """Mean accuracy and deviation over seeds after training on, and before, for each budget."""
    print(
        f"\n{task}: accuracy of the whole network {_mean([s['whole'] for s in found.values()])}, {len(found)} seeds\n"
    )
    heads = [f"-{1 - p:.0%} FLOPs, trained on | at once | FLOPs met" for p in LEFT]
    print(f"| method | {' | '.join(heads)} |\n|---|{'---:|---:|---:|' * len(LEFT)}")
    for method in methods:
        cells: list[str] = []
        for left in LEFT:
            rows = [seed[method][str(left)] for seed in found.values() if method in seed]
            cells += [_mean([r["after"] for r in rows]), _mean([r["before"] for r in rows])]
            cells.append("{:.1%} to {:.1%}".format(*[f([r["flops"] for r in rows]) for f in (min, max)]))
        print(f"| {method} | {' | '.join(cells)} |")


def _mean(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def plot(results: dict[str, Any], methods: list[str], path: str) -> None:
    """Accuracy after training on against the FLOPs that are left, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(5.5 * len(results), 4.2), squeeze=False)
    for panel, (task, found) in zip(panels[0], results.items(), strict=True):
        panel.axhline(
            100 * np.mean([seed["whole"] for seed in found.values()]), color="0.6", linestyle=":", label="whole network"
        )
        for method in methods:
            rows = [[seed[method][str(p)] for seed in found.values() if method in seed] for p in LEFT]
            x = [100 * np.mean([r["flops"] for r in row]) for row in rows]
            y = [[100 * r["after"] for r in row] for row in rows]
            peer = not method.startswith("tdagger")
            marker, line = ("s", "--") if peer else ("^", ":") if "folded" in method else ("o", "-")
            colour = {"l2": "tab:blue", "Taylor": "tab:orange", "learned": "tab:green"}.get(
                method.split()[1].strip(",")
            )
            panel.errorbar(
                x, np.mean(y, 1), np.std(y, 1), label=method, color=colour, capsize=3, marker=marker, linestyle=line,
                linewidth=1.5,
            )  # fmt: skip
        panel.set(title=task, xlabel="FLOPs left, %", ylabel="accuracy after training on, %")
        panel.invert_xaxis()
        panel.grid(alpha=0.3)
    panels[0][-1].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="names with commas; all by default")
    parser.add_argument("--methods", default=";".join(METHODS), help="names with semicolons; all by default")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="numbers with commas")
    parser.add_argument("--plot", help="a file for the plot (matplotlib)")
    parser.add_argument("--json", help="a file for all that is measured, and what was measured before")
    options = parser.parse_args()
    wanted = options.methods.split(";")
    missing = {METHODS[m].package for m in wanted if importlib.util.find_spec(METHODS[m].package) is None}
    methods = [m for m in METHODS if m in wanted and METHODS[m].package not in missing]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}")
    kept = Path(options.json) if options.json else None
    results: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    with quiet():
        for name in options.tasks.split(","):
            task = TASKS[name]()
            for seed in options.seeds.split(","):
                measure(task, methods, int(seed), results.setdefault(name, {}).setdefault(seed, {}))
                if kept:
                    kept.write_text(json.dumps(results, indent=1))
    for name, found in results.items():
        table(name, found, methods)
    if options.plot:
        plot(results, methods, options.plot)


if __name__ == "__main__":
    main()
