#!/bin/sh
# ai-edge-litert 2.3.0 (CPU): NEG of an int8 tensor leaves out its zero point, without a word, in all three of its
# sets of kernels; and QUANTIZE without delegates rounds halves in two ways within one tensor.
#
# NEG: with scale 1 and zero point 2 the integer 3 is the number 1. Its negation is -1, the integer 1; the runtime
# gives -3, the number -5. QUANTIZE: of eleven times 2.5 the built-in kernels give 2 for the first eight entries (half
# to even) and 3 for the other three (half away from zero); the reference kernels give 3, XNNPACK gives 2 for all.
#
# Output seen:
#     NEG       XNNPACK    [-3]
#     NEG       built-in   [-3]
#     NEG       reference  [-3]
#     QUANTIZE  XNNPACK    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
#     QUANTIZE  built-in   [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3]
#     QUANTIZE  reference  [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
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

ENGINES = {
    "XNNPACK": OpResolverType.AUTO, "built-in": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def tensor(name, kind, count, zero=None):
    t = s.TensorT()
    t.name, t.type, t.shape, t.buffer, t.hasRank = name, kind, np.array([count], np.int32), 0, True
    if zero is not None:
        t.quantization = s.QuantizationParametersT()
        t.quantization.scale, t.quantization.zeroPoint = np.ones(1, np.float32), np.array([zero], np.int64)
    return t


def model(operator, options, a, b):
    code, node, graph, whole = s.OperatorCodeT(), s.OperatorT(), s.SubGraphT(), s.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = operator
    code.version = 1
    node.opcodeIndex, node.inputs, node.outputs = 0, np.array([0], np.int32), np.array([1], np.int32)
    node.builtinOptionsType, node.builtinOptions = options
    graph.tensors, graph.operators = [a, b], [node]
    graph.inputs, graph.outputs = node.inputs, node.outputs
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = 3, [code], [graph], [s.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(data, x):
    found = {}
    for name, engine in ENGINES.items():
        runner = Interpreter(model_content=data, num_threads=1, experimental_op_resolver_type=engine)
        runner.allocate_tensors()
        runner.set_tensor(0, x)
        runner.invoke()
        found[name] = runner.get_tensor(1).tolist()
    return found


i8, f32 = s.TensorType.INT8, s.TensorType.FLOAT32
negate = model(s.BuiltinOperator.NEG, (s.BuiltinOptions.NegOptions, s.NegOptionsT()), tensor(b"a", i8, 1, 2), tensor(b"b", i8, 1, 2))
rounded = model(s.BuiltinOperator.QUANTIZE, (s.BuiltinOptions.QuantizeOptions, s.QuantizeOptionsT()), tensor(b"a", f32, 11), tensor(b"b", i8, 11, 0))
seen = {
    "NEG": run(negate, np.array([3], np.int8)),
    "QUANTIZE": run(rounded, np.full(11, 2.5, np.float32)),
}
for operator, found in seen.items():
    for name, values in found.items():
        print(f"{operator:9} {name:10} {values}")
wanted = {
    "NEG": dict.fromkeys(ENGINES, [-3]),
    "QUANTIZE": {"XNNPACK": [2] * 11, "built-in": [2] * 8 + [3] * 3, "reference": [3] * 11},
}
if seen != wanted:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
