"""Core ML on the Neural Engine: i8 activations and weights, both symmetric, as coremltools' activations have it.

MIL's quantize has all 256 numbers: narrower bounds would take an op more.
"""

from dataclasses import replace

from tdagger.quantization.profile import Numbers
from tdagger.quantization.profiles import onnxruntime

ACTIVATION = Numbers("i8", symmetric=True, observer="mse")

PROFILE = replace(
    onnxruntime.PROFILE, name="coreml", about="Core ML: symmetric i8 activations, i8 weights per channel",
    activation=ACTIVATION, least=0,
)  # fmt: skip
