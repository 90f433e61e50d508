#!/bin/sh
# torch 2.13.0 (CPU): a function traced by torch.jit.trace uses one constant for 0.0 and -0.0.
#
# The traced graph lists both constants, but when it runs, equal constants are merged, and 0.0 == -0.0. Whatever looks at
# the sign of a zero (copysign, a division, atan2) then gives the other's result. With check_trace=True, the default, the
# check that runs the trace once says that an output differs; a trace that was saved and loaded says nothing.
#
# Output seen:
#     eager   [1.0] [-1.0]
#     traced  [1.0] [1.0]
#     loaded  [1.0] [1.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import io

import torch


def signs(x):
    return torch.copysign(x, 0.0), torch.copysign(x, -0.0)


x = torch.ones(1)
traced = torch.jit.trace(signs, (x,), check_trace=False)
file = io.BytesIO()
torch.jit.save(traced, file)
file.seek(0)
loaded = torch.jit.load(file)
eager, ours, again = ([y.tolist() for y in f(x)] for f in (signs, traced, loaded))
print("eager  ", *eager)
print("traced ", *ours)
print("loaded ", *again)
if not (eager == [[1.0], [-1.0]] and ours == [[1.0], [1.0]] and again == [[1.0], [1.0]]):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
