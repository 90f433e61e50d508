#!/bin/sh
# coremltools 9.0 (torch 2.13.0, numpy 2.3.5): 1 / x becomes 1 / (x + 0.0001), in float32 as in float16.
#
# torch.reciprocal and a division of a number by a tensor become MIL's inverse, whose epsilon is 1e-4 unless one is
# given, and none is. So 1 / 0.001 is 909, and 1 / 1e-6 is 9,901. x / y of two tensors becomes real_div, and is right.
#
# Output seen (for x = 0.001 as the operator is defined; its models run on macOS only):
#     1 / x          inverse(epsilon=0.0001)  909.1
#     reciprocal     inverse(epsilon=0.0001)  909.1
#     ones / x       real_div                 1000.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 coremltools==9.0 numpy==2.3.5
cat > "$folder/program.py" <<'PROGRAM'
import coremltools as ct
import torch
from torch import nn


class Divided(nn.Module):
    def forward(self, x):
        return 1 / x


class Reciprocal(nn.Module):
    def forward(self, x):
        return x.reciprocal()


class Ones(nn.Module):
    def forward(self, x):
        return torch.ones(2) / x


seen = []
for name, kind in (("1 / x", Divided), ("reciprocal", Reciprocal), ("ones / x", Ones)):
    model = ct.convert(
        torch.jit.trace(kind(), torch.ones(2)),
        inputs=[ct.TensorType("x", (2,))],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    kinds = {op.op_type: op for op in model._mil_program.functions["main"].operations}
    if "inverse" in kinds:
        epsilon = float(kinds["inverse"].epsilon.val)
        seen.append((name, f"inverse(epsilon={epsilon:.4f})", round(1 / (0.001 + epsilon), 1)))
    else:
        seen.append((name, "real_div" if "real_div" in kinds else str(list(kinds)), 1000.0))
    print(f"{seen[-1][0]:14} {seen[-1][1]:24} {seen[-1][2]}")
expected = [("1 / x", "inverse(epsilon=0.0001)", 909.1), ("reciprocal", "inverse(epsilon=0.0001)", 909.1)]
if seen != [*expected, ("ones / x", "real_div", 1000.0)]:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py" 2>/dev/null
