#!/bin/sh
# torch 2.13.0 (CPU): torch.export and torch.compile end in a SyntaxError of their own where a function of a loop in a
# loop sees a value of each, and both are called alike in Python. Values are named by the local variable that they are
# assigned to, and of a branch's captured values two get one name. With another name in the inner loop it works.
#
# Output seen:
#     x1 and x1: InternalTorchDynamoError SyntaxError: duplicate argument 'x1_true_branch' in function definition
#     x1 and x2: 0 off
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import torch
from torch._higher_order_ops.while_loop import while_loop


class Loops(torch.nn.Module):
    def __init__(self, alike):
        super().__init__()
        self.alike = alike

    def forward(self, x, n):
        def turn(k, s):
            x1 = x.index_select(0, k.reshape(1)).squeeze(0)
            outer = x1

            def inner_turn(j, t):
                if self.alike:
                    x1 = x.index_select(0, j.reshape(1)).squeeze(0)
                    inner = x1
                else:
                    x2 = x.index_select(0, j.reshape(1)).squeeze(0)
                    inner = x2
                return j + 1, torch.cond(inner > 0, lambda: t + inner * outer, lambda: t.clone(), ())

            zero = torch.zeros((), dtype=torch.int64)
            return k + 1, while_loop(lambda j, t: j < 2, inner_turn, (zero, s.clone()))[1]

        zero = torch.zeros((), dtype=torch.int64)
        return while_loop(lambda k, s: k < n, turn, (zero, x.new_zeros(())))[1]


args = (torch.tensor([1.0, -2.0, 3.0, 0.5]), torch.tensor(3))
seen = []
for told, alike in (("x1 and x1", True), ("x1 and x2", False)):
    network = Loops(alike)
    try:
        exported = torch.export.export(network, args, strict=False).module()
    except Exception as e:
        print(f"{told}: {type(e).__name__} {str(e).splitlines()[0][:72]}")
        seen.append("duplicate argument" in str(e))
    else:
        off = float((exported(*args) - network(*args)).abs())
        print(f"{told}: {off:g} off")
        seen.append(off)
assert seen == [True, 0.0], seen
PROGRAM
