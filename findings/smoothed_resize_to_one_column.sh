#!/bin/sh
# torch 2.13.0 (CPU): interpolate with antialias=True to a width of one gives every row of a contiguous result the weights
# of the first row, with no error and no warning. Channels last, a height of one, and a width of two are right.
#
# Output seen (AMD EPYC):
#     4 x 3 to 2 x 1: wrong
#     4 x 3 to 2 x 1, channels last: right
#     3 x 4 to 1 x 2: right
#     4 x 4 to 2 x 2: right
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import torch
import torch.nn.functional as F

torch.manual_seed(0)


def off(h, w, memory=torch.contiguous_format):
    x = torch.randn(1, 2, h, w, dtype=torch.float64)
    by_axis = F.interpolate(x, scale_factor=(0.5, 1.0), mode="bilinear", antialias=True)
    by_axis = F.interpolate(by_axis, scale_factor=(1.0, 0.5), mode="bilinear", antialias=True)
    if by_axis.shape[-1] == 1:  # that is the case in question: row by row instead
        rows = [F.interpolate(r, scale_factor=(1.0, 0.5), mode="bilinear", antialias=True) for r in x.split(1, 2)]
        by_axis = torch.cat(rows, 2).expand(-1, -1, -1, 2)
        by_axis = F.interpolate(by_axis, scale_factor=(0.5, 1.0), mode="bilinear", antialias=True)[..., :1]
    both = F.interpolate(x.contiguous(memory_format=memory), scale_factor=0.5, mode="bilinear", antialias=True)
    return float((both - by_axis).abs().max())


found = {
    "4 x 3 to 2 x 1": off(4, 3),
    "4 x 3 to 2 x 1, channels last": off(4, 3, torch.channels_last),
    "3 x 4 to 1 x 2": off(3, 4),
    "4 x 4 to 2 x 2": off(4, 4),
}
for told, distance in found.items():
    print(f"{told}: {'wrong' if distance > 0.01 else 'right' if distance < 1e-12 else distance}")
assert [d > 0.01 for d in found.values()] == [True, False, False, False], found
PROGRAM
