#!/bin/sh
# torch 2.13.0 (CPU): ExportedProgram.run_decompositions() changes what a weight-normed LayerNorm computes.
#
# weight_norm keeps one length for every entry of dimension 0. For a weight of one dimension the kernel does just that:
# every entry is divided by its own absolute value. The decomposition of _weight_norm_interface sums over the whole
# weight instead, so that all entries are divided by one length. It happens to any one-dimensional weight that is
# normalised (the scale of a norm, PReLU), with no warning.
#
# Output seen:
#     eager      [[-1.0, 0.0, 0.0, 1.0]]
#     exported   [[-1.0, 0.0, 0.0, 1.0]]
#     decomposed [[-0.183, 0.0, 0.0, 0.73]]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import torch
from torch import nn

net = nn.utils.parametrizations.weight_norm(nn.LayerNorm(4, bias=False)).eval()
with torch.no_grad():
    net.parametrizations.weight.original0.fill_(2**-0.5)  # the lengths
    net.parametrizations.weight.original1.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))  # the directions
    x = torch.tensor([[-1.0, 0.0, 0.0, 1.0]])
    program = torch.export.export(net, (x,))
    results = {
        "eager": net(x),
        "exported": program.module()(x),
        "decomposed": program.run_decompositions().module()(x),
    }
for name, y in results.items():
    print(f"{name:10}", [[round(v, 3) for v in row] for row in y.tolist()])

right = torch.allclose(results["eager"], x, atol=1e-4) and torch.allclose(results["exported"], x, atol=1e-4)
wrong = x * torch.tensor([1.0, 2.0, 3.0, 4.0]) / 30**0.5  # the length of the whole weight
if not (right and torch.allclose(results["decomposed"], wrong, atol=1e-4)):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
