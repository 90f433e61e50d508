#!/bin/sh
# onnxruntime 1.32.0 (CPU): the fusion of a reciprocal and a product, on by default, takes integers too.
#
# n * (1 / n) becomes n / n. Of integers 1 / n is 0 for every n beyond 1, so the product is 0; fused it is 1. Nothing is
# said; without optimisations the result is that of the specification. Index arithmetic on sizes is written this way.
#
# Output seen:
#     as written  [0, 0, 0]
#     optimised   [1, 1, 1]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import numpy as np
import onnxruntime as runtime
from onnx import TensorProto, helper

one = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("one", TensorProto.INT64, [], [1]))
nodes = [one, helper.make_node("Div", ["one", "n"], ["d"]), helper.make_node("Mul", ["n", "d"], ["y"])]
types = [[helper.make_tensor_value_info(name, TensorProto.INT64, [3])] for name in ("n", "y")]
model = helper.make_model(helper.make_graph(nodes, "g", *types), opset_imports=[helper.make_opsetid("", 20)])
model.ir_version = 10


def run(level):
    options = runtime.SessionOptions()
    options.graph_optimization_level = level
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"n": np.array([2, 3, 7])})[0].tolist()


levels = runtime.GraphOptimizationLevel
written, optimised = run(levels.ORT_DISABLE_ALL), run(levels.ORT_ENABLE_ALL)
print("as written ", written)
print("optimised  ", optimised)
if not (written == [0, 0, 0] and optimised == [1, 1, 1]):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
