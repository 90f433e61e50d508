#!/bin/sh
# torch 2.13.0 (CPU): scaled_dot_product_attention of float64 takes a mask of float32, and from some number of keys on
# (8 on a processor with AVX2) reads it as what it isn't: results are off by as much as they are large, with no error and
# no warning. A mask of float64, fewer keys, and the math backend give what the formula says. A mask of float64 for
# queries of float32 is refused.
#
# Output seen (AMD EPYC with AVX2):
#     mask of float32: wrong
#     mask of float64: right
#     mask of float32, math backend: right
#     mask of float32, 3 keys: right
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention

torch.manual_seed(0)


def off(keys, dtype):
    q, k, v = torch.randn(3, 1, 2, keys, 4, dtype=torch.float64)
    mask = torch.randn(keys, keys)
    wanted = torch.softmax(q @ k.mT / 2 + mask, -1) @ v
    return float((attention(q, k, v, attn_mask=mask.to(dtype)) - wanted).abs().max())


found = {"mask of float32": off(64, torch.float32), "mask of float64": off(64, torch.float64)}
with sdpa_kernel(SDPBackend.MATH):
    found["mask of float32, math backend"] = off(64, torch.float32)
found["mask of float32, 3 keys"] = off(3, torch.float32)
for told, distance in found.items():
    print(f"{told}: {'wrong' if distance > 0.1 else 'right' if distance < 1e-12 else distance}")
assert [d > 0.1 for d in found.values()] == [True, False, False, False], found
assert sum(d < 1e-12 for d in found.values()) == 3, found
PROGRAM
