#!/bin/sh
# onnxruntime 1.32.0 (CPU): a Loop whose body gives its turn number itself as a carried output ends with the number of
# turns, not with the number of the last turn. Behind an Identity, which computes the same, it ends with the last one's,
# as onnx's reference does for both.
#
# Output seen:
#     the number itself: onnxruntime 3, reference 2
#     behind Identity: onnxruntime 2, reference 2
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

INT, BOOL = TensorProto.INT64, TensorProto.BOOL


def scalar(name, kind=INT):
    return helper.make_tensor_value_info(name, kind, [])


def model(behind):
    steps = [helper.make_node("Identity", ["go"], ["again"])]
    last = "turn"
    if behind:
        steps.append(helper.make_node("Identity", ["turn"], ["same"]))
        last = "same"
    ins, outs = [scalar("turn"), scalar("go", BOOL), scalar("carried")], [scalar("again", BOOL), scalar(last)]
    loop = helper.make_node("Loop", ["n", "yes", "start"], ["y"], body=helper.make_graph(steps, "body", ins, outs))
    graph = helper.make_graph([loop], "g", [scalar("n"), scalar("yes", BOOL), scalar("start")], [scalar("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


given = {"n": np.array(3), "yes": np.array(True), "start": np.array(-1)}
seen = []
for told, behind in (("the number itself", False), ("behind Identity", True)):
    made = model(behind)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = int(session.run(None, given)[0]), int(ReferenceEvaluator(made).run(None, given)[0])
    print(f"{told}: onnxruntime {found[0]}, reference {found[1]}")
    seen.append(found)
assert seen == [(3, 2), (2, 2)], seen
PROGRAM
