"""TensorFlow Lite's integer kernels: as XNNPACK, whose rules for scales are TFLite's quantization specification.

Sigmoid, softmax and tanh have one scale, whatever the data.
"""

from dataclasses import replace

from tdagger.quantization.profile import Row
from tdagger.quantization.profiles import xnnpack

_UNIT = replace(xnnpack.ACTIVATION, fixed=(0.0, 255 / 256))
_TANH = replace(xnnpack.ACTIVATION, fixed=(-1.0, 127 / 128))
ROWS = {
    **xnnpack.ROWS,
    "subtract": Row((0, 1), output=True, follows=True),
    "mean": Row((0,), output=True, follows=True),
    "hard_swish": Row((0,), output=True, follows=True),
    "hard_sigmoid": Row((0,), output=True, follows=True),  # in float, so that the product with it isn't
    "gelu": Row((0,), output=True, follows=True),
    "leaky_relu": Row((0,), output=True, follows=True),
    "sigmoid": Row((0,), output=True, follows=True, result=_UNIT),
    "softmax": Row((0,), output=True, follows=True, result=_UNIT),
    "tanh": Row((0,), output=True, follows=True, result=_TANH),
}

PROFILE = replace(
    xnnpack.PROFILE,
    name="tflite",
    about="TFLite: i8 activations, i8 weights per channel",
    rows=ROWS,
    opened=("silu",),
)
