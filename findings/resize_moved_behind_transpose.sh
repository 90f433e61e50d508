#!/bin/sh
# onnxruntime 1.32.0 (CPU): a bilinear Resize of the last two dimensions can't be run behind a Transpose that brings the
# channels there: the default optimisations move the Transpose behind the Resize, which then is of dimensions that the
# kernel doesn't resize bilinearly. Without optimisations the same file runs.
#
# Output seen:
#     without optimisations  (1, 6, 8, 3)
#     with the default ones  refused: ScalesValidation
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
    helper.make_node("Relu", ["x"], ["r"]),
    helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 3, 1]),
    helper.make_node("Resize", ["t", "", "", "sizes"], ["z"], mode="linear"),
    helper.make_node("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1]),
]
tensors = [numpy_helper.from_array(np.array([1, 3, 6, 8], np.int64), "sizes")]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, 3, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 8, 3])], tensors,
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
        seen[what] = str(session.run(None, {"x": np.ones((1, 5, 3, 4), np.float32)})[0].shape)
    except Exception as e:
        seen[what] = f"refused: {'ScalesValidation' if 'ScalesValidation' in str(e) else e}"
    print(f"{what}  {seen[what]}")
if list(seen.values()) != ["(1, 6, 8, 3)", "refused: ScalesValidation"]:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
