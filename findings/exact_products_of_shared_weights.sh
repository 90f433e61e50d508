#!/bin/sh
# onnxruntime 1.32.0 (CPU, x86): with session.x64quantprecision=1, which keeps products of u8 and i8 from saturating on
# processors without VNNI, a model in which two nodes share a weight of i8 (or its zero point) isn't loaded: the weight
# is rewritten as u8 under one name for each of them. Without the option the same model loads.
#
# Output seen:
#     without the option  loaded
#     with it             refused: Attempt to replace the existing tensor
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

nodes = [
    helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], [y], domain="com.microsoft") for y in ("y", "z")
]
tensors = [
    numpy_helper.from_array(np.arange(-128, 128, 4).astype(np.int8).reshape(8, 8), "w"),
    numpy_helper.from_array(np.float32(0.1), "s"),
]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
    [helper.make_tensor_value_info(y, TensorProto.FLOAT, [2, 8]) for y in ("y", "z")], tensors,
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
seen = []
for what, exact in (("without the option", "0"), ("with it", "1")):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", exact)
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        seen.append("loaded")
    except Exception as e:
        why = "Attempt to replace the existing tensor"
        seen.append(f"refused: {why if why in str(e) else e}")
    print(f"{what:18}  {seen[-1]}")
if seen != ["loaded", "refused: Attempt to replace the existing tensor"]:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
