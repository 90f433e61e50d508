#!/bin/sh
# torch 2.13.0 (CPU): in torch.jit.script a mask of bools combined with True or False becomes int64.
#
# `mask ^ True`, `mask & True`, `mask | False`, `mask * True` and `mask + True` stay bool in eager and through torch.export
# (True is a bool there, and bool with bool is bool). A script hands the op the number 1, so the result is int64, with no
# word. What is done with the mask next is then something else: `x[mask ^ True]` takes the entries where it is set in
# eager and, in the script, the entries 0 and 1 by their number; `~` of it is -1 or -2, which are both true.
#
# Output seen:
#     xor    eager torch.bool   export torch.bool   script torch.int64
#     and    eager torch.bool   export torch.bool   script torch.int64
#     or     eager torch.bool   export torch.bool   script torch.int64
#     times  eager torch.bool   export torch.bool   script torch.int64
#     plus   eager torch.bool   export torch.bool   script torch.int64
#     x[mask ^ True] of [10, 20, 30], mask [True, False, False]: eager [20.0, 30.0], script [10.0, 20.0, 20.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PROGRAM'
import torch
from torch import Tensor, nn


class Xor(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask ^ True


class And(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask & True


class Or(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask | False


class Times(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask * True


class Plus(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        return mask + True


class Picks(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x[mask ^ True]


mask, seen = torch.tensor([True, False, False]), []
for net in (Xor(), And(), Or(), Times(), Plus()):
    export = torch.export.export(net, (mask,)).module()(mask).dtype
    found = net(mask).dtype, export, torch.jit.script(net)(mask).dtype
    print(f"{type(net).__name__.lower():6} eager {found[0]}   export {found[1]}   script {found[2]}")
    seen.append(found == (torch.bool, torch.bool, torch.int64))
x = torch.tensor([10.0, 20.0, 30.0])
eager, script = Picks()(x, mask).tolist(), torch.jit.script(Picks())(x, mask).tolist()
print(f"x[mask ^ True] of [10, 20, 30], mask [True, False, False]: eager {eager}, script {script}")
seen.append((eager, script) == ([20.0, 30.0], [10.0, 20.0, 20.0]))
if not all(seen):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
