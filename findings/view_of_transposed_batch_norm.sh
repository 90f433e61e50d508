#!/bin/sh
# torch 2.13.0 (CPU): torch.compile and run_decompositions() give other numbers where a view of what a batch norm makes
# of a transposed tensor is written to, with no warning.
#
# The CPU's kernel gives a contiguous result for an input that is neither contiguous nor channels last; torch's tensors
# without data take the strides of the input. So flatten(), which is a view in eager, counts as a copy when writes are
# turned into values, and what is written to the result afterwards doesn't reach it. torch.export alone runs the calls as
# they are, and is right. The same is so of logical_and, div by a number in a tensor, nll_loss and others.
#
# Output seen (how many entries of the flattened tensor are -1):
#     strides            eager (6, 2, 1)  without data (1, 5, 15)
#     eager              20 of 30
#     export             20 of 30
#     run_decompositions 0 of 30
#     compile            0 of 30
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PROGRAM'
import torch
from torch import nn
from torch._subclasses import FakeTensorMode


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        y = self.norm(x.transpose(0, -1))
        flat = y.flatten(0, 1)
        y[:, 1:] = -1
        return flat


torch.manual_seed(0)
network, x = Network().eval(), torch.randn(2, 3, 5)
turned = x.transpose(0, -1)
with FakeTensorMode() as mode:
    fake = [mode.from_tensor(t) for t in (turned, torch.zeros(3), torch.ones(3))]
    without_data = nn.functional.batch_norm(*fake).stride()
eager = network.norm(turned).stride()
print("strides            eager", eager, " without data", without_data)
exported = torch.export.export(network, (x,))
ways = {
    "eager": network,
    "export": exported.module(),
    "run_decompositions": exported.run_decompositions().module(),
    "compile": torch.compile(network, backend="aot_eager"),
}
seen = {}
for name, way in ways.items():
    y = way(x)
    seen[name] = int((y == -1).sum())
    print(f"{name:18} {seen[name]} of {y.numel()}")
if (eager, without_data, *seen.values()) != ((6, 2, 1), (1, 5, 15), 20, 20, 0, 0):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
