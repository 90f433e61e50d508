#!/bin/sh
# ai-edge-litert 2.3.0 (CPU): LOG, RSQRT and PRELU of int16 tensors give other numbers, without a word, in all three of
# its sets of kernels. LOG and RSQRT interpolate a table over the whole range of the integers, of which small ones, where
# these functions are steep, share one entry; PRELU gives 0 for half of a negative number.
#
# The input of LOG and RSQRT has scale 0.001, so the integers 1, 4, 100, 1000 and 32767 are the numbers 0.001 to 32.767. LOG of
# 0.1 is -2.303, the runtime gives -4.463; RSQRT of 0.1 is 3.162, it gives 7.804. What is above 1 is right.
# PRELU: the slope is 0.5 (the integer 16384 with scale 2^-15), input and output have one scale; of -800 the half is -400.
#
# Output seen (numbers; PRELU integers):
#     LOG    is   -6.908 -5.521 -2.303 0.0 3.489
#     LOG    gives -13.065 -12.804 -4.463 -0.001 3.49
#     RSQRT  is   31.623 15.811 3.162 1.0 0.175
#     RSQRT  gives 25.679 25.138 7.804 1.0 0.175
#     PRELU  is   -400 -200 -50 0 100
#     PRELU  gives 0 -1 0 0 100
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as s
from ai_edge_litert.interpreter import Interpreter, OpResolverType

ENGINES = OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.BUILTIN_REF


def tensor(name, scale, buffer=0):
    t, q = s.TensorT(), s.QuantizationParametersT()
    t.name, t.type, t.shape, t.buffer, t.hasRank = name, s.TensorType.INT16, np.array([1, 5], np.int32), buffer, True
    q.scale, q.zeroPoint = np.array([scale], np.float32), np.zeros(1, np.int64)
    t.quantization = q
    return t


def gives(operator, x, scales, slope=None):
    """The integers of every engine, which have to be the same."""
    code, node, graph, whole, data = s.OperatorCodeT(), s.OperatorT(), s.SubGraphT(), s.ModelT(), s.BufferT()
    code.builtinCode = code.deprecatedBuiltinCode = operator
    code.version = 1
    tensors = [tensor(b"x", scales[0]), tensor(b"y", scales[1])]
    if slope is not None:
        tensors.insert(1, tensor(b"slope", 2.0**-15, 1))
        data.data = np.frombuffer(np.full(5, slope, np.int16).tobytes(), np.uint8)
    last = len(tensors) - 1
    node.opcodeIndex, node.inputs, node.outputs = 0, np.arange(last, dtype=np.int32), np.array([last], np.int32)
    graph.tensors, graph.operators = tensors, [node]
    graph.inputs, graph.outputs = np.zeros(1, np.int32), node.outputs
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = 3, [code], [graph], [s.BufferT(), data]
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    found = []
    for engine in ENGINES:
        runner = Interpreter(model_content=bytes(builder.Output()), num_threads=1, experimental_op_resolver_type=engine)
        runner.allocate_tensors()
        runner.set_tensor(0, np.array([x], np.int16))
        runner.invoke()
        found.append(runner.get_tensor(last)[0].tolist())
    assert found[0] == found[1] == found[2], found
    return np.array(found[0])


positive, negative = [1, 4, 100, 1000, 32767], [-800, -400, -100, 0, 100]
numbers = 0.001 * np.array(positive)
seen = {
    "LOG": (np.log(numbers).round(3), (gives(s.BuiltinOperator.LOG, positive, (0.001, 0.0005)) * 0.0005).round(3)),
    "RSQRT": ((numbers**-0.5).round(3), (gives(s.BuiltinOperator.RSQRT, positive, (0.001, 0.001)) * 0.001).round(3)),
    "PRELU": (np.array([-400, -200, -50, 0, 100]), gives(s.BuiltinOperator.PRELU, negative, (0.001, 0.001), 16384)),
}
for operator, (right, found) in seen.items():
    print(f"{operator:6} is   ", *right)
    print(f"{operator:6} gives", *found)
wanted = {"LOG": (2, -4.463), "RSQRT": (2, 7.804), "PRELU": (0, 0)}
for operator, (place, number) in wanted.items():
    if abs(seen[operator][1][place] - number) > 0.002:
        raise SystemExit(f"the behaviour of {operator} changed")
print("as stated above")
PROGRAM
