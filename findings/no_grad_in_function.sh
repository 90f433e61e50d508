#!/bin/sh
# torch 2.13.0 (CPU): torch.no_grad() inside an autograd.Function's forward detaches all of an exported network after it.
#
# Functions run their forward without gradients anyway, so no_grad() in there does nothing in eager mode, and many have
# it (fake quantization, reentrant checkpoints). torch.export records that gradients were turned off and never that they
# come back on: a later layer stands inside "gradients off" in the exported graph. The values are right, training the
# exported module is not possible, and there is no warning.
#
# Output seen:
#     no_grad() in forward: False
#         same values True, gradients in eager True, exported True
#     no_grad() in forward: True
#         same values True, gradients in eager True, exported False
#     warnings []
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import warnings

import torch
from torch import nn


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class DoubleWithout(Double):
    @staticmethod
    def forward(ctx, x):
        with torch.no_grad():
            return 2 * x


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.before, self.after, self.function = nn.Linear(3, 3), nn.Linear(3, 3), function

    def forward(self, x):
        return self.after(self.function.apply(self.before(x)))


x, seen, said = torch.ones(2, 3), [], []
for function in Double, DoubleWithout:
    net = Net(function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exported = torch.export.export(net, (x,)).module()
    said += [str(w.message) for w in caught if "grad" in str(w.message) or "detach" in str(w.message)]
    for p in exported.parameters():
        p.requires_grad_(True)
    a, b = net(x), exported(x)
    seen.append((torch.allclose(a, b), a.requires_grad, b.requires_grad))
    print("no_grad() in forward:", function is DoubleWithout)
    print("    same values {}, gradients in eager {}, exported {}".format(*seen[-1]))
print("warnings", said)

if not (seen == [(True, True, True), (True, True, False)] and not said):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
