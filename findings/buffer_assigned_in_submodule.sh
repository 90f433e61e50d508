#!/bin/sh
# torch 2.13.0 (CPU): torch.export loses a buffer that a submodule assigns, and keeps one that the root assigns.
#
# self.count = self.count + 1 in forward, where count is a registered buffer. When the module itself is exported, the
# exported module counts on. When it stands inside another module, the exported one computes the new value but never
# keeps it: the count stays at its first value, with no warning. self.count.add_(1) is kept in both.
#
# Output seen:
#     eager, alone      [1.0, 2.0, 3.0]
#     exported, alone   [1.0, 2.0, 3.0]
#     eager, inside     [1.0, 2.0, 3.0]
#     exported, inside  [1.0, 1.0, 1.0]
#     warnings          []
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import warnings

import torch
from torch import nn


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return x * self.count


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Counter()

    def forward(self, x):
        return self.inner(x)


x, seen, said = torch.ones(()), {}, []
for name, kind in ("alone", Counter), ("inside", Outer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exported = torch.export.export(kind(), (x,)).module()
    said += [str(w.message) for w in caught if "count" in str(w.message) or "buffer" in str(w.message)]
    net = kind()
    seen[f"eager, {name}"] = [net(x).item() for _ in range(3)]
    seen[f"exported, {name}"] = [exported(x).item() for _ in range(3)]
for name, counts in seen.items():
    print(f"{name:17}", counts)
print(f"{'warnings':17}", said)
if not (list(seen.values()) == [[1.0, 2.0, 3.0]] * 3 + [[1.0, 1.0, 1.0]] and not said):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
