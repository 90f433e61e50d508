#!/bin/sh
# onnxruntime 1.32.0 (CPU): two Pads that share their pads and say by `axes` which axes these are for can't be run after
# a Transpose: the default optimisations reorder the pads as if they were given for every axis.
#
# x is transposed to [n h w c], padded at the end of c, and transposed back, twice. The optimizer moves the Transposes
# behind the Pads and permutes the pads by a Gather whose indices are those of four axes, where there are two numbers.
#
# Output seen:
#     without optimisations  (1, 7, 2, 2)
#     with the default ones  InvalidArgument: indices element out of data bounds
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

nodes = []
name = "x"
for i in range(2):
    nodes += [
        helper.make_node("Transpose", [name], [f"t{i}"], perm=[0, 2, 3, 1]),
        helper.make_node("Relu", [f"t{i}"], [f"r{i}"]),
        helper.make_node("Pad", [f"r{i}", "pads", "value", "axes"], [f"p{i}"]),
        helper.make_node("Transpose", [f"p{i}"], [f"y{i}"], perm=[0, 3, 1, 2]),
    ]
    name = f"y{i}"
tensors = [
    numpy_helper.from_array(np.array([0, 2], np.int64), "pads"), numpy_helper.from_array(np.float32(0), "value"),
    numpy_helper.from_array(np.array([3], np.int64), "axes"),
]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 2])],
    [helper.make_tensor_value_info("y1", TensorProto.FLOAT, [1, 7, 2, 2])], tensors,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
seen = {}
for what, level in (
    ("without optimisations", onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ("with the default ones", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL),
):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        seen[what] = str(session.run(None, {"x": np.ones((1, 3, 2, 2), np.float32)})[0].shape)
    except Exception as e:
        seen[what] = f"{type(e).__name__}: {'indices element out of data bounds' if 'data bounds' in str(e) else e}"
    print(f"{what}  {seen[what]}")
if list(seen.values()) != ["(1, 7, 2, 2)", "InvalidArgument: indices element out of data bounds"]:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
