"""XNNPACK (PyTorch Mobile, ExecuTorch, TFLite on CPUs): i8 throughout, every result quantized.

What is laid end to end or averaged has one scale.
"""

from tdagger.quantization.profile import Numbers, Profile, Row
from tdagger.quantization.profiles import onnxruntime

ACTIVATION = Numbers("i8", observer="mse")
ROWS = {
    "convolution": Row((0, 1), weight=1, channel=0, bias=2, output=True),
    "linear": Row((0, 1), weight=1, channel=0, bias=2, output=True),
    "matmul": Row((0, 1), weight=1, channel=-1, summed=-2, output=True, second=ACTIVATION),
    "addmm": Row((1, 2), weight=2, channel=-1, summed=-2, bias=0, output=True, second=ACTIVATION),
    "add": Row((0, 1), output=True, follows=True),
    "multiply": Row((0, 1), output=True, follows=True),
}

PROFILE = Profile(
    name="xnnpack",
    about="XNNPACK: i8 activations, i8 weights per channel",
    weight=onnxruntime.WEIGHT,
    activation=ACTIVATION,
    rows=ROWS,
    fused=frozenset({"relu", "relu6", "hardtanh", "clamp"}),
    shares=onnxruntime.PROFILE.shares | {"concat", "avg_pool", "adaptive_avg_pool"},
)
