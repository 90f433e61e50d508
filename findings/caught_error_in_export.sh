#!/bin/sh
# torch 2.13.0 (CPU): torch.export (non-strict) can't capture a network that catches what the call of a layer raises.
#
# try: x = layer(x, lengths=None), except TypeError: x = layer(x) is how libraries for speech call layers of which only
# some take lengths. Eager and torch.jit.trace run it. torch.export keeps the layer whose call raised on its stack of
# modules, and ends in an AssertionError of its own once the call of the module around it returns. Looking at the
# layer's signature first makes it work.
#
# Output seen:
#     eager   (4, 3)
#     trace   (4, 3)
#     export  AssertionError: Unexpected key
#     asked   (4, 3)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PROGRAM'
import inspect

import torch
from torch import nn


class Tries(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])

    def forward(self, x):
        for layer in self.layers:
            try:
                x = layer(x, lengths=None)
            except TypeError:
                x = layer(x)
        return x


class Asks(Tries):
    def forward(self, x):
        for layer in self.layers:
            takes = "lengths" in inspect.signature(layer.forward).parameters
            x = layer(x, lengths=None) if takes else layer(x)
        return x


x, seen = torch.zeros(4, 3), {}
seen["eager"] = tuple(Tries()(x).shape)
seen["trace"] = tuple(torch.jit.trace(Tries(), x)(x).shape)
try:
    seen["export"] = tuple(torch.export.export(Tries(), (x,), strict=False).module()(x).shape)
except Exception as error:
    words = str(error).splitlines()[0]
    seen["export"] = f"{type(error).__name__}: {'Unexpected key' if 'Unexpected key' in words else words}"
seen["asked"] = tuple(torch.export.export(Asks(), (x,), strict=False).module()(x).shape)
for name, found in seen.items():
    print(f"{name:7}", found)
if list(seen.values()) != [(4, 3), (4, 3), "AssertionError: Unexpected key", (4, 3)]:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
