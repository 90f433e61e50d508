#!/bin/sh
# coremltools 9.0: converting `matmul(x, w, transpose_y=True)` with a constant matrix to an older neural network writes
# a batchedMatmul that holds the matrix transposed already, and says transposeB beside it. A reader that transposes by
# the flag gets other numbers, of a square matrix with no error; the flag says nothing where a layer has one input.
#
# The matrix is [[1, 2], [3, 4]] and x is [1, 0], so x @ w.T is [1, 3]. With and without the flag in the program the
# layer's first dimension is the input's; what it holds is [output, input].
#
# Output seen:
#     transpose_y=False  transposeB False  holds [1.0, 3.0, 2.0, 4.0]
#     transpose_y=True   transposeB True   holds [1.0, 2.0, 3.0, 4.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet coremltools==9.0 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PROGRAM' 2>/dev/null
import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

seen = []
for turned in (False, True):

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 2))])
    def program(x):
        return mb.matmul(x=x, y=np.array([[1, 2], [3, 4]], np.float32), transpose_y=turned)

    spec = ct.convert(program, convert_to="neuralnetwork").get_spec()
    (layer,) = [one.batchedMatmul for one in spec.neuralNetwork.layers if one.WhichOneof("layer") == "batchedMatmul"]
    seen.append((layer.transposeB, list(layer.weights.floatValue)))
    print(f"transpose_y={turned!s:6} transposeB {layer.transposeB!s:6} holds {seen[-1][1]}")
if seen != [(False, [1, 3, 2, 4]), (True, [1, 2, 3, 4])]:
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
