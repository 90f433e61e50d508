#!/bin/sh
# torch 2.13.0 (CPU): TorchScript loses what is written through torch.atleast_3d, or an einsum of one operand.
#
# Both give a view of a matrix, as .T does, and eager and torch.export write through them to the matrix. A traced and a
# scripted module don't: what atleast_3d and einsum give counts as new memory there, so that the write has no effect
# that anything sees, and goes. The outputs differ without a word unless the trace is checked (check_trace).
#
# Output seen (the sum of 2 x 3 zeros, to a view of which 1 is added):
#     T           eager 6.0  export 6.0  trace 6.0  script 6.0
#     atleast_3d  eager 6.0  export 6.0  trace 0.0  script 0.0
#     einsum      eager 6.0  export 6.0  trace 0.0  script 0.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PROGRAM'
import torch
from torch import nn


class T(nn.Module):
    def forward(self, x):
        y = x * 2
        y.T.add_(1)
        return y


class Atleast3d(nn.Module):
    def forward(self, x):
        y = x * 2
        torch.atleast_3d(y).add_(1)
        return y


class Einsum(nn.Module):
    def forward(self, x):
        y = x * 2
        torch.einsum("ij->ji", y).add_(1)
        return y


x, seen = torch.zeros(2, 3), {}
for name, kind in ("T", T), ("atleast_3d", Atleast3d), ("einsum", Einsum):
    ways = {
        "eager": kind(),
        "export": torch.export.export(kind(), (x,)).module(),
        "trace": torch.jit.trace(kind(), x, check_trace=False),
        "script": torch.jit.script(kind()),
    }
    seen[name] = [way(x).sum().item() for way in ways.values()]
    print(f"{name:10}", *(f" {k} {v}" for k, v in zip(ways, seen[name], strict=True)))
if seen != {"T": [6.0] * 4, "atleast_3d": [6.0, 6.0, 0.0, 0.0], "einsum": [6.0, 6.0, 0.0, 0.0]}:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
