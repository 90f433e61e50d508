#!/bin/sh
# torch 2.13.0 (CPU, oneDNN 3.12.0): on a processor with AMX onednn.qconv_pointwise gives wrong sums for convolutions in
# groups (not depthwise) of u8 with a zero point, with no warning: one in 18 of random shapes, off by as much as their
# largest numbers. With ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16, or on processors without AMX, the same call is right.
#
# Output seen (largest error over the largest number):
#     4 groups of 24 to 64 channels, AMX      1.8
#     4 groups of 24 to 64 channels, AVX-512  0.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" <<'PROGRAM'
import torch
from torch.nn import functional as F

torch.manual_seed(0)
groups, inner, outer, zero = 4, 24, 64, 128
x = torch.randint(0, 256, (1, groups * inner, 14, 14), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
w = torch.randint(-127, 128, (groups * outer, inner, 3, 3), dtype=torch.int8)
scales, zeros = torch.full((len(w),), 0.01), torch.zeros(len(w), dtype=torch.int64)
how = ([1, 1], [1, 1], [1, 1], groups)
packed = torch.ops.onednn.qconv_prepack(w, scales, 0.02, zero, *how, list(x.shape))
y = torch.ops.onednn.qconv_pointwise(
    x, 0.02, zero, packed, scales, zeros, None, *how, 1.0, 0, torch.float32, "none", [], ""
)
wanted = F.conv2d(x.double() - zero, w.double(), padding=1, groups=groups) * 0.0002
print(f"{float((y - wanted).abs().max() / wanted.abs().max()):.1f}")
PROGRAM
if ! "$folder/venv/bin/python" -c "import sys, torch; sys.exit(not torch.cpu._is_amx_tile_supported())"; then
    echo "this processor has no AMX"
    exit 0
fi
amx=$("$folder/venv/bin/python" "$folder/program.py")
avx=$(ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16 "$folder/venv/bin/python" "$folder/program.py")
echo "4 groups of 24 to 64 channels, AMX      $amx"
echo "4 groups of 24 to 64 channels, AVX-512  $avx"
[ "$amx $avx" = "1.8 0.0" ] || { echo "the behaviour changed"; exit 1; }
