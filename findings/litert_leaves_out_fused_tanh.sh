#!/bin/sh
# ai-edge-litert 2.3.0 (CPU): an activation TANH or SIGN_BIT fused into ADD or MUL is left out, without a word.
#
# The schema's field fused_activation_function has six values. Kernels know four of them (NONE, RELU, RELU_N1_TO_1,
# RELU6); a model with one of the other two loads and runs in all three sets of kernels, and gives the bare sum.
#
# Output seen (x = -2, 0.5, 3 of floats; ADD gives x + x, MUL x * x):
#     ADD  RELU      0.0 1.0 6.0
#     ADD  TANH      -4.0 1.0 6.0
#     ADD  SIGN_BIT  -4.0 1.0 6.0
#     MUL  RELU      4.0 0.25 9.0
#     MUL  TANH      4.0 0.25 9.0
#     MUL  SIGN_BIT  4.0 0.25 9.0
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
X = np.array([-2.0, 0.5, 3.0], np.float32)


def tensor(name):
    t = s.TensorT()
    t.name, t.type, t.shape, t.buffer, t.hasRank = name, s.TensorType.FLOAT32, np.array([3], np.int32), 0, True
    return t


def gives(name, activation):
    """x and x through one operator, by every engine."""
    code, node, graph, whole = s.OperatorCodeT(), s.OperatorT(), s.SubGraphT(), s.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(s.BuiltinOperator, name)
    code.version = 1
    node.builtinOptionsType = getattr(s.BuiltinOptions, f"{name.title()}Options")
    node.builtinOptions = getattr(s, f"{name.title()}OptionsT")()
    node.builtinOptions.fusedActivationFunction = getattr(s.ActivationFunctionType, activation)
    node.opcodeIndex, node.inputs, node.outputs = 0, np.zeros(2, np.int32), np.ones(1, np.int32)
    graph.tensors, graph.operators = [tensor(b"x"), tensor(b"y")], [node]
    graph.inputs, graph.outputs = np.zeros(1, np.int32), np.ones(1, np.int32)
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = 3, [code], [graph], [s.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    found = []
    for engine in ENGINES:
        runner = Interpreter(model_content=bytes(builder.Output()), num_threads=1, experimental_op_resolver_type=engine)
        runner.allocate_tensors()
        runner.set_tensor(0, X)
        runner.invoke()
        found.append(runner.get_tensor(1).tolist())
    assert found[0] == found[1] == found[2], found
    return found[0]


bare = {"ADD": X + X, "MUL": X * X}
for name, result in bare.items():
    for activation in ("RELU", "TANH", "SIGN_BIT"):
        y = gives(name, activation)
        print(f"{name}  {activation:8} ", *y)
        wanted = np.maximum(result, 0) if activation == "RELU" else result
        if y != wanted.tolist():
            raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
