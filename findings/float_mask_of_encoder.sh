#!/bin/sh
# torch 2.13.0 (CPU): the fast path of nn.TransformerEncoderLayer takes a mask of floats for one of booleans.
#
# A mask of floats is added to the scores of attention (a bias by distance, as ALiBi has it). In eval mode, while
# nothing needs a gradient, the layer takes a fused kernel, which turns the mask into booleans first: every entry that
# is not 0 then forbids its pair, however small it is. So one network gives other values under no_grad() than without,
# and torch.jit.trace under no_grad() keeps the wrong ones. All that is said is a warning about speed.
#
# Output seen:
#     with gradients on against no_grad()            differ by 0.76
#     no_grad() against a boolean mask (bias != 0)   differ by 0.0
#     trace under no_grad() against gradients on     differ by 0.76
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import torch
from torch import nn

torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
x = torch.randn(1, 4, 8)
place = torch.arange(4.0)
bias = -(place[:, None] - place[None, :]).abs() / 10

slow = layer(x, bias).detach()
slow_bool = layer(x, bias != 0).detach()
with torch.no_grad():
    fast = layer(x, bias)
    traced = torch.jit.trace(layer, (x, bias), check_trace=False)(x, bias)


def far(a, b):
    return round((a - b).abs().max().item(), 2)


print("with gradients on against no_grad()            differ by", far(slow, fast))
print("no_grad() against a boolean mask (bias != 0)   differ by", far(fast, slow_bool))
print("trace under no_grad() against gradients on     differ by", far(traced, slow))
if not (far(slow, fast) > 0.1 and far(fast, slow_bool) == 0 and far(traced, slow) > 0.1):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
