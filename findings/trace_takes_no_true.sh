#!/bin/sh
# torch 2.13.0 (CPU): torch.jit.trace ends in an internal assertion where a network hands an op True or False as a number.
#
# `x + True`, `x.masked_fill(m, True)` and the like run in eager and through torch.export, which take True for 1. A trace
# fails on the first of them with "INTERNAL ASSERT FAILED ... please report a bug to PyTorch. We don't have an op for
# aten::add but it isn't a special case", which names neither the line nor the argument. A flag that a network multiplies
# with (`x * self.training`) is enough.
#
# Output seen:
#     add          eager [1.0, 2.0]  export [1.0, 2.0]  trace internal assertion
#     masked_fill  eager [0.0, 1.0]  export [0.0, 1.0]  trace internal assertion
#     full_like    eager [1.0, 1.0]  export [1.0, 1.0]  trace internal assertion
#     flag         eager [0.0, 0.0]  export [0.0, 0.0]  trace internal assertion
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PROGRAM'
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def traced(net, x):
    try:
        return torch.jit.trace(net, x, check_trace=False)(x).tolist()
    except RuntimeError as error:
        return "internal assertion" if "INTERNAL ASSERT FAILED" in str(error) else str(error)


forms = {
    "add": lambda net, x: x + True,
    "masked_fill": lambda net, x: x.masked_fill(x > 0, True),
    "full_like": lambda net, x: torch.full_like(x, True),
    "flag": lambda net, x: x * net.training,
}
x, seen = torch.arange(2.0), []
for name, function in forms.items():
    net = Net(function).eval()
    found = net(x).tolist(), torch.export.export(net, (x,)).module()(x).tolist(), traced(net, x)
    print(f"{name:12} eager {found[0]}  export {found[1]}  trace {found[2]}")
    seen.append(found[0] == found[1] and found[2] == "internal assertion")
if not all(seen):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
