"""onnxruntime's CPU provider with sigmoids, SiLUs and products in bytes too, where all they take is.

It has kernels of bytes for them (QLinearSigmoid, QLinearMul); each is one rounding more.
"""

from dataclasses import replace

from tdagger.quantization.profile import Row
from tdagger.quantization.profiles import onnxruntime

_UNIT = replace(onnxruntime.ACTIVATION, fixed=(0.0, 255 / 256))

PROFILE = replace(
    onnxruntime.PROFILE,
    name="onnxruntime-bytes",
    about="onnxruntime on a CPU, sigmoids and products in u8 too",
    rows={
        **onnxruntime.PROFILE.rows,
        "sigmoid": Row((0,), output=True, follows=True, result=_UNIT),
        "multiply": Row((0, 1), output=True, follows=True),
    },
    opened=("silu",),
)
