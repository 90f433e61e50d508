#!/bin/sh
# onnx2torch 1.5.15 (onnx 1.23.2, torch 2.13.0): a Pad of an operator set before 11 is filled with 0, whatever its value.
#
# There the value is an attribute, "value", which isn't read; from 11 on it is an input, and is kept. PyTorch wrote
# operator set 9 by default until 2021. (torchvision, of which NonMaxSuppression and RoiAlign alone make use, has an empty
# module in its place here.)
#
# Output seen (1, 2, 3 with one entry of 9 on each side):
#     operator set 10  [0.0, 1.0, 2.0, 3.0, 0.0]
#     operator set 11  [9.0, 1.0, 2.0, 3.0, 9.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2
"$folder/venv/bin/python" -m pip install --quiet --no-deps onnx2torch==1.5.15
cat > "$folder/program.py" <<'PROGRAM'
import sys
from types import ModuleType

for name in ("torchvision", "torchvision.ops"):
    sys.modules[name] = ModuleType(name)
sys.modules["torchvision.ops"].roi_align = None

import onnx
import torch
from onnx import TensorProto, helper
from onnx2torch import convert


def padded(version):
    """1, 2, 3 with a 9 on each side."""
    if version < 11:
        node, constants = helper.make_node("Pad", ["x"], ["y"], pads=[1, 1], value=9.0), []
    else:
        node = helper.make_node("Pad", ["x", "pads", "value"], ["y"])
        constants = [
            helper.make_tensor("pads", TensorProto.INT64, [2], [1, 1]),
            helper.make_tensor("value", TensorProto.FLOAT, [], [9.0]),
        ]
    graph = helper.make_graph(
        [node],
        "pad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=5)
    onnx.checker.check_model(model, full_check=True)
    return convert(model)(torch.tensor([1.0, 2.0, 3.0])).tolist()


seen = {version: padded(version) for version in (10, 11)}
for version, y in seen.items():
    print(f"operator set {version} ", y)
if seen != {10: [0.0, 1.0, 2.0, 3.0, 0.0], 11: [9.0, 1.0, 2.0, 3.0, 9.0]}:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py"
